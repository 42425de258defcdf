"""SNAPSHOT, the operation behind ``bus1 peers``, ``tree`` and ``quota``: to whom, when, and what."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native_bus import NativeBus, RawChannel

from bus1 import __version__
from bus1.broker import Broker, BrokerLimits
from bus1.core.api import Credentials, SendFlag
from bus1.core.choice import Core
from bus1.descriptors import Fds
from bus1.errors import Denied, OutOfMemory
from bus1.frames import ANSWER, ANSWER_PREFIX, RESULTS, Event, Frame, Operation, encode
from bus1.hub import PlainHub
from bus1.inspection import document_for
from bus1.peer import Peer
from bus1.reactor import Reactor
from bus1.verbs.inspect import fetch

SNAPSHOT = encode(Operation.SNAPSHOT, 7, struct.pack("<Q", 0))
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
STRANGER, OWNER = 65533, 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be several users")


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    n_fds = bus.n_fds()
    yield bus
    bus.wait_until_idle(n_fds)
    bus.close()


def errno_of(frame: Frame) -> int:
    assert frame.operation == Operation.SNAPSHOT | ANSWER
    return int(ANSWER_PREFIX.unpack_from(frame.body)[0])


def ask(channel: RawChannel, request: bytes = SNAPSHOT) -> Frame:
    channel.write(request)
    return channel.frame()


def contents(frame: Frame) -> bytes:
    """The document in an answer, whose descriptor is closed."""
    assert errno_of(frame) == 0
    (size,) = RESULTS[Operation.SNAPSHOT].unpack_from(frame.body, ANSWER_PREFIX.size)
    with frame.fds:
        (fd,) = frame.fds
        assert os.fstat(fd).st_size == size
        return os.pread(fd, size, 0)


def document(frame: Frame) -> Any:
    return json.loads(contents(frame))


def refused(channel: RawChannel, request: bytes, fds: Fds | None = None) -> bool:
    """The bus answers with a refusal, in words, and closes."""
    channel.write(request, fds)
    frame = channel.frame()
    with pytest.raises(EOFError):
        channel.frame()
    return frame.operation == Event.REFUSED and len(frame.body) > 4


# ---- when ------------------------------------------------------------------------------------------


def test_it_comes_after_the_greeting_and_needs_no_peer(bus: NativeBus) -> None:
    with bus.channel() as channel:
        channel.greet()
        for _ in range(2):
            assert document(ask(channel))["peers"] == {}
    with bus.channel() as channel:
        assert refused(channel, SNAPSHOT)


def test_it_binds_the_channel_to_nothing(bus: NativeBus) -> None:
    with bus.channel() as channel:
        channel.greet()
        ask(channel).fds.close()
        channel.write(encode(Operation.OPEN, 8, struct.pack("<Q", 0)))
        opened = channel.frame()
        assert opened.tag == 8 and len(opened.fds) == 1
        opened.fds.close()


def test_it_may_be_asked_for_through_a_peers_channel_while_the_peer_is_there(bus: NativeBus) -> None:
    with bus.channel() as channel:
        channel.open()
        assert list(document(ask(channel))["peers"]) == ["1"]
        channel.write(encode(Operation.DISCONNECT, 9, struct.pack("<Q", 0)))
        assert channel.frame().tag == 9
        assert errno_of(ask(channel)) == errno.ESHUTDOWN


def test_requests_that_are_wrong_are_refused_and_harm_nobody(bus: NativeBus) -> None:
    with bus.channel() as channel, bus.peer() as peer:
        channel.greet()
        wrong_flags = encode(Operation.SNAPSHOT, 7, struct.pack("<Q", 1))
        assert errno_of(ask(channel, wrong_flags)) == errno.EINVAL
        assert document(ask(channel))["format"] == 1
        for body in (b"", bytes(7), bytes(9)):
            with bus.channel() as other:
                assert refused(other.greet(), encode(Operation.SNAPSHOT, 7, body))
        with bus.channel() as other:
            null = Fds([os.open(os.devnull, os.O_RDONLY)])
            assert refused(other.greet(), encode(Operation.SNAPSHOT, 7, bytes(8), 1), null)
        assert peer.query().peer_flags == 0


def test_a_client_that_dies_before_it_has_read_leaves_nothing_behind(bus: NativeBus) -> None:
    for cut in range(len(SNAPSHOT) + 1):
        with bus.channel() as channel:
            channel.greet()
            channel.write(SNAPSHOT[:cut] if cut else SNAPSHOT * 3)


# ---- to whom ---------------------------------------------------------------------------------------


def empty_bus() -> Broker:
    hub = PlainHub(Core())
    return Broker(Reactor(hub), hub)


def test_root_and_the_user_of_the_bus_are_told_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = empty_bus()
    monkeypatch.setattr(os, "geteuid", lambda: OWNER)
    for uid in (0, OWNER):
        size, fds = document_for(broker, Credentials(uid, uid, 1))
        fds.close()
        assert size > 0
    with pytest.raises(Denied, match=f"user {STRANGER} may not look into the bus of user {OWNER}"):
        document_for(broker, Credentials(STRANGER, STRANGER, 1))
    broker.reactor.close()


AS_SOMEBODY = """
import os, sys
from importlib import import_module
for name in sys.argv[2].split(","):
    import_module(name)
