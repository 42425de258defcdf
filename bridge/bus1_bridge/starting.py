"""starting: how the control plane starts services.

Theory. The Switch asks whether a name can be started (``LookUp``), and says when to (``Start``); what files
and processes make of that is told back as commands. A failure is told at once; success is no business of
this file, since it is the name that tells it. What systemd is to start is none, either: the Switch asks it.
Other services are started by the setuid helper if the configuration names one, else by the bus itself. A
program that ends with status 0 may have gone into the background: it is given time.

Invariants. 1. Every ``Start`` that cannot lead to anything is answered with ``StartFailed``. 2. Every child
is reaped. 3. News of a child carry the number of its attempt.

Not here: who waits, and how long (activation); processes (spawning).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping

from .busconfig import ServiceDir
from .servicefiles import ServiceFiles
from .services import Service, ServiceError, split_command
from .spawning import Child, spawn
from .switch.api import (
    Answer,
    Command,
    ConfigureActivation,
    Punt,
    ServicesChanged,
    Signalled,
    StartFailed,
)
from .switch.effects import Abandoned, Found, ListServices, LookUp, SetEnvironment, Start
from .wire import ERROR_PREFIX

_SPAWN = ERROR_PREFIX + "Spawn."
_NOT_FOR_SERVICES = (
    "JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "INVOCATION_ID",
)
_HELPER_CODES: dict[int, tuple[str, str]] = {
    2: (ERROR_PREFIX + "NoMemory", "the launch helper had no memory"),
    3: (_SPAWN + "ConfigInvalid", "the launch helper found the configuration invalid"),
    4: (_SPAWN + "FailedToSetup", "the launch helper could not set up the environment"),
    5: (_SPAWN + "ServiceNotValid", "the launch helper found the name invalid"),
    6: (_SPAWN + "ServiceNotFound", "the launch helper found no service file for the name"),
    7: (_SPAWN + "PermissionsInvalid", "the launch helper has wrong permissions"),
    8: (_SPAWN + "PermissionsInvalid", "the launch helper found the service file incomplete or wrong"),
    9: (_SPAWN + "ExecFailed", "the launch helper could not execute the program"),
    10: (ERROR_PREFIX + "InvalidArgs", "the launch helper got arguments it does not understand"),
    11: (_SPAWN + "ChildSignaled", "the program of the launch helper was ended by a signal"),
}
"""What the exit status of the setuid helper means."""


class Surroundings:
    """What services are told of the bus, and how they are started on it."""

    __slots__ = ("address", "bus_type", "files", "helper", "uses_journal", "uses_systemd")

    def __init__(
        self, address: str, bus_type: str | None = None, *, uses_systemd: bool = False,
        uses_journal: bool = False, helper: str | None = None, files: tuple[int, int] | None = None,
    ) -> None:
        self.address = address
        """Of the bus, as clients use it."""
        self.bus_type = bus_type
        """``session``, ``system``, or nothing in particular."""
        self.uses_systemd = uses_systemd
        self.uses_journal = uses_journal
        """What services write goes to the journal."""
        self.helper = helper
        """The setuid program that starts services of a system bus."""
        self.files = files
        """RLIMIT_NOFILE as it was before the bus raised it."""


class _Running:
    """A child, and the attempt that it belongs to."""

    __slots__ = ("attempt", "child", "service")

    def __init__(self, child: Child, service: Service, attempt: int) -> None:
        self.child = child
        self.service = service
        self.attempt = attempt


class Starter:
    """Service files, and the children that were made of them."""

    def __init__(
        self, surroundings: Surroundings, note: Callable[[str], None],
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """``note`` gets lines for the log."""
        self._surroundings = surroundings
        self._note = note
        self._files = ServiceFiles((), note)
        self._environment = _environment(surroundings, environment)
        self._running: dict[int, _Running] = {}
        """By process id."""

    def configure(self, directories: tuple[ServiceDir, ...], helper: str | None = None) -> list[Command]:
        """What the configuration says, at the start and after each reload."""
        self._files.configure(directories, has_helper=helper is not None)
        self._surroundings.helper = helper
        return [
            ConfigureActivation(self._surroundings.uses_systemd, helper is not None), ServicesChanged(),
        ]

    def handle(self, punt: Punt) -> list[Command]:
        """What is to be done about a punt; nothing if it is no business of this file."""
        match punt:
            case LookUp(asker, name):
                return self._told(Answer(asker, self._look_up(name)))
            case ListServices(asker):
                return self._told(Answer(asker, self._files.names()))
            case Start(name, attempt, requester):
                return self._start(name, attempt, requester)
            case Abandoned(name, attempt):
                self._kill(name, attempt)
            case SetEnvironment(variables):
                self._environment.update(variables)
            case Signalled(signal.SIGCHLD):
                return self._reap()
        return []

    def _told(self, answer: Answer) -> list[Command]:
        """The answer, after the news that came to light with it."""
        has_changed, self._files.has_changed = self._files.has_changed, False
        return [ServicesChanged(), answer] if has_changed else [answer]

    def _look_up(self, name: str) -> Found | None:
        service = self._files.find(name)
        return None if service is None else Found(service.command, service.unit, service.label)

    # ---- starting --------------------------------------------------------------------------------

    def _start(self, name: str, attempt: int, requester: str) -> list[Command]:
        service = self._files.find(name)
        if service is None:
            text = f"The name {name} was not provided by any .service files"
            return [StartFailed(name, attempt, ERROR_PREFIX + "ServiceUnknown", text)]
        helper = self._surroundings.helper
        if helper and not service.user:
            text = f"Cannot do system-bus activation with no user: {service.file} has no User= for {name}"
            return [StartFailed(name, attempt, _SPAWN + "FileInvalid", text)]
        with_helper = " (using servicehelper)" if helper else ""
        self._note(f"Activating service name='{name}' {requester}{with_helper}")
        if not self._running:
            # the end of a child is told like any other signal (signal.set_wakeup_fd)
            signal.signal(signal.SIGCHLD, lambda number, frame: None)
        try:
            arguments = (helper, name) if helper else split_command(service.command)
            journal = name if self._surroundings.uses_journal else ""
            child = spawn(arguments, self._environment, self._surroundings.files, journal=journal)
        except ServiceError as error:
            text = f"Cannot start {name}: Exec= of {service.file} is no command: {error}"
            return [StartFailed(name, attempt, ERROR_PREFIX + "InvalidArgs", text)]
        except OSError as error:
            text = f"Cannot start {name}: there is no process for it: {error.strerror}"
            return [StartFailed(name, attempt, _SPAWN + "ForkFailed", text)]
        self._running[child.pid] = _Running(child, service, attempt)
        return []

    # ---- children --------------------------------------------------------------------------------

    def _kill(self, name: str, attempt: int) -> None:
        for running in self._running.values():
            if running.service.name == name and running.attempt == attempt:
                running.child.kill()

    def _reap(self) -> list[Command]:
        """Whatever has ended."""
        commands: list[Command] = []
        for running in list(self._running.values()):
            status = running.child.reap()
            if status is None:
                continue
            del self._running[running.child.pid]
            failure = self._failure(running, status)
            if failure is not None:
                error, text = failure
                name, attempt = running.service.name, running.attempt
                commands.append(StartFailed(name, attempt, error, text, with_its_kin=True))
        return commands

    def _failure(self, running: _Running, status: int) -> tuple[str, str] | None:
        """The error's name and text, if it is one that the program has ended."""
        service, code = running.service, os.waitstatus_to_exitcode(status)
        where = f"Exec={service.command} in {service.file}"
        if running.child.exec_error:
            reason = os.strerror(running.child.exec_error)
            return _SPAWN + "ExecFailed", f"Failed to execute program {service.name}: {reason} ({where})"
        if code == 0:
            return None
        if code < 0:
            return _SPAWN + "ChildSignaled", f"Process {service.name} received signal {-code} ({where})"
        if self._surroundings.helper and code in _HELPER_CODES:
            error, reason = _HELPER_CODES[code]
            return error, f"Cannot start {service.name}: {reason} ({where})"
        return _SPAWN + "ChildExited", f"Process {service.name} exited with status {code} ({where})"


def _environment(surroundings: Surroundings, own: Mapping[str, str]) -> dict[str, str]:
    """The environment of services: the bus's own, without what is meant for the bus alone."""
    found = {name: value for name, value in own.items() if name not in _NOT_FOR_SERVICES}
    found["DBUS_STARTER_ADDRESS"] = surroundings.address
    if surroundings.bus_type:
        found["DBUS_STARTER_BUS_TYPE"] = surroundings.bus_type
    if surroundings.bus_type in {"session", "system"}:
        found[f"DBUS_{surroundings.bus_type.upper()}_BUS_ADDRESS"] = surroundings.address
    return found
