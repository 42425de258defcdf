"""Services that leave when nobody needs them, and come back when somebody does: no call is lost between."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from bus1_services import Connection, NameFlag, Service, connect
from bus1_services.idle import idle
from bus1_services.program import Program
from buses import Bus
from dbus_client import RETURN, CallFailed, Client
from desk import INTERFACE, NAME, PATH, Desk, Opened, aside, both_loops, has_no_owner, native, until, visited
from startable import Startable

from bus1.errors import NodeDestroyed

PROGRAM = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from desk import PATH, Desk
from bus1_services import Service, method, Str

class Clerk(Desk):
    @method
    def ask(self) -> Str:
        return str(os.getpid())

name, address, idle = sys.argv[1:]
Service("A clerk", name, objects={{PATH: Clerk()}}, address=address).run(exit_on_idle=float(idle))
"""


async def hold_by_a_call(stack: AsyncExitStack, opened: Opened, desk: Desk) -> None:
    """A call that takes its time."""
    tasks = await stack.enter_async_context(anyio.create_task_group())
    tasks.start_soon(desk.wait)
    await opened.desk.entered.wait()
    stack.callback(opened.desk.opened.set)


async def hold_by_listening(stack: AsyncExitStack, opened: Opened, desk: Desk) -> None:
    """A stream of signals."""
    await stack.enter_async_context(desk.served.subscribe())


async def hold_by_an_object(stack: AsyncExitStack, opened: Opened, desk: Desk) -> None:
    """An object that only this client holds."""
    held = [await desk.draw()]
    stack.callback(held.clear)


@both_loops
@pytest.mark.parametrize("hold", [hold_by_a_call, hold_by_listening, hold_by_an_object])
def test_a_service_is_in_use_as_long_as_somebody_needs_something_of_it(
    bus1_bus: Bus, backend: str, hold: Any
) -> None:
    async def main() -> None:
        is_idle = anyio.Event()

        async def look() -> None:
            await idle([opened.connection], 0)
            is_idle.set()

        async with visited(bus1_bus) as (opened, client, desk), anyio.create_task_group() as tasks:
            async with AsyncExitStack() as stack:
                await hold(stack, opened, desk)
                tasks.start_soon(look)
                for _ in range(3):
                    assert await desk.ask() == "here"
                assert not is_idle.is_set()
            await client.swept()
            await is_idle.wait()

    anyio.run(main, backend=backend)


