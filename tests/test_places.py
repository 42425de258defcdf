"""Who gets a place and whose turn it is: fairness between callers, without a bus."""

from __future__ import annotations

import pytest
from bus1_services.caller import Caller
from bus1_services.errors import LimitsExceeded
from bus1_services.line import Line
from bus1_services.places import Places
from hypothesis import given
from hypothesis import strategies as st

ANN, BOB, EVE = Caller(1, 1, 10), Caller(2, 2, 20), Caller(3, 3, 30)


def fill(places: Places, caller: Caller) -> int:
    """Take what there is; how many that were."""
    taken = 0
    while True:
        try:
            places.take(caller)
        except LimitsExceeded:
            return taken
        taken += 1


def test_a_caller_gets_half_of_half_of_what_others_leave() -> None:
    places = Places(64, "a thing")
    assert fill(places, EVE) == 16
    assert fill(places, Caller(3, 3, 31)) == 8
    assert fill(places, ANN) == 10
    assert places.taken == 34


def test_there_is_a_place_for_one_who_has_none_until_all_are_taken() -> None:
    places = Places(64, "a thing")
    for number in range(1000):
        fill(places, Caller(number, 0, number))
    assert places.taken == 64
    assert fill(Places(1, "a thing"), ANN) == 1


def test_a_refusal_says_who_has_how_much_of_what() -> None:
    places = Places(8, "a lamp")
    fill(places, EVE)
    with pytest.raises(LimitsExceeded, match="process 30 of user 3 has 2 calls of a lamp under way; 2 of 8 "):
        places.take(EVE)
    for number in range(8):
        fill(places, Caller(3, 3, number))
    with pytest.raises(LimitsExceeded, match="user 3 has 4 calls of a lamp under way"):
        places.take(Caller(3, 3, 99))


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(0, 3))))
def test_a_place_that_is_given_back_leaves_no_trace(steps: list[tuple[bool, int, int]]) -> None:
    places, held = Places(16, "a thing"), list[Caller]()
    for takes, uid, pid in steps:
        if takes:
            try:
                places.take(caller := Caller(uid, 0, pid))
            except LimitsExceeded:
                continue
            held.append(caller)
        elif held:
            places.leave(held.pop(pid % len(held)))
        assert places.taken == len(held) <= 16
    for caller in held:
        places.leave(caller)
    assert (places.taken, fill(places, ANN)) == (0, 4)


def test_users_and_then_processes_take_turns_and_each_keeps_its_order() -> None:
    line = Line[str](1)
    assert line.enter(EVE, "e0")
    for number in range(1, 5):
        assert not line.enter(EVE, f"e{number}")
    assert not line.enter(Caller(3, 3, 31), "other e")
    assert not line.enter(ANN, "a1")
    assert not line.enter(BOB, "b1")
    assert not line.enter(ANN, "a2")
    order = [line.leave() for _ in range(9)]
    assert order == ["e1", "a1", "b1", "other e", "a2", "e2", "e3", "e4", None]
    assert line.running == 0


def test_as_many_run_at_once_as_the_line_says() -> None:
    line = Line[int](3)
    assert [line.enter(ANN, number) for number in range(5)] == [True, True, True, False, False]
    assert (line.leave(), line.leave(), line.leave(), line.running) == (3, 4, None, 2)


def test_who_is_forgotten_has_no_turn() -> None:
    line = Line[str](1)
    line.enter(ANN, "a")
    for caller, call in ((ANN, "a1"), (ANN, "a2"), (BOB, "b1")):
        line.enter(caller, call)
    line.forget(ANN, "a1")
    line.forget(BOB, "b1")
    assert [line.leave(), line.leave()] == ["a2", None]
    line.enter(ANN, "a")
    line.enter(ANN, "a1")
    line.forget(ANN, "a1")
    assert line.leave() is None
