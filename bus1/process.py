"""process: what the process around a bus needs, from its start to its end.

Theory. Whoever starts a bus waits for the printed address, so what comes before it is kept light: signals and
sockets first, then the address, then the import of what serves clients. Clients that connect meanwhile wait
in the backlog of the sockets, signals in a pipe that the reactor watches later.

Invariants. 1. The address is printed only when the sockets listen. 2. When ``live`` returns, no socket file
of this bus is left that it may remove, whatever ended it.

Not here: binding (listening), serving (broker).
"""

from __future__ import annotations

import os
import resource
import select
import signal
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .listening import Listening

if TYPE_CHECKING:
    from .reactor import Reactor

STOP = frozenset((signal.SIGTERM, signal.SIGINT))
RELOAD = signal.SIGHUP
_STANDARD_FDS = 3


class Printing:
    """Where address and process id are printed; ``None`` for a descriptor prints nothing there."""

    __slots__ = ("address_fd", "pid_fd")

    def __init__(self, address_fd: int | None = None, pid_fd: int | None = None) -> None:
        self.address_fd = address_fd
        self.pid_fd = pid_fd

    def announce(self, address: str, pid: int) -> None:
        """Print what was asked for: each in one write, the descriptors closed afterwards."""
        for fd, text in ((self.address_fd, address), (self.pid_fd, str(pid))):
            if fd is not None:
                os.write(fd, os.fsencode(f"{text}\n"))
        self.close()

    def close(self) -> None:
        """Close the descriptors, standard ones apart."""
        for fd in {self.address_fd, self.pid_fd}:
            if fd is not None and fd >= _STANDARD_FDS:
                os.close(fd)


def printing_descriptor(flag: str, text: str) -> int:
    """The open descriptor that ``flag`` names; ValueError says in words what is wrong with it."""
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f'Invalid file descriptor: "{text}"')
    try:
        os.fstat(int(text))
    except (OSError, OverflowError) as error:
        if int(text) >= _STANDARD_FDS:
            raise ValueError(f"{flag}: file descriptor {text} is not open") from error
    return int(text)


def prepare() -> tuple[int, int]:
    """Descriptors 0 to 2 are open, 0 is nothing, and as many descriptors as possible are allowed.

    Returns the limits of descriptors that held before (RLIMIT_NOFILE): those that children should have."""
    null = os.open(os.devnull, os.O_RDWR)
    while null < _STANDARD_FDS:
        null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft, hard


def silence() -> None:
    """A daemon keeps nothing of its starter's: neither folder nor standard descriptors."""
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(_STANDARD_FDS):
        os.dup2(null, fd)
    os.close(null)


def live(
    sockets: Sequence[Listening], serve: Callable[[int], None], early: Callable[[], None], *,
    reloads: bool = False,
) -> None:
    """Let ``serve`` do its work, and remove the sockets' files; ``early`` is called before.

    ``serve`` is given the descriptor where the numbers of signals arrive (those of STOP and, if the bus
    ``reloads``, RELOAD), and owns it."""
    try:
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        for number in {*STOP, RELOAD} if reloads else STOP:
            signal.signal(number, lambda number, frame: None)
        if not reloads:
            signal.signal(RELOAD, signal.SIG_IGN)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        early()
        # ours stays open: a signal may come after the other has been closed
        serve(os.dup(reading.fileno()))
        signal.set_wakeup_fd(-1)
        writing.close()
        reading.close()
    finally:
        for listening in sockets:
            listening.remove_file()


class SignalPipe:
    """Where the numbers of signals arrive as bytes; a source of the reactor."""

    def __init__(self, reactor: Reactor, descriptor: int, told: Callable[[int], None]) -> None:
        """Owns the descriptor; ``told`` is called with each number."""
        self._reactor = reactor
        self._descriptor = descriptor
        self._told = told
        os.set_blocking(descriptor, False)
        reactor.add(self, select.EPOLLIN)

    def fileno(self) -> int:
        """The reading end."""
        return self._descriptor

    def ready(self, events: int, now: float) -> None:
        """Signals came."""
        for number in os.read(self._descriptor, 64):
            self._told(number)

    def close(self) -> None:
        """Close the reading end."""
        self._reactor.remove(self)
        os.close(self._descriptor)
