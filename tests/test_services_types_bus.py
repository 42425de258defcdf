"""Types of hints as D-Bus programs see them: enumerations as numbers, structs, objects as paths."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import IntFlag, StrEnum
from typing import Any, NamedTuple, TypedDict

import anyio
import pytest
from bus1_services import Int32, Interface, Service, Str, UInt32, UnixFd, connect, method, prop
from bus1_services import signal as emitted
from buses import Bus
from dbus_client import CallFailed, Client
from test_services_bus import aside, native

NAME, PATH, DESK = "org.example.Desk", "/org/example/Desk", "org.example.Desk1"
LAMP, PROPERTIES = "org.example.DeskLamp1", "org.freedesktop.DBus.Properties"


class Color(StrEnum):
    RED = "red"
    GREEN = "green"


class Flags(IntFlag):
    LOUD = 1


class Lamp(Interface, name=LAMP):
    @method
    def label(self) -> Str:
        return "a lamp"


@dataclass(frozen=True)
class Drawer:
    color: Color
    flags: Flags
    lamp: Lamp | None = None


class Size(NamedTuple):
    width: UInt32
    height: UInt32


class Wishes(TypedDict, total=False):
    color: Color
    lamp: Lamp


class Desk(Interface, name=DESK):
    """Has drawers with lamps in them."""

    def __init__(self) -> None:
        self.lamp = Lamp()
        self.seen: list[Any] = []
        self._front = Drawer(Color.RED, Flags.LOUD)

    @method
    def drawers(self) -> dict[str, Drawer]:
        return {"top": Drawer(Color.RED, Flags.LOUD, self.lamp), "low": Drawer(Color.GREEN, Flags(0))}

    @method
    def put(self, drawers: list[Drawer], note: Str | None, wishes: Wishes) -> Size:
        self.seen.append((drawers, note, wishes))
        return Size(len(drawers), 7)

    @method
    def log(self, files: list[UnixFd]) -> Int32:
        return sum(os.write(file.fileno(), b"x") for file in files)

    @prop
    def front(self) -> Drawer:
        return self._front

    @front.setter
    def _set_front(self, drawer: Drawer) -> None:
        self._front = drawer

    @emitted
    def opened(self, drawer: Drawer, by: Str | None) -> None: ...


def test_a_dbus_client_sees_numbers_structs_and_paths(bus1_bus: Bus) -> None:
    desk = Desk()

    def legacy(client: Client) -> Any:
        def call(
            member: str, signature: str = "", *values: Any, path: str = PATH, interface: str = DESK
        ) -> Any:
            return client.request(NAME, member, signature, *values, path=path, interface=interface).args

        (drawers,) = call("Drawers")
        top, low = dict(drawers)["top"], dict(drawers)["low"]
        assert (list(top[:2]), list(low)) == (["red", 1], ["green", 0, "/"])
        assert call("Label", path=top[2], interface=LAMP) == ["a lamp"]
        wishes = {"color": ("s", "green"), "lamp": ("o", top[2]), "unknown": ("u", 1)}
        put = [[("red", 3, top[2]), ("red", 0, "/")], ["hello"], wishes]
        assert call("Put", "a(suo)asa{sv}", *put) == [2, 7]
        with pytest.raises(CallFailed, match=r"InvalidArgs.*drawers: color: 'blue' is no Color"):
            call("Put", "a(suo)asa{sv}", [("blue", 0, "/")], [], {})
        with pytest.raises(CallFailed, match="one or none"):
            call("Put", "a(suo)asa{sv}", [], ["a", "b"], {})
        with pytest.raises(CallFailed, match="not a live capability"):
            call("Put", "a(suo)asa{sv}", [("red", 0, "/org/bus1/cap/0123")], [], {})
        (front,) = call("Get", "ss", DESK, "Front", interface=PROPERTIES)
        assert (front[0], list(front[1])) == ("(suo)", ["red", 1, "/"])
        call("Set", "ssv", DESK, "Front", ("(suo)", ("green", 0, top[2])), interface=PROPERTIES)
        with pytest.raises(CallFailed, match="Front: color: 'blue' is no Color"):
            call("Set", "ssv", DESK, "Front", ("(suo)", ("blue", 0, "/")), interface=PROPERTIES)
        return call("Introspect", interface="org.freedesktop.DBus.Introspectable")

    async def main() -> None:
        service = Service("A desk", NAME, objects={PATH: desk}, address=native(bus1_bus))
        async with service.running():
            (xml,) = await aside(legacy, bus1_bus.connect())
            assert '<arg name="width" type="u" direction="out"/>' in xml
        ((drawers, note, wishes),) = desk.seen
        assert drawers == [Drawer(Color.RED, Flags(3), desk.lamp), Drawer(Color.RED, Flags(0))]
        assert (note, wishes) == ("hello", {"color": Color.GREEN, "lamp": desk.lamp})
        assert desk._front == Drawer(Color.GREEN, Flags(0), desk.lamp)

    anyio.run(main)


def test_native_and_dbus_clients_hear_the_same_signal_each_in_its_words(bus1_bus: Bus) -> None:
    desk = Desk()
    service = Service("A desk", NAME, objects={PATH: desk}, address=native(bus1_bus))

    async def main() -> None:
        legacy = bus1_bus.connect()
        legacy.match(f"interface='{DESK}'")
        async with service.running(), connect(native(bus1_bus)) as client:
            proxy = await client.registry.proxy(Desk, NAME, PATH)
            async with proxy.opened.subscribe() as opened:
                await desk.opened(Drawer(Color.RED, Flags.LOUD), "me")
                assert await anext(opened) == (Drawer(Color.RED, Flags.LOUD), "me")
            (heard,) = [message for message in await aside(legacy.drain) if message.member == "Opened"]
            assert [list(heard.args[0]), heard.args[1]] == [["red", 1, "/"], ["me"]]
            lamps = await proxy.drawers()
            assert lamps["top"].lamp is not None and await lamps["top"].lamp.label() == "a lamp"

    anyio.run(main)


def test_descriptors_in_an_array_reach_a_native_service_from_dbus(bus1_bus: Bus) -> None:
    def legacy(client: Client) -> list[Any]:
        ends = [os.pipe() for _ in range(2)]
        (n,) = client.request(
            NAME, "Log", "ah", [0, 1], path=PATH, interface=DESK, fds=[write for _, write in ends]
        ).args
        read = [os.read(read, 1) for read, _ in ends]
        for end in ends:
            for fd in end:
                os.close(fd)
        return [n, *read]

    async def main() -> None:
        service = Service("A desk", NAME, objects={PATH: Desk()}, address=native(bus1_bus))
        async with service.running():
            assert await aside(legacy, bus1_bus.connect()) == [2, b"x", b"x"]

    anyio.run(main)
