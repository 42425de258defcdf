"""A bus without sockets: native peers on Core, and D-Bus clients as hosted peers, joined by the gateway.

The D-Bus clients here speak in whole messages; what the router does with bytes is tested with the router.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from bus1_bridge import codec, wire
from bus1_bridge.capabilities import GrantedPaths
from bus1_bridge.gateway import Gateway
from bus1_bridge.match import parse
from bus1_bridge.names import Change, NameTable
from bus1_bridge.switch.choice import MatchIndex, ReplyTable
from bus1_bridge.switch.connection import Incoming
from bus1_bridge.switch.delivery import Delivery
from bus1_bridge.switch.effects import CloseDescriptors
from bus1_bridge.switch.flow import OVERHEAD, hosted_limits, user_limits
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.tables import LegacyParty, NativeParty, Tables
from bus1_bridge.walk import ANY_FD
from bus1_services import call, seed
from bus1_services.call import Envelope, Kind
from bus1_services.seed import SeedDocument
from core_bus import Core
from dbus_fast import Message as OracleMessage
from dbus_fast._private.unmarshaller import Unmarshaller

from bus1.core.api import Credentials, Limits, Message, MessageType, Parcel
from bus1.errors import NotSupported, RemoteProtocolError
from bus1.unfinished import Unfinished

UID = 1000
REGISTRY = "org.bus1.Registry1"
DRIVER = "org.freedesktop.DBus"
ERROR = "org.freedesktop.DBus.Error."


class MixedBus:
    """One bus with both kinds of clients."""

    def __init__(self, limits: BusLimits | None = None) -> None:
        limits = limits or BusLimits(max_completed_connections=100, max_incomplete_connections=0)
        self.core = Core(user_limits(limits))
        bus_peer = self.core.peer_new(UID)
        self.tables = Tables(
            core=self.core, bus_peer=bus_peer, guid="0" * 32, bus_id="1" * 32,
            bus_credentials=Credentials(UID, UID, 1), names=NameTable(), matches=MatchIndex(),
            replies=ReplyTable(), machine_id="m" * 32,
        )
        self.delivery = Delivery(self.tables, limits)
        self.gateway = Gateway(self.delivery, self.check_descriptors)
        self.turns = 0
        """How often a native peer had to go on in its next turn."""
        self.closed: list[int] = []
        """Descriptors that the edge would have closed."""
        self._before = self.charges()

    def settle(self) -> None:
        """What the reactor does after every command."""
        self.gateway.settle()
        self.closed += self.core.take_freed_fds()
        for effect in self.delivery.effects:
            if isinstance(effect, CloseDescriptors):
                self.closed += effect.fds
        self.delivery.effects.clear()

    def native(self, *, uid: int = UID, pid: int = 100, limits: Limits | None = None) -> Native:
        return Native(self, uid, pid, limits)

    def legacy(self, *, takes_fds: bool = True) -> Legacy:
        return Legacy(self, takes_fds)

    def check_descriptors(self, fds: Sequence[int]) -> None:
        """Numbers from 900 on stand for unix sockets; no descriptor here is a real one."""
        if any(fd >= 900 for fd in fds):
            raise NotSupported("a unix socket")

    def end(self) -> None:
        """Everybody goes; the bus must be as it began (asserted): charges, tables, descriptors."""
        for party in list(self.tables.parties.values()):
            if isinstance(party, LegacyParty):
                self.check_references(party)
            if isinstance(party, NativeParty):
                self.gateway.peer_disconnect(party.peer)
            else:
                self.delivery.forget(party)
            self.settle()
        assert self.charges() == self._before
        tables = self.tables
        assert not (tables.parties or tables.unique or tables.emitters or tables.watchers)
        assert not (tables.names.names() or self.gateway.registry.subjects or len(tables.bindings))
        assert len(self.closed) == len(set(self.closed))

    def check_references(self, party: LegacyParty) -> None:
        """What the hosted peer holds in Core is what the party says it does."""
        for handle, (node, count) in self.core.snapshot()["peers"][party.peer]["handles"].items():
            own = node[0] == party.peer
            assert count == sum(party.held.get(handle, {}).values()) + own

    def charges(self) -> dict[str, Any]:
        """What is charged to the user and to every peer; comparable."""
        snapshot = self.core.snapshot()
        peers = {number: peer["used"] for number, peer in snapshot["peers"].items() if "used" in peer}
        return {"users": {uid: user["used"] for uid, user in snapshot["users"].items()}, "peers": peers}


@dataclass(frozen=True)
class NativeMessage:
    """One entry of a native peer's queue."""

    type: MessageType
    node: int
    handles: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()
    envelope: Envelope | None = None
    body: bytes = b""
    pid: int = 0

    @property
    def values(self) -> tuple[Any, ...]:
        assert self.envelope is not None
        return wire.unmarshal(self.envelope.signature, self.body, self.envelope.endian)


