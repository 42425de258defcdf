"""Streams: items as fast as they are taken, errors and ends that travel, and nothing that stays behind."""

from __future__ import annotations

import gc
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from anyio.lowlevel import checkpoint
from bus1_services import Connection, DBusError, Int32, Interface, Remote, Str, Stream, Variant, method
from bus1_services.caps import Membrane, attenuate, revocable
from bus1_services.conversion import Conversion
from bus1_services.errors import InvalidArgs, NoReply
from bus1_services.production import MAX_BATCH, Production
from bus1_services.stream import BATCH
from core_peer import introduce
from test_services import Cup, core_peer, nodes_of, on_a_bus, quiet

from bus1.errors import BusGone, InvalidArgument, NodeDestroyed


@pytest.fixture(autouse=True, params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on both loops."""
    monkeypatch.setattr(anyio, "run", partial(anyio.run, backend=request.param))


@dataclass
class Entry:
    """A line of a log."""

    number: Int32
    text: Str


class Log(Interface, name="org.example.Log1"):
    """Gives streams; ``made`` are the numbers that were asked of its generators."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.closed = anyio.Event()
        self.more = anyio.Event()

    async def numbers(self, n: int) -> AsyncGenerator[int, None]:
        try:
            for number in range(n):
                self.made.append(number)
                yield number
        finally:
            self.closed.set()

    @method
    def count(self, n: Int32) -> Stream[Int32]:
        return Stream(self.numbers(n))

    @method
    async def entries(self, n: Int32) -> Stream[Entry]:
        async def make() -> AsyncIterator[Entry]:
            async with aclosing(self.numbers(n)) as numbers:
                async for number in numbers:
                    yield Entry(number, str(number))

        return Stream(make())

    @method
    def wait(self) -> Stream[Int32]:
        async def make() -> AsyncIterator[int]:
            try:
                yield 1
                await self.more.wait()
                yield 2
            finally:
                self.closed.set()

        return Stream(make())

    @method
    def burst(self, n: Int32) -> Stream[Int32]:
        async def make() -> AsyncIterator[int]:
            async with aclosing(self.numbers(n)) as numbers:
                async for number in numbers:
                    yield number
                    await self.more.wait()

        return Stream(make())

    @method
    def broken(self, how: Str) -> Stream[Str]:
        async def make() -> AsyncIterator[str]:
            await checkpoint()
            yield "first"
            if how == "error":
                raise DBusError("no more", name="org.example.Error.Torn")
            if how == "bug":
                raise ValueError("no more")
            yield cast(str, 5)

        return Stream(make())

    @method
    def cups(self) -> Stream[Cup]:
        async def make() -> AsyncIterator[Cup]:
            for size in range(3):
                await checkpoint()
                yield Cup(size)

        return Stream(make())

    @method
    def large(self, n: Int32) -> Stream[Str]:
        async def make() -> AsyncIterator[str]:
            for number in range(n):
                await checkpoint()
                self.made.append(number)
                yield "x" * 600_000

        return Stream(make())

    @method(gives="o")
    def untyped(self) -> object:
        return Stream(self.numbers(1))


async def meet(service: Connection, client: Connection) -> tuple[Log, Log]:
    """A log, and a proxy for it."""
    log = Log()
    return log, client.proxy(Log, await introduce(service, client, log))


async def left(service: Connection, client: Connection) -> tuple[list[int], list[int]]:
    """The nodes of both, when nobody has anything to do any more; one is the log."""
    await quiet(client, service)
    await quiet(client, service)
    return nodes_of(service), nodes_of(client)


@on_a_bus()
async def test_a_stream_gives_all_items_in_order_and_then_ends(
    service: Connection, client: Connection
) -> None:
    log, proxy = await meet(service, client)
    n = 3 * BATCH + 1
    async with await proxy.count(n) as numbers:
        assert [number async for number in numbers] == list(range(n))
        with pytest.raises(StopAsyncIteration):
            await anext(numbers)
    await log.closed.wait()
    at_service, at_client = await left(service, client)
    assert (len(at_service), at_client) == (1, [])


@on_a_bus()
async def test_items_have_the_types_that_are_declared(service: Connection, client: Connection) -> None:
    _, proxy = await meet(service, client)
    async with await proxy.entries(2) as entries:
        assert [entry async for entry in entries] == [Entry(0, "0"), Entry(1, "1")]
    async with await proxy.cups() as cups:
        assert [await cup.drink(0) async for cup in cups] == [0, 1, 2]


@on_a_bus()
async def test_an_empty_stream_just_ends(service: Connection, client: Connection) -> None:
    _, proxy = await meet(service, client)
    async with await proxy.count(0) as numbers:
        assert [number async for number in numbers] == []


@on_a_bus()
async def test_nobody_makes_what_nobody_asked_for(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.count(1_000_000) as numbers:
        await quiet(client, service)
        assert log.made == []
        for _ in range(10):
            await anext(numbers)
        await quiet(client, service)
        assert len(log.made) <= 2 * BATCH
        for _ in range(10 * BATCH):
            await anext(numbers)
        await quiet(client, service)
        assert len(log.made) <= 12 * BATCH + 10
    await log.closed.wait()


@on_a_bus()
async def test_what_is_there_already_may_be_a_stream_too(service: Connection, client: Connection) -> None:
    class Shelf(Interface, name="org.example.Shelf1"):
        @method
        def books(self) -> Stream[Str]:
            return Stream(["one", "two"])

    proxy = client.proxy(Shelf, await introduce(service, client, Shelf()))
    async with await proxy.books() as books:
        assert [book async for book in books] == ["one", "two"]


@on_a_bus()
async def test_an_item_is_there_as_soon_as_it_is_made(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.wait() as numbers:
        assert await anext(numbers) == 1
        log.more.set()
        assert await anext(numbers) == 2


@on_a_bus()
async def test_a_reader_that_was_cancelled_misses_nothing(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.wait() as numbers:
        assert await anext(numbers) == 1
        for _ in range(3):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await anext(numbers)
        log.more.set()
        assert [number async for number in numbers] == [2]


@on_a_bus()
async def test_the_end_of_the_block_closes_the_generator(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.count(1_000_000) as numbers:
        await anext(numbers)
    await log.closed.wait()
    log.closed = anyio.Event()
    with pytest.raises(KeyError):
        async with await proxy.wait() as numbers:
            await anext(numbers)
            raise KeyError
    await log.closed.wait()
    at_service, at_client = await left(service, client)
    assert (len(at_service), at_client) == (1, [])


@on_a_bus()
async def test_the_death_of_the_client_closes_the_generator(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.wait() as numbers:
        await anext(numbers)
        core_peer(client).disconnect()
        await log.closed.wait()
        with pytest.raises(BusGone):
            await anext(numbers)
    await quiet(service)
    assert nodes_of(service) == []


@on_a_bus()
async def test_the_death_of_the_service_is_an_error_and_no_end(
    service: Connection, client: Connection
) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.wait() as numbers:
        await anext(numbers)
        await quiet(client, service)
        core_peer(service).disconnect()
        with pytest.raises(NoReply):
            await anext(numbers)
        await log.closed.wait()


@on_a_bus()
async def test_a_service_that_stops_says_so_to_who_waits(service: Connection, client: Connection) -> None:
    _, proxy = await meet(service, client)
    async with await proxy.wait() as numbers:
        await anext(numbers)
        await quiet(client, service)
        for export in service.exports():
            export.refuse(DBusError("good night", name="org.example.Error.Night"))
        with pytest.raises(DBusError, match="good night"):
            await anext(numbers)


def test_an_error_comes_after_the_items_before_it(caplog: pytest.LogCaptureFixture) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, proxy = await meet(service, client)
        for how, text in (
            ("error", "org.example.Error.Torn: no more"), ("bug", "ValueError: no more"),
            ("type", "InvalidArgument"),
        ):
            async with await proxy.broken(how) as texts:
                assert await anext(texts) == "first"
                for _ in range(2):
                    with pytest.raises(DBusError, match=text):
                        await anext(texts)

    run()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        ValueError, InvalidArgument,
    ]


@on_a_bus()
async def test_a_batch_has_a_weight_beside_a_number(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    async with await proxy.large(20) as texts:
        await anext(texts)
        await quiet(client, service)
        assert len(log.made) <= 6
        assert len([text async for text in texts]) == 19


@on_a_bus()
async def test_a_stream_is_read_inside_its_block_and_by_its_client(
    service: Connection, client: Connection
) -> None:
    log, proxy = await meet(service, client)
    numbers = await proxy.count(3)
    with pytest.raises(TypeError, match="async with"):
        await anext(numbers)
    with pytest.raises(TypeError, match="given to"):
        async with await log.count(3):
            pytest.fail("it is the service's own")
    del numbers
    gc.collect()


class Lie(Interface, name="org.example.Lie1"):
    """Gives no stream."""

    @method
    def lie(self) -> Stream[Int32]:
        return cast("Stream[int]", 5)


def test_a_stream_without_a_type_of_items_is_a_bug_of_the_service(caplog: pytest.LogCaptureFixture) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, proxy = await meet(service, client)
        remote = cast(Remote, proxy.__far__)
        (reference,) = (await remote.call("org.example.Log1", "Untyped")).values
        with pytest.raises(DBusError, match=r"says Stream\[T\]"):
            await client.proxy(Stream, reference).next(1)
        with pytest.raises(DBusError, match="is no Stream"):
            await client.proxy(Lie, await introduce(service, client, Lie())).lie()

    run()
    assert len([record for record in caplog.records if record.exc_info]) == 2


@pytest.mark.parametrize(("items", "text"), [
    ([], "it gave neither"), ([Variant("s", "a")], "an item is a 's', not a 'i'"),
])
def test_a_service_that_gives_something_else_is_no_endless_stream(items: list[Variant], text: str) -> None:
    class Mock(Interface, name="org.bus1.Stream1"):
        @method(takes="u", gives="avb")
        def next(self, max: int) -> tuple[list[Variant], bool]:
            return items, False

    class Counter(Interface, name="org.example.Log1"):
        @method(gives="o")
        def count(self, n: Int32) -> object:
            return Mock()

    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        proxy = client.proxy(Log, await introduce(service, client, Counter()))
        async with await proxy.count(1) as numbers:
            with pytest.raises(InvalidArgs, match=text):
                await anext(numbers)

    run()


async def raw(proxy: Log, n: int) -> Stream[int]:
    """A stream as a D-Bus client sees it: without a block."""
    return await proxy.count(n)


@on_a_bus()
async def test_next_gives_what_is_ready_and_says_when_it_was_the_last(
    service: Connection, client: Connection
) -> None:
    log, proxy = await meet(service, client)
    stream = await raw(proxy, 5)
    assert await stream.next(2) == ([Variant("i", 0), Variant("i", 1)], False)
    assert log.made == [0, 1]
    items, done = await stream.next(0xFFFF_FFFF)
    assert ([item.value for item in items], done) == ([2, 3, 4], True)
    assert await stream.next(1) == ([], True)
    with pytest.raises(InvalidArgs, match="one item at least"):
        await stream.next(0)


@on_a_bus()
async def test_a_greedy_client_is_granted_a_bounded_batch(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    stream = await raw(proxy, 3 * MAX_BATCH)
    items, done = await stream.next(0xFFFF_FFFF)
    assert (len(items), done, len(log.made)) == (MAX_BATCH, False, MAX_BATCH)


@on_a_bus()
async def test_what_was_granted_and_not_used_is_not_added_to_what_is_granted_next(
    service: Connection, client: Connection
) -> None:
    log, proxy = await meet(service, client)
    stream = await proxy.burst(100)
    assert (await stream.next(5))[0] == [Variant("i", 0)]

    async def take() -> None:
        assert (await stream.next(5))[0]

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(take)
        await quiet(client, service)
        log.more.set()
    await quiet(client, service)
    assert log.made == [0, 1, 2, 3, 4, 5]


@on_a_bus()
async def test_closing_ends_the_stream_for_all_who_hold_it(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    stream = await raw(proxy, 5)
    await stream.next(1)
    await stream.close()
    await log.closed.wait()
    with pytest.raises(NodeDestroyed):
        await stream.next(1)
    stream = await raw(proxy, 5)
    await stream.close()
    with pytest.raises(NodeDestroyed):
        await stream.next(1)


@on_a_bus()
async def test_several_may_take_from_one_stream_and_each_item_goes_to_one(
    service: Connection, client: Connection
) -> None:
    _, proxy = await meet(service, client)
    stream = await raw(proxy, 100)
    taken: list[int] = []

    async def take() -> None:
        done = False
        while not done:
            items, done = await stream.next(3)
            taken.extend(cast(int, item.value) for item in items)

    async with anyio.create_task_group() as tasks:
        for _ in range(4):
            tasks.start_soon(take)
    assert sorted(taken) == list(range(100))


@on_a_bus()
async def test_several_tasks_of_a_client_may_read_one_stream(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    taken: list[int] = []
    async with await proxy.wait() as numbers:
        async def read() -> None:
            taken.extend([number async for number in numbers])

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(read)
            await quiet(client, service)
            log.more.set()
    assert sorted(taken) == [1, 2]


@on_a_bus()
async def test_a_generator_that_is_closed_by_its_service_has_no_end(
    service: Connection, client: Connection
) -> None:
    class Odd(Interface, name="org.example.Odd1"):
        @method
        def numbers(self) -> Stream[Int32]:
            async def make() -> AsyncIterator[int]:
                yield 1
                service.start(self.end)
                await anyio.sleep_forever()

            self.stream = Stream(make())
            return self.stream

        async def end(self) -> None:
            await checkpoint()
            assert self.stream._production is not None
            self.stream._production.end()

    proxy = client.proxy(Odd, await introduce(service, client, Odd()))
    async with await proxy.numbers() as numbers:
        assert await anext(numbers) == 1
        with pytest.raises(DBusError, match="before its end"):
            await anext(numbers)


@on_a_bus()
async def test_a_next_that_is_given_up_takes_nothing(service: Connection, client: Connection) -> None:
    log, proxy = await meet(service, client)
    stream = await proxy.wait()
    assert (await stream.next(1))[0] == [Variant("i", 1)]
    with anyio.move_on_after(0.001):
        await stream.next(1)
    await quiet(client, service)
    log.more.set()
    assert (await stream.next(1))[0] == [Variant("i", 2)]


@on_a_bus()
async def test_what_a_generator_opens_it_closes_in_the_same_task(
    service: Connection, client: Connection
) -> None:
    class Careful(Interface, name="org.example.Careful1"):
        @method
        def numbers(self) -> Stream[Int32]:
            async def make() -> AsyncIterator[int]:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(anyio.sleep_forever)
                    for number in range(200):
                        with anyio.CancelScope():
                            yield number
                    tasks.cancel_scope.cancel()

            return Stream(make())

    proxy = client.proxy(Careful, await introduce(service, client, Careful()))
    async with await proxy.numbers() as numbers:
        assert [number async for number in numbers] == list(range(200))
    async with await proxy.numbers() as numbers:
        await anext(numbers)


@on_a_bus()
async def test_a_stream_passes_views_and_ends_with_a_membrane(
    service: Connection, client: Connection
) -> None:
    log, membrane = Log(), Membrane()
    view, revoke = revocable(attenuate(log, Log.count, Log.wait))
    proxy = client.proxy(Log, await introduce(service, client, membrane.wrap(view)))
    async with await proxy.count(100) as numbers:
        assert [number async for number in numbers] == list(range(100))
    async with await proxy.wait() as numbers:
        assert await anext(numbers) == 1
        membrane.revoke()
        with pytest.raises((DBusError, NodeDestroyed)):
            await anext(numbers)
    revoke()


@on_a_bus()
async def test_introspection_says_what_the_items_are(service: Connection, client: Connection) -> None:
    _, proxy = await meet(service, client)
    remote = cast(Remote, proxy.__far__)
    (xml,) = (await remote.call("org.freedesktop.DBus.Introspectable", "Introspect")).values
    assert '<annotation name="org.bus1.Stream" value="(is)"/>' in xml


def test_a_source_that_is_no_generator_is_closed_too() -> None:
    class Source:
        def __init__(self) -> None:
            self.is_closed = False

        def __aiter__(self) -> Source:
            return self

        async def __anext__(self) -> int:
            await anyio.sleep_forever()
            raise AssertionError

        async def aclose(self) -> None:
            self.is_closed = True

    async def main() -> None:
        source = Source()
        async with anyio.create_task_group() as tasks:
            production = Production(source, Conversion("i"), tasks.start_soon)

            async def take() -> None:
                with pytest.raises(DBusError, match="before its end"):
                    await production.take(1)

            tasks.start_soon(take)
            await anyio.wait_all_tasks_blocked()
            production.end()
        assert source.is_closed

    anyio.run(main)



@on_a_bus()
async def test_the_manual_shows_a_stream(service: Connection, client: Connection) -> None:
    page = (Path(__file__).parent.parent / "docs" / "services.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (example,) = [text for text in examples if "Stream[Str]" in text]
    names: dict[str, Any] = {}
    exec(example, names)
    log = client.proxy(names["Log"], await introduce(service, client, names["Log"]()))
    async with await log.follow("ssh") as lines:
        assert [line async for line in lines] == ["ssh has started"]
