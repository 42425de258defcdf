"""A signal handler that uses the peer whose operation it has interrupted."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from native_bus import NativeBus

from bus1.errors import BusGone, Busy, WouldBlock
from bus1.nesting import Nesting
from bus1.peer import Peer

PROGRAM = """
import signal, sys
from bus1.errors import BusGone, Busy, NoSuchHandle
from bus1.peer import Peer

peer, other = Peer.connect(sys.argv[1]), Peer.connect(sys.argv[1])
to_other, to_peer = other.transfer(0x10, peer), peer.transfer(0x20, other)
other.send([to_peer], b"to be released")
kept = peer.recv()
said = []

def use(act):
    try:
        act()
    except Busy as busy:
        said.append(str(busy))

def handler(*_):
    {handler}

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.1)
{body}
"""
OPERATIONS = """for act in (
        peer.query, peer.recv, lambda: peer.send([to_other], bytes(100_000)), lambda: peer.call([to_other]),
        lambda: peer.reply([to_other]), lambda: peer.transfer(0x30), lambda: peer.release(to_other),
        kept.release,
    ):
        use(act)
    other.send([to_peer], b"go on")"""
AFTERWARDS = """
assert len(said) == 8 and "signal handler" in said[0], said
try:
    other.recv()
    raise AssertionError("something was sent")
except Exception as error:
    assert error.errno == 11, error
kept.release()
try:
    peer.release_slice(kept.offset)
    raise AssertionError("it was not released")
except NoSuchHandle:
    pass
peer.send([to_other], b"afterwards")
assert bytes(other.recv().payload) == b"afterwards"
"""
WAYS = {
    "recv": 'assert bytes(peer.recv(wait=True).payload) == b"go on"',
    "recv with a time-out": 'assert bytes(peer.recv(timeout=30).payload) == b"go on"',
    "call": 'assert bytes(peer.call([]).payload) == b"go on"',
    "a large call": 'assert bytes(peer.call([], bytes(100_000)).payload) == b"go on"',
    "reply": 'assert bytes(peer.reply([]).payload) == b"go on"',
}


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    yield bus
    bus.close()


def run(bus: NativeBus, handler: str, body: str) -> None:
    program = PROGRAM.replace("{handler}", handler).replace("{body}", body)
    done = subprocess.run(
        [sys.executable, "-c", program, bus.address], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_a_signal_handler_cannot_use_the_peer_that_it_interrupted_and_changes_nothing(
    bus: NativeBus, way: str
) -> None:
    run(bus, OPERATIONS, WAYS[way] + AFTERWARDS)


def test_a_signal_handler_may_close_the_peer_that_it_interrupted(bus: NativeBus) -> None:
    run(bus, "peer.close()", """
try:
    peer.recv(wait=True)
    raise AssertionError("nothing was sent")
except BusGone as gone:
    assert "the connection is closed" in str(gone)
""")


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "TimeoutError"])
def test_a_program_may_use_the_peer_after_its_signal_handler_has_raised(bus: NativeBus, error: str) -> None:
    run(bus, f"raise {error}", f"""
try:
    peer.recv(wait=True)
    raise AssertionError("nothing was sent")
except {error}:
    peer.send([to_other], b"afterwards")
assert bytes(other.recv().payload) == b"afterwards"
""")


def test_a_signal_handler_may_use_another_peer(bus: NativeBus) -> None:
    run(bus, "other.send([to_peer], bytes(100_000))", "assert peer.recv(wait=True).n_bytes == 100_000")


class Interrupted:
    """An exchange that a signal interrupts right behind what it sends."""

    def __init__(self, exchange: Any) -> None:
        self._exchange = exchange

    def __getattr__(self, name: str) -> Any:
        return getattr(self._exchange, name)

    def transmit(self, sock: socket.socket, flags: int = 0) -> None:
        self._exchange.transmit(sock, flags)
        raise KeyboardInterrupt


def test_a_request_that_is_interrupted_while_it_is_sent_is_not_sent_twice(
    bus: NativeBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection ends, and the peer does not."""
    with Peer.connect(bus.address) as peer:
        client = peer._link._client  # type: ignore[attr-defined]
        monkeypatch.setattr(client, "exchange", Interrupted(client.exchange))
        with pytest.raises(KeyboardInterrupt):
            peer.send([0x10], b"once")
        monkeypatch.undo()
        with pytest.raises(BusGone):
            peer.query()
        with Peer.from_descriptor(peer.fileno(), bus.address) as again:
            assert bytes(again.recv(wait=True).payload) == b"once"
            with pytest.raises(WouldBlock):
                again.recv()


def test_an_operation_whose_end_was_interrupted_refuses_nothing_later() -> None:
    nesting = Nesting()

    def interrupted() -> None:
        nesting.__enter__()

    interrupted()
    with nesting, pytest.raises(Busy), nesting:
        pass
    with nesting:
        pass
