"""legacy_notifications: a notification service as people write it today, with dbus-fast.

It knows nothing of bus1; the demo lets a native client call it.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusSignature
from dbus_fast.service import ServiceInterface, dbus_method

Strings = Annotated[list[str], DBusSignature("as")]
Hints = Annotated[dict[str, Any], DBusSignature("a{sv}")]
Text = Annotated[str, DBusSignature("s")]
UInt = Annotated[int, DBusSignature("u")]
Int = Annotated[int, DBusSignature("i")]


class Notifications(ServiceInterface):
    """The desktop notification interface, printed."""

    def __init__(self) -> None:
        super().__init__("org.freedesktop.Notifications")
        self.last = 0

    @dbus_method("Notify")
    def notify(
        self, app: Text, replaces: UInt, icon: Text, summary: Text, body: Text,
        actions: Strings, hints: Hints, expire: Int,
    ) -> UInt:
        """Show one notification and return its number."""
        self.last = replaces or self.last + 1
        print(f"#{self.last} {app}: {summary}: {body}", flush=True)
        return self.last

    @dbus_method("GetServerInformation")
    def get_server_information(self) -> Annotated[tuple[str, str, str, str], DBusSignature("ssss")]:
        """Name, vendor, version, version of the specification."""
        return ("legacy", "bus1 examples", "1", "1.2")

    @dbus_method("GetCapabilities")
    def get_capabilities(self) -> Strings:
        """Plain text bodies, nothing else."""
        return ["body"]


async def main() -> None:
    """Own the name until terminated."""
    bus = await MessageBus().connect()
    bus.export("/org/freedesktop/Notifications", Notifications())
    await bus.request_name("org.freedesktop.Notifications")
    print("org.freedesktop.Notifications is served over D-Bus", flush=True)
    await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    asyncio.run(main())
