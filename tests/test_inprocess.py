"""A peer in the process of its bus: its eventfd, its threads, its end, and what else is on its bus."""

from __future__ import annotations

import gc
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from child import in_child
from native_bus import InProcessBus

from bus1.broker import Broker
from bus1.core.api import MessageType
from bus1.errors import BadDescriptor, BusGone, PeerShutdown, WouldBlock
from bus1.hub import PlainHub
from bus1.inprocess import InProcessLink
from bus1.peer import Peer


@pytest.fixture
def bus() -> Iterator[InProcessBus]:
    bus = InProcessBus()
    yield bus
    bus.close()


@pytest.fixture
def p(bus: InProcessBus) -> Iterator[Peer]:
    with bus.peer() as peer:
        yield peer


@pytest.fixture
def q(bus: InProcessBus) -> Iterator[Peer]:
    with bus.peer() as peer:
        yield peer


@pytest.fixture
def to_q(p: Peer, q: Peer) -> int:
    return q.transfer(0x10, p)


def is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_who_asks_for_the_descriptor_late_finds_it_as_it_should_be(p: Peer, q: Peer, to_q: int) -> None:
    """Until then nobody pays for it."""
    p.send([to_q])
    fd = q.fileno()
    assert is_readable(fd) and not is_readable(p.fileno())
    q.recv().release()
    assert not is_readable(fd)
    p.send([to_q])
    p.send([to_q])
    assert is_readable(fd)
    q.recv().release()
    assert is_readable(fd)
    q.recv().release()
    assert not is_readable(fd)


def test_presenting_a_peer_is_not_asking_for_its_descriptor(p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q])
    assert isinstance(q._link, InProcessLink)
    assert not is_readable(q._link.event)
    assert p.transfer(0x20, q) and is_readable(q.fileno())


def test_the_descriptor_is_readable_from_the_disconnect_on(p: Peer, q: Peer, to_q: int) -> None:
    fd = q.fileno()
    q.disconnect()
    assert is_readable(fd) and is_readable(q.fileno())
    with pytest.raises(PeerShutdown):
        q.recv()
    p.disconnect()
    assert is_readable(p.fileno())  # asked for the first time


def test_closing_twice_leaves_who_came_later_alone(bus: InProcessBus) -> None:
    """The kernel numbers an eventfd as one that is gone."""
    first = bus.peer()
    first.close()
    with bus.peer() as second, bus.peer() as third:
        first.close()
        handle = second.transfer(0x10, third)
        third.send([handle])
        assert is_readable(second.fileno())
        with pytest.raises(BadDescriptor):
            second.transfer(0x10, first)


def test_a_message_outlives_its_link(bus: InProcessBus) -> None:
    peer = bus.peer()
    peer.send([peer.transfer(0x10)], b"kept")
    message = peer.recv()
    peer.close()
    del peer
    gc.collect()
    assert bytes(message.payload) == b"kept"
    message.release()
    message.release()


def test_a_payload_is_what_was_sent_however_it_came(p: Peer, q: Peer, to_q: int) -> None:
    changing = bytearray(b"before")
    odd = memoryview(b"abcd")[::2]
    for payload in (b"one", [b"one", b"", b"two"], (b"x" * 100_000,), changing, [odd], b""):
        expected = b"".join(map(bytes, [payload] if isinstance(payload, (bytes, bytearray)) else payload))
        p.send([to_q], payload)
        changing[:] = b"after!"
        with q.recv() as message:
            assert bytes(message.payload) == expected and message.n_bytes == len(expected)
            assert message.payload.readonly
        changing[:] = b"before"


def test_a_payload_in_use_outlives_its_release(p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q], b"still here")
    message = q.recv()
    part = message.payload[:5]
    message.release()
    assert bytes(part) == b"still"
    p.send([to_q], b"the next")
    assert bytes(part) == b"still" and bytes(q.recv().payload) == b"the next"


def test_handles_and_notifications_come_as_they_do(bus: InProcessBus, p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q], b"", [0x100, 0x200])
    with q.recv() as message:
        one, two = message.handles
        assert message.type is MessageType.DATA and message.destination == 0x10
    q.release(one)
    q.send([two], optional=[one])
    note = p.recv()
    assert (note.type, note.destination) == (MessageType.NODE_RELEASE, 0x100)
    p.recv().release()
    with pytest.raises(WouldBlock):
        p.recv()


def test_descriptors_come_along(p: Peer, q: Peer, to_q: int) -> None:
    read, write = os.pipe()
    p.send([to_q], b"", (), [read])
    p.send([to_q])
    os.close(read)
    os.write(write, b"!")
    os.close(write)
    with q.recv() as message:
        assert os.read(message.fds[0], 9) == b"!"
    with q.recv() as message:
        assert not message.fds


