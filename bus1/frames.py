"""frames: sans-I/O codec of the native protocol, both sides.

Theory. A frame is a header, a fixed struct that depends on the operation, and tails whose lengths the fixed
struct tells. All integers are little-endian. Requests carry a tag that the client chooses; the answer
repeats it. Descriptors travel beside the bytes of their own frame: ``FrameWriter`` starts a new sendmsg
for each frame that has some (and a second one when there are more than the kernel takes at once),
``FrameReader`` hands a frame out when its bytes and its descriptors are there.

The tables ``REQUESTS`` and ``RESULTS`` are the protocol; ``docs/protocol.md`` explains their fields.

Invariants. 1. ``FrameReader`` buffers at most one frame and one read, and raises nothing but
RemoteProtocolError, whatever it is fed. 2. A descriptor belongs to exactly one of reader, frame, writer;
``close`` closes what is left. 3. A written frame is read back as it was, however the bytes are cut.

Not here: what the operations mean (requests, exchange), sockets (transport).
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, IntFlag

from .core.api import FD_MAX
from .descriptors import Fds
from .errors import Bus1Error, RemoteProtocolError
from .record import record

MAGIC = b"bus1"
VERSION = 1
FEATURES = 0
SNAPSHOT_FORMAT = 1
"""Of the document that SNAPSHOT brings."""
MAX_FRAME = 1 << 20
MAX_INLINE_PAYLOAD = 1 << 16
"""Bytes of payload in a SEND; what is longer goes through the arena."""
MAX_INLINE_SLICE = 4096
"""Slices up to this size are repeated in the answer to RECV."""
SCM_MAX_FD = 253
"""What the kernel takes in one sendmsg."""
ANSWER = 0x8000
"""An answer's operation is the request's with this bit."""
QUIET = 0x2000
"""A request's operation with this bit: answer only if there is something to tell."""

HEADER = struct.Struct("<IHHQ")
"""length of the whole frame, operation, number of descriptors, tag."""
_HEADER_SIZE = HEADER.size
ANSWER_PREFIX = struct.Struct("<IHH")
"""errno or 0, operations of a sequence that took effect, notes. An error is followed by text."""


class Operation(IntEnum):
    """The page's operations are 0x100 plus their ioctl number."""

    HELLO = 0x01
    OPEN = 0x02
    ATTACH = 0x03
    ARENA = 0x04
    SEGMENT = 0x05
    SEGMENT_UNMAPPED = 0x06
    INSTALLED = 0x07
    CANCEL = 0x08
    SNAPSHOT = 0x09
    DISCONNECT = 0x100
    QUERY = 0x101
    RESET = 0x102
    RELEASE = 0x110
    TRANSFER = 0x111
    DESTROY = 0x120
    SLICE_RELEASE = 0x130
    SEND = 0x140
    RECV = 0x150
    CALL = 0x160
    REPLY = 0x161
    RESPOND = 0x162


class Event(IntEnum):
    """Frames that the bus sends of its own accord."""

    REFUSED = 0x4001
    """errno, text; the channel is closed behind it."""
    OFFER = 0x4002
    """Descriptors of the message that the RECV with this tag is about to take; answered by INSTALLED."""
    RETIRED = 0x4003
    """generation: unmap this segment, then say SEGMENT_UNMAPPED."""


class Note(IntFlag):
    """Notes in the prefix of an answer."""

    DRAINED = 1
    """The queue is empty now: take one byte from the peer's descriptor."""
    MORE = 2
    """The request will be answered again."""
    RELEASED = 4
    """NODE_RELEASE of the node that the message is for was next in the queue, and has been taken with it."""


class RecvOption(IntFlag):
    """Options of RECV that are the link's own."""

    PARK = 1
    """Answer when there is a message, instead of EAGAIN."""
    DETACH = 2
    """If the whole slice lies in the answer, give it back at once."""


MORE_SHIFT = 8
"""Bits 8 to 15 of RECV's options: with how many further messages it may be answered, if it is parked."""
MAX_MORE = 255


class SliceNote(IntFlag):
    """What the answer to RECV says about the slice."""

    SEGMENT = 1
    """The segment's memfd comes along: this channel has not been sent it yet."""
    DETACHED = 2
    """The slice has been given back."""


UNMAPPED = 1
"""Flag of SLICE_RELEASE: this channel does not map the slice's segment any more."""

_SEND = "QIIIIQQ"  # flags; n_destinations, n_optional, n_handles, n_inline; arena offset, arena bytes
_RECV = "QQQ"  # flags, max_offset, options

