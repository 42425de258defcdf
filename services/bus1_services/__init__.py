"""services: calls, signals, interfaces and properties on top of bus1.

The public names below are resolved on first use: the daemon imports ``call``, ``seed`` and ``types`` of this
package, and must not load what clients need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import Service as Service
    from .batch import changing as changing
    from .body import Reference as Reference
    from .body import Variant as Variant
    from .caller import NOBODY as NOBODY
    from .caller import Caller as Caller
    from .connection import Connection as Connection
    from .connection import attach as attach
    from .connection import connect as connect
    from .decorators import method as method
    from .decorators import prop as prop
    from .decorators import signal as signal
    from .descriptor import UnixFd as UnixFd
    from .endpoint import Endpoint as Endpoint
    from .endpoint import open_dbus_endpoint as open_dbus_endpoint
    from .endpoint import open_native_endpoint as open_native_endpoint
    from .errors import DBusError as DBusError
    from .handle import Handle as Handle
    from .hints import Bool as Bool
    from .hints import Byte as Byte
    from .hints import Bytes as Bytes
    from .hints import Double as Double
    from .hints import Int16 as Int16
    from .hints import Int32 as Int32
    from .hints import Int64 as Int64
    from .hints import Named as Named
    from .hints import Signature as Signature
    from .hints import Str as Str
    from .hints import UInt16 as UInt16
    from .hints import UInt32 as UInt32
    from .hints import UInt64 as UInt64
    from .hints import VariantDict as VariantDict
    from .interface import Interface as Interface
    from .interface import interfaces_of as interfaces_of
    from .objectmanager import Manager as Manager
    from .objectmanager import ObjectManager as ObjectManager
    from .ownership import NameFlag as NameFlag
    from .ownership import NameLost as NameLost
    from .ownership import NameTaken as NameTaken
    from .program import run as run
    from .proxy import Remote as Remote
    from .proxy import SignalStream as SignalStream
    from .reconnection import Backoff as Backoff
    from .reconnection import stay_connected as stay_connected
    from .stopping import Stopping as Stopping
    from .stream import Stream as Stream
    from .types import ObjectPath as ObjectPath
    from .watching import watch as watch
    from .whole import together as together

_HOMES = {
    "app": ("Service",),
    "batch": ("changing",),
    "body": ("Reference", "Variant"),
    "caller": ("NOBODY", "Caller"),
    "connection": ("Connection", "attach", "connect"),
    "decorators": ("method", "prop", "signal"),
    "descriptor": ("UnixFd",),
    "endpoint": ("Endpoint", "open_dbus_endpoint", "open_native_endpoint"),
    "errors": ("DBusError",),
    "handle": ("Handle",),
    "hints": (
        "Bool", "Byte", "Bytes", "Double", "Int16", "Int32", "Int64", "Named", "Signature", "Str", "UInt16",
        "UInt32", "UInt64", "VariantDict",
    ),
    "interface": ("Interface", "interfaces_of"),
    "objectmanager": ("Manager", "ObjectManager"),
    "ownership": ("NameFlag", "NameLost", "NameTaken"),
    "program": ("run",),
    "proxy": ("Remote", "SignalStream"),
    "reconnection": ("Backoff", "stay_connected"),
    "stopping": ("Stopping",),
    "stream": ("Stream",),
    "types": ("ObjectPath",),
    "watching": ("watch",),
    "whole": ("together",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
