"""A peer is its descriptor: passed to others, polled in every way, used by several; what RECV hands out."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import select
import signal
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from native_bus import InProcessBus, NativeBus

from bus1.core.api import (
    OFFSET_INVALID,
    MessageFlag,
    MessageType,
    PeerFlag,
    RecvFlag,
    ResetFlag,
)
from bus1.descriptors import Fds
from bus1.errors import (
    NodeDestroyed,
    NoSuchHandle,
    OutOfRange,
    PeerShutdown,
    QuotaExceeded,
    TooManyDescriptors,
    WouldBlock,
)
from bus1.frames import ANSWER_PREFIX, REQUESTS, RESULTS, Event, Operation, encode
from bus1.peer import Peer

PEEK, INSTALL_FDS = RecvFlag.PEEK, RecvFlag.INSTALL_FDS
HAS_SECCTX, CONTINUE = MessageFlag.HAS_SECCTX, MessageFlag.CONTINUE
PATIENCE = 30.0
LABEL = b"system_u:system_r:some_t:s0"


@pytest.fixture(scope="module")
def native_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("bus"))
    yield bus
    bus.close()


@pytest.fixture(params=["in-process", "socket"])
def bus(request: pytest.FixtureRequest, native_bus: NativeBus) -> Iterator[InProcessBus | NativeBus]:
    if request.param == "socket":
        yield native_bus
        return
    bus = InProcessBus()
    yield bus
    bus.close()


@pytest.fixture
def untouched(bus: InProcessBus | NativeBus) -> Iterator[None]:
    """Afterwards the bus, and this process, are as they were before."""
    n_fds, own = bus.n_fds(), len(os.listdir("/proc/self/fd"))
    yield
    bus.wait_until_idle(n_fds)
    assert len(os.listdir("/proc/self/fd")) == own


@pytest.fixture
def p(bus: InProcessBus | NativeBus, untouched: None) -> Iterator[Peer]:
    with bus.peer() as peer:
        yield peer


@pytest.fixture
def q(bus: InProcessBus | NativeBus, untouched: None) -> Iterator[Peer]:
    with bus.peer() as peer:
        yield peer


@pytest.fixture
def to_q(p: Peer, q: Peer) -> int:
    """P's handle to a node of Q."""
    return q.transfer(0x10, p)


only_socket = pytest.mark.parametrize("bus", ["socket"], indirect=True)


def text(message: object) -> bytes:
    """The payload; the slice is given back."""
    with message as received:  # type: ignore[attr-defined]
        return bytes(received.payload)


def drained(peer: Peer) -> list[bytes]:
    """Payloads until nothing is left."""
    found = []
    while True:
        try:
            found.append(text(peer.recv()))
        except WouldBlock:
            return found


def test_every_opening_makes_a_new_peer_that_is_live_at_once(p: Peer, q: Peer) -> None:
    """P-1, P-2: another descriptor, another peer; there is no other step."""
    assert p.fileno() != q.fileno()
    assert [with_poll(peer) for peer in (p, q)] == [WRITABLE, WRITABLE]
    assert p.transfer(0x10, q) != 0x10
    p.send([0x10], b"to itself")
    assert (drained(p), drained(q)) == ([b"to itself"], [])


# ---- passed to other processes ---------------------------------------------------------------------


class Child:
    """A forked process with one end of a plain socket pair."""

    def __init__(self, act: Callable[[socket.socket], None]) -> None:
        self.sock, theirs = socket.socketpair()
        self.pid = os.fork()
        if not self.pid:
            status = 1
            try:
                self.sock.close()
                act(theirs)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    def give(self, peer: Peer) -> None:
        """The peer's descriptor, by SCM_RIGHTS."""
        socket.send_fds(self.sock, [b"x"], [peer.fileno()])

    def go_on(self) -> None:
        self.sock.send(b"x")

    def end(self) -> int:
        self.sock.close()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.end() == -signal.SIGKILL


def taken(bus: NativeBus, sock: socket.socket) -> Peer:
    """The peer whose descriptor comes through a socket."""
    _, (fd,), _, _ = socket.recv_fds(sock, 1, 1)
    with Fds([fd]):
        return Peer.from_descriptor(fd, bus.address)


def answer_all(peer: Peer, to: int, sock: socket.socket) -> None:
    """Answer each message with the pid; after the first, only when told. Until ``over`` comes."""
    is_first = True
    while (content := text(peer.recv(timeout=PATIENCE))) != b"over":
        peer.send([to], b"%d %s" % (os.getpid(), content))
        if is_first:
            assert sock.recv(1)
        is_first = False


