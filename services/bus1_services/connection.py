"""connection: one peer of the bus as the services on it see it: who gets what arrives, who owns what.

Theory. A peer has one queue. The pump is the one task that takes messages from it, in order, and hands each
to the receiver of the node that it was sent to, before it takes the next. Receivers decode at once,
so a slice is given back within the turn; what takes longer becomes a task. What is no longer needed,
nodes and references, is queued, and given back by the sweeper, a task of its own: nobody waits
for it, finalizers least of all.

NODE_RELEASE says that nobody else holds a node any more. It may leave the queue before a send that hands
the node out again, and be seen after it. Seen in a turn in which the node was handed out, it is therefore
doubted: the node's count is raised and lowered once (H-31), and the bus says it again if it is still
true (N-10, N-15).

Invariants. 1. Each message's slice, descriptors and references are given back, or belong to the value
that carries them. 2. Receivers see messages in the order of the queue. 3. When nothing can arrive any more,
for whatever reason, every receiver is told, once, and the peer is closed: nobody waits for it in vain.

Not here: what messages mean (``export``, ``proxy``), names (``registry``).
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskStatus

from bus1 import aio
from bus1.core.api import HANDLE_INVALID, DestroyFlag, MessageType
from bus1.errors import (
    Bus1Error,
    BusGone,
    InvalidArgument,
    PeerShutdown,
    RemoteProtocolError,
    TooManyDescriptors,
)
from bus1.received import ReceivedMessage

from .body import Reference, encode
from .call import Envelope, Kind
from .call import decode as decode_envelope
from .call import encode as encode_envelope
from .caps.gate import Gate
from .descriptor import UnixFd
from .export import Export
from .handle import CAPABILITY_PREFIX, Arrival, Handle
from .interface import Interface
from .places import Places
from .proxy import Remote
from .registry import Publication, Registry

MAX_CALLS = 16384
"""Taken at a time, for all objects of a connection."""

I = TypeVar("I", bound=Interface)  # noqa: E741


class Receiver(Protocol):
    """What stands behind an own node. None of these waits."""

    def arrived(self, arrival: Arrival) -> None:
        """A message for the node; all that came along now belongs to the receiver."""

    def released(self) -> None:
        """Nobody else holds the node any more (NODE_RELEASE)."""

    def lost(self, error: Bus1Error) -> None:
        """Nothing will arrive any more: the bus is gone, or the way to it."""


class Mourner(Protocol):
    """Who wants to know that a node which it holds is destroyed."""

    def bereaved(self, handle: int) -> None:
        """It is; this does not wait."""


class Connection:
    """A peer with its pump and its sweeper; made by ``connect``."""

    def __init__(self, peer: aio.Peer, start: Callable[..., object]) -> None:
        self.peer = peer
        self.granted = tuple(self.handle(number) for number in peer.granted)
        """What the endpoint granted; first the registry, at the default endpoint."""
        self.start = start
        """Run an async function with arguments as a task of this connection."""
        self.places = Places(MAX_CALLS, "this service")
        """For the calls of all its objects."""
        self.published: list[Export] = []
        """Objects of the last publication; while one is under way, of both."""
        self.publication: Publication | None = None
        self.publishing = anyio.Lock()
        """Held while a publication takes the place of another."""
        self.pinned: tuple[bytes, tuple[int, ...]] | None = None
        """The seed that publishing has set: document and nodes."""
        self._root: Export | None = None
        self._receivers: dict[int, Receiver] = {}
        self._mourners: dict[int, set[Mourner]] = {}
        self._next_node = 4
        self._turn = 0
        self._handed_out: dict[int, int] = {}
        self._sending: dict[int, int] = {}
        self._released: list[int] = []
        self._retired: list[int] = []
        self._doubted: list[int] = []
        self._work = anyio.Event()
        self._rested = anyio.Event()
        self._thread = threading.get_ident()
        self._error: Bus1Error | None = None
        self._ended = anyio.Event()
        self._eased: anyio.Event | None = None
        self._shut: dict[int, anyio.Event] = {}

    @property
    def registry(self) -> Registry:
        """The registry that the endpoint granted."""
        return Registry(self, self.granted[0])

    @property
    def root(self) -> Export:
        """The node that stands for this peer itself: it answers Peer and Introspectable."""
        if self._root is None:
            self._root = self.export(Interface())
            self._root.is_published = True
        return self._root

    # ---- objects -----------------------------------------------------------------------------

    def export(self, target: Interface) -> Export:
        """The place where ``target`` answers on this connection; made on first use."""
        for near in target.__near__:
            if isinstance(near, Export) and near.connection is self:
                return near
        return target.__exporter__(self, target) if target.__exporter__ else Export(self, target)

    def proxy(self, interface: type[I], handle: Handle | Reference, timeout: float | None = None) -> I:
        """An object of ``interface`` that stands for the node behind ``handle``.

        Its calls are given up after ``timeout`` seconds, if any, with the error Timeout."""
        held = _held(handle)
        if held is None:
            raise TypeError(f"{handle!r} carries no live handle")
        own = self._receivers.get(held.id)
        if isinstance(own, Export) and isinstance(own.target, interface):
            return own.target
        proxy = object.__new__(interface)
        proxy.__far__ = Remote(self, held, timeout)
        return proxy

    def grant(self, value: object) -> tuple[str, int] | None:
        """The path and the handle id of an object that may travel; None for anything else."""
        if isinstance(value, Interface):
            far = value.__far__
            if far is None or isinstance(far, Gate):
                return self.export(value).capability()
            value = far.handle if isinstance(far, Remote) else None
        held = _held(value)
        return None if held is None else held.capability()

    def exports(self) -> list[Export]:
        """All objects that are served here."""
        return [receiver for receiver in self._receivers.values() if isinstance(receiver, Export)]

    async def shut(self) -> None:
        """Destroy the nodes of all objects at one instant, and wait for what was sent to them before."""
        last = self._next_node
        self._next_node += 4
        arrived = self._shut[last] = anyio.Event()
        await self.peer.destroy([*(export.node for export in self.exports()), last])
        await arrived.wait()

    # ---- who uses it -------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """The bus is there, as far as is known."""
        return self._error is None

    @property
    def is_used(self) -> bool:
        """An object is in use."""
        return any(export.is_in_use for export in self.exports())

    def ease(self) -> None:
        """Something that kept an object in use has ended; for those who wait in ``eased``."""
        if self._eased is not None:
            self._eased.set()
            self._eased = None

    async def eased(self) -> None:
        """Wait until an object may be in use less than before, or the bus is gone."""
        if self._eased is None:
            self._eased = anyio.Event()
        await self._eased.wait()

    async def unused(self) -> None:
        """Wait until no object is in use, or the bus is gone."""
        while self.is_used:
            await self.eased()

    # ---- nodes and references ----------------------------------------------------------------

    def handle(self, number: int) -> Handle:
        """An owner for one reference that this peer holds."""
        return Handle(number, self.release)

    def node(self, receiver: Receiver) -> int:
        """An id for a new own node; the bus creates it with the first message that names it (H-20)."""
        node = self._next_node
        self._next_node += 4
        self._receivers[node] = receiver
        return node

    def retire(self, node: int) -> None:
        """Destroy an own node soon; its receiver hears nothing any more."""
        if self._receivers.pop(node, None) is not None:
            self._handed_out.pop(node, None)
            self._retired.append(node)
            self._wake()

    def forget(self, node: int) -> None:
        """Drop an own node that the bus never saw."""
        self._receivers.pop(node, None)

    def release(self, number: int) -> None:
        """Give one reference back soon. For finalizers, too: from any thread, at any time."""
        self._released.append(number)
        self._wake()

    def mourn(self, handle: int, mourner: Mourner) -> None:
        """Tell ``mourner`` when the node behind ``handle`` is destroyed."""
        self._mourners.setdefault(handle, set()).add(mourner)

    def forgo(self, handle: int, mourner: Mourner) -> None:
        """Do not tell it any more."""
        mourners = self._mourners.get(handle, set())
        mourners.discard(mourner)
        if not mourners:
            self._mourners.pop(handle, None)

    def doubt(self, node: int) -> None:
        """Hear again whether nobody else holds an own node."""
        self._doubted.append(node)
        self._wake()

    async def swept(self) -> None:
        """Wait until everything that was given up has been given back."""
        self._wake()
        while self._error is None and (
            self._released or self._retired or self._doubted or not self._rested.is_set()
        ):
            await self._rested.wait()

    # ---- messages ----------------------------------------------------------------------------

    async def transmit(
        self, destinations: Sequence[int], kind: Kind, signature: str = "", values: Sequence[Any] = (), *,
        interface: str = "", member: str = "", flags: int = 0, serial: int = 0, reply: int | None = None,
        handles: Sequence[int] = (), optional: Sequence[int] = (),
    ) -> list[int]:
        """Send one message; its handles are the reply node, ``handles``, and the capabilities in ``values``.

        InvalidArgument if the values do not fit; else as ``Peer.send``."""
        first = self._next_node
        try:
            encoded = encode(signature, values, self.grant)
        except BaseException:
            for node in range(first, self._next_node, 4):
                self._unsent(node)
            raise
        granted = [number for _, number in encoded.grants]
        start = len(handles) + (reply is not None)
        caps = tuple((ordinal, start + i) for i, (ordinal, _) in enumerate(encoded.grants))
        envelope = Envelope(kind, flags, "l", serial, interface, member, signature, caps, len(encoded.data))
        return await self.forward(
            destinations, envelope, encoded.data, reply=reply, handles=[*handles, *granted],
            fds=[_descriptor_of(owner) for owner in encoded.fds], optional=optional,
        )

    async def forward(
        self, destinations: Sequence[int], envelope: Envelope, body: bytes, *, reply: int | None = None,
        handles: Sequence[int] = (), fds: Sequence[int] = (), optional: Sequence[int] = (),
    ) -> list[int]:
        """Send one message with a body that is there already; LocalProtocolError, else as ``Peer.send``."""
        head, sent = encode_envelope(envelope), [*([] if reply is None else [reply]), *handles]
        shared = [number for number in handles if number in self._receivers]
        for node in shared:
            self._sending[node] = self._sending.get(node, 0) + 1
        try:
            return await self.peer.send(destinations, (head, body), sent, fds, optional=optional)
        except BaseException:
            for node in shared:
                self._unsent(node)
            raise
        finally:
            for node in shared:
                self._handed_out[node] = self._turn
                self._sending[node] -= 1
                if not self._sending[node]:
                    del self._sending[node]

    def _unsent(self, node: int) -> None:
        """A message with this node was perhaps not sent: then its object may have nobody who holds it."""
        if isinstance(self._receivers.get(node), Export):
            self.doubt(node)

    async def ended(self) -> None:
        """Wait until the bus is gone, then raise why."""
        await self._ended.wait()
        raise self._error or BusGone("the connection has been closed")

    async def run_pump(self) -> None:
        """Take messages until the bus is gone; the task that ``connect`` starts."""
        try:
            while True:
                self._turn += 1
                try:
                    message = await self.peer.recv()
                except TooManyDescriptors:
                    # The message stays queued. Without its descriptors it still has an answer.
                    message = await self.peer.recv(install_fds=False)
                self._dispatch(message)
        except Bus1Error as error:
            self._end(error)

    async def run_sweeper(self) -> None:
        """Give back what was given up; the task that ``connect`` starts."""
        try:
            while True:
                await self._sweep()
                self._rested.set()
                await self._work.wait()
                self._work, self._rested = anyio.Event(), anyio.Event()
        except (BusGone, PeerShutdown):
            self._rested.set()
        except Bus1Error as error:
            self._end(error)
            self._rested.set()

    def _end(self, error: Bus1Error) -> None:
        """Nothing can be received, or given back, any more."""
        if self._error is None:
            self.end(error)
            self.peer.close()

    def end(self, error: Bus1Error) -> None:
        """Tell everybody that nothing will arrive here any more."""
        if self._error is not None:
            return
        self._error = error
        receivers, self._receivers = list(self._receivers.values()), {}
        for receiver in receivers:
            receiver.lost(error)
        self._ended.set()
        self.ease()
        for arrived in self._shut.values():
            arrived.set()

    async def _sweep(self) -> None:
        while self._retired or self._released or self._doubted:
            retired, self._retired = self._retired, []
            if retired:
                await self.peer.destroy(retired, DestroyFlag.RELEASE_HANDLES)
            while self._released:
                self.peer.release_soon(self._released.pop())
            while self._doubted:
                node = self._doubted.pop()
                if node in self._receivers:
                    self.peer.release_soon(await self.peer.transfer(node))

    def _wake(self) -> None:
        # A finalizer may run in another thread; the next piece of work in this one takes its id along.
        if threading.get_ident() == self._thread:
            self._work.set()

    def _dispatch(self, message: ReceivedMessage) -> None:
        with message:
            if message.type is MessageType.DATA:
                self._arrive(message)
            elif message.type is MessageType.NODE_DESTROY:
                if message.destination in self._shut:
                    self._shut.pop(message.destination).set()
                for mourner in self._mourners.pop(message.destination, ()):
                    mourner.bereaved(message.destination)
            elif (receiver := self._receivers.get(message.destination)) is not None:
                self._unreferenced(message.destination, receiver)

    def _arrive(self, message: ReceivedMessage) -> None:
        handles = tuple(None if h == HANDLE_INVALID else self.handle(h) for h in message.handles)
        fds = tuple(map(UnixFd, message.fds.take_all()))
        receiver = self._receivers.get(message.destination)
        try:
            envelope, offset = decode_envelope(message.payload)
        except RemoteProtocolError:
            receiver = None
        if receiver is None:
            for owner in (*handles, *fds):
                if isinstance(owner, Handle):
                    owner.release()
            return
        with message.payload[offset:] as body:
            receiver.arrived(Arrival(envelope, body, handles, fds, message.uid, message.gid, message.pid))

    def _unreferenced(self, node: int, receiver: Receiver) -> None:
        if node in self._sending or self._handed_out.get(node) == self._turn:
            self.doubt(node)
        else:
            receiver.released()


def _held(value: object) -> Handle | None:
    """The handle of a Handle or a Reference; it remembers a capability's path."""
    held = value.handle if isinstance(value, Reference) else value
    if not isinstance(held, Handle):
        return None
    if isinstance(value, Reference) and value.startswith(CAPABILITY_PREFIX):
        held.path = value.path
    return held


