"""outbound: one transaction of a native peer that reaches D-Bus connections.

Theory. Behind each destination is a kind of node, and the kind decides what a message may be there:
a call or a signal for an object of a legacy client (``Derived``), an answer (``Reply``), a signal
for everybody who matches (emitter); any other node takes the message as it is. Together with the
message's kind this is the table ``_PLANS``. Collecting makes a parcel for every receiver, committing
sends them all in one Core transaction, so natives and legacy clients see it at one place of the one
order. What a D-Bus client has to be remembered for (its serial, its capabilities) is reserved while
collecting and given back if it comes to nothing.

Invariants. 1. Whatever raises has changed no table. 2. A parcel for a hosted peer is a finished D-Bus
message for its root node. 3. An answer ends its reply node, even if it is too large for the client: then
the client gets NoReply in its place.

Not here: messages of native peers alone (``Core.send``), the registry's own methods (``registry``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bus1_services.call import Kind

from bus1.core.api import HANDLE_INVALID, MANAGED, REMOTE, Buffer, Credentials, NodeRef, Parcel
from bus1.errors import (
    Bus1Error,
    Denied,
    Disconnected,
    InvalidArgument,
    NoSuchHandle,
    NotSupported,
    NotUnique,
    Overloaded,
    QuotaExceeded,
    Rejected,
)
from bus1.record import owned, record

from . import capabilities, codec, hosted, wire
from .policy import Fields
from .registry import SIGNALS_INTERFACE, Registry
from .switch import flow
from .switch.delivery import Delivery
from .switch.flow import Verdict
from .switch.tables import Derived, LegacyParty, NativeParty, Note, Party, Reply
from .translate import Address, NativeMessage, to_header

TOO_SLOW = "The reply did not fit into the queue of its receiver"


class Emitter(NamedTuple):
    """A node of the bus peer that stands for everybody whose match rules fit."""

    owner: int


class Native(NamedTuple):
    """A node that takes messages as they are."""


Target = Derived | Reply | Emitter | Native


@record()
class _Piece:
    """What belongs to one parcel: its slot in the answer, and what was reserved for it."""

    slot: int | None
    reader: LegacyParty | None = None
    note: int = 0
    granted: tuple[int, ...] = ()
    """Handles of the capabilities that the note lists."""
    subject: int = 0
    """The registry's note of a subscription."""


class _Answer(NamedTuple):
    """A reply node that this transaction ends; ``parcel`` is None if the answer did not fit."""

    reader: LegacyParty
    node: int
    parcel: int | None


