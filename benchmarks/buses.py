"""buses: what is measured; one ``Bus`` subclass each.

Theory. A bus is a process of its own on a socket in the run's directory. ``start`` returns once the address
is known (the bus printed it, so it listens). Who reads dbus-daemon's configuration files reads the same
one: the limits lie beyond what any load needs, and everything is permitted, or what a ``system``'s bus
permits. A ``stock`` bus has the configuration and the limits that it comes with.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, Self

from bus1.acceleration import VARIABLE

from . import system
from .worker import cpu_time, read_line

_ROOMY = (
    "max_completed_connections", "max_connections_per_user", "max_incomplete_connections",
    "max_match_rules_per_connection", "max_names_per_connection", "max_replies_per_connection",
)
_BYTES = ("max_incoming_bytes", "max_outgoing_bytes", "max_message_size")
_LIMITS = {**dict.fromkeys(_ROOMY, 1_000_000), **dict.fromkeys(_BYTES, 1_000_000_000)}
_OPEN = """<policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>"""


def configuration(policy: str) -> str:
    """The file that is read."""
    return f"""<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  {"".join(f'<limit name="{name}">{limit}</limit>' for name, limit in _LIMITS.items())}
  {policy}
</busconfig>
"""


class Bus(ABC):
    """One process under test."""

    name: ClassVar[str]
    program: ClassVar[str]
    """Command to look for; a bus whose program is missing is left out of the run, and the report says so."""
    body: ClassVar[str] = ""
    """What ``BUS1_ACCEL`` says to the bus, and to Python programs that use it; nothing: what it says here."""

    def __init__(
        self, directory: Path, instance: int | str = 0, *, stock: bool = False, system: bool = False
    ) -> None:
        self.directory = directory
        self.stock = stock
        self.system = system
        self.socket = directory / f"{self.name.replace(' ', '-')}-{instance}"
        self.log = self.socket.with_suffix(".log")
        self.address = ""
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def executable(cls) -> str | None:
        """Where the program is, if it is installed: next to this interpreter first."""
        return shutil.which(cls.program, path=str(Path(sys.executable).parent)) or shutil.which(cls.program)

    @property
    def environment(self) -> dict[str, str]:
        """That of the bus and of those that are measured with it."""
        # Compiled, as an installed package is, even where bytecode may not be written beside the source.
        found = {**os.environ, "PYTHONPYCACHEPREFIX": str(self.directory / "bytecode")}
        found.pop("PYTHONDONTWRITEBYTECODE", None)
        return {**found, VARIABLE: self.body} if self.body else found

    @property
    def pid(self) -> int:
        """The process."""
        assert self.process is not None
        return self.process.pid

    @abstractmethod
    def start(self) -> None:
        """Spawn the process; sets ``address``."""

    def spawn(self, *command: str, pass_fds: tuple[int, ...] = (), executable: str | None = None) -> None:
        """Start the program as ``process``, its output on a pipe, its complaints in ``log``."""
        executable = executable or self.executable()
        assert executable is not None, f"{self.program} is not installed"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                pass_fds=pass_fds, bufsize=0, env=self.environment,
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
        return cpu_time(self.pid)

    def memory(self) -> int:
        """Bytes that are resident."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return 1024 * int(rollup.partition("\nRss:")[2].split()[0])

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

    def start(self) -> None:
        """Spawn, and read the address that it prints once it listens."""
        choice = "--session"
        if not self.stock:
            file = self.directory / ("system.conf" if self.system else "roomy.conf")
            file.write_text(configuration(system.elements() if self.system else _OPEN))
            choice = f"--config-file={file}"
        self.spawn(choice, "--nofork", "--print-address=1", f"--address=unix:path={self.socket}")
        self.address = self.line()


class DbusDaemon(PrintingBus):
    """The reference implementation."""

    name = "dbus-daemon"
    program = "dbus-daemon"


class Bus1Bridge(PrintingBus):
    """This project's bus, with the body that it finds."""

    name = "bus1-bridge"
    program = "bus1-bridge"


class PythonBridge(Bus1Bridge):
    """This project's bus, the body in Python."""

    name = "bus1-bridge-python"
    body = "python"
