"""signals: what objects have emitted, remembered for a test to look at.

Theory. The recorder is the receiver of one node of a connection: what objects emit to it is in its history
when it arrives, in the order of the bus. A call to the bus is answered after everything that was sent
before it has arrived; so ``all`` knows that nothing is on its way.

Not here: signals as D-Bus clients hear them (``dbus``), signals for programs (``proxy``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from bus1.errors import Bus1Error, RemoteProtocolError

from ..call import Kind
from ..connection import Connection
from ..handle import Arrival
from ..interface import Interface
from ..proxy import SIGNALS, Remote
from .history import PATIENCE, History


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal: its name on the bus, and its arguments. ``path`` is known of D-Bus signals."""

    member: str
    args: tuple[Any, ...]
    interface: str = ""
    path: str = ""


class Signals:
    """The signals of some objects, from the start of the block of ``signals_of``."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._history: History[Heard] = History("signals")

    @property
    def heard(self) -> list[Heard]:
        """All that have arrived so far, in order."""
        return self._history.so_far()

    async def wait_for(self, count: int, within: float = PATIENCE) -> list[Heard]:
        """The first ``count``, as soon as they are there; TimeoutError tells what came instead."""
        return await self._history.wait_for(count, within)

    async def all(self) -> list[Heard]:
        """All that were emitted before now, those on their way included."""
        await self._connection.registry.names()
        return self.heard

    # ---- what the connection tells -------------------------------------------------------------------

    def arrived(self, arrival: Arrival) -> None:
        """A signal; whatever else comes is not for us."""
        envelope = arrival.envelope
        try:
            values = tuple(arrival.values())
        except RemoteProtocolError:
            arrival.discard()
            return
        if envelope.kind is Kind.SIGNAL:
            self._history.add(Heard(envelope.member, values, envelope.interface))

    def released(self) -> None:
        """The objects are gone: what they emitted stays."""

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone."""
        self._history.fail(error)


@asynccontextmanager
async def signals_of(*proxies: Interface) -> AsyncIterator[Signals]:
    """Remember every signal of these objects, which are proxies of one connection; DBusError, TypeError."""
    remotes = [proxy.__far__ for proxy in proxies]
    if not remotes or not all(isinstance(remote, Remote) for remote in remotes):
        raise TypeError("signals are heard through proxies: connection.registry.proxy(…) makes them")
    connection: Connection = remotes[0].connection  # type: ignore[union-attr]
    signals = Signals(connection)
    node = connection.node(signals)
    try:
        for remote in remotes:
            assert isinstance(remote, Remote)
            if remote.connection is not connection:
                raise TypeError("the proxies belong to several connections: their signals have no order")
            await remote.call(SIGNALS, "Subscribe", "ss", ("", ""), handles=[node])
        yield signals
    finally:
        connection.retire(node)
