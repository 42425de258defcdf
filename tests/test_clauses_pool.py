"""Pools and slices, clause by clause (L): what a peer sees of its memory, and when it gets it back."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import closing, suppress
from struct import pack

import pytest
from core_bus import MIB, BusPeer, CoreBus, FlatMemory, Unchanged

from bus1.core.api import Limits, Message, RecvFlag, ResetFlag, SendFlag
from bus1.core.choice import SealedMemory
from bus1.errors import NoSuchHandle, PeerShutdown, PoolFull

WIDE = Limits(10**6, 10**6, 1 << 40, 10**6)
"""Quotas are no matter here."""


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus(WIDE)


@pytest.fixture
def memory() -> FlatMemory:
    return FlatMemory()


@pytest.fixture
def reader(bus: CoreBus, memory: FlatMemory) -> BusPeer:
    return bus.peer(1, memory)


@pytest.fixture
def sender(bus: CoreBus) -> BusPeer:
    return bus.peer(2)


@pytest.fixture
def to(reader: BusPeer, sender: BusPeer) -> int:
    return reader.transfer(0x10, sender)


class SealedPeer:
    """A peer with the memory of a peer in another process, and the mappings that this one would make."""

    def __init__(self, bus: CoreBus) -> None:
        self.memory = SealedMemory()
        self.peer = bus.peer(1, self.memory)

    def map(self, offset: int) -> mmap.mmap:
        """A read-only mapping of the segment in which ``offset`` lies."""
        segment = self.memory.segment_at(offset)
        assert segment is not None
        return mmap.mmap(segment.fd, segment.size, mmap.MAP_SHARED, mmap.PROT_READ)


@pytest.fixture
def sealed(bus: CoreBus) -> Iterator[SealedPeer]:
    made = SealedPeer(bus)
    yield made
    with suppress(PeerShutdown):
        made.peer.disconnect()


def use(peer: BusPeer) -> tuple[int, int]:
    """Slices and bytes that are charged to the peer; they must be its user's as well."""
    user = peer.core.snapshot()["users"][peer.credentials.uid]["used"]
    assert (user["slices"], user["bytes"]) == (peer.used("slices"), peer.used("bytes"))
    return user["slices"], user["bytes"]


