"""hostile_client: one client whose every step the program chooses.

Theory. Most steps are requests of the protocol whose fields are numbers of the program's choice, with tails
that fit or do not, and descriptors of every kind; so that they reach deep, the client greets and opens a peer
in one step, and remembers handles, offsets and generations from answers, tags from offers. Other steps write
headers or bytes that make no sense, write only a part, stop reading, close one thing or another, or die.

Not here: the bus (server_target), what is wrong with a reaction (server_target's oracles).
"""

from __future__ import annotations

import array
import mmap
import os
import socket
from collections.abc import Sequence

from bus1.core.api import HANDLE_INVALID
from bus1.descriptors import Fds
from bus1.errors import BY_ERRNO, InternalError
from bus1.frames import (
    ANSWER,
    ANSWER_PREFIX,
    EVENTS,
    MAGIC,
    MAY_BE_QUIET,
    QUIET,
    REQUESTS,
    RESULTS,
    VERSION,
    Event,
    Frame,
    FrameReader,
    FrameWriter,
    Operation,
    encode,
)
from bus1.transport import receive

from .program import Program

_SENDING = {Operation.SEND, Operation.CALL, Operation.REPLY, Operation.RESPOND}
_REMEMBERED = 24
INLINE = (0, 1, 8, 100, 500, 4096, 5000)
IN_ARENA = (0, 0, 0, 8, 4096, 1 << 20)
"""Bytes of payload here and there; the last one takes a segment of its own."""
NODES = (0, 0x10, 0x20, 0x30, 0x100)


