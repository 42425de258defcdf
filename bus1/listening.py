"""listening: the sockets on which a bus waits for clients.

Theory. A bus binds a unix socket, or is given one that is bound already. A socket file outlives a bus that
was killed, and what lies where a bus wants to listen may be somebody's: so a new socket takes only the place
of one that refuses connections. Who wants something else says what gives way.

Invariants. 1. A socket is listening when it is returned. 2. ``close`` leaves no file of this bus behind,
and removes no other.

Not here: accepting (listener), addresses as clients use them (addresses).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

BACKLOG = 4096
"""Clients that may wait to be accepted: a session starts many at once, and some of them do not block."""
_MAX_NAME = 107
"""Bytes of a socket's name."""


class AddressError(Exception):
    """The bus can't listen there; the text says why."""


class Listening:
    """A listening socket and its ``name``, as bind takes it.

    ``path`` is the file to remove at the end, which exists; None for an abstract name, and for a file that
    is somebody else's. It is found from any working directory."""

    __slots__ = ("_identity", "name", "path", "sock")

    def __init__(self, sock: socket.socket, name: str, *, owns_file: bool) -> None:
        self.sock = sock
        self.name = name
        self.path = os.path.abspath(name) if owns_file else None
        self._identity = None if self.path is None else _identity(self.path)

    @property
    def address(self) -> str:
        """The native address: with @ for an abstract name."""
        return shown(self.name)

    def remove_file(self) -> None:
        """Remove the socket's file; nothing if it is gone, another one by now, or not ours to remove."""
        if self.path is not None:
            # a bus that has given up its rights can't remove from every directory
            with suppress(FileNotFoundError, PermissionError):
                if _identity(self.path) == self._identity:
                    os.unlink(self.path)

    def close(self) -> None:
        """Close the socket and remove its file."""
        self.sock.close()
        self.remove_file()


def shown(name: str) -> str:
    """A socket's name for people."""
    return "@" + name[1:] if name.startswith("\0") else name


def is_dead_socket(path: str) -> bool:
    """There is a socket file that nobody listens on."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fsencode(path)) == errno.ECONNREFUSED


def bind(name: str, gives_way: Callable[[str], bool] = is_dead_socket) -> Listening:
    """Listen on a path, or on an abstract name with its NUL; a file that ``gives_way`` is replaced."""
    is_abstract = name.startswith("\0")
    raw = os.fsencode(name)
    if len(raw) > _MAX_NAME + is_abstract:
        raise AddressError(f"Socket name too long: {shown(name)}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if not is_abstract:
            _clear(name, gives_way)
        sock.bind(raw)
        if not is_abstract:
            # who may use the bus is a matter of credentials, not of the file's mode
            os.chmod(name, 0o777)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressError(f"Failed to bind socket \"{shown(name)}\": {error.strerror}") from error
    return Listening(sock, name, owns_file=not is_abstract)


def _identity(path: str) -> tuple[int, int]:
    about = os.lstat(path)
    return about.st_dev, about.st_ino


def _clear(path: str, gives_way: Callable[[str], bool]) -> None:
    try:
        if gives_way(path):
            os.unlink(path)
    except FileNotFoundError:
        return
