"""What the bus keeps for one user: its descriptors, open and unread, unread answers, incomplete requests.

The bus runs in this thread, and has room for few descriptors; all clients are this process's user, but one.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from stepped_bus import QUERY, Client, SteppedBus

from bus1 import outlet
from bus1.core.api import NO_LIMIT, RecvFlag
from bus1.errors import QuotaExceeded
from bus1.frames import (
    ANSWER_PREFIX,
    EVENTS,
    MAX_FRAME,
    REQUESTS,
    Event,
    Frame,
    FrameWriter,
    Operation,
    RecvOption,
    encode,
)
from bus1.record import replace
from bus1.transport import credentials_of, receive, transmit

ROOM = 400
HELLO = encode(Operation.HELLO, 1, bytes(16))
SNAPSHOT = encode(Operation.SNAPSHOT, 3, bytes(8))
ARENA = encode(Operation.ARENA, 3, struct.pack("<Q", 4096))


def offer_me(*, flags: int = 0, options: int = 0) -> bytes:
    """A RECV that brings descriptors."""
    fields = REQUESTS[Operation.RECV].pack(RecvFlag.INSTALL_FDS | flags, NO_LIMIT, options)
    return encode(Operation.RECV, 5, fields)


class Few(Client):
    """A client that takes frames apart."""

    def send_itself(self, n_fds: int) -> None:
        """A message with so many descriptors."""
        fields = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 0) + struct.pack("<Q", 0x10)
        with open(os.devnull) as null:
            socket.send_fds(self.sock, [encode(Operation.SEND, 4, fields, n_fds)], [null.fileno()] * n_fds)

    def frame(self) -> Frame:
        """The next one, whatever turns that takes."""
        while (frame := self.reader.next()) is None:
            try:
                assert receive(self.sock, self.reader, socket.MSG_DONTWAIT).size
            except BlockingIOError:
                self.bus.turn()
        frame.fds.close()
        return frame

    def error(self) -> int:
        """That of the next answer."""
        return int(ANSWER_PREFIX.unpack_from(self.frame().body)[0])

    def close(self) -> None:
        self.reader.close()
        super().close()


@pytest.fixture
def make() -> Iterator[Callable[..., SteppedBus]]:
    """A bus in a process that may have few descriptors beside those that a bus needs."""
    made: list[SteppedBus] = []

    def new(**limits: Any) -> SteppedBus:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64 + ROOM, hard))
        made.append(SteppedBus(**limits))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return made[-1]

    yield new
    for bus in made:
        bus.broker.close()
        bus.reactor.close()


@pytest.fixture
def bus(make: Callable[..., SteppedBus]) -> SteppedBus:
    return make()


@pytest.fixture
def clients(bus: SteppedBus) -> Iterator[list[Few]]:
    clients = [Few(bus) for _ in range(3)]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture
def stranger(bus: SteppedBus, clients: list[Few], monkeypatch: pytest.MonkeyPatch) -> Iterator[Few]:
    """One of another user."""
    monkeypatch.setattr("bus1.channel.credentials_of", lambda sock: replace(credentials_of(sock), uid=61_001))
    stranger = Few(bus)
    monkeypatch.undo()
    yield stranger
    stranger.close()


def some_turns(bus: SteppedBus) -> None:
    for _ in range(9):
        bus.turn()


# ---- descriptors -----------------------------------------------------------------------------------


def fill(reader: Few) -> None:
    """The user's part is used up: by a message, and by the same descriptors in an offer."""
    reader.send_itself(98)
    assert reader.error() == 0
    reader.ask(offer_me(flags=RecvFlag.PEEK))
    some_turns(reader.bus)


def test_an_offer_waits_until_its_user_has_read_another(bus: SteppedBus, clients: list[Few]) -> None:
    """R-5: who does not want to wait is told EDQUOT, and the message stays."""
    hoarder, other, _ = clients
    other.send_itself(9)
    assert other.error() == 0
    fill(hoarder)
    other.ask(offer_me() + offer_me(options=RecvOption.PARK))
    assert other.error() == errno.EDQUOT
    some_turns(bus)
    assert other.reader.next() is None and other.answers() == 0
    assert hoarder.frame().operation == Event.OFFER
    assert other.frame().n_fds == 9


