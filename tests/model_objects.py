"""model_objects: what lies around in the model of bus1: peers, nodes, handles, messages, slices.

Theory. Plain records in plain lists. Nothing is counted or remembered that can be found by looking at all
of it, so nothing can go out of step.

Not here: rules (``model``), sums (``model_quota``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bus1.core.api import Credentials, Limits, MessageType

NEVER = math.inf
"""When a live node dies."""
SEGMENT = 4 << 20
"""Where all slices of a peer lie, if they are small and few."""


@dataclass(eq=False)
class Node:
    """H-1: owned by one peer, for ever; ``died`` is the event of its destruction."""

    owner: Peer
    died: float = NEVER


@dataclass(eq=False)
class Handle:
    """H-2: one peer's references to one node; ``since`` says who held it earlier."""

    number: int
    node: Node
    since: int
    references: int = 1


@dataclass(eq=False)
class Slice:
    """A range of a pool, and what the peer can read there once it has received it."""

    offset: int
    size: int
    charged: int
    payload: bytes
    contents: bytes = b""
    serial: int = 0


@dataclass(eq=False)
class Entry:
    """A notification in a queue: ``node`` is whose."""

    type: MessageType
    reader: Peer
    node: Node | None
    stamp: int


@dataclass(eq=False)
class Data(Entry):
    """A message; a seed's ``node`` is None, and its ``sender`` 0. ``uid`` is whom it is booked to."""

    sender: int
    uid: int
    credentials: Credentials
    secctx: bytes | None
    payload: bytes
    nodes: list[Node]
    fds: tuple[int, ...]
    slice: Slice


@dataclass(eq=False)
class Peer:
    """P-1; ``seeds`` has at most one message, or two while one takes the other's place (S-1, S-3)."""

    number: int
    uid: int
    shares_buffers: bool
    overhead: int
    limits: list[int]
    flags: int = 0
    last_id: int = 0
    handles: list[Handle] = field(default_factory=list)
    queue: list[Entry] = field(default_factory=list)
    seeds: list[Data] = field(default_factory=list)
    published: list[Slice] = field(default_factory=list)
    last_serial: int = 0
    has_segment: bool = False
    is_exposed: bool = False

    def handle(self, number: int) -> Handle | None:
        """H-15: what an id names."""
        return next((handle for handle in self.handles if handle.number == number), None)

    def handle_to(self, node: Node) -> Handle | None:
        """The references of this peer to ``node``, if it has any."""
        return next((handle for handle in self.handles if handle.node is node), None)

    def messages(self) -> list[Data]:
        """The messages in the queue."""
        return [entry for entry in self.queue if isinstance(entry, Data)]


def maxima(limits: Limits) -> list[int]:
    """P-22: slices, handles, bytes, descriptors."""
    return [limits.slices, limits.handles, limits.inflight_bytes, limits.inflight_fds]


def padded(size: int) -> int:
    """L-3: up to a multiple of 8."""
    return (size + 7) // 8 * 8
