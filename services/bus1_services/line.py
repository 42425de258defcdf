"""line: who waits for a method that runs so many times at once, and whose turn is next.

Theory. Users take turns, and so do the processes of a user; the calls of one process run in the order of
their arrival. Who sends a thousand calls therefore delays everybody else by one.

Invariants. 1. ``running`` is at most ``limit``, and something waits only if it is equal. 2. What waits can be
taken out in constant time.

Not here: how many may wait (``places``).
"""

from __future__ import annotations

from typing import Generic, TypeVar

from .caller import Caller

T = TypeVar("T")


class Line(Generic[T]):
    """In front of something that takes ``limit`` at a time."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self._users: dict[int, dict[int, dict[T, None]]] = {}

    def enter(self, caller: Caller, call: T) -> bool:
        """Whether it may run now; if not, it waits."""
        if self.running < self.limit:
            self.running += 1
            return True
        self._users.setdefault(caller.uid, {}).setdefault(caller.pid, {})[call] = None
        return False

    def leave(self) -> T | None:
        """One has ended; the one that takes its place."""
        if not self._users:
            self.running -= 1
            return None
        uid = next(iter(self._users))
        processes = self._users.pop(uid)
        pid = next(iter(processes))
        calls = processes.pop(pid)
        call = next(iter(calls))
        del calls[call]
        if calls:
            processes[pid] = calls
        if processes:
            self._users[uid] = processes
        return call

    def forget(self, caller: Caller, call: T) -> None:
        """It does not wait any more."""
        processes = self._users[caller.uid]
        del processes[caller.pid][call]
        if not processes[caller.pid]:
            del processes[caller.pid]
        if not processes:
            del self._users[caller.uid]
