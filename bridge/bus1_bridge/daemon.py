"""daemon: the control plane, and the process around a bus.

Theory. ``run`` makes a bus: sockets first, then (with ``--fork``) the child, then the tables and the
Switch, then the loop. The addresses are printed once the sockets listen, by whoever the starter waits
for. The loop polls the Switch, writes what deserves a line to stderr, and ends with SIGTERM or SIGINT.

Invariants. 1. When ``run`` returns, no socket file of this bus is left. 2. One flood gives at most one
line per second and kind in the log.

Not here: flags (cli), addresses (listening), everything that routes (switch).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from bus1.core.api import Credentials
from bus1.core.bus import Core

from .gateway import Gateway
from .listening import AddressError, Listening, listen, listen_natively
from .match import MatchIndex
from .names import NameTable
from .switch.api import Closed, Command, Failed, Listen, Punt, Shutdown, Signalled, Switch, WatchSignals
from .switch.delivery import Delivery
from .switch.effects import Refused
from .switch.flow import user_limits
from .switch.limits import BusLimits
from .switch.loop import PythonSwitch
from .switch.replies import ReplyTable
from .switch.router import Router
from .switch.tables import Tables

SESSION_ADDRESS = "unix:tmpdir=/tmp"
"""Where the usual session.conf listens."""
LOG_PAUSE = 1.0
LOG_LINES = 64
"""Lines of different kinds that are written at once; more are left out."""
_MACHINE_ID_FILES = ("/var/lib/dbus/machine-id", "/etc/machine-id")
_STOP = {signal.SIGTERM, signal.SIGINT}
_STANDARD_FDS = 3


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for."""

    address: str = SESSION_ADDRESS
    address_fd: int | None = None
    """Where to print the address."""
    pid_fd: int | None = None
    """Where to print the process id."""
    forks: bool = False


def new_tables(core: Core, limits: BusLimits, *, guid: str, bus_id: str, machine_id: str = "") -> Tables:
    """The tables of an empty bus of this process's user."""
    credentials = Credentials(os.getuid(), os.getgid(), os.getpid())
    core.set_user_limits(credentials.uid, user_limits(limits))
    return Tables(
        core, core.peer_new(credentials.uid), guid, bus_id, credentials, NameTable(), MatchIndex(),
        ReplyTable(), machine_id=machine_id,
    )


def new_switch(guid: str) -> PythonSwitch:
    """A session bus without sockets."""
    limits = BusLimits()
    tables = new_tables(
        Core(), limits, guid=guid, bus_id=os.urandom(16).hex(), machine_id=_read_machine_id()
    )
    delivery = Delivery(tables, limits)
    gateway = Gateway(delivery)
    return PythonSwitch(Router(delivery, gateway), gateway)


def run(options: Options) -> int:
    """The whole life of the bus; returns the exit status. AddressError before anything is printed."""
    _prepare_process()
    dbus = listen(options.address)
    try:
        native = listen_natively(dbus)
    except AddressError:
        dbus.close()
        raise
    if native is None:
        _write_log("the name of the socket leaves no room for a native one beside it")
    guid = os.urandom(16).hex()
    address = f"{dbus.address},guid={guid}"
    sockets = [listening for listening in (dbus, native) if listening is not None]
    if options.forks:
        return _fork(options, sockets, guid, address)
    return _live(sockets, guid, lambda: _announce(options, address, os.getpid()))


def _live(sockets: Sequence[Listening], guid: str, ready: Callable[[], None]) -> int:
    """Serve until a signal says stop."""
    try:
        reading, writing = socket.socketpair()
        writing.setblocking(False)
        for number in _STOP:
            signal.signal(number, lambda number, frame: None)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
        switch = new_switch(guid)
        commands: list[Command] = [
            Listen(listening.sock.detach(), native=i > 0) for i, listening in enumerate(sockets)
        ]
        switch.apply([*commands, WatchSignals(reading.detach())])
        ready()
        _serve(switch)
        switch.apply([Shutdown()])
        signal.set_wakeup_fd(-1)
        writing.close()
    finally:
        for listening in sockets:
            listening.remove_file()
    return 0


def _serve(switch: Switch) -> None:
    log = _Log()
    while True:
        for punt in switch.poll(log.deadline):
            match punt:
                case Signalled(number):
                    if number in _STOP:
                        return
                case _:
                    log.note(punt)
        log.write(time.monotonic())


def _fork(options: Options, sockets: Sequence[Listening], guid: str, address: str) -> int:
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

        return _live(sockets, guid, ready)
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
    null = os.open(os.devnull, os.O_RDWR)
    for fd in range(_STANDARD_FDS):
        os.dup2(null, fd)
    os.close(null)
    _close_printing(options)


def _close_printing(options: Options) -> None:
    for fd in {options.address_fd, options.pid_fd}:
        if fd is not None and fd >= _STANDARD_FDS:
            os.close(fd)


def _prepare_process() -> None:
    """Descriptors 0 to 2 are open, 0 is nothing, and as many descriptors as possible are allowed."""
    null = os.open(os.devnull, os.O_RDWR)
    while null < _STANDARD_FDS:
        null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _read_machine_id() -> str:
    for name in _MACHINE_ID_FILES:
        try:
            with open(name, encoding="ascii") as file:
                text = file.read(64).strip()
        except (OSError, UnicodeDecodeError):
            continue
        if len(text) == 32 and not text.strip("0123456789abcdefABCDEF"):
            return text
    return ""


class _Log:
    """Lines for stderr; a flood of one kind becomes one line."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._quiet_until = 0.0

    @property
    def deadline(self) -> float | None:
        """When the lines that wait should be written."""
        return self._quiet_until if self._counts else None

    def note(self, punt: Punt) -> None:
        """One more line."""
        match punt:
            case Refused(sender, reader, kind, count):
                line, count = f"{reader} does not read: {kind} of {sender} not delivered", count
            case Closed(pid, uid, reason):
                line, count = f"closed the connection of pid {pid}, uid {uid}: {reason}", 1
            case Failed(pid, text):
                line, count = f"a defect of the bus closed the connection of pid {pid}:\n{text}", 1
            case _:
                return
        if line in self._counts or len(self._counts) < LOG_LINES:
            self._counts[line] += count

    def write(self, now: float) -> None:
        """Write what waits, unless that was done a moment ago."""
        if self._counts and now >= self._quiet_until:
            for line, count in self._counts.items():
                _write_log(f"{line} ({count} times)" if count > 1 else line)
            self._counts.clear()
            self._quiet_until = now + LOG_PAUSE


def _write_log(text: str) -> None:
    # a bus without anybody who reads its log goes on
    with suppress(OSError):
        os.write(2, f"bus1-bridge[{os.getpid()}]: {text}\n".encode(errors="backslashreplace"))
