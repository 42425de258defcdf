"""Calling and serving without an event loop."""

from __future__ import annotations

import asyncio
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import ClassVar

import anyio
import pytest
from bus1_services import (
    NOBODY,
    Bool,
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
from bus1_services.proxy import PendingCall, Remote
from buses import Bus as Daemon

from bus1.addresses import native_address
from bus1.errors import Disconnected, NoSuchHandle, PeerShutdown

NAME, PATH = "org.example.Slate", "/org/example/Slate"
OTHER = PATH + "/Other"


class Pen(Interface, name="org.example.Pen1"):
    """A capability of whoever asked for it."""

    def __init__(self, text: str) -> None:
        self._text = text

    @method
    def write(self) -> Str:
        return self._text


class Slate(Interface, name="org.example.Slate1"):
    """Has plain methods, coroutines that never wait, and some that do."""

    log: ClassVar[list[str]] = []
    """What slates have done."""

    def __init__(self, bus: Bus | None = None) -> None:
        self._bus = bus
        self._pen: Pen | None = None
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
    def gives_up(self) -> Str:
        raise asyncio.CancelledError("of a loop of its own")

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
    def keep(self, pen: Pen) -> None:
        self._pen = pen

    @method
    def ask(self) -> Str:
        assert self._pen is not None
        blocking.blocking(self._pen).write()
        self.log.append("ask")
        return ",".join(self.log)

    @method
    def silent(self) -> Str:
        self.n_calls += 1
        self.log.append("silent")
        return ",".join(self.log)

    @method
    def readable(self) -> Bool:
        assert self._bus is not None
        poll = select.poll()
        poll.register(self._bus.connection.peer.fileno(), select.POLLIN)
        return bool(poll.poll(0))

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
            bus.publish("A slate", {NAME: 0}, {PATH: Slate(bus), OTHER: Slate(bus)})
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
            (slate.gives_up, DBusError, "CancelledError: of a loop of its own"),
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


def is_posted(bus: Bus, slate: blocking.Blocking) -> bool:
    """A call of this slate has been made; nobody waits for it."""
    connection, names = bus.connection, ("org.example.Slate1", "Silent", "", "s")
    node, short, far = connection.node(PendingCall(connection)), connection.short, slate.proxy.__far__
    assert short is not None
    assert isinstance(far, Remote)
    return short.post_call(far.handle.id, node, names, (), print)


def test_a_call_that_could_not_be_sent_ends_the_wait_for_its_answer(bus1_bus: Daemon) -> None:
    """Nothing comes then but the error of a request that is not waited for."""
    address = native_address(bus1_bus.address)
    with blocking.connect(address) as bus:
        connection, names = bus.connection, ("org.example.Slate1", "Silent", "", "s")
        for _ in range(3):
            pending, short = PendingCall(connection), connection.short
            assert short is not None
            assert short.post_call(8003, connection.node(pending), names, (), pending.failed)
            with pytest.raises(NoSuchHandle):
                bus.result(pending.outcome())


def test_a_service_that_has_had_many_calls_at_once_is_not_readable_behind_them(bus1_bus: Daemon) -> None:
    with serving(bus1_bus) as address, blocking.connect(address) as bus:
        slate = bus.proxy(Slate, NAME, PATH)
        for _ in range(5):
            assert all(is_posted(bus, slate) for _ in range(100))
            assert not slate.readable()


def test_a_call_that_comes_while_a_method_waits_has_its_turn_when_that_has_ended(bus1_bus: Daemon) -> None:
    """Also if it is another object's, and would be over at once."""
    Slate.log.clear()
    with (
        serving(bus1_bus) as address, blocking.connect(address) as bus, blocking.connect(address) as third,
    ):
        slate, other = bus.proxy(Slate, NAME, PATH), third.proxy(Slate, NAME, OTHER)
        asked: list[bool] = []

        class Busy(Pen):
            @method
            def write(self) -> Str:
                asked.append(is_posted(third, other))
                third.result(third.connection.peer.query())
                return "written"

        slate.keep(Busy("busy"))
        assert slate.ask() == "ask"
        assert other.silent() == "ask,silent,silent"
        assert asked == [True]


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
