"""core_peer: a bus inside the test, so that services can be tested without sockets.

Theory. ``CoreBus`` is a real Core; ``CorePeer`` has the methods of ``bus1.aio.Peer`` that services use, each
a command of that Core, after which whoever turned readable is woken. Descriptors travel as duplicates.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

import anyio
from anyio.lowlevel import checkpoint
from bus1_services.connection import Connection, attach
from bus1_services.handle import Handle
from core_bus import Core

from bus1.aio import Peer
from bus1.core.api import KEEP, Buffer, Credentials, DestroyFlag, Message, RecvFlag
from bus1.core.choice import HeapMemory
from bus1.descriptors import Fds, duplicate
from bus1.errors import Bus1Error, BusGone, WouldBlock
from bus1.exchange import Failed
from bus1.received import ReceivedMessage
from bus1.turns import Turns

ME = Credentials(os.getuid(), os.getgid(), os.getpid())


class CoreBus:
    """A Core and the peers on it."""

    def __init__(self) -> None:
        self.core = Core()
        self.peers: dict[int, CorePeer] = {}

    def settle(self) -> None:
        """What an edge does after every command."""
        for number in self.core.take_woken():
            self.peers[number].readable.set()
        for fd in self.core.take_freed_fds():
            os.close(fd)

    def peer(self) -> CorePeer:
        """A new peer."""
        peer = CorePeer(self)
        self.peers[peer.number] = peer
        return peer

    def charges(self) -> object:
        """What every account is charged with now."""
        return self.core.snapshot()["users"]


class CorePeer:
    """One peer; every method is one command."""

    has_unsent = False
    exchange = None

    def __init__(self, bus: CoreBus) -> None:
        self.bus = bus
        self.memory = HeapMemory()
        self.number = bus.core.peer_new(os.getuid(), self.memory)
        self.granted: tuple[int, ...] = ()
        self.turns = Turns()
        self.n_arrived = 0
        self.credentials = ME
        self.readable = anyio.Event()
        self.is_gone = False
        self.sent: list[tuple[list[int], list[int]]] = []
        """Mandatory and optional destinations of every send."""
        self.hold: anyio.Event | None = None
        """If set, what was received is handed over only after this event."""
        self.failures: list[tuple[Failed, Bus1Error]] = []
        """Of posted messages."""
        self.failure: Bus1Error | None = None
        """What the next ``recv`` raises, in place of a message."""

    async def send(
        self, destinations: Sequence[int], payload: Sequence[Buffer] = (), handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, flags: int = 0, optional: Sequence[int] = (),
    ) -> list[int]:
        await self._turn()
        return self._send(destinations, payload, handles, fds, flags, optional)

    def _send(
        self, destinations: Sequence[int], payload: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int] = (), flags: int = 0, optional: Sequence[int] = (),
    ) -> list[int]:
        copies = duplicate(fds).take_all()
        self.sent.append((list(destinations), list(optional)))
        parts = [payload] if isinstance(payload, bytes) else list(payload)
        try:
            slots = self.bus.core.send(
                self.number, destinations, [bytes(part) for part in parts], handles, copies, flags=flags,
                optional=optional, credentials=self.credentials,
            )
        except BaseException:
            Fds(copies).close()
            raise
        self._arrive()
        self.bus.settle()
        return slots

    def _arrive(self) -> int:
        """An answer."""
        self.n_arrived += 1
        return self.n_arrived

    def post(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int], failed: Failed
    ) -> bool:
        if (error := self._post(destinations, parts, handles)) is not None:
            self._fail_later(failed, error)
        return True

    def post_last(
        self, handle: int, parts: Sequence[Buffer], handles: Sequence[int], failed: Failed
    ) -> bool:
        if (error := self._post([handle], parts, handles)) is not None:
            self._fail_later(failed, error)
        else:
            self.release_soon(handle)
        return True

    def _post(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int]
    ) -> Bus1Error | None:
        self._check()
        try:
            self._send(destinations, parts, handles)
        except Bus1Error as error:
            return error
        return None

    def _fail_later(self, failed: Failed, error: Bus1Error) -> None:
        """As a socket would: whoever reads next hears of it."""
        self.failures.append((failed, error))
        self.readable.set()

    def cork(self) -> None:
        """Nothing is kept here."""

    async def flush(self) -> None:
        await self._turn()

    async def query(self) -> None:
        await self._turn()

    async def recv(self, *, install_fds: bool = True, flags: int = 0) -> ReceivedMessage:
        while True:
            await self._turn()
            while self.failures:
                failed, error = self.failures.pop(0)
                failed(error)
            if self.failure is not None:
                raise self.failure
            try:
                message = self.bus.core.recv(self.number, RecvFlag.INSTALL_FDS | flags)
            except WouldBlock:
                self.readable = anyio.Event()
                await self.readable.wait()
                continue
            received = self._received(message)
            if self.hold is not None:
                await self.hold.wait()
            return received

    async def attend(
        self, hear: Callable[[ReceivedMessage], bool], rest: Callable[[], None], short: None
    ) -> None:
        while True:
            if hear(await self.recv()):
                await checkpoint()
            rest()

    def release_soon(self, handle: int) -> None:
        if not self.is_gone:
            self.bus.core.handle_release(self.number, handle)
            self.bus.settle()

    def destroy_soon(self, nodes: Sequence[int]) -> None:
        if not self.is_gone:
            self.bus.core.node_destroy(self.number, nodes, DestroyFlag.RELEASE_HANDLES)
            self.bus.settle()

    async def transfer(self, handle: int, destination: Any = None) -> int:
        await self._turn()
        other = self if destination is None else destination
        number = self.bus.core.handle_transfer(self.number, handle, other.number)
        self.bus.settle()
        return number

    async def destroy(self, nodes: Sequence[int], flags: int = 0) -> None:
        await self._turn()
        self.bus.core.node_destroy(self.number, nodes, flags)
        self.bus.settle()

    async def reset(self, flags: int = 0, peer_flags: int = KEEP) -> None:
        await self._turn()
        self.bus.core.peer_reset(self.number, flags, peer_flags)
        self.bus.settle()

    def disconnect(self) -> None:
        """End the peer; who waits on it sees the bus gone."""
        if not self.is_gone:
            self.is_gone = True
            self.bus.core.peer_disconnect(self.number)
            self.readable.set()
            self.bus.settle()

    def fail(self, error: Bus1Error) -> None:
        """From now on nothing can be received; everything else still works."""
        self.failure = error
        self.readable.set()

    def close(self) -> None:
        """This test's peers have one holder each."""
        self.disconnect()

    async def _turn(self) -> None:
        await anyio.sleep(0)
        self._check()

    def _check(self) -> None:
        if self.is_gone:
            raise BusGone("the peer has ended")

    def _received(self, message: Message) -> ReceivedMessage:
        payload = b"".join(self.memory.read(message.offset))
        fds = [os.dup(fd) for fd in message.fds]
        self.bus.settle()
        return ReceivedMessage(
            message.type, message.flags, message.destination, message.uid, message.gid, message.pid, 0,
            message.offset, message.n_bytes, message.handles, Fds(fds), message.secctx, message.size,
            memoryview(payload), self._give_back if message.size else None, message.serial,
            arrival=self._arrive(),
        )

    def _give_back(self, message: ReceivedMessage) -> None:
        if not self.is_gone:
            self.bus.core.slice_release(self.number, message.offset, serial=message.detach()[0])


@asynccontextmanager
async def connections(bus: CoreBus, n: int) -> AsyncIterator[list[Connection]]:
    """Several connections to one bus; their peers end with the block."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(n):
            peer = bus.peer()
            stack.callback(peer.disconnect)
            made.append(await stack.enter_async_context(attach(cast(Peer, peer))))
        yield made


async def introduce(service: Connection, client: Connection, target: Any) -> Handle:
    """Give ``client`` a handle to an object of ``service``, as a registry would."""
    export = service.export(target)
    return client.handle(await cast(Any, service.peer).transfer(export.node, client.peer))
