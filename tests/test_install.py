"""bus1-bridge install, revert and status, on systems that live below a directory of the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bus1_bridge.install.probe import ask
from bus1_bridge.install.unit import unit_text
from buses import BRIDGE, Bus

from bus1.changes import FOR_ALL, Change, MakeLink, Remove, WriteFile, carry_out

PROGRAM = "/usr/bin/bus1-bridge"
SCOPES = ("user", "global", "system")
Run = Callable[..., subprocess.CompletedProcess[str]]


def contents(root: Path) -> dict[str, str]:
    """Every file with its text, every link with its target."""
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_text()
    return found


def write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system with dbus-daemon's units and our program."""
    tmp_path.chmod(0o755)
    write(tmp_path / PROGRAM[1:], "#!/bin/sh\n", 0o755)
    for kind in ("user", "system"):
        for unit in ("dbus.service", "dbus-broker.service"):
            write(tmp_path / "usr/lib/systemd" / kind / unit, f"[Service]\nExecStart=/usr/bin/{unit}\n")
    return tmp_path


@pytest.fixture
def run(root: Path) -> Run:
    """The command, on that system."""

    def run(
        verb: str, *arguments: str, program: str | None = PROGRAM
    ) -> subprocess.CompletedProcess[str]:
        options = [f"--program={program}"] if program and verb != "status" else []
        environment = {
            "PATH": os.environ["PATH"], "HOME": "/home/alice", "XDG_RUNTIME_DIR": str(root / "runtime")
        }
        return subprocess.run(
            [BRIDGE, verb, f"--root={root}", *options, *arguments],
            env=environment, capture_output=True, text=True, timeout=50, check=False,
        )

    return run


def directory(root: Path, scope: str) -> Path:
    """Where this scope's units are written."""
    return root / {
        "user": "home/alice/.config/systemd/user",
        "global": "etc/systemd/user",
        "system": "etc/systemd/system",
    }[scope]


@pytest.mark.parametrize("scope", SCOPES)
def test_install_links_our_unit_and_revert_leaves_what_was_there(root: Path, run: Run, scope: str) -> None:
    before = contents(root)
    done = run("install", f"--{scope}")
    assert done.returncode == 0, done.stderr
    link = directory(root, scope) / "dbus.service"
    assert os.path.basename(link.readlink()) == "bus1-bridge.service"
    unit = (directory(root, scope) / "bus1-bridge.service").read_text()
    kind = "system" if scope == "system" else "session"
    assert f"ExecStart={PROGRAM} --{kind} --address=systemd:" in unit
    assert f"bus1-bridge revert --{scope}" in done.stdout
    assert run("install", f"--{scope}").stdout == "Nothing to do: it is as it should be.\n"
    assert run("revert", f"--{scope}").returncode == 0
    assert contents(root) == before
    assert run("revert", f"--{scope}").stdout == "Nothing to do: it is as it should be.\n"


