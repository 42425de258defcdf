"""planner: where one message of a D-Bus client goes, and who is told if it doesn't.

Theory. A message has one of five ends: the driver, the bus as a peer (calls without destination), one
party, everybody whose rules match, or nobody. Each plan first asks what may keep it from happening,
then opens the reply slot, then makes one Core transaction; clients that eavesdrop are optional
parcels of it. The errors and their order are those of the reference (spec/dbus-bus.md §4, §6).

Invariants. 1. A plan that has to wait (``plan`` is False) has changed nothing but the pause.
2. Descriptors of a message are given away exactly if its transaction succeeded or a native end took it;
otherwise ``incoming.fds`` still lists them.

Not here: budgets and connections (router), what the driver answers (driver), marks (flow).
"""

from __future__ import annotations

from typing import Protocol

from bus1.core.api import Buffer, Parcel
from bus1.errors import NotUnique, Overloaded, RemoteProtocolError, TooLarge

from .. import wire
from ..activation import Activation
from ..capabilities import is_capability
from ..driver.errors import DriverError
from ..wire import CALL, ERROR_PREFIX, NO_AUTO_START, NO_REPLY_EXPECTED, SIGNAL
from .connection import Incoming
from .delivery import DRIVER_NAME, Delivery
from .flow import Kind, Verdict, allocated
from .questions import Unanswered
from .tables import LegacyParty, NativeParty, Party

_SMALL_BODY = 4096
"""Bodies up to this size are copied behind their header: one buffer less in each queue."""
_KINDS = {1: Kind.CALL, 2: Kind.REPLY, 3: Kind.REPLY, 4: Kind.SIGNAL}

ACCESS_DENIED = ERROR_PREFIX + "AccessDenied"
LIMITS_EXCEEDED = ERROR_PREFIX + "LimitsExceeded"
NAME_HAS_NO_OWNER = ERROR_PREFIX + "NameHasNoOwner"
NOT_SUPPORTED = ERROR_PREFIX + "NotSupported"


