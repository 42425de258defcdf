"""The checker of orders: planted violations are found, and what it says is what trying every order says."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from order_checker import Copy, Event, complaints

PEERS = ("A", "B", "C")


class Story:
    """Events one after the other, or at the same time: ``at`` sets the clock back."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = 0

    def tell(self, process: str, what: str, *, lasts: int = 1, **rest: object) -> Story:
        self.events.append(Event(process, self.now, self.now + lasts, what, **rest))  # type: ignore[arg-type]
        self.now += lasts + 1
        return self

    def at(self, now: int) -> Story:
        self.now = now
        return self

    def send(self, process: str, name: str, *to: str, lasts: int = 1, **rest: object) -> Story:
        return self.tell(
            process, f"sends {name}", puts=tuple((peer, name) for peer in to), lasts=lasts, **rest
        )

    def recv(self, peer: str, name: str, *, lasts: int = 1, **rest: object) -> Story:
        return self.tell(peer, f"takes {name}", takes=(peer, name), lasts=lasts, **rest)

    def empty(self, peer: str) -> Story:
        return self.tell(peer, "finds nothing", finds_empty=peer)

    def destroy(self, process: str, *nodes: str, to: Sequence[str] = (), lasts: int = 1) -> Story:
        puts = tuple((peer, f"death of {node}") for node in nodes for peer in to)
        return self.tell(process, f"destroys {nodes}", puts=puts, kills=nodes, lasts=lasts)


def cycle(story: Story) -> str:
    """The only complaint: a cycle."""
    (words,) = complaints(story.events)
    assert words.startswith("no order of these events explains what was seen:")
    return words


def concurrent_multicasts() -> Story:
    return Story().send("X", "mx", "B", "C", lasts=5).at(0).send("Y", "my", "B", "C", lasts=5)


# ---- planted violations ----------------------------------------------------------------------------


def test_concurrent_multicasts_may_come_in_either_order_but_in_one() -> None:
    for first, second in (("mx", "my"), ("my", "mx")):
        story = concurrent_multicasts()
        for peer in "BC":
            story.recv(peer, first).recv(peer, second)
        assert complaints(story.events) == []


def test_a_pair_that_is_swapped_at_one_receiver_is_found() -> None:
    story = concurrent_multicasts().recv("B", "mx").recv("B", "my").recv("C", "my").recv("C", "mx")
    words = cycle(story)
    assert "X [0 … 5] sends mx" in words and "in the queue of B, 'my' came behind it" in words
    assert "Y [0 … 5] sends my" in words and "in the queue of C, 'mx' came behind it" in words
    assert words.count("[") == 3  # two events, and the first again


def test_a_lost_copy_is_found_unless_the_queue_was_left_unread() -> None:
    story = Story().send("A", "m", "B", "C").recv("B", "m")
    (words,) = complaints(story.events)
    assert words == "C has lost 'm': A [0 … 1] sends m"
    assert complaints(story.events, unread=["C"]) == []


def test_a_copy_that_is_left_in_an_unread_queue_lies_behind_what_was_taken() -> None:
    story = Story().send("A", "1", "B").send("A", "2", "B").recv("B", "2")
    assert len(complaints(story.events, unread=["B"])) == 1
    assert "lost '1'" in complaints(story.events)[0]


def test_a_duplicate_is_found() -> None:
    story = Story().send("A", "m", "B").recv("B", "m").recv("B", "m")
    (words,) = complaints(story.events)
    assert "took ('B', 'm') twice" in words


def test_what_nobody_sent_is_found() -> None:
    (words,) = complaints(Story().recv("B", "m").events)
    assert "nobody sent what was taken" in words


def test_a_message_that_is_taken_before_it_was_sent_is_found() -> None:
    assert "which put what was taken by" in cycle(Story().recv("B", "m").send("A", "m", "B"))


def test_causality_through_a_chain_is_found() -> None:
    """The clock is of no help: everything starts and ends together."""
    story = Story()
    for process, sends, to, takes in (
        ("A", "m1", ("B", "E"), None), ("B", "m2", ("C",), "m1"), ("C", "m3", ("D",), "m2"),
        ("D", "m4", ("E",), "m3"),
    ):
        if takes:
            story.at(0).recv(process, takes, lasts=99)
        story.at(0).send(process, sends, *to, lasts=99)
    right = list(story.events)
    story.at(0).recv("E", "m4", lasts=99).at(0).recv("E", "m1", lasts=99)
    assert all(f"sends {name}" in cycle(story) for name in ("m1", "m2", "m3", "m4"))
    assert complaints([*right, *reversed(story.events[-2:])]) == []