def pack(
    kind: Kind, interface: str = "", member: str = "", signature: str = "", *values: Any,
    flags: int = 0, serial: int = 0, caps: tuple[tuple[int, int], ...] = (), body: bytes | None = None,
    endian: str = "l",
) -> bytes:
    body = wire.marshal(signature, *values) if body is None else body
    return call.encode(Envelope(
        kind, flags, endian, serial, interface, member, signature, caps, len(body)
    )) + body


class Native:
    """A native peer as the broker sees it."""

    def __init__(self, bus: MixedBus, uid: int, pid: int, limits: Limits | None = None) -> None:
        self.bus = bus
        self.credentials = Credentials(uid, uid, pid)
        self.peer = bus.core.peer_new(uid, limits=limits)
        (self.registry,) = bus.gateway.peer_opened(self.peer, self.credentials)
        bus.settle()
        self._node = 1 << 20

    @property
    def party(self) -> NativeParty:
        party = self.bus.tables.parties[self.peer]
        assert isinstance(party, NativeParty)
        return party

    @property
    def unique(self) -> str:
        return self.party.unique

    def new_node(self) -> int:
        self._node += 4
        return self._node

    def send(
        self, destinations: Sequence[int], payload: bytes, handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, flags: int = 0, optional: Sequence[int] = (),
    ) -> list[int]:
        progress: object = None
        while True:
            try:
                slots = self.bus.gateway.send(
                    self.peer, destinations, (payload,), handles, fds, flags=flags, optional=optional,
                    credentials=self.credentials, progress=progress,
                )
            except Unfinished as unfinished:
                progress = unfinished.progress
                self.bus.turns += 1
            else:
                self.bus.settle()
                return slots

    def start_call(
        self, handle: int, interface: str, member: str, signature: str = "", *values: Any,
        handles: Sequence[int] = (), fds: Sequence[int] = (), **more: Any,
    ) -> int:
        """Send a call; returns its reply node."""
        reply = self.new_node()
        payload = pack(Kind.CALL, interface, member, signature, *values, **more)
        self.send((handle,), payload, (reply, *handles), fds)
        return reply

    def call(
        self, handle: int, interface: str, member: str, signature: str = "", *values: Any, **more: Any
    ) -> NativeMessage:
        """A call that is answered at once: by the bus."""
        reply = self.start_call(handle, interface, member, signature, *values, **more)
        (answer,) = [message for message in self.receive() if message.type is MessageType.DATA]
        assert answer.node == reply
        self.bus.core.node_destroy(self.peer, [reply], 1)
        return answer

    def ask(self, member: str, signature: str = "", *values: Any, **more: Any) -> NativeMessage:
        return self.call(self.registry, REGISTRY, member, signature, *values, **more)

    def receive(self) -> list[NativeMessage]:
        """Everything that is queued."""
        core, found = self.bus.core, []
        while entries := core.ahead(self.peer):
            message = core.recv(self.peer, 4)
            payload = b"".join(entries[0].parts)
            if message.type is MessageType.DATA:
                core.slice_release(self.peer, message.offset)
            found.append(read_native(message, payload))
        self.bus.settle()
        return found

    def release(self, *handles: int) -> None:
        for handle in handles:
            self.bus.core.handle_release(self.peer, handle)
        self.bus.settle()

    def destroy(self, *nodes: int) -> None:
        self.bus.core.node_destroy(self.peer, list(nodes), 1)
        self.bus.settle()

    def publish(self, *names: str, objects: dict[str, int] | None = None, xml: str = "") -> int:
        """Publish nodes under paths; returns the emitter."""
        objects = {"/obj": 4} if objects is None else objects
        document = SeedDocument("test", tuple((name, 0) for name in names), tuple((p, xml) for p in objects))
        answer = self.ask(
            "Publish", seed.SIGNATURE, body=seed.encode(document), handles=(0, *objects.values())
        )
        assert answer.envelope and answer.envelope.kind is Kind.RETURN, answer.values
        return answer.handles[0]

    def derive(self, name: str, path: str) -> int:
        """The node of an object, by name and path."""
        (root,) = self.ask("Resolve", "s", name).handles
        answer = self.ask("Derive", "o", path, handles=(root,))
        self.release(root)
        assert answer.envelope and answer.envelope.kind is Kind.RETURN, answer.values
        return answer.handles[0]

    def subscribe(self, handle: int, interface: str = "", member: str = "") -> int:
        node = self.new_node()
        answer = self.call(handle, "org.bus1.Signals1", "Subscribe", "ss", interface, member, handles=(node,))
        assert answer.envelope and answer.envelope.kind is Kind.RETURN, answer.values
        return node

    def answer(
        self, message: NativeMessage, signature: str = "", *values: Any, handles: Sequence[int] = (),
        fds: Sequence[int] = (), **more: Any,
    ) -> None:
        """Answer a call and release its reply handle."""
        assert message.envelope is not None
        payload = pack(Kind.RETURN, "", "", signature, *values, serial=message.envelope.serial, **more)
        self.send((message.handles[0],), payload, handles, fds)
        self.release(message.handles[0])

    def kill(self) -> None:
        self.bus.gateway.peer_disconnect(self.peer)
        self.bus.settle()


