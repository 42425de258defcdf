"""daemon: the control plane of a running bus.

Theory. ``serve`` makes the tables and the Switch for sockets that listen already, then polls the Switch, and
does what is decided outside of its tables: it reads the configuration again when it is told to or when its
directories change, tells the service manager, and writes what deserves a line.

Invariants. 1. A configuration that can't be read changes nothing.

Not here: flags (cli), addresses (listening), the process around it (process), everything that routes
(switch).
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bus1 import acceleration
from bus1.core.api import Credentials
from bus1.core.choice import Core
from bus1.descriptors import refuse_unix_sockets
from bus1.journal import INFORMATION, PRIORITY, Journal
from bus1.log import Fields, Log
from bus1.process import RELOAD, STOP
from bus1.systemd import notify, notify_reload
from bus1.waiting import earliest

from .activator import Activator
from .busconfig import ConfigError
from .gateway import Gateway
from .names import NameTable
from .process import PROGRAM, Launch
from .sasl import COOKIE, EXTERNAL_ONLY, MECHANISMS, AuthRules
from .switch.api import (
    Answer,
    Closed,
    Configure,
    Failed,
    Listen,
    Punt,
    Readable,
    Short,
    Shutdown,
    Signalled,
    Switch,
    Watch,
    WatchSignals,
)
from .switch.choice import MatchIndex, ReplyTable
from .switch.delivery import Delivery
from .switch.effects import Line, Refusal, Reload
from .switch.flow import user_limits
from .switch.headroom import shortage
from .switch.limits import BusLimits
from .switch.loop import PythonSwitch
from .switch.router import Router
from .switch.tables import Tables

if TYPE_CHECKING:
    from .busconfig import BusConfig
    from .changes import Changes

_MACHINE_ID_FILES = ("/var/lib/dbus/machine-id", "/etc/machine-id")
_WATCH_AFTER = 1.0
"""Seconds from the start until directories are watched: a client that waits for the bus comes first."""
_COMMAND_SHOWN = 50
_NEWS: Fields = ((PRIORITY, str(INFORMATION)),)


def new_tables(core: Core, limits: BusLimits, *, guid: str, bus_id: str, machine_id: str = "") -> Tables:
    """The tables of an empty bus of this process's user."""
    credentials = Credentials(os.getuid(), os.getgid(), os.getpid())
    core.set_user_limits(credentials.uid, user_limits(limits))
    return Tables(
        core, core.peer_new(credentials.uid), guid, bus_id, credentials, NameTable(), MatchIndex(),
        ReplyTable(), machine_id=machine_id,
    )


def new_switch(guid: str, limits: BusLimits | None = None, auth: AuthRules = EXTERNAL_ONLY) -> PythonSwitch:
    """A bus without sockets; a session bus's limits unless others are given."""
    limits = BusLimits() if limits is None else limits
    tables = new_tables(
        Core(), limits, guid=guid, bus_id=os.urandom(16).hex(), machine_id=_read_machine_id()
    )
    tables.auth, tables.command_of, tables.shortage = auth, _command_of, shortage
    delivery = Delivery(tables, limits)
    gateway = Gateway(delivery, refuse_unix_sockets)
    return PythonSwitch(Router(delivery, gateway), gateway)


def serve(launch: Launch, signals: int, ready: Callable[[], None]) -> None:
    """Serve clients until told to stop.

    ``signals`` is where the numbers of signals arrive. Ownership of all descriptors passes. ``ready`` is
    called once everything is in place."""
    config = launch.config
    log = Log(PROGRAM, _journal(launch).write)
    switch = new_switch(launch.guid, config.limits, _auth_rules(config, log))
    switch.apply([
        Configure(config.limits, config.policy),
        *(
            Listen(listening.sock.detach(), native=door.is_native)
            for door in launch.doors for listening in door.sockets
        ),
        WatchSignals(signals),
    ])
    ready()
    Daemon(launch, switch, log).run()


