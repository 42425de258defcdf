"""Calling and serving without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import anyio
import pytest
from bus1_services import (
    NOBODY,
    Caller,
    Interface,
    Str,
    UInt32,
    blocking,
    connect,
    method,
    prop,
    signal,
)
from bus1_services.blocking import Bus
from bus1_services.errors import DBusError, InvalidArgs, NoReply, Timeout, UnknownMethod
from buses import Bus as Daemon

from bus1.addresses import native_address
from bus1.errors import Disconnected, PeerShutdown

NAME, PATH = "org.example.Slate", "/org/example/Slate"


class Pen(Interface, name="org.example.Pen1"):
    """A capability of whoever asked for it."""

    def __init__(self, text: str) -> None:
        self._text = text

    @method
    def write(self) -> Str:
        return self._text


class Slate(Interface, name="org.example.Slate1"):
    """Has plain methods, coroutines that never wait, and some that do."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._bus = bus
        self._title = "clean"
        self.n_calls = 0

    @method
    def echo(self, text: Str) -> Str:
        self.n_calls += 1
        return text

    @method
    async def later(self, text: Str) -> Str:
        return text

    @method
    async def never(self) -> Str:
        await asyncio.get_running_loop().create_future()
        return ""

    @method
    def fails(self) -> Str:
        raise ValueError("no chalk")

    @method
    def wrong(self) -> UInt32:
        return -1

    @method
    def user(self, caller: Caller = NOBODY) -> UInt32:
        return caller.uid

    @method
    def pen(self, text: Str) -> Pen:
        return Pen(text)

    @method
    def relay(self, pen: Pen) -> Str:
        assert self._bus is not None
        text: str = blocking.blocking(pen).write()
        return text

    @method
    def silent(self) -> Str:
        self.n_calls += 1
        return "x"

    @prop
    def title(self) -> Str:
        return self._title

    @title.setter
    def _set_title(self, title: str) -> None:
        self._title = title

    @signal
    def wiped(self, times: UInt32) -> None: ...

    @method
    async def wipe(self) -> None:
        for times in range(3):
            await self.wiped(times)


@contextmanager
def serving(daemon: Daemon) -> Iterator[str]:
    """A slate in another thread, which ends with its bus or when it is told; the address."""
    address = native_address(daemon.address)
    assert address is not None
    ready, is_over = threading.Event(), False

    def serve() -> None:
        with blocking.connect(address) as bus:
            bus.publish("A slate", {NAME: 0}, {PATH: Slate(bus)})
            ready.set()
            bus.serve(lambda: is_over)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ready.wait(30)
        yield address
    finally:
        is_over = True
        with suppress(DBusError), blocking.connect(address) as bus:
            bus.proxy(Slate, NAME, PATH).echo("the last one")
        thread.join()


def test_calls_properties_and_signals_need_no_loop(bus1_bus: Daemon) -> None:
    with serving(bus1_bus) as address, blocking.connect(address) as bus:
        slate = bus.proxy(Slate, NAME, PATH)
        assert [slate.echo(text) for text in ("a", "", "ü" * 5000)] == ["a", "", "ü" * 5000]
        assert slate.echo(text="named") == slate.later("named") == "named"
        assert slate.user() >= 0
        assert slate.title == "clean"
        slate.title = "full"
        assert slate.title == "full"
        with slate.wiped() as wiped:
            slate.wipe()
            assert [next(wiped) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(AttributeError):
            _ = slate.nothing
        with pytest.raises(AttributeError):
            slate.nothing = 1


def test_many_calls_leave_nothing_behind(bus1_bus: Daemon) -> None:
    with serving(bus1_bus) as address, blocking.connect(address) as bus:
        slate = bus.proxy(Slate, NAME, PATH)
        for number in range(500):
            assert slate.echo(str(number)) == str(number)
        limits = bus.result(bus.connection.peer.query()).limits
        assert slate.echo("x" * 200_000) == "x" * 200_000
        bus.result(bus.connection.swept())
        assert bus.result(bus.connection.peer.query()).limits == limits
        assert bus.connection._receivers == {}


def test_what_goes_wrong_is_told_and_the_service_goes_on(bus1_bus: Daemon) -> None:
    with serving(bus1_bus) as address, blocking.connect(address) as bus:
        slate = bus.proxy(Slate, NAME, PATH)
        for call, error, words in (
            (slate.fails, DBusError, "ValueError: no chalk"), (slate.wrong, DBusError, "do not fit"),
            (slate.never, DBusError, "RuntimeError: no running event loop"),
        ):
            with pytest.raises(error, match=words):
                call()
        remote = slate.proxy.__far__
        for member, signature, values, kind in (
            ("Echo", "u", (1,), InvalidArgs), ("Nothing", "", (), UnknownMethod),
        ):
            with pytest.raises(kind):
                bus.result(remote.call("org.example.Slate1", member, signature, values))
        with pytest.raises(TypeError):
            slate.echo()
        assert slate.echo("still here") == "still here"


def test_capabilities_come_and_go_and_a_method_may_call_back(bus1_bus: Daemon) -> None:
    with serving(bus1_bus) as address, blocking.connect(address) as bus:
        slate = bus.proxy(Slate, NAME, PATH)
        pen = blocking.blocking(slate.pen("mine"))
        assert pen.write() == "mine"
        assert slate.relay(Pen("yours")) == slate.relay(Pen("yours")) == "yours"
        with pytest.raises(TypeError):
            blocking.blocking(Pen("of nobody"))


def test_a_call_that_takes_too_long_is_given_up(bus1_bus: Daemon) -> None:
    address = native_address(bus1_bus.address)

    class Deaf(Slate):
        @method
        async def silent(self) -> str:
            await anyio.sleep_forever()
            return ""

    async def serve(has_begun: threading.Event, is_over: anyio.Event) -> None:
        async with connect(address) as service:
            await service.registry.publish("Deaf", {NAME: 0}, {PATH: Deaf()})
            has_begun.set()
            await is_over.wait()

    async def main() -> None:
        has_begun, is_over = threading.Event(), anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve, has_begun, is_over)
            await anyio.to_thread.run_sync(client, has_begun)
            is_over.set()

    def client(has_begun: threading.Event) -> None:
        assert has_begun.wait(30)
        with blocking.connect(address) as bus:
            slate = bus.proxy(Slate, NAME, PATH, timeout=0.05)
            with pytest.raises(Timeout):
                slate.silent()
            patient = bus.result(bus.connection.registry.proxy(Slate, NAME, PATH))
            assert blocking.blocking(patient).echo("a") == "a"

    anyio.run(main)


def test_the_end_of_a_service_and_of_the_bus_end_the_wait(bus1_bus: Daemon) -> None:
    address = native_address(bus1_bus.address)
    with blocking.connect(address) as bus, blocking.connect(address) as service:
        slate = Slate()
        service.publish("A slate", {NAME: 0}, {PATH: slate})
        proxy = bus.proxy(Slate, NAME, PATH)
        closing = threading.Timer(0, service.connection.peer.close)
        closing.start()
        with pytest.raises((NoReply, Disconnected)):
            while True:
                proxy.silent()
        closing.join()
    with blocking.connect(address) as bus:
        bus.result(bus.connection.peer.disconnect())
        with pytest.raises(PeerShutdown):
            bus.serve()
        with pytest.raises(Disconnected):
            bus.publish("Too late", {}, {})