def test_a_completed_send_that_is_overtaken_is_found() -> None:
    story = Story().send("A", "1", "B").send("D", "2", "B").recv("B", "2").recv("B", "1")
    assert "which was over when this started" in cycle(story)


def test_a_queue_that_is_empty_after_a_send_has_returned_is_found() -> None:
    assert "was empty" in cycle(Story().send("A", "m", "B").empty("B").recv("B", "m"))
    concurrent = Story().send("A", "m", "B", lasts=9).at(1).empty("B").recv("B", "m")
    assert complaints(concurrent.events) == []


def test_a_torn_multicast_is_found() -> None:
    """B reacts to its copy; the reaction is at C before C's copy is."""
    story = Story().send("A", "m", "B", "C", lasts=9).at(1).recv("B", "m").send("B", "reaction", "C")
    story.recv("C", "reaction").recv("C", "m")
    assert "sends m" in cycle(story) and "sends reaction" in cycle(story)


def test_messages_of_one_transaction_at_one_peer_are_adjacent() -> None:
    story = Story().tell("A", "sends m", puts=(("B", "m to 1"), ("B", "m to 2"))).send("C", "x", "B")
    story.recv("B", "m to 2")
    assert complaints([*story.events, *Story().at(90).recv("B", "m to 1").recv("B", "x").events]) == []
    story.recv("B", "x").recv("B", "m to 1")
    assert "sends m" in cycle(story)


def test_a_death_that_is_seen_after_what_it_caused_is_found() -> None:
    story = Story().destroy("A", "n", to=["B", "C"]).recv("B", "death of n").send("B", "n is dead", "C")
    story.recv("C", "n is dead").recv("C", "death of n")
    assert "destroys ('n',)" in cycle(story)


def test_one_death_of_two_that_is_seen_while_the_other_node_lives_is_found() -> None:
    story = Story().destroy("A", "n", "o", to=["B"], lasts=50)
    story.at(1).recv("B", "death of n").recv("B", "death of o").send("B", "m", "A", alive=("o",))
    story.at(60).recv("A", "death of n")
    assert "o was found alive" in complaints(story.events, unread=["A"])[-1]


def test_a_handle_that_is_valid_in_a_message_after_the_destruction_is_found() -> None:
    story = Story().destroy("P", "n").send("A", "m", "B").recv("B", "m", alive=("n",))
    assert "n was found alive" in cycle(story)


def test_a_handle_that_is_dead_in_a_message_before_the_destruction_is_found() -> None:
    story = Story().send("A", "m", "B").destroy("P", "n").recv("B", "m", dead=("n",))
    assert "n was found dead" in cycle(story)
    (words,) = complaints(Story().send("A", "m", "B").recv("B", "m", dead=("n",)).events)
    assert "nobody destroyed n" in words


def test_a_node_that_is_found_dead_and_then_alive_is_found() -> None:
    story = Story().destroy("P", "n", lasts=99).at(1)
    story.tell("A", "fails", dead=("n",)).tell("B", "sends", alive=("n",))
    assert "n was found dead" in cycle(story) and "n was found alive" in cycle(story)


def test_what_is_put_or_destroyed_twice_is_found() -> None:
    assert "put ('B', 'm') twice" in complaints(Story().send("A", "m", "B").send("A", "m", "B").events)[0]
    assert "destroyed n twice" in complaints(Story().destroy("A", "n").destroy("A", "n").events)[0]


def test_a_queue_with_two_readers_has_no_known_order() -> None:
    story = Story().send("A", "m", "B").recv("B", "m").tell("C", "finds nothing", finds_empty="B")
    (words,) = complaints(story.events)
    assert "several processes read the queue of B" in words


# ---- every order tried -----------------------------------------------------------------------------


def explains(order: Sequence[Event]) -> bool:
    """Whether a bus that does these commands one after the other lets everybody see what they saw.

    Copies of one event may lie in either order; nothing may be left."""
    queues: dict[str, list[set[Copy]]] = defaultdict(list)
    put: dict[Copy, int] = {}
    for number, event in enumerate(order):
        for name in {name for name, _ in event.puts}:
            queues[name].append({copy for copy in event.puts if copy[0] == name})
        put |= dict.fromkeys(event.puts, number)
        if event.finds_empty is not None and queues[event.finds_empty]:
            return False
        subject = number
        if event.takes is not None:
            queue = queues[event.takes[0]]
            if not queue or event.takes not in queue[0]:
                return False
            queue[0].remove(event.takes)
            if not queue[0]:
                del queue[0]
            subject = put[event.takes]
        for node in (*event.alive, *event.dead):
            dies = next((n for n, other in enumerate(order) if node in other.kills), len(order))
            if (subject < dies) != (node in event.alive) or subject == dies:
                return False
    return not any(queues.values())


