"""reception: clients that come in while the bus waits, and are served before anybody here knows of them.

Theory. Where there is an express lane it accepts clients itself at the bus's own unix sockets, and gives
them their names: its *guests*. It may do so for users of whom a client has come in through Python, while
nobody has to be told of names but D-Bus clients by their rules, and for so many guests that no limit is
near; that is said before each wait. When a wait is over, whatever has ended it, the guests that are there
become parties and connections like all others, in the state that they have reached, before anything else is
looked at. Of those that have left again nothing is left but what they have had an effect on.

Invariants. 1. While Python runs, except between the end of a wait and ``returned``, there are no guests.
2. Unique names are numbered in one row, whoever gives them.

Not here: what becomes of them in the lane (the native module), accepting everybody else (loop).
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

from bus1.core.api import Credentials

from ..sasl import EXTERNAL, offer
from .endpoint import Endpoint

if TYPE_CHECKING:
    from bus1.listener import Listener

    from .express import Express
    from .loop import PythonSwitch

GUESTS_MAX = 32
"""So many are there at most when a wait is over: making them parties takes time in which nobody is served."""


class Guest(NamedTuple):
    """What the lane tells of one guest."""

    descriptor: int
    peer: int
    who: tuple[int, int, int, bytes | None, list[int]]
    """uid, gid, pid, label, groups."""
    unique: str
    """Empty before Hello."""
    takes_fds: bool
    age: float
    """How many seconds ago it came."""

    @property
    def credentials(self) -> Credentials:
        """Who it is, as the kernel has said."""
        uid, gid, pid, label, groups = self.who
        return Credentials(uid, gid, pid, 0, label, groups=tuple(groups))


class Rest(NamedTuple):
    """What the lane leaves undone of a guest that has no name yet, or is to be answered first."""

    said: bytes
    """The lines of its authentication that are answered, if it has no name."""
    unsent: bytes
    """What of the answers is not written."""
    next_serial: int
    """The bus's number for its next message to it."""
    unread: tuple[bytes, list[int], str]
    """What else has come, with descriptors, and how that ended."""


class Reception:
    """The doors of one bus that its lane minds."""

    def __init__(self, switch: PythonSwitch, express: Express) -> None:
        self._switch = switch
        self._lane = express.lane
        self._express = express
        tables = switch.router.tables
        self._is_usual = EXTERNAL in tables.auth.mechanisms
        self._lane.set_greeting(b"OK " + tables.guid.encode() + b"\r\n", offer(tables.auth) + b"\r\n")
        switch.reactor.returned = self.returned

    def open(self, listener: Listener) -> None:
        """The lane is asked first when somebody knocks there."""
        if self._is_usual:
            self._lane.set_open(listener.fileno(), True)

    def close(self, listener: Listener) -> None:
        """The listener is about to close."""
        if self._is_usual:
            self._lane.set_open(listener.fileno(), False)

    def before_wait(self) -> None:
        """How many may come in."""
        self._lane.admit(self._room(), self._switch.router.tables.next_unique)

    def _room(self) -> int:
        router = self._switch.router
        tables, limits = router.tables, router.limits
        # of a monitor and of who eavesdrops the lane knows itself
        if tables.watchers or tables.sights:
            return 0
        named = len(tables.unique) + len(tables.monitors)
        left = min(
            limits.max_completed_connections - named, limits.max_connections_per_user - named,
            limits.max_incomplete_connections - len(router.incomplete),
        )
        return max(0, min(GUESTS_MAX, left))

    def returned(self) -> None:
        """A wait is over: whoever has come meanwhile is known from now on."""
        guests, strangers, most_named, number = self._lane.take_guests()
        switch = self._switch
        tables = switch.router.tables
        tables.next_unique = number
        if most_named:
            tables.names.tally.passed(most_named)
        if not (guests or strangers):
            return
        # they have come now, and not when Python ran last
        now = switch.reactor.clock()
        for about, rest in guests:
            self._meet(Guest(*about), Rest(*rest) if rest else None, now)
        for descriptor in strangers:
            switch.accept(socket.socket(fileno=descriptor))

    def _meet(self, guest: Guest, rest: Rest | None, now: float) -> None:
        switch = self._switch
        c = switch.router.meet(guest, rest, now - guest.age)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, guest.descriptor)
        endpoint = Endpoint(switch, sock, guest.peer, guest.who[2], guest.who[0])
        switch.enter(endpoint)
        if rest is None:
            c.party.express = self._express
            endpoint.stays_in(self._express)
            return
        if any(rest.unread):
            endpoint.brought = rest.unread
            switch.has_input(endpoint)
        switch.has_output(endpoint)
        switch.was_used(endpoint)
