"""What the bus does when the kernel runs out of something."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.switch.api import Failed, Shutdown
from bus1_bridge.switch.endpoint import Endpoint
from dbus_client import BUS, BUS_PATH, Client
from test_window import Crank

from bus1 import acceleration
from bus1.listener import SHORTAGE_PAUSE


class Clock:
    """The time of a bus, in the hands of the test."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def crank(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crank]:
    """A bus without a lane: the sockets are Python's, where a test can run them short."""
    with monkeypatch.context() as patch:
        patch.setattr(acceleration, "native", None)
        crank = Crank(tmp_path, clock)
    assert crank.switch.express is None
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


class ShortSocket:
    """A socket whose reads find the kernel without memory."""

    def __init__(self, sock: Any, code: int) -> None:
        self._sock = sock
        self._code = code
        self.n_reads = 0

    def recvmsg(self, *_: object) -> None:
        self.n_reads += 1
        raise OSError(self._code, "short")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


def endpoint_of(crank: Crank, client: Client) -> Endpoint:
    return crank.switch._endpoints[crank.number(client.name)]


@pytest.mark.parametrize("code", [errno.ENOMEM, errno.ENOBUFS])
def test_a_read_without_memory_is_tried_again_after_a_pause(
    crank: Crank, clock: Clock, client: Client, code: int
) -> None:
    endpoint = endpoint_of(crank, client)
    sock = endpoint._sock
    short = ShortSocket(sock, code)
    endpoint._sock = short  # type: ignore[assignment]
    serial = client.call(BUS, "GetId", path=BUS_PATH, interface=BUS)
    for _ in range(5):
        crank.switch.poll(clock.now)
    assert short.n_reads == 1
    clock.now += SHORTAGE_PAUSE
    for _ in range(5):
        crank.switch.poll(clock.now)
    assert short.n_reads == 2
    endpoint._sock = sock
    clock.now += SHORTAGE_PAUSE
    assert crank.during(client.receive).reply_serial == serial


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.ENOMEM])
def test_a_connection_that_cannot_be_watched_is_closed_and_others_learn_of_it(
    crank: Crank, client: Client, other: Client, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    crank.during(lambda: other.match("member='NameOwnerChanged'"))
    endpoint, add = endpoint_of(crank, client), crank.switch.reactor.add

    def full(source: Any, events: int) -> None:
        if source is endpoint:
            raise OSError(code, "no room to watch it")
        add(source, events)

    crank.switch.poll(100.0)
    crank.switch.reactor.remove(endpoint)
    endpoint._watched = 0
    crank.switch.was_used(endpoint)
    monkeypatch.setattr(crank.switch.reactor, "add", full)
    (punt,) = crank.switch.poll(100.0)
    assert isinstance(punt, Failed) and "no room to watch it" in punt.traceback
    assert client.socket.recv(1) == b""
    waits: list[float | None] = []

    def waiting(deadline: float | None) -> int:
        waits.append(deadline)
        return 0

    monkeypatch.setattr(crank.switch.reactor, "run_once", waiting)
    crank.switch.poll(None)
    assert waits == [100.0], "NameOwnerChanged waits for another event"
    assert other.receive().member == "NameOwnerChanged"


def test_a_bus_that_becomes_full_in_the_middle_of_a_turn_accepts_nobody_else(
    crank: Crank, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = crank.switch.router
    before = len(crank.switch._endpoints)
    monkeypatch.setattr(router, "accepts", lambda: len(crank.switch._endpoints) < before + 2)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for sock in waiting:
        sock.connect(crank.path)
    for _ in range(3):
        crank.switch.poll(100.0)
        assert len(crank.switch._endpoints) == before + 2
    for sock in waiting[:2]:
        sock.close()
    for _ in range(4):
        crank.switch.poll(100.0)
    assert len(crank.switch._endpoints) == before + 2, "the others are let in when there is room"
    for sock in waiting:
        sock.close()


def test_a_defect_in_finding_out_what_a_connection_waits_for_costs_this_one(
    crank: Crank, client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, wants = endpoint_of(crank, client), Endpoint._wants

    def broken(self: Endpoint, waits: bool) -> int:
        if self is endpoint:
            raise ZeroDivisionError("who would have thought")
        return wants(self, waits)

    monkeypatch.setattr(Endpoint, "_wants", broken)
    crank.switch.was_used(endpoint)
    (punt,) = crank.switch.poll(100.0)
    assert isinstance(punt, Failed) and "who would have thought" in punt.traceback
    assert client.socket.recv(1) == b""
    crank.during(other.sync)
