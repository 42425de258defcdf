"""Pools: placement, publication, segments that come and go."""

from __future__ import annotations

from itertools import pairwise

import pytest
from core_bus import MIB, CoreBus, FlatMemory, Unchanged
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.account import Ledger
from bus1.core.api import Limits, Message, RecvFlag, ResetFlag
from bus1.core.pool import ADDRESS_SPACE, Gaps, Pool
from bus1.core.sequencer import Sequencer
from bus1.errors import NoSuchHandle, OutOfMemory, PoolFull, TooLarge
from bus1.memory import HeapMemory

LARGE = 2 * MIB
"""A slice of that size has a segment of its own."""
WIDE = Limits(10**6, 10**6, 1 << 40, 10**6)


class Pair:
    """A sender and a reader with a pool that can be looked into; quotas are no matter."""

    def __init__(self) -> None:
        self.bus = CoreBus(WIDE)
        self.memory = FlatMemory()
        self.reader = self.bus.peer(1, self.memory)
        self.sender = self.bus.peer(2)
        self.to = self.reader.transfer(0x10, self.sender)

    def pass_on(self, size: int) -> Message:
        self.sender.send([self.to], bytes([size % 251]) * size)
        return self.reader.recv()


@pytest.fixture
def pair() -> Pair:
    return Pair()


def test_best_fit_takes_the_smallest_gap_at_its_start(pair: Pair) -> None:
    """L-4: deterministic, low offsets first, neighbours merge."""
    slices = [pair.pass_on(size) for size in (64, 8, 32, 8, 64, 8)]
    assert [m.offset for m in slices] == [0, 64, 72, 104, 112, 176]
    for index in (0, 2, 4):
        pair.reader.free(slices[index].offset)
    assert pair.pass_on(30).offset == 72
    assert pair.pass_on(64).offset == 0
    assert pair.pass_on(16).offset == 112
    pair.reader.free(slices[3].offset)
    assert pair.pass_on(8).offset == 104


def test_payload_padding_shows_no_old_bytes(pair: Pair) -> None:
    """R-43."""
    pair.reader.free(pair.pass_on(64).offset)
    message = pair.pass_on(5)
    assert pair.memory.at(0, 8) == bytes([5]) * 5 + bytes(3)
    pair.reader.free(message.offset)
    pair.sender.send([pair.to], b"ab", fds=[5, 6, 7])
    pair.reader.recv()
    assert pair.memory.at(0, 24) == b"ab" + bytes(22)
    assert pair.memory.at(pair.pass_on(0).offset, 8) == bytes(8)


def test_large_slices_have_a_segment_of_their_own(pair: Pair) -> None:
    first, second = pair.pass_on(LARGE), pair.pass_on(LARGE + 1)
    small = pair.pass_on(8)
    assert [m.offset for m in (first, second, small)] == [0, LARGE, 2 * LARGE + 4096]
    assert sorted((base, len(data)) for base, data in pair.memory.segments.values()) == [
        (0, LARGE), (LARGE, LARGE + 4096), (2 * LARGE + 4096, 4 * MIB),
    ]
    for message in (small, second, first):
        assert pair.memory.segments
        pair.reader.free(message.offset)
    assert pair.memory.segments == {}
    assert pair.bus.core.take_retired() == [(pair.reader.number, 3)]
    pair.bus.core.segment_unmapped(pair.reader.number, 3)
    assert pair.pass_on(8).offset == 0


def test_a_shared_segment_is_opened_at_the_lowest_address(pair: Pair) -> None:
    first = pair.pass_on(5 * MIB)
    pair.pass_on(LARGE)
    pair.reader.free(first.offset)
    assert pair.pass_on(8).offset == 0


