"""express: the lane on which everyday messages pass without the planner.

Theory. Where the native body is in use, D-Bus clients that have their name *join* a lane of the reactor's
poller, which reads, routes and writes within the wait, on the same tables (Core, match rules, replies). What
is not everyday it hands over: one message, which the router gets as ever, or all that a socket has brought,
and then the endpoint reads the socket until the router has nothing of it in hand. Then the input is *given
back*. Rights, limits and names are the lane's copies, which are renewed here; what the lane saw happen
(queues that moved, copies that found no room) is told to those who must know after each wait.

Invariants. 1. The input of a connection is the lane's or the router's, never both's. 2. Whoever may not do
everything, leaves, monitors or has left is not in the lane.

Not here: what is everyday (the native module), sockets (endpoint).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bus1 import acceleration
from bus1.core.api import Parcel

if TYPE_CHECKING:
    from bus1.reactor import Reactor

    from .router import Router

Standing = tuple[bool, bool, int, int, int, int, int]
"""May send everything, may receive everything; the limits that the lane minds, in its order."""


class Joining(Protocol):
    """What the lane needs of an endpoint."""

    connection: int

    def fileno(self) -> int:
        """Its socket."""


class Express:
    """The lane of one bus, for whoever serves connections; see the module."""

    def __init__(self, reactor: Reactor, router: Router) -> None:
        """The tables of ``router`` are native ones."""
        assert acceleration.native is not None
        tables = router.tables
        self.lane = acceleration.native.DBusLane(
            reactor.poller, tables.core, tables.matches, tables.replies, tables.bus_peer
        )
        self._router = router
        self._awaited: frozenset[int] = frozenset()
        for name in tables.names.names():
            self.lane.own(name, tables.names.owner(name))

    # ---- connections -----------------------------------------------------------------------------

    def join(self, endpoint: Joining) -> None:
        """The connection is served by the lane from now on."""
        peer, tables = endpoint.connection, self._router.tables
        party = self._router.party(peer)
        self.lane.join(
            endpoint.fileno(), peer, party.unique, party.credentials, self._standing(peer),
            list(tables.names.primary(peer)), len(party.open_replies), bool(party.subscriptions),
            self._router.written(peer),
        )
        party.express = self

    def leave(self, connection: int) -> tuple[bytes, list[int]]:
        """It is not any more; what has come and is not carried out: bytes, and descriptors, which are the caller's."""
        party = self._router.tables.parties.get(connection)
        if party is not None:
            party.express = None
        data, fds, offset = self.lane.leave(connection)
        self._router.set_written(connection, offset)
        return data, fds

    def give_back(self, connection: int) -> None:
        """The router has nothing of the connection in hand."""
        self.lane.give_back(connection, len(self._router.party(connection).open_replies))

    def renew(self, connection: int) -> None:
        """Policy or limits have changed."""
        self.lane.set_standing(connection, self._standing(connection))

    def _standing(self, connection: int) -> Standing:
        party, limits = self._router.party(connection), self._router.limits_of(connection)
        return (
            party.permissions.sends_all, party.permissions.receives_all,
            limits.max_message_size, limits.max_message_unix_fds,
            limits.max_incoming_bytes, limits.max_outgoing_bytes, limits.max_replies_per_connection,
        )

    # ---- the wait --------------------------------------------------------------------------------

    def before_wait(self) -> None:
        """What holds for everybody until Python is asked again."""
        router = self._router
        delivery = router.delivery
        self.lane.set_climate(
            not router.tables.monitors, bool(delivery.eavesdroppers), router.limits.reply_timeout is not None
        )
        awaited = router.awaited()
        if awaited != self._awaited:
            for peer in awaited ^ self._awaited:
                self.lane.set_awaited(peer, peer in awaited)
            self._awaited = awaited

    def after_wait(self) -> list[int]:
        """What the lane saw; the connections whose queues have moved."""
        delivery, tables = self._router.delivery, self._router.tables
        moved = self.lane.take_moved()
        for peer, when in moved:
            self._router.moved(peer, when)
        for sender, reader, header in self.lane.take_lost():
            parties = tables.parties
            delivery.refusals.lost(parties.get(sender), parties.get(reader), Parcel((reader, 0), (header,)))
        return [peer for peer, _ in moved]


def express_for(reactor: Reactor, router: Router) -> Express | None:
    """The lane, if the native body is in use with all its tables."""
    native, tables = acceleration.native, router.tables
    if native is None:
        return None
    is_native = (
        isinstance(tables.core, native.Core) and isinstance(tables.matches, native.MatchIndex)
        and isinstance(tables.replies, native.ReplyTable)
    )
    return Express(reactor, router) if is_native else None
