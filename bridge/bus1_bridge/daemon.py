"""daemon: the control plane of a running bus.

Theory. ``serve`` makes the tables and the Switch for sockets that listen already, polls the Switch, writes
what deserves a line to stderr, and ends with SIGTERM or SIGINT.

Not here: flags (cli), addresses (listening), the process around it (process), everything that routes
(switch).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from bus1.core.api import Credentials
from bus1.core.bus import Core
from bus1.descriptors import refuse_unix_sockets
from bus1.log import Log
from bus1.process import STOP

from .gateway import Gateway
from .match import MatchIndex
from .names import NameTable
from .process import PROGRAM
from .switch.api import (
    Answer,
    Closed,
    Command,
    Failed,
    Listen,
    Punt,
    Shutdown,
    Signalled,
    Switch,
    WatchSignals,
)
from .switch.delivery import Delivery
from .switch.effects import ListServices, LookUp, Note, Refused, Reload, SetEnvironment
from .switch.flow import user_limits
from .switch.limits import BusLimits
from .switch.loop import PythonSwitch
from .switch.replies import ReplyTable
from .switch.router import Router
from .switch.tables import Tables

if TYPE_CHECKING:
    from .starting import Starter

_MACHINE_ID_FILES = ("/var/lib/dbus/machine-id", "/etc/machine-id")


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
    gateway = Gateway(delivery, refuse_unix_sockets)
    return PythonSwitch(Router(delivery, gateway), gateway)


def serve(
    sockets: Sequence[int], address: str, guid: str, signals: int, ready: Callable[[], None]
) -> None:
    """Serve clients of the listening ``sockets`` (D-Bus's first, then the native one) until told to stop.

    ``address`` is what services are told. ``signals`` is where the numbers of signals arrive. Ownership of
    all descriptors passes. ``ready`` is called once everything is in place."""
    switch = new_switch(guid)
    commands: list[Command] = [Listen(descriptor, native=i > 0) for i, descriptor in enumerate(sockets)]
    switch.apply([*commands, WatchSignals(signals)])
    ready()
    _serve(switch, address)
    switch.apply([Shutdown()])


def _serve(switch: Switch, address: str) -> None:
    log = Log(PROGRAM)
    services = Services(address, log.note)
    while True:
        for punt in switch.poll(log.deadline):
            match punt:
                case Signalled(number):
                    if number in STOP:
                        return
                case Note(text):
                    log.note(text)
                case Reload(asker):
                    switch.apply([Answer(asker, None)])
                case _ if (line := _describe(punt)) is not None:
                    log.note(*line)
            switch.apply(services.handle(punt))
        log.write(time.monotonic())


class Services:
    """Starts services; what it takes for that is loaded when the first is asked for."""

    def __init__(self, address: str, note: Callable[[str], None]) -> None:
        self._address = address
        self._note = note
        self._starter: Starter | None = None

    def handle(self, punt: Punt) -> list[Command]:
        """What is to be done about a punt."""
        if self._starter is None:
            if not isinstance(punt, LookUp | ListServices | SetEnvironment):
                return []
            from .configfiles import standard
            from .starting import Starter, Surroundings

            config = standard("session")
            self._starter = Starter(Surroundings(self._address, config.type), self._note)
            self._starter.configure(config.service_dirs, config.servicehelper)
        return self._starter.handle(punt)


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


def _describe(punt: Punt) -> tuple[str, int] | None:
    """A line for the log, and how often it happened."""
    match punt:
        case Refused(sender, reader, kind, count):
            return f"{reader} does not read: {kind} of {sender} not delivered", count
        case Closed(pid, uid, reason):
            return f"closed the connection of pid {pid}, uid {uid}: {reason}", 1
        case Failed(pid, text):
            return f"a defect of the bus closed the connection of pid {pid}:\n{text}", 1
        case _:
            return None
