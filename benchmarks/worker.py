"""worker: a process of the load other than the measuring one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class Worker:
    """``python -m benchmarks.MODULE``: prints one line per event, ends when it is stopped."""

    def __init__(self, module: str, *arguments: str, pass_fds: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, pass_fds=tuple(pass_fds),
        )

    def line(self) -> str:
        """The next line; RuntimeError if the process has ended instead."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline().decode().strip()
        if not text:
            raise RuntimeError(f"{self.process.args!r} ended")
        return text

    def stop(self) -> None:
        """Kill and reap."""
        self.process.kill()
        self.process.communicate()
