"""connection: one peer of the bus as the services on it see it: who gets what arrives, who owns what.

Theory. A peer has one queue. The pump is the one task that takes messages from it, in order, and hands each
to the receiver of the node that it was sent to, before it takes the next. Receivers decode at once,
so a slice is given back within the turn; what takes longer becomes a task. What they post, and what is no
longer needed, leaves in one write with the request for the next message.

NODE_RELEASE says that nobody else holds a node any more. It may leave the queue before a send that hands
the node out again, and be seen after it. If it arrived before that send was answered, it is therefore
doubted: the node's count is raised and lowered once (H-31), and the bus says it again if it is still
true (N-10, N-15). What hands nodes out is therefore never posted: nobody would know when it was sent.

Invariants. 1. Each message's slice, descriptors and references are given back, or belong to the value
that carries them. 2. Receivers see messages in the order of the queue. 3. When nothing can arrive any more,
for whatever reason, every receiver is told, once, and the peer is closed: nobody waits for it in vain.

Not here: what messages mean (``export``, ``proxy``), names (``registry``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Any, TypeVar, Unpack

import anyio

from bus1 import aio
from bus1.core.api import MessageType, PeerFlag
from bus1.errors import Bus1Error, BusGone, PeerShutdown, RemoteProtocolError, TooManyDescriptors
from bus1.received import ReceivedMessage
from bus1.turns import Turns

from . import letter
from .body import Reference
from .call import Envelope, Kind
from .call import decode as decode_envelope
from .caps.gate import Gate
from .export import Export
from .handle import Arrival, Handle, brought, held_by
from .interface import Interface
from .letter import Heading, Letter
from .places import Places
from .proxy import Remote
from .receiver import Mourner, Receiver
from .registry import Publication, Registry
from .scope import Scope
from .short import short
from .sweeper import Sweeper

MAX_CALLS = 16384
"""Taken at a time, for all objects of a connection."""

I = TypeVar("I", bound=Interface)  # noqa: E741


class Connection:
    """A peer with its pump and its sweeper; made by ``connect``."""

    def __init__(self, peer: aio.Peer, start: Callable[..., object]) -> None:
        self.peer = peer
        self._sweeper = Sweeper(peer, lambda node: node in self._receivers)
        self.swept = self._sweeper.swept
        """Wait until everything that was given up has been given back."""
        self.release = self._sweeper.release
        """Give one reference back soon. For finalizers, too: from any thread, at any time."""
        self.doubt = self._sweeper.doubt
        """Hear again whether nobody else holds an own node."""
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
        self._receivers: dict[int, Receiver] = {}
        self.pause = (peer.turns or Turns()).pause
        """For a task of this connection, to wait for one thing."""
        self.short = short(peer, self._receivers, self._sweeper)
        """The short way of everyday calls, if there is one."""
        self._root: Export | None = None
        self._mourners: dict[int, set[Mourner]] = {}
        self._next_node = 4
        self._handed_out: dict[int, int] = {}
        self._sending: dict[int, int] = {}
        self._is_yielding = False
        self._error: Bus1Error | None = None
        self._ended = anyio.Event()
        self.is_watched = False
        """Somebody waits in ``eased``."""
        self._eased = anyio.Event()
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

        Its calls are given up after ``timeout`` seconds, if any, with the error Timeout. TypeError for a
        path without a capability, or one that is gone; InvalidArgument for one of another connection."""
        held = held_by(handle)
        if held is None:
            raise TypeError(f"{handle!r} carries no live handle")
        own = self._receivers.get(held.at(self.release).id)
        if isinstance(own, Export) and isinstance(own.target, interface):
            return own.target
        proxy = object.__new__(interface)
        proxy.__far__ = Remote(self, held, timeout)
        return proxy

    def grant(self, value: object) -> tuple[str, int] | None:
        """The path and the handle id of an object that may travel; None for others. InvalidArgument."""
        if isinstance(value, Interface):
            far = value.__far__
            if far is None or isinstance(far, Gate):
                return self.export(value).capability()
            value = far.handle if isinstance(far, Remote) else None
        held = held_by(value)
        return None if held is None else held.at(self.release).capability()

    def exports(self) -> list[Export]:
        """All objects that are served here."""
        return [receiver for receiver in self._receivers.values() if isinstance(receiver, Export)]

    async def shut(self) -> None:
        """Destroy the nodes of all objects at one instant, and wait for what came before. Disconnected."""
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
        if self.is_watched:
            self.is_watched = False
            self._eased.set()

    async def eased(self) -> None:
        """Wait until an object may be in use less than before, or the bus is gone."""
        if not self.is_watched:
            self.is_watched, self._eased = True, anyio.Event()
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
            self._sweeper.destroy(node)

    def forget(self, node: int) -> None:
        """Drop an own node that the bus never saw."""
        self._receivers.pop(node, None)

    def mourn(self, handle: int, mourner: Mourner) -> None:
        """Tell ``mourner`` when the node behind ``handle`` is destroyed."""
        self._mourners.setdefault(handle, set()).add(mourner)

    def forgo(self, handle: int, mourner: Mourner) -> None:
        """Do not tell it any more."""
        mourners = self._mourners.get(handle, set())
        mourners.discard(mourner)
        if not mourners:
            self._mourners.pop(handle, None)

    # ---- messages ----------------------------------------------------------------------------

    def write(
        self, kind: Kind, signature: str = "", values: Sequence[Any] = (), **heading: Unpack[Heading]
    ) -> Letter:
        """A message to be sent; InvalidArgument if the values do not fit."""
        first = self._next_node
        try:
            return letter.write(kind, signature, values, self.grant, **heading)
        except BaseException:
            for node in range(first, self._next_node, 4):
                self._unsent(node)
            raise

    def post(self, destination: int, message: Letter, failed: Callable[[Bus1Error], None]) -> bool:
        """Send without waiting; ``failed`` hears of an error. False: nothing has happened, ``deliver`` it."""
        return self._may_be_posted(message) and self._posted(
            self.peer.post((destination,), message.parts, message.handles, failed)
        )

    def post_last(self, destination: int, message: Letter, failed: Callable[[Bus1Error], None]) -> bool:
        """As ``post``; unless the message fails, the reference to its destination is given back with it."""
        return self._may_be_posted(message) and self._posted(
            self.peer.post_last(destination, message.parts, message.handles, failed)
        )

    async def deliver(
        self, destinations: Sequence[int], message: Letter, optional: Sequence[int] = ()
    ) -> list[int]:
        """Send one message, and know that it is sent; errors as ``Peer.send``."""
        shared = [number for number in message.shared if number in self._receivers]
        for node in shared:
            self._sending[node] = self._sending.get(node, 0) + 1
        try:
            return await self.peer.send(
                destinations, message.parts, message.handles, message.fds, optional=optional
            )
        except BaseException:
            for node in shared:
                self._unsent(node)
            raise
        finally:
            for node in shared:
                if node in self._receivers:
                    self._handed_out[node] = self.peer.n_arrived
                self._sending[node] -= 1
                if not self._sending[node]:
                    del self._sending[node]

    async def transmit(
        self, destinations: Sequence[int], kind: Kind, signature: str = "", values: Sequence[Any] = (), *,
        optional: Sequence[int] = (), **heading: Unpack[Heading],
    ) -> list[int]:
        """``write`` and ``deliver``, with the errors of both."""
        return await self.deliver(destinations, self.write(kind, signature, values, **heading), optional)

    async def forward(
        self, destinations: Sequence[int], envelope: Envelope, body: bytes, *, reply: int | None = None,
        handles: Sequence[int] = (), fds: Sequence[int] = (), optional: Sequence[int] = (),
    ) -> list[int]:
        """Send one message with a body that is there already; LocalProtocolError, else as ``Peer.send``."""
        message = letter.forward(envelope, body, reply=reply, handles=handles, fds=fds)
        return await self.deliver(destinations, message, optional)

    def _unsent(self, node: int) -> None:
        """A message with this node was perhaps not sent: then its object may have nobody who holds it."""
        if isinstance(self._receivers.get(node), Export):
            self.doubt(node)

    def _may_be_posted(self, message: Letter) -> bool:
        if message.fds:
            return False
        return not message.shared or not any(number in self._receivers for number in message.shared)

    def _posted(self, is_posted: bool) -> bool:
        if is_posted and self.peer.has_unsent:
            self._sweeper.wake()
        return is_posted

    async def ended(self) -> None:
        """Wait until the bus is gone, then raise why."""
        await self._ended.wait()
        raise self._error or BusGone("the connection has been closed")

    def yields(self) -> None:
        """For a receiver: the task that it has woken should run before what was posted is sent."""
        self._is_yielding = True

    def within(self, seconds: float | None) -> AbstractContextManager[Scope]:
        """A scope whose tasks can be cancelled, and are after so many seconds, if any."""
        return anyio.CancelScope() if seconds is None else anyio.move_on_after(seconds)

    async def run_pump(self) -> None:
        """Take messages until the bus is gone; the task that ``connect`` starts."""
        try:
            while True:
                try:
                    await self.peer.attend(self._take, self._sweeper.collect, short=self.short)
                except TooManyDescriptors:
                    # The message stays queued. Without its descriptors it still has an answer.
                    self._sweeper.collect()
                    self._take(await self.peer.recv(install_fds=False))
                    self._sweeper.collect()
        except Bus1Error as error:
            self._end(error)

    def _take(self, message: ReceivedMessage) -> bool:
        self._sweeper.hold()
        self._dispatch(message)
        is_yielding, self._is_yielding = self._is_yielding, False
        return is_yielding

    async def run_sweeper(self) -> None:
        """Give back what was given up; the task that ``connect`` starts."""
        try:
            await self._sweeper.run()
        except Bus1Error as error:
            if not isinstance(error, (BusGone, PeerShutdown)):
                self._end(error)

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
        receivers = list(self._receivers.values())
        self._receivers.clear()
        for receiver in receivers:
            receiver.lost(error)
        self._ended.set()
        self.ease()
        for arrived in self._shut.values():
            arrived.set()

    def _dispatch(self, message: ReceivedMessage) -> None:
        with message:
            if message.type is MessageType.DATA:
                self._arrive(message)
            elif message.type is MessageType.NODE_DESTROY:
                if message.destination in self._shut:
                    self._shut.pop(message.destination).set()
                for mourner in self._mourners.pop(message.destination, ()):
                    mourner.bereaved(message.destination)
            if message.type is MessageType.NODE_RELEASE or message.is_released:
                self._unreferenced(message.destination, message.arrival)

    def _arrive(self, message: ReceivedMessage) -> None:
        receiver = self._receivers.get(message.destination)
        try:
            envelope, offset = decode_envelope(message.payload)
        except RemoteProtocolError:
            receiver = None
        if type(receiver) is Export and not message.fds:
            with message.payload[offset:] as body:
                if receiver.is_answered(message, envelope, body):
                    return
        handles, fds = brought(message, self.release)
        if receiver is None:
            for owner in (*handles, *fds):
                if isinstance(owner, Handle):
                    owner.release()
            return
        with message.payload[offset:] as body:
            sender = (message.uid, message.gid, message.pid, message.secctx)
            receiver.arrived(Arrival(envelope, body, handles, fds, *sender))

    def _unreferenced(self, node: int, arrival: int) -> None:
        if (receiver := self._receivers.get(node)) is None:
            return
        if node in self._sending or arrival <= self._handed_out.get(node, -1):
            self.doubt(node)
        else:
            receiver.released()


