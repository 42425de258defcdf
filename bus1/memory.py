"""memory: what pools are made of.

Theory. Core decides where a slice lies; a ``Memory`` (see ``bus1.core.api``) holds the bytes. Peers
inside the bus process have ``HeapMemory``: the buffers of a message are kept by reference, so a
multicast to many of them is stored once.

Invariants. 1. ``write`` after a successful ``reserve`` and ``close_segment`` never fail.

Not here: placement, accounting (``bus1.core.pool``, ``bus1.core.account``).
"""

from __future__ import annotations

from collections.abc import Sequence

from .core.api import Buffer


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
