"""The assertions of the upstream selftests (§14) that a state machine can show, with our error codes."""

from __future__ import annotations

import pytest
from core_bus import BusPeer, CoreBus, FlatMemory, Unchanged

from bus1.core.api import (
    HANDLE_INVALID,
    KEEP,
    MANAGED,
    REMOTE,
    Buffer,
    DestroyFlag,
    Limits,
    MessageFlag,
    MessageType,
    PeerFlag,
    PeerState,
    RecvFlag,
    ResetFlag,
    SendFlag,
)
from bus1.errors import (
    AlreadyDestroyed,
    Bus1Error,
    Busy,
    ForeignNode,
    InvalidArgument,
    NoSuchHandle,
    PeerShutdown,
    QuotaExceeded,
    TooLarge,
    WouldBlock,
)

Seen = tuple[str, int, int]


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


def drain(peer: BusPeer) -> list[Seen]:
    """Everything queued: type, flags, destination."""
    seen: list[Seen] = []
    while True:
        try:
            message = peer.recv()
        except WouldBlock:
            return seen
        seen.append((message.type.name, int(message.flags), message.destination))


def test_reset_with_everything_kept_changes_nothing(bus: CoreBus) -> None:
    """A-API-6, P-31, P-32."""
    peer = bus.peer()
    before = bus.snapshot()
    peer.reset(0, KEEP)
    assert bus.snapshot() == before
    peer.reset(peer_flags=PeerFlag.WANT_SECCTX, max_slices=7)
    assert bus.core.peer_query(peer.number) == PeerState(1, Limits(slices=7))


def test_every_operation_after_disconnect_is_shutdown(bus: CoreBus) -> None:
    """A-API-7, A-API-8, A-API-9, P-10, P-12, P-13."""
    gone, alive = bus.peer(), bus.peer()
    gone.disconnect()
    core, number = bus.core, gone.number
    for operation in (
        gone.disconnect, gone.reset, gone.recv, gone.is_readable,
        lambda: gone.send([1]), lambda: gone.transfer(0x100, alive), lambda: alive.transfer(0x100, gone),
        lambda: gone.release(0x100), lambda: gone.destroy(0x100), lambda: gone.free(0),
        lambda: core.segment_unmapped(number, 1), lambda: core.peer_query(number),
        lambda: core.route(number, [], credentials=gone.credentials), lambda: core.ahead(number),
        lambda: core.node_of(number, 1),
        lambda: core.queued(alive.number, number), lambda: core.waiting(number),
    ):
        with Unchanged(bus, PeerShutdown):
            operation()


def test_transfer_gives_a_managed_remote_id(bus: CoreBus) -> None:
    """A-API-10, A-API-11, A-API-12, A-API-13, H-11, H-12: counter << 3 | 3, never reused."""
    one, two = bus.peer(), bus.peer()
    ids = [one.transfer(0x100, two)]
    for _ in range(2):
        two.release(ids[-1])
        ids.append(one.transfer(0x100, two))
    assert ids == [0xB, 0x13, 0x1B]
    assert all(handle & (MANAGED | REMOTE) == 3 for handle in ids)


def test_a_transfer_that_the_source_cannot_pay_charges_nobody(bus: CoreBus) -> None:
    """H-22, H-52: the source pays for a new node."""
    one, two = bus.peer(), bus.peer()
    one.reset(max_handles=0)
    with Unchanged(bus, QuotaExceeded):
        one.transfer(0x100, two)


def test_owner_references_beyond_the_pinned_one(bus: CoreBus) -> None:
    """A-API-20 … 32, N-15."""
    peer = bus.peer()
    for _ in range(2):
        assert peer.transfer(0x100) == 0x100
        with Unchanged(bus, WouldBlock):
            peer.recv()
        peer.release(0x100)
        assert drain(peer) == [("NODE_RELEASE", 0, 0x100)]


