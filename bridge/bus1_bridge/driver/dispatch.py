"""dispatch: a message to the bus finds its row, and gets its answer.

Theory. The checks are the reference's, in its order: the interface exists at this path, it has the method,
the caller has the right, the path is the right one, the signature fits.

Not here: what methods do.
"""

from __future__ import annotations

from bus1.errors import Bus1Error, Denied, InvalidArgument

from .. import wire
from ..switch.connection import Incoming
from ..switch.delivery import Delivery
from ..switch.tables import LegacyParty
from ..wire import CALL, DRIVER_NAME, DRIVER_PATH
from . import services
from .errors import DriverError, error_name
from .method import LATER, PEER_INTERFACE, Call, Method, Ticket, Values, reply
from .table import METHODS

_ON_EVERY_PATH = frozenset(method.interface for method in METHODS if method.on_every_path)
_INTERFACES = frozenset(method.interface for method in METHODS)
_BY_NAME = {name: [m for m in METHODS if m.name == name] for name in {method.name for method in METHODS}}
_AS_PEER = {method.name: method for method in METHODS if method.interface == PEER_INTERFACE}


class Driver:
    """Answers what is addressed to the bus."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def handle(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """A message to the driver; all but calls are ignored, one signal of systemd apart.

        False if the answer is an error."""
        header = incoming.header
        is_stranger = not sender.unique
        if header.type != CALL:
            # first, so that monitors see that a start has failed before they see who said so
            services.hear(self._delivery, sender, incoming)
            self._delivery.show(sender, incoming)
            return True
        if not is_stranger:
            self._delivery.show(sender, incoming)
        try:
            if is_stranger and (header.interface, header.member) != (DRIVER_NAME, "Hello"):
                raise Denied("Client tried to send a message other than Hello without being registered")
            call = Call(self._delivery, sender, header, METHODS, _look_up(header))
            _check(call)
            values = _ask(call, incoming)
        except Bus1Error as error:
            if is_stranger:
                self._delivery.show(sender, incoming)
            self._delivery.send_error(sender, header, error_name(error), str(error))
            return False
        if is_stranger and self._delivery.tables.monitors:
            # monitors see Hello under the name that it gives
            self._delivery.show(sender, incoming)
        _answer(call, values)
        return True

    def handle_as_peer(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A call without destination: the bus as any other peer; the answer carries no sender.

        As in the reference it needs an interface, its arguments are not looked at, and it is answered in
        any case."""
        header = incoming.header
        method = _AS_PEER.get(header.member or "") if header.interface == PEER_INTERFACE else None
        try:
            if method is None:
                raise DriverError(
                    "UnknownMethod",
                    f'Method "{header.member}" with signature "{header.signature}" '
                    f'on interface "{header.interface or "(null)"}" doesn\'t exist\n',
                )
            call = Call(self._delivery, sender, header, METHODS, method)
            values = method.answer(call)
        except Bus1Error as error:
            self._delivery.send_error(sender, header, error_name(error), str(error), anonymous=True)
        else:
            ticket = Ticket(sender, header.serial, method.returns, wants_reply=True, anonymous=True)
            reply(self._delivery, ticket, values or ())


def _look_up(header: wire.Header) -> Method:
    interface, at_home = header.interface, header.path == DRIVER_PATH
    for method in _BY_NAME.get(header.member or "", ()):
        if interface in (None, method.interface) and (at_home or method.interface in _ON_EVERY_PATH):
            return method
    is_known = interface is None or interface in (_INTERFACES if at_home else _ON_EVERY_PATH)
    raise DriverError(
        "UnknownMethod" if is_known else "UnknownInterface",
        f"{DRIVER_NAME} does not understand message {header.member}",
    )


def _check(call: Call) -> None:
    method, header, caller = call.method, call.header, call.caller
    if method.is_privileged and not call.is_privileged:
        what = f"{method.interface}.{method.name}"
        text = f"{caller.unique} may not call {what}: that is for root and the user of the bus"
        raise Denied(call.delivery.refusals.denied(caller, text, what))
    if method.shows_all and caller.sight is not None:
        what = f"call {method.interface}.{method.name}"
        raise Denied(call.delivery.guard.refusal_by_entrance(caller, what))
    if not (call.is_at_home or method.on_every_path):
        raise Denied(f"{method.interface}.{method.name} is answered at {DRIVER_PATH}, not at {header.path}")
    if method.takes != header.signature:
        raise InvalidArgument(
            f"Call to {method.name} has wrong args ({header.signature}, expected {method.takes})"
        )


def _ask(call: Call, incoming: Incoming) -> Values | None:
    method = call.method
    reads = method.takes if method.reads is None else method.reads
    return method.answer(call, *wire.unmarshal(reads, incoming.body, call.header.endian))


def _answer(call: Call, values: Values | None) -> None:
    if values is not LATER:
        reply(call.delivery, call.ticket(), values, call.fds)
        # an action knows its call: left there, both would be for the garbage collector
        while call.afterwards:
            call.afterwards.pop(0)()
