"""The one order of events (§9), with a process for every peer and a bus process between them.

Each process records what it does and sees, and when; ``order_checker`` decides whether one order explains it
all. Side channels are real: a pipe, shared memory, and the clock itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from native_bus import NativeBus
from order_checker import Event, complaints
from order_parties import Part, mailbox, play

from bus1.core.api import Limits

Script = list[list[Any]]
Play = Callable[[str], list[Event]]
LARGE = Limits(slices=1 << 22, handles=1 << 24, inflight_bytes=1 << 30)


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("bus"), LARGE)
    yield bus
    bus.close()


@pytest.fixture
def broken_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path, LARGE, hub=request.param)
    yield bus
    bus.close()


def taken_by(name: str, events: list[Event]) -> list[str]:
    """What a party took, in order; without the ends of the others."""
    ends = {copy for event in events if "(end)" in event.what for copy in event.puts}
    return [event.takes[1] for event in events if event.takes and event.takes not in ends
            and event.takes[0] == name]


def to(name: str, *labels: str) -> list[str]:
    """How messages to a mailbox are called."""
    return [f"{label} to {mailbox(name)}" for label in labels]


# ---- the plays -------------------------------------------------------------------------------------


def same_origin(address: str) -> list[Event]:
    """A sends, destroys and releases in turns; B sees it all."""
    script: Script = []
    for number in range(40):
        script += [["send", "B:10"], ["destroy", f"A:{0x1000 + 16 * number:x}"]]
        script += [["release", f"B:{0x1000 + 16 * number:x}"], ["send", "B:10", "A:10"]]
    nodes = range(0x1000, 0x1000 + 16 * 40, 16)
    return play(address, {
        "A": Part(arguments=[script], nodes={node: ["B"] for node in nodes}),
        "B": Part(nodes={node: ["A"] for node in nodes}),
    })


def triangle(address: str) -> list[Event]:
    """A multicasts to B and C; B, having received, sends to C."""
    return play(address, {
        "A": Part(arguments=[[["send", "B:10", "C:10"]] * 150]),
        "B": Part("answer", [150, ["C:10"]]),
        "C": Part(),
    })


def pipe(address: str) -> list[Event]:
    """A's SEND has returned; A writes into a pipe; D reads it and sends. And the other way round."""
    return play(address, {
        "A": Part(arguments=[[["send", "B:10"], ["write", "there"], ["read", "back"]] * 100]),
        "D": Part(arguments=[[["read", "there"], ["send", "B:10"], ["write", "back"]] * 100]),
        "B": Part(),
    }, ["there", "back"])


def shared_memory(address: str) -> list[Event]:
    """As with the pipe; a number in shared memory says whose turn it is."""
    turns: list[Script] = [[], []]
    for number in range(60):
        for who in range(2):
            turns[who] += [["see", 2 * number + who], ["send", "B:10"], ["show", 2 * number + who + 1]]
    return play(address, {"A": Part(arguments=[turns[0]]), "D": Part(arguments=[turns[1]]), "B": Part()})


def received_then_told(address: str) -> list[Event]:
    """B's RECV has returned; B writes into a pipe; D reads it and sends to C, who was addressed as well."""
    return play(address, {
        "A": Part(arguments=[[["send", "B:10", "C:10"]] * 100]),
        "B": Part(arguments=[[["recv", "data"], ["write", "told"]] * 100]),
        "D": Part(arguments=[[["read", "told"], ["send", "C:10"]] * 100]),
        "C": Part(),
    }, ["told"])


def two_multicasters(address: str) -> list[Event]:
    """X and Y multicast to B and C at the same time."""
    say: Script = [["send", "B:10", "C:10"]] * 200
    return play(address, {"X": Part(arguments=[say]), "Y": Part(arguments=[say]), "B": Part(), "C": Part()})


def reactions(address: str) -> list[Event]:
    """A multicasts; each of four receivers reacts at once to all the others."""
    names = ["B", "C", "D", "E"]
    others = {name: [mailbox(other) for other in names if other != name] for name in names}
    say: Script = [["send", *map(mailbox, names)]] * 60
    return play(address, {
        "A": Part(arguments=[say]), **{name: Part("answer", [60, others[name]]) for name in names},
    })


