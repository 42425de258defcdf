# mypy: ignore-errors
# ruff: noqa: F821
"""foreign_lamp: service interfaces of dbus-fast and dbus-next, for tests that serve them in this process."""

import asyncio
import os
from importlib import import_module
from typing import Any


def lamps(package: str) -> Any:
    """A class of lamps for this library."""
    service = import_module(f"{package}.service")

    class Lamp(service.ServiceInterface):
        """It has a level, burns out, and takes calls that it never answers."""

        def __init__(self, label="lamp", name="org.example.Lamp1"):
            super().__init__(name)
            self.label = label
            self.level = 1
            self.asked = asyncio.Event()
            self.given_up = asyncio.Event()
            self.callback = None
            self.labelled = []

        @service.method()
        def Label(self, prefix: "s") -> "s":
            self.labelled.append(prefix)
            return prefix + self.label

        @service.dbus_property()
        def Level(self) -> "i":
            return self.level

        @Level.setter
        def Level(self, value: "i"):
            self.level = value
            self.emit_properties_changed({"Level": value})

        @service.signal()
        def Burnt(self, reason) -> "s":
            return reason

        @service.method()
        def Burn(self, reason: "s"):
            self.Burnt(reason)

        @service.method()
        async def Wait(self) -> "s":
            self.asked.set()
            await asyncio.get_running_loop().create_future()

        @service.method()
        def Size(self, fd: "h") -> "u":
            with os.fdopen(fd, "rb") as file:
                return len(file.read())

        @service.method()
        def Lend(self) -> "h":
            reading, writing = os.pipe()
            os.close(writing)
            asyncio.get_running_loop().call_soon(os.close, reading)
            return reading

        @service.method()
        def Same(self, one: "h", other: "h") -> "b":
            os.close(one)
            return one == other

        @service.method()
        def Remember(self, callback: "o"):
            self.callback = callback

    return Lamp
