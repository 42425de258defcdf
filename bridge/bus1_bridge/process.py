"""process: the process around a bus, from its start to its end.

Theory. What every bus process needs is ``bus1.process``; here is what a D-Bus daemon adds: the configuration,
several addresses with a guid, native sockets beside them, a pid file, another user, and forking, with which
the parent prints, and leaves, once the child serves. What serves clients (``daemon``) is imported when the
address has been printed.

Invariants. 1. Whatever can fail, and does not need the child, fails before anything is printed.
2. Nothing is served as root if the configuration names somebody else.

Not here: flags (cli), addresses (listening), serving (daemon).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from bus1.listening import AddressError, Listening
from bus1.process import live, prepare, silence

from .listening import Door, listen, listen_natively
from .options import Options, StartError

if TYPE_CHECKING:
    from .busconfig import BusConfig
    from .identity import Identity
    from .pidfile import PidFile

PROGRAM = "bus1-bridge"
_UMASK = 0o022


class Launch:
    """A bus that is about to serve: what its control plane is told."""

    __slots__ = ("address", "config", "doors", "guid", "nofile", "options", "read_at", "warnings")

    def __init__(
        self, options: Options, config: BusConfig, doors: list[Door], guid: str, nofile: tuple[int, int],
        read_at: int,
    ) -> None:
        self.options = options
        self.config = config
        self.doors = doors
        self.guid = guid
        self.nofile = nofile
        """RLIMIT_NOFILE as it was: the one for children."""
        self.read_at = read_at
        """When reading the configuration began, in nanoseconds of the wall clock."""
        self.warnings: list[str] = []
        """What went wrong, but is no reason not to serve."""
        addresses = [f"{door.address},guid={guid}" for door in doors if not door.is_native]
        self.address = ";".join(reversed(addresses))
        """What clients are told."""

    @property
    def uses_syslog(self) -> bool:
        """Lines go to the system log: the command line decides before the configuration."""
        asked = self.options.syslog
        return self.config.syslog if asked is None else asked

    @property
    def sockets(self) -> list[Listening]:
        """All listening sockets."""
        return [listening for door in self.doors for listening in door.sockets]

    def add_native_doors(self) -> None:
        """Those beside every unix socket; one that can't have any has none."""
        for door in list(self.doors):
            if door.address.startswith("unix:"):
                try:
                    self.doors.append(listen_natively(door))
                except AddressError as error:
                    self.warnings.append(f"no native socket: {error}")


def run(options: Options) -> int:
    """The whole life of the bus; returns the exit status.

    StartError, AddressError or ConfigError before anything is printed."""
    nofile = prepare()
    read_at = time.time_ns()
    config = options.load()
    if config.apparmor == "required":
        raise StartError('AppArmor mediation required but not present: <apparmor mode="required"/>')
    pidfile = _pidfile(options, config)
    identity = _identity(config)
    doors = _listen(options, config)
    launch = Launch(options, config, doors, os.urandom(16).hex(), nofile, read_at)
    if not any(door.is_native for door in doors):
        launch.add_native_doors()
    if any(door.address.startswith("tcp:") for door in doors) and config.auth == ("EXTERNAL",):
        launch.warnings.append("nobody can sign in over tcp: <auth>EXTERNAL</auth> is for unix sockets")

    def settle_in() -> None:
        if pidfile is not None:
            pidfile.write(os.getpid())
        if identity is not None:
            _load_everything()
            if warning := identity.assume():
                launch.warnings.append(warning)

    try:
        if config.forks if options.forks is None else options.forks:
            return _fork(launch, settle_in)

        def early() -> None:
            settle_in()
            _announce(launch, os.getpid())

        return _live(launch, early=early)
    finally:
        if pidfile is not None:
            pidfile.remove()


def _pidfile(options: Options, config: BusConfig) -> PidFile | None:
    if config.pidfile is None or not options.writes_pidfile:
        return None
    from .pidfile import PidFile

    pidfile = PidFile(config.pidfile)
    pidfile.refuse_if_there()
    return pidfile


def _identity(config: BusConfig) -> Identity | None:
    if config.user is None:
        return None
    from .identity import Identity

    return Identity(config.user)


def _load_everything() -> None:
    """What would be loaded later: another user may not be able to read it."""
    import copy
    import traceback

    import sortedcontainers

    from . import changes, daemon, keyring, starting

    assert copy and traceback and sortedcontainers and changes and daemon and keyring and starting


def _listen(options: Options, config: BusConfig) -> list[Door]:
    addresses = config.listen if options.address is None else (options.address,)
    if not addresses:
        raise StartError("Configuration file needs one or more <listen> elements giving addresses")
    doors: list[Door] = []
    try:
        for address in addresses:
            doors += listen(address)
    except AddressError:
        _close(doors)
        raise
    return doors


def _close(doors: list[Door]) -> None:
    for door in doors:
        for listening in door.sockets:
            listening.close()


def _announce(launch: Launch, pid: int) -> None:
    try:
        launch.options.printing.announce(launch.address, pid)
    except OSError as error:
        raise StartError(f"the address cannot be printed: {error.strerror}") from error


def _live(
    launch: Launch, *, early: Callable[[], None], late: Callable[[], None] = lambda: None
) -> int:
    """Serve until a signal says stop; ``early`` is called before what serves is there, ``late`` after."""

    def serve(signals: int) -> None:
        from . import daemon

        daemon.serve(launch, signals, late)

    live(launch.sockets, serve, early, reloads=True)
    return 0


def _fork(launch: Launch, settle_in: Callable[[], None]) -> int:
    """The child serves; the parent leaves once the child does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()
        if not launch.config.keeps_umask:
            os.umask(_UMASK)

        def ready() -> None:
            silence()
            launch.options.printing.close()
            os.write(writing, b"1")
            os.close(writing)

        return _live(launch, early=settle_in, late=ready)
    os.close(writing)
    is_ready = os.read(reading, 1)
    os.close(reading)
    for listening in launch.sockets:
        listening.sock.close()
    if not is_ready:
        return 1
    _announce(launch, child)
    return 0
