"""What the lane of native channels does without Python, and when it leaves everything to it."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from broken_hubs import LenientHub
from core_bus import Core
from twin_brokers import ROOT, Client, World

from bus1 import acceleration
from bus1.broker import Broker
from bus1.channel import Channel
from bus1.core.api import NO_LIMIT, Limits
from bus1.frames import ANSWER, ANSWER_PREFIX, HEADER, QUIET, REQUESTS, Note, Operation, encode
from bus1.hub import PlainHub
from bus1.reactor import Reactor
from bus1.station import PeerStation

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
QUERY = encode(Operation.QUERY, 9, bytes(8))


@pytest.fixture
def world() -> Iterator[World]:
    world = World(is_plain=True, limits=Limits())
    yield world
    world.close()


@pytest.fixture
def python(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What has been left to Python."""
    told: list[str] = []
    for owner in (Channel, PeerStation):
        ready = owner.ready

        def noted(
            self: object, events: int, now: float, ready: object = ready, name: str = owner.__name__
        ) -> None:
            told.append(name)
            ready(self, events, now)  # type: ignore[operator]

        monkeypatch.setattr(owner, "ready", noted)
    return told


def send(tag: int, handle: int, payload: bytes = b"", *, quiet: bool = False) -> bytes:
    fixed = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, len(payload), 0, 0)
    operation = Operation.SEND | (QUIET if quiet else 0)
    return encode(operation, tag, fixed + struct.pack("<Q", handle) + payload)


def recv(tag: int, options: int, flags: int = 0) -> bytes:
    return encode(Operation.RECV, tag, struct.pack("<3Q", flags, NO_LIMIT, options))


def answers(client: Client) -> list[tuple[int, int]]:
    """Operation and tag of each frame that has come."""
    data, found, at = client.look().data, [], 0
    while at < len(data):
        length, operation, _, tag = HEADER.unpack_from(data, at)
        found.append((operation & ~ANSWER, tag))
        at += length
    return found


def test_everyday_requests_need_no_python(world: World, python: list[str]) -> None:
    one, two = world.clients[:2]
    two.write(recv(5, 3 | 31 << 8))
    world.rest()
    one.write(send(1, 11, b"hello") + send(2, 11, b"x" * 4000, quiet=True) + recv(3, 0))
    world.rest()
    assert answers(two) == [(Operation.RECV, 5)] * 2
    assert answers(one) == [(Operation.SEND, 1), (Operation.RECV, 3)]
    one.write(encode(Operation.DESTROY, 4, struct.pack("<QQQ", 1, 1, 0x20)) + recv(6, 1))
    one.write(encode(Operation.CANCEL, 6, b""))
    world.rest()
    assert answers(one) == [(Operation.DESTROY, 4), (Operation.RECV, 6)]
    assert not python


def test_an_answer_to_a_call_brings_the_end_of_its_node_along(world: World, python: list[str]) -> None:
    caller, callee = world.clients[:2]
    caller.write(recv(5, 3 | 31 << 8))
    fixed = (0, 1, 0, 1, 0, 0, 0)
    lists = struct.pack("<QQ", 11, 0x20)
    caller.write(encode(Operation.SEND, 6, REQUESTS[Operation.SEND].pack(*fixed) + lists))
    world.rest()
    callee.write(recv(7, 2))
    answer = REQUESTS[Operation.RESPOND].pack(0, 1, 0, 0, 2, 0, 0, 35) + struct.pack("<Q", 35) + b"ok"
    callee.write(encode(Operation.RESPOND, 8, answer))
    world.rest()
    data = caller.look().data
    first = HEADER.unpack_from(data)[0]
    _, _, notes = ANSWER_PREFIX.unpack_from(data, first + HEADER.size)
    assert Note(notes) == Note.MORE | Note.RELEASED
    assert len(data) == first + HEADER.unpack_from(data, first)[0]
    assert not python


def test_what_is_unusual_goes_to_python_and_comes_back(world: World, python: list[str]) -> None:
    one = world.clients[0]
    one.write(send(1, ROOT) + QUERY + send(2, ROOT))
    world.rest()
    assert answers(one) == [(Operation.SEND, 1), (Operation.QUERY, 9), (Operation.SEND, 2)]
    assert python == ["Channel"]
    one.write(send(3, ROOT))
    world.rest()
    assert python == ["Channel"]


def test_who_looks_only_is_served_by_python_until_it_is_over(world: World, python: list[str]) -> None:
    one, two = world.clients[:2]
    two.write(recv(5, 1, flags=1))
    world.rest()
    python.clear()
    one.write(send(1, 11))
    world.rest()
    assert answers(two) == [(Operation.RECV, 5)]
    two.write(recv(6, 0))
    world.rest()
    assert answers(two) == [(Operation.RECV, 6)]


def test_while_a_peer_sees_ids_in_its_own_way_everything_is_pythons(
    world: World, python: list[str]
) -> None:
    one = world.clients[0]
    assert world.broker.lane is not None
    world.broker.lane.suspend(True)
    one.write(send(1, ROOT))
    world.rest()
    one.write(send(2, ROOT))
    world.rest()
    assert answers(one) == [(Operation.SEND, 1), (Operation.SEND, 2)]
    assert python == ["Channel"] * 2
    world.broker.lane.suspend(False)
    for tag in (3, 4):
        one.write(send(tag, ROOT))
        world.rest()
    assert python == ["Channel"] * 3


def test_a_hub_that_does_more_with_what_is_sent_has_no_lane() -> None:
    for hub, has_lane in ((PlainHub(Core()), True), (LenientHub(Core()), False)):
        reactor = Reactor(hub)
        broker = Broker(reactor, hub)
        assert (broker.lane is not None) == has_lane
        broker.close()
        reactor.close()


def test_a_client_that_does_not_read_is_left_to_python_with_what_is_unsent(
    world: World, python: list[str]
) -> None:
    one = world.clients[0]
    tag, asked = 100, 0
    while not python:
        body = struct.pack("<Q", 0x999993)
        one.write(b"".join(encode(Operation.RELEASE, number, body) for number in range(tag, tag + 50)))
        world.rest()
        tag, asked = tag + 50, asked + 50
    told: list[tuple[int, int]] = []
    while more := answers_of_stream(one, told):
        told = more
        world.rest()
        if len(told) == asked:
            break
    assert told == [(Operation.RELEASE, number) for number in range(100, tag)]


def answers_of_stream(client: Client, told: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """What was told before, and what has come since; frames may be cut."""
    client.pending += client.look().data
    at = 0
    while len(client.pending) - at >= HEADER.size:
        length, operation, _, tag = HEADER.unpack_from(client.pending, at)
        if len(client.pending) - at < length:
            break
        told = [*told, (operation & ~ANSWER, tag)]
        at += length
    del client.pending[:at]
    return told
