"""nesting: an operation must not begin inside another one of the same thread.

Theory. A signal handler, or a finalizer, runs between any two steps of the thread that it interrupts. If that
thread is in the middle of an operation, what the handler waits for would have to be done by the code below
it on the stack, which goes on only when the handler has returned. ``Nesting`` remembers for each thread where
its operation began, and refuses a second one as long as the first is still there.

Invariants. 1. An operation that an exception has ended, wherever it struck, refuses nothing later.

Not here: several threads (links).
"""

from __future__ import annotations

import sys
from threading import get_ident
from types import FrameType

from .errors import Busy


class Nesting:
    """``with`` it around each operation: Busy, before anything has happened, if this thread is in one."""

    def __init__(self) -> None:
        self._begun: dict[int, FrameType] = {}

    def __enter__(self) -> None:
        thread, frame = get_ident(), sys._getframe(1)
        below = self._begun.get(thread)
        if below is not None and _is_running(below):
            raise Busy("this thread (in a signal handler?) is in the middle of an operation of this peer")
        self._begun[thread] = frame

    def __exit__(self, *exc: object) -> None:
        self._begun.pop(get_ident(), None)


def _is_running(frame: FrameType) -> bool:
    """``frame`` is on the stack of this thread."""
    caller: FrameType | None = sys._getframe(1)
    while caller is not None and caller is not frame:
        caller = caller.f_back
    return caller is not None
