"""Either daemon with a configuration file: where it listens, how it starts and ends, when it reads again.

The yardstick is spec/dbus-bus.md §1, §8, §11 and §14."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from buses import COMMANDS, eventually
from daemons import OPEN, Daemon, line, path_of, serves
from dbus_client import BUS, PATIENCE, CallFailed, Client, Wire

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
NOBODY = 65534


def limit(name: str, value: int) -> str:
    return f'<limit name="{name}">{value}</limit>'


def entries(printed: str) -> list[str]:
    return printed.split(";")


# ---- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["--config-file={}", "--config-file {}"])
def test_a_file_says_where_to_listen(daemon: Daemon, shape: str) -> None:
    config = daemon.configure()
    process, address = daemon.serve(*(part.format(config) for part in shape.split()))
    assert address.startswith(f"unix:path={daemon.socket},guid=")
    assert serves(address)
    daemon.stop(process)


def test_a_file_is_not_needed_any_more_once_the_address_is_printed(daemon: Daemon) -> None:
    config = daemon.configure()
    _, address = daemon.serve(f"--config-file={config}")
    os.unlink(config)
    assert serves(address)


def test_a_file_may_be_an_open_descriptor(daemon: Daemon) -> None:
    with open(daemon.configure(), "rb") as file:
        os.unlink(file.name)
        where = f"--config-file=/proc/self/fd/{file.fileno()}"
        _, address = daemon.serve(where, pass_fds=(file.fileno(),))
    assert serves(address)


def test_a_relative_file_is_found_from_the_folder_of_the_start(daemon: Daemon) -> None:
    daemon.configure()
    assert serves(daemon.serve("--config-file", "bus.conf")[1])


def test_an_address_of_the_command_line_replaces_all_of_the_file(daemon: Daemon) -> None:
    config = daemon.configure(listen=["unix:path=/nonexistent/a", "nonsense"])
    _, address = daemon.serve(f"--config-file={config}", f"--address=unix:path={daemon.socket}")
    assert address.startswith(f"unix:path={daemon.socket},guid=") and ";" not in address
    assert serves(address)


def test_all_addresses_of_the_file_are_served_and_the_last_is_printed_first(daemon: Daemon) -> None:
    places = [f"{daemon.folder}/{name}" for name in ("one", "two", "three")]
    process, printed = daemon.serve(
        "--config-file", daemon.configure(listen=[f"unix:path={place}" for place in places])
    )
    assert [path_of(entry) for entry in entries(printed)] == places[::-1]
    for entry in entries(printed):
        assert re.fullmatch(r"[0-9a-f]{32}", entry.partition(",guid=")[2])
        with Client(path_of(entry)) as client:
            assert client.guid == entry.partition(",guid=")[2]
    with Client(places[0]) as one, Client(places[2]) as three:
        assert one.ask("NameHasOwner", "s", three.name) == [True]
    daemon.stop(process)
    assert not any(os.path.exists(place) for place in places)


def test_every_unix_address_has_a_native_socket_beside(bridge: Daemon) -> None:
    places = [f"{bridge.folder}/{name}" for name in ("one", "two")]
    process, _ = bridge.serve(
        "--config-file", bridge.configure(listen=[f"unix:path={place}" for place in places])
    )
    for place in places:
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.connect(f"{place}1")
    bridge.stop(process)
    assert bridge.left == ["bus.conf"]


def test_one_address_that_fails_leaves_nothing_of_the_others(daemon: Daemon) -> None:
    config = daemon.configure(listen=[f"unix:path={daemon.socket}", "unix:path=/nonexistent/bus"])
    assert "No such file or directory" in daemon.fails("--config-file", config, "--print-address")
    if not daemon.is_reference:
        assert daemon.left == ["bus.conf"]


BROKEN: dict[str, Callable[[Daemon], str]] = {
    "is not there": lambda daemon: f"{daemon.folder}/nowhere.conf",
    "is a folder": lambda daemon: str(daemon.folder),
    "has an unknown element": lambda daemon: daemon.configure("<bus1/>"),
    "is not xml": lambda daemon: daemon.configure("<listen"),
    "has an unknown limit": lambda daemon: daemon.configure(limit("max_bus1", 1)),
    "listens nowhere": lambda daemon: daemon.configure(listen=[" "]),
    "listens on what nobody knows": lambda daemon: daemon.configure(listen=["launchd:env=X"]),
    "includes itself": lambda daemon: daemon.configure(f"<include>{daemon.folder}/bus.conf</include>"),
    "is for nobody": lambda daemon: daemon.configure("<user>nosuchuser</user>"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_of_no_use_ends_the_start_in_words(daemon: Daemon, what: str) -> None:
    said = daemon.fails("--config-file", BROKEN[what](daemon), "--print-pid")
    assert "Failed to start message bus: " in said
    assert not os.path.exists(daemon.socket)


def test_where_apparmor_is_required_nothing_is_served_without_it(bridge: Daemon) -> None:
    said = bridge.fails("--config-file", bridge.configure('<apparmor mode="required"/>'), "--print-pid")
    assert "AppArmor mediation required but not present" in said


# ---- as programs in the wild do it ---------------------------------------------------------------


WILD = {
    "python-dbusmock": ["--config-file={}", "--print-address=1", "--print-pid=1", "--nofork"],
    "GTestDBus": ["--print-address=1", "--config-file={}"],
    "dbus-run-session": ["--nofork", "--print-address", "1", "--config-file={}"],
    "dbus-tests": ["--config-file={}", "--nofork", "--print-address=1", "--systemd-activation"],
    "at-spi": ["--config-file={}", "--nofork", "--print-address", "1"],
    "a unit": ["--config-file={}", "--print-address", "--nofork", "--nopidfile", "--syslog"],
    "somebody who repeats himself": [
        "--nofork", "--fork", "--nofork", "--nosyslog", "--syslog", "--nopidfile", "--nopidfile",
        "--print-address=1", "--config-file", "{}",
    ],
}


@pytest.mark.parametrize("who", WILD)
def test_the_flags_of_those_who_start_a_bus_are_taken(daemon: Daemon, who: str) -> None:
    config = daemon.configure()
    process = daemon.start(*(flag.format(config) for flag in WILD[who]))
    assert serves(line(process.stdout))
    daemon.stop(process)


@pytest.mark.parametrize("has_config", [False, True], ids=["usual", "configured"])
def test_dbus_run_session_takes_it_and_passes_the_status_on(daemon: Daemon, has_config: bool) -> None:
    config = [f"--config-file={daemon.configure()}"] if has_config else []
    ask = f"gdbus call --session -d {BUS} -o / -m {BUS}.GetId && exit 7"
    done = subprocess.run(
        ["dbus-run-session", f"--dbus-daemon={COMMANDS[daemon.kind]}", *config, "--", "sh", "-c", ask],
        capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
    )
    assert (done.returncode, done.stdout[:2]) == (7, "('"), done.stderr


# ---- systemd -------------------------------------------------------------------------------------

class Passing:
    """Listening sockets that a service manager passes from descriptor 3 on."""

    def __init__(self, daemon: Daemon, names: str) -> None:
        self.places = [f"{daemon.folder}/{i}-{name}" for i, name in enumerate(names.split(":"))]
        self.sockets = [socket.socket(socket.AF_UNIX) for _ in self.places]
        for sock, place in zip(self.sockets, self.places, strict=True):
            sock.bind(place)
            sock.listen()
        fds = " ".join(f"{3 + i}<&{sock.fileno()}" for i, sock in enumerate(self.sockets))
        # first out of the way, then to their places
        high = [sock.fileno() + 100 for sock in self.sockets]
        for sock, fd in zip(self.sockets, high, strict=True):
            os.dup2(sock.fileno(), fd)
        self.fds = high
        fds = " ".join(f"{3 + i}<&{fd}" for i, fd in enumerate(high))
        script = f'exec {fds}; LISTEN_PID=$$ LISTEN_FDS={len(high)} LISTEN_FDNAMES={names} exec "$@"'
        self.program = ["/bin/bash", "-c", script, "bash"]

    def close(self) -> None:
        for sock, fd in zip(self.sockets, self.fds, strict=True):
            sock.close()
            os.close(fd)


def test_all_sockets_of_a_service_manager_are_served_and_printed_as_they_are(daemon: Daemon) -> None:
    with closing(Passing(daemon, "dbus.socket:other.socket")) as passing:
        process, printed = daemon.serve(
            "--config-file", daemon.configure(), "--address=systemd:", program=passing.program,
            pass_fds=passing.fds,
        )
        assert sorted(path_of(entry) for entry in entries(printed)) == passing.places
        assert all(serves(entry) for entry in entries(printed))
        if not daemon.is_reference:
            names = Path(f"/proc/{process.pid}/environ").read_bytes()
            assert b"LISTEN_FDS" in names, "the test must have passed them"
        daemon.stop(process)
        assert all(map(os.path.exists, passing.places)), "they are the service manager's"


def test_the_socket_called_bus1_is_for_native_clients(bridge: Daemon) -> None:
    with closing(Passing(bridge, "dbus.socket:bus1")) as passing:
        _, printed = bridge.serve(
            "--config-file", bridge.configure(), "--address=systemd:", program=passing.program,
            pass_fds=passing.fds,
        )
        dbus, native = passing.places
        assert [path_of(entry) for entry in entries(printed)] == [dbus]
        with Wire(native) as wire:
            wire.write(b"\0AUTH EXTERNAL\r\n")
            assert not wire.rest().startswith(b"DATA"), "that is no D-Bus"
        assert not os.path.exists(f"{dbus}1"), "it has one already"


def test_the_flags_of_dbus_broker_launch_mean_the_passed_sockets(bridge: Daemon) -> None:
    with closing(Passing(bridge, "dbus.socket")) as passing:
        _, printed = bridge.serve(
            "--scope", "user", "--audit", "--config-file", bridge.configure(), program=passing.program,
            pass_fds=passing.fds,
        )
        assert [path_of(entry) for entry in entries(printed)] == passing.places
        assert serves(printed)


def test_without_passed_sockets_there_is_nothing_to_serve(daemon: Daemon) -> None:
    assert "No socket received" in daemon.fails("--config-file", daemon.configure(), "--address=systemd:")


def test_a_service_manager_is_told_of_every_change(bridge: Daemon) -> None:
    place = f"{bridge.folder}/notify"
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(place)
        manager.settimeout(PATIENCE)
        process, _ = bridge.serve("--config-file", bridge.configure(), environment={"NOTIFY_SOCKET": place})
        assert manager.recv(100) == b"READY=1"
        process.send_signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))
        assert manager.recv(100) == b"READY=1"
        bridge.stop(process)
        assert manager.recv(100) == b"STOPPING=1"


# ---- the pid file --------------------------------------------------------------------------------


def test_the_pid_file_has_the_process_that_serves_and_goes_with_it(daemon: Daemon) -> None:
    pidfile = daemon.folder / "pid"
    process, address = daemon.serve("--config-file", daemon.configure(f"<pidfile>{pidfile}</pidfile>"))
    # the reference prints first, and knows what SIGTERM is to do when it serves
    eventually(lambda: pidfile.exists() and pidfile.read_text() == f"{process.pid}\n", pidfile.exists)
    assert serves(address)
    daemon.stop(process)
    assert not pidfile.exists()


def test_a_pid_file_that_is_there_keeps_the_bus_from_starting(daemon: Daemon) -> None:
    pidfile = daemon.folder / "pid"
    pidfile.write_text("1\n")
    config = daemon.configure(f"<pidfile>{pidfile}</pidfile>")
    assert f'The pid file "{pidfile}" exists' in daemon.fails("--config-file", config, "--print-address")
    assert pidfile.read_text() == "1\n"
    assert not os.path.exists(daemon.socket)
    _, address = daemon.serve("--config-file", config, "--nopidfile")
    assert serves(address)


def test_a_second_start_takes_nothing_from_the_bus_that_runs(daemon: Daemon) -> None:
    config = daemon.configure(f"<pidfile>{daemon.folder}/pid</pidfile>")
    _, address = daemon.serve("--config-file", config)
    eventually((daemon.folder / "pid").exists, lambda: daemon.left)
    daemon.fails("--config-file", config, "--print-address=1")
    assert serves(address)


@pytest.mark.parametrize("place", ["/nonexistent/pid", "/dev/null/pid"])
def test_a_pid_file_that_cannot_be_written_ends_the_start_in_words(bridge: Daemon, place: str) -> None:
    said = bridge.fails("--config-file", bridge.configure(f"<pidfile>{place}</pidfile>"), "--print-address")
    assert f'Failed to start message bus: Failed to open "{place}": ' in said
    assert bridge.left == ["bus.conf"]


# ---- another user --------------------------------------------------------------------------------


def ids(pid: int) -> dict[str, set[str]]:
    fields = (entry.partition(":") for entry in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: set(rest.split()) for name, _, rest in fields if name in {"Uid", "Gid", "Groups", "CapPrm"}}


def let_everybody_in(daemon: Daemon) -> None:
    """The folder, and those around it that belong to the test run, are open to all users."""
    daemon.folder.chmod(0o777)
    for folder in daemon.folder.parents[:2]:
        folder.chmod(0o755)


@needs_root
def test_a_bus_becomes_the_user_of_the_file_for_good(daemon: Daemon) -> None:
    let_everybody_in(daemon)
    config = daemon.configure("<user>nobody</user>")
    process, address = daemon.serve("--config-file", config, extra_groups=[0, 4242])
    eventually(lambda: ids(process.pid)["Uid"] == {str(NOBODY)}, lambda: ids(process.pid))
    assert serves(address)
    now = ids(process.pid)
    assert now["Gid"] == {str(NOBODY)}
    assert now["Groups"] <= {str(NOBODY)}, "those of the user alone"
    # a daemon with audit support keeps one capability for that
    assert int(now["CapPrm"].pop(), 16) & ~(1 << 29) == 0
    with Client(path_of(address)) as client:
        assert client.ask("GetConnectionUnixUser", "s", BUS) == [NOBODY]
    process.terminate()
    assert process.wait(PATIENCE) == 0


@needs_root
def test_who_is_not_root_serves_as_who_he_is_and_says_so(bridge: Daemon) -> None:
    let_everybody_in(bridge)
    config = bridge.configure("<user>root</user>")
    somebody = f"""
