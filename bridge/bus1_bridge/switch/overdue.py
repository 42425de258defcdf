"""overdue: calls that nobody has answered within ``reply_timeout``.

Theory. Whoever waits for an answer knows since when: the slots of D-Bus clients among themselves, and the
reply nodes of their calls to native peers, both in the order in which they were opened. One time is kept,
no later than that at which the first of them is overdue; when it has come, those that are overdue end with
NoReply, and the oldest that is left says when to look again. An answer that comes later is one that nobody
awaits.

Invariants. 1. Without ``reply_timeout`` nothing is looked at. 2. A look costs as much as there are
callers, and comes at most as often as calls are opened.

Not here: answers (planner, gateway), other ends of a call (delivery).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .. import hosted
from .tables import LegacyParty, Reply

if TYPE_CHECKING:
    from .delivery import Delivery

TIMED_OUT = "Message did not receive a reply (timeout by message bus)"


class Overdue:
    """Ends calls that have waited too long."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._next: float | None = None

    def opened(self) -> None:
        """A call waits for its answer from now on."""
        timeout = self._delivery.limits.reply_timeout
        if timeout is not None:
            due = self._delivery.now + timeout
            if self._next is None or due < self._next:
                self._next = due

    def next_deadline(self) -> float | None:
        """When to call ``expire``; None if nobody waits."""
        return self._next

    def expire(self, now: float) -> None:
        """What is overdue ends."""
        if self._next is None or now < self._next:
            return
        delivery, tables = self._delivery, self._tables
        timeout = delivery.limits.reply_timeout
        self._next = None
        if timeout is None:
            return
        for caller, callee, serial in tables.replies.overdue(now, timeout):
            tables.replies.take(caller, callee, serial)
            party = tables.parties.get(caller)
            assert isinstance(party, LegacyParty)
            delivery.send_no_reply(party, serial, TIMED_OUT)
        for party, node, reply in list(self._native_calls()):
            if reply.opened + timeout <= now:
                hosted.close_reply(tables.core, party, node)
                delivery.send_no_reply(party, reply.serial, TIMED_OUT)
        times = [tables.replies.oldest(), *(reply.opened for _, _, reply in self._native_calls())]
        self._next = min((time + timeout for time in times if time is not None), default=None)

    def _native_calls(self) -> Iterator[tuple[LegacyParty, int, Reply]]:
        # a guest has called no native peer
        for party in dict.values(self._tables.parties):
            if isinstance(party, LegacyParty):
                for node in party.open_replies.values():
                    reply = party.nodes[node]
                    assert isinstance(reply, Reply)
                    yield party, node, reply
