"""A peer over each link: descriptors, pools, readiness, sharing, disconnect."""

from __future__ import annotations

import errno
import mmap
import os
import select
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from native_bus import InProcessBus, NativeBus
from shortage import everything_given_back, n_descriptors, room_for

from bus1.core.api import NO_LIMIT, Buffer, Limits, MessageType, RecvFlag, ResetFlag, SendFlag
from bus1.descriptors import Fds
from bus1.errors import (
    BadDescriptor,
    InvalidArgument,
    NodeDestroyed,
    NoSuchHandle,
    NotSupported,
    PeerShutdown,
    QuotaExceeded,
    TooLarge,
    TooManyDescriptors,
    WouldBlock,
)
from bus1.peer import Peer

NewPeer = Callable[[], Peer]
MIB = 1 << 20
LARGE = Limits(inflight_bytes=1 << 30, inflight_fds=1 << 16)


@pytest.fixture(scope="module", params=["in-process", "socket"])
def bus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InProcessBus | NativeBus]:
    directory = tmp_path_factory.mktemp("bus")
    bus = InProcessBus(LARGE) if request.param == "in-process" else NativeBus(directory, LARGE)
    yield bus
    bus.close()


@pytest.fixture
def peer(bus: InProcessBus | NativeBus) -> Iterator[NewPeer]:
    """Makes peers; afterwards the bus, and this process, are as they were before."""
    peers: list[Peer] = []

    def new() -> Peer:
        peers.append(bus.peer())
        return peers[-1]

    with everything_given_back(bus):
        yield new
        for made in peers:
            made.close()


@pytest.fixture
def p(peer: NewPeer) -> Peer:
    return peer()


@pytest.fixture
def q(peer: NewPeer) -> Peer:
    return peer()


@pytest.fixture
def to_q(p: Peer, q: Peer) -> int:
    """P's handle to a node of Q."""
    return q.transfer(0x10, p)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    with Fds(os.pipe()) as fds:
        yield fds[0], fds[1]


def is_readable(peer: Peer) -> bool:
    poll = select.poll()
    poll.register(peer, select.POLLIN)
    return any(events & select.POLLIN for _, events in poll.poll(0))


# ---- descriptors -----------------------------------------------------------------------------------