@both_loops
def test_calls_between_two_looks_put_the_end_off(
    bus1_bus: Bus, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        looks = 0

        async def call_meanwhile(seconds: float) -> None:
            nonlocal looks
            assert seconds == 60
            looks += 1
            if looks < 4:
                assert await desk.ask() == "here"

        async with visited(bus1_bus) as (opened, _, desk):
            with monkeypatch.context() as patch:
                patch.setattr("bus1_services.idle.anyio.sleep", call_meanwhile)
                await idle([opened.connection], 60)
        assert looks == 4

    anyio.run(main, backend=backend)


def test_nobody_waits_for_a_service_whose_bus_is_gone(bus1_bus: Bus) -> None:
    async def main() -> None:
        async with visited(bus1_bus) as (opened, _, desk):
            held = await desk.draw()
            async with desk.served.subscribe(), anyio.create_task_group() as tasks:
                tasks.start_soon(idle, [opened.connection], 0)
                await opened.connection.peer.disconnect()
                await until(lambda: not opened.connection.is_open)
                await opened.connection.unused()
            with pytest.raises(NodeDestroyed):
                await held.number()

    anyio.run(main)


def test_what_was_sent_to_a_name_before_it_is_given_up_is_served(bus1_bus: Bus) -> None:
    """The loop does not turn between the decision and the call; and from then on nobody owns the name."""

    async def main() -> None:
        client = bus1_bus.connect()
        async with visited(bus1_bus) as (opened, _, _):
            await idle([opened.connection], 0)
            serials = [client.call(NAME, "Ask", path=PATH, interface=INTERFACE) for _ in range(5)]
            client.sync()
            await opened.service.relinquish(opened.connection)
            for serial in serials:
                assert (await aside(client.reply, serial)).args == ["here"]
            with pytest.raises(CallFailed, match="NameHasNoOwner"):
                await aside(client.ask, "GetNameOwner", "s", NAME)

    anyio.run(main)


def test_a_service_that_may_be_replaced_has_not_lost_the_name_that_it_gives_up(bus1_bus: Bus) -> None:
    async def main() -> None:
        flags = NameFlag.ALLOW_REPLACEMENT | NameFlag.DO_NOT_QUEUE
        async with visited(bus1_bus, flags=flags) as (opened, client, desk):
            async with anyio.create_task_group() as tasks, desk.served.subscribe():
                tasks.start_soon(opened.service.relinquish, opened.connection)
                await has_no_owner(client)
                assert await desk.ask() == "here"
            await opened.connection.unused()
            assert not opened.has_stopped.is_set()

    anyio.run(main)


def test_what_begins_at_the_last_instant_is_finished_before_the_service_leaves(bus1_bus: Bus) -> None:
    async def main() -> None:
        client = bus1_bus.connect()
        has_left = anyio.Event()

        async def leave(opened: Opened) -> None:
            await opened.service.relinquish(opened.connection)
            has_left.set()

        async with visited(bus1_bus) as (opened, _, _), anyio.create_task_group() as tasks:
            (unique,) = client.ask("GetNameOwner", "s", NAME)
            serial = client.call(NAME, "Draw", path=PATH, interface=INTERFACE)
            client.sync()
            tasks.start_soon(leave, opened)
            (path,) = (await aside(client.reply, serial)).args
            await until(lambda: opened.connection.places.taken == 0)
            assert not has_left.is_set()
            number = await aside(lambda: client.request(
                unique, "Number", path=path, interface="org.example.Ticket1"
            ))
            assert number.args == ["7"]
            await aside(client.close)
            await has_left.wait()

    anyio.run(main)


class Hammer:
    """A D-Bus client that calls by name, three at a time, until that was often enough; all are answered."""

    def __init__(self, client: Client, name: str, is_enough: Callable[[list[Any]], bool]) -> None:
        self.client, self.name, self.is_enough = client, name, is_enough
        self.answers: list[Any] = []
        self.is_over = False

    def run(self) -> None:
        try:
            while not self.is_enough(self.answers):
                serials = [self.client.call(self.name, "Ask", path=PATH, interface=INTERFACE) for _ in "123"]
                for serial in serials:
                    answer = self.client.reply(serial)
                    assert answer.type == RETURN, answer.what
                    self.answers.append(answer.args[0])
        finally:
            self.is_over = True


@both_loops
def test_no_call_by_name_is_lost_while_a_service_leaves_and_comes_back_all_the_time(
    bus1_bus: Bus, backend: str
) -> None:
    """What the bus starts is nothing: the name is owned again by the test."""

    async def main() -> None:
        startable = Startable(bus1_bus)
        name, _ = startable.add()
        desk, lives = Desk(), 0
        hammer = Hammer(
            bus1_bus.connect(), name, lambda answers: len(answers) >= 120 and lives > 10
        )
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(aside, hammer.run)
            while not hammer.is_over:
                lives += 1
                service = Service("A desk", name, objects={PATH: desk}, address=native(bus1_bus))
                async with service.running() as connection:
                    await idle([connection], 0)
                    await service.relinquish(connection)
        assert hammer.answers == ["here"] * desk.n_served

    anyio.run(main, backend=backend)


def test_no_call_is_lost_while_the_bus_starts_a_program_that_exits_at_once_when_idle(bus1_bus: Bus) -> None:
    startable = Startable(bus1_bus)
    name = startable.name()
    program = bus1_bus.folder / "clerk.py"
    program.write_text(PROGRAM)
    startable.file(name, f"{sys.executable} {program} {name} {native(bus1_bus)} 0")
    hammer = Hammer(
        bus1_bus.connect(), name, lambda answers: len(answers) >= 15 and len(set(answers)) > 1
    )
    hammer.run()
    assert str(os.getpid()) not in hammer.answers


@both_loops
def test_a_program_of_several_services_leaves_when_none_is_needed(
    bus1_bus: Bus, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        one, other = Desk(), Desk()
        services = (
            Service("One", NAME, objects={PATH: one}, address=native(bus1_bus)),
            Service("Other", "org.example.Other", objects={PATH: other}, address=native(bus1_bus)),
        )
        ended = anyio.Event()
        may_exit = anyio.Event()

        async def wait(connections: list[Connection], seconds: float) -> None:
            assert seconds == 0
            await may_exit.wait()
            await idle(connections, seconds)

        async def run() -> None:
            await Program(services, Connection.ended, 0).run()
            ended.set()

        monkeypatch.setattr("bus1_services.program.idle", wait)
        async with anyio.create_task_group() as tasks, connect(native(bus1_bus)) as client:
            async with client.registry.watch("org.example.Other") as changes:
                tasks.start_soon(run)
                await anext(changes)
            first = await client.registry.proxy(Desk, "org.example.Other", PATH)
            async with first.served.subscribe():
                may_exit.set()
                second = None
                while second is None:
                    if NAME in await client.registry.names():
                        second = await client.registry.proxy(Desk, NAME, PATH)
                assert await second.ask() == "here"
                assert not ended.is_set()
            await ended.wait()
            assert not {NAME, "org.example.Other"} & set(await client.registry.names())

    anyio.run(main, backend=backend)
