"""The privileged verb, optional destinations, look-ups and effects of the waist."""

from __future__ import annotations

import json
from errno import EDQUOT, EHOSTUNREACH, ENOTUNIQ, ENXIO

import pytest
from core_bus import MIB, BusPeer, CoreBus, FlatMemory, Unchanged

from bus1.core.api import (
    FD_MAX,
    HANDLE_INVALID,
    OFFSET_INVALID,
    VEC_MAX,
    Ahead,
    CoreApi,
    Limits,
    MessageFlag,
    MessageType,
    Parcel,
    RecvFlag,
    ResetFlag,
    SendFlag,
    Usage,
)
from bus1.errors import NodeDestroyed, NoSuchHandle, NotUnique, QuotaExceeded, TooLarge


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


def route(sender: BusPeer, *parcels: Parcel, fds: tuple[int, ...] = ()) -> list[int]:
    return sender.core.route(sender.number, parcels, fds, credentials=sender.credentials)


def make_node(peer: BusPeer, number: int) -> tuple[int, int]:
    """A node of ``peer``, with nobody else holding it."""
    peer.send([], handles=[number])
    return peer.number, number


def test_core_is_the_waist(bus: CoreBus) -> None:
    api: CoreApi = bus.core
    assert api.peer_new(1) == 1


def test_route_needs_no_handle_and_charges_the_sender(bus: CoreBus) -> None:
    sender, reader = bus.peer(1), bus.peer(2)
    node = make_node(reader, 0x10)
    parcels = [
        Parcel(node, (b"ab", b"c"), (0x300,), with_fds=True, note=7),
        Parcel(node, (b"second",), note=8),
        Parcel(make_node(sender, 0x20), (b"own",)),
    ]
    assert route(sender, *parcels, fds=(40, 41)) == [0, 0, 0]
    assert bus.snapshot()["users"][2]["shares"] == {1: {"slices": 2, "handles": 1, "bytes": 32, "fds": 2}}
    assert bus.core.queued(sender.number, reader.number) == Usage(32, 2, 2)
    ahead = bus.core.ahead(reader.number, 5)
    assert ahead[0].stamp == ahead[1].stamp > 0
    assert [entry._replace(stamp=0) for entry in ahead] == [
        Ahead(MessageType.DATA, 0x10, sender.number, 0, 3, 24, 1, (40, 41), (b"ab", b"c"), 7),
        Ahead(MessageType.DATA, 0x10, sender.number, 24, 6, 8, 0, (), (b"second",), 8),
    ]
    first, second, own = reader.recv(RecvFlag.INSTALL_FDS), reader.recv(), sender.recv()
    assert (first.flags, second.flags, own.flags) == (MessageFlag.CONTINUE, 0, 0)
    assert (first.handles, first.fds, first.uid) == ((0xB,), (40, 41), 1)
    assert bus.core.take_freed_fds() == [40, 41]


def test_a_mandatory_parcel_that_fails_fails_the_transaction(bus: CoreBus) -> None:
    sender, reader = bus.peer(1), bus.peer(2)
    node = make_node(reader, 0x10)
    for missing in ((reader.number, 0x99), (99, 0x10)):
        with Unchanged(bus, NodeDestroyed):
            route(sender, Parcel(node, (b"m",), (0x300,)), Parcel(missing), fds=(4,))
        assert route(sender, Parcel(node), Parcel(missing, mandatory=False)) == [0, -EHOSTUNREACH]
    held = reader.transfer(0x10, sender)
    with Unchanged(bus, NodeDestroyed):
        route(sender, Parcel((sender.number, held)))
    reader.destroy(0x10)
    with Unchanged(bus, NodeDestroyed):
        route(sender, Parcel(node))
    assert bus.core.take_freed_fds() == []


def test_route_limits_and_local_errors_fail_the_whole_call(bus: CoreBus) -> None:
    sender, reader = bus.peer(1), bus.peer(2)
    node = make_node(reader, 0x10)
    with Unchanged(bus, TooLarge):
        route(sender, Parcel(node, (b"",) * (VEC_MAX + 1), mandatory=False))
    with Unchanged(bus, TooLarge):
        route(sender, Parcel(node), fds=tuple(range(FD_MAX + 1)))
    with Unchanged(bus, NoSuchHandle):
        route(sender, Parcel(node, handles=(0xB,), mandatory=False))
    sender.reset(max_handles=0)
    with Unchanged(bus, QuotaExceeded):
        route(sender, Parcel(node, handles=(0x300,), mandatory=False))
    assert route(sender, Parcel(node, (b"x" * (5 * MIB),), mandatory=False)) == [-EDQUOT]


