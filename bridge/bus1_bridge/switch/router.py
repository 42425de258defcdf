"""router: what each message of a D-Bus client sets in motion.

Theory. The router is the pure part of the Switch: bytes of connections in, transactions of Core,
bytes of connections out. A message is taken when it is complete and checked, gets its sender's name,
and is planned: to the driver, to one party, or to everybody whose rules match. The plan is one Core
transaction through ``Delivery``. What can't be delivered now (docs/design.md §7) stays in its
connection, which isn't read until it can. Every connection has a budget per turn; what is left is
done in the next (``go_on``), so that all make progress.

Each connection id is the Core peer that is hosted for it. Output is the hosted queue itself: a
message is dequeued when its last byte has entered the socket.

Invariants. 1. A client's bytes can close its own connection and nothing else. 2. Messages of one
connection take effect in their order. 3. When a connection is gone, no descriptor, charge or table
entry of it is left.

Not here: sockets and time (loop), whom the bus answers what (driver), natives (gateway).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bus1.core.api import Credentials
from bus1.errors import RemoteProtocolError
from bus1.waiting import earliest

from ..activation import Activation
from ..driver import Driver
from ..policy import Policy
from ..sasl import ServerAuth
from .connection import Connection, Incoming
from .deadlines import Deadlines
from .delivery import Delivery
from .effects import Close, Effect
from .flow import OVERHEAD, hosted_limits, user_limits
from .limits import BYTES_PER_TURN, BusLimits, Excess
from .planner import Planner
from .tables import LegacyParty
from .writing import Natives, Outgoing, Writing

if TYPE_CHECKING:
    from .reception import Guest, Rest

WORK_PER_TURN = 64
"""The budget of one connection, beside ``BYTES_PER_TURN``: messages that it sends, and their receivers."""


class Router:
    """All D-Bus connections of one bus."""

    def __init__(self, delivery: Delivery, natives: Natives) -> None:
        self.delivery = delivery
        self.tables = delivery.tables
        self.limits = delivery.limits
        self._core = delivery.tables.core
        self._natives = natives
        self.activation = delivery.activation = Activation(delivery)
        self._planner = Planner(delivery, Driver(delivery), natives, self.activation)
        self.activation.deliver = self._planner.deliver_held
        self.activation.resume = self._go_on
        self._connections: dict[int, Connection] = {}
        uid = self.tables.bus_credentials.uid
        self._users = {uid: hosted_limits(self.limits.of_user(uid))}
        """Who has limits in Core, and what each connection of theirs gets."""
        self._busy: dict[int, None] = {}
        """Connections with work left for the next turn, in order."""
        self.writing = Writing(delivery, natives)
        self.incomplete: set[int] = set()
        """Connections without a name yet."""
        self._deadlines = Deadlines(self._connections)

    # ---- connections -----------------------------------------------------------------------------

    def connect(self, credentials: Credentials, now: float, *, can_pass_fds: bool = True) -> int:
        """A new connection; its id is its hosted peer in Core."""
        self.delivery.now = now
        limits = self.limits.of_user(credentials.uid)
        if credentials.uid not in self._users:
            self._users[credentials.uid] = hosted_limits(limits)
            self._core.set_user_limits(credentials.uid, user_limits(limits))
        peer = self._core.peer_new(credentials.uid, limits=self._users[credentials.uid], overhead=OVERHEAD)
        try:
            # naming a node creates it: 0 is the root, where all messages to this client go
            self._core.send(peer, (), handles=(0,), credentials=credentials)
            self._wait_for_hello(self._enter(peer, credentials, now, can_pass_fds=can_pass_fds))
        except BaseException:
            self._connections.pop(peer, None)
            self.delivery.abandon(peer)
            raise
        return peer

    def meet(self, guest: Guest, rest: Rest | None, accepted: float) -> Connection:
        """A connection that the express lane has let in, as far as it has come there."""
        c = self._enter(guest.peer, guest.credentials, accepted, can_pass_fds=True)
        if guest.unique:
            c.auth, c.party.takes_fds = None, guest.takes_fds
            c.party.unique, c.party.announced = guest.unique, True
            self.tables.enter(c.party)
        if rest is not None:
            if not guest.unique:
                c.take(rest.said, (), accepted)
                self._wait_for_hello(c)
            c.lines, c.party.next_serial = rest.unsent, rest.next_serial
        if c.auth is None:
            self._admit(c)
        return c

    def forget(self, connection: int) -> None:
        """What ``meet`` has entered is no connection after all."""
        self._connections.pop(connection, None)
        self.incomplete.discard(connection)

    def _enter(self, peer: int, credentials: Credentials, accepted: float, can_pass_fds: bool) -> Connection:
        """The peer is that of a connection."""
        limits = self.limits.of_user(credentials.uid)
        party = LegacyParty(peer, credentials, root=(peer, 0))
        self.tables.parties[peer] = party
        auth = ServerAuth(party.uid, self.tables.guid, self.tables.auth, can_pass_fds=can_pass_fds)
        c = self._connections[peer] = Connection(party, auth, limits, accepted)
        self.delivery.flow.meet(peer, limits)
        return c

    def _wait_for_hello(self, c: Connection) -> None:
        self._deadlines.opened(c, self.limits.auth_timeout)
        self.incomplete.add(c.party.peer)

    def configure(self, limits: BusLimits, policy: Policy) -> None:
        """Other limits and rules from now on, for everybody."""
        self.delivery.guard.configure(policy)
        self.limits = self.delivery.limits = limits
        self.delivery.flow.configure(limits)
        for uid in self._users:
            self._users[uid] = hosted_limits(limits.of_user(uid))
            self._core.set_user_limits(uid, user_limits(limits.of_user(uid)))
        if self.delivery.express is not None:
            self.delivery.express.forget_users()
        for c in self._connections.values():
            self._set_limits(c)
            if c.party.express is not None:
                c.party.express.renew(c.party.peer)

    def party(self, connection: int) -> LegacyParty:
        """Who speaks on the connection."""
        return self._connections[connection].party

    def accepts(self) -> bool:
        """False while too many connections have no name yet: then accept none."""
        return len(self.incomplete) < self.limits.max_incomplete_connections

    def too_many(self, credentials: Credentials) -> Excess | None:
        """Why this user gets no further connection before others of it have names; None if it does."""
        most = self.limits.of_user(credentials.uid).max_incomplete_connections
        if len(self.incomplete) < most or most >= self.limits.max_incomplete_connections:
            return None
        used = sum(self.party(c).credentials.uid == credentials.uid for c in self.incomplete)
        return Excess("max_incomplete_connections", most, used) if used >= most else None

    def receive(self, connection: int, data: bytes, fds: Sequence[int], now: float) -> None:
        """Bytes of one recvmsg with their descriptors, whose ownership passes."""
        self.delivery.now = now
        c = self._connections.get(connection)
        if c is None:
            self.delivery.discard(fds)
            return
        was_strange = c.auth is not None
        try:
            c.take(data, fds, now)
        except RemoteProtocolError as error:
            self._end(c, str(error))
            return
        if c.lines:
            self.delivery.wake(connection)
        if c.auth is not None:
            if c.auth.closed:
                c.ending = "authentication failed"
        elif was_strange:
            self._admit(c)
        if c.ending:
            self._close_if_done(c)
            return
        self._advance(c)
        self._deadlines.mind_descriptors(c)

    def end_of_input(self, connection: int, now: float) -> None:
        """EOF: what is complete is executed, the output drained, then the connection closed."""
        self.delivery.now = now
        c = self._connections.get(connection)
        if c is not None:
            c.has_ended = True
            if c.is_empty:
                self._close_if_done(c)
            elif not self._is_held(c):
                self._advance(c)

    def hang_up(self, connection: int, now: float) -> None:
        """The client takes no output any more; what it has sent still counts."""
        self.delivery.now = now
        c = self._connections.get(connection)
        if c is not None:
            c.is_deaf = True
            # it can't be told anything any more, so it should cost those who speak nothing
            self.tables.matches.drop(connection)
            self.delivery.eavesdroppers.pop(connection, None)
            c.lines, c.notice, c.offset = b"", b"", 0
            if connection in self.writing.over_mark:
                self.writing.over_mark.discard(connection)
                self._busy.setdefault(connection)
            self._drop_output(c)
            self._close_if_done(c)

    def disconnect(self, connection: int, now: float) -> None:
        """The socket is gone; nothing if the connection is already."""
        self.delivery.now = now
        if (c := self._connections.get(connection)) is not None:
            self._remove(c)

    def lose(self, connection: int, reason: str, now: float) -> None:
        """What the connection sent can't be read any more: it is closed at once."""
        self.delivery.now = now
        if (c := self._connections.get(connection)) is not None:
            self._end(c, reason)

    def wants_input(self, connection: int) -> bool:
        """Whether to read from the socket."""
        c = self._connections.get(connection)
        return c is not None and not c.has_ended and not c.ending and not self._is_held(c)

    def wanted(self, connection: int) -> int:
        """How many bytes to ask the socket for."""
        return self._connections[connection].wanted()

    def has_output(self, connection: int) -> bool:
        """There is something to write."""
        c = self._connections.get(connection)
        if c is None or c.is_deaf:
            return False
        return bool(c.lines or c.notice) or self._core.is_readable(connection)

    # ---- for the express lane --------------------------------------------------------------------

    def connection(self, connection: int) -> Connection | None:
        """The state of a connection that exists."""
        return self._connections.get(connection)

    def is_idle(self, c: Connection) -> bool:
        """Nothing that it has sent is in hand."""
        return c.is_empty and not self._is_held(c)

    def moved(self, connection: int, when: float) -> None:
        """Others have written messages of its queue, or put the first one there."""
        self.delivery.flow.moved(connection, when)
        self._look_at_mark(connection)

    # ---- turns -----------------------------------------------------------------------------------

    def busy(self) -> list[int]:
        """Connections that can go on with what has been read."""
        return list(self._busy)

    def go_on(self, connection: int, now: float) -> bool:
        """Its turn; False if it has nothing left from before."""
        if connection not in self._busy:
            return False
        self.delivery.now = now
        del self._busy[connection]
        if (c := self._connections.get(connection)) is not None:
            self._advance(c)
        return True

    def tend(self, now: float) -> None:
        """What a turn has to do before anybody is served: pauses that end, deadlines."""
        self.delivery.now = now
        for sender in self.delivery.flow.retries(now):
            self._busy.setdefault(sender)
        self.activation.expire(now)
        self.delivery.overdue.expire(now)
        for c, reason in self._deadlines.expired(now, self.limits.auth_timeout):
            self._end(c, reason)

    def next_deadline(self) -> float | None:
        """When there is something to do (``tend``, ``go_on``); a time that has passed means at once."""
        if self._busy:
            return self.delivery.now
        return earliest((
            self._deadlines.next(), self.delivery.flow.next_deadline(), self.activation.next_deadline(),
            self.delivery.overdue.next_deadline(),
        ))

    def take_effects(self) -> list[Effect]:
        """What the edge has to do."""
        delivery = self.delivery
        if not (delivery.effects or delivery.refusals.noted):
            return []
        effects: list[Effect] = [*delivery.effects, *delivery.take_refused()]
        delivery.effects.clear()
        return effects

    # ---- output ----------------------------------------------------------------------------------

    def outgoing(self, connection: int, limit: int) -> list[Outgoing]:
        """What to write next, in order, about ``limit`` bytes at most (one message at least)."""
        c = self._connections.get(connection)
        if c is None:
            return []
        if c.is_deaf:
            self._drop_output(c)
            return []
        items = self.writing.next_items(c, limit)
        if not items and (c.has_ended or c.ending):
            # notifications without a message were all that was left
            self._close_if_done(c)
        return items

    def sent(self, connection: int, n: int, now: float) -> None:
        """``n`` bytes of ``outgoing`` entered the socket: whole messages leave their queue."""
        self.delivery.now = now
        c = self._connections.get(connection)
        if c is None or n <= 0:
            return
        self.writing.written(c, n, now)
        self._look_at_mark(connection)
        if c.has_ended or c.ending:
            self._close_if_done(c)

    def _look_at_mark(self, connection: int) -> None:
        """Its messages go on once it has read enough of the bus's answers."""
        if connection in self.writing.over_mark and not self.writing.is_over_bus_mark(connection):
            self.writing.over_mark.discard(connection)
            self._busy.setdefault(connection)

    def _drop_output(self, c: Connection) -> bool:
        """What is queued for a deaf client is taken as if it had read it; False if more is left."""
        if self.writing.drop(c):
            return True
        self._busy.setdefault(c.party.peer)
        return False

    # ---- one connection --------------------------------------------------------------------------

    def _advance(self, c: Connection) -> None:
        """Handle what is complete, within the budget; the rest is for the next turn."""
        if c.ending:
            return
        peer, budget = c.party.peer, BYTES_PER_TURN
        try:
            end = self.delivery.work + WORK_PER_TURN
            while self.delivery.work < end:
                if peer not in self._connections:
                    return
                if c.is_deaf:
                    if not self._drop_output(c):
                        return
                elif self.writing.is_over_bus_mark(peer):
                    self.writing.over_mark.add(peer)
                    return
                elif self._keeps_too_much(c):
                    return
                incoming, used = c.advance(budget)
                budget -= used
                self.delivery.work += 1
                if incoming is None:
                    break
                if not self._handle(c, incoming):
                    c.hold(incoming)
                    return
                if budget <= 0:
                    break
            else:
                budget = 0
        except RemoteProtocolError as error:
            self._end(c, str(error))
            return
        if budget <= 0:
            self._busy[peer] = None
        elif c.has_ended:
            self._close_if_done(c)

    def _handle(self, c: Connection, incoming: Incoming) -> bool:
        """One message; False if it has to wait."""
        try:
            if not self._planner.plan(c.party, incoming):
                return False
        except Exception:
            # the connection is over, and the message is no part of it any more
            self.delivery.discard(incoming.fds)
            raise
        self.delivery.discard(incoming.fds)
        incoming.fds = ()
        if c.party.unique:
            self.incomplete.discard(c.party.peer)
        return True

    def _go_on(self, connection: int) -> None:
        """What the connection's message waited for is known: it is planned again in the next turn."""
        if connection in self._connections:
            self._busy.setdefault(connection)

    def _is_held(self, c: Connection) -> bool:
        """Its next message has to wait, or it has work left, or it doesn't read its answers."""
        peer = c.party.peer
        if c.incoming is not None or peer in self._busy or self._keeps_too_much(c):
            return True
        return not c.is_deaf and self.writing.is_over_bus_mark(peer)

    def _keeps_too_much(self, c: Connection) -> bool:
        """What it has sent, and nobody has taken yet."""
        kept = self.activation.kept.get(c.party.peer)
        if kept is None:
            return False
        n_bytes, n_fds = kept
        # at least one message is kept, whatever the limits are
        most_bytes, most_fds = c.limits.max_incoming_bytes, c.limits.max_incoming_unix_fds
        return n_bytes >= max(1, most_bytes) or n_fds >= max(1, most_fds)

    def _admit(self, c: Connection) -> None:
        """It is known who the client is: what holds for it, and whether it may stay."""
        self.delivery.guard.admit(c.party)
        self._set_limits(c)
        # who is nobody in particular has passed: without <allow_anonymous/> there is no OK
        if c.party.uid is not None:
            c.ending = self.delivery.guard.refusal_to_connect(c.party.credentials) or ""

    def _set_limits(self, c: Connection) -> None:
        c.limits = self.limits.of_user(c.party.uid)
        self.delivery.flow.meet(c.party.peer, c.limits)

    def _close_if_done(self, c: Connection) -> None:
        """After the client's last byte, or the bus's last line: close once the output is written."""
        if self.has_output(c.party.peer):
            return
        if c.ending:
            self._end(c, c.ending)
        elif c.has_ended and not self._is_held(c):
            self._end(c, "")

    def _end(self, c: Connection, reason: str) -> None:
        who = self.delivery.refusals.named(c.party) if reason else ""
        self.delivery.effects.append(Close(c.party.peer, reason, who))
        self._remove(c)

    def _remove(self, c: Connection) -> None:
        peer = c.party.peer
        del self._connections[peer]
        self._busy.pop(peer, None)
        self.writing.over_mark.discard(peer)
        self.incomplete.discard(peer)
        self.delivery.discard(c.take_descriptors())
        self.delivery.forget(c.party)
