"""proxy: the client's end of an object: calls, properties, and streams of signals.

Theory. A call takes a reply node along, and waits for what happens to it first: RETURN, ERROR, or
NODE_RELEASE, which says that nobody can answer any more: NoReply, at once and without a timer. Then the
node is destroyed, also if the caller was cancelled: a late answer finds nobody.

A stream of signals is a node, too; services send to it while it exists. What has arrived and was
not taken is bounded: a stream that falls behind ends with an error, it never loses a signal in silence.

Invariants. 1. After a call its reply node is gone, however it ended. 2. Signals come in the order of the bus,
across all sources of one stream. 3. After the end of its block a stream's node is gone.

Not here: the typed face of a remote object (``interface``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from bus1.errors import Bus1Error, QuotaExceeded, RemoteProtocolError
from bus1.turns import Pause

from .body import Reference, Variant
from .call import CallFlag, Kind
from .conversion import Adopt, Misfit
from .descriptor import UnixFd
from .errors import DBusError, InvalidArgs, NoReply, Timeout, from_name
from .gone import gone
from .handle import Arrival, Handle
from .members import MethodSpec, PropertySpec, SignalSpec
from .types import MAX_NAME

if TYPE_CHECKING:
    from .connection import Connection

PROPERTIES = "org.freedesktop.DBus.Properties"
SIGNALS = "org.bus1.Signals1"
STREAM_CAPACITY = 65536
"""Signals that may wait in one stream."""


@dataclass(slots=True)
class Answer:
    """What came back: the values, the handles beside them (None for dead ones), and who owns descriptors."""

    signature: str
    values: list[Any]
    handles: tuple[Handle | None, ...]
    fds: tuple[UnixFd, ...] = ()

    def discard(self) -> None:
        """Give back all that came along: an error that tells what was wrong must not keep it."""
        for handle in self.handles:
            if handle is not None:
                handle.release()
        for fd in self.fds:
            fd.close()


Given = tuple[str, list[Any]]
"""A result that brought nothing but values: signature, values."""


class PendingCall:
    """The receiver of a reply node: the first thing that happens to it is the outcome."""

    __slots__ = ("_connection", "done", "found")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.done: Pause | None = None
        """What somebody waits for."""
        self.found: Given | Answer | Exception | None = None
        """The outcome."""

    def arrived(self, arrival: Arrival) -> None:
        """The answer."""
        kind = arrival.envelope.kind
        try:
            values = arrival.values()
        except RemoteProtocolError as error:
            arrival.discard()
            self._settle(error)
            return
        if kind is Kind.RETURN:
            self._settle(Answer(arrival.envelope.signature, values, arrival.handles, arrival.fds))
        elif kind is Kind.ERROR:
            text = values[0] if values and isinstance(values[0], str) else ""
            self._settle(from_name(arrival.envelope.member, text))
        else:
            self._settle(RemoteProtocolError(f"a {kind.name} in place of an answer"))

    def given(self, signature: str, values: list[Any]) -> None:
        """A result that brought nothing but values; the node has been given up."""
        if self.found is None:
            self.found = signature, values
            if self.done is not None:
                self.done.end()

    def released(self) -> None:
        """Nobody can answer any more."""
        if self.found is None:
            self._settle(NoReply("the callee is gone, or dropped the call"))

    def failed(self, error: Bus1Error) -> None:
        """The call could not be sent."""
        self._settle(error)

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone."""
        self._settle(error)

    async def outcome(self) -> Answer:
        """Wait for the answer, or raise what came in its place."""
        if self.found is None:
            self.done = self._connection.pause()
            await self.done
        return self.answer()

    def answer(self) -> Answer:
        """The outcome, or raise it."""
        found = self.found
        if isinstance(found, Answer):
            return found
        if isinstance(found, tuple):
            return Answer(*found, ())
        raise found or NoReply()

    def _settle(self, outcome: Answer | Exception) -> None:
        if self.found is None:
            self.found = outcome
            if self.done is not None:
                self.done.end()
                self._connection.yields()


def adopt(connection: Connection, interface: type[Any], value: Any) -> Any:
    """A capability as a proxy of a class; Misfit for a path without one."""
    if not isinstance(value, Reference):
        raise Misfit(f"{value[:MAX_NAME]} is a path without a capability: take it as an ObjectPath")
    return gone(interface) if value.handle is None else connection.proxy(interface, value)


