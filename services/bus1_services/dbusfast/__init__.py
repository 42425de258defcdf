"""dbusfast: services that were written for dbus-fast or dbus-next, unchanged, as native ones.

Theory. The libraries' own code goes on deciding what their objects answer; only what carries messages is
replaced. So a service answers natively what it always answered. ``serve`` makes an object of their classes,
to be published with one's own; ``MessageBus`` is theirs on a native connection, ``substitute`` puts it in
the place of theirs, and ``python -m bus1_services.dbusfast run PROGRAM`` runs a program as it is.

Not here: services of one's own, which need none of this.
"""

from __future__ import annotations

from typing import Any

from .bus import message_bus
from .running import substitute
from .serving import serve

__all__ = ["MessageBus", "serve", "substitute"]


MessageBus: Any = message_bus("dbus_fast")
"""dbus-fast's ``MessageBus`` on a native connection; ``substitute`` does the same for dbus-next's."""
