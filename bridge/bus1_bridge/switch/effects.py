"""effects: what the pure part of the Switch asks its edge to do.

Theory. The pure part changes tables and Core, and lists the rest here as plain data; the edge takes
the list once per turn, or after each command where descriptors are involved.

Not here: wake-ups of queues (Core's own list tells them) and the writing of messages (``outgoing``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wake:
    """The connection has bytes to send that no queue of Core holds (authentication)."""

    connection: int


@dataclass(frozen=True, slots=True)
class Close:
    """The bus is done with the connection: close its socket."""

    connection: int
    reason: str
    """Empty for a client that left by itself."""


@dataclass(frozen=True, slots=True)
class CloseDescriptors:
    """Descriptors that no message carries: close them."""

    fds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A message was not delivered to a reader because it has too much waiting already."""

    sender: str
    reader: str
    """Unique names."""
    kind: str
    """``broadcast``, ``call``, ``signal``, ``reply`` or ``bus``."""
    count: int
    """How many of this kind, between these two, since the last record."""


Effect = Wake | Close | CloseDescriptors | Refused
