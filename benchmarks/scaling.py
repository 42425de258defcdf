"""The command ``python -m benchmarks.scaling``: what operations cost as their surroundings grow.

Theory. Each operation is repeated in worlds that differ in one dimension alone: ``base`` things of it, then
10, 100, 1,000 and 10,000 times as many. All worlds of a dimension exist at once, and each round visits each
of them, so that what else the machine does hits all sizes alike. A figure is the median of the rounds;
*growth* is that of the largest world over that of the smallest. Logarithmic growth over four decades would
be a small factor, linear growth one of thousands.

Not here: the worlds.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter_ns as clock

from .worlds import DIMENSIONS, CoreWorld, InProcessWorld, SocketWorld, World

SIZES = (1, 10, 100, 1_000, 10_000)
BATCH = 100
"""Repetitions of an operation per round and world."""
SPARE_DESCRIPTORS = 200
Costs = dict[str, dict[str, dict[int, float]]]
"""Operation -> dimension -> size -> median microseconds."""


def measure(sizes: Sequence[int], rounds: int, batch: int) -> Costs:
    """Every operation in every world."""
    costs: Costs = {}
    with tempfile.TemporaryDirectory(prefix="bus1-scaling-") as directory:
        makers: tuple[Callable[[], World], ...] = (
            CoreWorld, InProcessWorld, lambda: SocketWorld(Path(tempfile.mkdtemp(dir=directory))),
        )
        for dimension in DIMENSIONS:
            for make in makers:
                for operation, by_size in visit(make, dimension, sizes, rounds, batch).items():
                    costs.setdefault(operation, {})[dimension] = by_size
    return costs


def visit(
    make: Callable[[], World], dimension: str, sizes: Sequence[int], rounds: int, batch: int
) -> dict[str, dict[int, float]]:
    """The operations of one kind of world, in one dimension."""
    with ExitStack() as stack:
        worlds: dict[int, World] = {}
        for size in sizes:
            worlds[size] = world = make()
            stack.callback(world.close)
            world.grow(dimension, size)
        gc.collect()
        gc.freeze()  # the collector shall not walk through the surroundings of the others
        stack.callback(gc.unfreeze)
        times: dict[str, dict[int, list[float]]] = {}
        for _ in range(rounds):
            for size, world in worlds.items():
                for name, operation in world.operations.items():
                    times.setdefault(name, {}).setdefault(size, []).append(timed(operation, batch))
    return {
        name: {size: median(found) for size, found in by_size.items()} for name, by_size in times.items()
    }


def timed(operation: Callable[[], object], batch: int) -> float:
    """Microseconds of one repetition."""
    operation()
    start = clock()
    for _ in range(batch):
        operation()
    return (clock() - start) / batch / 1e3


def table(costs: Costs, sizes: Sequence[int]) -> str:
    """For people, and for a page in Markdown."""
    header = ["operation, µs", "among", *(f"{size:,}" for size in sizes), "growth"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for operation, by_dimension in costs.items():
        for dimension, by_size in by_dimension.items():
            figures = [f"{by_size[size]:.1f}" for size in sizes]
            growth = f"× {by_size[sizes[-1]] / by_size[sizes[0]]:.2f}"
            lines.append("| " + " | ".join([operation, dimension, *figures, growth]) + " |")
    return "\n".join(lines)


def plot(costs: Costs, sizes: Sequence[int], file: str) -> None:
    """One panel per dimension, one line per operation, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "bus1"
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(DIMENSIONS), figsize=(16, 5), sharey=True)
    for panel, dimension in zip(panels, DIMENSIONS, strict=True):
        for operation, by_dimension in costs.items():
            panel.plot(sizes, [by_dimension[dimension][size] for size in sizes], marker="o", label=operation)
        panel.set(xscale="log", yscale="log", xlabel=dimension)
        panel.grid(True, alpha=0.3)
    panels[0].set_ylabel("µs per operation")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="lower center", ncol=3)
    figure.tight_layout(rect=(0, 0.2, 1, 1))
    figure.savefig(file, metadata={"Date": None})


def main() -> int:
    """Measure, print, plot."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling", description="What operations cost as their surroundings grow.",
    )
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="the largest world (default: 10000)")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per world (default: 15)")
    parser.add_argument("--batch", type=int, default=BATCH, help="repetitions per round (default: 100)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--plot", metavar="FILE", help="draw it, too (SVG; needs matplotlib)")
    options = parser.parse_args()
    sizes = [size for size in SIZES if size <= options.largest]
    if not sizes or options.rounds < 1 or options.batch < 1:
        parser.error("--largest, --rounds and --batch take numbers from 1 on")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if sum(sizes) + SPARE_DESCRIPTORS > most:
        parser.error(f"{sum(sizes)} peers need as many descriptors, {most} are allowed: see --largest")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    costs = measure(sizes, options.rounds, options.batch)
    if options.json:
        print(json.dumps(costs, indent=1))
    else:
        print(f"Python {platform.python_version()}, Linux {platform.release()}\n\n{table(costs, sizes)}")
    if options.plot:
        plot(costs, sizes, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
