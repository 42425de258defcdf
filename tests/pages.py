"""pages: what a page of the documentation tells its reader to do is done, and what it shows is compared.

Theory. Blocks of a page are taken in their order. A block whose first line is a comment with the name of a
file is that file. A block of ``console`` is typed into one shell: lines after ``$ ``, and after ``> `` what
continues them, are commands; what follows is what they print, with ``...`` for anything. What a program in
the background prints is waited for like that.
"""

from __future__ import annotations

import doctest
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from dbus_client import PATIENCE

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
END = "-- that was all --"
LONGEST = 120.0
"""Seconds that a command may take."""


@dataclass(frozen=True)
class Block:
    """A fenced block: the language, the text, and the line where the text begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str:
        """The name of the file that it is, or nothing."""
        found = re.match(r"# ((?:[\w-]+/)*[\w.-]+\.\w+)\n", self.text)
        return found[1] if found and self.language != "console" else ""

    def commands(self) -> Iterator[tuple[str, str]]:
        """What is typed, and what is printed then."""
        for part in re.split(r"^\$ ", self.text, flags=re.M)[1:]:
            command, *shown = part.splitlines()
            while command.endswith("\\"):
                command = f"{command[:-1]}{shown.pop(0).removeprefix('> ')}"
            yield command, "".join(f"{line}\n" for line in shown)


def blocks(page: str) -> list[Block]:
    """All blocks of a page of docs/."""
    text = (DOCS / page).read_text()
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in re.finditer(r"^```(\w+)\n(.*?)^```$", text, re.M | re.S)
    ]


class Shell:
    """One shell of a reader who has a checkout in ``~/bus1``, and whose programs are found."""

    def __init__(self, folder: Path) -> None:
        home, work = folder / "home", folder / "work"
        home.mkdir()
        work.mkdir()
        (home / "bus1").symlink_to(ROOT)
        unwanted = ("BUS1_ADDRESS", "DBUS_", "LISTEN_", "NOTIFY_", "PYTEST_", "SYSTEMD_", "XDG_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
        environment = {
            **kept, "HOME": str(home), "LC_ALL": "C.UTF-8", "NO_COLOR": "1", "COLUMNS": "120",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in (".", "services", "bridge")),
        }
        self.folder = work
        self._process = subprocess.Popen(
            ["bash"], cwd=work, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with self._process:
            pass

    def type(self, command: str, shown: str) -> str:
        """Run a command, however long it takes; what came of it, as shown, or what else was there in time."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\nstatus=$?; echo '{END}'; (exit $status)\n".encode())
        self._process.stdin.flush()
        text = self._read(lambda text: END in text, patience=LONGEST)
        assert END in text, f"{command} has not ended: {text}"
        return self._read(lambda text: same(shown, text), without_end(text), patience=PATIENCE)

    def leave(self) -> str:
        """Close the shell, and wait until nobody is there who could print; what was printed."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        return self._read(lambda text: False, patience=LONGEST)

    def _read(self, is_all: Callable[[str], bool], text: str = "", *, patience: float) -> str:
        """``text`` and what is printed until it is all, nobody is left to print, or patience is over."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + patience
        while not is_all(text):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))
            came = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            if not came:
                break
            text = without_log(text + came.decode())
        return text


def without_end(text: str) -> str:
    """What was printed, without the line that says that the command has ended."""
    return text.replace(f"{END}\n", "", 1)


def without_log(text: str) -> str:
    """What was printed, without what the bus says of services that it starts, wherever that is."""
    return re.sub(r"bus1-bridge\[\d+\]: .*\n", "", text)


def same(shown: str, printed: str) -> bool:
    """Whether this was shown; ``...`` is anything, on a line of its own any number of lines."""
    lines = re.sub(r"^\.\.\.\n", "...", shown, flags=re.M)
    return doctest.OutputChecker().check_output(lines, printed, doctest.ELLIPSIS)


QUESTION = " Present"
"""What may be asked again: a service hears a moment later that one of its clients has died."""


def follow(page: str, folder: Path) -> None:
    """Do what a page says; AssertionError if something else is printed than it shows, with the line."""
    with Shell(folder) as shell:
        for block in blocks(page):
            if block.file:
                path = shell.folder / block.file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(block.text)
            elif block.language == "console":
                for command, shown in block.commands():
                    printed = shell.type(command, shown)
                    if command.endswith(QUESTION) and not same(shown, printed):
                        printed = shell.type(command, shown)
                    where = f"{page}, block at line {block.line}: $ {command}"
                    assert same(shown, printed), f"{where}\n{printed}instead of\n{shown}"
        left = shell.leave()
        assert left == "", f"{page}: printed at the end, and not shown: {left}"
