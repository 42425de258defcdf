"""worker: a process of the load other than the measuring one."""

from __future__ import annotations

import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 10
"""Seconds that nobody here waits longer than: who stays silent has failed."""


def read_line(process: subprocess.Popen[bytes], patience: float = PATIENCE) -> str:
    """The next line of an unbuffered output, empty at its end; TimeoutError if there is none in time."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], patience)[0]:
        raise TimeoutError(f"{process.args!r} said nothing")
    return process.stdout.readline().decode().strip()


class Worker:
    """``python -m benchmarks.MODULE``: prints one line per event, ends when it is stopped."""

    def __init__(self, module: str, *arguments: str, pass_fds: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, pass_fds=tuple(pass_fds), bufsize=0,
        )

    def line(self, patience: float = PATIENCE) -> str:
        """The next line; RuntimeError if the process has ended instead."""
        text = read_line(self.process, patience)
        if not text:
            raise RuntimeError(f"{self.process.args!r} ended")
        return text

    def stop(self) -> None:
        """Kill and reap."""
        self.process.kill()
        self.process.communicate()
