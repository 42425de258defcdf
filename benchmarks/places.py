"""places: the buses that a group of scenarios needs, for one kind of bus.

Theory. Scenarios of a group share a place: a bus that runs all the time, or several that differ in how many
are on them. All kinds of bus have their place in a group at once, and are visited in turn.

Invariants. 1. What a place has started ends with it, the buses before their crowds: nobody tells a bus that a
hundred thousand rules have gone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from .buses import Bus
from .worker import Worker

FEW, SOME, MANY = 10, 10_000, 100_000
PATIENCE = 300
"""Seconds that a crowd may take to gather."""
Crowd = Sequence[tuple[str, int]]
"""What others bring to a bus, and how many."""


class Place:
    """The buses of one kind for one group."""

    def __init__(
        self, kind: type[Bus], directory: Path, largest: int = MANY, *, busy: bool = False
    ) -> None:
        self.kind = kind
        self.directory = directory
        self.largest = largest
        """No crowd has more, whatever is asked for."""
        self.rate = "busy_rate" if busy else "rate"
        """Which rate of the load: by the time that bus and clients have run, or by that which has passed."""
        self.buses: list[Bus] = []
        self.notes: dict[str, float] = {}
        """What was found while it was made, and what scenarios remember."""
        self._stack = ExitStack()

    @property
    def bus(self) -> Bus:
        """The first."""
        return self.buses[0]

    def fresh(self, *, stock: bool = False) -> Bus:
        """One more, not yet started."""
        return self.kind(self.directory, "fresh", stock=stock)

    def start(self, label: str, crowd: Crowd = (), *, system: bool = False) -> Bus:
        """One more, with a crowd; ``system``: with a policy like that of a system's bus."""
        bus = self._stack.enter_context(self.kind(self.directory, label, system=system))
        for kind, wanted in crowd:
            before, count = bus.memory(), min(wanted, self.largest)
            worker = Worker("crowd", bus.address, kind, str(count))
            self._stack.callback(worker.stop)
            worker.line(PATIENCE)
            self.notes[f"bytes, {kind}, {wanted}"] = (bus.memory() - before) / count
        self._stack.callback(bus.kill)
        self.buses.append(bus)
        return bus

    def close(self) -> None:
        """Everything ends."""
        self._stack.close()


def running(place: Place) -> None:
    """One bus."""
    place.start("running")


def systemwide(place: Place) -> None:
    """One bus, with a policy like that of a system's bus."""
    place.start("system", system=True)


def nothing(place: Place) -> None:
    """No bus: the scenarios start theirs. One start comes before, which may have to compile."""
    with place.fresh():
        pass


def among_rules(key: str) -> Callable[[Place], None]:
    """Buses with few, more and many rules that ``key`` keeps from matching."""

    def furnish(place: Place) -> None:
        for count in (FEW, SOME, MANY):
            place.start(f"{key}-{count}", [(f"rules, by {key}", count)])

    return furnish


def alone_and_in_a_crowd(place: Place) -> None:
    """A bus for oneself, and one that is full."""
    place.start("alone")
    place.start("crowd", [("connections", 1_000), ("names", SOME), ("rules", MANY)])
