"""What clients do wrong, and what befalls them: each hears what is wrong, the service lives, nothing is left.

Every fault is committed by a native client and by one of D-Bus, through the bridge, against one service.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from bus1_services import (
    Connection,
    DBusError,
    Int32,
    Interface,
    Remote,
    Stream,
    UnixFd,
    connect,
    method,
)
from bus1_services.errors import InvalidArgs, NoReply, Timeout, UnknownInterface, UnknownMethod, UnknownObject
from buses import Bus
from dbus_client import CallFailed, Client, Message
from test_services_bus import aside, native

from bus1.errors import BusGone
from bus1.verbs.inspect import fetch
from bus1.verbs.records import peers

NAME, PATH, INTERFACE = "org.example.Victim", "/org/example/Victim", "org.example.Victim1"


class Refused(DBusError, name="org.example.Error.Refused"):
    """The service says no."""


class Victim(Interface, name=INTERFACE):
    """Everything that can go wrong."""

    def __init__(self) -> None:
        self.began = anyio.Event()
        self.cancelled = anyio.Event()
        self.ended = anyio.Event()

    @method
    def add(self, a: Int32, b: Int32) -> Int32:
        return a + b

    @method
    def refuse(self) -> None:
        raise Refused("not today")

    @method
    def fail(self) -> None:
        raise ValueError("a bug")

    @method
    async def hang(self) -> None:
        self.began.set()
        try:
            await anyio.sleep_forever()
        finally:
            self.cancelled.set()

    @method(deadline=0.001)
    async def late(self) -> None:
        await anyio.sleep_forever()

    @method
    def size(self, file: UnixFd) -> Int32:
        return os.fstat(file.fileno()).st_size

    @method
    def follow(self) -> Stream[Int32]:
        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
                await anyio.sleep_forever()
            finally:
                self.ended.set()

        return Stream(numbers())


def held(bus: Bus) -> dict[int, tuple[Any, ...]]:
    """What the bus has for each peer: nodes, handles, messages, slices, descriptors."""
    return {
        record["peer"]: tuple(record[what] for what in ("nodes", "handles", "queued", "slices", "fds"))
        for record in peers(fetch(native(bus)))
    }


async def settled(service: Connection) -> None:
    """All that was sent to the service is there, and all that it gave up is given back."""
    for _ in range(2):
        await service.registry.names()
        await anyio.wait_all_tasks_blocked()
        await service.swept()


async def counted(bus: Bus, service: Connection) -> tuple[object, ...]:
    """All there is of the service here, and of everybody on the bus."""
    await settled(service)
    names = sorted(type(receiver).__name__ for receiver in service._receivers.values())
    on_the_bus = await aside(held, bus)
    here = (names, len(service._mourners), service.places.taken, len(asyncio.all_tasks()))
    return here, on_the_bus


def descriptors() -> int:
    """Of this process: garbage of earlier tests may have some, and lose them at any time."""
    return len(os.listdir("/proc/self/fd"))


@asynccontextmanager
async def unharmed(bus: Bus) -> AsyncIterator[tuple[Victim, Connection]]:
    """A service that answers after the block as before it, and has nothing more than it had."""
    victim = Victim()
    async with connect(native(bus)) as service:
        await service.registry.publish("Victim", {NAME: 0}, {PATH: victim})
        await service.root.finished()
        before, n_before = await counted(bus, service), descriptors()
        yield victim, service
        assert await counted(bus, service) == before
        assert descriptors() <= n_before
        async with connect(native(bus)) as client:
            assert await (await client.registry.proxy(Victim, NAME, PATH)).add(1, 1) == 2


WRONG_CALLS: list[tuple[str, str, str, tuple[Any, ...], type[DBusError], str]] = [
    (INTERFACE, "Add", "is", (1, "a"), InvalidArgs, "Add takes 'ii', not 'is'"),
    (INTERFACE, "Add", "i", (1,), InvalidArgs, "Add takes 'ii', not 'i'"),
    (INTERFACE, "Add", "", (), InvalidArgs, "Add takes 'ii', not ''"),
    (INTERFACE, "Add", "iii", (1, 2, 3), InvalidArgs, "Add takes 'ii', not 'iii'"),
    (INTERFACE, "Burn", "", (), UnknownMethod, "Burn"),
    ("org.example.Other1", "Add", "ii", (1, 2), UnknownInterface, "org.example.Other1"),
    (INTERFACE, "Refuse", "", (), Refused, "not today"),
    (INTERFACE, "Fail", "", (), DBusError, "ValueError: a bug"),
    (INTERFACE, "Late", "", (), Timeout, "0.001 s"),
]


@pytest.mark.parametrize(
    ("interface", "member", "signature", "values", "error", "text"), WRONG_CALLS,
    ids=[f"{call[1]}({call[2]}) of {call[0].rpartition('.')[2]}" for call in WRONG_CALLS],
)
def test_a_wrong_call_is_answered_with_what_is_wrong(
    bus1_bus: Bus, interface: str, member: str, signature: str, values: tuple[Any, ...],
    error: type[DBusError], text: str,
) -> None:
    def legacy() -> CallFailed:
        with bus1_bus.connect() as client, pytest.raises(CallFailed) as failed:
            client.request(NAME, member, signature, *values, path=PATH, interface=interface)
        return failed.value

    async def main() -> None:
        async with unharmed(bus1_bus):
            async with connect(native(bus1_bus)) as client:
                proxy = await client.registry.proxy(Victim, NAME, PATH)
                assert isinstance(proxy.__far__, Remote)
                with pytest.raises(error) as caught:
                    await proxy.__far__.call(interface, member, signature, values)
            assert (caught.value.name, text in caught.value.text) == (error.default_name, True)
            failed = await aside(legacy)
            assert (failed.answer.error_name, text in failed.answer.args[0]) == (error.default_name, True)

    anyio.run(main)


def test_an_object_that_is_not_there_is_unknown(bus1_bus: Bus) -> None:
    def legacy() -> str:
        with bus1_bus.connect() as client, pytest.raises(CallFailed) as failed:
            client.request(NAME, "Add", "ii", 1, 2, path="/nowhere", interface=INTERFACE)
        return failed.value.name

    async def main() -> None:
        async with unharmed(bus1_bus):
            async with connect(native(bus1_bus)) as client:
                with pytest.raises(UnknownObject):
                    await client.registry.proxy(Victim, NAME, "/nowhere")
            assert await aside(legacy) == "UnknownObject"

    anyio.run(main)


def test_descriptors_that_come_with_a_wrong_call_are_closed(bus1_bus: Bus) -> None:
    def legacy() -> None:
        with bus1_bus.connect() as client, open("/dev/null") as null:
            for signature, values in (("", ()), ("ii", (1, 2)), ("h", (0,))):
                serial = client.call(
                    NAME, "Add", signature, *values, path=PATH, interface=INTERFACE, fds=[null.fileno()]
                )
                client.reply(serial)

    async def main() -> None:
        async with unharmed(bus1_bus):
            async with connect(native(bus1_bus)) as client:
                proxy = await client.registry.proxy(Victim, NAME, PATH)
                assert isinstance(proxy.__far__, Remote)
                with UnixFd(os.open("/dev/null", os.O_RDONLY)) as null:
                    assert await proxy.size(null) == 0
                    with pytest.raises(InvalidArgs):
                        await proxy.__far__.call(INTERFACE, "Add", "h", (null,))
            await aside(legacy)

    anyio.run(main)


async def native_deadline(bus: Bus, victim: Victim) -> None:
    async with connect(native(bus)) as client:
        proxy = await client.registry.proxy(Victim, NAME, PATH)
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                await proxy.hang()
        if victim.began.is_set():
            await victim.cancelled.wait()


async def native_timeout(bus: Bus, victim: Victim) -> None:
    async with connect(native(bus)) as client:
        proxy = await client.registry.proxy(Victim, NAME, PATH, timeout=0.01)
        with pytest.raises(Timeout, match="Hang was not answered"):
            await proxy.hang()


async def native_cancel(bus: Bus, victim: Victim) -> None:
    async with connect(native(bus)) as client:
        proxy = await client.registry.proxy(Victim, NAME, PATH)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.hang)
            await victim.began.wait()
            tasks.cancel_scope.cancel()
        await victim.cancelled.wait()


CHILD = f"""
import anyio, sys
from bus1_services import connect
from test_services_faults import Victim
async def main():
    async with connect(sys.argv[1]) as client:
        proxy = await client.registry.proxy(Victim, "{NAME}", "{PATH}")
        async with await proxy.follow() as numbers:
            await anext(numbers)
            await proxy.hang()
