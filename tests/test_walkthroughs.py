"""The walk-throughs W-1 … W-18 of the semantics, number by number."""

from __future__ import annotations

from errno import EHOSTUNREACH

import pytest
from core_bus import BusPeer, CoreBus, FlatMemory, Unchanged

from bus1.core.api import (
    HANDLE_INVALID,
    OFFSET_INVALID,
    Message,
    MessageFlag,
    MessageType,
    PeerFlag,
    RecvFlag,
    ResetFlag,
    SendFlag,
)
from bus1.errors import (
    Busy,
    NodeDestroyed,
    NoSuchHandle,
    NotUnique,
    OutOfRange,
    QuotaExceeded,
    WouldBlock,
)

DATA, DESTROY, RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


@pytest.fixture
def p(bus: CoreBus) -> BusPeer:
    return bus.peer()


@pytest.fixture
def q(bus: CoreBus) -> BusPeer:
    return bus.peer()


@pytest.fixture
def r(bus: CoreBus) -> BusPeer:
    return bus.peer()


def is_notification(message: Message, kind: MessageType, destination: int, flags: int = 0) -> bool:
    """N-2: the kind, the id, and nothing else."""
    return message == Message(
        kind, MessageFlag(flags), destination, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, OFFSET_INVALID, 0, (), (),
        None, 0,
    )


def test_w_1_first_contact(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    assert p.transfer(0x100, q) == 0xB
    assert (p.references(0x100), q.references(0xB)) == (1, 1)
    with Unchanged(bus, Busy):
        p.release(0x100)
    q.release(0xB)
    assert is_notification(p.recv(), RELEASE, 0x100)
    with Unchanged(bus, NoSuchHandle):
        q.release(0xB)
    assert p.transfer(0x100, q) == 0x13


def test_w_2_cancel(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    q.release(p.transfer(0x100, q))
    assert p.is_readable()
    theirs = p.transfer(0x100, r)
    with Unchanged(bus, WouldBlock):
        p.recv()
    r.release(theirs)
    assert is_notification(p.recv(), RELEASE, 0x100)
    with pytest.raises(WouldBlock):
        p.recv()


def test_w_3_coalescing(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], handles=[0x100, 0x100, 0x100])
    handles = q.recv().handles
    assert len(handles) == 3 and len(set(handles)) == 1
    assert q.references(handles[0]) == 3
    for _ in range(2):
        q.release(handles[0])
        with pytest.raises(WouldBlock):
            p.recv()
    q.release(handles[0])
    assert is_notification(p.recv(), RELEASE, 0x100)
    with Unchanged(bus, NoSuchHandle):
        q.release(handles[0])


def test_w_4_in_flight_counts(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    to_q = q.transfer(0x10, p)
    assert p.transfer(0x100, q) == 0xB
    p.send([to_q], handles=[0x100])
    q.release(0xB)
    with pytest.raises(WouldBlock):
        p.recv()
    with Unchanged(bus, NoSuchHandle):
        q.transfer(0xB, p)
    assert q.recv().handles == (0x13,)
    assert q.references(0x13) == 1


def test_w_5_discarded_in_flight(p: BusPeer, q: BusPeer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], handles=[0x200])
    q.reset(ResetFlag.FLUSH)
    assert is_notification(p.recv(), DESTROY, to_q)
    assert is_notification(p.recv(), RELEASE, 0x200)


def test_w_6_destroy_order(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"m1", handles=[0x100])
    p.destroy(0x100)
    p.send([to_q], b"m2", handles=[0x100])
    first = q.recv()
    assert (first.type, first.handles) == (DATA, (0xB,))
    assert is_notification(q.recv(), DESTROY, 0xB)
    second = q.recv()
    assert (second.type, second.handles) == (DATA, (HANDLE_INVALID,))
    assert q.references(0xB) == 1
    before = bus.snapshot()
    assert q.transfer(0xB, p) == HANDLE_INVALID
    assert bus.snapshot() == before
    with Unchanged(bus, NodeDestroyed):
        q.send([0xB])
    q.release(0xB)
    with Unchanged(bus, NoSuchHandle):
        q.release(0xB)


def test_w_7_destroy_before_first_receive(p: BusPeer, q: BusPeer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], handles=[0x100])
    p.destroy(0x100)
    assert q.recv().handles == (0xB,)
    assert is_notification(q.recv(), DESTROY, 0xB)
    p.destroy(0x200)
    p.send([to_q], handles=[0x200])
    assert q.recv().handles == (HANDLE_INVALID,)
    with pytest.raises(WouldBlock):
        q.recv()


@pytest.mark.parametrize("released_early", [False, True])
def test_w_8_messages_to_a_dying_node(p: BusPeer, q: BusPeer, released_early: bool) -> None:
    p.transfer(0x100, q)
    q.send([0xB], b"m")
    p.destroy(0x100)
    if released_early:
        p.release(0x100)
    else:
        message = p.recv()
        assert (message.type, message.destination, message.n_bytes) == (DATA, 0x100, 1)
        assert is_notification(p.recv(), DESTROY, 0x100)
    with pytest.raises(WouldBlock):
        p.recv()


