"""receiver: what may stand behind a node, and who holds one.

Theory. The pump of a connection hands everything that arrives to one of these, and goes on; so none of them
waits. Objects, reply nodes, streams and emitters are receivers; who needs to know of the end of a node that
it holds is a mourner.

Not here: who is behind which node (``connection``).
"""

from __future__ import annotations

from typing import Protocol

from bus1.errors import Bus1Error

from .handle import Arrival


class Receiver(Protocol):
    """What stands behind an own node. None of these waits."""

    def arrived(self, arrival: Arrival) -> None:
        """A message for the node; all that came along now belongs to the receiver."""

    def released(self) -> None:
        """Nobody else holds the node any more (NODE_RELEASE)."""

    def lost(self, error: Bus1Error) -> None:
        """Nothing will arrive any more: the bus is gone, or the way to it."""


class Mourner(Protocol):
    """Who wants to know that a node which it holds is destroyed."""

    def bereaved(self, handle: int) -> None:
        """It is; this does not wait."""
