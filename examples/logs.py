"""logs: a log that many read, each at its own speed: results that come one after the other.

    python examples/logs.py serve                     serves org.example.Logs until it is told to stop
    python examples/logs.py append LEVEL UNIT TEXT    adds a line; LEVEL is debug, info, warning or error
    python examples/logs.py read [LEVEL [UNIT]]       prints what there is, of this level or above
    python examples/logs.py follow [LEVEL [UNIT]]     prints that, and whatever comes later
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum

import anyio
from bus1_services import (
    Bool,
    Connection,
    DBusError,
    Interface,
    Service,
    Str,
    Stream,
    UInt64,
    connect,
    method,
)

from bus1.errors import Bus1Error

NAME, PATH = "org.example.Logs", "/org/example/Logs"
KEPT = 10_000
"""Entries; the oldest are forgotten, whoever has not read them yet."""


class Level(IntEnum):
    """How much an entry matters. On the bus it is an ``i``."""

    DEBUG = 0
    INFO = 1
    WARNING = 2
    ERROR = 3


@dataclass(frozen=True)
class Entry:
    """One line. On the bus it is a struct, ``(tiss)``."""

    number: UInt64
    level: Level
    unit: Str
    text: Str


class FellBehind(DBusError, name="org.example.Logs.Error.FellBehind"):
    """The next entry of this reader has been forgotten already."""


class Logs(Interface, name="org.example.Logs1"):
    """Keeps what programs say."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=KEPT)
        self._next = 0
        self._more: anyio.Event | None = None

    @method
    def append(self, level: Level, unit: Str, text: Str) -> UInt64:
        """Add an entry; the answer is its number."""
        entry = Entry(self._next, level, unit, text)
        self._entries.append(entry)
        self._next += 1
        if self._more is not None:
            self._more.set()
            self._more = None
        return entry.number

    @method
    def read(self, least: Level, unit: Str, follow: Bool) -> Stream[Entry]:
        """The entries of this level or above, of one unit (empty: all), and with ``follow`` those to come."""
        return Stream(self._read(least, unit, follow))

    async def _read(self, least: Level, unit: str, follow: bool) -> AsyncIterator[Entry]:
        """What one reader gets. It stands still while its reader does, and holds up nobody else."""
        position = self._next - len(self._entries)
        while True:
            oldest = self._next - len(self._entries)
            if position < oldest:
                raise FellBehind(f"{oldest - position} entries are forgotten")
            if position < self._next:
                entry = self._entries[position - oldest]
                position += 1
                if entry.level >= least and unit in {"", entry.unit}:
                    yield entry
            elif follow:
                self._more = self._more or anyio.Event()
                await self._more.wait()
            else:
                return


async def append(level: Level, unit: str, text: str) -> None:
    """Add a line, and print its number."""
    async with connect() as connection:
        logs = await connection.registry.proxy(Logs, NAME, PATH)
        print(await logs.append(level, unit, text))


async def read(least: Level, unit: str, follow: bool) -> None:
    """Print entries as they come."""
    async with connect() as connection:
        logs = await connection.registry.proxy(Logs, NAME, PATH)
        async with await logs.read(least, unit, follow) as entries:
            async for entry in entries:
                print(f"{entry.number} {entry.level.name.lower()} {entry.unit}: {entry.text}", flush=True)


async def serve(connection: Connection) -> None:
    """Say that the service is there, and wait."""
    print(f"{NAME} is served", flush=True)
    await connection.ended()


def level_of(word: str) -> Level:
    """The level that a user wrote."""
    try:
        return Level[word.upper()]
    except KeyError:
        sys.exit(f"logs.py: there is no level {word!r}")


def main(arguments: list[str]) -> None:
    """Do what the command line says."""
    match arguments:
        case ["serve"]:
            Service("Logs", NAME, objects={PATH: Logs()}).run(serve)
        case ["append", level, unit, text]:
            anyio.run(append, level_of(level), unit, text)
        case ["read" | "follow" as how, *wanted] if len(wanted) <= 2:
            level, unit = (*wanted, *("debug", "")[len(wanted) :])
            anyio.run(read, level_of(level), unit, how == "follow")
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (Bus1Error, DBusError) as error:
        sys.exit(f"logs.py: {error}")
