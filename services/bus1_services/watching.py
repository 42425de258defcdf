"""watching: the properties of an object as a client sees them: what they are, and then what changes.

    async with watch(clock) as properties:
        print(properties["zone"])
        async for names in properties:
            print(names, properties["zone"])

Theory. Signals are received from before the values are asked for, and applied on top of the answer, in their
order: the last word about a property is the object's last word. A property of which only the change is told
is read anew.

Not here: ``await clock.zone``, which always asks (``interface``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Self

from .body import Variant
from .errors import InvalidArgs
from .interface import Interface, interfaces_of
from .members import PropertySpec
from .proxy import PROPERTIES, Remote, SignalStream


class Watched(Mapping[str, Any]):
    """Values by the names of Python; iterate with ``async for`` over the names of what has changed."""

    def __init__(
        self, remote: Remote, interfaces: Mapping[str, Mapping[str, PropertySpec]], stream: SignalStream
    ) -> None:
        self._remote = remote
        self._interfaces = interfaces
        self._stream = stream
        self._values: dict[str, Any] = {}

    async def begin(self) -> None:
        """Receive changes, and ask for the values; DBusError, InvalidArgs for values of other types."""
        await self._stream.add(self._remote.handle, PROPERTIES, "PropertiesChanged")
        for interface in self._interfaces:
            answer = await self._remote.call(PROPERTIES, "GetAll", "s", (interface,))
            if answer.signature != "a{sv}":
                raise InvalidArgs(f"GetAll gives 'a{{sv}}', the answer has {answer.signature!r}")
            self._apply(interface, answer.values[0])

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> frozenset[str]:
        """The names of the next changes. NoReply, if the object is gone; DBusError, Bus1Error."""
        while True:
            received = await anext(self._stream)
            if received.signature != "sa{sv}as" or received.values[0] not in self._interfaces:
                continue
            interface, changed, invalidated = received.values
            names = self._apply(interface, changed)
            for name in invalidated:
                spec = self._interfaces[interface].get(name)
                if spec is not None:
                    self._values[spec.attribute] = await self._remote.get(interface, spec)
                    names.add(spec.attribute)
            if names:
                return frozenset(names)

    def _apply(self, interface: str, values: Mapping[str, Variant]) -> set[str]:
        """Keep what is declared; InvalidArgs for another type."""
        names = set[str]()
        for name, value in values.items():
            spec = self._interfaces[interface].get(name)
            if spec is None:
                continue
            if value.signature != spec.signature:
                raise InvalidArgs(f"{name} should be a {spec.signature!r}, it is a {value.signature!r}")
            self._values[spec.attribute] = spec.read(value.value, self._remote.adopt)
            names.add(spec.attribute)
        return names


@asynccontextmanager
async def watch(proxy: Interface) -> AsyncIterator[Watched]:
    """The properties of the object behind a proxy: their values, and then what changes.

    TypeError for anything but a proxy; DBusError and Bus1Error as of any call."""
    remote = proxy.__far__
    if not isinstance(remote, Remote):
        raise TypeError("properties are watched through a proxy")
    interfaces = {
        table.name: {
            spec.name: spec for spec in table.members.values()
            if isinstance(spec, PropertySpec) and spec.is_readable
        }
        for table in interfaces_of(type(proxy))
    }
    async with SignalStream(remote.connection) as stream:
        watched = Watched(remote, {name: specs for name, specs in interfaces.items() if specs}, stream)
        await watched.begin()
        yield watched