class HostileClient:
    """A socket, perhaps a peer, and what it has learned."""

    def __init__(self, sock: socket.socket, uid: int) -> None:
        sock.setblocking(False)
        self.uid = uid
        self.sock = sock
        self.descriptor = -1
        self.reads = True
        self.is_refused = False
        self._tag = 0
        self._reader = FrameReader()
        self._writer = FrameWriter()
        self._arena: Fds | None = None
        self._offered: list[int] = []
        self._asked: list[int] = []
        self.learned: list[int] = list(NODES)

    @property
    def n_descriptors(self) -> int:
        """How many this process has for it: those that are still to be sent, too."""
        own = [fd for fd in (self.sock.fileno(), self.descriptor, *(self._arena or ())) if fd >= 0]
        return len(own) + self._reader.n_stray_fds + self._writer.n_fds

    # ---- writing ---------------------------------------------------------------------------------

    def write(self, frame: bytes, fds: Fds | None = None, limit: int = 1 << 30) -> None:
        """Queue a frame, and send at most ``limit`` bytes of what is queued."""
        if frame:
            self._writer.push(frame, fds)
        elif fds is not None:
            fds.close()
        self.send(limit)

    def send(self, limit: int = 1 << 30) -> None:
        """Send at most ``limit`` bytes of what is queued, as far as the socket takes them."""
        try:
            while self._writer.pending and limit > 0:
                buffers, fds = self._writer.chunk()
                data = b"".join(buffers)[:limit]
                ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                n = self.sock.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
                self._writer.sent(n)
                limit -= n
        except BlockingIOError:
            return
        except OSError:
            self._writer.close()

    def greet(self) -> None:
        """HELLO, as it should be."""
        self.write(encode(Operation.HELLO, 0, REQUESTS[Operation.HELLO].pack(MAGIC, VERSION, 0)))

    def open(self) -> None:
        """OPEN, as it should be."""
        self.write(encode(Operation.OPEN, 0, bytes(8)))

    def attach(self, descriptor: int) -> None:
        """ATTACH to the peer behind ``descriptor``, which is taken."""
        self.write(encode(Operation.ATTACH, 0, bytes(8), 1), Fds([descriptor]))

    def request(self, program: Program, fds: Fds | None, operations: Sequence[int]) -> None:
        """One request of the program's choice."""
        operation = program.one_of(operations)
        values = program.fields(REQUESTS[operation], self.learned)
        how = program.byte()
        tail = self._sending(program, values, how) if operation in _SENDING else b""
        if operation == Operation.DESTROY:
            nodes = [program.number(self.learned) for _ in range(how % 4)]
            values[1] = len(nodes)
            tail = b"".join(node.to_bytes(8, "little") for node in nodes)
        elif operation == Operation.TRANSFER and how < 0xF0:
            values[0], values[2] = 0, HANDLE_INVALID
        elif operation == Operation.RECV and how & 0x10:
            values[2] = int(values[2]) & 0xFF03
        elif operation == Operation.HELLO and how < 0xC0:
            values[:2] = MAGIC, VERSION
        tag = self._tag_of(program, operation)
        body = REQUESTS[operation].pack(*values) + tail
        if how >= 0xFC:
            body = body[: len(body) // 2]
        limit = program.short() if how & 0x40 else 1 << 30
        quiet = QUIET if how & 0x20 and operation in MAY_BE_QUIET else 0
        self.write(encode(operation | quiet, tag, body, len(fds or ())), fds, limit)

    def _sending(self, program: Program, values: list[int | bytes], how: int) -> bytes:
        """A tail for what sends, and the counts that fit."""
        counts = [how & 1 or program.byte() % 4, program.byte() % 3, program.byte() % 4]
        inline = program.one_of(INLINE)
        if how < 0xF0:
            values[0] = int(values[0]) & 3
            values[1:7] = [*counts, inline, 0, program.one_of(IN_ARENA)]
        ids = [program.number(self.learned) for _ in range(sum(counts))]
        return b"".join(number.to_bytes(8, "little") for number in ids) + bytes(inline)

    def _tag_of(self, program: Program, operation: int) -> int:
        if operation == Operation.INSTALLED and self._offered:
            return program.one_of(self._offered)
        if operation == Operation.CANCEL and self._asked:
            return program.one_of(self._asked)
        self._tag += 1
        self._asked = [*self._asked[-7:], self._tag]
        return self._tag

    def scribble(self, program: Program) -> None:
        """Write to the arena, or take its pages away."""
        if self._arena is None:
            return
        size = os.fstat(self._arena[0]).st_size
        with mmap.mmap(self._arena[0], size) as arena:
            if program.byte() & 1:
                arena.madvise(mmap.MADV_REMOVE)
            else:
                text = program.take(8)
                arena[: min(size, len(text))] = text[:size]

    # ---- reading ---------------------------------------------------------------------------------

    def read(self) -> None:
        """Everything that the bus has written so far; asserts that it makes sense."""
        try:
            while self.reads and receive(self.sock, self._reader).size:
                while (frame := self._reader.next()) is not None:
                    with frame.fds:
                        assert not self.is_refused, "something follows a refusal"
                        self._look_at(frame)
        except (BlockingIOError, ConnectionResetError):
            return

    def _look_at(self, frame: Frame) -> None:
        operation = frame.operation & ~ANSWER
        if frame.operation in set(Event):
            EVENTS[operation].unpack_from(frame.body)
            if operation == Event.OFFER:
                assert len(frame.fds) == frame.n_fds > 0
                self._offered = [*self._offered[-3:], frame.tag]
            elif operation == Event.REFUSED:
                self.is_refused = True
                assert int.from_bytes(frame.body[:4], "little") in BY_ERRNO
            return
        assert frame.operation & ANSWER, "the bus sent a request"
        code, _, _ = ANSWER_PREFIX.unpack_from(frame.body)
        if code:
            assert code in BY_ERRNO and BY_ERRNO[code] is not InternalError
            return
        self._learn(operation, frame)

    def _learn(self, operation: int, frame: Frame) -> None:
        values = RESULTS[operation].unpack_from(frame.body, ANSWER_PREFIX.size)
        tail = frame.body[ANSWER_PREFIX.size + RESULTS[operation].size :]
        if operation == Operation.OPEN:
            self.descriptor = frame.fds.take()
        elif operation == Operation.ARENA:
            self._drop_arena()
            self._arena = Fds([frame.fds.take()])
        elif operation in {Operation.RECV, Operation.CALL, Operation.REPLY}:
            assert len(tail) == values[14]
            at = values[8] + 7 & ~7
            handles = [int.from_bytes(tail[at + 8 * n : at + 8 * n + 8], "little") for n in range(values[9])]
            values = (*handles, values[7], values[15], values[2])
        known = set(self.learned[len(NODES) :])
        fresh = [value for value in values if value not in known]
        self.learned = [*NODES, *[*self.learned[len(NODES) :], *fresh][-_REMEMBERED:]]

    # ---- the end ---------------------------------------------------------------------------------

    def drop_descriptor(self) -> None:
        """Close this copy of the peer's descriptor."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _drop_arena(self) -> None:
        if self._arena is not None:
            self._arena.close()
            self._arena = None

    def die(self) -> None:
        """What the kernel does when a process is killed."""
        self.sock.close()
        self._writer.close()
        self._reader.close()
        self._drop_arena()
        self.drop_descriptor()
