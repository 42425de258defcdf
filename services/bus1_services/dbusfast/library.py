"""library: what this package needs of dbus-fast, or of dbus-next, from which dbus-fast came.

Theory. The two have the same modules and classes under another name, so everything here works for both. They
are loaded by name, and only where somebody uses them: dbus-next need not be installed.

Not here: what is put in the place of their ``MessageBus`` (``bus``).
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import import_module
from typing import Any

PACKAGES = ("dbus_fast", "dbus_next")


class Library:
    """The classes of one of the two."""

    def __init__(self, package: str) -> None:
        root = import_module(package)
        aio = import_module(f"{package}.aio.message_bus")
        self.package = package
        self.message: Any = root.Message
        self.message_type: Any = root.MessageType
        self.message_flag: Any = root.MessageFlag
        self.bus_type: Any = root.BusType
        self.variant: Any = root.Variant
        self.struct: type[Any] = list if package == "dbus_next" else tuple
        """What handlers are given for a struct."""
        self.invalid_address: Any = root.InvalidAddressError
        self.refused: Any = root.AuthError
        self.interface: Any = import_module(f"{package}.service").ServiceInterface
        self.message_bus: Any = aio.MessageBus


@lru_cache(maxsize=len(PACKAGES))
def library(package: str) -> Library:
    """The library of this name; ImportError if it is not installed."""
    return Library(package)


def library_of(interface: object) -> Library:
    """The library whose ServiceInterface this is; TypeError for anything else."""
    for package in PACKAGES:
        if package in sys.modules and isinstance(interface, library(package).interface):
            return library(package)
    raise TypeError(f"a {type(interface).__qualname__} is no ServiceInterface of dbus-fast or dbus-next")
