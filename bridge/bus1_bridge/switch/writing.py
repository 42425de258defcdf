"""writing: what is written to a D-Bus connection, and what that sets in motion.

Theory. Output is the hosted queue itself: a message is dequeued when its last byte has entered the socket.
Before it go answers of the authentication, and messages that stand for a notification, of which one at a time
is written. Who needs to know that a message has arrived is told then.

Invariants. 1. A message that is partly written stays at the front of its queue.

Not here: sockets (endpoint), when a connection that has nothing left is closed (router).
"""

from __future__ import annotations

from typing import Protocol

from bus1.core.api import Ahead, Buffer, Message, MessageType

from .connection import Connection, behind
from .delivery import Delivery
from .flow import BUS_MARK
from .planner import NativeEnds
from .tables import LegacyParty

_AHEAD = 64
"""Queue entries that are looked at for one call of ``next_items``."""
_DROPPED_AT_ONCE = 1024
"""Messages that a deaf client does not get, beside the budget of what it sends."""

Outgoing = tuple[tuple[Buffer, ...], tuple[int, ...]]
"""Buffers that are to be written, and the descriptors that go with their first byte."""


class Told(Protocol):
    """Who is told of what has arrived: the gateway."""

    def delivered(self, reader: LegacyParty, note: int, message: Message) -> None:
        """A message with a note or handles has entered the reader's socket."""

    def notified(self, reader: LegacyParty, entry: Ahead, message: Message) -> bytes | None:
        """A notification was dequeued: the message to write in its place, if any."""


class Natives(NativeEnds, Told, Protocol):
    """What the router needs of the gateway."""


class Writing:
    """The output of all connections of one bus."""

    def __init__(self, delivery: Delivery, told: Told) -> None:
        self._core = delivery.tables.core
        self._flow = delivery.flow
        self._delivery = delivery
        self._told = told
        self.over_mark: set[int] = set()
        """Connections whose messages wait until they have read more of the bus's answers."""

    def is_over_bus_mark(self, peer: int) -> bool:
        """It leaves too many answers of the bus unread."""
        return self._core.queued(self._delivery.tables.bus_peer, peer).bytes > BUS_MARK

    def next_items(self, c: Connection, limit: int) -> list[Outgoing]:
        """What to write next, in order, about ``limit`` bytes at most (one message at least)."""
        peer = c.party.peer
        entries = [] if c.notice else self._core.ahead(peer, _AHEAD)
        while entries and entries[0].type is not MessageType.DATA and not c.notice:
            message = self._core.recv(peer)
            c.notice = self._told.notified(c.party, entries[0], message) or b""
            entries = self._core.ahead(peer, _AHEAD)
        if entries:
            c.party.note_waiting(self._core.waiting(peer))
        items: list[Outgoing] = [((c.lines,), ())] if c.lines else []
        if c.notice:
            return [*items, ((memoryview(c.notice)[c.offset :],), ())]
        skip = c.offset
        for entry in entries:
            if entry.type is not MessageType.DATA or limit <= 0:
                break
            items.append((entry.parts, entry.fds) if not skip else (behind(entry.parts, skip), ()))
            limit -= entry.n_bytes - skip
            skip = 0
        return items

    def written(self, c: Connection, n: int, now: float) -> None:
        """``n`` bytes of ``next_items`` entered the socket: whole messages leave their queue."""
        if c.lines:
            left, c.lines = n - len(c.lines), c.lines[n:]
            n = max(0, left)
        if not n:
            return
        if c.notice:
            c.offset += n
            if c.offset == len(c.notice):
                c.notice, c.offset = b"", 0
        else:
            self._flow.progressed(c.party.peer, now)
            self._dequeue(c, n)

    def _dequeue(self, c: Connection, n: int) -> None:
        c.offset += n
        while c.offset:
            entry = self._core.ahead(c.party.peer)[0]
            if c.offset < entry.n_bytes:
                break
            c.offset -= entry.n_bytes
            self._take(c, entry)

    def _take(self, c: Connection, entry: Ahead) -> None:
        """The message at the front of the queue is the client's."""
        message = self._core.recv(c.party.peer)
        if entry.note or message.handles:
            self._told.delivered(c.party, entry.note, message)
        self._core.slice_release(c.party.peer, message.offset)

    def drop(self, c: Connection) -> bool:
        """What is queued is taken as if the client had read it; False if more is left."""
        peer = c.party.peer
        for _ in range(_DROPPED_AT_ONCE):
            entries = self._core.ahead(peer)
            if not entries:
                return True
            if entries[0].type is MessageType.DATA:
                self._take(c, entries[0])
            else:
                self._told.notified(c.party, entries[0], self._core.recv(peer))
            self._flow.progressed(peer, self._delivery.now)
        return False
