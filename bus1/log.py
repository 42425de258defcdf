"""log: lines for people.

Theory. A line goes to standard error, or where a ``Write`` takes it. Standard error may be a pipe that nobody
reads, and a bus cannot wait for its reader: what the pipe doesn't take at once is left out. Some lines carry
fields for programs, as the journal keeps them; lines of one cause are counted.

Invariants. 1. One flood gives at most one line per second and kind. 2. Who cannot be told does not stop
the bus.

Not here: what deserves a line (the commands).
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from contextlib import suppress

PAUSE = 1.0
LINES = 64
"""Lines of different kinds that are written at once; more are left out."""
LINES_OF_ONE = 8
"""As many may be about one and the same; more about it are left out, and counted in a line of their own."""

Fields = tuple[tuple[str, str], ...]
"""Names and values."""
Write = Callable[[str, Fields], None]
_STANDARD_ERROR = 2


def write_line(program: str, text: str) -> None:
    """One line of this process, now."""
    rest = f"{program}[{os.getpid()}]: {text}\n".encode(errors="backslashreplace")
    poll = select.poll()
    poll.register(_STANDARD_ERROR, select.POLLOUT)
    with suppress(OSError):
        # a pipe that is ready takes as much as this without blocking
        while rest and poll.poll(0):
            rest = rest[os.write(_STANDARD_ERROR, rest[: select.PIPE_BUF]) :]


class Log:
    """Lines that wait to be written; equal ones are counted."""

    def __init__(self, program: str, write: Write | None = None) -> None:
        """They go to standard error, or to ``write``."""
        self._write: Write = write or (lambda text, fields: write_line(program, text))
        self._waiting: dict[str, tuple[str, int, Fields]] = {}
        """By cause: the line, how often, and its fields."""
        self._of_one: dict[str, int] = {}
        """How many lines wait that are about it."""
        self._left_out = 0
        self._quiet_until = 0.0

    @property
    def deadline(self) -> float | None:
        """When the lines that wait should be written."""
        return self._quiet_until if self._waiting else None

    def note(
        self, line: str, count: int = 1, fields: Fields = (), cause: str = "", about: str = ""
    ) -> None:
        """One more line, for something that happened ``count`` times; of lines with one ``cause``, the first.

        Without a cause it is the line itself. ``about`` names whoever could cause many."""
        key = cause or line
        if about and key not in self._waiting:
            n_lines = self._of_one[about] = self._of_one.get(about, 0) + 1
            if n_lines > LINES_OF_ONE:
                key, line, fields = f"more about {about}", f"more about {about} was left out", ()
        if key in self._waiting or len(self._waiting) < LINES:
            first, before, theirs = self._waiting.get(key, (line, 0, fields))
            self._waiting[key] = (first, before + count, theirs)
        else:
            self._left_out += count

    def write(self, now: float) -> None:
        """Write what waits, unless that was done a moment ago."""
        if self._waiting and now >= self._quiet_until:
            for line, count, fields in self._waiting.values():
                self._write(f"{line} ({count} times)" if count > 1 else line, fields)
            if self._left_out:
                self._write(f"{self._left_out} more things deserved a line, and were left out", ())
            self._waiting.clear()
            self._of_one.clear()
            self._left_out = 0
            self._quiet_until = now + PAUSE
