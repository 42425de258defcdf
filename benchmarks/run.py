"""run: rounds over all buses, interleaved, and what came out.

Theory. In every round each scenario visits every bus once, and the order of the buses rotates from round
to round: what else the machine does hits all of them alike. A bus that fails a scenario is left out of
it from then on, with the reason in the results, so that one broken bus doesn't cost the figures of the
others.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from statistics import median
from threading import Timer

from bus1.errors import Bus1Error

from .buses import Bus
from .scenarios import Scenario

SCENARIO_LIMIT = 60
"""Seconds after which a bus that keeps a scenario waiting is killed, which fails everything on it."""


@dataclass(slots=True)
class Results:
    """Values by (scenario, bus), one tuple of figures per round; and what could not be measured."""

    values: dict[tuple[str, str], list[tuple[float, ...]]] = field(default_factory=dict)
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return max(map(len, self.values.values()), default=0)

    def medians(self, scenario: str, bus: str) -> tuple[float, ...] | None:
        """The median of each figure over the rounds; None if there is nothing to show."""
        rounds = self.values.get((scenario, bus))
        if not rounds or (scenario, bus) in self.failures:
            return None
        return tuple(median(column) for column in zip(*rounds, strict=True))

    def spans(self, scenario: str, bus: str) -> tuple[tuple[float, float], ...]:
        """Least and greatest value of each figure."""
        return tuple((min(column), max(column)) for column in zip(*self.values[scenario, bus], strict=True))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do.

    ``scale`` multiplies the work, ``pin`` puts buses and clients on different CPUs. No round but the first
    starts that would probably end later than ``limit`` seconds after the start.
    """

    kinds: Sequence[type[Bus]]
    scenarios: Sequence[Scenario]
    rounds: int
    scale: float = 1.0
    limit: float = 150.0
    pin: bool = False


def run(plan: Plan) -> Results:
    """Start the buses, measure everything, stop them."""
    results = Results()
    cpus = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        if plan.pin:
            stack.callback(os.sched_setaffinity, 0, cpus)
            os.sched_setaffinity(0, {cpus[-1]})
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bus1-bench-")))
        buses = list(start_all(plan, directory, results, stack))
        if plan.pin:
            for bus in buses:
                if bus.process is not None:
                    os.sched_setaffinity(bus.process.pid, {cpus[0]})
        start = time.monotonic()
        for number in range(plan.rounds):
            if number and (time.monotonic() - start) * (number + 1) / number > plan.limit:
                break
            turn = number % max(1, len(buses))
            for scenario in plan.scenarios:
                for bus in buses[turn:] + buses[:turn]:
                    visit(scenario, bus, plan.scale, results)
    return results


def start_all(plan: Plan, directory: Path, results: Results, stack: ExitStack) -> Iterator[Bus]:
    """The buses that run; one that doesn't start fails all scenarios."""
    for kind in plan.kinds:
        try:
            yield stack.enter_context(kind(directory))
        except (OSError, RuntimeError) as error:
            for scenario in plan.scenarios:
                results.failures[scenario.name, kind.name] = str(error)


def visit(scenario: Scenario, bus: Bus, scale: float, results: Results) -> None:
    """One scenario on one bus, once."""
    key = (scenario.name, bus.name)
    if bus.name in scenario.left_out or key in results.failures:
        return
    watchdog = Timer(SCENARIO_LIMIT, bus.kill)
    watchdog.start()
    try:
        measured = bus if scenario.needs_running_bus else type(bus)(bus.directory, instance=1)
        value = scenario.measure(measured, ceil(scenario.work * scale))
    except (OSError, RuntimeError, Bus1Error) as error:
        results.failures[key] = f"{type(error).__name__}: {error}"
        return
    finally:
        watchdog.cancel()
    results.values.setdefault(key, []).append(value)