def test_descriptors_arrive_in_order_and_close_on_exec(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-30."""
    p.send([to_q], fds=[pipe[1], pipe[0], pipe[1]])
    with q.recv() as message:
        assert len(message.fds) == 3
        assert not any(os.get_inheritable(fd) for fd in message.fds)
        os.write(message.fds[0], b"x")
        assert os.read(message.fds[1], 1) == b"x"
        assert os.fstat(message.fds[2]) == os.fstat(pipe[1])


def test_the_sender_may_close_its_descriptors_at_once(p: Peer, q: Peer, to_q: int) -> None:
    """T-32."""
    read, write = os.pipe()
    p.send([to_q], fds=[read])
    os.close(read)
    with q.recv() as message:
        taken = message.fds.take()
    os.write(write, b"later")
    assert os.read(taken, 5) == b"later"
    os.close(taken)
    os.close(write)


def test_without_install_fds_the_descriptors_are_lost(p: Peer, q: Peer, to_q: int) -> None:
    """R-31, R-32."""
    read, write = os.pipe()
    p.send([to_q], b"m", fds=[write])
    os.close(write)
    with q.recv(0) as message:
        assert len(message.fds) == 0 and bytes(message.payload) == b"m"
    assert os.read(read, 1) == b""
    os.close(read)


def test_a_peeked_message_installs_its_descriptors_each_time(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-11, R-14: under other numbers."""
    p.send([to_q], fds=[pipe[0]])
    with q.recv(RecvFlag.PEEK | RecvFlag.INSTALL_FDS) as peeked, q.recv() as message:
        assert peeked.fds[0] != message.fds[0]
        assert os.fstat(peeked.fds[0]) == os.fstat(message.fds[0]) == os.fstat(pipe[0])


def test_more_descriptors_than_the_kernel_takes_at_once_travel_in_one_message(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    p.send([to_q], b"many", fds=[pipe[0]] * 255 + [pipe[1]])
    with q.recv() as message:
        assert len(message.fds) == 256
        assert os.fstat(message.fds[254]) == os.fstat(pipe[0])
        assert os.fstat(message.fds[255]) == os.fstat(pipe[1])


def test_t_31_more_than_256_descriptors_are_too_many(p: Peer, to_q: int, pipe: tuple[int, int]) -> None:
    with pytest.raises(TooLarge):
        p.send([to_q], fds=[pipe[0]] * 257)


@pytest.mark.parametrize("fd", [-1, 1 << 20])
def test_t_30_a_number_that_is_not_open_is_refused(p: Peer, to_q: int, fd: int) -> None:
    with pytest.raises(BadDescriptor):
        p.send([to_q], fds=[fd])


def test_t_30_peers_and_unix_sockets_do_not_travel(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    left, right = socket.socketpair()
    with left, right:
        for fd in (p.fileno(), q.fileno(), left.fileno()):
            with pytest.raises(NotSupported):
                p.send([to_q], b"m", [0x300], [pipe[0], fd])
    with pytest.raises(WouldBlock):
        q.recv()


def test_t_30_an_o_path_descriptor_always_travels(
    p: Peer, q: Peer, to_q: int, tmp_path: os.PathLike[str]
) -> None:
    name = os.path.join(tmp_path, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        with Fds([os.open(name, os.O_PATH)]) as path:
            p.send([to_q], fds=path)
    with q.recv() as message:
        assert stat.S_ISSOCK(os.fstat(message.fds[0]).st_mode)


def test_a_failed_send_leaves_the_descriptors_with_the_caller(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    q.destroy([0x10])
    with pytest.raises(NodeDestroyed):
        p.send([to_q], fds=[pipe[0]])
    os.write(pipe[1], b"x")
    assert os.read(pipe[0], 1) == b"x"


def test_r_33_a_full_descriptor_table_leaves_the_message_queued(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    p.send([to_q], b"m", [0x300], [pipe[0]] * 40)
    own = n_descriptors()
    with room_for(20), pytest.raises(TooManyDescriptors):
        q.recv()
    assert n_descriptors() <= own
    assert is_readable(q)
    with q.recv() as message:
        assert len(message.fds) == 40 and len(message.handles) == 1
        q.release(message.handles[0])
    assert not is_readable(q)


def test_seeds_carry_descriptors_too(p: Peer, pipe: tuple[int, int]) -> None:
    p.set_seed(b"seed", [0x300], [pipe[0]])
    for flags in (RecvFlag.PEEK | RecvFlag.INSTALL_FDS, RecvFlag.INSTALL_FDS):
        with p.seed(flags) as seed:
            assert os.fstat(seed.fds[0]) == os.fstat(pipe[0])
    with pytest.raises(WouldBlock):
        p.seed()


# ---- payloads and pools ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4088, 4097, 65536, 65537, MIB - 8, MIB, 5 * MIB + 3])
def test_a_payload_of_any_size_arrives_as_it_was(p: Peer, q: Peer, to_q: int, size: int) -> None:
    payload = os.urandom(size)
    p.send([to_q], [payload[:7], memoryview(payload)[7:]], [0x300])
    with q.recv() as message:
        assert bytes(message.payload) == payload and len(message.handles) == 1
        assert message.payload.readonly


def test_a_hundred_mebibytes_arrive_as_they_were(p: Peer, q: Peer, to_q: int) -> None:
    payload = os.urandom(MIB) * 100
    p.send([to_q], payload)
    with q.recv() as message:
        assert message.payload == payload
    p.send([to_q], b"small")
    with q.recv() as message:
        assert bytes(message.payload) == b"small"


@pytest.mark.parametrize("repeat", [1, 40_000], ids=["in the frame", "through the arena"])
def test_a_payload_is_the_bytes_of_its_buffers_however_they_lie(
    p: Peer, q: Peer, to_q: int, repeat: int
) -> None:
    """T-10: gaps, words and rows are a matter of the view."""
    parts: list[Buffer] = [
        memoryview(b"a-b-c-" * repeat)[::2], memoryview(b"wordword").cast("I"),
        memoryview(b"rows").cast("B", (2, 2)), b"", memoryview(b"dcba")[::-1],
    ]
    p.send([to_q], parts)
    with q.recv() as message:
        assert bytes(message.payload) == b"abc" * repeat + b"wordwordrows" + b"abcd"


def test_the_buffers_of_a_sent_payload_may_change(p: Peer, q: Peer, to_q: int) -> None:
    """T-14."""
    buffer = bytearray(b"before")
    p.send([to_q], buffer)
    buffer[:] = b"after!"
    with q.recv() as message:
        assert bytes(message.payload) == b"before"


def test_t_11_more_than_1024_vectors_are_too_many(p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q], [b"x"] * 1024)
    with pytest.raises(TooLarge):
        p.send([to_q], [b"x"] * 1025)
    with q.recv() as message:
        assert message.n_bytes == 1024


def test_l_8_a_slice_is_released_once_at_its_start(p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q], bytes(100))
    with pytest.raises(NoSuchHandle):
        q.release_slice(0)
    message = q.recv()
    with pytest.raises(NoSuchHandle):
        q.release_slice(message.offset + 8)
    q.release_slice(message.offset)
    with pytest.raises(NoSuchHandle):
        q.release_slice(message.offset)
    message.release()
    message.release()


@pytest.mark.parametrize("size", [1, 5000, 2 * MIB])
@pytest.mark.parametrize("kept", [1, 5000, 2 * MIB])
def test_releasing_a_message_from_before_a_flush_leaves_what_lies_in_its_place(
    p: Peer, q: Peer, kept: int, size: int
) -> None:
    """L-8, L-11: its slice is gone, and another one begins at its offset."""
    p.send([q.transfer(0x10, p)], bytes(size))
    before = q.recv()
    q.reset(ResetFlag.FLUSH)
    to_q = q.transfer(0x10, p)
    p.send([to_q], b"B" * kept)
    message = q.recv()
    before.release()
    p.send([to_q], b"C" * kept)
    assert bytes(message.payload) == b"B" * kept
    with q.recv() as last:
        assert bytes(last.payload) == b"C" * kept
    message.release()
    with pytest.raises(NoSuchHandle):
        q.release_slice(message.offset)


@pytest.mark.parametrize("size", [1, 5000, 2 * MIB])
def test_releasing_a_message_whose_slice_was_given_back_by_its_offset_leaves_the_next_one(
    p: Peer, q: Peer, to_q: int, size: int
) -> None:
    """L-8: a slice is released once, by whichever way."""
    p.send([to_q], bytes(size))
    before = q.recv()
    q.release_slice(before.offset)
    p.send([to_q], b"B" * size)
    message = q.recv()
    before.release()
    p.send([to_q], b"C" * size)
    assert bytes(message.payload) == b"B" * size
    message.release()
    q.recv().release()


def test_r_13_a_slice_that_is_published_again_is_not_released_by_who_peeked_at_it(
    p: Peer, q: Peer, to_q: int
) -> None:
    p.send([to_q], b"B")
    peeked = q.recv(RecvFlag.PEEK)
    q.release_slice(peeked.offset)
    message = q.recv()
    peeked.release()
    p.send([to_q], b"C")
    assert q.recv().offset != message.offset
    message.release()
    with pytest.raises(NoSuchHandle):
        q.release_slice(message.offset)


def test_q_16_a_slice_is_charged_until_it_is_released(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    def used() -> int:
        return sum(user["used"]["bytes"] for user in bus.snapshot()["users"].values())

    p.send([to_q], bytes(2 * MIB))
    message = q.recv()
    assert used() >= 2 * MIB
    message.release()
    assert used() == 0


def test_who_receives_one_message_after_the_other_gives_back_and_waits_in_one_request(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    for number in range(5):
        p.send([to_q], bytes([number]) * MIB)
    message = q.recv()
    for number in range(1, 5):
        message = q.reply((), answered=message)
        assert message.payload == bytes([number]) * MIB
        used = sum(user["used"]["bytes"] for user in bus.snapshot()["users"].values())
        assert used == (5 - number) * MIB
    message.release()


def test_a_large_message_that_somebody_still_reads_stays_charged(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    payload = os.urandom(2 * MIB)
    p.send([to_q], payload)
    message = q.recv()
    reader = memoryview(message.payload)
    message.release()
    q.query()
    assert reader == payload
    if isinstance(bus, NativeBus):  # on the heap it is not the pool that is read
        assert sum(user["used"]["bytes"] for user in bus.snapshot()["users"].values()) >= 2 * MIB
    reader.release()
    q.query()  # with any request the link confirms what is unmapped by now
    q.query()
    assert sum(user["used"]["bytes"] for user in bus.snapshot()["users"].values()) == 0


def test_credentials_are_those_of_the_sender(p: Peer, q: Peer, to_q: int) -> None:
    """P-50: but for the thread."""
    p.send([to_q])
    with q.recv() as message:
        assert (message.uid, message.gid, message.pid) == (os.getuid(), os.getgid(), os.getpid())
        assert message.tid == 0


# ---- readiness -------------------------------------------------------------------------------------


def test_p_40_the_descriptor_is_readable_while_messages_are_queued(p: Peer, q: Peer, to_q: int) -> None:
    for _ in range(3):
        assert not is_readable(q)
        p.send([to_q])
        p.send([to_q])
        assert is_readable(q)
        q.recv().release()
        assert is_readable(q)
        q.recv().release()
    assert not is_readable(q)


def test_a_notification_makes_readable_and_its_cancellation_is_noticed_by_recv(
    p: Peer, q: Peer, peer: NewPeer
) -> None:
    q.release(p.transfer(0x100, q))
    assert is_readable(p)
    p.transfer(0x100, peer())
    with pytest.raises(WouldBlock):
        p.recv()
    assert not is_readable(p)


def test_a_flushed_queue_is_noticed_by_recv(p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q])
    assert is_readable(q)
    q.reset(ResetFlag.FLUSH)
    with suppress(WouldBlock):
        q.recv()
    assert not is_readable(q)


def test_p_43_epoll_on_the_edge_reports_each_transition(p: Peer, q: Peer, to_q: int) -> None:
    with select.epoll() as epoll:
        epoll.register(q, select.EPOLLIN | select.EPOLLET)
        epoll.poll(0)
        for _ in range(3):
            p.send([to_q])
            assert [fd for fd, _ in epoll.poll(0)] == [q.fileno()]
            assert epoll.poll(0) == []
            q.recv().release()
            with pytest.raises(WouldBlock):
                q.recv()


# ---- requests --------------------------------------------------------------------------------------


def test_slots_tell_what_became_of_each_destination(p: Peer, q: Peer, to_q: int, peer: NewPeer) -> None:
    """T-51, T-53."""
    gone = peer()
    dead = gone.transfer(0x20, p)
    gone.disconnect()
    slots = p.send([to_q], b"m", optional=[dead])
    assert slots == [0, -errno.EHOSTUNREACH]
    assert p.send([to_q, dead], flags=SendFlag.CONTINUE) == [0, -errno.EHOSTUNREACH]
    assert p.send([], optional=[]) == []
    q.recv().release()
    q.recv().release()


def test_a_call_is_a_send_and_the_next_message(p: Peer, q: Peer, to_q: int) -> None:
    p.send([0x50], b"to myself")
    with p.call([to_q], b"call", [0x60]) as message:
        assert bytes(message.payload) == b"to myself"
    with q.recv() as message:
        assert bytes(message.payload) == b"call"


def test_a_reply_sends_gives_back_and_takes_the_next_message(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int
) -> None:
    p.send([to_q], b"one", [0x60])
    p.send([to_q], b"two")
    request = q.recv()
    reply_to = request.handles[0]
    with q.reply([reply_to], b"answer", answered=request, release=reply_to) as following:
        assert bytes(following.payload) == b"two"
    assert sorted(peer["pool"]["slices"] for peer in bus.snapshot()["peers"].values()) == [0, 1]
    with p.recv() as message:
        assert bytes(message.payload) == b"answer"
    assert p.recv().type is MessageType.NODE_RELEASE
    request.release()
    with pytest.raises(NoSuchHandle):
        q.release(reply_to)


def test_a_reply_to_somebody_who_is_gone_takes_no_message(p: Peer, q: Peer, to_q: int, peer: NewPeer) -> None:
    gone = peer()
    gone.send([q.transfer(0x20, gone)], b"call", [0x60])
    request = q.recv()
    reply_to = request.handles[0]
    gone.disconnect()
    assert q.recv().type is MessageType.NODE_DESTROY
    assert q.recv().type is MessageType.NODE_RELEASE
    p.send([to_q], b"next")
    with pytest.raises(NodeDestroyed):
        q.reply([reply_to], b"answer", answered=request, release=reply_to)
    q.release(reply_to)
    request.release()
    with q.recv() as message:
        assert bytes(message.payload) == b"next"


@pytest.mark.parametrize("flags", [8, RecvFlag.PEEK | 16])
def test_r_1_unknown_flags_are_refused(p: Peer, flags: int) -> None:
    with pytest.raises(InvalidArgument):
        p.recv(flags)
    with pytest.raises(InvalidArgument):
        p.destroy([0x10], 4)


def test_a_value_beyond_64_bits_is_refused(p: Peer, q: Peer) -> None:
    for attempt in (lambda: p.transfer(1 << 64, q), lambda: p.send([1 << 64])):
        with pytest.raises((TooLarge, NoSuchHandle)):
            attempt()


def test_transfer_to_what_is_no_peer_is_not_supported(p: Peer, pipe: tuple[int, int]) -> None:
    """H-52, H-53: and a number that is not open is a bad descriptor, -1 too."""
    left, right = socket.socketpair()
    with left, right:
        for fd in (pipe[0], left.fileno()):
            with pytest.raises(NotSupported):
                p.transfer(0x10, fd)
    with pytest.raises(BadDescriptor):
        p.transfer(0x10, -1)


def test_transfer_takes_a_copy_of_the_descriptor_as_well(p: Peer, q: Peer) -> None:
    """H-50, H-53, H-54: without one it is to the peer itself."""
    with Fds([os.dup(q.fileno())]) as copy:
        assert p.transfer(0x10, copy[0]) == 0xB
        assert p.transfer(0x10, q) == 0xB
    assert p.transfer(0x10) == 0x10


# ---- the end ---------------------------------------------------------------------------------------


def test_p_10_after_disconnect_everything_is_shutdown(p: Peer, q: Peer, to_q: int) -> None:
    """P-12, P-13, T-40."""
    q.disconnect()
    attempts: list[Callable[[], object]] = [
        q.disconnect, q.query, q.reset, q.recv, lambda: q.release(0x10), lambda: q.send([0x10]),
        lambda: q.destroy([0x10]), lambda: q.release_slice(0), lambda: q.transfer(0x10, p),
    ]
    for attempt in attempts:
        with pytest.raises(PeerShutdown):
            attempt()
    with pytest.raises(NodeDestroyed):
        p.send([to_q])


def test_h_52_transfer_to_a_disconnected_peer(p: Peer, q: Peer) -> None:
    q.disconnect()
    with pytest.raises((PeerShutdown, NotSupported)):
        p.transfer(0x10, q)


def test_p_16_messages_of_a_closed_peer_stay(p: Peer, q: Peer, to_q: int) -> None:
    p.send([to_q], b"last words", [0x300])
    p.close()
    while is_readable(q):
        with q.recv() as message:
            if message.type is MessageType.DATA:
                assert bytes(message.payload) == b"last words"
                break
    else:
        pytest.fail("the message is gone")


def test_quotas_hold_over_the_link(p: Peer, q: Peer, to_q: int) -> None:
    q.reset(max_inflight_bytes=4096)
    with pytest.raises(QuotaExceeded):
        p.send([to_q], bytes(8192))
    p.send([to_q], bytes(1000))
    with q.recv(max_offset=NO_LIMIT) as message:
        assert message.n_bytes == 1000


def test_the_pool_of_a_peer_cannot_be_written(tmp_path_factory: pytest.TempPathFactory) -> None:
    """L-1, L-5."""
    bus = NativeBus(tmp_path_factory.mktemp("pool"))
    try:
        with bus.peer() as p, bus.peer() as q:
            p.send([q.transfer(0x10, p)], bytes(10000))
            with q.recv() as message, pytest.raises(TypeError):
                message.payload[0] = 1
            with open("/proc/self/maps") as lines:
                maps = [line.split() for line in lines if "bus1-pool" in line]
            assert maps and all(fields[1] == "r--s" for fields in maps)
            pools = [int(fd) for fd in os.listdir("/proc/self/fd") if "bus1-pool" in _target(fd)]
            assert pools
            attempts: list[Callable[[int], object]] = [
                lambda fd: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
                lambda fd: os.pwrite(fd, b"x", 0), lambda fd: os.ftruncate(fd, 0),
            ]
            for attempt in attempts:
                with pytest.raises(PermissionError):
                    attempt(pools[0])
    finally:
        bus.close()


def test_the_hub_decides_about_unix_sockets_and_the_broker_about_peers(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    bus = NativeBus(tmp_path_factory.mktemp("lenient"), hub="lenient")
    left, right = socket.socketpair()
    with left, right, bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], fds=[left.fileno()])
        with q.recv() as message, socket.socket(fileno=message.fds.take()) as passed:
            right.send(b"x")
            assert passed.recv(1) == b"x"
        for fd in (p.fileno(), q.fileno()):
            with pytest.raises(NotSupported):
                p.send([to_q], fds=[fd])
    bus.close()


def _target(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
