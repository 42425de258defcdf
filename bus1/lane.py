"""lane: native clients that are served without Python, as far as what they want is everyday.

Theory. Where the native body is in use, the reactor waits in native code, and a lane is served while it
waits: it reads channels that have joined, and carries out requests that are everyday on the same Core. All
else is left to Broker, Channel and PeerStation, which are complete without it. What both sides work on has
one owner at a time, and goes over whole: ``ChannelLane`` is a channel's input and unsent output,
``StationLane`` is the line of a peer with its readiness byte. Python takes either when it has to do
something, and gives it back when it has nothing in hand.

A lane passes sends on to Core, so the hub has to say that it does the same (``Hub.is_plain``).

Invariants. 1. Without the native body, and with a hub that does more, there is no lane.

Not here: what is everyday (``rust/src/server``), when something is taken or given (channel, station).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from . import acceleration
from .core.api import Credentials, RecvFlag
from .line import Line, PendingRecv
from .reactor import Reactor

if TYPE_CHECKING:
    from . import _native
    from ._native import Server
    from .broker import BrokerLimits
    from .channel import Channel
    from .core.choice import SealedMemory
    from .hub import Hub

_EVERYDAY = (0, int(RecvFlag.INSTALL_FDS))
"""Flags of a RECV that the lane may answer."""


def lane_for(reactor: Reactor, hub: Hub, limits: BrokerLimits) -> Server | None:
    """A lane of this reactor; None if everything is to be done in Python."""
    native, core = acceleration.native, hub.core
    if native is None or reactor.poller is None or not isinstance(core, native.Core) or not hub.is_plain:
        return None
    server: Server = native.Server(reactor.poller, core, limits.requests_per_turn, limits.unsent_bytes)
    return server


def serves(memory: object) -> bool:
    """Whether a lane can write into a pool of this memory."""
    return acceleration.native is not None and isinstance(memory, acceleration.native.SealedMemory)


class Left(NamedTuple):
    """What the lane leaves to Python with a channel."""

    data: bytes
    """What has arrived, and has not been executed."""
    fds: list[int]
    truncated: bool
    sender: tuple[int, int, int] | None
    """Process, user and group, if what arrived last was written by somebody else than before."""
    frames: list[bytes]
    """What has not been sent; the first may be the end of a frame."""


class ChannelLane:
    """A channel's place in the lane."""

    def __init__(self, server: Server, descriptor: int, peer: int, uid: int, sender: Credentials) -> None:
        self._server = server
        self._descriptor = descriptor
        self._sender = sender
        server.join(descriptor, peer, uid, sender)

    def give(self, sender: Credentials) -> None:
        """The input belongs to the lane from now on; ``sender`` is who writes it."""
        if sender is not self._sender:
            self._sender = sender
            self._server.introduce(self._descriptor, sender)
        self._server.give(self._descriptor)

    def set_arena(self, arena: tuple[int, int]) -> None:
        """Where large payloads come from: a descriptor that stays open until the next, and its size."""
        self._server.set_arena(self._descriptor, arena)

    def take(self) -> Left:
        """It belongs to Python from now on."""
        return Left(*self._server.take(self._descriptor))

    def close(self) -> None:
        """The channel is over; what was left has been taken."""
        self._server.leave(self._descriptor)


class StationLane:
    """A peer's place in the lane."""

    def __init__(self, server: Server, peer: int, end: int, memory: SealedMemory) -> None:
        self._server = server
        self._peer = peer
        # as was asked before (``serves``)
        server.open(peer, end, cast("_native.SealedMemory", memory))

    def channel(self, descriptor: int, uid: int, sender: Credentials) -> ChannelLane:
        """A channel of this peer, charged to ``uid``; its input is Python's."""
        return ChannelLane(self._server, descriptor, self._peer, uid, sender)

    def take(self, line: Line, channels: Iterable[Channel]) -> bool | None:
        """Who waits in the lane stands in ``line`` from now on.

        Returns whether a byte is in flight, if the lane knew."""
        is_signalled, entries = self._server.take_line(self._peer)
        if entries:
            known = {channel.descriptor: channel for channel in channels}
            line.waiting.extend(PendingRecv(known[entry[0]], *entry[1:]) for entry in entries)
        return is_signalled

    def give(self, line: Line, is_signalled: bool) -> None:
        """The line belongs to the lane from now on, unless it has to wait for something unusual."""
        waiting = line.waiting
        if line.offer is not None or any(request.flags not in _EVERYDAY for request in waiting):
            return
        self._server.give_line(self._peer, is_signalled, [
            (
                request.channel.descriptor, request.operation, request.tag, request.flags,
                request.max_offset, request.options, request.more, request.done,
            )
            for request in waiting
        ])
        waiting.clear()

    def woken(self) -> bool:
        """The peer turned readable; whether the lane has done what follows from that."""
        return self._server.woken(self._peer)

    def note_holders(self, generation: int, holders: Iterable[Channel]) -> None:
        """Which channels have been sent a segment."""
        self._server.set_holders(self._peer, generation, [channel.descriptor for channel in holders])

    def close(self) -> None:
        """The peer is over; its line has been taken."""
        self._server.close(self._peer)
