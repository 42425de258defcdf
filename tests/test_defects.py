"""A defect of the bus costs the connection in whose turn it shows, and nobody else's."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bus1_bridge.switch.api import Failed, Punt, Shutdown
from core_bus import Core, CoreBus
from dbus_client import Client
from native_bus import RawChannel
from test_window import Crank

from bus1.broker import Broker
from bus1.defects import account
from bus1.descriptors import Fds
from bus1.errors import InternalError
from bus1.frames import REQUESTS, Operation, encode
from bus1.hub import PlainHub
from bus1.reactor import Reactor


class Defect(Exception):
    """What nobody has thought of."""


def broken(*_: object, **__: object) -> list[int]:
    raise Defect("who would have thought")


def send(n_destinations: int = 1, n_fds: int = 0) -> bytes:
    """A SEND to the sender's own node 0x10."""
    fixed = REQUESTS[Operation.SEND].pack(0, n_destinations, 0, 0, 0, 0, 0)
    return encode(Operation.SEND, 7, fixed + struct.pack("<Q", 0x10) * n_destinations, n_fds)


@pytest.fixture
def crank(tmp_path: Path) -> Iterator[Crank]:
    crank = Crank(tmp_path)
    yield crank
    crank.switch.apply([Shutdown()])


@pytest.fixture
def channel(crank: Crank) -> Iterator[RawChannel]:
    channel = RawChannel(crank.path + "1")
    crank.during(channel.open)
    yield channel
    channel.close()


def turns(crank: Crank, n: int = 4) -> list[Punt]:
    return [punt for _ in range(n) for punt in crank.switch.poll(0.0)]


def without_lane(crank: Crank) -> None:
    """Every request is executed in Python, where a test can put a defect."""
    if crank.switch.broker.lane is not None:
        crank.switch.broker.lane.suspend(True)


def is_over(crank: Crank, channel: RawChannel) -> bool:
    """The bus has closed the channel, and said nothing."""
    with pytest.raises(EOFError):
        crank.during(channel.frame)
    return True


def test_a_defect_in_a_native_request_costs_that_channel_alone(
    crank: Crank, channel: RawChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = crank.during(lambda: Client(crank.path))
    n_peers = len(crank.switch.router.tables.core.snapshot()["peers"])
    n_fds = len(os.listdir("/proc/self/fd"))
    reading, writing = os.pipe()
    with monkeypatch.context() as patch:
        patch.setattr(crank.switch.broker.hub, "send", broken)
        channel.write(send(n_fds=1) + send(), Fds([writing]))
        (punt,) = turns(crank)
    assert isinstance(punt, Failed) and punt.pid == os.getpid()
    assert "who would have thought" in punt.traceback
    assert is_over(crank, channel)
    assert os.read(reading, 1) == b"", "the bus has closed the descriptor of the request"
    os.close(reading)
    assert len(os.listdir("/proc/self/fd")) < n_fds
    channel.close()
    crank.turn_until(lambda: len(crank.switch.router.tables.core.snapshot()["peers"]) == n_peers - 1)
    crank.during(client.sync)
    client.close()


def test_a_defect_in_a_later_turn_of_a_channel_costs_that_channel(
    crank: Crank, channel: RawChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_lane(crank)
    monkeypatch.setattr(crank.switch.broker.hub, "send", lambda *_, **__: [0])
    channel.write(send() * (crank.switch.broker.limits.requests_per_turn + 1))
    crank.switch.poll(0.0)
    monkeypatch.setattr(crank.switch.broker.hub, "send", broken)
    assert [type(punt) for punt in turns(crank)] == [Failed]


def test_a_defect_in_the_last_requests_of_a_peer_costs_the_peer_alone(
    crank: Crank, channel: RawChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_peers = len(crank.switch.router.tables.core.snapshot()["peers"])
    monkeypatch.setattr(crank.switch.broker.hub, "send", broken)
    channel.write(send())
    (station,) = crank.switch.broker._stations.values()
    crank.switch.broker.hang_up(station)
    assert [type(punt) for punt in turns(crank)] == [Failed]
    assert len(crank.switch.router.tables.core.snapshot()["peers"]) == n_peers - 1


def test_a_broken_invariant_of_core_ends_the_bus_and_is_nobodys_answer(
    crank: Crank, channel: RawChannel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def suspect(*_: object, **__: object) -> list[int]:
        raise InternalError("the state is suspect")

    without_lane(crank)
    monkeypatch.setattr(crank.switch.broker.hub, "send", suspect)
    channel.write(send())
    with pytest.raises(InternalError):
        turns(crank)


def test_a_broker_without_anybody_to_tell_swallows_no_defect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = PlainHub(Core())
    reactor = Reactor(hub)
    broker = Broker(reactor, hub)
    ours, theirs = socket.socketpair()
    broker.accept(ours)
    monkeypatch.setattr("bus1.channel.execute", broken)
    theirs.sendall(encode(Operation.HELLO, 1, b"bus1" + bytes(12)))
    with pytest.raises(Defect):
        reactor.run_once(0.0)
    assert theirs.recv(1) == b""
    theirs.close()
    broker.close()
    reactor.close()


def test_a_defect_in_the_middle_of_a_transaction_leaves_nothing_behind() -> None:
    """E-3, T-50: not even an error that is no part of the contract."""
    bus = CoreBus()
    one, two = bus.peer(), bus.peer()
    to_two = two.transfer(0x10, one)
    before = bus.snapshot()
    with pytest.raises(TypeError):
        one.send([to_two, []])  # type: ignore[list-item]
    assert bus.snapshot() == before


def test_what_cannot_be_told_with_a_traceback_is_told_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no descriptor left to load what writes one."""
    told = []
    for _ in range(2):
        try:
            broken()
        except Defect:
            told.append(account())
        monkeypatch.setitem(sys.modules, "traceback", None)
    assert told[0].startswith("Traceback ") and told[0].endswith("Defect: who would have thought\n")
    assert told[1] == "Defect('who would have thought')\n"
