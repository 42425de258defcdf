"""The testing kit: a bus of the test's own, fakes, recorders, recordings that become mocks, its plugin."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from bus1_services import (
    DBusError,
    Int32,
    Interface,
    NameTaken,
    Service,
    Str,
    Variant,
    VariantDict,
    connect,
    interfaces_of,
    method,
    prop,
    signal,
)
from bus1_services.errors import NameHasNoOwner, NoReply, from_name
from bus1_services.introspection import node_xml
from bus1_services.migrate.reading import SourceError
from bus1_services.recording import Message, RecordingError, written
from bus1_services.testing import Call, Fake, Heard, PrivateBus, declared, record, signals_of
from bus1_services.testing.dbus import DBusSignals, connected
from buses import Bus, eventually, reap, targets_of_fds
from dbus_client import Client
from dbus_fast import Message as DBusMessage
from dbus_fast import MessageType
from dbus_fast.aio import MessageBus

pytest_plugins = ["pytester"]

NAME, PATH, LAMP = "org.example.Lamp", "/org/example/Lamp", "org.example.Lamp1"
PROPERTIES = "org.freedesktop.DBus.Properties"
NOT_RECORDED = "org.bus1.Error.NotRecorded"


class Lamp(Interface, name=LAMP):
    """A lamp."""

    def __init__(self) -> None:
        self._level = 1

    @method
    async def label(self, prefix: Str, size: Int32 = 1) -> Str:
        """What it is called."""
        if prefix == "never":
            raise DBusError("not that", name="org.example.Error.Never")
        if prefix == "loud":
            await self.burnt("shouting", {"volume": Variant("(ui)", (7, -1))})
        return f"{prefix} lamp {size} {self._level}"

    @method
    def switch(self) -> None:
        """On, or off."""
        self._level += 1

    @prop
    def level(self) -> Int32:
        """How bright."""
        return self._level

    @level.setter
    def _set_level(self, level: int) -> None:
        self._level = level

    @prop
    def maker(self) -> Str:
        """Who made it."""
        return "somebody"

    @signal
    def burnt(self, reason: Str, details: VariantDict) -> None:
        """It is dark now."""


class Late(DBusError, name="org.example.Error.Late"):
    """Too late."""


def on_bus(test: Callable[[PrivateBus], Awaitable[None]], backend: str = "asyncio") -> None:
    """Run a test's coroutine with a bus of its own."""

    async def main() -> None:
        async with PrivateBus() as bus:
            await test(bus)

    anyio.run(main, backend=backend)


async def call(bus: MessageBus, member: str, signature: str = "", *body: Any, **more: Any) -> list[Any]:
    """Call the lamp as a D-Bus client does; DBusError."""
    fields = {"destination": NAME, "path": PATH, "interface": LAMP} | more
    answer = await bus.call(DBusMessage(member=member, signature=signature, body=list(body), **fields))
    assert answer is not None
    if answer.error_name:
        raise from_name(answer.error_name, answer.body[0])
    return list(answer.body)


def bus_threads() -> list[str]:
    """The threads of private buses that still run."""
    return [thread.name for thread in threading.enumerate() if thread.name == "private bus"]


# ---- the bus ---------------------------------------------------------------------------------------


def test_a_private_bus_serves_native_and_d_bus_clients_and_leaves_nothing() -> None:
    with PrivateBus():
        pass
    # what earlier tests have left is not what is looked for
    gc.collect()
    before = sorted(targets_of_fds(os.getpid()))
    folders = []
    for _ in range(5):
        with PrivateBus() as bus, Client(bus.native_address[:-1]) as client:
            assert bus.address.startswith(f"unix:path={bus.native_address[:-1]},guid=")
            assert client.ask("ListNames")[0] == ["org.freedesktop.DBus", ":1.0"]
            folders.append(Path(bus.native_address).parent)
    assert sorted(targets_of_fds(os.getpid())) == before
    assert bus_threads() == []
    assert not any(folder.exists() for folder in folders)


def test_two_private_buses_do_not_know_of_each_other() -> None:
    async def test(one: PrivateBus) -> None:
        with PrivateBus() as two:
            async with one.serve(NAME, {PATH: Lamp()}), two.connect() as client:
                with pytest.raises(NameHasNoOwner):
                    await client.registry.resolve(NAME)

    on_bus(test)


