"""A peer in the process of its bus behaves in one way, whoever carries out its everyday.

``twin_residents`` says what is asked and what is compared.
"""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus1.acceleration import native

if native is None:
    pytest.skip("there is no native body", allow_module_level=True)
from twin_residents import Residents

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