def test_w_9_reuse(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    test_w_8_messages_to_a_dying_node(p, q, True)
    at_r = p.transfer(0x100, r)
    assert r.send([at_r]) == [0]
    assert p.recv().destination == 0x100
    with Unchanged(bus, NodeDestroyed):
        q.send([0xB])


def test_w_10_set_destroy(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    theirs = [p.transfer(0x100, q), p.transfer(0x200, q)]
    with Unchanged(bus, NotUnique):
        p.destroy(0x100, 0x100)
    p.destroy(0x100, 0x200)
    assert is_notification(q.recv(), DESTROY, theirs[0], MessageFlag.CONTINUE)
    assert is_notification(q.recv(), DESTROY, theirs[1])
    assert is_notification(p.recv(), DESTROY, 0x100, MessageFlag.CONTINUE)
    assert is_notification(p.recv(), DESTROY, 0x200)


def test_w_11_multicast_with_a_dead_member(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    to_q, to_r = q.transfer(0x10, p), r.transfer(0x10, p)
    r.destroy(0x10)
    with Unchanged(bus, NodeDestroyed):
        p.send([to_q, to_r], b"m", handles=[0x300])
    assert not q.is_readable() and p.references(0x300) == 0
    assert p.send([to_q, to_r], b"m", flags=SendFlag.CONTINUE) == [0, -EHOSTUNREACH]
    assert q.recv().n_bytes == 1


def test_w_12_peek(p: BusPeer, q: BusPeer, bus: CoreBus) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"payload", handles=[0x100])
    seen = [q.recv(RecvFlag.PEEK), q.recv(RecvFlag.PEEK), q.recv()]
    assert len({message.offset for message in seen}) == 1
    assert {message.handles for message in seen} == {(0xB,)}
    assert {message.flags for message in seen} == {MessageFlag(0)}
    assert q.references(0xB) == 3
    q.free(seen[0].offset)
    with Unchanged(bus, NoSuchHandle):
        q.free(seen[0].offset)


def test_w_13_erange(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"x" * 100, handles=[0x100])
    with Unchanged(bus, OutOfRange):
        q.recv(0, 111)
    message = q.recv(0, 112)
    assert (message.offset, message.size, message.n_bytes) == (0, 112, 100)


@pytest.mark.parametrize("install", [True, False])
def test_w_14_layout(bus: CoreBus, p: BusPeer, install: bool) -> None:
    memory = FlatMemory()
    q = bus.peer(memory=memory)
    q.reset(peer_flags=PeerFlag.WANT_SECCTX)
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"abcde", handles=[0x100, to_q], fds=[70, 71, 72], secctx=b"0123456789")
    message = q.recv(RecvFlag.INSTALL_FDS if install else 0)
    assert (message.n_bytes, message.size, message.handles) == (5, 56, (0xB, 0x10))
    assert (message.flags, message.secctx) == (MessageFlag.HAS_SECCTX, b"0123456789")
    assert message.fds == ((70, 71, 72) if install else ())
    seen = memory.at(message.offset, 56)
    assert seen[:8] == b"abcde\0\0\0"
    assert seen[8:24] == (0xB).to_bytes(8, "little") + (0x10).to_bytes(8, "little")
    context = b"0123456789".ljust(16, b"\0")
    assert seen[24:] == (bytes(16) + context if install else context + bytes(16))


def test_w_15_disconnect_storm(bus: CoreBus, q: BusPeer, r: BusPeer) -> None:
    owners = [bus.peer() for _ in range(5)]
    for owner in owners:
        owner.transfer(0x100, q)
    for node in (0x10, 0x20):
        for holder in (*owners, r):
            q.transfer(node, holder)
    shared = owners[0].transfer(0x100, r)
    q.disconnect()
    for holder in (*owners, r):
        first, second = holder.recv(), holder.recv()
        assert is_notification(first, DESTROY, 0xB, MessageFlag.CONTINUE)
        assert is_notification(second, DESTROY, 0x13)
    for owner in owners[1:]:
        assert is_notification(owner.recv(), RELEASE, 0x100)
    assert not owners[0].is_readable()
    r.release(shared)
    assert is_notification(owners[0].recv(), RELEASE, 0x100)


def test_w_16_self_multicast(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    p.transfer(0x100, q)
    bus.core.take_woken()
    p.send([0x100, 0x200], b"m")
    q.send([0xB], b"other")
    assert bus.core.take_woken() == [p.number]
    got = [p.recv(), p.recv(), p.recv()]
    assert [m.flags for m in got] == [MessageFlag.CONTINUE, 0, 0]
    assert [m.n_bytes for m in got] == [1, 1, 5]
    assert {got[0].destination, got[1].destination} == {0x100, 0x200}


def test_w_17_seed(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    assert q.transfer(0x10, p) == 0xB
    p.send([], b"seed", handles=[0x300, 0xB], flags=SendFlag.SEED)
    peeked = p.recv(RecvFlag.SEED | RecvFlag.PEEK)
    assert (peeked.destination, peeked.handles) == (HANDLE_INVALID, (0x300, 0xB))
    assert (p.references(0x300), p.references(0xB)) == (2, 2)
    p.reset(ResetFlag.FLUSH)
    assert (p.references(0x300), p.references(0xB)) == (1, 0)
    with Unchanged(bus, NoSuchHandle):
        p.release(0xB)
    assert not q.is_readable() and not p.is_readable()
    fetched = p.recv(RecvFlag.SEED)
    assert fetched.handles == (0x300, 0x13)
    assert (p.references(0x300), p.references(0x13)) == (2, 1)
    with Unchanged(bus, WouldBlock):
        p.recv(RecvFlag.SEED)


def test_w_18_limits(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    first = p.transfer(0x100, q)
    q.reset(max_handles=q.used("handles"))
    with Unchanged(bus, QuotaExceeded):
        p.transfer(0x100, q)
    q.release(first)
    assert p.transfer(0x100, q) == 0x13