def test_outside_of_its_block_there_is_no_bus() -> None:
    bus = PrivateBus()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="in the block of"):
            _ = bus.address
        with bus:
            assert bus.address
    with pytest.raises(RuntimeError), bus:
        raise RuntimeError


def test_a_bus_that_ends_hangs_up_on_its_clients() -> None:
    with PrivateBus() as bus:
        client = Client(bus.native_address[:-1])
    with client, pytest.raises((EOFError, AssertionError, OSError)):
        client.ask("GetId")


def test_a_defect_of_the_bus_is_raised_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    from bus1_bridge.private import ThreadedBus

    def fail(*_: object) -> bool:
        raise ZeroDivisionError("in the bus")

    monkeypatch.setattr(ThreadedBus, "_decide", fail)
    with (
        pytest.raises(ZeroDivisionError, match="in the bus"), PrivateBus() as bus,
        Client(bus.native_address[:-1]) as client, suppress(EOFError, AssertionError, OSError),
    ):
        client.request("org.example.Nobody", "Start", interface="a.b", path="/")
    assert bus_threads() == []


def test_a_private_bus_starts_nothing_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "dbus-1" / "services"
    services.mkdir(parents=True)
    (services / "a.service").write_text("[D-BUS Service]\nName=org.example.Started\nExec=/bin/true\n")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with PrivateBus() as bus, Client(bus.native_address[:-1]) as client:
        assert client.ask("ListActivatableNames")[0] == ["org.freedesktop.DBus"]
        assert client.fault("StartServiceByName", "su", "org.example.Started", 0) == "ServiceUnknown"
        assert client.ask("ReloadConfig") == []


def test_a_child_process_finds_the_private_bus_as_session_and_as_system_bus() -> None:
    with PrivateBus() as bus, Client(bus.native_address[:-1]) as client:
        client.own(NAME)
        for which in ("--session", "--system"):
            listed = subprocess.run(
                ["dbus-send", which, "--print-reply", "--dest=org.freedesktop.DBus", "/",
                 "org.freedesktop.DBus.ListNames"],
                env=bus.environment, capture_output=True, text=True, check=True, timeout=30,
            ).stdout
            assert f'"{NAME}"' in listed


def test_what_the_bus_complains_of_can_be_read() -> None:
    with PrivateBus() as bus, Client(bus.native_address[:-1]) as client:
        client.socket.sendall(b"rubbish, and not a message at all")
        with pytest.raises((EOFError, AssertionError, OSError)):
            client.ask("GetId")
        eventually(lambda: any("closed the connection of" in line for line in bus.log), lambda: bus.log)


def test_code_that_only_knows_the_default_bus_finds_the_session_bus(session_bus: PrivateBus) -> None:
    async def main() -> None:
        async with Service("A lamp", NAME, objects={PATH: Lamp()}).running(), connect() as client:
            lamp = await client.registry.proxy(Lamp, NAME, PATH)
            assert await lamp.label("a") == "a lamp 1 1"

    anyio.run(main)
    assert os.environ["DBUS_SYSTEM_BUS_ADDRESS"] == session_bus.address


# ---- fakes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_fake_answers_what_it_was_told_and_remembers_its_calls(backend: str) -> None:
    async def test(bus: PrivateBus) -> None:
        fake = Fake(Lamp, label="a lamp", level=3)
        async with bus.serve(NAME, {PATH: fake.object}), bus.connect() as client:
            lamp = await client.registry.proxy(Lamp, NAME, PATH)
            assert await lamp.label("x", 2) == await lamp.label("y") == "a lamp"
            await lamp.switch()
            assert (await lamp.level, await lamp.maker) == (3, "")
            await lamp.level.set(9)
            assert await lamp.level == 9
        assert fake.calls == [("label", ("x", 2)), ("label", ("y", 1)), ("switch", ()), ("level", (9,))]
        assert fake.calls[2] == Call("switch", ())

    on_bus(test, backend)


