"""descriptors: file descriptors that somebody owns, and which of them may travel.

Theory. A descriptor in a plain ``int`` belongs to nobody and leaks on the next error path. ``Fds`` owns
its numbers until they are taken out, or closes them. A descriptor may travel unless it is a peer's
descriptor, or a unix socket between two native peers: those could make cycles of references that
only a garbage collector finds (T-30). An O_PATH descriptor always may.

Invariants. 1. After ``close`` or ``take_all`` an ``Fds`` owns nothing. 2. ``duplicate`` makes all copies
or none.

Not here: which unix sockets are peers of this bus (broker), how descriptors cross a socket (frames).
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Self

from .errors import BadDescriptor, NotSupported, TooManyDescriptors

_SO_DOMAIN = 39
_SO_COOKIE = 57


class Fds(Sequence[int]):
    """Owned descriptors, in order: taken by the reader, or closed with the owner.

    Reading one that has been taken raises ValueError; iterating leaves all of them owned."""

    __slots__ = ("_numbers",)

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._numbers: list[int | None] = list(numbers)

    def take(self, index: int = 0) -> int:
        """The descriptor at ``index``; from now on the caller closes it. ValueError if it has been taken."""
        number = self[index]
        self._numbers[index] = None
        return number

    def take_all(self) -> list[int]:
        """Every descriptor that is still owned; the caller closes them."""
        numbers, self._numbers = self._numbers, []
        return [number for number in numbers if number is not None]

    def close(self) -> None:
        """Close what is still owned; a second time does nothing."""
        for number in self.take_all():
            os.close(number)

    def __getitem__(self, index: int) -> int:  # type: ignore[override]
        number = self._numbers[index]
        if number is None:
            raise ValueError(f"descriptor {index} has been taken")
        return number

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[int]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Fds({self._numbers})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def duplicate(numbers: Sequence[int]) -> Fds:
    """Own copies of ``numbers``, which stay the caller's; close-on-exec.

    BadDescriptor or TooManyDescriptors leaves no copy behind."""
    copies: list[int] = []
    try:
        for number in numbers:
            copies.append(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 0))
    except (OSError, ValueError, OverflowError) as error:
        Fds(copies).close()
        if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
            raise TooManyDescriptors(f"no room for {len(numbers)} descriptors") from error
        raise BadDescriptor(f"{numbers[len(copies)]} is not an open descriptor") from error
    return Fds(copies)


def is_path_only(fd: int) -> bool:
    """The descriptor was opened with O_PATH; BadDescriptor if it is not open."""
    try:
        return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)
    except OSError as error:
        raise BadDescriptor(f"{fd} is not an open descriptor") from error


def unix_socket_cookie(fd: int) -> int | None:
    """The kernel's number of the unix socket behind ``fd``; None for anything else. BadDescriptor."""
    if is_path_only(fd):
        return None
    try:
        # Not fstat: it can block on a file whose file system does not answer.
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fd)
    except OSError:
        return None
    try:
        if probe.getsockopt(socket.SOL_SOCKET, _SO_DOMAIN) != socket.AF_UNIX:
            return None
        return int(struct.unpack("=Q", probe.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8))[0])
    finally:
        probe.detach()


def refuse_unix_sockets(fds: Iterable[int]) -> None:
    """T-30 between two native peers: NotSupported if one of ``fds`` is a unix socket; all stay open."""
    for fd in fds:
        if unix_socket_cookie(fd) is not None:
            raise NotSupported("a unix socket cannot be sent from one native peer to another")
