"""namespaces: what the kernel says of the namespaces of a process.

Theory. A pidfd or ``/proc`` tells in which user and pid namespaces a process is, how the ids of its user
namespace map to ours, and which number it has in each pid namespace from ours down to its own. Of each
extent of a map only the first id is translated for the reader: the rest is right in namespaces below ours,
and anywhere if our ids are those of the machine. Nothing tells the numbers of a process above our pid
namespace, nor the ids of other user namespaces than those.

Invariants. 1. What cannot be found out, because the process is gone, hidden or outside, counts as unknown:
its peer sees nobody's ids rather than wrong ones. 2. What is told of a process was read while it lived; if
it is who connected, no other can have its number by then. 3. A shortage of descriptors is an OSError, not
an unknown process.

Not here: translating (core.view), when it is asked (broker, channel).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from collections.abc import Callable
from enum import Enum, auto

from .core.api import Credentials
from .core.view import Extent, View
from .descriptors import Fds

_SO_PEERPIDFD = 77
_GET_NAMESPACE = {"pid": 0xFF05, "user": 0xFF09}
"""Of a pidfd, since Linux 6.11."""
_NS_GET_PARENT = 0xB702
_SAME: tuple[Extent, ...] = ((0, 0, 0xFFFF_FFFF),)
_SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


class _Place(Enum):
    """Where a user namespace is, as seen from ours."""

    OURS = auto()
    BELOW = auto()
    OUTSIDE = auto()
    UNKNOWN = auto()


def pidfd_of(sock: socket.socket, accepted: Credentials, who: Credentials) -> Fds:
    """A descriptor of the process ``who`` that writes to ``sock``, where ``accepted`` had connected.

    Empty if the process is gone, or cannot be named from here."""
    if (who.pid, who.uid, who.gid) == (accepted.pid, accepted.uid, accepted.gid):
        try:
            return Fds([sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)])
        except OSError as error:
            if error.errno in _SHORTAGE:
                raise
            if error.errno != errno.ENOPROTOOPT:  # which is Linux before 6.5
                return Fds()
    return _opened(lambda: os.pidfd_open(who.pid)) if who.pid else Fds()


def view_of(pid: int, pidfd: Fds) -> tuple[View | None, Fds]:
    """How a process sees ids, None if as this one does; and a descriptor that pins its pid namespace.

    ``pid`` is 0 if it has no number here; ``pidfd`` stays the caller's."""
    process = _Process(pid, pidfd)
    uids, gids = process.maps()
    namespace, pin = process.pid_namespace()
    if uids == gids == _SAME and namespace and namespace == _own_pid_namespace():
        pin.close()
        return None, pin
    return View(uids, gids, namespace), pin


def pids_of(pid: int, pidfd: Fds) -> tuple[tuple[int, int], ...]:
    """(pid namespace, number there) of a process, from its own namespace up to ours; () if unknown."""
    process = _Process(pid, pidfd)
    namespace, pin = process.pid_namespace()
    with pin:
        if namespace == _own_pid_namespace():
            return ((namespace, pid),) if namespace else ()
        namespaces = [file.st_ino for file in _lineage(pin[0])] if pin else []
        return tuple(zip(namespaces, reversed(process.numbers()), strict=False))


