"""Services over handles: calls, errors, properties, signals, capabilities, descriptors, what is left."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from bus1_services import (
    NOBODY,
    Caller,
    Connection,
    DBusError,
    Int32,
    Interface,
    Reference,
    Remote,
    SignalStream,
    Str,
    Stream,
    UInt32,
    UnixFd,
    Variant,
    method,
    prop,
    signal,
    watch,
)
from bus1_services.call import Envelope, Kind, encode
from bus1_services.connection import attach
from bus1_services.errors import (
    InvalidArgs,
    LimitsExceeded,
    NoReply,
    PropertyReadOnly,
    UnknownInterface,
    UnknownMethod,
    UnknownProperty,
)
from bus1_services.logs import FIELDS
from bus1_services.proxy import PendingCall
from bus1_services.standard import Properties
from core_peer import CoreBus, CorePeer, connections, introduce

from bus1.errors import (
    BadDescriptor,
    Bus1Error,
    BusGone,
    Disconnected,
    InvalidArgument,
    NodeDestroyed,
    OutOfMemory,
    PeerShutdown,
    QuotaExceeded,
    RemoteProtocolError,
)


class NoTea(DBusError, name="org.example.Error.NoTea"):
    """There is none."""


class Cup(Interface, name="org.example.Cup1"):
    """Made for one client."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.was_dropped = anyio.Event()

    @method
    def drink(self, sips: Int32) -> Int32:
        self.size -= sips
        return self.size

    def unreferenced(self) -> None:
        self.was_dropped.set()


class Kitchen(Interface, name="org.example.Kitchen1"):
    """Everything that a service can do."""

    def __init__(self) -> None:
        self.cups: list[Cup] = []
        self.order: list[int] = []
        self.entered = anyio.Event()
        self.may_leave = anyio.Event()
        self._menu = "tea"

    @method
    def add(self, a: Int32, b: Int32) -> Int32:
        return a + b

    @method
    async def fetch(self) -> Str:
        raise NodeDestroyed("the shop is gone")

    @method
    def lie(self) -> Int32:
        return cast(int, "many")

    @method
    async def both(self) -> tuple[Str, UInt32]:
        return "a", 1

    @method
    def brew(self, what: Str) -> None:
        if what == "tea":
            raise NoTea("all gone")
        if what == "coffee":
            raise DBusError("never had any", name="org.example.Error.NoCoffee")
        raise ValueError(what)

    @method
    async def wait(self) -> Str:
        self.entered.set()
        await self.may_leave.wait()
        return "late"

    @method
    def enter(self, number: Int32) -> None:
        self.order.append(number)

    @method
    def cup(self) -> Cup:
        cup = Cup(10)
        self.cups.append(cup)
        return cup

    @method
    def pour(self, cup: Cup) -> Str:
        return "mine" if cup in self.cups else "foreign"

    @method
    def who(self, caller: Caller = NOBODY) -> tuple[UInt32, UInt32]:
        return caller.uid, caller.pid

    @method
    def copy(self, source: UnixFd) -> UnixFd:
        return UnixFd(os.dup(source.fileno()))

    @method(no_reply=True)
    def shout(self, number: Int32) -> None:
        self.order.append(number)

    @prop
    def menu(self) -> Str:
        return self._menu

    @menu.setter
    def _set_menu(self, menu: str) -> None:
        self._menu = menu

    @prop(emits="invalidates")
    def opened(self) -> Int32:
        return 8

    @signal
    def ready(self, dish: Str) -> None: ...

    @signal
    def served(self, dish: Str, cup: Cup) -> None: ...


def on_a_bus(n: int = 2) -> Callable[[Callable[..., Awaitable[None]]], Callable[[], None]]:
    """Run a test with ``n`` connections on one bus; afterwards nothing may be left."""

    def decorate(function: Callable[..., Awaitable[None]]) -> Callable[[], None]:
        async def main() -> None:
            bus = CoreBus()
            before = len(os.listdir("/proc/self/fd"))
            async with connections(bus, n) as made:
                await function(*made)
            gc.collect()
            assert bus.charges() == {}
            assert len(os.listdir("/proc/self/fd")) <= before

        def test() -> None:
            anyio.run(main)

        test.__name__, test.__doc__ = function.__name__, function.__doc__
        return test

    return decorate


