"""two_peers: two peers of one bus over each link, for tests that name the fixtures they take.

Theory. A file that wants them says so: ``p, q = two_peers.p, two_peers.q``. After each test the bus and the
test's own process must hold no descriptor more than before.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from native_bus import InProcessBus, NativeBus
from shortage import everything_given_back

from bus1.descriptors import Fds
from bus1.errors import WouldBlock
from bus1.peer import Peer

PATIENCE = 30.0
"""Seconds until a test gives up."""


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
    with everything_given_back(bus):
        yield


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


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    with Fds(os.pipe()) as fds:
        yield fds[0], fds[1]


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


@pytest.fixture(autouse=True)
def bystanders(bus: NativeBus) -> Iterator[None]:
    """Two peers that notice nothing; afterwards the bus is as it was before."""
    n_fds = bus.n_fds()
    with bus.peer() as p, bus.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], b"before")
        yield
        p.send([to_q], b"after")
        assert drained(q) == [b"before", b"after"]
    bus.wait_until_idle(n_fds)