def test_a_pool_grows_by_sealed_segments_that_map_read_only(
    bus: CoreBus, sealed: SealedPeer, sender: BusPeer
) -> None:
    """L-1, L-5: nothing before the first message; small ones share a segment, a large one has its own."""
    to = sealed.peer.transfer(0x10, sender)
    assert sealed.memory.segment_at(0) is None
    payloads = [b"small", b"another", bytes(range(256)) * 8192]
    for payload in payloads:
        sender.send([to], payload)
    offsets = []
    for payload in payloads:
        message = sealed.peer.recv()
        with closing(sealed.map(message.offset)) as seen:
            segment = sealed.memory.segment_at(message.offset)
            assert segment is not None
            start = message.offset - segment.base
            assert seen[start : start + message.n_bytes] == payload
            with pytest.raises(TypeError):
                seen[start] = 0
            with pytest.raises(PermissionError):
                mmap.mmap(segment.fd, segment.size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        offsets.append(message.offset)
    assert offsets == [0, 8, 4 * MIB]


def test_the_first_slice_of_an_empty_pool_is_at_zero(reader: BusPeer, sender: BusPeer, to: int) -> None:
    """L-2: a large one in a new pool, a small one always."""
    for size in (3 * MIB, 0, 100, MIB - 8, 8):
        sender.send([to], bytes(size))
        message = reader.recv()
        assert message.offset == 0
        reader.free(0)


def test_the_pool_ends_before_its_address_of_all_ones(bus: CoreBus) -> None:
    """L-2, L-3: 4 GiB do not fit, and less does; nothing is copied here."""
    reader, sender = bus.peer(1), bus.peer(2)
    to = reader.transfer(0x10, sender)
    mebibyte = bytes(MIB)

    def send(n: int) -> None:
        bus.core.send(sender.number, [to], [mebibyte] * n, credentials=sender.credentials)

    for _ in range(3):
        send(1024)
    with Unchanged(bus, PoolFull):
        send(1024)
    send(1023)
    assert [reader.recv().offset for _ in range(4)] == [0, 1 << 30, 2 << 30, 3 << 30]


def test_offsets_and_sizes_are_multiples_of_8(reader: BusPeer, sender: BusPeer, to: int) -> None:
    """L-3: whatever the parts; and slices do not overlap."""
    end = 0
    for n in (0, 1, 7, 8, 9, 63, 1001):
        sender.send([to], bytes(n), handles=[0x100] * (n % 3), fds=list(range(n % 4)), secctx=bytes(n % 5))
        message = reader.recv()
        assert (message.offset % 8, message.size % 8) == (0, 0) and message.size >= 8
        assert message.offset == end
        end += message.size


def test_the_smallest_gap_is_taken_at_its_start_and_the_lowest_of_equals(
    reader: BusPeer, sender: BusPeer, to: int
) -> None:
    """L-4: neighbours merge, on both sides."""
    offsets = []
    for size in (24, 8, 16, 8, 16, 8, 64, 8):
        sender.send([to], bytes(size))
        offsets.append(reader.recv().offset)
    for index in (4, 2, 0):
        reader.free(offsets[index])

    def placed(size: int) -> int:
        sender.send([to], bytes(size))
        return reader.recv().offset

    assert [placed(16), placed(8), placed(16), placed(8), placed(8)] == [
        offsets[2], offsets[4], offsets[0], offsets[0] + 16, offsets[4] + 8,
    ]
    for offset in (offsets[4], offsets[6], offsets[4] + 8, offsets[5]):
        reader.free(offset)
    assert placed(104) == offsets[7] + 8
    assert placed(88) == offsets[4]


def test_a_published_slice_does_not_change_until_it_is_released(
    bus: CoreBus, sealed: SealedPeer, sender: BusPeer
) -> None:
    """L-6, L-13: others come and go around it; its segment can be read whole, unreceived slices too."""
    to = sealed.peer.transfer(0x10, sender)
    sender.send([to], b"published", handles=[0x100])
    message = sealed.peer.recv()
    with closing(sealed.map(0)) as seen:
        before = seen[: message.size]
        for _ in range(3):
            sender.send([to], b"around", handles=[0x200])
            sealed.peer.free(sealed.peer.recv().offset)
        sealed.peer.send([0x20], b"own")
        sender.send([to], b"not received")
        assert seen[: message.size] == before
        assert b"not received" in seen[message.size : 4096]
        assert len(seen[:]) == 4 * MIB


@pytest.mark.parametrize("drained", [False, True])
def test_a_received_slice_stays_until_its_start_is_released(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, memory: FlatMemory, to: int, drained: bool
) -> None:
    """L-7, L-8: though its message is long gone."""
    for payload in (b"1st", b"a second"):
        sender.send([to], payload)
    first = reader.recv()
    if drained:
        reader.recv()
    sender.send([to], b"a third message")
    assert memory.at(first.offset, 3) == b"1st"
    for wrong in (first.offset + 1, first.offset + first.size - 1, 16, 8 if not drained else 24):
        with Unchanged(bus, NoSuchHandle):
            reader.free(wrong)
    reader.free(first.offset)
    with Unchanged(bus, NoSuchHandle):
        reader.free(first.offset)


def test_the_two_holds_on_a_slice_are_independent(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, memory: FlatMemory, to: int
) -> None:
    """L-9: neither is the last one's business; charged until both are gone."""
    sender.send([to], b"peeked..")
    reader.recv(RecvFlag.PEEK)
    reader.free(0)
    assert use(reader) == (1, 8) and memory.at(0, 8) == b"peeked.."
    with Unchanged(bus, NoSuchHandle):
        reader.free(0)
    reader.recv()
    assert use(reader) == (1, 8) and memory.at(0, 8) == b"peeked.."
    reader.free(0)
    assert use(reader) == (0, 0)


@pytest.mark.parametrize("again", ["another message", "the same one", "the seed"])
def test_a_serial_means_one_publication_and_no_other_at_its_offset(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, to: int, again: str
) -> None:
    """L-8, R-13, S-13: after a release, and after a flush; without a serial, whichever is there."""
    if again == "the seed":
        reader.send([], b"the seed", flags=SendFlag.SEED)
        first = reader.recv(RecvFlag.SEED | RecvFlag.PEEK)
        reader.reset(ResetFlag.FLUSH)
        second = reader.recv(RecvFlag.SEED)
    else:
        sender.send([to], b"message.")
        first = reader.recv(RecvFlag.PEEK if again == "the same one" else 0)
        reader.free(first.offset, serial=first.serial)
        if again == "another message":
            sender.send([to], b"another.")
        second = reader.recv()
    assert second.offset == first.offset and first.serial != second.serial
    for serial in (first.serial, second.serial + 1):
        with Unchanged(bus, NoSuchHandle, "serial"):
            reader.free(second.offset, serial=serial)
    reader.free(second.offset, serial=second.serial)
    assert use(reader) == (0, 0)


def test_a_slice_that_is_received_again_keeps_its_serial(reader: BusPeer, sender: BusPeer, to: int) -> None:
    """R-13: one publication, however often it is looked at."""
    sender.send([to], b"message.")
    assert reader.recv(RecvFlag.PEEK).serial == reader.recv(RecvFlag.PEEK).serial == reader.recv().serial == 1
    reader.free(0)
    assert use(reader) == (0, 0)


@pytest.mark.parametrize("size", [8, 1000, MIB, 2 * MIB + 5])
def test_slice_release_gives_slice_and_bytes_back_at_once(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, to: int, size: int
) -> None:
    """L-10: to the peer and its user; the room is used again."""
    sender.send([to], bytes(16))
    sender.send([to], bytes(size))
    messages = [reader.recv(), reader.recv()]
    assert use(reader) == (2, 16 + messages[1].size)
    reader.free(messages[1].offset)
    assert use(reader) == (1, 16)
    sender.send([to], bytes(size))
    assert reader.recv().offset == messages[1].offset


def test_what_the_peer_may_map_is_charged_until_it_is_unmapped(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, to: int
) -> None:
    """L-10: the slice returns at once; the bytes, and the addresses, of the segment's last one do not."""
    size = 2 * MIB
    sender.send([to], bytes(size))
    reader.free(reader.recv().offset, unmapped=False)
    assert use(reader) == (0, size)
    ((peer, generation),) = bus.core.take_retired()
    sender.send([to], bytes(size))
    assert reader.recv().offset == size
    bus.core.segment_unmapped(peer, generation)
    assert use(reader) == (1, size)


def both_kinds(reader: BusPeer, sender: BusPeer, to: int) -> Message:
    """One slice that is published, one with a peeked message, one with a queued one."""
    for payload in (b"published", b"peeked", b"queued"):
        sender.send([to], payload)
    message = reader.recv()
    reader.recv(RecvFlag.PEEK)
    return message


def test_a_flush_releases_all_slices_but_the_seeds(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, memory: FlatMemory, to: int
) -> None:
    """L-11, S-13: which is not published any more."""
    reader.send([], b"the seed", flags=SendFlag.SEED)
    offset = reader.recv(RecvFlag.SEED | RecvFlag.PEEK).offset
    published = both_kinds(reader, sender, to)
    reader.reset(ResetFlag.FLUSH)
    assert use(reader) == (1, 8) and memory.at(offset, 8) == b"the seed"
    for released in (offset, published.offset):
        with Unchanged(bus, NoSuchHandle):
            reader.free(released)
    reader.reset(ResetFlag.FLUSH | ResetFlag.FLUSH_SEED)
    assert use(reader) == (0, 0)


def test_a_disconnect_releases_all_slices(
    bus: CoreBus, reader: BusPeer, sender: BusPeer, memory: FlatMemory, to: int
) -> None:
    """L-11: of its user nothing is charged any more, and no segment is left."""
    other = bus.peer(1)
    reader.send([], b"the seed", flags=SendFlag.SEED)
    both_kinds(reader, sender, to)
    reader.disconnect()
    assert use(other) == (0, 0) and memory.segments == {}


@pytest.mark.parametrize("end", ["disconnect", "flush"])
def test_a_mapping_outlives_what_it_showed(
    bus: CoreBus, sealed: SealedPeer, sender: BusPeer, end: str
) -> None:
    """L-12: it can still be read, whatever it contains."""
    sender.send([sealed.peer.transfer(0x10, sender)], bytes(range(256)) * 10_000)
    offset = sealed.peer.recv().offset
    with closing(sealed.map(offset)) as seen:
        if end == "disconnect":
            sealed.peer.disconnect()
        else:
            sealed.peer.reset(ResetFlag.FLUSH)
        assert sealed.memory.segment_at(offset) is None
        assert len(seen[:]) >= 256 * 10_000


def test_the_payload_is_in_the_pool_when_send_has_returned(
    reader: BusPeer, sender: BusPeer, memory: FlatMemory, to: int
) -> None:
    """L-13: RECV adds the ids, which nobody can know before."""
    known = sender.transfer(0x100, reader)
    sender.send([to], b"payload.", handles=[0x100, 0x200])
    assert memory.at(0, 8) == b"payload."
    reader.release(known)
    assert reader.recv().handles == (known + 8, known + 16)
    assert memory.at(0, 24) == b"payload." + pack("<2Q", known + 8, known + 16)
