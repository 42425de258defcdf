"""``bus1 broker``: where it listens, what it prints, what it takes from its environment, how it ends."""

from __future__ import annotations

import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from bus1_command import BUS1, Shell, line
from buses import eventually
from dbus_client import PATIENCE

from bus1 import addresses
from bus1.broker import BrokerLimits
from bus1.core.api import Limits, RecvFlag
from bus1.errors import BusGone, QuotaExceeded
from bus1.peer import Peer
from bus1.verbs import broker
from bus1.verbs.verb import Failure


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path)
    with shell.cleanup:
        yield shell


def ended(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> tuple[int, bytes]:
    """How a bus ends that is told to: its status, and what it said on standard error."""
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE)
    return process.returncode, errors


def serves(address: str) -> bool:
    with Peer.connect(address) as p, Peer.connect(address) as q:
        p.send([q.transfer(0x10, p)], b"hello")
        with q.recv() as message:
            return bytes(message.payload) == b"hello"


def answers(address: str) -> bool:
    with closing(socket.socket(socket.AF_UNIX)) as probe:
        return probe.connect_ex(address) == 0


# ---- where it listens ------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["{folder}/bus", "@bus1-command-{pid}"])
def test_it_listens_where_it_is_told(shell: Shell, address: str) -> None:
    address = address.format(folder=shell.folder, pid=os.getpid())
    process = shell.serve(f"--address={address}")
    assert shell.address == address
    assert serves(address)
    assert ended(process) == (0, b"")


def test_a_relative_path_is_printed_as_clients_elsewhere_need_it(shell: Shell) -> None:
    shell.serve("--address=bus")
    assert shell.address == f"{shell.folder}/bus"
    assert serves(shell.address)


def test_it_finds_its_place_in_the_environment(shell: Shell) -> None:
    shell.serve(changes={"BUS1_ADDRESS": f"{shell.folder}/chosen"})
    assert shell.address == f"{shell.folder}/chosen" and serves(shell.address)
    runtime = shell.folder / "runtime"
    shell.serve(changes={"BUS1_ADDRESS": "", "XDG_RUNTIME_DIR": str(runtime)})
    assert shell.address == f"{runtime}/bus1" and serves(shell.address)
    assert stat.S_IMODE(runtime.stat().st_mode) == 0o700


def test_without_an_environment_only_root_has_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "SYSTEM_ADDRESS", str(tmp_path / "bus1" / "bus"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Failure, match="say --address"):
        broker.usual_place({})
    assert not (tmp_path / "bus1").exists()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert broker.usual_place({}) == str(tmp_path / "bus1" / "bus")
    assert stat.S_IMODE((tmp_path / "bus1").stat().st_mode) == 0o755


def test_everybody_who_reaches_the_socket_may_use_it(shell: Shell) -> None:
    shell.serve("--address=bus")
    assert stat.S_IMODE((shell.folder / "bus").stat().st_mode) == 0o777


def test_a_dead_socket_is_replaced(shell: Shell) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as stale:
        stale.bind(str(shell.folder / "bus"))
    shell.serve("--address=bus")
    assert serves(shell.address)


def test_a_bus_that_was_killed_is_in_nobodys_way(shell: Shell) -> None:
    shell.serve("--address=bus").kill()
    eventually(lambda: not shell.run("peers").stdout, lambda: "it still answers")
    shell.serve("--address=bus")
    assert serves(shell.address)


@pytest.mark.parametrize("where", ["{folder}/bus", "@bus1-taken-{pid}"])
def test_a_bus_that_lives_keeps_its_place(shell: Shell, where: str) -> None:
    where = where.format(folder=shell.folder, pid=os.getpid())
    process = shell.serve(f"--address={where}")
    assert "Address already in use" in shell.fails("broker", f"--address={where}")
    assert serves(shell.address)
    assert ended(process) == (0, b"")


@pytest.mark.parametrize("thing", ["file", "directory", "link"])
def test_what_is_no_socket_is_never_removed(shell: Shell, thing: str) -> None:
    place = shell.folder / "bus"
    if thing == "file":
        place.write_text("precious")
    elif thing == "directory":
        place.mkdir()
    else:
        place.symlink_to(shell.folder / "elsewhere")
    before = place.lstat()
    assert "Address already in use" in shell.fails("broker", "--address=bus")
    assert place.lstat() == before
    assert os.listdir(shell.folder) == ["bus"]


