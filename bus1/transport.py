"""transport: frames through a unix stream socket, and what the kernel says of the other side.

Theory. The only file that knows sendmsg and recvmsg of the native protocol, and how the kernel lays out
descriptors and credentials. The kernel never merges bytes of different senders into one recvmsg while
SO_PASSCRED is set, and ends a recvmsg after bytes that carry descriptors, so what ``receive`` returns has
one sender and at most one group of descriptors.

Invariants. 1. Every descriptor that recvmsg installed is handed to the reader, also in the error cases.
2. With MSG_DONTWAIT neither function blocks.

Not here: when to read or write.
"""

from __future__ import annotations

import array
import errno
import socket
import struct
from collections.abc import Sequence
from typing import NamedTuple

from .core.api import Credentials
from .frames import SCM_MAX_FD, FrameReader, FrameWriter

RECEIVE_SIZE = 1 << 16
# As plain numbers: enum members cost on every message.
_CLOEXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_SOCKET, _CREDENTIALS, _RIGHTS = socket.SOL_SOCKET, socket.SCM_CREDENTIALS, socket.SCM_RIGHTS
DONTWAIT = int(socket.MSG_DONTWAIT)
_UCRED = struct.Struct("=iII")
_SO_PEERSEC = 31
_SO_PEERPIDFD = 77
_SO_PEERGROUPS = 59
_AT_ONCE = 1024
"""Bytes: the most that Python asks the kernel for. Most users are in few groups, and have a short label."""
_GROUPS_MAX, _LABEL_MAX = 65536 * 4, 4096
_ANCILLARY = socket.CMSG_SPACE(SCM_MAX_FD * 4) + socket.CMSG_SPACE(_UCRED.size)


class Arrival(NamedTuple):
    """What one recvmsg brought besides bytes; ``pid`` … are the sender's, as the kernel says."""

    size: int
    truncated: bool
    pid: int = 0
    uid: int = 0xFFFF_FFFF
    gid: int = 0xFFFF_FFFF


def foreseen(sock: socket.socket, size: int) -> tuple[int, bool]:
    """What a recvmsg of ``size`` bytes would give: how many, and whether with descriptors. Takes nothing."""
    has_credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED)
    room = socket.CMSG_SPACE(_UCRED.size) if has_credentials else 0
    data, _, flags, _ = sock.recvmsg(size, room, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    return len(data), bool(flags & socket.MSG_CTRUNC)


def receive(
    sock: socket.socket, reader: FrameReader, flags: int = 0, size: int = RECEIVE_SIZE
) -> Arrival:
    """One recvmsg into ``reader``; size 0 at the end of input. OSError as recvmsg."""
    data, ancillary, message_flags, _ = sock.recvmsg(size, _ANCILLARY, flags | _CLOEXEC)
    pid, uid, gid = 0, 0xFFFF_FFFF, 0xFFFF_FFFF
    fds: list[int] | tuple[int, ...] = ()
    for level, kind, content in ancillary:
        if level == _SOCKET and kind == _CREDENTIALS:
            pid, uid, gid = _UCRED.unpack_from(content)
        elif level == _SOCKET and kind == _RIGHTS:
            fds = rights(ancillary)
    truncated = message_flags & _TRUNCATED != 0
    reader.feed(data, fds, truncated=truncated)
    return Arrival(len(data), truncated, pid, uid, gid)


def transmit(sock: socket.socket, writer: FrameWriter, flags: int = 0) -> None:
    """Send what ``writer`` holds; OSError as sendmsg, with the rest still queued."""
    while writer.pending:
        buffers, fds = writer.chunk()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        writer.sent(sock.sendmsg(buffers, ancillary, flags | _NOSIGNAL))


def transmit_at_once(sock: socket.socket, frame: bytes) -> int:
    """Send as much of a frame as there is room for; OSError as send."""
    return sock.send(frame, DONTWAIT | _NOSIGNAL)


def rights(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that one recvmsg installed; the caller owns them."""
    if not ancillary:
        return []
    fds = array.array("i")
    for level, kind, content in ancillary:
        if level == _SOCKET and kind == _RIGHTS:
            fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
    return fds.tolist()


def credentials_of(sock: socket.socket) -> Credentials:
    """Who connected, as the kernel remembers it: with all groups, and a label if the kernel has any."""
    pid, uid, gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return Credentials(uid, gid, pid, 0, _label(sock), groups=_groups(sock))


def pidfd_of(sock: socket.socket) -> int | None:
    """A new descriptor of the process that connected; None if the kernel gives none."""
    try:
        (descriptor,) = struct.unpack("i", sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4))
    except OSError:
        return None
    return int(descriptor)


def _groups(sock: socket.socket) -> tuple[int, ...]:
    data = _option(sock, _SO_PEERGROUPS, _GROUPS_MAX)
    return struct.unpack(f"{len(data) // 4}I", data) if data else ()


def _label(sock: socket.socket) -> bytes | None:
    data = _option(sock, _SO_PEERSEC, _LABEL_MAX)
    return None if data is None else data.rstrip(b"\0")


def _option(sock: socket.socket, option: int, most: int) -> bytes | None:
    """An option of a length that nobody knows, up to ``most`` bytes; None if the kernel has none."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, option, _AT_ONCE)
    except OSError as error:
        return _long_option(sock, option, most) if error.errno == errno.ERANGE else None


def _long_option(sock: socket.socket, option: int, most: int) -> bytes | None:
    """As ``getsockopt``, which Python has for no more than ``_AT_ONCE`` bytes."""
    # rarely needed, and dear to import
    import ctypes

    data, length = ctypes.create_string_buffer(most), ctypes.c_uint(most)
    failed = ctypes.CDLL(None).getsockopt(
        sock.fileno(), socket.SOL_SOCKET, option, data, ctypes.byref(length)
    )
    return None if failed else data.raw[: length.value]
