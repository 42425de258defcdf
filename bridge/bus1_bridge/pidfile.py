"""pidfile: the file that says which process serves.

Invariants. 1. A file that is there already is somebody's: the bus does not start. 2. ``remove`` removes what
this bus has written, and nothing else.

Not here: who asks for it (process).
"""

from __future__ import annotations

import os
from contextlib import suppress

from .options import StartError


class PidFile:
    """A file with one number."""

    def __init__(self, path: str) -> None:
        self._path = os.path.abspath(path)
        self._identity: tuple[int, int] | None = None

    def refuse_if_there(self) -> None:
        """StartError if another bus has it."""
        if os.path.lexists(self._path):
            raise self._complaint()

    def write(self, pid: int) -> None:
        """Make the file; StartError."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o644)
        except FileExistsError as error:
            raise self._complaint() from error
        except OSError as error:
            raise StartError(f'Failed to open "{self._path}": {error.strerror}') from error
        try:
            about = os.fstat(descriptor)
            self._identity = about.st_dev, about.st_ino
            os.write(descriptor, b"%d\n" % pid)
        except OSError as error:
            self.remove()
            raise StartError(f'Failed to write to "{self._path}": {error.strerror}') from error
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove the file, if it is this bus's and may be removed."""
        with suppress(OSError):
            about = os.lstat(self._path)
            if (about.st_dev, about.st_ino) == self._identity:
                os.unlink(self._path)

    def _complaint(self) -> StartError:
        return StartError(
            f'The pid file "{self._path}" exists, if the message bus is not running, remove this file'
        )