def test_an_answer_is_an_error_or_a_function_or_one_for_each_call() -> None:
    async def later(prefix: str, size: int) -> str:
        await anyio.lowlevel.checkpoint()
        return f"{prefix}:{size}"

    async def test(bus: PrivateBus) -> None:
        fake = Fake(Lamp, label=iter(["first", Late("second"), later, Late]))
        async with bus.serve(NAME, {PATH: fake.object}), bus.connect() as client:
            lamp = await client.registry.proxy(Lamp, NAME, PATH)
            assert await lamp.label("a") == "first"
            with pytest.raises(Late, match="second"):
                await lamp.label("b")
            assert await lamp.label("c", 5) == "c:5"
            with pytest.raises(Late):
                await lamp.label("d")
            with pytest.raises(DBusError, match=r"NotSupported: the fake has no more answers for Label"):
                await lamp.label("e")
            fake.answer(label=lambda prefix, size: prefix * size)
            assert await lamp.label("f", 3) == "fff"

    on_bus(test)


def test_a_fake_says_which_answer_it_lacks_and_goes_on() -> None:
    async def test(bus: PrivateBus) -> None:
        fake = Fake(Lamp)
        async with bus.serve(NAME, {PATH: fake.object}), bus.dbus() as client:
            with pytest.raises(DBusError, match="NotSupported: the fake has no answer for Label"):
                await call(client, "Label", "si", "x", 1)
            ((everything),) = await call(client, "GetAll", "s", LAMP, interface=PROPERTIES)
            assert {name: each.value for name, each in everything.items()} == {"Level": 0, "Maker": ""}
            assert fake.calls == [("label", ("x", 1))]

    on_bus(test)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_test_that_fails_inside_of_an_answer_fails(backend: str) -> None:
    """What is no Exception is not for the caller: it ends the service's block, and nobody waits in vain."""
    async def test(bus: PrivateBus) -> None:
        fake = Fake(Lamp, label=lambda *_: pytest.fail("this is not to be called"))
        async with bus.serve(NAME, {PATH: fake.object}), bus.connect() as client:
            await (await client.registry.proxy(Lamp, NAME, PATH)).label("x")

    with pytest.raises(BaseException) as caught:
        on_bus(test, backend)
    failure: BaseException = caught.value
    while isinstance(failure, BaseExceptionGroup):
        (failure,) = failure.exceptions
    assert isinstance(failure, pytest.fail.Exception) and str(failure) == "this is not to be called"


def test_a_fake_of_something_else_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="Lamp has no method or property burnt, lable: there are label"):
        Fake(Lamp, lable="x", burnt="y")
    with pytest.raises(TypeError, match="maker"):
        Fake(Lamp).answer(make="x")


def test_a_test_waits_for_calls_and_is_told_what_came_instead() -> None:
    async def test(bus: PrivateBus) -> None:
        fake = Fake(Lamp)
        async with bus.serve(NAME, {PATH: fake.object}), bus.connect() as client:
            lamp = await client.registry.proxy(Lamp, NAME, PATH)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lamp.switch)
                assert await fake.wait_for(1) == [("switch", ())]
            with pytest.raises(TimeoutError, match=r"1 of 2 calls of Lamp came: \[Call\(member='switch'"):
                await fake.wait_for(2, within=0)

    on_bus(test)


def test_a_fake_emits_signals_and_tells_of_properties() -> None:
    async def test(bus: PrivateBus) -> None:
        fake = Fake(Lamp, maker="nobody")
        async with (
            bus.serve(NAME, {PATH: fake.object}), bus.connect() as client,
            signals_of(await client.registry.proxy(Lamp, NAME, PATH)) as native,
            bus.signals(f"sender='{NAME}'") as legacy,
        ):
            await fake.object.burnt("age", {"years": Variant("u", 7)})
            fake.answer(maker="me")
            await fake.object.maker.changed()
            burnt = ("age", {"years": Variant("u", 7)})
            changed: tuple[Any, ...] = (LAMP, {"Maker": Variant("s", "me")}, [])
            assert await native.wait_for(2) == await native.all() == [
                Heard("Burnt", burnt, LAMP), Heard("PropertiesChanged", changed, PROPERTIES),
            ]
            assert await legacy.wait_for(2) == await legacy.all() == [
                Heard("Burnt", burnt, LAMP, PATH), Heard("PropertiesChanged", changed, PROPERTIES, PATH),
            ]

    on_bus(test)


