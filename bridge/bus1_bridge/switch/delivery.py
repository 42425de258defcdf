"""delivery: the one door from the Switch into Core's queues.

Theory. Planner, driver, gateway and registry hand finished D-Bus messages to it as parcels, and it makes
one Core transaction of them (docs/design.md §6). It speaks for the bus itself (errors, NameOwnerChanged and
its kin), and knows who receives a broadcast. A message of the bus is a parcel of the bus peer to the root
node of the reader, so a snapshot shows it like any other. It is also where those who move messages find
whom they ask first: ``guard``, ``flow``, ``refusals``, ``questions``, and the time of the turn.

Invariants. 1. Every message to a D-Bus client went through ``core.route``. 2. Serials of the bus count
1, 2, 3 … per connection, without those of unanswered native calls.

Not here: the meaning of messages (planner, driver, gateway), who may queue how much (flow), monitors'
copies (copies), the end of a party (departure).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Protocol

from bus1.core.api import Buffer, Credentials, Parcel
from bus1.errors import Bus1Error

from .. import codec, hosted, wire
from ..match import MatchInput
from ..names import Change
from ..policy import Fields, Message
from ..wire import DRIVER_NAME, DRIVER_PATH, ERROR, ERROR_PREFIX, NO_REPLY_EXPECTED, SIGNAL
from . import departure
from .connection import Incoming
from .copies import NOT_REGISTERED, Copies
from .effects import CloseDescriptors, Effect, Refusal, Wake
from .flow import Flow, Kind, Verdict, allocated
from .guard import Guard
from .limits import BusLimits, Excess
from .overdue import Overdue
from .pace import Pace
from .questions import Questions
from .refusals import Refusals
from .tables import LegacyParty, NativeParty, Party, Tables

if TYPE_CHECKING:
    from ..activation import Activation
    from ..busobject import Served
    from ..entrances import Entrances
    from .express import Express

NO_REPLY = ERROR_PREFIX + "NoReply"

_SERIAL = Struct("<I")


class Watchers(Protocol):
    """Who follows names without being a D-Bus client: the registry's watchers."""

    def names_changed(self, changes: Sequence[Change]) -> None:
        """Tell them; called right after NameOwnerChanged was queued for the same changes."""


