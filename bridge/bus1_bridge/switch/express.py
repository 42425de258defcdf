"""express: the lane on which everyday messages pass without the planner.

Theory. Where the native body is in use, D-Bus clients that have their name *join* a lane of the reactor's
poller, which reads, routes and writes within the wait, on the same tables (Core, match rules, replies). What
is not everyday it hands over: one message, which the router gets as ever, or all that a socket has brought,
and then the endpoint reads the socket until the router has nothing of it in hand. Then the input is *given
back*. Rights, limits and names are the lane's copies, which are renewed here; of each policy there is one
native twin, which all its clients share. What the lane saw happen
(queues that moved, copies that found no room) is told to those who must know after each wait.

Invariants. 1. The input of a connection is the lane's or the router's, never both's. 2. Whoever leaves,
monitors or has left is not in the lane. 3. Of whoever sees a part of the bus the lane knows no policy: it
carries out nothing of what such a client says or hears.

Not here: what is everyday (the native module), sockets (endpoint).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from bus1 import acceleration
from bus1.core.api import Parcel, Usage

from .flow import hosted_limits
from .tables import UNKNOWN_ID

if TYPE_CHECKING:
    from bus1._native import ClientPolicy as NativePolicy
    from bus1.holdings import Holdings
    from bus1.reactor import Reactor

    from ..policy import ClientPolicy
    from .connection import Connection
    from .router import Router

_USERS_MAX = 1024
_GROUPS_MAX = 128

Standing = tuple[bool, bool, bool, int, tuple[int, int, int], int, int, int, int, "NativePolicy | None"]
"""May send everything, may receive everything, takes descriptors; the limits that the lane minds; what it
may do where that is not everything, if the lane can tell."""


class Joining(Protocol):
    """What the lane needs of an endpoint."""

    connection: int

    def fileno(self) -> int:
        """Its socket."""


class Express:
    """The lane of one bus, for whoever serves connections; see the module."""

    def __init__(self, reactor: Reactor, holdings: Holdings, router: Router) -> None:
        """The tables of ``router`` are native ones."""
        assert acceleration.native is not None
        tables = router.tables
        self.lane = acceleration.native.DBusLane(
            reactor.poller, tables.core, tables.matches, tables.replies,
            (tables.bus_peer, tables.bus_id, tables.bus_credentials),
        )
        self._router = router
        self._holdings = holdings
        self._awaited: frozenset[int] = frozenset()
        self._late: frozenset[int] = frozenset()
        self._policies: WeakKeyDictionary[ClientPolicy, NativePolicy] = WeakKeyDictionary()
        self._users: set[tuple[int, int, tuple[int, ...]]] = set()
        """Of whom the lane lets clients in: uid, gid, groups."""
        tables.names.follower = self.lane.claim
        for name in tables.names.names():
            self.lane.own(name, tables.names.owner(name))

    # ---- connections -----------------------------------------------------------------------------

    def may_stay(self, connection: int) -> bool:
        """It has its name, and nothing else but messages to say and to hear."""
        c = self._router.connection(connection)
        return c is not None and _has_only_messages(c)

    def may_join(self, connection: int) -> bool:
        """So it is, and nothing of it is in hand."""
        c = self._router.connection(connection)
        return c is not None and not c.notice and _has_only_messages(c) and self._router.is_idle(c)

    def join(self, endpoint: Joining) -> None:
        """The connection is served by the lane from now on."""
        peer, tables = endpoint.connection, self._router.tables
        c = self._router.connection(peer)
        assert c is not None
        party = c.party
        self.lane.join(
            endpoint.fileno(), peer, party.unique, party.credentials, self._standing(c),
            (list(tables.names.primary(peer)), list(tables.names.claims(peer))), len(party.open_replies),
            bool(party.subscriptions), c.offset, (party.next_serial, bool(party.native_calls)),
        )
        party.express = self
        self._introduce(c)
        # one that comes again bears no marks
        self._awaited -= {peer}
        self._late -= {peer}

    def _introduce(self, c: Connection) -> None:
        """The lane may let in others of its user, if they are like it."""
        who, limits = c.party.credentials, self._router.limits
        user = who.uid, who.gid, who.groups
        is_usual = (
            c.party.entrance is None and who.gid != UNKNOWN_ID and len(who.groups) <= _GROUPS_MAX
            and c.limits is limits and limits.new_connections_per_second is None
        )
        if not is_usual or user in self._users:
            return
        if len(self._users) >= _USERS_MAX:
            self.forget_users()
        self._users.add(user)
        self.lane.know((who.uid, who.gid, list(who.groups)), self._standing(c), hosted_limits(limits))

    def forget_users(self) -> None:
        """Policy or limits have changed."""
        self._users.clear()
        self.lane.forget_users()

    def leave(self, connection: int) -> tuple[bytes, list[int]]:
        """It is not any more; what has come of it: bytes, and descriptors, which are the caller's.

        MemoryError: that is lost."""
        c = self._router.connection(connection)
        if c is not None:
            c.party.express = None
        data, fds, offset, serial = self.lane.leave(connection)
        if c is not None:
            c.party.next_serial = serial
            if not c.notice:
                c.offset = offset
        return data, fds

    def give_back(self, connection: int) -> None:
        """The lane reads on, if the router has nothing of the connection in hand."""
        c = self._router.connection(connection)
        if c is not None and not self.lane.has_input(connection) and self._router.is_idle(c):
            self.lane.give_back(connection, len(c.party.open_replies), bool(c.party.native_calls))

    def take_output(self, connection: int) -> None:
        """The router writes on, from where the lane has come to."""
        c = self._router.connection(connection)
        if c is not None and not c.notice:
            c.offset = self.lane.offset(connection)

    def return_output(self, connection: int) -> None:
        """The lane may write on."""
        if (c := self._router.connection(connection)) is not None:
            self.lane.set_offset(connection, 0 if c.notice else c.offset, bool(c.notice))

    def renew(self, connection: int) -> None:
        """Policy or limits have changed."""
        if (c := self._router.connection(connection)) is not None:
            self.lane.set_standing(connection, self._standing(c))

    def usage(self, connection: int) -> tuple[Usage, Usage, Usage]:
        """What has come and is not carried out, the most that ever was, and that ever waited for it."""
        now, peak_in, peak_out = self.lane.usage(connection)
        return Usage(*now), Usage(*peak_in), Usage(*peak_out)

    def _standing(self, c: Connection) -> Standing:
        permissions, limits, party = c.party.permissions, c.limits, c.party
        is_open = permissions.sends_all and permissions.receives_all
        policy = None if is_open or party.sight is not None else self._twin(permissions)
        return (
            permissions.sends_all, permissions.receives_all, party.takes_fds,
            limits.max_message_size,
            (limits.max_message_unix_fds, limits.max_incoming_unix_fds, limits.max_outgoing_unix_fds),
            limits.max_incoming_bytes, limits.max_outgoing_bytes, limits.max_replies_per_connection,
            limits.max_match_rules_per_connection, policy,
        )

    def _twin(self, policy: ClientPolicy) -> NativePolicy:
        """The native twin of a policy; one for all its clients."""
        twin = self._policies.get(policy)
        if twin is None:
            assert acceleration.native is not None
            twin = self._policies[policy] = acceleration.native.ClientPolicy(*policy.as_data())
        return twin

    # ---- the wait --------------------------------------------------------------------------------

    def before_wait(self) -> None:
        """What holds for everybody until Python is asked again."""
        router = self._router
        delivery, tables = router.delivery, router.tables
        self.lane.set_climate(
            not tables.monitors, bool(delivery.eavesdroppers), bool(tables.watchers or tables.sights),
            router.limits.reply_timeout is not None, self._holdings.are_closing,
        )
        awaited = frozenset((*delivery.flow.awaited, *router.writing.over_mark))
        if awaited or self._awaited:
            self._awaited = _marked(self._awaited, awaited, self.lane.set_awaited)
        late = delivery.flow.wasteful(delivery.now)
        if late or self._late:
            self._late = _marked(self._late, frozenset(late), self.lane.set_late)

    def flush_all(self) -> list[int]:
        """Write what is queued for anybody; the connections for which the router has to go on."""
        parties = self._router.tables.parties
        return [peer for peer in self.lane.flush_all() if peer in parties]

    def after_wait(self) -> list[int]:
        """What the lane saw; the connections whose queues have moved."""
        delivery, tables = self._router.delivery, self._router.tables
        moved = self.lane.take_moved()
        for peer, when in moved:
            self._router.moved(peer, when)
        parties = tables.parties
        for fd, sender in self.lane.take_fds():
            party = parties.get(sender)
            self._holdings.own((fd,), 0 if party is None else party.credentials.uid)
        for sender, reader, header in self.lane.take_lost():
            delivery.refusals.lost(parties.get(sender), parties.get(reader), Parcel((reader, 0), (header,)))
        return [peer for peer, _ in moved]


def _has_only_messages(c: Connection) -> bool:
    return bool(c.party.unique) and not (
        c.party.is_monitor or c.auth or c.lines or c.has_ended or c.is_deaf or c.ending
    )


def _marked(
    old: frozenset[int], new: frozenset[int], mark: Callable[[int, bool], None]
) -> frozenset[int]:
    """Those whose mark has changed are told; the new ones."""
    for peer in old ^ new:
        mark(peer, peer in new)
    return new


def express_for(reactor: Reactor, holdings: Holdings, router: Router) -> Express | None:
    """The lane, if the native body is in use with all its tables."""
    native, tables = acceleration.native, router.tables
    if native is None:
        return None
    is_native = (
        isinstance(tables.core, native.Core) and isinstance(tables.matches, native.MatchIndex)
        and isinstance(tables.replies, native.ReplyTable)
    )
    return Express(reactor, holdings, router) if is_native else None