def test_a_class_made_of_introspection_is_faked_and_called_like_any_other() -> None:
    described = node_xml(interfaces_of(Lamp))
    lamp_class: Any = declared(described)
    assert node_xml(interfaces_of(lamp_class)).replace("arg0", "prefix").replace("arg1", "size") == (
        described.replace("reason", "arg0").replace("details", "arg1").replace("arg0", "prefix")
        .replace("arg1", "size")
    )

    async def test(bus: PrivateBus) -> None:
        fake = Fake(lamp_class, label="declared", level=4)
        async with bus.serve(NAME, {PATH: fake.object}), bus.connect() as client:
            lamp = await client.registry.proxy(Lamp, NAME, PATH)
            assert (await lamp.label("x"), await lamp.level) == ("declared", 4)
            other = await client.registry.proxy(lamp_class, NAME, PATH)
            assert await other.label("x", 1) == "declared"

    on_bus(test)


def test_a_class_of_several_interfaces_has_them_all_and_none_that_is_standard() -> None:
    text = """<node>
      <interface name="org.example.A"><method name="Open"/><property name="Open" type="s" access="write"/>
      </interface>
      <interface name="org.example.B"><method name="Open"><arg type="s" direction="in"/></method></interface>
      <interface name="org.freedesktop.DBus.Peer"><method name="Ping"/></interface>
    </node>"""
    both = declared(text)
    assert [spec.name for spec in interfaces_of(both)] == ["org.example.A", "org.example.B"]
    fake = Fake(both, open_3="x")
    assert fake.calls == []
    with pytest.raises(SourceError, match="no interface is described"):
        declared("<node/>")


# ---- signals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_signals_of_several_objects_are_heard_in_the_order_of_the_bus(backend: str) -> None:
    async def test(bus: PrivateBus) -> None:
        one, two = Lamp(), Lamp()
        async with bus.serve(NAME, {"/1": one, "/2": two}), bus.connect() as client:
            proxies = [await client.registry.proxy(Lamp, NAME, path) for path in ("/1", "/2")]
            async with signals_of(*proxies) as signals:
                for number in range(20):
                    await (one, two)[number % 2].burnt(str(number), {})
                assert [heard.args[0] for heard in await signals.all()] == list(map(str, range(20)))
                assert [heard.args[0] for heard in await signals.wait_for(3)] == ["0", "1", "2"]
            await one.burnt("after", {})
            assert len(await signals.all()) == 20

    on_bus(test, backend)


def test_signals_that_do_not_come_are_told_of() -> None:
    async def test(bus: PrivateBus) -> None:
        async with bus.serve(NAME, {PATH: (lamp := Lamp())}), bus.connect() as client:
            async with signals_of(await client.registry.proxy(Lamp, NAME, PATH)) as signals:
                await lamp.burnt("age", {})
                await signals.wait_for(1)
                with pytest.raises(TimeoutError, match=r"1 of 2 signals came: \[Heard\(member='Burnt'"):
                    await signals.wait_for(2, within=0)
            with pytest.raises(TypeError, match="through proxies"):
                async with signals_of(lamp):
                    pass

    on_bus(test)


def test_a_rule_chooses_which_d_bus_signals_are_heard() -> None:
    async def test(bus: PrivateBus) -> None:
        lamp = Lamp()
        async with (
            bus.serve(NAME, {PATH: lamp}), bus.signals("arg0='b'") as some,
            bus.signals("type='signal',path='/nowhere'") as none,
        ):
            for reason in "abc":
                await lamp.burnt(reason, {})
            assert [heard.args[0] for heard in await some.wait_for(1)] == ["b"]
            assert await none.all() == []
            with pytest.raises(DBusError, match="MatchRuleInvalid"):
                async with bus.signals("arg0=b,nonsense"):
                    pass

    on_bus(test)


