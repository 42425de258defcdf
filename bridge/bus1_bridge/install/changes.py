"""changes: small changes of the file system that are carried out together, or not at all.

Theory. A change can say what it would do, do it, and undo it. ``carry_out`` does a list of them in order;
if one fails, those before it are undone, the last first, and the failure is raised as it was.

Invariants. 1. After ``carry_out`` either all changes are done, or none is. 2. A file is never seen half
written: it is written beside its place and renamed.

Not here: which changes (installation).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

_UMASK = 0o022


class Change(Protocol):
    """One step."""

    def __str__(self) -> str:
        """What is done, in words: a line for people."""

    def do(self) -> Callable[[], None]:
        """Do it; returns what undoes it. OSError, ChangeFailed: nothing has happened."""


class ChangeFailed(Exception):
    """A step could not be done; the text says why."""


def carry_out(changes: Sequence[Change]) -> None:
    """Do all of them in order, or raise and leave everything as it was. What is written all may read."""
    umask = os.umask(_UMASK)
    try:
        with ExitStack() as undoing:
            for change in changes:
                undoing.callback(change.do())
            undoing.pop_all()
    finally:
        os.umask(umask)


class WriteFile:
    """Write a file, and the directories that lead to it."""

    def __init__(self, path: str, text: str) -> None:
        self.path = path
        self.text = text

    def __str__(self) -> str:
        return f"write {self.path}"

    def do(self) -> Callable[[], None]:
        """The old contents come back when undone; OSError."""
        old = _read(self.path)
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        _replace(self.path, self.text)

        def undo() -> None:
            if old is None:
                os.unlink(self.path)
            else:
                _replace(self.path, old)

        return undo


class Remove:
    """Remove a file or a link, if it is there."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __str__(self) -> str:
        return f"remove {self.path}"

    def do(self) -> Callable[[], None]:
        """It comes back when undone; OSError."""
        if not os.path.lexists(self.path):
            return _nothing
        if os.path.islink(self.path):
            target = os.readlink(self.path)
            os.unlink(self.path)
            return lambda: os.symlink(target, self.path)
        text = _read(self.path)
        os.unlink(self.path)
        return lambda: _replace(self.path, text or "")


class MakeLink:
    """Make a symbolic link where nothing is."""

    def __init__(self, path: str, target: str) -> None:
        self.path = path
        self.target = target

    def __str__(self) -> str:
        return f"link {self.path} to {self.target}"

    def do(self) -> Callable[[], None]:
        """OSError, if there is something, above all."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        os.symlink(self.target, self.path)
        return lambda: os.unlink(self.path)


class Run:
    """Run a command; ``undo`` is the command that takes it back."""

    def __init__(self, command: Sequence[str], undo: Sequence[str], environment: Mapping[str, str]) -> None:
        self.command = command
        self._undo = undo
        self._environment = environment

    def __str__(self) -> str:
        return " ".join(self.command)

    def do(self) -> Callable[[], None]:
        """ChangeFailed with what the command said."""
        self._run(self.command)

        def undo() -> None:
            with suppress(ChangeFailed):
                self._run(self._undo)

        return undo

    def _run(self, command: Sequence[str]) -> None:
        try:
            done = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                check=False, timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ChangeFailed(f"{command[0]} could not be run: {error}") from error
        if done.returncode:
            said = done.stderr.strip() or f"exit status {done.returncode}"
            raise ChangeFailed(f"{' '.join(command)}: {said}")


def _nothing() -> None:
    """There is nothing to undo."""


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _replace(path: str, text: str) -> None:
    new = f"{path}.new"
    with suppress(FileNotFoundError):
        os.unlink(new)
    try:
        with open(new, "x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise
