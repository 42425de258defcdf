"""installation: what has to change so that systemd starts this bus, and what takes that back.

Theory. Installing writes one unit and enables it, which makes the link ``dbus.service`` that outranks the
vendor's. If another provider's link is there, it has to be replaced knowingly; what it led to is remembered
in the scope's state file, and comes back with ``revert``. Nothing here touches a socket unit, or a running
bus.

Invariants. 1. Looking never changes anything; ``changes`` of either kind only say what would be done.
2. A file that is not a link is never removed from the place of the link. 3. For other users than oneself
only a program is installed that nobody but root can change.

Not here: doing it (changes), texts of units (unit), which buses run (probe).
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import bus1
import bus1_bridge
from bus1.changes import Change, MakeLink, Remove, Run, WriteFile, leads_out

from .scopes import ALIAS, UNIT, Scope
from .unit import unit_text

SHIM = "dbus-daemon"


class CannotInstall(Exception):
    """It must not, or can't, be done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides about a scope's bus now; paths as they are below the root."""

    decides: str | None
    """The first ``dbus.service`` that is found; None if there is none."""
    leads_to: str | None
    """The unit behind it."""
    alias: str | None
    """Where the link of this scope's own directory leads; None without a link."""
    is_ours: bool
    """That link leads to our unit."""
    remembered: str | None
    """Where the link led that ours has replaced."""