def test_destroy_notifies_owner_and_holder(bus: CoreBus) -> None:
    """A-API-40 … 44, A-XF-9."""
    one, two = bus.peer(), bus.peer()
    theirs = one.transfer(0x100, two)
    assert drain(one) == drain(two) == []
    one.destroy(0x100)
    assert drain(one) == [("NODE_DESTROY", 0, 0x100)]
    assert drain(two) == [("NODE_DESTROY", 0, theirs)]


def test_unicast_to_a_new_own_node_loops_back(bus: CoreBus) -> None:
    """A-API-50, A-API-61, T-41, R-8."""
    one, two = bus.peer(), bus.peer()
    one.send([0x100])
    assert drain(one) == [("DATA", 0, 0x100)]
    two.send([one.transfer(0x100, two)])
    assert drain(one) == [("DATA", 0, 0x100)]


def test_multicast_to_two_new_own_nodes(bus: CoreBus) -> None:
    """A-API-70 … 75."""
    memory = FlatMemory()
    peer = bus.peer(memory=memory)
    payload = bytes(range(104))
    peer.send([0x100, 0x200], payload)
    first, second = peer.recv(), peer.recv()
    assert (first.flags, second.flags) == (MessageFlag.CONTINUE, 0)
    assert [first.destination, second.destination] == [0x100, 0x200]
    assert all(memory.at(m.offset, m.n_bytes) == payload for m in (first, second))
    with Unchanged(bus, WouldBlock):
        peer.recv()


def test_a_node_in_its_own_message(bus: CoreBus) -> None:
    """A-API-80 … 85, T-23."""
    peer = bus.peer()
    peer.send([0x100], handles=[0x100])
    message = peer.recv()
    assert (message.destination, message.handles) == (0x100, (0x100,))
    peer.release(0x100)
    assert drain(peer) == [("NODE_RELEASE", 0, 0x100)]


def test_send_to_nobody_creates_nodes_and_frees_descriptors(bus: CoreBus) -> None:
    """A-IO-3, T-6."""
    peer = bus.peer()
    assert peer.send([], bytes(1024), handles=[0x100], fds=[5, 6]) == []
    assert peer.references(0x100) == 1 and not peer.is_readable()
    assert bus.core.take_freed_fds() == [5, 6]


def test_send_to_1_to_256_destinations(bus: CoreBus) -> None:
    """A-IO-4 … 7."""
    sender = bus.peer()
    readers = [bus.peer(uid) for uid in range(256)]
    to = [reader.transfer(0x10, sender) for reader in readers]
    count = 1
    while count <= 256:
        assert sender.send(to[:count], bytes(1024)) == [0] * count
        for reader in readers[:count]:
            message = reader.recv()
            assert (message.type, message.n_bytes) == (MessageType.DATA, 1024)
            reader.free(message.offset)
        count *= 2


def test_release_and_destroy_work_once(bus: CoreBus) -> None:
    """A-OLD-1 … 5, A-XF-4, A-XF-5, with EREMOTE, EBUSY and ESTALE (H-43, H-61)."""
    one, two = bus.peer(), bus.peer()
    theirs = one.transfer(0x100, two)
    with Unchanged(bus, ForeignNode):
        two.destroy(theirs)
    two.release(theirs)
    with Unchanged(bus, NoSuchHandle):
        two.release(theirs)
    assert drain(one) == [("NODE_RELEASE", 0, 0x100)]
    with Unchanged(bus, Busy):
        one.release(0x100)
    one.destroy(0x100)
    with Unchanged(bus, AlreadyDestroyed):
        one.destroy(0x100)
    one.release(0x100)
    with Unchanged(bus, Busy):
        one.release(0x100)
    assert drain(one) == drain(two) == []


