"""figures: what a scenario yields, and what is wanted of it.

Theory. A goal bounds a number: the ratio of ours to the reference bus, our value itself, or the ratio of our
value to another figure of the same scenario. Ratios are plain quotients: of times below 1 is faster, of rates
above 1.

Not here: how a figure is measured (scenarios).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound; ``of`` says on what: the ratio to the reference, "itself", or the name of another figure."""

    least: float | None = None
    most: float | None = None
    of: str = ""

    def value(self, name: str, ours: Mapping[str, float], reference: Mapping[str, float]) -> float | None:
        """What is bounded; None if it was not measured."""
        if name not in ours:
            return None
        if self.of == "itself":
            return ours[name]
        below = ours.get(self.of) if self.of else reference.get(name)
        return ours[name] / below if below else None

    def is_met(self, value: float) -> bool:
        """Whether ``value`` is within the bound."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def text(self) -> str:
        """For a cell of the table."""
        bound = f"≥ {self.least:g}" if self.least is not None else f"≤ {self.most:g}"
        return {"": bound, "itself": f"{bound} itself"}.get(self.of, f"{bound} of {self.of}")


@dataclass(frozen=True, slots=True)
class Figure:
    """One row: its name within the scenario, what it says, its unit, what is wanted."""

    name: str
    title: str
    unit: str
    goal: Goal | None = None
    of_rounds: Callable[[Iterable[float]], float] = median
    """What the rounds come to: what must never happen is told if it happened once (``max``)."""


def number(value: float) -> str:
    """Three or more significant digits, never an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == 0 else f"{value:.3g}"
