"""The command: flags in all their shapes, addresses, what is printed, forking, the end.

The yardstick is spec/dbus-bus.md §1, §11 and §14."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from bus1_bridge.cli import FLAGS, UsageError, main, parse
from buses import BRIDGE, Bus, eventually, open_fds
from daemons import Daemon, line, path_of, serves
from dbus_client import PATIENCE, Client, Wire

from bus1 import __version__
from bus1.addresses import native_address, socket_name

MANY, MUCH = 16, 1 << 20
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"

# ---- flags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        (["--session"], {"--session": ""}),
        (["--address=unix:path=/x=y"], {"--address": "unix:path=/x=y"}),
        (["--address", "unix:path=/x"], {"--address": "unix:path=/x"}),
        (["--print-address"], {"--print-address": "1"}),
        (["--print-address=3"], {"--print-address": "3"}),
        (["--print-address", "3"], {"--print-address": "3"}),
        (["--print-address", "--session"], {"--print-address": "1", "--session": ""}),
        (["--print-pid", "4", "--print-address=5"], {"--print-pid": "4", "--print-address": "5"}),
        (["--print-address=", "--print-pid="], {"--print-address": "1", "--print-pid": "1"}),
        (["--nofork", "-h", "--bogus"], {"-h": ""}),
        (["--version", "--bogus"], {"--version": ""}),
        (["--version", "--help"], {"--version": ""}),
    ],
)
def test_values_follow_in_either_shape(flags: list[str], given: dict[str, str]) -> None:
    assert parse(flags).given == given


NO_CONFIGURATION = "No configuration file specified."
REQUESTED = "specified but configuration file"
SESSION_CONF = "/usr/share/dbus-1/session.conf already requested"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ([], NO_CONFIGURATION),
        (["--address=unix:tmpdir=/tmp"], NO_CONFIGURATION),
        (["--config-file="], NO_CONFIGURATION),
        (["--session", "--system"], f"--system {REQUESTED} {SESSION_CONF}"),
        (["--session", "--config-file=/x"], f"--config-file {REQUESTED} {SESSION_CONF}"),
        (["--config-file=/x", "--config-file=/y"], f"--config-file {REQUESTED} /x already requested"),
        (["--scope=machine"], "--scope is user or system, not machine"),
        (["--session=yes"], "unknown option --session=yes"),
        (["--session", "stray"], "unknown option stray"),
        (["--session", "--session"], f"--session {REQUESTED} {SESSION_CONF}"),
        (["--session", "--address=a", "--address=b"], "--address is given twice"),
        (["--session", "--print-pid", "--print-pid=2"], "--print-pid is given twice"),
        (["--session", "--address"], "--address needs a value"),
        (["--session", "--print-address=x"], 'Invalid file descriptor: "x"'),
        (["--session", "--print-address=-1"], 'Invalid file descriptor: "-1"'),
        (["--session", "--print-pid", "987654"], "--print-pid: file descriptor 987654 is not open"),
    ],
)
def test_what_makes_no_sense_is_an_error_in_words(
    capfd: pytest.CaptureFixture[str], flags: list[str], complaint: str
) -> None:
    assert main(flags) == 1
    output, errors = capfd.readouterr()
    assert output == ""
    assert errors.splitlines()[0] == f"bus1-bridge: {complaint}"


def test_the_version_s_first_line_is_what_packagers_look_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"D-Bus Message Bus Daemon {__version__} (bus1-bridge)"


@pytest.mark.parametrize("question", ["--version", "--help", "--introspect"])
def test_an_answer_that_cannot_be_written_fails_in_words_or_silently(question: str) -> None:
    with open("/dev/full", "wb") as full:
        ran = subprocess.run([BRIDGE, question], stdout=full, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (1, b"bus1-bridge: No space left on device\n")
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb") as pipe:  # that nobody reads
        ran = subprocess.run([BRIDGE, question], stdout=pipe, stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (1, b"")


def test_what_is_asked_with_standard_output_closed_is_told_by_the_status() -> None:
    asked = (BRIDGE, "explain", "--user", "--connect")
    ran = subprocess.run(["sh", "-c", 'exec "$@" >&-', "-", *asked], stderr=subprocess.PIPE, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize("flag", ["--help", "-h", "-?"])
def test_help_names_every_flag(capsys: pytest.CaptureFixture[str], flag: str) -> None:
    assert main([flag]) == 0
    usage = capsys.readouterr().out
    for name in FLAGS:
        assert f"[{name}" in usage or name in {"-h", "-?"}


def test_the_interface_of_the_bus_is_printed_as_the_bus_itself_gives_it(daemon: Daemon) -> None:
    output, errors = daemon.start("--introspect").communicate(timeout=PATIENCE)
    assert errors == b""
    _, address = daemon.serve("--session", f"--address=unix:path={daemon.folder}/bus")
    with Client(path_of(address)) as client:
        there = client.ask("Introspect", path="/org/freedesktop/DBus", interface=INTROSPECTABLE)[0]
    methods = set(re.findall(r'<method name="(\w+)"', output.decode()))
    assert methods == set(re.findall(r'<method name="(\w+)"', there)) >= {"Hello", "RequestName", "GetAll"}


def test_an_unknown_flag_before_the_version_is_an_error() -> None:
    with pytest.raises(UsageError):
        parse(["--bogus", "--version"])


def test_bad_values_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        parse(["--nonsense"])


# ---- addresses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("unix:path=bus", "unix:path=bus"),
        ("unix:path=%62us%2dx", "unix:path=bus-x"),
        ("unix:path=a%20b~", None),
        ("unix:path=a%20b%7e", "unix:path=a%20b%7e"),
        ("unix:abstract=bus1-test-{pid}", "unix:abstract=bus1-test-{pid}"),
        ("unix:runtime=yes", "unix:path={folder}/bus"),
        ("unix:guid=00,path=bus,foo=bar", "unix:path=bus"),
        ("unix:path=/nonexistent/x;unix:path=second", "unix:path=second"),
        ("launchd:env=X;unix:path=third;unix:path=fourth", "unix:path=third"),
    ],
)
def test_the_bus_listens_on_the_first_entry_that_works(
    bridge: Daemon, address: str, expected: str | None
) -> None:
    address = address.format(pid=os.getpid())
    if expected is None:
        assert "must be escaped" in bridge.fails("--session", "--address", address)
        return
    expected = expected.format(pid=os.getpid(), folder=bridge.folder)
    _, printed = bridge.serve("--session", "--address", address)
    shown, _, guid = printed.partition(",guid=")
    assert shown == expected
    assert len(bytes.fromhex(guid)) == 16


@pytest.mark.parametrize("key", ["dir", "tmpdir"])
def test_a_directory_gets_a_socket_of_a_random_name(bridge: Daemon, key: str) -> None:
    addresses = [bridge.serve("--session", f"--address=unix:{key}={bridge.folder}")[1] for _ in range(2)]
    assert len(set(addresses)) == 2
    for address in addresses:
        name = Path(path_of(address))
        assert name.parent == bridge.folder
        assert name.name.startswith("dbus-")
        assert stat.S_IMODE(name.stat().st_mode) == 0o777
        assert serves(address)


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("foo:bar=1", "Unknown address type 'foo'"),
        ("nonce-tcp:host=localhost", "Unknown address type 'nonce-tcp'"),
        ("autolaunch:", "Unknown address type 'autolaunch'"),
        ("tcp:port=70000", "port 70000 is no number from 0 to 65535"),
        ("tcp:port=x", "port x is no number"),
        ("tcp:host=nowhere.invalid", "Failed to lookup host/port"),
        ("tcp:host=localhost,family=ipx", "Unknown address family 'ipx'"),
        ("tcp:host=192.0.2.1,port=1", "Failed to bind socket"),
        ("systemd:", "No socket received"),
        ("nonsense", "does not contain a colon"),
        ("unix:", "takes exactly one of"),
        ("unix:path=x,dir=y", "takes exactly one of"),
        ("unix:guid=00", "takes exactly one of"),
        ("unix:path=a%00b", "a NUL"),
        ("unix:abstract=a%00b", "a NUL"),
        ("unix:path=x,path=y", "given twice"),
        ("unix:path", "'=' character not found"),
        ("unix:path=%zz", "two hex digits"),
        ("unix:runtime=no", "only the value yes"),
        ("unix:path=/nonexistent/dir/bus", "No such file or directory"),
        ("unix:path=" + "x" * 108, "Socket name too long"),
        (";", "is empty"),
    ],
)
def test_an_address_that_cannot_be_listened_on_is_an_error_in_words(
    bridge: Daemon, address: str, complaint: str
) -> None:
    said = bridge.fails("--session", "--print-address", f"--address={address}")
    assert said.startswith("bus1-bridge: Failed to start message bus: ")
    assert complaint in said


def test_runtime_needs_the_directory(bridge: Daemon) -> None:
    said = bridge.fails("--session", "--address=unix:runtime=yes", environment={"XDG_RUNTIME_DIR": ""})
    assert "XDG_RUNTIME_DIR is not set" in said


def test_a_stale_socket_is_replaced_and_anything_else_is_not(bridge: Daemon) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(bridge.folder / "bus"))
    _, address = bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    assert serves(address)
    (bridge.folder / "file").write_text("precious")
    assert "Address already in use" in bridge.fails("--session", f"--address=unix:path={bridge.folder}/file")
    assert (bridge.folder / "file").read_text() == "precious"


def test_an_empty_address_is_the_usual_one(bridge: Daemon) -> None:
    process, address = bridge.serve("--session", "--address=")
    process.terminate()
    assert process.wait(PATIENCE) == 0  # so it removes its sockets, which lie outside the test's folder
    assert address.startswith("unix:path=/tmp/dbus-")


def test_the_guid_is_that_of_the_authentication(bridge: Daemon) -> None:
    _, address = bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    with Wire(path_of(address)) as wire:
        wire.write(b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\n")
        assert wire.line() == f"OK {address.partition('guid=')[2]}"


def test_native_clients_find_their_socket_beside(bridge: Daemon) -> None:
    for kind, where in (("path", f"{bridge.folder}/bus"), ("abstract", f"bus1-beside-{os.getpid()}")):
        process, printed = bridge.serve("--session", f"--address=unix:{kind}={where}")
        name = native_address(printed)
        assert name is not None
        with closing(socket.socket(socket.AF_UNIX)) as probe:
            probe.connect(socket_name(name))
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_a_socket_name_without_room_for_a_native_one_serves_d_bus_alone(bridge: Daemon) -> None:
    name = "x" * 107
    process, address = bridge.serve("--session", f"--address=unix:path={name}")
    assert address.startswith(f"unix:path={name},guid=")
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE)
    assert b"no native socket: Socket name too long" in errors


def test_a_native_socket_that_somebody_serves_is_left_alone(bridge: Daemon) -> None:
    for kind, where in (("path", f"{bridge.folder}/bus"), ("abstract", f"bus1-taken-{os.getpid()}")):
        name = native_address(f"unix:{kind}={where}")
        assert name is not None
        with closing(socket.socket(socket.AF_UNIX)) as other:
            other.bind(socket_name(name))
            other.listen()
            process, address = bridge.serve("--session", f"--address=unix:{kind}={where}")
            assert serves(address)
            process.terminate()
            _, errors = process.communicate(timeout=PATIENCE)
            assert b"no native socket" in errors and b"already in use" in errors
            assert process.returncode == 0
            with closing(socket.socket(socket.AF_UNIX)) as probe:
                probe.connect(socket_name(name))


@pytest.mark.parametrize("thing", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed_for_the_native_one(bridge: Daemon, thing: str) -> None:
    place = bridge.folder / "bus1"
    if thing == "file":
        place.write_text("precious")
    elif thing == "directory":
        place.mkdir()
    else:
        place.symlink_to(bridge.folder / "elsewhere")
    process, address = bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    assert serves(address)
    process.terminate()
    _, errors = process.communicate(timeout=PATIENCE)
    assert b"no native socket" in errors and process.returncode == 0
    assert bridge.left == ["bus1"]


def test_a_native_socket_that_nobody_serves_any_more_is_replaced(bridge: Daemon) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(bridge.folder / "bus1"))
    bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        probe.connect(str(bridge.folder / "bus1"))


# ---- what is printed -----------------------------------------------------------------------------


def test_the_descriptor_is_closed_once_the_address_is_printed(bridge: Daemon) -> None:
    for shape in (["--print-address={}"], ["--print-address", "{}"]):
        reading, writing = os.pipe()
        with open(reading, "rb") as stream:
            process = bridge.start(
                "--session", *(part.format(writing) for part in shape), f"--address=unix:dir={bridge.folder}",
                pass_fds=(writing,), stdout=subprocess.DEVNULL,
            )
            os.close(writing)
            printed = stream.read()  # until everybody has closed the other end
        assert process.poll() is None
        assert printed.endswith(b"\n") and printed.count(b"\n") == 1
        assert serves(printed.decode().strip())


def test_address_and_pid_may_share_a_descriptor(bridge: Daemon) -> None:
    address = f"--address=unix:dir={bridge.folder}"
    process = bridge.start("--session", "--print-address", "--print-pid", address, bufsize=0)
    assert serves(line(process.stdout))
    assert line(process.stdout) == str(process.pid)


def test_nothing_is_printed_unasked(bridge: Daemon) -> None:
    process = bridge.start("--session", "--nofork", f"--address=unix:path={bridge.folder}/bus")
    eventually(lambda: (bridge.folder / "bus1").exists(), lambda: process.poll())
    eventually(lambda: serves(f"unix:path={bridge.folder}/bus"), lambda: process.poll())
    process.terminate()
    assert process.communicate(timeout=PATIENCE) == (b"", b"")


# ---- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_bus_with_status_0_and_without_a_trace(bridge: Daemon, number: int) -> None:
    process, address = bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    with Client(path_of(address)) as client:
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        client.rest()  # the bus has closed the connection
    assert bridge.left == []


def test_a_signal_ends_a_bus_at_once_whatever_waits_for_its_clients(daemon: Daemon) -> None:
    """What is in their sockets by then they can still read, up to the end; no file is left."""
    file = daemon.configure(f"<pidfile>{daemon.folder}/pid</pidfile>")
    process, address = daemon.serve(f"--config-file={file}")
    path = path_of(address)
    with Client(path) as sender, Client(path) as slow, Client(path) as asks, Wire(path) as stranger:
        for _ in range(MANY):
            sender.emit("M", "ay", bytes(MUCH), to=slow.name)
        sender.sync()
        # these wait, too: a call for an answer, a message for its end, a client for its name
        asks.call(slow.name, "M")
        sender.write(b"l\1\0\1")
        stranger.write(b"\0AUTH EXTERNAL")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        got = len(slow.rest())
        assert 0 < got < MANY * MUCH
        for client in (sender, asks, stranger):
            client.rest()
    assert daemon.left == ["bus.conf"]


def test_the_end_removes_no_socket_that_this_bus_has_not_made(bridge: Daemon) -> None:
    process, _ = bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    with ExitStack() as others:
        for name in ("bus", "bus1"):
            (bridge.folder / name).unlink()
            other = others.enter_context(closing(socket.socket(socket.AF_UNIX)))
            other.bind(str(bridge.folder / name))
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert bridge.left == ["bus", "bus1"]


def test_sighup_does_not_end_the_bus(bridge: Daemon) -> None:
    process, address = bridge.serve("--session", f"--address=unix:path={bridge.folder}/bus")
    process.send_signal(signal.SIGHUP)
    assert serves(address)
    assert process.poll() is None


# ---- fork ----------------------------------------------------------------------------------------


def test_the_parent_of_a_fork_leaves_when_the_bus_listens(bridge: Daemon) -> None:
    process = bridge.start(
        "--session", "--fork", "--print-address", "--print-pid", f"--address=unix:path={bridge.folder}/bus"
    )
    output, errors = process.communicate(timeout=PATIENCE)  # until the child has let go of both, too
    assert (process.returncode, errors) == (0, b"")
    address, pid = output.decode().split()
    child = int(pid)
    try:
        assert serves(address)
        assert child != process.pid
        assert os.getsid(child) == child
        for fd in range(3):
            assert os.readlink(f"/proc/{child}/fd/{fd}") == "/dev/null"
    finally:
        os.kill(child, signal.SIGTERM)
    eventually(lambda: bridge.left == [], lambda: bridge.left)


def test_a_fork_keeps_no_folder_busy_and_finds_its_sockets_again(bridge: Daemon) -> None:
    process = bridge.start("--session", "--fork", "--print-pid", "--address=unix:path=bus")
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    child = int(output)
    try:
        assert os.readlink(f"/proc/{child}/cwd") == "/"
        assert serves(f"unix:path={bridge.folder}/bus")
    finally:
        os.kill(child, signal.SIGTERM)
    eventually(lambda: bridge.left == [], lambda: bridge.left)


def test_a_fork_works_without_standard_descriptors(bridge: Daemon) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        bridge.start(
            f"--print-pid={writing}", "--session", "--fork", f"--address=unix:path={bridge.folder}/bus",
            program=["/bin/sh", "-c", 'exec 0<&- 1>&- 2>&-; exec "$@"', "sh"], pass_fds=(writing,),
        )
        os.close(writing)
        child = int(stream.read())
    try:
        assert serves(f"unix:path={bridge.folder}/bus")
    finally:
        os.kill(child, signal.SIGTERM)
    eventually(lambda: bridge.left == [], lambda: bridge.left)


def test_a_fork_that_cannot_listen_fails_in_the_parent(bridge: Daemon) -> None:
    assert "No such file" in bridge.fails("--session", "--fork", "--address=unix:path=/nonexistent/bus")


# ---- the process ---------------------------------------------------------------------------------


def test_standard_input_is_replaced(bridge: Daemon) -> None:
    process, _ = bridge.serve("--session", f"--address=unix:dir={bridge.folder}", stdin=subprocess.PIPE)
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"
    assert process.stdin is not None


def test_as_many_descriptors_as_allowed_are_taken(bridge: Daemon) -> None:
    process, _ = bridge.serve(
        "--session", f"--address=unix:dir={bridge.folder}",
        program=["/bin/sh", "-c", 'ulimit -Sn 100; exec "$@"', "sh"],
    )
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    [(soft, hard)] = [entry.split()[3:5] for entry in limits if entry.startswith("Max open files")]
    assert soft == hard


def test_too_many_connections_for_the_descriptors_stop_nobody(bridge: Daemon) -> None:
    process, address = bridge.serve(
        "--session", f"--address=unix:path={bridge.folder}/bus",
        program=["/bin/sh", "-c", 'ulimit -n 40; exec "$@"', "sh"],
    )
    path = path_of(address)
    with Client(path) as first, ExitStack() as crowd:
        before = open_fds(process.pid)
        for _ in range(60):
            crowd.enter_context(Wire(path))
        # an eighth of them is kept for what is read
        eventually(lambda: open_fds(process.pid) >= 35, lambda: open_fds(process.pid))
        assert first.ask("NameHasOwner", "s", first.name) == [True]
        crowd.close()
        assert serves(address), "accepting goes on once there is room"
        eventually(lambda: open_fds(process.pid) <= before, lambda: open_fds(process.pid))
    assert "no more connections for a moment: Too many open files" in bridge.stop(process)


def test_who_sends_descriptors_that_the_bus_cannot_take_loses_its_connection_alone(bridge: Daemon) -> None:
    process, address = bridge.serve(
        "--session", f"--address=unix:path={bridge.folder}/bus",
        program=["/bin/sh", "-c", 'ulimit -n 40; exec "$@"', "sh"],
    )
    path = path_of(address)
    with Client(path) as reader, Client(path) as sender, ExitStack() as crowd:
        for _ in range(60):
            crowd.enter_context(Wire(path))
        eventually(lambda: open_fds(process.pid) >= 35, lambda: open_fds(process.pid))
        refused = sender.reply(sender.call(reader.name, "Take", "h", 0, fds=[0]))
        assert refused.error_name == "org.freedesktop.DBus.Error.LimitsExceeded", "what it would have to keep"
        sender.call(reader.name, "Take", "h", 0, fds=[0] * 10)
        sender.rest()  # ends only if the bus closes the connection
        crowd.close()
        assert reader.ask("NameHasOwner", "s", sender.name) == [False]


def test_the_daemon_imports_nothing_asynchronous() -> None:
    code = (
        "import sys; import bus1_bridge.cli, bus1_bridge.daemon; "
        "print(*sorted({'anyio', 'asyncio', 'dbus_fast', 'argparse', 'logging', 'trio'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("\n", "")


def test_what_a_client_did_wrong_is_logged_with_who_it_was(bus1_bus: Bus) -> None:
    with Wire(bus1_bus.path) as wire:
        wire.write(b"\0BEGIN\r\n")
        wire.rest()
    eventually(lambda: f"pid={os.getpid()}" in bus1_bus.log(), bus1_bus.log)
    assert "authentication failed" in bus1_bus.log()
