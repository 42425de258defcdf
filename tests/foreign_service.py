# mypy: ignore-errors
# ruff: noqa: E501, F722, F821
"""foreign_service: a service as others write them, for dbus-fast or dbus-next, with all that they can do.

Run as ``foreign_service.py dbus_fast|dbus_next``: nothing in it knows of any other way to be served.
"""

import asyncio
import os
import sys
from importlib import import_module

library = import_module(sys.argv[1])
service = import_module(f"{sys.argv[1]}.service")
MessageBus = import_module(f"{sys.argv[1]}.aio").MessageBus
DBusError, PropertyAccess, Variant = library.DBusError, library.PropertyAccess, library.Variant
method, dbus_property, signal = service.method, service.dbus_property, service.signal

NAME, PATH = "org.example.Kitchen", "/org/example/Kitchen"


def described(value):
    """What a handler was given, in words."""
    if isinstance(value, Variant):
        return f"Variant({value.signature}, {described(value.value)})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{described(k)}: {described(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return f"{type(value).__name__}[{', '.join(map(described, value))}]"
    return f"{type(value).__name__}:{value!r}"


class Room(service.ServiceInterface):
    """What every room has."""

    @method()
    def Knock(self) -> "s":
        return f"come in to {self.name}"


class Kitchen(Room):
    def __init__(self, bus):
        super().__init__("org.example.Kitchen1")
        self.bus = bus
        self.heat, self.light, self.secret = 1, True, ""
        self.children = {}

    @method(name="Echo")
    def give_back(
        self, y: "y", b: "b", n: "n", q: "q", i: "i", u: "u", x: "x", t: "t", d: "d", s: "s", o: "o", g: "g"
    ) -> "ybnqiuxtdsog":
        return [y, b, n, q, i, u, x, t, d, s, o, g]

    @method()
    def Contain(self, a: "as", e: "a{sv}", r: "(i(sv))", y: "ay", c: "a(uas)", v: "v") -> "asa{sv}(i(sv))aya(uas)v":
        return [a, e, r, y, c, v]

    @method()
    def Look(self, a: "as", e: "a{sv}", r: "(i(sv))", y: "ay", c: "a(uas)", v: "v", o: "ao") -> "s":
        return described([a, e, r, y, c, v, o])

    @method()
    async def LookLater(self, value: "v") -> "s":
        await asyncio.sleep(0)
        return described(value)

    @method()
    def Nothing(self):
        return None

    @method()
    def Struct(self) -> "(su)":
        return ["a", 7]

    @method()
    def Refuse(self, text: "s"):
        raise DBusError("org.example.Error.Refused", text)

    @method()
    async def RefuseLater(self, text: "s"):
        await asyncio.sleep(0)
        raise DBusError("org.example.Error.Refused", text)

    @method()
    def Break(self):
        raise ValueError("a bug")

    @method()
    async def BreakLater(self):
        await asyncio.sleep(0)
        raise ValueError("a bug")

    @method()
    def WrongType(self) -> "u":
        return "not a number"

    @method()
    def WrongCount(self) -> "uu":
        return [1]

    @method(disabled=True)
    def Hidden(self) -> "s":
        return "seen"

    @method()
    def Read(self, fd: "h") -> "s":
        with os.fdopen(fd, "rb") as file:
            return file.read().decode()

    @method()
    def Open(self, text: "s") -> "h":
        reading, writing = os.pipe()
        os.write(writing, text.encode())
        os.close(writing)
        asyncio.get_running_loop().call_later(1, os.close, reading)
        return reading

    # ---- properties

    @dbus_property()
    def Heat(self) -> "i":
        return self.heat

    @Heat.setter
    def Heat(self, value: "i"):
        if value > 100:
            raise DBusError("org.example.Error.TooHot", f"{value} degrees")
        self.heat = value
        self.emit_properties_changed({"Heat": value}, ["Light"])

    @dbus_property()
    async def Light(self) -> "b":
        await asyncio.sleep(0)
        return self.light

    @Light.setter
    async def Light(self, value: "b"):
        await asyncio.sleep(0)
        self.light = value

    @dbus_property(access=PropertyAccess.READ, name="Window")
    def the_window(self) -> "(sv)":
        return ["glass", Variant("u", 2)]

    @dbus_property(access=PropertyAccess.WRITE)
    def Secret(self) -> "s":
        return self.secret

    @Secret.setter
    def Secret(self, value: "s"):
        self.secret = value

    @dbus_property(access=PropertyAccess.READ, disabled=True)
    def Cellar(self) -> "s":
        return "dark"

    # ---- signals

    @signal()
    def Rang(self):
        pass

    @signal(name="Boiled")
    def it_boils(self, pot) -> "su":
        return [pot, 100]

    @signal()
    def Smelt(self, what) -> "a{sv}":
        return what

    @signal(disabled=True)
    def Silent(self) -> "s":
        return "nothing"

    @method()
    def Emit(self):
        self.Rang()
        self.it_boils("tea")
        self.Smelt({"of": Variant("as", ["bread"])})

    @method()
    def EmitSilent(self):
        self.Silent()

    # ---- other objects and names

    @method()
    def Add(self, name: "s") -> "o":
        self.children[name] = Drawer(name)
        self.bus.export(f"{PATH}/{name}", self.children[name])
        return f"{PATH}/{name}"

    @method()
    def Remove(self, name: "s"):
        self.bus.unexport(f"{PATH}/{name}", self.children.pop(name))

    @method()
    async def Rename(self, old: "s", new: "s") -> "uu":
        gained = await self.bus.request_name(new)
        return [(await self.bus.release_name(old)).value, gained.value]


class Broken(service.ServiceInterface):
    """Its getter fails, and so does everything that needs all properties."""

    @dbus_property(access=PropertyAccess.READ)
    def Fine(self) -> "s":
        return "fine"

    @dbus_property(access=PropertyAccess.READ)
    def Wrong(self) -> "u":
        return "no number"

    @dbus_property(access=PropertyAccess.READ)
    def Failing(self) -> "s":
        raise DBusError("org.example.Error.Dark", "it is dark")


class Drawer(Room):
    def __init__(self, label):
        super().__init__("org.example.Drawer1")
        self.label = label

    @dbus_property(access=PropertyAccess.READ)
    def Label(self) -> "s":
        return self.label


async def main():
    bus = await MessageBus(negotiate_unix_fd=True).connect()
    kitchen = Kitchen(bus)
    bus.export(PATH, kitchen)
    bus.export(PATH, Drawer("top"))
    bus.export(f"{PATH}/broken", Broken("org.example.Broken1"))
    reply = await bus.request_name(NAME)
    print(reply.name, flush=True)
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main())