class Daemon:
    """What decides outside of the Switch."""

    def __init__(self, launch: Launch, switch: Switch, log: Log) -> None:
        self._launch = launch
        self._switch = switch
        self._log = log
        self._config = launch.config
        self._activator = Activator(launch, log.note)
        self._read_at = launch.read_at
        self._changes: Changes | None = None
        self._watch_at: float | None = time.monotonic() + _WATCH_AFTER
        self._warn([*launch.warnings, *launch.config.warnings])

    def run(self) -> None:
        """Serve until told to stop."""
        notify("READY=1")
        self._switch.apply(self._activator.settings())
        if acceleration.native is not None:
            acceleration.native.keep_memory()
        # what is there now stays: the garbage collector need not look at it while clients wait
        gc.freeze()
        while self._turn():
            pass
        notify("STOPPING=1")
        self._switch.apply([Shutdown()])
        self._log.write(math.inf)

    def reload(self) -> str | None:
        """Read the configuration again: rules, limits and directories of services hold from now on.

        If it can't be read all stays as it was, and the text says why."""
        notify_reload()
        self._read_at, complaint = time.time_ns(), None
        try:
            config = self._launch.options.load()
            configure = Configure(config.limits, config.policy)
            self._switch.apply([configure, *self._activator.configure(config)])
            self._config = config
        except (ConfigError, OSError) as error:
            complaint = str(error)
            self._log.note(f"Unable to reload configuration: {complaint}")
        else:
            self._warn(self._config.warnings)
            self._log.note("Reloaded configuration", fields=_NEWS)
            self._watch_folders()
        notify("READY=1")
        return complaint

    # ---- a turn ----------------------------------------------------------------------------------

    def _turn(self) -> bool:
        """One turn; False after the last one."""
        for punt in self._switch.poll(self._deadline()):
            match punt:
                case Signalled(number):
                    if number in STOP:
                        return False
                    if number == RELOAD:
                        self.reload()
                case Reload(asker):
                    self._switch.apply([Answer(asker, self.reload())])
                case Readable(descriptor):
                    self._news(descriptor)
                case Line(text):
                    self._log.note(text, fields=_NEWS)
                case Refusal():
                    self._log.note(punt.text, punt.times, _fields(punt), punt.cause, punt.sender)
                case _ if (line := _describe(punt)) is not None:
                    self._log.note(*line)
            self._switch.apply(self._activator.handle(punt))
        now = time.monotonic()
        if self._watch_at is not None and now >= self._watch_at:
            self._watch_at = None
            self._start_watching()
        if self._changes is not None and self._changes.take(now):
            self.reload()
        self._log.write(now)
        return True

    def _deadline(self) -> float | None:
        changes = None if self._changes is None else self._changes.deadline
        return earliest((self._log.deadline, self._watch_at, changes))

    def _warn(self, warnings: Sequence[str]) -> None:
        for warning in warnings:
            self._log.note(warning)

    # ---- directories -----------------------------------------------------------------------------

    def _start_watching(self) -> None:
        try:
            # dear to import, and nobody waits for it
            from .changes import Changes

            changes = Changes()
            self._switch.apply([Watch(changes.descriptor)])
        except (ImportError, OSError) as error:
            self._log.note(f"changes of the configuration will not be noticed: {error}")
            return
        self._changes = changes
        self._watch_folders()

    def _watch_folders(self) -> None:
        if self._changes is not None:
            config = self._config
            folders = [path for path in config.files if os.path.isdir(path)]
            folders += [folder.path for folder in config.service_dirs if folder.is_watched]
            self._changes.watch(folders, self._read_at, time.monotonic())

    def _news(self, descriptor: int) -> None:
        if self._changes is not None and self._changes.descriptor == descriptor:
            self._changes.look(time.monotonic())


def _journal(launch: Launch) -> Journal:
    config, options = launch.config, launch.options
    prefix = ""
    if config.type == "system":
        prefix = "[system] "
    elif config.type == "session":
        prefix = f"[session uid={os.getuid()} pid={os.getpid()}] "
    return Journal(PROGRAM, prefix, syslog=launch.uses_syslog, stderr=options.stderr)


def _auth_rules(config: BusConfig, log: Log) -> AuthRules:
    """What the configuration says of authentication: what it doesn't mention is all allowed."""
    mechanisms = config.auth or MECHANISMS
    keyring = None
    if COOKIE in mechanisms:
        from .keyring import FileKeyring, home_and_login

        keyring = FileKeyring(*home_and_login(), log.note)
    return AuthRules(mechanisms, config.allows_anonymous, keyring)


def _command_of(pid: int) -> str:
    """The beginning of the command line of a process, for people to read; empty if it has gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read(_COMMAND_SHOWN).replace(b"\0", b" ").strip().decode(errors="backslashreplace")
    except OSError:
        return ""


def _read_machine_id() -> str:
    for name in _MACHINE_ID_FILES:
        try:
            with open(name, "rb") as file:
                text = file.read(64).strip()
        except OSError:
            continue
        if len(text) == 32 and not text.strip(b"0123456789abcdefABCDEF"):
            return text.decode()
    return ""


def _fields(refusal: Refusal) -> Fields:
    return (
        ("DBUS_BROKER_SENDER_UNIQUE_NAME", refusal.sender),
        ("DBUS_BROKER_RECEIVER_UNIQUE_NAME", refusal.receiver),
        ("BUS1_REFUSED", refusal.kind), ("BUS1_REASON", refusal.reason), ("BUS1_COUNT", str(refusal.times)),
    )


def _describe(punt: Punt) -> tuple[str, int, Fields] | None:
    """A line for the log, how often it happened, and who it was for programs."""
    match punt:
        case Closed(pid, uid, who, reason):
            line = f"closed the connection of {who}: {reason}"
            return line, 1, (("BUS1_CLIENT_PID", str(pid)), ("BUS1_CLIENT_UID", str(uid)))
        case Failed(pid, text):
            line = f"a defect of the bus closed the connection of pid {pid}:\n{text}"
            return line, 1, (("BUS1_CLIENT_PID", str(pid)),)
        case Short(text):
            return f"no more connections for a moment: {text}", 1, ()
        case _:
            return None