REQUESTS: dict[int, struct.Struct] = {
    Operation.HELLO: struct.Struct("<4sIQ"),  # magic, version, features
    Operation.OPEN: struct.Struct("<Q"),  # flags (0)
    Operation.ATTACH: struct.Struct("<Q"),  # flags (0); one descriptor
    Operation.ARENA: struct.Struct("<Q"),  # size
    Operation.SEGMENT: struct.Struct("<Q"),  # generation
    Operation.SEGMENT_UNMAPPED: struct.Struct("<Q"),  # generation
    Operation.INSTALLED: struct.Struct("<Q"),  # 1, or 0 if they could not be installed
    Operation.CANCEL: struct.Struct("<"),
    Operation.SNAPSHOT: struct.Struct("<Q"),  # flags (0)
    Operation.DISCONNECT: struct.Struct("<Q"),  # 0
    Operation.QUERY: struct.Struct("<Q"),  # flags (0)
    Operation.RESET: struct.Struct("<6Q"),  # flags, peer_flags, slices, handles, bytes, fds
    Operation.RELEASE: struct.Struct("<Q"),  # handle
    Operation.TRANSFER: struct.Struct("<3Q"),  # flags (0), source handle, destination handle (INVALID)
    Operation.DESTROY: struct.Struct("<QQ"),  # flags, n_nodes; then the nodes
    Operation.SLICE_RELEASE: struct.Struct("<QQQ"),  # offset, flags, serial (0: whichever is there)
    Operation.SEND: struct.Struct("<" + _SEND),
    Operation.RECV: struct.Struct("<" + _RECV),
    Operation.CALL: struct.Struct("<" + _SEND + _RECV),
    Operation.REPLY: struct.Struct("<" + _SEND + _RECV + "QQQQ"),  # slice: offset, flags, serial; handle
    Operation.RESPOND: struct.Struct("<" + _SEND + "Q"),  # handle
}
"""Fixed part of each request. In SEND, CALL, REPLY and RESPOND, destinations, optional ones, handles (u64
each) and the inline payload follow."""
MAY_BE_QUIET = frozenset({
    Operation.SEGMENT_UNMAPPED, Operation.RELEASE, Operation.DESTROY, Operation.SLICE_RELEASE, Operation.SEND,
    Operation.RESPOND,
})
"""Operations whose success says nothing more."""

_MESSAGE = struct.Struct("<QQQIIIIQQQQQQIIQQQQ")
RESULTS: dict[int, struct.Struct] = {
    Operation.HELLO: struct.Struct("<IIQQQQ"),  # version, 0, features, frame, inline payload, arena maxima
    Operation.OPEN: struct.Struct("<Q"),  # n_granted; then the handles; one descriptor
    Operation.ATTACH: struct.Struct("<"),
    Operation.ARENA: struct.Struct("<Q"),  # size; one descriptor
    Operation.SEGMENT: struct.Struct("<QQQ"),  # generation, base, size; one descriptor
    Operation.SEGMENT_UNMAPPED: struct.Struct("<"),
    Operation.SNAPSHOT: struct.Struct("<Q"),  # size; one descriptor
    Operation.DISCONNECT: struct.Struct("<"),
    Operation.QUERY: struct.Struct("<6Q"),  # 0, peer_flags, slices, handles, bytes, fds
    Operation.RESET: struct.Struct("<"),
    Operation.RELEASE: struct.Struct("<"),
    Operation.TRANSFER: struct.Struct("<Q"),  # id in the destination
    Operation.DESTROY: struct.Struct("<"),
    Operation.SLICE_RELEASE: struct.Struct("<"),
    Operation.SEND: struct.Struct("<Q"),  # n_slots (0: all slots are 0); then s64 each
    Operation.RECV: _MESSAGE,  # see MessageFields; then the slice, if it is inline
    Operation.CALL: _MESSAGE,
    Operation.REPLY: _MESSAGE,
    Operation.RESPOND: struct.Struct("<"),
}
MESSAGE_ANSWER = struct.Struct(HEADER.format + (ANSWER_PREFIX.format + _MESSAGE.format).replace("<", ""))
"""The whole answer to a RECV, up to the slice."""
EVENTS: dict[int, struct.Struct] = {
    Event.REFUSED: struct.Struct("<I"),  # errno; then text
    Event.OFFER: struct.Struct("<"),
    Event.RETIRED: struct.Struct("<Q"),  # generation
}


NO_FDS = Fds()
"""What owns no descriptor, for the many frames that bring none."""


@record()
class Frame:
    """One frame as it arrived; its reader closes the descriptors it does not take."""

    operation: int
    tag: int
    body: bytes
    fds: Fds
    n_fds: int
    """As announced; fewer are there only after truncation."""
    is_quiet: bool = False
    """Not to be answered unless there is something to tell."""


