"""Which body of the bus is in use: who decides, who is told, and what a wheel for publication must have."""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import wheels
from bus1_command import Record, Shell
from buses import BRIDGE, Bus, has_native_body, open_fds
from daemons import Daemon
from dbus_client import PATIENCE

import bus1
from bus1 import acceleration
from bus1.verbs import doctor

ROOT = Path(__file__).parent.parent
VERSION = bus1.__version__
MISSING = "import sys; sys.modules['bus1._native'] = None"
PRESENT = (
    "import sys, types; module = types.ModuleType('bus1._native'); sys.modules['bus1._native'] = module;"
    f"module.__version__, module.PARTS = '{VERSION}', ('core', 'lane');"
    "module.try_together = lambda: None"
)
OUTDATED = f"{PRESENT}; module.__version__ = '0.0.1'"
BROKEN = """
import sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == 'bus1._native':
            raise ImportError('undefined symbol: Py_Gone')
sys.meta_path.insert(0, Finder())
"""
"""What a program does first, so that there is such a native module, or none."""
NONE = acceleration.ABSENT
UNKNOWN = "BUS1_ACCEL=rust is unknown: it is one of auto, python, native"
STARTS = {
    "bus1": ("bus1.cli", ["broker", "--address=@never", "--print-address"]),
    "bus1-bridge": ("bus1_bridge.cli", ["--session", "--address=unix:abstract=never", "--print-address"]),
}


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    with shell.cleanup:
        yield shell


def run(code: str, choice: str | None) -> subprocess.CompletedProcess[str]:
    """A program that finds this choice in its environment."""
    environment = {name: value for name, value in os.environ.items() if name != "BUS1_ACCEL"}
    if choice is not None:
        environment["BUS1_ACCEL"] = choice
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


def diagnose(before: str, choice: str | None, *flags: str) -> tuple[int, str]:
    """bus1 doctor's exit status and output, where ``before`` has happened; it complains of nothing."""
    done = run(f"{before}\nfrom bus1.cli import main; sys.exit(main(['doctor', *{flags!r}]))", choice)
    assert done.stderr == ""
    return done.returncode, done.stdout


def records(output: str) -> dict[str, Record]:
    return {record["subject"]: record for record in map(json.loads, output.splitlines())}


# ---- the choice ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "choice", "native", "reason"),
    [
        (PRESENT, None, True, "BUS1_ACCEL=auto"),
        (PRESENT, "", True, "BUS1_ACCEL=auto"),
        (PRESENT, "auto", True, "BUS1_ACCEL=auto"),
        (PRESENT, "native", True, "BUS1_ACCEL=native"),
        (PRESENT, "python", False, "BUS1_ACCEL=python"),
        (MISSING, None, False, NONE),
        (MISSING, "python", False, "BUS1_ACCEL=python"),
        (OUTDATED, None, False, f"the native module is of version 0.0.1, bus1 of {VERSION}"),
        (BROKEN, None, False, "the native module cannot be loaded: undefined symbol: Py_Gone"),
    ],
)
def test_the_environment_decides_and_what_is_there(
    before: str, choice: str | None, native: bool, reason: str
) -> None:
    done = run(
        f"{before}\nimport bus1; from bus1 import acceleration as a; from bus1.acceleration import native\n"
        "print(native is not None, a.native is native, bus1.__accelerated__, a.reason, sep='|')", choice,
    )
    assert (done.stdout, done.stderr) == (f"{native}|True|{native}|{reason}\n", "")


@pytest.mark.parametrize(
    ("before", "choice", "complaint"),
    [
        (MISSING, "native", f"BUS1_ACCEL=native cannot be had: {NONE}"),
        (OUTDATED, "native", f"BUS1_ACCEL=native cannot be had: the native module is of version 0.0.1, "
                             f"bus1 of {VERSION}"),
        (BROKEN, "native", "BUS1_ACCEL=native cannot be had: the native module cannot be loaded: undefined "
                           "symbol: Py_Gone"),
        (PRESENT, "rust", UNKNOWN),
        (PRESENT, "Native", "BUS1_ACCEL=Native is unknown: it is one of auto, python, native"),
    ],
)
def test_what_cannot_be_had_is_an_error_for_programs_and_one_line_for_users_of_commands(
    before: str, choice: str, complaint: str
) -> None:
    for code in ("from bus1.acceleration import native", "import bus1; bus1.__accelerated__"):
        done = run(f"{before}\n{code}", choice)
        assert done.returncode == 1
        assert done.stderr.endswith(f"bus1.acceleration.NoSuchBody: {complaint}\n")
        assert done.stderr.count("Traceback") == 1
    for program, (module, flags) in STARTS.items():
        done = run(f"{before}\nfrom {module} import main; sys.exit(main({flags}))", choice)
        words = "Failed to start message bus: " if program == "bus1-bridge" else ""
        assert (done.returncode, done.stdout) == (1, ""), "nothing was promised before"
        assert done.stderr == f"{program}: {words}{complaint}\n"


