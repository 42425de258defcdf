"""acceleration: which body of the bus is in use, the native one or the one in Python.

Theory. What is fast exists twice, with one behaviour: in Python, which is the reference, and in Rust
(``bus1._native``), which is there if the package was built where cargo was. ``BUS1_ACCEL`` in the environment
says which: ``auto`` (the native one if it is there), ``python``, ``native`` (ImportError if it is not there).

Invariants. 1. The answer is the same as long as the process lives.

Not here: what there is of both.
"""

from __future__ import annotations

import os
from types import ModuleType

VARIABLE = "BUS1_ACCEL"
CHOICES = ("auto", "python", "native")


def _find() -> tuple[ModuleType | None, str]:
    choice = os.environ.get(VARIABLE, "auto") or "auto"
    if choice not in CHOICES:
        raise ImportError(f"{VARIABLE}={choice}: it is one of {', '.join(CHOICES)}")
    if choice == "python":
        return None, f"{VARIABLE}=python"
    try:
        from . import _native
    except ImportError as error:
        if choice == "native":
            raise ImportError(f"{VARIABLE}=native, and there is no native module: {error}") from error
        return None, f"there is no native module: {error}"
    return _native, f"{VARIABLE}={choice}"


native, reason = _find()
"""The native module, or None; and why."""