def test_descriptors_that_no_parcel_took_are_freed(bus: CoreBus) -> None:
    sender, reader = bus.peer(1), bus.peer(2)
    node = make_node(reader, 0x10)
    route(sender, Parcel(node), fds=(4, 5))
    assert bus.core.take_freed_fds() == [4, 5]
    route(sender, Parcel((99, 1), with_fds=True, mandatory=False), fds=(6,))
    assert bus.core.take_freed_fds() == [6]


def test_shared_descriptors_are_freed_with_the_last_message(bus: CoreBus) -> None:
    """R-32: dequeued without INSTALL_FDS they are gone for good."""
    sender, readers = bus.peer(), [bus.peer() for _ in range(3)]
    sender.send([reader.transfer(0x10, sender) for reader in readers], fds=[30])
    readers[0].reset(ResetFlag.FLUSH)
    assert readers[1].recv(RecvFlag.PEEK | RecvFlag.INSTALL_FDS).fds == (30,)
    assert readers[1].recv().fds == ()
    assert bus.core.take_freed_fds() == []
    readers[2].disconnect()
    assert bus.core.take_freed_fds() == [30]


def test_optional_destinations_never_fail_the_call(bus: CoreBus) -> None:
    sender, reader, dead = bus.peer(1), bus.peer(2), bus.peer(3)
    to_reader, to_dead = reader.transfer(0x10, sender), dead.transfer(0x10, sender)
    dead.disconnect()
    optional = [to_dead, 0xFFB, to_reader, to_reader, 0x700]
    slots = sender.send([to_reader], b"m", optional=optional)
    assert slots == [0, -EHOSTUNREACH, -ENXIO, -ENOTUNIQ, -ENOTUNIQ, 0]
    with Unchanged(bus, NodeDestroyed):
        sender.send([to_dead], b"m", optional=[to_reader])


def test_continue_tolerates_remote_errors_alone(bus: CoreBus) -> None:
    """T-51, T-54, T-42."""
    sender, reader, dead = bus.peer(1), bus.peer(2), bus.peer(3)
    to_reader, to_dead = reader.transfer(0x10, sender), dead.transfer(0x10, sender)
    dead.disconnect()
    sender.recv()
    with Unchanged(bus, NoSuchHandle):
        sender.send([to_reader, 0xFFB], flags=SendFlag.CONTINUE)
    with Unchanged(bus, NotUnique):
        sender.send([to_reader, to_reader], flags=SendFlag.CONTINUE)
    assert sender.send([to_dead], fds=[9], flags=SendFlag.CONTINUE) == [-EHOSTUNREACH]
    assert bus.core.take_freed_fds() == [9]


def test_a_failed_send_takes_no_descriptor_and_creates_no_node(bus: CoreBus) -> None:
    """T-50, H-22: every destination before the failing one is undone."""
    sender = bus.peer(1)
    readers = [bus.peer(2, FlatMemory()), bus.peer(2), bus.peer(3, limits=Limits(slices=0))]
    to = [reader.transfer(0x10, sender) for reader in readers]
    with Unchanged(bus, QuotaExceeded):
        sender.send(to, bytes(2 * MIB), handles=[0x300, 0x300], fds=[4])
    with Unchanged(bus, TooLarge):
        sender.send(to[:1], fds=range(FD_MAX + 1))
    sender.reset(max_handles=1)
    with Unchanged(bus, QuotaExceeded):
        sender.send(to[:2], bytes(8), handles=[0x300])
    assert bus.core.take_freed_fds() == []


def test_woken_lists_transitions_once_and_in_order(bus: CoreBus) -> None:
    """P-43."""
    sender, one, two = bus.peer(), bus.peer(), bus.peer()
    to = [two.transfer(0x10, sender), one.transfer(0x10, sender)]
    for _ in range(2):
        sender.send(to)
    assert bus.core.take_woken() == [two.number, one.number]
    one.recv()
    sender.send(to)
    assert bus.core.take_woken() == []
    while one.is_readable():
        one.recv()
    sender.send(to[1:])
    two.disconnect()
    assert bus.core.take_woken() == [one.number, sender.number]


