"""clock: a native service and a native client for it; D-Bus programs can use it, it knows nothing of D-Bus.

    python examples/clock.py          serves org.example.Clock until it is told to stop
    python examples/clock.py call     calls it by handle
"""

from __future__ import annotations

import sys
import time

import anyio
from bus1_services import Connection, DBusError, Interface, Service, Str, connect, method, prop, signal

from bus1.errors import Bus1Error

NAME, PATH = "org.example.Clock", "/org/example/Clock"


class Clock(Interface, name="org.example.Clock1"):
    """Tells the time."""

    def __init__(self) -> None:
        self._zone = time.tzname[0]

    @method
    def format(self, template: Str) -> Str:
        """The time, as strftime writes it."""
        return time.strftime(template)

    @prop
    def zone(self) -> Str:
        """The name of the time zone; a client may give it another."""
        return self._zone

    @zone.setter
    def _set_zone(self, zone: str) -> None:
        self._zone = zone

    @signal
    def ticked(self, now: Str) -> None:
        """Every second."""


async def call() -> None:
    """What a client does."""
    async with connect() as connection:
        clock = await connection.registry.proxy(Clock, NAME, PATH)
        print(await clock.format("%Y-%m-%d %H:%M:%S"), await clock.zone)


async def tick(connection: Connection) -> None:
    """What the service does beside answering calls."""
    print(f"{NAME} is served", flush=True)
    while True:
        await clock.ticked(time.strftime("%H:%M:%S"))
        await anyio.sleep(1)


if sys.argv[1:] == ["call"]:
    try:
        anyio.run(call)
    except (Bus1Error, DBusError) as error:
        sys.exit(f"clock.py: {error}")
else:
    clock = Clock()
    Service("A clock", NAME, objects={PATH: clock}).run(tick)
