"""log: lines for people, on standard error.

Invariants. 1. One flood gives at most one line per second and kind. 2. Who cannot be told does not stop
the bus.

Not here: what deserves a line (the commands).
"""

from __future__ import annotations

import os
from contextlib import suppress

PAUSE = 1.0
LINES = 64
"""Lines of different kinds that are written at once; more are left out."""


def write_line(program: str, text: str) -> None:
    """One line of this process, now."""
    with suppress(OSError):
        os.write(2, f"{program}[{os.getpid()}]: {text}\n".encode(errors="backslashreplace"))


class Log:
    """Lines that wait to be written; equal ones are counted."""

    def __init__(self, program: str) -> None:
        self._program = program
        self._counts: dict[str, int] = {}
        self._quiet_until = 0.0

    @property
    def deadline(self) -> float | None:
        """When the lines that wait should be written."""
        return self._quiet_until if self._counts else None

    def note(self, line: str, count: int = 1) -> None:
        """One more line, for something that happened ``count`` times."""
        if line in self._counts or len(self._counts) < LINES:
            self._counts[line] = self._counts.get(line, 0) + count

    def write(self, now: float) -> None:
        """Write what waits, unless that was done a moment ago."""
        if self._counts and now >= self._quiet_until:
            for line, count in self._counts.items():
                write_line(self._program, f"{line} ({count} times)" if count > 1 else line)
            self._counts.clear()
            self._quiet_until = now + PAUSE
