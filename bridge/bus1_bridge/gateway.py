"""gateway: where native peers and D-Bus clients meet.

Theory. The gateway is the Hub of the native side, and the Switch's answer to "this end is native".
From native peers it takes every send: those that reach no D-Bus connection go straight to Core, the
others are planned by ``Outbound``. From D-Bus clients it takes calls, answers and signals with a native
end, and turns them into envelopes for nodes. What a D-Bus client may reach is a published path of
the name it called, or a path that was granted to it; both are looked up here, and everything else has
one answer, ``_no_such_object``, so that it cannot be told whether an object never existed, is
somebody else's, or is gone.

A call that wants an answer takes a fresh reply node of the caller's hosted peer along. Its answer, or
NODE_RELEASE if there will be none, ends it.

Invariants. 1. Every call of a D-Bus client that wants an answer gets exactly one. 2. Hosted queues hold
finished D-Bus messages and notifications. 3. No capability is used by a client it was not granted to.

Not here: the registry's methods, names and their signals, back-pressure (``switch.flow``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from bus1_services.call import CallFlag

from bus1.core.api import (
    HANDLE_INVALID,
    Ahead,
    Buffer,
    Credentials,
    Message,
    MessageType,
    NodeRef,
    Parcel,
    SendFlag,
)
from bus1.errors import Disconnected, NodeDestroyed, Overloaded, QuotaExceeded, Rejected, TooLarge
from bus1.label import Label
from bus1.unfinished import Unfinished

from . import capabilities, codec, hosted, subscriptions, wire
from .arrival import arrive
from .driver.errors import DriverError
from .entrance import Entrance
from .outbound import Native, Outbound, target_of
from .registry import Registry
from .standard import StandardInterfaces
from .switch import flow
from .switch.connection import Incoming
from .switch.delivery import NO_REPLY, Delivery
from .switch.departure import GONE
from .switch.flow import Verdict
from .switch.limits import BYTES_PER_TURN
from .switch.tables import Derived, LegacyParty, NativeCall, NativeParty, Reply
from .translate import NativeCheck, NativeMessage, checked_message, to_envelope

_CONTINUE = int(SendFlag.CONTINUE)
CALLEE_SILENT = "Message recipient dropped the call without replying"


class Gateway:
    """The mapping, both directions."""

    def __init__(
        self, delivery: Delivery, check_descriptors: Callable[[Sequence[int]], None]
    ) -> None:
        """``check_descriptors`` raises for what may not travel between two native peers (T-30)."""
        self._delivery = delivery
        self._check_descriptors = check_descriptors
        self._tables = delivery.tables
        self.core, self.late = delivery.tables.core, delivery.late
        self.registry = Registry(delivery)
        delivery.watchers = self.registry.watchers
        self._standard = StandardInterfaces(delivery)

    # ---- the Hub of native peers -----------------------------------------------------------------

    @property
    def is_plain(self) -> bool:
        """Between native peers nothing is asked, and nothing shown."""
        return True

    def may_connect(self, credentials: Credentials) -> bool:
        """As the policy says: on a usual session bus its own user, and nobody else."""
        return self._delivery.guard.refusal_to_connect(credentials) is None

    def peer_opened(
        self, peer: int, credentials: Credentials, entrance: Entrance | None = None
    ) -> tuple[int, ...]:
        """A native peer is there: what its endpoint grants, usually the registry. Denied, NodeDestroyed."""
        return arrive(self._delivery, self.registry, peer, credentials, entrance)

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (), credentials: Credentials, progress: object = None,
    ) -> list[int]:
        """As ``Core.send``; destinations may be nodes of D-Bus connections.

        Unfinished (native peers alone): the body is not yet checked. The bus itself sends its own bodies."""
        targets = [(handle, self.core.node_of(peer, handle)) for handle in (*destinations, *optional)]
        mapped = [self._is_mapped(node) for _, node in targets]
        if fds and not (mapped and all(mapped)) and isinstance(self._tables.parties.get(peer), NativeParty):
            self._check_descriptors(fds)
        if flags & ~_CONTINUE or not any(mapped):
            return self.core.send(
                peer, destinations, parts, handles, fds, flags=flags, optional=optional,
                credentials=credentials,
            )
        sender = self._tables.parties.get(peer)
        if isinstance(sender, NativeParty):
            message = self._checked(sender, parts, len(fds), progress)
        else:
            message = checked_message(parts, len(fds), {})
        n_mandatory = 0 if flags & _CONTINUE else len(destinations)
        outbound = Outbound(self._delivery, self.registry, sender, message, handles)
        return outbound.send(targets, n_mandatory, fds, credentials)

    def rehearse(
        self, peer: int, destinations: Sequence[int], n_bytes: int, handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
    ) -> bool:
        """As ``Core.rehearse``; what D-Bus connections get has to be translated before it can be weighed."""
        if any(self._is_mapped(self.core.node_of(peer, handle)) for handle in (*destinations, *optional)):
            return True
        if fds and isinstance(self._tables.parties.get(peer), NativeParty):
            self._check_descriptors(fds)
        return self.core.rehearse(
            peer, destinations, n_bytes, handles, fds, flags=flags, optional=optional, credentials=credentials
        )

    def _checked(
        self, sender: NativeParty, parts: Sequence[Buffer], n_fds: int, progress: object
    ) -> NativeMessage:
        limit = self._delivery.limits.max_message_unix_fds
        if n_fds > limit:
            raise TooLarge(f"{n_fds} descriptors, D-Bus clients take {limit}")
        check = progress if isinstance(progress, NativeCheck) else NativeCheck(parts, n_fds)
        budget, sender.unchecked = sender.unchecked, 0  # a body that is found bad ends the turn, too
        left = check.step(budget)
        if left is None:
            sender.unchecked = BYTES_PER_TURN
            raise Unfinished(check)
        sender.unchecked = left
        return check.message

    def peer_disconnect(self, peer: int) -> None:
        """A native peer goes: the one step of a disconnect."""
        party = self._tables.parties.get(peer)
        if not isinstance(party, NativeParty):
            self.core.peer_disconnect(peer)
            return
        self._delivery.forget(party)
        self.registry.forget(party)

    def settle(self) -> None:
        """Objects of the bus answer what is in their queue."""
        bus, credentials = self._tables.bus_peer, self._tables.bus_credentials
        if not (self.late or self.core.is_readable(bus)):
            return
        while (served := self.registry.serve()) is not None:
            if served.reply is not None:
                # a caller that cannot be answered sees its reply node released
                with suppress(Rejected, Overloaded, Disconnected):
                    self.send(bus, (served.reply,), served.parts, served.handles, credentials=credentials)
            for handle in served.releases:
                if handle != HANDLE_INVALID:
                    self.core.handle_release(bus, handle)

    def labels(self) -> dict[int, Label]:
        """Everybody's names."""
        return self._tables.labels(wire.DRIVER_NAME)

    def _is_mapped(self, node: NodeRef | None) -> bool:
        return node is not None and not isinstance(target_of(self._delivery, node), Native)

    # ---- from D-Bus clients ----------------------------------------------------------------------

    def from_legacy(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """A unicast whose end is native, or whose path is that of a capability.

        True: done, and the descriptors are taken care of. False: not mine, or it has to wait, which
        ``flow.pauses`` tells."""
        header = incoming.header
        if header.type == wire.CALL and capabilities.is_capability(header.path or ""):
            return self._call_capability(sender, incoming)
        party = self._tables.party_of(header.destination or "")
        if not isinstance(party, NativeParty):
            return False
        self._check_policy(sender, header, party)
        if header.type == wire.CALL:
            return self._call(sender, incoming, party)
        if header.type == wire.SIGNAL:
            return self._signal(sender, incoming, party)
        self._answer(sender, incoming)
        return True

    def _check_policy(self, sender: LegacyParty, header: wire.Header, party: NativeParty) -> None:
        requested = header.reply_serial in sender.native_calls
        refusal = self._delivery.guard.refusal(sender, party, header, requested=requested)
        if refusal is not None:
            raise DriverError("AccessDenied", refusal)

    def subscribers(self, sender: LegacyParty, header: wire.Header, body: Buffer) -> list[Parcel]:
        """The native subscribers of a broadcast, as optional parcels."""
        if not sender.subscriptions:
            return []
        assert header.path and header.interface and header.member
        size = flow.allocated(len(body), header.unix_fds)
        nodes = [
            node for node in subscriptions.followers(sender, header.path, header.interface, header.member)
            if self._takes_signal(sender, header, node, size)
        ]
        return self._signal_parcels(sender, header, body, nodes)

    def _takes_signal(self, sender: LegacyParty, header: wire.Header, node: NodeRef, size: int) -> bool:
        reader, delivery = self._tables.parties.get(node[0]), self._delivery
        return (
            reader is not None
            and delivery.guard.refusal(sender, reader, header, addressed=False) is None
            and delivery.admits(sender, reader, size, flow.Kind.BROADCAST, header) is Verdict.DELIVER
        )

    # ---- calls -----------------------------------------------------------------------------------

    def _call(self, sender: LegacyParty, incoming: Incoming, callee: NativeParty) -> bool:
        header = incoming.header
        assert header.path and header.member
        entry = callee.objects.get(header.path)
        method = self._standard.method(header)
        if method is not None and (entry is None or method == "Introspect"):
            if header.signature:
                return self._refuse(sender, incoming, "InvalidArgs", f"{method} takes no arguments")
            if self._standard.answer(method, sender, incoming, callee):
                self._delivery.discard(incoming.fds)
                return True
        elif entry is not None:
            return self._deliver(sender, incoming, entry.node, callee)
        return self._no_such_object(sender, incoming)

    def _call_capability(self, sender: LegacyParty, incoming: Incoming) -> bool:
        header = incoming.header
        assert header.path
        handle = sender.grants.get(header.path)
        node = None if handle is None else self.core.node_of(sender.peer, handle)
        callee = None if node is None else self._tables.parties.get(node[0])
        if node is None or not isinstance(callee, NativeParty):
            return self._no_such_object(sender, incoming)
        self._check_policy(sender, header, callee)
        if (header.interface, header.member) != (capabilities.INTERFACE, "Release"):
            return self._deliver(sender, incoming, node, callee)
        if header.signature:
            return self._refuse(sender, incoming, "InvalidArgs", "Release takes no arguments")
        capabilities.give_back(self.core, sender, header.path)
        self._standard.reply(sender, incoming, callee)
        self._delivery.discard(incoming.fds)
        return True

    def _deliver(
        self, sender: LegacyParty, incoming: Incoming, node: NodeRef, callee: NativeParty
    ) -> bool:
        """A call to a node of a native peer; False if it has to wait."""
        header = incoming.header
        wants = not header.flags & CallFlag.NO_REPLY_EXPECTED
        if wants and (callee.unique, header.serial) in sender.open_replies:
            text = f"A call with serial {header.serial} is outstanding at {callee.unique}"
            return self._refuse(sender, incoming, "AccessDenied", text)
        too_many = self._delivery.too_many_calls(sender, callee, header) if wants else None
        if too_many is not None:
            return self._refuse(sender, incoming, "LimitsExceeded", too_many)
        verdict = self._verdict(sender, callee, flow.Kind.CALL, incoming)
        if verdict is Verdict.PAUSE:
            return False
        reply = hosted.next_node(sender)
        try:
            if verdict is not Verdict.DELIVER:
                size = flow.allocated(len(incoming.message), len(incoming.fds))
                raise QuotaExceeded(self._delivery.why_full(sender, callee, size, header, incoming.fds))
            caps, handles = capabilities.arguments(sender, incoming.granted, int(wants))
            envelope = to_envelope(header, serial=header.serial, caps=caps)
            parcel = Parcel(
                node, (envelope, incoming.body), (reply, *handles) if wants else handles,
                bool(header.unix_fds),
            )
            copies = self._delivery.copies.of_incoming(sender, incoming)
            self._delivery.transmit(sender, [parcel, *copies], incoming.fds)
        except Disconnected:
            return self._no_such_object(sender, incoming)
        except Overloaded as error:
            return self._refuse(sender, incoming, "LimitsExceeded", str(error))
        if wants:
            opened = Reply(header.serial, callee.unique, self._delivery.now)
            hosted.open_reply(sender, reply, opened)
            self._delivery.overdue.opened()
        return True

    def _verdict(
        self, sender: LegacyParty, reader: NativeParty, kind: flow.Kind, incoming: Incoming
    ) -> Verdict:
        size = flow.allocated(len(incoming.message), len(incoming.fds))
        return self._delivery.admits(
            sender, reader, size, kind, incoming.header, fds=incoming.fds, may_wait=incoming.may_wait
        )

    # ---- answers and signals ---------------------------------------------------------------------

    def _answer(self, sender: LegacyParty, incoming: Incoming) -> None:
        """To a reply node, whoever's it is; where nobody waits for it, it goes nowhere."""
        header = incoming.header
        call = sender.native_calls.get(header.reply_serial)
        if call is None or not call.handle:
            self._let_go(sender, incoming)
            return
        del sender.native_calls[header.reply_serial]
        try:
            self._pass_on(sender, incoming, call)
        except (Rejected, Overloaded, Disconnected):
            # the caller sees its reply node released, which is NoReply
            self._let_go(sender, incoming)
        hosted.let_go(self.core, sender, call.handle, header.reply_serial)

    def _pass_on(self, sender: LegacyParty, incoming: Incoming, call: NativeCall) -> None:
        node = self.core.node_of(sender.peer, call.handle)
        reader = None if node is None else self._tables.parties.get(node[0])
        if isinstance(reader, NativeParty):
            verdict = self._verdict(sender, reader, flow.Kind.REPLY, incoming)
            if verdict is not Verdict.DELIVER:
                raise QuotaExceeded(f"{reader.unique} does not read")
        caps, handles = capabilities.arguments(sender, incoming.granted, 0)
        parts = (to_envelope(incoming.header, serial=call.serial, caps=caps), incoming.body)
        if self._is_mapped(node):
            paths = dict(incoming.granted.found) if incoming.granted else {}
            message = checked_message(parts, len(incoming.fds), paths)
            outbound = Outbound(self._delivery, self.registry, sender, message, handles)
            outbound.send([(call.handle, node)], 1, incoming.fds, sender.credentials)
        elif node is None:
            raise NodeDestroyed("the caller waits no longer")
        else:
            parcel = Parcel(node, parts, handles, bool(incoming.fds))
            copies = self._delivery.copies.of_incoming(sender, incoming)
            self._delivery.transmit(sender, [parcel, *copies], incoming.fds)

    def _signal(self, sender: LegacyParty, incoming: Incoming, reader: NativeParty) -> bool:
        """A signal with a destination: to that peer's subscribers, or else to its root."""
        header = incoming.header
        assert header.path and header.interface and header.member
        verdict = self._verdict(sender, reader, flow.Kind.SIGNAL, incoming)
        if verdict is Verdict.PAUSE:
            return False
        nodes = [
            node for node in subscriptions.followers(sender, header.path, header.interface, header.member)
            if node[0] == reader.peer
        ] or [node for node in (reader.root,) if node is not None]
        try:
            if verdict is not Verdict.DELIVER:
                raise QuotaExceeded(f"{reader.unique} does not read")
            parcels = self._signal_parcels(sender, header, incoming.body, nodes)
            parcels += self._delivery.copies.of_incoming(sender, incoming)
            self._delivery.transmit(sender, parcels, incoming.fds)
        except Overloaded:
            self._let_go(sender, incoming)
        return True

    def _signal_parcels(
        self, sender: LegacyParty, header: wire.Header, body: Buffer, nodes: Sequence[NodeRef]
    ) -> list[Parcel]:
        if not nodes or not header.path:
            return []
        envelope = to_envelope(header)
        source = hosted.derive(self.core, sender, header.path)
        return [
            Parcel(node, (envelope, body), (source,), bool(header.unix_fds), mandatory=False)
            for node in nodes
        ]

    # ---- refusals ----------------------------------------------------------------------------------

    def _no_such_object(self, sender: LegacyParty, incoming: Incoming) -> bool:
        """Never existed, somebody else's, or gone: one answer."""
        text = f"No such object path '{incoming.header.path}'"
        return self._refuse(sender, incoming, "UnknownObject", text)

    def _refuse(self, sender: LegacyParty, incoming: Incoming, name: str, text: str) -> bool:
        """The call is done, with an error; always True."""
        header = incoming.header
        self._let_go(sender, incoming)
        if not header.flags & CallFlag.NO_REPLY_EXPECTED:
            self._delivery.send_error(sender, header, wire.ERROR_PREFIX + name, text)
        return True

    def _let_go(self, sender: LegacyParty, incoming: Incoming) -> None:
        """The message goes nowhere, or to monitors alone."""
        self._delivery.show(sender, incoming)
        self._delivery.discard(incoming.fds)
        incoming.fds = ()

    # ---- what leaves a hosted queue --------------------------------------------------------------

    def delivered(self, reader: LegacyParty, note: int, message: Message) -> None:
        """The message's last byte is written: its reply node and its capabilities are the client's."""
        noted = reader.notes.pop(note)
        handles = message.handles
        if noted.serial:
            handle, *rest = handles
            handles = tuple(rest)
            if handle == HANDLE_INVALID:
                del reader.native_calls[noted.serial]
            else:
                callers_own = reader.native_calls[noted.serial].serial
                reader.native_calls[noted.serial] = NativeCall(handle, callers_own)
                hosted.hold(reader, handle, noted.serial)
        for path, handle in zip(noted.grants, handles, strict=True):
            capabilities.grant(self.core, reader, path, handle)
        if reader.is_monitor:
            hosted.retire(self.core, reader)

    def notified(self, reader: LegacyParty, entry: Ahead, message: Message) -> bytes | None:
        """A notification left the queue: the NoReply to write in its place, if it is one."""
        if message.type is MessageType.NODE_DESTROY:
            self._lost(reader, message.destination)
            return None
        node = reader.nodes.get(message.destination)
        if isinstance(node, Reply):
            hosted.close_reply(self.core, reader, message.destination)
            return self._no_reply(reader, node)
        if isinstance(node, Derived) and not subscriptions.has_any(reader, node.path):
            hosted.underive(self.core, reader, node.path)
        return None

    def _lost(self, reader: LegacyParty, handle: int) -> None:
        for use, count in hosted.forget_handle(self.core, reader, handle).items():
            if isinstance(use, int):
                del reader.native_calls[use]
            elif isinstance(use, str):
                capabilities.lost(reader, use, count)
            else:
                subscriptions.ended(self.core, reader, use, handle)

    def _no_reply(self, reader: LegacyParty, reply: Reply) -> bytes:
        text = CALLEE_SILENT if reply.callee in self._tables.unique else GONE
        body = wire.marshal("s", text)
        message = codec.build(
            wire.ERROR, flags=CallFlag.NO_REPLY_EXPECTED, serial=hosted.next_serial(reader),
            body_length=len(body), error_name=NO_REPLY, reply_serial=reply.serial,
            destination=reader.unique, sender=wire.DRIVER_NAME, signature="s",
        ) + body
        self._delivery.show_own(message)
        return message
