"""The command ``python -m benchmarks.costs``: what D-Bus operations cost on a bus that is full.

Theory. Each operation is repeated on buses that differ in one thing alone: how many rules, connections or
names of others there are, none of which the operation concerns. All sizes and all buses of one such dimension
exist at once and are visited in turn, so that what else the machine does hits all alike. Two figures of each
operation: the time until it has had its effect, the median of all repetitions; and the CPU time of the bus,
the median of the visits.

Not here: the buses and the operations (crowded).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter_ns as clock

from .buses import Bus
from .crowd import KINDS
from .crowded import BUSES, Crowded

SIZES = {
    "connections": (10, 100, 1_000, 5_000),
    "names": (10, 100, 1_000, 10_000, 50_000),
}
RULES = (10, 100, 1_000, 10_000, 100_000)
CONCERNS = {
    "connections": ("broadcast to one subscriber", "call by name, and reply", "connect, Hello, leave"),
    "names": ("call by name, and reply", "request a name, release it"),
}
"""The operations that might depend on a dimension; a broadcast on the rest, the rules."""
SPARE_DESCRIPTORS = 200


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of one operation in one place."""

    operation: str
    among: str
    bus: str
    size: int
    time: float
    processor: float
    """Of the bus."""


def sizes_of(dimension: str) -> tuple[int, ...]:
    """How many there are in a crowd of this kind."""
    return SIZES.get(dimension, RULES)


def measure(
    dimensions: Sequence[str], kinds: Sequence[type[Bus]], largest: int, rounds: int, batch: int
) -> Iterator[Cost]:
    """Everything, a dimension at a time."""
    for dimension in dimensions:
        sizes = [size for size in sizes_of(dimension) if size <= largest]
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bus1-costs-")))
            places: list[tuple[int, Crowded]] = []
            for size in sizes:
                for kind in kinds:
                    places.append((size, Crowded(kind(directory, size), dimension, size)))
                    stack.callback(places[-1][1].close)
            yield from visit(dimension, places, rounds, batch)


def visit(
    dimension: str, places: Sequence[tuple[int, Crowded]], rounds: int, batch: int
) -> Iterator[Cost]:
    """The operations of one dimension, in all places."""
    for name in CONCERNS.get(dimension, ("broadcast to one subscriber",)):
        times: list[list[float]] = [[] for _ in places]
        spent: list[list[float]] = [[] for _ in places]
        for number in range(rounds):
            turn = number % len(places)
            for i in (*range(turn, len(places)), *range(turn)):
                place = places[i][1]
                each, processor = timed(place.bus, place.operations[name], batch)
                times[i] += each
                spent[i].append(processor)
        for i, (size, place) in enumerate(places):
            yield Cost(name, dimension, place.bus.name, size, median(times[i]), median(spent[i]))


def timed(bus: Bus, operation: Callable[[], None], batch: int) -> tuple[list[float], float]:
    """Microseconds of each repetition until it is done, and of the bus on average."""
    operation()
    times, spent = [], bus.cpu_time()
    for _ in range(batch):
        start = clock()
        operation()
        times.append((clock() - start) / 1e3)
    return times, (bus.cpu_time() - spent) / batch / 1e3


def tables(costs: Sequence[Cost]) -> str:
    """For people, and for a page in Markdown: a table for each dimension."""
    found = []
    for dimension in dict.fromkeys(cost.among for cost in costs):
        here = [cost for cost in costs if cost.among == dimension]
        sizes = sorted({cost.size for cost in here})
        header = ["µs (CPU of the bus)", "bus", *(f"{size:,}" for size in sizes), "growth"]
        lines = [f"Among {dimension}:", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        for operation, bus in dict.fromkeys((cost.operation, cost.bus) for cost in here):
            row = {cost.size: cost for cost in here if (cost.operation, cost.bus) == (operation, bus)}
            cells = [f"{row[size].time:,.0f} ({row[size].processor:,.0f})" for size in sizes]
            first, last = row[sizes[0]], row[sizes[-1]]
            growth = f"× {last.time / first.time:.2f} (× {last.processor / first.processor:.2f})"
            lines.append("| " + " | ".join([operation, bus, *cells, growth]) + " |")
        found.append("\n".join(lines))
    return "\n\n".join(found)


def arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.costs", description="What D-Bus operations cost on a bus that is full.",
    )
    parser.add_argument("--largest", type=int, default=max(RULES), help="no crowd is larger (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="visits of each bus (default: 7)")
    parser.add_argument("--batch", type=int, default=20, help="repetitions per visit (default: 20)")
    parser.add_argument(
        "--only", action="append", choices=list(KINDS), help="this kind of crowd alone; may be repeated",
    )
    parser.add_argument(
        "--bus", action="append", choices=[kind.name for kind in BUSES], help="this alone; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    options = parser.parse_args()
    if min(options.largest, options.rounds, options.batch) < 1 or options.largest < RULES[0]:
        parser.error(f"--rounds and --batch take numbers from 1 on, --largest from {RULES[0]} on")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if (options.only is None or "connections" in options.only) and most < SPARE_DESCRIPTORS + min(
        options.largest, SIZES["connections"][-1]
    ):
        parser.error(f"only {most} descriptors are allowed to a process: see --largest")
    return options


def main() -> int:
    """Measure and print."""
    options = arguments()
    wanted = [kind for kind in BUSES if options.bus is None or kind.name in options.bus]
    kinds = [kind for kind in wanted if kind.executable() is not None]
    dimensions = options.only or list(KINDS)
    costs = list(measure(dimensions, kinds, options.largest, options.rounds, options.batch))
    if options.json:
        print(json.dumps([asdict(cost) for cost in costs], indent=1))
    else:
        print(
            f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs,"
            f" load {os.getloadavg()[0]:.1f}; medians of {options.rounds} rounds\n\n{tables(costs)}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