@only_socket
def test_a_peer_that_was_inherited_and_passed_works_in_both_processes_at_once(
    bus: NativeBus, untouched: None
) -> None:
    """P-2: by fork and by SCM_RIGHTS; each message is received once, by one of them."""
    to_p = 0xB
    passed = Child(lambda sock: answer_all(taken(bus, sock), to_p, sock))
    with bus.peer() as p, bus.peer() as q:
        assert p.transfer(0x20, q) == to_p
        to_q = q.transfer(0x10, p)
        inherited = Child(lambda sock: answer_all(q, to_p, sock))
        passed.give(q)
        q.close()
        p.send([to_q], b"0")
        p.send([to_q], b"1")
        answers = [text(p.recv(timeout=PATIENCE)).split() for _ in range(2)]
        assert {int(pid) for pid, _ in answers} == {inherited.pid, passed.pid}
        for child in (inherited, passed):
            child.go_on()
        for number in range(2, 200):
            p.send([to_q], b"%d" % number)
        answers += [text(p.recv(timeout=PATIENCE)).split() for _ in range(198)]
        assert sorted(int(number) for _, number in answers) == list(range(200))
        for pid in (inherited.pid, passed.pid):
            own = [int(number) for other, number in answers if int(other) == pid]
            assert own == sorted(own)
        p.send([to_q], b"over")
        p.send([to_q], b"over")
        assert (inherited.end(), passed.end()) == (0, 0)
        with p.recv(timeout=PATIENCE) as message:
            assert (message.type, message.destination) == (MessageType.NODE_DESTROY, to_q)


@only_socket
@pytest.mark.parametrize("last", ["closes", "exits", "is killed"])
def test_the_last_holder_and_no_earlier_one_ends_the_peer(bus: NativeBus, untouched: None, last: str) -> None:
    """P-2, P-16: whatever way the holders go."""
    to_p = 0xB

    def hold(sock: socket.socket, peer: Peer) -> None:
        answer_all(peer, to_p, sock)
        if last == "closes":
            peer.close()
            assert not sock.recv(1)

    passed = Child(lambda sock: hold(sock, taken(bus, sock)))
    with bus.peer() as p, bus.peer() as q:
        p.transfer(0x20, q)
        to_q = q.transfer(0x10, p)
        inherited = Child(lambda sock: answer_all(q, to_p, sock))
        passed.give(q)
        passed.go_on()
        p.send([to_q], b"who?")
        while text(p.recv(timeout=PATIENCE)) != b"%d who?" % passed.pid:
            inherited.go_on()
            p.send([to_q], b"who?")
        inherited.kill()
        q.close()
        for _ in range(3):
            p.send([to_q], b"still there?")
            assert text(p.recv(timeout=PATIENCE)) == b"%d still there?" % passed.pid
        with pytest.raises(WouldBlock):
            p.recv()
        if last == "is killed":
            passed.kill()
        else:
            p.send([to_q], b"over")
        with p.recv(timeout=PATIENCE) as message:
            assert (message.type, message.destination) == (MessageType.NODE_DESTROY, to_q)
        with pytest.raises(NodeDestroyed):
            p.send([to_q])
        if last != "is killed":
            assert passed.end() == 0


@only_socket
def test_a_descriptor_on_its_way_is_a_holder(bus: NativeBus, p: Peer) -> None:
    """P-2, P-16: the only copy lies in a plain socket."""
    left, right = socket.socketpair()
    with left, right:
        with bus.peer() as q:
            to_q = q.transfer(0x10, p)
            socket.send_fds(left, [b"x"], [q.fileno()])
        p.send([to_q], b"while it is on its way")
        with taken(bus, right) as q:
            assert text(q.recv()) == b"while it is on its way"
            socket.send_fds(left, [b"x"], [q.fileno()])
        p.send([to_q])
        with pytest.raises(WouldBlock):
            p.recv()
    assert p.recv(timeout=PATIENCE).type is MessageType.NODE_DESTROY


# ---- polled ----------------------------------------------------------------------------------------

LIBC = ctypes.CDLL(None, use_errno=True)
READABLE, WRITABLE, HUNG_UP = select.POLLIN, select.POLLOUT, select.POLLHUP
BOTH = READABLE | WRITABLE


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


def with_poll(peer: Peer) -> int:
    poll = select.poll()
    poll.register(peer, BOTH)
    return dict(poll.poll(0)).get(peer.fileno(), 0)


