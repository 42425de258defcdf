"""buses: what is measured; one ``Bus`` subclass each.

Theory. A bus is a process of its own on a socket in the run's directory. ``start`` returns once the
address is known (the bus printed it, so it listens), which is also what the start-up scenario times.
``clients`` says how the load talks to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from .clients import Clients
from .legacy import DbusClients
from .worker import read_line

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


class Bus(ABC):
    """One process under test."""

    name: ClassVar[str]
    program: ClassVar[str]
    """Command to look for; a bus whose program is missing is left out of the run, and the report says so."""
    library: ClassVar[str] = "dbus-fast"
    """What Python programs use to talk to it."""

    def __init__(self, directory: Path, instance: int = 0) -> None:
        self.directory = directory
        self.socket = directory / f"{self.name.replace(' ', '-')}-{instance}"
        self.log = self.socket.with_suffix(".log")
        self.address = ""
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def executable(cls) -> str | None:
        """Where the program is, if it is installed: next to this interpreter first."""
        return shutil.which(cls.program, path=str(Path(sys.executable).parent)) or shutil.which(cls.program)

    @property
    def clients(self) -> Clients:
        """The load for this bus."""
        return DbusClients(self.address)

    @abstractmethod
    def start(self) -> None:
        """Spawn the process; sets ``address``."""

    def spawn(self, *command: str, pass_fds: tuple[int, ...] = (), cwd: Path | None = None) -> None:
        """Start the program as ``process``, its output on a pipe, its complaints in ``log``."""
        executable = self.executable()
        assert executable is not None, f"{self.program} is not installed"
        # Compiled, as an installed package is, even where bytecode may not be written beside the source.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(self.directory / "bytecode")}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                pass_fds=pass_fds, cwd=cwd, bufsize=0, env=environment,
            )

    def line(self) -> str:
        """The first line of its output; RuntimeError with its complaints if there is none."""
        assert self.process is not None
        text = read_line(self.process)
        if not text:
            raise RuntimeError(f"{self.name} did not start: {self.log.read_text()}")
        return text

    def cpu_time(self) -> int:
        """Nanoseconds of CPU that the process has used until it next waits."""
        assert self.process is not None
        return cpu_time(self.process.pid)

    def kill(self) -> None:
        """End the process without asking; its clients see that at once."""
        if self.process is not None:
            self.process.kill()

    def stop(self) -> None:
        """End the process and wait for it; kill it if it takes too long."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
        self.process = None
        self.socket.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class PrintingBus(Bus):
    """A bus with dbus-daemon's command line."""

    flags: ClassVar[tuple[str, ...]] = ("--session", "--nofork", "--print-address=1")

    def start(self) -> None:
        """Spawn, and read the address that it prints once it listens."""
        self.spawn(*self.flags, f"--address=unix:path={self.socket}")
        self.address = self.line()


class DbusDaemon(PrintingBus):
    """The reference implementation."""

    name = "dbus-daemon"
    program = "dbus-daemon"


class Bus1Bridge(PrintingBus):
    """This project's bus, legacy clients on both ends."""

    name = "bus1-bridge"
    program = "bus1-bridge"