def test_what_is_on_its_way_is_waited_for(tmp_path: Path) -> None:
    """A client that blocks says everything before the recorders have a turn."""
    async def test(bus: PrivateBus) -> None:
        with Client(bus.native_address[:-1]) as speaker:
            speaker.own(NAME)
            file = tmp_path / "file"
            async with bus.connect() as native, bus.signals() as legacy, bus.record(NAME, file):
                async with signals_of(await native.registry.proxy(Lamp, NAME, PATH)) as signals:
                    for which in (signals, legacy):
                        for _ in range(50):
                            speaker.emit("Burnt", "s", "x" * 1000, path=PATH, interface=LAMP)
                        speaker.sync()
                        assert sum(heard.member == "Burnt" for heard in await which.all()) >= 50
                # more than a socket holds
                for _ in range(500):
                    speaker.emit("Burnt", "s", "x" * 5000, path=PATH, interface=LAMP)
                speaker.sync()
            assert file.read_text().count('"member":"Burnt"') == 600

    on_bus(test)


def test_what_the_bus_says_to_the_recorder_itself_is_not_heard() -> None:
    handlers: list[Callable[[DBusMessage], None]] = []
    listening = SimpleNamespace(add_message_handler=handlers.append)
    signals = DBusSignals(listening)  # type: ignore[arg-type]
    for member, destination in (("NameAcquired", ":1.7"), ("NameOwnerChanged", None)):
        handlers[0](DBusMessage(
            message_type=MessageType.SIGNAL, sender="org.freedesktop.DBus", destination=destination, path="/",
            interface="org.freedesktop.DBus", member=member,
        ))
    assert [heard.member for heard in signals.heard] == ["NameOwnerChanged"]


# ---- recordings ------------------------------------------------------------------------------------


async def talk(client: MessageBus) -> list[Any]:
    """A conversation with the lamp, and all that was heard in it."""
    heard: list[Any] = [
        await call(client, "Label", "si", "a", 1), await call(client, "Label", "si", "loud", 2),
        await call(client, "Switch"), await call(client, "Label", "si", "a", 1),
    ]
    with pytest.raises(DBusError) as caught:
        await call(client, "Label", "si", "never", 1)
    heard.append((caught.value.name, caught.value.text))
    (everything,) = await call(client, "GetAll", "s", LAMP, interface=PROPERTIES)
    await call(client, "Set", "ssv", LAMP, "Level", _variant("i", 5), interface=PROPERTIES)
    return [*heard, {name: each.value for name, each in everything.items()}]


def _variant(signature: str, value: Any) -> Any:
    from dbus_fast import Variant as DBusVariant

    return DBusVariant(signature, value)


def test_a_recorded_conversation_becomes_a_mock_that_says_the_same(tmp_path: Path) -> None:
    file, conversations = tmp_path / "lamp.jsonl", []

    async def recording(bus: PrivateBus) -> None:
        async with (
            bus.serve(NAME, {PATH: Lamp()}), bus.dbus() as client, bus.signals("member='Burnt'") as signals,
            bus.signals("member='PropertiesChanged'") as changes, bus.record(NAME, file),
        ):
            heard = await talk(client)
            conversations.append((heard, await signals.wait_for(1), await changes.wait_for(1)))

    async def replaying(bus: PrivateBus) -> None:
        async with (
            bus.replay(NAME, file) as mock, bus.dbus() as client, bus.signals("member='Burnt'") as signals,
            bus.signals("member='PropertiesChanged'") as changes,
        ):
            heard = await talk(client)
            conversations.append((heard, await signals.wait_for(1), await changes.wait_for(1)))
            assert mock.unexpected == []

    on_bus(recording)
    on_bus(replaying)
    assert conversations[0] == conversations[1]
    assert conversations[0][0][:2] == [["a lamp 1 1"], ["loud lamp 2 1"]]
    kinds = [json.loads(line)["type"] for line in file.read_text().splitlines()]
    # one call more: who the owner is
    assert kinds[:2] == ["method_call", "method_return"]
    assert kinds.count("method_call") == 8 and kinds.count("error") == 1


def test_a_native_client_uses_a_mock_like_the_service_it_was_recorded_from(tmp_path: Path) -> None:
    file = tmp_path / "lamp.jsonl"

    async def test(bus: PrivateBus) -> None:
        async with bus.serve(NAME, {PATH: Lamp()}), bus.dbus() as client, bus.record(NAME, file):
            await talk(client)
        async with bus.replay(NAME, file), bus.connect() as native:
            lamp = await native.registry.proxy(Lamp, NAME, PATH)
            async with signals_of(lamp) as signals:
                assert await lamp.label("loud", 2) == "loud lamp 2 1"
                assert await signals.wait_for(1) == [
                    Heard("Burnt", ("shouting", {"volume": Variant("(ui)", (7, -1))}), LAMP)
                ]

    on_bus(test)