class NativeEnds(Protocol):
    """What a plan needs of the gateway."""

    def from_legacy(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """A unicast whose end is native or a capability; False: it has to wait. True: owns the fds."""

    def subscribers(self, sender: LegacyParty, header: wire.Header, body: Buffer) -> list[Parcel]:
        """Native subscribers of a client's signal."""


class Answering(Protocol):
    """What a plan needs of the driver."""

    def handle(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A message to the driver."""

    def handle_as_peer(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A call without destination."""


class Planner:
    """The one path of every message of a D-Bus client."""

    def __init__(
        self, delivery: Delivery, driver: Answering, natives: NativeEnds, activation: Activation
    ) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._driver = driver
        self._natives = natives
        self._activation = activation

    def plan(self, sender: LegacyParty, incoming: Incoming, now: float) -> bool:
        """Carry the message out; False if it has to wait. RemoteProtocolError: disconnect."""
        try:
            return self._plan(sender, incoming, now)
        except Unanswered:
            return False

    def deliver_held(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A message whose destination was started meanwhile."""
        assert incoming.header.destination
        self._unicast(sender, incoming, incoming.header.destination, self._delivery.now)

    def _plan(self, sender: LegacyParty, incoming: Incoming, now: float) -> bool:
        header = incoming.header
        if header.destination == DRIVER_NAME:
            self._to_driver(sender, incoming)
        elif header.destination is None and header.type != SIGNAL:
            if header.type == CALL:
                self._driver.handle_as_peer(sender, incoming)
        elif not sender.unique:
            raise RemoteProtocolError("a message to others before Hello")
        elif header.destination is None:
            self._broadcast(sender, incoming, now)
        else:
            return self._unicast(sender, incoming, header.destination, now)
        return True

    def _to_driver(self, sender: LegacyParty, incoming: Incoming) -> None:
        if incoming.header.type > SIGNAL:
            self._refuse_type(sender, incoming)
            return
        self._driver.handle(sender, incoming)
        if self._delivery.eavesdroppers and sender.unique:
            parts = self._stamped(sender, incoming)
            if parts is not None:
                self._transmit(sender, self._to_matching(sender, incoming, parts), incoming)

    def _broadcast(self, sender: LegacyParty, incoming: Incoming, now: float) -> None:
        parts = self._stamped(sender, incoming)
        if parts is None:
            return
        parcels = self._to_matching(sender, incoming, parts)
        parcels += self._natives.subscribers(sender, incoming.header, incoming.body)
        self._transmit(sender, parcels, incoming)

    def _unicast(self, sender: LegacyParty, incoming: Incoming, destination: str, now: float) -> bool:
        header = incoming.header
        target = self._tables.party_of(destination)
        if target is not None and header.type > SIGNAL:
            self._refuse_type(sender, incoming)
            return True
        if isinstance(target, NativeParty) or (header.type == CALL and is_capability(header.path or "")):
            if not self._natives.from_legacy(sender, incoming):
                return False
            incoming.fds = ()
            return True
        if not isinstance(target, LegacyParty):
            self._to_nobody(sender, incoming, destination)
            return True
        return self._to_client(sender, target, incoming, now)

    def _to_client(self, sender: LegacyParty, reader: LegacyParty, incoming: Incoming, now: float) -> bool:
        """One party that is a D-Bus client."""
        header, delivery = incoming.header, self._delivery
        kind = _KINDS[header.type]
        size = allocated(len(incoming.message) + len(sender.unique) + 16, len(incoming.fds))
        verdict = delivery.admits(sender, reader, size, kind, now, may_wait=incoming.may_wait)
        if verdict is Verdict.PAUSE:
            return False
        if verdict is not Verdict.DELIVER:
            self._full(sender, reader, header, told=verdict is Verdict.REFUSE)
            return True
        parts = self._stamped(sender, incoming)
        if parts is None or not self._may_call(sender, reader, incoming):
            return True
        parcels = [Parcel((reader.peer, 0), parts, with_fds=bool(incoming.fds))]
        if delivery.eavesdroppers:
            parcels += self._to_matching(sender, incoming, parts, besides=reader)
        try:
            self._transmit(sender, parcels, incoming)
        except Overloaded:
            if _awaits_reply(header):
                self._tables.replies.take(sender.peer, reader.peer, header.serial)
            self._full(sender, reader, header, told=True)
            return True
        if kind is Kind.REPLY:
            self._tables.replies.take(reader.peer, sender.peer, header.reply_serial)
        return True

    def _may_call(self, sender: LegacyParty, reader: LegacyParty, incoming: Incoming) -> bool:
        """Refuse what the reader can't take; open the slot of a call that awaits an answer."""
        header, delivery = incoming.header, self._delivery
        if incoming.fds and not reader.takes_fds:
            delivery.send_error(
                sender, header, NOT_SUPPORTED,
                f"Tried to send message with Unix file descriptors to {reader.unique}, "
                "a client that doesn't support that.",
            )
            return False
        if not _awaits_reply(header):
            return True
        limit = delivery.limits.max_replies_per_connection
        if self._tables.replies.outstanding(sender.peer) + len(sender.open_replies) >= limit:
            delivery.send_error(
                sender, header, LIMITS_EXCEEDED,
                f"The maximum number of pending replies of {sender.unique}, {limit}, has been reached",
            )
            return False
        try:
            self._tables.replies.add(sender.peer, reader.peer, header.serial)
        except NotUnique:
            delivery.send_error(
                sender, header, ACCESS_DENIED,
                f"Message has the same reply serial as a currently-outstanding existing method call: "
                f"{header.serial} of {sender.unique} to {reader.unique}",
            )
            return False
        return True

    def _to_matching(
        self, sender: LegacyParty, incoming: Incoming, parts: tuple[Buffer, ...],
        besides: Party | None = None,
    ) -> list[Parcel]:
        """Optional parcels to the clients whose rules match, as far as they can take the message."""
        delivery, fds = self._delivery, incoming.fds
        size = allocated(sum(map(len, parts)), len(fds))
        return [
            Parcel((reader.peer, 0), parts, with_fds=bool(fds), mandatory=False)
            for reader in delivery.receivers(sender, incoming.header, incoming.body)
            if reader is not besides
            and (reader.takes_fds or not fds)
            and delivery.admits(sender, reader, size, Kind.BROADCAST, delivery.now) is Verdict.DELIVER
        ]

    def _transmit(self, sender: LegacyParty, parcels: list[Parcel], incoming: Incoming) -> None:
        if parcels:
            self._delivery.transmit(sender, parcels, incoming.fds)
            incoming.fds = ()

    def _stamped(self, sender: LegacyParty, incoming: Incoming) -> tuple[Buffer, ...] | None:
        """The message as it is forwarded; None if it has grown too large for that."""
        try:
            header = wire.stamp(incoming.message, incoming.header, sender.unique)
        except TooLarge as error:
            self._delivery.send_error(sender, incoming.header, LIMITS_EXCEEDED, str(error))
            return None
        if incoming.header.body_length <= _SMALL_BODY:
            return (header + incoming.body,)
        return (header, incoming.body)

    def _full(self, sender: LegacyParty, reader: LegacyParty, header: wire.Header, *, told: bool) -> None:
        """The reader has too much waiting: tell whoever counts on this message."""
        text = f"{reader.unique} does not read: too much waits for it"
        if _KINDS[header.type] is not Kind.REPLY:
            if told:
                self._delivery.send_error(sender, header, LIMITS_EXCEEDED, text)
        elif self._tables.replies.take(reader.peer, sender.peer, header.reply_serial):
            self._delivery.send_no_reply(
                reader, header.reply_serial, f"The reply of {sender.unique} was dropped: {text}"
            )

    def _refuse_type(self, sender: LegacyParty, incoming: Incoming) -> None:
        self._delivery.send_error(
            sender, incoming.header, ACCESS_DENIED,
            f"Message bus will not accept messages of unknown type {incoming.header.type}",
        )

    def _to_nobody(self, sender: LegacyParty, incoming: Incoming, destination: str) -> None:
        """Nobody owns the name: what can be started is started, and the message waits for that."""
        header = incoming.header
        if header.flags & NO_AUTO_START:
            self._delivery.send_error(
                sender, header, NAME_HAS_NO_OWNER, f'Name "{destination}" does not exist'
            )
            return
        try:
            found = self._activation.look_up(sender, destination)
            if header.type > SIGNAL:
                self._refuse_type(sender, incoming)
            else:
                self._activation.hold(sender, incoming, destination, found)
        except DriverError as error:
            self._delivery.send_error(sender, header, error.name, str(error))


def _awaits_reply(header: wire.Header) -> bool:
    return header.type == CALL and not header.flags & NO_REPLY_EXPECTED
