"""The one order of events (§9), seen from the queues."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_bus import BusPeer, CoreBus
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.api import Limits, Message, MessageType
from bus1.errors import NodeDestroyed


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


def drain(peer: BusPeer) -> list[Message]:
    seen = []
    while peer.is_readable():
        seen.append(peer.recv())
    return seen


@given(st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 4), min_size=1)), max_size=40))
def test_every_receiver_sees_the_order_of_the_sends(sends: list[tuple[bool, set[int]]]) -> None:
    """G-2, G-5, G-6: the payload's length counts the sends."""
    bus = CoreBus(Limits(handles=10**6, slices=10**6))
    senders, readers = [bus.peer(1), bus.peer(2)], [bus.peer(3) for _ in range(5)]
    to = [[reader.transfer(0x10, sender) for reader in readers] for sender in senders]
    for number, (second, chosen) in enumerate(sends):
        senders[second].send([to[second][i] for i in chosen], bytes(number))
    for i, reader in enumerate(readers):
        assert [m.n_bytes for m in drain(reader)] == [n for n, (_, chosen) in enumerate(sends) if i in chosen]


@pytest.mark.parametrize("message_first", [True, False])
def test_messages_and_destructions_keep_their_order(bus: CoreBus, message_first: bool) -> None:
    """G-2, G-7, N-5."""
    one, two = bus.peer(), bus.peer()
    one.transfer(0x100, two)
    to_two = two.transfer(0x10, one)
    actions: list[Callable[[], object]] = [lambda: one.send([to_two]), lambda: one.destroy(0x100)]
    for action in actions if message_first else reversed(actions):
        action()
    kinds = [m.type for m in drain(two)]
    assert kinds == sorted(kinds, reverse=not message_first)


def test_a_release_comes_before_what_the_releaser_sends_next(bus: CoreBus) -> None:
    """G-7, N-17, N-19."""
    one, two = bus.peer(), bus.peer()
    last, mailbox = one.transfer(0x100, two), one.transfer(0x200, two)
    two.send([last], b"1")
    two.release(last)
    two.send([mailbox], b"22")
    assert [(m.type, m.destination, m.n_bytes) for m in drain(one)] == [
        (MessageType.DATA, 0x100, 1), (MessageType.NODE_RELEASE, 0x100, 0), (MessageType.DATA, 0x200, 2),
    ]


def test_a_second_drop_is_queued_at_its_new_place(bus: CoreBus) -> None:
    """N-13."""
    one, two = bus.peer(), bus.peer()
    mailbox = one.transfer(0x200, two)
    two.release(one.transfer(0x100, two))
    again = one.transfer(0x100, two)
    two.send([mailbox], b"m")
    two.release(again)
    assert [m.type for m in drain(one)] == [MessageType.DATA, MessageType.NODE_RELEASE]


def test_nodes_destroyed_together_are_dead_together(bus: CoreBus) -> None:
    """G-8: whoever reacts to one death finds the others dead."""
    one, two, three = bus.peer(), bus.peer(), bus.peer()
    at_two, at_three = one.transfer(0x100, two), one.transfer(0x200, three)
    one.destroy(0x100, 0x200)
    assert two.recv().destination == at_two
    with pytest.raises(NodeDestroyed):
        three.send([at_three])


def test_releases_of_a_dying_peer_are_events_of_their_own(bus: CoreBus) -> None:
    """P-17: no CONTINUE between them."""
    one, two = bus.peer(), bus.peer()
    for node in (0x100, 0x200):
        one.transfer(node, two)
    two.disconnect()
    assert [(m.type, m.destination, m.flags) for m in drain(one)] == [
        (MessageType.NODE_RELEASE, 0x100, 0), (MessageType.NODE_RELEASE, 0x200, 0),
    ]


def test_continue_looks_at_what_will_be_delivered(bus: CoreBus) -> None:
    """R-23 made exact: the second message of the transaction is gone before the first is received."""
    one, two = bus.peer(), bus.peer()
    to = [two.transfer(0x10, one), two.transfer(0x20, one)]
    one.send(to)
    two.destroy(0x20, flags=1)
    assert [(m.destination, m.flags) for m in drain(two)] == [(0x10, 0)]