def conversation(*messages: Message) -> str:
    return "".join(written(message) + "\n" for message in messages)


def asked(cookie: int, prefix: str) -> Message:
    return Message(
        "method_call", cookie, sender=":1.7", destination=NAME, path=PATH, interface=LAMP, member="Label",
        signature="s", values=(prefix,),
    )


def answered(cookie: int, text: str) -> Message:
    return Message(
        "method_return", 1, cookie, sender=":1.3", destination=":1.7", signature="s", values=(text,)
    )


def test_a_call_that_was_not_recorded_is_refused_and_fails_the_test(tmp_path: Path) -> None:
    file = tmp_path / "lamp.jsonl"
    file.write_text(conversation(asked(1, "a"), answered(1, "first")))

    async def test(bus: PrivateBus) -> None:
        said = r"no org\.example\.Lamp1\.Label\('b'\) at /org/example/Lamp; it has Label of s \[\"a\"\]"
        with pytest.raises(AssertionError, match=said):
            async with bus.replay(NAME, file) as mock, bus.dbus() as client:
                assert await call(client, "Ping", interface="org.freedesktop.DBus.Peer") == []
                with pytest.raises(DBusError, match=said) as caught:
                    await call(client, "Label", "s", "b")
                assert caught.value.name == NOT_RECORDED
                with pytest.raises(DBusError, match="nor any other of it"):
                    await call(client, "Other", path="/", interface="a.b")
                assert await call(client, "Label", "s", "a") == ["first"]
                assert len(mock.unexpected) == 2

    on_bus(test)


def test_a_call_that_was_repeated_is_answered_in_turn_and_then_as_the_last_time(tmp_path: Path) -> None:
    file = tmp_path / "lamp.jsonl"
    burnt = Message("signal", 9, sender=":1.3", path=PATH, interface=LAMP, member="Burnt")
    file.write_text(conversation(
        burnt, asked(1, "a"), asked(2, "b"), answered(2, "other"), answered(1, "first"), asked(3, "a"),
        answered(3, "second"), burnt, burnt, Message("signal", 4, sender=":1.99", path="/", interface="a.b",
                                                     member="Stranger"),
    ))

    async def test(bus: PrivateBus) -> None:
        async with bus.replay(NAME, file), bus.dbus() as client, bus.signals(f"sender='{NAME}'") as signals:
            heard = []
            for prefix in "abaa":
                heard.append((*await call(client, "Label", "s", prefix), len(await signals.all())))
            assert heard == [("first", 1), ("other", 1), ("second", 3), ("second", 5)]
            assert {each.member for each in signals.heard} == {"Burnt"}

    on_bus(test)


def test_a_program_that_calls_the_owner_by_its_unique_name_is_replayed_too(tmp_path: Path) -> None:
    """As GLib's proxies do, which ask for the owner first."""
    file = tmp_path / "lamp.jsonl"

    async def test(bus: PrivateBus) -> None:
        async with bus.dbus() as client:
            async with bus.serve(NAME, {PATH: Lamp()}) as serving, bus.record(NAME, file):
                owner = (await serving.registry.resolve(NAME)).unique
                said = await call(client, "Label", "si", "a", 1, destination=owner)
            async with bus.record(NAME, tmp_path / "later"), bus.serve(NAME, {PATH: Lamp()}) as serving:
                owner = (await serving.registry.resolve(NAME)).unique
                await call(client, "Label", "si", "a", 1, destination=owner)
            for recording in (file, tmp_path / "later"):
                async with bus.replay(NAME, recording):
                    assert await call(client, "Label", "si", "a", 1) == said

    on_bus(test)


