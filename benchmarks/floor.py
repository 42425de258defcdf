"""floor: the load's own share, measured like a bus.

Theory. The same clients talk through a process that only receives and sends (relay.py), in Python: what
that takes is what the two hops, the scheduler, the clients and an interpreter in the middle cost. No bus
written in Python can be faster; one in C can. Its start-up figure is that of an interpreter with a
socket.
"""

from __future__ import annotations

import sys

from .buses import Bus
from .worker import ROOT


class Floor(Bus):
    """A relay in the place of a bus."""

    name = "floor (relay)"
    program = "python"

    @classmethod
    def executable(cls) -> str:
        """This interpreter."""
        return sys.executable

    def start(self) -> None:
        """Spawn the relay and read its line."""
        self.spawn("-m", "benchmarks.relay", str(self.socket), cwd=ROOT)
        self.address = self.line()
