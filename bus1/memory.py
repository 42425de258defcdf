"""memory: what pools are made of.

Theory. Core decides where a slice lies; a ``Memory`` (see ``bus1.core.api``) holds the bytes. Peers
inside the bus process have ``HeapMemory``: the buffers of a message are kept by reference, so a
multicast to many of them is stored once. Peers of other processes have ``SealedMemory``: each segment is
a memfd that the bus maps read-write first and then seals (FUTURE_WRITE, GROW, SHRINK, SEAL), so that its
client can map it read-only and nothing else. Pages are allocated before they are written, and
remembered: a machine that is out of memory is ENOMEM for one sender, not SIGBUS for everybody.

Invariants. 1. ``write`` after a successful ``reserve`` and ``close_segment`` never fail.
2. Nobody but the bus can ever write to, grow or shrink a sealed segment.

Not here: placement, accounting (``bus1.core.pool``, ``bus1.core.account``).
"""

from __future__ import annotations

import fcntl
import mmap
import os
from bisect import bisect_right
from collections.abc import Sequence

from .core.api import Buffer
from .errors import OutOfMemory
from .record import record

_F_SEAL_FUTURE_WRITE = 0x10
_PAGE = mmap.PAGESIZE


class HeapMemory:
    """The pool of a peer inside the bus process: references to the senders' buffers."""

    __slots__ = ("_slices",)

    shares_buffers = True

    def __init__(self) -> None:
        self._slices: dict[int, Sequence[Buffer]] = {}

    def open_segment(self, generation: int, base: int, size: int) -> None:
        """Nothing to do: the heap grows by itself."""

    def close_segment(self, generation: int) -> None:
        """Nothing to do: released slices are gone already."""

    def reserve(self, generation: int, offset: int, size: int) -> None:
        """Nothing to do: the buffers exist already."""

    def write(self, generation: int, offset: int, parts: Sequence[Buffer]) -> None:
        """Keep ``parts``; the caller must not change them any more."""
        self._slices[offset] = parts

    def read(self, offset: int) -> tuple[Buffer, ...]:
        """The buffers of the slice at ``offset``, as they were written."""
        return tuple(self._slices.get(offset, ()))

    def release(self, generation: int, offset: int, size: int) -> None:
        """Forget the buffers of the slice at ``offset``."""
        self._slices.pop(offset, None)


@record(eq=False)
class Segment:
    """One memfd of a sealed pool, ``base`` and ``size`` in bytes; it belongs to its ``SealedMemory``.

    ``resident`` has a 1 for each page that is known to exist."""

    generation: int
    base: int
    size: int
    fd: int
    mapping: mmap.mmap
    resident: bytearray

    def allocate(self, start: int, end: int) -> None:
        """Make sure that the pages of [start, end) exist; OSError otherwise."""
        last = (end + _PAGE - 1) // _PAGE
        first = self.resident.find(0, start // _PAGE, last)
        if first < 0:
            return
        os.posix_fallocate(self.fd, first * _PAGE, min(last * _PAGE, self.size) - first * _PAGE)
        self.resident[first:last] = b"\1" * (last - first)


def make_arena(size: int) -> int:
    """A memfd of ``size`` bytes for a client to write payloads to, who cannot resize it; the caller's.

    OSError as memfd_create and ftruncate."""
    fd = os.memfd_create("bus1-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_arena(fd: int, start: int, size: int) -> bytes:
    """A copy of what a client has put into an arena, possibly less than ``size``; raises OutOfMemory."""
    # Read, not mapped: the client may punch holes into it while we look.
    try:
        return os.pread(fd, size, start)
    except MemoryError as error:
        raise OutOfMemory(f"no memory for a payload of {size} bytes") from error


def hollow(size: int) -> memoryview:
    """So many zeros, without memory: a payload of which the length alone counts. Raises OutOfMemory."""
    try:
        return memoryview(mmap.mmap(-1, size, prot=mmap.PROT_READ))
    except (OSError, ValueError) as error:
        raise OutOfMemory(f"no addresses for {size} bytes: {error}") from error


def _make_sealed(size: int) -> tuple[int, mmap.mmap]:
    fd = os.memfd_create("bus1-pool", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        mapping = mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        seals = _F_SEAL_FUTURE_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd, mapping


class SealedMemory:
    """The pool of a peer in another process: sealed memfds."""

    __slots__ = ("_bases", "_segments")

    shares_buffers = False

    def __init__(self) -> None:
        self._segments: dict[int, Segment] = {}
        self._bases: list[tuple[int, int]] = []

    def open_segment(self, generation: int, base: int, size: int) -> None:
        """Make a sealed memfd of ``size`` bytes, without pages yet; OutOfMemory."""
        try:
            fd, mapping = _make_sealed(size)
        except OSError as error:
            raise OutOfMemory(f"no pool segment of {size} bytes: {error.strerror}") from error
        pages = bytearray((size + _PAGE - 1) // _PAGE)
        self._segments[generation] = Segment(generation, base, size, fd, mapping, pages)
        self._bases.append((base, generation))
        self._bases.sort()

    def close_segment(self, generation: int) -> None:
        """Unmap and close; the client's own mapping stays valid memory (L-12)."""
        segment = self._segments.pop(generation)
        self._bases.remove((segment.base, generation))
        segment.mapping.close()
        os.close(segment.fd)

    def reserve(self, generation: int, offset: int, size: int) -> None:
        """Allocate the pages of [offset, offset+size) that do not exist yet; OutOfMemory."""
        segment = self._segments[generation]
        try:
            segment.allocate(offset - segment.base, offset - segment.base + size)
        except OSError as error:
            raise OutOfMemory(f"no pages for {size} bytes: {error.strerror}") from error

    def write(self, generation: int, offset: int, parts: Sequence[Buffer]) -> None:
        """Copy the parts into the segment, one behind the other."""
        segment = self._segments[generation]
        at = offset - segment.base
        for part in parts:
            n = len(part)
            segment.mapping[at : at + n] = part
            at += n

    def read(self, offset: int) -> tuple[Buffer, ...]:
        """Nothing: only the peer reads its pool."""
        return ()

    def release(self, generation: int, offset: int, size: int) -> None:
        """Nothing to forget: the pages serve the next slice."""

    def segment_at(self, offset: int) -> Segment | None:
        """The segment in which ``offset`` lies."""
        at = bisect_right(self._bases, (offset, 1 << 64)) - 1
        if at < 0:
            return None
        segment = self._segments[self._bases[at][1]]
        return segment if offset < segment.base + segment.size else None

    def segment(self, generation: int) -> Segment | None:
        """The segment with this generation number, while it exists."""
        return self._segments.get(generation)

    def contents(self, offset: int, size: int) -> bytes:
        """A copy of the bytes [offset, offset+size) of one segment."""
        segment = self.segment_at(offset)
        assert segment is not None
        return segment.mapping[offset - segment.base : offset - segment.base + size]
