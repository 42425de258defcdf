"""Descriptors whose close(2) waits for somebody: the bus does not."""

from __future__ import annotations

import os
import resource
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from buses import eventually, open_fds, stopped
from daemons import Daemon, path_of
from dbus_client import (
    CALL,
    DESTINATION,
    MEMBER,
    PATH,
    SIGNATURE,
    UNIX_FDS,
    Client,
    marshal,
    message,
)
from native_bus import NativeBus, RawChannel
from stepped_bus import SteppedBus

from bus1.closing import Closer, closes_at_once
from bus1.errors import Disconnected, QuotaExceeded
from bus1.frames import REQUESTS, Operation, encode
from bus1.peer import Peer

N_DESCRIPTORS = 200
PART = (N_DESCRIPTORS - 64) // 2
"""What a user may have of them if nobody else has any."""
AN_HOUR = struct.pack("ii", 1, 3600)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path, n_descriptors=N_DESCRIPTORS)
    yield bus
    bus.close()


@dataclass
class Stubborn:
    """A socket that lingers, with data under way that ``reader`` does not read."""

    sock: socket.socket
    reader: socket.socket

    def close(self) -> None:
        self.reader.close()
        self.sock.close()


@pytest.fixture
def stubborn() -> Iterator[list[Stubborn]]:
    """As many as are asked for."""
    made: list[Stubborn] = []
    yield made
    for each in made:
        each.close()


def make_stubborn() -> Stubborn:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock = socket.create_connection(server.getsockname())
        reader, _ = server.accept()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AN_HOUR)
    sock.setblocking(False)
    try:
        while True:
            sock.send(bytes(1 << 16))
    except BlockingIOError:
        return Stubborn(sock, reader)


def leave_with_bus(peer: Peer, each: Stubborn) -> None:
    """The bus has the last copy, and lets go of it."""
    peer.send([0x10], b"", fds=[each.sock.fileno()])
    each.sock.close()
    peer.recv(flags=0).release()


def test_a_socket_that_lingers_holds_nobody_up(bus: NativeBus, stubborn: list[Stubborn]) -> None:
    with Peer.connect(bus.address) as peer, Peer.connect(bus.address) as other:
        for _ in range(3):
            stubborn.append(make_stubborn())
            leave_with_bus(peer, stubborn[-1])
        other.query()


@pytest.mark.parametrize("is_complete", [True, False])
def test_a_socket_that_lingers_holds_nobody_up_if_its_request_fails(
    bus: NativeBus, stubborn: list[Stubborn], is_complete: bool
) -> None:
    each = make_stubborn()
    stubborn.append(each)
    fixed = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 0)
    frame = encode(Operation.SEND, 3, fixed + struct.pack("<Q", 0x13), 1)
    with RawChannel(bus.address).open() as channel, Peer.connect(bus.address) as other:
        socket.send_fds(channel.sock, [frame[:1]], [each.sock.fileno()])
        each.sock.close()
        if is_complete:
            channel.sock.sendall(frame[1:])
            assert channel.frame().tag == 3
        else:
            channel.close()
        other.query()


