"""What requests cost that are small and touch much: handles of seeds and messages, the end of peers.

Counted in turns: the bus runs in this thread.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from itertools import pairwise

import pytest
from stepped_bus import QUERY, Client, SteppedBus

from bus1.core.api import HANDLE_INVALID, KEEP, NO_LIMIT, RecvFlag
from bus1.frames import REQUESTS, Operation, RecvOption, encode

SEED = 2
TO_LOOKER = 0xB
"""The first id that the bus chooses."""
FLUSH = encode(Operation.RESET, 8, REQUESTS[Operation.RESET].pack(1, *[KEEP] * 5))
NODES = range(0x1000, 0x1000 + 8 * 1000, 8)
"""As many as several allowances."""




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


def to(*destinations: int, handles: Sequence[int] = (), flags: int = 0) -> bytes:
    """A SEND."""
    fields = REQUESTS[Operation.SEND].pack(flags, len(destinations), 0, len(handles), 0, 0, 0)
    ids = *destinations, *handles
    return encode(Operation.SEND, 9, fields + struct.pack(f"<{len(ids)}Q", *ids))


def destroy(*nodes: int) -> bytes:
    return encode(Operation.DESTROY, 10, struct.pack(f"<QQ{len(nodes)}Q", 0, len(nodes), *nodes))


def recv(flags: int, options: int = 0) -> bytes:
    return encode(Operation.RECV, 11, REQUESTS[Operation.RECV].pack(flags, NO_LIMIT, options))


def prepare(bus: SteppedBus, client: Client, *requests: bytes) -> None:
    for request in requests:
        client.ask(request)
        while not client.answers():
            bus.turn()
    bus.turn()


LARGE_EFFECTS = {
    "a flush, though the seed keeps the nodes": ([to(handles=NODES, flags=SEED)], FLUSH),
    "a look at the seed": ([to(handles=NODES, flags=SEED)], recv(RecvFlag.SEED | RecvFlag.PEEK)),
    "a look at a message": ([to(NODES[0], handles=NODES)], recv(RecvFlag.PEEK)),
    "a look at a seed of dead nodes": (
        [to(handles=NODES, flags=SEED), destroy(*NODES)], recv(RecvFlag.SEED | RecvFlag.PEEK)
    ),
}


@pytest.mark.parametrize("effect", LARGE_EFFECTS)
def test_a_request_that_touches_many_handles_is_a_turn_of_its_own(
    bus: SteppedBus, clients: list[Client], effect: str
) -> None:
    """Its frame is small."""
    before, request = LARGE_EFFECTS[effect]
    client = clients[0]
    prepare(bus, client, *before)
    client.ask(request * 3 + QUERY)
    for n in (1, 2, 3):
        bus.turn()
        assert client.answers() == n


def test_each_large_peer_that_ends_has_a_turn_of_its_own(bus: SteppedBus, clients: list[Client]) -> None:
    for client in clients:
        prepare(bus, client, to(handles=NODES))
    for client in clients:
        client.close()
    for n in (4, 3, 2, 1, 0):
        bus.turn()
        assert len(bus.snapshot()["peers"]) == n


def test_small_peers_end_together_and_their_user_is_forgotten(bus: SteppedBus, clients: list[Client]) -> None:
    for client in clients:
        client.close()
    bus.turn()
    assert bus.snapshot()["peers"] == {}
    assert bus.broker._allowances == {}


def test_many_that_look_at_a_large_message_are_answered_in_several_turns(
    bus: SteppedBus, clients: list[Client]
) -> None:
    """R-11: one request makes it arrive, and all of them waited for it."""
    if bus.broker.lane is not None:
        # of the lane's turns one wait may have several: what a turn is shows without it
        bus.broker.lane.suspend(True)
    looker, sender = clients[:2]
    transfer = encode(Operation.TRANSFER, 5, struct.pack("<3Q", 0, 0x10, HANDLE_INVALID), 1)
    socket.send_fds(looker.sock, [transfer], [sender.fds[0]])
    bus.turn()
    assert looker.answers() == 3
    looker.ask(recv(RecvFlag.PEEK, RecvOption.PARK) * 10)
    bus.turn()
    bus.turn()
    assert looker.answers() == 0
    sender.ask(to(TO_LOOKER, handles=[0x10] * 16_000))
    seen = []
    for _ in range(12):
        bus.turn()
        seen.append(looker.answers())
    assert seen[-1] == 10
    assert max(after - before for before, after in pairwise([0, *seen])) <= 2
