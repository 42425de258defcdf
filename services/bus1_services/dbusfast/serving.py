"""serving: objects of dbus-fast's and dbus-next's service classes among one's own.

Theory. ``serve`` makes an object of one or several ``ServiceInterface`` instances, to be published or handed
out like any other. On each connection where it is exported it has the library's ``MessageBus`` to itself,
joined to that connection.

Not here: programs that connect by themselves (``bus``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .bus import NativeBus, message_bus
from .exported import ForeignObject
from .library import library_of

if TYPE_CHECKING:
    from ..connection import Connection

_PATH = "/object"
"""What the library takes for the object's path: others are not in its sight."""


class ServedObject(ForeignObject):
    """Interfaces of a library as one object; made by ``serve``."""

    def __init__(self, interfaces: tuple[Any, ...]) -> None:
        super().__init__(_PATH)
        self._interfaces = interfaces
        self._package = library_of(interfaces[0]).package

    def hall(self, connection: Connection) -> NativeBus:
        """A bus of the library for this object on this connection."""
        return message_bus(self._package).alone(connection, self.path, self._interfaces)


def serve(*interfaces: Any) -> ForeignObject:
    """An object with these ``ServiceInterface`` instances of dbus-fast, or of dbus-next.

    TypeError for anything else, and for interfaces of both in one object; ValueError if two have one name."""
    if not interfaces:
        raise TypeError("an object has at least one interface")
    libraries = {library_of(interface).package for interface in interfaces}
    if len(libraries) > 1:
        raise TypeError("one object has interfaces of dbus-fast, or of dbus-next, not of both")
    names = [interface.name for interface in interfaces]
    if len(set(names)) < len(names):
        raise ValueError(f"two interfaces of one object have one name: {', '.join(names)}")
    return ServedObject(interfaces)
