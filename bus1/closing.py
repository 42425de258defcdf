"""closing: closing descriptors that came from others, without waiting for them.

Theory. close(2) may take its time, and who sent the descriptor decides how much: a socket that lingers waits
until its other end has read, a file until its file system has been told, which can be any program (FUSE).
A unix socket takes with it what has been sent to it and nobody has read, which can be such a descriptor.
Pipes, memory files and O_PATH descriptors close at once. Everything else is closed by a thread, one for each
owner that has something to close. Nobody waits for it, not even for its start: on a busy machine that takes
longer than all that the bus has to do. But nearly all are quick, so a moment is given to it where an owner
has much to be closed (``_MANY``), or somebody would have to be refused; an owner who has needed more is not
waited for again.

Invariants. 1. Nobody waits for a close but for ``_MOMENT``, and for no owner after one moment was not enough.
2. Descriptors of one owner never wait for those of another.

Not here: whom a descriptor counts for until it is closed (holdings).
"""

from __future__ import annotations

import fcntl
import os
import threading
from _thread import start_new_thread
from collections import deque
from contextlib import suppress

from .descriptors import is_path_only

_MOMENT = 0.02
"""Seconds."""
_MANY = 64
"""So many descriptors of one owner may wait before it is waited for."""


def closes_at_once(fd: int) -> bool:
    """Nobody can make close(2) wait with this descriptor; asked without waiting, too."""
    if is_path_only(fd):
        return True
    for command in (fcntl.F_GETPIPE_SZ, fcntl.F_GET_SEALS):
        with suppress(OSError):
            fcntl.fcntl(fd, command)
            return True
    return False


class Closer:
    """Closes descriptors in the order of each owner: a user, or None for those of nobody in particular."""

    def __init__(self) -> None:
        self.is_used = False
        """Something was closed that could take its time; before, there is nothing to look at."""
        self.closed: deque[int | None] = deque()
        """The owner of each descriptor that has been closed; whoever reads it takes them out."""
        self._lines: dict[int | None, deque[int]] = {}
        self._slow: set[int | None] = set()
        self._idle: set[int | None] = set()
        """Owners whose thread could not be started."""
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        """A line has come to its end."""

    def close(self, owner: int | None, fd: int) -> None:
        """Close it, now or soon."""
        self.is_used = True
        with self._lock:
            line = self._lines.get(owner)
            if line is None:
                self._lines[owner] = deque([fd])
            else:
                line.append(fd)
        if line is None:
            self._start(owner)
        elif len(line) >= _MANY:
            self.wait(owner)

    def wait(self, owner: int | None) -> None:
        """Give a moment to what the owner has to close, unless it has needed more before."""
        if owner in self._slow or owner in self._idle:
            return
        with self._ended:
            if not self._ended.wait_for(lambda: owner not in self._lines, _MOMENT):
                self._slow.add(owner)

    def finish(self) -> None:
        """Give a moment to what each owner has to close."""
        with self._lock:
            owners = list(self._lines)
        for owner in owners:
            self.wait(owner)

    def retry(self) -> None:
        """Start what could not be started before; for whoever comes by now and then."""
        while self._idle:
            owner = self._idle.pop()
            self._start(owner)
            if owner in self._idle:
                return

    def _start(self, owner: int | None) -> None:
        try:
            start_new_thread(self._work, (owner,))
        except (RuntimeError, MemoryError):  # no thread, or no memory for one
            self._idle.add(owner)

    def _work(self, owner: int | None) -> None:
        while True:
            with self._lock:
                line = self._lines[owner]
                if not line:
                    del self._lines[owner]
                    self._ended.notify_all()
                    return
                fd = line.popleft()
            with suppress(OSError):  # of what could not be written; it is closed all the same
                os.close(fd)
            self.closed.append(owner)