@pytest.mark.parametrize(
    ("address", "complaint"),
    [
        ("/nonexistent/folder/bus", "No such file or directory"),
        ("x" * 108, "Socket name too long: x"),
        ("@" + "x" * 108, "Socket name too long: @x"),
        ("", "No such file or directory"),
    ],
)
def test_an_address_that_is_of_no_use_is_a_failure_in_words(
    shell: Shell, address: str, complaint: str
) -> None:
    said = shell.fails("broker", f"--address={address}", "--print-address")
    assert said.startswith("the bus cannot start: ") and complaint in said
    assert os.listdir(shell.folder) == []


def test_the_longest_names_work(shell: Shell) -> None:
    for address in ("x" * 107, "@" + f"{os.getpid()}".rjust(107, "x")):
        process = shell.serve(f"--address={address}")
        assert ended(process) == (0, b"")


# ---- what it prints --------------------------------------------------------------------------------


def test_nothing_is_printed_unasked(shell: Shell) -> None:
    process = shell.start("broker", "--address=bus")
    eventually(lambda: answers(f"{shell.folder}/bus"), process.poll)
    assert serves(f"{shell.folder}/bus")
    process.terminate()
    assert process.communicate(timeout=PATIENCE) == (b"", b"")
    assert process.returncode == 0


def test_address_and_pid_may_share_a_descriptor(shell: Shell) -> None:
    process = shell.serve("--address=bus", "--print-pid")
    assert line(process.stdout) == str(process.pid)


@pytest.mark.parametrize("shape", [["--print-address={}"], ["--print-address", "{}"]])
def test_the_descriptor_is_closed_once_the_address_is_printed(shell: Shell, shape: list[str]) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as stream:
        flags = [part.format(writing) for part in shape]
        process = shell.start("broker", "--address=bus", *flags, pass_fds=(writing,))
        os.close(writing)
        printed = stream.read()  # until everybody has closed the other end
    assert process.poll() is None
    assert printed == f"{shell.folder}/bus\n".encode()
    assert serves(printed.decode().strip())


def test_an_address_that_cannot_be_printed_is_a_failure_and_leaves_nothing(shell: Shell) -> None:
    with open("/dev/full", "wb") as full:
        process = shell.start("broker", "--address=bus", "--print-address", stdout=full)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors == b"bus1: the address cannot be printed: No space left on device\n"
    assert os.listdir(shell.folder) == []


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--print-address=x"], 'Invalid file descriptor: "x"'),
        (["--print-pid", "987654"], "--print-pid: file descriptor 987654 is not open"),
        (["--max-slices=-1"], "--max-slices: invalid number value: '-1'"),
        (["--max-bytes=many"], "--max-bytes: invalid number value: 'many'"),
        (["--max-fds", str(1 << 63)], f"--max-fds: invalid number value: '{1 << 63}'"),
        (["--max-handles"], "--max-handles: expected one argument"),
        (["--json=short"], "unrecognized arguments: --json=short"),
        (["stray"], "unrecognized arguments: stray"),
    ],
)
def test_flags_that_make_no_sense_start_nothing(shell: Shell, flags: list[str], complaint: str) -> None:
    done = shell.run("broker", "--address=bus", *flags)
    assert (done.returncode, done.stdout) == (2, "")
    assert complaint in done.stderr and done.stderr.startswith("usage: bus1 broker ")
    assert os.listdir(shell.folder) == []


# ---- limits ----------------------------------------------------------------------------------------


def test_limits_of_users_are_what_the_flags_say(shell: Shell) -> None:
    """Q-2, P-22: a peer's maxima are those of its user."""
    shell.serve(
        "--address=bus", "--max-slices=8", "--max-handles=9", "--max-bytes=10000", "--max-fds=11"
    )
    assert shell.peer().query().limits == Limits(8, 9, 10000, 11)
    told = {record["resource"]: record["limit"] for record in shell.records("quota", str(os.getuid()))}
    assert told == {"slices": 8, "handles": 9, "bytes": 10000, "fds": 11}


