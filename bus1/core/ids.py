"""ids: the peer-local names of handles.

Theory. Nodes, handles and queues know no numbers; identity is an edge concern, and this table is
that edge. A user-chosen id (00b in the low bits) names an own node, an assigned one (11b) a foreign
node (H-10 … H-14). An id exists exactly as long as its handle has a user reference (H-15).

Invariants. 1. Assigned ids are never reused, also not across a flush (H-12, P-36). 2. A peer has at
most one id per node (H-2).

Not here: creation on demand (``transaction``), reference counts (``objects``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .api import HANDLE_INVALID, MANAGED, REMOTE

if TYPE_CHECKING:
    from .objects import Handle, Node


class IdTable:
    """The ids of one peer, both ways."""

    __slots__ = ("counter", "handles", "ids")

    def __init__(self) -> None:
        self.handles: dict[int, Handle] = {}
        self.ids: dict[Node, int] = {}
        self.counter = 0

    def assign(self, handle: Handle) -> int:
        """A fresh id for a foreign handle (H-11)."""
        self.counter += 1
        number = self.counter << 3 | REMOTE | MANAGED
        self.name(number, handle)
        return number

    def name(self, number: int, handle: Handle) -> None:
        """Give an own node the id that its owner chose."""
        self.handles[number] = handle
        self.ids[handle.node] = number

    def forget(self, node: Node) -> None:
        """The handle is gone: its id names nothing (H-32)."""
        del self.handles[self.ids.pop(node)]


def may_name_node(number: int) -> bool:
    """Whether a peer may choose ``number`` for a new node (H-13)."""
    return not number & (MANAGED | REMOTE) and 0 <= number < HANDLE_INVALID