async def meet(service: Connection, client: Connection) -> tuple[Kitchen, Kitchen, Remote]:
    """A kitchen, a proxy for it, and the same without types."""
    kitchen = Kitchen()
    handle = await introduce(service, client, kitchen)
    return kitchen, client.proxy(Kitchen, handle), Remote(client, handle)


def core_peer(connection: Connection) -> CorePeer:
    return cast(CorePeer, connection.peer)


def nodes_of(connection: Connection) -> list[int]:
    peer = core_peer(connection)
    peer_state = peer.bus.core.snapshot()["peers"][peer.number]
    return sorted(peer_state["nodes"])


async def quiet(*all_of_them: Connection) -> None:
    """Until nobody has anything to give back, or to receive."""
    for _ in range(3):
        for connection in all_of_them:
            await connection.swept()
            await anyio.wait_all_tasks_blocked()


@on_a_bus()
async def test_a_method_is_called_and_answers(service: Connection, client: Connection) -> None:
    _, kitchen, _ = await meet(service, client)
    assert await kitchen.add(2, 3) == 5
    assert await kitchen.add(b=1, a=1) == 2
    assert await kitchen.both() == ("a", 1)


@on_a_bus()
async def test_arguments_that_do_not_fit_are_not_sent(service: Connection, client: Connection) -> None:
    _, kitchen, _ = await meet(service, client)
    with pytest.raises(InvalidArgument):
        await kitchen.add(1 << 31, 0)
    with pytest.raises(TypeError):
        await kitchen.add(1)  # type: ignore[call-arg]
    await quiet(client)
    assert nodes_of(client) == []


@on_a_bus()
async def test_errors_come_back_as_the_class_of_their_name(service: Connection, client: Connection) -> None:
    _, kitchen, _ = await meet(service, client)
    with pytest.raises(NoTea, match="all gone"):
        await kitchen.brew("tea")
    with pytest.raises(DBusError) as caught:
        await kitchen.brew("coffee")
    assert (type(caught.value), caught.value.name) == (DBusError, "org.example.Error.NoCoffee")


def test_a_bug_in_a_method_is_answered_as_failed_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, kitchen, _ = await meet(service, client)
        with pytest.raises(DBusError) as caught:
            await kitchen.brew("soup")
        assert caught.value.name == "org.freedesktop.DBus.Error.Failed"
        with pytest.raises(DBusError, match="NodeDestroyed: the shop is gone"):
            await kitchen.fetch()
        with pytest.raises(DBusError, match="do not fit"):
            await kitchen.lie()
        assert await kitchen.add(1, 1) == 2

    run()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [
        ValueError, NodeDestroyed, InvalidArgument,
    ]


class Crew(Interface, name="org.example.Crew1"):
    """Works in task groups, within each other."""

    @method
    async def work(self, errors: list[Str]) -> None:
        await self._work(errors)

    @method
    def follow(self, errors: list[Str]) -> Stream[Str]:
        return Stream(self._items(errors))

    async def _items(self, errors: list[str]) -> AsyncIterator[str]:
        await self._work(errors)
        yield "done"

    async def _work(self, errors: list[str]) -> None:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
            for number, error in enumerate(errors):
                (outer if number else inner).start_soon(self._fail, error)

    async def _fail(self, error: str) -> None:
        raise NoTea(error) if error.startswith("no") else ValueError(error)


@on_a_bus()
async def test_one_error_of_a_task_group_is_that_error(service: Connection, client: Connection) -> None:
    crew = client.proxy(Crew, await introduce(service, client, Crew()))
    with pytest.raises(NoTea, match="no hot water"):
        await crew.work(["no hot water"])
    with pytest.raises(DBusError, match="ValueError: late"):
        await crew.work(["late"])
    with pytest.raises(DBusError, match=r"Failed: ExceptionGroup.*2 sub-exceptions"):
        await crew.work(["no cups", "no hot water"])
    async with await crew.follow(["no hot water"]) as items:
        with pytest.raises(NoTea, match="no hot water"):
            await anext(items)


