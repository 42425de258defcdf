"""faults: what a seeded fault is.

Not here: the faults (``faults_a``, ``faults_b``), and trying them (``test_seeded_faults``).
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One place of the Core broken; the tests that cite ``clauses`` must notice."""

    name: str
    clauses: tuple[str, ...]
    file: str
    """Relative to the root of the repository."""
    old: str
    """Occurs exactly once there."""
    new: str
