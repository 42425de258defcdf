"""keyring: the file of cookies behind DBUS_COOKIE_SHA1.

Theory. Who can read ``~/.dbus-keyrings/org_freedesktop_general`` is the user that it belongs to. Each of its
lines is a cookie: number, time of its making, value in hexadecimal. A cookie is offered for five minutes and
accepted for two more, while the next one is there already. Writers hold ``….lock`` and replace the file;
readers need no lock.

A bus cannot wait for a file: while somebody else holds the lock, an older cookie serves, or the client is
refused. A lock that is older than any writer needs is nobody's.

Invariants. 1. Only a directory of this user that is open to nobody else is used, and nothing in it is reached
through a symbolic link. 2. What can't be used gives no cookie; it raises nothing.

Not here: the conversation (sasl).
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

NAME = "org_freedesktop_general"
NEW_AFTER = 300.0
"""Seconds for which a cookie is offered."""
GONE_AFTER = 420.0
"""Seconds after which nobody needs it any more."""
MAX_FROM_FUTURE = 300.0
STALE_LOCK = 10.0
MAX_COOKIES = 256
_MAX_SIZE = 1 << 16
_MAX_NUMBER = (1 << 31) - 1

Cookie = tuple[int, int, bytes]
"""Number, time, value."""


class FileKeyring:
    """The cookies of this process's user."""

    def __init__(
        self, home: str, login: str, report: Callable[[str], None], clock: Callable[[], float] = time.time
    ) -> None:
        """``report`` is told why there is no cookie."""
        self.uid = os.getuid()
        self._names = {b"%d" % self.uid, os.fsencode(login)} - {b""}
        self._path = os.path.join(home, ".dbus-keyrings")
        self._report = report
        self._clock = clock

    def is_owner(self, identity: bytes) -> bool:
        """Whether this decimal uid or login name is the user of the bus."""
        return identity in self._names

    def challenge(self) -> bytes:
        """16 random bytes in hexadecimal."""
        return os.urandom(16).hex().encode()

    def cookie(self) -> tuple[bytes, bytes] | None:
        """Number and value of the newest cookie, made if there is none; None if that can't be done safely."""
        try:
            with self._folder() as folder:
                cookies = self._read(folder)
                if not any(self._age(cookie) < NEW_AFTER for cookie in cookies):
                    cookies = self._renew(folder) or cookies
        except (OSError, ValueError) as error:
            self._report(f"DBUS_COOKIE_SHA1: no cookies in {self._path}: {error}")
            return None
        if not cookies:
            self._report(f"DBUS_COOKIE_SHA1: {self._path}/{NAME} is locked")
            return None
        number, _, value = min(cookies, key=self._age)
        return b"%d" % number, value

    def _age(self, cookie: Cookie) -> float:
        return self._clock() - cookie[1]

    @contextmanager
    def _folder(self) -> Iterator[int]:
        with suppress(FileExistsError):
            os.mkdir(self._path, 0o700)
        folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            about = os.fstat(folder)
            if about.st_uid != self.uid or stat.S_IMODE(about.st_mode) & 0o077:
                raise ValueError(
                    f"it belongs to uid {about.st_uid} with mode {stat.S_IMODE(about.st_mode):04o}, "
                    f"not to uid {self.uid} with mode 0700"
                )
            yield folder
        finally:
            os.close(folder)

    def _read(self, folder: int) -> list[Cookie]:
        """The cookies that are still good."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(NAME, flags, dir_fd=folder)
        except FileNotFoundError:
            return []
        with open(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            if not stat.S_ISREG(about.st_mode) or about.st_uid != self.uid:
                raise ValueError(f"{NAME} is not a file of uid {self.uid}")
            lines = file.read(_MAX_SIZE).splitlines()
        cookies = (_parse(line) for line in lines[:MAX_COOKIES])
        return [
            cookie for cookie in cookies
            if cookie is not None and -MAX_FROM_FUTURE < self._age(cookie) < GONE_AFTER
        ]

    def _renew(self, folder: int) -> list[Cookie]:
        """Add a cookie; nothing if somebody else is about to."""
        lock = NAME + ".lock"
        if not (_take(lock, folder) or (self._is_stale(lock, folder) and _take(lock, folder))):
            return []
        try:
            cookies = self._read(folder)[1 - MAX_COOKIES:]
            number = int.from_bytes(os.urandom(4), "little") & _MAX_NUMBER
            cookies.append((number, int(self._clock()), os.urandom(24).hex().encode()))
            text = b"".join(b"%d %d %b\n" % cookie for cookie in cookies)
            draft = f"{NAME}.{os.urandom(4).hex()}"
            try:
                _write(draft, text, folder)
                os.rename(draft, NAME, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with suppress(OSError):
                    os.unlink(draft, dir_fd=folder)
                raise
        finally:
            os.unlink(lock, dir_fd=folder)
        return cookies

    def _is_stale(self, lock: str, folder: int) -> bool:
        try:
            made = os.stat(lock, dir_fd=folder, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return True
        if abs(self._clock() - made) < STALE_LOCK:
            return False
        with suppress(FileNotFoundError):
            os.unlink(lock, dir_fd=folder)
        return True


def home_and_login() -> tuple[str, str]:
    """Where this process's user is at home, and the login name; empty if there is none."""
    import pwd

    home = os.environ.get("HOME", "")
    if not (os.path.isdir(home) and os.stat(home).st_uid == os.getuid()):
        # left over from whoever started this process
        home = ""
    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        return home or "/", ""
    return home or entry.pw_dir, entry.pw_name


def _take(name: str, folder: int) -> bool:
    try:
        _write(name, b"", folder)
    except FileExistsError:
        return False
    return True


def _write(name: str, text: bytes, folder: int) -> None:
    """A new file of this user alone."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
        file.write(text)


def _parse(line: bytes) -> Cookie | None:
    fields = line.split(b" ")
    if len(fields) != 3 or not (fields[0].isdigit() and fields[1].isdigit() and fields[2].isalnum()):
        return None
    if max(len(fields[0]), len(fields[1])) > 12:
        return None
    return int(fields[0]), int(fields[1]), fields[2]
