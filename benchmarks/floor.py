"""floor: a relay in the place of a bus, which only receives and sends.

Theory. The same clients talk through the load generator's relay. What that takes is what the two hops, the
kernel and the clients cost; a bus, which looks at messages, can be no faster.
"""

from __future__ import annotations

from .buses import Bus
from .load import program


class Floor(Bus):
    """The relay."""

    name = "floor"
    program = "cargo"

    def start(self) -> None:
        """Spawn the relay and read its line."""
        self.spawn("relay", f"unix:path={self.socket}", executable=program())
        self.address = self.line()