def test_a_name_that_is_not_there_is_still_an_attribute_error() -> None:
    for module in (bus1, acceleration):
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            _ = module.nonsense


def test_to_import_bus1_loads_nothing_of_it() -> None:
    done = run("import sys; before = set(sys.modules); import bus1; print(*set(sys.modules) - before)", None)
    assert set(done.stdout.split()) == {"bus1"}


def test_this_run_has_the_body_that_was_asked_for() -> None:
    choice = os.environ.get("BUS1_ACCEL") or "auto"
    assert acceleration.chosen() == choice
    if choice != "auto":
        assert bus1.__accelerated__ == (choice == "native")
    assert bus1.__accelerated__ == (acceleration.native is not None)


def test_processes_of_these_tests_have_the_same_body(
    bus1_bus: Bus, bridge: Daemon, shell: Shell
) -> None:
    process, _ = bridge.serve("--session", f"--address=unix:path={bridge.folder}/second")
    for pid in (bus1_bus.pid, process.pid, shell.serve("--address=third").pid):
        assert has_native_body(pid) == bus1.__accelerated__


# ---- bus1 doctor -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "choice", "status", "body", "module"),
    [
        (PRESENT, None, 0, ("fine", "native", "native"), ("fine", f"{VERSION}: core, lane")),
        (PRESENT, "python", 0, ("fine", "python", "Python, because BUS1_ACCEL=python"),
         ("fine", f"{VERSION}: core, lane")),
        (MISSING, None, 0, ("note", "python", f"Python, because {NONE}"), ("fine", f"{NONE}; ")),
        (MISSING, "python", 0, ("fine", "python", "Python, because BUS1_ACCEL=python"),
         ("fine", f"{NONE}; ")),
        (MISSING, "native", 1, ("bad", None, f"none: BUS1_ACCEL=native cannot be had: {NONE}"),
         ("fine", f"{NONE}; ")),
        (PRESENT, "rust", 1, ("bad", None, f"none: {UNKNOWN}"), ("fine", f"{VERSION}: core, lane")),
    ],
)
def test_doctor_says_which_body_is_in_use_and_why_not_the_other(
    before: str, choice: str | None, status: int, body: tuple[str, str, str], module: tuple[str, str]
) -> None:
    told, output = diagnose(before, choice, "--json=short")
    found = records(output)
    assert told == status
    assert tuple(found["body"][key] for key in ("state", "value", "finding")) == body
    assert found["native module"]["state"] == module[0]
    assert found["native module"]["finding"].startswith(module[1])
    assert found["native module"]["parts"] == (["core", "lane"] if before == PRESENT else [])
    assert found["BUS1_ACCEL"]["value"] == choice
    assert found["bus1"]["value"] == VERSION
    assert found["bus1"]["finding"].startswith(f"{VERSION}, on CPython 3")
    has_advice = "pip install" in (found["native module"]["advice"] or "")
    assert has_advice == (before == MISSING)


def test_doctor_tells_people_the_same_and_how_to_have_the_module() -> None:
    told, output = diagnose(MISSING, None)
    assert told == 0
    assert re.search(rf"^body +note +Python, because {NONE}$", output, re.M)
    assert output.endswith(f"\n\n{doctor._TO_HAVE_IT}\n")
    told, output = diagnose(PRESENT, None)
    assert told == 0 and "pip install" not in output
    assert re.search(r"^SUBJECT +STATE +FINDING\n", output)


@pytest.mark.parametrize("before", [BROKEN, OUTDATED])
def test_a_module_that_is_of_no_use_is_told_apart_from_none(before: str) -> None:
    found = records(diagnose(before, None, "--json=short")[1])
    assert (found["native module"]["state"], found["native module"]["value"]) == ("note", None)
    assert found["native module"]["finding"].startswith("the native module ")


def test_doctor_says_whether_several_clients_are_written_at_once() -> None:
    found = records(diagnose(PRESENT, None, "--json=short")[1])["io_uring"]
    assert (found["state"], found["value"]) == ("fine", True)
    refused = (
        f"{PRESENT}\ndef refuse(): raise PermissionError(1, 'Operation not permitted')\n"
        "module.try_together = refuse"
    )
    status, output = diagnose(refused, None, "--json=short")
    found = records(output)["io_uring"]
    assert (status, found["state"], found["value"]) == (0, "note", False)
    assert found["finding"].startswith("Operation not permitted: ")
    assert "io_uring" not in records(diagnose(MISSING, None, "--json=short")[1]), "Python does not use it"


