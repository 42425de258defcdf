"""The command ``python -m benchmarks``: which buses, which scenarios, how often; a table or JSON."""

from __future__ import annotations

import argparse
import json
import signal
import sys

from .broker import DbusBroker
from .buses import Bus, Bus1Bridge, DbusDaemon, PythonBridge
from .floor import Floor
from .load import NoLoad
from .places import MANY
from .report import as_data, heading, table
from .run import Plan, run
from .table import SCENARIOS, UNPINNED, Scenario

USUAL: tuple[type[Bus], ...] = (DbusDaemon, DbusBroker, Floor, Bus1Bridge)
BUSES: tuple[type[Bus], ...] = (*USUAL, PythonBridge)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The same load on every bus, side by side.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument("--seconds", type=float, default=0.3, help="of one measurement (default: 0.3)")
    parser.add_argument("--largest", type=int, default=MANY, help="no crowd is larger (default: all)")
    parser.add_argument(
        "--only", action="append", choices=[scenario.name for scenario in SCENARIOS], metavar="SCENARIO",
        help=f"this scenario alone; may be repeated; one of {', '.join(each.name for each in SCENARIOS)}",
    )
    parser.add_argument(
        "--bus", action="append", choices=[kind.name for kind in BUSES],
        help="this bus alone; may be repeated (default: all but bus1-bridge-python)",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--pinned", action="store_true", help="bus and clients on one CPU, and no more")
    where.add_argument("--unpinned", action="store_true", help="on all CPUs, and no more")
    parser.add_argument(
        "--busy", action="store_true",
        help="rates by the time that bus and clients have run, where others use the CPU, too; with --pinned",
    )
    parser.add_argument("--json", action="store_true", help="print every round as JSON instead of a table")
    options = parser.parse_args()
    if min(options.rounds, options.largest) < 1 or options.seconds <= 0:
        parser.error("--rounds and --largest take numbers from 1 on, --seconds any above 0")
    if options.busy and not options.pinned:
        parser.error("--busy is for --pinned: on several CPUs they run at the same time")
    return options


def passes(options: argparse.Namespace, scenarios: list[Scenario]) -> list[tuple[bool, list[Scenario]]]:
    """Pinned or not, and what: everything pinned, then what several CPUs may change without."""
    if options.pinned or options.unpinned:
        return [(options.pinned, scenarios)]
    return [(True, scenarios), (False, [each for each in scenarios if each.name in UNPINNED])]


def main() -> int:
    """Measure and print; 1 if any bus that is installed could not be measured."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the buses are stopped, too
    wanted = [kind for kind in BUSES if kind.name in (options.bus or [each.name for each in USUAL])]
    kinds = [kind for kind in wanted if kind.executable() is not None]
    asked = [scenario for scenario in SCENARIOS if options.only is None or scenario.name in options.only]
    chosen = [scenario for scenario in asked if scenario.can_be_measured()]
    names, data, failed = [kind.name for kind in kinds], {}, False
    for pinned, scenarios in passes(options, chosen):
        where = "Bus and clients on one CPU" if pinned else "On all CPUs"
        where += ", rates by the time that these have run" if options.busy else ""
        told = heading(kinds, options.rounds, where)
        try:
            plan = Plan(
                kinds, scenarios, options.rounds, options.seconds, pinned, options.largest, options.busy,
            )
            results = run(plan)
        except NoLoad as error:
            print(error, file=sys.stderr)
            return 2
        failed = failed or bool(results.failures)
        data["pinned" if pinned else "unpinned"] = as_data(scenarios, names, results)
        if scenarios and not options.json:
            print(f"{told}\n\n{table(scenarios, names, results)}\n", flush=True)
    if options.json:
        print(json.dumps(data, indent=1))
    missing = [kind.name for kind in wanted if kind not in kinds]
    missing += [scenario.library or scenario.module for scenario in asked if scenario not in chosen]
    for name in missing:
        print(f"{name} is not installed and was left out.", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
