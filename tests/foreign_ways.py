"""foreign_ways: a program of dbus-fast or dbus-next, on the reference bus, on ours, and natively on ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from buses import Bus

HERE = Path(__file__).parent
NATIVELY = ("-m", "bus1_services.dbusfast", "run")
WAYS = {
    "dbus-daemon": ("dbus-daemon", ()),
    "bus1-bridge": ("bus1-bridge", ()),
    "native": ("bus1-bridge", NATIVELY),
}
"""The bus, and what stands before a program."""


def start(bus: Bus, before: tuple[str, ...], program: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a program, and wait until it says that it owns its name."""
    started = bus.start(sys.executable, *before, program, *arguments)
    assert started.stdout is not None
    said: list[str] = []
    for line in started.stdout:
        said.append(line)
        if line == "PRIMARY_OWNER\n":
            return started
    raise AssertionError("".join(said))


def kitchen(bus: Bus, way: str, library: str) -> subprocess.Popen[str]:
    """The service of ``foreign_service.py``."""
    return start(bus, WAYS[way][1], str(HERE / "foreign_service.py"), library)