def encode(operation: int, tag: int, body: bytes, n_fds: int = 0) -> bytes:
    """A whole frame."""
    return HEADER.pack(HEADER.size + len(body), operation, n_fds, tag) + body


def answer(
    operation: int, tag: int, body: bytes = b"", *, done: int = 0, notes: int = 0, n_fds: int = 0
) -> bytes:
    """The answer to a request that succeeded."""
    return encode(operation | ANSWER, tag, ANSWER_PREFIX.pack(0, done, notes) + body, n_fds)


def error_answer(operation: int, tag: int, error: Bus1Error, *, done: int = 0, notes: int = 0) -> bytes:
    """The answer to a request that failed, in words."""
    text = str(error).encode("utf-8", "replace")[:512]
    return encode(operation | ANSWER, tag, ANSWER_PREFIX.pack(error.errno, done, notes) + text)


def refusal(error: Bus1Error) -> bytes:
    """The last frame of a channel that broke the protocol."""
    text = str(error).encode("utf-8", "replace")[:512]
    return encode(Event.REFUSED, 0, EVENTS[Event.REFUSED].pack(error.errno) + text)


def words(body: bytes, offset: int, count: int) -> tuple[int, ...]:
    """``count`` u64 of a tail; RemoteProtocolError if they are not there."""
    if count > (len(body) - offset) // 8:
        raise RemoteProtocolError(f"{count} values announced, {len(body) - offset} bytes left")
    return struct.unpack_from(f"<{count}Q", body, offset)


def fields(table: dict[int, struct.Struct], operation: int, body: bytes) -> tuple[int, ...]:
    """The fixed part of a body; RemoteProtocolError if it is too short."""
    try:
        return table[operation].unpack_from(body)
    except struct.error:
        raise RemoteProtocolError(f"operation {operation:#x} with {len(body)} bytes") from None


def check_length(frame: Frame, expected: int) -> None:
    """RemoteProtocolError unless the body has exactly this length."""
    if len(frame.body) != expected:
        raise RemoteProtocolError(f"operation {frame.operation:#x}: {len(frame.body)} bytes, not {expected}")


class FrameReader:
    """Bytes and descriptors in, frames out."""

    def __init__(self, max_frame: int = MAX_FRAME) -> None:
        self._max_frame = max_frame
        self._buffer = bytearray()
        self._whole, self._at = b"", 0
        """What a read brought after frames that were complete, if that is not in the buffer, and up to where
        it has been looked at."""
        self._fds: deque[int] = deque()
        self._is_short = False

    @property
    def is_empty(self) -> bool:
        """Nothing has arrived that no frame has been made of."""
        return not (self._whole or self._buffer or self._fds)

    @property
    def n_bytes(self) -> int:
        """How many bytes have arrived that no frame has been made of."""
        return len(self._buffer) + len(self._whole) - self._at

    @property
    def n_stray_fds(self) -> int:
        """How many descriptors have arrived whose frame is not complete."""
        return len(self._fds)

    def feed(self, data: bytes | memoryview, fds: Iterable[int] = (), *, truncated: bool = False) -> None:
        """What one recvmsg gave; takes the descriptors. ``truncated``: some could not be installed."""
        if self._whole:
            self._spill()
        if self._buffer or type(data) is not bytes:
            self._buffer += data
        else:
            self._whole = data
        if fds:
            self._fds.extend(fds)
        if truncated:
            self._is_short = True

    def next(self) -> Frame | None:
        """The next complete frame. Descriptors that were lost to truncation are missing from it."""
        if self._whole and (frame := self._next_of_whole()) is not None:
            return frame
        if not (self._buffer or self._fds):
            return None
        if len(self._buffer) < HEADER.size:
            self._check_fds(0)
            return None
        length, operation, n_fds, tag = HEADER.unpack_from(self._buffer)
        if not HEADER.size <= length <= self._max_frame or n_fds > FD_MAX:
            raise RemoteProtocolError(f"a frame of {length} bytes with {n_fds} descriptors")
        if len(self._buffer) < length:
            self._check_fds(n_fds)
            return None
        if n_fds > len(self._fds) and not self._is_short:
            raise RemoteProtocolError(f"{n_fds} descriptors announced, {len(self._fds)} arrived")
        with memoryview(self._buffer) as view:
            body = bytes(view[HEADER.size : length])
        del self._buffer[:length]
        is_quiet = operation & QUIET != 0
        operation &= ~QUIET
        if not n_fds:
            return Frame(operation, tag, body, NO_FDS, 0, is_quiet)
        self._is_short = False
        taken = min(n_fds, len(self._fds))
        return Frame(operation, tag, body, Fds(self._fds.popleft() for _ in range(taken)), n_fds, is_quiet)

    def _next_of_whole(self) -> Frame | None:
        """A frame that came complete in one read, without descriptors; what is no such frame is spilt."""
        whole, at = self._whole, self._at
        left = len(whole) - at
        if left >= _HEADER_SIZE and not self._fds:
            length, operation, n_fds, tag = HEADER.unpack_from(whole, at)
            if _HEADER_SIZE <= length <= self._max_frame and not n_fds and length <= left:
                end = at + length
                if length == left:
                    self._whole, self._at = b"", 0
                else:
                    self._at = end
                body = whole[at + _HEADER_SIZE : end]
                return Frame(operation & ~QUIET, tag, body, NO_FDS, 0, operation & QUIET != 0)
        self._spill()
        return None

    def _spill(self) -> None:
        with memoryview(self._whole) as view:
            self._buffer += view[self._at :]
        self._whole, self._at = b"", 0

    def _check_fds(self, expected: int) -> None:
        # The header itself may still be on its way, hence FD_MAX for a frame that has begun.
        allowed = expected or (FD_MAX if self._buffer else 0)
        if len(self._fds) > allowed:
            raise RemoteProtocolError(f"{len(self._fds)} descriptors that no frame announced")

    def take_fds(self) -> Fds:
        """The descriptors whose frame is not complete; they are the caller's from now on."""
        fds, self._fds = Fds(self._fds), deque()
        return fds

    def close(self) -> None:
        """Forget everything; descriptors are closed."""
        self._buffer.clear()
        self._whole, self._at = b"", 0
        self.take_fds().close()


