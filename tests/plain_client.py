"""plain_client: a native client written from docs/protocol.md alone, with nothing but the standard library.

It is the proof that the page is enough. Blocking, for one thread; requests are answered one at a time, but
a RECV that waits may be left outstanding (``park``) while others go on.
"""

from __future__ import annotations

import array
import mmap
import os
import socket
import struct

HELLO, OPEN, ATTACH, ARENA, SEGMENT, SEGMENT_UNMAPPED, INSTALLED, CANCEL = range(1, 9)
DISCONNECT, QUERY, RELEASE, TRANSFER, DESTROY = 0x100, 0x101, 0x110, 0x111, 0x120
SLICE_RELEASE, SEND, RECV, CALL, REPLY = 0x130, 0x140, 0x150, 0x160, 0x161
ANSWER, REFUSED, OFFER, RETIRED = 0x8000, 0x4001, 0x4002, 0x4003
INSTALL_FDS, PARK, DETACH = 4, 1, 2
DRAINED, IN_SEGMENT, DETACHED, UNMAPPED = 1, 1, 2, 1
INVALID = 2**64 - 1
MESSAGE = struct.Struct("<3Q4I6Q2I4Q")


class Refused(Exception):
    """The bus has closed the channel, in words."""


class Failed(Exception):
    """A request has failed: its errno, what the bus says, operations of a sequence that took effect."""

    def __init__(self, errno: int, text: str, done: int) -> None:
        super().__init__(text)
        self.errno, self.done = errno, done


def close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


