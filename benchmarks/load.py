"""load: the load generator in ``generator/``, a Rust program that is every client of a measurement.

Theory. It is a crate of its own, built in release the first time that it is needed, and then run once for
each measurement: one role, an address, options; it answers with one line of JSON. Nothing of Python is in a
measured loop.

Not here: what the roles do (``generator/src``).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path

from .buses import Bus

CRATE = Path(__file__).parent / "generator"
PATIENCE = 90
"""Seconds after which a measurement has failed."""


class NoLoad(RuntimeError):
    """The load generator cannot be built here."""


@cache
def program() -> str:
    """Where the load generator is, built if it must be."""
    cargo = shutil.which("cargo")
    if cargo is None:
        raise NoLoad("the load generator is in Rust, and there is no cargo: install Rust 1.85 or later")
    command = [cargo, "build", "--release", "--quiet", "--locked", f"--manifest-path={CRATE}/Cargo.toml"]
    built = subprocess.run(
        [*command, f"--target-dir={CRATE}/target"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
    )  # fmt: skip
    if built.returncode:
        raise NoLoad(f"the load generator could not be built:\n{built.stderr}")
    return str(CRATE / "target" / "release" / "bus1-load")


def measure(role: str, bus: Bus, **options: object) -> dict[str, float]:
    """Let the load generator play ``role`` on ``bus``; RuntimeError if it could not."""
    words = [word for name, value in options.items() for word in (f"--{name}", _word(value))]
    command = [program(), role, bus.address, "--bus", str(bus.pid), *words]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{role} took longer than {PATIENCE} seconds") from None
    if done.returncode:
        raise RuntimeError(f"{role}: {done.stderr.strip()}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