def test_limits_are_the_usual_ones_otherwise(shell: Shell) -> None:
    """P-22: the defaults."""
    shell.serve("--address=bus")
    assert shell.peer().query().limits == Limits()
    usual = BrokerLimits()
    expected = (usual.peers_per_user, usual.channels_per_user)
    assert expected == (broker.PEERS_PER_USER, broker.CHANNELS_PER_USER)


@pytest.mark.parametrize("flag", ["--peers-per-user=2", "--channels-per-user=2"])
def test_one_user_has_so_many_peers_and_channels_and_no_more(shell: Shell, flag: str) -> None:
    shell.serve("--address=bus", flag)
    first = shell.peer()
    with Peer.connect(shell.address), pytest.raises(QuotaExceeded):
        Peer.connect(shell.address)
    assert first.query()


def test_as_many_descriptors_as_allowed_are_taken(shell: Shell) -> None:
    process = shell.serve(
        "--address=bus", program=["/bin/sh", "-c", f'ulimit -Sn 100; exec {BUS1} "$@"', "sh"]
    )
    limits = Path(f"/proc/{process.pid}/limits").read_text().splitlines()
    [(soft, hard)] = [entry.split()[3:5] for entry in limits if entry.startswith("Max open files")]
    assert soft == hard


def test_standard_input_is_replaced(shell: Shell) -> None:
    process = shell.serve("--address=bus", stdin=subprocess.PIPE)
    assert os.readlink(f"/proc/{process.pid}/fd/0") == "/dev/null"


# ---- the service manager ---------------------------------------------------------------------------

ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
passed = {"LISTEN_FDS": "1", "LISTEN_PID": os.environ.get("PID", str(os.getpid()))}
os.execve(sys.argv[2], sys.argv[2:], os.environ | passed)
"""


def activate(shell: Shell, passed: socket.socket, *flags: str, **changes: str) -> subprocess.Popen[bytes]:
    """Start it as systemd does: the socket is descriptor 3."""
    number = str(passed.fileno())
    return shell.start(
        str(BUS1), "broker", *flags, program=[sys.executable, "-c", ACTIVATE, number],
        pass_fds=(passed.fileno(),), changes=changes,
    )


def test_a_socket_that_is_passed_is_served_and_its_file_left_alone(shell: Shell) -> None:
    address = str(shell.folder / "passed")
    with closing(socket.socket(socket.AF_UNIX)) as passed:
        passed.bind(address)
        passed.listen()
        process = activate(shell, passed, "--print-address", BUS1_ADDRESS=f"{shell.folder}/other")
        assert line(process.stdout) == address
        assert serves(address)
        assert ended(process) == (0, b"")
        assert os.listdir(shell.folder) == ["passed"]


def test_whoever_connects_before_the_bus_is_there_is_served(shell: Shell) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as passed, ExitStack() as early:
        passed.bind(f"\0bus1-early-{os.getpid()}")
        passed.listen()
        client = early.enter_context(closing(socket.socket(socket.AF_UNIX)))
        client.connect(f"\0bus1-early-{os.getpid()}")
        client.sendall(b"nonsense" * 4)
        client.settimeout(PATIENCE)
        process = activate(shell, passed, "--print-address")
        assert line(process.stdout) == f"@bus1-early-{os.getpid()}"
        assert client.recv(4096)  # a refusal, in words


def test_sockets_for_another_process_are_not_ours(shell: Shell) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as passed:
        passed.bind(str(shell.folder / "passed"))
        passed.listen()
        process = activate(shell, passed, "--print-address", PID="1")
        assert line(process.stdout) == f"{shell.folder}/bus1"


def test_a_socket_and_an_address_exclude_each_other(shell: Shell) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as passed:
        passed.bind(str(shell.folder / "passed"))
        passed.listen()
        process = activate(shell, passed, "--address=bus")
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert b"the bus cannot start: sockets were passed to it, and --address names another one" in errors
    assert os.listdir(shell.folder) == ["passed"]


@pytest.mark.parametrize("kind", ["deaf", "datagram", "internet"])
def test_what_cannot_be_served_is_said_in_words(shell: Shell, kind: str) -> None:
    family = socket.AF_INET if kind == "internet" else socket.AF_UNIX
    way = socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM
    with closing(socket.socket(family, way)) as sock:
        if kind == "internet":
            sock.listen()
        process = activate(shell, sock)
        _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors == (
        b"bus1: the bus cannot start: descriptor 3 was passed, but is no listening unix stream socket\n"
    )


@pytest.mark.parametrize("place", ["{folder}/notify", "@bus1-notify-{pid}"])
def test_the_service_manager_is_told_when_the_bus_serves_and_when_it_ends(shell: Shell, place: str) -> None:
    place = place.format(folder=shell.folder, pid=os.getpid())
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(addresses.socket_name(place))
        manager.settimeout(PATIENCE)
        process = shell.start("broker", "--address=bus", changes={"NOTIFY_SOCKET": place})
        assert manager.recv(100) == b"READY=1"
        assert serves(f"{shell.folder}/bus")
        assert not select.select([manager], [], [], 0)[0]
        assert ended(process) == (0, b"")
        assert manager.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("place", ["/nonexistent/notify", "relative", "vsock:2:1", ""])
def test_a_service_manager_that_cannot_be_told_is_no_matter(shell: Shell, place: str) -> None:
    process = shell.serve("--address=bus", changes={"NOTIFY_SOCKET": place})
    assert serves(shell.address)
    assert ended(process) == (0, b"")


# ---- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0_and_without_a_trace(shell: Shell, number: int) -> None:
    """P-40, P-41: its peers are hung up on."""
    process = shell.serve("--address=bus")
    peer = shell.peer()
    assert ended(process, number) == (0, b"")
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    [(_, events)] = poll.poll(0)
    assert events & select.POLLHUP
    with pytest.raises(BusGone):
        peer.query()
    assert os.listdir(shell.folder) == []


def test_the_end_removes_no_socket_that_this_bus_has_not_made(shell: Shell) -> None:
    process = shell.serve("--address=bus")
    (shell.folder / "bus").unlink()
    with closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(str(shell.folder / "bus"))
        assert ended(process) == (0, b"")
        assert os.listdir(shell.folder) == ["bus"]


def test_sighup_does_not_end_it(shell: Shell) -> None:
    process = shell.serve("--address=bus")
    process.send_signal(signal.SIGHUP)
    assert serves(shell.address)
    assert process.poll() is None


# ---- defects ---------------------------------------------------------------------------------------

BROKEN = """
import sys
from bus1 import requests
from bus1.cli import main
from bus1.frames import Operation

