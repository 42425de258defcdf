"""Many peers of one user: a thousand at once, multicasts to hundreds, and their end in parallel."""

from __future__ import annotations

import os
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Barrier

import pytest
from child import ended, forked
from native_bus import InProcessBus, NativeBus

from bus1.core.api import NO_LIMIT, Limits, MessageType
from bus1.errors import QuotaExceeded, WouldBlock
from bus1.peer import Peer

AnyBus = InProcessBus | NativeBus
N_DESCRIPTORS = 8192
"""Two for each peer here; in the bus process three for each, which one user may have half of."""
N_RECEIVERS = 256
N_CHILDREN = 1000
N_SIBLINGS = 100
WORKERS = 20


@pytest.fixture(scope="module", autouse=True)
def descriptors() -> Iterator[None]:
    """As many as the system lets this process have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < N_DESCRIPTORS:
        pytest.fail(f"these need {N_DESCRIPTORS} descriptors, the hard limit (ulimit -Hn) is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, N_DESCRIPTORS), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=["in-process", "socket"])
def new_bus(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[Limits], AnyBus]]:
    """Makes a bus on either link; in the end everything has been given back."""
    made: list[tuple[AnyBus, int]] = []

    def new(limits: Limits) -> AnyBus:
        bus = InProcessBus(limits) if request.param == "in-process" else NativeBus(tmp_path, limits)
        made.append((bus, bus.n_fds()))
        return bus

    yield new
    for bus, n_fds in made:
        bus.wait_until_idle(n_fds)
        bus.close()


@pytest.fixture
def bus(new_bus: Callable[[Limits], AnyBus]) -> AnyBus:
    return new_bus(Limits())


@contextmanager
def open_peers(bus: AnyBus, n: int) -> Iterator[list[Peer]]:
    peers: list[Peer] = []
    try:
        peers.extend(bus.peer() for _ in range(n))
        yield peers
    finally:
        for peer in peers:
            peer.close()


# ---- as many as the manual page's own benchmark ------------------------------------------------------


def n_mapped_pools() -> int:
    """Pools that this process maps."""
    return Path("/proc/self/maps").read_text().count("memfd:bus1-pool")


def test_257_peers_of_one_user_are_open_and_mapped_at_once(bus: AnyBus) -> None:
    """A-IO-1: each has received what is too large to come in the answer."""
    with open_peers(bus, N_RECEIVERS + 1) as peers:
        messages = []
        for number, peer in enumerate(peers):
            peer.send([0x100], number.to_bytes(2, "little") * 3000)
            messages.append(peer.recv())
        assert isinstance(bus, InProcessBus) or n_mapped_pools() == N_RECEIVERS + 1
        for number, message in enumerate(messages):
            assert bytes(message.payload) == number.to_bytes(2, "little") * 3000
            message.release()


def test_multicasts_to_1_2_4_and_so_on_to_256_peers(bus: AnyBus) -> None:
    """A-IO-2, A-IO-4, A-IO-5, A-IO-6, A-IO-7: each receives it at once, and gives the slice back."""
    with open_peers(bus, N_RECEIVERS + 1) as (sender, *receivers):
        handles = [receiver.transfer(0x100, sender) for receiver in receivers]
        assert len(set(handles)) == N_RECEIVERS
        for n in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            for payload in (b"", os.urandom(1024)):
                assert sender.send(handles[:n], payload) == [0] * n
                for receiver in receivers[:n]:
                    message = receiver.recv(max_offset=NO_LIMIT)
                    assert (message.type, message.destination) == (MessageType.DATA, 0x100)
                    assert message.n_bytes == len(payload) and bytes(message.payload) == payload
                    receiver.release_slice(message.offset)
                    with pytest.raises(WouldBlock):
                        receiver.recv()


@pytest.mark.parametrize("times", [
    10_000, pytest.param(1_000_001, marks=[pytest.mark.deep, pytest.mark.timeout(1800)]),
])
def test_a_message_to_nobody_can_be_sent_without_end(bus: AnyBus, times: int) -> None:
    """A-IO-3, T-6: it is checked, delivered nowhere, and leaves nothing."""
    payload = bytes(1024)
    with bus.peer() as peer:
        before = bus.snapshot()
        for _ in range(times):
            assert peer.send([], payload) == []
        assert bus.snapshot() == before | {"stamp": before["stamp"] + times}


# ---- a parent and its thousand children ------------------------------------------------------------


@dataclass
class Hive:
    """Children that have handed a node to their parent each, and will know some of their siblings."""

    bus: AnyBus
    parent: Peer
    children: list[Peer]
    handles: list[int] = field(default_factory=list)
    """The parent's, child by child."""

    def gather(self) -> None:
        """Every child hands its node to the parent."""
        self.handles = [child.transfer(0x100, self.parent) for child in self.children]

    def siblings(self, number: int) -> list[int]:
        """Whom a child gets to know: the parent's handles."""
        return [self.handles[(number + step) % N_CHILDREN] for step in range(1, N_SIBLINGS + 1)]

    def introduce(self, number: int) -> None:
        """The parent sends a child its siblings."""
        self.parent.send([self.handles[number]], b"siblings", self.siblings(number))
        with self.children[number].recv() as message:
            assert len(set(message.handles)) == N_SIBLINGS

    def may_introduce(self, number: int) -> bool:
        """The same, unless it is EDQUOT."""
        try:
            self.introduce(number)
        except QuotaExceeded:
            return False
        return True

    def is_told(self) -> None:
        """Once all children are gone: one NODE_DESTROY for each, and nothing else."""
        while len(self.bus.snapshot()["peers"]) > 1:
            continue
        told: Counter[int] = Counter()
        while True:
            try:
                notification = self.parent.recv()
            except WouldBlock:
                break
            assert notification.type is MessageType.NODE_DESTROY
            told[notification.destination] += 1
        assert told == Counter(self.handles)


