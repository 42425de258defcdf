"""report: results as one Markdown table for people, and as JSON for programs.

Theory. Every value is the median over the rounds. The ratio is ours by that of the reference bus; beside it
stands the goal, and whether it is met.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bus1 import acceleration

from .buses import Bus
from .figures import Figure, number
from .run import Results
from .table import OURS, Scenario

REFERENCE = "dbus-broker"


def table(scenarios: Sequence[Scenario], buses: Sequence[str], results: Results) -> str:
    """A row for each figure; after it, what could not be measured."""
    ours = next((bus for bus in buses if bus in OURS), "")
    header = ["scenario", "", *buses, f"{ours} / {REFERENCE}", "goal", "met"]
    lines = [_line(header), "|---|---|" + "---:|" * len(buses) + "---:|---|---|"]
    for scenario in scenarios:
        lines += [_line(row) for row in rows(scenario, buses, ours, results)]
    names = [scenario.name for scenario in scenarios]
    for (name, bus), reason in results.failures.items():
        if name in names:
            lines.append(f"\n{name} on {bus} failed: {(reason.strip() or '?').splitlines()[-1]}")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def rows(scenario: Scenario, buses: Sequence[str], ours: str, results: Results) -> Iterator[list[str]]:
    """The cells of each figure."""
    medians = {bus: results.medians(scenario, bus) for bus in (*buses, ours, REFERENCE)}
    for figure in scenario.figures:
        values = [medians[bus].get(figure.name) for bus in buses]
        cells = ["–" if value is None else number(value) for value in values]
        yield [figure.title, figure.unit, *cells, *verdict(figure, medians[ours], medians[REFERENCE])]


def verdict(figure: Figure, ours: dict[str, float], reference: dict[str, float]) -> tuple[str, str, str]:
    """The cells for the ratio to the reference, the goal, and whether it is met."""
    mine, theirs = ours.get(figure.name), reference.get(figure.name)
    ratio = f"{mine / theirs:.2f}" if mine is not None and theirs else "–"
    if figure.goal is None:
        return ratio, "", ""
    value = figure.goal.value(figure.name, ours, reference)
    if value is None:
        return ratio, figure.goal.text(), "?"
    met = "yes" if figure.goal.is_met(value) else "no"
    return ratio, figure.goal.text(), met if figure.goal.of in ("", "itself") else f"{met} ({value:.2f})"


def heading(kinds: Sequence[type[Bus]], rounds: int, where: str) -> str:
    """What was measured, on what."""
    model = Path("/proc/cpuinfo").read_text().partition("model name")[2].partition("\n")[0].strip(" \t:")
    bodies = {kind.name: kind.body or _body() for kind in kinds if kind.name in OURS}
    versions = [version for kind in kinds if (version := version_of(kind))]
    told = "; ".join(f"{bus}: {body} body" for bus, body in bodies.items())
    return (
        f"{where}; medians of at most {rounds} interleaved rounds. {os.cpu_count()} ×"
        f" {model or platform.machine()}, Linux {platform.release()},"
        f" Python {platform.python_version()}, {', '.join(versions)};"
        f" load {os.getloadavg()[0]:.1f}. {told}"
    )


def _body() -> str:
    return f"{'native' if acceleration.native else 'python'} ({acceleration.reason})"


def version_of(kind: type[Bus]) -> str:
    """Name and version of a rival."""
    executable = kind.executable()
    if executable is None or not kind.program.startswith("dbus-"):
        return ""
    said = subprocess.run([executable, "--version"], capture_output=True, text=True, check=False).stdout
    return f"{kind.name} {said.splitlines()[0].split()[-1]}" if said else ""


def as_data(scenarios: Sequence[Scenario], buses: Sequence[str], results: Results) -> dict[str, object]:
    """Everything, every round included, as plain data."""
    return {
        scenario.name: {
            "figures": [
                {"name": each.name, "unit": each.unit, "goal": each.goal.text() if each.goal else None}
                for each in scenario.figures
            ],
            "buses": {
                bus: {
                    "medians": results.medians(scenario, bus),
                    "rounds": results.values.get((scenario.name, bus), []),
                    "failure": results.failures.get((scenario.name, bus)),
                }
                for bus in buses if scenario.buses is None or bus in scenario.buses
            },
        }
        for scenario in scenarios
    }
