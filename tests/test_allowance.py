"""What one user may have done in a turn, counted in turns: the bus runs in this thread.

A user has as many channels as the tests need; another user is one whose connection says so.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from stepped_bus import PER_TURN, QUERY, Client, SteppedBus

from bus1.allowance import Allowance
from bus1.descriptors import Fds
from bus1.frames import REQUESTS, Operation, encode
from bus1.record import replace
from bus1.transport import credentials_of


@pytest.fixture
def bus() -> Iterator[SteppedBus]:
    bus = SteppedBus()
    yield bus
    bus.broker.close()
    bus.reactor.close()


@pytest.fixture
def clients(bus: SteppedBus) -> Iterator[list[Client]]:
    clients = [Client(bus) for _ in range(5)]
    yield clients
    for client in clients:
        client.close()


def to_nobody(n_handles: int) -> bytes:
    """A SEND to nobody that carries so many handles, all to one node."""
    fields = REQUESTS[Operation.SEND].pack(0, 0, 0, n_handles, 0, 0, 0)
    return encode(Operation.SEND, 9, fields + struct.pack("<Q", 0x10) * n_handles)


def test_all_channels_of_a_user_have_one_allowance(bus: SteppedBus, clients: list[Client]) -> None:
    for client in clients:
        client.ask(QUERY * 20)
    done = 0
    while done < 5 * 20:
        bus.turn()
        before, done = done, sum(client.answers() for client in clients)
        assert before < done <= before + PER_TURN


def test_channels_that_wait_take_turns(bus: SteppedBus, clients: list[Client]) -> None:
    """Whoever comes last waits for one allowance of each of the others, and no longer; the first has had
    one before there was a line."""
    *busy, late = clients
    for client in busy:
        client.ask(QUERY * 200)
    for _ in range(3):
        bus.turn()
    late.ask(QUERY)
    for _ in busy:
        bus.turn()
    bus.turn()
    assert late.answers() == 1
    seen = [client.answers() for client in busy]
    assert max(seen) - min(seen) <= 2 * PER_TURN and sum(seen) < 4 * 200


def test_another_user_is_served_in_every_turn(
    bus: SteppedBus, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stranger(sock: socket.socket) -> Any:
        return replace(credentials_of(sock), uid=61_001)

    monkeypatch.setattr("bus1.channel.credentials_of", stranger)
    other = Client(bus)
    for client in clients:
        client.ask(QUERY * 100)
    bus.turn()
    for _ in range(5):
        other.ask(QUERY)
        bus.turn()
        assert other.answers() == 1
    assert sum(client.answers() for client in clients) <= 6 * PER_TURN
    other.close()


def test_a_request_with_many_handles_is_a_turn_of_its_own(bus: SteppedBus, clients: list[Client]) -> None:
    client = clients[0]
    client.ask(to_nobody(2000) + to_nobody(2000) + QUERY)
    for n in (1, 2, 3):
        bus.turn()
        assert client.answers() == n


def test_a_payload_from_the_arena_is_a_turn_of_its_own(bus: SteppedBus, clients: list[Client]) -> None:
    client, size = clients[0], 8 << 20
    client.ask(encode(Operation.ARENA, 3, struct.pack("<Q", size)))
    bus.turn()
    assert client.answers() == 1
    large = encode(Operation.SEND, 4, REQUESTS[Operation.SEND].pack(0, 0, 0, 0, 0, 0, size))
    client.ask(large * 3)
    for n in (1, 2, 3):
        bus.turn()
        assert client.answers() == n


def test_what_a_peer_that_ends_still_has_done_is_bounded() -> None:
    """P-16: what was requested completely counts, but not without end while others wait."""
    bus = SteppedBus(drained_requests=20)
    reader, sender = Client(bus), Client(bus)
    fds = Fds([os.dup(reader.fds[0])])
    node = struct.pack("<Q", 0x10)
    transfer = encode(Operation.TRANSFER, 5, struct.pack("<3Q", 0, 0x10, 0xFFFF_FFFF_FFFF_FFFF), 1)
    socket.send_fds(sender.sock, [transfer], list(fds))
    fds.close()
    bus.turn()
    assert sender.answers() == 3
    # the sender's own id of its node is what it sends to: the reader is told of its death, in the end
    send = encode(Operation.SEND, 6, REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 0) + node)
    before = bus.snapshot()["stamp"]
    sender.sock.sendall(send * 200)
    sender.close()
    bus.turn()
    stamps = bus.snapshot()["stamp"] - before
    assert 20 <= stamps <= 20 + PER_TURN + 5
    assert len(bus.snapshot()["peers"]) == 1
    reader.close()
    bus.turn()
    assert bus.snapshot()["peers"] == {}
    bus.broker.close()
    bus.reactor.close()


def test_a_channel_that_leaves_the_line_is_forgotten(bus: SteppedBus) -> None:
    went: list[str] = []

    class Waiter:
        def __init__(self, name: str) -> None:
            self.name = name

        def go_on(self, now: float) -> None:
            went.append(self.name)

    allowance = Allowance(bus.reactor, PER_TURN)
    one, two = Waiter("one"), Waiter("two")
    allowance.wait(one)
    allowance.wait(two)
    allowance.leave(one)
    bus.turn()
    bus.turn()
    assert went == ["two"] and allowance.line == {}


def test_descriptors_that_nobody_reads_stop_their_channel(bus: SteppedBus, clients: list[Client]) -> None:
    """Each answer brings a descriptor, and the client reads none of them."""
    client = clients[0]
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
    before = len(os.listdir("/proc/self/fd"))
    client.sock.setblocking(False)
    n_asked = n_refused = 0
    while n_refused < 50:
        try:
            client.sock.sendall(encode(Operation.ARENA, 3, struct.pack("<Q", 4096)))
            n_asked += 1
        except BlockingIOError:
            n_refused += 1
        bus.turn()
    assert n_asked > 100
    # its arena, and one more in the answer that waits
    assert len(os.listdir("/proc/self/fd")) <= before + 2
