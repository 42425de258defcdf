"""run: rounds over all buses, interleaved, and what came out.

Theory. Scenarios that share a kind of place are a group. All buses have their place in a group at once; in
every round each scenario visits every bus once, and the order of the buses rotates from round to round:
what else the machine does hits all of them alike. A bus that fails a scenario is left out of it from then
on, with the reason in the results, so that one broken bus doesn't cost the figures of the others.

Pinned, this process and all that it starts stay on one CPU: bus and clients take turns, which repeats best.

Invariants. 1. No bus, client or crowd of a run outlives it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from .buses import Bus
from .load import NoLoad
from .places import MANY, Place
from .table import Scenario

Found = tuple[float, ...]


@dataclass(slots=True)
class Results:
    """Values by (scenario, bus), one tuple of figures per round; and what could not be measured."""

    values: dict[tuple[str, str], list[Found]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return max(map(len, self.values.values()), default=0)

    def medians(self, scenario: Scenario, bus: str) -> dict[str, float]:
        """Each figure by name, as a rule the median of its rounds; empty if there is nothing to show."""
        key = (scenario.name, bus)
        if key not in self.values or key in self.failures:
            return {}
        columns = zip(*self.values[key], strict=True)
        figures = zip(scenario.figures, columns, strict=True)
        return {figure.name: figure.of_rounds(column) for figure, column in figures}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do: ``seconds`` is how long a single measurement lasts; ``pinned`` means on one CPU."""

    kinds: Sequence[type[Bus]]
    scenarios: Sequence[Scenario]
    rounds: int
    seconds: float
    pinned: bool
    largest: int = MANY
    """No crowd has more."""
    busy: bool = False
    """Count the time that bus and clients have run, where others use the CPU as well."""


def run(plan: Plan) -> Results:
    """Start the buses, measure everything, stop them."""
    results = Results()
    cpus = os.sched_getaffinity(0)
    with ExitStack() as stack:
        if plan.pinned:
            stack.callback(os.sched_setaffinity, 0, cpus)
            os.sched_setaffinity(0, {max(cpus)})
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bus1-bench-")))
        ordered = sorted(plan.scenarios, key=lambda scenario: _places(plan).index(scenario.furnish))
        for _, group in groupby(ordered, key=lambda scenario: scenario.furnish):
            run_group(plan, list(group), directory, results)
    return results


def _places(plan: Plan) -> list[object]:
    return [scenario.furnish for scenario in plan.scenarios]


def is_for(scenario: Scenario, kind: type[Bus]) -> bool:
    """Whether the scenario is something for this kind of bus."""
    return scenario.buses is None or kind.name in scenario.buses


def run_group(plan: Plan, group: Sequence[Scenario], directory: Path, results: Results) -> None:
    """All rounds of scenarios that share their places."""
    with ExitStack() as stack:
        places = []
        for kind in plan.kinds:
            concerned = [scenario for scenario in group if is_for(scenario, kind)]
            if concerned and (place := open_place(kind, concerned, directory, results, plan)):
                stack.callback(place.close)
                places.append(place)
        for number in range(plan.rounds):
            turn = number % max(1, len(places))
            for scenario in group:
                if scenario.rounds is None or number < scenario.rounds:
                    for place in places[turn:] + places[:turn]:
                        visit(scenario, place, plan.seconds, results)


def open_place(
    kind: type[Bus], concerned: Sequence[Scenario], directory: Path, results: Results, plan: Plan
) -> Place | None:
    """A place for these scenarios; if there can't be one, all of them have failed."""
    place = Place(kind, directory, plan.largest, busy=plan.busy)
    try:
        concerned[0].furnish(place)
    except NoLoad:
        place.close()
        raise
    except (OSError, RuntimeError) as error:
        place.close()
        for scenario in concerned:
            results.failures[scenario.name, kind.name] = str(error)
        return None
    return place


def visit(scenario: Scenario, place: Place, seconds: float, results: Results) -> None:
    """One scenario in one place, once."""
    key = (scenario.name, place.kind.name)
    if not is_for(scenario, place.kind) or key in results.failures:
        return
    try:
        value = scenario.measure(place, seconds)
    except NoLoad:
        raise
    except (OSError, RuntimeError) as error:
        results.failures[key] = f"{type(error).__name__}: {error}"
        return
    results.values.setdefault(key, []).append(value)
