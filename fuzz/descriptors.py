"""descriptors: what a target knows of the descriptors that it hands over.

Theory. A frame owns its descriptors and closes them once. ``Ledger`` hands out numbers that are open nowhere
and stands in for ``os.close``: a number that is closed twice, or by nobody, is a finding at once, and it
costs no system call. ``open_numbers`` counts the real ones.

Not here: the sockets on which descriptors travel (hostile).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

_FIRST = 1 << 30


class Ledger:
    """Numbers that stand for descriptors."""

    def __init__(self) -> None:
        self.open: set[int] = set()
        self._last = _FIRST

    def new(self) -> int:
        """A descriptor that somebody has to close."""
        self._last += 1
        self.open.add(self._last)
        return self._last

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Closing goes by this ledger."""
        close = os.close

        def closing(fd: int) -> None:
            if fd < _FIRST:
                close(fd)
            else:
                assert fd in self.open, "a descriptor was closed twice"
                self.open.remove(fd)

        with mock.patch.object(os, "close", closing):
            yield


def open_numbers() -> set[str]:
    """The descriptors of this process."""
    return set(os.listdir("/proc/self/fd"))
