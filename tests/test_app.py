"""The life of a service within a program: how it starts, and above all how it stops."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from bus1_services import Connection, NameFlag, NameLost, NameTaken, Service, Stopping, connect
from bus1_services.errors import AccessDenied, InvalidArgs, NoReply
from bus1_services.registry import NameOwnerChanged
from bus1_services.stopping import leave
from buses import Bus
from daemons import OPEN, Daemon
from dbus_client import CallFailed, Client
from desk import (
    INTERFACE,
    NAME,
    PATH,
    Desk,
    Opened,
    aside,
    both_loops,
    desk_service,
    has_no_owner,
    native,
    until,
    visited,
)

from bus1.errors import BusGone, NodeDestroyed

REPLACEABLE = NameFlag.DO_NOT_QUEUE | NameFlag.ALLOW_REPLACEMENT | NameFlag.REPLACE_EXISTING


def call_in(tasks: anyio.abc.TaskGroup, method: Callable[[], Any], outcomes: list[object]) -> None:
    """Call beside the test, and note what comes of it."""

    async def call() -> None:
        try:
            outcomes.append(await method())
        except Exception as error:
            outcomes.append(type(error))

    tasks.start_soon(call)


# ---- stopping ------------------------------------------------------------------------------------


@both_loops
@pytest.mark.parametrize("is_cancelled", [False, True])
def test_a_stop_gives_up_the_name_refuses_new_calls_and_finishes_those_it_has(
    bus1_bus: Bus, backend: str, is_cancelled: bool
) -> None:
    """Those that wait for their turn, too; and it does not matter whether the block ends or is cancelled."""

    async def main() -> None:
        outcomes: list[object] = []
        async with visited(bus1_bus) as (opened, client, desk), anyio.create_task_group() as calls:
            for _ in range(3):
                call_in(calls, desk.wait, outcomes)
            await until(lambda: opened.connection.places.taken == 3)
            if is_cancelled:
                opened.scope.cancel()
            else:
                opened.stop()
            await has_no_owner(client)
            with pytest.raises(Stopping, match="A desk is stopping"):
                while True:
                    await desk.ask()
            assert outcomes == [] and not opened.has_stopped.is_set()
            opened.desk.opened.set()
            await opened.has_stopped.wait()
            with pytest.raises(NodeDestroyed):
                await desk.ask()
        assert outcomes == ["served"] * 3

    anyio.run(main, backend=backend)


@both_loops
def test_what_takes_longer_than_the_grace_time_is_cancelled_and_its_callers_are_told(
    bus1_bus: Bus, backend: str
) -> None:
    async def main() -> None:
        outcomes: list[object] = []
        async with visited(bus1_bus, grace=0) as (opened, _, desk), anyio.create_task_group() as calls:
            call_in(calls, desk.wait, outcomes)
            call_in(calls, desk.wait, outcomes)
            await until(lambda: opened.connection.places.taken == 2)
            opened.stop()
            await opened.has_stopped.wait()
        assert outcomes == [Stopping, Stopping]
        assert opened.desk.n_served == 0

    anyio.run(main, backend=backend)


@both_loops
def test_in_a_hurry_the_connection_ends_at_once_and_callers_see_no_reply(
    bus1_bus: Bus, backend: str
) -> None:
    async def main() -> None:
        outcomes: list[object] = []
        async with visited(bus1_bus) as (opened, client, desk), anyio.create_task_group() as calls:
            opened.service.hurry()
            assert await desk.ask() == "here"
            call_in(calls, desk.wait, outcomes)
            await opened.desk.entered.wait()
            opened.stop()
            await has_no_owner(client)
            opened.service.hurry()
            await opened.has_stopped.wait()
        assert outcomes == [NoReply]

    anyio.run(main, backend=backend)


def test_who_keeps_calling_does_not_put_the_end_off() -> None:
    """Somebody is being refused whenever one looks: that is no call which has to be finished."""

    class Besieged:
        busy, is_quiet = 0, False

        def refuse(self, error: Stopping) -> None: ...

        def cancel(self, error: Stopping) -> None: ...

    class Siege:
        is_open = True

        def exports(self) -> list[Besieged]:
            return [besieged]

        async def shut(self) -> None:
            await anyio.lowlevel.checkpoint()
            besieged.is_quiet = True

        async def eased(self) -> None:
            await anyio.lowlevel.checkpoint()

    besieged = Besieged()
    anyio.run(leave, cast(Connection, Siege()), "A desk", (), 1e6)
    assert besieged.is_quiet


@both_loops
def test_nobody_waits_for_a_method_that_does_not_let_itself_be_cancelled(
    bus1_bus: Bus, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus1_services.stopping.GRACE", 0)

    async def main() -> None:
        outcomes: list[object] = []
        async with visited(bus1_bus, grace=0) as (opened, _, desk), anyio.create_task_group() as calls:
            call_in(calls, desk.insist, outcomes)
            await opened.desk.entered.wait()
            opened.stop()
            await until(lambda: bool(outcomes))
            assert not opened.has_stopped.is_set()
            opened.desk.opened.set()
            await opened.has_stopped.wait()
        assert outcomes == [NoReply]

    anyio.run(main, backend=backend)


def test_every_call_around_a_stop_has_a_clear_outcome(bus1_bus: Bus) -> None:
    """Answered, refused, or too late: no call is lost, however it races with the end."""

    async def main() -> None:
        outcomes: list[object] = []
        async with visited(bus1_bus) as (opened, _, desk), anyio.create_task_group() as calls:

            async def hammer() -> None:
                while NodeDestroyed not in outcomes:
                    try:
                        outcomes.append(await desk.ask())
                    except Exception as error:
                        outcomes.append(type(error))

            for _ in range(16):
                calls.start_soon(hammer)
            await until(lambda: len(outcomes) > 100)
            opened.stop()
        assert set(outcomes) - {Stopping} == {"here", NodeDestroyed}
        assert outcomes.count("here") == opened.desk.n_served

    anyio.run(main)


def test_d_bus_clients_are_answered_too_and_hear_what_a_finishing_call_tells(bus1_bus: Bus) -> None:
    async def main() -> None:
        client = bus1_bus.connect()
        outcome: list[object] = []

        def legacy() -> None:
            outcome.append(client.request(NAME, "Wait", path=PATH, interface=INTERFACE).args)

        def late(unique: str, other: Client) -> None:
            with pytest.raises(CallFailed) as failure:
                other.request(unique, "Ask", path=PATH, interface=INTERFACE)
            outcome.append(failure.value.name)

        async with visited(bus1_bus) as (opened, native_client, _), anyio.create_task_group() as calls:
            other = bus1_bus.connect()
            unique = other.ask("GetNameOwner", "s", NAME)[0]
            client.match(f"type='signal',interface='{INTERFACE}'")
            calls.start_soon(aside, legacy)
            await opened.desk.entered.wait()
            opened.stop()
            await has_no_owner(native_client)
            await aside(late, unique, other)
            opened.desk.opened.set()
            await opened.has_stopped.wait()
            await aside(late, unique, other)
        assert outcome[0] == "org.bus1.Error.Stopping"
        assert ["served"] in outcome
        assert ("Served", "somebody") in [message.what for message in client.inbox]

    anyio.run(main)


def test_a_stream_of_signals_ends_with_an_error_after_the_last_signal(bus1_bus: Bus) -> None:
    async def main() -> None:
        heard = []
        async with visited(bus1_bus) as (opened, _, desk), desk.served.subscribe() as stream:
            await opened.desk.served("the first")
            await opened.desk.served("the last")
            opened.stop()
            await opened.has_stopped.wait()
            with pytest.raises(NoReply, match="gone"):
                async for who in stream:
                    heard.append(who)
        assert heard == ["the first", "the last"]

    anyio.run(main)


def test_a_caller_that_dies_while_its_service_stops_does_not_hold_it_up(bus1_bus: Bus) -> None:
    async def main() -> None:
        async with visited(bus1_bus, grace=1e6) as (opened, client, _):
            async with connect(native(bus1_bus)) as other, anyio.create_task_group() as calls:
                theirs = await other.registry.proxy(Desk, NAME, PATH)
                calls.start_soon(theirs.wait)
                await opened.desk.entered.wait()
                opened.stop()
                await has_no_owner(client)
                calls.cancel_scope.cancel()
            await opened.has_stopped.wait()

    anyio.run(main)


# ---- what runs beside ----------------------------------------------------------------------------


@both_loops
def test_tasks_run_beside_the_calls_and_end_after_the_last_of_them(bus1_bus: Bus, backend: str) -> None:
    async def main() -> None:
        events: list[str] = []
        served = Desk()

        async def work(connection: Connection) -> None:
            events.append("begun")
            try:
                await served.entered.wait()
                await until(lambda: not connection.is_used)
                await anyio.sleep_forever()
            finally:
                events.append(f"ended after {served.n_served} calls")

        async def short(connection: Connection) -> None:
            await connection.registry.names()
            events.append("short")

        outcomes: list[object] = []
        async with (
            visited(bus1_bus, desk=served, tasks=[short, work]) as (opened, client, desk),
            anyio.create_task_group() as calls,
        ):
            call_in(calls, desk.wait, outcomes)
            await opened.desk.entered.wait()
            opened.stop()
            await has_no_owner(client)
            opened.desk.opened.set()
            await opened.has_stopped.wait()
        assert sorted(events[:2]) == ["begun", "short"]
        assert events[2:] == ["ended after 1 calls"]
        assert outcomes == ["served"]

    anyio.run(main, backend=backend)


@both_loops
def test_a_task_that_fails_ends_its_service_and_is_not_hidden(bus1_bus: Bus, backend: str) -> None:
    async def fail(connection: Connection) -> None:
        await connection.registry.resolve(NAME)
        raise LookupError("no tea")

    async def main() -> None:
        with pytest.raises(LookupError, match="no tea"):
            async with desk_service(bus1_bus, tasks=[fail]).running():
                await anyio.sleep_forever()
        async with connect(native(bus1_bus)) as client:
            await has_no_owner(client)

    anyio.run(main, backend=backend)


@both_loops
def test_what_the_block_raises_comes_out_of_it_as_it_is(bus1_bus: Bus, backend: str) -> None:
    async def main(kind: type[BaseException]) -> None:
        with pytest.raises(kind, match="3"):
            async with desk_service(bus1_bus).running():
                raise kind("3")

    for kind in (LookupError, SystemExit, pytest.fail.Exception):
        anyio.run(main, kind, backend=backend)


@both_loops
def test_what_ends_the_block_of_a_connection_is_raised_as_it_is(bus1_bus: Bus, backend: str) -> None:
    async def main(kind: type[BaseException]) -> None:
        async with connect(native(bus1_bus)):
            raise kind("3")

    for kind in (LookupError, SystemExit, pytest.fail.Exception):
        with pytest.raises(kind, match="3"):
            anyio.run(main, kind, backend=backend)


@both_loops
def test_a_generator_with_a_connection_is_closed_like_any_other(bus1_bus: Bus, backend: str) -> None:
    async def names() -> AsyncGenerator[list[str], None]:
        async with desk_service(bus1_bus).running(), connect(native(bus1_bus)) as connection:
            yield await connection.registry.names()

    async def main() -> None:
        async with aclosing(names()) as found:
            assert NAME in await anext(found)

    anyio.run(main, backend=backend)


def test_several_services_are_tasks_of_one_group_and_outlive_each_other(bus1_bus: Bus) -> None:
    async def main() -> None:
        other = Service("Another", "org.example.Other", objects={"/o": Desk()}, address=native(bus1_bus))
        async with connect(native(bus1_bus)) as client, anyio.create_task_group() as tasks:
            async with client.registry.watch("org.example.Other") as changes:
                tasks.start_soon(other.serve)
                assert (await anext(changes)).new
            async with desk_service(bus1_bus).running():
                desk = await client.registry.proxy(Desk, NAME, PATH)
                assert await desk.ask() == "here"
            desk = await client.registry.proxy(Desk, "org.example.Other", "/o")
            assert await desk.ask() == "here"
            tasks.cancel_scope.cancel()

    anyio.run(main)


# ---- names ---------------------------------------------------------------------------------------


def test_a_service_whose_name_is_taken_says_by_whom(bus1_bus: Bus) -> None:
    async def main() -> None:
        legacy = bus1_bus.connect()
        legacy.own(NAME)
        me = f"process {os.getpid()} of user {os.getuid()}"
        text = f"{NAME} is owned by {legacy.name} ({me}), which does not give it up"
        with pytest.raises(NameTaken, match=re.escape(text)):
            async with desk_service(bus1_bus).running():
                pytest.fail("it should not run")

    anyio.run(main)


def test_a_service_may_wait_for_its_name_in_the_queue(
    bus1_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        legacy = bus1_bus.connect()
        legacy.own(NAME)
        async with connect(native(bus1_bus)) as client, client.registry.watch(NAME) as changes:
            with caplog.at_level("INFO", "bus1.services"):
                async with desk_service(bus1_bus, flags=NameFlag(0)).running() as connection:
                    unique = (await connection.registry.publish("A desk", {}, {PATH: Desk()})).unique
                    await aside(legacy.close)
                    assert await anext(changes) == NameOwnerChanged(NAME, legacy.name, unique)
        assert caplog.messages == [
            f"{NAME} is owned by {legacy.name} (process {os.getpid()} of user {os.getuid()}): waiting for it"
        ]

    anyio.run(main)


@both_loops
def test_a_service_that_may_be_replaced_stops_in_order_when_it_is(bus1_bus: Bus, backend: str) -> None:
    async def main() -> None:
        outcomes: list[object] = []
        old, new = Opened(bus1_bus, flags=REPLACEABLE), Opened(bus1_bus, flags=REPLACEABLE)

        async def serve_the_old() -> None:
            with pytest.raises(NameLost, match=f"{NAME} has been taken over by :1\\..*process"):
                await old.run()
            outcomes.append("replaced")

        async with anyio.create_task_group() as tasks, connect(native(bus1_bus)) as client:
            tasks.start_soon(serve_the_old)
            await old.is_up()
            desk = await client.registry.proxy(Desk, NAME, PATH)
            call_in(tasks, desk.wait, outcomes)
            await old.desk.entered.wait()
            tasks.start_soon(new.run)
            await new.is_up()
            with pytest.raises(Stopping):
                while True:
                    await desk.ask()
            old.desk.opened.set()
            await until(lambda: len(outcomes) == 2)
            assert outcomes == ["served", "replaced"]
            assert await (await client.registry.proxy(Desk, NAME, PATH)).ask() == "here"
            new.stop()

    anyio.run(main, backend=backend)


def test_a_name_that_the_policy_refuses_is_refused_in_the_words_of_the_bus(bridge: Daemon) -> None:
    policy = OPEN + f'<policy context="mandatory"><deny own="{NAME}"/></policy>'
    bridge.serve(f"--config-file={bridge.configure(policy=policy)}")

    async def main() -> None:
        service = Service("A desk", NAME, objects={PATH: Desk()}, address=bridge.socket + "1")
        with pytest.raises(AccessDenied, match=NAME) as refusal:
            async with service.running():
                pytest.fail("it should not run")
        assert "bus.conf" in refusal.value.text

    anyio.run(main)


def test_what_cannot_be_published_leaves_no_name(bus1_bus: Bus) -> None:
    async def main() -> None:
        service = Service("A desk", NAME, objects={"/org/bus1/cap/x": Desk()}, address=native(bus1_bus))
        with pytest.raises(InvalidArgs, match="reserved"):
            async with service.running():
                pytest.fail("it should not run")
        async with connect(native(bus1_bus)) as client:
            assert NAME not in await client.registry.names()

    anyio.run(main)


def test_without_a_bus_there_is_no_service(bus1_bus: Bus) -> None:
    async def main() -> None:
        service = Service("A desk", NAME, objects={PATH: Desk()}, address=f"{bus1_bus.folder}/none")
        with pytest.raises(BusGone, match="no bus at"):
            await service.serve()

    anyio.run(main)


@pytest.mark.parametrize(("names", "objects", "grace", "complaint"), [
    (["nonsense"], {}, 5.0, "ValueError: 'nonsense' is no bus name"),
    ([":1.5"], {}, 5.0, "ValueError: ':1.5' is no bus name"),
    ([NAME], {"desk": Desk()}, 5.0, "ValueError: 'desk' is no object path"),
    ([NAME], {PATH: Desk}, 5.0, f"TypeError: {PATH}: Desk is a class; an object of it is wanted"),
    ([NAME], {PATH: 5}, 5.0, f"TypeError: {PATH}: a int is no object of an interface class"),
    ([NAME], {PATH: Desk()}, -1.0, "ValueError: grace is -1.0 seconds"),
    ([NAME], {PATH: Desk()}, float("nan"), "ValueError: grace is nan seconds"),
])
def test_what_no_service_can_be_made_of_is_refused_before_it_runs(
    names: list[str], objects: dict[str, Any], grace: float, complaint: str
) -> None:
    with pytest.raises((TypeError, ValueError)) as refused:
        Service("A desk", *names, objects=objects, grace=grace)
    assert f"{type(refused.value).__name__}: {refused.value}".startswith(complaint)


def test_a_name_that_is_said_twice_is_asked_for_once(bus1_bus: Bus) -> None:
    async def main() -> None:
        service = Service("A desk", NAME, NAME, objects={PATH: Desk()}, address=native(bus1_bus))
        async with service.running(), connect(native(bus1_bus)) as client:
            assert NAME in await client.registry.names()

    anyio.run(main)
