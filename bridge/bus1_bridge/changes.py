"""changes: notices when the directories of the configuration change.

Theory. The kernel's inotify, through ctypes as Python has no module for it; imported when the bus is idle for
the first time, which no client waits for. Whoever adds a file makes several changes within a moment, so news
is told when nothing has changed for ``PAUSE``. A directory that does not exist is not watched: it counts
from the next reload on.

What changed between reading and watching shows by its time: ``since`` is the time at which reading began.

Invariants. 1. Who cannot watch does without: people can still reload by hand.

Not here: what is watched and what news means (daemon).
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

PAUSE = 0.1
LONGEST = 1.0
"""Seconds that news waits at most, however much goes on."""
# linux/inotify.h: CLOSE_WRITE, MOVED_FROM, MOVED_TO, CREATE, DELETE; ONLYDIR
_EVENTS = 0x8 | 0x40 | 0x80 | 0x100 | 0x200 | 0x0100_0000
_READ = 1 << 16
_GRAIN = 20_000_000
"""Nanoseconds by which a file's time may be behind the clock."""


class Changes:
    """The watched directories of one bus."""

    def __init__(self) -> None:
        """OSError if the kernel has no inotify to spare."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor: int = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._watched: dict[str, int] = {}
        self._since: float | None = None
        self._last = 0.0

    @property
    def deadline(self) -> float | None:
        """When to tell what has happened."""
        if self._since is None:
            return None
        return min(self._last + PAUSE, self._since + LONGEST)

    def watch(self, folders: Iterable[str], since: int, now: float) -> None:
        """Watch these from now on, and no others; what is younger than ``since`` (ns) is news."""
        watched = {}
        for folder in dict.fromkeys(folders):
            number = self._libc.inotify_add_watch(self.descriptor, os.fsencode(folder), _EVENTS)
            if number >= 0:
                watched[folder] = number
                if folder not in self._watched and _changed(folder) > since - _GRAIN:
                    self._noticed(now)
        for number in {*self._watched.values()} - {*watched.values()}:
            self._libc.inotify_rm_watch(self.descriptor, number)
        self._watched = watched

    def look(self, now: float) -> None:
        """The descriptor is readable."""
        try:
            os.read(self.descriptor, _READ)
        except BlockingIOError:
            return
        self._noticed(now)

    def take(self, now: float) -> bool:
        """Whether there is something to tell now; told once."""
        if self._since is None or (deadline := self.deadline) is None or now < deadline:
            return False
        self._since = None
        return True

    def _noticed(self, now: float) -> None:
        self._last = now
        if self._since is None:
            self._since = now


def _changed(folder: str) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0
