"""expiry: a view that ends by itself.

Theory. Each call asks the clock, so that a late timer lets nothing pass. The timer runs while the view is
exported, and destroys its node when the time is over. The clock goes on while the machine sleeps.

    view = expiring(clock, 60)

Not here: forwarding (``gate``), taking back earlier: make it ``revocable`` first or after.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import anyio

from ..interface import Interface
from .gate import Gate, Place, Revoked

I = TypeVar("I", bound=Interface)  # noqa: E741
Clock = Callable[[], float]
LONGEST_NAP = 60.0
"""Seconds; the timer's own clock may stand still while the machine sleeps."""


def since_boot() -> float:
    """Seconds, those in which the machine slept too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def expiring(target: I, seconds: float, *, clock: Clock = since_boot) -> I:
    """A view of ``target`` that is revoked in so many seconds; ValueError for what is no number."""
    if seconds != seconds:
        raise ValueError("a time that is no number is never over")
    return Expiring(target, clock() + seconds, clock).view


class Expiring(Gate[I]):
    """A gate with a deadline."""

    def __init__(self, inner: I, deadline: float, clock: Clock) -> None:
        super().__init__(inner)
        self._deadline = deadline
        self._clock = clock
        self._is_alone: anyio.Event | None = None

    def check(self) -> None:
        """Revoked, from the deadline on."""
        super().check()
        if self._clock() >= self._deadline:
            raise Revoked("the time of this capability is over")

    def opened(self, place: Place) -> None:
        """The timer starts with the first place, on its connection."""
        super().opened(place)
        if self._is_alone is None:
            self._is_alone = anyio.Event()
            place.connection.start(self._expire, self._is_alone)

    def closed(self) -> None:
        """The timer ends with the last place."""
        super().closed()
        if not self.view.__near__ and self._is_alone is not None:
            self._is_alone.set()
            self._is_alone = None

    async def _expire(self, is_alone: anyio.Event) -> None:
        while not is_alone.is_set():
            left = self._deadline - self._clock()
            if left <= 0:
                self.end()
                return
            with anyio.move_on_after(min(left, LONGEST_NAP)):
                await is_alone.wait()