os.setgroups([]), os.setgid(int(sys.argv[1])), os.setuid(int(sys.argv[1]))
"""
LOOK = AS_SOMEBODY + """
from bus1.errors import Bus1Error
from bus1.verbs.inspect import fetch
try:
    print(fetch(sys.argv[3]).data["bus"]["uid"])
except Bus1Error as error:
    print(type(error).__name__, error)
"""
SERVE = AS_SOMEBODY + """
from bus1.verbs.broker import COMMAND
from bus1.cli import parser_of
COMMAND.run(parser_of("broker", COMMAND).parse_args(sys.argv[3:]))
"""
LOOKING = "json,bus1.verbs.inspect,bus1.verbs.records,bus1.client,bus1.transport,bus1.errors"
SERVING = (
    "json,bus1.cli,bus1.verbs.broker,bus1.process,bus1.systemd,bus1.log,"
    "bus1.broker,bus1.core.bus,bus1.inspection"
)


@needs_root
def test_a_real_stranger_is_refused() -> None:
    address = f"@bus1-strangers-{os.getpid()}"
    command = [sys.executable, "-c", SERVE, str(OWNER), SERVING, f"--address={address}", "--print-address"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout is not None and serving.stdout.readline() == f"{address}\n"
            said = {
                uid: subprocess.run(
                    [sys.executable, "-c", LOOK, str(uid), LOOKING, address],
                    capture_output=True, text=True, timeout=20, check=True,
                ).stdout.strip()
                for uid in (0, OWNER, STRANGER)
            }
        finally:
            serving.terminate()
    words = f"Denied user {STRANGER} may not look into the bus of user {OWNER}"
    assert said == {0: str(OWNER), OWNER: str(OWNER), STRANGER: words}


# ---- what ------------------------------------------------------------------------------------------


def test_nobody_can_change_the_document(bus: NativeBus) -> None:
    with bus.channel() as channel:
        channel.greet()
        answer = ask(channel)
        with answer.fds:
            (fd,) = answer.fds
            assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) == SEALS
            for attempt in (lambda: os.write(fd, b"x"), lambda: os.ftruncate(fd, 0)):
                with pytest.raises(PermissionError):
                    attempt()


def test_it_is_what_core_knows_and_shows_no_payload(bus: NativeBus) -> None:
    with bus.peer() as p, bus.peer() as q, bus.channel() as channel:
        to_q = q.transfer(0x10, p)
        p.send([to_q], b"a secret", [0x100], [0])
        p.set_seed(b"another secret", [0x200])
        channel.greet()
        data = contents(ask(channel))
        known = bus.snapshot()
        assert json.loads(data)["core"] == known
        assert b"secret" not in data and b"secret".hex().encode() not in data
        assert bus.snapshot() == known  # looking has changed nothing
        assert [message["n_bytes"] for message in known["peers"]["2"]["queue"]] == [8]


def test_it_says_who_is_behind_a_peer(bus: NativeBus) -> None:
    forked = (
        "import os, sys; from bus1.peer import Peer; p = Peer.connect(sys.argv[1]); child = os.fork()\n"
        "if not child: p.query()\n"  # through a channel of its own
        "open('/proc/self/comm', 'w').write('child' if not child else 'parent')\n"
        "print(os.getpid(), flush=True); sys.stdin.read(); child and os.wait()"
    )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", forked, bus.address]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        pids = {int(process.stdout.readline()) for _ in range(2)}
        data = fetch(bus.address).data
        process.stdin.close()
    known = data["peers"]["1"]
    assert (known["uid"], known["gid"], known["pid"]) == (os.getuid(), os.getgid(), process.pid)
    assert (known["command"], known["names"]) == ("parent", [])
    assert set(known["channels"]) == pids


def test_a_process_that_is_gone_has_no_command_any_more(bus: NativeBus) -> None:
    with bus.peer():
        code = (
            "import os, socket, sys; from bus1.peer import Peer; p = Peer.connect(sys.argv[1])\n"
            "socket.send_fds(socket.socket(fileno=int(sys.argv[2])), [b'x'], [p.fileno()])"
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            command = [sys.executable, "-c", code, bus.address, str(theirs.fileno())]
            subprocess.run(command, pass_fds=[theirs.fileno()], timeout=20, check=True)
            _, fds, _, _ = socket.recv_fds(ours, 1, 1)
        with Fds(fds):
            known = fetch(bus.address).data["peers"]
    assert [peer["command"] is None for peer in known.values()] == [False, True]
    assert known["2"]["channels"] == []


def test_it_says_what_the_bus_is(bus: NativeBus) -> None:
    about = fetch(bus.address).data["bus"]
    assert (about["pid"], about["uid"], about["version"]) == (bus.process.pid, os.geteuid(), __version__)
    assert about["limits"]["peers_per_user"] == BrokerLimits().peers_per_user


def test_labels_are_bytes_in_hexadecimal() -> None:
    broker = empty_bus()
    core = broker.hub.core
    one = core.peer_new(1)
    labelled = Credentials(1, 1, 1, secctx=b"\xffx")
    core.peer_reset(one, peer_flags=1)
    core.send(one, [], [], [], flags=SendFlag.SEED, credentials=labelled)
    size, fds = document_for(broker, Credentials(0, 0, 1))
    with fds:
        seed = json.loads(os.pread(fds[0], size, 0))["core"]["peers"]["1"]["seed"]
    assert seed["secctx"] == "ff78"
    broker.reactor.close()


def test_a_bus_without_room_for_the_document_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = empty_bus()
    before = os.listdir("/proc/self/fd")

    def nothing_left(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(fcntl, "fcntl", nothing_left)
    with pytest.raises(OutOfMemory, match="no room"):
        document_for(broker, Credentials(0, 0, 1))
    assert len(os.listdir("/proc/self/fd")) <= len(before)
    broker.reactor.close()


def test_a_client_without_room_for_the_descriptor_is_told_so(bus: NativeBus) -> None:
    code = (
        "import os, resource, sys; from bus1.verbs.inspect import fetch\n"
        "import json, socket, bus1.client, bus1.verbs.records, bus1.transport, bus1.addresses\n"
        "from bus1.acceleration import settle; settle()\n"
        "s = socket.socket(); n = s.fileno(); s.close()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (n + 1, n + 1))\n"
        "try: fetch(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, bus.address], capture_output=True, text=True, timeout=20
    )
    assert (done.stdout, done.stderr) == ("TooManyDescriptors\n", "")


def test_peers_and_their_messages_are_where_they_were_afterwards(bus: NativeBus) -> None:
    with bus.peer() as p, Peer.connect(bus.address) as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], b"x")
        fetch(bus.address)
        with q.recv() as message:
            assert bytes(message.payload) == b"x"
