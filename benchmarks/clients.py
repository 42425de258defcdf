"""clients: what a scenario asks of the load, whatever the protocol.

Theory. The caller is in the measuring process, the callee and the subscribers are processes of their
own, so three processes take part, as on a desktop. Every time is taken by the clients themselves, in
nanoseconds of the monotonic clock (which all processes share), after everything that can be built
beforehand has been built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self


class Pair(Protocol):
    """A caller here and a callee elsewhere."""

    def round_trips(self, count: int) -> list[int]:
        """``count`` calls one after the other; the time of each until its reply."""

    def pipeline(self, count: int, window: int) -> int:
        """``count`` calls, up to ``window`` of them outstanding; the time until the last reply."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Audience(Protocol):
    """An emitter here and many subscribers in one other process."""

    def emit(self, count: int) -> int:
        """Send ``count`` signals; the time until the last subscriber has the last one."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class Clients(Protocol):
    """The load for one bus."""

    address: str
    """Where it connects."""

    def connect(self) -> int:
        """Connect, authenticate and be greeted; the time of that, without leaving again."""

    def pair(self) -> Pair:
        """A caller and a callee."""

    def audience(self, subscribers: int, batches: Sequence[int]) -> Audience:
        """An emitter and its subscribers; ``emit`` will be called with each of ``batches`` in turn."""
