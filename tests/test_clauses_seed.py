"""The seed message, clause by clause (S)."""

from __future__ import annotations

from collections.abc import Callable
from struct import pack
from typing import Any

import pytest
from core_bus import BusPeer, CoreBus, FlatMemory, Unchanged

from bus1.core.api import HANDLE_INVALID, Credentials, MessageType, PeerFlag, RecvFlag, ResetFlag, SendFlag
from bus1.errors import (
    Bus1Error,
    Busy,
    InvalidArgument,
    NoSuchHandle,
    OutOfMemory,
    OutOfRange,
    QuotaExceeded,
    TooLarge,
    WouldBlock,
)

SEED, PEEK = RecvFlag.SEED, RecvFlag.SEED | RecvFlag.PEEK
INSTALL_FDS = RecvFlag.INSTALL_FDS
FLUSH, FLUSH_SEED = ResetFlag.FLUSH, ResetFlag.FLUSH_SEED


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


@pytest.fixture
def memory() -> FlatMemory:
    return FlatMemory()


@pytest.fixture
def peer(bus: CoreBus, memory: FlatMemory) -> BusPeer:
    """The peer with the seed."""
    return bus.peer(1, memory)


@pytest.fixture
def other(bus: CoreBus) -> BusPeer:
    return bus.peer(2)


def plant(
    peer: BusPeer, payload: bytes = b"seed", handles: tuple[int, ...] = (), fds: tuple[int, ...] = ()
) -> None:
    assert peer.send([], payload, handles, fds, flags=SendFlag.SEED) == []


def used(peer: BusPeer) -> dict[str, int]:
    """What is charged to the peer."""
    counts: dict[str, int] = peer.state()["account"]["used"]
    return counts


def notified(peer: BusPeer) -> list[tuple[str, int]]:
    """Everything queued."""
    seen = []
    while peer.is_readable():
        message = peer.recv()
        seen.append((message.type.name, message.destination))
    return seen


# ---- setting it ------------------------------------------------------------------------------------


def test_a_peer_has_one_seed_and_nobody_elses(bus: CoreBus, peer: BusPeer, other: BusPeer) -> None:
    """S-1, S-6: not that of whose nodes it holds."""
    peer.transfer(0x100, other)
    plant(peer, b"first")
    plant(peer, b"second seed")
    plant(other, b"another's")
    assert (peer.recv(PEEK).n_bytes, other.recv(PEEK).n_bytes) == (11, 9)
    peer.recv(SEED)
    with Unchanged(bus, WouldBlock):
        peer.recv(SEED)
    assert other.recv(SEED).n_bytes == 9


def test_a_new_seed_takes_the_place_of_the_old_one(bus: CoreBus, peer: BusPeer, other: BusPeer) -> None:
    """S-2, S-11: which gives up its descriptors, its charge and its references."""
    foreign = other.transfer(0x10, peer)
    plant(peer, b"old", (foreign, 0x300), (7,))
    peer.release(foreign)
    plant(peer, b"new seed", (), (8, 9))
    assert bus.core.take_freed_fds() == [7]
    assert notified(other) == [("NODE_RELEASE", 0x10)] and notified(peer) == [("NODE_RELEASE", 0x300)]
    assert used(peer) == {"slices": 1, "handles": 1, "bytes": 16, "fds": 2}
    assert peer.recv(SEED | INSTALL_FDS).fds == (8, 9)


@pytest.mark.parametrize(
    "wrong",
    [
        {"destinations": [0x100]}, {"destinations": [], "optional": [0x100]},
        {"destinations": [], "flags": SendFlag.SEED | SendFlag.CONTINUE},
    ],
)
def test_a_seed_has_no_destinations_and_no_continue(
    bus: CoreBus, peer: BusPeer, wrong: dict[str, Any]
) -> None:
    """S-2."""
    plant(peer)
    with Unchanged(bus, InvalidArgument):
        peer.send(**{"flags": SendFlag.SEED, "payload": b"no", "handles": [0x300], **wrong})