def test_an_owner_that_let_go_hears_nothing_but_once_notified_keeps_its_queue(bus: CoreBus) -> None:
    """A-OLD-5, N-30: the notification is dropped with the last reference."""
    one = bus.peer()
    one.destroy(0x100)
    assert drain(one) == [("NODE_DESTROY", 0, 0x100)]
    one.release(0x100)
    one.destroy(0x100)
    one.release(0x100)
    assert not one.is_readable()


def test_seed_is_set_replaced_and_consumed(bus: CoreBus) -> None:
    """A-OLD-6, S-2 … S-7: the handle array lies behind the payload."""
    memory = FlatMemory()
    peer = bus.peer(memory=memory)
    for payload in (b"first", b"seed 2"):
        peer.send([], payload, handles=[0x100], fds=[len(payload)], flags=SendFlag.SEED)
    assert bus.core.take_freed_fds() == [5]
    assert not peer.is_readable()
    for flags in (RecvFlag.SEED | RecvFlag.PEEK, RecvFlag.SEED | RecvFlag.INSTALL_FDS):
        message = peer.recv(flags)
        assert (message.type, message.flags, message.n_bytes) == (MessageType.DATA, 0, 6)
        assert memory.at(message.offset, 16) == b"seed 2\0\0" + (0x100).to_bytes(8, "little")
    assert message.fds == (6,) and bus.core.take_freed_fds() == [6]
    with Unchanged(bus, WouldBlock):
        peer.recv(RecvFlag.SEED)


def test_multicast_with_six_handles(bus: CoreBus) -> None:
    """A-XF-1 … 3, A-XF-6, A-XF-7, T-27."""
    sender, one, two = bus.peer(), bus.peer(), bus.peer()
    to_one, to_two = one.transfer(0x10, sender), two.transfer(0x10, sender)
    old = [0x100, 0x200]
    known = [[sender.transfer(node, reader) for node in old] for reader in (one, two)]
    sender.send([to_one, to_two], handles=[to_one, to_two, *old, 0x300, 0x400])
    siblings = []
    for own, reader, had in ((0, one, known[0]), (1, two, known[1])):
        message = reader.recv()
        assert len(message.handles) == 6 and message.fds == ()
        assert message.handles[own] == 0x10
        assert list(message.handles[2:4]) == had
        siblings.append(message.handles[1 - own])
        others = [message.handles[1 - own], *message.handles[4:]]
        assert all(handle & 3 == 3 for handle in others) and len(set(message.handles)) == 6
        for _ in range(2):
            reader.release(had[0])
        with Unchanged(bus, NoSuchHandle):
            reader.release(had[0])
        reader.destroy(0x10)
        reader.release(0x10)
        reader.release(0x10)
        with Unchanged(bus, Busy):
            reader.release(0x10)
    assert [drain(one), drain(two)] == [[("NODE_DESTROY", 0, sibling)] for sibling in siblings]


def test_destroy_with_release_frees_the_id_at_once(bus: CoreBus) -> None:
    """H-66, H-45: no NODE_DESTROY for the owner, queued messages to the node are gone (H-33)."""
    one, two = bus.peer(), bus.peer()
    theirs = one.transfer(0x100, two)
    two.send([theirs], b"late", handles=[0x700], fds=[9])
    one.destroy(0x100, 0x200, flags=DestroyFlag.RELEASE_HANDLES)
    assert not one.is_readable() and one.state()["handles"] == {}
    assert bus.core.take_freed_fds() == [9]
    assert drain(two) == [("NODE_DESTROY", 0, theirs), ("NODE_RELEASE", 0, 0x700)]
    assert one.transfer(0x100, two) != theirs


def test_destroy_with_release_keeps_what_has_more_references(bus: CoreBus) -> None:
    """H-65: a queued message to it is still delivered."""
    one = bus.peer()
    one.transfer(0x100)
    one.send([0x100])
    one.destroy(0x100, flags=DestroyFlag.RELEASE_HANDLES)
    assert drain(one) == [("DATA", 0, 0x100), ("NODE_DESTROY", 0, 0x100)]
    assert one.references(0x100) == 1


