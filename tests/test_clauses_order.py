"""The one order, clause by clause (G), at the Core, where the order of events is the order of the calls.

Not here: processes and their side channels (``test_order``).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import pytest
from core_bus import BusPeer, CoreBus, Unchanged
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.api import HANDLE_INVALID, Limits, Message, MessageType
from bus1.errors import NodeDestroyed, WouldBlock

DATA, DESTROY, RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE
Seen = tuple[MessageType, int, int]
WIDE = Limits(10**6, 10**6, 1 << 30, 10**6)


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus(WIDE)


def drain(peer: BusPeer) -> list[Message]:
    seen = []
    while peer.is_readable():
        seen.append(peer.recv())
    return seen


def lengths(peer: BusPeer) -> list[int]:
    """Which messages are queued, told by their lengths."""
    return [message.n_bytes for message in drain(peer)]


class Net:
    """Peers that all hold a handle to node 0x10 of each other."""

    def __init__(self, count: int) -> None:
        self.bus = CoreBus(WIDE)
        self.peers = [self.bus.peer() for _ in range(count)]
        self.to = [[owner.transfer(0x10, peer) for owner in self.peers] for peer in self.peers]

    def send(self, sender: int, length: int, *receivers: int) -> None:
        self.peers[sender].send([self.to[sender][receiver] for receiver in receivers], bytes(length))


A, B, C, D = range(4)
ACTIONS: dict[str, tuple[Callable[[BusPeer, list[int]], object], MessageType]] = {
    "send": (lambda one, handles: one.send([handles[0]]), DATA),
    "destroy": (lambda one, handles: one.destroy(0x100), DESTROY),
    "release": (lambda one, handles: one.release(handles[1]), RELEASE),
}


@pytest.mark.parametrize("order", list(permutations(ACTIONS)), ids="-".join)
def test_events_of_one_peer_are_seen_in_their_order(bus: CoreBus, order: tuple[str, ...]) -> None:
    """G-2, G-7: whatever they are."""
    one, two = bus.peer(), bus.peer()
    one.transfer(0x100, two)
    handles = [two.transfer(node, one) for node in (0x10, 0x20)]
    for name in order:
        ACTIONS[name][0](one, handles)
    assert [m.type for m in drain(two)] == [ACTIONS[name][1] for name in order]


@pytest.mark.parametrize("first", [(B, C), (C, B)])
def test_who_reacts_to_a_multicast_does_not_overtake_it(first: tuple[int, int]) -> None:
    """G-3, G-6: B has received m1 and sends m2 to C, which sees m1 before m2."""
    net = Net(3)
    net.send(A, 1, *first)
    assert net.peers[B].recv().n_bytes == 1
    net.send(B, 2, C)
    assert lengths(net.peers[C]) == [1, 2]


def test_what_has_completed_is_before_what_is_started() -> None:
    """G-4: sends of different peers, and a receive before a send, with nothing on the bus between them."""
    net = Net(4)
    net.send(A, 1, B)
    net.send(D, 2, B)
    assert net.peers[B].recv().n_bytes == 1
    net.send(C, 3, B, D)
    net.send(A, 4, D)
    assert [lengths(net.peers[peer]) for peer in (B, D)] == [[2, 3], [3, 4]]


@pytest.mark.parametrize("senders", [(A, B), (B, A)])
@pytest.mark.parametrize("second", [(C, D), (D, C)])
def test_two_multicasts_have_one_order_at_all_receivers(
    senders: tuple[int, int], second: tuple[int, int]
) -> None:
    """G-5."""
    net = Net(4)
    net.send(senders[0], 1, C, D)
    net.send(senders[1], 2, *second)
    assert lengths(net.peers[C]) == lengths(net.peers[D])


@pytest.mark.parametrize("reader", [A, B, C])
def test_once_one_has_seen_a_multicast_all_see_it_before_its_consequences(reader: int) -> None:
    """G-6: the sender's own copy included."""
    net = Net(4)
    net.send(A, 1, C, A, B)
    net.peers[reader].recv()
    net.send(reader, 2, A, B, C)
    assert [lengths(net.peers[peer]) for peer in (A, B, C)] == [
        [2] if peer == reader else [1, 2] for peer in (A, B, C)
    ]


def test_a_notification_is_before_what_is_done_about_it(bus: CoreBus) -> None:
    """G-7, G-3: B hears of the death, tells C, and C has heard of it."""
    one, two, three = bus.peer(), bus.peer(), bus.peer()
    one.transfer(0x100, two)
    one.transfer(0x100, three)
    to_three = three.transfer(0x10, two)
    one.destroy(0x100)
    assert two.recv().type is DESTROY
    two.send([to_three])
    assert [m.type for m in drain(three)] == [DESTROY, DATA]


def test_the_last_release_is_before_what_is_sent_next(bus: CoreBus) -> None:
    """G-7, G-2: the owner sees NODE_RELEASE, then the message to another of its nodes."""
    one, two = bus.peer(), bus.peer()
    last, other = one.transfer(0x100, two), one.transfer(0x200, two)
    two.send([other], b"1")
    two.release(last)
    two.send([other], b"22")
    assert [(m.type, m.n_bytes) for m in drain(one)] == [(DATA, 1), (RELEASE, 0), (DATA, 2)]