def test_the_seed_is_charged_like_a_message_to_oneself(bus: CoreBus, peer: BusPeer) -> None:
    """S-3, Q-1, Q-4: slice, entries, bytes and descriptors; its share is that of its own user."""
    plant(peer, b"seed!", (0x300, 0x300, 0x400), (7, 8))
    assert used(peer) == {"slices": 1, "handles": 2 + 3, "bytes": 8 + 24 + 8, "fds": 2}
    shares = bus.snapshot()["users"][1]["shares"]
    assert shares == {1: {"slices": 1, "handles": 3, "bytes": 40, "fds": 2}}


@pytest.mark.parametrize(
    ("shortage", "wanted", "error"),
    [
        ({"max_slices": 1}, {}, QuotaExceeded),
        ({"max_handles": 5}, {"handles": (0x500, 0x600)}, QuotaExceeded),
        ({"max_inflight_bytes": 40}, {"payload": bytes(24)}, QuotaExceeded),
        ({"max_inflight_fds": 2}, {"fds": (8, 9)}, QuotaExceeded),
        ({}, {"payload": bytes(5 << 20)}, QuotaExceeded),
        ({}, {"handles": (0xB, 0x103)}, NoSuchHandle),
        ({}, {"fds": tuple(range(300))}, TooLarge),
        ({}, {}, OutOfMemory),
    ],
)
def test_what_cannot_be_set_leaves_the_old_seed(
    bus: CoreBus, peer: BusPeer, memory: FlatMemory, shortage: dict[str, int], wanted: dict[str, Any],
    error: type[Bus1Error],
) -> None:
    """S-3, E-3: whatever is short."""
    plant(peer, b"old seed", (0x300,), (7,))
    peer.reset(**shortage)
    memory.is_short = error is OutOfMemory
    with Unchanged(bus, error):
        plant(peer, **wanted)
    assert bus.core.take_freed_fds() == []
    assert peer.recv(SEED | INSTALL_FDS)[8:11] == (8, (0x300,), (7,))


def test_new_nodes_in_the_seed_are_the_peers(bus: CoreBus, peer: BusPeer) -> None:
    """S-4, H-22: whatever becomes of the seed; but not if it could not be set."""
    plant(peer, handles=(0x300, 0x400))
    plant(peer, handles=(0x500,))
    peer.reset(FLUSH_SEED)
    assert [peer.references(node) for node in (0x300, 0x400, 0x500)] == [1, 1, 1]
    assert peer.send([0x300, 0x400, 0x500]) == [0, 0, 0]
    with Unchanged(bus, NoSuchHandle):
        plant(peer, handles=(0x600, 0x103))
    with Unchanged(bus, Busy):
        peer.release(0x600)


def test_the_seed_is_not_queued(bus: CoreBus, peer: BusPeer) -> None:
    """S-5: it wakes nobody, addresses nothing, and comes with the credentials of who set it."""
    peer.reset(peer_flags=PeerFlag.WANT_SECCTX)
    setter = peer.credentials
    peer.send([], b"seed", flags=SendFlag.SEED, secctx=b"label")
    peer.credentials = Credentials(7, 8, 9)
    assert not peer.is_readable() and bus.core.take_woken() == []
    with Unchanged(bus, WouldBlock):
        peer.recv()
    peer.send([0x100, 0x200], b"queued")
    message = peer.recv(PEEK)
    assert (message.type, message.destination) == (MessageType.DATA, HANDLE_INVALID)
    assert (message.flags, message.secctx) == (1, b"label")
    assert (message.uid, message.gid, message.pid) == (setter.uid, setter.gid, setter.pid)
    assert [peer.recv().n_bytes for _ in range(2)] == [6, 6]


# ---- fetching it -----------------------------------------------------------------------------------


def test_without_a_seed_there_is_nothing_to_fetch(bus: CoreBus, peer: BusPeer) -> None:
    """S-6: though messages are queued."""
    peer.send([0x100], b"queued")
    for flags in (SEED, PEEK):
        with Unchanged(bus, WouldBlock):
            peer.recv(flags)


