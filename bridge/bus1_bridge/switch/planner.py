"""planner: where one message of a D-Bus client goes, and who is told if it doesn't.

Theory. A message has one of five ends: the driver, the bus as a peer (calls without destination), one
party, everybody whose rules match, or nobody. Each plan first asks what may keep it from happening,
then opens the reply slot, then makes one Core transaction; clients that eavesdrop, and monitors, are
optional parcels of it. What keeps it from happening is raised (``DriverError``): then monitors alone see the
message, and the sender is told. The errors and their order are those of the reference.

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
from ..wire import CALL, DRIVER_NAME, ERROR, NO_AUTO_START, NO_REPLY_EXPECTED, RETURN, SIGNAL
from .connection import Incoming
from .copies import stamped
from .delivery import Delivery
from .flow import Kind, Verdict, allocated
from .questions import Unanswered
from .tables import LegacyParty, NativeParty, Party

_KINDS = {CALL: Kind.CALL, RETURN: Kind.REPLY, ERROR: Kind.REPLY, SIGNAL: Kind.SIGNAL}


class NativeEnds(Protocol):
    """What a plan needs of the gateway."""

    def from_legacy(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """A unicast whose end is native or a capability; False: it has to wait. True: owns the fds."""

    def subscribers(self, sender: LegacyParty, header: wire.Header, body: Buffer) -> list[Parcel]:
        """Native subscribers of a client's signal."""


