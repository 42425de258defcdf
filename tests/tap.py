"""tap: what a foreign test program reported, in the Test Anything Protocol."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LINE = re.compile(
    r"(?P<not>not )?ok\b\s*\d*\s*(?:- )?(?P<name>.*?)\s*(?:# *(?P<directive>skip|todo)\b\s*(?P<reason>.*))?",
    re.IGNORECASE,
)
_PLAN = re.compile(r"1\.\.(\d+)")


@dataclass(frozen=True)
class Report:
    """The outcome of each test by its name: ``ok``, ``not ok``, ``skip`` or ``todo``."""

    outcomes: dict[str, str]
    reasons: dict[str, str]
    """Why tests were skipped."""
    complaints: tuple[str, ...]
    """Why the report is not whole; empty if it is."""

    def count(self, outcome: str) -> int:
        return list(self.outcomes.values()).count(outcome)


def parse(text: str) -> Report:
    """Read the standard output of a program."""
    outcomes: dict[str, str] = {}
    reasons: dict[str, str] = {}
    complaints = []
    planned: int | None = None
    for line in text.splitlines():
        if plan := _PLAN.match(line):
            planned = int(plan[1])
        elif line.startswith("Bail out!"):
            complaints.append(line)
        elif result := _LINE.fullmatch(line):
            name = result["name"] or f"(test {len(outcomes) + 1})"
            if name in outcomes:
                complaints.append(f"{name} is reported twice")
            outcomes[name] = (result["directive"] or ("not ok" if result["not"] else "ok")).lower()
            if result["directive"]:
                reasons[name] = result["reason"]
    if not outcomes:
        complaints.append("nothing is reported")
    if planned is not None and planned != len(outcomes):
        complaints.append(f"{planned} tests were planned and {len(outcomes)} reported")
    return Report(outcomes, reasons, tuple(complaints))
