"""acceleration: which body of the bus is in use, the native one or the one in Python.

Theory. What is fast exists twice, with one behaviour: in Python, which is the reference, and in Rust
(``bus1._native``), which is there if the package was built where cargo was. ``BUS1_ACCEL`` in the environment
says which: ``auto`` (the native one if it is there), ``python``, ``native`` (an error if it is not there). A
module of another version than the package is a leftover, and counts as none.

Invariants. 1. The answer is found when it is first asked for, and the same as long as the process lives.
2. With ``auto`` nothing that is wrong with the native module stops anybody.

Not here: what there is of both (``bus1._native.PARTS`` names it), what users are told (``bus1 doctor``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from . import __version__

VARIABLE = "BUS1_ACCEL"
CHOICES = ("auto", "python", "native")
MODULE = "bus1._native"
ABSENT = "this installation has no native module"

if TYPE_CHECKING:
    native: ModuleType | None
    """The native module; None if the body in Python is in use. NoSuchBody if neither may be."""
    reason: str
    """Why it is this one."""


class NoSuchBody(ImportError):
    """BUS1_ACCEL asks for what this installation does not have; the text says why."""


def chosen(environment: Mapping[str, str] = os.environ) -> str:
    """What is asked for; NoSuchBody if it is none of the three."""
    choice = environment.get(VARIABLE) or "auto"
    if choice not in CHOICES:
        raise NoSuchBody(f"{VARIABLE}={choice} is unknown: it is one of {', '.join(CHOICES)}")
    return choice


def load() -> ModuleType:
    """The native module, wanted or not; NoSuchBody says why there is none."""
    try:
        module = import_module(MODULE)
    except ModuleNotFoundError:
        raise NoSuchBody(ABSENT) from None
    except ImportError as error:
        raise NoSuchBody(f"the native module cannot be loaded: {error}") from error
    if module.__version__ != __version__:
        raise NoSuchBody(f"the native module is of version {module.__version__}, bus1 of {__version__}")
    return module


def _find() -> tuple[ModuleType | None, str]:
    choice = chosen()
    if choice == "python":
        return None, f"{VARIABLE}=python"
    try:
        return load(), f"{VARIABLE}={choice}"
    except NoSuchBody as error:
        if choice == "native":
            raise NoSuchBody(f"{VARIABLE}=native cannot be had: {error}") from None
        return None, str(error)


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in {"native", "reason"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        settle()
        return globals()[name]


def settle() -> None:
    """Find out now what is in use, where somebody can be told; NoSuchBody."""
    global native, reason
    if "native" not in globals():
        native, reason = _find()
