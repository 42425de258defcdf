"""bus: a private bus for one test, and what a test does on it.

Theory. Which bus it is, is not known here: the room that has one registers it in the entry-point group
``bus1.testing``, as a class that is given a folder and has ``address``, ``native_address``, ``log`` and
``close``. The one of this distribution runs in a thread of this process.

Invariants. 1. After its block nothing of the bus is left. 2. It starts no services, and reads nothing from
this machine's configuration.

Not here: the bus itself (the bridge's ``private``), fixtures (``plugin``).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, ExitStack
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..app import Service
from ..connection import Connection, connect
from ..interface import Interface

if TYPE_CHECKING:
    from dbus_fast.aio import MessageBus

    from .dbus import DBusSignals
    from .replay import Replay

PROVIDERS = "bus1.testing"
"""The group of entry points where a room says that it has a bus: ``bus``."""


class Provided(Protocol):
    """A running bus, as its room provides it."""

    @property
    def address(self) -> str:
        """For D-Bus clients."""

    @property
    def native_address(self) -> str:
        """For native clients."""

    @property
    def log(self) -> Any:
        """The lines of what it complained of."""

    def close(self) -> None:
        """End it."""


class PrivateBus:
    """A bus that only this test sees; ``with`` or ``async with`` it. LookupError if no room has one."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()
        self._bus: Provided | None = None

    @property
    def address(self) -> str:
        """For D-Bus clients; RuntimeError outside of its block."""
        return self._running.address

    @property
    def native_address(self) -> str:
        """For native clients; RuntimeError outside of its block."""
        return self._running.native_address

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables that lead to this bus, as session and as system bus."""
        return {
            "DBUS_SESSION_BUS_ADDRESS": self.address, "DBUS_SYSTEM_BUS_ADDRESS": self.address,
            "BUS1_ADDRESS": self.native_address,
        }

    @property
    def environment(self) -> dict[str, str]:
        """The whole environment for a child process that shall find this bus and no other."""
        return {**os.environ, **self.variables}

    @property
    def log(self) -> list[str]:
        """What the bus complained of: refused messages, clients that it hung up on."""
        return list(self._running.log)

    # ---- clients -------------------------------------------------------------------------------------

    def connect(self) -> AbstractAsyncContextManager[Connection]:
        """A native client: ``async with bus.connect() as connection``."""
        return connect(self.native_address)

    def dbus(self) -> AbstractAsyncContextManager[MessageBus]:
        """A D-Bus client of dbus-fast, connected; on asyncio alone."""
        from .dbus import connected

        return connected(self.address)

    def signals(self, rule: str = "") -> AbstractAsyncContextManager[DBusSignals]:
        """Remember the signals that match a D-Bus match rule, of whomever; on asyncio alone."""
        from .dbus import heard

        return heard(self.address, rule)

    # ---- services ------------------------------------------------------------------------------------

    def serve(
        self, name: str, objects: Mapping[str, Interface]
    ) -> AbstractAsyncContextManager[Connection]:
        """Serve objects by path under a name, natively and for D-Bus; NameTaken."""
        return Service(name, name, objects=objects, address=self.native_address).running()

    def record(self, name: str, path: Path | str) -> AbstractAsyncContextManager[None]:
        """Write the conversations with the owner of a name to a file; on asyncio alone."""
        from .dbus import record

        return record(self.address, name, path)

    def replay(self, name: str, path: Path | str) -> AbstractAsyncContextManager[Replay]:
        """Own a name, and answer as a recording of its owner says; RecordingError. On asyncio alone."""
        from .replay import replay

        return replay(self.address, name, path)

    # ---- its life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        with ExitStack() as cleanup:
            folder = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bus1-"))
            self._bus = _provider()(folder)
            cleanup.callback(self._close, self._bus)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._cleanup.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(self, *exc: object) -> None:
        self.__exit__(*exc)

    @property
    def _running(self) -> Provided:
        if self._bus is None:
            raise RuntimeError("the private bus does not run: it does in the block of `with PrivateBus()`")
        return self._bus

    def _close(self, bus: Provided) -> None:
        self._bus = None
        bus.close()


@cache
def _provider() -> Any:
    for entry in entry_points(group=PROVIDERS, name="bus"):
        return entry.load()
    raise LookupError(f"no installed package has a bus for tests: entry point bus in group {PROVIDERS}")