class Remote:
    """The node behind a handle, as something to call; what a proxy is made of.

    A call that is not answered within ``timeout`` seconds, if any, is given up: Timeout. InvalidArgument for
    a handle of another connection."""

    def __init__(self, connection: Connection, handle: Handle, timeout: float | None = None) -> None:
        self.connection = connection
        self.handle = handle.at(connection.release)
        self.timeout = timeout

    async def call(
        self, interface: str, member: str, signature: str = "", values: Sequence[Any] = (), *,
        handles: Sequence[int] = (), flags: int = 0,
    ) -> Answer:
        """Call a method. DBusError for an error answer and for NoReply; Disconnected if the node is gone.

        If the task is cancelled, the callee hears that nobody waits any more, and cancels the call, too."""
        if self.timeout is None:
            return await self._call(interface, member, signature, values, handles, flags)
        with self.connection.within(self.timeout):
            return await self._call(interface, member, signature, values, handles, flags)
        raise Timeout(f"{member} was not answered within {self.timeout} s")

    async def _call(
        self, interface: str, member: str, signature: str, values: Sequence[Any], handles: Sequence[int],
        flags: int,
    ) -> Answer:
        connection = self.connection
        pending = PendingCall(connection)
        node = connection.node(pending)
        try:
            message = connection.write(
                Kind.CALL, signature, values, interface=interface, member=member, flags=flags, reply=node,
                handles=handles,
            )
            # Nobody goes on before the answer, which says that the call was sent.
            if not connection.post(self.handle.id, message, pending.failed):
                await connection.deliver([self.handle.id], message)
        except Exception:
            self.connection.forget(node)
            raise
        except BaseException:
            # Cancelled: nobody knows whether it was sent.
            self.connection.retire(node)
            raise
        try:
            return await pending.outcome()
        finally:
            self.connection.retire(node)

    async def send(
        self, interface: str, member: str, signature: str = "", values: Sequence[Any] = ()
    ) -> None:
        """Call a method without expecting an answer."""
        await self.connection.transmit(
            [self.handle.id], Kind.CALL, signature, values, interface=interface, member=member,
            flags=CallFlag.NO_REPLY_EXPECTED,
        )

    # ---- what a proxy asks -------------------------------------------------------------------

    async def invoke(self, interface: str, spec: MethodSpec, args: tuple[Any, ...]) -> Any:
        """Call a method of an interface; its result, a tuple of several. InvalidArgs for another type."""
        values = spec.takes.write(args) if spec.takes.is_written else args
        connection = self.connection
        if connection.short is None or self.timeout is not None or spec.no_reply:
            return await self._invoke(interface, spec, values)
        pending = PendingCall(connection)
        node, names = connection.node(pending), (interface, spec.name, spec.signature, spec.result)
        try:
            is_sent = connection.short.post_call(self.handle.id, node, names, values, pending.failed)
        except Exception:
            connection.forget(node)
            raise
        if not is_sent:
            connection.forget(node)
            return await self._invoke(interface, spec, values)
        try:
            if pending.found is None:
                pending.done = pause = connection.pause()
                await pause
            found = pending.found
            if type(found) is tuple and found[0] == spec.result:
                return spec.gathered(found[1], self.adopt)
            answer = pending.answer()
        except BaseException:
            connection.retire(node)
            raise
        connection.retire(node)
        return self.result(spec, answer)

    async def _invoke(self, interface: str, spec: MethodSpec, values: Sequence[Any]) -> Any:
        if spec.no_reply:
            await self.send(interface, spec.name, spec.signature, values)
            return None
        return self.result(spec, await self.call(interface, spec.name, spec.signature, values))

    def result(self, spec: MethodSpec, answer: Answer) -> Any:
        """What a method gave, of its answer; InvalidArgs, and what came is given back."""
        try:
            if answer.signature != spec.result:
                raise InvalidArgs(f"{spec.name} gives {spec.result!r}, the answer has {answer.signature!r}")
            return spec.gathered(answer.values, self.adopt)
        except DBusError:
            answer.discard()
            raise

    async def get(self, interface: str, spec: PropertySpec) -> Any:
        """Read a property; InvalidArgs for a value of another type."""
        answer = await self.call(PROPERTIES, "Get", "ss", (interface, spec.name))
        value = answer.values[0] if answer.signature == "v" else None
        try:
            if not isinstance(value, Variant):
                raise InvalidArgs(f"Get of {spec.name} gives 'v', the answer has {answer.signature!r}")
            if value.signature != spec.signature:
                raise InvalidArgs(f"{spec.name} is a {spec.signature!r}, the answer has {value.signature!r}")
            return spec.read(value.value, self.adopt)
        except DBusError:
            answer.discard()
            raise

    async def set(self, interface: str, spec: PropertySpec, value: Any) -> None:
        """Set a property."""
        await self.call(PROPERTIES, "Set", "ssv", (interface, spec.name, spec.variant(value)))

    @asynccontextmanager
    async def subscribe(self, interface: str, spec: SignalSpec) -> AsyncIterator[SignalValues]:
        """The arguments of one signal of this object."""
        async with SignalStream(self.connection) as stream:
            await stream.add(self.handle, interface, spec.name)
            yield SignalValues(stream, spec, partial(adopt, self.connection))

    def adopt(self, interface: type[Any], value: Any) -> Any:
        """A capability as a proxy of a class; Misfit for a path without one."""
        return adopt(self.connection, interface, value)


