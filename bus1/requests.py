"""requests: the operations of the native protocol, executed for one channel.

Theory. ``OPERATIONS`` maps each operation to a function of (channel, frame) that returns the answer, or None
if the answer comes later. A function first takes the frame apart and checks it completely, then executes
one command of Core, or the commands of its sequence (CALL, REPLY) in order. Numbers of the client name only
its own things: handles are ids of its peer, descriptors arrive as descriptors.

Invariants. 1. A frame whose lengths do not fit raises RemoteProtocolError before anything happens.
2. An operation that fails has changed nothing; of a sequence, the answer tells how many operations had taken
effect. 3. Descriptors of a request that are not passed on are closed by the caller.

Not here: when requests are executed (channel), what they send (sending), RECV's line (station).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from .core.api import HANDLE_INVALID, OFFSET_INVALID, RecvFlag
from .descriptors import Fds, duplicate
from .errors import (
    Bus1Error,
    InternalError,
    InvalidArgument,
    OutOfMemory,
    ProtocolError,
    RemoteProtocolError,
    TooLarge,
    UnknownOperation,
)
from .frames import (
    FEATURES,
    MAGIC,
    MAX_FRAME,
    MAX_INLINE_PAYLOAD,
    MAX_MORE,
    MAY_BE_QUIET,
    MORE_SHIFT,
    REQUESTS,
    RESULTS,
    UNMAPPED,
    VERSION,
    Frame,
    Operation,
    RecvOption,
    answer,
    check_length,
    error_answer,
    fields,
    words,
)
from .line import PendingRecv
from .memory import make_arena
from .sending import check_references, send, take

if TYPE_CHECKING:
    from .channel import Channel

Reply = tuple[bytes, Fds | None]
_RECV_FLAGS = int(RecvFlag.PEEK | RecvFlag.SEED | RecvFlag.INSTALL_FDS)
_RECV_OPTIONS = int(RecvOption.PARK | RecvOption.DETACH)
_NO_SLOTS = struct.pack("<Q", 0)
_SEED, _PEEK, _PARK = int(RecvFlag.SEED), int(RecvFlag.PEEK), int(RecvOption.PARK)


class Interrupted(Exception):
    """A sequence failed with ``error`` after ``done`` of its operations had taken effect."""

    def __init__(self, error: Bus1Error, done: int) -> None:
        super().__init__(str(error))
        self.error = error
        self.done = done


def execute(channel: Channel, frame: Frame) -> Reply | None:
    """Execute one request; contract errors become the answer, a ProtocolError closes the channel.

    None: the answer comes later, or the request is quiet and there is nothing to tell.

    Unfinished: nothing has happened, execute the same frame again in the next turn."""
    try:
        return _look_up(channel, frame)(channel, frame)
    except (ProtocolError, InternalError):
        raise
    except Interrupted as interrupted:
        if isinstance(interrupted.error, (ProtocolError, InternalError)):
            raise interrupted.error from interrupted
        return error_answer(frame.operation, frame.tag, interrupted.error, done=interrupted.done), None
    except Bus1Error as error:
        return error_answer(frame.operation, frame.tag, error), None


def _look_up(channel: Channel, frame: Frame) -> Callable[[Channel, Frame], Reply | None]:
    number = frame.operation
    everyday = (_EVERYDAY_QUIET if frame.is_quiet else _EVERYDAY).get(number)
    if everyday is not None and channel.station is not None and not frame.n_fds:
        return everyday
    if channel.station is None and number not in (_GREETED if channel.is_greeted else _FIRST):
        raise RemoteProtocolError(f"operation {number:#x} before the peer is known")
    if channel.station is not None and number in _FIRST | _BINDING:
        raise RemoteProtocolError(f"operation {number:#x} once the peer is known")
    operation = OPERATIONS.get(number)
    if operation is None:
        channel.check_live()  # P-13: of a disconnected peer nothing is known
        raise UnknownOperation(f"operation {number:#x}")
    if frame.is_quiet and number not in MAY_BE_QUIET:
        raise RemoteProtocolError(f"operation {number:#x} is always answered")
    if frame.n_fds and number not in _TAKES_FDS:
        raise RemoteProtocolError(f"operation {number:#x} takes no descriptors")
    if number in _GIVES_FDS:
        channel.outlet.check_room(1)
    return operation


def _values(frame: Frame) -> tuple[int, ...]:
    values = fields(REQUESTS, frame.operation, frame.body)
    check_length(frame, REQUESTS[frame.operation].size)
    return values


def _check_zero(value: int, what: str) -> None:
    if value:
        raise InvalidArgument(f"{what} must be 0")


def _done(frame: Frame, *values: int) -> Reply | None:
    if frame.is_quiet:
        return None
    return answer(frame.operation, frame.tag, RESULTS[frame.operation].pack(*values)), None


# ---- binding ---------------------------------------------------------------------------------------


def _hello(channel: Channel, frame: Frame) -> Reply | None:
    _, version, _ = fields(REQUESTS, Operation.HELLO, frame.body)
    if not frame.body.startswith(MAGIC):
        raise RemoteProtocolError("this is a bus1 socket; the client speaks something else")
    if version != VERSION:
        raise RemoteProtocolError(f"version {version} is not spoken here, only {VERSION}")
    channel.is_greeted = True
    max_arena = channel.broker.limits.arena_bytes
    return _done(frame, VERSION, 0, FEATURES, MAX_FRAME, MAX_INLINE_PAYLOAD, max_arena)


def _open(channel: Channel, frame: Frame) -> Reply:
    (flags,) = _values(frame)
    _check_zero(flags, "flags")
    station, granted = channel.broker.open_peer(channel)
    channel.bind(station)
    fds = Fds([station.client_end.detach()])
    body = struct.pack(f"<Q{len(granted)}Q", len(granted), *granted)
    return answer(frame.operation, frame.tag, body, n_fds=1), fds


def _attach(channel: Channel, frame: Frame) -> Reply | None:
    (flags,) = _values(frame)
    _check_zero(flags, "flags")
    if len(frame.fds) != 1:
        raise RemoteProtocolError("ATTACH presents one descriptor")
    channel.bind(channel.broker.station_behind(frame.fds[0]))
    return _done(frame)


def _arena(channel: Channel, frame: Frame) -> Reply:
    (size,) = _values(frame)
    if not 0 < size <= channel.broker.limits.arena_bytes:
        raise TooLarge(f"an arena of {size} bytes")
    try:
        arena = Fds([make_arena(size)])
    except OSError as error:
        raise OutOfMemory(f"no arena of {size} bytes: {error.strerror}") from error
    with arena:
        copy = duplicate(arena)
        channel.replace_arena(arena[0], size)
        arena.take()
    return answer(frame.operation, frame.tag, struct.pack("<Q", size), n_fds=1), copy


# ---- peers, nodes and handles ----------------------------------------------------------------------


def _disconnect(channel: Channel, frame: Frame) -> Reply | None:
    (argument,) = _values(frame)
    station = channel.check_live()
    _check_zero(argument, "the argument")
    channel.broker.disconnect(station)
    return _done(frame)


def _query(channel: Channel, frame: Frame) -> Reply | None:
    (flags,) = _values(frame)
    state = channel.broker.hub.core.peer_query(channel.check_live().peer)
    _check_zero(flags, "flags")
    limits = state.limits
    return _done(
        frame, 0, state.peer_flags, limits.slices, limits.handles, limits.inflight_bytes, limits.inflight_fds
    )


def _reset(channel: Channel, frame: Frame) -> Reply | None:
    flags, peer_flags, slices, handles, inflight_bytes, inflight_fds = _values(frame)
    station = channel.check_live()
    channel.broker.hub.core.peer_reset(
        station.peer, flags, peer_flags, max_slices=slices, max_handles=handles,
        max_inflight_bytes=inflight_bytes, max_inflight_fds=inflight_fds,
    )
    return _done(frame)


def _release(channel: Channel, frame: Frame) -> Reply | None:
    (handle,) = _values(frame)
    channel.broker.hub.core.handle_release(channel.check_live().peer, handle)
    return _done(frame)


def _transfer(channel: Channel, frame: Frame) -> Reply | None:
    flags, source, destination = _values(frame)
    station = channel.check_live()
    if len(frame.fds) > 1:
        raise RemoteProtocolError("TRANSFER presents at most one descriptor")
    _check_zero(flags, "flags")
    if destination != HANDLE_INVALID:
        raise InvalidArgument("the destination handle must be INVALID")
    target = channel.broker.station_behind(frame.fds[0]) if len(frame.fds) else station
    return _done(frame, channel.broker.hub.core.handle_transfer(station.peer, source, target.peer))


def _destroy(channel: Channel, frame: Frame) -> Reply | None:
    flags, n_nodes = fields(REQUESTS, frame.operation, frame.body)
    fixed = REQUESTS[frame.operation].size
    nodes = words(frame.body, fixed, n_nodes)
    check_length(frame, fixed + 8 * n_nodes)
    check_references(channel, n_nodes)
    channel.broker.hub.core.node_destroy(channel.check_live().peer, nodes, flags)
    return _done(frame)


# ---- pool ------------------------------------------------------------------------------------------


def _slice_release(channel: Channel, frame: Frame) -> Reply | None:
    offset, flags, serial = _values(frame)
    _release_slice(channel, offset, flags, serial)
    return _done(frame)


def _release_slice(channel: Channel, offset: int, flags: int, serial: int) -> None:
    if flags & ~UNMAPPED:
        raise InvalidArgument(f"unknown flags {flags:#x} of SLICE_RELEASE")
    channel.check_live().slice_release(channel, offset, serial, is_unmapped=bool(flags & UNMAPPED))


def _segment(channel: Channel, frame: Frame) -> Reply:
    (generation,) = _values(frame)
    segment, fds = channel.check_live().segment_for(channel, generation)
    body = RESULTS[frame.operation].pack(generation, segment.base, segment.size)
    return answer(frame.operation, frame.tag, body, n_fds=1), fds


def _segment_unmapped(channel: Channel, frame: Frame) -> Reply | None:
    (generation,) = _values(frame)
    channel.check_live().segment_unmapped(channel, generation)
    return _done(frame)


# ---- messages --------------------------------------------------------------------------------------


def _goes_straight(channel: Channel, frame: Frame) -> bool:
    straight = channel.broker.straight
    return straight is not None and not frame.n_fds and straight.send(channel, frame)


def _send(channel: Channel, frame: Frame) -> Reply | None:
    if _goes_straight(channel, frame):
        return None if frame.is_quiet else (answer(frame.operation, frame.tag, _NO_SLOTS), None)
    slots = send(channel, frame, take(channel, frame))
    if not any(slots):
        if frame.is_quiet:
            return None
        slots = []
    return answer(frame.operation, frame.tag, struct.pack(f"<Q{len(slots)}q", len(slots), *slots)), None


def _recv(channel: Channel, frame: Frame) -> None:
    request = _pending(channel, frame, _values(frame))
    channel.check_live().recv(request)


def _pending(channel: Channel, frame: Frame, values: tuple[int, ...]) -> PendingRecv:
    flags, max_offset, options = values
    channel.check_live()
    more = options >> MORE_SHIFT
    options &= (1 << MORE_SHIFT) - 1
    takes_more = frame.operation == Operation.RECV and options & _PARK and not flags & _PEEK
    if more > (MAX_MORE if takes_more else 0):
        raise InvalidArgument(f"{more} further messages are for a RECV alone that is parked and takes them")
    if flags & ~_RECV_FLAGS or options & ~_RECV_OPTIONS:
        raise InvalidArgument(f"unknown flags {flags:#x} or options {options:#x} of RECV")
    if flags & _SEED and options & _PARK:
        raise InvalidArgument("there is nothing to wait for at the seed")
    return PendingRecv(channel, frame.operation, frame.tag, flags, max_offset, options, more)


def _sequence(channel: Channel, frame: Frame) -> None:
    """CALL and REPLY: send, give the answered slice back, release a handle, park."""
    sending = take(channel, frame)
    request = _pending(channel, frame, sending.rest[:3])
    offset, slice_flags, serial, handle = sending.rest[3:] or (OFFSET_INVALID, 0, 0, HANDLE_INVALID)
    if sending.flags or sending.optional:
        raise InvalidArgument("CALL and REPLY take neither flags nor optional destinations")
    core, station = channel.broker.hub.core, channel.check_live()
    try:
        send(channel, frame, sending)
        request.done += 1
        channel.broker.reactor.settle()
        if offset != OFFSET_INVALID:
            _release_slice(channel, offset, slice_flags, serial)
            request.done += 1
        if handle != HANDLE_INVALID:
            core.handle_release(station.peer, handle)
            request.done += 1
    except Bus1Error as error:
        raise Interrupted(error, request.done) from error
    channel.broker.reactor.settle()
    station.recv(request)


def _respond(channel: Channel, frame: Frame) -> Reply | None:
    """Send, then release a handle, which is kept if nothing could be sent."""
    if _goes_straight(channel, frame):
        return _done(frame)
    sending = take(channel, frame)
    if sending.flags or sending.optional:
        raise InvalidArgument("RESPOND takes neither flags nor optional destinations")
    send(channel, frame, sending)
    try:
        channel.broker.hub.core.handle_release(channel.check_live().peer, sending.rest[0])
    except Bus1Error as error:
        raise Interrupted(error, 1) from error
    return _done(frame)


def _installed(channel: Channel, frame: Frame) -> None:
    (is_installed,) = _values(frame)
    station = channel.station
    assert station is not None
    if station.is_live:
        station.installed(channel, frame.tag, bool(is_installed))


def _cancel(channel: Channel, frame: Frame) -> None:
    _values(frame)
    station = channel.station
    assert station is not None
    station.cancel(channel, frame.tag)


def _snapshot(channel: Channel, frame: Frame) -> Reply:
    (flags,) = _values(frame)
    if channel.station is not None:
        channel.check_live()
    _check_zero(flags, "flags")
    channel.spent += channel.broker.limits.requests_per_turn  # it looks at everything
    # rarely needed, and dear to import
    from .inspection import document_for

    size, fds = document_for(channel.broker, channel.accepted)
    return answer(frame.operation, frame.tag, RESULTS[frame.operation].pack(size), n_fds=1), fds


_FIRST = {Operation.HELLO}
_BINDING = {Operation.OPEN, Operation.ATTACH}
_GREETED = _BINDING | {Operation.SNAPSHOT}
_GIVES_FDS = {Operation.OPEN, Operation.ARENA, Operation.SEGMENT, Operation.SNAPSHOT}
_TAKES_FDS = {Operation.ATTACH, Operation.TRANSFER, Operation.SEND, Operation.CALL, Operation.REPLY,
              Operation.RESPOND}
OPERATIONS: dict[int, Callable[[Channel, Frame], Reply | None]] = {
    Operation.HELLO: _hello,
    Operation.OPEN: _open,
    Operation.ATTACH: _attach,
    Operation.ARENA: _arena,
    Operation.SEGMENT: _segment,
    Operation.SEGMENT_UNMAPPED: _segment_unmapped,
    Operation.INSTALLED: _installed,
    Operation.CANCEL: _cancel,
    Operation.SNAPSHOT: _snapshot,
    Operation.DISCONNECT: _disconnect,
    Operation.QUERY: _query,
    Operation.RESET: _reset,
    Operation.RELEASE: _release,
    Operation.TRANSFER: _transfer,
    Operation.DESTROY: _destroy,
    Operation.SLICE_RELEASE: _slice_release,
    Operation.SEND: _send,
    Operation.RECV: _recv,
    Operation.CALL: _sequence,
    Operation.REPLY: _sequence,
    Operation.RESPOND: _respond,
}
_EVERYDAY: dict[int, Callable[[Channel, Frame], Reply | None]] = {
    number: operation for number, operation in OPERATIONS.items()
    if number not in _FIRST | _BINDING | _GIVES_FDS
}
"""What a channel with a peer may ask for, unless it brings descriptors: nothing else is to be looked at."""
_EVERYDAY_QUIET = {int(number): _EVERYDAY[number] for number in MAY_BE_QUIET}
