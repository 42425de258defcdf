"""example: the programs of ``examples/``, as modules and as processes on a private bus."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any

from bus1_services.testing import PrivateBus
from buses import reap

EXAMPLES = Path(__file__).parent.parent / "examples"


def load(name: str) -> Any:
    """An example as a module; it finds those beside it as it does when it is run."""
    sys.path.append(str(EXAMPLES))
    try:
        return import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


class Programs:
    """An example that serves on a private bus, and other programs on it."""

    def __init__(self, bus: PrivateBus, cleanup: ExitStack, name: str, ready: str) -> None:
        self.bus, self.cleanup = bus, cleanup
        self.example = (sys.executable, str(EXAMPLES / name))
        self.served = self.start(*self.example)
        assert self.line(self.served) == ready

    def start(self, *command: str) -> subprocess.Popen[str]:
        """A process that is ended with the test."""
        process = subprocess.Popen(command, env=self.bus.environment, stdout=subprocess.PIPE, text=True)
        self.cleanup.callback(reap, process)
        return process

    def line(self, process: subprocess.Popen[str]) -> str:
        """The next line that it prints."""
        assert process.stdout is not None
        return process.stdout.readline().rstrip("\n")

    def run(self, *command: str, status: int | tuple[int, ...] = 0, stdin: str = "") -> str:
        """What a program says, which ends with this status, or one of these."""
        done = subprocess.run(
            command, env=self.bus.environment, capture_output=True, text=True, timeout=30, check=False,
            input=stdin,
        )
        assert done.returncode in (status if isinstance(status, tuple) else (status,)), done
        return (done.stdout + done.stderr).strip()
