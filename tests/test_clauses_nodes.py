"""Clauses of nodes and handles (H): ids, references, RELEASE, TRANSFER, DESTROY."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from core_bus import BusPeer, CoreBus, Unchanged
from native_bus import NativeBus, RawChannel
from test_core_api import drain

from bus1.core.api import (
    HANDLE_INVALID,
    KEEP,
    MANAGED,
    REMOTE,
    DestroyFlag,
    Limits,
    RecvFlag,
    ResetFlag,
    SendFlag,
)
from bus1.descriptors import Fds
from bus1.errors import (
    AlreadyDestroyed,
    Bus1Error,
    Busy,
    ForeignNode,
    InvalidArgument,
    NodeDestroyed,
    NoSuchHandle,
    NotUnique,
    PeerShutdown,
    QuotaExceeded,
)
from bus1.frames import ANSWER_PREFIX, REQUESTS, Event, Operation, encode

RELEASE_HANDLES = DestroyFlag.RELEASE_HANDLES


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
def native(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    yield bus
    bus.close()


NAMING: dict[str, Callable[[BusPeer, int], object]] = {
    "destination": lambda peer, number: peer.send([number]),
    "handle list": lambda peer, number: peer.send([], handles=[number]),
    "seed": lambda peer, number: peer.send([], handles=[number], flags=SendFlag.SEED),
    "TRANSFER": lambda peer, number: peer.transfer(number),
    "DESTROY": lambda peer, number: peer.destroy(number),
}
"""The ways to name a handle and make its node."""
VERBS = NAMING | {"RELEASE": lambda peer, number: peer.release(number)}


# ---- model -----------------------------------------------------------------------------------------


def test_h_1_a_node_stays_with_the_peer_that_made_it(p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    at_r = q.transfer(p.transfer(0x10, q), r)
    assert p.references(0x10) == 1
    q.release(0xB)
    r.send([at_r])
    assert drain(p) == [("DATA", 0, 0x10)]


def test_h_2_further_handles_to_a_node_are_references_to_the_first(
    p: BusPeer, q: BusPeer, r: BusPeer
) -> None:
    to_q, at_r = q.transfer(0x10, p), p.transfer(0x100, r)
    ids = [p.transfer(0x100, q), r.transfer(at_r, q), q.transfer(0xB)]
    p.send([to_q], handles=[0x100])
    ids += q.recv().handles
    assert ids == [0xB] * 4 and q.references(0xB) == 4
    assert set(q.state()["handles"]) == {0x10, 0xB}


def test_h_3_access_is_passed_on_and_ends_with_the_node_alone(
    bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer
) -> None:
    at_q = p.transfer(0x100, q)
    at_r = q.transfer(at_q, r)
    q.release(at_q)
    assert r.send([at_r]) == [0]
    assert r.transfer(at_r, q) == at_q + 8
    p.destroy(0x100)
    with Unchanged(bus, NodeDestroyed):
        r.send([at_r])


def test_h_4_a_handle_is_needed_and_enough(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    with Unchanged(bus, NoSuchHandle):
        q.send([0xB])
    p.transfer(0x100, q)
    assert q.send([0xB]) == [0]
    q.release(0xB)
    with Unchanged(bus, NoSuchHandle):
        q.send([0xB])


# ---- ids -------------------------------------------------------------------------------------------


def test_ids_are_local_and_their_low_bits_say_whose_choice_they_are(
    p: BusPeer, q: BusPeer, r: BusPeer
) -> None:
    """H-10, H-11, H-14: one node has another id at each peer."""
    assert (MANAGED, REMOTE, HANDLE_INVALID) == (1, 2, 2**64 - 1)
    for node in (0x10, 0x14, 0x18):
        p.transfer(node, q)
    q.transfer(0x13, r)
    p.transfer(0x10, r)
    assert list(q.state()["handles"]) == [0xB, 0x13, 0x1B]
    assert list(r.state()["handles"]) == [0xB, 0x13]
    assert r.state()["handles"][0xB][0] == [p.number, 0x14]
    assert r.state()["handles"][0x13][0] == [p.number, 0x10]


def test_h_12_an_assigned_id_never_comes_back(p: BusPeer, q: BusPeer) -> None:
    seen = []
    for flush in (False, True, False):
        seen.append(p.transfer(0x100, q))
        if flush:
            q.reset(ResetFlag.FLUSH)
        else:
            q.release(seen[-1])
    assert seen == [0xB, 0x13, 0x1B]


@pytest.mark.parametrize("number", [0, 4, 0x100, 1 << 63, HANDLE_INVALID - 3])
def test_h_13_a_chosen_id_may_be_used_again_after_destroy_and_release(
    bus: CoreBus, p: BusPeer, q: BusPeer, number: int
) -> None:
    first = p.transfer(number, q)
    p.destroy(number)
    p.release(number)
    second = p.transfer(number, q)
    assert first != second and q.send([second]) == [0]
    assert drain(p) == [("DATA", 0, number)]
    with Unchanged(bus, NodeDestroyed):
        q.send([first])


@pytest.mark.parametrize("verb", VERBS)
def test_a_handle_that_only_a_message_keeps_cannot_be_named(
    bus: CoreBus, p: BusPeer, q: BusPeer, verb: str
) -> None:
    """H-15, H-32, H-12: it comes back under another id."""
    to_q = q.transfer(0x10, p)
    p.transfer(0x100, q)
    p.send([to_q], handles=[0x100])
    q.release(0xB)
    with Unchanged(bus, NoSuchHandle):
        VERBS[verb](q, 0xB)
    assert q.recv().handles == (0x13,)


def test_h_16_who_gets_its_own_node_sees_its_own_id(p: BusPeer, q: BusPeer) -> None:
    at_q, to_p = p.transfer(0x104, q), p.transfer(0x10, q)
    q.send([to_p], handles=[at_q, to_p])
    assert p.recv().handles == (0x104, 0x10)
    assert (p.references(0x104), p.references(0x10)) == (2, 2)


# ---- creation on demand ----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", NAMING)
def test_every_command_that_names_an_unused_id_makes_the_node(bus: CoreBus, p: BusPeer, verb: str) -> None:
    """H-20, H-23, H-24: with one reference, charged."""
    NAMING[verb](p, 0x300)
    extra = verb in ("TRANSFER", "seed")
    assert p.state()["handles"][0x300] == [[p.number, 0x300], 1 + (verb == "TRANSFER")]
    assert p.used("handles") == 1 + extra


@pytest.mark.parametrize("number", [1, 2, 3, 0x101, 0x102, 0xB, HANDLE_INVALID])
@pytest.mark.parametrize("verb", VERBS)
def test_an_unknown_id_that_cannot_name_a_node_is_enxio(
    bus: CoreBus, p: BusPeer, verb: str, number: int
) -> None:
    """H-21, H-13, H-41."""
    p.transfer(0x100)
    with Unchanged(bus, NoSuchHandle):
        VERBS[verb](p, number)


def test_h_22_a_node_whose_command_failed_never_existed(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    full, dead = bus.peer(4, limits=Limits(handles=1)), q.transfer(0x10, p)
    to_full = full.transfer(0x10, p)
    foreign = q.transfer(0x20, p)
    q.destroy(0x10)
    attempts: list[tuple[type[Bus1Error], Callable[[], object]]] = [
        (QuotaExceeded, lambda: p.transfer(0x300, full)),
        (NodeDestroyed, lambda: p.send([0x300, dead])),
        (NodeDestroyed, lambda: p.send([dead], handles=[0x300])),
        (QuotaExceeded, lambda: p.send([to_full], handles=[0x300])),
        (ForeignNode, lambda: p.destroy(0x300, foreign)),
    ]
    for error, attempt in attempts:
        with Unchanged(bus, error):
            attempt()
    p.reset(max_handles=p.used("handles"))
    for verb in NAMING:
        with Unchanged(bus, QuotaExceeded):
            NAMING[verb](p, 0x300)


# ---- user references -------------------------------------------------------------------------------

Step = Callable[[BusPeer, BusPeer], object]
SEND_BOTH: Step = lambda p, q: p.send([0x100], handles=[0xB, 0x100])  # noqa: E731
RECV: Step = lambda p, q: p.recv()  # noqa: E731
PEEK: Step = lambda p, q: p.recv(RecvFlag.PEEK)  # noqa: E731

EFFECTS: dict[str, tuple[list[Step], int, int]] = {
    "SEND to it": ([lambda p, q: p.send([0xB, 0x100])], 0, 0),
    "SEND of it": ([lambda p, q: p.send([0xB], handles=[0xB, 0x100])], 0, 0),
    "SEND of it to oneself": ([SEND_BOTH], 0, 0),
    "RECV": ([SEND_BOTH, RECV], 1, 1),
    "RECV of the same twice": ([lambda p, q: p.send([0x100], handles=[0xB, 0xB]), RECV], 2, 0),
    "PEEK": ([SEND_BOTH, PEEK], 1, 1),
    "PEEK twice, and RECV": ([SEND_BOTH, PEEK, PEEK, RECV], 3, 3),
    "RECV as destination": ([lambda p, q: p.send([0x100]), RECV], 0, 0),
    "TRANSFER away": ([lambda p, q: p.transfer(0xB, q), lambda p, q: p.transfer(0x100, q)], 0, 0),
    "TRANSFER to oneself": ([lambda p, q: p.transfer(0xB), lambda p, q: p.transfer(0x100)], 1, 1),
    "RELEASE": ([lambda p, q: p.release(0xB), lambda p, q: p.release(0x100)], -1, -1),
    "DESTROY": ([lambda p, q: p.destroy(0x100)], 0, 0),
    "DESTROY with RELEASE_HANDLES": ([lambda p, q: p.destroy(0x100, flags=RELEASE_HANDLES)], 0, -1),
    "RECV of NODE_DESTROY": ([lambda p, q: q.destroy(0x10), RECV], 0, 0),
    "RECV of NODE_RELEASE": ([lambda p, q: q.release(p.transfer(0x400, q)), RECV], 0, 0),
    "RESET FLUSH": ([lambda p, q: p.reset(ResetFlag.FLUSH)], -2, -2),
}
"""What p does, what becomes of its two references to 0xB, and of those to its own 0x100."""


@pytest.mark.parametrize("name", EFFECTS)
def test_each_operation_moves_the_callers_counts_as_the_table_says(
    p: BusPeer, q: BusPeer, name: str
) -> None:
    """H-31, H-42: the charge moves with them."""
    for _ in range(2):
        q.transfer(0x10, p)
    p.transfer(0x100)
    steps, foreign, own = EFFECTS[name]
    for step in steps:
        step(p, q)
    assert (p.references(0xB), p.references(0x100)) == (2 + foreign, 2 + own)
    p.reset(ResetFlag.FLUSH)
    assert (p.references(0xB), p.references(0x100), p.used("handles")) == (0, 0, 0)


def test_counts_move_by_the_holders_own_commands_only(p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    """H-30: whatever owners and other holders do."""
    at_q, at_r, to_q = p.transfer(0x100, q), p.transfer(0x100, r), q.transfer(0x10, p)
    counts = []
    for action in (
        lambda: p.send([to_q], handles=[0x100]), lambda: r.send([at_r], handles=[at_r]),
        lambda: r.release(at_r), lambda: p.destroy(0x100), lambda: p.release(0x100),
        lambda: p.reset(ResetFlag.FLUSH), p.disconnect, r.disconnect,
    ):
        action()
        counts.append((q.references(at_q), q.references(0x10)))
    assert counts == [(1, 1)] * 8


@pytest.mark.parametrize("verb", VERBS)
def test_h_32_without_references_an_id_names_nothing(bus: CoreBus, p: BusPeer, q: BusPeer, verb: str) -> None:
    p.transfer(0x100, q)
    p.transfer(0x100, q)
    q.release(0xB)
    assert q.transfer(0xB) == 0xB
    q.release(0xB)
    q.release(0xB)
    with Unchanged(bus, NoSuchHandle):
        VERBS[verb](q, 0xB)


def test_h_33_nothing_for_a_node_comes_once_its_owner_let_it_go(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    at_q, other = p.transfer(0x100, q), p.transfer(0x200, q)
    q.send([at_q], b"before", handles=[0x10], fds=[5])
    q.send([other], b"kept")
    p.destroy(0x100)
    p.transfer(0x200)
    assert len(bus.core.ahead(p.number, 9)) == 3
    p.release(0x100)
    assert drain(p) == [("DATA", 0, 0x200)]
    assert bus.core.take_freed_fds() == [5]
    assert ("NODE_RELEASE", 0, 0x10) in drain(q)


def test_h_34_an_owner_cannot_lose_a_live_node(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    at_q = p.transfer(0x100, q)
    p.transfer(0x100)
    p.release(0x100)
    with Unchanged(bus, Busy):
        p.release(0x100)
    assert q.send([at_q]) == [0]


# ---- RELEASE ---------------------------------------------------------------------------------------


def ask(channel: RawChannel, operation: int, body: bytes, fds: Fds | None = None) -> int:
    """The errno of one request; -1 if it was refused with the channel."""
    channel.write(encode(operation, 9, body, len(fds or ())), fds)
    frame = channel.frame()
    return -1 if frame.operation == Event.REFUSED else int(ANSWER_PREFIX.unpack_from(frame.body)[0])


def test_h_40_a_release_that_is_cut_short_costs_the_channel_alone(native: NativeBus) -> None:
    with native.channel().open() as channel, native.peer() as q:
        assert q.transfer(0x10, channel.descriptor) == 0xB
        assert ask(channel, Operation.RELEASE, struct.pack("<Q", 0xB)[:7]) == -1
        assert q.transfer(0x10, channel.descriptor) == 0xB


def test_each_reference_is_released_once(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    """H-41, H-42: with its charge; the last one causes NODE_RELEASE."""
    for _ in range(3):
        p.transfer(0x100, q)
    for left in (2, 1, 0):
        assert not p.is_readable()
        q.release(0xB)
        assert (q.references(0xB), q.used("handles")) == (left, left)
    with Unchanged(bus, NoSuchHandle):
        q.release(0xB)
    assert drain(p) == [("NODE_RELEASE", 0, 0x100)]


@pytest.mark.parametrize("held", [True, False])
def test_h_43_the_pinned_reference_of_a_live_node_is_busy(
    bus: CoreBus, p: BusPeer, q: BusPeer, held: bool
) -> None:
    at_q = p.transfer(0x100, q)
    if not held:
        q.release(at_q)
    with Unchanged(bus, Busy):
        p.release(0x100)


@pytest.mark.parametrize("number", [0, 4, 0x100, HANDLE_INVALID - 3])
def test_h_44_an_unused_id_that_could_name_a_node_is_busy(bus: CoreBus, p: BusPeer, number: int) -> None:
    """H-23: and no node is made."""
    with Unchanged(bus, Busy):
        p.release(number)


def test_h_45_the_last_reference_to_a_dead_node_may_be_released(bus: CoreBus, p: BusPeer) -> None:
    p.transfer(0x100)
    p.destroy(0x100)
    p.release(0x100)
    p.release(0x100)
    assert p.state()["handles"] == {} and p.used("handles") == 0
    with Unchanged(bus, Busy):
        p.release(0x100)
    assert p.send([0x100]) == [0]


# ---- TRANSFER --------------------------------------------------------------------------------------

EBADF, EINVAL, ENXIO, EOPNOTSUPP, ESHUTDOWN, EDQUOT = 9, 22, 6, 95, 108, 122


@pytest.mark.parametrize(
    ("flags", "source", "into", "presented", "expected"),
    [
        (0, 0x100, HANDLE_INVALID, "peer", 0),
        (0, 0x100, HANDLE_INVALID, "none", 0),
        (1, 0xFFB, 0, "pipe", EINVAL),
        (0, 0xFFB, 0, "pipe", EINVAL),
        (0, 0xFFB, 0xB, "peer", EINVAL),
        (0, 0xFFB, HANDLE_INVALID, "pipe", EOPNOTSUPP),
        (0, 0xFFB, HANDLE_INVALID, "disconnected", ESHUTDOWN),
        (0, 0xFFB, HANDLE_INVALID, "full", ENXIO),
        (0, 0x300, HANDLE_INVALID, "full", EDQUOT),
    ],
)
def test_the_arguments_of_a_transfer_are_checked_in_order(
    native: NativeBus, flags: int, source: int, into: int, presented: str, expected: int
) -> None:
    """H-50, H-51, H-52: flags and destination handle, descriptor, its peer, the source, quotas."""
    with native.channel().open() as channel, native.peer() as q:
        if presented == "disconnected":
            q.disconnect()
        elif presented == "full":
            q.reset(max_handles=0)
        read, write = os.pipe()
        number = {"pipe": read, "none": None}.get(presented, q.fileno())
        fds = None if number is None else Fds([os.dup(number)])
        body = REQUESTS[Operation.TRANSFER].pack(flags, source, into)
        assert ask(channel, Operation.TRANSFER, body, fds) == expected
        os.close(read)
        os.close(write)


def test_h_52_of_two_exhausted_accounts_the_destinations_is_told(
    bus: CoreBus, p: BusPeer, q: BusPeer
) -> None:
    p.transfer(0x10)
    p.reset(max_handles=2)
    q.reset(max_handles=0)
    with Unchanged(bus, QuotaExceeded, "0 allowed"):
        p.transfer(0x100, q)
    q.reset(max_handles=9)
    with Unchanged(bus, QuotaExceeded, "2 allowed"):
        p.transfer(0x100, q)
    gone = bus.peer()
    gone.disconnect()
    with Unchanged(bus, PeerShutdown):
        p.transfer(0xFFB, gone)


def test_h_54_to_oneself_a_transfer_adds_a_reference(p: BusPeer, q: BusPeer) -> None:
    at_q = p.transfer(0x100, q)
    assert (q.transfer(at_q), p.transfer(0x100)) == (at_q, 0x100)
    assert (q.references(at_q), p.references(0x100)) == (2, 2)


def test_h_55_the_owner_gets_its_own_id(p: BusPeer, q: BusPeer) -> None:
    at_q = p.transfer(0x104, q)
    assert q.transfer(at_q, p) == 0x104
    assert (p.references(0x104), q.references(at_q)) == (2, 1)


def test_h_56_a_dead_node_is_transferred_as_invalid(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    at_q = p.transfer(0x100, q)
    p.destroy(0x100)
    r.reset(max_handles=0)
    before = bus.snapshot()
    for holder, handle in ((q, at_q), (p, 0x100)):
        for destination in (p, q, r):
            assert holder.transfer(handle, destination) == HANDLE_INVALID
    assert bus.snapshot() == before


def test_h_57_each_transfer_charges_one_handle_to_peer_and_user(bus: CoreBus, p: BusPeer) -> None:
    one, two = bus.peer(7), bus.peer(7)
    bus.core.set_user_limits(7, Limits(handles=3))
    for peer in (one, one, two):
        p.transfer(0x100, peer)
    assert (one.used("handles"), two.used("handles"), p.used("handles")) == (2, 1, 1)
    assert bus.snapshot()["users"][7]["used"]["handles"] == 3
    for peer in (one, two):
        with Unchanged(bus, QuotaExceeded):
            p.transfer(0x100, peer)
    one.release(0xB)
    assert p.transfer(0x100, two) == 0xB


def test_h_58_a_transfer_queues_nothing_and_withdraws_node_release(
    p: BusPeer, q: BusPeer, r: BusPeer
) -> None:
    at_q = p.transfer(0x100, q)
    assert not q.is_readable() and q.send([at_q]) == [0]
    q.release(at_q)
    assert drain(p) == [("DATA", 0, 0x100), ("NODE_RELEASE", 0, 0x100)]
    q.release(p.transfer(0x100, q))
    p.transfer(0x100, r)
    assert not p.is_readable() and not r.is_readable()


# ---- DESTROY ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [2, 3, 1 << 32, KEEP])
def test_h_60_unknown_destroy_flags_are_refused(bus: CoreBus, p: BusPeer, flags: int) -> None:
    p.transfer(0x100)
    with Unchanged(bus, InvalidArgument):
        p.destroy(0x100, flags=flags)


@pytest.mark.parametrize(
    ("nodes", "error"),
    [
        ((0x100, 0x200, 0xFFB), NoSuchHandle),
        ((0x100, 0x200, 0x100), NotUnique),
        ((0x500, 0x500), NotUnique),
        ((0x100, 0xB), ForeignNode),
        ((0x100, 0x400), AlreadyDestroyed),
        ((0xB, 0xB), ForeignNode),
        ((0x400, 0x400), AlreadyDestroyed),
        ((0xFFB, 0xB, 0x400), NoSuchHandle),
        ((0xB, 0x400, 0xFFB), ForeignNode),
        ((0x400, 0xFFB, 0xB), AlreadyDestroyed),
        ((0x100, 0x500, 0x600), QuotaExceeded),
        ((0x500, 0x600, 0x400), AlreadyDestroyed),
        (tuple(range(0, 36, 4)), InvalidArgument),
        ((1,) * 9, InvalidArgument),
    ],
)
def test_h_61_a_set_is_destroyed_wholly_or_not_at_all(nodes: tuple[int, ...], error: type[Bus1Error]) -> None:
    """H-22: errors in the order of the list; quota and implicit nodes last."""
    bus = CoreBus()
    bus.core.set_user_limits(1, Limits(handles=8))
    p, q = bus.peer(1), bus.peer(2)
    q.transfer(0x10, p)
    for node in (0x100, 0x200, 0x400):
        p.transfer(node, q)
    p.destroy(0x400)
    p.reset(max_handles=5)
    with Unchanged(bus, error):
        p.destroy(*nodes, flags=RELEASE_HANDLES)
    assert q.send([0xB]) == [0]


def test_h_62_an_unused_id_is_made_and_destroyed_at_once(bus: CoreBus, p: BusPeer) -> None:
    p.destroy(0x100)
    assert (p.references(0x100), p.used("handles")) == (1, 1)
    with Unchanged(bus, AlreadyDestroyed):
        p.destroy(0x100)
    assert drain(p) == [("NODE_DESTROY", 0, 0x100)]


def test_h_63_no_node_is_no_error(p: BusPeer, q: BusPeer) -> None:
    p.transfer(0x100, q)
    for flags in (0, RELEASE_HANDLES):
        p.destroy(flags=flags)
    assert not p.is_readable() and not q.is_readable()
    assert q.send([0xB]) == [0]


def test_h_64_a_set_dies_at_one_instant_as_one_transaction(p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    for node in (0x100, 0x200, 0x300):
        p.transfer(node, q)
    p.transfer(0x300, r)
    p.destroy(0x300, 0x100, 0x200)
    assert len({node["died"] for node in p.state()["nodes"].values()}) == 1
    assert drain(q) == [("NODE_DESTROY", 2, 0x1B), ("NODE_DESTROY", 2, 0xB), ("NODE_DESTROY", 0, 0x13)]
    assert drain(r) == [("NODE_DESTROY", 0, 0xB)]
    assert [flags for _, flags, _ in drain(p)] == [2, 2, 0]


def test_h_65_what_came_before_is_delivered_what_comes_after_fails(
    bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer
) -> None:
    at_q, at_r = p.transfer(0x100, q), p.transfer(0x100, r)
    q.send([at_q], b"before")
    p.destroy(0x100)
    for peer, handle in ((q, at_q), (r, at_r), (p, 0x100)):
        with Unchanged(bus, NodeDestroyed):
            peer.send([handle])
    assert drain(p) == [("DATA", 0, 0x100), ("NODE_DESTROY", 0, 0x100)]
    assert drain(q) == [("NODE_DESTROY", 0, at_q)] and drain(r) == [("NODE_DESTROY", 0, at_r)]


def test_h_66_release_handles_lets_the_owner_go_in_the_same_step(p: BusPeer, q: BusPeer) -> None:
    """H-33, H-45: without a word to it, unless it holds more."""
    p.transfer(0x100, q)
    p.transfer(0x200)
    q.send([0xB])
    p.destroy(0x100, 0x200, flags=RELEASE_HANDLES)
    assert drain(p) == [("NODE_DESTROY", 0, 0x200)]
    assert p.state()["handles"] == {0x200: [[p.number, 0x200], 1]}
    assert drain(q) == [("NODE_DESTROY", 0, 0xB)]
    assert p.transfer(0x100, q) == 0x13


def test_h_67_foreign_holders_keep_their_dead_handle(bus: CoreBus, p: BusPeer, q: BusPeer) -> None:
    for _ in range(2):
        p.transfer(0x100, q)
    p.destroy(0x100, flags=RELEASE_HANDLES)
    assert drain(q) == [("NODE_DESTROY", 0, 0xB)]
    assert (q.references(0xB), q.used("handles")) == (2, 2)
    assert p.transfer(0x100, q) == 0x13
    for _ in range(2):
        q.release(0xB)
    with Unchanged(bus, NoSuchHandle):
        q.release(0xB)
    assert not p.is_readable()


def test_h_68_a_destroyed_node_is_dead_at_once(bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer) -> None:
    q.release(p.transfer(0x100, q))
    at_r = p.transfer(0x200, r)
    assert p.is_readable()
    p.destroy(0x100, 0x200)
    assert r.transfer(at_r, q) == p.transfer(0x200, q) == p.transfer(0x100, q) == HANDLE_INVALID
    with Unchanged(bus, AlreadyDestroyed):
        p.destroy(0x100)
    assert drain(p) == [("NODE_DESTROY", 2, 0x100), ("NODE_DESTROY", 0, 0x200)]