def read_native(message: Message, payload: bytes) -> NativeMessage:
    if message.type is not MessageType.DATA:
        return NativeMessage(message.type, message.destination)
    try:
        envelope, offset = call.decode(payload)
    except RemoteProtocolError:
        return NativeMessage(message.type, message.destination, message.handles, message.fds)
    return NativeMessage(
        message.type, message.destination, message.handles, message.fds, envelope, payload[offset:],
        message.pid,
    )


@dataclass(frozen=True)
class LegacyMessage:
    """One finished D-Bus message."""

    header: wire.Header
    body: bytes
    fds: tuple[int, ...] = ()

    @property
    def values(self) -> tuple[Any, ...]:
        return wire.unmarshal(self.header.signature, self.body, self.header.endian)

    @property
    def summary(self) -> tuple[Any, ...]:
        """Type and what it is called."""
        return (self.header.type, self.header.member or self.header.error_name or "")


class Legacy:
    """A D-Bus client behind its Hello."""

    def __init__(self, bus: MixedBus, takes_fds: bool) -> None:
        self.bus = bus
        credentials = Credentials(UID, UID, 200)
        self.peer = bus.core.peer_new(UID, limits=hosted_limits(bus.delivery.limits), overhead=OVERHEAD)
        bus.core.send(self.peer, (), handles=(0,), credentials=credentials)
        self.unique = f":1.{bus.tables.next_unique}"
        bus.tables.next_unique += 1
        self.party = LegacyParty(
            self.peer, credentials, self.unique, root=(self.peer, 0), announced=True, takes_fds=takes_fds
        )
        bus.tables.parties[self.peer] = self.party
        bus.delivery.guard.admit(self.party)
        bus.tables.unique[self.unique] = self.party
        bus.delivery.name_changes([Change(self.unique, None, self.peer)])
        self.receive()
        self._serial = 100

    def match(self, rule: str) -> None:
        self.bus.tables.matches.add(self.peer, parse(rule))

    def own(self, name: str) -> None:
        _, changes = self.bus.tables.names.request(self.peer, name, 0)
        self.bus.delivery.name_changes(changes)
        self.receive()

    def send(
        self, type: int, signature: str = "", *values: Any, body: bytes | None = None,
        fds: Sequence[int] = (), serial: int = 0, **fields: Any,
    ) -> int:
        """One message through the gateway, or to everybody who matches; returns its serial."""
        self._serial += 1
        serial = serial or self._serial
        body = wire.marshal(signature, *values) if body is None else body
        message = codec.build(
            type, serial=serial, body_length=len(body), signature=signature, sender=self.unique,
            unix_fds=len(fds), **fields,
        ) + body
        header = codec.parse(message)
        if header.destination is None:
            self._broadcast(header, message, fds)
        else:
            assert self.bus.gateway.from_legacy(self.party, self._incoming(header, message, fds))
        self.bus.settle()
        return serial

    def _incoming(self, header: wire.Header, message: bytes, fds: Sequence[int]) -> Incoming:
        """As the connection hands it on."""
        granted = GrantedPaths(self.party)
        incoming = Incoming(message, header, tuple(fds), None, granted)
        check = codec.BodyCheck(header.signature, incoming.body, header.endian, ANY_FD, granted)
        assert check.step(1 << 62)
        return incoming

    def _broadcast(self, header: wire.Header, message: bytes, fds: Sequence[int]) -> None:
        body = memoryview(message)[header.header_length :]
        readers = self.bus.delivery.receivers(self.party, header, body)
        parcels = [Parcel((reader.peer, 0), (message,), (), bool(fds), False) for reader in readers]
        parcels += self.bus.gateway.subscribers(self.party, header, body)
        self.bus.delivery.transmit(self.party, parcels, fds)

    def call(
        self, destination: str, path: str, interface: str | None, member: str, signature: str = "",
        *values: Any, **more: Any,
    ) -> int:
        return self.send(
            wire.CALL, signature, *values, destination=destination, path=path, interface=interface,
            member=member, **more,
        )

    def signal(
        self, path: str, interface: str, member: str, signature: str = "", *values: Any, **more: Any
    ) -> int:
        return self.send(
            wire.SIGNAL, signature, *values, path=path, interface=interface, member=member, **more
        )

    def answer(self, message: LegacyMessage, signature: str = "", *values: Any, **more: Any) -> int:
        return self.send(
            wire.RETURN, signature, *values, destination=message.header.sender,
            reply_serial=message.header.serial, **more,
        )

    def receive(self) -> list[LegacyMessage]:
        """Everything that is queued, as the client would read it."""
        core, found = self.bus.core, []
        while entries := core.ahead(self.peer):
            message = core.recv(self.peer)
            data: bytes | None = b"".join(entries[0].parts)
            fds = entries[0].fds
            if message.type is MessageType.DATA:
                if entries[0].note or message.handles:
                    self.bus.gateway.delivered(self.party, entries[0].note, message)
                core.slice_release(self.peer, message.offset)
            else:
                data = self.bus.gateway.notified(self.party, entries[0], message)
            if data is not None:
                found.append(read_legacy(data, fds))
        self.bus.settle()
        return found

    def kill(self) -> None:
        self.bus.delivery.forget(self.party)
        self.bus.settle()


def read_legacy(data: bytes, fds: tuple[int, ...] = ()) -> LegacyMessage:
    header = codec.parse(data)
    assert header.unix_fds == len(fds)
    assert codec.frame_length(data) == len(data)
    return LegacyMessage(header, data[header.header_length :], fds)


def as_dbus_fast_reads_it(data: bytes) -> OracleMessage:
    """The message as another implementation understands it."""
    stream: Any = BytesIO(data)
    unmarshaller = Unmarshaller(stream)
    unmarshaller.unmarshall()
    assert unmarshaller.message is not None
    return unmarshaller.message