class Unspeakable(Exception):
    """Has no text."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


class Sour:
    """A value that fails while it is written."""

    def __iter__(self) -> Iterator[int]:
        raise RuntimeError("gone off")


def closed() -> UnixFd:
    fd = UnixFd(os.open("/dev/null", os.O_RDONLY))
    fd.close()
    return fd


def throw(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(("gives", "act"), [
    ("h", closed),
    ("h", lambda: -1),
    ("h", lambda: 1 << 40),
    ("h", lambda: "fd"),
    ("ah", lambda: [closed()]),
    ("i", lambda: None),
    ("ii", lambda: 1),
    ("ii", lambda: (1, 2, 3)),
    ("s", lambda: "a\0b"),
    ("s", lambda: "\ud800"),
    ("v", lambda: 1),
    ("ai", Sour),
    ("", lambda: throw(Unspeakable())),
    ("", lambda: throw(ValueError("a\0b\ud800"))),
    ("", lambda: throw(ExceptionGroup("two", [ValueError()]))),
    ("", lambda: throw(DBusError("a\0b", name="org.example.Error.NoTea"))),
    ("", lambda: throw(DBusError("text", name="no name"))),
    ("", lambda: throw(DBusError(cast(str, 5)))),
])
def test_whatever_a_method_does_its_caller_hears_and_the_service_lives_on(
    caplog: pytest.LogCaptureFixture, gives: str, act: Callable[[], object]
) -> None:
    class Odd(Interface, name="org.example.Odd1"):
        @method(gives=gives)
        def act(self) -> object:
            return act()

        @method
        def live(self) -> Int32:
            return 1

    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        proxy = client.proxy(Odd, await introduce(service, client, Odd()))
        with pytest.raises(DBusError) as caught:
            await proxy.act()
        assert caught.value.name == "org.freedesktop.DBus.Error.Failed"
        assert await proxy.live() == 1

    run()
    assert len([record for record in caplog.records if record.exc_info]) == 1


@pytest.mark.parametrize("value", [closed(), -1, 1 << 40, "fd"])
def test_an_argument_that_is_no_open_descriptor_is_not_sent(value: object) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, proxy, _ = await meet(service, client)
        with pytest.raises((InvalidArgument, BadDescriptor)):
            await proxy.copy(cast(UnixFd, value))
        assert await proxy.add(1, 1) == 2
        await quiet(client)
        assert nodes_of(client) == []

    run()


def test_an_object_that_fails_at_its_end_ends_alone(caplog: pytest.LogCaptureFixture) -> None:
    class Fragile(Interface, name="org.example.Fragile1"):
        def unreferenced(self) -> None:
            raise RuntimeError("broke")

    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, proxy, _ = await meet(service, client)
        (await introduce(service, client, Fragile())).release()
        await quiet(client, service)
        assert await proxy.add(1, 1) == 2

    run()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [RuntimeError]


@pytest.mark.parametrize(("interface", "member", "signature", "values", "error"), [
    ("org.example.Other1", "Add", "ii", (1, 2), UnknownInterface),
    ("org.example.Kitchen1", "Burn", "", (), UnknownMethod),
    ("org.example.Kitchen1", "Menu", "", (), UnknownMethod),
    ("", "Burn", "", (), UnknownMethod),
    ("org.example.Kitchen1", "Add", "is", (1, "a"), InvalidArgs),
    ("org.example.Kitchen1", "Add", "", (), InvalidArgs),
    ("org.example.Kitchen1", "Pour", "o", ("/a",), InvalidArgs),
    ("org.bus1.Signals1", "Subscribe", "ss", ("", ""), InvalidArgs),
    ("org.freedesktop.DBus.Properties", "Get", "ss", ("org.example.Other1", "Menu"), UnknownInterface),
    ("org.freedesktop.DBus.Properties", "Get", "ss", ("org.example.Kitchen1", "Wine"), UnknownProperty),
    ("org.freedesktop.DBus.Properties", "Get", "ss", ("org.freedesktop.DBus.Peer", "Menu"), UnknownProperty),
    ("org.freedesktop.DBus.Properties", "Set", "ssv", ("", "Opened", Variant("i", 1)), PropertyReadOnly),
    ("org.freedesktop.DBus.Properties", "Set", "ssv", ("", "Menu", Variant("i", 1)), InvalidArgs),
    ("org.freedesktop.DBus.Properties", "GetAll", "s", ("org.example.Other1",), UnknownInterface),
])
def test_a_wrong_call_is_answered_with_dbus_own_error(
    interface: str, member: str, signature: str, values: tuple[Any, ...], error: type[DBusError]
) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, _, remote = await meet(service, client)
        with pytest.raises(error):
            await remote.call(interface, member, signature, values)

    run()


@on_a_bus()
async def test_a_call_without_interface_finds_the_member(service: Connection, client: Connection) -> None:
    _, _, remote = await meet(service, client)
    assert (await remote.call("", "Add", "ii", (2, 2))).values == [4]
    assert (await remote.call("", "Ping")).values == []


@on_a_bus()
async def test_peer_and_introspectable_come_for_free(service: Connection, client: Connection) -> None:
    _, _, remote = await meet(service, client)
    machine = (await remote.call("org.freedesktop.DBus.Peer", "GetMachineId")).values[0]
    assert len(machine) == 32
    xml = (await remote.call("org.freedesktop.DBus.Introspectable", "Introspect")).values[0]
    for name in ("org.example.Kitchen1", "org.freedesktop.DBus.Properties", "org.bus1.Signals1"):
        assert f'<interface name="{name}">' in xml


@on_a_bus()
async def test_synchronous_methods_run_in_order_of_arrival(service: Connection, client: Connection) -> None:
    """Also behind one that has not begun, if the loop starts tasks in an order of its own, as trio does."""
    kitchen, proxy, _ = await meet(service, client)
    start, late = service.start, list[tuple[Any, ...]]()
    service.start = lambda *work: late.append(work)
    for number in range(5):
        await proxy.shout(number)
    await quiet(service)
    assert (late, kitchen.order) == ([], [0, 1, 2, 3, 4])
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.both)
        await anyio.wait_all_tasks_blocked()
        for number in range(5, 20):
            await proxy.shout(number)
        await quiet(service)
        assert (len(late), kitchen.order) == (16, [0, 1, 2, 3, 4])
        for work in reversed(late):
            start(*work)
    await quiet(service)
    assert kitchen.order == list(range(20))


@on_a_bus()
async def test_a_waiting_method_does_not_hold_up_others(service: Connection, client: Connection) -> None:
    kitchen, proxy, _ = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.wait)
        await kitchen.entered.wait()
        assert await proxy.add(1, 1) == 2
        kitchen.may_leave.set()


@on_a_bus()
async def test_a_method_that_nobody_waits_for_is_only_sent(service: Connection, client: Connection) -> None:
    kitchen, proxy, _ = await meet(service, client)
    await proxy.shout(5)
    assert nodes_of(client) == []
    await quiet(service)
    assert kitchen.order == [5]


@on_a_bus()
async def test_a_method_may_ask_who_calls(service: Connection, client: Connection) -> None:
    _, proxy, _ = await meet(service, client)
    assert await proxy.who() == (os.getuid(), os.getpid())


@on_a_bus()
async def test_the_reply_node_is_gone_after_the_answer(service: Connection, client: Connection) -> None:
    _, proxy, _ = await meet(service, client)
    await proxy.add(1, 1)
    await quiet(client, service)
    assert nodes_of(client) == []


@on_a_bus()
async def test_the_death_of_the_callee_is_no_reply_at_once(service: Connection, client: Connection) -> None:
    """N-10: nobody holds the reply node any more."""
    kitchen, proxy, _ = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        async def call() -> None:
            with pytest.raises(NoReply):
                await proxy.wait()

        tasks.start_soon(call)
        await kitchen.entered.wait()
        core_peer(service).disconnect()
    with pytest.raises(Disconnected):
        await proxy.add(1, 1)


@on_a_bus()
async def test_a_dropped_reply_handle_is_no_reply(service: Connection, client: Connection) -> None:
    node = service.node(Witness())
    number = await core_peer(service).transfer(node, client.peer)
    with pytest.raises(NoReply):
        await Remote(client, client.handle(number)).call("a.b", "C")


@on_a_bus()
async def test_a_cancelled_call_leaves_nothing(service: Connection, client: Connection) -> None:
    kitchen, proxy, _ = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(proxy.wait)
        await kitchen.entered.wait()
        tasks.cancel_scope.cancel()
    await quiet(client)
    assert nodes_of(client) == []
    kitchen.may_leave.set()
    await quiet(service, client)
    assert await proxy.add(1, 1) == 2


@on_a_bus()
async def test_all_who_wait_hear_of_the_end_of_the_bus(service: Connection, client: Connection) -> None:
    kitchen, proxy, _ = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        async def call() -> None:
            with pytest.raises(BusGone):
                await proxy.wait()

        async def listen() -> None:
            with pytest.raises(BusGone):
                async with proxy.ready.subscribe() as dishes:
                    await anext(dishes)

        tasks.start_soon(call)
        tasks.start_soon(listen)
        await kitchen.entered.wait()
        await anyio.wait_all_tasks_blocked()
        core_peer(client).disconnect()
    with pytest.raises(BusGone):
        await client.ended()


class Witness:
    """A receiver that notes what it is told."""

    def __init__(self) -> None:
        self.losses: list[Bus1Error] = []

    def arrived(self, arrival: Any) -> None:
        arrival.discard()

    def released(self) -> None: ...

    def lost(self, error: Bus1Error) -> None:
        self.losses.append(error)


def test_who_waits_beyond_the_end_of_a_connection_is_told() -> None:
    """Calls and streams of other tasks, and objects: they are not there any more."""

    async def main() -> None:
        bus = CoreBus()
        outcomes: list[str] = []

        async def call() -> None:
            with pytest.raises(BusGone, match="has been closed"):
                await proxy.wait()
            outcomes.append("call")

        async def listen() -> None:
            with pytest.raises(BusGone, match="has been closed"):
                await anext(stream)
            outcomes.append("stream")

        async with connections(bus, 1) as (service,), anyio.create_task_group() as tasks:
            peer = bus.peer()
            async with attach(cast(Any, peer)) as client:
                kitchen, proxy, _ = await meet(service, client)
                stream = SignalStream(client)
                stream.share()
                tasks.start_soon(call)
                tasks.start_soon(listen)
                await kitchen.entered.wait()
                own = Kitchen()
                client.export(own)
                await quiet(client)
            assert own.__near__ == []
            await anyio.wait_all_tasks_blocked()
            assert sorted(outcomes) == ["call", "stream"]
            kitchen.may_leave.set()
            peer.disconnect()

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)


def test_who_is_cancelled_while_connecting_is_gone_at_once() -> None:
    async def main() -> None:
        bus = CoreBus()
        for patience in range(4):
            peer = bus.peer()
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:

                    async def stop(turns: int, scope: anyio.CancelScope = scope) -> None:
                        for _ in range(turns):
                            await anyio.lowlevel.checkpoint()
                        scope.cancel()

                    tasks.start_soon(stop, patience)
                    async with attach(cast(Any, peer)):
                        await anyio.sleep_forever()
            assert scope.cancelled_caught
            peer.disconnect()

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)


FAILURES = [
    BusGone("gone"), PeerShutdown("disconnected"), RemoteProtocolError("not a frame"),
    QuotaExceeded("too many connections"), OutOfMemory("cannot map a segment"),
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: type(error).__name__)
def test_each_receiver_hears_once_why_nothing_more_arrives(error: Bus1Error) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        kitchen, proxy, _ = await meet(service, client)
        witness = Witness()
        client.node(witness)
        outcomes: list[BaseException] = []

        async def call() -> None:
            with pytest.raises(Bus1Error) as caught:
                await proxy.wait()
            outcomes.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await kitchen.entered.wait()
            core_peer(client).fail(error)
        with pytest.raises(type(error)):
            await client.ended()
        assert (witness.losses, outcomes) == ([error], [error])
        with pytest.raises(Bus1Error):
            await proxy.add(1, 1)
        await client.swept()
        assert core_peer(client).is_gone

    run()


@on_a_bus()
async def test_a_sweeper_that_fails_ends_the_connection_in_order(
    service: Connection, client: Connection
) -> None:
    witness = Witness()
    service.node(witness)
    error = QuotaExceeded("no handle is left")

    async def transfer(handle: int, destination: Any = None) -> int:
        await anyio.lowlevel.checkpoint()
        raise error

    core_peer(service).transfer = transfer  # type: ignore[method-assign]
    service.doubt(service.node(Witness()))
    with pytest.raises(QuotaExceeded):
        await service.ended()
    await service.swept()
    assert witness.losses == [error]


@on_a_bus()
async def test_properties_are_read_and_set(service: Connection, client: Connection) -> None:
    kitchen, proxy, remote = await meet(service, client)
    assert await proxy.menu == "tea"
    await proxy.menu.set("soup")
    assert await kitchen.menu == "soup"
    properties = client.proxy(Properties, remote.handle)
    everything = {"Menu": Variant("s", "soup"), "Opened": Variant("i", 8)}
    assert await properties.get_all("org.example.Kitchen1") == everything
    assert await properties.get_all("") == everything
    assert await properties.get_all("org.freedesktop.DBus.Peer") == {}


class Gauge(Interface, name="org.example.Gauge1"):
    """What it measures takes its time."""

    def __init__(self) -> None:
        self._level = 1

    @prop
    async def level(self) -> Int32:
        await anyio.lowlevel.checkpoint()
        return self._level

    @level.setter
    async def _set_level(self, level: int) -> None:
        await anyio.lowlevel.checkpoint()
        self._level = level


@on_a_bus()
async def test_a_property_may_take_its_time(service: Connection, client: Connection) -> None:
    gauge = client.proxy(Gauge, await introduce(service, client, Gauge()))
    async with watch(gauge) as properties:
        await gauge.level.set(7)
        assert await anext(properties) == {"level"}
        assert properties["level"] == await gauge.level == 7


@on_a_bus()
async def test_a_changed_property_is_told_as_it_declares(service: Connection, client: Connection) -> None:
    kitchen, proxy, remote = await meet(service, client)
    properties = client.proxy(Properties, remote.handle)
    async with properties.properties_changed.subscribe() as changes:
        await proxy.menu.set("soup")
        await kitchen.opened.changed()
        assert await anext(changes) == ("org.example.Kitchen1", {"Menu": Variant("s", "soup")}, [])
        assert await anext(changes) == ("org.example.Kitchen1", {}, ["Opened"])


@on_a_bus()
async def test_signals_arrive_until_the_block_ends(service: Connection, client: Connection) -> None:
    kitchen, proxy, _ = await meet(service, client)
    await kitchen.ready("unheard")
    async with proxy.ready.subscribe() as dishes:
        await kitchen.ready("soup")
        await kitchen.ready("cake")
        assert [await anext(dishes), await anext(dishes)] == ["soup", "cake"]
        sent = len(core_peer(service).sent)
        await kitchen.ready("tea")
        assert core_peer(service).sent[sent:] == [([], [core_peer(service).sent[-1][1][0]])]
    await quiet(client, service)
    assert nodes_of(client) == []
    sent = len(core_peer(service).sent)
    await kitchen.ready("unheard")
    assert len(core_peer(service).sent) == sent


@on_a_bus()
async def test_the_end_of_an_object_ends_its_subscriptions(service: Connection, client: Connection) -> None:
    """N-10: the stream's node has no holder any more."""
    kitchen, proxy, _ = await meet(service, client)
    async with proxy.ready.subscribe() as dishes:
        service.export(kitchen).withdraw()
        with pytest.raises(NoReply):
            await anext(dishes)
    with pytest.raises(Disconnected):
        await proxy.add(1, 1)