def test_another_user_is_served_meanwhile(bus: SteppedBus, clients: list[Few], stranger: Few) -> None:
    fill(clients[0])
    stranger.send_itself(40)
    assert stranger.error() == 0
    stranger.ask(offer_me())
    assert stranger.frame().n_fds == 40


@pytest.mark.parametrize("ending", ["reads", "hangs up"])
def test_what_a_refused_channel_left_unread_counts_until_its_client_reads_or_goes(
    bus: SteppedBus, clients: list[Few], ending: str
) -> None:
    hoarder, other, _ = clients
    fill(hoarder)
    hoarder.sock.sendall(HELLO)  # out of place
    some_turns(bus)
    other.ask(SNAPSHOT)
    assert other.error() == errno.EDQUOT
    if ending == "reads":
        assert [hoarder.frame().operation for _ in range(2)] == [Event.OFFER, Event.REFUSED]
    else:
        hoarder.sock.close()
    other.ask(SNAPSHOT)
    while other.error():
        other.ask(SNAPSHOT)


def test_who_has_read_everything_may_always_be_sent_a_message(bus: SteppedBus, clients: list[Few]) -> None:
    """More than half of the room is taken: the descriptors that come back are none too many."""
    client = clients[0]
    for _ in range(2):
        client.send_itself(90)
        assert client.error() == 0
    client.ask(offer_me())
    assert client.frame().n_fds == 90


def test_descriptors_of_messages_are_the_senders(bus: SteppedBus, clients: list[Few], stranger: Few) -> None:
    """Q-9: they are refused in words, with the numbers, and are free again when the message is gone."""
    client = clients[0]
    client.send_itself(180)
    assert client.error() == 0
    client.send_itself(60)
    answer = client.frame()
    assert ANSWER_PREFIX.unpack_from(answer.body)[0] == errno.EDQUOT
    n = 180 + 3 + 2 * 4  # its channels, and two for each peer: the stranger is of this process, too
    text = answer.body[ANSWER_PREFIX.size :].decode()
    assert f"user {os.getuid()} would have {n + 60} descriptors" in text
    assert f"may have {(ROOM - 1) // 2}" in text, "half of what the stranger's channel leaves"
    stranger.send_itself(90)
    assert stranger.error() == 0
    client.ask(encode(Operation.RESET, 6, REQUESTS[Operation.RESET].pack(1, *[NO_LIMIT] * 5)))
    assert client.error() == 0
    client.send_itself(60)
    assert client.error() == 0


