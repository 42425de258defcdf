"""bus1_command: the command ``bus1`` as a user runs it, for tests."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from buses import reap
from dbus_client import PATIENCE

from bus1.peer import Peer

BUS1 = Path(sys.executable).parent / "bus1"
Popen: Any = subprocess.Popen
"""Untyped: which overload is meant shows only in the options."""
Record = dict[str, Any]


@dataclass
class Shell:
    """Runs the command in a folder; ends what it has started."""

    folder: Path
    cleanup: ExitStack = field(default_factory=ExitStack)
    address: str = ""
    """Of the bus that ``serve`` started last: the one that is meant where no other is named."""

    def environment(self, **changes: str) -> dict[str, str]:
        unwanted = (
            "BUS1_ADDRESS", "DBUS_", "PYTHONUNBUFFERED", "SYSTEMD_", "LISTEN_", "NOTIFY_", "NO_COLOR",
            "PAGER",
        )
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        found = {"XDG_RUNTIME_DIR": str(self.folder), "LC_ALL": "C.UTF-8"}
        return kept | found | ({"BUS1_ADDRESS": self.address} if self.address else {}) | changes

    def run(
        self, *arguments: str, program: Sequence[str] = (str(BUS1),), **changes: str
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end; ``changes`` are of the environment."""
        return subprocess.run(
            [*program, *arguments], env=self.environment(**changes), cwd=self.folder, timeout=PATIENCE,
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )

    def says(self, *arguments: str, **changes: str) -> str:
        """What it prints; it must succeed, and say nothing else."""
        done = self.run(*arguments, **changes)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout

    def records(self, *arguments: str) -> list[Record]:
        """What it prints as JSON."""
        return [json.loads(line) for line in self.says(*arguments, "--json=short").splitlines()]

    def fails(self, *arguments: str, **changes: str) -> str:
        """What it says on standard error; it must end with status 1, and print nothing."""
        done = self.run(*arguments, **changes)
        assert (done.returncode, done.stdout) == (1, ""), done
        assert done.stderr.startswith("bus1: ") and done.stderr.count("\n") == 1
        return done.stderr.removeprefix("bus1: ").rstrip("\n")

    def on_terminal(self, *arguments: str, **changes: str) -> str:
        """What it prints to a terminal."""
        ours, theirs = pty.openpty()
        environment = self.environment(**{"TERM": "xterm", **changes})
        with open(ours, "rb", buffering=0) as screen:
            process = Popen([BUS1, *arguments], env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
            self.cleanup.callback(reap, process)
            os.close(theirs)
            shown = b""
            with suppress(OSError):  # EIO: nobody has the terminal open any more
                while piece := screen.read(4096):
                    shown += piece
        assert process.wait(PATIENCE) == 0, shown
        return shown.decode().replace("\r\n", "\n")

    def start(
        self, *arguments: str, program: Sequence[str] = (str(BUS1),), changes: Record | None = None,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """Start it; ended with the test."""
        streams: Record = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0,
        }
        process: subprocess.Popen[bytes] = Popen(
            [*program, *arguments], env=self.environment(**(changes or {})), cwd=self.folder,
            **streams | options,
        )
        self.cleanup.callback(reap, process)
        return process

    def serve(self, *flags: str, **options: Any) -> subprocess.Popen[bytes]:
        """A bus that listens."""
        process = self.start("broker", "--print-address", *flags, **options)
        self.address = line(process.stdout)
        return process

    def peer(self) -> Peer:
        """A new peer on the last bus; closed with the test at the latest."""
        return self.cleanup.enter_context(Peer.connect(self.address))


def line(stream: Any) -> str:
    """The next line of a pipe."""
    readable, _, _ = select.select([stream], [], [], PATIENCE)
    assert readable
    text: str = stream.readline().decode()
    assert text.endswith("\n"), text
    return text.rstrip("\n")
