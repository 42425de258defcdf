"""stopping: how a service leaves the bus without losing a call.

Theory. Names go first. The bus takes every command completely before the next, so what was sent to a name
while it was owned lies in the queue ahead of the answer to Withdraw, and what is sent later is not for this
process: a D-Bus bus keeps it for the next owner, whom it starts if need be. Then calls that arrive by handle
are refused, and those that run are finished. Last, all nodes are destroyed at one instant: what was sent to
them before is ahead of the notification, and is answered, too; who comes later is told by the bus that there
is nothing any more. Only then does the peer end.

A service that nobody needs leaves the same way, but before it refuses anybody it waits until nothing is in
use. Who holds a handle of it and calls at the last instant is refused, too; who calls it by name is always
served.

Invariants. 1. Every call that reached the service is answered, unless the bus is gone, or somebody is in a
hurry: then its caller sees NoReply at once. 2. After the grace time, what still runs is cancelled, and its
callers are told.

Not here: when to leave (``app``, ``program``, ``idle``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from bus1.errors import Bus1Error

from .errors import DBusError

if TYPE_CHECKING:
    from .connection import Connection
    from .export import Export

GRACE = 5.0
"""Seconds that calls may take when their service stops, unless it says something else."""

log = logging.getLogger("bus1.services")


class Stopping(DBusError, name="org.bus1.Error.Stopping"):
    """The service is about to end, and takes no calls any more: find the object anew, and try again."""


async def relinquish(connection: Connection, names: Sequence[str]) -> None:
    """Give up the names, and serve what came until nothing is in use. Disconnected, DBusError."""
    if names:
        await connection.registry.withdraw(*names)
    await connection.unused()


async def leave(connection: Connection, title: str, names: Sequence[str], grace: float) -> None:
    """Give up the names, finish or cancel what runs, and destroy all nodes; never raises."""
    if not connection.is_open:
        return
    stopping = Stopping(f"{title} is stopping")
    try:
        if names:
            await connection.registry.withdraw(*names)
        with anyio.move_on_after(grace):
            await _until(connection, stopping, lambda export: not export.busy)
        for export in connection.exports():
            export.cancel(stopping)
        await connection.shut()
        with anyio.move_on_after(max(grace, GRACE)):
            # a method may shield itself from being cancelled
            await _until(connection, stopping, lambda export: export.is_quiet)
    except (Bus1Error, DBusError) as error:
        log.debug("%s could not leave in order: %s", title, error)


async def _until(connection: Connection, stopping: DBusError, is_done: Callable[[Export], bool]) -> None:
    """Refuse calls until this holds for all objects; what runs may bring new ones into being."""
    while connection.is_open:
        exports = connection.exports()
        for export in exports:
            export.refuse(stopping)
        if all(map(is_done, exports)):
            return
        await connection.eased()
