"""app: run a service: connect, publish, serve, and leave cleanly.

Theory. A service is a title, names, and objects by path. ``run`` is for a program's ``main``: it serves until
SIGTERM or SIGINT, or until its own main function returns. ``running`` is for programs that have an event loop
already.

Not here: activation, configuration, restarts.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from enum import IntFlag

import anyio

from bus1.errors import BusGone, Denied

from .connection import Connection, connect
from .errors import DBusError
from .interface import Interface


class NameFlag(IntFlag):
    """How to ask for a name (RequestName)."""

    ALLOW_REPLACEMENT = 1
    REPLACE_EXISTING = 2
    DO_NOT_QUEUE = 4


class NameTaken(DBusError, name="org.bus1.Error.NameTaken"):
    """Somebody else owns a name of the service, and does not give it up."""


_TAKEN = 3
"""RequestName's result for a name that was neither given nor queued for."""


class Service:
    """Objects under names; ``address`` is the bus (default: the session's)."""

    def __init__(
        self, title: str, *names: str, objects: Mapping[str, Interface],
        flags: NameFlag = NameFlag.DO_NOT_QUEUE, address: str | None = None,
    ) -> None:
        self.title = title
        self.names = names
        self.objects = dict(objects)
        self._flags = flags
        self._address = address

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Connection]:
        """Connected and published for the time of the block; NameTaken."""
        async with connect(self._address) as connection:
            names = dict.fromkeys(self.names, int(self._flags))
            published = await connection.registry.publish(self.title, names, self.objects)
            for name, result in zip(self.names, published.results, strict=True):
                if result == _TAKEN:
                    raise NameTaken(f"{name} is owned by somebody else")
            yield connection

    def run(self, main: Callable[[Connection], Awaitable[object]] = Connection.ended) -> None:
        """Serve until ``main`` returns or a signal says to stop; without ``main``, until the bus is gone.

        SystemExit with a line of why, if there is no bus, or the bus or a name is not to be had."""
        try:
            anyio.run(self._run, main)
        except (BusGone, Denied, NameTaken) as error:
            raise SystemExit(f"{self.title}: {error}") from None

    async def _run(self, main: Callable[[Connection], Awaitable[object]]) -> None:
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_cancel_on_signal, tasks.cancel_scope)
            try:
                async with self.running() as connection:
                    await main(connection)
            except Exception as error:
                failure = error
            tasks.cancel_scope.cancel()
        if failure is not None:
            raise failure


async def _cancel_on_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return
