"""Objects that come and go, and properties that change: what clients of both kinds see of them."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from bus1_services import (
    Connection,
    DBusError,
    Int32,
    Interface,
    Manager,
    ObjectManager,
    Remote,
    Str,
    Variant,
    changing,
    connect,
    export,
    method,
    prop,
    watch,
)
from bus1_services.caps import attenuate
from bus1_services.errors import NameHasNoOwner, NoReply, UnknownObject
from bus1_services.introspection import interfaces_xml
from bus1_services.standard import Properties
from buses import Bus
from core_peer import introduce
from dbus_client import Client
from test_services import on_a_bus, quiet
from test_services_bus import aside, native

NAME, ROOT = "org.example.Devices", "/org/example/devices"
MANAGER = "org.freedesktop.DBus.ObjectManager"


class Device(Interface, name="org.example.Device1"):
    """Something that is plugged in."""

    def __init__(self, label: str, level: int = 0) -> None:
        self._label = label
        self._level = level

    @prop(emits="const")
    def label(self) -> Str:
        return self._label

    @prop
    def level(self) -> Int32:
        return self._level

    @level.setter
    def _set_level(self, level: int) -> None:
        self._level = level

    @prop(emits="invalidates")
    def doubled(self) -> Int32:
        return 2 * self._level

    @prop(emits="false")
    def hidden(self) -> Int32:
        return 3 * self._level

    @method
    def press(self) -> Str:
        return f"{self._label} pressed"


class Broken(Interface, name="org.example.Broken1"):
    """Has a property that fails."""

    @prop
    def bad(self) -> Str:
        raise ValueError("broken")

    @prop
    def good(self) -> Str:
        return "good"


class Hub(Manager, name="org.example.Hub1"):
    """A manager with an interface of its own."""

    @method
    def count(self) -> Int32:
        return len(self.objects)


def described(label: str) -> dict[str, dict[str, Variant]]:
    """A device, as ObjectManager tells of it."""
    numbers = {name: Variant("i", 0) for name in ("Level", "Doubled", "Hidden")}
    return {"org.example.Device1": {"Label": Variant("s", label), **numbers}}


def on_processes(test: Callable[[Bus], Any]) -> Callable[[Bus], None]:
    """Run an async test on a bus that is a process."""

    def run(bus1_bus: Bus) -> None:
        anyio.run(test, bus1_bus)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@on_processes
async def test_what_is_managed_is_published_listed_and_told(bus: Bus) -> None:
    async with connect(native(bus)) as service, connect(native(bus)) as client:
        hub = Hub()
        await hub.add("1", Device("a"))
        await service.registry.publish("Devices", {NAME: 0}, {ROOT: hub})
        proxy = await client.registry.proxy(Hub, NAME, ROOT)
        assert await proxy.count() == 1
        assert await proxy.get_managed_objects() == {f"{ROOT}/1": described("a")}
        async with (
            proxy.interfaces_added.subscribe() as added, proxy.interfaces_removed.subscribe() as removed
        ):
            await hub.add("2", Device("b"))
            assert await anext(added) == (f"{ROOT}/2", described("b"))
            device = await client.registry.proxy(Device, NAME, f"{ROOT}/2")
            assert await device.press() == "b pressed"
            await hub.remove("1")
            assert await anext(removed) == (f"{ROOT}/1", ["org.example.Device1"])
            with pytest.raises(UnknownObject):
                await client.registry.proxy(Device, NAME, f"{ROOT}/1")
        assert list(hub.objects) == ["2"]


@on_processes
async def test_a_dbus_client_sees_them_come_and_go(bus: Bus) -> None:
    def managed(client: Client) -> list[str]:
        (objects,) = client.request(NAME, "GetManagedObjects", path=ROOT, interface=MANAGER).args
        return sorted(objects)

    def told(client: Client) -> list[Any]:
        client.sync()
        return [(one.member, one.path, one.args[0]) for one in client.drain() if one.interface == MANAGER]

    def introspected(client: Client) -> str:
        to = {"path": ROOT, "interface": "org.freedesktop.DBus.Introspectable"}
        return str(client.request(NAME, "Introspect", **to).args[0])

    with bus.connect() as legacy:
        async with connect(native(bus)) as service:
            hub = Hub()
            await service.registry.publish("Devices", {NAME: 0}, {ROOT: hub})
            await aside(legacy.match, f"sender='{NAME}',interface='{MANAGER}'")
            await hub.add("1", Device("a"))
            await hub.add("2/3", Device("b"))
            assert await aside(managed, legacy) == [f"{ROOT}/1", f"{ROOT}/2/3"]
            await hub.remove("1")
            assert await aside(managed, legacy) == [f"{ROOT}/2/3"]
            assert await aside(told, legacy) == [
                ("InterfacesAdded", ROOT, f"{ROOT}/1"), ("InterfacesAdded", ROOT, f"{ROOT}/2/3"),
                ("InterfacesRemoved", ROOT, f"{ROOT}/1"),
            ]
            xml = await aside(introspected, legacy)
            assert f'<interface name="{MANAGER}">' in xml and '<node name="2"/>' in xml
            assert '<node name="1"/>' not in xml


@on_processes
async def test_a_client_sees_what_there_is_and_then_what_changes(bus: Bus) -> None:
    async with connect(native(bus)) as service, connect(native(bus)) as client:
        manager = Manager()
        await manager.add("1", Device("a"))
        await manager.add("other", Broken())
        await service.registry.publish("Devices", {NAME: 0}, {ROOT: manager})
        async with client.registry.managed(Device, NAME, ROOT) as devices:
            assert list(devices) == [f"{ROOT}/1"]
            assert devices.properties[f"{ROOT}/1"] == described("a")["org.example.Device1"]
            assert await devices[f"{ROOT}/1"].press() == "a pressed"
            await manager.add("2", Device("b"))
            await manager.add("another", Broken())
            await manager.remove("1")
            change = await anext(devices)
            assert (change.path, change.is_there, len(devices)) == (f"{ROOT}/2", True, 2)
            assert await change.object.press() == "b pressed"
            change = await anext(devices)
            assert (change.path, change.is_there, list(devices)) == (f"{ROOT}/1", False, [f"{ROOT}/2"])
            await manager.add("3", Device("c"))
            await manager.remove("3")
            await manager.remove("2")
            change = await anext(devices)
            assert (change.path, change.is_there, list(devices)) == (f"{ROOT}/2", False, [])
            await service.registry.withdraw()
            service.export(manager).withdraw()
            with pytest.raises(NoReply):
                await anext(devices)
        with pytest.raises((NameHasNoOwner, UnknownObject)):
            async with client.registry.managed(Device, NAME, ROOT):
                pytest.fail("there is no manager")


@on_processes
async def test_nothing_falls_between_the_snapshot_and_the_signals(bus: Bus) -> None:
    """The manager adds and removes while clients ask; each ends with what there is."""
    async with connect(native(bus)) as service, connect(native(bus)) as client:
        manager = Manager()
        await service.registry.publish("Devices", {NAME: 0}, {ROOT: manager})

        async def change() -> None:
            for number in range(30):
                await manager.add(str(number), Device(str(number)))
                if number % 3:
                    await manager.remove(str(number))
            await manager.add("last", Device("last"))

        wanted = {f"{ROOT}/{name}" for name in [*map(str, range(0, 30, 3)), "last"]}

        async def follow() -> None:
            async with client.registry.managed(Device, NAME, ROOT) as devices:
                while f"{ROOT}/last" not in devices:
                    await anext(devices)
                assert set(devices) == wanted

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(change)
            for _ in range(5):
                await checkpoint()
                tasks.start_soon(follow)


@on_processes
async def test_the_objects_of_a_dbus_service_are_managed_the_same_way(bus: Bus) -> None:
    device = {"Label": ("s", "x")}

    def serve(legacy: Client) -> None:
        call = legacy.receive()
        while call.member != "GetManagedObjects":
            call = legacy.receive()
        to = {"path": ROOT, "interface": MANAGER}
        legacy.emit("InterfacesAdded", "oa{sa{sv}}", f"{ROOT}/2", {"org.example.Device1": device}, **to)
        legacy.answer(call, "a{oa{sa{sv}}}", {f"{ROOT}/1": {"org.example.Device1": device}})
        legacy.emit("InterfacesRemoved", "oas", f"{ROOT}/1", ["org.example.Device1"], **to)
        call = legacy.receive()
        while call.member != "Press":
            call = legacy.receive()
        legacy.answer(call, "s", f"{call.path} pressed")

    with bus.connect() as legacy:
        legacy.own(NAME)
        async with connect(native(bus)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(aside, serve, legacy)
            async with client.registry.managed(Device, NAME, ROOT) as devices:
                assert list(devices) == [f"{ROOT}/1"]
                change = await anext(devices)
                assert (change.path, change.properties) == (f"{ROOT}/2", {"Label": Variant("s", "x")})
                change = await anext(devices)
                assert (change.path, change.is_there) == (f"{ROOT}/1", False)
                assert await devices[f"{ROOT}/2"].press() == f"{ROOT}/2 pressed"
                await aside(legacy.close)
                with pytest.raises(NoReply):
                    await anext(devices)


@on_processes
async def test_an_object_that_cannot_be_published_is_not_managed(bus: Bus) -> None:
    async with connect(native(bus)) as service:
        manager = Manager()
        await service.registry.publish("Devices", {NAME: 0}, {"/org/bus1": manager, ROOT: Device("x")})
        with pytest.raises(DBusError, match="reserved"):
            await manager.add("cap", Device("a"))
        assert manager.objects == {}
        await manager.add("fine", Device("a"))
        for name in ("fine", "", "a//b", "/a", "a b"):
            with pytest.raises(ValueError, match="object"):
                await manager.add(name, Device("b"))
        with pytest.raises(KeyError):
            await manager.remove("nothing")
        owner = await service.registry.resolve(NAME)
        (await service.registry.derive(owner.root, "/org/bus1/fine")).release()
        (await service.registry.derive(owner.root, ROOT)).release()


@on_processes
async def test_managers_of_one_service_add_at_the_same_time(bus: Bus) -> None:
    async with connect(native(bus)) as service, connect(native(bus)) as client:
        managers = {f"/{number}": Manager() for number in range(5)}
        await service.registry.publish("Devices", {NAME: 0}, managers)
        async with anyio.create_task_group() as tasks:
            for path, manager in managers.items():
                tasks.start_soon(manager.add, "it", Device(path))
        for path in managers:
            device = await client.registry.proxy(Device, NAME, f"{path}/it")
            assert await device.press() == f"{path} pressed"


@on_processes
async def test_managers_may_be_managed(bus: Bus) -> None:
    async with connect(native(bus)) as service, connect(native(bus)) as client:
        outer, inner = Manager(), Hub()
        await inner.add("1", Device("a"))
        await service.registry.publish("Devices", {NAME: 0}, {"/": outer})
        await outer.add("hub", inner)
        assert await (await client.registry.proxy(Device, NAME, "/hub/1")).press() == "a pressed"
        hub = await client.registry.proxy(Hub, NAME, "/hub")
        async with hub.interfaces_added.subscribe() as added:
            await inner.add("2", Device("b"))
            assert (await anext(added))[0] == "/hub/2"
        root = await client.registry.proxy(ObjectManager, NAME, "/")
        assert list(await root.get_managed_objects()) == ["/hub"]
        await outer.remove("hub")
        for path in ("/hub", "/hub/1", "/hub/2"):
            with pytest.raises(UnknownObject):
                await client.registry.proxy(Device, NAME, path)


def test_a_property_that_fails_is_left_out_and_logged(
    bus1_bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with connect(native(bus1_bus)) as service, connect(native(bus1_bus)) as client:
            manager = Manager()
            await manager.add("1", Broken())
            await service.registry.publish("Devices", {NAME: 0}, {ROOT: manager})
            proxy = await client.registry.proxy(ObjectManager, NAME, ROOT)
            assert await proxy.get_managed_objects() == {
                f"{ROOT}/1": {"org.example.Broken1": {"Good": Variant("s", "good")}}
            }

    anyio.run(main)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ValueError]


# ---- properties ------------------------------------------------------------------------------------


async def meet(service: Connection, client: Connection) -> tuple[Device, Device, Remote]:
    """A device, a proxy for it, and the same without types."""
    device = Device("a", 1)
    handle = await introduce(service, client, device)
    return device, client.proxy(Device, handle), Remote(client, handle)


@on_a_bus()
async def test_watched_properties_are_what_they_were_and_then_what_changes(
    service: Connection, client: Connection
) -> None:
    device, proxy, _ = await meet(service, client)
    async with watch(proxy) as properties:
        assert dict(properties) == {"label": "a", "level": 1, "doubled": 2, "hidden": 3}
        await proxy.level.set(5)
        assert await anext(properties) == {"level"}
        assert properties["level"] == 5
        await device.hidden.changed()
        await device.label.changed()
        await device.doubled.changed()
        assert await anext(properties) == {"doubled"}
        assert dict(properties) == {"label": "a", "level": 5, "doubled": 10, "hidden": 3}
    await quiet(client, service)
    with pytest.raises(TypeError, match="proxy"):
        async with watch(device):
            pytest.fail("it is no proxy")


@on_a_bus()
async def test_what_changes_together_is_told_together(service: Connection, client: Connection) -> None:
    device, proxy, remote = await meet(service, client)
    properties = client.proxy(Properties, remote.handle)
    async with properties.properties_changed.subscribe() as changes:
        async with changing(device):
            await device.level.set(2)
            async with changing(device):
                await device.doubled.changed()
                await device.label.changed()
            await device.level.set(3)
        with pytest.raises(KeyError):
            async with changing(device):
                await device.level.set(4)
                raise KeyError
        async with changing(device):
            await device.hidden.changed()
        await device.level.set(5)
        told = [await anext(changes) for _ in range(3)]
    assert [(values, names) for _, values, names in told] == [
        ({"Level": Variant("i", 3)}, ["Doubled"]), ({"Level": Variant("i", 4)}, []),
        ({"Level": Variant("i", 5)}, []),
    ]
    with pytest.raises(TypeError, match="proxy"):
        async with changing(proxy):
            pytest.fail("it changes elsewhere")


@on_a_bus()
async def test_a_view_tells_of_what_it_grants_alone(service: Connection, client: Connection) -> None:
    device = Device("a", 1)
    proxy = client.proxy(Device, await introduce(service, client, attenuate(device, Device.level)))
    async with watch(proxy) as properties:
        async with changing(device):
            await device.doubled.changed()
            await device.level.set(2)
        assert await anext(properties) == {"level"}
        assert dict(properties) == {"level": 2}


@on_a_bus()
async def test_an_object_with_other_types_is_no_such_object(service: Connection, client: Connection) -> None:
    class Liar(Interface, name="org.example.Device1"):
        @prop
        def level(self) -> Str:
            return "high"

    proxy = client.proxy(Device, await introduce(service, client, Liar()))
    with pytest.raises(DBusError, match="Level should be a 'i'"):
        async with watch(proxy):
            pytest.fail("it is something else")


def test_dbus_clients_see_the_four_ways_to_tell_of_a_change(bus1_bus: Bus) -> None:
    def told(client: Client) -> list[Any]:
        client.sync()
        return [one.args[1:] for one in client.drain() if one.member == "PropertiesChanged"]

    async def main() -> None:
        with bus1_bus.connect() as legacy:
            async with connect(native(bus1_bus)) as service:
                device = Device("a", 1)
                await service.registry.publish("Devices", {NAME: 0}, {ROOT: device})
                await aside(legacy.match, f"sender='{NAME}'")
                await device.level.changed()
                await device.doubled.changed()
                await device.label.changed()
                await device.hidden.changed()
                async with changing(device):
                    await device.doubled.changed()
                    await device.level.set(2)
                assert await aside(told, legacy) == [
                    [{"Level": ("i", 1)}, []], [{}, ["Doubled"]], [{"Level": ("i", 2)}, ["Doubled"]],
                ]

    anyio.run(main)


# ---- what users read -------------------------------------------------------------------------------


def written(start: str) -> Any:
    """The example of docs/services.md that begins like this, to be evaluated and awaited."""
    page = (Path(__file__).parent.parent / "docs" / "services.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (example,) = [text for text in examples if text.startswith(start)]
    return compile(example, "services.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


class Clock(Interface, name="org.example.Clock1"):
    """The one of the manual."""

    def __init__(self) -> None:
        self._zone = "UTC"

    @prop
    def zone(self) -> Str:
        return self._zone

    @zone.setter
    def _set_zone(self, zone: str) -> None:
        self._zone = zone


class Printed:
    """Stands in for ``print``: ``lines`` are what was printed, ``more`` waits for so many."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self._came = anyio.Event()

    def __call__(self, *values: Any) -> None:
        self.lines.append(values)
        self._came.set()

    async def more(self, n: int) -> None:
        while len(self.lines) < n:
            self._came = anyio.Event()
            await self._came.wait()


