"""notify: desktop notifications, from both sides, without a line of D-Bus.

    python examples/notify.py serve               is the notification service: prints what notify-send sends
    python examples/notify.py send TITLE BODY     shows a notification with whoever owns the name
"""

from __future__ import annotations

import sys
from enum import IntEnum
from itertools import count
from typing import Annotated, NamedTuple

import anyio
from bus1_services import (
    Connection,
    DBusError,
    Int32,
    Interface,
    Service,
    Signature,
    Str,
    UInt32,
    VariantDict,
    connect,
    method,
    signal,
)

from bus1.errors import Bus1Error

NAME, PATH = "org.freedesktop.Notifications", "/org/freedesktop/Notifications"
Texts = Annotated[list[str], Signature("as")]


class Reason(IntEnum):
    """Why a notification is gone."""

    EXPIRED = 1
    DISMISSED = 2
    CLOSED_BY_CALL = 3
    UNKNOWN = 4


class ServerInformation(NamedTuple):
    """Four results, with their names in introspection."""

    name: Str
    vendor: Str
    version: Str
    spec_version: Str


class Notifications(Interface, name="org.freedesktop.Notifications"):
    """The desktop's notification service."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._shown: set[int] = set()

    @method
    async def notify(
        self, app_name: Str, replaces_id: UInt32, app_icon: Str, summary: Str, body: Str, actions: Texts,
        hints: VariantDict, expire_timeout: Int32,
    ) -> UInt32:
        """Show something; the answer is its number."""
        number = replaces_id if replaces_id in self._shown else next(self._numbers)
        self._shown.add(number)
        print(f"[{number}] {app_name}: {summary}: {body}", flush=True)
        return number

    @method
    async def close_notification(self, id: UInt32) -> None:
        """Take it away again."""
        if id in self._shown:
            self._shown.remove(id)
            await self.notification_closed(id, Reason.CLOSED_BY_CALL)

    @method
    async def get_capabilities(self) -> Texts:
        """What this service can show."""
        return ["body", "actions"]

    @method
    async def get_server_information(self) -> ServerInformation:
        """Who shows the notifications, and by which specification."""
        return ServerInformation("notify.py", "bus1", "1", "1.2")

    @signal
    def notification_closed(self, id: UInt32, reason: Annotated[Reason, Signature("u")]) -> None:
        """A notification is gone."""

    @signal
    def action_invoked(self, id: UInt32, action_key: Str) -> None:
        """The user chose an action."""


async def serve(connection: Connection) -> None:
    """Say that the service is there, and wait."""
    print(f"{NAME} is served", flush=True)
    await connection.ended()


async def send(title: str, body: str) -> None:
    """Show a notification, and print its number."""
    async with connect() as connection:
        service = await connection.registry.proxy(Notifications, NAME, PATH)
        print(await service.notify("notify.py", 0, "", title, body, [], {}, -1))


match sys.argv[1:]:
    case ["serve"]:
        Service("Notifications", NAME, objects={PATH: Notifications()}).run(serve)
    case ["send", title, body]:
        try:
            anyio.run(send, title, body)
        except (Bus1Error, DBusError) as error:
            sys.exit(f"notify.py: {error}")
    case _:
        sys.exit(__doc__)