@asynccontextmanager
async def connect(address: str | None = None) -> AsyncIterator[Connection]:
    """A new peer on the bus at ``address``, or where ``default_address`` says; closed at the end.

    BusGone, if there is none; Denied, QuotaExceeded, OutOfMemory, TooManyDescriptors, if it takes no more."""
    async with aio.connect(address) as peer, attach(peer) as connection:
        yield connection


@asynccontextmanager
async def attach(peer: aio.Peer) -> AsyncIterator[Connection]:
    """Pump and sweeper for a peer that exists; nobody else may receive from it meanwhile. Disconnected.

    They, and the calls of objects, go on until the block has ended, even if it is cancelled."""
    failure: BaseException | None = None
    await peer.reset(peer_flags=PeerFlag.WANT_SECCTX)
    async with anyio.create_task_group() as tasks:
        connection, life = Connection(peer, tasks.start_soon), anyio.CancelScope(shield=True)
        is_attended = anyio.Event()
        tasks.start_soon(_attend, connection, life, is_attended)
        try:
            await is_attended.wait()
            yield connection
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:
            # as it is, not as a group: SystemExit, and what test frameworks raise, too
            failure = error
        finally:
            life.cancel()
    if failure is not None:
        raise failure


async def _attend(connection: Connection, life: anyio.CancelScope, has_begun: anyio.Event) -> None:
    """All that happens beside the block, as long as it has not ended."""
    try:
        with life:
            async with anyio.create_task_group() as tasks:
                connection.start = tasks.start_soon
                tasks.start_soon(connection.run_pump)
                tasks.start_soon(connection.run_sweeper)
                has_begun.set()
                await anyio.Event().wait()
    finally:
        # also when a method has raised what is not for its caller: nobody waits in vain
        connection.end(BusGone("this connection has been closed"))