class _Process:
    """A process, as far as the bus may look at it."""

    def __init__(self, pid: int, pidfd: Fds) -> None:
        self._pid = pid
        self._pidfd = pidfd
        # A /proc of an outer pid namespace has other processes under our numbers, and two for this one.
        self._is_in_proc = bool(pid and pidfd) and len(_numbers("self")) == 1

    def maps(self) -> list[tuple[Extent, ...]]:
        """Of users, and of groups: () if unknown."""
        place = self._place()
        return [_SAME if place is _Place.OURS else self._map(name, place) for name in ("uid_map", "gid_map")]

    def numbers(self) -> list[int]:
        """From our pid namespace down to its own; none if unknown."""
        numbers = _numbers(self._pid) if self._is_in_proc else []
        return numbers if numbers and self._is_alive() else []

    def pid_namespace(self) -> tuple[int, Fds]:
        """Its number, 0 if unknown, and a descriptor of it, if there is one to be had."""
        pin = self.namespace("pid")
        if pin:
            return os.fstat(pin[0]).st_ino, pin
        return _own_pid_namespace() if len(self.numbers()) == 1 else 0, pin

    def namespace(self, kind: str) -> Fds:
        """A descriptor of it, empty if this is closed to us."""
        if not self._pidfd:
            return Fds()
        found = _opened(lambda: fcntl.ioctl(self._pidfd[0], _GET_NAMESPACE[kind]))
        if not found and self._is_in_proc:
            path = f"/proc/{self._pid}/ns/{kind}"
            found = _opened(lambda: os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            if not self._is_alive():
                found.close()
        return found

    def _place(self) -> _Place:
        with self.namespace("user") as theirs, _own("user") as ours:
            if not (theirs and ours):
                return _Place.UNKNOWN
            if os.path.sameopenfile(theirs[0], ours[0]):
                return _Place.OURS
            own = os.fstat(ours[0])
            is_below = any(os.path.samestat(own, above) for above in _lineage(theirs[0]))
            return _Place.BELOW if is_below else _Place.OUTSIDE

    def _map(self, name: str, place: _Place) -> tuple[Extent, ...]:
        if not self._is_in_proc:
            return ()
        extents, own = _extents(self._pid, name), _extents("self", name)
        if not self._is_alive():
            return ()
        if place is _Place.BELOW or own == _SAME:
            return extents
        # Whoever may not ask for the place still sees a map like our own. Below us somebody has such a one
        # only if it permutes all of our ids; outside he had to arrange it, and deceives himself alone.
        is_ours = place is _Place.UNKNOWN and extents and extents == own and not _may_permute(own)
        return _SAME if is_ours else ()

    def _is_alive(self) -> bool:
        """Not ended before now: what was read by its number was its own."""
        poll = select.poll()
        poll.register(self._pidfd[0], select.POLLIN)
        return not poll.poll(0)


def _opened(get: Callable[[], int]) -> Fds:
    """What ``get`` opens, empty if it must not be opened."""
    try:
        return Fds([get()])
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise
        return Fds()


def _own(kind: str) -> Fds:
    with _opened(lambda: os.pidfd_open(os.getpid())) as pidfd:
        return _Process(os.getpid(), pidfd).namespace(kind)


def _own_pid_namespace() -> int:
    with _own("pid") as own:
        return os.fstat(own[0]).st_ino if own else 0


def _lineage(namespace: int) -> list[os.stat_result]:
    """Which namespace this is, and those above it as far as ours."""
    with _opened(lambda: fcntl.ioctl(namespace, _NS_GET_PARENT)) as parent:
        return [os.fstat(namespace), *(_lineage(parent[0]) if parent else ())]


def _lines(pid: int | str, name: str) -> list[str]:
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError as error:
        if error.errno in _SHORTAGE:
            raise
        return []


def _extents(pid: int | str, name: str) -> tuple[Extent, ...]:
    lines = (line.split() for line in _lines(pid, name))
    return tuple((int(there), int(here), int(count)) for there, here, count in lines)


def _may_permute(extents: tuple[Extent, ...]) -> bool:
    """As far as the lowest and the highest ids tell, the same ids are on both sides."""
    spans = {
        (min(extent[side] for extent in extents), max(extent[side] + extent[2] for extent in extents))
        for side in (0, 1)
    }
    return len(spans) == 1


def _numbers(pid: int | str) -> list[int]:
    """The numbers of a process, from the pid namespace of /proc down to its own."""
    for line in _lines(pid, "status"):
        if line.startswith("NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []
