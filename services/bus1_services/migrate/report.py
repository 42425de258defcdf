"""report: what people must know about a migration: line by line, for reviewers and for programs.

Theory. A ``Finding`` has a place, says what is there, why that matters, and what to do. Its kind says how bad
it is: ``lost`` was not carried over, and is an error where it is used; ``changed`` behaves differently on
purpose; ``authority`` is what the code takes from its surroundings instead of being given it.

Not here: who finds (``authority``, ``sources``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How bad a finding is."""

    LOST = "lost"
    CHANGED = "changed"
    AUTHORITY = "authority"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a reviewer should look at; ``line`` counts from 1, 0 for none."""

    file: str
    line: int
    kind: Kind
    what: str
    why: str
    advice: str

    def text(self) -> str:
        """As compilers write: place, kind, what, why, what to do."""
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.kind}: {self.what}: {self.why}; {self.advice}"


_TITLES = {
    Kind.LOST: "not carried over",
    Kind.CHANGED: "behaves differently",
    Kind.AUTHORITY: "taken from the surroundings",
}


def report_text(findings: Sequence[Finding]) -> str:
    """All findings, one a line, and how many of which kind."""
    counts = [
        f"{n} {_TITLES[kind]}" for kind in Kind if (n := sum(finding.kind is kind for finding in findings))
    ]
    lines = [finding.text() for finding in findings]
    return "\n".join([*lines, ", ".join(counts) or "nothing to report"])


def report_json(findings: Sequence[Finding], output: Sequence[str]) -> str:
    """The same for programs; ``output`` is what else there is to say: the files, or the diff."""
    told = {"output": list(output), "findings": [asdict(finding) for finding in findings]}
    return json.dumps(told, indent=2)


def is_complete(findings: Sequence[Finding]) -> bool:
    """Nothing was lost."""
    return all(finding.kind is not Kind.LOST for finding in findings)
