"""Clauses of notifications (N): NODE_DESTROY, NODE_RELEASE, and what comes after both."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from core_bus import BusPeer, CoreBus, Unchanged
from test_core_api import drain

from bus1.core.api import (
    HANDLE_INVALID,
    OFFSET_INVALID,
    DestroyFlag,
    Message,
    MessageFlag,
    MessageType,
    RecvFlag,
    ResetFlag,
    SendFlag,
)
from bus1.errors import NodeDestroyed, NoSuchHandle

DATA, DESTROY, RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


@pytest.fixture
def p(bus: CoreBus) -> BusPeer:
    return bus.peer(1)


@pytest.fixture
def q(bus: CoreBus) -> BusPeer:
    return bus.peer(2)


@pytest.fixture
def r(bus: CoreBus) -> BusPeer:
    return bus.peer(3)


@pytest.fixture
def to_q(p: BusPeer, q: BusPeer) -> int:
    """p's handle to a node of q."""
    return q.transfer(0x10, p)


# ---- NODE_DESTROY ----------------------------------------------------------------------------------


def test_n_1_every_holder_is_told_under_its_own_id(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    stranger = bus.peer()
    p.transfer(0x200, r)
    at_q, at_r = p.transfer(0x100, q), p.transfer(0x100, r)
    assert at_q != at_r
    p.destroy(0x100)
    assert [drain(peer) for peer in (p, q, r, stranger)] == [
        [("NODE_DESTROY", 0, 0x100)], [("NODE_DESTROY", 0, at_q)], [("NODE_DESTROY", 0, at_r)], [],
    ]


@pytest.mark.parametrize("kind", [DESTROY, RELEASE])
@pytest.mark.parametrize("flags", [0, RecvFlag.PEEK, RecvFlag.INSTALL_FDS])
def test_n_2_a_notification_is_a_kind_and_an_id_and_nothing_else(
    bus: CoreBus, p: BusPeer, q: BusPeer, kind: MessageType, flags: int
) -> None:
    """R-4: max_offset does not matter, as there is no slice."""
    at_q = p.transfer(0x100, q)
    if kind is DESTROY:
        p.destroy(0x100)
    else:
        q.release(at_q)
    assert p.recv(flags, 0) == Message(
        kind, MessageFlag(0), 0x100, 2**32 - 1, 2**32 - 1, 0, 0, OFFSET_INVALID, 0, (), (), None, 0
    )
    assert OFFSET_INVALID == 2**64 - 1 and p.used("slices") == 0
    with Unchanged(bus, NoSuchHandle):
        p.free(0)


@pytest.mark.parametrize("references", [1, 3])
def test_n_3_who_let_the_handle_go_is_not_told(p: BusPeer, q: BusPeer, r: BusPeer, references: int) -> None:
    for _ in range(references):
        at_q = p.transfer(0x100, q)
    p.transfer(0x100, r)
    p.destroy(0x100)
    for left in range(references, 0, -1):
        assert q.is_readable(), left
        q.release(at_q)
    assert not q.is_readable() and r.is_readable()
    assert drain(p) == [("NODE_DESTROY", 0, 0x100)]


@pytest.mark.parametrize("how", ["receives", "flushes", "destroys the destination"])
def test_n_4_an_older_message_with_the_node_comes_first(p: BusPeer, q: BusPeer, to_q: int, how: str) -> None:
    """N-3: and if it never comes, there is nothing to be told."""
    p.send([to_q], b"older", handles=[0x100, 0x100])
    p.destroy(0x100)
    p.send([to_q], b"younger", handles=[0x100])
    if how == "receives":
        assert q.recv().handles == (0xB, 0xB)
        assert drain(q)[0] == ("NODE_DESTROY", 0, 0xB)
        assert q.references(0xB) == 2
        return
    if how == "flushes":
        q.reset(ResetFlag.FLUSH)
    else:
        q.destroy(0x10, flags=DestroyFlag.RELEASE_HANDLES)
    assert drain(q) == []


def test_n_4_a_younger_message_with_the_node_brings_no_notification(
    p: BusPeer, q: BusPeer, to_q: int
) -> None:
    p.transfer(0x100)
    p.destroy(0x100)
    p.send([to_q], handles=[0x100])
    assert q.recv().handles == (HANDLE_INVALID,)
    assert drain(q) == []


def test_n_5_a_destruction_has_its_place_among_the_messages(
    p: BusPeer, q: BusPeer, r: BusPeer, to_q: int
) -> None:
    at_q, r_to_q = p.transfer(0x100, q), q.transfer(0x20, r)
    at_r = p.transfer(0x100, r)
    p.send([to_q], handles=[0x100])
    r.send([r_to_q], handles=[at_r])
    p.destroy(0x100)
    r.send([r_to_q], handles=[at_r])
    p.send([to_q], handles=[0x100])
    seen = [q.recv() for _ in range(5)]
    assert [m.type for m in seen] == [DATA, DATA, DESTROY, DATA, DATA]
    assert [m.handles for m in seen] == [(at_q,), (at_q,), (), (HANDLE_INVALID,), (HANDLE_INVALID,)]


def test_n_6_each_holder_is_told_exactly_once(p: BusPeer, q: BusPeer, to_q: int) -> None:
    """However many references it has, and however many are on their way."""
    for _ in range(3):
        p.transfer(0x100, q)
        p.send([to_q], handles=[0x100, 0x100])
    p.send([to_q], handles=[0x200])
    p.destroy(0x100, 0x200)
    told = [destination for kind, _, destination in drain(q) if kind == "NODE_DESTROY"]
    assert told == [0xB, 0x13]
    p.transfer(0x100, q)
    assert drain(q) == []


@pytest.mark.parametrize("has_been_told", [True, False])
def test_n_7_a_dead_handle_is_forwarded_as_invalid(
    p: BusPeer, q: BusPeer, r: BusPeer, has_been_told: bool
) -> None:
    """T-26: by whoever holds it, told or not, in a message or by TRANSFER."""
    at_q, to_r = p.transfer(0x100, q), r.transfer(0x10, q)
    p.destroy(0x100)
    if has_been_told:
        drain(q)
    assert q.transfer(at_q, r) == HANDLE_INVALID
    q.send([to_r], handles=[at_q, 0x300, at_q])
    assert r.recv().handles == (HANDLE_INVALID, 0xB, HANDLE_INVALID)
    assert drain(r) == [] and set(r.state()["handles"]) == {0x10, 0xB}


# ---- NODE_RELEASE ----------------------------------------------------------------------------------


def test_n_10_when_only_the_pinned_reference_is_left_the_owner_is_told(
    p: BusPeer, q: BusPeer, r: BusPeer
) -> None:
    at_q, at_r = p.transfer(0x100, q), p.transfer(0x100, r)
    p.transfer(0x100)
    for holder, handle in ((q, at_q), (p, 0x100)):
        holder.release(handle)
        assert drain(p) == []
    r.release(at_r)
    assert drain(p) == [("NODE_RELEASE", 0, 0x100)]
    assert drain(q) == drain(r) == []


@pytest.mark.parametrize("carrier", ["message", "own message", "seed"])
def test_n_11_what_is_on_its_way_counts(p: BusPeer, q: BusPeer, to_q: int, carrier: str) -> None:
    """W-4: delivery turns it into a reference without a dip between."""
    at_q = p.transfer(0x100, q)
    if carrier == "message":
        p.send([to_q], handles=[0x100])
    elif carrier == "own message":
        q.send([0x10], handles=[at_q])
    else:
        q.send([], handles=[at_q], flags=SendFlag.SEED)
    q.release(at_q)
    assert not p.is_readable()
    received = q.recv(RecvFlag.SEED if carrier == "seed" else 0)
    assert received.handles == (at_q + 8,)
    assert not p.is_readable()
    q.release(at_q + 8)
    assert drain(p) == [("NODE_RELEASE", 0, 0x100)]


RISES: dict[str, Callable[[BusPeer, int], object]] = {
    "transfer": lambda p, to_q: p.transfer(0x100),
    "message": lambda p, to_q: p.send([to_q], handles=[0x100]),
    "seed": lambda p, to_q: p.send([], handles=[0x100], flags=SendFlag.SEED),
}


@pytest.mark.parametrize("rise", RISES)
@pytest.mark.parametrize("is_received", [True, False])
def test_n_12_a_release_is_withdrawn_when_the_count_rises(
    p: BusPeer, q: BusPeer, to_q: int, rise: str, is_received: bool
) -> None:
    """N-13: unless it was received already; the next drop is told in any case."""
    q.release(p.transfer(0x100, q))
    told = drain(p) if is_received else []
    RISES[rise](p, to_q)
    assert not p.is_readable()
    if rise == "transfer":
        p.release(0x100)
    elif rise == "message":
        q.release(q.recv().handles[0])
    else:
        p.reset(ResetFlag.FLUSH_SEED)
    assert [*told, *drain(p)] == [("NODE_RELEASE", 0, 0x100)] * (1 + is_received)


def test_n_13_one_release_is_pending_and_a_second_drop_goes_to_the_end(p: BusPeer, q: BusPeer) -> None:
    mailbox = p.transfer(0x200, q)
    for number in range(3):
        q.release(p.transfer(0x100, q))
        q.send([mailbox], bytes(number))
    q.release(p.transfer(0x100, q))
    assert [kind for kind, _, _ in drain(p)] == ["DATA"] * 3 + ["NODE_RELEASE"]


def test_n_14_a_node_that_was_never_handed_out_never_drops(p: BusPeer) -> None:
    p.send([0x100])
    p.send([], handles=[0x200])
    assert drain(p) == [("DATA", 0, 0x100)]


@pytest.mark.parametrize("end", ["flush", "disconnect", "destination released"])
def test_n_14_a_node_whose_only_message_is_discarded_drops(
    p: BusPeer, q: BusPeer, to_q: int, end: str
) -> None:
    p.send([to_q], handles=[0x100, 0x100])
    assert not p.is_readable()
    if end == "flush":
        q.reset(ResetFlag.FLUSH)
    elif end == "disconnect":
        q.disconnect()
    else:
        q.destroy(0x10)
        q.release(0x10)
    assert drain(p) == [("NODE_DESTROY", 0, to_q), ("NODE_RELEASE", 0, 0x100)]


def test_n_15_the_owners_own_references_count(p: BusPeer) -> None:
    p.transfer(0x100)
    p.send([0x100], handles=[0x100])
    p.recv()
    p.release(0x100)
    assert not p.is_readable()
    p.release(0x100)
    assert drain(p) == [("NODE_RELEASE", 0, 0x100)]


@pytest.mark.parametrize("released_first", [True, False])
def test_n_16_there_is_no_release_of_a_dead_node(p: BusPeer, q: BusPeer, released_first: bool) -> None:
    at_q = p.transfer(0x100, q)
    if released_first:
        q.release(at_q)
    p.destroy(0x100)
    if not released_first:
        q.release(at_q)
    assert drain(p) == [("NODE_DESTROY", 0, 0x100)]


def test_n_17_a_message_to_a_node_is_no_reference_to_it(p: BusPeer, q: BusPeer) -> None:
    """N-18, N-19: it comes first, and nothing for the node behind the release."""
    at_q = p.transfer(0x100, q)
    for _ in range(2):
        q.send([at_q])
    assert p.state()["nodes"][0x100]["uses"] == 2
    q.release(at_q)
    assert [entry["type"] for entry in p.state()["queue"]] == ["DATA", "DATA", "NODE_RELEASE"]
    assert drain(p) == [("DATA", 0, 0x100), ("DATA", 0, 0x100), ("NODE_RELEASE", 0, 0x100)]


def test_n_18_after_a_release_nobody_else_can_send(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    at_q = p.transfer(0x100, q)
    at_r = q.transfer(at_q, r)
    for peer, handle in ((q, at_q), (r, at_r)):
        peer.send([handle])
        peer.release(handle)
        with Unchanged(bus, NoSuchHandle):
            peer.send([handle])
    assert [kind for kind, _, _ in drain(p)] == ["DATA", "DATA", "NODE_RELEASE"]
    assert r.send([p.transfer(0x100, r)]) == [0]
    assert drain(p) == [("DATA", 0, 0x100)]


# ---- after destroy and release ---------------------------------------------------------------------


def test_n_30_what_the_owner_let_go_brings_nothing_more(p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    at_q, at_r = p.transfer(0x100, q), p.transfer(0x100, r)
    to_p = p.transfer(0x200, q)
    q.send([at_q], b"queued")
    q.send([to_p], handles=[at_q])
    p.destroy(0x100)
    p.release(0x100)
    assert p.recv().handles == (HANDLE_INVALID,)
    q.release(at_q)
    r.release(at_r)
    assert drain(p) == []


def test_n_31_the_id_is_free_for_an_unrelated_node(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    """N-32: and old handles stay with the dead one, until they are released."""
    old = p.transfer(0x100, q)
    p.destroy(0x100)
    p.release(0x100)
    drain(q)
    new = p.transfer(0x100, q)
    assert new != old
    for _ in range(2):
        with Unchanged(bus, NodeDestroyed):
            q.send([old])
    assert q.transfer(old, r) == HANDLE_INVALID
    assert q.send([new]) == [0] and drain(p) == [("DATA", 0, 0x100)]
    q.release(old)
    with Unchanged(bus, NoSuchHandle):
        q.send([old])
    assert drain(p) == []
    q.release(new)
    assert drain(p) == [("NODE_RELEASE", 0, 0x100)]