def planted(channel, frame):
    raise RuntimeError("planted")

requests.OPERATIONS[Operation.QUERY] = requests._EVERYDAY[Operation.QUERY] = planted
sys.exit(main(sys.argv[1:]))
"""


def test_a_defect_costs_the_client_its_connection_and_is_reported(shell: Shell) -> None:
    process = shell.serve("--address=bus", program=[sys.executable, "-c", BROKEN])
    other = shell.peer()
    with Peer.connect(shell.address) as victim, pytest.raises(BusGone):
        victim.query()
    assert other.transfer(0x10) == 0x10
    status, errors = ended(process)
    assert status == 0
    told = errors.decode()
    assert told.startswith(f"bus1-broker[{process.pid}]: a defect of the bus closed the connection of pid")
    assert f"pid {os.getpid()}:" in told and "RuntimeError: planted" in told


def test_peers_of_several_processes_talk(shell: Shell) -> None:
    shell.serve("--address=bus")
    code = (
        "import sys; from bus1.peer import Peer; p = Peer.connect(sys.argv[1])\n"
        "with Peer.from_descriptor(int(sys.argv[2]), sys.argv[1]) as parent: h = parent.transfer(0x10, p)\n"
        "p.send([h], b'from the child')"
    )
    parent = shell.peer()
    subprocess.run(
        [sys.executable, "-c", code, shell.address, str(parent.fileno())], pass_fds=[parent.fileno()],
        timeout=PATIENCE, check=True,
    )
    kinds = []
    with parent.recv(RecvFlag.INSTALL_FDS) as message:
        kinds.append(bytes(message.payload))
    assert kinds == [b"from the child"]