import os, sys
from bus1_bridge import cli, configfiles, process
process._load_everything()
os.setgroups([]); os.setresgid({NOBODY}, {NOBODY}, {NOBODY}); os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
sys.exit(cli.main(sys.argv[2:]))
"""
    process, address = bridge.serve("--config-file", config, program=[sys.executable, "-c", somebody])
    assert serves(address)
    assert "not root, so not able to serve as root" in bridge.stop(process)


# ---- descriptors ---------------------------------------------------------------------------------


def test_a_bus_takes_more_descriptors_than_it_passes_on(daemon: Daemon) -> None:
    services, found = daemon.folder / "services", daemon.folder / "found"
    services.mkdir()
    command = f"/bin/sh -c 'ulimit -Sn > {found}.part; mv {found}.part {found}'"
    (services / "a.service").write_text(f"[D-BUS Service]\nName=com.example.A\nExec={command}\n")
    process, address = daemon.serve(
        "--config-file", daemon.configure(f"<servicedir>{services}</servicedir>"),
        program=["/bin/sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh"],
    )
    limits = Path(f"/proc/{process.pid}/limits").read_text()
    [soft] = re.findall(r"^Max open files +(\d+)", limits, re.MULTILINE)
    # root without CAP_SYS_RESOURCE is refused by the reference, and takes what it may here
    assert daemon.is_reference or int(soft) > 100
    with Client(path_of(address)) as client:
        client.call(BUS, "StartServiceByName", "su", "com.example.A", 0, interface=BUS)
        eventually(found.exists, lambda: daemon.left)
    assert found.read_text() == "100\n"


# ---- forking -------------------------------------------------------------------------------------


def umask(pid: int) -> str:
    status = Path(f"/proc/{pid}/status").read_text()
    return str(re.findall(r"^Umask:\t(\d+)", status, re.MULTILINE)[0])


@pytest.mark.parametrize(("content", "expected"), [("<fork/>", "0022"), ("<fork/><keep_umask/>", "0077")])
def test_a_file_may_ask_for_the_background(daemon: Daemon, content: str, expected: str) -> None:
    config = daemon.configure(f"{content}<pidfile>{daemon.folder}/pid</pidfile>")
    assert config == f"{daemon.folder}/bus.conf"
    process = daemon.start("--config-file=bus.conf", "--print-address=1", "--print-pid=1", umask=0o077)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    address, pid = output.decode().split()
    try:
        assert int(pid) != process.pid
        assert (daemon.folder / "pid").read_text() == f"{pid}\n"
        with Client(path_of(address)) as client:
            # by then the reference has its umask, too; its parent doesn't wait for that
            assert umask(int(pid)) == expected
            # the reference leaves the folder, and looks for its file where it is then
            assert daemon.is_reference or client.ask("ReloadConfig") == []
    finally:
        os.kill(int(pid), signal.SIGTERM)
    eventually(lambda: not (daemon.folder / "pid").exists(), lambda: daemon.left)


def test_the_command_line_decides_against_the_background(daemon: Daemon) -> None:
    process, address = daemon.serve("--config-file", daemon.configure("<fork/>"), "--print-pid=1", bufsize=0)
    assert line(process.stdout) == str(process.pid)
    assert serves(address)


def test_a_background_bus_that_cannot_start_fails_in_the_parent(bridge: Daemon) -> None:
    config = bridge.configure("<fork/><pidfile>/nonexistent/pid</pidfile>")
    assert 'Failed to open "/nonexistent/pid"' in bridge.fails("--config-file", config)
    assert bridge.left == ["bus.conf"]


# ---- reading again -------------------------------------------------------------------------------


def error_of(client: Client, member: str, signature: str, *args: object) -> str:
    try:
        client.ask(member, signature, *args)
    except CallFailed as refused:
        return str(refused.name)
    return ""


def names_at_most(n: int) -> str:
    return limit("max_names_per_connection", n)


def is_limited(client: Client) -> bool:
    """One name more than its own is too much for this client now."""
    name = f"com.example.N{client.next_serial()}"
    if error_of(client, "RequestName", "su", name, 0):
        return True
    client.ask("ReleaseName", "s", name)
    return False


def test_a_reload_holds_for_clients_that_are_there(daemon: Daemon) -> None:
    _, address = daemon.serve("--config-file", daemon.configure(names_at_most(10)))
    with Client(path_of(address)) as client:
        assert not is_limited(client)
        daemon.configure(names_at_most(1))
        assert client.ask("ReloadConfig") == []
        assert is_limited(client)


def test_sighup_reads_the_file_again(daemon: Daemon) -> None:
    process, address = daemon.serve("--config-file", daemon.configure(names_at_most(10)))
    with Client(path_of(address)) as client:
        assert not is_limited(client)
        daemon.configure(names_at_most(1))
        process.send_signal(signal.SIGHUP)
        eventually(lambda: is_limited(client), client.drain)
    assert "Reloaded configuration" in daemon.stop(process)


def test_a_file_that_cannot_be_read_again_changes_nothing_and_is_said(daemon: Daemon) -> None:
    process, address = daemon.serve("--config-file", daemon.configure(names_at_most(1)))
    with Client(path_of(address)) as client:
        daemon.configure(names_at_most(10) + "<oops/>")
        assert error_of(client, "ReloadConfig", "") != ""
        assert is_limited(client)
        process.send_signal(signal.SIGHUP)
        assert client.ask("NameHasOwner", "s", BUS) == [True]
        assert is_limited(client)
    assert "oops" in daemon.stop(process)


def test_what_is_listened_on_is_not_read_again(daemon: Daemon) -> None:
    _, address = daemon.serve("--config-file", daemon.configure())
    with Client(path_of(address)) as client:
        daemon.configure(listen=[f"unix:path={daemon.folder}/elsewhere"])
        assert client.ask("ReloadConfig") == []
    assert serves(address)
    assert not os.path.exists(f"{daemon.folder}/elsewhere")


def test_a_file_that_joins_a_folder_of_the_configuration_is_read_at_once(daemon: Daemon) -> None:
    more = daemon.folder / "more"
    more.mkdir()
    _, address = daemon.serve(
        "--config-file", daemon.configure(names_at_most(10) + f"<includedir>{more}</includedir>")
    )
    with Client(path_of(address)) as client:
        assert not is_limited(client)
        (more / "strict.conf").write_text(f"<busconfig>{names_at_most(1)}</busconfig>")
        eventually(lambda: is_limited(client), client.drain)
        (more / "strict.conf").unlink()
        eventually(lambda: not is_limited(client), client.drain)


def test_a_folder_that_changes_while_the_bus_starts_is_read_again(bridge: Daemon) -> None:
    more = bridge.folder / "more"
    more.mkdir()
    _, address = bridge.serve(
        "--config-file", bridge.configure(names_at_most(10) + f"<includedir>{more}</includedir>")
    )
    # before anybody can have begun to watch: that is a second later
    (more / "strict.conf").write_text(f"<busconfig>{names_at_most(1)}</busconfig>")
    with Client(path_of(address)) as client:
        eventually(lambda: is_limited(client), client.drain)


# ---- who is let in -------------------------------------------------------------------------------


def test_a_client_that_does_not_get_to_the_point_is_put_out(daemon: Daemon) -> None:
    _, address = daemon.serve("--config-file", daemon.configure(limit("auth_timeout", 300)))
    with ExitStack() as stack:
        silent, unnamed = (stack.enter_context(Wire(path_of(address))) for _ in range(2))
        named = stack.enter_context(Client(path_of(address)))
        unnamed.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        assert silent.rest() == b""
        assert unnamed.rest().startswith(b"DATA\r\nOK ")
        assert named.ask("NameHasOwner", "s", BUS) == [True]


def test_while_too_many_are_strangers_nobody_else_is_accepted(daemon: Daemon) -> None:
    _, address = daemon.serve("--config-file", daemon.configure(limit("max_incomplete_connections", 2)))
    with ExitStack() as stack:
        strangers = [stack.enter_context(Wire(path_of(address))) for _ in range(2)]
        for stranger in strangers:
            stranger.write(b"\0")
            assert stranger.say("AUTH").startswith("REJECTED")
        waiting = stack.enter_context(Wire(path_of(address)))
        waiting.write(b"\0AUTH\r\n")
        assert select.select([waiting.socket], [], [], 0.2)[0] == []
        strangers[0].close()
        assert waiting.line().startswith("REJECTED")


def as_nobody(act: Callable[[], None]) -> None:
    """In a process of its own; what it raises is the test's failure."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


