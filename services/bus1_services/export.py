"""export: an object of a service, served on one connection.

Theory. An ``Export`` is the receiver of one own node. A call is decoded and resolved at once, in the order of
the queue; the rest of its life is that of a ``Call``.

A signal is one send: to the emitter, which stands for all D-Bus clients whose rules match, if the
object is published; and, as optional destinations, to the native subscribers. Handle 0 is the object's node.

An object that nobody published lives as long as somebody holds it: at NODE_RELEASE its node is
destroyed, and its ``unreferenced`` is called. It is written in bodies as a path that cannot be guessed.

Invariants. 1. What comes along with a message is given back, or belongs to a call. 2. A subscriber whose node
is destroyed is forgotten. At most ``MAX_SUBSCRIBERS`` wait for signals.

Not here: nodes and messages (``connection``), declarations (``interface``), how calls run (``calls``).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from bus1.core.api import HANDLE_INVALID
from bus1.errors import Bus1Error, RemoteProtocolError
from bus1.received import ReceivedMessage

from .body import Reference, Variant, decode
from .call import Envelope, Kind
from .caller import Caller
from .calls import Resolved
from .caps.gate import Gate
from .conversion import Misfit
from .errors import (
    DBusError,
    InvalidArgs,
    LimitsExceeded,
    PropertyReadOnly,
    UnknownInterface,
    UnknownMethod,
    UnknownProperty,
)
from .handle import Arrival, Handle, capability_path
from .interface import Interface, interfaces_of
from .introspection import interfaces_xml, node_xml
from .members import InterfaceSpec, MethodSpec, PropertySpec, SignalSpec
from .standard import Introspectable, Peer, Properties, Signals
from .stream import Stream
from .swift import Swift, SwiftCall, SwiftCalls, swift

if TYPE_CHECKING:
    from .connection import Connection

MAX_SUBSCRIBERS = 4096

log = logging.getLogger("bus1.services")


@dataclass(frozen=True, slots=True)
class Subscriber:
    """A native node that wants signals; empty names match all."""

    handle: Handle
    interface: str
    member: str

    def wants(self, interface: str, member: str) -> bool:
        """This signal is for it."""
        return self.interface in {"", interface} and self.member in {"", member}


class Export:
    """One object on one connection; made by ``Connection.export``."""

    def __init__(self, connection: Connection, target: Interface) -> None:
        self.connection = connection
        self.target = target
        self._gate = target.__far__ if isinstance(target.__far__, Gate) else None
        if self._gate is not None:
            self._gate.opened(self)
        self.node = connection.node(self)
        self.emitter: Handle | None = None
        """What the registry gave for the service that published this object."""
        self.is_published = False
        self._path = capability_path()
        self._subscribers: list[Subscriber] = []
        self._calls = SwiftCalls(connection, target.__max_calls__, type(target).__qualname__)
        self.run: Callable[[Swift, SwiftCall], None] = partial(self._calls.run, target)
        """Run what ``swift`` gave, for a call of this object."""
        self._specs = interfaces_of(type(target)) if self._gate is None else self._gate.specs
        served: list[Interface] = [Introspectable(self), Peer(), Properties(self), Signals(self)]
        tables = [(target, spec) for spec in self._specs]
        tables += [(interface, spec) for interface in served for spec in interfaces_of(type(interface))]
        self._interfaces: dict[str, tuple[Interface, InterfaceSpec]] = {
            spec.name: (interface, spec) for interface, spec in reversed(tables)
        }
        self._swift: dict[tuple[str, str, str], Swift | None] = {}
        """What has been called already, by interface, name and signature; None if that may take its time."""
        target.__near__.append(self)

    def capability(self) -> tuple[str, int]:
        """The path to write and the node to send, to hand the object out."""
        return self._path, self.node

    def interfaces_xml(self) -> str:
        """The object's own interfaces, for the seed document."""
        return self._xml

    @cached_property
    def _xml(self) -> str:
        # each document that follows has it, for whatever object is added
        return interfaces_xml(self._specs)

    @property
    def busy(self) -> int:
        """How many calls are accepted and not answered yet."""
        return self._calls.busy

    @property
    def is_quiet(self) -> bool:
        """Nobody waits for an answer of this object, not even for a refusal."""
        return self._calls.is_quiet

    @property
    def is_in_use(self) -> bool:
        """A call is running, somebody listens, or it is there for those alone who hold it."""
        return not self.is_quiet or bool(self._subscribers) or not self.is_published

    def refuse(self, error: DBusError | None) -> None:
        """Answer calls that arrive from now on with ``error``; with None, serve them again.

        Who waits for the next item of a stream hears it, too."""
        self._calls.close(error)
        if error is not None and isinstance(self.target, Stream):
            self._calls.cancel(error)

    async def finished(self) -> None:
        """Wait until no accepted call is left."""
        await self._calls.finished()

    def cancel(self, error: DBusError) -> None:
        """End the calls that are accepted, whatever they do: their callers get ``error``."""
        self._calls.cancel(error)

    def start(self, function: Callable[[], Awaitable[object]]) -> object:
        """Run a task as long as the connection lasts."""
        return self.connection.start(function)

    def withdraw(self) -> None:
        """End the object's life on this connection: its node is destroyed."""
        if self in self.target.__near__:
            self._leave()
            self.connection.retire(self.node)
            for handle in {subscriber.handle.id for subscriber in self._subscribers}:
                self.connection.forgo(handle, self)
                self.bereaved(handle)

    # ---- what the connection tells -----------------------------------------------------------

    def is_answered(self, message: ReceivedMessage, envelope: Envelope, body: memoryview) -> bool:
        """A call that is over at once has been run; if not, nothing has happened."""
        if len(message.handles) != 1 or envelope.kind is not Kind.CALL or envelope.flags or envelope.caps:
            return False
        names = envelope.interface, envelope.member, envelope.signature
        work = self.swift(names)
        if work is None or message.handles[0] == HANDLE_INVALID:
            return False
        try:
            values = decode(envelope.signature, body, envelope.endian)
        except RemoteProtocolError:
            return False
        sender = message.uid, message.gid, message.pid
        reply = message.handles[0]
        self.run(work, (self.node, names, reply, envelope.serial, values, sender, message.secctx))
        return True

    def swift(self, names: tuple[str, str, str]) -> Swift | None:
        """The method of this interface, name and signature, if a call of it may be over at once now."""
        if self._gate is not None or not self._calls.is_free:
            return None
        try:
            return self._swift[names]
        except KeyError:
            pass
        try:
            interface, spec = self._method(Envelope(Kind.CALL, interface=names[0], member=names[1]))
        except DBusError:
            return None
        if spec.signature != names[2]:
            return None
        work = self._swift[names] = swift(interface, spec)
        return work

    def arrived(self, arrival: Arrival) -> None:
        """A message for the object: a call is run, anything else is not for objects."""
        envelope = arrival.envelope
        reply: Handle | None = None
        handles = arrival.handles
        if envelope.expects_reply:
            reply, handles = (handles[0] if handles else None), handles[1:]
        if envelope.kind is not Kind.CALL or (envelope.expects_reply and reply is None):
            # Not for objects; or a caller that is gone already.
            arrival.discard()
            return
        caller = Caller(
            arrival.uid, arrival.gid, arrival.pid, envelope.flags, handles, arrival.label, arrival.endpoint,
            self.target, reply, self.connection,
        )
        try:
            self._calls.add(envelope, reply, caller, self._accepted(arrival, caller))
            refused = False
        except DBusError as error:
            refused = True
            for fd in arrival.fds:
                fd.close()
            for handle in handles:
                if handle is not None:
                    handle.release()
            if reply is not None:
                self._calls.refuse(envelope, reply, caller, error)
        if self._gate is not None:
            self._gate.used(caller, refused)

    def released(self) -> None:
        """Nobody holds the object any more: unless it is published, this is its end."""
        if not self.is_published:
            self.withdraw()
            self._unreferenced()

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone, and with it all who held the object."""
        self._calls.lost()
        if self in self.target.__near__:
            self._leave()
            if not self.is_published:
                self._unreferenced()

    def _unreferenced(self) -> None:
        try:
            self.target.unreferenced()
        except Exception:
            log.exception("the end of a %s failed", type(self.target).__qualname__)

    def _leave(self) -> None:
        self.connection.ease()
        self.target.__near__.remove(self)
        if self._gate is not None:
            self._gate.closed()

    # ---- calls -------------------------------------------------------------------------------

    def _accepted(self, arrival: Arrival, caller: Caller) -> Resolved:
        """A method to run, which has its place; DBusError."""
        self._calls.admit(caller)
        try:
            return self._resolve(arrival)
        except DBusError:
            self._calls.leave(caller)
            raise

    def _resolve(self, arrival: Arrival) -> Resolved:
        """Which method is meant, with its arguments; DBusError."""
        envelope = arrival.envelope
        interface, spec = self._method(envelope)
        if envelope.signature != spec.signature:
            raise InvalidArgs(f"{spec.name} takes {spec.signature!r}, not {envelope.signature!r}")
        try:
            values = arrival.values()
        except RemoteProtocolError as error:
            raise InvalidArgs(f"the arguments cannot be read: {error}") from error
        return interface, spec, spec.takes.read(values, self._adopt)

    def _method(self, envelope: Envelope) -> tuple[Interface, MethodSpec]:
        if not envelope.interface:
            for interface, table in reversed(self._interfaces.values()):
                spec = table.method(envelope.member, envelope.signature)
                if spec is not None:
                    return interface, spec
            raise UnknownMethod(f"no interface of this object has a method {envelope.member}")
        if envelope.interface not in self._interfaces:
            raise UnknownInterface(f"this object has no interface {envelope.interface}")
        interface, table = self._interfaces[envelope.interface]
        spec = table.method(envelope.member, envelope.signature)
        if spec is None:
            raise UnknownMethod(f"{envelope.interface} has no method {envelope.member}")
        return interface, spec

    def _adopt(self, interface: type[Any], value: Any) -> Any:
        """A capability as the object that its parameter asks for."""
        if not isinstance(value, Reference) or value.handle is None:
            raise Misfit("not a live capability")
        return self.connection.proxy(interface, value)

    # ---- signals -----------------------------------------------------------------------------

    async def emit(self, interface: str, spec: SignalSpec, args: Sequence[Any]) -> None:
        """Send a signal to all who want it, in one transaction."""
        optional = {s.handle.id for s in self._subscribers if s.wants(interface, spec.name)}
        mandatory = [] if self.emitter is None else [self.emitter.id]
        if mandatory or optional:
            await self.connection.transmit(
                mandatory, Kind.SIGNAL, spec.signature, spec.row.write(args), interface=interface,
                member=spec.name,
                handles=[self.node], optional=sorted(optional),
            )

    async def changed(self, interface: str, changes: Sequence[tuple[PropertySpec, Any]]) -> None:
        """Send PropertiesChanged, as ``emits`` of each property says."""
        values = {spec.name: spec.variant(value) for spec, value in changes if spec.emits == "true"}
        names = [spec.name for spec, _ in changes if spec.emits == "invalidates"]
        if values or names:
            table = self._interfaces["org.freedesktop.DBus.Properties"][1]
            signal = table.members["PropertiesChanged"]
            assert isinstance(signal, SignalSpec)
            await self.emit(table.name, signal, (interface, values, names))

    def add_subscriber(self, handle: Handle | None, interface: str, member: str) -> None:
        """Send signals to ``handle`` until its node is destroyed; InvalidArgs, LimitsExceeded."""
        if not isinstance(handle, Handle):
            raise InvalidArgs("Subscribe needs the handle of a live node")
        if len(self._subscribers) >= MAX_SUBSCRIBERS:
            raise LimitsExceeded(f"{MAX_SUBSCRIBERS} subscribers already")
        self._subscribers.append(Subscriber(handle, interface, member))
        self.connection.mourn(handle.id, self)

    def bereaved(self, handle: int) -> None:
        """A node that the object held is destroyed: its subscriptions end."""
        gone = [subscriber for subscriber in self._subscribers if subscriber.handle.id == handle]
        self._subscribers = [subscriber for subscriber in self._subscribers if subscriber not in gone]
        for subscriber in gone:
            subscriber.handle.release()
        self.connection.ease()

    # ---- what the standard interfaces ask ----------------------------------------------------

    def introspect(self) -> str:
        """The whole XML."""
        return node_xml(spec for _, spec in reversed(self._interfaces.values()))

    async def get_property(self, interface: str, name: str) -> Variant:
        """The value of one property; InvalidArgs if it cannot be read, DBusError."""
        target, spec = self._property(interface, name)
        if not spec.is_readable:
            raise InvalidArgs(f"{name} cannot be read")
        return spec.variant(await getattr(target, spec.attribute).get())

    async def set_property(self, interface: str, name: str, value: Variant) -> None:
        """Set one property; PropertyReadOnly, InvalidArgs for another type, DBusError."""
        target, spec = self._property(interface, name)
        if not spec.is_writable:
            raise PropertyReadOnly(f"{name} cannot be set")
        if value.signature != spec.signature:
            raise InvalidArgs(f"{name} has type {spec.signature!r}, not {value.signature!r}")
        await getattr(target, spec.attribute).set(spec.read(value.value, self._adopt))

    async def get_properties(self, interface: str) -> dict[str, Variant]:
        """All properties of an interface; UnknownInterface, DBusError."""
        if interface and interface not in self._interfaces:
            raise UnknownInterface(f"this object has no interface {interface}")
        return {
            spec.name: spec.variant(await getattr(target, spec.attribute).get())
            for target, spec in self._properties(interface) if spec.is_readable
        }

    def _property(self, interface: str, name: str) -> tuple[Interface, PropertySpec]:
        if interface and interface not in self._interfaces:
            raise UnknownInterface(f"this object has no interface {interface}")
        for target, spec in self._properties(interface):
            if spec.name == name:
                return target, spec
        raise UnknownProperty(f"{interface or 'this object'} has no property {name}")

    def _properties(self, interface: str) -> list[tuple[Interface, PropertySpec]]:
        return [
            (target, spec)
            for target, table in reversed(self._interfaces.values()) if interface in {"", table.name}
            for spec in table.members.values() if isinstance(spec, PropertySpec)
        ]
