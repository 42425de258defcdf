"""frames_target: the codec, and the client's half of a channel, fed with whatever the fuzzer invents.

Theory. The first byte chooses one of three experiments. *Anything*: bytes, cut anywhere, with descriptors
anywhere, go into a ``FrameReader``; frames come out, or a RemoteProtocolError, and the reader keeps no more
than a frame. *Written*: frames go through a ``FrameWriter`` and a pipe that takes and gives as few bytes
as the program says, with descriptors where the kernel would put them; what comes out is what went in.
*Hostile bus*: a client makes requests, and a bus answers with what the program says.

Oracles. 1. Nothing is raised but errors of the contract. 2. Every descriptor is closed once. 3. A request has
one outcome.

Not here: sockets (server_target), hostile answers to a whole client (hostile_bus).
"""

from __future__ import annotations

import os
from collections import deque

from bus1.core.api import FD_MAX
from bus1.descriptors import Fds
from bus1.errors import RemoteProtocolError
from bus1.frames import HEADER, QUIET, Frame, FrameReader, FrameWriter, encode

from .descriptors import Ledger, open_numbers
from .hostile_bus import HostileBus
from .program import Program

_MAX_FRAME = 2048
_PIECE = 96


def one_input(data: bytes) -> None:
    """Run one experiment; an AssertionError, or what should not be raised, is a finding."""
    ledger = Ledger()
    before = open_numbers()
    with ledger.in_force():
        program = Program(data)
        program.one_of((_anything, _written, _hostile_bus))(program, ledger)
    assert not ledger.open, "descriptors were not closed"
    assert open_numbers() == before


def _frames(reader: FrameReader) -> list[Frame]:
    found: list[Frame] = []
    while (frame := reader.next()) is not None:
        found.append(frame)
    return found


def _anything(program: Program, ledger: Ledger) -> None:
    reader = FrameReader(_MAX_FRAME)
    fed = given = 0
    try:
        while not program.is_over:
            kind, size = program.byte(), program.byte()
            data = program.take(size)
            if kind & 1:  # a header that fits, so that what follows is reached
                data = HEADER.pack(HEADER.size + len(data), size, kind >> 6, kind) + data
            fds = [ledger.new() for _ in range(kind >> 1 & 7)]
            reader.feed(data, fds, truncated=kind & 0x30 == 0x30)
            fed += len(data)
            for frame in _frames(reader):
                assert len(frame.fds) <= frame.n_fds <= FD_MAX
                given += HEADER.size + len(frame.body)
                frame.fds.close()
            assert 0 <= fed - given < _MAX_FRAME
            assert reader.n_stray_fds <= FD_MAX
    except RemoteProtocolError:
        pass
    reader.close()
    assert reader.n_stray_fds == 0 and reader.next() is None


class _Pipe:
    """Bytes and descriptors under way, as a unix stream socket keeps them."""

    def __init__(self) -> None:
        self._segments: deque[tuple[bytes, list[int]]] = deque()

    def send(self, writer: FrameWriter, room: int) -> None:
        """One sendmsg that takes at most ``room`` bytes."""
        buffers, fds = writer.chunk()
        data = b"".join(buffers)[:room]
        # The kernel hands the receiver descriptors of its own.
        self._segments.append((data, [os.dup(fd) if fd < 1 << 30 else fd for fd in fds]))
        writer.sent(len(data))

    def receive(self, reader: FrameReader, size: int) -> None:
        """One recvmsg: it ends behind bytes that carry descriptors, and before the next that do."""
        data, fds = b"", list[int]()
        while self._segments and len(data) < size and not fds:
            piece, fds_here = self._segments[0]
            if data and fds_here:
                break
            fds = fds_here
            self._segments.popleft()
            if rest := piece[size - len(data) :]:
                self._segments.appendleft((rest, []))
            data += piece[: size - len(data)]
        reader.feed(data, fds)


def _written(program: Program, ledger: Ledger) -> None:
    """Real descriptors here: the writer closes its own, the reader's are the kernel's copies."""
    written: list[tuple[int, int, bytes, int]] = []
    found: list[tuple[int, int, bytes, int]] = []
    writer, reader, pipe = FrameWriter(), FrameReader(), _Pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    while not program.is_over:
        for _ in range(program.byte() % 4):
            operation, tag, body = program.short(), program.number(), program.take(program.byte())
            n_fds = program.one_of((0, 0, 0, 1, 2, 0, 253, 254, 256))
            written.append((operation, tag, body, n_fds))
            fds = Fds([os.dup(null) for _ in range(n_fds)]) if n_fds else None
            writer.push(encode(operation, tag, body, n_fds), fds)
        for _ in range(program.byte() % 4):
            if writer.pending:
                pipe.send(writer, 1 + program.byte() % _PIECE)
        pipe.receive(reader, 1 + program.byte())
        found += [_contents(frame) for frame in _frames(reader)]
    while writer.pending:
        pipe.send(writer, 1 << 20)
        pipe.receive(reader, 1 << 20)
        found += [_contents(frame) for frame in _frames(reader)]
    while len(found) < len(written):
        pipe.receive(reader, 1 << 20)
        found += [_contents(frame) for frame in _frames(reader)]
    assert found == written and reader.n_stray_fds == 0
    os.close(null)


def _contents(frame: Frame) -> tuple[int, int, bytes, int]:
    with frame.fds:
        assert len(frame.fds) == frame.n_fds
        for fd in frame.fds:
            os.fstat(fd)
    return frame.operation | QUIET * frame.is_quiet, frame.tag, frame.body, frame.n_fds


def _hostile_bus(program: Program, ledger: Ledger) -> None:
    bus = HostileBus(program, ledger)
    while not program.is_over:
        bus.step()
    bus.close()
