"""pool: where the slices of one peer lie.

Theory. A pool is an address space of 2**32 - 1 bytes (L-2) in which segments come and go. Slices of
less than 1 MiB share segments of 4 MiB, opened when none has room, at the lowest address that fits;
a larger slice has a segment of its own, rounded up to pages, at the best fit. Inside, placement is
best fit, too (L-4): the smallest gap that holds the slice, the lowest of equals, the slice at its
start. Neighbouring gaps merge, but not across segments.

A slice has two independent holds (L-9): *pinned* by its message, *published* to the peer. It is free
when both are gone. Each publication has a *serial* of its own, so that who remembers one that is over
cannot end that which lies at its offset now.

An emptied segment is closed; only a shared one at address 0 stays, or the last shared one while
slices are left, so that a busy pool does not open and close one per message, and the first slice of
an empty pool of small slices is at offset 0. If the peer may have mapped what is closed, it is
*retired*: the address range and the bytes of the last slice stay taken until the peer has unmapped it.

Invariants. 1. Gaps and slices tile the shared segments. 2. ``cancel``, in the reverse order of
``allocate``, restores the very state from before. 3. Generations of segments that anybody could
have seen are never reused.

Not here: bytes (``Memory``), what a slice contains (``delivery``).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Container, Sequence

from ..errors import NoSuchHandle, PoolFull, TooLarge
from .account import BYTES, SLICES, Account
from .api import Buffer, Memory
from .sequencer import Sequencer

ADDRESS_SPACE = 0xFFFF_FFFF
OWN_SEGMENT = 1 << 20
SHARED_SEGMENT = 4 << 20
PAGE = 4096
PADDING = tuple(bytes(n) for n in range(9))


class Gaps:
    """Free ranges, best fit; never merged across the addresses in ``fences``."""

    __slots__ = ("_fences", "_sorted", "ends", "starts")

    def __init__(self, fences: Container[int] = ()) -> None:
        self._fences = fences
        self._sorted: list[tuple[int, int]] = []
        self.starts: dict[int, int] = {}
        self.ends: dict[int, int] = {}

    def take(self, size: int) -> int:
        """The start of ``size`` bytes at the best fit; -1 if there is none."""
        i = bisect_left(self._sorted, (size, 0))
        if i == len(self._sorted):
            return -1
        room, start = self._sorted[i]
        self._cut(i, start, room, size)
        return start

    def find(self, size: int) -> int:
        """What ``take`` would give."""
        i = bisect_left(self._sorted, (size, 0))
        return -1 if i == len(self._sorted) else self._sorted[i][1]

    def take_lowest(self, size: int) -> int:
        """As ``take``, but at the lowest address."""
        start = min((start for start, room in self.starts.items() if room >= size), default=-1)
        if start >= 0:
            self.take_at(start, size)
        return start

    def take_at(self, start: int, size: int) -> None:
        """Take ``size`` bytes from the gap that begins at ``start``."""
        room = self.starts[start]
        self._cut(bisect_left(self._sorted, (room, start)), start, room, size)

    def give(self, start: int, size: int) -> None:
        """Free a range; it merges with its neighbours."""
        end = start + size
        if end in self.starts and end not in self._fences:
            room = self.starts.pop(end)
            del self._sorted[bisect_left(self._sorted, (room, end))]
            end += room
        if start in self.ends and start not in self._fences:
            left = self.ends.pop(start)
            room = self.starts[left]
            del self._sorted[bisect_left(self._sorted, (room, left))]
            start = left
        self.starts[start] = end - start
        self.ends[end] = start
        insort(self._sorted, (end - start, start))

    def _cut(self, i: int, start: int, room: int, size: int) -> None:
        del self._sorted[i]
        del self.starts[start]
        if room == size:
            del self.ends[start + room]
        else:
            self.starts[start + size] = room - size
            self.ends[start + room] = start + size
            insort(self._sorted, (room - size, start + size))


class Segment:
    """A contiguous piece of a pool."""

    __slots__ = ("base", "exposed", "fresh", "generation", "shared", "size", "slices")

    def __init__(self, generation: int, base: int, size: int, shared: bool) -> None:
        self.generation = generation
        self.base = base
        self.size = size
        self.shared = shared
        self.slices = 0
        self.fresh = True
        """No command that uses it has been committed yet."""
        self.exposed = False
        """The peer has been told of a slice in it, so it may be mapped."""


class Slice:
    """A range of a pool for one message; ``charged`` bytes are booked for it."""

    __slots__ = ("charged", "offset", "pinned", "published", "segment", "serial", "size")

    def __init__(self, offset: int, size: int, charged: int, segment: Segment) -> None:
        self.offset = offset
        self.size = size
        self.charged = charged
        self.segment = segment
        self.pinned = True
        self.published = False
        self.serial = 0
        """Of its latest publication."""


class Pool:
    """The slices of one peer."""

    __slots__ = (
        "_bases", "_gaps", "_sequencer", "_shared", "_space", "account", "generation", "memory", "number",
        "published", "retired", "segments", "serial", "slices",
    )

    def __init__(self, number: int, account: Account, memory: Memory, sequencer: Sequencer) -> None:
        self.number = number
        self.account = account
        self.memory = memory
        self._sequencer = sequencer
        self._space = Gaps()
        self._space.give(0, ADDRESS_SPACE)
        self._bases: list[int] = []
        self._shared: dict[int, Segment] = {}
        self._gaps = Gaps(self._shared)
        self.segments: dict[int, Segment] = {}
        self.published: dict[int, Slice] = {}
        self.retired: dict[int, tuple[Segment, int]] = {}
        self.generation = 0
        self.serial = 0
        self.slices = 0

    def allocate(self, size: int, charged: int) -> Slice:
        """A pinned slice, its memory reserved; TooLarge, PoolFull or OutOfMemory change nothing."""
        if size > ADDRESS_SPACE:
            raise TooLarge(f"a slice of {size} bytes")
        if size >= OWN_SEGMENT:
            rounded = (size + PAGE - 1) & -PAGE
            segment = self._open(self._space.take(rounded), rounded, False)
            offset = segment.base
        else:
            offset = self._gaps.take(size)
            if offset < 0:
                self._open(self._space.take_lowest(SHARED_SEGMENT), SHARED_SEGMENT, True)
                offset = self._gaps.take(size)
            segment = self._shared[self._bases[bisect_right(self._bases, offset) - 1]]
        slice_ = Slice(offset, size, charged, segment)
        segment.slices += 1
        self.slices += 1
        try:
            self.memory.reserve(segment.generation, offset, size)
        except BaseException:
            self.cancel(slice_)
            raise
        return slice_

    def would_pass(self, size: int) -> int:
        """Where a slice would lie that is freed at once, if that left no trace but its serial; -1 if not."""
        if 0 not in self._shared or len(self._shared) != 1 or size >= OWN_SEGMENT:
            return -1
        return self._gaps.find(size)

    def pass_by(self) -> int:
        """Such a slice has been there; its serial."""
        segment = self._shared[0]
        segment.fresh, segment.exposed = False, True
        self.serial += 1
        return self.serial

    def cancel(self, slice_: Slice) -> None:
        """Undo the latest ``allocate`` that is not undone yet."""
        segment = slice_.segment
        self._vacate(slice_)
        if segment.fresh and not segment.slices:
            self._close(segment)
            self._space.give(segment.base, segment.size)
            self.generation -= 1

    def fill(self, slice_: Slice, parts: Sequence[Buffer], n_bytes: int) -> None:
        """Write the payload, padded with zeros where the peer could see what lay there (R-43)."""
        segment = slice_.segment
        segment.fresh = False
        if not self.memory.shares_buffers:
            padding = -n_bytes % 8 if n_bytes else 8
            if padding:
                parts = (*parts, PADDING[padding])
        self.memory.write(segment.generation, slice_.offset, parts)

    def write(self, slice_: Slice, start: int, data: bytes) -> None:
        """Write ``data`` at ``start`` of the slice."""
        self.memory.write(slice_.segment.generation, slice_.offset + start, (data,))

    def publish(self, slice_: Slice) -> None:
        """The peer learns of the slice; idempotent (R-13)."""
        if not slice_.published:
            slice_.published = True
            self.serial += 1
            slice_.serial = self.serial
            slice_.segment.exposed = True
            self.published[slice_.offset] = slice_

    def unpin(self, slice_: Slice) -> None:
        """The slice's message is gone."""
        slice_.pinned = False
        if not slice_.published:
            self._free(slice_, self.memory.shares_buffers)

    def release(self, offset: int, serial: int, unmapped: bool) -> None:
        """The peer gives a published slice back (L-8); NoSuchHandle if none, or a later one, starts there."""
        slice_ = self.published.get(offset)
        if slice_ is None:
            raise NoSuchHandle(f"no published slice at {offset}")
        if serial not in (0, slice_.serial):
            raise NoSuchHandle(f"the slice at {offset} has serial {slice_.serial}, not {serial}")
        del self.published[offset]
        slice_.published = False
        if not slice_.pinned:
            self._free(slice_, unmapped)

    def unpublish(self) -> None:
        """The peer loses all published slices (L-11)."""
        published, self.published = self.published, {}
        self._sequencer.effort += len(published)
        for slice_ in published.values():
            slice_.published = False
            if not slice_.pinned:
                self._free(slice_, self.memory.shares_buffers)

    def unmapped(self, generation: int) -> None:
        """The peer has unmapped a retired segment; NoSuchHandle if it is none."""
        segment, charged = self.retired.pop(generation, (None, 0))
        if segment is None:
            raise NoSuchHandle(f"no retired segment {generation}")
        self._space.give(segment.base, segment.size)
        self.account.give(BYTES, charged)

    def close(self) -> None:
        """The peer is gone, and so are its slices: close what is left."""
        for segment in list(self.segments.values()):
            self._close(segment)
        for generation in list(self.retired):
            self.unmapped(generation)

    def _open(self, base: int, size: int, shared: bool) -> Segment:
        if base < 0:
            raise PoolFull(f"no gap of {size} bytes")
        segment = Segment(self.generation + 1, base, size, shared)
        try:
            self.memory.open_segment(segment.generation, base, size)
        except BaseException:
            self._space.give(base, size)
            raise
        self.generation += 1
        self.segments[segment.generation] = segment
        if shared:
            insort(self._bases, base)
            self._shared[base] = segment
            self._gaps.give(base, size)
        return segment

    def _close(self, segment: Segment) -> None:
        self.memory.close_segment(segment.generation)
        del self.segments[segment.generation]
        if segment.shared:
            self._gaps.take_at(segment.base, segment.size)
            self._bases.remove(segment.base)
            del self._shared[segment.base]

    def _vacate(self, slice_: Slice) -> None:
        segment = slice_.segment
        self.memory.release(segment.generation, slice_.offset, slice_.size)
        segment.slices -= 1
        self.slices -= 1
        if segment.shared:
            self._gaps.give(slice_.offset, slice_.size)

    def _free(self, slice_: Slice, unmapped: bool) -> None:
        segment = slice_.segment
        self._vacate(slice_)
        self.account.give(SLICES, 1)
        if segment.slices or self._stays(segment):
            self.account.give(BYTES, slice_.charged)
        else:
            self._retire(segment, slice_.charged, unmapped)
        if not self.slices and (len(self._shared) > 1 or 0 not in self._shared):
            for idle in [s for s in self._shared.values() if not self._stays(s)]:
                self._retire(idle, 0, self.memory.shares_buffers)

    def _stays(self, segment: Segment) -> bool:
        if not segment.shared:
            return False
        return not segment.base or (len(self._shared) == 1 and self.slices > 0)

    def _retire(self, segment: Segment, charged: int, unmapped: bool) -> None:
        self._close(segment)
        self.retired[segment.generation] = (segment, charged)
        if unmapped or not segment.exposed:
            self.unmapped(segment.generation)
        else:
            self._sequencer.retired.append((self.number, segment.generation))
