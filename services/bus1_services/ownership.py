"""ownership: the names of a service: how it asks for them, and what it hears of their other owners.

Theory. A name has one owner. Who asks for it while it is owned is told who has it, or waits in its queue, as
the flags say. An owner that allows to be replaced may lose a name at any time: the bus tells all who watch
it.

Not here: publishing (``app``), giving names up (``stopping``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import IntEnum, IntFlag

from .connection import Connection
from .errors import DBusError

log = logging.getLogger("bus1.services")


class NameFlag(IntFlag):
    """How to ask for a name (RequestName)."""

    ALLOW_REPLACEMENT = 1
    REPLACE_EXISTING = 2
    DO_NOT_QUEUE = 4


class NameResult(IntEnum):
    """What became of that."""

    PRIMARY_OWNER = 1
    IN_QUEUE = 2
    EXISTS = 3
    ALREADY_OWNER = 4


class NameTaken(DBusError, name="org.bus1.Error.NameTaken"):
    """Somebody else owns a name of the service, and does not give it up."""


class NameLost(DBusError, name="org.bus1.Error.NameLost"):
    """Somebody else has taken a name of the service over."""


async def check(connection: Connection, results: Mapping[str, int]) -> None:
    """What was answered for each name: NameTaken for one that is not to be had."""
    for name, result in results.items():
        if result == NameResult.EXISTS:
            raise NameTaken(f"{name} is owned by {await _owner(connection, name)}, which does not give it up")
        if result == NameResult.IN_QUEUE:
            log.info("%s is owned by %s: waiting for it", name, await _owner(connection, name))


async def keep(connection: Connection, unique: str, name: str, is_wanted: Callable[[], bool]) -> None:
    """Watch a name that is owned: NameLost when it is not any more, although it is wanted."""
    async with connection.registry.watch(name) as changes:
        if await _unique(connection, name) == unique:
            async for change in changes:
                if change.new != unique:
                    break
        if is_wanted():
            raise NameLost(f"{name} has been taken over by {await _owner(connection, name)}")


async def _unique(connection: Connection, name: str) -> str:
    try:
        owner = await connection.registry.resolve(name)
    except DBusError:
        return ""
    owner.root.release()
    return owner.unique


async def _owner(connection: Connection, name: str) -> str:
    """Its unique name and its process; in words, if it may not be known, or is gone already."""
    try:
        owner = await connection.registry.resolve(name)
        with owner.root:
            uid, pid = await connection.registry.credentials(owner.root)
    except DBusError:
        return "somebody else"
    return f"{owner.unique} ({f'process {pid} of ' if pid else ''}user {uid})"
