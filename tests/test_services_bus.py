"""Services on a real bus: the bridge as a process, native connections over its socket, stock programs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from bus1_services import Int32, Interface, NameTaken, Service, Str, Variant, connect, method, prop
from bus1_services import signal as emitted
from bus1_services.errors import NameHasNoOwner, UnknownMethod, UnknownProperty
from bus1_services.registry import NameOwnerChanged
from bus1_services.standard import Properties
from buses import Bus
from dbus_client import ERROR, Client

EXAMPLES = Path(__file__).parent.parent / "examples"
NAME, PATH = "org.example.Lamp", "/org/example/Lamp"
CLOCK = ("org.example.Clock", "/org/example/Clock", "org.example.Clock1")


class Lamp(Interface, name="org.example.Lamp1"):
    """A lamp."""

    def __init__(self) -> None:
        self._level = 1

    @method
    def label(self, prefix: Str) -> Str:
        return prefix + "lamp"

    @prop
    def level(self) -> Int32:
        return self._level

    @level.setter
    def _set_level(self, level: int) -> None:
        self._level = level

    @emitted
    def burnt(self, reason: Str) -> None: ...


def lamp_service(bus: Bus, lamp: Lamp | None = None) -> Service:
    return Service("A lamp", NAME, objects={PATH: lamp or Lamp()}, address=native(bus))


def native(bus: Bus) -> str:
    return bus.path + "1"


async def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """A blocking D-Bus client beside the service."""
    return await anyio.to_thread.run_sync(function, *arguments)


def test_a_legacy_client_reads_and_sets_properties_of_a_native_object(bus1_bus: Bus) -> None:
    def legacy(client: Client) -> list[Any]:
        to = {"path": PATH, "interface": "org.freedesktop.DBus.Properties"}
        client.match(f"sender='{NAME}',member='PropertiesChanged'")
        client.request(NAME, "Set", "ssv", "org.example.Lamp1", "Level", ("i", 7), **to)
        (value,) = client.request(NAME, "Get", "ss", "org.example.Lamp1", "Level", **to).args
        changed = [message.args for message in client.drain() if message.member == "PropertiesChanged"]
        return [value, changed]

    async def main() -> None:
        async with lamp_service(bus1_bus).running():
            value, changed = await aside(legacy, bus1_bus.connect())
            assert value == ("i", 7)
            assert len(changed) == 1 and changed[0][0] == "org.example.Lamp1"

    anyio.run(main)


def test_an_object_that_the_next_publication_leaves_out_ends_unless_somebody_holds_it(
    bus1_bus: Bus,
) -> None:
    class Mortal(Lamp):
        def __init__(self) -> None:
            super().__init__()
            self.ended = anyio.Event()

        def unreferenced(self) -> None:
            self.ended.set()

    async def main() -> None:
        async with connect(native(bus1_bus)) as service, connect(native(bus1_bus)) as client:
            forgotten, held = Mortal(), Mortal()
            await service.registry.publish("Lamps", {NAME: 0}, {"/forgotten": forgotten, "/held": held})
            proxy = await client.registry.proxy(Lamp, NAME, "/held")
            await service.registry.publish("Lamps", {}, {"/other": Lamp()})
            await forgotten.ended.wait()
            assert await proxy.label("a ") == "a lamp"
            assert not held.ended.is_set()
            del proxy
            await client.swept()
            await held.ended.wait()

    anyio.run(main)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_native_peers_call_read_set_and_listen_over_the_socket(bus1_bus: Bus, backend: str) -> None:
    async def main() -> None:
        ended = anyio.Event()

        class Mortal(Lamp):
            def unreferenced(self) -> None:
                ended.set()

        lamp = Mortal()
        async with lamp_service(bus1_bus, lamp).running() as service, connect(native(bus1_bus)) as client:
            proxy = await client.registry.proxy(Lamp, NAME, PATH)
            assert await proxy.label("a ") == "a lamp"
            await proxy.level.set(4)
            assert await proxy.level == 4
            async with proxy.burnt.subscribe() as reasons:
                await lamp.burnt("age")
                assert await anext(reasons) == "age"
            del proxy
            await client.swept()
            await service.registry.withdraw()
            await ended.wait()

    anyio.run(main, backend=backend)


def test_a_native_client_uses_a_legacy_service_through_the_same_proxy(bus1_bus: Bus) -> None:
    """Calls, errors, properties and signals of a service that never heard of bus1."""
    def legacy(service: Client) -> None:
        for _ in range(4):
            call = service.receive()
            while call.member not in {"Label", "Get", "Set"}:
                call = service.receive()
            if call.member == "Label" and call.args == ["no"]:
                service.send(
                    ERROR, reply_to=call.serial, to=call.sender, error=UnknownMethod.default_name,
                    signature="s", args=("none",),
                )
            elif call.member == "Label":
                service.answer(call, "s", call.args[0] + "legacy")
                service.emit("Burnt", "s", "use", path=PATH, interface="org.example.Lamp1")
            else:
                service.answer(call, *(("v", ("i", 3)) if call.member == "Get" else ()))

    async def main() -> None:
        service = bus1_bus.connect()
        service.own(NAME)
        async with connect(native(bus1_bus)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(aside, legacy, service)
            proxy = await client.registry.proxy(Lamp, NAME, PATH)
            async with proxy.burnt.subscribe() as reasons:
                assert await proxy.label("a ") == "a legacy"
                assert await anext(reasons) == "use"
            assert await proxy.level == 3
            await proxy.level.set(5)
            with pytest.raises(UnknownMethod, match="none"):
                await proxy.label("no")

    anyio.run(main)


def test_names_are_resolved_and_watched_across_both_worlds(bus1_bus: Bus) -> None:
    async def main() -> None:
        async with connect(native(bus1_bus)) as client:
            with pytest.raises(NameHasNoOwner):
                await client.registry.resolve(NAME)
            async with client.registry.watch(NAME) as changes:
                legacy = bus1_bus.connect()
                await aside(legacy.own, NAME)
                assert await anext(changes) == NameOwnerChanged(NAME, "", legacy.name)
                assert (await client.registry.resolve(NAME)).unique == legacy.name
                assert NAME in await client.registry.names()
                await aside(legacy.close)
                assert await anext(changes) == NameOwnerChanged(NAME, legacy.name, "")

    anyio.run(main)


def test_a_service_whose_name_is_taken_says_so(bus1_bus: Bus) -> None:
    async def main() -> None:
        async with lamp_service(bus1_bus).running():
            with pytest.raises(NameTaken, match=NAME):
                async with lamp_service(bus1_bus).running():
                    pytest.fail("it should not run")

    anyio.run(main)


def test_get_all_and_unknown_properties_over_the_socket(bus1_bus: Bus) -> None:
    async def main() -> None:
        async with lamp_service(bus1_bus).running(), connect(native(bus1_bus)) as client:
            properties = await client.registry.proxy(Properties, NAME, PATH)
            assert await properties.get_all("org.example.Lamp1") == {"Level": Variant("i", 1)}
            with pytest.raises(UnknownProperty):
                await properties.get("org.example.Lamp1", "Colour")

    anyio.run(main)


def example(bus: Bus, name: str, *arguments: str) -> subprocess.Popen[str]:
    """Start an example, and wait until it serves."""
    program = bus.start(sys.executable, str(EXAMPLES / name), *arguments)
    assert program.stdout is not None
    assert "is served" in program.stdout.readline()
    return program


def test_the_clock_is_called_natively_and_by_stock_tools(bus1_bus: Bus) -> None:
    clock = example(bus1_bus, "clock.py")
    native_call = bus1_bus.run(sys.executable, str(EXAMPLES / "clock.py"), "call", check=True)
    assert native_call.stdout.startswith("2")
    busctl = bus1_bus.run("busctl", "--user", "call", *CLOCK, "Format", "s", "%%", check=True)
    assert busctl.stdout == 's "%"\n'
    bus1_bus.run("busctl", "--user", "set-property", *CLOCK, "Zone", "s", "HERE", check=True)
    assert bus1_bus.run("busctl", "--user", "get-property", *CLOCK, "Zone").stdout == 's "HERE"\n'
    monitor = bus1_bus.start("gdbus", "monitor", "--session", "-d", CLOCK[0])
    assert monitor.stdout is not None
    assert any("org.example.Clock1.Ticked" in line for line in iter(monitor.stdout.readline, ""))
    clock.send_signal(signal.SIGTERM)
    assert clock.wait(10) == 0


def test_notifications_reach_the_native_service_and_a_native_client_reaches_it(bus1_bus: Bus) -> None:
    service = example(bus1_bus, "notify.py", "serve")
    assert service.stdout is not None
    assert bus1_bus.run("notify-send", "-p", "Tea", "four o'clock", check=True).stdout == "1\n"
    assert service.stdout.readline() == "[1] notify-send: Tea: four o'clock\n"
    send = [sys.executable, str(EXAMPLES / "notify.py"), "send", "Coffee", "ten o'clock"]
    assert bus1_bus.run(*send, check=True).stdout == "2\n"
    assert service.stdout.readline() == "[2] notify.py: Coffee: ten o'clock\n"
    service.send_signal(signal.SIGINT)
    assert service.wait(10) == 0


def test_a_native_client_notifies_a_legacy_service(bus1_bus: Bus) -> None:
    service = example(bus1_bus, "legacy_notifications.py")
    assert service.stdout is not None
    send = [sys.executable, str(EXAMPLES / "notify.py"), "send", "Coffee", "ten o'clock"]
    assert bus1_bus.run(*send, check=True).stdout == "1\n"
    assert service.stdout.readline() == "#1 notify.py: Coffee: ten o'clock\n"