def test_look_ups_name_nodes_across_peers(bus: CoreBus) -> None:
    one, two = bus.peer(), bus.peer()
    theirs = one.transfer(0x100, two)
    core, node = bus.core, (one.number, 0x100)
    assert core.node_of(two.number, theirs) == core.node_of(one.number, 0x100) == node
    assert core.node_of(two.number, 0x100) is None
    one.disconnect()
    assert core.node_of(two.number, theirs) is None
    assert [entry._replace(stamp=0) for entry in core.ahead(two.number)] == [
        Ahead(MessageType.NODE_DESTROY, theirs, 0, OFFSET_INVALID, 0, 0, 0, (), ())
    ]


def test_a_peeked_notification_stays_and_may_still_be_withdrawn(bus: CoreBus) -> None:
    """R-15, N-12."""
    one, two = bus.peer(), bus.peer()
    two.release(one.transfer(0x100, two))
    assert one.recv(RecvFlag.PEEK).type is MessageType.NODE_RELEASE
    one.transfer(0x100, two)
    assert not one.is_readable()


def test_a_notification_nobody_can_use_is_not_kept(bus: CoreBus) -> None:
    """N-3: releasing the handle first drops it; so a pair of peers cannot pile them up."""
    one, two = bus.peer(), bus.peer()
    for _ in range(3):
        theirs = one.transfer(0x100, two)
        one.destroy(0x100, flags=1)
        two.release(theirs)
    assert not one.is_readable() and not two.is_readable()


def test_a_notification_goes_with_the_undelivered_message_that_was_its_reason(bus: CoreBus) -> None:
    """N-3, H-33: the message carrying the dead node is dropped with its destination."""
    one, two = bus.peer(), bus.peer()
    one.send([two.transfer(0x10, one)], handles=[0x100])
    one.destroy(0x100)
    entry = bus.core.ahead(two.number)[0]
    assert (entry.type, entry.n_handles) == (MessageType.DATA, 1)
    two.destroy(0x10, flags=1)
    assert not two.is_readable()


def test_a_later_message_with_the_dead_node_does_not_keep_the_notification(bus: CoreBus) -> None:
    """N-3, T-26: what it brings is INVALID."""
    one, two = bus.peer(), bus.peer()
    to_two = two.transfer(0x10, one)
    theirs = one.transfer(0x100, two)
    one.destroy(0x100)
    one.send([to_two], handles=[0x100])
    two.release(theirs)
    assert two.recv().handles == (HANDLE_INVALID,)
    assert not two.is_readable()


def test_a_dropped_notification_returns_with_the_message_that_carries_the_handle(bus: CoreBus) -> None:
    """N-4: released, but an older message still brings it; then NODE_DESTROY has a meaning again."""
    one, two = bus.peer(), bus.peer()
    to_two = two.transfer(0x10, one)
    theirs = one.transfer(0x100, two)
    one.send([to_two], handles=[0x100])
    one.destroy(0x100)
    two.release(theirs)
    handle = two.recv().handles[0]
    assert handle not in (theirs, HANDLE_INVALID)
    assert (two.recv().destination, two.is_readable()) == (handle, False)


def test_a_snapshot_is_plain_data(bus: CoreBus) -> None:
    one, two = bus.peer(), bus.peer(2, FlatMemory())
    to_two = two.transfer(0x10, one)
    one.send([to_two], b"payload", handles=[0x100, to_two], fds=[3], secctx=b"\xff")
    one.send([], b"seed", handles=[0x300], flags=SendFlag.SEED)
    one.destroy(0x100)
    two.recv(RecvFlag.PEEK)
    text = json.dumps(bus.snapshot(), default=bytes.hex)
    queue = json.loads(text)["peers"][str(two.number)]["queue"]
    assert [entry["type"] for entry in queue] == ["DATA", "NODE_DESTROY"]
    data = queue[0]
    assert (data["sender"], data["n_bytes"], data["fds"]) == (one.number, 7, [3])
    assert data["handles"] == [[one.number, 0x100], [two.number, 0x10]]
    assert data["slice"] == [0, 40, 40]
