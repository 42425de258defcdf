"""A broker with a shorter way for everyday requests, and one without, are the same to every client.

The shorter way is a lane, or without the native body a straight one, whatever is written to them."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterable

import pytest
from twin_brokers import Step, World, calls, frames_of, scripts

from bus1.core.api import NO_LIMIT, Limits
from bus1.descriptors import Fds
from bus1.frames import REQUESTS, Operation, encode

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


def compare(seed: int, scene: str, steps: Iterable[Step]) -> None:
    limits, broker_limits, _ = SCENES[scene]
    worlds = [World(is_plain=is_plain, limits=limits, **broker_limits) for is_plain in (True, False)]
    try:
        assert [bool(world.broker.lane or world.broker.straight) for world in worlds] == [True, False]
        for number, step in enumerate(steps):
            for world in worlds:
                client = world.clients[step.client]
                if step.takes_byte:
                    client.take_byte()
                with Fds([os.memfd_create("sent")] if step.has_fd else []) as fds:
                    client.write(step.data, fds)
                world.rest()
            ours, theirs = [world.look() for world in worlds]
            for who, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
                assert mine == other, (
                    f"seed {seed}, step {number}, client {step.client} wrote {frames_of(step.data)}; "
                    f"client {who} saw {frames_of(mine.data)} {mine.n_fds} {mine.n_ready}, "
                    f"the long way {frames_of(other.data)} {other.n_fds} {other.n_ready}"
                )
            assert snapshot(worlds[0]) == snapshot(worlds[1]), f"seed {seed}, step {number}"
    finally:
        for world in worlds:
            world.close()
    assert not any(worlds[0].hub.core.snapshot()["peers"])


def snapshot(world: World) -> str:
    """The state of Core, as text; numbers of descriptors, and which of two receivers was told first, do not
    matter."""
    state = world.hub.core.snapshot()
    for peer in state["peers"].values():
        for node in peer["nodes"].values():
            node["holders"].sort()
    return re.sub(r'"fds": \[\d+\]', '"fds": [0]', json.dumps(state, default=bytes.hex, sort_keys=True))


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("seed", range(4 * DEPTH))
def test_both_say_the_same_after_every_write(scene: str, seed: int) -> None:
    compare(seed, scene, scripts(seed, 120, asks_for_more=SCENES[scene][2]))


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("seed", range(4 * DEPTH))
def test_both_say_the_same_to_who_wait_for_calls_and_answers(scene: str, seed: int) -> None:
    compare(seed, scene, calls(seed, 120))


@pytest.mark.parametrize("seed", range(30 * DEPTH))
def test_both_say_the_same_of_what_is_wrong(seed: int) -> None:
    scene = "small turns, one answer each" if seed % 2 else "one answer each"
    compare(seed, scene, scripts(seed, 25, spoilt=0.4))


def send(tag: int, handle: int, *handles: int, n_fds: int = 0) -> bytes:
    fields = REQUESTS[Operation.SEND].pack(0, 1, 0, len(handles), 0, 0, 0)
    tail = struct.pack(f"<{1 + len(handles)}Q", handle, *handles)
    return encode(Operation.SEND, tag, fields + tail, n_fds)


def recv(tag: int) -> bytes:
    return encode(Operation.RECV, tag, struct.pack("<QQQ", 4, NO_LIMIT, 3 | 31 << 8))


def destroy(tag: int, node: int) -> bytes:
    return encode(Operation.DESTROY, tag, struct.pack("<QQQ", 1, 1, node))


HANDED_OUT = [Step(0, recv(1)), Step(1, send(2, 11, 0x20, 0x24)), Step(1, send(3, 11))]
"""The first client has handles 35 and 43 of two nodes of the second, which has no RECV parked."""


def test_what_is_told_with_the_next_answer_is_told_with_one_handed_over() -> None:
    steps = [Step(0, send(4, 35)), Step(1, destroy(5, 0x20)), Step(1, recv(6)), Step(0, send(7, 43))]
    compare(0, "several answers", [*HANDED_OUT, *steps])


def test_nothing_overtakes_descriptors_on_offer() -> None:
    steps = [
        Step(1, recv(4) + recv(5)), Step(0, send(6, 35, n_fds=1), has_fd=True), Step(1, destroy(7, 0x20)),
        Step(0, send(8, 43)), Step(1, encode(Operation.INSTALLED, 4, struct.pack("<Q", 1))),
    ]
    compare(0, "several answers", [*HANDED_OUT, *steps])
