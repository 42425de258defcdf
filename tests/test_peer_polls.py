"""A peer is polled as its descriptor: poll, ppoll, epoll, its edges, select and pselect."""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import threading
from collections.abc import Callable

import pytest
import two_peers
from native_bus import NativeBus
from polls import (
    BOTH,
    HUNG_UP,
    LIBC,
    READABLE,
    WAYS,
    WRITABLE,
    Timespec,
    fd_set,
    with_poll,
    with_pselect,
    with_select,
)
from two_peers import PATIENCE, drained, only_socket

from bus1.core.api import MessageType, RecvFlag, ResetFlag
from bus1.errors import PeerShutdown, WouldBlock
from bus1.peer import Peer

native_bus, bus, untouched = two_peers.native_bus, two_peers.bus, two_peers.untouched
p, q, to_q = two_peers.p, two_peers.q, two_peers.to_q


@pytest.mark.parametrize("way", WAYS)
def test_readable_while_something_is_queued_and_writable_while_live(
    p: Peer, q: Peer, to_q: int, way: Callable[[Peer], int]
) -> None:
    """P-40, P-41, P-44."""
    for _ in range(2):
        assert way(q) == WRITABLE
        p.send([to_q])
        p.send([to_q])
        assert way(q) == BOTH
        q.recv().release()
        assert way(q) == BOTH
        with q.recv(RecvFlag.PEEK), q.recv():
            assert way(q) == WRITABLE
    q.release(p.transfer(0x100, q))
    assert way(p) == BOTH
    assert p.recv().type is MessageType.NODE_RELEASE
    assert way(p) == WRITABLE


@only_socket
@pytest.mark.parametrize("is_queued", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_a_hang_up_is_readable_too(
    bus: NativeBus, p: Peer, to_q: int, q: Peer, way: Callable[[Peer], int], is_queued: bool
) -> None:
    """P-40, P-41: a socket that hangs up is also readable and writable, where the page has POLLHUP alone."""
    with Peer.from_descriptor(q.fileno(), bus.address) as other:
        if is_queued:
            p.send([to_q])
        other.disconnect()
    is_select = way in (with_select, with_pselect)
    assert way(q) == BOTH if is_select else BOTH | HUNG_UP
    with pytest.raises(PeerShutdown):
        q.recv()


@pytest.mark.parametrize("way", WAYS)
def test_a_disconnect_is_readable(q: Peer, way: Callable[[Peer], int]) -> None:
    """P-40, P-44: over each link, whatever it polls besides."""
    assert not way(q) & READABLE
    q.disconnect()
    assert way(q) & READABLE
    with pytest.raises(PeerShutdown):
        q.recv()
    assert way(q) & READABLE


@only_socket
def test_normal_data_is_ready_with_data(p: Peer, q: Peer, to_q: int) -> None:
    """P-41: POLLRDNORM with POLLIN, POLLWRNORM with POLLOUT."""
    poll = select.poll()
    poll.register(q, select.POLLRDNORM | select.POLLWRNORM)
    assert poll.poll(0) == [(q.fileno(), select.POLLWRNORM)]
    p.send([to_q])
    assert poll.poll(0) == [(q.fileno(), select.POLLRDNORM | select.POLLWRNORM)]


@only_socket
@pytest.mark.parametrize("edge", [0, select.EPOLLET])
def test_disconnecting_wakes_whoever_polls(bus: NativeBus, p: Peer, q: Peer, edge: int) -> None:
    """P-43, P-12: EPOLLHUP is reported unasked, on the edge once."""
    seen: list[list[tuple[int, int]]] = []
    with select.epoll() as epoll, Peer.from_descriptor(q.fileno(), bus.address) as other:
        epoll.register(q, edge)
        assert epoll.poll(0) == []
        thread = threading.Thread(target=lambda: seen.append(epoll.poll(PATIENCE)))
        thread.start()
        other.disconnect()
        thread.join()
        assert seen == [[(q.fileno(), HUNG_UP)]]
        assert epoll.poll(0) == ([] if edge else seen[0])
        with pytest.raises(PeerShutdown):
            other.disconnect()


def test_the_edge_is_where_nothing_turns_to_something(p: Peer, q: Peer, to_q: int) -> None:
    """P-43: a second message is no edge; drained until EAGAIN, the next one is."""
    with select.epoll() as epoll:
        epoll.register(q, READABLE | select.EPOLLET)
        for _ in range(3):
            assert epoll.poll(0) == []
            p.send([to_q])
            assert epoll.poll(0) == [(q.fileno(), READABLE)]
            p.send([to_q])
            q.recv().release()
            assert epoll.poll(0) == []
            q.recv().release()
            with pytest.raises(WouldBlock):
                q.recv()


@only_socket
def test_every_holder_sees_the_same_readiness(bus: NativeBus, p: Peer, q: Peer, to_q: int) -> None:
    """P-42, P-2: whoever drains the queue does so for all; then RECV says EAGAIN, and no wake-up is lost."""
    with Peer.from_descriptor(q.fileno(), bus.address) as other:
        for reader, watcher in ((q, other), (other, q), (q, q)):
            p.send([to_q])
            assert with_poll(watcher) == with_poll(reader) == BOTH
            reader.recv().release()
            assert with_poll(watcher) == WRITABLE
            with pytest.raises(WouldBlock):
                watcher.recv()


def test_readable_for_what_will_be_dropped_until_recv_has_said_so(p: Peer, q: Peer, to_q: int) -> None:
    """P-42: a false positive never lasts."""
    p.send([to_q])
    q.destroy([0x10])
    q.recv().release()
    assert q.recv().type is MessageType.NODE_DESTROY
    assert with_poll(q) == WRITABLE
    to_other = q.transfer(0x20, p)
    p.send([to_other])
    q.destroy([0x20])
    q.release(0x20)
    assert drained(q) == []
    assert with_poll(q) == WRITABLE
    p.send([q.transfer(0x30, p)])
    assert with_poll(q) == BOTH
    q.reset(ResetFlag.FLUSH)
    assert drained(q) == []
    assert with_poll(q) == WRITABLE


def test_a_signal_ends_pselect_and_none_is_lost_before(q: Peer) -> None:
    """P-44: a signal that is blocked until the call interrupts it."""
    got: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert got == [] and with_poll(q) == WRITABLE
        wanted = fd_set(q.fileno())
        none = (ctypes.c_ulong * 16)()
        limit = ctypes.byref(Timespec(int(PATIENCE), 0))
        assert LIBC.pselect(q.fileno() + 1, wanted, None, None, limit, none) == -1
        assert ctypes.get_errno() == errno.EINTR
        assert got == [signal.SIGUSR1]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, before)