@on_a_bus()
async def test_an_answer_that_the_caller_cannot_take_is_limits_exceeded(
    service: Connection, client: Connection
) -> None:
    """Q-4: the caller's user has room for an error, not for the answer."""
    class Barrel(Interface, name="org.example.Barrel1"):
        @method(gives="ay")
        def empty(self) -> bytes:
            return bytes(9 << 20)

    handle = await introduce(service, client, Barrel())
    with pytest.raises(LimitsExceeded):
        await client.proxy(Barrel, handle).empty()


@on_a_bus(3)
async def test_one_stream_sees_two_services_in_the_order_of_the_bus(
    one: Connection, other: Connection, client: Connection
) -> None:
    first, _, first_remote = await meet(one, client)
    second, _, second_remote = await meet(other, client)
    async with SignalStream(client) as stream:
        await stream.add(first_remote.handle, "org.example.Kitchen1", "Ready")
        await stream.add(second_remote.handle)
        for number in range(10):
            await (first if number % 3 else second).ready(str(number))
        seen = [await anext(stream) for _ in range(10)]
    assert [received.values for received in seen] == [[str(number)] for number in range(10)]
    ids = {received.source.id for received in seen if received.source is not None}
    assert ids == {first_remote.handle.id, second_remote.handle.id}


@on_a_bus()
async def test_a_subscriber_gets_only_what_it_asked_for(service: Connection, client: Connection) -> None:
    kitchen, _, remote = await meet(service, client)
    async with SignalStream(client) as stream:
        await stream.add(remote.handle, "org.example.Kitchen1", "Served")
        await kitchen.ready("soup")
        await kitchen.served("cake", Cup(1))
        assert (await anext(stream)).member == "Served"