def test_hive_of_children_notifies_its_parent_once_per_child(bus: CoreBus) -> None:
    """A-HV-1, A-HV-2 (smaller)."""
    parent, children = bus.peer(), [bus.peer() for _ in range(100)]
    held = [child.transfer(0x100, parent) for child in children]
    for child in children:
        for handle in held[:10]:
            parent.transfer(handle, child)
    for child in children:
        child.disconnect()
    assert drain(parent) == [("NODE_DESTROY", 0, handle) for handle in held]


def test_unknown_ids_are_created_only_where_legal(bus: CoreBus) -> None:
    """H-13, H-14, H-21, T-21: 0 is a node id, bit 2 is free; MANAGED and REMOTE never."""
    peer = bus.peer()
    for number in (1, 2, 3, HANDLE_INVALID, 1 << 64, -4):
        with Unchanged(bus, NoSuchHandle):
            peer.transfer(number)
        with Unchanged(bus, NoSuchHandle):
            peer.send([0x100], handles=[number])
        with Unchanged(bus, NoSuchHandle):
            peer.destroy(number)
        with Unchanged(bus, NoSuchHandle):
            peer.release(number)
    for number in (0, 4, HANDLE_INVALID - 3):
        assert peer.transfer(number) == number


def test_a_message_to_the_owner_that_let_the_node_go_carries_invalid(bus: CoreBus) -> None:
    """N-30, N-31: the id may name another node by now."""
    one, two = bus.peer(), bus.peer()
    theirs, mailbox = one.transfer(0x100, two), one.transfer(0x10, two)
    two.send([mailbox], handles=[theirs])
    one.destroy(0x100)
    one.release(0x100)
    one.transfer(0x100, two)
    assert one.recv().handles == (HANDLE_INVALID,)
    assert not one.is_readable() and one.references(0x100) == 1


def test_a_flush_keeps_ids_limits_and_seed(bus: CoreBus) -> None:
    """P-34, P-36, P-37, S-12, S-13; FLUSH_SEED drops the seed as well."""
    one, two = bus.peer(), bus.peer()
    theirs = one.transfer(0x300, two)
    one.transfer(0x100, two)
    one.send([], b"s", handles=[0x300], fds=[8], flags=SendFlag.SEED)
    offset = one.recv(RecvFlag.SEED | RecvFlag.PEEK).offset
    two.send([theirs], b"dropped")
    one.reset(ResetFlag.FLUSH, max_slices=9)
    assert not one.is_readable() and list(one.state()["nodes"]) == [0x300]
    assert one.references(0x300) == 1 and one.state()["account"]["limits"]["slices"] == 9
    with Unchanged(bus, NoSuchHandle):
        one.free(offset)
    assert drain(two) == [("NODE_DESTROY", 0, 0x13)]
    assert two.transfer(0x500, one) == 0xB
    one.reset(ResetFlag.FLUSH | ResetFlag.FLUSH_SEED)
    assert bus.core.take_freed_fds() == [8]
    assert drain(two) == [("NODE_DESTROY", 0, theirs), ("NODE_RELEASE", 0, 0x500)]
    assert one.state()["account"]["used"] == {"slices": 0, "handles": 0, "bytes": 0, "fds": 0}
    assert two.transfer(0x500, one) == 0x13


def test_dropping_the_seed_alone_releases_its_nodes(bus: CoreBus) -> None:
    """S-9, S-11."""
    one, two = bus.peer(), bus.peer()
    foreign = two.transfer(0x10, one)
    one.send([], handles=[0x300, foreign], flags=SendFlag.SEED)
    one.release(foreign)
    assert drain(two) == []
    one.reset(ResetFlag.FLUSH_SEED)
    assert drain(one) == [("NODE_RELEASE", 0, 0x300)]
    assert drain(two) == [("NODE_RELEASE", 0, 0x10)]


