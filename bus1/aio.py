"""aio: the anyio face of a bus1 peer.

Theory. The operations of ``peer``, awaited: several tasks may use one peer at once. A RECV that waits is
cancelled at the bus, and a message that it brings along after all goes to the next one. Small messages are
detached: their slice is given back before the answer leaves the bus. What is *posted* needs no answer.

Invariants. 1. A cancelled operation has either had no effect, or returned its result. 2. Descriptors
passed in stay the caller's.

Not here: the page's operations in prose (peer), the socket (aiolink), threads.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from anyio.lowlevel import checkpoint

from .addresses import default_address, socket_name
from .aiolink import AsyncLink
from .attendance import Attendance, ShortWay
from .blocklink import BlockLink, drive
from .client import Request, as_parts
from .core.api import HANDLE_INVALID, KEEP, NO_LIMIT, Buffer, PeerState, RecvFlag, SendFlag
from .errors import Bus1Error, BusGone
from .exchange import Answer, Exchange, Failed
from .frames import MORE_SHIFT, Operation, RecvOption
from .peer import HasFileno, descriptor_of
from .received import ReceivedMessage
from .turns import Turns

T = TypeVar("T")
SEED, INSTALL_FDS = int(RecvFlag.SEED), int(RecvFlag.INSTALL_FDS)


@asynccontextmanager
async def connect(address: str | None = None) -> AsyncIterator[Peer]:
    """A new peer on the bus at ``address`` (default: ``default_address()``), closed at the end."""
    peer = await Peer.open(address)
    try:
        yield peer
    finally:
        peer.close()


class Peer:
    """A peer whose operations can be awaited; several tasks may use it at once.

    Operations, errors and ownership of descriptors are those of ``bus1.peer.Peer``. Cancelled, an
    operation has had no effect; only ``call`` and ``reply`` may have sent."""

    def __init__(self, link: AsyncLink | BlockLink) -> None:
        self.granted: tuple[int, ...] = ()
        """Handles that the endpoint granted; ``granted[0]`` is the registry of the default endpoint."""
        self._link = link
        self.push = link.push
        """Send what was posted by a way of its own, unless it is to be kept; whether something is left."""

    @classmethod
    async def open(cls, address: str | None = None) -> Peer:
        """A new peer (P-1), as ``bus1.peer.Peer.connect``; the caller closes it."""
        return await cls._bind(address, None)

    @classmethod
    def open_blocking(cls, address: str | None = None) -> Peer:
        """The same for a program without a loop: what is awaited then waits, and never suspends."""
        return drive(cls._bind(address, None, BlockLink))

    @classmethod
    async def from_descriptor(cls, fd: int, address: str | None = None) -> Peer:
        """The peer behind a descriptor that was inherited or received; ``fd`` stays the caller's (P-2)."""
        return await cls._bind(address, fd)

    @classmethod
    async def _bind(
        cls, address: str | None, fd: int | None,
        link: Callable[[socket.socket], AsyncLink | BlockLink] = AsyncLink,
    ) -> Peer:
        name = default_address() if address is None else address
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer = cls(link(sock))
        try:
            # A unix socket connects at once, or waits only while the listener's backlog is full.
            sock.settimeout(None)
            sock.connect(socket_name(name))
            peer._link.connected()
            await peer._link.run(peer._link.client.hello())
            if fd is None:
                number, peer.granted = await peer._link.run(peer._link.client.open())
            else:
                await peer._link.run(peer._link.client.attach(fd))
                number = os.dup(fd)
            peer._link.descriptor = socket.socket(fileno=number)
        except BaseException as error:
            peer.close()
            if isinstance(error, OSError) and not isinstance(error, Bus1Error):
                raise BusGone(f"no bus at {name}: {error.strerror or error}") from error
            raise
        return peer

    @property
    def exchange(self) -> Exchange:
        """Of its channel."""
        return self._link.client.exchange

    @property
    def blocking_link(self) -> BlockLink:
        """Of a peer that was made by ``open_blocking``."""
        assert isinstance(self._link, BlockLink)
        return self._link

    @property
    def turns(self) -> Turns | None:
        """Of the loop that it runs on."""
        return self._link.turns

    def fileno(self) -> int:
        """The peer's descriptor: poll it, present it to ``transfer`` of another peer.

        It does not show a message that a cancelled ``recv`` has left for the next one."""
        return -1 if self._link.descriptor is None else self._link.descriptor.fileno()

    @property
    def n_arrived(self) -> int:
        """How many answers have come: messages with a greater ``arrival`` left the queue later."""
        return self._link.client.exchange.n_answers

    # ---- messages --------------------------------------------------------------------------------

    async def send(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (),
    ) -> list[int]:
        """One transaction (§4); ``fds`` stay the caller's.

        Returns a slot per destination, optional ones last: 0 or -errno (T-53)."""
        return await self._send(destinations, as_parts(payload), handles, fds, flags, optional)

    async def recv(
        self, *, install_fds: bool = True, flags: int = 0, max_offset: int = NO_LIMIT
    ) -> ReceivedMessage:
        """Wait for the next message (§5); a cancelled call loses nothing.

        The message owns its descriptors; with ``install_fds=False`` they are lost (R-32)."""
        flags |= INSTALL_FDS if install_fds else 0
        return await self._receive(flags, max_offset, RecvOption.PARK | RecvOption.DETACH)

    async def attend(
        self, hear: Callable[[ReceivedMessage], bool], rest: Callable[[], None], ahead: int = 32,
        short: ShortWay | None = None,
    ) -> None:
        """Call ``hear`` with each message as soon as it is read; up to ``ahead`` leave the queue at once.

        For the one task that receives for this peer. Neither function waits; ``hear`` says whether it has
        woken tasks that should run before ``rest`` is called, and what was posted leaves in one write.
        NODE_RELEASE of a message's node comes with that message, if it is next (``is_released``). Raises what
        ``recv`` does, and can then be begun again; what came and was not given out is the next ``recv``'s.
        By ``short``, given the tag of the RECV, a message may come another way."""
        await self.attendance(hear, rest, ahead, None if short is None else short.take, short).run()

    def attendance(
        self, hear: Callable[[ReceivedMessage], bool], rest: Callable[[], None], ahead: int = 32,
        swift: Callable[[int], bool | None] | None = None, short: ShortWay | None = None,
    ) -> Attendance:
        """What ``attend`` runs; a program without a loop asks it step by step.

        ``swift`` is what ``take`` of a short way is."""
        options = RecvOption.PARK | RecvOption.DETACH | ahead - 1 << MORE_SHIFT
        request = self._link.client.recv(INSTALL_FDS, NO_LIMIT, options)
        return Attendance(self._link, request, hear, rest, swift, short)

    async def recv_nowait(
        self, *, install_fds: bool = True, flags: int = 0, max_offset: int = NO_LIMIT
    ) -> ReceivedMessage:
        """The next message, or the seed (flags SEED, PEEK); WouldBlock if there is none."""
        flags |= INSTALL_FDS if install_fds else 0
        return await self._receive(flags, max_offset, RecvOption.DETACH)

    async def call(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, install_fds: bool = True,
    ) -> ReceivedMessage:
        """``send``, then ``recv``, in one exchange: the peer's next message, whatever it is."""
        parts, flags = as_parts(payload), INSTALL_FDS if install_fds else 0
        options = RecvOption.PARK | RecvOption.DETACH
        if await self._sends_first(destinations, parts, handles, fds):
            destinations, parts, handles, fds = (), (), (), ()
        return await self._message(await self._link.wait(self._link.client.call(
            destinations, parts, handles, fds, flags=flags, options=options
        )))

    async def reply(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, answered: ReceivedMessage | None = None,
        release: int = HANDLE_INVALID, install_fds: bool = True,
    ) -> ReceivedMessage:
        """``send``, give back the slice of ``answered``, release a handle, then ``recv``, in one exchange."""
        parts, flags = as_parts(payload), INSTALL_FDS if install_fds else 0
        options = RecvOption.PARK | RecvOption.DETACH
        if await self._sends_first(destinations, parts, handles, fds):
            destinations, parts, handles, fds = (), (), (), ()
        return await self._message(await self._link.wait(self._link.client.reply(
            destinations, parts, handles, fds, answered=answered, release=release, flags=flags,
            options=options,
        )))

    def post(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int], failed: Failed
    ) -> bool:
        """``send`` without waiting: ``failed`` is told its error, if any, and not that the bus is gone.

        False: nothing has happened, ``send`` has to be awaited. It is sequenced before what is requested
        here later, but perhaps not before this returns: not for what others may hear of by another way
        than the bus (G-4)."""
        may_post = self._link.client.may_post(parts)
        if may_post:
            self._link.client.post(destinations, parts, handles, failed)
            self._link.flush_posted()
        return may_post

    def post_last(
        self, handle: int, parts: Sequence[Buffer], handles: Sequence[int], failed: Failed
    ) -> bool:
        """As ``post``, and release ``handle``, its destination; it is kept if the message fails."""
        may_post = self._link.client.may_post(parts)
        if may_post:
            self._link.client.post_last(handle, parts, handles, failed)
            self._link.flush_posted()
        return may_post

    def destroy_soon(self, nodes: Sequence[int]) -> None:
        """Destroy own nodes and release their handles, without waiting; errors are not reported."""
        self._link.client.destroy_soon(nodes)
        self._link.flush_posted()

    def cork(self) -> None:
        """Keep what is posted, given back or forgotten from now on until the next request that is awaited."""
        self._link.cork()

    @property
    def has_unsent(self) -> bool:
        """Something that was posted did not fit into the socket: ``flush``."""
        return self._link.has_unsent

    async def flush(self) -> None:
        """Send what is kept or could not be sent yet."""
        await self._link.flush_shielded()

    async def set_seed(
        self, payload: Buffer | Sequence[Buffer] = (), handles: Sequence[int] = (), fds: Sequence[int] = ()
    ) -> None:
        """Pin a seed message, in place of the one before (§7)."""
        await self.send((), payload, handles, fds, flags=SendFlag.SEED)

    # ---- nodes, handles and the peer itself ------------------------------------------------------

    async def transfer(self, handle: int, destination: HasFileno | int | None = None) -> int:
        """One more reference for another peer (or its descriptor; None: this peer); its id there (H-50)."""
        return await self._link.run(self._link.client.transfer(handle, descriptor_of(destination)))

    async def release(self, handle: int) -> None:
        """Drop one reference (H-40 … H-45)."""
        await self._link.run(self._link.client.release(handle))

    def release_soon(self, handle: int) -> None:
        """Drop one reference without waiting, for finalizers; what goes wrong is not reported."""
        self._link.forget(Operation.RELEASE, handle)

    async def destroy(self, nodes: Sequence[int], flags: int = 0) -> None:
        """Destroy a set of own nodes at one instant (H-60 … H-68)."""
        await self._link.run(self._link.client.destroy(nodes, flags))

    async def release_slice(self, offset: int) -> None:
        """Give a received slice back (L-7 … L-10); ``ReceivedMessage.release`` is the usual way."""
        await self._link.run(self._link.client.slice_release(offset))

    async def query(self) -> PeerState:
        """Flags and limits of this peer (P-20 … P-22)."""
        return await self._link.run(self._link.client.query())

    async def reset(
        self, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP, max_handles: int = KEEP,
        max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """Set flags and limits, then flush (P-30 … P-37)."""
        await self._link.run(self._link.client.reset(
            flags, peer_flags, max_slices=max_slices, max_handles=max_handles,
            max_inflight_bytes=max_inflight_bytes, max_inflight_fds=max_inflight_fds,
        ))

    async def disconnect(self) -> None:
        """End the peer for all its holders (P-10)."""
        await self._link.run(self._link.client.disconnect())

    def close(self) -> None:
        """Close this holder's channel and descriptor; the peer ends with its last holder (P-16)."""
        self._link.close()

    async def aclose(self) -> None:
        """As ``close``, for ``anyio.abc.AsyncResource``."""
        self.close()
        await checkpoint()

    # ---- sequences -------------------------------------------------------------------------------

    async def _sends_first(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int],
    ) -> bool:
        """What needs the arena is sent before the rest of its sequence, which may wait for others."""
        if not self._link.client.needs_arena(parts):
            return False
        await self._send(destinations, parts, handles, fds, 0, ())
        return True

    async def _send(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], flags: int, optional: Sequence[int],
    ) -> list[int]:
        client = self._link.client

        def request() -> Request[list[int]]:
            return client.send(destinations, parts, handles, fds, flags=flags, optional=optional)

        if not client.needs_arena(parts):
            return await self._link.run(request())
        async with self._link.arena_use:
            if (first := client.arena_for(parts)) is not None:
                await self._link.run(first)
            result = await self._link.run(request())
            client.trim_arena()
        return result

    async def _receive(self, flags: int, max_offset: int, options: int) -> ReceivedMessage:
        exchange = self._link.client.exchange
        if exchange.has_stray and not flags & SEED:
            await self._link.checkpoint()
            if (stray := exchange.next_stray()) is not None:
                return await self._message(stray)
        request = self._link.client.recv(flags, max_offset, options)
        return await self._message(await self._link.wait(request))

    async def _message(self, answer: Answer) -> ReceivedMessage:
        if (first := self._link.client.missing_segment(answer)) is not None:
            try:
                await self._link.run(first)
            except BaseException:
                self._link.client.exchange.keep(answer)
                raise
        return self._link.client.message(answer)

