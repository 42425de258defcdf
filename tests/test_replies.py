"""Slots for answers: one per (caller, callee, serial), gone with the answer or either end (dbus-bus §6)."""

from __future__ import annotations

import pytest
from bus1_bridge.switch.choice import ReplyTable
from buses import Bus
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import NotUnique


@pytest.fixture
def table() -> ReplyTable:
    """No slots."""
    return ReplyTable()


def test_the_first_answer_takes_the_slot_and_a_second_finds_none(table: ReplyTable) -> None:
    table.add(1, 2, 7)
    assert table.take(1, 2, 7)
    assert not table.take(1, 2, 7)
    assert table.outstanding(1) == table.awaited_from(2) == 0


def test_an_answer_from_somebody_else_or_to_another_serial_takes_nothing(table: ReplyTable) -> None:
    table.add(1, 2, 7)
    assert not table.take(1, 3, 7) and not table.take(2, 1, 7) and not table.take(1, 2, 8)
    assert table.outstanding(1) == 1


def test_an_outstanding_serial_to_the_same_callee_is_refused_and_changes_nothing(table: ReplyTable) -> None:
    table.add(1, 2, 7)
    table.add(1, 3, 7)
    with pytest.raises(NotUnique):
        table.add(1, 2, 7)
    assert (table.outstanding(1), table.awaited_from(2)) == (2, 1)


def test_the_end_of_a_callee_gives_its_callers_the_latest_first(table: ReplyTable) -> None:
    for caller, serial in ((1, 5), (3, 6), (1, 7)):
        table.add(caller, 2, serial)
    assert table.drop(2) == ([], [(1, 7), (3, 6), (1, 5)])
    assert table.outstanding(1) == table.outstanding(3) == 0


def test_the_end_of_a_caller_closes_its_slots(table: ReplyTable) -> None:
    table.add(1, 2, 5)
    table.add(1, 3, 6)
    table.add(4, 2, 7)
    assert table.drop(1) == ([(3, 6), (2, 5)], [])
    assert (table.awaited_from(2), table.awaited_from(3)) == (1, 0)


def test_calls_to_oneself_are_calls_made(table: ReplyTable) -> None:
    table.add(1, 1, 5)
    assert table.drop(1) == ([(1, 5)], [])
    assert table.drop(1) == ([], [])


few = st.integers(1, 3)


@given(st.lists(st.tuples(st.sampled_from("atd"), few, few, few), max_size=40))
def test_the_table_behaves_like_a_list_of_slots(operations: list[tuple[str, int, int, int]]) -> None:
    table, model = ReplyTable(), list[tuple[int, int, int]]()
    for kind, caller, callee, serial in operations:
        slot = (caller, callee, serial)
        if kind == "a" and slot in model:
            with pytest.raises(NotUnique):
                table.add(*slot)
        elif kind == "a":
            table.add(*slot)
            model.append(slot)
        elif kind == "t":
            assert table.take(*slot) == (slot in model)
            model = [other for other in model if other != slot]
        else:
            made = [(b, c) for a, b, c in reversed(model) if a == caller]
            received = [(a, c) for a, b, c in reversed(model) if b == caller and a != caller]
            assert table.drop(caller) == (made, received)
            model = [other for other in model if caller not in other[:2]]
        for peer in (1, 2, 3):
            assert table.outstanding(peer) == sum(a == peer for a, _, _ in model)
            assert table.awaited_from(peer) == sum(b == peer for _, b, _ in model)


def test_a_bus_answers_the_latest_call_first(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    serials = [caller.call(callee.name, "M") for _ in range(3)]
    for _ in serials:
        callee.receive()
    callee.close()
    assert [caller.receive().reply_serial for _ in serials] == serials[::-1]
