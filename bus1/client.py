"""client: the operations of the native protocol from the client's side, without I/O.

Theory. A ``Request`` is what to send, and how to read the answer. The faces differ only in how they wait:
``links`` blocks, ``aio`` awaits; both hand bytes to an ``Exchange`` and build messages from a ``MappedPool``.
Payloads that are too long for a frame go through the arena, memory that the bus made and this side writes;
one such request at a time, as the arena holds it until it is answered.

Invariants. 1. A payload is copied out of the caller's buffers before the request leaves.
2. A message that cannot be mapped now is kept and returned by the next RECV.

Not here: waiting, sockets (links, aio).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from .core.api import (
    FD_MAX,
    HANDLE_INVALID,
    KEEP,
    OFFSET_INVALID,
    VEC_MAX,
    Buffer,
    DestroyFlag,
    Limits,
    MessageFlag,
    MessageType,
    PeerState,
)
from .descriptors import Fds, duplicate
from .errors import BusGone, OutOfMemory, RemoteProtocolError, TooLarge
from .exchange import Answer, Failed, new_exchange
from .frames import (
    FEATURES,
    HEADER,
    MAGIC,
    NO_FDS,
    REQUESTS,
    UNMAPPED,
    VERSION,
    Operation,
    SliceNote,
)
from .mapping import MappedPool, handles_and_secctx
from .outcomes import check_fd, document, nothing, opened, slots, whole
from .received import ReceivedMessage

T = TypeVar("T")
_KINDS = {int(kind): kind for kind in MessageType}
_FLAGS = {bits: MessageFlag(bits) for bits in range(4)}
_SEGMENT, _DETACHED = int(SliceNote.SEGMENT), int(SliceNote.DETACHED)
_ARENA_STEP = 1 << 20
_FEW = 16
_KEPT_ARENA = 1 << 22
"""Pages of the arena beyond this are given back after use."""


@dataclass(frozen=True, slots=True)
class Request(Generic[T]):
    """What to send, and how to read its answer."""

    operation: Operation
    body: bytes
    read: Callable[[Answer], T]
    fds: Fds | None = None
    note: Callable[[int], None] | None = None
    """Told how many operations of a sequence took effect, whatever the outcome."""


def as_parts(payload: Buffer | Sequence[Buffer]) -> Sequence[Buffer]:
    """One buffer or several, as several that are contiguous and counted in bytes."""
    parts = [payload] if isinstance(payload, (bytes, bytearray, memoryview)) else payload
    return [_flat(part) if isinstance(part, memoryview) else part for part in parts]


def _flat(view: memoryview) -> Buffer:
    return view.cast("B") if view.c_contiguous else view.tobytes()


def _fixed(operation: Operation, *values: int | bytes) -> bytes:
    try:
        return REQUESTS[operation].pack(*values)
    except struct.error as error:
        raise TooLarge(f"{operation.name}: a value outside 64 bits, or too many of them") from error


class Client:
    """Requests, messages and memory of one channel."""

    def __init__(self, give_back: Callable[[ReceivedMessage], None]) -> None:
        self.exchange = new_exchange()
        self.pool = MappedPool()
        self._give_back = give_back
        self._max_frame = 0
        self._max_inline = 0
        self._max_arena = 0
        self._arena: mmap.mmap | None = None

    # ---- exchange --------------------------------------------------------------------------------

    def start(self, request: Request[T]) -> int:
        """Queue a request; its tag."""
        for generation in self._confirm_unmapped():
            body = REQUESTS[Operation.SEGMENT_UNMAPPED].pack(generation)
            self.exchange.forget(Operation.SEGMENT_UNMAPPED, body)
        for handle in self._unwanted_handles():
            self.exchange.forget(Operation.RELEASE, REQUESTS[Operation.RELEASE].pack(handle))
        return self.exchange.request(request.operation, request.body, request.fds)

    def finish(self, request: Request[T], answer: Answer) -> T:
        """The result; raises the error of the answer."""
        if request.note is not None:
            request.note(answer.done)
        if answer.error is not None:
            answer.fds.close()
            raise answer.error
        return request.read(answer)

    def _confirm_unmapped(self) -> list[int]:
        for generation in self.exchange.take_retired():
            self.pool.retire(generation)
        return self.pool.take_unmapped()

    def _unwanted_handles(self) -> list[int]:
        handles: list[int] = []
        for answer in self.exchange.take_unwanted():
            if self.missing_segment(answer) is None:
                message = self.message(answer)
                self.slice_of(message)
                message.fds.close()
                handles += [handle for handle in message.handles if handle != HANDLE_INVALID]
        return handles

    # ---- binding ---------------------------------------------------------------------------------

    def hello(self) -> Request[None]:
        """The first request."""
        return Request(Operation.HELLO, _fixed(Operation.HELLO, MAGIC, VERSION, FEATURES), self._welcome)

    def _welcome(self, answer: Answer) -> None:
        version, _, _, self._max_frame, self._max_inline, self._max_arena = answer.values
        if version != VERSION:
            raise RemoteProtocolError(f"the bus answers with version {version}")

    def open(self) -> Request[tuple[int, tuple[int, ...]]]:
        """A new peer: its descriptor, and the granted handles."""
        return Request(Operation.OPEN, _fixed(Operation.OPEN, 0), opened)

    def attach(self, descriptor: int) -> Request[None]:
        """Speak for the peer behind ``descriptor``."""
        return Request(Operation.ATTACH, _fixed(Operation.ATTACH, 0), nothing, duplicate([descriptor]))

    def snapshot(self) -> Request[bytes]:
        """The state of the bus, a JSON document; Denied to strangers. Needs no peer."""
        return Request(Operation.SNAPSHOT, _fixed(Operation.SNAPSHOT, 0), document)

    # ---- peers, nodes and handles ----------------------------------------------------------------

    def disconnect(self) -> Request[None]:
        """PEER_DISCONNECT."""
        return Request(Operation.DISCONNECT, _fixed(Operation.DISCONNECT, 0), nothing)

    def query(self) -> Request[PeerState]:
        """PEER_QUERY."""
        return Request(
            Operation.QUERY, _fixed(Operation.QUERY, 0),
            lambda answer: PeerState(answer.values[1], Limits(*answer.values[2:])),
        )

    def reset(
        self, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP, max_handles: int = KEEP,
        max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> Request[None]:
        """PEER_RESET."""
        limits = (max_slices, max_handles, max_inflight_bytes, max_inflight_fds)
        return Request(Operation.RESET, _fixed(Operation.RESET, flags, peer_flags, *limits), nothing)

    def release(self, handle: int) -> Request[None]:
        """HANDLE_RELEASE."""
        return Request(Operation.RELEASE, _fixed(Operation.RELEASE, handle), nothing)

    def transfer(self, handle: int, destination: int | None) -> Request[int]:
        """HANDLE_TRANSFER to the peer behind a descriptor; None: to this one."""
        fds = None if destination is None else duplicate([destination])
        body = _fixed(Operation.TRANSFER, 0, handle, HANDLE_INVALID)
        return Request(Operation.TRANSFER, body, lambda answer: answer.values[0], fds)

    def destroy(self, nodes: Sequence[int], flags: int = 0) -> Request[None]:
        """NODE_DESTROY."""
        body = _fixed(Operation.DESTROY, flags, len(nodes)) + _ids(nodes)
        self._check_size(body)
        return Request(Operation.DESTROY, body, nothing)

    def destroy_soon(self, nodes: Sequence[int]) -> None:
        """Queue NODE_DESTROY with RELEASE_HANDLES; its outcome does not matter."""
        body = _fixed(Operation.DESTROY, DestroyFlag.RELEASE_HANDLES, len(nodes)) + _ids(nodes)
        self.exchange.forget(Operation.DESTROY, body)

    # ---- messages --------------------------------------------------------------------------------

    def arena_for(self, parts: Sequence[Buffer]) -> Request[None] | None:
        """The request to make first if ``parts`` need more arena than there is."""
        size = sum(map(len, parts))
        if size <= self._max_inline or (self._arena is not None and size <= len(self._arena)):
            return None
        if size > self._max_arena:
            raise TooLarge(f"a payload of {size} bytes; the bus takes {self._max_arena}")
        rounded = min(self._max_arena, -(-size // _ARENA_STEP) * _ARENA_STEP)
        return Request(Operation.ARENA, _fixed(Operation.ARENA, rounded), self._map_arena)

    def needs_arena(self, parts: Sequence[Buffer]) -> bool:
        """The payload does not fit into a frame."""
        return sum(map(len, parts)) > self._max_inline

    def _map_arena(self, answer: Answer) -> None:
        with answer.fds:
            check_fd(answer, "the arena")
            try:
                arena = mmap.mmap(answer.fds[0], answer.values[0], mmap.MAP_SHARED)
            except (OSError, ValueError, OverflowError) as error:
                raise OutOfMemory(f"cannot map the arena: {error}") from error
        if self._arena is not None:
            self._arena.close()
        self._arena = arena

    def drop_arena(self) -> None:
        """Use this arena no more: the bus may still read from it."""
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def trim_arena(self) -> None:
        """Give the pages of a large payload back, once it has been sent."""
        if self._arena is not None and len(self._arena) > _KEPT_ARENA:
            self._arena.madvise(mmap.MADV_REMOVE)

    def _sending(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        optional: Sequence[int], flags: int,
    ) -> tuple[tuple[int, ...], bytes]:
        """The fixed fields of SEND, and its tail; a large payload is put into the arena."""
        if len(parts) > VEC_MAX:
            raise TooLarge(f"{len(parts)} payload vectors")
        lists = _ids(destinations) + _ids(optional) + _ids(handles)
        counts = (flags, len(destinations), len(optional), len(handles))
        if not self.needs_arena(parts):
            tail = b"".join((lists, *parts))
            return (*counts, len(tail) - len(lists), 0, 0), tail
        assert self._arena is not None
        at = 0
        for part in parts:
            self._arena[at : at + len(part)] = part
            at += len(part)
        return (*counts, 0, 0, at), lists

    def send(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int = 0, optional: Sequence[int] = (),
    ) -> Request[list[int]]:
        """SEND; the arena must be there if the payload needs it."""
        fixed, tail = self._sending(destinations, parts, handles, optional, flags)
        body = _fixed(Operation.SEND, *fixed) + tail
        self._check_size(body)
        n_slots = len(destinations) + len(optional)
        return Request(Operation.SEND, body, lambda answer: slots(answer, n_slots), _copies(fds))

    def may_post(self, parts: Sequence[Buffer]) -> bool:
        """Whether ``post`` can be used for this payload now."""
        return self.exchange.may_be_quiet and not self.needs_arena(parts)

    def post(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int], failed: Failed
    ) -> None:
        """Queue a quiet SEND; ``failed`` hears of an error."""
        if len(destinations) == 1 and self._is_posted(destinations[0], parts, handles, failed, False):
            return
        fixed, tail = self._sending(destinations, parts, handles, (), 0)
        body = _fixed(Operation.SEND, *fixed) + tail
        self._check_size(body)
        self.exchange.post(Operation.SEND, body, failed)

    def post_last(
        self, handle: int, parts: Sequence[Buffer], handles: Sequence[int], failed: Failed
    ) -> None:
        """Queue a quiet RESPOND: SEND through ``handle``, then HANDLE_RELEASE of it, unless that fails."""
        if self._is_posted(handle, parts, handles, failed, True):
            return
        fixed, tail = self._sending((handle,), parts, handles, (), 0)
        body = _fixed(Operation.RESPOND, *fixed, handle) + tail
        self._check_size(body)
        self.exchange.post(Operation.RESPOND, body, failed)

    def _is_posted(
        self, handle: int, parts: Sequence[Buffer], handles: Sequence[int], failed: Failed, is_last: bool
    ) -> bool:
        """The short way, for what has few parts and handles; the long one tells what is wrong."""
        if len(parts) > _FEW or len(handles) > _FEW:
            return False
        try:
            self.exchange.post_message(handle, parts, handles, failed, is_last)
        except (struct.error, OverflowError, TypeError):
            return False
        return True

    def recv(self, flags: int, max_offset: int, options: int) -> Request[Answer]:
        """RECV; the answer goes to ``message``."""
        return Request(Operation.RECV, _fixed(Operation.RECV, flags, max_offset, options), whole)

    def call(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, options: int,
    ) -> Request[Answer]:
        """SEND, then RECV."""
        fixed, tail = self._sending(destinations, parts, handles, (), 0)
        body = _fixed(Operation.CALL, *fixed, flags, OFFSET_INVALID, options) + tail
        self._check_size(body)
        return Request(Operation.CALL, body, whole, _copies(fds))

    def reply(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, answered: ReceivedMessage | None, release: int, flags: int, options: int,
    ) -> Request[Answer]:
        """SEND, SLICE_RELEASE, HANDLE_RELEASE, then RECV."""
        fixed, tail = self._sending(destinations, parts, handles, (), 0)
        slice_ = (OFFSET_INVALID, 0, 0) if answered is None else self.slice_of(answered)
        rest = (flags, OFFSET_INVALID, options, *slice_, release)
        body = _fixed(Operation.REPLY, *fixed, *rest) + tail
        self._check_size(body)

        def note(done: int) -> None:
            if answered is not None and done > 1:
                answered.forget_slice()

        return Request(Operation.REPLY, body, whole, _copies(fds), note)

    def _check_size(self, body: bytes) -> None:
        if HEADER.size + len(body) > self._max_frame:
            raise TooLarge(f"a request of {len(body)} bytes; the bus takes {self._max_frame}")

    # ---- slices ----------------------------------------------------------------------------------

    def slice_release(self, offset: int, flags: int = 0, serial: int = 0) -> Request[None]:
        """SLICE_RELEASE."""
        body = _fixed(Operation.SLICE_RELEASE, offset, flags, serial)
        return Request(Operation.SLICE_RELEASE, body, nothing)

    def slice_of(self, message: ReceivedMessage) -> tuple[int, int, int]:
        """Offset, flags and serial with which the slice of a message goes back; its view is over."""
        serial, generation = message.detach()
        if generation is None:
            return message.offset, 0, serial
        self.pool.drop(generation, message.offset, message.size)
        return message.offset, 0 if self.pool.knows(generation) else UNMAPPED, serial

    def missing_segment(self, answer: Answer) -> Request[None] | None:
        """The request to make first if the message lies in a segment that has not arrived."""
        note, n_inline, generation, base, size = answer.values[-6:-1]
        if note & _SEGMENT and not self.pool.knows(generation) and answer.fds:
            with suppress(OutOfMemory):
                self.pool.map(generation, base, size, answer.fds)
        answer.fds.close()
        if n_inline or answer.values[7] == OFFSET_INVALID or self.pool.knows(generation):
            return None
        return Request(Operation.SEGMENT, _fixed(Operation.SEGMENT, generation), self._map_segment)

    def _map_segment(self, answer: Answer) -> None:
        with answer.fds:
            check_fd(answer, "a segment")
            generation, base, size = answer.values
            self.pool.map(generation, base, size, answer.fds)

    def short_message(self, tag: int) -> ReceivedMessage | None:
        """The next message for a RECV, if it is one of everyday, and there is a shorter way to it."""
        fields = self.exchange.take_message(tag)
        if fields is None:
            return None
        numbers, handles, secctx, size, payload, serial, at, last = fields
        kind, flags, to, uid, gid, pid, tid, n_bytes = numbers
        return ReceivedMessage(
            _KINDS[kind], _FLAGS[flags], to, uid, gid, pid, tid, OFFSET_INVALID, n_bytes, handles, NO_FDS,
            secctx, size, memoryview(payload), None, serial, None, at, last,
        )

    def message(self, answer: Answer) -> ReceivedMessage:
        """The message in an answer whose segment is there."""
        (
            kind, flags, destination, uid, gid, pid, tid, offset, n_bytes, n_handles, n_fds, n_secctx, size,
            note, n_inline, generation, _, _, serial,
        ) = answer.values
        if len(answer.offered) != n_fds or len(answer.tail) != n_inline:
            raise RemoteProtocolError("an answer to RECV with the wrong size")
        if kind not in _KINDS or flags not in _FLAGS:
            raise RemoteProtocolError(f"a message of the unknown type {kind}, flags {flags:#x}")
        if offset == OFFSET_INVALID:
            contents = memoryview(b"")
        elif n_inline:
            contents = memoryview(answer.tail)
        else:
            contents = self.pool.view(generation, offset, size)
        handles, secctx = handles_and_secctx(contents, flags, n_bytes, n_handles, n_fds, n_secctx)
        is_kept = offset != OFFSET_INVALID and not note & _DETACHED
        return ReceivedMessage(
            _KINDS[kind], _FLAGS[flags], destination, uid, gid, pid, tid,
            offset if is_kept else OFFSET_INVALID, n_bytes, handles, answer.offered, secctx, size,
            contents[:n_bytes], self._give_back if is_kept else None, serial,
            generation if is_kept and not n_inline else None, answer.arrival,
            answer.is_released,
        )

    def close(self) -> None:
        """End the channel; messages stay readable, their slices are the peer's."""
        self.exchange.fail(BusGone("the connection is closed"))
        self.pool.close()
        self.drop_arena()


def _ids(values: Sequence[int]) -> bytes:
    try:
        return struct.pack(f"<{len(values)}Q", *values)
    except struct.error as error:
        raise TooLarge("an id outside 64 bits") from error


def _copies(fds: Sequence[int]) -> Fds | None:
    if len(fds) > FD_MAX:
        raise TooLarge(f"{len(fds)} descriptors")
    return duplicate(fds) if fds else None