def test_fetching_consumes_the_seed_unless_it_is_peeked(bus: CoreBus, peer: BusPeer) -> None:
    """S-7."""
    plant(peer)
    assert [peer.recv(flags).n_bytes for flags in (PEEK, PEEK, SEED)] == [4, 4, 4]
    with Unchanged(bus, WouldBlock):
        peer.recv(PEEK)


def test_a_seed_is_received_as_messages_are(
    bus: CoreBus, peer: BusPeer, other: BusPeer, memory: FlatMemory
) -> None:
    """S-8, R-4, R-12: max_offset, descriptors, a reference per entry each time, one slice."""
    foreign = other.transfer(0x10, peer)
    plant(peer, b"seed!", (0x300, foreign, 0x300), (7,))
    with Unchanged(bus, OutOfRange):
        peer.recv(SEED, 39)
    charged = used(peer)["handles"]
    for count in (1, 2):
        peeked = peer.recv(PEEK | INSTALL_FDS, 40)
        assert (peeked.handles, peeked.fds) == ((0x300, foreign, 0x300), (7,))
        assert (peer.references(0x300), peer.references(foreign)) == (1 + 2 * count, 1 + count)
        assert used(peer)["handles"] == charged + 3 * count
    peer.reset(max_handles=charged + 8)
    with Unchanged(bus, QuotaExceeded):
        peer.recv(PEEK)
    message = peer.recv(SEED | INSTALL_FDS)
    assert (peer.references(0x300), peer.references(foreign)) == (7, 4)
    assert used(peer) == {"slices": 1, "handles": charged + 6, "bytes": 40, "fds": 0}
    assert memory.at(message.offset, 32) == b"seed!\0\0\0" + pack("<3Q", 0x300, foreign, 0x300)
    assert bus.core.take_freed_fds() == [7]
    peer.free(message.offset)
    assert used(peer)["slices"] == 0


def test_what_the_seed_carries_is_in_use(bus: CoreBus, peer: BusPeer, other: BusPeer) -> None:
    """S-9, N-11: no NODE_RELEASE, and a foreign handle comes back though all references were released."""
    foreign = other.transfer(0x10, peer)
    plant(peer, handles=(foreign, 0x300))
    peer.release(foreign)
    assert not other.is_readable()
    peer.release(peer.transfer(0x300))
    assert not peer.is_readable()
    fetched = peer.recv(PEEK).handles[0]
    assert fetched == foreign + 8
    peer.release(fetched)
    assert notified(other) == []


def test_whether_its_nodes_live_is_decided_at_each_fetch(
    bus: CoreBus, peer: BusPeer, other: BusPeer
) -> None:
    """S-10: and what died meanwhile is not charged."""
    foreign = other.transfer(0x10, peer)
    plant(peer, handles=(foreign, 0x300, 0x400))
    assert peer.recv(PEEK).handles == (foreign, 0x300, 0x400)
    other.destroy(0x10)
    assert peer.recv(PEEK).handles == (HANDLE_INVALID, 0x300, 0x400)
    peer.destroy(0x300)
    held = used(peer)["handles"]
    assert peer.recv(SEED).handles == (HANDLE_INVALID, HANDLE_INVALID, 0x400)
    assert used(peer)["handles"] == held - 2


# ---- losing it -------------------------------------------------------------------------------------

ENDS: list[Callable[[BusPeer], object]] = [
    plant,
    lambda peer: peer.reset(FLUSH_SEED),
    lambda peer: peer.reset(FLUSH | FLUSH_SEED),
    lambda peer: peer.recv(SEED),
    BusPeer.disconnect,
]


@pytest.mark.parametrize("end", ENDS, ids=["replace", "drop", "flush", "consume", "disconnect"])
def test_a_seed_that_is_gone_has_given_everything_up(
    bus: CoreBus, peer: BusPeer, other: BusPeer, end: Callable[[BusPeer], object]
) -> None:
    """S-11: its references and its descriptors, however it went."""
    foreign = other.transfer(0x10, peer)
    plant(peer, b"a seed of some length", (foreign,), (7, 8))
    peer.release(foreign)
    end(peer)
    assert bus.core.take_freed_fds() == [7, 8]
    if end is ENDS[3]:
        peer.release(foreign + 8)
    assert notified(other) == [("NODE_RELEASE", 0x10)]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("end", ENDS[:2], ids=["replace", "drop"])