@dataclass(frozen=True, slots=True)
class ReceivedSignal:
    """One signal; ``source`` is the node of the object that emitted it, None if it is gone."""

    source: Handle | None
    interface: str
    member: str
    signature: str
    values: list[Any]


class SignalStream:
    """Signals of any number of objects, in the order of the bus. ``async with`` it, ``add``, iterate."""

    def __init__(self, connection: Connection, capacity: int = STREAM_CAPACITY) -> None:
        self._connection = connection
        self._capacity = capacity
        self._waiting: deque[ReceivedSignal] = deque()
        self._arrival: Pause | None = None
        self._failure: Exception | None = None
        self._node = connection.node(self)
        self._is_known = False

    async def add(self, handle: Handle, interface: str = "", member: str = "") -> None:
        """Receive signals of the object behind ``handle``; empty names stand for all. DBusError."""
        remote = Remote(self._connection, handle)
        await remote.call(SIGNALS, "Subscribe", "ss", (interface, member), handles=[self.share()])

    def share(self) -> int:
        """The stream's node, to be sent to somebody who will emit to it."""
        self._is_known = True
        return self._node

    def arrived(self, arrival: Arrival) -> None:
        """A signal."""
        envelope = arrival.envelope
        try:
            if envelope.kind is not Kind.SIGNAL:
                raise RemoteProtocolError(f"a {envelope.kind.name} in place of a signal")
            values = arrival.values()
        except RemoteProtocolError:
            # Whoever holds this node may send rubbish to it; the others' signals go on.
            arrival.discard()
            return
        if len(self._waiting) >= self._capacity:
            self._fail(QuotaExceeded(f"{self._capacity} signals wait to be taken"))
            arrival.discard()
        elif self._failure is None:
            source = arrival.handles[0] if arrival.handles else None
            self._waiting.append(
                ReceivedSignal(source, envelope.interface, envelope.member, envelope.signature, values)
            )
            self._wake()

    def released(self) -> None:
        """Nobody holds the stream's node: no signal can come."""
        self._fail(NoReply("the objects of this stream are gone"))

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone."""
        self._fail(error)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ReceivedSignal:
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            self._arrival = self._connection.pause()
            await self._arrival
        return self._waiting.popleft()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._is_known:
            self._connection.retire(self._node)
        else:
            self._connection.forget(self._node)

    def _fail(self, error: Exception) -> None:
        if self._failure is None:
            self._failure = error
            self._wake()

    def _wake(self) -> None:
        if self._arrival is not None:
            self._arrival.end()


class SignalValues:
    """The arguments of one kind of signal: the value of one, a tuple of several."""

    def __init__(self, stream: SignalStream, spec: SignalSpec, adopt: Adopt) -> None:
        self._stream = stream
        self._spec = spec
        self._adopt = adopt

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        async for received in self._stream:
            if received.member == self._spec.name and received.signature == self._spec.signature:
                values = self._spec.row.read(received.values, self._adopt)
                return values[0] if len(values) == 1 else tuple(values)
        raise StopAsyncIteration