@on_a_bus()
async def test_a_stream_that_falls_behind_ends_with_an_error(service: Connection, client: Connection) -> None:
    kitchen, _, remote = await meet(service, client)
    async with SignalStream(client, capacity=3) as stream:
        await stream.add(remote.handle)
        for number in range(5):
            await kitchen.ready(str(number))
        await quiet(client)
        assert [(await anext(stream)).values[0] for _ in range(3)] == ["0", "1", "2"]
        with pytest.raises(QuotaExceeded):
            await anext(stream)


@on_a_bus(3)
async def test_an_emission_is_one_send_to_the_emitter_and_the_subscribers(
    service: Connection, client: Connection, bus: Connection
) -> None:
    heard: list[Any] = []

    class Emitter(Witness):
        def arrived(self, arrival: Any) -> None:
            envelope = arrival.envelope
            heard.append((envelope.kind, envelope.member, arrival.values(), len(arrival.handles)))

    kitchen, proxy, _ = await meet(service, client)
    emitter = await core_peer(bus).transfer(bus.node(Emitter()), service.peer)
    export = service.export(kitchen)
    export.emitter, export.is_published = service.handle(emitter), True
    async with proxy.ready.subscribe() as dishes:
        sent = len(core_peer(service).sent)
        await kitchen.ready("soup")
        assert await anext(dishes) == "soup"
        assert len(core_peer(service).sent) == sent + 1
        mandatory, optional = core_peer(service).sent[-1]
        assert mandatory == [emitter] and len(optional) == 1
    await quiet(bus)
    assert heard == [(Kind.SIGNAL, "Ready", ["soup"], 1)]


