"""reception: clients that the express lane lets in, and serves before anybody here knows of them.

Theory. Where there is an express lane it accepts clients itself at the bus's own unix sockets, and gives
them their names: its *guests*. It may do so for users of whom a client has come in through Python, while
nobody has to be told of names but D-Bus clients by their rules, and for as many as the limits leave room for;
that is said before each wait. A guest stays one for as long as nobody here asks for it. It is *met*, and
becomes a party and a connection like all others, in the state that it has reached,

* when a wait is over, before anything else is looked at, if it has no name yet, or the lane leaves to Python
  something that it has said or is to be told;
* when somebody looks it up, by peer or by unique name, or goes through all parties (``census``).

Of those that have left again nothing is left but what they have had an effect on.

Invariants. 1. While Python runs, a guest has its name, and nothing of it is in Python's hands, unless there
was no memory to meet it: that is its end. 2. A guest owns no name and waits for none, and is in no table but
the lane's, Core, and those of rules and replies. 3. Unique names are numbered in one row, whoever gives them.

Not here: what becomes of them in the lane (the native module), accepting everybody else (loop).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from bus1.core.api import Credentials

from ..sasl import EXTERNAL, offer
from .api import Closed
from .census import Census
from .endpoint import Endpoint
from .tables import Party

if TYPE_CHECKING:
    from bus1.listener import Listener

    from .express import Express
    from .loop import PythonSwitch

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
    """How many seconds ago it came; 0 if it has a name."""
    moved: float
    """When its queue moved last; 0 if it never has."""

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
        self._ending: set[int] = set()
        """Guests for which there was no memory, and of whom that was told."""
        tables = switch.router.tables
        self._is_usual = EXTERNAL in tables.auth.mechanisms
        self._lane.set_greeting(b"OK " + tables.guid.encode() + b"\r\n", offer(tables.auth) + b"\r\n")
        switch.reactor.returned = self.returned
        tables.guests = self
        tables.parties = Census(tables.parties, self, self._meet_peer)
        tables.unique = Census(tables.unique, self, self._meet_named)

    def open(self, listener: Listener) -> None:
        """The lane is asked first when somebody knocks there."""
        if self._is_usual:
            self._lane.set_open(listener.fileno(), True)

    def close(self, listener: Listener) -> None:
        """The listener is about to close."""
        if self._is_usual:
            self._lane.set_open(listener.fileno(), False)

    # ---- everybody else ---------------------------------------------------------------------------

    def __len__(self) -> int:
        return int(self._lane.n_guests())

    def names(self) -> Sequence[str]:
        """The unique names of the guests, in no order."""
        names: list[str] = self._lane.guest_names()
        return names

    def of_user(self, uid: int) -> int:
        """How many guests are clients of this user."""
        return int(self._lane.n_guests_of(uid))

    def meet_all(self) -> None:
        """From now on all guests are known."""
        if len(self):
            for peer in self._lane.guests():
                self._meet_peer(peer)

    def _meet_peer(self, peer: int) -> bool:
        """The guest of this number is known from now on; False if there is none, or it is about to end."""
        try:
            found = self._lane.take_guest(peer)
        except MemoryError:
            self._lane.put_back(peer)
            self._lane.hang_up(peer)
            return False
        if found is None:
            return False
        self._switch.router.tables.names.tally.note_others(len(self))
        about, rest = found
        return self._meet(Guest(*about), Rest(*rest) if rest else None, self._switch.router.delivery.now)

    def _meet_named(self, unique: str) -> bool:
        peer = self._lane.guest_named(unique)
        return peer is not None and self._meet_peer(peer)

    # ---- the wait --------------------------------------------------------------------------------

    def before_wait(self) -> None:
        """How many may come in."""
        if self._ending:
            self._ending.intersection_update(self._lane.guests())
        self._lane.admit(*self._room(), self._switch.router.tables.next_unique)

    def _room(self) -> tuple[int, int]:
        """How many guests there may be, and how many of them without a name."""
        router = self._switch.router
        tables, limits = router.tables, router.limits
        known = dict.__len__(tables.unique) + len(tables.monitors)
        most = min(limits.max_completed_connections, limits.max_connections_per_user)
        return max(0, most - known), max(0, limits.max_incomplete_connections - len(router.incomplete))

    def returned(self) -> None:
        """A wait is over: whoever has to be known now is."""
        guests, strangers, (n_named, most_named), number = self._lane.take_guests()
        switch = self._switch
        tables = switch.router.tables
        tables.next_unique = number
        tables.names.tally.note_others(n_named, most_named)
        if not (guests or strangers):
            return
        # they have come now, and not when Python ran last
        now = switch.reactor.clock()
        for about, rest in guests:
            self._meet(Guest(*about), Rest(*rest) if rest else None, now)
        for descriptor in strangers:
            switch.accept(socket.socket(fileno=descriptor))

    def _meet(self, guest: Guest, rest: Rest | None, now: float) -> bool:
        """The guest becomes known. Where there is no memory for that it is its end alone, whoever has asked:
        False, and until it has left it is a guest as before, if it has its name."""
        try:
            self._enter(guest, rest, now)
        except MemoryError:
            self._part(guest, rest)
            if guest.peer not in self._ending:
                self._ending.add(guest.peer)
                (uid, _, pid, *_), party = guest.who, Party(guest.peer, guest.credentials, guest.unique)
                who = self._switch.router.delivery.refusals.named(party)
                self._switch.report(Closed(pid, uid, who, "there is no memory for what it wants"))
            return False
        self._ending.discard(guest.peer)
        return True

    def _enter(self, guest: Guest, rest: Rest | None, now: float) -> None:
        switch = self._switch
        c = switch.router.meet(guest, rest, now - guest.age)
        if guest.moved:
            switch.router.moved(guest.peer, guest.moved)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, guest.descriptor)
        endpoint = None
        try:
            endpoint = Endpoint(switch, sock, guest.peer, guest.who[2], guest.who[0])
            switch.enter(endpoint)
            if rest is None:
                endpoint.stays_in(self._express)
                c.party.express = self._express
                if guest.peer in self._ending:
                    # what was reported of it once is not again
                    switch.has_input(endpoint)
                return
            if any(rest.unread):
                endpoint.brought = rest.unread
                switch.has_input(endpoint)
            switch.has_output(endpoint)
            switch.was_used(endpoint)
        except BaseException:
            if endpoint is not None:
                switch.part(endpoint)
            sock.detach()
            raise

    def _part(self, guest: Guest, rest: Rest | None) -> None:
        switch, peer = self._switch, guest.peer
        delivery, tables = switch.router.delivery, switch.router.tables
        switch.router.forget(peer)
        if rest is None:
            tables.parties.pop(peer, None)
            tables.unique.pop(guest.unique, None)
            tables.names.tally.forget(peer)
            delivery.flow.forget(peer)
            self._lane.put_back(peer)
            self._lane.hang_up(peer)
            tables.names.tally.note_others(len(self))
            return
        delivery.abandon(peer)
        delivery.discard((guest.descriptor, *rest.unread[1]))