class Outbound:
    """One send, collected and then committed."""

    def __init__(
        self, delivery: Delivery, registry: Registry, sender: Party | None, message: NativeMessage,
        handles: Sequence[int],
    ) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._registry = registry
        self._sender = sender
        self._peer = sender.peer if sender else delivery.tables.bus_peer
        self._message = message
        self._handles = tuple(handles)
        self._parcels: list[Parcel] = []
        self._pieces: list[_Piece] = []
        self._answers: list[_Answer] = []
        self._speaks = False
        """A legacy client will see the sender's unique name."""

    def send(
        self, targets: Sequence[tuple[int, NodeRef | None]], n_mandatory: int, fds: Sequence[int],
        credentials: Credentials,
    ) -> list[int]:
        """The whole transaction: ``targets`` are handle and node of each destination, mandatory ones first.

        Returns a slot for each; raises if a mandatory one fails."""
        try:
            return self._commit(self._collect(targets, n_mandatory), fds, credentials)
        except Bus1Error:
            for piece in self._pieces:
                self._give_back(piece)
            raise

    # ---- the two halves --------------------------------------------------------------------------

    def _collect(self, targets: Sequence[tuple[int, NodeRef | None]], n_mandatory: int) -> list[int]:
        slots = [0] * len(targets)
        seen: set[int] = set()
        for slot, (handle, node) in enumerate(targets):
            try:
                if handle in seen:
                    raise NotUnique("a destination stands twice in one message")
                seen.add(handle)
                self._collect_one(slot, handle, node, slot < n_mandatory)
            except (Rejected, Overloaded, Disconnected) as error:
                if slot < n_mandatory:
                    raise
                slots[slot] = -error.errno
        return slots

    def _commit(self, slots: list[int], fds: Sequence[int], credentials: Credentials) -> list[int]:
        speaker = self._sender if self._speaks else None
        ahead = [] if speaker is None else self._delivery.announcement(speaker)
        results = self._delivery.transmit(
            self._sender, [*ahead, *self._parcels], fds, credentials=credentials
        )[len(ahead) :]
        if speaker is not None:
            self._delivery.announced(speaker)
        for piece, result in zip(self._pieces, results, strict=True):
            if not result:
                self._bind(piece)
            else:
                self._give_back(piece)
                if piece.slot is not None:
                    slots[piece.slot] = result
        for answer in self._answers:
            reply = hosted.close_reply(self._tables.core, answer.reader, answer.node)
            if answer.parcel is None or results[answer.parcel]:
                self._delivery.send_no_reply(answer.reader, reply.serial, TOO_SLOW)
        return slots

    def _bind(self, piece: _Piece) -> None:
        if piece.reader is not None and piece.granted:
            paths = piece.reader.notes[piece.note].grants
            capabilities.bind(self._tables, self._peer, paths, piece.granted)

    def _give_back(self, piece: _Piece) -> None:
        if piece.subject:
            self._registry.subjects.pop(piece.subject, None)
        if piece.reader is not None and piece.note:
            note = piece.reader.notes.pop(piece.note)
            piece.reader.granted -= len(note.grants)
            if note.serial:
                del piece.reader.native_calls[note.serial]

    # ---- destinations ----------------------------------------------------------------------------

    def _collect_one(self, slot: int, handle: int, node: NodeRef | None, mandatory: bool) -> None:
        if node is None:
            node = self._explain(handle)
        reader = self._tables.parties.get(node[0])
        target = target_of(self._delivery, node)
        if target is None or (plan := _PLANS.get((type(target), self._message.envelope.kind))) is None:
            kind = self._message.envelope.kind.name
            raise InvalidArgument(f"a {kind} cannot be sent to this node of a D-Bus connection")
        plan(self, slot, node, reader, target, mandatory)

    def _explain(self, handle: int) -> NodeRef:
        """The error for a handle that leads nowhere, in Core's words."""
        destinations = (handle,) if handle & (MANAGED | REMOTE) else (handle, HANDLE_INVALID)
        try:
            self._tables.core.send(self._peer, destinations, credentials=self._tables.bus_credentials)
        except NoSuchHandle:
            if len(destinations) == 1:
                raise
        raise InvalidArgument("a message to a D-Bus connection creates no node as a further destination")

    def _add(self, parcel: Parcel, piece: _Piece) -> int:
        self._parcels.append(parcel)
        self._pieces.append(piece)
        return len(self._parcels) - 1

    def _to_native(
        self, slot: int, node: NodeRef, _reader: Party | None, _target: Target, mandatory: bool
    ) -> None:
        parcel = Parcel(
            node, (self._message.payload,), self._handles, bool(self._message.n_fds), mandatory
        )
        self._add(parcel, _Piece(slot))

    def _to_object(
        self, slot: int, _node: NodeRef, reader: Party | None, target: Target, mandatory: bool
    ) -> None:
        """A method call to an object of a legacy client."""
        assert isinstance(reader, LegacyParty) and isinstance(target, Derived)
        envelope = self._message.envelope
        if envelope.interface == SIGNALS_INTERFACE:
            self._to_bus(slot, reader, target.path, mandatory)
            return
        reply = self._handles[:1] if envelope.expects_reply else ()
        if envelope.expects_reply and not reply:
            raise InvalidArgument("a call that wants an answer has its reply node as handle 0")
        self._check_policy(reader, path=target.path)
        self._check_room(reader, flow.Kind.CALL)
        self._unicast(slot, reader, mandatory, path=target.path, reply=reply)

    def _to_bus(self, slot: int, reader: LegacyParty, path: str, mandatory: bool) -> None:
        subject = self._registry.about(reader, path)
        parcel = Parcel(
            self._registry.node, (self._message.payload,), self._handles, bool(self._message.n_fds),
            mandatory, subject,
        )
        self._add(parcel, _Piece(slot, subject=subject))

    def _to_listener(
        self, slot: int, _node: NodeRef, reader: Party | None, _target: Target, mandatory: bool
    ) -> None:
        """A signal for one legacy client."""
        assert isinstance(reader, LegacyParty) and isinstance(self._sender, NativeParty)
        path = self._source_path(self._sender)
        if path is None:
            raise InvalidArgument("a signal for a D-Bus client comes from a published object")
        self._check_policy(reader, path=path)
        if self._check_room(reader, flow.Kind.SIGNAL):
            self._unicast(slot, reader, mandatory, path=path)

    def _to_caller(
        self, slot: int, node: NodeRef, reader: Party | None, target: Target, _mandatory: bool
    ) -> None:
        """The answer to a call of a legacy client."""
        assert isinstance(reader, LegacyParty) and isinstance(target, Reply)
        self._check_policy(reader, reply_serial=target.serial)
        self._check_descriptors(reader)
        paths, handles = capabilities.granting(
            self._tables, self._peer, reader, self._message, self._handles
        )
        header = to_header(self._message, Address(
            target.callee, hosted.next_serial(reader), reader.unique, reply_serial=target.serial
        ), with_fds=True)
        parcel = None
        if self._sender is None or self._verdict(reader, len(header), flow.Kind.REPLY) is Verdict.DELIVER:
            note = self._note(reader, 0, paths)
            parcel = self._add(
                self._parcel(reader, header, handles, False, note), _Piece(None, reader, note, handles)
            )
        self._show(header)
        self._answers.append(_Answer(reader, node[1], parcel))

    def _to_matching(
        self, _slot: int, _node: NodeRef, _reader: Party | None, target: Target, _mandatory: bool
    ) -> None:
        """A signal for every legacy client whose match rules fit."""
        assert isinstance(target, Emitter)
        sender = self._sender
        if not isinstance(sender, NativeParty) or target.owner != self._peer:
            raise Denied("an emitter serves the peer that published alone")
        path = self._source_path(sender)
        if path is None:
            return
        serial, sender.next_serial = sender.next_serial, hosted.following(sender.next_serial)
        plain = to_header(self._message, Address(sender.unique, serial, path=path), with_fds=True)
        self._speaks = True
        header, guard = codec.parse(plain), self._delivery.guard
        for reader in self._delivery.receivers(sender, header, self._message.body):
            if self._message.n_fds and not reader.takes_fds:
                continue
            if guard.refusal(sender, reader, header, addressed=False) is not None:
                continue
            if self._verdict(reader, len(plain), flow.Kind.BROADCAST) is Verdict.DELIVER:
                self._add(self._parcel(reader, plain, (), False, 0), _Piece(None))
        self._show(plain)

    # ---- one D-Bus message -----------------------------------------------------------------------

    def _unicast(
        self, slot: int, reader: LegacyParty, mandatory: bool, *, path: str, reply: tuple[int, ...] = ()
    ) -> None:
        assert self._sender is not None
        paths, handles = capabilities.granting(
            self._tables, self._peer, reader, self._message, self._handles
        )
        serial = hosted.next_serial(reader)
        header = to_header(
            self._message, Address(self._sender.unique, serial, reader.unique, path), with_fds=True
        )
        note = self._note(reader, serial if reply else 0, paths)
        self._speaks = True
        self._add(
            self._parcel(reader, header, reply + handles, mandatory, note),
            _Piece(slot, reader, note, handles),
        )
        self._show(header)

    def _show(self, header: bytes) -> None:
        """Monitors see the message as D-Bus has it."""
        body = self._message.body
        parts: tuple[Buffer, ...] = (header, body) if body else (header,)
        for parcel in self._delivery.copies.of(self._sender, parts, self._message.n_fds):
            self._add(parcel, _Piece(None))

    def _parcel(
        self, reader: LegacyParty, header: bytes, handles: tuple[int, ...], mandatory: bool, note: int
    ) -> Parcel:
        body = self._message.body
        parts: tuple[Buffer, ...] = (header, body) if body else (header,)
        return Parcel((reader.peer, hosted.ROOT), parts, handles, bool(self._message.n_fds), mandatory, note)

    def _note(self, reader: LegacyParty, serial: int, grants: tuple[str, ...]) -> int:
        if not serial and not grants:
            return 0
        if serial:
            hosted.reserve_call(reader, serial, self._message.envelope.serial)
        number = reader.next_note
        reader.next_note += 1
        reader.notes = owned(reader.notes)
        reader.notes[number] = Note(serial, grants)
        reader.granted += len(grants)
        return number

    def _source_path(self, sender: NativeParty) -> str | None:
        """The published path of the signal's source, handle 0."""
        if not self._handles:
            raise InvalidArgument("a signal has its source as handle 0")
        node = self._tables.core.node_of(self._peer, self._handles[0])
        return None if node is None else sender.paths.get(node)

    # ---- whether the reader takes it -------------------------------------------------------------

    def _check_policy(self, reader: LegacyParty, *, path: str | None = None, reply_serial: int = 0) -> None:
        """Denied, as one of the two may not send or receive this; an answer is always one to a call."""
        guard = self._delivery.guard
        if guard.is_open(self._sender, reader):
            return
        sender = self._sender.unique if self._sender else wire.DRIVER_NAME
        address = Address(sender, 1, reader.unique, path, reply_serial)
        header = codec.parse(to_header(self._message, address, with_fds=True))
        refusal = guard.refusal(self._sender, reader, header, requested=bool(reply_serial))
        if refusal is not None:
            raise Denied(refusal)

    def _check_room(self, reader: LegacyParty, kind: flow.Kind) -> bool:
        """False: dropped and counted. QuotaExceeded if the sender has to be told."""
        self._check_descriptors(reader)
        verdict = self._verdict(reader, 0, kind)
        if verdict in (Verdict.REFUSE, Verdict.PAUSE):
            raise QuotaExceeded(self._delivery.why_full(self._sender, reader, *self._load(reader, 0)))
        return verdict is Verdict.DELIVER

    def _check_descriptors(self, reader: LegacyParty) -> None:
        if self._message.n_fds and not reader.takes_fds:
            raise NotSupported(f"{reader.unique} takes no file descriptors")

    def _verdict(self, reader: LegacyParty, header_size: int, kind: flow.Kind) -> Verdict:
        assert self._sender is not None
        size, about, fds = self._load(reader, header_size)
        return self._delivery.admits(self._sender, reader, size, kind, about, fds=fds)

    def _load(self, reader: LegacyParty, header_size: int) -> tuple[int, Fields, Sequence[int]]:
        """How much the message weighs, what it is, and its descriptors."""
        envelope, n_fds = self._message.envelope, self._message.n_fds
        size = flow.allocated(header_size + len(self._message.body), n_fds)
        about = Fields(int(envelope.kind), None, envelope.interface, envelope.member, None, reader.unique)
        # their numbers don't matter here: they are booked where they came in
        return size, about, (0,) * n_fds


_NATIVE = Native()
_Plan = Callable[[Outbound, int, NodeRef, Party | None, Target, bool], None]
_PLANS: dict[tuple[type[Target], Kind], _Plan] = {
    (Derived, Kind.CALL): Outbound._to_object,
    (Derived, Kind.SIGNAL): Outbound._to_listener,
    (Reply, Kind.RETURN): Outbound._to_caller,
    (Reply, Kind.ERROR): Outbound._to_caller,
    (Emitter, Kind.SIGNAL): Outbound._to_matching,
    **{(Native, kind): Outbound._to_native for kind in Kind},
}


def target_of(delivery: Delivery, node: NodeRef) -> Target | None:
    """What stands behind a node; None for the root of a legacy client, which takes no messages."""
    tables = delivery.tables
    party = tables.parties.get(node[0])
    if isinstance(party, LegacyParty):
        return party.nodes.get(node[1])
    if node[0] == tables.bus_peer and node[1] in tables.emitters:
        return Emitter(tables.emitters[node[1]])
    return _NATIVE
