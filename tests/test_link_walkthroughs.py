"""The walk-throughs W-1 … W-18 as a program sees them, over each link."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from native_bus import InProcessBus, NativeBus

from bus1.core.api import HANDLE_INVALID, MessageFlag, MessageType, PeerFlag, RecvFlag, ResetFlag, SendFlag
from bus1.errors import (
    Bus1Error,
    Busy,
    NodeDestroyed,
    NoSuchHandle,
    NotUnique,
    OutOfRange,
    QuotaExceeded,
    WouldBlock,
)
from bus1.peer import Peer
from bus1.received import ReceivedMessage

DATA, DESTROY, RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE
NewPeer = Callable[[], Peer]


@pytest.fixture(scope="module", params=["in-process", "socket"])
def bus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InProcessBus | NativeBus]:
    directory: Path = tmp_path_factory.mktemp("bus")
    bus = InProcessBus() if request.param == "in-process" else NativeBus(directory)
    yield bus
    bus.close()


@pytest.fixture
def peer(bus: InProcessBus | NativeBus) -> Iterator[NewPeer]:
    """Makes peers; afterwards the bus is as it was before."""
    n_fds = bus.n_fds()
    peers: list[Peer] = []

    def new() -> Peer:
        peers.append(bus.peer())
        return peers[-1]

    yield new
    for made in peers:
        made.close()
    bus.wait_until_idle(n_fds)


@pytest.fixture
def p(peer: NewPeer) -> Peer:
    return peer()


@pytest.fixture
def q(peer: NewPeer) -> Peer:
    return peer()


@pytest.fixture
def r(peer: NewPeer) -> Peer:
    return peer()


def about(message: ReceivedMessage) -> tuple[MessageType, int, int]:
    with message:
        return message.type, message.destination, int(message.flags)


def taken(peer: Peer) -> tuple[bytes, tuple[int, ...]]:
    """Payload and handles of the next message, which must be data."""
    with peer.recv() as message:
        assert message.type is DATA
        return bytes(message.payload), message.handles


def is_empty(peer: Peer) -> bool:
    try:
        peer.recv(RecvFlag.PEEK)
    except WouldBlock:
        return True
    return False


def references(peer: Peer, handle: int) -> int:
    """How often the handle can be released; the pinned reference of a live own node counts (H-34)."""
    count = 0
    while True:
        try:
            peer.release(handle)
        except Busy:
            return count + 1
        except NoSuchHandle:
            return count
        count += 1


def test_w_1_first_contact(p: Peer, q: Peer) -> None:
    assert p.transfer(0x100, q) == 0xB
    with pytest.raises(Busy):
        p.release(0x100)
    q.release(0xB)
    assert about(p.recv()) == (RELEASE, 0x100, 0)
    with pytest.raises(NoSuchHandle):
        q.release(0xB)
    assert p.transfer(0x100, q) == 0x13


def test_w_2_cancel(p: Peer, q: Peer, r: Peer) -> None:
    q.release(p.transfer(0x100, q))
    theirs = p.transfer(0x100, r)
    with pytest.raises(WouldBlock):
        p.recv()
    r.release(theirs)
    assert about(p.recv()) == (RELEASE, 0x100, 0)


def test_w_3_coalescing(p: Peer, q: Peer) -> None:
    p.send([q.transfer(0x10, p)], handles=[0x100] * 3)
    _, handles = taken(q)
    assert handles == (handles[0],) * 3
    q.release(handles[0])
    q.release(handles[0])
    assert is_empty(p)
    q.release(handles[0])
    assert about(p.recv()) == (RELEASE, 0x100, 0)
    with pytest.raises(NoSuchHandle):
        q.release(handles[0])


def test_w_4_in_flight_counts(p: Peer, q: Peer) -> None:
    to_q = q.transfer(0x10, p)
    assert p.transfer(0x100, q) == 0xB
    p.send([to_q], handles=[0x100])
    q.release(0xB)
    assert is_empty(p)
    with pytest.raises(NoSuchHandle):
        q.transfer(0xB)
    assert taken(q)[1] == (0x13,)
    assert references(q, 0x13) == 1


def test_w_5_discarded_in_flight(p: Peer, q: Peer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], handles=[0x200])
    q.reset(ResetFlag.FLUSH)
    assert about(p.recv()) == (DESTROY, to_q, 0)
    assert about(p.recv()) == (RELEASE, 0x200, 0)


def test_w_6_destroy_order(p: Peer, q: Peer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"m1", [0x100])
    p.destroy([0x100])
    p.send([to_q], b"m2", [0x100])
    assert taken(q) == (b"m1", (0xB,))
    assert about(q.recv()) == (DESTROY, 0xB, 0)
    assert taken(q) == (b"m2", (HANDLE_INVALID,))
    assert q.transfer(0xB, p) == HANDLE_INVALID
    with pytest.raises(NodeDestroyed):
        q.send([0xB])
    assert references(q, 0xB) == 1


def test_w_7_destroy_before_first_receive(p: Peer, q: Peer) -> None:
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"m1", [0x100])
    p.destroy([0x100])
    assert taken(q) == (b"m1", (0xB,))
    assert about(q.recv()) == (DESTROY, 0xB, 0)
    p.destroy([0x200])
    p.send([to_q], b"m1", [0x200])
    assert taken(q) == (b"m1", (HANDLE_INVALID,))
    assert is_empty(q)


def test_w_8_messages_to_a_dying_node(p: Peer, q: Peer) -> None:
    to_p = p.transfer(0x100, q)
    q.send([to_p], b"m")
    p.destroy([0x100])
    with p.recv() as message:
        assert (message.type, message.destination) == (DATA, 0x100)
    assert about(p.recv()) == (DESTROY, 0x100, 0)
    other = p.transfer(0x200, q)
    q.send([other], b"m")
    p.destroy([0x200])
    p.release(0x200)
    with pytest.raises(WouldBlock):
        p.recv()


def test_w_9_reuse(p: Peer, q: Peer, r: Peer) -> None:
    old = p.transfer(0x100, q)
    p.destroy([0x100])
    p.release(0x100)
    fresh = p.transfer(0x100, r)
    with pytest.raises(NodeDestroyed):
        q.send([old])
    r.send([fresh], b"alive")
    assert taken(p) == (b"alive", ())


def test_w_10_set_destroy(p: Peer, q: Peer) -> None:
    first, second = p.transfer(0x100, q), p.transfer(0x200, q)
    with pytest.raises(NotUnique):
        p.destroy([0x100, 0x100])
    q.send([first])
    assert taken(p) == (b"", ())
    p.destroy([0x100, 0x200])
    for peer, ids in ((q, (first, second)), (p, (0x100, 0x200))):
        assert about(peer.recv()) == (DESTROY, ids[0], MessageFlag.CONTINUE)
        assert about(peer.recv()) == (DESTROY, ids[1], 0)


def test_w_11_multicast_with_a_dead_member(p: Peer, q: Peer, r: Peer) -> None:
    to_q, to_r = q.transfer(0x10, p), r.transfer(0x20, p)
    r.destroy([0x20])
    with pytest.raises(NodeDestroyed):
        p.send([to_q, to_r], b"m", [0x300])
    assert is_empty(q)
    with pytest.raises(Busy):  # would be one of its own, and does not exist (H-44)
        p.release(0x300)
    assert p.send([to_q, to_r], b"m", flags=SendFlag.CONTINUE) == [0, -errno.EHOSTUNREACH]
    assert taken(q) == (b"m", ())


def test_w_12_peek(p: Peer, q: Peer) -> None:
    p.send([q.transfer(0x10, p)], b"m", [0x100])
    seen = [q.recv(flags) for flags in (RecvFlag.PEEK, RecvFlag.PEEK, 0)]
    assert len({message.offset for message in seen}) == 1
    assert [bytes(message.payload) for message in seen] == [b"m"] * 3
    handle = seen[0].handles[0]
    assert references(q, handle) == 3
    q.release_slice(seen[0].offset)
    with pytest.raises(NoSuchHandle):
        q.release_slice(seen[0].offset)


def test_w_13_erange(p: Peer, q: Peer) -> None:
    p.send([q.transfer(0x10, p)], bytes(100), [0x100])
    with pytest.raises(OutOfRange):
        q.recv(max_offset=111)
    with q.recv(max_offset=112) as message:
        assert (message.offset, message.size, message.n_bytes) == (0, 112, 100)


def test_w_14_layout(p: Peer, q: Peer) -> None:
    with open(os.devnull) as null:
        p.send([q.transfer(0x10, p)], b"12345", [0x100, 0x200], [null.fileno()] * 3)
    with q.recv() as message:
        # 8 for the payload, 16 for two ids, 16 for three numbers; no label without an LSM
        assert message.size == 40
        assert len(message.handles) == 2 and len(message.fds) == 3
        assert bytes(message.payload) == b"12345"


def test_w_15_disconnect_storm(p: Peer, q: Peer, r: Peer) -> None:
    p.transfer(0x100, q)
    r.transfer(0x200, q)
    theirs = q.transfer(0x10, p), q.transfer(0x20, p)
    q.disconnect()
    assert about(p.recv()) == (DESTROY, theirs[0], MessageFlag.CONTINUE)
    assert about(p.recv()) == (DESTROY, theirs[1], 0)
    assert about(p.recv()) == (RELEASE, 0x100, 0)
    assert about(r.recv()) == (RELEASE, 0x200, 0)


def test_w_16_self_multicast(p: Peer, q: Peer) -> None:
    to_p = p.transfer(0x300, q)
    p.send([0x100, 0x200], b"self")
    q.send([to_p], b"other")
    first, second, third = p.recv(), p.recv(), p.recv()
    assert {first.destination, second.destination} == {0x100, 0x200}
    assert (first.flags, second.flags) == (MessageFlag.CONTINUE, MessageFlag(0))
    assert bytes(third.payload) == b"other"
    for message in (first, second, third):
        message.release()


def test_w_17_seed(p: Peer, q: Peer) -> None:
    foreign = q.transfer(0x10, p)
    p.set_seed(b"seed", [0x300, foreign])
    with p.seed() as seed:
        assert seed.handles == (0x300, foreign) and bytes(seed.payload) == b"seed"
    p.reset(ResetFlag.FLUSH)
    with pytest.raises(NoSuchHandle):
        p.release(foreign)
    assert is_empty(q)
    with p.recv(RecvFlag.SEED) as seed:
        assert seed.handles[0] == 0x300 and seed.handles[1] not in {foreign, HANDLE_INVALID}
        again = seed.handles[1]
    assert references(p, 0x300) == 2
    with pytest.raises(WouldBlock):
        p.seed()
    assert references(p, again) == 1
    assert about(q.recv()) == (RELEASE, 0x10, 0)


def test_w_18_limits(p: Peer, q: Peer) -> None:
    q.transfer(0x10, p)
    held = p.transfer(0x100, q)
    q.reset(max_handles=2)
    with pytest.raises(QuotaExceeded):
        p.transfer(0x200, q)
    q.release(held)
    p.transfer(0x200, q)


def test_what_reset_sets_query_tells(p: Peer) -> None:
    p.reset(0, PeerFlag.WANT_SECCTX, max_slices=7, max_inflight_fds=9)
    state = p.query()
    assert state.peer_flags == PeerFlag.WANT_SECCTX
    assert (state.limits.slices, state.limits.inflight_fds) == (7, 9)
    with pytest.raises(Bus1Error):
        p.reset(4)