@on_a_bus()
async def test_a_returned_object_is_a_capability_of_a_client(service: Connection, client: Connection) -> None:
    _, proxy, remote = await meet(service, client)
    cup = await proxy.cup()
    assert await cup.drink(3) == 7
    assert await proxy.pour(cup) == "mine"
    reference = (await remote.call("org.example.Kitchen1", "Cup")).values[0]
    assert isinstance(reference, Reference)
    prefix, _, digits = reference.rpartition("/")
    assert prefix == "/org/bus1/cap" and len(bytes.fromhex(digits)) == 16


@on_a_bus()
async def test_an_object_that_nobody_holds_any_more_ends(service: Connection, client: Connection) -> None:
    """N-10: NODE_RELEASE ends the life of a per-client object."""
    kitchen, _, remote = await meet(service, client)
    reference = (await remote.call("org.example.Kitchen1", "Cup")).values[0]
    again = (await remote.call("org.example.Kitchen1", "Pour", "o", (reference,))).values
    assert again == ["mine"]
    await quiet(client, service)
    assert not kitchen.cups[0].was_dropped.is_set()
    reference.handle.release()
    await kitchen.cups[0].was_dropped.wait()
    await quiet(client, service)
    assert len(nodes_of(service)) == 1


@on_a_bus(3)
async def test_the_death_of_its_holder_ends_an_object(
    service: Connection, client: Connection, other: Connection
) -> None:
    kitchen, proxy, _ = await meet(service, client)
    cup = await proxy.cup()
    core_peer(client).disconnect()
    await kitchen.cups[0].was_dropped.wait()
    del cup


