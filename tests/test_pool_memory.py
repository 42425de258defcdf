"""Sealed memory: segments that nobody but the bus can change."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections.abc import Callable, Iterator

import pytest
from shortage import n_descriptors, room_for

from bus1.acceleration import native
from bus1.errors import OutOfMemory
from bus1.memory import SealedMemory, Segment, make_arena

MIB = 1 << 20
BODIES: list[type[SealedMemory]] = [SealedMemory, *([native.SealedMemory] if native else [])]


@pytest.fixture(params=BODIES, ids=lambda body: str(body.__module__))
def body(request: pytest.FixtureRequest) -> type[SealedMemory]:
    """The memory in Python, and the native one if it is there."""
    found: type[SealedMemory] = request.param
    return found


@pytest.fixture
def memory(body: type[SealedMemory]) -> Iterator[SealedMemory]:
    n_fds = n_descriptors()
    memory = body()
    memory.open_segment(1, 0, 4 * MIB)
    memory.open_segment(2, 8 * MIB, MIB)
    yield memory
    for generation in (1, 2):
        memory.close_segment(generation)
    assert n_descriptors() <= n_fds


def segment(memory: SealedMemory, generation: int = 1) -> Segment:
    found = memory.segment(generation)
    assert found is not None
    return found


def map_reopened(fd: int) -> mmap.mmap:
    """A writable mapping through a second description of the same file."""
    with open(f"/proc/self/fd/{fd}", "r+b", buffering=0) as again:
        return mmap.mmap(again.fileno(), 4096)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_what_is_written_is_what_a_client_maps(memory: SealedMemory) -> None:
    memory.reserve(2, 8 * MIB + 4096, 100)
    memory.write(2, 8 * MIB + 4096, (b"abc", memoryview(b"def"), bytearray(b"ghi")))
    with mmap.mmap(segment(memory, 2).fd, MIB, mmap.MAP_SHARED, mmap.PROT_READ) as seen:
        assert seen[4096:4105] == b"abcdefghi"
    assert memory.contents(8 * MIB + 4096, 9) == b"abcdefghi"


@pytest.mark.parametrize(
    "attempt",
    [
        lambda fd: mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE),
        lambda fd: os.pwrite(fd, b"x", 0),
        lambda fd: os.ftruncate(fd, 0),
        lambda fd: os.ftruncate(fd, 64 * MIB),
        lambda fd: fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
        lambda fd: map_reopened(fd),
    ],
)
def test_l_5_nobody_else_can_write_to_it_or_change_its_size(
    memory: SealedMemory, attempt: Callable[[int], object]
) -> None:
    with pytest.raises(PermissionError):
        attempt(segment(memory).fd)
    memory.write(1, 0, (b"the bus still can",))


def test_pages_are_allocated_before_they_are_written_and_once(memory: SealedMemory) -> None:
    fd = segment(memory).fd
    assert os.fstat(fd).st_blocks == 0
    memory.reserve(1, 5000, 10000)
    blocks = os.fstat(fd).st_blocks
    assert blocks * 512 >= 10000
    memory.reserve(1, 8192, 4096)
    memory.write(1, 5000, (bytes(10000),))
    assert os.fstat(fd).st_blocks == blocks
    memory.reserve(1, 4 * MIB - 8, 8)
    assert os.fstat(fd).st_blocks > blocks


@pytest.mark.parametrize("body", [SealedMemory])  # only Python's calls a function that can be replaced
def test_pages_that_cannot_be_allocated_are_out_of_memory(
    memory: SealedMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "no space")

    with monkeypatch.context() as patched:
        patched.setattr(os, "posix_fallocate", full)
        for _ in range(2):
            with pytest.raises(OutOfMemory):
                memory.reserve(1, 0, 100)
    memory.reserve(1, 0, 100)


def test_a_segment_that_cannot_be_made_leaves_nothing(memory: SealedMemory) -> None:
    # a mapping of Python's has a descriptor of its own
    for n in (0, 1) if isinstance(memory, SealedMemory) else (0,):
        with room_for(n), pytest.raises(OutOfMemory, match="segment of 4096 bytes: Too many open files"):
            memory.open_segment(3, 16 * MIB, 4096)
    assert memory.segment(3) is None and memory.segment_at(16 * MIB) is None


@pytest.mark.parametrize(
    ("offset", "generation"),
    [
        (0, 1), (4 * MIB - 1, 1), (4 * MIB, None), (8 * MIB - 1, None), (8 * MIB, 2), (9 * MIB, None),
        (2**64 - 1, None),
    ],
)
def test_an_offset_lies_in_at_most_one_segment(
    memory: SealedMemory, offset: int, generation: int | None
) -> None:
    found = memory.segment_at(offset)
    assert (found.generation if found else None) == generation


def test_l_12_a_mapping_survives_its_segment(body: type[SealedMemory]) -> None:
    memory = body()
    memory.open_segment(1, 0, 4096)
    memory.reserve(1, 0, 8)
    memory.write(1, 0, (b"remains.",))
    with mmap.mmap(segment(memory).fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ) as seen:
        memory.close_segment(1)
        assert seen[:8] == b"remains."


def test_an_arena_can_be_written_but_not_truncated() -> None:
    fd = make_arena(8192)
    try:
        with mmap.mmap(fd, 8192) as arena:
            arena[:5] = b"hello"
        assert os.pread(fd, 5, 0) == b"hello"
        for size in (0, 1 << 20):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)
