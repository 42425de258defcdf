"""namespaces: what the kernel says of the namespaces of a process.

Theory. ``/proc`` tells in which user and pid namespaces a process is, how the ids of its user namespace map
to ours, and which number it has in each pid namespace from ours down to its own. Most processes are in
ours: then two links say so. Whoever may not read the links can still compare the maps and count the numbers.
What cannot be found out, because the process is gone or hidden, counts as unknown: its peer sees nobody's
ids rather than wrong ones.

Not here: translating (core.view), when it is asked (broker, channel).
"""

from __future__ import annotations

import fcntl
import os

from .core.view import Extent, View
from .descriptors import Fds

_NS_GET_PARENT = 0xB702
_SAME: tuple[Extent, ...] = ((0, 0, 1 << 32),)


def view_of(pid: int) -> tuple[View | None, Fds]:
    """How a process sees ids, None if as this one does; and a descriptor that pins its pid namespace."""
    uids, gids = _map(pid, "uid_map"), _map(pid, "gid_map")
    namespace, pin = _pid_namespace(pid)
    if uids == gids == _SAME and namespace == _pid_namespace_number("self"):
        pin.close()
        return None, pin
    return View(uids, gids, namespace), pin


def pids_of(pid: int) -> tuple[tuple[int, int], ...]:
    """(pid namespace, number there) of a process, from its own namespace up to ours; () if unknown."""
    numbers = _numbers(pid)
    namespace, pin = _pid_namespace(pid)
    if not pin:
        return ((namespace, pid),) if namespace else ()
    with pin:
        try:
            return tuple(zip(_lineage(pin[0], len(numbers)), reversed(numbers), strict=False))
        except OSError:
            return ()


def _map(pid: int, name: str) -> tuple[Extent, ...]:
    own = _link("self")
    if own is None or own == _link(pid):
        return _SAME
    text = _read(pid, name)
    # A map that reads like our own lies inside ours only if it maps every id to itself.
    if text and text == _read("self", name):
        return _SAME
    lines = (line.split() for line in text.splitlines())
    return tuple((int(there), int(here), int(count)) for there, here, count in lines)


def _link(pid: int | str) -> str | None:
    try:
        return os.readlink(f"/proc/{pid}/ns/user")
    except OSError:
        return None


def _read(pid: int | str, name: str) -> str:
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def _pid_namespace(pid: int) -> tuple[int, Fds]:
    """Its number, 0 if unknown, and a descriptor of it, if there is one to be had."""
    try:
        pin = Fds([os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)])
    except OSError:
        return _pid_namespace_number("self") if len(_numbers(pid)) == 1 else 0, Fds()
    return os.fstat(pin[0]).st_ino, pin


def _pid_namespace_number(pid: int | str) -> int:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return 0


def _numbers(pid: int) -> list[int]:
    """The numbers of a process, from our pid namespace down to its own."""
    for line in _read(pid, "status").splitlines():
        if line.startswith("NSpid:"):
            return [int(number) for number in line.split()[1:]]
    return []


def _lineage(fd: int, levels: int) -> list[int]:
    """The numbers of a pid namespace and its ancestors."""
    number = os.fstat(fd).st_ino
    if levels <= 1:
        return [number]
    with Fds([fcntl.ioctl(fd, _NS_GET_PARENT)]) as parent:
        return [number, *_lineage(parent[0], levels - 1)]