def n_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_when_everybody_is_gone_nothing_is_left(bus: SteppedBus) -> None:
    """Those who were refused, too."""
    n = n_descriptors()
    clients = [Few(bus) for _ in range(3)]
    fill(clients[0])
    clients[0].sock.sendall(HELLO)
    some_turns(bus)
    clients[1].send_itself(5)
    clients[1].sock.sendall(ARENA + QUERY)
    some_turns(bus)
    for client in clients:
        client.close()
    while bus.snapshot()["peers"] or n_descriptors() > n:
        bus.turn()
    bus.broker.holdings.check(os.getuid(), ROOM // 2)
    with pytest.raises(QuotaExceeded):
        bus.broker.holdings.check(os.getuid(), ROOM // 2 + 1)


def test_who_is_refused_again_and_again_does_not_make_the_bus_look_each_time(
    bus: SteppedBus, clients: list[Few], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user may have a thousand channels to look at."""
    fill(clients[0])
    looks: list[socket.socket] = []
    now = bus.reactor.clock() + 1
    monkeypatch.setattr(bus.reactor, "clock", lambda: now)

    def look(sock: socket.socket) -> int:
        looks.append(sock)
        return 1

    monkeypatch.setattr(outlet, "_unread_bytes", look)
    clients[1].ask(ARENA * 50)
    assert [clients[1].error() for _ in range(50)] == [errno.EDQUOT] * 50
    assert len(looks) <= len(clients)


@pytest.mark.parametrize("error", [errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM])
def test_a_shortage_of_the_kernel_is_waited_out(
    bus: SteppedBus, clients: list[Few], monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Without asking the kernel again and again."""
    failures = [error] * 3

    def short(sock: socket.socket, writer: FrameWriter, flags: int = 0) -> None:
        if failures:
            raise OSError(failures.pop(), "short")
        transmit(sock, writer, flags)

    monkeypatch.setattr(outlet, "transmit", short)
    clients[0].ask(ARENA + QUERY)
    bus.turn()
    assert len(failures) == 2
    assert bus.reactor.run_once(bus.reactor.clock()) == 0, "nothing is ready"
    assert [clients[0].error() for _ in range(2)] == [0, 0] and not failures


def test_a_client_that_cannot_be_watched_leaves_nothing(
    bus: SteppedBus, clients: list[Few], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "no more watches")

    for client in clients:
        client.close()
    while bus.broker._allowances or bus.snapshot()["peers"]:
        bus.turn()
    monkeypatch.setattr(bus.reactor, "add", fail)
    here, there = socket.socketpair()
    bus.broker.accept(there)
    assert here.recv(1) == b""
    assert not bus.broker._allowances and bus.broker.holdings.may_send(os.getuid(), ROOM // 2)
    here.close()


# ---- memory ----------------------------------------------------------------------------------------


def test_small_answers_weigh_what_they_need() -> None:
    writer = FrameWriter()
    for _ in range(100):
        writer.push(QUERY)
    assert writer.weight >= 100 * (len(QUERY) + 200)
    writer.sent(len(QUERY) * 100)
    assert writer.weight == 0


def test_unread_answers_are_bounded_for_all_channels_of_a_user(make: Callable[..., SteppedBus]) -> None:
    """Who reads goes on all the same, an answer at a time."""
    most, uid = 1 << 16, os.getuid()
    bus = make(unsent_bytes_per_user=most)
    clients = [Few(bus) for _ in range(20)]
    *idle, reading = clients
    for channel in bus.broker._channels:  # the kernel shall not take it instead
        channel._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)

    def flood() -> None:
        for client in idle:
            with suppress(BlockingIOError):
                client.sock.send(QUERY * 50, socket.MSG_DONTWAIT)
        bus.turn()

    while bus.broker.unsent[uid] <= most // 2:
        flood()
    for _ in range(300):
        flood()
        assert bus.broker.unsent[uid] <= most + 1000 * len(clients)
    reading.ask(QUERY * 50)
    assert [reading.error() for _ in range(50)] == [0] * 50
    for client in clients:
        client.close()


def test_incomplete_requests_are_bounded_for_all_channels_of_a_user(make: Callable[..., SteppedBus]) -> None:
    """The one that is too much is refused in words; when another has gone there is room again."""
    bus = make(incomplete_bytes_per_user=3 * MAX_FRAME)
    clients = [Few(bus) for _ in range(5)]
    incomplete = encode(Operation.SEND, 1, bytes(MAX_FRAME - 16))[:-1]

    def write(client: Few) -> None:
        client.n_answers = 0
        client.sock.setblocking(False)
        rest = incomplete
        while rest:
            try:
                rest = rest[client.sock.send(rest) :]
            except BlockingIOError:
                bus.turn()
        some_turns(bus)

    for client in clients[:3]:
        write(client)
        assert client.answers() == 0
    with pytest.raises(BrokenPipeError):
        write(clients[3])
    frame = clients[3].frame()
    assert frame.operation == Event.REFUSED
    number, text = EVENTS[Event.REFUSED].unpack_from(frame.body)[0], frame.body[4:].decode()
    assert number == errno.EDQUOT and f"at most {3 * MAX_FRAME}" in text and "incomplete requests" in text
    clients[0].close()
    some_turns(bus)
    write(clients[4])
    assert clients[4].answers() == 0
    for client in clients[1:]:
        client.close()