def notifications(address: str) -> list[Event]:
    """P drops its last handle to a node of O, destroys a node that O holds; then P, or D, sends to O."""
    script: Script = []
    for number in range(40):
        node = f"{0x1000 + 16 * number:x}"
        script += [["release", f"O:{node}"], ["send", "O:10"], ["destroy", f"P:{node}"], ["write", "told"]]
        script += [["read", "back"]]
    nodes = range(0x1000, 0x1000 + 16 * 40, 16)
    return play(address, {
        "P": Part(arguments=[script], nodes={node: ["O"] for node in nodes}),
        "O": Part(nodes={node: ["P"] for node in nodes}),
        "D": Part(arguments=[[["read", "told"], ["send", "O:10"], ["write", "back"]] * 40]),
    }, ["told", "back"])


def deaths(address: str) -> list[Event]:
    """O destroys four nodes in one call while one process each uses them and hears of the others."""
    names, n_rounds = ["A", "B", "C", "D"], 12
    nodes: dict[int, Sequence[str]]
    nodes = {0x1000 + 16 * number: [names[number % 4]] for number in range(4 * n_rounds)}
    used = [[f"O:{0x1000 + 16 * (4 * number + who):x}" for who in range(4)] for number in range(n_rounds)]
    parts = {
        name: Part("mourn", [[row[who] for row in used], [mailbox(n) for n in names if n != name]])
        for who, name in enumerate(names)
    }
    return play(address, {"O": Part("reap", [used], nodes), **parts}, ["used"])


def smuggling(address: str) -> list[Event]:
    """A passes handles to B and C, who have none, while their owner P destroys the nodes."""
    nodes = [0x1000 + 16 * number for number in range(40)]
    names = [f"P:{node:x}" for node in nodes]
    events = play(address, {
        "A": Part("smuggle", [names, ["B:10", "C:10"]]), "B": Part(), "C": Part(),
        "P": Part("obey", [names], {node: ["A"] for node in nodes}),
    })
    got = {(event.process, node) for event in events if event.takes for node in event.alive}
    return [
        replace(event, puts=(*event.puts, *(
            (name, f"death of {node}") for node in event.kills for name in "BC" if (name, node) in got
        )))
        for event in events
    ]


def storm(address: str, count: int = 60, seed: int = 1) -> list[Event]:
    """Eight processes that do everything at once; each node of the second kind has one holder."""
    random = Random(seed)
    names = list("ABCDEFGH")
    mortal, leased = range(0x1000, 0x1060, 16), range(0x2000, 0x2060, 16)
    holders = {
        name: {node: random.choice([other for other in names if other != name]) for node in leased}
        for name in names
    }
    parts = {}
    for name in names:
        own = [f"{name}:{node:x}" for node in mortal]
        held = [f"{owner}:{node:x}" for owner in names for node in leased if holders[owner][node] == name]
        carried = [f"{owner}:{node:x}" for owner in names for node in (0x10, *mortal)]
        nodes: dict[int, Sequence[str]] = {node: [holders[name][node]] for node in leased}
        nodes |= dict.fromkeys(mortal, names)
        parts[name] = Part("storm", [count, random.randrange(1 << 30), own, held, carried], nodes)
    return play(address, parts)


# ---- what is seen ----------------------------------------------------------------------------------


def test_events_of_one_origin_are_seen_in_their_order(bus: NativeBus) -> None:
    """G-2, G-7: messages, destructions and releases of A, as B sees them."""
    events = same_origin(bus.address)
    assert complaints(events) == []
    put = [copy for event in events if event.process == "A" and "(end)" not in event.what
           for name, copy in event.puts if name == "B"]
    assert taken_by("B", events) == put and len(put) == 160


def test_who_has_received_a_multicast_is_not_overtaken(bus: NativeBus) -> None:
    """G-3, G-6: the triangle."""
    events = triangle(bus.address)
    assert complaints(events) == []
    seen = taken_by("C", events)
    for number in range(150):
        first, then = to("C", f"A{number}", f"B{number}")
        assert seen.index(first) < seen.index(then)


@pytest.mark.parametrize(("channel", "count"), [(pipe, 100), (shared_memory, 60)])
def test_what_was_completed_comes_first_whoever_tells_of_it(
    bus: NativeBus, channel: Play, count: int
) -> None:
    """G-4: the bus sees nothing of the side channel."""
    events = channel(bus.address)
    assert complaints(events) == []
    assert taken_by("B", events) == to("B", *(f"{who}{n}" for n in range(count) for who in "AD"))


def test_a_recv_that_has_returned_precedes_a_send_started_after_it(bus: NativeBus) -> None:
    """G-4, G-6: D learns of B's RECV by a pipe."""
    events = received_then_told(bus.address)
    assert complaints(events) == []
    seen = taken_by("C", events)
    for number in range(100):
        first, then = to("C", f"A{number}", f"D{number}")
        assert seen.index(first) < seen.index(then)


