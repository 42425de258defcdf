"""process: the process around a bus, from its start to its end.

Theory. Programs wait for the printed address, and many start a bus each. So what comes before it is kept
light: signals and sockets first, then the address; what serves clients (``daemon``) is imported while the
starter reads on. Clients that connect meanwhile wait in the backlog of the sockets. With ``--fork`` the
parent prints, and leaves, once the child serves.

Invariants. 1. The address is printed only when the sockets listen. 2. When ``run`` returns, no socket file
of this bus is left, whatever ended it.

Not here: flags (cli), addresses (listening), serving (daemon).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable

from .listening import AddressError, Listening, listen, listen_natively
from .log import write_line

SESSION_ADDRESS = "unix:tmpdir=/tmp"
"""Where the usual session.conf listens."""
_STOP = (signal.SIGTERM, signal.SIGINT)
_STANDARD_FDS = 3


class Options:
    """What the command line asks for; ``None`` for a descriptor prints nothing there."""

    __slots__ = ("address", "address_fd", "forks", "pid_fd")

    def __init__(
        self, address: str = SESSION_ADDRESS, *, address_fd: int | None = None, pid_fd: int | None = None,
        forks: bool = False,
    ) -> None:
        self.address = address
        self.address_fd = address_fd
        self.pid_fd = pid_fd
        self.forks = forks


def run(options: Options) -> int:
    """The whole life of the bus; returns the exit status. AddressError before anything is printed."""
    _prepare()
    sockets = [listen(options.address)]
    try:
        sockets.append(listen_natively(sockets[0]))
    except AddressError as error:
        write_line(f"no native socket: {error}")
    guid = os.urandom(16).hex()
    address = f"{sockets[0].address},guid={guid}"
    if options.forks:
        return _fork(options, sockets, guid, address)
    return _live(sockets, guid, early=lambda: _announce(options, address, os.getpid()))


def _live(
    sockets: list[Listening], guid: str, *, early: Callable[[], None] = lambda: None,
    late: Callable[[], None] = lambda: None,
) -> int:
    """Serve until a signal says stop; ``early`` is called before what serves is there, ``late`` after."""
    try:
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        for number in _STOP:
            signal.signal(number, lambda number, frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        early()
        from . import daemon

        daemon.serve([listening.sock.detach() for listening in sockets], guid, reading.detach(), late)
        signal.set_wakeup_fd(-1)
        writing.close()
    finally:
        for listening in sockets:
            listening.remove_file()
    return 0


def _fork(options: Options, sockets: list[Listening], guid: str, address: str) -> int:
    """The child serves; the parent leaves once the child does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()

        def ready() -> None:
            _detach(options)
            os.write(writing, b"1")
            os.close(writing)

        return _live(sockets, guid, late=ready)
    os.close(writing)
    is_ready = os.read(reading, 1)
    os.close(reading)
    for listening in sockets:
        listening.sock.close()
    if not is_ready:
        return 1
    _announce(options, address, child)
    return 0


def _announce(options: Options, address: str, pid: int) -> None:
    """Print what was asked for: each in one write, the descriptors closed afterwards."""
    for fd, text in ((options.address_fd, address), (options.pid_fd, str(pid))):
        if fd is not None:
            os.write(fd, os.fsencode(f"{text}\n"))
    _close_printing(options)


def _detach(options: Options) -> None:
    """A daemon keeps nothing of its starter's."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(_STANDARD_FDS):
        os.dup2(null, fd)
    os.close(null)
    _close_printing(options)


def _close_printing(options: Options) -> None:
    for fd in {options.address_fd, options.pid_fd}:
        if fd is not None and fd >= _STANDARD_FDS:
            os.close(fd)


def _prepare() -> None:
    """Descriptors 0 to 2 are open, 0 is nothing, and as many descriptors as possible are allowed."""
    null = os.open(os.devnull, os.O_RDWR)
    while null < _STANDARD_FDS:
        null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
