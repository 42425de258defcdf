"""deadlines: connections that take too long: to say Hello, or to send the message of their descriptors.

Theory. A heap of times, each of which only says when to look at which connection: whether it is late
shows then.

Invariants. 1. A connection without a name has an entry, and so has one with descriptors that wait.

Not here: other times (flow, activation, overdue).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from .connection import Connection

_SPARE = 64
"""So many entries may be there in vain, and as many as are needed."""


class Deadlines:
    """When to look at whom."""

    def __init__(self, connections: Mapping[int, Connection]) -> None:
        self._connections = connections
        self._heap: list[tuple[float, int]] = []
        self._most = _SPARE
        """With more entries, those that are not needed any more are thrown out."""

    def opened(self, c: Connection, auth_timeout: float) -> None:
        """A new connection."""
        heapq.heappush(self._heap, (c.accepted + auth_timeout, c.party.peer))
        if len(self._heap) > self._most:
            self._heap = [entry for entry in self._heap if self._is_needed(entry[1])]
            heapq.heapify(self._heap)
            self._most = _SPARE + 2 * len(self._heap)

    def _is_needed(self, peer: int) -> bool:
        c = self._connections.get(peer)
        return c is not None and (c.fds_are_timed or not (c.party.unique or c.party.is_monitor))

    def mind_descriptors(self, c: Connection) -> None:
        """Descriptors may have come, or their message."""
        if c.fds and not c.fds_are_timed:
            c.fds_are_timed = True
            heapq.heappush(self._heap, (c.fds_since + c.limits.pending_fd_timeout, c.party.peer))

    def next(self) -> float | None:
        """When to look next."""
        return self._heap[0][0] if self._heap else None

    def expired(self, now: float, auth_timeout: float) -> Iterator[tuple[Connection, str]]:
        """Those that are late by now, and why that is the end of them."""
        while self._heap and self._heap[0][0] <= now:
            c = self._connections.get(heapq.heappop(self._heap)[1])
            if c is None:
                continue
            pending = c.limits.pending_fd_timeout
            if not c.party.unique and not c.party.is_monitor and now >= c.accepted + auth_timeout:
                yield c, f"no Hello in time (auth_timeout={_milliseconds(auth_timeout)})"
            elif c.fds_are_timed and c.fds and now >= c.fds_since + pending:
                yield c, f"descriptors without their message (pending_fd_timeout={_milliseconds(pending)})"
            elif c.fds_are_timed:
                c.fds_are_timed = False
                self.mind_descriptors(c)


def _milliseconds(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"