class Received:
    """One message: its fields, its slice, its descriptors, which the receiver closes."""

    def __init__(self, values: tuple[int, ...], contents: bytes, fds: list[int]) -> None:
        self.type, self.flags, self.destination, self.uid, self.gid, self.pid, self.tid = values[:7]
        self.offset, self.n_bytes, n_handles, self.n_fds, self.n_secctx, self.size, self.note = values[7:14]
        self.generation, self.serial, self.fds = values[15], values[18], fds
        self.payload = contents[: self.n_bytes]
        self.handles = struct.unpack_from(f"<{n_handles}Q", contents, (self.n_bytes + 7) // 8 * 8)


class Client:
    """A channel of a peer: a new one, or that behind ``descriptor``."""

    def __init__(self, address: str, descriptor: int | None = None) -> None:
        self.connect(address)
        body, _ = self.request(HELLO, struct.pack("<4sIQ", b"bus1", 1, 0))
        _, _, _, self.max_frame, self.max_inline, self.max_arena = struct.unpack("<IIQQQQ", body)
        self.granted: tuple[int, ...] = ()
        if descriptor is None:
            body, fds = self.request(OPEN, bytes(8))
            self.granted = struct.unpack_from(f"<{len(body) // 8 - 1}Q", body, 8)
            self.peer = socket.socket(fileno=fds[0])
        else:
            self.request(ATTACH, bytes(8), [descriptor])
            self.peer = socket.socket(fileno=os.dup(descriptor))

    def connect(self, address: str) -> None:
        """Before HELLO."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect("\0" + address[1:] if address.startswith("@") else address)
        self.data, self.arrived = b"", list[int]()
        self.tag, self.answers, self.offers = 0, dict[int, tuple[bytes, list[int]]](), dict[int, list[int]]()
        self.segments: dict[int, tuple[mmap.mmap, int]] = {}
        self.arena: mmap.mmap | None = None

    # ---- frames ----------------------------------------------------------------------------------

    def write(self, operation: int, tag: int, body: bytes, fds: list[int] | None = None) -> None:
        fds = fds or []
        frame = struct.pack("<IHHQ", 16 + len(body), operation, len(fds), tag) + body
        try:
            while fds:
                size = 8 if len(fds) > 253 else len(frame)
                group, fds = array.array("i", fds[:253]), fds[253:]
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, group)
                frame = frame[self.sock.sendmsg([frame[:size]], [rights]) :]
            if frame:
                self.sock.sendall(frame)
        except BrokenPipeError:
            pass  # what the bus has said before it closed is still to be read

    def frame(self) -> tuple[int, int, bytes, list[int], int]:
        """Operation, tag, body, descriptors and how many were announced."""
        while len(self.data) < 16 or len(self.data) < int.from_bytes(self.data[:4], "little"):
            space, flags = socket.CMSG_SPACE(253 * 4), socket.MSG_CMSG_CLOEXEC
            data, ancillary, _, _ = self.sock.recvmsg(65536, space, flags)
            if not data:
                raise Refused("without a word")
            for level, kind, content in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    self.arrived += array.array("i", content[: len(content) // 4 * 4])
            self.data += data
        length, operation, n_fds, tag = struct.unpack_from("<IHHQ", self.data)
        body, self.data = self.data[16:length], self.data[length:]
        fds, self.arrived = self.arrived[:n_fds], self.arrived[n_fds:]
        return operation, tag, body, fds, n_fds

    def step(self) -> None:
        """Take one frame from the bus, whatever it is."""
        operation, tag, body, fds, n_fds = self.frame()
        if operation == REFUSED:
            raise Refused(body[4:].decode())
        if operation == RETIRED:
            (generation,) = struct.unpack("<Q", body)
            self.segments.pop(generation)[0].close()
            self.tag += 1
            self.write(SEGMENT_UNMAPPED, self.tag, body)
        elif operation == OFFER:
            close_all(self.offers.pop(tag, []))
            if len(fds) == n_fds:
                self.offers[tag] = fds
            else:
                close_all(fds)
            self.write(INSTALLED, tag, struct.pack("<Q", len(fds) == n_fds))
        else:
            if body[6] & DRAINED:
                self.peer.recv(1, socket.MSG_DONTWAIT)
            self.answers[tag] = body, fds

    def start(self, operation: int, body: bytes, fds: list[int] | None = None) -> int:
        self.tag += 1
        self.write(operation, self.tag, body, fds)
        return self.tag

    def answer(self, tag: int) -> tuple[bytes, list[int]]:
        while tag not in self.answers:
            self.step()
        body, fds = self.answers.pop(tag)
        code, done = struct.unpack_from("<IH", body)
        if code:
            close_all(self.offers.pop(tag, []))
            raise Failed(code, body[8:].decode(), done)
        return body[8:], fds

    def request(self, operation: int, body: bytes, fds: list[int] | None = None) -> tuple[bytes, list[int]]:
        return self.answer(self.start(operation, body, fds))

    # ---- operations ------------------------------------------------------------------------------

    def transfer(self, handle: int, descriptor: int | None = None) -> int:
        fds = [] if descriptor is None else [descriptor]
        body, _ = self.request(TRANSFER, struct.pack("<3Q", 0, handle, INVALID), fds)
        return int.from_bytes(body, "little")

    def release(self, handle: int) -> None:
        self.request(RELEASE, struct.pack("<Q", handle))

    def destroy(self, *nodes: int, flags: int = 0) -> None:
        self.request(DESTROY, struct.pack(f"<QQ{len(nodes)}Q", flags, len(nodes), *nodes))

    def sending(
        self, to: list[int], payload: bytes, handles: list[int], optional: list[int], flags: int
    ) -> tuple[bytes, bytes]:
        inline, start, size = payload, 0, 0
        if len(payload) > self.max_inline:
            if self.arena is None or len(self.arena) < len(payload):
                _, fds = self.request(ARENA, struct.pack("<Q", len(payload)))
                self.arena = mmap.mmap(fds[0], len(payload))
                os.close(fds[0])
            self.arena[: len(payload)] = payload
            inline, size = b"", len(payload)
        ids = [*to, *optional, *handles]
        counts = len(to), len(optional), len(handles), len(inline)
        return struct.pack("<Q4IQQ", flags, *counts, start, size), struct.pack(f"<{len(ids)}Q", *ids) + inline

    def send(
        self, to: list[int], payload: bytes = b"", handles: list[int] | None = None,
        fds: list[int] | None = None, *, optional: list[int] | None = None, flags: int = 0,
    ) -> list[int]:
        fixed, tail = self.sending(to, payload, handles or [], optional or [], flags)
        body, _ = self.request(SEND, fixed + tail, fds)
        slots = list(struct.unpack_from(f"<{len(body) // 8 - 1}q", body, 8))
        return slots or [0] * (len(to) + len(optional or []))

    def park(self, flags: int = INSTALL_FDS, options: int = PARK) -> int:
        """Begin to receive; ``received`` waits for the message."""
        return self.start(RECV, struct.pack("<3Q", flags, INVALID, options))

    def recv(self, flags: int = INSTALL_FDS, options: int = 0) -> Received:
        return self.received(self.park(flags, options))

    def reply(self, to: list[int], payload: bytes, answered: Received, release: int = INVALID) -> Received:
        fixed, tail = self.sending(to, payload, [], [], 0)
        slice_ = answered.offset, 0, answered.serial
        rest = struct.pack("<7Q", INSTALL_FDS, INVALID, PARK, *slice_, release)
        return self.received(self.start(REPLY, fixed + rest + tail))

    def received(self, tag: int) -> Received:
        body, fds = self.answer(tag)
        values = MESSAGE.unpack_from(body)
        note, n_inline, generation = values[13:16]
        if note & IN_SEGMENT:
            self.map(body[96:120], fds)
        contents = body[MESSAGE.size : MESSAGE.size + n_inline]
        if not n_inline and values[7] != INVALID:
            if generation not in self.segments:
                told, fds = self.request(SEGMENT, struct.pack("<Q", generation))
                self.map(told, fds)
            mapping, base = self.segments[generation]
            contents = mapping[values[7] - base : values[7] - base + values[12]]
        offered = self.offers.pop(tag, [])
        if not values[10]:
            close_all(offered)
        return Received(values, contents, offered if values[10] else [])

    def map(self, segment: bytes, fds: list[int]) -> None:
        generation, base, size = struct.unpack("<3Q", segment)
        if fds:
            self.segments[generation] = mmap.mmap(fds[0], size, mmap.MAP_SHARED, mmap.PROT_READ), base
            os.close(fds[0])

    def give_back(self, message: Received, *, unmap: bool = False) -> None:
        if unmap:
            self.segments.pop(message.generation)[0].close()
        flags = UNMAPPED if unmap else 0
        self.request(SLICE_RELEASE, struct.pack("<QQQ", message.offset, flags, message.serial))

    def close(self) -> None:
        self.sock.close()
        self.peer.close()
