"""managed: the objects of an ObjectManager, as a client sees them come and go.

Theory. Signals are received from before the manager is asked what there is. Whatever is told meanwhile is
applied on top of the answer, in its order: the last word about an object is then the manager's last word, and
nothing falls between the question and the signals.

    async with connection.registry.managed(Device, NAME, "/org/example/devices") as devices:
        for path, device in devices.items():
            ...
        async for change in devices:
            print(change.path, "is there" if change.is_there else "is gone")

Invariants. 1. The mapping is what the answer and the changes that were iterated say. 2. No object is told as
there twice without being gone in between.

Not here: the manager (``objectmanager``), where it is found (``registry``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, Self, TypeVar, cast

from .body import Variant
from .errors import UnknownObject
from .interface import Interface
from .objectmanager import ObjectManager
from .proxy import ReceivedSignal, Remote, SignalStream

I = TypeVar("I", bound=Interface)  # noqa: E741


@dataclass(frozen=True, slots=True)
class Change(Generic[I]):
    """An object is there, with these values of its properties, or is gone."""

    path: str
    object: I
    is_there: bool
    properties: Mapping[str, Variant]


class Managed(Mapping[str, I]):
    """Proxies by path; iterate with ``async for`` over its changes."""

    def __init__(
        self, interface: type[I], stream: SignalStream, derive: Callable[[str], Awaitable[I]]
    ) -> None:
        self.properties: dict[str, Mapping[str, Variant]] = {}
        """By path, the values of the properties when the object came."""
        self._interface = interface.__interface__
        self._stream = stream
        self._derive = derive
        self._objects: dict[str, I] = {}

    async def begin(self, manager: ObjectManager) -> None:
        """Receive signals, and ask what there is; DBusError."""
        await self._stream.add(cast(Remote, manager.__far__).handle, ObjectManager.__interface__)
        for path, interfaces in (await manager.get_managed_objects()).items():
            if self._interface in interfaces:
                await self._came(path, interfaces[self._interface])

    def __getitem__(self, path: str) -> I:
        return self._objects[path]

    def __len__(self) -> int:
        return len(self._objects)

    def __iter__(self) -> Iterator[str]:
        return iter(self._objects)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change[I]:
        """The next change. NoReply, if the manager is gone; QuotaExceeded, if changes came too fast."""
        while True:
            change = await self._change(await anext(self._stream))
            if change is not None:
                return change

    async def _change(self, received: ReceivedSignal) -> Change[I] | None:
        match received.member, received.signature, received.values:
            case "InterfacesAdded", "oa{sa{sv}}", [path, interfaces]:
                if self._interface in interfaces and path not in self._objects:
                    return await self._came(path, interfaces[self._interface])
            case "InterfacesRemoved", "oas", [path, interfaces]:
                if self._interface in interfaces and path in self._objects:
                    return Change(path, self._objects.pop(path), False, self.properties.pop(path))
        return None

    async def _came(self, path: str, properties: Mapping[str, Variant]) -> Change[I] | None:
        """None, if it is gone again; then that will be told."""
        path = str(path)
        try:
            proxy = await self._derive(path)
        except UnknownObject:
            return None
        self._objects[path] = proxy
        self.properties[path] = properties
        return Change(path, proxy, True, properties)
