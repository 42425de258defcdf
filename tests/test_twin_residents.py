"""A peer in the process of its bus behaves in one way, whoever carries out its everyday.

``twin_residents`` says what is asked and what is compared.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus1.acceleration import native
from bus1.peer import Peer

if native is None:
    pytest.skip("there is no native body", allow_module_level=True)
from twin_residents import Residents, Way, shown

rows = st.lists(st.tuples(*[st.integers(0, 255)] * 6), max_size=50)


def play(script: list[tuple[int, ...]]) -> Residents:
    """All of it, in all ways."""
    residents = Residents()
    try:
        for row in script:
            residents.step(row)
    finally:
        residents.finish()
    return residents


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows)
def test_all_ways_answer_and_become_the_same(script: list[tuple[int, ...]]) -> None:
    play(script)


def test_long_stories_agree_too_and_go_everywhere() -> None:
    """Each operation succeeds, and is refused as often as it can be."""
    tally: Counter[str] = Counter()
    for seed in range(12):
        chance = random.Random(seed)
        tally += play([tuple(chance.randrange(256) for _ in range(6)) for _ in range(120)]).tally
    operations = {name.partition(":")[0] for name in tally}
    assert {
        "send", "recv", "give back", "release_slice", "transfer", "release", "destroy", "reset", "look",
        "call", "reply", "disconnect", "close",
    } <= operations & tally.keys()
    refusals = {name for name in tally if name.startswith(("send: ", "recv: "))}
    assert {f"send: {name}" for name in (
        "NoSuchHandle", "NotUnique", "NodeDestroyed", "QuotaExceeded", "PeerShutdown", "InvalidArgument",
        "TooLarge", "BadDescriptor", "TypeError",
    )} <= refusals
    assert {
        f"recv: {name}" for name in ("WouldBlock", "OutOfRange", "PeerShutdown", "InvalidArgument")
    } <= refusals


class Number:
    """What is as good as a number."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


ODD: tuple[Any, ...] = (
    None, "1", "", 2.0, {1: 2}, {0x10}, object(), Number(0), Number(0x10), iter([0x10]), range(16, 18),
    [Number(0x10)], [[0x10]], [None], b"\x10", bytearray(b"\x10"), memoryview(b"ab"), [b"a", None], Exception,
    True, -1, 1 << 64, float("nan"), float("inf"),
)
PLACES: tuple[Callable[[Peer, Any], Any], ...] = (
    lambda peer, odd: peer.send(odd),
    lambda peer, odd: peer.send([0x10], odd),
    lambda peer, odd: peer.send([0x10], b"x", odd),
    lambda peer, odd: peer.send([0x10], b"x", [], odd),
    lambda peer, odd: peer.send([0x10], flags=odd),
    lambda peer, odd: peer.send([0x10], optional=odd),
    lambda peer, odd: peer.call([0x10], odd),
    lambda peer, odd: peer.call([0x10], flags=odd),
    lambda peer, odd: peer.reply([0x10], odd),
    lambda peer, odd: shown(peer.recv(odd)),
    lambda peer, odd: shown(peer.recv(4, odd)),
    lambda peer, odd: shown(peer.recv(wait=odd)),
    lambda peer, odd: shown(peer.recv(timeout=odd)),
)


@pytest.mark.parametrize("place", range(len(PLACES)))
def test_what_is_of_a_strange_type_is_taken_or_refused_alike(place: int) -> None:
    """There is always a message to be received."""
    assert native is not None
    for odd in ODD:
        outcomes = []
        for resides in (True, False):
            way = Way(native.Core(), resides)
            way.open()
            (peer,) = way.peers
            peer.send([0x10], b"there")
            try:
                outcome = repr(PLACES[place](peer, iter([0x10]) if type(odd) is type(iter([])) else odd))
            except Exception as error:
                outcome = repr(error)
            outcomes.append((outcome.partition(" at 0x")[0], way.core.snapshot()))
            way.close()
        assert outcomes[0] == outcomes[1], (place, odd)
