"""copies: what monitors get to see.

Theory. A monitor is a D-Bus client that gave up its name and its voice (BecomeMonitor), and has rules in
an index of its own, which match everything, whoever it is addressed to. Each message that the bus takes
from a client, delivers or says itself is also shown to the monitors whose rules fit: in the form and at
the place in the one order in which its receivers get it, or in which they would have got it had it not
been refused. A copy is an optional parcel of the same transaction; nobody waits for it, and none is an
answer to anything.

Invariants. 1. Without monitors nothing is built, parsed or asked. 2. A monitor that reads too slowly loses
copies, which are counted; nobody else notices. 3. A copy with descriptors goes to monitors that take them
alone.

Not here: how one becomes a monitor (``delivery``), what monitors may not do (``planner``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bus1.core.api import Buffer, Parcel
from bus1.errors import TooLarge

from .. import codec
from ..match import MatchInput
from ..policy import Message
from .connection import Incoming
from .flow import Kind, Verdict, allocated
from .tables import LegacyParty, Party, Tables

NOT_REGISTERED = ":not.active.yet"
"""Who speaks, or is spoken to, before Hello."""
_SMALL_BODY = 4096
"""Bodies up to this size are copied behind their header: one buffer less in each queue."""


def stamped(sender: LegacyParty, incoming: Incoming) -> tuple[Buffer, ...]:
    """The message as it is forwarded; TooLarge if it has grown too large for that."""
    header = codec.stamp(incoming.message, incoming.header, sender.unique or NOT_REGISTERED)
    if incoming.header.body_length <= _SMALL_BODY:
        return (header + incoming.body,)
    return (header, incoming.body)


class Copies:
    """Makes the monitors' parcels."""

    def __init__(
        self, tables: Tables, admits: Callable[[Party | None, Party, int, Kind, Message], Verdict]
    ) -> None:
        self._tables = tables
        self._admits = admits

    def of_incoming(
        self, sender: LegacyParty, incoming: Incoming, parts: tuple[Buffer, ...] | None = None
    ) -> list[Parcel]:
        """For a client's message, whose form as it is forwarded is ``parts``, if that is made already."""
        if incoming.is_shown or not self._tables.monitors:
            return []
        try:
            return self.of(sender, parts or stamped(sender, incoming), len(incoming.fds))
        except TooLarge:
            return []

    def of(self, sender: Party | None, parts: Sequence[Buffer], n_fds: int = 0) -> list[Parcel]:
        """For a finished message, its header in the first part; None is charged as the bus."""
        if not self._tables.monitors:
            return []
        tables = self._tables
        header = codec.parse(parts[0])
        body = parts[1] if len(parts) > 1 else memoryview(parts[0])[header.header_length :]
        speaker = tables.unique.get(header.sender or "")
        receiver = tables.party_of(header.destination) if header.destination else None
        message = MatchInput(
            type=header.type,
            sender=header.sender or "",
            sender_names=tables.names.primary(speaker.peer) if speaker else (),
            path=header.path,
            interface=header.interface,
            member=header.member,
            destination=receiver.unique if receiver else header.destination,
            destination_names=tables.names.primary(receiver.peer) if receiver else (),
            arguments=lambda: codec.arguments(header.signature, body, header.endian),
        )
        size = allocated(sum(map(len, parts)), n_fds)
        return [
            Parcel((monitor.peer, 0), tuple(parts), with_fds=bool(n_fds), mandatory=False)
            for peer in tables.monitors.receivers(message)
            if isinstance(monitor := tables.parties.get(peer), LegacyParty)
            and (monitor.takes_fds or not header.unix_fds)
            and self._admits(sender, monitor, size, Kind.COPY, header) is Verdict.DELIVER
        ]