@pytest.mark.parametrize("is_polled", [False, True])
def test_a_thread_that_waits_is_woken_by_another(p: Peer, q: Peer, to_q: int, is_polled: bool) -> None:
    """Two of them, each gets one."""
    if is_polled:
        q.fileno()
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(bytes(q.recv(wait=True).payload))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    p.send([to_q], b"one")
    p.send([to_q], b"two")
    for thread in threads:
        thread.join()
    assert sorted(found) == [b"one", b"two"]
    assert not is_readable(q.fileno())


def test_a_thread_that_waits_sees_its_peer_end(q: Peer) -> None:
    outcomes: list[type[Exception]] = []

    def wait() -> None:
        try:
            q.recv(wait=True)
        except PeerShutdown as error:
            outcomes.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    q.disconnect()
    thread.join()
    assert outcomes == [PeerShutdown]


def test_threads_take_turns(bus: InProcessBus) -> None:
    """Nothing is lost, nothing comes twice, and all is given back."""
    with bus.peer() as reader:
        senders = [bus.peer() for _ in range(4)]
        handles = [reader.transfer(0x10, sender) for sender in senders]
        found: list[bytes] = []
        n = 200

        def send(at: int) -> None:
            for number in range(n):
                senders[at].send([handles[at]], b"%d %d" % (at, number))

        def receive() -> None:
            for _ in range(2 * n):
                with reader.recv(wait=True) as message:
                    found.append(bytes(message.payload))

        threads = [threading.Thread(target=send, args=(at,)) for at in range(4)]
        threads += [threading.Thread(target=receive) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(found) == sorted(b"%d %d" % (at, number) for at in range(4) for number in range(n))
        assert not is_readable(reader.fileno())
        for sender in senders:
            sender.close()


def test_a_fork_leaves_the_eventfd_to_the_parent(p: Peer, q: Peer, to_q: int) -> None:
    """What the child does with its copy changes nothing here."""
    q.fileno()
    p.send([to_q], b"kept")
    message = q.recv()

    def use_it() -> None:
        message.release()
        for operation in (lambda: p.send([to_q]), q.recv, lambda: q.recv(timeout=1), q.query):
            with pytest.raises(BusGone):
                operation()
        q.fileno()
        q.close()
        p.close()

    assert in_child(use_it) == 0
    assert not is_readable(q.fileno())
    message.release()
    p.send([to_q], b"again")
    assert is_readable(q.fileno()) and bytes(q.recv().payload) == b"again"


class Serving:
    """A bus with in-process peers, and a socket for others."""

    def __init__(self, path: Path) -> None:
        self.bus = InProcessBus()
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(path / "bus1"))
        listening.listen()
        self.broker = Broker(self.bus.reactor, self.bus.hub)
        self.broker.listen(listening)
        self.address = str(path / "bus1")


def test_who_is_on_a_socket_is_told_at_once(tmp_path: Path) -> None:
    """A send from inside wakes a client that waits, without a turn of the loop."""
    serving = Serving(tmp_path)
    bus = serving.bus
    with bus.peer() as inside:
        found: list[bytes] = []
        connected = threading.Event()

        def live_outside() -> None:
            with Peer.connect(serving.address) as outside:
                connected.set()
                with outside.recv(wait=True) as message:
                    found.append(bytes(message.payload))
                    outside.send(message.handles, b"back")

        thread = threading.Thread(target=live_outside)
        thread.start()
        while not connected.is_set():
            bus.reactor.run_once(bus.reactor.clock() + 0.01)
        (number,) = (number for number in bus.snapshot()["peers"] if number != inside._link.peer)  # type: ignore[attr-defined]
        handle = bus.hub.core.handle_transfer(number, 0x10, inside._link.peer)  # type: ignore[attr-defined]
        inside.send([handle], b"out", [0x20])
        with inside.recv(wait=True) as message:
            assert bytes(message.payload) == b"back"
        while thread.is_alive():
            bus.reactor.run_once(bus.reactor.clock() + 0.01)
        thread.join()
        assert found == [b"out"]
    serving.broker.close()
    bus.close()


def test_a_hub_that_adds_something_is_asked_at_each_send() -> None:
    class Noting(PlainHub):
        n_settled = 0

        def settle(self) -> None:
            self.n_settled += 1

    bus = InProcessBus()
    bus.hub = Noting(bus.hub.core)
    bus.reactor.hub = bus.hub
    with bus.peer() as peer:
        handle = peer.transfer(0x10)
        before = bus.hub.n_settled
        peer.send([handle])
        assert bus.hub.n_settled > before
        peer.recv().release()
    bus.close()
