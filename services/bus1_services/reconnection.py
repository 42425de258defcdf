"""reconnection: a bus that goes away comes back, and what then becomes of who used it.

Theory. Nothing of a bus survives its end: handles, proxies, streams and names are those of one connection,
and say so when they are used later. So what reconnects is a whole function of one connection, which is run
anew on the next one. Between attempts there are pauses, each twice as long as the one before, within bounds;
a part of each is left to chance, so that all the services of a machine don't come at once. Only a connection
that has lasted longer than the longest pause begins anew with the first: a bus that takes clients and drops
them is not hammered.

Invariants. 1. An outage is told once, and so is its end. 2. Only the end of the connection itself is an
outage: other errors are the function's own.

Not here: publishing (``app``).
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

import anyio

from bus1.errors import BusGone, PeerShutdown

from .connection import Connection, connect

OUTAGE = (BusGone, PeerShutdown)
"""How the end of a connection is told."""

log = logging.getLogger("bus1.services")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses between attempts to reach a bus: ``first`` seconds, then twice as long each time, up to
    ``longest``.

    ``chance`` gives numbers from 0 to 1: as much of half a pause is left out. ValueError for bounds that
    make no sense."""

    first: float = 0.1
    longest: float = 30.0
    chance: Callable[[], float] = random.random

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.longest:
            raise ValueError(f"pauses from {self.first} to {self.longest} seconds")

    def pauses(self) -> Iterator[float]:
        """In seconds, without end."""
        pause = self.first
        while True:
            yield pause * (1 - self.chance() / 2)
            pause = min(pause * 2, self.longest)


async def stay_connected(
    main: Callable[[Connection], Awaitable[object]], address: str | None = None, *,
    backoff: Backoff | None = None,
) -> None:
    """Run ``main`` on a connection to the bus at ``address``, anew on the next one when the bus goes; until
    it returns.

    What ``main`` raises is raised, unless it is the end of its connection."""
    await again(partial(connect, address), main, backoff or Backoff(), "a client")


async def again(
    opening: Callable[[], AbstractAsyncContextManager[Connection]],
    main: Callable[[Connection], Awaitable[object]], backoff: Backoff | None, title: str,
) -> None:
    """Run ``main`` on what ``opening`` gives, anew after each outage; without ``backoff``, once: BusGone,
    PeerShutdown."""
    pauses = None if backoff is None else backoff.pauses()
    is_out = False
    while True:
        since: float | None = None
        try:
            async with opening() as connection:
                if is_out:
                    log.warning("%s: the bus is there again", title, extra={"bus1_service": title})
                is_out, since = False, anyio.current_time()
                await main(connection)
            return
        except OUTAGE as error:
            if backoff is None or pauses is None:
                raise
            if not is_out:
                log.warning("%s: %s; trying again", title, error, extra={"bus1_service": title})
            is_out = True
        if since is not None and anyio.current_time() - since > backoff.longest:
            pauses = backoff.pauses()
        await anyio.sleep(next(pauses))