class _Outgoing:
    """A frame under way: what is left of its bytes, groups of descriptors not yet sent, their owner."""

    __slots__ = ("groups", "owner", "view")

    def __init__(self, frame: bytes, owner: Fds | None) -> None:
        self.view = memoryview(frame)
        self.owner = owner
        self.groups: list[list[int]] = []
        if owner:
            numbers = list(owner)
            self.groups = [numbers[at : at + SCM_MAX_FD] for at in range(0, len(numbers), SCM_MAX_FD)]


class FrameWriter:
    """Frames in; what to hand to each sendmsg out."""

    _BATCH = 64
    _FRAME_COST = 512
    """Bytes of memory that a queued frame needs beside its own, at most."""

    def __init__(self, discard: Callable[[Fds], None] = Fds.close) -> None:
        """``discard`` closes descriptors that have been sent, or are not to be."""
        self._discard = discard
        self._queue: deque[_Outgoing] = deque()
        self.pending = 0
        """Bytes that have not been sent."""
        self.n_fds = 0
        """Descriptors of frames that have not been sent wholly."""

    @property
    def weight(self) -> int:
        """The memory that is needed for what has not been sent, in bytes."""
        return self.pending + len(self._queue) * self._FRAME_COST

    def push(self, frame: bytes, fds: Fds | None = None) -> None:
        """Queue a frame; takes the descriptors and closes them once they are sent."""
        self._queue.append(_Outgoing(frame, fds))
        self.pending += len(frame)
        if fds:
            self.n_fds += len(fds)

    def chunk(self) -> tuple[list[memoryview], Sequence[int]]:
        """Buffers and descriptors of the next sendmsg."""
        first = self._queue[0]
        if first.groups:
            cut = HEADER.size // 2 if len(first.groups) > 1 else len(first.view)
            return [first.view[:cut]], first.groups[0]
        buffers: list[memoryview] = []
        for outgoing in self._queue:
            if outgoing.groups or len(buffers) == self._BATCH:
                break
            buffers.append(outgoing.view)
        return buffers, ()

    def sent(self, n: int) -> None:
        """``n`` bytes of the last chunk have been sent, its descriptors with the first of them."""
        self.pending -= n
        if n and self._queue[0].groups:
            del self._queue[0].groups[0]
        while n:
            first = self._queue[0]
            if n < len(first.view):
                first.view = first.view[n:]
                return
            n -= len(first.view)
            self._queue.popleft()
            if first.owner is not None:
                self.n_fds -= len(first.owner)
                self._discard(first.owner)

    def close(self) -> None:
        """Forget what is queued; descriptors are closed."""
        for outgoing in self._queue:
            if outgoing.owner is not None:
                self._discard(outgoing.owner)
        self._queue.clear()
        self.pending = self.n_fds = 0
