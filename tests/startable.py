"""startable: service files and the programs that they start, for the tests of activation.

Theory. Success of a start is the name's owner, whoever that is. So most programs here only leave a
trace, and the test itself owns the name, at the moment of its choice.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from itertools import count
from pathlib import Path

from buses import Bus, eventually

_TRACE = """#!/bin/sh
echo $$ >> "$0.alive"
env > "$0.environment"
for argument; do echo "$argument"; done > "$0.arguments"
ls -l /proc/$$/fd > "$0.descriptors"
while read -r line; do echo "$line"; done < /proc/$$/stat > "$0.stat"
while read -r line; do echo "$line"; done < /proc/$$/status > "$0.status"
ulimit -n > "$0.files"
echo $$ >> "$0.pids"
test ! -e "$0.stop" || exit 0
"""
_NUMBERS = count(1)


class Program:
    """A program that leaves traces beside itself, then goes on as it is told."""

    def __init__(self, path: Path, address: str, ending: str) -> None:
        self.path = path
        self._address = address.encode()
        path.write_text(_TRACE + ending + "\n")
        path.chmod(0o755)

    def trace(self, what: str) -> str:
        """What it left, once it has left all."""
        self.wait()
        return Path(f"{self.path}.{what}").read_text()

    @property
    def pids(self) -> list[int]:
        """Of every start, in order."""
        return self._numbers("pids")

    def _numbers(self, what: str) -> list[int]:
        path = Path(f"{self.path}.{what}")
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    def wait(self, starts: int = 1) -> None:
        """Until it was started as often."""
        eventually(lambda: len(self.pids) >= starts, lambda: (self.path, self.pids))

    def kill(self) -> None:
        """End whatever runs of it, and what has only just begun."""
        Path(f"{self.path}.stop").touch()
        for pid in self._numbers("alive"):
            with suppress(OSError):
                # the number may be another's by now
                if self._address in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGKILL)


class Startable:
    """What can be started on one bus; nothing of it is left after the test."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.folder = bus.folder / "dbus-1" / "services"

    def name(self) -> str:
        """A name that no other test uses."""
        return f"com.example.Startable{next(_NUMBERS)}"

    def program(self, ending: str = "exec sleep 1000") -> Program:
        """A program that ends, or waits, as ``ending`` says."""
        program = Program(self.bus.folder / f"program{next(_NUMBERS)}", self.bus.address, ending)
        self.bus.cleanup.callback(program.kill)
        return program

    def file(
        self, name: str, command: object, *, folder: Path | None = None, file: str | None = None,
        keys: dict[str, str] | None = None,
    ) -> Path:
        """A service file; removed with the test."""
        folder = folder or self.folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / (file or f"{name}.service")
        content = {"Name": name, "Exec": command, **(keys or {})}
        lines = [f"{key}={value}\n" for key, value in content.items()]
        path.write_text("".join(["[D-BUS Service]\n", *lines]))
        self.bus.cleanup.callback(path.unlink, missing_ok=True)
        return path

    def add(
        self, ending: str = "exec sleep 1000", keys: dict[str, str] | None = None
    ) -> tuple[str, Program]:
        """A new name with a program of its own."""
        name, program = self.name(), self.program(ending)
        self.file(name, program.path, keys=keys)
        return name, program
