"""stream: results that come one after the other, as fast as they are taken.

Theory. A method gives a ``Stream`` around an asynchronous iterator, usually a generator. It travels as any
object does: as a capability of that one caller. The object is ``org.bus1.Stream1``, the same for native
clients and those of D-Bus: ``Next(max)`` waits for an item, and gives those that are ready. So nobody sends
what nobody asked for.

At the client it is an asynchronous iterator, inside ``async with``. While items are used, the next ones are
fetched. The end of the block gives the capability back; the service then closes the generator, as it does
when the client dies. The service's end, or death, is an error; only the end of the generator is the end of
the iteration.

    @method
    def follow(self, unit: Str) -> Stream[Entry]:
        return Stream(self._entries(unit))

    async with await log.follow("ssh") as entries:
        async for entry in entries:
            ...

Invariants. 1. Items arrive in order, none twice, none left out; what cannot go on ends with an error.
2. ``BATCH`` items wait at the client at most, and as many at the service.

Not here: the generator's task (``production``), the types of items (``conversion``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Iterable
from typing import Any, Generic, Self, TypeVar, cast

import anyio

from bus1.errors import Bus1Error

from .body import Variant
from .caps.gate import Gate
from .conversion import Adopt, Conversion, Misfit
from .decorators import method
from .errors import DBusError, InvalidArgs
from .interface import Interface
from .production import Production
from .proxy import Remote
from .row import Row

T = TypeVar("T")
BATCH = 64
"""Items that a client fetches at a time."""


class Stream(Interface, Generic[T], name="org.bus1.Stream1"):
    """Results one after the other: given by a method, read by a client inside ``async with``.

    Reading raises DBusError, as the generator or the service says (NoReply if the service is gone), and
    Bus1Error if the bus is; TypeError outside the block, or at the service."""

    __item__: Conversion | None = None
    _production: Production | None = None
    _fetching: Fetching | None = None

    def __init__(self, source: AsyncIterable[T] | Iterable[T]) -> None:
        """Items are made when they are asked for. The iterator is closed at the end, whoever ends it."""
        self._source = source

    @classmethod
    def __conversion__(cls, item: Conversion) -> Conversion:
        """Of ``Stream[T]``, where ``item`` is that of T."""
        def read(value: Any, adopt: Adopt) -> Any:
            stream = adopt(cls, value)
            if isinstance(stream, Stream):
                stream.__item__ = item
            return stream

        def write(value: Any) -> Any:
            if not isinstance(value, Stream):
                raise Misfit(f"a {type(value).__name__} is no Stream")
            own: Interface = value
            while isinstance(own.__far__, Gate):
                own = own.__far__.inner
            cast("Stream[Any]", own).__item__ = item
            return value

        return Conversion("o", read, write, {"org.bus1.Stream": item.signature})

    # ---- what travels ------------------------------------------------------------------------

    @method(takes="u", gives="avb")
    async def next(self, max: int) -> tuple[list[Variant], bool]:
        """Wait for an item: those that are ready, at most so many, and whether there are no more.

        InvalidArgs for less than one; DBusError, as the generator says."""
        if max < 1:
            raise InvalidArgs("Next gives one item at least")
        if self._production is None:
            if self.__item__ is None or not self.__near__:
                raise TypeError("a stream is the result of a method that says Stream[T]")
            self._production = Production(self._source, self.__item__, self.__near__[0].start)
        return await self._production.take(max)

    @method
    def close(self) -> None:
        """Read no more: the stream is gone."""
        for near in tuple(self.__near__):
            near.withdraw()
        self.unreferenced()

    def unreferenced(self) -> None:
        """Nobody reads it any more: the source is closed."""
        if self._production is not None:
            self._production.end()

    # ---- what a client does ------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        """Begin to read; TypeError at the service."""
        if not isinstance(self.__far__, Remote):
            raise TypeError("a stream is read by the client that it was given to")
        self._fetching = Fetching(cast(Stream[Any], self), self.__far__)
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item. DBusError if the service says so, or is gone (NoReply); Bus1Error if the bus is."""
        if self._fetching is None:
            raise TypeError("a stream is read inside `async with`")
        return cast(T, await self._fetching.take())

    async def __aexit__(self, *exc: object) -> None:
        if self._fetching is not None:
            self._fetching.end()


class Fetching:
    """The client's end: what was fetched and not taken, and the task that fetches more."""

    def __init__(self, stream: Stream[Any], remote: Remote) -> None:
        self._stream = stream
        self._remote = remote
        item = stream.__item__
        self._row = None if item is None else Row([("an item", item)])
        self._waiting: deque[Any] = deque()
        self._outcome: Exception | None = None
        self._came = anyio.Event()
        self._scope: anyio.CancelScope | None = None
        """Around the task, if it is under way."""

    async def take(self) -> Any:
        """The next item; StopAsyncIteration, or what came in place of it."""
        while not self._waiting:
            if self._outcome is not None:
                raise self._outcome
            self._fetch()
            if self._came.is_set():
                self._came = anyio.Event()
            await self._came.wait()
        item = self._waiting.popleft()
        if len(self._waiting) <= BATCH // 2:
            self._fetch()
        return item

    def end(self) -> None:
        """Read no more; the capability is given back."""
        self._outcome = self._outcome or StopAsyncIteration()
        self._waiting.clear()
        if self._scope is not None:
            self._scope.cancel()
        self._remote.handle.release()

    def _fetch(self) -> None:
        if self._scope is None and self._outcome is None:
            self._scope = anyio.CancelScope()
            self._remote.connection.start(self._run)

    async def _run(self) -> None:
        assert self._scope is not None
        try:
            with self._scope:
                values, done = await self._stream.next(BATCH - len(self._waiting))
                self._waiting.extend(map(self._item, values))
                if not values and not done:
                    raise InvalidArgs("Next gives an item at least, or the end: it gave neither")
                if done:
                    self._outcome = StopAsyncIteration()
        except (DBusError, Bus1Error) as error:
            self._outcome = error
        finally:
            self._scope = None
            self._came.set()

    def _item(self, value: Variant) -> Any:
        if self._row is None:
            return value.value
        if value.signature != self._row.signature:
            raise InvalidArgs(f"an item is a {value.signature!r}, not a {self._row.signature!r}")
        return self._row.read((value.value,), self._remote.adopt)[0]
