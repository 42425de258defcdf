"""queue: what waits for one peer, in the global order.

Theory. A queue is a plain FIFO; its order is the order of commands (G-34). An entry is an
``Instance`` of a data message, or a ``Notice`` of a notification. Entries that must not be seen any
more (N-3, N-12, H-33) are removed by the command that makes them so. Hence what is queued will be
delivered, a queue with an entry is readable and no other (P-41), and CONTINUE tells the truth
(R-20): the next entry has the same stamp.

Invariants. 1. Stamps of one transaction are adjacent in every queue (R-22). 2. A peer is reported as
woken when its queue turned from empty to not empty, and still is not empty (P-43).

Not here: why an entry is removed (``objects``).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from .account import Charge
from .api import Credentials, MessageType
from .pool import Slice
from .sequencer import Sequencer

if TYPE_CHECKING:
    from .objects import Node


class Notice:
    """A NODE_DESTROY or NODE_RELEASE on its way; uncharged."""

    __slots__ = ("node", "stamp", "type")

    def __init__(self, type_: MessageType, node: Node, stamp: int) -> None:
        self.type = type_
        self.node = node
        self.stamp = stamp


class Descriptors:
    """The descriptors of a transaction; freed when the last message that carries them is gone."""

    __slots__ = ("_sequencer", "carriers", "numbers")

    def __init__(self, numbers: tuple[int, ...], sequencer: Sequencer) -> None:
        self.numbers = numbers
        self.carriers = 0
        self._sequencer = sequencer

    def drop(self) -> None:
        """One message less carries them."""
        self.carriers -= 1
        if self.carriers <= 0:
            self._sequencer.freed.extend(self.numbers)


class Instance:
    """A data message at one receiver, charged and in the pool; ``node`` is None for a seed."""

    __slots__ = (
        "charge", "credentials", "fds", "n_bytes", "node", "nodes", "note", "secctx", "sender", "slice",
        "stamp",
    )

    type: Final = MessageType.DATA

    def __init__(
        self, node: Node | None, sender: int, credentials: Credentials, secctx: bytes | None, n_bytes: int,
        nodes: tuple[Node, ...], fds: Descriptors | None, charge: Charge, slice_: Slice, note: int,
    ) -> None:
        self.node = node
        self.sender = sender
        self.credentials = credentials
        self.secctx = secctx
        self.n_bytes = n_bytes
        self.nodes = nodes
        self.fds = fds
        self.charge = charge
        self.slice = slice_
        self.note = note
        self.stamp = 0


Entry = Instance | Notice


class Queue:
    """The entries for one peer."""

    __slots__ = ("_number", "_sequencer", "entries")

    def __init__(self, number: int, sequencer: Sequencer) -> None:
        self._number = number
        self._sequencer = sequencer
        self.entries: OrderedDict[Entry, None] = OrderedDict()

    def append(self, entry: Entry) -> None:
        """Queue ``entry`` behind everything older."""
        if not self.entries:
            self._sequencer.woken[self._number] = None
        self.entries[entry] = None

    def front(self) -> Entry | None:
        """The next entry to deliver."""
        return next(iter(self.entries), None)

    def second(self) -> Entry | None:
        """The entry behind the front."""
        if len(self.entries) < 2:
            return None
        entries = iter(self.entries)
        next(entries, None)
        return next(entries, None)

    def remove(self, entry: Entry) -> None:
        """Take ``entry`` out, wherever it is."""
        del self.entries[entry]
        if not self.entries:
            self._sequencer.woken.pop(self._number, None)

    def clear(self) -> list[Entry]:
        """Take everything out, in order."""
        entries = list(self.entries)
        self.entries.clear()
        self._sequencer.woken.pop(self._number, None)
        return entries
