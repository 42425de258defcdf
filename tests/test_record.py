"""What a record is: fields, defaults, equality, and a class that type checkers take for a dataclass."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import pytest

from bus1.record import EMPTY, field, fields, owned, record, replace, values


@record(frozen=True)
class Place:
    """Frozen, with a default."""

    street: str
    number: int = 7

    def __str__(self) -> str:
        return f"{self.number} {self.street}"


@record()
class Basket:
    """Changed at will, with a list of its own each."""

    owner: str
    eggs: list[int] = field(default_factory=list)
    weight: float = 0.5

    @property
    def count(self) -> int:
        """How many eggs."""
        return len(self.eggs)


@record()
class Trunk(Basket):
    """One field more than what it extends."""

    lock: str | None = None


@record(eq=False)
class Person:
    """Nobody is like anybody else."""

    name: str


@record()
class Shelf:
    """With a table that is mostly empty."""

    books: dict[str, int] = EMPTY


def test_fields_are_given_by_position_by_name_or_not_at_all() -> None:
    assert Place("Rue", 1) == Place(number=1, street="Rue") != Place("Rue")
    assert Place("Rue").number == 7
    assert str(Place("Rue")) == "7 Rue"
    trunk = Trunk("me", [1], 2.0, "iron")
    assert (trunk.owner, trunk.eggs, trunk.weight, trunk.lock, trunk.count) == ("me", [1], 2.0, "iron", 1)
    assert Trunk("you").lock is None


@pytest.mark.parametrize("wrong", [{}, {"number": 1}, {"street": "", "town": ""}])
def test_an_argument_that_is_missing_or_unknown_is_a_type_error(wrong: dict[str, Any]) -> None:
    for _ in range(2):
        with pytest.raises(TypeError, match=r"Place\.__init__\(\)"):
            Place(**wrong)


def test_a_default_that_is_made_is_each_objects_own() -> None:
    first, second = Basket("a"), Basket("a")
    assert first == second
    first.eggs.append(1)
    assert second.eggs == [] and first != second


def test_a_frozen_record_is_not_changed_and_is_a_key() -> None:
    place: Any = Place("Rue")
    with pytest.raises(AttributeError, match=r"Place\.number can't be changed"):
        place.number = 8
    with pytest.raises(AttributeError, match=r"Place\.street can't be changed"):
        del place.street
    assert {place: 1}[Place("Rue", 7)] == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(Basket("a"))


def test_a_record_without_equality_is_equal_to_itself_alone() -> None:
    person = Person("me")
    assert person != Person("me")
    assert {person: 1}[person] == 1
    assert Trunk("me") == Trunk("me") != Basket("me")


def test_a_record_has_no_room_for_anything_else() -> None:
    trunk: Any = Trunk("me")
    with pytest.raises(AttributeError):
        trunk.colour = "red"
    assert not hasattr(trunk, "__dict__")


def test_a_record_can_be_looked_at_and_copied_with_changes() -> None:
    assert fields(Trunk) == ("owner", "eggs", "weight", "lock") == fields(Trunk("me"))
    assert values(Place("Rue")) == {"street": "Rue", "number": 7}
    assert replace(Place("Rue"), number=1) == Place("Rue", 1)
    assert repr(Place("Rue")) == "Place(street='Rue', number=7)"
    match Place("Rue", 3):
        case Place(street, 3):
            assert street == "Rue"
        case _:
            pytest.fail("a positional pattern does not work")


@pytest.mark.parametrize(
    "again", [copy.copy, copy.deepcopy, lambda record: pickle.loads(pickle.dumps(record))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("given", [Place("Elm", 9), Trunk("Ann", [1], 2.0, "brass")], ids=["frozen", "other"])
def test_a_record_is_copied_by_its_fields(again: Any, given: Any) -> None:
    copied = again(given)
    assert copied == given
    assert copied is not given


def test_a_table_that_is_not_needed_is_shared_and_cannot_be_written_to() -> None:
    first, second = Shelf(), Shelf()
    assert first.books is second.books is EMPTY and not first.books and first.books.get("x") is None
    with pytest.raises(TypeError):
        first.books["x"] = 1
    first.books = owned(first.books)
    first.books["x"] = 1
    assert owned(first.books) is first.books
    assert not second.books


@pytest.mark.parametrize("body", ["python", "auto"])
def test_a_bus_that_is_about_to_serve_loads_no_dataclasses(body: str) -> None:
    code = "import sys, bus1_bridge.cli, bus1_bridge.daemon; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True,
        env={"BUS1_ACCEL": body, "PYTHONPATH": ":".join(sys.path)},
    )
    loaded = set(done.stdout.split())
    assert "bus1_bridge.switch.loop" in loaded
    assert not loaded & {"dataclasses", "inspect", "sortedcontainers", "traceback", "asyncio", "logging"}