def test_a_look_at_the_seed_changes_nothing(bus: CoreBus) -> None:
    peer = bus.peer()
    assert bus.core.seed_ahead(peer.number) is None
    peer.send([], b"seed", handles=[0x300], fds=[8], flags=SendFlag.SEED)
    before = bus.snapshot()
    seed = bus.core.seed_ahead(peer.number)
    assert seed is not None and bus.snapshot() == before
    assert (seed.destination, seed.n_bytes, seed.n_handles, seed.fds) == (HANDLE_INVALID, 4, 1, (8,))


def test_seed_handles_are_judged_at_fetch(bus: CoreBus) -> None:
    """S-10: no notification for what only the seed held."""
    one, two = bus.peer(), bus.peer()
    foreign = two.transfer(0x10, one)
    one.send([], handles=[foreign, 0x300], flags=SendFlag.SEED)
    one.release(foreign)
    two.destroy(0x10)
    assert one.recv(RecvFlag.SEED).handles == (HANDLE_INVALID, 0x300)
    assert drain(one) == []


@pytest.mark.parametrize("wants", [True, False])
def test_the_security_context_follows_the_receivers_wish_at_send(bus: CoreBus, wants: bool) -> None:
    """P-52, P-53: the room is reserved anyway; an empty context is one."""
    one, two = bus.peer(), bus.peer()
    to_two = two.transfer(0x10, one)
    two.reset(peer_flags=PeerFlag.WANT_SECCTX if wants else 0)
    for context in (b"label", b""):
        one.send([to_two], b"", secctx=context)
    two.reset(peer_flags=0 if wants else PeerFlag.WANT_SECCTX)
    for context in (b"label", b""):
        message = two.recv()
        assert message.secctx == (context if wants else None)
        assert bool(message.flags & MessageFlag.HAS_SECCTX) is wants
        assert (message.uid, message.gid, message.pid) == (1000, 100, 4242)


def test_flag_combinations(bus: CoreBus) -> None:
    """T-3, T-4, R-1, H-60, P-30."""
    peer = bus.peer()
    for flags in (3, 4, 6):
        with Unchanged(bus, InvalidArgument):
            peer.send([], flags=flags)
    for destinations, optional in (((0x100,), ()), ((), (0x100,))):
        with Unchanged(bus, InvalidArgument):
            peer.send(destinations, flags=SendFlag.SEED, optional=optional)
    with Unchanged(bus, InvalidArgument):
        peer.recv(8)
    with Unchanged(bus, InvalidArgument):
        peer.destroy(0x100, flags=2)


def test_a_set_of_more_nodes_than_the_user_may_hold_is_refused_unread() -> None:
    """H-61, T-2."""
    bus = CoreBus(Limits(handles=8))
    peer = bus.peer()
    with Unchanged(bus, InvalidArgument):
        peer.destroy(*[1] * 9)
    with Unchanged(bus, InvalidArgument):
        peer.send([1] * 9)
    peer.destroy()
    assert not peer.is_readable()


def test_payload_bounds() -> None:
    """T-10, T-11: 1024 parts, 2 GiB - 4 KiB in all, told before any quota."""
    bus = CoreBus()
    peer = bus.peer()
    piece: Buffer = bytes(4 << 20)
    fits: list[Buffer] = [piece] * 511 + [piece[4096:]]
    cases: list[tuple[list[Buffer], type[Bus1Error]]] = [
        ([piece[:0]] * 1025, TooLarge), ([piece] * 512, TooLarge), ([*fits, b"x"], TooLarge),
        (fits, QuotaExceeded),
    ]
    for parts, error in cases:
        with Unchanged(bus, error):
            bus.core.send(peer.number, [0x100], parts, credentials=peer.credentials)
    mixed: list[Buffer] = [b"ab", bytearray(3), memoryview(b"cdef")[::2], b""]
    bus.core.send(peer.number, [0x100], mixed, credentials=peer.credentials)
    assert peer.recv().n_bytes == 7