anyio.run(main)
"""


async def native_kill(bus: Bus, victim: Victim) -> None:
    process = await anyio.open_process(
        [sys.executable, "-c", CHILD, native(bus)], cwd=os.path.dirname(__file__), stdout=subprocess.DEVNULL
    )
    async with process:
        await victim.began.wait()
        process.kill()
        await process.wait()
    await victim.cancelled.wait()
    await victim.ended.wait()


def request(
    client: Client, member: str, signature: str = "", value: int | None = None, path: str = PATH,
    interface: str = INTERFACE,
) -> Message:
    """A call that is answered; for a thread."""
    values = () if value is None else (value,)
    return client.request(NAME, member, signature, *values, path=path, interface=interface)


async def legacy_close(bus: Bus, victim: Victim) -> None:
    client = await aside(bus.connect)
    (path,) = (await aside(request, client, "Follow")).args
    await aside(request, client, "Next", "u", 1, path, "org.bus1.Stream1")
    client.call(NAME, "Next", "u", 1, path=path, interface="org.bus1.Stream1")
    client.call(NAME, "Hang", path=PATH, interface=INTERFACE)
    await victim.began.wait()
    await aside(client.close)
    await victim.cancelled.wait()
    await victim.ended.wait()


@pytest.mark.parametrize("act", [native_deadline, native_timeout, native_cancel, native_kill, legacy_close])
def test_a_caller_that_is_gone_ends_its_call_and_leaves_nothing(
    bus1_bus: Bus, act: Callable[[Bus, Victim], Awaitable[None]]
) -> None:
    async def main() -> None:
        async with unharmed(bus1_bus) as (victim, _):
            await act(bus1_bus, victim)

    anyio.run(main)


def test_who_waits_for_a_service_that_dies_hears_it_at_once(bus1_bus: Bus) -> None:
    def legacy(client: Client) -> CallFailed:
        with client, pytest.raises(CallFailed) as failed:
            client.request(NAME, "Hang", path=PATH, interface=INTERFACE)
        return failed.value

    async def main() -> None:
        victim = Victim()
        async with connect(native(bus1_bus)) as client, connect(native(bus1_bus)) as service:
            await service.registry.publish("Victim", {NAME: 0}, {PATH: victim})
            proxy = await client.registry.proxy(Victim, NAME, PATH)
            outcomes: list[object] = []

            async def call() -> None:
                with pytest.raises(NoReply) as caught:
                    await proxy.hang()
                outcomes.append(caught.value.name)

            async def call_by_dbus() -> None:
                failed = await aside(legacy, bus1_bus.connect())
                outcomes.append(failed.answer.error_name)

            async with anyio.create_task_group() as tasks:
                for act in (call, call_by_dbus):
                    victim.began = anyio.Event()
                    tasks.start_soon(act)
                    await victim.began.wait()
                service.peer.close()
            assert outcomes == ["org.freedesktop.DBus.Error.NoReply"] * 2
            with pytest.raises(BusGone):
                await service.ended()

    anyio.run(main)