CONNECTING = {
    "nothing said": ("", False),
    "everybody": ('<allow user="*"/>', True),
    "by name": ('<allow user="nobody"/>', True),
    "by group": ('<allow group="nogroup"/>', True),
    "the last rule wins": ('<allow user="*"/><deny user="nobody"/>', False),
    "somebody else": ('<allow user="daemon"/>', False),
}


@needs_root
@pytest.mark.parametrize("case", CONNECTING)
def test_rules_decide_who_may_connect_and_who_may_not_hears_nothing(daemon: Daemon, case: str) -> None:
    rules, may = CONNECTING[case]
    policy = OPEN.replace('<allow user="*"/>', rules)
    # a name that needs no right to be reached
    place = f"daemon-test-{os.getpid()}-{daemon.kind}"
    process, address = daemon.serve(
        "--config-file", daemon.configure(listen=[f"unix:abstract={place}"], policy=policy)
    )

    def connect() -> None:
        with Wire(path_of(address)) as wire:
            wire.write(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
            assert wire.line() == "DATA"
            assert wire.line().startswith("OK ")
            if not may:
                assert wire.rest() == b""
        if may:
            assert serves(address)

    as_nobody(connect)
    said = daemon.stop(process)
    assert daemon.is_reference or (f"user {NOBODY} may not connect" in said) is not may


# ---- what cannot be written ----------------------------------------------------------------------


def test_an_address_that_cannot_be_printed_ends_the_start_in_words(bridge: Daemon) -> None:
    with open("/dev/full", "wb") as full:
        said = bridge.fails(
            "--config-file", bridge.configure(), f"--print-address={full.fileno()}", pass_fds=(full.fileno(),)
        )
    assert "the address cannot be printed: No space left on device" in said
    assert bridge.left == ["bus.conf"]


def provoke_a_line(address: str) -> None:
    """Something that the bus writes a line about."""
    with Wire(path_of(address)) as wire:
        wire.write(b"not a NUL")
        wire.rest()


def test_nobody_needs_to_read_what_the_bus_says(bridge: Daemon) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb"), open(writing, "wb") as stream:
        os.set_blocking(writing, False)
        while (stream.raw.write(b"x" * 4096) or 0) == 4096:
            continue
        os.set_blocking(writing, True)
        _, address = bridge.serve("--config-file", bridge.configure(), stderr=writing)
        for _ in range(3):
            provoke_a_line(address)
        assert serves(address)


def test_a_full_disk_under_the_log_ends_nothing(bridge: Daemon) -> None:
    with open("/dev/full", "wb") as full:
        _, address = bridge.serve("--config-file", bridge.configure(), stderr=full)
        provoke_a_line(address)
        assert serves(address)


def test_every_line_says_which_bus_it_is_of(daemon: Daemon) -> None:
    process, address = daemon.serve("--config-file", daemon.configure())
    with Client(path_of(address)) as client:
        client.ask("ReloadConfig")
    said = daemon.stop(process)
    prefix = rf"{daemon.kind}\[{process.pid}\]: \[session uid={os.getuid()} pid={process.pid}\] "
    assert re.search(rf"(?m)^{prefix}Reloaded configuration$", said), said