def keeps_time(order: Sequence[Event], told: Sequence[Event]) -> bool:
    at = {id(event): number for number, event in enumerate(order)}
    in_order = [at[id(event)] for event in told]
    return all(
        in_order[i] < in_order[j]
        for i, x in enumerate(told) for j, y in enumerate(told)
        if x.end < y.start or (x.process == y.process and i < j)
    )


def some_order_explains(events: list[Event]) -> bool:
    return any(keeps_time(order, events) and explains(order) for order in permutations(events))


def run(random: Random, n_events: int) -> list[Event]:
    """A bus that does one command after the other, and what its clients record of it."""
    queues: dict[str, list[Copy]] = {peer: [] for peer in PEERS}
    found_by: dict[Copy, tuple[tuple[str, ...], tuple[str, ...]]] = {}
    lives = {"n": True, "o": True}
    events = []
    actors = [random.choice(PEERS) for _ in range(n_events)]
    last = dict.fromkeys(PEERS, 0)
    for number, process in enumerate(actors):
        now = 10 * (number + 1)
        following = next((n for n in range(number + 1, n_events) if actors[n] == process), n_events + 9)
        found = tuple(node for node in lives if lives[node]), tuple(node for node in lives if not lives[node])
        event = Event(
            process, random.randint(last[process] + 1, now), random.randint(now, 10 * following + 8),
            f"event {number}",
        )
        act = random.randrange(8)
        if act == 7 and found[0]:
            killed = found[0][: random.randint(1, 2)]
            lives |= dict.fromkeys(killed, False)
            event = replace(
                event, kills=killed, puts=tuple((peer, f"{node} dies") for node in killed for peer in PEERS)
            )
        elif act > 3:
            to = random.sample(PEERS, random.randint(1, 3))
            puts = tuple((peer, f"m{number}") for peer in to)
            event = replace(event, puts=puts, alive=found[0], dead=found[1])
            found_by |= dict.fromkeys(event.puts, found)
        elif queues[process]:
            copy = queues[process].pop(0)
            alive, dead = found_by.get(copy, ((), ()))
            event = replace(event, takes=copy, alive=alive, dead=dead)
        else:
            event = replace(event, finds_empty=process)
        for copy in event.puts:
            queues[copy[0]].append(copy)
        last[process] = event.end
        events.append(event)
    for peer in PEERS:
        for number, copy in enumerate(queues[peer], 10 * (n_events + 20)):
            events.append(Event(peer, number, number, f"takes {copy[1]}", takes=copy))
    return events


def shuffled_times(random: Random, events: list[Event]) -> list[Event]:
    """The same with other starts and ends, and sometimes another order: it may have no explanation."""
    changed = []
    for event in events:
        start = event.start + random.randint(-25, 25)
        changed.append(replace(event, start=start, end=max(start, event.end + random.randint(-25, 25))))
    if random.random() < 0.5 and len(changed) > 1:
        at = random.randrange(len(changed) - 1)
        changed[at : at + 2] = reversed(changed[at : at + 2])
    return changed


@given(st.randoms(use_true_random=False), st.integers(0, 60))
def test_what_a_bus_did_one_after_the_other_is_never_complained_about(
    random: Random, n_events: int
) -> None:
    assert complaints(run(random, n_events)) == []


@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_the_checker_complains_if_and_only_if_no_order_explains(random: Random, n_events: int) -> None:
    events = shuffled_times(random, run(random, n_events))[:7]
    assert (complaints(events) == []) is some_order_explains(events)


def test_a_hundred_thousand_events_are_a_matter_of_sorting() -> None:
    events = run(Random(1), 100_000)
    assert complaints(events) == []
    at = next(number for number in range(50_000, len(events)) if events[number].puts)
    late = replace(events[at], start=10**7, end=10**7)
    assert any("no order" in words for words in complaints([*events[:at], late, *events[at + 1 :]]))


@pytest.mark.deep
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_the_checker_agrees_with_every_order_of_seven_events(random: Random, n_events: int) -> None:
    events = shuffled_times(random, run(random, n_events))[:7]
    assert (complaints(events) == []) is some_order_explains(events)
