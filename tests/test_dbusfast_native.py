"""Objects and programs of dbus-fast and dbus-next on native connections, among native ones."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import anyio
import pytest
from bus1_services import (
    Connection,
    DBusError,
    Int32,
    Interface,
    Service,
    Str,
    Variant,
    connect,
    method,
    prop,
)
from bus1_services import signal as emitted
from bus1_services.call import Envelope, Kind
from bus1_services.dbusfast import serve
from bus1_services.dbusfast.bus import message_bus
from bus1_services.errors import InvalidArgs, LimitsExceeded, NoReply, UnknownInterface, UnknownMethod
from bus1_services.handle import Handle
from bus1_services.proxy import PendingCall, Remote
from bus1_services.registry import Registry
from bus1_services.standard import Introspectable, Properties
from buses import Bus, Pool, start_bus
from dbus_client import CallFailed, Client
from desk import until
from foreign_lamp import lamps

NAME, PATH, LAMP = "org.example.Lamp", "/org/example/Lamp", "org.example.Lamp1"
NOT_SUPPORTED = "org.freedesktop.DBus.Error.NotSupported"

pytestmark = pytest.mark.parametrize("package", ["dbus_fast", "dbus_next"])


class LampProxy(Interface, name=LAMP):
    """What a native client knows of the lamps in ``foreign_lamp``."""

    @method
    def label(self, prefix: Str) -> Str:
        raise NotImplementedError

    @method
    def burn(self, reason: Str) -> None: ...

    @method
    def wait(self) -> Str:
        raise NotImplementedError

    @method(takes="o")
    def remember(self, callback: Any) -> None: ...

    @prop
    def level(self) -> Int32:
        return 0

    @level.setter
    def _set_level(self, value: int) -> None: ...

    @emitted
    def burnt(self, reason: Str) -> None: ...


@pytest.fixture
def bridge(shared_buses: Pool) -> Iterator[Bus]:
    """A bridge that other tests use, too."""
    with contextmanager(shared_buses.lend)("bus1-bridge") as bus:
        yield bus


async def aside(function: Any, *arguments: Any, **more: Any) -> Any:
    """A blocking D-Bus client beside the service."""
    return await anyio.to_thread.run_sync(lambda: function(*arguments, **more))


@asynccontextmanager
async def program(bus: Bus, package: str, *, fds: bool = True, name: str = NAME) -> AsyncIterator[Any]:
    """A program of the library, connected natively, that has exported a lamp; ``program.lamp`` is it."""
    program = await message_bus(package)(bus.address, negotiate_unix_fd=fds).connect()
    program.lamp = lamps(package)()
    program.export(PATH, program.lamp)
    await program.request_name(name)
    yield program
    program.disconnect()
    await program.wait_for_disconnect()


@asynccontextmanager
async def lamp_and_client(bus: Bus, package: str) -> AsyncIterator[tuple[Any, Connection, LampProxy]]:
    """A program with a lamp, a native client, and its proxy of the lamp."""
    async with program(bus, package) as served, connect(bus.path + "1") as client:
        yield served, client, await client.registry.proxy(LampProxy, NAME, PATH)


def remote(proxy: Interface) -> Remote:
    assert isinstance(proxy.__far__, Remote)
    return proxy.__far__


def answer_of(client: Client, to: str, member: str, signature: str = "", *args: Any, **more: Any) -> Any:
    """The values of an answer, or the name of an error."""
    try:
        return client.request(to, member, signature, *args, **{"path": PATH, "interface": LAMP, **more}).args
    except CallFailed as failure:
        return failure.answer.error_name


def n_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


# ---- objects among one's own ---------------------------------------------------------------------


def test_objects_of_a_library_are_published_among_ones_own(bridge: Bus, package: str) -> None:
    async def main() -> None:
        cls = lamps(package)
        objects = {PATH: serve(cls(), cls("second", "org.example.Other1")), "/own": Interface()}
        service = Service("Lamps", NAME, objects=objects, address=bridge.path + "1")
        legacy = bridge.connect()
        async with service.running(), connect(bridge.path + "1") as client:
            proxy = await client.registry.proxy(LampProxy, NAME, PATH)
            assert await proxy.label("a ") == "a lamp"
            other = {"interface": "org.example.Other1"}
            assert await aside(answer_of, legacy, NAME, "Label", "s", "a ", **other) == ["a second"]
            await aside(legacy.match, f"sender='{NAME}',interface='{LAMP}'")
            async with proxy.burnt.subscribe() as reasons:
                await proxy.burn("age")
                assert await anext(reasons) == "age"
            assert [got.what for got in await aside(legacy.drain) if got.path == PATH] == [("Burnt", "age")]
            await proxy.level.set(4)
            properties = await client.registry.proxy(Properties, NAME, PATH)
            assert await properties.get_all(LAMP) == {"Level": Variant("i", 4)}
            introspectable = await client.registry.proxy(Introspectable, NAME, PATH)
            assert f'<interface name="{LAMP}">' in await introspectable.introspect()

    anyio.run(main)


def test_an_object_of_a_library_can_be_handed_out_and_ends_with_its_holder(bridge: Bus, package: str) -> None:
    class Shop(Interface, name="org.example.Shop1"):
        def __init__(self) -> None:
            self.lamp = lamps(package)("of yours")
            self.sold = serve(self.lamp)
            self.ended = anyio.Event()
            vars(self.sold)["unreferenced"] = self.ended.set

        @method(gives="o")
        def buy(self) -> Any:
            return self.sold

    async def main() -> None:
        shop = Shop()
        service = Service("Lamps", NAME, objects={"/shop": shop}, address=bridge.path + "1")
        legacy = bridge.connect()
        async with service.running():
            (path,) = await aside(answer_of, legacy, NAME, "Buy", path="/shop", interface="org.example.Shop1")
            assert await aside(answer_of, legacy, NAME, "Label", "s", "", path=path) == ["of yours"]
            assert type(shop.lamp)._get_buses(shop.lamp)
            await aside(legacy.close)
            await shop.ended.wait()
            assert not type(shop.lamp)._get_buses(shop.lamp)

    anyio.run(main)


def test_only_interfaces_of_one_library_make_an_object(package: str) -> None:
    other = "dbus_next" if package == "dbus_fast" else "dbus_fast"

    with pytest.raises(TypeError, match="at least one"):
        serve()
    with pytest.raises(TypeError, match="Interface is no ServiceInterface"):
        serve(Interface())
    with pytest.raises(TypeError, match="not of both"):
        serve(lamps(package)(), lamps(other)(name="org.example.Other1"))
    with pytest.raises(ValueError, match=LAMP):
        serve(lamps(package)(), lamps(package)())


def test_objects_of_a_library_are_not_served_outside_asyncio(bridge: Bus, package: str) -> None:
    lamp = lamps(package)()

    async def main() -> None:
        service = Service("Lamps", NAME, objects={PATH: serve(lamp)}, address=bridge.path + "1")
        with pytest.raises(RuntimeError, match="need asyncio"):
            async with service.running():
                pytest.fail("it should not run")

    anyio.run(main, backend="trio")


# ---- a program's connection ----------------------------------------------------------------------


def test_a_program_learns_that_there_is_no_bus_or_no_native_one(tmp_path: Path, package: str) -> None:
    async def main() -> None:
        with pytest.raises(OSError):
            await message_bus(package)(f"unix:path={tmp_path}/none").connect()
        invalid = import_module(package).InvalidAddressError
        with pytest.raises(invalid, match="tcp"):
            message_bus(package)("tcp:host=localhost,port=1")

    anyio.run(main)


def test_a_program_learns_that_the_bus_is_gone(tmp_path: Path, package: str) -> None:
    async def main() -> None:
        program = await message_bus(package)(bus.address).connect()
        assert program.connected and program.unique_name.startswith(":1.")
        pending = asyncio.ensure_future(program.introspect(program.unique_name, "/"))
        bus.process.kill()
        with pytest.raises(ConnectionError):
            await program.wait_for_disconnect()
        assert not program.connected
        with pytest.raises((ConnectionError, import_module(package).DBusError)):
            await pending

    with ExitStack() as cleanup:
        bus = start_bus("bus1-bridge", tmp_path, cleanup)
        anyio.run(main)


def test_what_a_program_sent_before_it_disconnects_arrives(bridge: Bus, package: str) -> None:
    async def main() -> None:
        legacy = bridge.connect()
        await aside(legacy.match, f"sender='{NAME}',member='Burnt'")
        async with program(bridge, package) as served:
            for number in range(100):
                served.lamp.Burnt(str(number))
        heard = [(await aside(legacy.receive)).args for _ in range(100)]
        assert heard == [[str(number)] for number in range(100)]

    anyio.run(main)


def test_a_signal_from_a_path_where_nothing_is_exported_is_sent(bridge: Bus, package: str) -> None:
    async def main() -> None:
        legacy, message = bridge.connect(), import_module(package).Message
        async with program(bridge, package) as served:
            await aside(legacy.match, "member='Rang'")
            await served.send(message.new_signal("/door", "org.example.Door1", "Rang", "u", [2]))
            got = await aside(legacy.receive)
            assert (got.sender, got.path, got.args) == (served.unique_name, "/door", [2])
            to = {"path": "/", "interface": "org.freedesktop.DBus.Introspectable"}
            (xml,) = await aside(answer_of, legacy, NAME, "Introspect", **to)
            while 'name="door"' in xml:  # published for the signal alone, and withdrawn behind it
                (xml,) = await aside(answer_of, legacy, NAME, "Introspect", **to)
            assert 'name="org"' in xml

    anyio.run(main)


def test_a_program_asks_who_a_caller_is(bridge: Bus, package: str) -> None:
    """D-Bus clients go by their names; that of a native one is made up. The kernel attests who they are."""
    async def main() -> None:
        message = import_module(package).Message
        senders: list[str] = []

        def note(call: Any) -> None:
            if call.member == "Label":
                senders.append(call.sender)

        async def ask(member: str, name: str) -> Any:
            return await served.call(message(
                "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member,
                signature="s", body=[name],
            ))

        async with lamp_and_client(bridge, package) as (served, _, proxy):
            served.add_message_handler(note)
            legacy = bridge.connect()
            assert await proxy.label("") == "lamp"
            assert await aside(answer_of, legacy, NAME, "Label", "s", "") == ["lamp"]
            assert senders == [f":0.{os.getuid()}.{os.getpid()}", legacy.name]
            for name in (*senders, served.unique_name):
                assert (await ask("GetConnectionUnixUser", name)).body == [os.getuid()]
                assert (await ask("GetConnectionUnixProcessID", name)).body == [os.getpid()]
            (credentials,) = (await ask("GetConnectionCredentials", legacy.name)).body
            assert {key: value.value for key, value in credentials.items()} == {
                "UnixUserID": os.getuid(), "ProcessID": os.getpid()
            }
            unknown = await ask("GetConnectionUnixUser", ":0.0.4711")
            assert unknown.error_name == "org.freedesktop.DBus.Error.NameHasNoOwner"
            assert (await ask("ReloadConfig", "")).error_name == UnknownMethod.default_name

    anyio.run(main)


def test_a_program_calls_back_who_called_it_and_calls_stay_in_their_order(bridge: Bus, package: str) -> None:
    async def main() -> None:
        message = import_module(package).Message
        seen: list[tuple[str, str]] = []

        def note(call: Any) -> None:
            if call.member == "Label":
                seen.append((call.sender, call.body[0]))
                served.send(message(call.sender, "/x", "x.Y", "CallBack", signature="s", body=call.body))
                if len(seen) == 40:
                    served.remove_message_handler(note)

        async with program(bridge, package) as served:
            served.add_message_handler(note)
            legacy = bridge.connect()
            to = {"path": PATH, "interface": LAMP}
            for number in range(50):
                legacy.call(NAME, "Label", "s", str(number), flags=number % 2, **to)
            called: list[str] = []
            while len(called) < 20:
                got = await aside(legacy.receive)
                called += got.args if got.member == "CallBack" else []
            assert await aside(answer_of, legacy, NAME, "Label", "s", "") == ["lamp"]
            assert [text for _, text in seen] == [str(number) for number in range(40)]
            assert served.lamp.labelled == [*(str(number) for number in range(50)), ""]
            assert called == [str(number) for number in range(0, 40, 2)]
            assert {sender for sender, _ in seen[::2]} == {legacy.name}

    anyio.run(main)


def test_a_call_does_not_overtake_one_that_waits_for_its_callers_name(
    bridge: Bus, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        asked, told = anyio.Event(), anyio.Event()

        async def identify(registry: Registry, handle: Handle) -> str:
            asked.set()
            await told.wait()
            return ":1.999"

        def note(call: Any) -> None:
            """Whoever has a handler for all messages is told names."""

        monkeypatch.setattr(Registry, "identify", identify)
        async with lamp_and_client(bridge, package) as (served, _, proxy), anyio.create_task_group() as calls:
            served.add_message_handler(note)
            calls.start_soon(proxy.label, "first")
            await asked.wait()
            served.remove_message_handler(note)
            calls.start_soon(proxy.label, "second")
            while len(served._introductions._waiting) < 2 and not served.lamp.labelled:
                await anyio.sleep(0)
            told.set()
        assert served.lamp.labelled == ["first", "second"]

    anyio.run(main)


def test_an_object_that_came_as_an_argument_can_be_called_back(bridge: Bus, package: str) -> None:
    class Callback(LampProxy):
        def label(self, prefix: str) -> str:  # type: ignore[override]
            return prefix + "callback"

    async def main() -> None:
        message = import_module(package).Message
        async with lamp_and_client(bridge, package) as (served, _, proxy):
            callback = Callback()
            await proxy.remember(callback)
            reply = await served.call(message(
                ":0.0.1", served.lamp.callback, LAMP, "Label", signature="s", body=["your "]
            ))
            assert reply.body == ["your callback"]

    anyio.run(main)


def test_signals_are_heard_whoever_owns_the_name_now(bridge: Bus, package: str) -> None:
    """From a D-Bus program, from the next one with its name, and no longer once they are not wanted."""
    async def main() -> None:
        burnt: asyncio.Queue[str] = asyncio.Queue()
        xml = f"""<node><interface name="{LAMP}">
            <signal name="Burnt"><arg type="s"/></signal></interface></node>"""
        emit = {"path": PATH, "interface": LAMP}
        async with program(bridge, package, name="org.example.Listener") as listener:
            lamp = listener.get_proxy_object(NAME, PATH, xml).get_interface(LAMP)
            owners: asyncio.Queue[str] = asyncio.Queue()

            def note(message: Any) -> None:
                if message.member == "NameOwnerChanged" and message.body[0] == NAME:
                    owners.put_nowait(message.body[2])

            listener.add_message_handler(note)
            lamp.on_burnt(burnt.put_nowait)
            # its answer comes after that of the rule
            await listener.introspect("org.example.Listener", PATH)
            for reason in ("age", "use"):
                legacy = bridge.connect()
                await aside(legacy.own, NAME)
                assert await owners.get() == legacy.name
                await listener.introspect("org.example.Listener", PATH)
                await aside(legacy.emit, "Burnt", "s", reason, **emit)
                assert await burnt.get() == reason
                await aside(legacy.emit, "Shone", "s", "not meant", **emit)
                await aside(legacy.close)
                assert await owners.get() == ""
            lamp.off_burnt(burnt.put_nowait)
            await listener.introspect("org.example.Listener", PATH)
            assert listener._match_rules == {} and burnt.empty()

    anyio.run(main)


def test_a_callee_that_dies_is_no_reply(bridge: Bus, package: str) -> None:
    async def main() -> None:
        message = import_module(package).Message
        legacy = bridge.connect()
        await aside(legacy.own, "org.example.Mortal")
        async with program(bridge, package) as served:
            call = asyncio.ensure_future(served.call(message("org.example.Mortal", "/x", "x.Y", "Ask")))
            while (await aside(legacy.receive)).member != "Ask":
                pass
            await aside(legacy.close)
            reply = await call
            assert reply.error_name == NoReply.default_name

    anyio.run(main)


def test_a_signal_that_several_rules_match_is_heard_once(bridge: Bus, package: str) -> None:
    async def main() -> None:
        message, heard = import_module(package).Message, []

        def note(got: Any) -> None:
            if got.member == "Burnt":
                heard.append((got.sender, got.body))

        async def ask(member: str, rule: str) -> None:
            await listener.call(message(
                "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", member,
                signature="s", body=[rule],
            ))

        async with (
            program(bridge, package) as served, program(bridge, package, name="org.example.Ear") as listener
        ):
            listener.add_message_handler(note)
            by_name = f"sender='{NAME}',path='{PATH}'"
            by_unique = f"sender='{served.unique_name}',path='{PATH}',member='Burnt'"
            other = f"sender='org.example.Ear',path='{PATH}',member='Shone'"
            for rule in (by_name, by_name, by_unique, f"sender='{NAME}',path='{PATH}',member='Shone'", other):
                await ask("AddMatch", rule)
            for n_heard, rule in ((1, by_unique), (2, by_name), (3, by_name), (3, by_name)):
                served.lamp.Burnt("age")
                listener.lamp.Burnt("nobody asked for this")
                await listener.introspect(NAME, PATH)
                assert heard == [(served.unique_name, ["age"])] * n_heard
                await ask("RemoveMatch", rule)

    anyio.run(main)


# ---- what others do to a program -----------------------------------------------------------------


def test_bodies_that_cannot_be_read_are_refused(bridge: Bus, package: str) -> None:
    async def main() -> None:
        async with lamp_and_client(bridge, package) as (_, client, proxy):
            for signature, body in (("s", b"\xff\xff\xff\xff"), ("b", b"\2\0\0\0"), ("h", b"\7\0\0\0")):
                pending = PendingCall(client)
                node = client.node(pending)
                envelope = Envelope(
                    Kind.CALL, interface=LAMP, member="Label", signature=signature, body_length=len(body)
                )
                await client.forward([remote(proxy).handle.id], envelope, body, reply=node)
                with pytest.raises(InvalidArgs, match="cannot be read"):
                    await pending.outcome()
                client.retire(node)
            signal = Envelope(Kind.SIGNAL, interface=LAMP, member="Burnt")
            await client.forward([remote(proxy).handle.id], signal, b"")
            assert await proxy.label("") == "lamp"

    anyio.run(main)


def test_descriptors_that_no_handler_takes_are_closed(bridge: Bus, package: str) -> None:
    async def main() -> None:
        properties = "org.freedesktop.DBus.Properties"
        client = bridge.connect()
        async with lamp_and_client(bridge, package) as (_, _, proxy):
            with open("/dev/null", "rb") as file:
                before = n_fds()
                for _ in range(3):
                    with pytest.raises(DBusError):
                        await remote(proxy).call(LAMP, "Missing", "h", [file])
                    with pytest.raises(DBusError):
                        await remote(proxy).call(LAMP, "Label", "h", [file])
                    with pytest.raises(DBusError):
                        await remote(proxy).call(
                            properties, "Set", "ssv", [LAMP, "Level", Variant("h", file)]
                        )
                    assert (await remote(proxy).call(LAMP, "Size", "h", [file])).values == [0]
                    legacy = {"fds": (file.fileno(), file.fileno())}
                    assert await aside(answer_of, client, NAME, "Same", "hh", 1, 1, **legacy) == [True]
                await until(lambda: n_fds() <= before)

    anyio.run(main)


def test_an_answer_that_cannot_be_sent_is_an_error_and_the_program_goes_on(bridge: Bus, package: str) -> None:
    """One with a text that D-Bus does not have, and one with a descriptor for a client that takes none."""
    async def main() -> None:
        legacy = bridge.connect(takes_fds=False)
        async with program(bridge, package) as served:
            served.lamp.label = "a\0b"
            for member, args in (("Label", ("s", "")), ("Lend", ()), ("Label", ("s", ""))):
                try:
                    await aside(legacy.request, NAME, member, *args, path=PATH, interface=LAMP)
                except CallFailed as failure:
                    # dbus-fast finds out by itself that the text is none
                    by_itself = package == "dbus_fast" and member == "Label"
                    words = "InvalidMessageError" if by_itself else "the answer cannot be sent"
                    assert words in failure.answer.args[0]
                else:
                    pytest.fail(f"{member} was answered")
            served.lamp.label = "lamp"
            assert await aside(answer_of, legacy, NAME, "Label", "s", "") == ["lamp"]
            assert served._connection.places.taken == 0

    anyio.run(main)


def test_descriptors_that_a_program_sends_stay_its_own(bridge: Bus, package: str) -> None:
    async def main() -> None:
        message = import_module(package).Message
        async with program(bridge, package) as served:
            with open(__file__, "rb") as file:
                before = n_fds()
                reply = await served.call(message(
                    NAME, PATH, LAMP, "Size", signature="h", body=[0], unix_fds=[file.fileno()]
                ))
                assert reply.body == [os.fstat(file.fileno()).st_size]
                await until(lambda: n_fds() <= before)

    anyio.run(main)


def test_a_program_that_takes_no_descriptors_gets_none(bridge: Bus, package: str) -> None:
    async def main() -> None:
        async with program(bridge, package, fds=False), connect(bridge.path + "1") as client:
            proxy = await client.registry.proxy(LampProxy, NAME, PATH)
            with open("/dev/null", "rb") as file:
                before = n_fds()
                with pytest.raises(DBusError) as refusal:
                    await remote(proxy).call(LAMP, "Size", "h", [file])
                assert refusal.value.name == NOT_SUPPORTED
                await until(lambda: n_fds() <= before)
            assert await proxy.label("") == "lamp"

    anyio.run(main)


def test_the_call_of_a_client_that_dies_is_forgotten(bridge: Bus, package: str) -> None:
    async def main() -> None:
        async with lamp_and_client(bridge, package) as (served, _, proxy):
            legacy = bridge.connect()
            await aside(legacy.call, NAME, "Wait", path=PATH, interface=LAMP)
            await served.lamp.asked.wait()
            places = served._connection.places
            assert places.taken == 1
            await aside(legacy.close)
            while places.taken:
                assert await proxy.label("") == "lamp"

    anyio.run(main)


def test_who_floods_a_program_is_refused_and_others_are_not(bridge: Bus, package: str) -> None:
    async def main() -> None:
        async with lamp_and_client(bridge, package) as (served, _, proxy):
            served._connection.places.limit = 4
            async with anyio.create_task_group() as waiting:
                waiting.start_soon(proxy.wait)
                await served.lamp.asked.wait()
                for _ in range(3):
                    with pytest.raises(LimitsExceeded, match="calls of this service"):
                        await proxy.label("")
                served._connection.places.limit = 4096
                assert await proxy.label("") == "lamp"
                waiting.cancel_scope.cancel()
            while served._connection.places.taken:
                assert await proxy.label("") == "lamp"

    anyio.run(main)


def test_a_program_that_exports_too_much_is_told_so_and_goes_on(
    bridge: Bus, package: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        cls = lamps(package)
        async with lamp_and_client(bridge, package) as (served, client, proxy):
            for number in range(1024):
                served.export(f"{PATH}/{number}", cls())
            dbus_error = import_module(package).DBusError
            with pytest.raises(dbus_error, match="1024 objects"):
                await served.request_name("org.example.Second")
            assert "cannot be published" in caplog.text
            assert await proxy.label("") == "lamp"
            for number in range(1000):
                served.unexport(f"{PATH}/{number}")
            await served.request_name("org.example.Second")
            another = await client.registry.proxy(LampProxy, "org.example.Second", f"{PATH}/1023")
            assert await another.label("") == "lamp"

    anyio.run(main)


def test_an_unknown_interface_or_member_is_an_error_of_the_library(bridge: Bus, package: str) -> None:
    async def main() -> None:
        async with lamp_and_client(bridge, package) as (_, _, proxy):
            with pytest.raises(UnknownMethod, match="could not be found"):
                await remote(proxy).call("org.example.Missing1", "Label", "s", [""])
            with pytest.raises(UnknownInterface):
                await remote(proxy).call(
                    "org.freedesktop.DBus.Properties", "GetAll", "s", ["org.example.Missing1"]
                )

    anyio.run(main)
