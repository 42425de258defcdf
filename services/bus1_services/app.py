"""app: a service: connect, publish, serve, and leave in order.

Theory. A service is a title, names, objects by path, and what it does beside answering calls: tasks. ``run``
is for a program's ``main``. ``serve`` and ``running`` are for programs that have an event loop already:
several services are several tasks of one group. A service has one connection, and so one place in the order
of the bus.

Tasks live as long as the connection. When it is over they are cancelled after the last call has been
answered, as a call may need them. A task that fails ends the service.

Invariants. 1. ``running`` never leaves a name, a node or a task behind, however its block ends. 2. The
objects outlive the connection: published again, they are what they were.

Not here: names (``ownership``), the order of leaving (``stopping``), the process (``program``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import anyio

from .connection import Connection, connect
from .interface import Interface
from .ownership import NameFlag, check, keep
from .program import run
from .reconnection import Backoff, again
from .stopping import GRACE, leave, relinquish
from .types import is_bus_name, is_object_path

Task: TypeAlias = Callable[[Connection], Awaitable[object]]
_WATCHED = NameFlag.ALLOW_REPLACEMENT | NameFlag.DO_NOT_QUEUE
"""Flags with which a name that is lost does not come back."""


class Service:
    """Objects under names; ``address`` is the bus (default: the session's).

    ``tasks`` run beside it, ``reload`` is run at SIGHUP. Calls may take ``grace`` seconds when it stops.
    With ``reconnect`` it waits for a bus that is not there, or goes away, and publishes anew.

    ValueError for what is no bus name or object path, or a negative ``grace``; TypeError for objects that
    are none of an interface class."""

    def __init__(
        self, title: str, *names: str, objects: Mapping[str, Interface],
        flags: NameFlag = NameFlag.DO_NOT_QUEUE, address: str | None = None, tasks: Sequence[Task] = (),
        reload: Callable[[], Awaitable[object] | None] | None = None, grace: float = GRACE,
        reconnect: Backoff | None = None,
    ) -> None:
        self.title = title
        self.names = tuple(dict.fromkeys(names))
        self.objects = dict(objects)
        _check(self.names, self.objects, grace)
        self.flags = flags
        self.address = address
        self.tasks = tuple(tasks)
        self.reload = reload
        self.grace = grace
        self.reconnect = reconnect
        self._leaving: anyio.CancelScope | None = None
        self._wants_names = False

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Connection]:
        """Connected and published for the time of the block; at its end, calls are finished first.

        BusGone, Denied: no bus to be had. NameTaken; NameLost, if somebody else may take a name over and
        does. DBusError, if the bus refuses to publish this. What a task raises ends the block."""
        failures: list[BaseException] = []
        async with connect(self.address) as connection:
            tasks = [*self.tasks, *await self._publish(connection)]
            try:
                async with anyio.create_task_group() as group:
                    for task in tasks:
                        group.start_soon(_attend, task, connection, failures, group.cancel_scope)
                    try:
                        yield connection
                    except anyio.get_cancelled_exc_class():
                        raise
                    except BaseException as error:
                        failures.append(error)
                    finally:
                        await self._leave(connection)
                    group.cancel_scope.cancel()
            finally:
                # nobody shall wait for a method that does not let itself be cancelled
                connection.peer.close()
        if failures:
            raise failures[0]

    async def serve(self, main: Task = Connection.ended) -> None:
        """Serve until ``main`` returns; without it, until the bus is gone: BusGone.

        With ``reconnect``, until ``main`` returns: it is run anew on each connection. Errors as of
        ``running``."""
        await again(self.running, main, self.reconnect, self.title)

    def run(
        self, main: Task = Connection.ended, *, exit_on_idle: float | None = None,
        arguments: Sequence[str] | None = None, backend: str = "asyncio",
    ) -> None:
        """Be this process, until ``main`` returns: as the function ``run`` with this service alone.
        SystemExit."""
        run(self, main=main, exit_on_idle=exit_on_idle, arguments=arguments, backend=backend)

    async def relinquish(self, connection: Connection) -> None:
        """Give up the names, and serve what came until nothing is in use. Disconnected, DBusError."""
        self._wants_names = False
        await relinquish(connection, self.names)

    def hurry(self) -> None:
        """If it is stopping: wait for no call any more."""
        if self._leaving is not None:
            self._leaving.cancel()

    async def _leave(self, connection: Connection) -> None:
        self._wants_names = False
        with anyio.CancelScope(shield=True) as self._leaving:
            await leave(connection, self.title, self.names, self.grace)
        self._leaving = None

    async def _publish(self, connection: Connection) -> list[Task]:
        """Publish; what is to be done about the names from now on."""
        names = dict.fromkeys(self.names, int(self.flags))
        published = await connection.registry.publish(self.title, names, self.objects)
        await check(connection, dict(zip(self.names, published.results, strict=True)))
        if self.flags & _WATCHED != _WATCHED:
            return []
        self._wants_names = True
        return [
            partial(keep, unique=published.unique, name=name, is_wanted=lambda: self._wants_names)
            for name in self.names
        ]


def _check(names: Sequence[str], objects: Mapping[str, object], grace: float) -> None:
    """Whether a service can be made of these."""
    for name in names:
        if not is_bus_name(name) or name.startswith(":"):
            raise ValueError(f"{name!r} is no bus name: such are org.example.Clock")
    for path, target in objects.items():
        if not is_object_path(path):
            raise ValueError(f"{path!r} is no object path: such are /org/example/Clock")
        if isinstance(target, type):
            raise TypeError(f"{path}: {target.__qualname__} is a class; an object of it is wanted")
        if not isinstance(target, Interface):
            raise TypeError(f"{path}: a {type(target).__qualname__} is no object of an interface class")
    if not grace >= 0:
        raise ValueError(f"grace is {grace} seconds")


async def _attend(
    task: Task, connection: Connection, failures: list[BaseException], scope: anyio.CancelScope
) -> None:
    """Run one task; its failure is everybody's."""
    try:
        await task(connection)
    except Exception as error:
        failures.append(error)
        scope.cancel()