@contextmanager
def new_hive(bus: AnyBus) -> Iterator[Hive]:
    with bus.peer() as parent, open_peers(bus, N_CHILDREN) as children:
        hive = Hive(bus, parent, children)
        hive.gather()
        yield hive


def close_one_by_one(children: list[Peer]) -> None:
    for child in children[::2] + children[1::2]:
        child.close()


def close_in_threads(children: list[Peer]) -> None:
    start = Barrier(WORKERS)

    def work(part: list[Peer]) -> None:
        start.wait()
        for child in part:
            child.close()

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(work, [children[i::WORKERS] for i in range(WORKERS)]))


def close_in_processes(children: list[Peer]) -> None:
    """Each of four processes holds a quarter of the peers alone; they end together."""
    go, wait = os.pipe()

    def hold(place: int) -> None:
        os.close(wait)
        for number, child in enumerate(children):
            if number % 4 != place:
                os.close(child.fileno())
        os.read(go, 1)

    pids = []
    for place in range(4):
        pids.append(forked(partial(hold, place)))
    for child in children:
        child.close()
    os.close(wait)
    os.close(go)
    for pid in pids:
        assert ended(pid) == 0


@pytest.mark.parametrize(("new_bus", "close"), [
    ("in-process", close_one_by_one),  # one thread drives such a bus
    ("socket", close_in_threads),
    ("socket", close_in_processes),
], indirect=["new_bus"])
def test_a_thousand_peers_that_end_in_parallel_are_one_notification_each(
    new_bus: Callable[[Limits], AnyBus], close: Callable[[list[Peer]], None]
) -> None:
    """A-HV-1, A-HV-2, N-1, N-6: every child knows a hundred siblings, by messages of their parent."""
    bus = new_bus(Limits(handles=131_072))
    with new_hive(bus) as hive:
        for number in range(N_CHILDREN):
            hive.introduce(number)
        close(hive.children)
        hive.is_told()


@pytest.mark.parametrize("new_bus", [
    "in-process", pytest.param("socket", marks=[pytest.mark.deep, pytest.mark.timeout(600)]),
], indirect=True)
def test_handles_of_siblings_may_be_transferred_as_well(new_bus: Callable[[Limits], AnyBus]) -> None:
    """A-HV-1, H-57: a hundred thousand transfers, and the user has a reference for each."""
    bus = new_bus(Limits(handles=131_072))
    with new_hive(bus) as hive:
        for number, child in enumerate(hive.children):
            got = {hive.parent.transfer(sibling, child) for sibling in hive.siblings(number)}
            assert len(got) == N_SIBLINGS
        (user,) = bus.snapshot()["users"].values()
        assert user["used"]["handles"] == N_CHILDREN * (2 + N_SIBLINGS)
        close_one_by_one(hive.children)
        hive.is_told()


def test_at_the_default_limit_the_same_ends_in_edquot(new_bus: Callable[[Limits], AnyBus]) -> None:
    """A-HV-1, Q-1, Q-2, Q-9, Q-13: the one that is refused changes nothing; the others lose nothing."""
    bus = new_bus(Limits())
    with new_hive(bus) as hive:
        introduced = [number for number in range(N_CHILDREN) if hive.may_introduce(number)]
        # a message may have a quarter of what is left: of 65536 handles, two for each child are taken before
        assert introduced == list(range(632))
        left = 65_536 - 2 * N_CHILDREN - N_SIBLINGS * len(introduced)
        for _ in range(left):
            hive.parent.transfer(hive.handles[0], hive.children[-1])
        before = bus.snapshot()
        with pytest.raises(QuotaExceeded):
            hive.parent.transfer(hive.handles[0], hive.children[-1])
        with pytest.raises(QuotaExceeded):
            hive.introduce(0)
        assert bus.snapshot() == before
        close_one_by_one(hive.children)
        hive.is_told()
