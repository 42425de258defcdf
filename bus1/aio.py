"""aio: the anyio face of a bus1 peer. (Signatures; the bodies follow.)"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from .core.api import HANDLE_INVALID, KEEP, NO_LIMIT, Buffer, PeerState
from .received import ReceivedMessage


@asynccontextmanager
async def connect(address: str | None = None) -> AsyncIterator[Peer]:
    """A new peer on the bus at ``address`` (default: ``default_address()``), closed at the end."""
    yield Peer()


class Peer:
    """A peer whose operations can be awaited; several tasks may use it at once."""

    granted: tuple[int, ...]
    """Handles that the endpoint granted; ``granted[0]`` is the registry of the default endpoint."""

    def fileno(self) -> int:
        """The peer's descriptor: readable while messages are queued; pass it to ``transfer`` of another peer."""

    async def send(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (), handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, flags: int = 0, optional: Sequence[int] = (),
    ) -> list[int]:
        """One transaction (§4); ``fds`` stay the caller's. A slot per destination, optional ones last: 0 or -errno."""

    async def recv(
        self, *, install_fds: bool = True, flags: int = 0, max_offset: int = NO_LIMIT
    ) -> ReceivedMessage:
        """Wait for the next message; a cancelled call loses nothing."""

    async def recv_nowait(
        self, *, install_fds: bool = True, flags: int = 0, max_offset: int = NO_LIMIT
    ) -> ReceivedMessage:
        """The next message, or the seed (flags SEED, PEEK); WouldBlock if there is none."""

    async def call(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (), handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, install_fds: bool = True,
    ) -> ReceivedMessage:
        """``send``, then ``recv``, in one exchange: the peer's next message, whatever it is."""

    async def reply(
        self, destinations: Sequence[int], payload: Buffer | Sequence[Buffer] = (), handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, answered: ReceivedMessage | None = None, release: int = HANDLE_INVALID,
        install_fds: bool = True,
    ) -> ReceivedMessage:
        """``send``, give back the slice of ``answered``, release a handle, then ``recv``, in one exchange."""

    async def transfer(self, handle: int, destination: Peer | int | None = None) -> int:
        """One more reference for ``destination`` (a peer, a peer's descriptor; None: this peer); its id there."""

    async def release(self, handle: int) -> None:
        """Drop one reference."""

    def release_soon(self, handle: int) -> None:
        """Queue the release of one reference; it leaves with the next operation. For finalizers; never fails."""

    async def destroy(self, nodes: Sequence[int], flags: int = 0) -> None:
        """Destroy a set of own nodes at one instant."""

    async def query(self) -> PeerState:
        """Flags and limits of this peer."""

    async def reset(
        self, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP, max_handles: int = KEEP,
        max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """P-30 … P-37."""

    async def disconnect(self) -> None:
        """End the peer for all its holders (P-10)."""

    async def aclose(self) -> None:
        """Close this holder's channel and descriptor; the peer ends with its last holder."""