@on_a_bus(3)
async def test_a_capability_may_be_passed_on(
    service: Connection, client: Connection, third: Connection
) -> None:
    _, proxy, _ = await meet(service, client)
    _, elsewhere, _ = await meet(third, client)
    cup = await proxy.cup()
    assert await elsewhere.pour(cup) == "foreign"
    assert await cup.drink(1) == 9


@on_a_bus()
async def test_a_dead_capability_is_refused_or_none(service: Connection, client: Connection) -> None:
    """R-45: a handle of a dead node arrives as INVALID."""
    kitchen, proxy, _ = await meet(service, client)
    cup = await proxy.cup()
    service.export(kitchen.cups[0]).withdraw()
    await quiet(service, client)
    with pytest.raises(InvalidArgs, match="live capability"):
        await proxy.pour(cup)


@on_a_bus()
async def test_an_object_handed_out_again_survives_a_release_that_was_on_its_way(
    service: Connection, client: Connection
) -> None:
    """N-12 as the owner sees it: the notification left the queue, the node was sent, then it was read."""
    kitchen, _, remote = await meet(service, client)
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        reference = (await remote.call("org.example.Kitchen1", "Cup")).values[0]
        await quiet(client, service)
        hold = core_peer(service).hold = anyio.Event()
        reference.handle.release()
        await quiet(client)
        await kitchen.served("cake", kitchen.cups[0])
        hold.set()
        await quiet(service, client)
        second = (await anext(stream)).values[1]
    assert not kitchen.cups[0].was_dropped.is_set()
    assert await client.proxy(Cup, second).drink(1) == 9
    second.handle.release()
    await kitchen.cups[0].was_dropped.wait()