def _descriptor_of(owner: Any) -> int:
    """The number of an open descriptor, or of its owner; InvalidArgument."""
    try:
        number = owner if isinstance(owner, int) else owner.fileno()
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise InvalidArgument(f"a {type(owner).__name__} is no open descriptor: {error}") from error
    if not isinstance(number, int) or number < 0:
        raise InvalidArgument(f"a {type(owner).__name__} is no open descriptor")
    return number


@asynccontextmanager
async def connect(address: str | None = None) -> AsyncIterator[Connection]:
    """A new peer on the bus at ``address``, with pump and sweeper; closed at the end."""
    async with aio.connect(address) as peer, attach(peer) as connection:
        yield connection


@asynccontextmanager
async def attach(peer: aio.Peer) -> AsyncIterator[Connection]:
    """Pump and sweeper for a peer that exists; nobody else may receive from it meanwhile.

    They, and the calls of objects, go on until the block has ended, even if it is cancelled."""
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        connection, end = await tasks.start(_attend, peer)
        try:
            yield connection
        except Exception as error:
            failure = error
        finally:
            end()
    if failure is not None:
        raise failure


async def _attend(
    peer: aio.Peer, *, task_status: TaskStatus[tuple[Connection, Callable[[], None]]]
) -> None:
    """All that happens beside the block, until it says that this is the end."""
    with anyio.CancelScope(shield=True) as scope:
        async with anyio.create_task_group() as tasks:
            connection = Connection(peer, tasks.start_soon)
            tasks.start_soon(connection.run_pump)
            tasks.start_soon(connection.run_sweeper)
            task_status.started((connection, scope.cancel))
            await anyio.sleep_forever()
    connection.end(BusGone("this connection has been closed"))
