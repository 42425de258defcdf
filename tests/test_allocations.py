"""A bus process without memory for a message: ENOMEM for its sender alone, and nothing else has changed."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from native_bus import NativeBus

from bus1.core.api import Limits, SendFlag
from bus1.errors import OutOfMemory
from bus1.peer import Peer

MIB = 1 << 20
FAILURES = {"pages": "posix_fallocate", "segment": "memfd_create"}
FOREVER = 1 << 30


@pytest.fixture(scope="module")
def module_bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    limits = Limits(inflight_bytes=1 << 28)
    bus = NativeBus(tmp_path_factory.mktemp("bus"), limits, pools_by_os=True)
    yield bus
    bus.close()


@pytest.fixture
def bus(module_bus: NativeBus) -> Iterator[NativeBus]:
    """Afterwards nothing fails any more, and the bus is as it was before."""
    n_fds = module_bus.n_fds()
    yield module_bus
    for name in FAILURES.values():
        module_bus.fail(name, 0)
    module_bus.wait_until_idle(n_fds)


@pytest.fixture
def peers(bus: NativeBus) -> Iterator[list[Peer]]:
    peers = [bus.peer() for _ in range(4)]
    for peer in peers:  # those who send large messages have an arena
        peer.send([], bytes(3 * MIB))
    yield peers
    for peer in peers:
        peer.close()


@contextmanager
def unchanged(bus: NativeBus) -> Iterator[None]:
    """Somebody is told ENOMEM, and the bus is as before."""
    before, n_fds = bus.snapshot(), bus.n_fds()
    with pytest.raises(OutOfMemory) as raised:
        yield
    assert raised.value.errno == errno.ENOMEM
    assert bus.snapshot() == before and bus.n_fds() == n_fds


def texts(peer: Peer, n: int) -> list[bytes]:
    """The first bytes of the next messages."""
    found = []
    for _ in range(n):
        with peer.recv() as message:
            found.append(bytes(message.payload[:5]))
    return found


@pytest.mark.parametrize("what", FAILURES)
def test_no_memory_for_a_message_is_enomem_for_its_sender_alone(
    bus: NativeBus, peers: list[Peer], what: str
) -> None:
    """T-46, T-50, E-3."""
    p, q, r, s = peers
    to_q, to_r, r_to_q = q.transfer(0x10, p), r.transfer(0x10, p), q.transfer(0x10, r)
    large = bytes(2 * MIB)
    bus.fail(FAILURES[what], 1)
    with open(os.devnull) as null, unchanged(bus):
        p.send([to_q, 0x30], [b"never", large], [0x40, to_r], [null.fileno()])
    r.send([r_to_q], [b"other", large])
    p.send([to_r], [b"where", large])
    p.send([to_q], [b"again", large])
    assert texts(q, 2) == [b"other", b"again"]
    assert texts(r, 1) == [b"where"]
    assert s.query() == p.query()


@pytest.mark.parametrize("what", FAILURES)
@pytest.mark.parametrize("place", range(3))
def test_of_a_multicast_nobody_gets_anything_unless_it_continues(
    bus: NativeBus, peers: list[Peer], what: str, place: int
) -> None:
    """T-46, T-50, T-51, T-55: memory is short at one of three destinations."""
    sender, *receivers = peers
    to = [peer.transfer(0x10, sender) for peer in receivers]
    payload = [b"multi", bytes(2 * MIB)]
    bus.fail(FAILURES[what], 1, first=place)
    with unchanged(bus):
        sender.send(to, payload, [0x40])
    bus.fail(FAILURES[what], 1, first=place)
    slots = sender.send(to, payload, flags=SendFlag.CONTINUE)
    assert slots == [-errno.ENOMEM if i == place else 0 for i in range(3)]
    assert sender.send(to, payload) == [0, 0, 0]
    for i, peer in enumerate(receivers):
        assert texts(peer, 1 if i == place else 2)[0] == b"multi"
        with pytest.raises(BlockingIOError):
            peer.recv()


def test_who_needs_no_new_pages_goes_on_while_there_are_none(bus: NativeBus, peers: list[Peer]) -> None:
    """T-46: a receiver's pool keeps the pages that it once had."""
    p, q, r, _ = peers
    to_q, to_r = q.transfer(0x10, p), r.transfer(0x10, p)
    p.send([to_r], bytes(8000))
    r.recv().release()
    bus.fail("posix_fallocate", FOREVER)
    bus.fail("memfd_create", FOREVER)
    for _ in range(3):
        with unchanged(bus):
            p.send([to_q], bytes(100))
        with unchanged(bus):
            p.send([to_r], bytes(100_000))
        p.send([to_r], [b"small", bytes(7000)])
        assert texts(r, 1) == [b"small"]
    with bus.peer() as late:
        assert p.transfer(0x50, late) == 0xB
    bus.fail("posix_fallocate", 0)
    bus.fail("memfd_create", 0)
    p.send([to_q], b"at last")
    assert texts(q, 1) == [b"at la"]


@pytest.mark.parametrize("what", FAILURES)
def test_a_seed_that_finds_no_memory_leaves_the_old_one(
    bus: NativeBus, peers: list[Peer], what: str
) -> None:
    """S-3, E-3."""
    peer = peers[0]
    peer.set_seed([b"first", bytes(2 * MIB)], [0x40])
    bus.fail(FAILURES[what], 1)
    with unchanged(bus):
        peer.set_seed([b"second", bytes(2 * MIB)], [0x50])
    with peer.seed() as seed:
        assert bytes(seed.payload[:5]) == b"first"


def test_an_arena_that_cannot_be_made_is_enomem_and_made_the_next_time(bus: NativeBus) -> None:
    """E-3: large payloads come through memory that the bus makes for the client."""
    with bus.peer() as peer:
        bus.fail("memfd_create", 1)
        with unchanged(bus):
            peer.send([0x10], bytes(2 * MIB))
        peer.send([0x10], bytes(2 * MIB))
        with peer.recv() as message:
            assert message.n_bytes == 2 * MIB


def address_space(bus: NativeBus) -> int:
    """Bytes that the bus process maps now, and room for whatever else it does meanwhile."""
    pages = int(Path(f"/proc/{bus.process.pid}/statm").read_text().split()[0])
    return pages * resource.getpagesize() + 8 * MIB


def less_than_a_segment(bus: NativeBus) -> int:
    """What any file may have; more than any message has that the bus sends to its own files."""
    return MIB


@pytest.mark.parametrize(("limit", "most"), [
    (resource.RLIMIT_AS, address_space), (resource.RLIMIT_FSIZE, less_than_a_segment),
])
def test_a_real_shortage_is_enomem_too(
    tmp_path: Path, limit: int, most: Callable[[NativeBus], int]
) -> None:
    """T-46, E-3: the kernel refuses the bus process a larger pool; small ones live on."""
    bus = NativeBus(tmp_path, Limits(inflight_bytes=1 << 28))
    with bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], bytes(5000))
        q.recv().release()
        p.send([], bytes(16 * MIB))
        resource.prlimit(bus.process.pid, limit, (most(bus), resource.RLIM_INFINITY))
        with unchanged(bus):
            p.send([to_q], bytes(16 * MIB))
        p.send([to_q], b"small")
        assert texts(q, 1) == [b"small"]
        resource.prlimit(bus.process.pid, limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        p.send([to_q], [b"large", bytes(2 * MIB)])
        assert texts(q, 1) == [b"large"]
    bus.close()
