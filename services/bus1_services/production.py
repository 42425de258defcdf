"""production: the service's end of a stream: items are made as far as they were asked for.

Theory. The source runs in a task of its own, for all of its life: what an asynchronous generator opens, it
closes in the same task. Who takes items grants credit for them; without credit the source is not asked, and
what it does between two items waits. Whoever is slow is waited for, and costs one batch.

Invariants. 1. What is ready is at most what was granted, and its values weigh ``MAX_WEIGHT`` together, or are
one item. 2. Once begun, the source is closed, whatever happens. 3. Items are taken in the order in which they
were made, each once; a failure comes after the items before it.

Not here: what travels (``stream``).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from .body import Reference, Variant, encode
from .bugs import is_bug, words
from .conversion import NO_OBJECT, Conversion
from .errors import DBusError, alone, from_name
from .handle import Handle
from .interface import Interface

MAX_BATCH = 4096
"""Items that may be granted at a time."""
MAX_WEIGHT = 1 << 20
"""Bytes that wait to be taken, unless one item has more."""

log = logging.getLogger("bus1.services")


class Production:
    """Of one source; ``start`` runs a task, ``item`` says what is sent for an item."""

    def __init__(
        self, source: AsyncIterable[Any] | Iterable[Any], item: Conversion, start: Callable[..., object]
    ) -> None:
        self._source = source
        self._item = item
        self._ready: deque[tuple[Variant, int]] = deque()
        """Items, with their bytes."""
        self._weight = 0
        self._credit = 0
        self._is_over = False
        self._failure: DBusError | None = DBusError("the stream was closed before its end")
        """What comes after the last item; None: the end."""
        self._turn = anyio.Lock()
        self._granted = anyio.Event()
        self._made = anyio.Event()
        self._scope = anyio.CancelScope()
        start(self._run)

    async def take(self, n: int) -> tuple[list[Variant], bool]:
        """Wait for an item; all that are ready, ``n`` at most, and whether that was the end. DBusError."""
        async with self._turn:
            self._credit = max(min(n, MAX_BATCH) - len(self._ready), 0)
            self._granted.set()
            while not self._ready and not self._is_over:
                self._made = anyio.Event()
                await self._made.wait()
            if not self._ready and self._failure is not None:
                raise from_name(self._failure.name, self._failure.text)
            taken = [self._ready.popleft()[0] for _ in range(min(n, len(self._ready)))]
            self._weight = sum(weight for _, weight in self._ready)
            self._granted.set()
            return taken, self._is_over and not self._ready and self._failure is None

    def end(self) -> None:
        """Close the source; who waits for an item hears that there was no end."""
        self._scope.cancel()

    async def _run(self) -> None:
        try:
            with self._scope:
                source = self._source if isinstance(self._source, AsyncIterable) else _each(self._source)
                async with _closing(aiter(source)) as items:
                    await self._make(items)
                    self._failure = None
        except BaseException as error:
            if not is_bug(error):
                raise
            cause = alone(error)
            if not isinstance(cause, DBusError):
                log.exception("a stream failed")
                cause = DBusError(words(cause))
            self._failure = cause
        finally:
            self._is_over = True
            self._made.set()

    async def _make(self, source: AsyncIterator[Any]) -> None:
        while True:
            while self._credit <= 0 or self._weight >= MAX_WEIGHT:
                self._granted = anyio.Event()
                await self._granted.wait()
            try:
                item = await anext(source)
            except StopAsyncIteration:
                return
            value = Variant(
                self._item.signature, item if self._item.write is None else self._item.write(item)
            )
            self._credit -= 1
            weight = _weight(value)
            self._ready.append((value, weight))
            self._weight += weight
            self._made.set()


@asynccontextmanager
async def _closing(source: AsyncIterator[Any]) -> AsyncIterator[AsyncIterator[Any]]:
    """Closed at the end, if it can be."""
    try:
        yield source
    finally:
        try:
            if hasattr(source, "aclose"):
                await source.aclose()
        except BaseExceptionGroup as group:
            # A task group in a generator wraps what closes the generator.
            _, other = group.split(GeneratorExit)
            if other is not None:
                raise other from None


async def _each(source: Iterable[Any]) -> AsyncIterator[Any]:
    for item in source:
        await checkpoint()
        yield item


def _stand_in(value: object) -> tuple[str, None] | None:
    """In place of a capability, which is granted when it is sent."""
    return (NO_OBJECT, None) if isinstance(value, (Interface, Reference, Handle)) else None


def _weight(value: Variant) -> int:
    """Its bytes; InvalidArgument, if it cannot be sent."""
    return len(encode("v", (value,), _stand_in).data)
