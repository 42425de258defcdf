"""method: one row of the driver's table, one call of it, and the answer.

Theory. A row says what a method takes and returns, and under which conditions it is answered. Its function
sees the call alone. An answer is mostly given at once; a method that must wait for the world returns
``LATER`` and keeps the call's ticket, which names caller and serial and holds no part of the message.

Invariants. 1. A ticket whose caller has gone is worthless, and harmless.

Not here: which row a message means (``dispatch``), the rows (``table``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from bus1.errors import Bus1Error
from bus1.record import field, record

from .. import wire
from ..switch.delivery import Delivery
from ..switch.tables import LegacyParty, Party
from ..wire import DRIVER_NAME, DRIVER_PATH, ERROR, NO_REPLY_EXPECTED, RETURN
from .errors import DriverError, error_name

PEER_INTERFACE = "org.freedesktop.DBus.Peer"
PROPERTIES_INTERFACE = "org.freedesktop.DBus.Properties"
MONITORING_INTERFACE = "org.freedesktop.DBus.Monitoring"
STATS_INTERFACE = "org.freedesktop.DBus.Debug.Stats"
ENDPOINTS_INTERFACE = "org.bus1.Endpoints1"
INTROSPECTABLE_INTERFACE = "org.freedesktop.DBus.Introspectable"

Values = tuple[Any, ...]
"""Of one reply, by its signature."""
LATER: Final = None
"""Returned by a method whose reply comes later."""


class Ticket(NamedTuple):
    """Who waits for which answer."""

    caller: LegacyParty
    serial: int
    returns: str
    wants_reply: bool
    anonymous: bool = False
    """The answer carries no sender: the call had no destination."""


@record(frozen=True)
class Call:
    """One call to the driver."""

    delivery: Delivery
    caller: LegacyParty
    header: wire.Header
    methods: tuple[Method, ...]
    """The whole table, for those that describe it."""
    method: Method
    afterwards: list[Callable[[], None]] = field(default_factory=list)
    """What happens once the reply is queued."""
    fds: list[int] = field(default_factory=list)
    """Descriptors that go with the reply, whose ownership passes."""

    @property
    def is_at_home(self) -> bool:
        """It was sent to the driver's own path."""
        return self.header.path == DRIVER_PATH

    @property
    def is_privileged(self) -> bool:
        """The caller is root or the user of the bus."""
        return self.delivery.tables.trusts(self.caller)

    def ticket(self) -> Ticket:
        """What is needed to answer it, now or later."""
        header, method = self.header, self.method
        # as the reference: values are sent whether anybody wants them or not
        wants_reply = bool(method.returns) or not header.flags & NO_REPLY_EXPECTED
        return Ticket(self.caller, header.serial, method.returns, wants_reply)

    def target(self, name: str, what: str) -> Party | None:
        """The party behind a name, None for the bus; NameHasNoOwner, as ``what`` of it was asked for."""
        if name == DRIVER_NAME:
            return None
        party = self.delivery.tables.party_for(self.caller, name)
        if party is None:
            raise DriverError("NameHasNoOwner", f"Could not get {what} of name '{name}': no such name")
        return party


class Method(NamedTuple):
    """A row of the table."""

    interface: str
    name: str
    takes: str
    returns: str
    answer: Callable[..., Values | None]
    on_every_path: bool = True
    """False: only on the driver's own path. An interface without any other method exists only there."""
    is_privileged: bool = False
    """Only for root and the user of the bus."""
    shows_all: bool = False
    """It is about the whole bus: not for those who see a part of it."""
    reads: str | None = None
    """Signature of the first arguments, which are all that ``answer`` gets; None for all of them."""


def reply(delivery: Delivery, ticket: Ticket, values: Values, fds: Sequence[int] = ()) -> None:
    """Answer the call of this ticket, with descriptors that pass; nothing if the caller has gone."""
    if ticket.wants_reply and _is_there(delivery, ticket):
        delivery.send_from_bus(
            ticket.caller, RETURN, reply_serial=ticket.serial, signature=ticket.returns,
            body=wire.marshal(ticket.returns, *values), anonymous=ticket.anonymous, fds=fds,
        )
    else:
        delivery.discard(fds)


def refuse(delivery: Delivery, ticket: Ticket, error: Bus1Error) -> None:
    """Answer the call of this ticket with an error; nothing if the caller has gone."""
    if _is_there(delivery, ticket):
        delivery.send_from_bus(
            ticket.caller, ERROR, error_name=error_name(error), reply_serial=ticket.serial, signature="s",
            body=wire.error_body(str(error)), anonymous=ticket.anonymous,
        )


def _is_there(delivery: Delivery, ticket: Ticket) -> bool:
    return delivery.tables.parties.get(ticket.caller.peer) is ticket.caller