def test_a_recorded_call_without_an_answer_is_refused_not_left_waiting(tmp_path: Path) -> None:
    file = tmp_path / "lamp.jsonl"
    descriptor = Message("method_return", 2, 2, ":1.3", ":1.7", signature="h", values=(0,))
    file.write_text(conversation(asked(1, "a"), asked(2, "b"), answered(3, "stray"), descriptor))

    async def test(bus: PrivateBus) -> None:
        with pytest.raises(AssertionError, match="no answer"):
            async with bus.replay(NAME, file), bus.dbus() as client:
                with pytest.raises(DBusError, match="the recording has no answer to"):
                    await call(client, "Label", "s", "a")
                with pytest.raises(DBusError, match="the recording has no answer to"):
                    await call(client, "Label", "s", "b")

    on_bus(test)


def test_a_recording_of_somebody_else_and_a_name_that_is_taken_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "lamp.jsonl"
    file.write_text(conversation(asked(1, "a"), answered(1, "x")))
    (tmp_path / "rubbish").write_text("rubbish\n")

    async def test(bus: PrivateBus) -> None:
        with pytest.raises(RecordingError, match=f"no call to org.example.Other; it has calls to {NAME}"):
            async with bus.replay("org.example.Other", file):
                pass
        with pytest.raises(RecordingError, match="rubbish:1: "):
            async with bus.replay(NAME, tmp_path / "rubbish"):
                pass
        async with bus.serve(NAME, {}):
            with pytest.raises(NameTaken):
                async with bus.replay(NAME, file):
                    pass

    on_bus(test)


def test_a_service_that_nobody_may_monitor_is_not_recorded(tmp_path: Path) -> None:
    async def test(bus: PrivateBus) -> None:
        with pytest.raises(ValueError, match="no bus name"):
            async with bus.record("x' or 1", tmp_path / "file"):
                pass

    on_bus(test)


def test_a_service_on_any_bus_is_recorded_and_replayed_on_a_private_one(bus: Bus, tmp_path: Path) -> None:
    file = tmp_path / "echo.jsonl"

    def serve(service: Client, calls: int) -> None:
        for _ in range(calls):
            while (received := service.receive()).member != "Echo":
                pass
            service.emit("Heard", "s", received.args[0], path="/", interface="org.example.Echo1")
            service.answer(received, "sv", received.args[0], ("a{sv}", {"n": ("q", 7)}))

    async def echo(client: MessageBus, text: str) -> list[Any]:
        fields = {"destination": "org.example.Echo", "path": "/", "interface": "org.example.Echo1"}
        return [_plain(value) for value in await call(client, "Echo", "s", text, **fields)]

    async def main() -> None:
        said = []
        service = bus.connect()
        service.own("org.example.Echo")
        async with connected(bus.address) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, serve, service, 3)
            await echo(client, "before")
            async with record(bus.address, "org.example.Echo", file):
                said += [await echo(client, "one"), await echo(client, "two")]
        async with PrivateBus() as private, private.dbus() as client, private.signals() as signals:
            async with private.replay("org.example.Echo", file):
                assert [await echo(client, "one"), await echo(client, "two")] == said
            heard = [each.args for each in await signals.all() if each.member == "Heard"]
            assert heard == [("one",), ("two",)]
        assert said[0] == ["one", {"n": 7}]

    anyio.run(main)
    assert "before" not in file.read_text()


def _plain(value: Any) -> Any:
    """Without the types of variants."""
    value = getattr(value, "value", value)
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def test_a_monitor_that_is_cut_off_is_told_of(tmp_path: Path) -> None:
    async def main() -> None:
        with PrivateBus() as bus, pytest.raises(NoReply, match="hung up"):
            async with record(bus.address, NAME, tmp_path / "file"):
                bus.__exit__()

    anyio.run(main)


