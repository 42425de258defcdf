"""Clauses of peers (P): creation, the end, QUERY, RESET."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core_bus import BusPeer, CoreBus, Unchanged
from native_bus import InProcessBus, NativeBus, RawChannel
from test_core_api import drain

from bus1.core.api import KEEP, Limits, PeerState, RecvFlag, ResetFlag, SendFlag
from bus1.errors import InvalidArgument, NodeDestroyed, NoSuchHandle, PeerShutdown, WouldBlock
from bus1.frames import ANSWER_PREFIX, REQUESTS, RESULTS, Operation, encode
from bus1.peer import Peer
from bus1.record import fields, replace

EINVAL, ESHUTDOWN = 22, 108
FLUSH, FLUSH_SEED = ResetFlag.FLUSH, ResetFlag.FLUSH_SEED


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


@pytest.fixture
def native(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    yield bus
    bus.close()


@pytest.fixture(params=["in-process", "socket"])
def peers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Peer]]:
    """Makes peers, over each link."""
    bus = InProcessBus() if request.param == "in-process" else NativeBus(tmp_path)
    made: list[Peer] = []

    def new() -> Peer:
        made.append(bus.peer())
        return made[-1]

    yield new
    for peer in made:
        peer.close()
    bus.close()


def ask(channel: RawChannel, operation: Operation, *values: int) -> tuple[int, bytes]:
    """errno and result of one request without tails."""
    channel.write(encode(operation, 9, REQUESTS[operation].pack(*values)))
    frame = channel.frame()
    return ANSWER_PREFIX.unpack_from(frame.body)[0], frame.body[ANSWER_PREFIX.size :]


# ---- creation --------------------------------------------------------------------------------------


def test_a_new_peer_is_live_and_empty_at_once(bus: CoreBus) -> None:
    """P-1, P-22."""
    peer = bus.peer()
    assert bus.core.peer_query(peer.number) == PeerState(0, Limits(16384, 65536, 16777216, 4096))
    with Unchanged(bus, WouldBlock):
        peer.recv()
    assert peer.send([0x10], b"m") == [0]
    assert drain(peer) == [("DATA", 0, 0x10)]


def test_a_message_goes_to_the_owner_of_the_node_and_to_nobody_on_the_way(bus: CoreBus) -> None:
    """P-3: neither the peer that passed the handle on, nor the one whose number it is."""
    owner, between, sender = bus.peer(), bus.peer(), bus.peer()
    handle = between.transfer(owner.transfer(0x10, between), sender)
    sender.send([handle])
    assert drain(owner) == [("DATA", 0, 0x10)]
    for peer in (owner, between, sender):
        with Unchanged(bus, NoSuchHandle):
            sender.send([peer.number << 3 | 3 | 1 << 60])
    sender.send([owner.number << 2])  # names a node of the sender, as every unused number
    assert [len(drain(peer)) for peer in (owner, between, sender)] == [0, 0, 1]


def test_peers_are_numbered_from_1_and_numbers_are_not_given_again(bus: CoreBus) -> None:
    """P-5."""
    first, second = bus.peer(), bus.peer()
    first.disconnect()
    second.disconnect()
    assert [first.number, second.number, bus.peer().number] == [1, 2, 3]
    assert list(bus.snapshot()["peers"]) == [3]


# ---- the end ---------------------------------------------------------------------------------------


def test_disconnect_takes_no_argument(native: NativeBus) -> None:
    """P-11."""
    with native.channel().open() as channel:
        assert ask(channel, Operation.DISCONNECT, 1)[0] == EINVAL
        assert ask(channel, Operation.QUERY, 0)[0] == 0
        assert ask(channel, Operation.DISCONNECT, 0)[0] == 0
        assert ask(channel, Operation.DISCONNECT, 1)[0] == ESHUTDOWN


def test_of_several_that_disconnect_one_peer_exactly_one_succeeds(native: NativeBus) -> None:
    """P-12: and when any of them returns, the peer is torn down."""
    with native.peer() as q, native.peer() as p:
        to_q = q.transfer(0x10, p)
        holders = [Peer.from_descriptor(q.fileno(), native.address) for _ in range(8)]
        start, outcomes = threading.Barrier(8), []

        def disconnect(holder: Peer) -> None:
            start.wait()
            try:
                holder.disconnect()
                outcomes.append("disconnected")
            except PeerShutdown:
                outcomes.append("shut down")
            with pytest.raises(NodeDestroyed):
                p.send([to_q])

        threads = [threading.Thread(target=disconnect, args=(holder,)) for holder in holders]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for holder in holders:
            holder.close()
    assert sorted(outcomes) == ["disconnected"] + ["shut down"] * 7


def test_what_was_received_stays_readable_after_disconnect(peers: Callable[[], Peer]) -> None:
    """P-13, L-12."""
    p, q = peers(), peers()
    payload = bytes(range(256)) * 1024
    p.send([q.transfer(0x10, p)], payload)
    message = q.recv()
    q.disconnect()
    assert bytes(message.payload) == payload
    message.release()


def test_the_pool_of_a_disconnected_peer_is_not_handed_out(native: NativeBus) -> None:
    """P-13: nor is anything known of its operations."""
    with native.channel().open() as channel:
        assert ask(channel, Operation.DISCONNECT, 0)[0] == 0
        for operation in (Operation.SEGMENT, Operation.SEGMENT_UNMAPPED, Operation.QUERY):
            assert ask(channel, operation, 1)[0] == ESHUTDOWN


def test_a_message_that_came_before_the_disconnect_was_sent_and_is_lost(bus: CoreBus) -> None:
    """P-14: its handles and descriptors come back."""
    p, q = bus.peer(), bus.peer(2000)
    assert p.send([q.transfer(0x10, p)], b"m", handles=[0x300], fds=[7]) == [0]
    q.disconnect()
    assert bus.core.take_freed_fds() == [7]
    assert drain(p) == [("NODE_DESTROY", 0, 0xB), ("NODE_RELEASE", 0, 0x300)]
    assert 2000 not in bus.snapshot()["users"]


def entangled() -> tuple[CoreBus, BusPeer, BusPeer, BusPeer]:
    """Three peers that hold nodes of each other; the first has messages, slices and a seed as well."""
    bus = CoreBus()
    one, two, three = bus.peer(1), bus.peer(2), bus.peer(3)
    to_one = [one.transfer(node, two) for node in (0x10, 0x20)]
    one.transfer(0x20, three)
    for node in (0x100, 0x200):
        two.transfer(node, one)
    three.transfer(0x100, one)
    two.send([to_one[0]], b"received", fds=[4])
    one.recv(RecvFlag.INSTALL_FDS)
    two.send(to_one, b"queued", handles=[0x300], fds=[5])
    one.send([], b"seed", handles=[0x10, 0x40], fds=[6], flags=SendFlag.SEED)
    return bus, one, two, three


@pytest.mark.parametrize("ends", [True, False])
def test_a_teardown_is_nodes_at_one_instant_then_handles_one_by_one(ends: bool) -> None:
    """P-10, P-15, P-17, P-34, P-35: disconnect and a full flush look the same from outside."""
    bus, one, two, three = entangled()
    if ends:
        one.disconnect()
    else:
        one.reset(FLUSH | FLUSH_SEED)
    assert drain(two) == [
        ("NODE_DESTROY", 2, 0xB), ("NODE_DESTROY", 0, 0x13),
        ("NODE_RELEASE", 0, 0x100), ("NODE_RELEASE", 0, 0x200), ("NODE_RELEASE", 0, 0x300),
    ]
    assert drain(three) == [("NODE_DESTROY", 0, 0xB), ("NODE_RELEASE", 0, 0x100)]
    assert sorted(bus.core.take_freed_fds()) == [4, 5, 6]
    if not ends:
        assert drain(one) == [] and one.state()["handles"] == {}
        assert set(one.state()["account"]["used"].values()) == {0}
        assert one.state()["pool"]["slices"] == 0 and one.state()["seed"] is None


def test_what_a_peer_has_sent_outlives_it(bus: CoreBus) -> None:
    """P-16: carried handles of others stay valid, its own arrive valid and die behind."""
    one, two, three = bus.peer(), bus.peer(), bus.peer()
    to_two, foreign = two.transfer(0x10, one), three.transfer(0x20, one)
    one.send([to_two], b"last words", handles=[0x300, foreign], fds=[9])
    one.disconnect()
    message = two.recv(RecvFlag.INSTALL_FDS)
    assert (message.n_bytes, message.handles, message.fds) == (10, (0xB, 0x13), (9,))
    assert drain(two) == [("NODE_DESTROY", 0, 0xB), ("NODE_RELEASE", 0, 0x10)]
    assert two.send([0x13]) == [0]


# ---- QUERY -----------------------------------------------------------------------------------------


def test_query_returns_what_was_set_last(bus: CoreBus) -> None:
    """P-20, P-21, P-32."""
    peer = bus.peer()
    for slices, handles, size, fds in ((1, 2, 3, 4), (0, 0, 0, 0), ((1 << 31) - 1,) * 4):
        peer.reset(
            0, slices & 1, max_slices=slices, max_handles=handles, max_inflight_bytes=size,
            max_inflight_fds=fds,
        )
        assert bus.core.peer_query(peer.number) == PeerState(slices & 1, Limits(slices, handles, size, fds))
    peer.reset(0, max_handles=7)
    assert bus.core.peer_query(peer.number).limits == replace(Limits(*[(1 << 31) - 1] * 4), handles=7)


def test_query_takes_no_flags_and_returns_none(native: NativeBus) -> None:
    """P-20, P-21."""
    with native.channel().open() as channel:
        assert ask(channel, Operation.QUERY, 1)[0] == EINVAL
        assert ask(channel, Operation.RESET, 0, 1, KEEP, 5, KEEP, KEEP)[0] == 0
        code, result = ask(channel, Operation.QUERY, 0)
        assert (code, len(result)) == (0, RESULTS[Operation.QUERY].size)
        assert struct.unpack("<6Q", result) == (0, 1, 16384, 5, 16777216, 4096)


# ---- RESET -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [4, 8 | FLUSH, 1 << 63])
def test_unknown_reset_flags_are_refused(bus: CoreBus, flags: int) -> None:
    """P-30."""
    peer = bus.peer()
    peer.transfer(0x10)
    with Unchanged(bus, InvalidArgument):
        peer.reset(flags, max_slices=1)


def test_a_reset_without_flags_only_sets(bus: CoreBus) -> None:
    """P-30: nothing is flushed, neither by parameters nor by FLUSH_SEED alone."""
    peer = bus.peer()
    peer.send([0x10], b"m")
    peer.send([], b"seed", flags=SendFlag.SEED)
    peer.reset(0, 1, max_slices=9)
    assert peer.recv(RecvFlag.SEED | RecvFlag.PEEK).n_bytes == 4
    peer.reset(FLUSH_SEED)
    with Unchanged(bus, WouldBlock):
        peer.recv(RecvFlag.SEED)
    assert drain(peer) == [("DATA", 0, 0x10)]


@pytest.mark.parametrize("peer_flags", [2, 3, KEEP - 1, -1])
def test_unknown_peer_flags_are_refused(bus: CoreBus, peer_flags: int) -> None:
    """P-31, P-33."""
    peer = bus.peer()
    with Unchanged(bus, InvalidArgument):
        peer.reset(FLUSH, peer_flags, max_slices=1)


def test_peer_flags_are_set_cleared_and_kept(bus: CoreBus) -> None:
    """P-31."""
    peer = bus.peer()
    seen = []
    for peer_flags in (1, KEEP, 0, KEEP):
        peer.reset(0, peer_flags)
        seen.append(bus.core.peer_query(peer.number).peer_flags)
    assert seen == [1, 1, 0, 0]


@pytest.mark.parametrize("which", ["max_slices", "max_handles", "max_inflight_bytes", "max_inflight_fds"])
def test_each_maximum_is_set_kept_or_refused_on_its_own(bus: CoreBus, which: str) -> None:
    """P-32, P-33."""
    peer = bus.peer()
    before = bus.core.peer_query(peer.number).limits
    for value in (1 << 31, KEEP - 1, -1):
        with Unchanged(bus, InvalidArgument):
            peer.reset(FLUSH, 1, **{which: value})
    peer.reset(**{which: (1 << 31) - 1})
    changed = bus.core.peer_query(peer.number).limits
    names = fields(Limits)
    assert [name for name in names if getattr(changed, name) != getattr(before, name)] == [which[4:]]
    peer.reset(**{which: KEEP})
    assert bus.core.peer_query(peer.number).limits == changed


def test_a_maximum_below_the_use_revokes_nothing(bus: CoreBus) -> None:
    """P-33: what is queued and held stays; new charges fail until use has fallen."""
    p, q = bus.peer(), bus.peer()
    to_q = q.transfer(0x10, p)
    for _ in range(2):
        p.send([to_q], b"m", handles=[0x300])
    q.reset(max_slices=0, max_handles=0, max_inflight_bytes=0, max_inflight_fds=0)
    assert [q.recv().handles, q.recv().handles] == [(0xB,), (0xB,)]
    assert q.references(0xB) == 2


def test_a_flush_leaves_a_new_peer_with_the_old_counter(bus: CoreBus) -> None:
    """P-34, P-36, H-12: it does not hear of its own deaths, keeps its maxima, and gives no id twice."""
    one, two = bus.peer(), bus.peer()
    theirs = one.transfer(0x10, two)
    assert two.transfer(0x100, one) == 0xB
    two.send([theirs], b"m")
    offset = one.recv().offset
    two.send([theirs], b"m")
    one.reset(FLUSH, max_slices=77)
    assert drain(one) == [] and one.state()["nodes"] == {} and one.state()["handles"] == {}
    with Unchanged(bus, NoSuchHandle):
        one.free(offset)
    assert bus.core.peer_query(one.number).limits.slices == 77
    with Unchanged(bus, NodeDestroyed):
        two.send([theirs])
    assert two.transfer(0x100, one) == 0x13
    assert one.transfer(0x10, two) == theirs + 8


@pytest.mark.parametrize("with_seed", [True, False])
def test_nodes_of_the_seed_outlive_a_flush(bus: CoreBus, with_seed: bool) -> None:
    """P-37, P-34: unless FLUSH_SEED is given too."""
    one, two = bus.peer(), bus.peer()
    pinned, other = one.transfer(0x10, two), one.transfer(0x20, two)
    one.send([], b"seed", handles=[0x10], flags=SendFlag.SEED)
    one.reset(FLUSH if with_seed else FLUSH | FLUSH_SEED)
    if with_seed:
        assert drain(two) == [("NODE_DESTROY", 0, other)]
        assert two.send([pinned]) == [0] and drain(one) == [("DATA", 0, 0x10)]
        assert one.references(0x10) == 1
    else:
        assert drain(two) == [("NODE_DESTROY", 2, pinned), ("NODE_DESTROY", 0, other)]
        with Unchanged(bus, WouldBlock):
            one.recv(RecvFlag.SEED)


# ---- readiness -------------------------------------------------------------------------------------


def test_a_peer_is_readable_exactly_while_something_can_be_received(bus: CoreBus) -> None:
    """P-42: what will not be delivered does not count."""
    one, two, three = bus.peer(), bus.peer(), bus.peer()
    theirs = one.transfer(0x10, two)
    two.send([theirs])
    assert one.is_readable()
    one.destroy(0x10)
    one.release(0x10)
    assert not one.is_readable()
    two.reset(FLUSH)
    two.release(one.transfer(0x20, two))
    assert one.is_readable()
    one.transfer(0x20, three)
    assert not one.is_readable()
    three.release(0xB)
    assert one.is_readable() and one.recv().destination == 0x20
    assert not one.is_readable()


def test_a_wake_up_is_told_when_nothing_turns_into_something(bus: CoreBus) -> None:
    """P-43: not for what comes on top, nor for what has gone again."""
    one, two = bus.peer(), bus.peer()
    to_one = one.transfer(0x10, two)

    def hand_out_and_get_back() -> None:
        two.release(one.transfer(0x20, two))

    def come_and_go() -> None:
        one.recv()
        hand_out_and_get_back()
        one.recv()

    seen = []
    for action in (
        lambda: two.send([to_one]), lambda: two.send([to_one]), one.recv, lambda: two.send([to_one]),
        lambda: (one.recv(), one.recv()), lambda: two.send([to_one]),
        lambda: one.reset(FLUSH), hand_out_and_get_back, come_and_go,
    ):
        action()
        seen.append(one.number in bus.core.take_woken())
    assert seen == [True, False, False, False, False, True, False, True, False]
