"""polls: the ways to ask the kernel whether a peer is readable or writable."""

from __future__ import annotations

import ctypes
import select
import struct

from bus1.peer import Peer

LIBC = ctypes.CDLL(None, use_errno=True)
READABLE, WRITABLE, HUNG_UP = select.POLLIN, select.POLLOUT, select.POLLHUP
BOTH = READABLE | WRITABLE


class Timespec(ctypes.Structure):
    """As in C."""

    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def with_poll(peer: Peer) -> int:
    poll = select.poll()
    poll.register(peer, BOTH)
    return dict(poll.poll(0)).get(peer.fileno(), 0)


def with_ppoll(peer: Peer) -> int:
    asked = ctypes.create_string_buffer(struct.pack("=ihh", peer.fileno(), BOTH, 0))
    mask = (ctypes.c_ulong * 16)()
    assert LIBC.ppoll(asked, ctypes.c_ulong(1), ctypes.byref(Timespec(0, 0)), mask) >= 0
    events: int = struct.unpack("=ihh", asked.raw[:8])[2]
    return events


def with_epoll(peer: Peer) -> int:
    with select.epoll() as epoll:
        epoll.register(peer, BOTH)
        once, again = epoll.poll(0), epoll.poll(0)
        assert once == again  # level-triggered
        return dict(once).get(peer.fileno(), 0)


def with_edge(peer: Peer) -> int:
    with select.epoll() as epoll:
        epoll.register(peer, BOTH | select.EPOLLET)
        once = dict(epoll.poll(0)).get(peer.fileno(), 0)
        assert epoll.poll(0) == []
        return once


def with_select(peer: Peer) -> int:
    readable, writable, _ = select.select([peer], [peer], [], 0)
    return (READABLE if readable else 0) | (WRITABLE if writable else 0)


def fd_set(fd: int) -> ctypes.Array[ctypes.c_ulong]:
    """As in C, with one descriptor in it."""
    numbers = (ctypes.c_ulong * 16)()
    numbers[fd // 64] = 1 << fd % 64
    return numbers


def with_pselect(peer: Peer) -> int:
    """As the C library has it, with a signal mask."""
    fd = peer.fileno()
    sets = [fd_set(fd), fd_set(fd)]
    mask = (ctypes.c_ulong * 16)()
    assert LIBC.pselect(fd + 1, *sets, None, ctypes.byref(Timespec(0, 0)), mask) >= 0
    found = [bool(numbers[fd // 64] >> fd % 64 & 1) for numbers in sets]
    return (READABLE if found[0] else 0) | (WRITABLE if found[1] else 0)


WAYS = [with_poll, with_ppoll, with_epoll, with_edge, with_select, with_pselect]
