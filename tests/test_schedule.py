"""Whose turn it is: time is shared out among processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bus1_bridge.switch.schedule import Schedule
from hypothesis import given
from hypothesis import strategies as st

SLICE = 1.0


def schedule_of(*processes: str) -> Schedule:
    schedule = Schedule()
    for process in processes:
        schedule.enter(process)
    return schedule


def one_turn(schedule: Schedule, *waiting: tuple[str, int], seconds: float = SLICE) -> list[int]:
    """Who is served in a turn with time for one."""
    served: list[int] = []

    def serve(connection: int) -> float:
        served.append(connection)
        return seconds

    left = schedule.run(waiting, serve, limit=seconds / 2)
    assert sorted([*served, *left]) == sorted(connection for _, connection in waiting)
    return served


def flood(schedule: Schedule, *waiting: tuple[str, int], turns: int) -> Counter[int]:
    """How often each is served, if all of them always want something."""
    return Counter(connection for _ in range(turns) for connection in one_turn(schedule, *waiting))


def test_flooders_get_equal_shares() -> None:
    schedule = schedule_of("a", "b", "c")
    assert flood(schedule, ("a", 1), ("b", 2), ("c", 3), turns=30) == {1: 10, 2: 10, 3: 10}


def test_many_connections_of_one_process_get_no_more_than_one() -> None:
    schedule = schedule_of(*"aaaab")
    served = flood(schedule, *(("a", i) for i in range(4)), ("b", 9), turns=40)
    assert served[9] == 20


def test_who_calls_now_and_then_comes_before_those_that_flood() -> None:
    schedule = schedule_of("a", "b", "c")
    for _ in range(50):
        flood(schedule, ("a", 1), ("b", 2), turns=3)
        assert one_turn(schedule, ("a", 1), ("b", 2), ("c", 3), seconds=0.01) == [3]


def test_a_newcomer_takes_nothing_from_those_that_were_there_long_before() -> None:
    schedule = schedule_of("a", "b")
    flood(schedule, ("a", 1), turns=1000)
    assert flood(schedule, ("a", 1), ("b", 2), turns=10) == {1: 5, 2: 5}


def test_a_pause_is_not_saved_up() -> None:
    schedule = schedule_of("a", "b")
    flood(schedule, ("a", 1), ("b", 2), turns=10)
    flood(schedule, ("a", 1), turns=1000)
    assert flood(schedule, ("a", 1), ("b", 2), turns=10) == {1: 5, 2: 5}


def test_a_turn_ends_when_its_time_is_over_and_names_who_was_not_reached() -> None:
    schedule = schedule_of(*"abcd")
    served: list[int] = []

    def serve(connection: int) -> float:
        served.append(connection)
        return 0.4

    left = schedule.run([("a", 1), ("b", 2), ("c", 3), ("d", 4)], serve, limit=1.0)
    assert (served, left) == ([1, 2, 3], [4])


def test_connections_of_a_process_go_in_the_order_in_which_they_came() -> None:
    schedule, served = schedule_of(*"aaa"), []

    def serve(connection: int) -> float:
        served.append(connection)
        return 0.0

    assert schedule.run([("a", 3), ("a", 1), ("a", 2)], serve) == []
    assert served == [3, 1, 2]


def test_nothing_is_left_of_a_process_that_is_gone() -> None:
    schedule = schedule_of("a", "b", "b")
    flood(schedule, ("a", 1), ("b", 2), turns=10)
    for process in "abb":
        schedule.leave(process)
    assert not schedule._tags and not schedule._connections
    one_turn(schedule, ("a", 1))  # it left while it was served
    assert not schedule._tags


@given(st.lists(st.sets(st.integers(0, 5)), max_size=80))
def test_who_waits_is_overtaken_by_each_other_at_most_twice(turns: Sequence[set[int]]) -> None:
    schedule = schedule_of(*"0123459")
    overtaken: Counter[int] = Counter()
    for others in turns:
        [first] = one_turn(schedule, *((str(i), i) for i in sorted(others | {9})))
        if first == 9:
            overtaken.clear()
        else:
            overtaken[first] += 1
        assert not overtaken or max(overtaken.values()) <= 2
