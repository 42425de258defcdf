"""Who is not served is told so as soon as it connects, and learns nothing else."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import cast

import anyio
import pytest
from bus1_bridge.switch.api import Shutdown
from core_bus import Core
from native_bus import RawChannel
from test_window import Crank

from bus1 import aio, frames
from bus1.broker import Broker
from bus1.core.api import Credentials
from bus1.errors import Denied
from bus1.frames import EVENTS, REQUESTS, Operation, encode
from bus1.hub import PlainHub
from bus1.peer import Peer
from bus1.reactor import Reactor
from bus1.record import replace
from bus1.transport import credentials_of


class ClosedHub(PlainHub):
    """A bus that serves nobody."""

    def may_connect(self, credentials: Credentials) -> bool:
        return False


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """Where such a bus listens, in a thread of its own."""
    address, over = str(tmp_path / "bus"), Event()
    hub = ClosedHub(Core())
    reactor = Reactor(hub)
    broker = Broker(reactor, hub)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen()
    broker.listen(listener)

    def serve() -> None:
        while not over.is_set():
            reactor.run_once(reactor.clock() + 0.01)
        broker.close()
        reactor.close()

    thread = Thread(target=serve)
    thread.start()
    yield address
    over.set()
    thread.join()


def test_a_stranger_is_refused_in_words_before_it_has_said_anything(address: str) -> None:
    with RawChannel(address) as channel:
        refusal = channel.frame()
        assert refusal.operation == frames.Event.REFUSED
        assert EVENTS[frames.Event.REFUSED].unpack_from(refusal.body) == (Denied.errno,)
        with pytest.raises(EOFError):
            channel.frame()


def test_both_faces_say_who_may_not_connect(address: str) -> None:
    for _ in range(10):  # refused before or after the greeting is written
        with pytest.raises(Denied, match="may not connect"):
            Peer.connect(address)
        with pytest.raises(Denied, match="may not connect"):
            anyio.run(aio.Peer.open, address)


def test_a_session_bus_does_not_listen_to_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    crank = Crank(tmp_path)
    tables = crank.switch.router.tables
    tables.bus_credentials = replace(tables.bus_credentials, uid=tables.bus_credentials.uid + 1)
    channel = RawChannel(crank.path + "1")
    hello = REQUESTS[Operation.HELLO].pack(frames.MAGIC, frames.VERSION, 0)
    channel.sock.sendall(encode(Operation.HELLO, 1, hello))
    executed: list[object] = []
    monkeypatch.setattr("bus1.channel.execute", lambda *request: executed.append(request))
    assert crank.during(channel.frame).operation == frames.Event.REFUSED
    assert not executed
    channel.close()
    crank.switch.apply([Shutdown()])


class LabelledSocket:
    """A socket as a kernel with security labels has it."""

    def __init__(self, label: bytes) -> None:
        self._label = label

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        values = {socket.SO_PEERSEC: self._label, socket.SO_PEERCRED: struct.pack("=iII", 1, 2, 3)}
        value = values.get(option, struct.pack("=2I", 4, 5))
        if size > 1024:
            raise OSError("getsockopt buflen out of range")  # as Python says, without asking the kernel
        if len(value) > size:
            raise OSError(errno.ERANGE, "the label is longer")
        return value


@pytest.mark.parametrize(
    "label, known", [(b"l" * 2000 + b"\0", b"l" * 2000), (b"short", b"short"), (b"\0", b""), (b"", b"")]
)
def test_a_security_label_is_known_whatever_its_length(
    label: bytes, known: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P-53: an empty one is one."""
    monkeypatch.setattr("bus1.transport._long_option", lambda sock, option, most: label[:most])
    sock = cast("socket.socket", LabelledSocket(label))
    assert credentials_of(sock) == Credentials(2, 3, 1, secctx=known, groups=(4, 5))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be in other groups")
@pytest.mark.parametrize("count", [1, 256, 257, 3000])
def test_all_groups_of_a_client_are_known_however_many_they_are(count: int) -> None:
    code = (
        "import socket; from bus1.transport import credentials_of; ours, theirs = socket.socketpair();"
        "print(*credentials_of(ours).groups)"
    )
    groups = range(70_000, 70_000 + count)
    done = subprocess.run(
        [sys.executable, "-c", code], extra_groups=groups, capture_output=True, text=True, timeout=30,
        check=True, env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert [int(group) for group in done.stdout.split()] == [*groups]