@pytest.mark.skipif(acceleration.native is None, reason="the native module's own")
def test_without_descriptors_the_kernel_gives_no_ring_and_the_reason_is_told() -> None:
    code = (
        "import resource; from bus1 import acceleration; native = acceleration.load();"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); native.try_together()"
    )
    assert "OSError: [Errno 24] Too many open files" in run(code, "native").stderr


def test_doctor_finds_the_buses_that_are_there_and_leaves_nothing_behind(bus1_bus: Bus, shell: Shell) -> None:
    fds = open_fds(bus1_bus.pid)
    output = shell.says("doctor", "--json=short", DBUS_SESSION_BUS_ADDRESS=bus1_bus.address)
    found = records(output)
    path = bus1_bus.path
    assert (found["session bus"]["state"], found["session bus"]["value"]) == ("fine", f"{path}1")
    assert found["session bus"]["finding"] == f"the bus at {path}1 answers"
    beside = found["D-Bus session bus"]
    assert (beside["state"], beside["value"]) == ("fine", bus1_bus.address)
    assert found["XDG_RUNTIME_DIR"]["value"] == str(shell.folder)
    assert open_fds(bus1_bus.pid) <= fds + 2, "what it is about to close"


def test_a_bus_that_is_not_there_is_noted_and_no_failure(shell: Shell) -> None:
    found = records(shell.says(
        "doctor", "--json=short", XDG_RUNTIME_DIR="/no/where", DBUS_SESSION_BUS_ADDRESS="tcp:host=localhost",
        DBUS_SYSTEM_BUS_ADDRESS="unix:path=/no/bus",
    ))
    for subject, text in (
        ("session bus", "no native socket lies beside DBUS_SESSION_BUS_ADDRESS='tcp:host=localhost'"),
        ("D-Bus session bus", "tcp:host=localhost: not looked at, as it is no unix socket"),
        ("D-Bus system bus", "no bus at unix:path=/no/bus: No such file or directory"),
        ("XDG_RUNTIME_DIR", "/no/where is no directory; bus1 broker makes it"),
    ):
        assert (found[subject]["state"], found[subject]["finding"]) == ("note", text)
    found = records(shell.says("doctor", "--json=short", XDG_RUNTIME_DIR=""))
    assert found["D-Bus session bus"]["finding"] == "nothing says where it is"
    assert found["XDG_RUNTIME_DIR"]["value"] is None


def test_a_bus_that_does_not_answer_is_not_waited_for_without_end(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 0.01)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(shell.folder / "silent"))
        silent.listen()
        found = doctor._native_bus("session bus", str(shell.folder / "silent"))
    assert (found["state"], found["finding"]) == ("note", f"the bus at {shell.folder}/silent does not answer")


# ---- what is published -----------------------------------------------------------------------------

NAME = f"bus1-{VERSION}-cp311-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
TAGS = ("cp311-abi3-manylinux_2_17_x86_64", "cp311-abi3-manylinux2014_x86_64")
SO = "bus1/_native.abi3.so"


def make_wheel(path: Path, *tags: str, **files: bytes) -> Path:
    """A wheel with nothing in it but what is looked at."""
    with zipfile.ZipFile(path, "w") as wheel:
        lines = "".join(f"Tag: {tag}\n" for tag in tags)
        wheel.writestr(f"bus1-{VERSION}.dist-info/WHEEL", f"Wheel-Version: 1.0\n{lines}")
        wheel.writestr("bus1/__init__.py", "")
        for name, content in files.items():
            wheel.writestr(name, content)
    return path


def test_a_wheel_with_the_native_module_and_a_granted_tag_is_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = make_wheel(tmp_path / NAME, *TAGS, **{SO: b"\x7fELF..."})
    assert wheels.main([str(wheel)]) == 0
    assert capsys.readouterr().out == f"{wheel}: fit to be published\n"


