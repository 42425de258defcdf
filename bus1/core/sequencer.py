"""sequencer: the one order of events, and what commands leave for the edge.

Theory. Every command is applied completely before the next (G-34), so a counter is the whole global
order: each transaction and each notification of its own draws a stamp. Equal stamps mean one
transaction (R-21); a message is older than a destruction if its stamp is smaller (G-9). What a command
touches, handles and entries of queues, is counted, too: a single one may touch all that a peer has.

Invariants. 1. Stamps are drawn only by commands that succeed.

Not here: queues.
"""

from __future__ import annotations


class Sequencer:
    """The stamp counter, and the effects that the edge drains after each command."""

    __slots__ = ("effort", "freed", "retired", "stamp", "woken")

    def __init__(self) -> None:
        self.stamp = 0
        self.effort = 0
        """A gauge, no part of the state."""
        self.woken: dict[int, None] = {}
        self.freed: list[int] = []
        self.retired: list[tuple[int, int]] = []

    def draw(self) -> int:
        """The stamp of a new event."""
        self.stamp += 1
        return self.stamp
