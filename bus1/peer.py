"""peer: the synchronous face of a bus1 peer, operation by operation as on the manual page.

Theory. A peer owns nodes, holds handles, and exchanges transactions with other peers. It is identified by its
descriptor: who holds a copy acts as the peer, in this process or another, and the peer ends with the last
copy. The descriptor is readable while messages are queued, and hangs up when the peer is disconnected.
Nothing here interprets payloads.

A peer may be used by several threads. After a fork, child and parent are the same peer.

Invariants. Those of the page; an operation that raises has changed nothing.

Not here: how requests travel (links), awaiting (aio), calls and objects (services).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, Self

from .client import as_parts
from .core.api import HANDLE_INVALID, KEEP, NO_LIMIT, Buffer, PeerState, RecvFlag, SendFlag
from .errors import InvalidArgument
from .inprocess import InProcessLink
from .links import Link, SocketLink
from .received import ReceivedMessage

INSTALL_FDS = RecvFlag.INSTALL_FDS


class HasFileno(Protocol):
    """A peer, of whichever face."""

    def fileno(self) -> int:
        """Its descriptor."""


def descriptor_of(peer: HasFileno | int | None) -> int | None:
    """The descriptor by which a peer is presented; None stays None."""
    if isinstance(peer, Peer) and isinstance(peer._link, InProcessLink):
        return peer._link.event  # not polled for that
    return peer if peer is None or isinstance(peer, int) else peer.fileno()


class Peer:
    """One peer on a bus, as one of its holders uses it.

    Every operation raises ``PeerShutdown`` once the peer has been disconnected (P-10), and ``BusGone`` when
    the connection has ended, or ``close`` was called. Only after ``BusGone`` is it unknown whether the
    operation took effect. Descriptors that are passed in stay the caller's."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._resident = link.resident if isinstance(link, InProcessLink) else None

    @classmethod
    def connect(cls, address: str | None = None) -> Self:
        """A new peer on the bus at ``address`` (default: ``links.default_address()``) (P-1).

        Raises BusGone if nobody listens there, Denied, QuotaExceeded (too many peers or channels of this
        user), OutOfMemory, TooManyDescriptors."""
        return cls(SocketLink(address))

    @classmethod
    def from_descriptor(cls, fd: int, address: str | None = None) -> Self:
        """The peer behind a descriptor that was inherited or received; ``fd`` stays the caller's (P-2).

        Raises NotSupported if it is not a peer's, BadDescriptor, and what ``connect`` does."""
        return cls(SocketLink(address, fd))

    @property
    def granted(self) -> tuple[int, ...]:
        """Handles that the endpoint granted when the peer was opened."""
        return self._link.granted

    def fileno(self) -> int:
        """The peer's descriptor: poll it, inherit it, present it to ``transfer``; ``close`` closes it.

        Readable while messages are queued, hangs up on disconnect (P-40 … P-44). Only for polling."""
        return self._link.fileno()

    # ---- messages --------------------------------------------------------------------------------

    def send(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (),
    ) -> list[int]:
        """One transaction (§4). A slot per destination, optional ones last: 0 or -errno (T-53).

        Copies the payload (at most 1024 buffers) and duplicates ``fds`` (at most 256): both may change or
        close at once. Unused node ids are created (H-20). Raises NoSuchHandle, NotUnique, NodeDestroyed,
        QuotaExceeded, PoolFull, OutOfMemory, TooLarge, BadDescriptor, NotSupported (T-30),
        TooManyDescriptors, InvalidArgument. With CONTINUE what is wrong at a receiver goes into its slot
        instead (T-51); for ``optional`` so does an unknown or repeated destination."""
        if self._resident is not None:
            slots = self._resident.send(destinations, payload, handles, fds, flags, optional)
            if slots is not None:
                return slots
        parts = as_parts(payload)
        return self._link.send(destinations, parts, handles, fds, flags=flags, optional=optional)

    def recv(
        self, flags: int = INSTALL_FDS, max_offset: int = NO_LIMIT, *, wait: bool = False,
        timeout: float | None = None,
    ) -> ReceivedMessage:
        """The next message (§5); WouldBlock if there is none.

        ``wait`` waits for it, with ``timeout`` so many seconds at most; ``timeout`` alone does the same.
        The seed (flag SEED) is there or is not: InvalidArgument for waiting. The message owns its
        descriptors; without INSTALL_FDS they are lost (R-32). Raises OutOfRange if its slice ends beyond
        ``max_offset`` bytes (R-4), TooManyDescriptors (R-33), QuotaExceeded (PEEK, R-12; too many wait),
        OutOfMemory: it stays queued, or the next call returns it. A signal handler that interrupts it cannot
        use this peer (Busy), but close it (BusGone)."""
        if self._resident is not None and (timeout is None or timeout >= 0):
            message = self._resident.recv(flags, max_offset)
            if message is not None:
                return message
        patience = (math.inf if wait else 0.0) if timeout is None else timeout
        if not patience >= 0:
            raise InvalidArgument(f"a timeout of {patience} seconds")
        if patience and flags & RecvFlag.SEED:
            raise InvalidArgument("there is nothing to wait for at the seed")
        return self._link.recv(flags, max_offset, timeout=patience)

    def call(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = INSTALL_FDS,
    ) -> ReceivedMessage:
        """``send``, then ``recv`` that waits, in one exchange: the next message, whatever it is.

        Raises what they do; if ``recv`` fails, the message has been sent."""
        return self._link.call(destinations, as_parts(payload), handles, fds, flags=flags)

    def reply(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, answered: ReceivedMessage | None = None,
        release: int = HANDLE_INVALID, flags: int = INSTALL_FDS,
    ) -> ReceivedMessage:
        """``send``, give the slice of ``answered`` back, release a handle, then ``recv`` that waits.

        The first of them that fails ends the sequence; what came before has taken effect. With no
        destinations it is for who receives one message after the other."""
        parts = as_parts(payload)
        return self._link.reply(
            destinations, parts, handles, fds, answered=answered, release=release, flags=flags
        )

    def set_seed(
        self, payload: Buffer | Sequence[Buffer] = (), handles: Sequence[int] = (), fds: Sequence[int] = ()
    ) -> None:
        """Pin a seed message, in place of the one before (S-1 … S-5); raises what ``send`` does."""
        self.send((), payload, handles, fds, flags=SendFlag.SEED)

    def seed(self, flags: int = RecvFlag.PEEK | INSTALL_FDS) -> ReceivedMessage:
        """The seed message; it stays unless PEEK is left out (S-6, S-7). WouldBlock if there is none."""
        return self.recv(flags | RecvFlag.SEED)

    def release_slice(self, offset: int) -> None:
        """Give back whichever slice begins at ``offset`` bytes (L-7 … L-10); NoSuchHandle if none does.

        ``ReceivedMessage.release`` is the usual way, and means its own alone."""
        self._link.release_slice(offset)

    # ---- nodes and handles -----------------------------------------------------------------------

    def transfer(self, handle: int, destination: HasFileno | int | None = None) -> int:
        """One more reference for another peer (or its descriptor; None: this peer); its id there.

        HANDLE_INVALID if the node is destroyed (H-50 … H-58). Raises NoSuchHandle, QuotaExceeded,
        NotSupported or BadDescriptor for what is no peer of this bus, PeerShutdown also for the other one."""
        return self._link.transfer(handle, descriptor_of(destination))

    def release(self, handle: int) -> None:
        """Drop one reference (H-40 … H-45); raises NoSuchHandle, Busy for the pinned one of a live node."""
        self._link.release(handle)

    def destroy(self, nodes: Sequence[int], flags: int = 0) -> None:
        """Destroy a set of own nodes at one instant, or none (H-60 … H-68).

        Raises NoSuchHandle, NotUnique, ForeignNode, AlreadyDestroyed, QuotaExceeded (for nodes created by
        it), TooLarge, InvalidArgument."""
        self._link.destroy(nodes, flags)

    # ---- the peer itself -------------------------------------------------------------------------

    def reset(
        self, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP, max_handles: int = KEEP,
        max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """Set flags and limits (counts, or bytes; KEEP: as it is), then flush (P-30 … P-37).

        Raises InvalidArgument for unknown flags and limits beyond 2**31 - 1."""
        self._link.reset(
            flags, peer_flags, max_slices=max_slices, max_handles=max_handles,
            max_inflight_bytes=max_inflight_bytes, max_inflight_fds=max_inflight_fds,
        )

    def query(self) -> PeerState:
        """Flags and limits (P-20 … P-22)."""
        return self._link.query()

    def disconnect(self) -> None:
        """End the peer for all its holders (P-10 … P-17); a second time raises PeerShutdown (P-12)."""
        self._link.disconnect()

    def close(self) -> None:
        """Close this holder's channel and descriptor; a second time does nothing.

        With the last copy of the descriptor the peer ends (P-16)."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