def test_nodes_destroyed_in_one_call_are_never_half_alive(bus: CoreBus) -> None:
    """G-8: at no holder anything comes between their deaths, and who has seen one finds the other dead."""
    one, two, three = bus.peer(), bus.peer(), bus.peer()
    held = [[one.transfer(node, peer) for node in (0x100, 0x200)] for peer in (two, three)]
    to_three = three.transfer(0x10, two)
    one.destroy(0x100, 0x200)
    assert two.recv().destination == held[0][0]
    with Unchanged(bus, NodeDestroyed):
        two.send([held[0][1]])
    two.send([to_three], handles=[held[0][1]])
    first, second, message = drain(three)
    assert [first.destination, second.destination] == held[1]
    assert (first.flags, second.flags) == (2, 0)
    assert message.handles == (HANDLE_INVALID,)


@pytest.mark.parametrize("received_at_once", [False, True])
@pytest.mark.parametrize("destroyed_first", [False, True])
def test_one_order_decides_about_handles_and_messages(
    bus: CoreBus, destroyed_first: bool, received_at_once: bool
) -> None:
    """G-9: valid, or deliverable, iff ordered before the destruction; when it is received is no matter."""
    one, two, three = bus.peer(), bus.peer(), bus.peer()
    theirs, to_three = one.transfer(0x100, two), three.transfer(0x10, two)
    if destroyed_first:
        one.destroy(0x100)
    two.send([to_three], handles=[theirs])
    early = three.recv() if received_at_once else None
    if destroyed_first:
        with Unchanged(bus, NodeDestroyed):
            two.send([theirs])
    else:
        two.send([theirs])
        one.destroy(0x100)
    message = early or three.recv()
    assert message.handles == ((HANDLE_INVALID,) if destroyed_first else (0xB,))
    assert [m.type for m in drain(three)] == ([] if destroyed_first else [DESTROY])
    assert [m.type for m in drain(one)] == ([DESTROY] if destroyed_first else [DATA, DESTROY])


def test_several_messages_of_one_transaction_come_in_any_order(bus: CoreBus) -> None:
    """G-10, T-44: but all of them, and next to each other."""
    one, two = bus.peer(), bus.peer()
    nodes = (0x100, 0x200, 0x300)
    to = [one.transfer(node, two) for node in nodes]
    two.send([to[1]], b"1")
    two.send(to, b"22")
    two.send([to[1]], b"333")
    seen = drain(one)
    assert [m.n_bytes for m in seen] == [1, 2, 2, 2, 3]
    assert {m.destination for m in seen[1:4]} == set(nodes)


def test_when_send_has_returned_all_its_messages_can_be_received() -> None:
    """G-27, G-34: with nothing that holds one back, and no other command in between."""
    net = Net(4)
    for sender in (A, B, C, D):
        net.send(sender, sender, A, B, C, D)
        assert [peer.recv().n_bytes for peer in net.peers] == [sender] * 4


@pytest.mark.parametrize("how", ["queued after queued", "queued after dequeued", "dequeued after"])
def test_a_queue_keeps_what_is_before_and_after(how: str) -> None:
    """G-33: A before B in the queue of D, by whatever path B came to be later."""
    net = Net(4)
    if how == "queued after queued":
        net.send(A, 1, D)
        net.send(B, 2, D)
    elif how == "queued after dequeued":
        net.send(A, 1, C, D)
        net.peers[C].recv()
        net.send(C, 2, D)
    else:
        net.send(A, 1, C, D)
        net.send(B, 2, C, D)
        assert lengths(net.peers[C]) == [1, 2]
    assert lengths(net.peers[D]) == [1, 2]


def test_each_command_is_applied_wholly_before_the_next(bus: CoreBus) -> None:
    """G-34: a disconnect has told all holders and given back all handles when it returns."""
    gone, others = bus.peer(), [bus.peer() for _ in range(3)]
    for other in others:
        other.transfer(0x100, gone)
        gone.transfer(0x10, other)
    gone.disconnect()
    for other in others:
        with Unchanged(bus, NodeDestroyed):
            other.send([0xB])
        assert [(m.type, m.destination) for m in drain(other)] == [(DESTROY, 0xB), (RELEASE, 0x100)]


EVENTS = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sets(st.integers(0, 3), min_size=1))


@given(st.lists(EVENTS, max_size=20))
def test_one_log_explains_every_queue(events: list[tuple[int, int, set[int]]]) -> None:
    """G-1, G-7, G-34: of sends, receives, releases and destructions, the queues are what the log says."""
    net = Net(4)
    queues: list[list[Seen]] = [[] for _ in net.peers]
    for number, (kind, actor, others) in enumerate(events):
        peer, node = net.peers[actor], 0x1000 + 0x10 * number
        if kind == 0:
            net.send(actor, number, *others)
            for other in sorted(others):
                queues[other].append((DATA, 0x10, number))
        elif kind == 1:
            held = {other: peer.transfer(node, net.peers[other]) for other in others - {actor}}
            peer.destroy(node)
            for other, handle in {**held, actor: node}.items():
                queues[other].append((DESTROY, handle, 0))
        elif kind == 2:
            other = min(others)
            net.peers[other].release(peer.transfer(node, net.peers[other]))
            queues[actor].append((RELEASE, node, 0))
        elif queues[actor]:
            message = peer.recv()
            assert (message.type, message.destination, message.n_bytes) == queues[actor].pop(0)
        else:
            with Unchanged(net.bus, WouldBlock):
                peer.recv()
    for peer, queue in zip(net.peers, queues, strict=True):
        assert [(m.type, m.destination, m.n_bytes) for m in drain(peer)] == queue
