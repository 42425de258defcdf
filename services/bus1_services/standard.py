"""standard: the interfaces that every exported object has, themselves declared as interfaces.

Theory. Introspectable, Peer, Properties and Signals1 are ordinary interface classes: an ``Export`` serves
one instance of each beside its object, and a client may make proxies of them.

Not here: what they answer from (``export``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from .body import Variant
from .caller import NOBODY, Caller
from .decorators import method, signal
from .errors import DBusError
from .interface import Interface

_MACHINE_IDS = (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id"))


class Exported(Protocol):
    """What the standard interfaces ask about their object."""

    def introspect(self) -> str:
        """The whole XML."""

    async def get_property(self, interface: str, name: str) -> Variant:
        """The value of one property; DBusError."""

    async def set_property(self, interface: str, name: str, value: Variant) -> None:
        """Set one property; DBusError."""

    async def get_properties(self, interface: str) -> dict[str, Variant]:
        """All of an interface; DBusError."""

    def add_subscriber(self, handle: Any, interface: str, member: str) -> None:
        """Send signals to ``handle``; DBusError."""


class Introspectable(Interface, name="org.freedesktop.DBus.Introspectable"):
    """Describes the object."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported

    @method(gives="s")
    def introspect(self) -> str:
        """The interfaces as XML."""
        return self._exported.introspect()


class Peer(Interface, name="org.freedesktop.DBus.Peer"):
    """Answers for the process that the object lives in."""

    @method
    def ping(self) -> None:
        """Answer."""

    @method(gives="s")
    def get_machine_id(self) -> str:
        """The id of the machine; DBusError, if it has none."""
        for path in _MACHINE_IDS:
            if path.is_file():
                return path.read_text("ascii").strip()
        raise DBusError("this machine has no id")


class Properties(Interface, name="org.freedesktop.DBus.Properties"):
    """Reads and sets the object's properties."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported

    @method(takes="ss", gives="v")
    async def get(self, interface_name: str, property_name: str) -> Variant:
        """The value of one property."""
        return await self._exported.get_property(interface_name, property_name)

    @method(takes="ssv")
    async def set(self, interface_name: str, property_name: str, value: Variant) -> None:
        """Give one property a value."""
        await self._exported.set_property(interface_name, property_name, value)

    @method(takes="s", gives="a{sv}")
    async def get_all(self, interface_name: str) -> dict[str, Variant]:
        """All properties of an interface."""
        return await self._exported.get_properties(interface_name)

    @signal(takes="sa{sv}as")
    def properties_changed(
        self, interface_name: str, changed_properties: dict[str, Variant], invalidated_properties: list[str]
    ) -> None:
        """Some properties have new values."""


class Signals(Interface, name="org.bus1.Signals1"):
    """Lets native peers receive the object's signals."""

    def __init__(self, exported: Exported) -> None:
        self._exported = exported

    @method(takes="ss")
    def subscribe(self, interface_name: str, member: str, caller: Caller = NOBODY) -> None:
        """Send signals of this interface and member (empty: all) to the node that comes along."""
        handle = caller.handles[0] if caller.handles else None
        self._exported.add_subscriber(handle, interface_name, member)