def test_its_slice_goes_with_it_unless_it_is_published(
    bus: CoreBus, peer: BusPeer, memory: FlatMemory, end: Callable[[BusPeer], object], published: bool
) -> None:
    """S-11, Q-16: then it waits for its release."""
    plant(peer, b"a seed of some length")
    if published:
        peer.recv(PEEK)
    end(peer)
    new = 1 if end is plant else 0
    assert (used(peer)["slices"], used(peer)["bytes"]) == (new + published, 8 * new + 24 * published)
    if published:
        assert memory.at(0, 21) == b"a seed of some length"
        peer.free(0)
    with Unchanged(bus, NoSuchHandle):
        peer.free(0)
    assert used(peer)["slices"] == new


def test_a_flush_keeps_the_nodes_of_the_seed(bus: CoreBus, peer: BusPeer, other: BusPeer) -> None:
    """S-12: with id and pinned reference; further references, other nodes and foreign handles go."""
    theirs = [peer.transfer(node, other) for node in (0x300, 0x400, 0x500)]
    foreign = other.transfer(0x10, peer)
    plant(peer, handles=(0x300, foreign, 0x500))
    peer.recv(PEEK)
    peer.transfer(0x400)
    peer.reset(FLUSH)
    assert notified(other) == [("NODE_DESTROY", theirs[1])] and notified(peer) == []
    assert [peer.references(handle) for handle in (0x300, 0x400, 0x500, foreign)] == [1, 0, 1, 0]
    assert other.send([theirs[0], theirs[2]]) == [0, 0]
    assert notified(peer) == [("DATA", 0x300), ("DATA", 0x500)]
    for handle in theirs:
        other.release(handle)
    assert notified(peer) == []
    peer.recv(SEED)
    peer.release(0x300)
    assert notified(peer) == [("NODE_RELEASE", 0x300)]


def test_a_dead_node_in_the_seed_does_not_outlive_a_flush(bus: CoreBus, peer: BusPeer) -> None:
    """S-12, S-10: there is nothing left to protect."""
    plant(peer, handles=(0x300, 0x400))
    peer.destroy(0x300)
    peer.reset(FLUSH)
    assert (peer.references(0x300), peer.references(0x400)) == (0, 1)
    assert peer.recv(SEED).handles == (HANDLE_INVALID, 0x400)


def test_the_seed_itself_survives_such_a_flush(
    bus: CoreBus, peer: BusPeer, other: BusPeer, memory: FlatMemory
) -> None:
    """S-13: slice, descriptors and entries; not what was queued for its nodes, nor that it was published."""
    theirs, foreign = peer.transfer(0x300, other), other.transfer(0x10, peer)
    plant(peer, b"seed", (0x300, foreign), (7,))
    offset = peer.recv(PEEK).offset
    other.send([theirs], b"queued", fds=[8])
    peer.reset(FLUSH)
    assert not peer.is_readable() and bus.core.take_freed_fds() == [8]
    with Unchanged(bus, NoSuchHandle):
        peer.free(offset)
    assert used(peer) == {"slices": 1, "handles": 1 + 2, "bytes": 32, "fds": 1}
    assert memory.at(offset, 4) == b"seed" and not other.is_readable()
    message = peer.recv(SEED | INSTALL_FDS)
    assert (message.offset, message.n_bytes, message.fds) == (offset, 4, (7,))
    peer.free(offset)


def test_a_foreign_handle_in_the_seed_gets_a_new_id_after_a_flush(
    bus: CoreBus, peer: BusPeer, other: BusPeer
) -> None:
    """S-14, H-12: until then it has none."""
    foreign = other.transfer(0x10, peer)
    plant(peer, handles=(foreign,))
    peer.reset(FLUSH)
    for _ in range(2):
        with Unchanged(bus, NoSuchHandle):
            peer.transfer(foreign)
        fetched = peer.recv(PEEK).handles[0]
        assert fetched == foreign + 8
        peer.release(fetched)
        foreign = fetched
    assert notified(other) == []
