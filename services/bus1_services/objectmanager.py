"""objectmanager: objects that come and go, as ``org.freedesktop.DBus.ObjectManager`` tells of them.

Theory. A ``Manager`` is an object; those that it manages are published below its path, together with it.
Adding publishes one more and then tells of it, so that whoever is told of an object finds it. A class may be
a manager and have other interfaces, too.

    devices = Manager()
    Service("Devices", NAME, objects={"/org/example/devices": devices}).run(watch_hardware)
    await devices.add("1", Device("keyboard"))      # /org/example/devices/1
    await devices.remove("1")

Objects that are made for one client are capabilities: they are given, and listed nowhere.

Invariants. 1. What GetManagedObjects lists is published, or has just ceased to be. 2. An error has added or
removed nothing.

Not here: the client's side (``managed``), publishing (``registry``).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

import anyio

from .body import Variant
from .caps.gate import specs_of
from .decorators import method, signal
from .ends import Near
from .interface import Interface, Member
from .members import PropertySpec, SignalSpec
from .types import ObjectPath, is_object_path

if TYPE_CHECKING:
    from .connection import Connection

log = logging.getLogger("bus1.services")


class ObjectManager(Interface, name="org.freedesktop.DBus.ObjectManager"):
    """Tells which objects there are below it: for proxies; ``Manager`` is one. Errors as of any proxy."""

    @method(gives="a{oa{sa{sv}}}")
    async def get_managed_objects(self) -> dict[ObjectPath, dict[str, dict[str, Variant]]]:
        """All objects, with their interfaces and the properties of each."""
        return {}

    @signal(takes="oa{sa{sv}}")
    def interfaces_added(
        self, object_path: ObjectPath, interfaces_and_properties: dict[str, dict[str, Variant]]
    ) -> None:
        """There is an object, or one has more interfaces."""

    @signal(takes="oas")
    def interfaces_removed(self, object_path: ObjectPath, interfaces: list[str]) -> None:
        """An object is gone, or has less interfaces."""


class Manager(ObjectManager):
    """An ObjectManager: ``add`` and ``remove`` objects by the name that follows its own path.

    ValueError and KeyError for wrong names; DBusError and Bus1Error, if the bus does not publish this."""

    @property
    def objects(self) -> Mapping[str, Interface]:
        """What is managed, by name."""
        return MappingProxyType(self._managed)

    @property
    def _managed(self) -> dict[str, Interface]:
        managed: dict[str, Interface] = self.__dict__.setdefault("__managed__", {})
        return managed

    @property
    def _changing(self) -> anyio.Lock:
        lock: anyio.Lock = self.__dict__.setdefault("__changing__", anyio.Lock())
        return lock

    async def add(self, name: str, target: Interface) -> None:
        """Manage one more object; where the manager is published, so is this, and clients are told.

        ValueError for a name that is taken or can be no part of a path; errors of the bus and DBusError, if
        it cannot be published."""
        if not name or not is_object_path(f"/{name}"):
            raise ValueError(f"{name!r} can be no part of an object path")
        async with self._changing:
            if name in self._managed:
                raise ValueError(f"there is an object {name!r} already")
            paths = self._paths()
            for place, path in paths.items():
                await _connection_of(place).registry.extend({_below(path, name): target})
            self._managed[name] = target
            if paths:
                await self._tell(ObjectManager.interfaces_added, paths, name, await properties_of(target))

    async def remove(self, name: str) -> Interface:
        """Manage an object no more: it is not published any longer, and clients are told. KeyError."""
        async with self._changing:
            target = self._managed[name]
            paths = self._paths()
            for place, path in paths.items():
                gone = with_managed({_below(path, name): target}).keys()
                await _connection_of(place).registry.extend({}, gone)
            del self._managed[name]
            if paths:
                interfaces = [spec.name for spec in specs_of(target)]
                await self._tell(ObjectManager.interfaces_removed, paths, name, interfaces)
            return target

    async def get_managed_objects(self) -> dict[ObjectPath, dict[str, dict[str, Variant]]]:
        """All objects, with their interfaces and the properties of each."""
        path = next(iter(self._paths().values()), None)
        if path is None:
            return {}
        return {
            ObjectPath(_below(path, name)): await properties_of(target)
            for name, target in tuple(self._managed.items())
        }

    def _paths(self) -> dict[Near, str]:
        """Where the manager is published, and under which path."""
        paths: dict[Near, str] = {}
        for near in self.__near__:
            connection = getattr(near, "connection", None)
            publication = None if connection is None else connection.publication
            for path, target in () if publication is None else publication.objects.items():
                if target is self:
                    paths[near] = path
        return paths

    async def _tell(self, signal: Member, paths: Mapping[Near, str], name: str, what: Any) -> None:
        """Those who see it at a path hear that path; who has it as a capability hears the first."""
        spec = cast(SignalSpec, signal.spec())
        for near in tuple(self.__near__):
            path = ObjectPath(_below(paths.get(near) or next(iter(paths.values())), name))
            await near.emit(ObjectManager.__interface__, spec, (path, what))


def with_managed(objects: Mapping[str, Interface]) -> dict[str, Interface]:
    """These objects by path, and those that managers among them manage."""
    found = dict(objects)
    for path, target in objects.items():
        if isinstance(target, Manager) and target.__far__ is None:
            found |= with_managed({_below(path, name): one for name, one in target.objects.items()})
    return found


async def properties_of(target: Interface) -> dict[str, dict[str, Variant]]:
    """By interface, the properties that can be read; one that fails is left out, and logged."""
    found: dict[str, dict[str, Variant]] = {}
    for table in specs_of(target):
        values = found[table.name] = {}
        for spec in table.members.values():
            if isinstance(spec, PropertySpec) and spec.is_readable:
                try:
                    values[spec.name] = spec.variant(await getattr(target, spec.attribute).get())
                except Exception:
                    log.exception("property %s of a managed %s failed", spec.name, type(target).__qualname__)
    return found


def _below(path: str, name: str) -> str:
    return f"{path.rstrip('/')}/{name}"


def _connection_of(place: Near) -> Connection:
    """Of an export, which is the only kind of place that publishes."""
    return cast("Connection", cast(Any, place).connection)
