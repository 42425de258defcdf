"""mapping: a peer's pool as one of its processes sees it.

Theory. The bus sends the memfd of a segment with the first message that lies in it; it is mapped read-only.
Small slices are repeated in the answer, and are then read from there. A segment of one large slice is
unmapped with it; a shared one when the bus asks for it. While somebody still holds a view of it, a
segment stays mapped, and the bus goes on charging it.

Invariants. 1. No mapping is writable. 2. A segment is reported unmapped only when it is.

Not here: requests (client).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

from .core.api import MessageFlag
from .descriptors import Fds
from .errors import OutOfMemory, RemoteProtocolError

_PAGE = mmap.PAGESIZE
_HAS_SECCTX = int(MessageFlag.HAS_SECCTX)


def round_up(number: int) -> int:
    """To the next multiple of 8, as everything in a slice is."""
    return (number + 7) & ~7


@dataclass(slots=True, eq=False)
class _Mapped:
    mapping: mmap.mmap
    base: int
    size: int
    n_users: int = 0


class MappedPool:
    """The segments that this channel maps."""

    def __init__(self) -> None:
        self._segments: dict[int, _Mapped] = {}
        self._lingering: set[int] = set()

    def knows(self, generation: int) -> bool:
        """The segment is mapped."""
        return generation in self._segments

    def map(self, generation: int, base: int, size: int, fds: Fds) -> None:
        """Map a segment, take its memfd; OutOfMemory if there is no room, and ``fds`` stay as they were."""
        if generation in self._segments:
            fds.close()  # another thread was faster
            return
        if not fds:
            raise RemoteProtocolError("a segment without its memfd")
        try:
            mapping = mmap.mmap(fds[0], size, mmap.MAP_SHARED, mmap.PROT_READ)
        except (OSError, ValueError, OverflowError) as error:
            raise OutOfMemory(f"cannot map a segment of {size} bytes: {error}") from error
        fds.close()
        self._segments[generation] = _Mapped(mapping, base, size)

    def view(self, generation: int, offset: int, size: int) -> memoryview:
        """The bytes of a slice; balanced by ``drop``."""
        segment = self._segments.get(generation)
        if segment is None:
            raise RemoteProtocolError(f"a slice in segment {generation}, which has not been sent")
        start = offset - segment.base
        if not 0 <= start <= start + size <= segment.size:
            raise RemoteProtocolError("a slice outside its segment")
        segment.n_users += 1
        return memoryview(segment.mapping)[start : start + size]

    def drop(self, generation: int, offset: int, size: int) -> None:
        """A view has been given up; the segment of a single large slice goes with it."""
        segment = self._segments.get(generation)
        if segment is None:
            return
        segment.n_users -= 1
        rounded = (size + _PAGE - 1) // _PAGE * _PAGE
        if not segment.n_users and segment.base == offset and segment.size == rounded:
            self._unmap(generation)

    def retire(self, generation: int) -> None:
        """The bus wants the segment back."""
        self._lingering.add(generation)

    def take_unmapped(self) -> list[int]:
        """Segments the bus wants back that are unmapped now; those still in use are tried again next time."""
        gone = [generation for generation in self._lingering if self._unmap(generation)]
        self._lingering.difference_update(gone)
        return gone

    def _unmap(self, generation: int) -> bool:
        segment = self._segments.get(generation)
        if segment is None:
            return True
        if segment.n_users:
            return False
        try:
            segment.mapping.close()
        except BufferError:
            return False
        del self._segments[generation]
        return True

    def close(self) -> None:
        """Unmap what nobody looks at any more; the rest goes with its views."""
        self._segments.clear()
        self._lingering.clear()


def handles_and_secctx(
    contents: memoryview | bytes, flags: int, n_bytes: int, n_handles: int, n_fds: int, n_secctx: int
) -> tuple[tuple[int, ...], bytes | None]:
    """What follows the payload in a slice (R-40 … R-44)."""
    if n_bytes <= len(contents) and not (n_handles or flags & _HAS_SECCTX):
        return (), None
    at = round_up(n_bytes)
    if n_handles > (len(contents) - at) // 8:
        raise RemoteProtocolError("the handles lie outside the slice")
    handles = struct.unpack_from(f"<{n_handles}Q", contents, at)
    if not flags & _HAS_SECCTX:
        return handles, None
    at += 8 * n_handles + round_up(4 * n_fds)
    return handles, bytes(contents[at : at + n_secctx])
