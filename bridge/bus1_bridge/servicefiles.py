"""servicefiles: the directories of .service files, and what lies in them now.

Theory. Directories are in order, and the first file that claims a name has it. A name that is known is
looked at again (its file may have changed, or gone); one that is not makes every directory be looked at
again that may have changed. So a service that was installed a moment ago is there, and nobody has to watch
anything. A directory that does not exist, yet, is an empty one. Files are remembered by what the kernel
says of them, so an unchanged one is read once, and a bad one is complained of once.

Invariants. 1. A look-up reads a bounded amount, and never waits for a pipe or a device.

Not here: what a file says (services), who wants to know (starting).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from itertools import islice

from bus1.listener import SHORTAGE

from .busconfig import ServiceDir
from .services import Service, ServiceError, parse

SUFFIX = ".service"
FILES_MAX = 8192
"""Entries of one directory that are looked at."""
FILE_BYTES_MAX = 64 << 10
_FRESH_NS = 2_000_000_000
"""What changed so short a time ago may change again without showing a new time."""

_Stamp = tuple[int, int, int, int]
_UNREADABLE: _Stamp = (0, 0, 0, 0)


def _stamp(status: os.stat_result) -> _Stamp:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


class _File:
    """A file, and what was found in it: a service, or nothing of use."""

    __slots__ = ("service", "stamp")

    def __init__(self, stamp: _Stamp, service: Service | None) -> None:
        self.stamp = stamp
        self.service = service


class _Directory:
    """One directory: its files by name."""

    def __init__(self, configured: ServiceDir, complain: Callable[[str], None]) -> None:
        self.configured = configured
        self._complain = complain
        self._stamp: _Stamp | None = None
        self._is_unsure = True
        """It has to be read again: it was changed just before, or the kernel lacked something."""
        self.files: dict[str, _File] = {}
        self.is_for_helper = False
        """The setuid helper will look for a file by the name that it should have."""

    def look(self) -> None:
        """Look at the directory, if it has changed or holds a bad file."""
        try:
            stamp = _stamp(os.stat(self.configured.path))
        except OSError:
            self._stamp = None
            self.files.clear()
            return
        if stamp != self._stamp or self._is_unsure:
            self._read(stamp)
        else:
            for name in [name for name, file in self.files.items() if file.service is None]:
                self.refresh(name)

    def refresh(self, name: str) -> Service | None:
        """Look at one file, and read it if it has changed."""
        path = os.path.join(self.configured.path, name)
        known = self.files.get(name)
        try:
            # a pipe must not make the bus wait for its writer
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                self.files.pop(name, None)
            elif error.errno in SHORTAGE:
                self._is_unsure = True
                return None if known is None else known.service
            elif known is None or known.stamp != _UNREADABLE:
                self.files[name] = _File(_UNREADABLE, None)
                self._complain(f"service file {path} cannot be read: {error.strerror}")
            return None
        try:
            status = os.fstat(descriptor)
            stamp = _stamp(status)
            if known is None or known.stamp != stamp:
                known = self.files[name] = _File(stamp, self._parse(descriptor, status, path))
        finally:
            os.close(descriptor)
        return known.service

    def _read(self, stamp: _Stamp) -> None:
        try:
            with os.scandir(self.configured.path) as entries:
                names = sorted(
                    entry.name for entry in islice(entries, FILES_MAX) if entry.name.endswith(SUFFIX)
                )
        except OSError as error:
            if error.errno in SHORTAGE:
                return
            names = []
        for gone in self.files.keys() - set(names):
            del self.files[gone]
        self._stamp = stamp
        self._is_unsure = time.time_ns() - stamp[2] < _FRESH_NS
        for name in names:
            self.refresh(name)

    def _parse(self, descriptor: int, status: os.stat_result, path: str) -> Service | None:
        try:
            if not stat.S_ISREG(status.st_mode):
                raise ServiceError("it is not a regular file")
            if status.st_size > FILE_BYTES_MAX:
                raise ServiceError(f"it has more than {FILE_BYTES_MAX} bytes")
            service = parse(os.read(descriptor, FILE_BYTES_MAX), _printable(path))
        except OSError as error:
            self._complain(f"service file {path} cannot be read: {error.strerror}")
            return None
        except ServiceError as error:
            self._complain(f"service file {path} is of no use: {error}")
            return None
        wanted = service.name + SUFFIX
        if os.path.basename(path) != wanted:
            if self.configured.is_strict:
                self._complain(f'Service file "{path}" should have been named "{wanted}": not loading it')
                return None
            if self.is_for_helper:
                self._complain(
                    f'Service file "{path}" should have been named "{wanted}" and will not work with system '
                    "bus activation"
                )
        return service


def _printable(path: str) -> str:
    """The path as errors and logs can show it, whatever its bytes are."""
    return os.fsencode(path).decode(errors="backslashreplace")


class ServiceFiles:
    """All names that can be started."""

    def __init__(self, directories: Iterable[ServiceDir], complain: Callable[[str], None]) -> None:
        """``complain`` gets lines for the log."""
        self._complain = complain
        self._directories: list[_Directory] = []
        self.has_changed = False
        """Other names were found than those that were found first; for whoever sets it back."""
        self.configure(directories)

    def configure(self, directories: Iterable[ServiceDir], *, has_helper: bool = False) -> None:
        """Look in these directories from now on."""
        known = {directory.configured: directory for directory in self._directories}
        self._directories = [
            known.get(configured) or _Directory(configured, self._complain)
            for configured in dict.fromkeys(directories)
        ]
        for directory in self._directories:
            directory.is_for_helper = has_helper
        self._names: dict[str, tuple[_Directory, str]] = {}
        self._has_looked = self.has_changed = False

    def find(self, name: str) -> Service | None:
        """The service of this name, as its file is now."""
        where = self._names.get(name)
        if where is not None:
            service = where[0].refresh(where[1])
            if service is not None and service.name == name:
                return service
        self._look()
        where = self._names.get(name)
        return None if where is None else where[0].files[where[1]].service

    def names(self) -> tuple[str, ...]:
        """All names."""
        self._look()
        return tuple(self._names)

    def _look(self) -> None:
        names: dict[str, tuple[_Directory, str]] = {}
        for directory in self._directories:
            directory.look()
            for name, file in directory.files.items():
                if file.service is not None:
                    names.setdefault(file.service.name, (directory, name))
        if self._has_looked and names.keys() != self._names.keys():
            self.has_changed = True
        self._has_looked = True
        self._names = names
