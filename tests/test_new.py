"""``bus1 new``, ``bus1 install``, ``bus1 uninstall``: a project that works, and a machine that knows it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from bus1_bridge.services import parse
from bus1_services import Interface, Service
from bus1_services.install.installation import CannotInstall, Installation
from bus1_services.install.places import of_system, of_user, of_users
from bus1_services.install.texts import MARK, Finished, Unfit, account_for, is_ours, unit_text
from bus1_services.install.verb import INSTALL, UNINSTALL
from bus1_services.migrate.reading import read
from bus1_services.migrate.writing import package as migrated_package
from bus1_services.new.project import Project
from bus1_services.new.verb import NEW
from buses import BRIDGE, COMMANDS
from daemons import Daemon
from dbus_client import Client

from bus1.changes import WriteFile, carry_out
from bus1.cli import guarded, parser_of, run_command

NAME = "org.example.Clock"
ROOT = Path(__file__).parent.parent
CLOCK = f"""
from bus1_services import Interface, Service, method

class Clock(Interface, name="{NAME}1"):
    @method
    def tick(self) -> None: ...

def service() -> Service:
    return Service("Clock", "{NAME}", objects={{"/": Clock()}})
"""
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a verb in the folder of the test; its exit status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_DATA_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(verb: str, *line: str) -> tuple[int, str]:
        command = {"new": NEW, "install": INSTALL, "uninstall": UNINSTALL}[verb]
        capfd.readouterr()
        try:
            status = guarded("bus1", lambda: run_command(parser_of(verb, command), command, line))
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            ours = {"clock", "old_service"}
            for module in [name for name in sys.modules if name.partition(".")[0] in ours]:
                del sys.modules[module]
        out, err = capfd.readouterr()
        return status, out + err

    return run


@pytest.fixture
def clock(tmp_path: Path) -> Path:
    """A folder with a package ``clock``."""
    folder = tmp_path / "project"
    (folder / "clock").mkdir(parents=True)
    (folder / "clock/__init__.py").touch()
    (folder / "clock/service.py").write_text(CLOCK)
    return folder


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def finished(*names: str, program: tuple[str, ...] = ("/bin/true",), account: str = "") -> Finished:
    service = Service("A clock: 50% %n\n[Service]", *names, objects={"/": Interface()})
    return Finished("clock.service:service", service, program, account)


# ---- new -------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_new_project_passes_its_own_tests_and_everybodys_linters(run: Run, tmp_path: Path) -> None:
    projects = {"clock": ("org.example.TV", "--user"), "world_clock": ("org.example.World-Clock", "--system")}
    path = [ROOT, ROOT / "services", ROOT / "bridge"]
    for package, (name, scope) in projects.items():
        assert run("new", name, scope, f"--package={package}")[0] == 0
        path.append(tmp_path / package)
    joined = os.pathsep.join(map(str, path))
    environment = {**os.environ, "PYTHONPATH": joined, "MYPYPATH": joined, "PYTHONDONTWRITEBYTECODE": "1"}

    def passes(folder: Path, *tool: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *tool], cwd=folder, env=environment, text=True, capture_output=True
        )
        assert done.returncode == 0, f"{tool[0]}: {done.stdout}{done.stderr}"

    for package in projects:
        passes(tmp_path / package, "ruff", "check", "--no-cache")
        rules = "--select=E,F,W,I,B,UP,SIM,RET,RUF"
        passes(tmp_path / package, "ruff", "check", "--no-cache", "--isolated", rules)
        passes(tmp_path / package, "pytest", "-q", "-p", "no:cacheprovider")
    sources = [f"{package}/{part}" for package in projects for part in (package, "tests")]
    options = ["--strict", "--ignore-missing-imports", f"--cache-dir={tmp_path}/cache"]
    passes(tmp_path, "mypy", *options, *sources)


@pytest.mark.parametrize(("name", "package", "class_", "interface"), [
    ("org.example.Clock", "clock", "Clock", "org.example.Clock1"),
    ("org.example.Clock2", "clock2", "Clock2", "org.example.Clock2"),
    ("org.ex-ample.World-Clock", "world_clock", "WorldClock", "org.ex_ample.World_Clock1"),
    ("org.example.Service", "service", "Service_2", "org.example.Service1"),
    ("org.example.Email", "email_service", "Email", "org.example.Email1"),
    ("org.example.Import", "import_", "Import", "org.example.Import1"),
    ("org.example.TV", "tv", "TV", "org.example.TV1"),
])
def test_the_names_of_a_project_follow_from_that_of_the_service(
    run: Run, tmp_path: Path, name: str, package: str, class_: str, interface: str
) -> None:
    status, said = run("new", name)
    assert (status, said.splitlines()[0]) == (0, f"{package}/README.md")
    text = (tmp_path / package / package / "service.py").read_text()
    assert f'class {class_}(Interface, name="{interface}")' in text
    assert "@" not in re.sub(r"^ *@(method|prop|signal)$", "", text, flags=re.M)


def test_nothing_is_replaced_unasked_and_a_diff_writes_nothing(run: Run, tmp_path: Path) -> None:
    status, said = run("new", NAME, "--dry-run")
    assert status == 0 and "+++ clock/clock/service.py" in said and not list(tmp_path.iterdir())
    assert run("new", NAME)[0] == 0
    (tmp_path / "clock/README.md").write_text("mine")
    before = files(tmp_path)
    status, said = run("new", NAME, "--system")
    assert status == 1 and "clock/README.md" in said and "--force replaces" in said
    assert files(tmp_path) == before
    assert run("new", NAME, "--force")[0] == 0
    assert (tmp_path / "clock/README.md").read_text() != "mine"


@pytest.mark.parametrize("line", [
    ["Clock"], [":1.4"], ["org.example.9lives"], ["org..Clock"], [f"org.{'a' * 240}"],
    [NAME, "--package=tests"], [NAME, "--package=a-b"], [NAME, "--package=class"], [NAME, "--package=json"],
    [NAME, "--user", "--system"],
])
def test_names_that_would_not_do_are_refused(run: Run, tmp_path: Path, line: list[str]) -> None:
    status, said = run("new", *line)
    assert status == 2 and "error: " in said and not list(tmp_path.iterdir())


# ---- what is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("account", ["", "_clock"])
def test_a_unit_is_one_for_systemd_and_leaves_little_exposed(tmp_path: Path, account: str) -> None:
    unit = tmp_path / f"{NAME}.service"
    unit.write_text(unit_text(finished(NAME, account=account)))
    text = unit.read_text()
    assert "Type=notify\n" in text and "Description=A clock: 50%% %%n [Service]\n" in text
    options = [] if account else ["--user"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "warning"}
    verify = ["systemd-analyze", *options, "verify", "--man=no", str(unit)]
    done = subprocess.run(verify, env=environment, capture_output=True, text=True, timeout=50)
    assert (done.returncode, [line for line in done.stderr.splitlines() if NAME in line]) == (0, [])
    if account:
        judge = ["systemd-analyze", "security", "--offline=yes", "--threshold=20", str(unit)]
        done = subprocess.run(judge, env=environment, capture_output=True, text=True, timeout=50)
        assert done.returncode == 0, done.stdout


def test_the_policy_lets_the_account_own_the_name_and_everybody_call_it(tmp_path: Path) -> None:
    clock = Finished("x:y", finished(NAME).service, ("/bin/true",), "root")
    text = of_system("/usr").files(clock)["/usr/share/dbus-1/system.d/org.example.Clock.conf"]
    (tmp_path / "system.d").mkdir()
    (tmp_path / "system.d/service.conf").write_text(text)
    config = tmp_path / "system.conf"
    config.write_text(
        '<busconfig><policy context="default"><allow user="*"/><deny own="*"/>'
        '<deny send_type="method_call"/><allow receive_type="method_call"/></policy>'
        "<includedir>system.d</includedir></busconfig>"
    )

    call = ["/", "a.b", "C"]
    for who, what, status in (
        ("root", ["--own", NAME], 0), ("nobody", ["--own", NAME], 1), ("nobody", [NAME, *call], 0),
        ("nobody", ["org.example.Else", *call], 1),
    ):
        question = [str(BRIDGE), "explain", f"--config-file={config}", f"--as={who}", "--owner=root", *what]
        done = subprocess.run(question, capture_output=True, text=True, timeout=50)
        assert done.returncode == status, (question, done.stdout, done.stderr)


def test_a_daemon_takes_the_policy_and_starts_the_service_by_its_activation_file(
    daemon: Daemon, tmp_path: Path
) -> None:
    service = tmp_path / "service.py"
    service.write_text(
        "from bus1_services import Interface, Service\n"
        f"Service('x', '{NAME}', objects={{'/': Interface()}}).run()\n"
    )
    clock = finished(NAME, program=(sys.executable, str(service)), account="root")
    for path, text in of_system("/usr").files(clock).items():
        carry_out([WriteFile(f"{tmp_path}{path}", text)])
    share = f"{tmp_path}/usr/share/dbus-1"
    config = daemon.configure(
        f"<servicedir>{share}/system-services</servicedir><includedir>{share}/system.d</includedir>"
    )
    _, address = daemon.serve(f"--config-file={config}")
    with Client(daemon.socket) as client:
        assert NAME in client.ask("ListActivatableNames")[0]
        if daemon.kind in COMMANDS and not daemon.is_reference:
            assert client.ask("StartServiceByName", "su", NAME, 0) == [1], address


def test_activation_files_and_interfaces_are_read_back_as_they_were_meant() -> None:
    clock = finished(NAME, "org.example.Other", program=("/bin/sh", "-c"), account="_clock")
    texts = of_system("/usr").files(clock)
    for name in clock.names:
        service = parse(texts[f"/usr/share/dbus-1/system-services/{name}.service"].encode(), "x")
        assert (service.name, service.user, service.unit) == (name, "_clock", f"{NAME}.service")
        assert service.command == "/bin/sh -c"
    project = Project(NAME, "clock")
    xml = project.files()["root/usr/share/dbus-1/interfaces/org.example.Clock1.xml"]
    (described,) = read("x", xml.encode())
    assert [member.name for member in described.members] == ["Greet", "Count", "Greeted"]


@pytest.mark.parametrize(("program", "account"), [
    ((), ""), (("clock",), ""), (("/bin/sh", "a b"), ""), (("/bin/sh", "%h"), ""), (("/bin/sh", "$HOME"), ""),
    (("/bin/sh", "x\nUser=root"), ""), (("/bin/sh",), "a b"), (("/bin/sh",), 'x"/>'), (("/bin/sh",), "-x"),
])
def test_what_would_be_more_than_a_value_in_a_unit_is_refused(program: tuple[str, ...], account: str) -> None:
    with pytest.raises(Unfit):
        finished(NAME, program=program, account=account)


def test_a_service_without_a_name_cannot_be_started_by_one() -> None:
    with pytest.raises(Unfit, match="owns no name"):
        finished()


def test_accounts_are_such_as_systems_have() -> None:
    assert account_for("org.example.Clock") == "_clock"
    assert account_for("org.example.World_Clock9") == "_world-clock9"
    assert len(account_for(f"org.{'a' * 99}")) == 31


# ---- install -----------------------------------------------------------------------------------------


def test_a_service_is_installed_for_its_user_and_removed_without_a_trace(
    run: Run, clock: Path, tmp_path: Path
) -> None:
    os.chdir(clock)
    status, said = run("install", "clock.service", "--dry-run")
    assert status == 0 and "would write" in said and not (tmp_path / "home").exists()
    status, said = run("install", "clock.service")
    assert status == 0 and "bus1 uninstall clock.service:service" in said
    assert sorted(files(tmp_path / "home/.local/share")) == [
        "dbus-1/interfaces/org.example.Clock1.xml", "dbus-1/services/org.example.Clock.service",
        "systemd/user/org.example.Clock.service",
    ]
    unit = (tmp_path / "home/.local/share/systemd/user/org.example.Clock.service").read_text()
    assert f"ExecStart={sys.executable} -m clock.service\n" in unit
    assert run("install", "clock.service") == (0, "Nothing to do: it is as it should be.\n")
    os.chdir(tmp_path)
    assert run("uninstall", "clock.service")[0] == 0
    assert files(tmp_path / "home") == {}
    assert run("uninstall", "clock.service")[1].startswith("Nothing to do")


def test_a_migrated_service_is_installed_under_the_name_that_it_had(run: Run, tmp_path: Path) -> None:
    interfaces = read("x", b'<node name="/old"><interface name="org.example.Old1"/></node>')
    for file, text in migrated_package("old_service", "org.example.Old", interfaces).items():
        carry_out([WriteFile(f"{tmp_path}/old_service/{file}", text)])
    assert run("install", "old_service.service")[0] == 0
    activation = tmp_path / "home/.local/share/dbus-1/services/org.example.Old.service"
    assert f"Exec={sys.executable} -m old_service.service\n" in activation.read_text()
    assert (tmp_path / "home/.local/share/dbus-1/interfaces/org.example.Old1.xml").exists()


def test_what_a_package_installs_is_what_the_project_has_below_root(run: Run, tmp_path: Path) -> None:
    run("new", "org.example.PackagedClock", "--system", "--package=clock")
    os.chdir(tmp_path / "clock")
    (tmp_path / "image").mkdir()
    status, _ = run("install", "clock.service", "--system", "--prefix=/usr", f"--root={tmp_path}/image",
                    "--exec=/usr/bin/clock")
    assert status == 0 and files(tmp_path / "image") == files(tmp_path / "clock/root")
    where = {os.path.dirname(path) for path in of_system("/usr/local").files(finished(NAME, account="x"))}
    assert "/etc/dbus-1/system.d" in where, "the bus looks for policy there, and not below /usr/local"


def test_files_of_others_are_left_alone_and_own_ones_that_are_stale_go(tmp_path: Path) -> None:
    installation = Installation(of_users("/usr"), str(tmp_path))
    before = finished(NAME, "org.example.Old")
    carry_out(installation.install(before))
    foreign = tmp_path / "usr/share/dbus-1/services/org.example.Foreign.service"
    foreign.write_text("[D-BUS Service]\n")
    after = finished(NAME)
    carry_out(installation.install(after))
    assert not (foreign.parent / "org.example.Old.service").exists() and foreign.exists()
    with pytest.raises(CannotInstall, match="is not of clock"):
        installation.install(finished(NAME, "org.example.Foreign"))
    carry_out(installation.install(finished(NAME, "org.example.Foreign"), force=True))
    assert MARK in foreign.read_text()
    other = Finished("other:service", after.service, ("/bin/true",))
    with pytest.raises(CannotInstall):
        installation.install(other)
    assert installation.uninstall("other:service") == []


def test_a_link_in_the_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    installation = Installation(of_users("/usr"), str(tmp_path))
    victim = tmp_path / "victim"
    victim.write_text(f"# {MARK} clock.service:service\n")
    units = tmp_path / "usr/lib/systemd/user"
    units.mkdir(parents=True)
    (units / f"{NAME}.service").symlink_to(victim)
    with pytest.raises(CannotInstall):
        installation.install(finished(NAME))
    carry_out(installation.install(finished(NAME), force=True))
    assert len(victim.read_text().splitlines()) == 1
    (tmp_path / "usr/share/dbus-1").rename(tmp_path / "elsewhere")
    (tmp_path / "usr/share/dbus-1").symlink_to("/etc")
    with pytest.raises(CannotInstall, match="leads out of"):
        installation.install(finished(NAME))


def test_a_user_has_files_of_his_own() -> None:
    assert of_user({"HOME": "/h"}).units == "/h/.local/share/systemd/user"
    assert of_user({"HOME": "/h", "XDG_DATA_HOME": "/d"}).activation == "/d/dbus-1/services"


def test_a_text_says_from_where_it_is() -> None:
    text = unit_text(finished(NAME))
    assert is_ours(text) and is_ours(text, "clock.service:service") and not is_ours(text, "clock.service:x")
    assert not is_ours(f"\n\n{text}") and not is_ours("")


@pytest.mark.parametrize(("line", "status", "said"), [
    (["clock; rm"], 2, "is not MODULE or MODULE:ATTRIBUTE"),
    (["nowhere.at.all"], 1, "nowhere.at.all:service cannot be had: No module"),
    (["json:dumps_"], 1, "json:dumps_ cannot be had"),
    (["json:decoder"], 1, "json:decoder is no Service"),
    (["clock.service", "--run-as=x"], 2, "--run-as is for --system"),
    (["clock.service", "--root=/nowhere/at/all"], 2, "is no directory"),
    (["clock.service", "--prefix=usr"], 2, "no absolute path"),
    (["clock.service", "--exec=/nowhere/at/all"], 1, "/nowhere/at/all is no program"),
    (["clock.service", "--exec='"], 2, "No closing quotation"),
])
def test_what_cannot_be_installed_is_told_and_changes_nothing(
    run: Run, clock: Path, tmp_path: Path, line: list[str], status: int, said: str
) -> None:
    os.chdir(clock)
    found, told = run("install", *line)
    assert found == status and said in told and not (tmp_path / "home").exists()