def test_without_a_root_it_is_the_users_own_directory(tmp_path: Path) -> None:
    """systemctl makes the link, and needs no manager that runs."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    units = tmp_path / ".config/systemd/user"
    for verb, left in (("install", ["bus1-bridge.service", "dbus.service"]), ("revert", [])):
        done = subprocess.run(
            [BRIDGE, verb, "--user"], env=environment, capture_output=True, text=True, timeout=50, check=False
        )
        assert done.returncode == 0, done.stderr
        assert sorted(path.name for path in units.iterdir()) == left
    assert str(BRIDGE) not in str(contents(tmp_path))


@pytest.mark.parametrize("scope", SCOPES)
def test_another_enabled_bus_is_replaced_only_if_asked_and_comes_back(
    root: Path, run: Run, scope: str
) -> None:
    kind = "system" if scope == "system" else "user"
    link = directory(root, scope) / "dbus.service"
    link.parent.mkdir(parents=True)
    link.symlink_to(f"/usr/lib/systemd/{kind}/dbus-broker.service")
    before = contents(root)
    refused = run("install", f"--{scope}")
    assert refused.returncode == 1
    assert "dbus-broker.service" in refused.stderr and "--replace" in refused.stderr
    assert contents(root) == before
    assert run("install", f"--{scope}", "--replace").returncode == 0
    assert os.path.basename(link.readlink()) == "bus1-bridge.service"
    assert run("install", f"--{scope}").returncode == 0
    assert run("revert", f"--{scope}").returncode == 0
    assert contents(root) == before


@pytest.mark.parametrize("scope", SCOPES)
def test_a_dry_run_names_every_change_and_makes_none(root: Path, run: Run, scope: str) -> None:
    before = contents(root)
    done = run("install", f"--{scope}", "--dry-run")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].endswith("bus1-bridge.service") and lines[0].startswith("would write")
    assert ("would link" if scope == "user" else "enable bus1-bridge.service") in lines[1]
    assert contents(root) == before


def test_somebodys_own_unit_in_the_place_of_the_link_is_never_touched(root: Path, run: Run) -> None:
    own = write(directory(root, "user") / "dbus.service", "[Service]\nExecStart=/bin/true\n")
    done = run("install", "--user", "--replace")
    assert done.returncode == 1 and "not a link" in done.stderr
    assert own.read_text() == "[Service]\nExecStart=/bin/true\n"
    assert sorted(path.name for path in own.parent.iterdir()) == ["dbus.service"]


def test_a_failure_in_the_middle_leaves_everything_as_it_was(root: Path, run: Run) -> None:
    link = directory(root, "system") / "dbus.service"
    link.parent.mkdir(parents=True)
    link.symlink_to("/usr/lib/systemd/system/dbus-broker.service")
    before = contents(root)
    tools = root / "tools"
    tools.mkdir()
    write(tools / "systemctl", "#!/bin/sh\necho no such thing >&2\nexit 4\n", 0o755)
    done = subprocess.run(
        [BRIDGE, "install", "--system", "--replace", f"--root={root}", f"--program={PROGRAM}"],
        env={"PATH": str(tools), "HOME": "/home/alice"}, capture_output=True, text=True, timeout=50,
        check=False,
    )
    assert done.returncode == 1
    assert "no such thing" in done.stderr and "everything is as it was" in done.stderr
    assert {k: v for k, v in contents(root).items() if not k.startswith("tools")} == before


def test_changes_are_undone_in_reverse_when_one_fails(tmp_path: Path) -> None:
    kept = write(tmp_path / "kept", "old", 0o640)
    (tmp_path / "link").symlink_to("elsewhere")
    changes: list[Change] = [
        WriteFile(str(kept), "new"), Remove(str(tmp_path / "link")), MakeLink(str(tmp_path / "link"), "here"),
        WriteFile(str(tmp_path / "deep/er/file"), "x"), MakeLink(str(kept), "anywhere"),
    ]
    with pytest.raises(FileExistsError):
        carry_out(changes)
    assert contents(tmp_path) == {"kept": "old", "link": "-> elsewhere"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "link"]
    assert kept.stat().st_mode & 0o777 == 0o640


def test_a_change_that_may_not_replace_leaves_what_is_there(tmp_path: Path) -> None:
    write(tmp_path / "kept", "old")
    (tmp_path / "link").symlink_to("kept")
    for name in ("kept", "link"):
        with pytest.raises(FileExistsError):
            carry_out([
                WriteFile(str(tmp_path / "new"), "x", may_replace=False),
                WriteFile(str(tmp_path / name), "x", may_replace=False),
            ])
    assert contents(tmp_path) == {"kept": "old", "link": "-> kept"}


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "kept", "old")
    (tmp_path / "link").symlink_to("kept")
    carry_out([WriteFile(str(tmp_path / "link"), "x")])
    assert contents(tmp_path) == {"kept": "old", "link": "x"}


def test_what_is_written_can_be_read_by_everybody_whatever_the_umask(tmp_path: Path) -> None:
    file = tmp_path / "systemd" / "unit"
    umask = os.umask(0o077)
    try:
        carry_out([WriteFile(str(file), "x")], umask=FOR_ALL)
        assert os.umask(0o077) == 0o077, "that of whoever calls is his own"
    finally:
        os.umask(umask)
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o644, 0o755]


def test_a_trial_restores_the_old_bus_before_it_starts(root: Path, run: Run) -> None:
    assert run("install", "--user", "--trial").returncode == 0
    link = directory(root, "user") / "dbus.service"
    unit = (directory(root, "user") / "bus1-bridge.service").read_text()
    lines = [line for line in unit.splitlines() if line.startswith("Exec")]
    assert lines[0] == "ExecStartPre=-+/bin/rm -f /home/alice/.config/systemd/user/dbus.service"
    assert lines[1].startswith(f"ExecStart={PROGRAM} ")
    link.unlink()  # as the first start does
    assert run("install", "--user").returncode == 0
    assert "ExecStartPre" not in (directory(root, "user") / "bus1-bridge.service").read_text()
    assert os.path.basename(link.readlink()) == "bus1-bridge.service"


def test_a_trial_in_the_place_of_another_bus_gives_the_place_back(root: Path, run: Run) -> None:
    link = directory(root, "system") / "dbus.service"
    link.parent.mkdir(parents=True)
    link.symlink_to("/usr/lib/systemd/system/dbus-broker.service")
    assert run("install", "--system", "--replace", "--trial").returncode == 0
    unit = (directory(root, "system") / "bus1-bridge.service").read_text()
    assert (
        "ExecStartPre=-+/bin/ln -sfn /usr/lib/systemd/system/dbus-broker.service "
        "/etc/systemd/system/dbus.service\n"
    ) in unit


def test_no_trial_for_everybody(run: Run) -> None:
    done = run("install", "--global", "--trial")
    assert done.returncode == 1 and "--user" in done.stderr


def test_a_shim_is_a_dbus_daemon_and_only_ours_is_removed(root: Path, run: Run) -> None:
    assert run("install", "--shim=/opt/bin").returncode == 0
    shim = root / "opt/bin/dbus-daemon"
    assert str(shim.readlink()) == PROGRAM
    assert run("revert", "--shim=/opt/bin").returncode == 0
    assert not shim.is_symlink()
    write(shim, "somebody's")
    for verb in ("install", "revert"):
        done = run(verb, "--shim=/opt/bin")
        assert done.returncode == 1 and "left alone" in done.stderr
    assert shim.read_text() == "somebody's"


@pytest.mark.parametrize("place", ["etc", "etc/systemd/system", "var"])
def test_links_below_a_root_lead_nobody_out_of_it(
    root: Path, run: Run, tmp_path_factory: pytest.TempPathFactory, place: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write(outside / "bus1-bridge.service", "somebody's")
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(outside)
    for verb in ("install", "revert"):
        done = run(verb, "--system")
        assert done.returncode == 1 and f"leads out of {root}, to {outside}" in done.stderr
    assert contents(outside) == {"bus1-bridge.service": "somebody's"}


def test_a_shims_directory_is_taken_from_here_as_a_program_is(root: Path, run: Run) -> None:
    here = Path.cwd().relative_to("/")
    assert run("install", "--shim=bin").returncode == 0
    assert str((root / here / "bin/dbus-daemon").readlink()) == PROGRAM


@pytest.mark.parametrize(("mode", "complaint"), [(0o777, "can change"), (0o700, "can't get at")])
def test_a_program_that_others_can_change_or_not_reach_serves_nobody_else(
    root: Path, run: Run, mode: int, complaint: str
) -> None:
    (root / "usr/bin").chmod(mode)
    before = contents(root)
    for scope in ("global", "system"):
        done = run("install", f"--{scope}")
        assert done.returncode == 1 and complaint in done.stderr and "/usr/bin" in done.stderr
    assert contents(root) == before
    assert run("install", "--user").returncode == 0


@pytest.mark.parametrize("program", ["/usr/bin/nothing", "/usr/bin/with space"])
def test_a_program_that_cannot_be_started_is_refused(root: Path, run: Run, program: str) -> None:
    if " " in program:
        write(root / program[1:], "#!/bin/sh\n", 0o755)
    before = contents(root)
    done = run("install", "--user", program=program)
    assert done.returncode == 1 and program in done.stderr
    assert contents(root) == before


def test_status_says_which_unit_decides_and_what_install_would_do(root: Path, run: Run) -> None:
    text = run("status", "--user").stdout
    assert "/usr/lib/systemd/user/dbus.service\n" in text
    assert "would link /home/alice/.config/systemd/user/dbus.service" in text
    assert run("install", "--user").returncode == 0
    text = run("status", "--user").stdout
    assert "/home/alice/.config/systemd/user/bus1-bridge.service, by " in text
    assert "is done; revert removes /home/alice/.config/systemd/user/dbus.service" in text
    assert [line for line in run("status").stdout.splitlines() if not line.startswith(" ")] == [
        "user: the session bus of this user", "global: the session buses of all users",
        "system: the system bus",
    ]


def test_a_damaged_memory_is_told_and_nothing_is_guessed(root: Path, run: Run) -> None:
    state = write(root / "home/alice/.local/state/bus1/install.json", "{")
    for verb in ("install", "revert", "status"):
        done = run(verb, "--user")
        assert done.returncode == 1 and "is damaged" in done.stderr, (verb, done)
    assert state.read_text() == "{"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["install"], "--user, --global or --system"), (["revert"], "--user, --global or --system"),
        (["install", "--user", "--system"], "not allowed with"),
        (["status", "--root=/nonexistent"], "is no directory"),
    ],
)
def test_a_command_line_that_makes_no_sense_is_told(arguments: list[str], complaint: str) -> None:
    done = subprocess.run([BRIDGE, *arguments], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2 and complaint in done.stderr


@pytest.mark.parametrize("kind", ["session", "system"])
@pytest.mark.parametrize("trial_of", [None, ("/etc/systemd/x/dbus.service", None), ("/a/dbus.service", "/b")])
def test_units_are_what_systemd_takes(
    tmp_path: Path, kind: str, trial_of: tuple[str, str | None] | None
) -> None:
    """systemd-analyze knows every setting, and finds the program and the socket unit."""
    unit = tmp_path / "bus1-bridge.service"
    unit.write_text(unit_text(kind, str(BRIDGE), trial_of=trial_of))
    scope = "--user" if kind == "session" else "--system"
    done = subprocess.run(
        ["systemd-analyze", scope, "--man=no", "verify", str(unit)],
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}, capture_output=True, text=True, timeout=50,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "bus1" in line and "Alias" not in line]
    assert done.returncode == 0 and not ours, done.stderr


def test_a_unit_cannot_be_made_to_say_more_than_a_path() -> None:
    for path in ("/bin/x\nExecStartPre=/bin/evil", "/bin/%u", "relative", '/bin/"x"', "/bin/x y"):
        with pytest.raises(ValueError, match="can't stand in a unit"):
            unit_text("system", path)


def test_the_probe_asks_the_bus_who_serves(bus: Bus) -> None:
    server = ask(bus.path)
    assert server is not None
    assert server.pid == bus.pid
    assert bus.kind in server.command


def test_the_probe_gets_over_a_socket_where_no_bus_answers(tmp_path: Path) -> None:
    assert ask(str(tmp_path / "nothing")) is None