def test_python_dbusmock_runs_unmodified(tmp_path: Path) -> None:
    """With dbus-python and GLib, in the system's Python: an object of its own, a template for notify-send."""
    mock = "org.freedesktop.DBus.Mock"
    program = ["/usr/bin/python3", "-m", "dbusmock"]
    with PrivateBus() as bus, Client(bus.native_address[:-1]) as client, ExitStack() as cleanup:
        def start(name: str, *arguments: str) -> None:
            client.match(f"member='NameOwnerChanged',arg0='{name}'")
            process = subprocess.Popen([*program, *arguments], env=bus.environment, stdout=subprocess.DEVNULL)
            cleanup.callback(reap, process)
            while client.receive().member != "NameOwnerChanged":
                pass

        start(NAME, "--session", NAME, PATH, LAMP)
        client.request(NAME, "AddMethod", "sssss", "", "Add", "ii", "i", "ret = args[0] + args[1]", path=PATH,
                       interface=mock)
        assert client.request(NAME, "Add", "ii", 2, 3, path=PATH, interface=LAMP).args == [5]
        ((logged,),) = client.request(NAME, "GetCalls", path=PATH, interface=mock).args
        assert logged[1:] == ("Add", [("i", 2), ("i", 3)])
        notifications = "org.freedesktop.Notifications"
        start(notifications, "--template", "notification_daemon")
        subprocess.run(["notify-send", "hello", "world"], env=bus.environment, check=True, timeout=30)
        fields = {"path": "/org/freedesktop/Notifications", "interface": mock}
        ((shown,),) = client.request(notifications, "GetMethodCalls", "s", "Notify", **fields).args
        assert [value for _, value in shown[1]][3:5] == ["hello", "world"]
        assert bus.log == []


# ---- the plugin ------------------------------------------------------------------------------------


def test_the_fixtures_are_there_without_a_word_of_configuration(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import os, subprocess, pytest
        from bus1_services import Interface, Int32, connect, method
        from bus1_services.testing import Fake, PrivateBus

        class Adder(Interface, name="org.example.Adder1"):
            @method
            def add(self, a: Int32, b: Int32) -> Int32: ...

        pytestmark = pytest.mark.anyio

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        async def test_native(private_bus, native_connection):
            fake = Fake(Adder, add=lambda a, b: a + b)
            async with private_bus.serve("org.example.Adder", {"/": fake.object}):
                adder = await native_connection.registry.proxy(Adder, "org.example.Adder", "/")
                assert await adder.add(2, 3) == 5

        async def test_dbus(private_bus, dbus_connection):
            async with private_bus.serve("org.example.Adder", {"/": Fake(Adder, add=7).object}):
                found = await dbus_connection.introspect("org.example.Adder", "/")
                adder = dbus_connection.get_proxy_object("org.example.Adder", "/", found)
                assert await adder.get_interface("org.example.Adder1").call_add(1, 1) == 7

        async def test_default(session_bus):
            async with connect() as connection:
                assert await connection.registry.names() == []

        @pytest.mark.parametrize("anyio_backend", ["trio"])
        async def test_trio(anyio_backend, native_connection):
            assert await native_connection.registry.names() == []
    """)
    result = pytester.runpytest_subprocess("-q", "-W", "error")
    result.assert_outcomes(passed=4)


def test_the_example_of_the_documentation_runs(pytester: pytest.Pytester) -> None:
    page = (Path(__file__).parent.parent / "docs" / "services.md").read_text()
    example = page.partition("## Testing")[2].partition("```python\n")[2].partition("```")[0]
    pytester.makepyfile(example)
    pytester.runpytest_subprocess("-q", "-W", "error").assert_outcomes(passed=1)


def test_the_plugin_costs_nothing_until_a_test_asks_for_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        import sys
        def test_nothing():
            assert "bus1_services.testing.plugin" in sys.modules
            assert not {"bus1", "bus1_bridge", "dbus_fast", "bus1_services.connection"} & set(sys.modules)
        def test_bus(private_bus):
            assert "bus1_bridge.private" in sys.modules
    """)
    result = pytester.runpytest_subprocess("-q", "-W", "error", "-p", "no:anyio", "-p", "no:hypothesispytest")
    result.assert_outcomes(passed=2)


def test_the_kit_needs_no_program_of_the_system(pytester: pytest.Pytester) -> None:
    script = pytester.makepyfile("""
        import anyio
        from bus1_services import Interface
        from bus1_services.testing import PrivateBus

        async def main():
            objects = {"/": Interface()}
            async with PrivateBus() as bus, bus.dbus() as client, bus.serve("org.example.A", objects):
                print((await client.introspect("org.example.A", "/")).interfaces[-1].name)

        anyio.run(main)
    """)
    done = subprocess.run(
        [sys.executable, str(script)], env={**os.environ, "PATH": ""}, capture_output=True, text=True,
        timeout=30, check=True,
    )
    assert done.stdout.startswith("org.")