def test_what_waits_to_be_closed_counts_for_its_user(bus: NativeBus, stubborn: list[Stubborn]) -> None:
    with Peer.connect(bus.address) as peer:
        n_fds = bus.n_fds()
        with pytest.raises(QuotaExceeded, match="descriptors on this bus"):
            for _ in range(N_DESCRIPTORS):
                stubborn.append(make_stubborn())
                leave_with_bus(peer, stubborn[-1])
        for each in stubborn:
            each.reader.close()
        eventually(lambda: bus.n_fds() <= n_fds + 2, bus.n_fds)  # a pool
        with open(os.devnull) as null:
            peer.send([0x10], b"", fds=[null.fileno()] * (len(stubborn) // 2))


def test_who_goes_on_after_that_has_its_channel_closed(bus: NativeBus, stubborn: list[Stubborn]) -> None:
    before = bus.n_fds()
    refusals: list[str] = []
    with ExitStack() as stack:
        other, *peers = [stack.enter_context(Peer.connect(bus.address)) for _ in range(4)]
        for peer in peers:
            while "take their time to close" not in (refusals or [""])[-1]:
                assert bus.n_fds() < N_DESCRIPTORS - 20, "the bus takes whatever comes"
                stubborn.append(make_stubborn())
                try:
                    leave_with_bus(peer, stubborn[-1])
                except (QuotaExceeded, Disconnected) as error:
                    refusals.append(str(error))
                    stubborn[-1].sock.close()
            refusals.append("")
        assert PART // 2 <= len(stubborn) <= PART + 3
        other.query()
    for each in stubborn:
        each.reader.close()
    eventually(lambda: bus.n_fds() <= before, bus.n_fds)


def unread_in_channel(channel: RawChannel, peer: Peer, fd: int) -> None:
    socket.send_fds(channel.sock, [b"malformed" * 9], [fd])
    socket.send_fds(channel.sock, [b"behind it"], [fd])


def unread_in_peer(channel: RawChannel, peer: Peer, fd: int) -> None:
    with socket.socket(fileno=os.dup(peer.fileno())) as end:
        socket.send_fds(end, [b"x"], [fd])


def unread_in_socket(channel: RawChannel, peer: Peer, fd: int) -> None:
    left, right = socket.socketpair()
    socket.send_fds(left, [b"x"], [fd])
    left.close()
    socket.send_fds(channel.sock, [b"malformed" * 9], [right.fileno()])
    right.close()


@pytest.mark.parametrize("leave", [unread_in_channel, unread_in_peer, unread_in_socket])
def test_a_descriptor_that_nobody_has_read_holds_nobody_up(
    bus: NativeBus, stubborn: list[Stubborn], leave: Callable[[RawChannel, Peer, int], None]
) -> None:
    n_fds = bus.n_fds()
    stubborn.append(make_stubborn())
    with (
        RawChannel(bus.address).greet() as channel, Peer.connect(bus.address) as peer,
        stopped(bus.process.pid),
    ):
        leave(channel, peer, stubborn[0].sock.fileno())
        stubborn[0].sock.close()
    with Peer.connect(bus.address) as other:
        other.query()
    stubborn[0].reader.close()
    bus.wait_until_idle(n_fds)


# ---- from D-Bus clients ----------------------------------------------------------------------------


@dataclass
class Served:
    """A bus of D-Bus clients with few descriptors."""

    daemon: Daemon

    def __post_init__(self) -> None:
        where = f"unix:abstract=closing-test-{os.getpid()}"
        limit = f"--nofile={N_DESCRIPTORS}:{N_DESCRIPTORS}"
        config = self.daemon.configure(listen=[where])
        self.process, address = self.daemon.serve("--config-file", config, program=["prlimit", limit])
        self.path = path_of(address)
        with Client(self.path):
            self.n_fds = self.n_open - 1

    @property
    def n_open(self) -> int:
        return open_fds(self.process.pid)

    def wait_until_idle(self) -> None:
        eventually(lambda: self.n_open <= self.n_fds, lambda: (self.n_open, self.n_fds))


@pytest.fixture
def served(bridge: Daemon) -> Served:
    return Served(bridge)


def leave_with_nobody(client: Client, given: Stubborn) -> None:
    """In a message to nobody: the bus has the last copy, and lets go of it; or it has hung up."""
    fields: list[tuple[int, str, object]] = [
        (PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", "org.example.Nobody"),
        (SIGNATURE, "g", "h"), (UNIX_FDS, "u", 1),
    ]
    data = message(CALL, client.next_serial(), fields, marshal("h", 0))
    client.write(data[:1], [given.sock.fileno()])
    closing = threading.Thread(target=given.sock.close, daemon=True)
    closing.start()
    while closing.is_alive() and not select.select([client.socket], [], [], 0.001)[0]:
        pass
    client.write(data[1:])


def test_a_socket_that_lingers_from_a_dbus_client_holds_nobody_up(
    served: Served, stubborn: list[Stubborn]
) -> None:
    with Client(served.path) as client, Client(served.path) as other:
        for _ in range(3):
            stubborn.append(make_stubborn())
            leave_with_nobody(client, stubborn[-1])
            client.sync()
            other.sync()
    for each in stubborn:
        each.reader.close()
    served.wait_until_idle()


def test_one_that_a_dbus_client_has_sent_and_nobody_has_read_neither(
    served: Served, stubborn: list[Stubborn]
) -> None:
    with Client(served.path) as other:
        with Client(served.path) as client:
            stubborn += [make_stubborn() for _ in range(2)]
            with stopped(served.process.pid):
                for each in stubborn:
                    socket.send_fds(client.socket, [b"malformed" * 9], [each.sock.fileno()])
                    each.sock.close()
            client.rest()
        other.sync()
    for each in stubborn:
        each.reader.close()
    served.wait_until_idle()


def test_those_of_one_user_are_bounded_and_others_go_on(served: Served, stubborn: list[Stubborn]) -> None:
    with Client(served.path) as other:
        for _ in range(3):
            with Client(served.path) as client:
                while served.n_open < N_DESCRIPTORS - 20:
                    stubborn.append(make_stubborn())
                    try:
                        leave_with_nobody(client, stubborn[-1])
                        client.sync()
                    except (ConnectionError, EOFError):
                        break
                else:
                    pytest.fail("the bus takes whatever comes")
            other.sync()
        assert PART // 2 <= len(stubborn) <= PART + 3
        if os.getuid() == 0:
            with client_of(served.path, 61_002) as somebody:
                leave_with_nobody(somebody, quick := make_stubborn())
                quick.close()
                somebody.sync()
        for each in stubborn:
            each.reader.close()
        eventually(lambda: served.n_open <= served.n_fds + 1, lambda: served.n_open)
        with open(os.devnull) as null:
            other.call("org.example.Nobody", "M", "h", 0, fds=[null.fileno()])
            other.sync()
    said = served.daemon.stop(served.process)
    why = f"descriptors that user {os.getuid()} has sent take their time to close, and it may have "
    assert sum("closed the connection of :1." in line and why in line for line in said.splitlines()) == 3


def client_of(path: str, uid: int) -> Client:
    before = os.geteuid()
    os.seteuid(uid)
    try:
        client = Client(path, hello=False)
    finally:
        os.seteuid(before)
    client.ask("Hello")
    return client



def test_without_a_thread_it_is_closed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    closer, (left, right) = Closer(), socket.socketpair()
    with left:
        with monkeypatch.context() as shortage:
            shortage.setattr("bus1.closing.start_new_thread", fail)
            closer.close(7, right.detach())
            closer.retry()
        assert not closer.closed
        closer.retry()
        assert left.recv(1) == b""
        eventually(lambda: list(closer.closed) == [7], lambda: closer.closed)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """What threads would do, if the machine had time for them; who waits for an owner has it done."""
    work: list[Callable[[], None]] = []

    def start(action: Callable[[int | None], None], arguments: tuple[int | None]) -> None:
        work.append(partial(action, *arguments))

    def wait(closer: Closer, owner: int | None) -> None:
        while work:
            work.pop()()

    monkeypatch.setattr("bus1.closing.start_new_thread", start)
    monkeypatch.setattr(Closer, "wait", wait)
    return work


def null(n: int) -> list[int]:
    """So many descriptors of which nobody knows how they close."""
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(n)]


def test_a_thread_is_waited_for_only_where_much_is_to_be_closed(held: list[Callable[[], None]]) -> None:
    closer, fds = Closer(), null(64)
    for fd in fds[:-1]:
        closer.close(7, fd)
    assert len(held) == 1
    assert not closer.closed
    closer.close(7, fds[-1])
    assert not held
    assert list(closer.closed) == [7] * 64


def test_who_is_quick_is_not_refused_more_because_threads_are_not(held: list[Callable[[], None]]) -> None:
    bus = SteppedBus()
    holdings = bus.broker.holdings
    room = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    part = (room - 64) // 2
    holdings.book(7, part - 5)
    holdings.discard(7, null(5))
    assert held
    with pytest.raises(QuotaExceeded, match="descriptors on this bus"):
        holdings.check(7, 6)
    assert not held
    holdings.discard(7, null(5))
    holdings.check(7, 5)
    assert not held
    bus.broker.close()
    bus.reactor.close()


def test_only_what_nobody_can_delay_is_closed_at_once() -> None:
    ends = os.pipe()
    left, right = socket.socketpair()
    internet, memory = socket.socket(), os.memfd_create("closing")
    null, path = os.open(os.devnull, os.O_RDONLY), os.open(os.devnull, os.O_PATH)
    try:
        assert all(map(closes_at_once, (*ends, memory, path)))
        assert not any(map(closes_at_once, (internet.fileno(), left.fileno(), null)))
    finally:
        for each in (left, right, internet):
            each.close()
        for fd in (*ends, memory, null, path):
            os.close(fd)
