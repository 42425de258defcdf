"""export: an object of a service, served on one connection.

Theory. An ``Export`` is the receiver of one own node. A call is decoded and resolved at once, in the order of
the queue, and then runs as a task, which sends RETURN or ERROR to the reply node and releases it. A
synchronous method therefore runs in order of arrival; an asynchronous one does not hold up others.

A signal is one send: to the emitter, which stands for all D-Bus clients whose rules match, if the
object is published; and, as optional destinations, to the native subscribers. Handle 0 is the object's node.

An object that nobody published lives as long as somebody holds it: at NODE_RELEASE its node is
destroyed, and its ``unreferenced`` is called. It is written in bodies as a path that cannot be guessed.

Invariants. 1. Every call that expects an answer gets one, or its reply handle is released. 2. What a method
raises beside DBusError, or gives that cannot be sent, is answered as Failed and logged, once; others go
on. 3. A subscriber whose node is destroyed is forgotten. 4. At most ``MAX_CALLS`` run at a time, and
``MAX_REFUSALS`` more are refused; the rest is dropped. At most ``MAX_SUBSCRIBERS`` wait for signals.

Not here: nodes and messages (``connection``), declarations (``interface``).
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from bus1.errors import Bus1Error, Disconnected, Overloaded, RemoteProtocolError

from .body import Reference, Variant
from .call import Envelope, Kind
from .caller import Caller
from .caps.gate import Gate
from .errors import (
    DBusError,
    InvalidArgs,
    LimitsExceeded,
    PropertyReadOnly,
    UnknownInterface,
    UnknownMethod,
    UnknownProperty,
    from_name,
)
from .handle import Arrival, Handle, capability_path
from .interface import Interface, interfaces_of
from .introspection import interfaces_xml, node_xml
from .members import Arg, InterfaceSpec, MethodSpec, PropertySpec, SignalSpec
from .standard import Introspectable, Peer, Properties, Signals
from .types import is_error_name

if TYPE_CHECKING:
    from .connection import Connection

MAX_CALLS = 4096
"""Running at a time, of one object. Callers beyond it are told LimitsExceeded."""
MAX_REFUSALS = 256
"""Being told so at a time. Calls beyond it are dropped, so that their callers see NoReply."""
MAX_SUBSCRIBERS = 4096
MAX_TEXT = 1024
"""Characters about a bug that its caller is told."""

Resolved: TypeAlias = tuple[Interface, MethodSpec, list[Any]]
"""A method with its arguments."""
Work: TypeAlias = tuple[Envelope, Handle | None, Caller, Resolved | DBusError]

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
        self._accepted: deque[Work] = deque()
        """Calls whose tasks have not started yet."""
        self._running = 0
        self._refusal: DBusError | None = None
        self._finished = anyio.Event()
        self._specs = interfaces_of(type(target)) if self._gate is None else self._gate.specs
        served: list[Interface] = [Introspectable(self), Peer(), Properties(self), Signals(self)]
        tables = [(target, spec) for spec in self._specs]
        tables += [(interface, spec) for interface in served for spec in interfaces_of(type(interface))]
        self._interfaces: dict[str, tuple[Interface, InterfaceSpec]] = {
            spec.name: (interface, spec) for interface, spec in reversed(tables)
        }
        target.__near__.append(self)

    def capability(self) -> tuple[str, int]:
        """The path to write and the node to send, to hand the object out."""
        return self._path, self.node

    def interfaces_xml(self) -> str:
        """The object's own interfaces, for the seed document."""
        return interfaces_xml(self._specs)

    @property
    def busy(self) -> int:
        """How many calls are accepted and not answered yet."""
        return self._running

    def refuse(self, error: DBusError | None) -> None:
        """Answer calls that arrive from now on with ``error``; with None, serve them again."""
        self._refusal = error

    async def finished(self) -> None:
        """Wait until no accepted call is left."""
        while self._running:
            self._finished = anyio.Event()
            await self._finished.wait()

    def withdraw(self) -> None:
        """End the object's life on this connection: its node is destroyed."""
        if self in self.target.__near__:
            self._leave()
            self.connection.retire(self.node)
            for handle in {subscriber.handle.id for subscriber in self._subscribers}:
                self.connection.forgo(handle, self)
                self.bereaved(handle)

    # ---- what the connection tells -----------------------------------------------------------

    def arrived(self, arrival: Arrival) -> None:
        """A message for the object: a call is run, anything else is not for objects."""
        envelope = arrival.envelope
        if envelope.kind is not Kind.CALL or self._running >= MAX_CALLS + MAX_REFUSALS:
            arrival.discard()
            return
        reply: Handle | None = None
        handles = arrival.handles
        if envelope.expects_reply:
            reply, handles = (handles[0] if handles else None), handles[1:]
        work: Resolved | DBusError
        try:
            work = self._resolve(arrival)
        except DBusError as error:
            if reply is None:
                arrival.discard()
                return
            for fd in arrival.fds:
                fd.close()
            work = error
        caller = Caller(arrival.uid, arrival.gid, arrival.pid, envelope.flags, handles)
        if self._gate is not None:
            self._gate.used(caller, isinstance(work, DBusError))
        self._running += 1
        self._accepted.append((envelope, reply, caller, work))
        self.connection.start(self._serve)

    def released(self) -> None:
        """Nobody holds the object any more: unless it is published, this is its end."""
        if not self.is_published:
            self.withdraw()
            try:
                self.target.unreferenced()
            except Exception:
                log.exception("the end of a %s failed", type(self.target).__qualname__)

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone."""
        if self in self.target.__near__:
            self._leave()

    def _leave(self) -> None:
        self.target.__near__.remove(self)
        if self._gate is not None:
            self._gate.closed()

    # ---- calls -------------------------------------------------------------------------------

    def _resolve(self, arrival: Arrival) -> Resolved:
        """Which method is meant, with its arguments; DBusError."""
        if self._refusal is not None:
            raise from_name(self._refusal.name, self._refusal.text)
        if self._running >= MAX_CALLS:
            raise LimitsExceeded(f"{self._running} calls of this object are running")
        envelope = arrival.envelope
        interface, spec = self._method(envelope)
        if envelope.signature != spec.signature:
            raise InvalidArgs(f"{spec.name} takes {spec.signature!r}, not {envelope.signature!r}")
        try:
            values = arrival.values()
        except RemoteProtocolError as error:
            raise InvalidArgs(f"the arguments cannot be read: {error}") from error
        return interface, spec, [self._adopt(arg, v) for arg, v in zip(spec.inputs, values, strict=True)]

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

    def _adopt(self, arg: Arg, value: Any) -> Any:
        """A capability as the object that its parameter asks for."""
        if arg.interface is None:
            return value
        if not isinstance(value, Reference) or value.handle is None:
            raise InvalidArgs(f"{arg.name} is not a live capability")
        return self.connection.proxy(arg.interface, value)

    async def _serve(self) -> None:
        """Run the call that came first, whichever task the loop starts first, to its end; and answer."""
        envelope, reply, caller, work = self._accepted.popleft()
        try:
            if isinstance(work, DBusError):
                await self._refuse(reply, envelope, work)
                return
            try:
                values = await _perform(*work, caller)
            except DBusError as error:
                await self._refuse(reply, envelope, error)
            except Exception as error:
                await self._fail(reply, envelope, error)
            else:
                await self._return(reply, envelope, work[1].result, values)
        finally:
            self._running -= 1
            if not self._running:
                self._finished.set()
            if reply is not None:
                reply.release()

    async def _return(
        self, reply: Handle | None, envelope: Envelope, signature: str, values: Sequence[Any]
    ) -> None:
        if reply is None:
            return
        try:
            await self.connection.transmit(
                [reply.id], Kind.RETURN, signature, values, serial=envelope.serial
            )
        except Disconnected:
            log.debug("nobody waits for the answer of %s any more", envelope.member)
        except Overloaded as error:
            await self._refuse(reply, envelope, LimitsExceeded(f"the answer does not fit: {error}"))
        except Exception as error:
            # Beside what the bus refuses: code of the values themselves, run while they are written.
            await self._fail(reply, envelope, error)

    async def _fail(self, reply: Handle | None, envelope: Envelope, error: Exception) -> None:
        """A bug of the service; called where ``error`` is handled."""
        log.exception("%s of %s failed", envelope.member, type(self.target).__qualname__)
        await self._refuse(reply, envelope, DBusError(_words(error)))

    async def _refuse(self, reply: Handle | None, envelope: Envelope, error: DBusError) -> None:
        if reply is None:
            return
        if not _can_travel(error):
            log.error("%s of %s raised what is no D-Bus error", envelope.member,
                      type(self.target).__qualname__, exc_info=error)
            error = DBusError(_words(error))
        try:
            await self.connection.transmit(
                [reply.id], Kind.ERROR, "s", (error.text,), member=error.name, serial=envelope.serial
            )
        except Bus1Error as failure:
            # Whatever it is, the reply handle is released next, and the caller sees NoReply.
            log.debug("an error could not be answered: %s", failure)

    # ---- signals -----------------------------------------------------------------------------

    async def emit(self, interface: str, spec: SignalSpec, args: Sequence[Any]) -> None:
        """Send a signal to all who want it, in one transaction."""
        optional = {s.handle.id for s in self._subscribers if s.wants(interface, spec.name)}
        mandatory = [] if self.emitter is None else [self.emitter.id]
        if mandatory or optional:
            await self.connection.transmit(
                mandatory, Kind.SIGNAL, spec.signature, args, interface=interface, member=spec.name,
                handles=[self.node], optional=sorted(optional),
            )

    async def changed(self, interface: str, spec: PropertySpec, value: Any) -> None:
        """Send PropertiesChanged, as the property's ``emits`` says."""
        if spec.emits in {"true", "invalidates"}:
            values = {spec.name: Variant(spec.signature, value)} if spec.emits == "true" else {}
            names = [] if values else [spec.name]
            table = self._interfaces["org.freedesktop.DBus.Properties"][1]
            signal = table.members["PropertiesChanged"]
            assert isinstance(signal, SignalSpec)
            await self.emit(table.name, signal, (interface, values, names))

    def add_subscriber(self, handle: Handle | None, interface: str, member: str) -> None:
        """Send signals to ``handle`` until its node is destroyed; DBusError."""
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

    # ---- what the standard interfaces ask ----------------------------------------------------

    def introspect(self) -> str:
        """The whole XML."""
        return node_xml(spec for _, spec in reversed(self._interfaces.values()))

    async def get_property(self, interface: str, name: str) -> Variant:
        """The value of one property; DBusError."""
        target, spec = self._property(interface, name)
        if not spec.is_readable:
            raise InvalidArgs(f"{name} cannot be read")
        return Variant(spec.signature, await getattr(target, spec.attribute).get())

    async def set_property(self, interface: str, name: str, value: Variant) -> None:
        """Set one property; DBusError."""
        target, spec = self._property(interface, name)
        if not spec.is_writable:
            raise PropertyReadOnly(f"{name} cannot be set")
        if value.signature != spec.signature:
            raise InvalidArgs(f"{name} has type {spec.signature!r}, not {value.signature!r}")
        arg = Arg(name, spec.signature, spec.interface)
        await getattr(target, spec.attribute).set(self._adopt(arg, value.value))

    async def get_properties(self, interface: str) -> dict[str, Variant]:
        """All properties of an interface; DBusError."""
        if interface and interface not in self._interfaces:
            raise UnknownInterface(f"this object has no interface {interface}")
        return {
            spec.name: Variant(spec.signature, await getattr(target, spec.attribute).get())
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


async def _perform(interface: Interface, spec: MethodSpec, args: list[Any], caller: Caller) -> Sequence[Any]:
    """Call the method; its results as the values of its answer."""
    if isinstance(gate := interface.__far__, Gate):
        result = await gate.perform(spec.attribute, tuple(args), caller)
    else:
        extra = {} if spec.caller is None else {spec.caller: caller}
        result = await getattr(interface, spec.attribute)(*args, **extra)
    if not spec.outputs:
        return ()
    return (result,) if len(spec.outputs) == 1 else tuple(result)


def _can_travel(error: DBusError) -> bool:
    """Name and text are what an ERROR can carry; a subclass may have left them out."""
    name, text = getattr(error, "name", None), getattr(error, "text", None)
    if not isinstance(name, str) or not isinstance(text, str) or not is_error_name(name):
        return False
    return text == _plain(text)


def _words(error: Exception) -> str:
    """Class and text of any exception, short enough and clean enough for a D-Bus string."""
    kind = type(error).__name__
    try:
        return _plain(f"{kind}: {error}"[:MAX_TEXT])
    except Exception:
        # The text is code of the exception, which may fail, too; the log has its traceback.
        return _plain(kind[:MAX_TEXT])


def _plain(text: str) -> str:
    return text.replace("\0", "?").encode("utf-8", "replace").decode()