@on_processes
async def test_the_manual_shows_how_objects_and_properties_are_followed(bus: Bus) -> None:
    async with connect(native(bus)) as service, connect(native(bus)) as client:
        manager, clock, printed = Manager(), Clock(), Printed()
        await manager.add("0", Device("a"))
        root = "/org/example/devices"
        await service.registry.publish("", {NAME: 0}, {root: manager, "/clock": clock})
        names = {
            "connection": client, "Device": Device, "watch": watch, "print": printed,
            "clock": await client.registry.proxy(Clock, NAME, "/clock"),
        }

        async def run(start: str) -> None:
            await eval(written(start), names)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, "async with connection.registry.managed(")
            await printed.more(1)
            await eval(written("from bus1_services import Manager"), {"Device": Device})
            await manager.add("1", Device("keyboard"))
            await printed.more(2)
            await manager.remove("1")
            await printed.more(3)
            tasks.cancel_scope.cancel()
        told = [(line[0], line[-1]) for line in printed.lines[1:]]
        assert told == [(f"{root}/1", True), (f"{root}/1", False)]
        printed.lines.clear()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, "async with watch(clock)")
            await printed.more(1)
            await clock.zone.set("CET")
            await printed.more(2)
            tasks.cancel_scope.cancel()
        assert printed.lines == [("UTC",), ({"zone"}, "CET")]


def test_what_was_added_earlier_is_not_described_anew(bus1_bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    described: list[Any] = []

    def describe(specs: Any) -> str:
        described.append(specs)
        return interfaces_xml(specs)

    monkeypatch.setattr(export, "interfaces_xml", describe)

    async def main() -> None:
        devices = Manager()
        async with connect(native(bus1_bus)) as connection:
            await connection.registry.publish("Devices", {NAME: 0}, {ROOT: devices})
            for number in range(10):
                await devices.add(str(number), Device("keyboard"))
        assert len(described) == 1 + 10

    anyio.run(main)
