"""sending: what SEND, CALL, REPLY and RESPOND send, from their frames to the hub.

Theory. The sending part of a request is taken apart and checked once. If the hub does not finish with it in
this turn, the channel keeps it beside the request, and the next turn goes on from there: what lies in the
client's arena may be something else by then. A large payload is copied only if somebody would get it.

Invariants. 1. Descriptors leave the frame when they have been sent, and not before.

Not here: answers, and what follows in a sequence (requests).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .core.api import Buffer
from .errors import InvalidArgument, NotSupported, TooLarge
from .frames import MAX_INLINE_PAYLOAD, REQUESTS, Frame, check_length, fields, words
from .memory import hollow, read_arena
from .record import record
from .unfinished import Unfinished

if TYPE_CHECKING:
    from .channel import Channel

MAX_REFERENCES = 16384
"""Destinations and handles of one send, or nodes of one DESTROY: everybody waits until it is done."""
REFERENCES_PER_REQUEST, _BYTES_PER_REQUEST = 32, 1 << 18
"""So many handles and nodes, and bytes of an arena, cost as much of the allowance as a small request."""

_REHEARSED = 1 << 22
"""Larger payloads are rehearsed; who accepts default limits takes none of them."""


@record()
class Sending:
    """The sending part of a request, checked; ``rest`` are the fixed fields behind it."""

    flags: int
    destinations: tuple[int, ...]
    optional: tuple[int, ...]
    handles: tuple[int, ...]
    parts: tuple[Buffer, ...]
    rest: tuple[int, ...]
    progress: object = None
    """The hub's own, if this send was not finished in an earlier turn."""


def check_references(channel: Channel, count: int) -> None:
    """TooLarge if one request names more handles and nodes than everybody else should wait for."""
    channel.spent += count // REFERENCES_PER_REQUEST
    if count > MAX_REFERENCES:
        raise TooLarge(f"{count} handles and nodes, a request takes {MAX_REFERENCES}")


def take(channel: Channel, frame: Frame) -> Sending:
    """What the request in front sends: as it was begun in an earlier turn, or from its frame."""
    begun, channel.sending = channel.sending, None
    return begun or _parse(channel, frame)


def send(channel: Channel, frame: Frame, sending: Sending) -> list[int]:
    """Send it: a slot per destination. Unfinished: it waits in ``channel.sending`` for the next turn."""
    broker = channel.broker
    fds = tuple(frame.fds) if frame.n_fds else ()
    if fds:
        if any(map(broker.is_peer_descriptor, fds)):
            raise NotSupported("a peer's descriptor cannot be sent")
        broker.holdings.check(channel.accepted.uid, len(fds))
    try:
        slots = broker.hub.send(
            channel.check_live().peer, sending.destinations, sending.parts, sending.handles,
            fds, flags=sending.flags, optional=sending.optional, credentials=channel.credentials,
            progress=sending.progress,
        )
    except Unfinished as unfinished:
        sending.progress, channel.sending = unfinished.progress, sending
        raise
    if fds:
        broker.holdings.own(frame.fds.take_all(), channel.accepted.uid)
    return slots


def _parse(channel: Channel, frame: Frame) -> Sending:
    flags, n_destinations, n_optional, n_handles, n_inline, start, size, *rest = fields(
        REQUESTS, frame.operation, frame.body
    )
    fixed = REQUESTS[frame.operation].size
    tail = words(frame.body, fixed, n_destinations + n_optional + n_handles)
    payload_at = fixed + 8 * len(tail)
    check_length(frame, payload_at + n_inline)
    channel.check_live()
    check_references(channel, len(tail))
    if n_inline > MAX_INLINE_PAYLOAD:
        raise TooLarge(f"{n_inline} bytes of inline payload")
    parts = (frame.body[payload_at:],) if n_inline else ()
    optional_at = n_destinations + n_optional
    sending = Sending(
        flags, tail[:n_destinations], tail[n_destinations:optional_at], tail[optional_at:], parts, tuple(rest)
    )
    if size:
        sending.parts += (_from_arena(channel, frame, sending, start, size),)
    return sending


def _from_arena(channel: Channel, frame: Frame, sending: Sending, start: int, size: int) -> Buffer:
    if channel.arena is None or start + size > channel.arena[1]:
        raise InvalidArgument("the payload lies outside the arena")
    channel.spent += size // _BYTES_PER_REQUEST
    if size > _REHEARSED and not channel.broker.hub.rehearse(
        channel.check_live().peer, sending.destinations, size + sum(map(len, sending.parts)),
        sending.handles, tuple(frame.fds), flags=sending.flags, optional=sending.optional,
        credentials=channel.credentials,
    ):
        return hollow(size)
    data = read_arena(channel.arena[0], start, size)
    if len(data) != size:
        raise InvalidArgument("the arena has lost its contents")
    return data