def test_gaps_do_not_merge_across_segments(pair: Pair) -> None:
    """L-4."""
    half = [pair.pass_on(MIB // 2) for _ in range(10)]
    for index in (8, 7):
        pair.reader.free(half[index].offset)
    assert pair.pass_on(MIB - 8).offset == 5 * MIB


def test_slices_never_cross_shared_segments(pair: Pair) -> None:
    messages = [pair.pass_on(MIB - 8) for _ in range(9)]
    assert [m.offset // (4 * MIB) for m in messages] == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    for message in messages:
        pair.reader.free(message.offset)
    assert [base for base, _ in pair.memory.segments.values()] == [0]
    assert pair.bus.core.take_retired() == []


def test_while_slices_are_left_one_empty_segment_stays_and_no_other(pair: Pair) -> None:
    """A long queue of large messages opens no segment again and again, nor keeps what it once had."""
    queue = [pair.pass_on(MIB) for _ in range(12)]
    seen = []
    for message in queue[:4] + queue[8:] + queue[5:8]:
        pair.reader.free(message.offset)
        seen.append([base // MIB for base, _ in pair.memory.segments.values()])
    assert seen == [[0, 4, 8]] * 7 + [[0, 4]] * 4
    assert pair.pass_on(MIB).offset == 5 * MIB
    for offset in (4 * MIB, 5 * MIB):
        pair.reader.free(offset)
    assert [base for base, _ in pair.memory.segments.values()] == [0]


def test_a_segment_that_may_be_mapped_stays_charged_until_unmapped(pair: Pair) -> None:
    """L-10."""
    message = pair.pass_on(LARGE)
    pair.reader.free(message.offset, unmapped=False)
    assert pair.bus.core.take_retired() == [(pair.reader.number, 1)]
    assert (pair.reader.used("bytes"), pair.reader.used("slices")) == (LARGE, 0)
    assert pair.memory.segments == {}
    assert pair.pass_on(LARGE).offset == LARGE
    pair.bus.core.segment_unmapped(pair.reader.number, 1)
    assert pair.reader.used("bytes") == LARGE
    with Unchanged(pair.bus, NoSuchHandle):
        pair.bus.core.segment_unmapped(pair.reader.number, 1)
    assert pair.pass_on(LARGE).offset == 0


def test_a_flush_retires_what_was_published_and_nothing_else(pair: Pair) -> None:
    pair.pass_on(LARGE)
    pair.sender.send([pair.to], bytes(LARGE))
    pair.bus.core.take_retired()
    pair.reader.reset(ResetFlag.FLUSH)
    assert pair.bus.core.take_retired() == [(pair.reader.number, 1)]
    assert pair.reader.used("bytes") == LARGE
    pair.reader.disconnect()
    assert pair.bus.snapshot()["users"][2]["used"]["bytes"] == 0
    assert 1 not in pair.bus.snapshot()["users"]
    assert pair.bus.core.take_retired() == []


def test_only_a_published_slice_can_be_released_and_once(pair: Pair) -> None:
    """L-8: the middle, an undelivered message, a second release: ENXIO."""
    pair.sender.send([pair.to], bytes(64))
    with Unchanged(pair.bus, NoSuchHandle):
        pair.reader.free(0)
    message = pair.reader.recv()
    for offset in (8, 64, -1, 1 << 40):
        with Unchanged(pair.bus, NoSuchHandle):
            pair.reader.free(offset)
    pair.reader.free(message.offset)
    with Unchanged(pair.bus, NoSuchHandle):
        pair.reader.free(message.offset)


def test_a_peeked_slice_may_be_released_and_comes_back_at_its_place(pair: Pair) -> None:
    """L-9, R-13; the memory stays with the message."""
    pair.sender.send([pair.to], b"12345678", handles=[0x100])
    peeked = pair.reader.recv(RecvFlag.PEEK)
    pair.reader.free(peeked.offset)
    pair.sender.send([pair.to], b"behind")
    assert pair.reader.state()["queue"][-1]["slice"][0] == 16
    again = pair.reader.recv()
    assert again.offset == peeked.offset
    assert pair.memory.at(again.offset, 16) == b"12345678" + (0xB).to_bytes(8, "little")
    pair.reader.free(again.offset)
    assert pair.reader.used("slices") == 1


def test_a_failed_allocation_restores_the_pool(pair: Pair) -> None:
    pair.memory.is_short = True
    for size in (8, LARGE):
        with Unchanged(pair.bus, OutOfMemory):
            pair.sender.send([pair.to], bytes(size))


def bare_pool() -> Pool:
    return Pool(1, Ledger(WIDE).open(1, None, 0), HeapMemory(), Sequencer())


def test_the_address_space_ends_below_4_gib() -> None:
    """L-2, L-3: EXFULL when no gap is large enough, EMSGSIZE beyond any pool."""
    pool = bare_pool()
    with pytest.raises(TooLarge):
        pool.allocate(ADDRESS_SPACE + 1, 0)
    for _ in range(3):
        pool.allocate(1 << 30, 0)
    last = pool.allocate((1 << 30) - 4096, 0)
    assert last.offset == 3 << 30
    for size in (8, LARGE):
        with pytest.raises(PoolFull):
            pool.allocate(size, 0)
    pool.cancel(last)
    assert pool.allocate(8, 0).offset == 3 << 30


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 60)), max_size=60))
def test_gaps_and_taken_ranges_tile_the_space(steps: list[tuple[int, int]]) -> None:
    gaps = Gaps()
    gaps.give(0, 400)
    taken: list[tuple[int, int]] = []
    for which, size in steps:
        if which < len(taken) and size % 2:
            gaps.give(*taken.pop(which))
        else:
            fitting = sorted((room, start) for start, room in gaps.starts.items() if room >= size)
            start = gaps.take(size)
            assert start == (fitting[0][1] if fitting else -1)
            if start >= 0:
                taken.append((start, size))
        covered = sorted([*taken, *gaps.starts.items()])
        assert [start for start, _ in covered] == [
            sum(size for _, size in covered[:i]) for i in range(len(covered))
        ]
        assert sum(size for _, size in covered) == 400
        free = sorted(gaps.starts.items())
        assert all(a + n < b for (a, n), (b, _) in pairwise(free))


def test_heap_pools_share_the_buffers_of_a_multicast() -> None:
    bus = CoreBus()
    sender, readers = bus.peer(), [bus.peer(), bus.peer()]
    payload = b"shared"
    sender.send([reader.transfer(0x10, sender) for reader in readers], payload)
    for reader in readers:
        (ahead,) = bus.core.ahead(reader.number)
        assert ahead.parts[0] is payload
        message = reader.recv()
        reader.free(message.offset)
        assert bus.core.ahead(reader.number) == []

