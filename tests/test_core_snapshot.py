"""The snapshot covers whatever decides what Core will do: other state, other snapshot."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from core_bus import MIB, BusPeer, CoreBus, FlatMemory

from bus1.core.api import Limits, RecvFlag


def pair(limits: Limits | None = None) -> tuple[CoreBus, BusPeer, BusPeer]:
    bus = CoreBus(limits)
    return bus, bus.peer(1), bus.peer(2, FlatMemory())


def test_default_limits_are_part_of_it() -> None:
    """P-22: they decide what the next user may use."""
    assert CoreBus(Limits(slices=5)).snapshot() != CoreBus(Limits(slices=6)).snapshot()


def test_limits_of_a_user_who_is_not_there_are_part_of_it() -> None:
    bus, other = CoreBus(), CoreBus()
    bus.core.set_user_limits(7, Limits(slices=5))
    assert bus.snapshot() != other.snapshot()
    other.core.set_user_limits(7, Limits(slices=5))
    assert bus.snapshot() == other.snapshot()


def test_it_says_which_segments_are_shared() -> None:
    """L-3: an own segment of 4 MiB looks like a shared one otherwise, and takes no second slice."""
    shared = []
    for size in (4 * MIB, 8):
        _, one, two = pair()
        one.send([two.transfer(0x10, one)], bytes(size))
        (segment,) = two.state()["pool"]["segments"].values()
        assert segment[:2] == [0, 4 * MIB]
        shared.append(segment[4])
    assert shared == [False, True]


def carried(destroyed_before: bool, is_let_go: bool = True) -> CoreBus:
    """A message whose handle is of a node that died before or after it; its owner has let it go."""
    bus, one, two = pair()
    to_two = two.transfer(0x10, one)
    kept = one.transfer(0x100, two)
    if destroyed_before:
        one.destroy(0x100)
    one.send([to_two], handles=[0x100])
    if not destroyed_before:
        one.destroy(0x100)
    if is_let_go:
        one.release(0x100)
    assert two.references(kept)
    return bus


def test_of_a_node_that_was_let_go_it_says_when_it_died_and_who_uses_it() -> None:
    """G-9: whether the handle in the message will be valid depends on it."""
    dead, alive = carried(True).snapshot(), carried(False).snapshot()
    ((was_dead,), (was_alive,)) = dead["let_go"], alive["let_go"]
    message = dead["peers"][2]["queue"][-1]
    assert (message["handles"], was_dead["owner"]) == ([[None, 0]], 1)
    assert was_dead["died"] < message["stamp"] == dead["stamp"]
    (message,) = [entry for entry in alive["peers"][2]["queue"] if entry["type"] == "DATA"]
    assert was_alive["died"] > message["stamp"]
    assert (was_dead["uses"], was_alive["uses"]) == (1, 2)
    assert (was_dead["carriers"], was_alive["carriers"]) == ({}, {2: 1})
    assert carried(False, is_let_go=False).snapshot()["let_go"] == []


def test_nodes_that_were_let_go_are_told_from_each_other() -> None:
    """H-2: two handles of one gone owner are two nodes, and the same node in two places is one."""
    bus, one, two = pair()
    three = bus.peer(3)
    to_three = three.transfer(0x10, two)
    a, b = one.transfer(0x100, two), one.transfer(0x200, two)
    two.send([to_three], handles=[b])
    one.disconnect()
    snapshot = bus.snapshot()
    handles = snapshot["peers"][2]["handles"]
    assert handles[a][0] != handles[b][0]
    (message,) = [entry for entry in snapshot["peers"][3]["queue"] if entry["type"] == "DATA"]
    assert message["handles"] == [handles[b][0]]
    assert {node["owner"] for node in snapshot["let_go"]} == {1}


def holders(*order: int) -> CoreBus:
    bus = CoreBus()
    owner, *others = [bus.peer() for _ in range(3)]
    owner.transfer(0x100)
    for i in order:
        owner.transfer(0x100, others[i])
    return bus


def own_ids(*order: int) -> CoreBus:
    bus = CoreBus()
    owner = bus.peer()
    for number in order:
        owner.transfer(number)
    return bus


@pytest.mark.parametrize(
    "state, one, other",
    [
        pytest.param(holders, (0, 1), (1, 0), id="in which order holders are told of the end"),
        pytest.param(own_ids, (0x100, 0x200), (0x200, 0x100), id="in which order a flush lets go"),
    ],
)
def test_orders_that_decide_are_part_of_it(
    state: Callable[..., CoreBus], one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    assert state(*one).snapshot() == state(*one).snapshot()
    assert state(*one).snapshot() != state(*other).snapshot()


def test_it_says_to_whose_share_an_undelivered_message_belongs() -> None:
    """Q-8: the sender may be gone when the message is taken."""
    bus, one, two = pair()
    one.send([two.transfer(0x10, one)], b"x")
    one.disconnect()
    assert two.state()["account"]["queued"] == {1: [8, 1, 0, 1]}
    assert json.dumps(bus.snapshot())
    two.recv(RecvFlag.PEEK)
    assert two.state()["pool"]["published"] == [[0, 8, 8, 1]]
