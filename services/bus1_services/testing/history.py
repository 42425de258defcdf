"""history: what has happened so far, as a list that a test can wait on.

Invariants. 1. Nothing that happened is left out: a history that is full says so to whoever reads it.

Not here: what happens (``fakes``, ``signals``, ``dbus``).
"""

from __future__ import annotations

from typing import Generic, TypeVar

import anyio

T = TypeVar("T")

CAPACITY = 1 << 20
"""Events of one history."""
PATIENCE = 10.0
"""Seconds, unless a test says otherwise."""
_SHOWN = 10


class History(Generic[T]):
    """Events in order."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._events: list[T] = []
        self._failure: Exception | None = None
        self._news: anyio.Event | None = None

    def add(self, event: T) -> None:
        """One more."""
        if len(self._events) < CAPACITY:
            self._events.append(event)
        else:
            self._failure = self._failure or OverflowError(f"more than {CAPACITY} {self._what}")
        self._wake()

    def fail(self, error: Exception) -> None:
        """There will be no more, for this reason."""
        self._failure = self._failure or error
        self._wake()

    def so_far(self) -> list[T]:
        """A copy of all; what ``fail`` was told, if there may be some missing."""
        if self._failure is not None:
            raise self._failure
        return list(self._events)

    async def wait_for(self, count: int, within: float = PATIENCE) -> list[T]:
        """The first ``count``, as soon as they are there; TimeoutError tells what came instead."""
        with anyio.move_on_after(within):
            while len(self._events) < count and self._failure is None:
                self._news = self._news or anyio.Event()
                await self._news.wait()
        if len(self._events) >= count:
            return self._events[:count]
        came = f"{len(self._events)} of {count} {self._what} came: {self._events[-_SHOWN:]}"
        raise TimeoutError(f"{came}, and no more within {within} s") from self._failure

    def _wake(self) -> None:
        news, self._news = self._news, None
        if news is not None:
            news.set()
