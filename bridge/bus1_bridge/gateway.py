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
from bus1.errors import Bus1Error, Denied, Disconnected, Overloaded, Rejected

from . import capabilities, hosted, published, subscriptions, wire
from .outbound import Native, Outbound, target_of
from .registry import Registry
from .switch import flow
from .switch.delivery import DRIVER_NAME, NO_REPLY, Delivery
from .switch.flow import Verdict
from .switch.tables import Derived, LegacyParty, NativeCall, NativeParty, Party, Reply
from .translate import read_native, to_envelope

_ERROR = "org.freedesktop.DBus.Error."
_STANDARD_INTERFACES = {
    # what is meant where a call names no interface
    "Introspect": published.INTROSPECTABLE, "Ping": published.PEER, "GetMachineId": published.PEER,
}
CALLEE_GONE = "Message recipient disconnected from message bus without replying"
CALLEE_SILENT = "Message recipient dropped the call without replying"


class Gateway:
    """The mapping, both directions."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self.core = delivery.tables.core
        self.registry = Registry(delivery)
        delivery.watchers = self.registry.watchers
        self._standard: dict[tuple[str, str], Callable[[LegacyParty, wire.Header, NativeParty], bool]] = {
            (published.INTROSPECTABLE, "Introspect"): self._introspect,
            (published.PEER, "Ping"): self._ping,
            (published.PEER, "GetMachineId"): self._machine_id,
        }

    # ---- the Hub of native peers -----------------------------------------------------------------

    def peer_opened(self, peer: int, credentials: Credentials) -> tuple[int, ...]:
        """A native peer is there: its handle of the registry. Denied to other users."""
        if credentials.uid != self._tables.bus_credentials.uid:
            raise Denied(f"user {credentials.uid} may not connect to the bus of another user")
        granted = self.registry.grant(peer)
        unique = f":1.{self._tables.next_unique}"
        self._tables.next_unique += 1
        self._tables.parties[peer] = NativeParty(peer, credentials, unique)
        return (granted,)

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (), credentials: Credentials,
    ) -> list[int]:
        """As ``Core.send``; destinations may be nodes of D-Bus connections."""
        targets = [(handle, self.core.node_of(peer, handle)) for handle in (*destinations, *optional)]
        if flags & ~SendFlag.CONTINUE or not any(self._is_mapped(node) for _, node in targets):
            return self.core.send(
                peer, destinations, parts, handles, fds, flags=flags, optional=optional,
                credentials=credentials,
            )
        message = read_native(parts, len(fds))
        outbound = Outbound(
            self._delivery, self.registry, self._tables.parties.get(peer), message, handles
        )
        try:
            slots = outbound.collect(targets, 0 if flags & SendFlag.CONTINUE else len(destinations))
            return outbound.commit(slots, fds, credentials)
        except Bus1Error:
            outbound.undo()
            raise

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
        while (served := self.registry.serve()) is not None:
            if served.reply is not None:
                # a caller that cannot be answered sees its reply node released
                with suppress(Rejected, Overloaded, Disconnected):
                    self.send(bus, (served.reply,), served.parts, served.handles, credentials=credentials)
            for handle in served.releases:
                if handle != HANDLE_INVALID:
                    self.core.handle_release(bus, handle)

    def _is_mapped(self, node: NodeRef | None) -> bool:
        return node is not None and not isinstance(target_of(self._delivery, node), Native)

    # ---- from D-Bus clients ----------------------------------------------------------------------

    def from_legacy(
        self, sender: LegacyParty, header: wire.Header, message: Buffer, fds: Sequence[int], now: float
    ) -> bool:
        """A unicast whose end is native, or whose path is that of a capability; False: not mine.

        If True, the descriptors are taken care of."""
        if header.type == wire.CALL and capabilities.is_capability(header.path or ""):
            self._call_capability(sender, header, message, fds)
            return True
        party = self._tables.party_of(header.destination or "")
        if not isinstance(party, NativeParty):
            return False
        if header.type == wire.CALL:
            self._call(sender, header, message, fds, party)
        elif header.type == wire.SIGNAL:
            self._signal(sender, header, message, fds, party)
        else:
            self._answer(sender, header, message, fds)
        return True

    def subscribers(self, sender: LegacyParty, header: wire.Header, body: Buffer) -> list[Parcel]:
        """The native subscribers of a broadcast, as optional parcels."""
        if not sender.subscriptions:
            return []
        assert header.path and header.interface and header.member
        nodes = subscriptions.followers(sender, header.path, header.interface, header.member)
        return self._signal_parcels(sender, header, body, nodes)

    # ---- calls -----------------------------------------------------------------------------------

    def _call(
        self, sender: LegacyParty, header: wire.Header, message: Buffer, fds: Sequence[int],
        callee: NativeParty,
    ) -> None:
        assert header.path and header.member
        entry = callee.objects.get(header.path)
        interface = header.interface or _STANDARD_INTERFACES.get(header.member, "")
        standard = self._standard.get((interface, header.member))
        if standard is not None and (entry is None or interface == published.INTROSPECTABLE):
            if header.signature:
                text = f"{interface}.{header.member} takes no arguments"
                self._refuse(sender, header, fds, "InvalidArgs", text)
            elif standard(sender, header, callee):
                self._delivery.discard(fds)
            else:
                self._no_such_object(sender, header, fds)
        elif entry is None:
            self._no_such_object(sender, header, fds)
        else:
            self._deliver(sender, header, message, fds, entry.node, callee)

    def _call_capability(
        self, sender: LegacyParty, header: wire.Header, message: Buffer, fds: Sequence[int]
    ) -> None:
        assert header.path
        handle = sender.grants.get(header.path)
        node = None if handle is None else self.core.node_of(sender.peer, handle)
        callee = None if node is None else self._tables.parties.get(node[0])
        if node is None or not isinstance(callee, NativeParty):
            self._no_such_object(sender, header, fds)
        elif (header.interface, header.member) != (capabilities.INTERFACE, "Release"):
            self._deliver(sender, header, message, fds, node, callee)
        elif header.signature:
            self._refuse(sender, header, fds, "InvalidArgs", "Release takes no arguments")
        else:
            self._delivery.discard(fds)
            capabilities.give_back(self.core, sender, header.path)
            self._reply(sender, header, callee)

    def _deliver(
        self, sender: LegacyParty, header: wire.Header, message: Buffer, fds: Sequence[int], node: NodeRef,
        callee: NativeParty,
    ) -> None:
        wants = not header.flags & CallFlag.NO_REPLY_EXPECTED
        if wants and (callee.unique, header.serial) in sender.open_replies:
            text = "A call with this serial is outstanding at the same destination"
            self._refuse(sender, header, fds, "AccessDenied", text)
            return
        open_calls = len(sender.open_replies) + self._tables.replies.outstanding(sender.peer)
        if wants and open_calls >= self._delivery.limits.max_replies_per_connection:
            text = "The maximum number of pending replies per connection has been reached"
            self._refuse(sender, header, fds, "LimitsExceeded", text)
            return
        reply = hosted.next_node(sender)
        body = memoryview(message)[header.header_length :]
        try:
            caps, handles = capabilities.arguments(sender, header, body, int(wants))
            envelope = to_envelope(header, serial=header.serial, caps=caps)
            self._send_one(sender, flow.Kind.CALL, callee, Parcel(
                node, (envelope, body), (reply, *handles) if wants else handles, bool(header.unix_fds)
            ), fds)
        except Disconnected:
            self._no_such_object(sender, header, fds)
        except Overloaded as error:
            self._refuse(sender, header, fds, "LimitsExceeded", f"{callee.unique} takes no more: {error}")
        else:
            if wants:
                hosted.open_reply(sender, reply, Reply(header.serial, callee.unique))

    def _send_one(
        self, sender: LegacyParty, kind: flow.Kind, reader: Party, parcel: Parcel, fds: Sequence[int]
    ) -> None:
        size = flow.allocated(sum(map(len, parcel.parts)), len(fds))
        if self._delivery.admits(sender, reader, size, kind, self._delivery.now) is not Verdict.DELIVER:
            raise Overloaded("too much of this sender is waiting")
        self._delivery.transmit(sender, [parcel], fds)

    # ---- answers and signals ---------------------------------------------------------------------

    def _answer(
        self, sender: LegacyParty, header: wire.Header, message: Buffer, fds: Sequence[int]
    ) -> None:
        call = sender.native_calls.get(header.reply_serial)
        if call is None or not call.handle:
            self._delivery.discard(fds)
            return
        del sender.native_calls[header.reply_serial]
        body = memoryview(message)[header.header_length :]
        try:
            caps, handles = capabilities.arguments(sender, header, body, 0)
            envelope = to_envelope(header, serial=call.serial, caps=caps)
            self.send(
                sender.peer, (call.handle,), (envelope, body), handles, fds, credentials=sender.credentials
            )
        except (Rejected, Overloaded, Disconnected):
            # the caller sees its reply node released, which is NoReply
            self._delivery.discard(fds)
        hosted.let_go(self.core, sender, call.handle, header.reply_serial)

    def _signal(
        self, sender: LegacyParty, header: wire.Header, message: Buffer, fds: Sequence[int],
        reader: NativeParty,
    ) -> None:
        """A signal with a destination: to that peer's subscribers, or else to its root."""
        assert header.path and header.interface and header.member
        nodes = [
            node for node in subscriptions.followers(sender, header.path, header.interface, header.member)
            if node[0] == reader.peer
        ] or [node for node in (reader.root,) if node is not None]
        try:
            parcels = self._signal_parcels(sender, header, memoryview(message)[header.header_length :], nodes)
            self._delivery.transmit(sender, parcels, fds)
        except Overloaded:
            self._delivery.discard(fds)

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

    # ---- what the bus answers for native services ------------------------------------------------

    def _introspect(self, sender: LegacyParty, header: wire.Header, callee: NativeParty) -> bool:
        assert header.path
        text = published.introspect(callee.objects, header.path)
        if text is not None:
            self._reply(sender, header, callee, "s", text)
        return text is not None

    def _ping(self, sender: LegacyParty, header: wire.Header, callee: NativeParty) -> bool:
        self._reply(sender, header, callee)
        return True

    def _machine_id(self, sender: LegacyParty, header: wire.Header, callee: NativeParty) -> bool:
        self._reply(sender, header, callee, "s", self._tables.machine_id)
        return True

    def _reply(
        self, to: LegacyParty, header: wire.Header, callee: NativeParty, signature: str = "", *values: object
    ) -> None:
        """The answer to a call, in the name of the native party that was called."""
        if header.flags & CallFlag.NO_REPLY_EXPECTED:
            return
        body = wire.marshal(signature, *values)
        head = wire.build(
            wire.RETURN, flags=CallFlag.NO_REPLY_EXPECTED, serial=hosted.next_serial(to),
            body_length=len(body), reply_serial=header.serial, destination=to.unique,
            sender=callee.unique, signature=signature,
        )
        parts = (head, body) if body else (head,)
        self._delivery.transmit(None, [Parcel((to.peer, hosted.ROOT), parts, mandatory=False)])

    def _no_such_object(self, sender: LegacyParty, header: wire.Header, fds: Sequence[int]) -> None:
        """Never existed, somebody else's, or gone: one answer."""
        self._refuse(sender, header, fds, "UnknownObject", f"No such object path '{header.path}'")

    def _refuse(
        self, sender: LegacyParty, header: wire.Header, fds: Sequence[int], name: str, text: str
    ) -> None:
        self._delivery.discard(fds)
        if not header.flags & CallFlag.NO_REPLY_EXPECTED:
            self._delivery.send_error(sender, header, _ERROR + name, text)

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
        text = CALLEE_SILENT if reply.callee in self._tables.unique else CALLEE_GONE
        body = wire.marshal("s", text)
        return wire.build(
            wire.ERROR, flags=CallFlag.NO_REPLY_EXPECTED, serial=hosted.next_serial(reader),
            body_length=len(body), error_name=NO_REPLY, reply_serial=reply.serial,
            destination=reader.unique, sender=DRIVER_NAME, signature="s",
        ) + body
