"""Service and client on loops of their own, each of which waits in its loop's stead: nothing is lost."""

from __future__ import annotations

import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import anyio
import pytest
from bus1_services import Bytes, DBusError, Interface, Str, UInt32, connect, method, signal
from buses import Bus as Daemon

from bus1.addresses import native_address

NAME, PATH = "org.example.Mill", "/org/example/Mill"
LARGE = bytes(100_000)
SOME = 50


class Mill(Interface, name="org.example.Mill1"):
    """Methods of every kind."""

    def __init__(self) -> None:
        self.n_given_up = 0

    @method
    def echo(self, text: Str) -> Str:
        return text

    @method
    async def later(self, text: Str) -> Str:
        await anyio.sleep(0)
        return text

    @method
    def length(self, data: Bytes) -> UInt32:
        return len(data)

    @method
    def fails(self) -> None:
        raise DBusError("no grain")

    @method
    async def never(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.n_given_up += 1

    @method
    def given_up(self) -> UInt32:
        return self.n_given_up

    @method
    async def turn(self) -> None:
        await self.turned("once")

    @signal
    def turned(self, how: Str) -> None: ...


@contextmanager
def serving(daemon: Daemon, backend: str) -> Iterator[str]:
    """A mill on a loop in another thread; the address."""
    address = native_address(daemon.address)
    assert address is not None
    ready, stop = threading.Event(), threading.Event()

    async def serve() -> None:
        async with connect(address) as connection:
            await connection.registry.publish("A mill", {NAME: 0}, {PATH: Mill()})
            ready.set()
            await anyio.to_thread.run_sync(stop.wait)

    thread = threading.Thread(target=anyio.run, args=[serve], kwargs={"backend": backend})
    thread.start()
    try:
        assert ready.wait(30)
        yield address
    finally:
        stop.set()
        thread.join()


@asynccontextmanager
async def meeting(address: str) -> AsyncIterator[Mill]:
    """The mill, from afar."""
    async with connect(address) as connection:
        yield await connection.registry.proxy(Mill, NAME, PATH)


@pytest.fixture(params=["asyncio", "trio"])
def run(bus1_bus: Daemon, request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Runs a test with the mill; both on this kind of loop."""
    with serving(bus1_bus, request.param) as address:

        async def meet(test: Callable[[Mill], Awaitable[None]]) -> None:
            with anyio.fail_after(50):
                async with meeting(address) as mill:
                    await test(mill)

        yield lambda test: anyio.run(meet, test, backend=request.param)


async def busy(mill: Mill, is_over: Callable[[], bool]) -> None:
    """One call after the other."""
    number = 0
    while not is_over():
        number += 1
        assert await mill.echo(str(number)) == str(number)


async def call_all_kinds(mill: Mill, seed: int) -> None:
    rng = random.Random(seed)
    for number in range(SOME):
        text = f"{seed} {number}"
        match rng.randrange(4):
            case 0:
                assert await mill.later(text) == text
            case 1:
                assert await mill.length(LARGE) == len(LARGE)
            case 2:
                with pytest.raises(DBusError, match="no grain"):
                    await mill.fails()
            case _:
                assert await mill.echo(text) == text


@pytest.mark.parametrize("n_tasks", [1, 8])
def test_each_task_gets_the_answers_to_its_own_calls(run: Callable[..., None], n_tasks: int) -> None:
    async def test(mill: Mill) -> None:
        async with anyio.create_task_group() as tasks:
            for seed in range(n_tasks):
                tasks.start_soon(call_all_kinds, mill, seed)

    run(test)


def test_a_call_that_is_given_up_among_others_is_given_up_there(run: Callable[..., None]) -> None:
    async def test(mill: Mill) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(SOME):
                tasks.start_soon(mill.never)
            await busy(mill, iter([False] * SOME + [True]).__next__)
            assert await mill.given_up() == 0
            tasks.cancel_scope.cancel()
        while await mill.given_up() < SOME:
            assert await mill.echo("more") == "more"

    run(test)


def test_timers_of_a_busy_client_come(run: Callable[..., None]) -> None:
    async def test(mill: Mill) -> None:
        n_ticks = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(busy, mill, lambda: n_ticks == SOME)
            for _ in range(SOME):
                await anyio.sleep(0.001)
                n_ticks += 1
        with anyio.move_on_after(0.01) as scope:
            await busy(mill, lambda: False)
        assert scope.cancelled_caught
        assert await mill.echo("and on") == "and on"

    run(test)


def test_signals_come_among_answers(run: Callable[..., None]) -> None:
    async def test(mill: Mill) -> None:
        async with mill.turned.subscribe() as turns:
            for _ in range(SOME):
                await mill.turn()
                assert await mill.echo("between") == "between"
            assert [await anext(turns) for _ in range(SOME)] == ["once"] * SOME

    run(test)
