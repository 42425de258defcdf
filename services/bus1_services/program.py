"""program: services that are a process: signals, the service manager, and when it is over.

Theory. SIGTERM and SIGINT stop all services in order, a second one at once; SIGHUP runs their ``reload``. A
service manager (``Type=notify``, ``Type=notify-reload``) is told when all are published, when they stop, and
that the loop still turns. With ``exit_on_idle`` the process ends when nobody has needed it for so long; it is
told before the names are given up, so that the next start waits for the end of this one.

Invariants. 1. One service that fails stops the others in order. 2. Errors that people can do something about
are one line, the exit status is 1; a bug has a traceback.

Not here: what a service is (``app``), where lines go (``logs``).
"""

from __future__ import annotations

import inspect
import logging
import signal
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio

from bus1.errors import Bus1Error, BusGone, Denied, PeerShutdown
from bus1.systemd import notify, notify_reload, watchdog_interval

from .connection import Connection
from .errors import DBusError
from .idle import idle
from .logs import configure
from .ownership import NameLost, NameTaken
from .reconnection import again

if TYPE_CHECKING:
    from .app import Service

_FATES = (BusGone, PeerShutdown, Denied, NameTaken, NameLost)
"""What may happen to any service, and is not its fault."""

log = logging.getLogger("bus1.services")


class Unserved(Exception):
    """Why a process cannot serve, in a line."""


def run(
    *services: Service, main: Callable[[Connection], Awaitable[object]] = Connection.ended,
    exit_on_idle: float | None = None, arguments: Sequence[str] | None = None, backend: str = "asyncio",
) -> None:
    """Serve until a signal says to stop, ``main`` has returned for each service, or nobody needs any.

    ``main`` is run for each, as by ``Service.serve``. ``exit_on_idle`` is in seconds. ``arguments`` are those
    of the command line, which may say where to serve, and how: ``--help`` tells. Logging is configured,
    unless it is already.

    SystemExit with a line of why, if there is no bus, or the bus or a name is not to be had, or the arguments
    make no sense; other errors are those of ``main``, and of tasks."""
    if arguments is not None:
        # dear to import, for programs that have none
        from .options import obey

        exit_on_idle = obey(arguments, services, exit_on_idle)
    elif not logging.getLogger().handlers:
        configure()
    try:
        anyio.run(Program(services, main, exit_on_idle).run, backend=backend)
    except Unserved as error:
        raise SystemExit(str(error)) from None


class Program:
    """The services of this process."""

    def __init__(
        self, services: tuple[Service, ...], main: Callable[[Connection], Awaitable[object]],
        exit_on_idle: float | None,
    ) -> None:
        self._services = services
        self._main = main
        self._exit_on_idle = exit_on_idle
        self._published: dict[Service, Connection] = {}
        self._is_ready = False
        self._is_stopping = False
        self._failure: Exception | None = None

    async def run(self) -> None:
        """Serve until it is over; Unserved, or what ``main`` or a task raised."""
        self._soon = anyio.CancelScope()
        self._change = anyio.Event()
        self._reloading = anyio.Lock()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hear_signals, tasks)
            tasks.start_soon(_feed_watchdog)
            if self._exit_on_idle is not None:
                tasks.start_soon(self._leave_when_idle, self._exit_on_idle)
            with self._soon:
                async with anyio.create_task_group() as serving:
                    for service in self._services:
                        serving.start_soon(self._serve, service)
            tasks.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    # ---- services ----------------------------------------------------------------------------

    async def _serve(self, service: Service) -> None:
        was_published = False

        async def main(connection: Connection) -> None:
            nonlocal was_published
            was_published = True
            self._note(service, connection)
            try:
                await self._main(connection)
            finally:
                self._note(service, None)

        try:
            await again(service.running, main, service.reconnect, service.title)
        except Exception as error:
            is_fate = isinstance(error, _FATES)
            is_refusal = isinstance(error, Bus1Error | DBusError) and not was_published
            if self._failure is None:
                self._failure = Unserved(f"{service.title}: {error}") if is_fate or is_refusal else error
            self._stop()

    def _note(self, service: Service, connection: Connection | None) -> None:
        """The service is published, or is not any more."""
        if connection is None:
            del self._published[service]
        else:
            self._published[service] = connection
        self._change.set()
        self._change = anyio.Event()
        if self._is_stopping:
            return
        if len(self._published) < len(self._services):
            notify("STATUS=Waiting for the bus")
        else:
            titles = ", ".join(service.title for service in self._services)
            notify(f"READY=1\nSTATUS=Serving: {_line(titles)}" if not self._is_ready
                   else f"STATUS=Serving: {_line(titles)}")
            self._is_ready = True

    # ---- the end -----------------------------------------------------------------------------

    def _stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            notify("STOPPING=1\nSTATUS=Stopping")
        self._soon.cancel()

    async def _leave_when_idle(self, seconds: float) -> None:
        while True:
            while len(self._published) < len(self._services):
                await self._change.wait()
            connections = list(self._published.values())
            await idle(connections, seconds)
            if all(connection.is_open for connection in connections):
                break
        self._is_stopping = True
        notify("STOPPING=1\nSTATUS=Not needed any more")
        try:
            for service, connection in tuple(self._published.items()):
                await service.relinquish(connection)
            for connection in connections:
                await connection.unused()
        except (Bus1Error, DBusError) as error:
            log.debug("nobody needs the services, but they cannot leave in order: %s", error)
        self._stop()

    # ---- what the process is told ------------------------------------------------------------

    async def _hear_signals(self, tasks: anyio.abc.TaskGroup) -> None:
        numbers = [signal.SIGTERM, signal.SIGINT]
        if any(service.reload for service in self._services):
            numbers.append(signal.SIGHUP)
        with anyio.open_signal_receiver(*numbers) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    tasks.start_soon(self._reload)
                elif not self._soon.cancel_called:
                    self._stop()
                else:
                    for service in self._services:
                        service.hurry()

    async def _reload(self) -> None:
        async with self._reloading:
            notify_reload()
            for service in self._services:
                try:
                    if service.reload is not None and inspect.isawaitable(result := service.reload()):
                        await result
                except Exception:
                    log.exception(
                        "%s could not reload: all stays as it was", service.title,
                        extra={"bus1_service": service.title},
                    )
            notify("READY=1")


async def _feed_watchdog() -> None:
    """Tell that this loop turns, twice in the time that the service manager gives."""
    interval = watchdog_interval()
    while interval is not None:
        notify("WATCHDOG=1")
        await anyio.sleep(interval / 2)


def _line(text: str) -> str:
    """What is one line of a notification."""
    return " ".join(text.split())
