"""changes: small changes of the file system that are carried out together, or not at all.

Theory. A change can say what it would do, do it, and undo it. ``carry_out`` does a list of them in order;
if one fails, those before it are undone, the last first, and the failure is raised as it was.

Invariants. 1. After ``carry_out`` either all changes are done, or none is. 2. A file that is replaced is
never seen half written: it is written beside its place and renamed. A link there is replaced, not followed.
3. Without leave to replace, nothing that is there is touched.

Not here: which changes (whoever installs or writes something).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from secrets import token_hex
from typing import Protocol

FOR_ALL = 0o022
"""The umask with which all may read what is written."""


class Change(Protocol):
    """One step."""

    def __str__(self) -> str:
        """What is done, in words: a line for people."""

    def do(self) -> Callable[[], None]:
        """Do it; returns what undoes it. OSError, ChangeFailed: nothing has happened."""


class ChangeFailed(Exception):
    """A step could not be done; the text says why."""


def carry_out(changes: Sequence[Change], *, umask: int | None = None) -> None:
    """Do all of them in order, or raise and leave everything as it was; ``umask`` is that of this time."""
    before = None if umask is None else os.umask(umask)
    try:
        with ExitStack() as undoing:
            for change in changes:
                undoing.callback(change.do())
            undoing.pop_all()
    finally:
        if before is not None:
            os.umask(before)


def leads_out(root: str, path: str) -> str | None:
    """Where ``path`` below ``root`` really is, if links lead out of there: to this machine's own files."""
    if not root:
        return None
    inside, there = os.path.realpath(root), os.path.realpath(root + path)
    return there if os.path.commonpath((inside, there)) != inside else None


class WriteFile:
    """Write a file, and the directories that lead to it; unless it ``may_replace``, where nothing is."""

    def __init__(self, path: str, text: str, *, may_replace: bool = True) -> None:
        self.path = path
        self.text = text
        self._may_replace = may_replace

    def __str__(self) -> str:
        return f"write {self.path}"

    def do(self) -> Callable[[], None]:
        """What was there comes back when undone; OSError."""
        restore = _restoring(self.path) if self._may_replace else lambda: os.unlink(self.path)
        made = _make_directories(os.path.dirname(self.path))
        try:
            (_replace if self._may_replace else _create)(self.path, self.text.encode())
        except BaseException:
            _remove_directories(made)
            raise

        def undo() -> None:
            restore()
            _remove_directories(made)

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
        restore = _restoring(self.path)
        os.unlink(self.path)
        return restore


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


def _restoring(path: str) -> Callable[[], None]:
    """What brings back that which is there now: a file, a link, or nothing."""
    if os.path.islink(path):
        target = os.readlink(path)

        def link() -> None:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.symlink(target, path)

        return link
    try:
        with open(path, "rb") as file:
            mode, data = os.fstat(file.fileno()).st_mode, file.read()
    except FileNotFoundError:
        return lambda: os.unlink(path)

    def rewrite() -> None:
        _replace(path, data)
        os.chmod(path, mode & 0o7777)

    return rewrite


def _make_directories(path: str) -> list[str]:
    """Make what is missing of a path; those that were made, the outermost first."""
    missing = []
    while path and not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for directory in reversed(missing):
        os.makedirs(directory, exist_ok=True)
    return missing[::-1]


def _remove_directories(made: Sequence[str]) -> None:
    with suppress(OSError):
        for directory in reversed(made):
            os.rmdir(directory)


def _create(path: str, data: bytes) -> None:
    with open(path, "xb") as file:
        try:
            file.write(data)
        except BaseException:
            os.unlink(path)
            raise


def _replace(path: str, data: bytes) -> None:
    new = f"{path}.{token_hex(8)}"
    try:
        with open(new, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new)
        raise
