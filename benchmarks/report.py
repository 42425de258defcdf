"""report: results as tables for people and as JSON for programs.

Theory. Every figure is the median over the rounds, with the least and the greatest round behind it, and
its ratio to the reference, turned so that above 1 always means better than the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .run import Results
from .scenarios import Figure, Scenario

REFERENCE = "dbus-daemon"


def ratio(figure: Figure, value: float, reference: float) -> float:
    """How many times better than the reference."""
    return reference / value if figure.smaller_is_better else value / reference


def number(value: float) -> str:
    """Three or more significant digits, never an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def table(scenario: Scenario, buses: Sequence[str], results: Results) -> str:
    """One scenario as a block of aligned lines."""
    longest = max(map(len, buses))
    header = [""]
    for figure in scenario.figures:
        header += [f"{figure.name}, {figure.unit}", "(least … most)", "×"]
    rows, notes = [header], []
    for bus in buses:
        if bus in scenario.left_out:
            continue
        if results.medians(scenario.name, bus) is None:
            reason = results.failures.get((scenario.name, bus), "not measured").strip().splitlines()[-1]
            notes.append(f"  {bus}: {reason}")
        else:
            rows.append([f"  {bus:{longest}}", *cells(scenario, bus, results)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.rjust, row, widths)) for row in rows]
    return "\n".join([f"{scenario.name}: {scenario.title}", *lines, *notes])


def cells(scenario: Scenario, bus: str, results: Results) -> Iterator[str]:
    """Median, span and ratio of each figure of one bus that was measured."""
    reference = results.medians(scenario.name, REFERENCE)
    medians = results.medians(scenario.name, bus)
    assert medians is not None
    spans = results.spans(scenario.name, bus)
    for position, (figure, (least, most)) in enumerate(zip(scenario.figures, spans, strict=True)):
        yield number(medians[position])
        yield f"({number(least)} … {number(most)})"
        yield f"{ratio(figure, medians[position], reference[position]):.2f}" if reference else "–"


def as_data(scenarios: Sequence[Scenario], buses: Sequence[str], results: Results) -> dict[str, object]:
    """Everything, every round included, as plain data."""
    return {
        scenario.name: {
            "figures": [{"name": figure.name, "unit": figure.unit} for figure in scenario.figures],
            "buses": {
                bus: {
                    "medians": results.medians(scenario.name, bus),
                    "rounds": results.values.get((scenario.name, bus), []),
                    "failure": results.failures.get((scenario.name, bus)),
                }
                for bus in buses if bus not in scenario.left_out
            },
        }
        for scenario in scenarios
    }