def test_concurrent_multicasts_come_in_one_order_everywhere(bus: NativeBus) -> None:
    """G-1, G-5: whichever."""
    events = two_multicasters(bus.address)
    assert complaints(events) == []
    at_b, at_c = taken_by("B", events), taken_by("C", events)
    assert [copy.split()[0] for copy in at_b] == [copy.split()[0] for copy in at_c]
    assert sorted(at_b) == sorted(to("B", *(f"{who}{n}" for who in "XY" for n in range(200))))


def test_a_multicast_is_seen_before_every_reaction_to_it(bus: NativeBus) -> None:
    """G-6: each reaction, at each of the others."""
    events = reactions(bus.address)
    assert complaints(events) == []
    for name in "BCDE":
        seen = taken_by(name, events)
        for number in range(60):
            first, *then = to(name, *(f"{who}{number}" for who in "ABCDE" if who != name))
            assert all(seen.index(first) < seen.index(reaction) for reaction in then)


def test_notifications_are_events_like_messages(bus: NativeBus) -> None:
    """G-7, N-5, N-19: a release or a destruction, then a message to another node of the same owner."""
    events = notifications(bus.address)
    assert complaints(events) == []
    expected = []
    for number in range(40):
        node = f"{0x1000 + 16 * number:x}"
        expected += [f"release of O:{node}", *to("O", f"P{number}"), f"death of P:{node}"]
        expected += to("O", f"D{number}")
    assert taken_by("O", events) == expected


def test_nobody_reacts_to_one_death_and_finds_the_other_node_alive(bus: NativeBus) -> None:
    """G-8: after a death, or news of one, every use of a node of that round fails."""
    events = deaths(bus.address)
    assert complaints(events) == []
    rounds = [set(event.kills) for event in events if event.kills]
    heard_at: dict[int, int] = {}
    for event in events:
        if event.takes and event.takes[1].startswith("death of"):
            node = event.takes[1].removeprefix("death of ")
            number = next(n for n, nodes in enumerate(rounds) if node in nodes)
            heard_at[number] = min(event.end, heard_at.get(number, event.end))
    assert len(heard_at) == len(rounds) == 12
    for event in events:
        for number, nodes in enumerate(rounds):
            assert not nodes.intersection(event.alive) or event.start <= heard_at[number]


def test_a_handle_in_a_message_is_valid_iff_the_message_came_before_the_destruction(bus: NativeBus) -> None:
    """G-9, T-26, N-4, N-6, T-40: the same order decides about handles, notifications and uses of the node."""
    events = smuggling(bus.address)
    assert complaints(events) == []
    for name in "BC":
        valid: dict[str, list[bool]] = {}
        for event in events:
            if event.process == name and event.takes:
                for node in (*event.alive, *event.dead):
                    valid.setdefault(node, []).append(node in event.alive)
        assert len(valid) == 40
        for found in valid.values():
            assert len(found) == 6 and found[0] and not found[-1]
            assert all(earlier or not later for earlier, later in pairwise(found))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_storm_of_eight_processes_has_one_order(bus: NativeBus, seed: int) -> None:
    """G-1, G-2, G-3, G-4, G-5, G-6, G-7, G-8, G-9: messages, answers, handles, deaths and releases."""
    events = storm(bus.address, seed=seed)
    assert complaints(events) == []
    assert len({event.process for event in events}) == 8
    kinds = {event.what.split()[0] for event in events}
    assert kinds == {"sends", "takes", "finds", "destroys", "releases"}
    assert any(event.dead for event in events)


@pytest.mark.deep
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(3))
def test_a_long_storm_has_one_order(bus: NativeBus, seed: int) -> None:
    """G-1: a hundred thousand events."""
    events = storm(bus.address, 4000, seed)
    assert complaints(events) == []


# ---- buses that are broken on purpose --------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken_bus", "acts"),
    [
        ("torn", storm), ("torn", triangle), ("torn", received_then_told), ("torn", two_multicasters),
        ("torn", reactions), ("torn", deaths), ("torn", smuggling),
        ("late", storm), ("late", same_origin), ("late", pipe), ("late", shared_memory),
        ("late", notifications),
    ],
    indirect=["broken_bus"],
)
def test_a_violation_that_is_planted_is_found(broken_bus: NativeBus, acts: Play) -> None:
    found = complaints(acts(broken_bus.address))
    assert any(words.startswith("no order of these events explains") for words in found), found
