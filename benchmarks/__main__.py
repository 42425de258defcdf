"""The command ``python -m benchmarks``: which buses, which scenarios, how often; tables or JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys

from .broker import DbusBroker
from .buses import Bus, Bus1Bridge, DbusDaemon
from .floor import Floor
from .native import Bus1Native
from .report import REFERENCE, as_data, table
from .run import Plan, run
from .scenarios import SCENARIOS

BUSES: tuple[type[Bus], ...] = (Floor, DbusDaemon, DbusBroker, Bus1Bridge, Bus1Native)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="The same load on every bus, side by side.",
    )
    parser.add_argument("--rounds", type=int, default=7, help="interleaved rounds (default: 7)")
    parser.add_argument(
        "--only", action="append", choices=[scenario.name for scenario in SCENARIOS],
        help="this scenario alone; may be repeated",
    )
    parser.add_argument(
        "--bus", action="append", choices=[kind.name for kind in BUSES],
        help="this bus alone; may be repeated",
    )
    parser.add_argument("--scale", type=float, default=1.0, help="multiply the work of a round (default: 1)")
    parser.add_argument(
        "--limit", type=float, default=150, help="seconds after which no round should end (default: 150)",
    )
    parser.add_argument("--pin", action="store_true", help="buses on the first CPU, clients on the last")
    parser.add_argument("--json", action="store_true", help="print every round as JSON instead of tables")
    return parser.parse_args()


def main() -> int:
    """Measure and print; 1 if any bus that is installed could not be measured."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the buses are stopped, too
    wanted = [kind for kind in BUSES if options.bus is None or kind.name in options.bus]
    kinds = [kind for kind in wanted if kind.executable() is not None]
    scenarios = [scenario for scenario in SCENARIOS if options.only is None or scenario.name in options.only]
    results = run(Plan(kinds, scenarios, options.rounds, options.scale, options.limit, options.pin))
    names = [kind.name for kind in kinds]
    if options.json:
        print(json.dumps(as_data(scenarios, names, results), indent=1))
    else:
        print(
            f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} CPUs,"
            f" load {os.getloadavg()[0]:.1f}\nmedians of {results.rounds} rounds (least … most);"
            f" × is the ratio to {REFERENCE}, above 1 is better\n"
        )
        for scenario in scenarios:
            print(table(scenario, names, results), end="\n\n")
        for kind in wanted:
            if kind not in kinds:
                print(f"{kind.name} is not installed and was left out.")
    return 1 if results.failures else 0


if __name__ == "__main__":
    sys.exit(main())