def with_ppoll(peer: Peer) -> int:
    asked = ctypes.create_string_buffer(struct.pack("=ihh", peer.fileno(), BOTH, 0))
    mask = (ctypes.c_ulong * 16)()
    assert LIBC.ppoll(asked, ctypes.c_ulong(1), ctypes.byref(_Timespec(0, 0)), mask) >= 0
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


def with_pselect(peer: Peer) -> int:
    """As the C library has it, with a signal mask."""
    fd = peer.fileno()
    sets = [(ctypes.c_ulong * 16)() for _ in range(2)]
    for numbers in sets:
        numbers[fd // 64] |= 1 << fd % 64
    mask = (ctypes.c_ulong * 16)()
    assert LIBC.pselect(fd + 1, *sets, None, ctypes.byref(_Timespec(0, 0)), mask) >= 0
    found = [bool(numbers[fd // 64] >> fd % 64 & 1) for numbers in sets]
    return (READABLE if found[0] else 0) | (WRITABLE if found[1] else 0)


WAYS = [with_poll, with_ppoll, with_epoll, with_edge, with_select, with_pselect]


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
        with q.recv(PEEK), q.recv():
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
        wanted = (ctypes.c_ulong * 16)(1 << q.fileno())
        assert q.fileno() < 64
        none = (ctypes.c_ulong * 16)()
        limit = ctypes.byref(_Timespec(int(PATIENCE), 0))
        assert LIBC.pselect(q.fileno() + 1, wanted, None, None, limit, none) == -1
        assert ctypes.get_errno() == errno.EINTR
        assert got == [signal.SIGUSR1]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGUSR1, before)


# ---- looked at, taken, left ------------------------------------------------------------------------


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    with Fds(os.pipe()) as fds:
        yield fds[0], fds[1]


@contextmanager
def room_for(n: int) -> Iterator[None]:
    """This process may open so many descriptors more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = set(map(int, os.listdir("/proc/self/fd")))
    free = [number for number in range(soft) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[n], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("size", [5, 100_000])
def test_a_look_has_every_effect_and_leaves_the_message(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int], size: int
) -> None:
    """R-10, R-11, R-13: references and descriptors each time, the slice once."""
    p.send([to_q], b"m" * size, [0x100, 0x200, 0x100], [pipe[0], pipe[1]])
    looks = [q.recv(PEEK | INSTALL_FDS), q.recv(PEEK), q.recv(PEEK | INSTALL_FDS), q.recv()]
    assert [len(message.fds) for message in looks] == [2, 0, 2, 2]
    numbers = [fd for message in looks for fd in message.fds]
    assert len(set(numbers)) == 6
    for message in looks:
        assert (message.offset, message.n_bytes, message.size) == (
            looks[0].offset, size, (size + 7 & -8) + 24 + 8
        )
        assert bytes(message.payload) == b"m" * size
        assert message.handles == looks[0].handles
        for fd, end in zip(message.fds, pipe, strict=False):
            assert os.fstat(fd) == os.fstat(end)
    first, second, third = looks[0].handles
    assert first == third != second
    for handle, references in ((first, 8), (second, 4)):
        for _ in range(references):
            q.release(handle)
        with pytest.raises(NoSuchHandle):
            q.release(handle)
    with pytest.raises(WouldBlock):
        q.recv()
    looks[0].release()
    with pytest.raises(NoSuchHandle):
        q.release_slice(looks[0].offset)
    for message in looks:
        message.release()


def test_look_first_and_install_later(p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]) -> None:
    """R-30, R-31, R-32, R-13: without INSTALL_FDS a look costs no descriptor; the slice may go in between."""
    p.send([to_q], b"m", fds=[pipe[0]])
    with q.recv(PEEK) as look:
        offset = look.offset
        assert len(look.fds) == 0
    with pytest.raises(NoSuchHandle):
        q.release_slice(offset)
    with q.recv() as message:
        assert (message.offset, bytes(message.payload)) == (offset, b"m")
        assert os.fstat(message.fds[0]) == os.fstat(pipe[0])
        assert not os.get_inheritable(message.fds[0])


def test_a_look_charges_the_handles_anew(p: Peer, q: Peer, to_q: int) -> None:
    """R-12, R-5: there may be no room for a look, but there is for the message."""
    p.send([to_q], b"m", [0x100])
    q.reset(max_handles=0)
    with pytest.raises(QuotaExceeded):
        q.recv(PEEK)
    assert with_poll(q) == BOTH
    with q.recv() as message:
        q.release(message.handles[0])
        with pytest.raises(NoSuchHandle):
            q.release(message.handles[0])


def test_a_look_at_a_notification_leaves_it(p: Peer, q: Peer) -> None:
    """R-15, N-12: and it may be cancelled yet."""
    handle = p.transfer(0x100, q)
    q.release(handle)
    for _ in range(2):
        look = p.recv(PEEK)
        assert (look.type, look.destination, look.offset) == (MessageType.NODE_RELEASE, 0x100, OFFSET_INVALID)
    p.transfer(0x100, q)
    with pytest.raises(WouldBlock):
        p.recv(PEEK)


def test_a_look_at_one_of_several_says_that_more_follow(p: Peer, q: Peer, to_q: int) -> None:
    """R-20, R-21, R-22, R-10."""
    p.send([to_q, q.transfer(0x20, p)], b"both")
    p.send([to_q], b"other")
    seen = [q.recv(flags) for flags in (PEEK, 0, PEEK, 0, PEEK, 0)]
    assert [message.flags & CONTINUE for message in seen] == [CONTINUE, CONTINUE, 0, 0, 0, 0]
    assert {message.destination for message in seen[:4]} == {0x10, 0x20}
    for message in seen[1::2]:
        message.release()


def test_a_message_beyond_max_offset_stays(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-4, R-5, R-42: equal is enough; nothing has changed before; notifications lie nowhere."""
    for fds in ([], [pipe[0]]):
        p.send([to_q], b"12345", [0x100], fds)
        end = 16 + (8 if fds else 0)
        before = bus.snapshot()
        for flags in (0, PEEK, INSTALL_FDS, PEEK | INSTALL_FDS):
            with pytest.raises(OutOfRange):
                q.recv(flags, end - 1)
        with pytest.raises(OutOfRange):
            q.recv(max_offset=0)
        assert bus.snapshot() == before
        with q.recv(max_offset=end) as message:
            assert (message.offset, message.size, len(message.fds)) == (0, end, len(fds))
    q.release(p.transfer(0x300, q))
    assert p.recv(max_offset=0).type is MessageType.NODE_RELEASE


@pytest.mark.parametrize("size", [5, 100_000])
@pytest.mark.parametrize("flags", [INSTALL_FDS, INSTALL_FDS | PEEK])
def test_a_full_table_changes_nothing_and_the_same_message_comes_whole(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int], size: int,
    flags: RecvFlag,
) -> None:
    """R-5, R-33, T-31: 256 descriptors, all or none."""
    p.send([to_q], bytes(size), [0x100], [pipe[0]] * 255 + [pipe[1]])
    p.send([to_q], b"next")
    before, own = bus.snapshot(), len(os.listdir("/proc/self/fd"))
    for n in (0, 1, 100, 200):
        with room_for(n), pytest.raises(TooManyDescriptors) as caught:
            q.recv(flags)
        assert caught.value.errno in (errno.EMFILE, errno.ENFILE)
    assert len(os.listdir("/proc/self/fd")) == own
    assert bus.snapshot() == before
    assert with_poll(q) == BOTH
    with q.recv() as message:
        assert (message.n_bytes, len(message.handles), len(message.fds)) == (size, 1, 256)
        assert os.fstat(message.fds[0]) == os.fstat(message.fds[254]) == os.fstat(pipe[0])
        assert os.fstat(message.fds[255]) == os.fstat(pipe[1])
    assert drained(q) == [b"next"]


def test_a_full_table_does_not_matter_to_who_wants_no_descriptors(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-30, R-32."""
    p.send([to_q], b"m", fds=[pipe[0]] * 30)
    with room_for(10):
        assert text(q.recv(0)) == b"m"


@only_socket
def test_what_one_holder_has_no_room_for_another_takes(
    bus: NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-33, P-2, R-30: descriptors go into the process that calls."""

    def work(sock: socket.socket) -> None:
        with q.recv(timeout=PATIENCE) as message:
            assert len(message.fds) == 100 and os.fstat(message.fds[99]) == os.fstat(pipe[0])
            os.write(message.fds[0], b"taken")

    p.send([to_q], b"m", fds=[pipe[1]] + [pipe[0]] * 99)
    with room_for(20), pytest.raises(TooManyDescriptors):
        q.recv()
    assert Child(work).end() == 0
    assert os.read(pipe[0], 9) == b"taken"
    with pytest.raises(WouldBlock):
        q.recv()


# ---- labelled --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("labelled"), label=LABEL.decode())
    yield bus
    bus.close()


@pytest.mark.parametrize("size", [0, 5, 100_000])
@pytest.mark.parametrize("flags", [0, INSTALL_FDS])
def test_the_label_comes_to_who_wants_it_behind_handles_and_descriptors(
    labelled: NativeBus, pipe: tuple[int, int], size: int, flags: int
) -> None:
    """P-52, R-40, R-41, R-42, R-44: room for it is in every slice."""
    padded, room = size + 7 & -8, len(LABEL) + 7 & -8
    with labelled.peer() as p, labelled.peer() as q, labelled.peer() as r:
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        assert (q.query().peer_flags, r.query().peer_flags) == (PeerFlag.WANT_SECCTX, 0)
        to = [q.transfer(0x10, p), r.transfer(0x10, p)]
        p.send(to, b"m" * size, [0x100, 0x200], [pipe[0]] * 3)
        with q.recv(flags | PEEK) as look, q.recv(flags) as message, r.recv(flags) as plain:
            for wanted in (look, message):
                assert (wanted.flags, wanted.secctx) == (HAS_SECCTX, LABEL)
                assert wanted.handles == look.handles and len(wanted.handles) == 2
                assert bytes(wanted.payload) == b"m" * size
                assert wanted.size == padded + 16 + 16 + room
            assert (plain.flags, plain.secctx, plain.size) == (0, None, message.size)
            assert len(message.fds) == len(plain.fds) == (3 if flags else 0)


@pytest.mark.parametrize("flags", [0, INSTALL_FDS])
def test_the_label_lies_behind_the_descriptors_that_are_reported(
    labelled: NativeBus, pipe: tuple[int, int], flags: int
) -> None:
    """R-31, R-40, R-43, R-44, W-14: as the bytes of the slice; what is not used is zero."""
    with labelled.peer() as p, labelled.channel().open() as channel:
        with Peer.from_descriptor(channel.descriptor, labelled.address) as q:
            q.reset(peer_flags=PeerFlag.WANT_SECCTX)
            to_q = q.transfer(0x10, p)
        p.send([to_q], b"12345", [0x100, 0x200], [pipe[0]] * 3)
        channel.write(encode(Operation.RECV, 3, REQUESTS[Operation.RECV].pack(flags, 1 << 40, 0)))
        if flags:
            offer = channel.frame()
            assert (offer.operation, offer.tag, len(offer.fds)) == (Event.OFFER, 3, 3)
            offer.fds.close()
            channel.write(encode(Operation.INSTALLED, 3, REQUESTS[Operation.INSTALLED].pack(1)))
        answer = channel.frame()
        answer.fds.close()
        fixed = RESULTS[Operation.RECV]
        body = answer.body[ANSWER_PREFIX.size :]
        n_bytes, n_handles, n_fds, n_secctx, size = fixed.unpack_from(body)[8:13]
        slice_ = body[fixed.size :]
        assert (n_bytes, n_handles, n_fds, n_secctx) == (5, 2, 3 if flags else 0, len(LABEL))
        assert len(slice_) == size == 8 + 16 + 16 + (len(LABEL) + 7 & -8)
        at = 40 if flags else 24
        assert slice_[:8] == b"12345\0\0\0"
        assert slice_[24:at] == bytes(at - 24)
        assert slice_[at:] == LABEL.ljust(size - at, b"\0")


def test_whether_the_label_is_wanted_is_asked_when_the_message_is_sent(labelled: NativeBus) -> None:
    """P-52, P-50."""
    with labelled.peer() as p, labelled.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], b"before")
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        p.send([to_q], b"while")
        q.reset(peer_flags=0)
        p.send([to_q], b"after")
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        seen = [q.recv() for _ in range(3)]
        assert [message.secctx for message in seen] == [None, LABEL, None]
        assert [message.flags for message in seen] == [0, HAS_SECCTX, 0]
        assert {message.size for message in seen} == {8 + (len(LABEL) + 7 & -8)}


def test_an_empty_label_is_a_label(tmp_path_factory: pytest.TempPathFactory) -> None:
    """P-53: HAS_SECCTX is set, n_secctx is 0."""
    bus = NativeBus(tmp_path_factory.mktemp("empty"), label="")
    with bus.peer() as p, bus.peer() as q:
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        p.send([q.transfer(0x10, p)], b"m", [0x100])
        with q.recv() as message:
            assert (message.flags, message.secctx, message.size) == (HAS_SECCTX, b"", 16)
    bus.close()


def test_without_a_label_in_the_kernel_nothing_is_attached(p: Peer, q: Peer, to_q: int) -> None:
    """P-53: no error."""
    q.reset(peer_flags=PeerFlag.WANT_SECCTX)
    p.send([to_q], b"m")
    with q.recv() as message:
        assert (message.flags, message.secctx, message.size) == (0, None, 8)


# ---- used by several threads -----------------------------------------------------------------------


def at_once(*acts: Callable[[], object]) -> None:
    """Every act in a thread of its own; the first error is raised."""
    failures: list[BaseException] = []
    start = threading.Barrier(len(acts))

    def run(act: Callable[[], None]) -> None:
        try:
            start.wait()
            act()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in failures:
        raise error


N_ROUNDS = 40


@only_socket
def test_threads_may_do_everything_at_once_with_one_peer(p: Peer, q: Peer, to_q: int) -> None:
    """P-4: each command takes effect once, each message goes to one thread."""
    got: list[bytes] = []
    handles: list[int] = []

    def receive() -> None:
        for _ in range(N_ROUNDS):
            got.append(text(q.recv(timeout=PATIENCE)))

    def send(letter: bytes) -> Callable[[], None]:
        def act() -> None:
            for number in range(N_ROUNDS):
                p.send([to_q], letter + b"%d" % number if number % 8 else letter + b"%07d" % number * 20_000)
        return act

    def pass_handles() -> None:
        for number in range(N_ROUNDS):
            handle = p.transfer(0x1000 + 16 * number, q)
            handles.append(handle)
            p.send([p.transfer(0x10)], b"to myself")
            p.query()

    def die() -> None:
        for number in range(N_ROUNDS):
            p.transfer(0x8000 + 16 * number)
            p.destroy([0x8000 + 16 * number])
            p.release(0x8000 + 16 * number)
            p.release(0x8000 + 16 * number)

    at_once(receive, receive, receive, send(b"a"), send(b"b"), send(b"c"), pass_handles, die)
    counted = Counter(content[:1] for content in got)
    assert counted == {b"a": N_ROUNDS, b"b": N_ROUNDS, b"c": N_ROUNDS} and len(set(got)) == 3 * N_ROUNDS
    assert len(set(handles)) == N_ROUNDS
    for handle in handles:
        q.release(handle)
    assert drained(p).count(b"to myself") == N_ROUNDS


@only_socket
def test_a_child_uses_the_peer_while_the_parents_threads_do(p: Peer, q: Peer, to_q: int) -> None:
    """P-2, P-4: forked in the middle of their requests."""
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            p.query()
            p.send([], b"to nobody")

    def wait() -> None:
        while not is_over.is_set():
            with pytest.raises(WouldBlock):
                p.recv(timeout=0.01)

    def child(number: int) -> Callable[[socket.socket], None]:
        def act(sock: socket.socket) -> None:
            for count in range(5):
                p.send([to_q], b"%d %d" % (number, count))
            q.query()
        return act

    threads = [threading.Thread(target=act) for act in (ask, ask, wait)]
    for thread in threads:
        thread.start()
    try:
        assert [Child(child(number)).end() for number in range(8)] == [0] * 8
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert drained(q) == [b"%d %d" % (number, count) for number in range(8) for count in range(5)]


@only_socket
def test_threads_of_a_child_may_be_the_first_to_use_a_peer(
    bus: NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    """P-2, P-4: several threads of a child, all at once."""

    def act(sock: socket.socket) -> None:
        signal.alarm(20)
        at_once(*[p.query] * 8)
        p.send([to_q], b"child")

    assert [Child(act).end() for _ in range(5)] == [0] * 5
    assert drained(q) == [b"child"] * 5


@only_socket
def test_a_child_gives_back_what_its_parent_received(bus: NativeBus, p: Peer, q: Peer, to_q: int) -> None:
    """P-2, P-4: a thread of the parent is in the middle of a request when the child is forked."""
    p.send([to_q], bytes(100_000))
    message = q.recv()
    is_held, is_over = threading.Event(), threading.Event()

    def be_in_a_request() -> None:
        with q._link._state:  # type: ignore[attr-defined]  # no request takes long enough to fork in it
            is_held.set()
            is_over.wait()

    thread = threading.Thread(target=be_in_a_request)
    thread.start()
    is_held.wait()

    def act(sock: socket.socket) -> None:
        signal.alarm(20)
        message.release()
        q.query()

    child = Child(act)
    is_over.set()
    thread.join()
    assert child.end() == 0
    assert drained(q) == []
    message.release()
