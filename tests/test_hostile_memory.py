"""What clients do to memory that they share with the bus: the bus goes on, and nobody reads anything forged.

Not here: sealing without a socket (test_pool_memory), requests with wrong numbers (test_link_hostile).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from native_bus import NativeBus, RawChannel

from bus1.core.api import Limits
from bus1.descriptors import Fds
from bus1.frames import ANSWER_PREFIX, REQUESTS, Operation, encode
from bus1.peer import Peer

MIB = 1 << 20
PAGE = mmap.PAGESIZE
PUNCH_HOLE, KEEP_SIZE = 2, 1
TEXT = b"what the bus has written"
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[NativeBus]:
    """Afterwards everything has been given back."""
    bus = NativeBus(tmp_path, Limits(inflight_bytes=1 << 27))
    n_fds = bus.n_fds()
    yield bus
    bus.wait_until_idle(n_fds)
    bus.close()


@contextmanager
def pool_of(bus: NativeBus, size: int = 10000) -> Iterator[tuple[RawChannel, Peer, int]]:
    """A peer with one message in its pool, and the memfd of the segment in which it lies."""
    with bus.channel().open() as channel, Peer.from_descriptor(channel.descriptor, bus.address) as peer:
        peer.send([0x10], TEXT + bytes(size - len(TEXT)))
        channel.sock.sendall(encode(Operation.SEGMENT, 3, struct.pack("<Q", 1)))
        with channel.frame().fds as fds:
            yield channel, peer, fds[0]


def failing(result: int) -> None:
    """What libc says, as an exception."""
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def address_of(mapping: mmap.mmap) -> int:
    """Where a mapping lies; also one that cannot be written."""
    buffer = (ctypes.c_void_p * 16)()
    assert ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(mapping), ctypes.byref(buffer), 0) == 0
    address = buffer[0]
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(buffer))
    assert address is not None
    return address


def protect(fd: int, flags: int) -> None:
    with mmap.mmap(fd, PAGE, flags, mmap.PROT_READ) as mapping:
        failing(libc.mprotect(ctypes.c_void_p(address_of(mapping)), PAGE, mmap.PROT_READ | mmap.PROT_WRITE))


def reopened(fd: int, act: Callable[[int], object]) -> None:
    with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as again:
        act(again.fileno())


def copied_into(fd: int) -> None:
    with open("/proc/self/exe", "rb") as source:
        os.sendfile(fd, source.fileno(), 0, 100)


ATTEMPTS: dict[str, Callable[[int], object]] = {
    "a shared writable mapping": lambda fd: mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_WRITE),
    "mprotect of a shared mapping": lambda fd: protect(fd, mmap.MAP_SHARED),
    "pwrite": lambda fd: os.pwrite(fd, b"forged", 0),
    "sendfile": copied_into,
    "a hole": lambda fd: failing(libc.fallocate(fd, PUNCH_HOLE | KEEP_SIZE, *map(ctypes.c_long, (0, PAGE)))),
    "truncation": lambda fd: os.ftruncate(fd, 0),
    "growth": lambda fd: os.ftruncate(fd, 1 << 40),
    "another seal": lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    "pwrite through another description": lambda fd: reopened(fd, lambda again: os.pwrite(again, b"x", 0)),
    "truncation through another description": lambda fd: reopened(fd, lambda again: os.ftruncate(again, 0)),
    "a mapping of another description": lambda fd: reopened(fd, lambda again: mmap.mmap(again, PAGE)),
}


@pytest.mark.parametrize("attempt", ATTEMPTS.values(), ids=list(ATTEMPTS))
def test_l_5_a_client_cannot_change_its_pool(bus: NativeBus, attempt: Callable[[int], object]) -> None:
    """L-5: no way to write leads through the memfd that the client is given."""
    with pool_of(bus) as (_, peer, fd):
        with pytest.raises(PermissionError):
            attempt(fd)
        with peer.recv() as message:
            assert message.payload[: len(TEXT)] == TEXT
        peer.send([0x10], b"the bus still writes")
        with peer.recv() as message:
            assert bytes(message.payload) == b"the bus still writes"


def test_l_5_a_mapping_can_never_be_made_writable(bus: NativeBus) -> None:
    """L-5: mprotect gives EACCES."""
    with pool_of(bus) as (_, _, fd), pytest.raises(OSError) as refused:
        protect(fd, mmap.MAP_SHARED)
    assert refused.value.errno == errno.EACCES


def test_l_5_what_is_written_to_a_private_mapping_is_seen_by_nobody_else(bus: NativeBus) -> None:
    """L-5: the kernel lets everybody copy what they may read; the pool itself stays as it is."""
    with (
        pool_of(bus) as (_, peer, fd),
        mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as copy,
    ):
        copy[: len(TEXT)] = bytes(len(TEXT))
        assert os.pread(fd, len(TEXT), 0) == TEXT
        with peer.recv() as message:
            assert message.payload[: len(TEXT)] == TEXT


def test_l_5_l_6_any_part_may_be_mapped_for_reading_and_more_than_once(bus: NativeBus) -> None:
    """L-5, L-6: several mappings, any length and page; also what has not been received yet."""
    with pool_of(bus) as (_, _, fd):
        size = os.fstat(fd).st_size
        with (
            mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as whole,
            mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as first,
            mmap.mmap(fd, 1, mmap.MAP_SHARED, mmap.PROT_READ, offset=size - PAGE) as last,
        ):
            assert whole[: len(TEXT)] == first[: len(TEXT)] == TEXT
            assert last[0] == whole[size - PAGE] == 0


@pytest.mark.parametrize("end", [Peer.disconnect, Peer.reset, NativeBus.close])
def test_l_12_a_mapping_outlives_the_peer_and_the_bus(
    tmp_path: Path, end: Callable[..., None]
) -> None:
    """L-12: it stays readable whatever ends."""
    bus = NativeBus(tmp_path)
    with pool_of(bus) as (_, peer, fd), mmap.mmap(fd, PAGE, mmap.MAP_SHARED, mmap.PROT_READ) as mapping:
        if end is NativeBus.close:
            end(bus)
        else:
            end(peer, 1) if end is Peer.reset else end(peer)
        assert len(mapping[:]) == PAGE
    if end is not NativeBus.close:
        bus.close()


# ---- the arena: the client writes, the bus reads ---------------------------------------------------


@contextmanager
def arena_of(channel: RawChannel, size: int) -> Iterator[int]:
    channel.sock.sendall(encode(Operation.ARENA, 4, struct.pack("<Q", size)))
    with channel.frame().fds as fds:
        yield fds[0]


def send_from_arena(channel: RawChannel, start: int, size: int) -> int:
    """The errno of a message to the own node 0x10 with its payload in the arena."""
    fixed = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, start, size)
    channel.sock.sendall(encode(Operation.SEND, 5, fixed + struct.pack("<Q", 0x10)))
    return int(ANSWER_PREFIX.unpack_from(channel.frame().body)[0])


@pytest.mark.parametrize("change", [
    lambda fd: os.ftruncate(fd, 0),
    lambda fd: os.ftruncate(fd, 62 * MIB),
    lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
    lambda fd: reopened(fd, lambda again: os.ftruncate(again, 0)),
])
def test_the_size_and_the_seals_of_an_arena_cannot_be_changed(
    bus: NativeBus, change: Callable[[int], object]
) -> None:
    """Else the bus would read less than it was promised, or nothing could be written to it again."""
    with (
        bus.channel().open() as channel, arena_of(channel, MIB) as fd,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer,
    ):
        with pytest.raises(PermissionError):
            change(fd)
        os.pwrite(fd, b"x" * MIB, 0)
        assert send_from_arena(channel, 0, MIB) == 0
        with peer.recv() as message:
            assert message.payload == b"x" * MIB


def test_a_message_does_not_change_when_its_arena_does(bus: NativeBus) -> None:
    """L-6, L-13: the payload lands in the pool at send time; what is scribbled later reaches nobody."""
    with (
        bus.channel().open() as channel, arena_of(channel, MIB) as fd,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer, mmap.mmap(fd, MIB) as arena,
    ):
        arena[:] = b"a" * MIB
        assert send_from_arena(channel, 0, MIB) == 0
        arena[:] = b"b" * MIB
        with peer.recv() as message:
            assert message.payload == b"a" * MIB
            arena.madvise(mmap.MADV_REMOVE)
            assert message.payload == b"a" * MIB


@pytest.mark.parametrize("disturb", ["scribbling", "holes"])
def test_an_arena_that_changes_while_the_bus_reads_it_harms_its_sender_alone(
    bus: NativeBus, disturb: str
) -> None:
    """L-6: the receiver may get a mixture, but one that does not change any more; the bus goes on."""
    with (
        bus.peer() as p, bus.channel().open() as channel, arena_of(channel, 2 * MIB) as fd,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer, mmap.mmap(fd, 2 * MIB) as arena,
    ):
        over = threading.Event()

        def disturbing() -> None:
            with mmap.mmap(fd, 2 * MIB) as own:
                while not over.is_set():
                    for character in (b"a", b"b"):
                        own[:] = character * (2 * MIB)
                        if disturb == "holes":
                            own.madvise(mmap.MADV_REMOVE)

        disturber = threading.Thread(target=disturbing)
        disturber.start()
        try:
            for _ in range(8):
                assert send_from_arena(channel, 0, 2 * MIB) == 0
                with peer.recv() as message:
                    seen = bytes(message.payload)
                    assert set(seen) <= {0, *b"ab"}
                    assert message.payload == seen
                p.send([0x10], TEXT)
                with p.recv() as message:
                    assert bytes(message.payload) == TEXT
        finally:
            over.set()
            disturber.join()
        assert len(arena) == 2 * MIB


def test_an_arena_that_was_replaced_is_read_no_more(bus: NativeBus) -> None:
    """A client cannot make the bus read memory that it has given up, nor past the new end."""
    with (
        bus.channel().open() as channel, arena_of(channel, 2 * MIB) as old, arena_of(channel, MIB) as new,
        Peer.from_descriptor(channel.descriptor, bus.address) as peer,
    ):
        os.pwrite(old, b"old" * 100, 0)
        os.pwrite(new, b"new" * 100, 0)
        assert send_from_arena(channel, 0, 300) == 0
        assert send_from_arena(channel, MIB, 1) == errno.EINVAL
        with peer.recv() as message:
            assert bytes(message.payload) == b"new" * 100


def test_no_request_gives_the_bus_memory_of_the_clients_making(bus: NativeBus) -> None:
    """ARENA takes no descriptor, so the bus never reads a file that the client could truncate."""
    with bus.channel().open() as channel:
        own = os.memfd_create("own")
        channel.write(encode(Operation.ARENA, 4, struct.pack("<Q", 4096), 1), Fds([own]))
        frame = channel.frame()
        assert b"takes no descriptors" in frame.body
        with pytest.raises(EOFError):
            channel.frame()
