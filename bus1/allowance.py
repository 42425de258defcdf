"""allowance: what one user may have done in a turn, through all its channels together.

Theory. Everybody waits while a request is executed. If each channel had a budget of its own, a user with many
channels, or with large requests, would have most of the bus. So the channels of a user draw on one
allowance, which is new in every turn; a request that is large, or touches much, costs as much as several, and
so does the end of a peer. Channels for which nothing is left wait in a line and go on in the next turns, the
first of them first.

Invariants. 1. A user who has more to do than its allowance delays others by one allowance, and the request
that exceeds it, per turn. 2. A channel that waits is behind those that have waited longer.

Not here: what a request costs (channel, sending), what a turn is (reactor).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .reactor import Reactor


class Waiting(Protocol):
    """A channel in the line."""

    def go_on(self, now: float) -> None:
        """Draw on the allowance again."""


class Allowance:
    """The allowance of one user, and its line."""

    def __init__(self, reactor: Reactor, per_turn: int, spent: Callable[[], int] | None = None) -> None:
        """``spent`` tells what the user has had in this turn already, in a lane."""
        self.left = 0
        """What this turn still allows; less than nothing if the last request was too large."""
        self.line: dict[Waiting, None] = {}
        self._reactor = reactor
        self._per_turn = per_turn
        self._spent = spent
        self._turn = -1

    def begin_turn(self) -> None:
        """Each turn of the reactor has its own allowance; a second time in a turn does nothing."""
        if self._turn != self._reactor.turn:
            spent = 0 if self._spent is None else self._spent()
            self._turn, self.left = self._reactor.turn, self._per_turn - spent

    def wait(self, channel: Waiting) -> None:
        """The channel goes on in one of the next turns, behind those that wait already."""
        if not self.line:
            self._reactor.call_at(self._reactor.clock(), self, self._go_on)
        self.line[channel] = None

    def leave(self, channel: Waiting) -> None:
        """The channel has nothing to wait for any more."""
        self.line.pop(channel, None)

    def _go_on(self, now: float) -> None:
        self.begin_turn()
        for channel in list(self.line):
            if self.left <= 0:
                break
            if channel in self.line:
                del self.line[channel]
                channel.go_on(now)
                self._reactor.settle()
        if self.line:
            self._reactor.call_at(now, self, self._go_on)
