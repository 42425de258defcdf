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
from .links import Link, SocketLink
from .received import ReceivedMessage

INSTALL_FDS = RecvFlag.INSTALL_FDS


class HasFileno(Protocol):
    """A peer, of whichever face."""

    def fileno(self) -> int:
        """Its descriptor."""


def descriptor_of(peer: HasFileno | int | None) -> int | None:
    """The descriptor by which a peer is presented; None stays None."""
    return peer if peer is None or isinstance(peer, int) else peer.fileno()


class Peer:
    """One peer on a bus."""

    def __init__(self, link: Link) -> None:
        self._link = link

    @classmethod
    def connect(cls, address: str | None = None) -> Self:
        """A new peer on the bus at ``address`` (default: ``links.default_address()``)."""
        return cls(SocketLink(address))

    @classmethod
    def from_descriptor(cls, fd: int, address: str | None = None) -> Self:
        """The peer behind a descriptor that was inherited or received; ``fd`` stays the caller's."""
        return cls(SocketLink(address, fd))

    @property
    def granted(self) -> tuple[int, ...]:
        """Handles that the endpoint granted when the peer was opened."""
        return self._link.granted

    def fileno(self) -> int:
        """The peer's descriptor: poll it, inherit it, present it to ``transfer``; ``close`` closes it."""
        return self._link.fileno()

    # ---- messages --------------------------------------------------------------------------------

    def send(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (),
    ) -> list[int]:
        """One transaction (§4). A slot per destination, optional ones last: 0 or -errno.

        ``fds`` stay the caller's and may be closed at once; so may the payload's buffers change."""
        parts = as_parts(payload)
        return self._link.send(destinations, parts, handles, fds, flags=flags, optional=optional)

    def recv(
        self, flags: int = INSTALL_FDS, max_offset: int = NO_LIMIT, *, wait: bool = False,
        timeout: float | None = None,
    ) -> ReceivedMessage:
        """The next message (§5); WouldBlock if there is none.

        ``wait`` waits for it, with ``timeout`` so many seconds at most; ``timeout`` alone does the same.
        The seed (flag SEED) is there or is not: InvalidArgument for waiting. Without INSTALL_FDS the
        message's descriptors are lost (R-32)."""
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
        """``send``, then ``recv`` that waits, in one exchange: the next message, whatever it is."""
        return self._link.call(destinations, as_parts(payload), handles, fds, flags=flags)

    def reply(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, answered: ReceivedMessage | None = None,
        release: int = HANDLE_INVALID, flags: int = INSTALL_FDS,
    ) -> ReceivedMessage:
        """``send``, give the slice of ``answered`` back, release a handle, then ``recv`` that waits.

        The first of them that fails ends the sequence; what came before has taken effect."""
        parts = as_parts(payload)
        return self._link.reply(
            destinations, parts, handles, fds, answered=answered, release=release, flags=flags
        )

    def set_seed(
        self, payload: Buffer | Sequence[Buffer] = (), handles: Sequence[int] = (), fds: Sequence[int] = ()
    ) -> None:
        """Pin a seed message, in place of the one before (§7)."""
        self.send((), payload, handles, fds, flags=SendFlag.SEED)

    def seed(self, flags: int = RecvFlag.PEEK | INSTALL_FDS) -> ReceivedMessage:
        """The seed message; it stays unless PEEK is left out. WouldBlock if there is none."""
        return self.recv(flags | RecvFlag.SEED)

    def release_slice(self, offset: int) -> None:
        """Give a received slice back (L-7 … L-10); ``ReceivedMessage.release`` is the usual way."""
        self._link.release_slice(offset)

    # ---- nodes and handles -----------------------------------------------------------------------

    def transfer(self, handle: int, destination: HasFileno | int | None = None) -> int:
        """One more reference for another peer (or its descriptor; None: this peer); its id there."""
        return self._link.transfer(handle, descriptor_of(destination))

    def release(self, handle: int) -> None:
        """Drop one reference (H-40 … H-45)."""
        self._link.release(handle)

    def destroy(self, nodes: Sequence[int], flags: int = 0) -> None:
        """Destroy a set of own nodes at one instant (H-60 … H-68)."""
        self._link.destroy(nodes, flags)

    # ---- the peer itself -------------------------------------------------------------------------

    def reset(
        self, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP, max_handles: int = KEEP,
        max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """Set flags and limits, then flush (P-30 … P-37)."""
        self._link.reset(
            flags, peer_flags, max_slices=max_slices, max_handles=max_handles,
            max_inflight_bytes=max_inflight_bytes, max_inflight_fds=max_inflight_fds,
        )

    def query(self) -> PeerState:
        """Flags and limits (P-20 … P-22)."""
        return self._link.query()

    def disconnect(self) -> None:
        """End the peer for all its holders (P-10 … P-17)."""
        self._link.disconnect()

    def close(self) -> None:
        """Close this holder's descriptor; a second time does nothing."""
        self._link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
