"""schedule: whose turn it is, when more clients want something than fits into one.

Theory. Everybody waits while one client is served, so time is shared out among processes by start-time fair
queueing. A process's tag is the time that was spent on its connections, counted from the tag of whoever was
served when it came; the smallest tag is next, and a turn ends when its time is over, whoever else waits. A
program that calls now and then is before those that flood, and waits for a slice of each of them at most,
however many connections they have; flooders share what is left. Time that was not used is not saved up.
The connections of one process go in the order in which they came.

Invariants. 1. Tags of those who wait only grow by being served: nobody waits for ever. 2. Nothing remains
of a process when its last connection has left.

Not here: the clock, and what being served means (loop).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from heapq import heapify, heappop, heapreplace
from typing import Any, TypeVar

P = TypeVar("P", bound=Hashable)

TURN = 0.001
"""Seconds after which nobody else is served in a turn."""


class Schedule:
    """The tags of all processes."""

    def __init__(self) -> None:
        self._tags: dict[Hashable, float] = {}
        self._connections: dict[Hashable, tuple[Any, int]] = {}
        """Each process, as it first came, and how many it has."""
        self._now = 0.0
        """The tag of the process that was served last."""

    def enter(self, process: P) -> P:
        """The process has one more connection. Returns one object for all of an equal process."""
        known, n = self._connections.get(process, (process, 0))
        self._connections[process] = known, n + 1
        same: P = known
        return same

    def leave(self, process: Hashable) -> None:
        """The process has one connection less."""
        known, n = self._connections.pop(process)
        if n > 1:
            self._connections[process] = known, n - 1
        else:
            self._tags.pop(process, None)

    def run(
        self, waiting: Sequence[tuple[Hashable, int]], serve: Callable[[int], float], limit: float = TURN
    ) -> list[int]:
        """Serve those who wait, (process, connection) each, for ``limit`` seconds at least.

        ``serve`` says how many seconds it has taken. Returns the connections that were not reached."""
        if len(waiting) == 1:
            process, connection = waiting[0]
            tag = self._now = max(self._tags.get(process, 0.0), self._now)
            seconds = serve(connection)
            if process in self._connections:
                self._tags[process] = tag + seconds
            return []
        lines: dict[Hashable, deque[int]] = {}
        for process, connection in waiting:
            lines.setdefault(process, deque()).append(connection)
        tags = self._tags
        # of equal ones, who has had less is first
        heap = [
            (max(tag, self._now), tag, i, process)
            for i, process in enumerate(lines) for tag in (tags.get(process, 0.0),)
        ]
        heapify(heap)
        while heap and limit > 0:
            tag, _, i, process = heap[0]
            self._now = max(self._now, tag)
            seconds = serve(lines[process].popleft())
            limit -= seconds
            if process in self._connections:
                tags[process] = tag + seconds
            if lines[process]:
                heapreplace(heap, (tag + seconds, tag + seconds, i, process))
            else:
                heappop(heap)
        return [connection for line in lines.values() for connection in line]