class Installation:
    """One scope below one root."""

    def __init__(self, scope: Scope, root: str = "", environment: Mapping[str, str] = os.environ) -> None:
        self.scope = scope
        self._root = root.rstrip("/")
        self._environment = environment

    # ---- looking ---------------------------------------------------------------------------------

    def situation(self) -> Situation:
        """Look; OSError."""
        alias = self._link(self.scope.alias)
        decides = next(filter(self._exists, (f"{d}/{ALIAS}" for d in self.scope.directories)), None)
        return Situation(
            decides, self._behind(decides), alias, alias is not None and os.path.basename(alias) == UNIT,
            self._remembered(),
        )

    def install(self, program: str, *, replaces: bool = False, is_trial: bool = False) -> list[Change]:
        """What installing would change; empty if everything is as it should be. CannotInstall."""
        scope, found = self.scope, self.situation()
        if is_trial and scope.name == "global":
            raise CannotInstall("a trial ends by removing the link, which users may not: try it with --user")
        self._check_program(program)
        self._check_places(scope.unit, scope.state)
        before = found.remembered if found.is_ours else found.alias
        try:
            text = unit_text(scope.kind, program, trial_of=(scope.alias, before) if is_trial else None)
        except ValueError as error:
            raise CannotInstall(str(error)) from error
        changes: list[Change] = []
        if not self._has(scope.unit, text):
            changes.append(WriteFile(self._at(scope.unit), text))
        if found.is_ours:
            return changes
        if found.alias is not None:
            if not replaces:
                raise CannotInstall(
                    f"{scope.alias} leads to {found.alias}: another bus is enabled there; "
                    "--replace takes its place, and revert gives it back"
                )
            changes.append(WriteFile(self._at(scope.state), json.dumps({"replaced": found.alias}) + "\n"))
            changes.append(Remove(self._at(scope.alias)))
        elif self._exists(scope.alias):
            raise CannotInstall(f"{scope.alias} is a file of its own, not a link: move it away first")
        return [*changes, self._enable()]

    def revert(self) -> list[Change]:
        """What taking it back would change; empty if there is nothing of ours."""
        scope, found = self.scope, self.situation()
        self._check_places(scope.unit, scope.state)
        changes: list[Change] = []
        if found.is_ours:
            changes.append(self._disable())
            if found.remembered is not None:
                changes.append(MakeLink(self._at(scope.alias), found.remembered))
        return changes + [Remove(self._at(p)) for p in (scope.unit, scope.state) if self._exists(p)]

    def shim(self, program: str, directory: str | None) -> list[Change]:
        """What putting a ``dbus-daemon`` that is this bus into a directory would change. CannotInstall."""
        self._check_program(program)
        path = self._shim_path(directory)
        self._check_places(path)
        if self._link(path) == program:
            return []
        if self._exists(path):
            raise CannotInstall(f"{path} exists, and is not this bus: it is left alone")
        return [MakeLink(self._at(path), program)]

    def unshim(self, program: str, directory: str | None) -> list[Change]:
        """What removing it would change; CannotInstall if it is somebody else's."""
        path = self._shim_path(directory)
        self._check_places(path)
        if not self._exists(path):
            return []
        link = self._link(path)
        if link is None or os.path.basename(link) != os.path.basename(program):
            raise CannotInstall(f"{path} is not this bus: it is left alone")
        return [Remove(self._at(path))]

    # ---- parts -----------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return self._root + path

    def _exists(self, path: str) -> bool:
        return os.path.lexists(self._at(path))

    def _link(self, path: str) -> str | None:
        return os.readlink(self._at(path)) if os.path.islink(self._at(path)) else None

    def _behind(self, path: str | None) -> str | None:
        """The file behind links, each of them taken below the root; None if they lead nowhere."""
        for _ in range(16):
            if path is None or not self._exists(path):
                return None
            link = self._link(path)
            if link is None:
                return path
            path = os.path.normpath(os.path.join(os.path.dirname(path), link))
        return None

    def _has(self, path: str, text: str) -> bool:
        try:
            with open(self._at(path), encoding="utf-8") as file:
                return file.read() == text
        except FileNotFoundError:
            return False

    def _remembered(self) -> str | None:
        try:
            with open(self._at(self.scope.state), encoding="utf-8") as file:
                replaced = json.load(file)["replaced"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            text = f"{self.scope.state} is damaged: remove it, or restore the link by hand"
            raise CannotInstall(text) from None
        return str(replaced)

    def _shim_path(self, directory: str | None) -> str:
        return os.path.join(os.path.abspath(directory or self.scope.binaries), SHIM)

    def _check_places(self, *paths: str) -> None:
        """Links below another root may lead out of it, to this machine's own files: CannotInstall."""
        for folder in map(os.path.dirname, paths):
            if (there := leads_out(self._root, folder)) is not None:
                raise CannotInstall(f"{self._at(folder)} leads out of {self._root}, to {there}")

    def _check_program(self, program: str) -> None:
        at = self._at(program)
        if not (os.path.isfile(at) and os.access(at, os.X_OK)):
            below = f" below {self._root}" if self._root else ""
            raise CannotInstall(f"{program} is no program{below}: --program=PATH says where it is")
        if self._is_user:
            return
        # for this machine, what the program is made of, too
        parts = [program] if self._root else [program, sys.executable, *_packages()]
        for path in dict.fromkeys(step for part in parts for step in _steps_to(part)):
            about = os.stat(self._at(path))
            if about.st_uid not in {0, os.geteuid()} or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise CannotInstall(
                    f"others than root can change {path}: what serves other users must be safe from that"
                )
            if not about.st_mode & stat.S_IXOTH:
                raise CannotInstall(f"others than root can't get at {path}: the bus that serves them must")

    def _enable(self) -> Change:
        if self._is_user and self._root:
            # systemctl knows no root for the units of users
            return MakeLink(self._at(self.scope.alias), self.scope.unit)
        return self._systemctl("enable", "disable")

    def _disable(self) -> Change:
        if self._is_user and self._root:
            return Remove(self._at(self.scope.alias))
        return self._systemctl("disable", "enable")

    def _systemctl(self, verb: str, back: str) -> Run:
        root = [f"--root={self._root}"] if self._root else []
        command = ["systemctl", *root, *self.scope.flags]
        # offline: what runs is left as it is, and links can be made where no manager runs
        environment = {**self._environment, "SYSTEMD_OFFLINE": "1"}
        return Run([*command, verb, UNIT], [*command, back, UNIT], environment)

    @property
    def _is_user(self) -> bool:
        return self.scope.name == "user"


def _packages() -> list[str]:
    return [os.path.dirname(os.path.abspath(str(package.__file__))) for package in (bus1, bus1_bridge)]


def _steps_to(path: str) -> Sequence[str]:
    """The file, and every directory on the way to it but the root."""
    steps = [path]
    while (parent := os.path.dirname(steps[-1])) != "/":
        steps.append(parent)
    return steps
