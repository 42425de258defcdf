"""sources: how each library for Python declares D-Bus services."""

from __future__ import annotations

from ..declared import Source
from .dasbus import Dasbus
from .dbusfast import DbusFast
from .pydbus import Pydbus
from .sdbus import Sdbus

SOURCES: dict[str, Source] = {
    "dbus_fast": DbusFast(),
    "dasbus": Dasbus(),
    "pydbus": Pydbus(),
    "sdbus": Sdbus(),
}
"""By library; dbus-next's ways are dbus-fast's."""
