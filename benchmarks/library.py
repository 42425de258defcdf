"""library: the load as people write it: a service and a client in Python, each with the library of its bus.

Theory. One call at a time, of a method that takes a string and gives one back; or many large messages
without a reply, and a call behind them. ``dbus-fast`` is the fastest Python library for D-Bus; its client
calls through the proxy object that it makes from introspection. ``bus1_services`` is this project's
framework. Both run on asyncio (``blocking`` without any event loop), each party in a process of its own.
The client takes the times and its CPU time; the scheduler, two event loops and three processes are in them.

Not here: raw sockets (legacy, native).
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import threading
from collections.abc import Awaitable, Callable
from time import perf_counter_ns as clock
from time import process_time_ns
from typing import Any

import anyio
from bus1_services import Interface, Service, Str, connect, method
from dbus_fast import Message, MessageFlag
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusBool, DBusBytes, DBusStr
from dbus_fast.service import ServiceInterface, dbus_method

from .messages import OBJECT, SPOKEN, TEXT
from .worker import busy_time

NAME = "org.bus1.Benchmark"
Call = Callable[[str], Awaitable[object]]


class Echo(Interface, name=SPOKEN):
    """The service, with this project's framework."""

    @method
    def echo(self, text: Str) -> Str:
        """The same text."""
        return text


class EchoOfDbusFast(ServiceInterface):
    """The service, with dbus-fast."""

    @dbus_method("Echo")
    def echo(self, text: DBusStr) -> DBusStr:
        """The same text."""
        return text

    @dbus_method("Sink")
    def sink(self, data: DBusBytes) -> DBusBool:
        """Nothing, but that it has come."""
        return True


async def measure(call: Call, count: int) -> None:
    """Warm up, say so; then print the times, and the CPU time of one call, in ns."""
    for _ in range(max(1, count // 10)):
        await call(TEXT)
    print("warm", flush=True)
    times = []
    spent = process_time_ns()
    for _ in range(count):
        start = clock()
        await call(TEXT)
        times.append(clock() - start)
    tell(times, process_time_ns() - spent)
    await asyncio.get_running_loop().create_future()


def tell(times: list[int], spent: int) -> None:
    """A line of JSON: the times, and the CPU time of one call, in ns."""
    print(json.dumps({"times": times, "cpu": spent // len(times)}), flush=True)


async def serve_with_bus1(address: str) -> None:
    """Until killed."""
    async with Service("Echo", NAME, objects={OBJECT: Echo()}, address=address).running() as connection:
        print("ready", flush=True)
        await connection.ended()


async def call_with_bus1(address: str, count: str) -> None:
    """The client of ``serve_with_bus1``."""
    async with connect(address) as connection:
        echo = await connection.registry.proxy(Echo, NAME, OBJECT)
        await measure(echo.echo, int(count))


async def serve_with_dbus_fast(address: str) -> None:
    """Until killed."""
    bus = await MessageBus(address).connect()
    bus.export(OBJECT, EchoOfDbusFast(SPOKEN))
    await bus.request_name(NAME)
    print("ready", flush=True)
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def call_with_dbus_fast(address: str, count: str) -> None:
    """The client of ``serve_with_dbus_fast``."""
    bus = await MessageBus(address).connect()
    proxy = bus.get_proxy_object(NAME, OBJECT, await bus.introspect(NAME, OBJECT))
    await measure(proxy.get_interface(SPOKEN).call_echo, int(count))  # type: ignore[attr-defined]


async def pour_with_dbus_fast(address: str, size: str, count: str, *others: str) -> None:
    """Messages without a reply, then a call: prints how many bytes a second; ``others`` are pids."""
    bus = await MessageBus(address).connect()
    pids = [int(pid) for pid in others]
    data, spent, start = bytes(int(size)), busy_time(pids), clock()
    for _ in range(int(count)):
        await bus.send(Message(
            destination=NAME, path=OBJECT, interface=SPOKEN, member="Sink", signature="ay", body=[data],
            flags=MessageFlag.NO_REPLY_EXPECTED,
        ))
    await bus.call(Message(
        destination=NAME, path=OBJECT, interface=SPOKEN, member="Echo", signature="s", body=[TEXT],
    ))
    elapsed, spent = clock() - start, busy_time(pids) - spent
    amount = len(data) * int(count) * 1e9
    print(json.dumps({"rate": amount / elapsed, "busy_rate": amount / spent}), flush=True)


def serve_without_a_loop(address: str) -> None:
    """Until killed."""
    with blocking().connect(address) as bus:
        bus.publish("Echo", {NAME: 0}, {OBJECT: Echo()})
        print("ready", flush=True)
        bus.serve()


def call_without_a_loop(address: str, count: str) -> None:
    """The client of ``serve_without_a_loop``."""
    with blocking().connect(address) as bus:
        echo = bus.proxy(Echo, NAME, OBJECT).echo
        times: list[int] = []
        for _ in range(max(1, int(count) // 10)):
            echo(TEXT)
        print("warm", flush=True)
        spent = process_time_ns()
        for _ in range(int(count)):
            start = clock()
            echo(TEXT)
            times.append(clock() - start)
        tell(times, process_time_ns() - spent)
        threading.Event().wait()


def blocking() -> Any:
    """The synchronous face."""
    return importlib.import_module("bus1_services.blocking")


BLOCKING: dict[str, Callable[..., None]] = {
    "blocking.service": serve_without_a_loop, "blocking.client": call_without_a_loop,
}
PARTIES: dict[str, Callable[..., Awaitable[None]]] = {
    "bus1_services.service": serve_with_bus1, "bus1_services.client": call_with_bus1,
    "dbus-fast.service": serve_with_dbus_fast, "dbus-fast.client": call_with_dbus_fast,
    "dbus-fast.source": pour_with_dbus_fast,
}


if __name__ == "__main__":
    if sys.argv[1] in BLOCKING:
        BLOCKING[sys.argv[1]](*sys.argv[2:])
    else:
        anyio.run(PARTIES[sys.argv[1]], *sys.argv[2:])
