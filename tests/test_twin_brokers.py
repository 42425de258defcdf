"""A broker with a lane and one without are the same to every client, whatever is written to them."""

from __future__ import annotations

import json
import os

import pytest
from twin_brokers import World, frames_of, scripts

from bus1 import acceleration
from bus1.core.api import Limits

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")

DEPTH = int(os.environ.get("BUS1_TWIN_DEPTH", "1"))
"""How many times as many scripts."""
SMALL = Limits(slices=24, handles=48, inflight_bytes=1 << 16, inflight_fds=8)
SCENES: dict[str, tuple[Limits, dict[str, int], bool]] = {
    "one answer each": (Limits(), {}, False),
    "several answers": (Limits(), {}, True),
    "small quotas": (SMALL, {}, False),
    "small quotas, several answers": (SMALL, {}, True),
    "small turns": (Limits(), {"requests_per_turn": 2}, True),
    "small turns, one answer each": (Limits(), {"requests_per_turn": 2}, False),
    "small outlets": (Limits(), {"unsent_bytes": 2000}, False),
}


def compare(seed: int, length: int, scene: str, spoilt: float = 0.005) -> None:
    limits, broker_limits, asks_for_more = SCENES[scene]
    worlds = [World(has_lane=has_lane, limits=limits, **broker_limits) for has_lane in (True, False)]
    try:
        assert worlds[0].broker.lane is not None and worlds[1].broker.lane is None
        for number, step in enumerate(scripts(seed, length, asks_for_more=asks_for_more, spoilt=spoilt)):
            for world in worlds:
                client = world.clients[step.client]
                if step.takes_byte:
                    client.take_byte()
                else:
                    client.write(step.data)
                world.rest()
            ours, theirs = [world.look() for world in worlds]
            for who, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
                assert mine == other, (
                    f"seed {seed}, step {number}, client {step.client} wrote {frames_of(step.data)}; "
                    f"client {who} saw {frames_of(mine.data)} {mine.n_fds} {mine.n_ready}, "
                    f"without a lane {frames_of(other.data)} {other.n_fds} {other.n_ready}"
                )
            assert snapshot(worlds[0]) == snapshot(worlds[1]), f"seed {seed}, step {number}"
    finally:
        for world in worlds:
            world.close()
    assert not any(worlds[0].hub.core.snapshot()["peers"])


def snapshot(world: World) -> str:
    """The state of Core, as text; which of two receivers was told first is of no consequence."""
    state = world.hub.core.snapshot()
    for peer in state["peers"].values():
        for node in peer["nodes"].values():
            node["holders"].sort()
    return json.dumps(state, default=bytes.hex, sort_keys=True)


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("seed", range(4 * DEPTH))
def test_both_say_the_same_after_every_write(scene: str, seed: int) -> None:
    compare(seed, 120, scene)


@pytest.mark.parametrize("seed", range(30 * DEPTH))
def test_both_say_the_same_of_what_is_wrong(seed: int) -> None:
    compare(seed, 25, "small turns, one answer each" if seed % 2 else "one answer each", spoilt=0.4)