class Answering(Protocol):
    """What a plan needs of the driver."""

    def handle(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """A message to the driver; False if the answer is an error."""

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

    def plan(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """Carry the message out; False if it has to wait. RemoteProtocolError: disconnect."""
        header = incoming.header
        if sender.is_monitor:
            raise RemoteProtocolError("a monitor may not send messages")
        if header.destination is None and header.type != SIGNAL:
            if header.type == CALL:
                self._driver.handle_as_peer(sender, incoming)
            return True
        if not sender.unique and header.destination != DRIVER_NAME:
            self._delivery.show(sender, incoming)
            raise RemoteProtocolError("a message to others before Hello")
        try:
            return self._plan(sender, incoming)
        except Unanswered:
            return False
        except DriverError as error:
            self._refuse(sender, incoming, error)
            return True

    def deliver_held(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A message whose destination was started meanwhile."""
        assert incoming.header.destination
        try:
            self._unicast(sender, incoming, incoming.header.destination)
        except DriverError as error:
            self._refuse(sender, incoming, error)

    def _refuse(self, sender: LegacyParty, incoming: Incoming, error: DriverError) -> None:
        self._delivery.show(sender, incoming)
        self._delivery.send_error(sender, incoming.header, error.name, str(error))

    def _plan(self, sender: LegacyParty, incoming: Incoming) -> bool:
        destination = incoming.header.destination
        if destination == DRIVER_NAME:
            self._to_driver(sender, incoming)
        elif destination is None:
            self._broadcast(sender, incoming)
        else:
            return self._unicast(sender, incoming, destination)
        return True

    def _to_driver(self, sender: LegacyParty, incoming: Incoming) -> None:
        _check_type(incoming.header)
        if sender.unique:
            self._check_policy(sender, None, incoming.header)
        if not self._driver.handle(sender, incoming):
            return
        # those who eavesdrop go without a message whose descriptors went to monitors
        is_whole = len(incoming.fds) == incoming.header.unix_fds
        if self._delivery.eavesdroppers and sender.unique and is_whole:
            parcels, refusals = self._to_matching(sender, incoming, _stamped(sender, incoming))
            self._transmit(sender, parcels, incoming, refusals)

    def _broadcast(self, sender: LegacyParty, incoming: Incoming) -> None:
        parts = _stamped(sender, incoming)
        parcels, refusals = self._to_matching(sender, incoming, parts)
        parcels += self._natives.subscribers(sender, incoming.header, incoming.body)
        parcels += self._delivery.copies.of_incoming(sender, incoming, parts)
        self._transmit(sender, parcels, incoming, refusals)

    def _unicast(self, sender: LegacyParty, incoming: Incoming, destination: str) -> bool:
        header = incoming.header
        target = self._tables.party_for(sender, destination)
        if target is not None:
            _check_type(header)
        if isinstance(target, NativeParty) or (header.type == CALL and is_capability(header.path or "")):
            if not self._natives.from_legacy(sender, incoming):
                return False
            incoming.fds = ()
            return True
        if not isinstance(target, LegacyParty):
            self._to_nobody(sender, incoming, destination)
            return True
        return self._to_client(sender, target, incoming)

    def _to_client(self, sender: LegacyParty, reader: LegacyParty, incoming: Incoming) -> bool:
        """One party that is a D-Bus client."""
        header, delivery = incoming.header, self._delivery
        self._check_policy(sender, reader, header)
        kind = _KINDS[header.type]
        size = allocated(len(incoming.message) + len(sender.unique) + 16, len(incoming.fds))
        verdict = delivery.admits(
            sender, reader, size, kind, header, fds=incoming.fds, may_wait=incoming.may_wait
        )
        if verdict is Verdict.PAUSE:
            return False
        if verdict is not Verdict.DELIVER:
            self._full(sender, reader, incoming, size, told=verdict is Verdict.REFUSE)
            return True
        parts = _stamped(sender, incoming)
        self._check_call(sender, reader, incoming)
        parcels = [Parcel((reader.peer, 0), parts, with_fds=bool(incoming.fds))]
        refusals: list[DriverError] = []
        if delivery.eavesdroppers:
            copies, refusals = self._to_matching(sender, incoming, parts, besides=reader)
            parcels += copies
        parcels += delivery.copies.of_incoming(sender, incoming, parts)
        try:
            self._transmit(sender, parcels, incoming, refusals)
        except Overloaded:
            if _awaits_reply(header):
                self._tables.replies.take(sender.peer, reader.peer, header.serial)
            self._full(sender, reader, incoming, size, told=True)
            return True
        if kind is Kind.REPLY:
            self._tables.replies.take(reader.peer, sender.peer, header.reply_serial)
        return True

    def _to_nobody(self, sender: LegacyParty, incoming: Incoming, destination: str) -> None:
        """Nobody owns the name: what can be started is started, and the message waits for that."""
        header = incoming.header
        if header.flags & NO_AUTO_START:
            raise DriverError("NameHasNoOwner", f'Name "{destination}" does not exist')
        found = self._activation.look_up(sender, destination)
        _check_type(header)
        self._check_policy(sender, None, header)
        shortage = self._tables.shortage(max(incoming.fds)) if incoming.fds else None
        if shortage is not None:
            about = self._delivery.refusals.message(sender, None, header)
            raise DriverError("LimitsExceeded", self._delivery.refusals.over(shortage, sender, about))
        held = self._activation.hold(sender, incoming, destination, found)
        if not held.incoming.fds:
            # else monitors see it, with its descriptors, when it is delivered or refused
            self._delivery.show(sender, held.incoming)

    def _check_policy(self, sender: LegacyParty, receiver: Party | None, header: wire.Header) -> None:
        refusal = self._delivery.guard.refusal(sender, receiver, header)
        if refusal is not None:
            raise DriverError("AccessDenied", refusal)

    def _check_call(self, sender: LegacyParty, reader: LegacyParty, incoming: Incoming) -> None:
        """Refuse what the reader can't take; open the slot of a call that awaits an answer."""
        header = incoming.header
        if incoming.fds and not reader.takes_fds:
            raise _no_descriptors(reader)
        if not _awaits_reply(header):
            return
        text = self._delivery.too_many_calls(sender, reader, header)
        if text is not None:
            raise DriverError("LimitsExceeded", text)
        try:
            self._tables.replies.add(sender.peer, reader.peer, header.serial, self._delivery.now)
        except NotUnique as error:
            raise DriverError(
                "AccessDenied",
                f"Message has the same reply serial as a currently-outstanding existing method call: "
                f"{header.serial} of {sender.unique} to {reader.unique}",
            ) from error
        self._delivery.overdue.opened()

    def _to_matching(
        self, sender: LegacyParty, incoming: Incoming, parts: tuple[Buffer, ...],
        besides: Party | None = None,
    ) -> tuple[list[Parcel], list[DriverError]]:
        """Optional parcels to the clients whose rules match, as far as they can take the message.

        And why others of them may not have it."""
        delivery, header, fds = self._delivery, incoming.header, incoming.fds
        size = allocated(sum(map(len, parts)), len(fds))
        parcels, refusals = [], []
        for reader in delivery.receivers(sender, header, incoming.body):
            if reader is besides:
                continue
            refusal = delivery.guard.refusal(sender, reader, header, addressed=False)
            if refusal is not None:
                refusals.append(DriverError("AccessDenied", refusal))
            elif fds and not reader.takes_fds:
                refusals.append(_no_descriptors(reader))
            elif delivery.admits(
                sender, reader, size, Kind.BROADCAST, header, fds=fds
            ) is Verdict.DELIVER:
                parcels.append(Parcel((reader.peer, 0), parts, with_fds=bool(fds), mandatory=False))
        return parcels, refusals

    def _transmit(
        self, sender: LegacyParty, parcels: list[Parcel], incoming: Incoming, refusals: list[DriverError]
    ) -> None:
        if parcels:
            self._delivery.transmit(sender, parcels, incoming.fds)
            incoming.fds = ()
        if self._tables.monitors:
            # nobody is told that it may not listen, but monitors are
            for error in refusals:
                self._delivery.send_error(
                    sender, incoming.header, error.name, str(error), only_monitors=True
                )

    def _full(
        self, sender: LegacyParty, reader: LegacyParty, incoming: Incoming, size: int, *, told: bool
    ) -> None:
        """The reader has too much waiting: tell whoever counts on this message."""
        header = incoming.header
        is_reply = _KINDS[header.type] is Kind.REPLY
        if told and not is_reply:
            text = self._delivery.why_full(sender, reader, size, header, incoming.fds)
            raise DriverError("LimitsExceeded", text)
        self._delivery.show(sender, incoming)
        if is_reply and self._tables.replies.take(reader.peer, sender.peer, header.reply_serial):
            text = self._delivery.why_full(sender, reader, size, header, incoming.fds)
            self._delivery.send_no_reply(
                reader, header.reply_serial, f"The reply of {sender.unique} was dropped: {text}"
            )


def _stamped(sender: LegacyParty, incoming: Incoming) -> tuple[Buffer, ...]:
    try:
        return stamped(sender, incoming)
    except TooLarge as error:
        raise DriverError("LimitsExceeded", str(error)) from error


def _no_descriptors(reader: LegacyParty) -> DriverError:
    return DriverError(
        "NotSupported",
        f"Tried to send message with Unix file descriptors to {reader.unique}, "
        "a client that doesn't support that.",
    )


def _check_type(header: wire.Header) -> None:
    if header.type > SIGNAL:
        raise DriverError(
            "AccessDenied", f"Message bus will not accept messages of unknown type {header.type}"
        )


def _awaits_reply(header: wire.Header) -> bool:
    return header.type == CALL and not header.flags & NO_REPLY_EXPECTED
