"""received: a message as its receiver holds it.

Theory. ``ReceivedMessage`` is what both faces return from ``recv``. Its payload is a read-only view of the
peer's pool, or of bytes that came inside the answer; its descriptors are owned by it until they are
taken. ``release`` gives the slice back to the bus (SLICE_RELEASE), and the view with it.

Invariants. 1. ``release`` gives the slice back once, however often it is called. 2. The payload cannot be
written through.

Not here: mapping the pool (mapping), what the payload means (services).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self

from .core.api import MessageFlag, MessageType
from .descriptors import Fds
from .frames import NO_FDS


@dataclass(slots=True, eq=False)
class ReceivedMessage:
    """One message or notification (R-7 … R-9, N-2); sizes and offsets are bytes."""

    type: MessageType
    flags: MessageFlag
    destination: int
    """The receiver's own id of the addressed node; in notifications, of the node they are about."""
    uid: int
    gid: int
    pid: int
    tid: int
    """Who sent it, in the receiver's namespaces (P-50, P-51); uid and gid all ones in notifications."""
    offset: int
    """Start of the slice; OFFSET_INVALID without one, or if it has been given back already."""
    n_bytes: int
    """Length of the payload, without padding (R-9)."""
    handles: tuple[int, ...]
    """Ids of the receiver, a reference each, HANDLE_INVALID for dead nodes (R-45, H-31)."""
    fds: Fds
    """Owned by the message: ``take`` what you keep, ``release`` closes the rest. Close-on-exec (R-30)."""
    secctx: bytes | None
    """The sender's label, for receivers with WANT_SECCTX (P-52, P-53)."""
    size: int
    """Length of the slice: what is charged until it is given back (R-42, Q-16)."""
    payload: memoryview
    """Read-only; over with ``release``."""
    _give_back: Callable[[ReceivedMessage], None] | None = field(default=None, repr=False)
    _serial: int = field(default=0, repr=False)
    """What tells the slice from others that lie at its offset before or after it."""
    _generation: int | None = field(default=None, repr=False)
    """The segment that the payload is read from."""
    arrival: int = field(default=0, repr=False)
    """Its place among all answers to this holder; requests answered before had happened (``n_arrived``)."""
    is_released: bool = field(default=False, repr=False)
    """From ``aio.Peer.attend``: a NODE_RELEASE of ``destination`` followed, and came along."""

    def release(self) -> None:
        """Give the slice back to the bus (L-7) and close descriptors that were not taken; once.

        A slice that is gone already (given back by its offset, peer reset or disconnected, bus gone) is no
        error; what lies in its place by now stays."""
        if self.fds is not NO_FDS and self.fds:
            self.fds.close()
        give_back = self._give_back
        if give_back is not None:
            give_back(self)
            self._give_back = None
        try:
            self.payload.release()
        except BufferError:
            return  # as in ``detach``

    def detach(self) -> tuple[int, int | None]:
        """For the link: end the view of the pool; the slice's serial, and once the segment it was in."""
        self._end_view()
        generation, self._generation = self._generation, None
        return self._serial, generation

    def forget_slice(self) -> None:
        """For the link: the slice has been given back in another way."""
        self._give_back = None

    def _end_view(self) -> None:
        try:
            self.payload.release()
        except BufferError:
            # Somebody still reads through it: the segment stays mapped until that ends.
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()
