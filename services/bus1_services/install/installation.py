"""installation: what has to change so that a machine knows a service, and what takes that back.

Theory. Each file says for which service it was written. So installing again replaces what is there, and takes
away what an earlier version had; files of others are left alone, and stop it.

Invariants. 1. Looking never changes anything. 2. A file that does not say that it is this service's is
neither replaced nor removed, unless forced; an interface that is described there already stays as it is.

Not here: doing it (``bus1.changes``), what the files say (``texts``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice

from bus1.changes import Change, Remove, Run, WriteFile, leads_out

from .places import Places
from .texts import Finished, is_ours

FILES_MAX = 8192
"""Entries of one directory that are looked at."""
_HEAD = 4096


class CannotInstall(Exception):
    """It must not be done; the text says why."""


class Installation:
    """The files of services in these places, below one root."""

    def __init__(self, places: Places, root: str = "") -> None:
        self.places = places
        self._root = root.rstrip("/")

    def install(self, finished: Finished, *, force: bool = False) -> list[Change]:
        """What installing would change; empty if everything is as it should be. CannotInstall, OSError."""
        self._check_places()
        wanted = self.places.files(finished)
        changes: list[Change] = []
        for path, text in wanted.items():
            there = self._text(path)
            if there is not None and not is_ours(there, finished.source) and not force:
                if path.startswith(f"{self.places.interfaces}/"):
                    continue
                raise CannotInstall(f"{self._at(path)} is not of {finished.source}; --force replaces it")
            if there != text:
                changes.append(WriteFile(self._at(path), text))
        stale = [path for path in self.found(finished.source) if path not in wanted]
        return changes + [Remove(self._at(path)) for path in stale]

    def uninstall(self, source: str) -> list[Change]:
        """What removing would change; empty if nothing is there. CannotInstall, OSError."""
        self._check_places()
        return [Remove(self._at(path)) for path in self.found(source)]

    def found(self, source: str) -> list[str]:
        """The files that were written for a service. OSError."""
        return [path for path in self._files() if is_ours(self._text(path) or "", source)]

    def telling(self, environment: dict[str, str]) -> list[Change]:
        """How the service manager is told, if one runs that looks here."""
        if self._root:
            return []
        changes: list[Change] = []
        if self.places.accounts and os.path.isdir("/run/systemd/system"):
            changes.append(Run(["systemd-sysusers"], ["true"], environment))
        flags = [] if self.places.accounts else ["--user"]
        runs = os.path.exists(f"{environment.get('XDG_RUNTIME_DIR', '')}/systemd/private") if flags else (
            os.path.isdir("/run/systemd/system")
        )
        reload = ["systemctl", *flags, "daemon-reload"]
        return [*changes, Run(reload, reload, environment)] if runs else changes

    def _at(self, path: str) -> str:
        return self._root + path

    def _files(self) -> Iterator[str]:
        for directory in self.places.directories:
            try:
                with os.scandir(self._at(directory)) as entries:
                    names = sorted(entry.name for entry in islice(entries, FILES_MAX))
            except FileNotFoundError:
                continue
            yield from (f"{directory}/{name}" for name in names)

    def _text(self, path: str) -> str | None:
        """What a file says; nothing of one that is no file."""
        at = self._at(path)
        if not os.path.lexists(at):
            return None
        if not os.path.isfile(at) or os.path.islink(at):
            return ""
        with open(at, encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
            return head + file.read() if is_ours(head) else head

    def _check_places(self) -> None:
        for directory in self.places.directories:
            if (there := leads_out(self._root, directory)) is not None:
                raise CannotInstall(f"{self._at(directory)} leads out of {self._root}, to {there}")