@pytest.mark.parametrize(
    ("name", "tags", "files", "complaint"),
    [
        (NAME, TAGS, {}, "the native module is not in it"),
        (f"bus1-{VERSION}-py3-none-any.whl", ("py3-none-any",), {}, "the native module is not in it"),
        (NAME, TAGS, {"other/_native.abi3.so": b"\x7fELF"}, "the native module is not in it"),
        (NAME, TAGS, {"bus1/_native.cpython-311-x86_64-linux-gnu.so": b"\x7fELF"}, f"and not {SO}"),
        (NAME, TAGS, {SO: b""}, "is no shared library"),
        (NAME, TAGS[:1], {SO: b"\x7fELF"}, "its name is not what it says of itself"),
        (f"bus1-{VERSION}-cp311-abi3-linux_x86_64.whl", ("cp311-abi3-linux_x86_64",), {SO: b"\x7fELF"},
         "it is for linux_x86_64, which auditwheel has not granted"),
        (f"bus1-{VERSION}-cp311-cp311-manylinux_2_17_x86_64.whl", ("cp311-cp311-manylinux_2_17_x86_64",),
         {SO: b"\x7fELF"}, "its name is not what it says of itself"),
        (NAME.replace(VERSION, "0.0.1"), TAGS, {SO: b"\x7fELF"}, f"it is not bus1 {VERSION}"),
    ],
)
def test_any_other_wheel_is_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, tags: tuple[str, ...],
    files: dict[str, bytes], complaint: str,
) -> None:
    wheel = make_wheel(tmp_path / name, *tags, **files)
    assert wheels.main([str(wheel)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith(f"{wheel}: not to be published: ") and complaint in said.err


def test_what_is_no_wheel_is_not_published_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / NAME).write_bytes(b"nonsense")
    assert wheels.main([str(tmp_path / NAME)]) == 1
    assert "it is no wheel" in capsys.readouterr().err
    assert wheels.main([]) == 1


# ---- how it is built -------------------------------------------------------------------------------


def test_crate_and_package_have_one_version_and_want_one_rust() -> None:
    crate = tomllib.loads((ROOT / "rust" / "Cargo.toml").read_text())["package"]
    locked = tomllib.loads((ROOT / "rust" / "Cargo.lock").read_text())["package"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (module,) = project["tool"]["setuptools-rust"]["ext-modules"]
    assert crate["version"] == VERSION
    assert [package["version"] for package in locked if package["name"] == crate["name"]] == [VERSION]
    assert module["optional"] is True and module["target"] == acceleration.MODULE
    assert crate["rust-version"] == doctor.RUST == module["rust-version"].removeprefix(">=")
    if acceleration.native is not None:
        assert acceleration.native.__version__ == VERSION


def recipe(folder: Path, *tools: str) -> str:
    """What make would do for ``make test`` on a machine with these programs."""
    folder.mkdir()
    for tool in ("sh", "find", "uname", "sed"):
        (folder / tool).symlink_to(f"/usr/bin/{tool}")
    for tool in tools:
        (folder / tool).write_text("#!/bin/sh\n")
        (folder / tool).chmod(0o755)
    done = subprocess.run(
        ["/usr/bin/make", "--dry-run", "--always-make", "test"], cwd=ROOT, env={"PATH": str(folder)},
        capture_output=True, text=True, timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_make_test_runs_everything_on_both_bodies_where_cargo_is(tmp_path: Path) -> None:
    with_cargo, without = recipe(tmp_path / "with", "cargo"), recipe(tmp_path / "without")
    on_both = re.findall(r"^BUS1_ACCEL=(\w+) .* -m pytest (.*)$", with_cargo, re.M)
    assert [body for body, _ in on_both] == ["python", "native"]
    assert on_both[0][1] == on_both[1][1]
    for step in ("cargo build --release", "cargo test ", "cargo fmt --check", "cargo clippy "):
        assert step in with_cargo
    assert re.findall(r"^BUS1_ACCEL=(\w+) ", without, re.M) == ["python"]
    assert "There is no cargo: nothing native is built, checked or tested." in without
    assert "cargo build" not in without


def test_the_command_that_tests_start_is_the_one_of_this_tree() -> None:
    done = run("import bus1; print(bus1.__file__)", None)
    assert Path(done.stdout.strip()).is_relative_to(ROOT) and BRIDGE.exists()


@pytest.mark.skipif(not bus1.__accelerated__, reason="the native body is not in use")
def test_what_the_module_has_is_what_its_stub_says() -> None:
    module = acceleration.load()
    stub = ast.parse((ROOT / "bus1" / "_native.pyi").read_text())
    kinds = (ast.ClassDef, ast.FunctionDef)
    declared = {node.name: node for node in stub.body if isinstance(node, kinds) and node.name[0] != "_"}
    assert declared.keys() == {name for name in dir(module) if not name.startswith("_")} - {"PARTS"}
    for name, node in declared.items():
        for member in node.body if isinstance(node, ast.ClassDef) else ():
            # what the buffer protocol is called in stubs has this name from Python 3.12 on
            if isinstance(member, ast.FunctionDef) and member.name != "__buffer__":
                assert hasattr(getattr(module, name), member.name), f"{name}.{member.name}"
    assert module.PARTS and all(isinstance(part, str) for part in module.PARTS)
