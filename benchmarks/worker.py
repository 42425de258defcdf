"""worker: a process of the load other than the measuring one."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 10
"""Seconds that nobody here waits longer than: who stays silent has failed."""
PROCESS_CPU_CLOCK = 2
"""Low bits of the clock id of another process: what clock_getcpuclockid(3) makes of its number."""
LOOKS = 10_000
"""How often to look whether a process waits, before taking what its clock says."""


def cpu_time(pid: int) -> int:
    """Nanoseconds of CPU that a process has used until it next waits."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(LOOKS):
        if stat.read_bytes().rpartition(b")")[2].split()[0] != b"R":
            break
        os.sched_yield()  # the count of a process that runs is as old as its last tick
    return time.clock_gettime_ns(~pid << 3 | PROCESS_CPU_CLOCK)


def busy_time(others: Iterable[int]) -> int:
    """Nanoseconds of CPU that this process and others, by their pids, have used."""
    return sum(map(cpu_time, others)) + time.process_time_ns()


def read_line(process: subprocess.Popen[bytes], patience: float = PATIENCE) -> str:
    """The next line of an unbuffered output, empty at its end; TimeoutError if there is none in time."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], patience)[0]:
        raise TimeoutError(f"{process.args!r} said nothing")
    return process.stdout.readline().decode().strip()


class Worker:
    """``python -m benchmarks.MODULE``: prints one line per event, ends when it is stopped."""

    def __init__(
        self, module: str, *arguments: str, pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{module}", *arguments], cwd=ROOT, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, pass_fds=tuple(pass_fds), bufsize=0, env=environment,
        )

    def line(self, patience: float = PATIENCE) -> str:
        """The next line; RuntimeError if the process has ended instead."""
        text = read_line(self.process, patience)
        if not text:
            raise RuntimeError(f"{self.process.args!r} ended")
        return text

    def cpu_time(self) -> int:
        """Nanoseconds of CPU that the process has used until it next waits."""
        return cpu_time(self.process.pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill and reap."""
        self.process.kill()
        self.process.communicate()
