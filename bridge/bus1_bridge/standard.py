"""standard: the standard interfaces of native services, which the bus answers for them.

Theory. A native service publishes objects and their description; it knows nothing of D-Bus's
Introspectable and Peer. To a D-Bus client they are there all the same: the answers come from the seed
document and from the machine, in the name of the service.

Not here: which calls come here (``gateway``), the XML (``published``).
"""

from __future__ import annotations

from bus1.core.api import Parcel

from . import codec, hosted, published, wire
from .policy import Fields
from .switch.connection import Incoming
from .switch.delivery import Delivery
from .switch.tables import LegacyParty, NativeParty
from .wire import NO_REPLY_EXPECTED

_INTERFACES = {
    # also what is meant where a call names no interface
    "Introspect": published.INTROSPECTABLE, "Ping": published.PEER, "GetMachineId": published.PEER,
}


class StandardInterfaces:
    """Introspectable and Peer, in the name of any native party."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def method(self, header: wire.Header) -> str | None:
        """The standard method that a call means, if any."""
        interface = _INTERFACES.get(header.member or "")
        return header.member if interface and header.interface in {None, interface} else None

    def answer(self, method: str, sender: LegacyParty, incoming: Incoming, callee: NativeParty) -> bool:
        """Answer the call; False if there is nothing at this path."""
        machine_id = self._delivery.tables.machine_id
        if method == "Introspect":
            text = published.introspect(callee.objects, incoming.header.path or "")
            if text is None:
                return False
            self.reply(sender, incoming, callee, "s", text)
        elif method == "Ping":
            self.reply(sender, incoming, callee)
        elif machine_id:
            self.reply(sender, incoming, callee, "s", machine_id)
        else:
            self._delivery.show(sender, incoming)
            if not incoming.header.flags & NO_REPLY_EXPECTED:
                name = wire.ERROR_PREFIX + "FileNotFound"
                self._delivery.send_error(sender, incoming.header, name, "This machine has no machine id")
        return True

    def reply(
        self, to: LegacyParty, incoming: Incoming, callee: NativeParty, signature: str = "", *values: object
    ) -> None:
        """The answer to a call, in the name of the native party that was called."""
        header = incoming.header
        self._delivery.show(to, incoming)
        fields = Fields(wire.RETURN, destination=to.unique, reply_serial=header.serial)
        if header.flags & NO_REPLY_EXPECTED or (
            self._delivery.guard.refusal(callee, to, fields, requested=True) is not None
        ):
            return
        body = wire.marshal(signature, *values)
        head = codec.build(
            wire.RETURN, flags=NO_REPLY_EXPECTED, serial=hosted.next_serial(to), body_length=len(body),
            reply_serial=header.serial, destination=to.unique, sender=callee.unique, signature=signature,
        )
        parts = (head, body) if body else (head,)
        parcel = Parcel((to.peer, hosted.ROOT), parts, mandatory=False)
        self._delivery.transmit(None, [parcel, *self._delivery.copies.of(None, parts)])
