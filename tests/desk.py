"""desk: a service for tests of its own life, with calls that take as long as the test wants."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from bus1_services import Connection, Interface, Service, Str, connect, method, signal
from bus1_services.errors import NameHasNoOwner
from buses import Bus

NAME, PATH = "org.example.Desk", "/org/example/Desk"
INTERFACE = "org.example.Desk1"


class Ticket(Interface, name="org.example.Ticket1"):
    """Lives as long as its client holds it."""

    @method
    def number(self) -> Str:
        """It."""
        return "7"


class Desk(Interface, name=INTERFACE):
    """Serves calls when the test says so."""

    def __init__(self) -> None:
        self.entered = anyio.Event()
        """Somebody waits at the desk."""
        self.opened = anyio.Event()
        """Whoever waits is served."""
        self.n_served = 0

    @method
    def ask(self) -> Str:
        """Answered at once."""
        self.n_served += 1
        return "here"

    @method(limit=1)
    async def wait(self) -> Str:
        """Answered when the desk is opened; one after the other."""
        self.entered.set()
        await self.opened.wait()
        self.n_served += 1
        await self.served("somebody")
        return "served"

    @method
    async def insist(self) -> Str:
        """As ``wait``, but nothing can end it before."""
        self.entered.set()
        with anyio.CancelScope(shield=True):
            await self.opened.wait()
        return "at last"

    @method
    def draw(self) -> Ticket:
        """An object for this client alone."""
        return Ticket()

    @signal
    def served(self, who: Str) -> None:
        """Somebody has waited."""


def native(bus: Bus) -> str:
    """Where native peers connect to this bus."""
    return bus.path + "1"


def desk_service(bus: Bus, desk: Desk | None = None, **options: Any) -> Service:
    """The service on this bus."""
    return Service("A desk", NAME, objects={PATH: desk or Desk()}, address=native(bus), **options)


class Opened:
    """A desk that is served from the beginning of a test until it is told to stop."""

    def __init__(self, bus: Bus, desk: Desk | None = None, **options: Any) -> None:
        self.desk = desk or Desk()
        self.service = desk_service(bus, self.desk, **options)
        self.scope = anyio.CancelScope()
        self.has_stopped = anyio.Event()
        self._is_up = anyio.Event()
        self._may_stop = anyio.Event()

    async def run(self) -> None:
        """Serve."""
        with self.scope:
            async with self.service.running() as self.connection:
                self._is_up.set()
                await self._may_stop.wait()
        self.has_stopped.set()

    async def is_up(self) -> None:
        """Wait until it is published."""
        await self._is_up.wait()

    def stop(self) -> None:
        """Leave the block."""
        self._may_stop.set()


@asynccontextmanager
async def visited(bus: Bus, **options: Any) -> AsyncIterator[tuple[Opened, Connection, Desk]]:
    """A desk, a client's connection, and its proxy."""
    opened = Opened(bus, **options)
    async with anyio.create_task_group() as tasks, connect(native(bus)) as client:
        tasks.start_soon(opened.run)
        await opened.is_up()
        yield opened, client, await client.registry.proxy(Desk, NAME, PATH)
        opened.stop()
        opened.desk.opened.set()


async def has_no_owner(connection: Connection, name: str = NAME) -> None:
    """Wait until nobody owns the name."""
    async with connection.registry.watch(name) as changes:
        try:
            (await connection.registry.resolve(name)).root.release()
        except NameHasNoOwner:
            return
        async for change in changes:
            if not change.new:
                return


async def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """A blocking client beside the service."""
    return await anyio.to_thread.run_sync(function, *arguments)


both_loops = pytest.mark.parametrize("backend", ["asyncio", "trio"])
"""For tests that run with either event loop."""


async def until(claim: Callable[[], bool]) -> None:
    """Let others run until this holds."""
    while not claim():
        await anyio.sleep(0)