class Delivery:
    """Parcels into Core, on behalf of clients and of the bus."""

    def __init__(self, tables: Tables, limits: BusLimits | None = None) -> None:
        self.tables = tables
        self.limits = limits or BusLimits()
        self.flow = Flow(tables.core, self.limits)
        self.refusals = Refusals(tables)
        self.guard = Guard(tables, self.refusals)
        self.now = 0.0
        """The time of the current turn: set by whoever drives the bus before anything else happens."""
        self.copies = Copies(tables, self.admits)
        self.pace = Pace()
        self.overdue = Overdue(self)
        self.watchers: Watchers | None = None
        self.activation: Activation | None = None
        self.late: deque[Served] = deque()
        """Answers of the bus to native peers that had to wait for them."""
        self.entrances: Entrances | None = None
        self.express: Express | None = None
        """The lane that knows the names, too."""
        self.eavesdroppers: Counter[int] = Counter()
        """How many rules with eavesdrop='true' a peer has; only peers that have one."""
        self.work = 0
        """Counts what takes time: messages that are handled, and each delivery of one."""
        self.asked: Counter[str] = Counter()
        """How often each kind of statistics was asked for."""
        self.effects: list[Effect] = []
        self.questions = Questions(self.effects)

    # ---- parcels ---------------------------------------------------------------------------------

    def transmit(
        self, sender: Party | None, parcels: Sequence[Parcel], fds: Sequence[int] = (),
        *, credentials: Credentials | None = None,
    ) -> list[int]:
        """One transaction; None stands for the bus. Returns Core's slots, 0 or -errno.

        ``credentials`` are those of this send, where the kernel gave new ones. Raises what
        ``core.route`` raises (a mandatory parcel failed); then ``fds`` stay the caller's."""
        tables = self.tables
        peer = tables.bus_peer if sender is None else sender.peer
        if credentials is None:
            credentials = tables.bus_credentials if sender is None else sender.credentials
        self.work += len(parcels)
        for parcel in parcels:
            self.flow.delivering(parcel.node[0], _size(parcel), self.now)
        try:
            slots = tables.core.route(peer, parcels, fds, credentials=credentials)
        except Bus1Error:
            for parcel in parcels:
                self.flow.undelivered(parcel.node[0], _size(parcel))
            raise
        if tables.sights and sender is not None:
            self._introduce(sender, parcels)
        for parcel, slot in zip(parcels, slots, strict=True):
            if slot:
                self.flow.undelivered(parcel.node[0], _size(parcel))
                self.refusals.lost(sender, tables.parties.get(parcel.node[0]), parcel)
        return slots

    def _introduce(self, sender: Party, parcels: Sequence[Parcel]) -> None:
        """Who gets something from the party knows of it from now on."""
        for parcel in parcels:
            sight = self.tables.sights.get(parcel.node[0])
            if sight is not None:
                sight.met(sender.unique)

    def discard(self, fds: Iterable[int]) -> None:
        """Descriptors of a message that goes nowhere: have them closed."""
        numbers = tuple(fds)
        if numbers:
            self.effects.append(CloseDescriptors(numbers))

    def wake(self, connection: int) -> None:
        """The connection has output that is not in its queue."""
        self.effects.append(Wake(connection))

    def admits(
        self, sender: Party | None, reader: Party, size: int, kind: Kind, message: Message, *,
        fds: Sequence[int] = (), may_wait: bool = True,
    ) -> Verdict:
        """What becomes of a message of ``size`` (see ``flow.allocated``) of a client, or of the bus; a
        message that is not delivered is counted here. PAUSE only if it ``may_wait``."""
        if isinstance(reader, NativeParty):
            self.flow.look_at_native(reader.peer, self.now)
        peer = self.tables.bus_peer if sender is None else sender.peer
        pausable = may_wait and sender is not None and self._may_wait(sender)
        verdict = self.flow.admits(
            peer, reader.peer, size, kind, self.now, pausable=pausable, n_fds=len(fds)
        )
        if verdict is Verdict.DELIVER and fds and self.tables.shortage(max(fds)):
            is_told = kind in (Kind.CALL, Kind.REPLY)
            verdict = Verdict.REFUSE if is_told else Verdict.DROP
        if verdict in (Verdict.DROP, Verdict.REFUSE):
            self.refusals.not_queued(
                kind.name.lower(), sender, reader,
                lambda: self.why_full(sender, reader, size, message, fds),
            )
        return verdict

    def why_full(
        self, sender: Party | None, reader: Party, size: int, message: Message, fds: Sequence[int] = ()
    ) -> str:
        """Why such a message is not queued at the reader, for whoever sent it and for the log."""
        peer = self.tables.bus_peer if sender is None else sender.peer
        excess = self.flow.excess(peer, reader.peer, size, len(fds), self.now)
        if excess is None and fds:
            excess = self.tables.shortage(max(fds))
        return self.refusals.full(sender, reader, message, excess)

    def limited(self, party: Party | None, limit: str, used: int, what: str) -> str:
        """Why the party may not have more of something, ``what`` it wants; it is in the log."""
        value = getattr(self.limits_of(party) if party else self.limits, limit)
        return self.refusals.over(Excess(limit, value, used), party, what)

    def too_many_calls(self, caller: LegacyParty, callee: Party, message: Message) -> str | None:
        """Why the caller may not wait for one more answer; None if it may."""
        waiting = self.tables.replies.outstanding(caller.peer) + len(caller.open_replies)
        if waiting < self.limits_of(caller).max_replies_per_connection:
            return None
        about = self.refusals.message(caller, callee, message)
        return self.limited(caller, "max_replies_per_connection", waiting, about)

    def limits_of(self, party: Party) -> BusLimits:
        """What holds for this party."""
        return self.limits.of_user(party.uid)

    def show(self, sender: LegacyParty, incoming: Incoming) -> None:
        """Monitors get to see, once, a message that nobody else gets in this form; descriptors go along."""
        parcels = self.copies.of_incoming(sender, incoming)
        incoming.is_shown = True
        if parcels:
            self.transmit(sender, parcels, incoming.fds)
            incoming.fds = ()

    def show_own(self, message: bytes) -> None:
        """Monitors get to see a message of the bus that goes to nobody, or another way."""
        copies = self.copies.of(None, (message,))
        if copies:
            self.transmit(None, copies)

    def take_refused(self) -> list[Refusal]:
        """What was refused since the last call, summed up by cause."""
        return self.refusals.take()

    def receivers(self, sender: Party, header: wire.Header, body: Buffer) -> list[LegacyParty]:
        """D-Bus clients whose match rules fit the message: of a unicast, those who eavesdrop."""
        message = MatchInput(
            type=header.type,
            sender=sender.unique,
            sender_names=self.tables.names.primary(sender.peer),
            path=header.path,
            interface=header.interface,
            member=header.member,
            destination=header.destination,
            arguments=lambda: codec.arguments(header.signature, body, header.endian),
        )
        return self._matching(message)

    # ---- the bus speaks --------------------------------------------------------------------------

    def send_from_bus(
        self, to: LegacyParty, type: int, *, path: str | None = None, interface: str | None = None,
        member: str | None = None, error_name: str | None = None, reply_serial: int = 0,
        signature: str = "", body: bytes = b"", fds: Sequence[int] = (), anonymous: bool = False,
        only_monitors: bool = False,
    ) -> None:
        """One message of the bus to one client, with descriptors whose ownership passes.

        ``anonymous`` leaves SENDER and DESTINATION out. ``only_monitors`` see what a client would hear if it
        were not gone, or were allowed to."""
        refusal = None
        if not (to.permissions.receives_all or anonymous):
            fields = Fields(
                type, path, interface, member, error_name, to.unique, reply_serial, len(fds)
            )
            refusal = self.guard.refusal(None, to, fields)
        if (only_monitors or refusal) and not self.tables.monitors:
            self.discard(fds)
            return
        serial = hosted.next_serial(to)
        message = codec.build(
            type, flags=NO_REPLY_EXPECTED, serial=serial, body_length=len(body), path=path,
            interface=interface, member=member, error_name=error_name, reply_serial=reply_serial,
            destination=None if anonymous else to.unique or NOT_REGISTERED,
            sender=None if anonymous else DRIVER_NAME, signature=signature, unix_fds=len(fds),
        ) + body
        parcels = []
        if not (only_monitors or refusal):
            parcels.append(Parcel((to.peer, 0), (message,), with_fds=bool(fds), mandatory=False))
        if not anonymous:
            parcels += self.copies.of(None, (message,), len(fds))
        if refusal:
            parcels += self._refused_to_bus(serial, refusal)
        if parcels:
            self.transmit(None, parcels, fds)
        else:
            self.discard(fds)

    def _refused_to_bus(self, serial: int, text: str) -> list[Parcel]:
        """As in the reference, monitors see the bus tell itself why its message was not delivered."""
        body = wire.error_body(text)
        return self.copies.of(None, (codec.build(
            ERROR, flags=NO_REPLY_EXPECTED, serial=serial, body_length=len(body),
            error_name=ERROR_PREFIX + "AccessDenied", reply_serial=serial, destination=DRIVER_NAME,
            sender=DRIVER_NAME, signature="s",
        ) + body,))

    def send_error(
        self, to: LegacyParty, header: wire.Header, name: str, text: str, *, anonymous: bool = False,
        only_monitors: bool = False,
    ) -> None:
        """The bus's error reply to the message with this header."""
        self.send_from_bus(
            to, ERROR, error_name=name, reply_serial=header.serial, signature="s",
            body=wire.error_body(text), anonymous=anonymous, only_monitors=only_monitors,
        )

    def send_no_reply(self, to: LegacyParty, serial: int, text: str) -> None:
        """The NoReply that was reserved with the call ``serial`` of this client."""
        self.send_from_bus(
            to, ERROR, error_name=NO_REPLY, reply_serial=serial, signature="s", body=wire.error_body(text)
        )

    # ---- names -----------------------------------------------------------------------------------

    def announce(self, party: Party) -> None:
        """NameOwnerChanged for the party's unique name, once."""
        if not party.announced:
            party.announced = True
            self.name_changes([Change(party.unique, None, party.peer)])

    def announcement(self, party: Party) -> list[Parcel]:
        """What ``announce`` would send to D-Bus clients, to go ahead in the party's own transaction.

        Nothing has happened before ``announced`` follows."""
        return [] if party.announced else self._change_parcels(party.unique, None, party)

    def announced(self, party: Party) -> None:
        """That was queued: watchers are told after it."""
        if not party.announced:
            party.announced = True
            self.tables.enter(party)
            if self.watchers is not None:
                self.watchers.names_changed([Change(party.unique, None, party.peer)])

    def name_changes(self, changes: Sequence[Change], leaving: Party | None = None) -> None:
        """NameLost, NameOwnerChanged, NameAcquired for each change, in the reference's order.

        ``leaving`` is a party that hears nothing any more."""
        for change in changes:
            if self.express is not None and not change.name.startswith(":"):
                self.express.lane.own(change.name, change.new)
            old, new = self._party(change.old), self._party(change.new)
            for sight in self.tables.sights.values():
                for owner in (old, new):
                    if owner is not None:
                        sight.owned(change.name, owner.unique)
            if isinstance(old, LegacyParty) and (old is not leaving or self.tables.monitors):
                self._tell(old, "NameLost", change.name, only_monitors=old is leaving)
            parcels = self._change_parcels(change.name, old, new)
            if parcels:
                self.transmit(None, parcels)
            if self.watchers is not None:
                self.watchers.names_changed([change])
            attempt = self.activation.owned(change.name) if self.activation and new else None
            if isinstance(new, LegacyParty):
                self._tell(new, "NameAcquired", change.name)
            if self.activation and attempt:
                self.activation.flush(attempt)

    def forget(self, party: Party) -> None:
        """The one step of a disconnect, for both kinds of party; nothing if it is gone already."""
        departure.leave(self, party)

    def abandon(self, peer: int) -> None:
        """The peer has not become a party, or not wholly, as something failed: it goes again."""
        departure.abandon(self, peer)

    def _tell(self, to: LegacyParty, member: str, name: str, *, only_monitors: bool = False) -> None:
        self.send_from_bus(
            to, SIGNAL, path=DRIVER_PATH, interface=DRIVER_NAME, member=member, signature="s",
            body=wire.marshal("s", name), only_monitors=only_monitors,
        )

    def broadcast(self, member: str) -> None:
        """A signal of the bus without arguments, to all whose rules match."""
        parcels = self._signal_parcels(member)
        if parcels:
            self.transmit(None, parcels)

    def _change_parcels(self, name: str, old: Party | None, new: Party | None) -> list[Parcel]:
        """NameOwnerChanged for all whose rules match."""
        return self._signal_parcels(
            "NameOwnerChanged", name, old.unique if old else "", new.unique if new else ""
        )

    def _signal_parcels(self, member: str, *arguments: str) -> list[Parcel]:
        """A signal of the bus for all whose rules match; one about a name for those who see that."""
        found = self._matching(MatchInput(
            type=SIGNAL, sender=DRIVER_NAME, path=DRIVER_PATH, interface=DRIVER_NAME, member=member,
            arguments=lambda: arguments,
        ))
        if not (found or self.tables.monitors):
            return []
        fields = Fields(SIGNAL, DRIVER_PATH, DRIVER_NAME, member)
        receivers = [
            party for party in found
            if (party.sight is None or not arguments or party.sight.sees(arguments[0]))
            and self.guard.refusal(None, party, fields, addressed=False) is None
        ]
        if not (receivers or self.tables.monitors):
            return []
        signature = "s" * len(arguments)
        body = wire.marshal(signature, *arguments)
        message = codec.build(
            SIGNAL, flags=NO_REPLY_EXPECTED, serial=1, body_length=len(body), path=DRIVER_PATH,
            interface=DRIVER_NAME, member=member, sender=DRIVER_NAME, signature=signature,
        ) + body
        return [
            Parcel(
                (party.peer, 0), (message[:8] + _SERIAL.pack(hosted.next_serial(party)) + message[12:],),
                mandatory=False,
            )
            for party in receivers
        ] + self.copies.of(None, (message,))

    def _matching(self, message: MatchInput) -> list[LegacyParty]:
        owners = self.tables.matches.receivers(message)
        if not owners:
            return []
        found = map(self.tables.parties.get, owners)
        return [party for party in found if isinstance(party, LegacyParty)]

    def _party(self, peer: int | None) -> Party | None:
        return None if peer is None else self.tables.parties.get(peer)

    def _may_wait(self, sender: Party) -> bool:
        return (
            isinstance(sender, LegacyParty)
            and not sender.native_calls
            and not self.tables.replies.awaited_from(sender.peer)
        )


def _size(parcel: Parcel) -> int:
    return allocated(sum(map(len, parcel.parts)))