@on_a_bus()
async def test_descriptors_travel_both_ways_and_have_owners(service: Connection, client: Connection) -> None:
    _, proxy, _ = await meet(service, client)
    reader, writer = os.pipe()
    with UnixFd(reader) as source, UnixFd(writer) as sink, await proxy.copy(sink) as copied:
        os.write(copied.fileno(), b"through")
        assert os.read(source.fileno(), 20) == b"through"


@pytest.mark.parametrize("message", [
    b"", b"rubbish", encode(Envelope(Kind.CALL, member="Add"))[:20],
    encode(Envelope(Kind.RETURN)), encode(Envelope(Kind.SIGNAL, interface="a.b", member="C")),
    encode(Envelope(Kind.CALL, member="Add")), encode(Envelope(Kind.CALL, 1, member="Add")),
    encode(Envelope(Kind.CALL, interface="org.example.Kitchen1", member="Add", signature="ii", body_length=7))
    + bytes(7),
])
def test_rubbish_sent_to_an_object_hurts_nobody(message: bytes) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, proxy, remote = await meet(service, client)
        with UnixFd(os.open("/dev/null", os.O_RDONLY)) as null:
            await client.peer.send([remote.handle.id], [message], [], [null.fileno()])
        assert await proxy.add(1, 2) == 3

    run()


@on_a_bus()
async def test_arguments_that_cannot_be_read_are_invalid(service: Connection, client: Connection) -> None:
    _, _, remote = await meet(service, client)
    pending = PendingCall(client)
    node = client.node(pending)
    envelope = Envelope(Kind.CALL, member="Brew", signature="s", body_length=4)
    await client.peer.send([remote.handle.id], [encode(envelope) + b"\xff\xff\xff\xff"], [node])
    with pytest.raises(InvalidArgs):
        await pending.outcome()
    client.retire(node)


@on_a_bus()
async def test_an_answer_that_cannot_be_read_is_an_error_of_the_callee(
    service: Connection, client: Connection
) -> None:
    class Liar(Interface, name="org.example.Kitchen1"):
        @method(takes="ii", gives="s")
        def add(self, a: int, b: int) -> str:
            return "many"

    handle = await introduce(service, client, Liar())
    with pytest.raises(InvalidArgs):
        await client.proxy(Kitchen, handle).add(1, 1)


@on_a_bus()
async def test_one_object_has_one_node_per_connection(service: Connection, client: Connection) -> None:
    kitchen = Kitchen()
    assert service.export(kitchen) is service.export(kitchen)
    assert service.export(kitchen) is not client.export(kitchen)
    await quiet(service, client)
    with pytest.raises(TypeError):
        service.proxy(Kitchen, Reference("/org/bus1/cap/00", None))


@on_a_bus()
async def test_programs_can_read_of_a_line_which_call_it_is_about_and_whose(
    service: Connection, client: Connection
) -> None:
    kitchen, proxy, _ = await meet(service, client)
    kitchen.may_leave.set()
    records: list[logging.LogRecord] = []
    log = logging.getLogger("bus1.services")

    class Keeper(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    handler = Keeper()
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        await proxy.wait()
        await quiet(service, client)
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)
    (record,) = [vars(record) for record in records]
    assert record["bus1_object"] == "Kitchen" and record["bus1_member"] == "Wait"
    assert record["bus1_interface"] == "org.example.Kitchen1"
    assert (record["bus1_uid"], record["bus1_pid"]) == (os.getuid(), os.getpid())
    assert float(record["bus1_seconds"]) >= 0
    assert {name for name in record if name.startswith("bus1_")} <= set(FIELDS)
