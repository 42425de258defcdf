"""What becomes of clients in the express lane when the kernel runs out of something."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.switch.api import Failed, Shutdown
from dbus_client import BUS, BUS_PATH, Client
from test_shortages import Clock
from test_window import Crank

from bus1 import acceleration
from bus1.listener import SHORTAGE_PAUSE

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crank(tmp_path: Path, clock: Clock) -> Iterator[Crank]:
    crank = Crank(tmp_path, clock)
    yield crank
    crank.switch.apply([Shutdown()])


@pytest.fixture
def client(crank: Crank) -> Iterator[Client]:
    with crank.during(lambda: Client(crank.path)) as client:
        yield client


@pytest.fixture
def other(crank: Crank) -> Iterator[Client]:
    with crank.during(lambda: Client(crank.path)) as other:
        yield other


class ShortLane:
    """A lane that finds the kernel without memory when it reads for one client."""

    def __init__(self, lane: Any, peer: int) -> None:
        self._lane = lane
        self._peer = peer
        self.n_reads = 0

    def take(self, peer: int) -> object:
        if peer != self._peer:
            return self._lane.take(peer)
        self.n_reads += 1
        return b"", [], "short"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)


def test_a_client_that_epoll_cannot_watch_is_closed_and_others_learn_of_it(
    crank: Crank, client: Client, other: Client
) -> None:
    crank.during(lambda: other.match("member='NameOwnerChanged'"))
    assert crank.switch.express is not None
    peer = crank.number(client.name)
    file = os.memfd_create("what epoll refuses")
    os.dup2(file, crank.switch._endpoints[peer].fileno())
    os.close(file)
    crank.switch.express.lane.want(peer, select.EPOLLOUT)
    punts = [punt for _ in range(3) for punt in crank.switch.poll(100.0)]
    (punt,) = punts
    assert isinstance(punt, Failed) and "no room to watch" in punt.traceback
    told = crank.during(other.receive)
    assert told.member == "NameOwnerChanged" and client.name.encode() in told.body


def test_what_cannot_be_read_for_lack_of_memory_is_read_after_a_pause(
    crank: Crank, clock: Clock, client: Client
) -> None:
    express = crank.switch.express
    assert express is not None
    peer, lane = crank.number(client.name), express.lane
    endpoint = crank.switch._endpoints[peer]
    short: Any = ShortLane(lane, peer)
    express.lane = short
    crank.switch.has_input(endpoint)
    crank.switch.poll(clock.now)
    express.lane = lane
    serial = client.call(BUS, "GetId", path=BUS_PATH, interface=BUS)
    client.socket.setblocking(False)
    for _ in range(5):
        crank.switch.poll(clock.now)
    assert short.n_reads == 1
    with pytest.raises(BlockingIOError):
        client.socket.recv(1)
    clock.now += SHORTAGE_PAUSE
    client.socket.setblocking(True)
    assert crank.during(client.receive).reply_serial == serial
