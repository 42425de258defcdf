"""cli: the command ``bus1-bridge``, with the flags of dbus-daemon.

Theory. Programs that start a bus know dbus-daemon's flags in all their shapes: a value follows ``=`` or
as the next argument, and where a descriptor is optional the next argument counts only if it is no
flag. ``FLAGS`` is the table of what this bus takes; anything else is an error in words. What only asks
something is answered at once: nobody looks at the flags behind it. Of flags that contradict each other the
last one counts, as for dbus-daemon; what names a configuration, an address or a descriptor may be said once.

dbus-broker-launch is started with ``--scope``: that is the usual configuration, on the sockets that a service
manager passes.

Not here: what the options do (process).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from typing import TYPE_CHECKING

from bus1 import __version__

if TYPE_CHECKING:
    from .busconfig import BusConfig
    from .options import Options

VERSION = (
    f"D-Bus Message Bus Daemon {__version__} (bus1-bridge)\n"
    "A D-Bus message bus on bus1; MIT licence, no warranty."
)


class UsageError(Exception):
    """The arguments make no sense; the text says why."""


class FlagError(UsageError):
    """There is no such flag, or nothing says which bus is meant: the usage may help."""


class Takes(Enum):
    """What value a flag has; how the help shows it."""

    NOTHING = ""
    FILE = "=FILE"
    ADDRESS = "=ADDRESS"
    SCOPE = "=user|system"
    DESCRIPTOR = "[=DESCRIPTOR]"
    """It may be left out: standard output."""


FLAGS: dict[str, tuple[Takes, str]] = {
    "--session": (Takes.NOTHING, "the usual configuration of a session bus, for the programs of one user"),
    "--system": (Takes.NOTHING, "the usual configuration of the system bus"),
    "--config-file": (Takes.FILE, "another configuration, see dbus-daemon(1); one of the three is needed"),
    "--address": (Takes.ADDRESS, "listen there and not where the configuration says: unix:path=, abstract=, "
                                 "dir=, tmpdir= or runtime=yes, systemd:, tcp:host=,port="),
    "--limits-file": (Takes.FILE, "limits of single users [/etc/bus1/session-limits.toml or system-…]"),
    "--print-address": (Takes.DESCRIPTOR, "print the address for clients once the bus listens [1]"),
    "--print-pid": (Takes.DESCRIPTOR, "print the process id [1]"),
    "--introspect": (Takes.NOTHING, "print the D-Bus interface of the bus itself"),
    "--fork": (Takes.NOTHING, "serve in the background, whatever the configuration says"),
    "--nofork": (Takes.NOTHING, "serve in the foreground"),
    "--nopidfile": (Takes.NOTHING, "write no pid file"),
    "--syslog": (Takes.NOTHING, "write lines to the system log and to standard error"),
    "--nosyslog": (Takes.NOTHING, "write lines to standard error"),
    "--syslog-only": (Takes.NOTHING, "write lines to the system log"),
    "--systemd-activation": (Takes.NOTHING, "let systemd start services that have a unit"),
    "--scope": (Takes.SCOPE, "as dbus-broker-launch: that bus, on the sockets that systemd passes"),
    "--audit": (Takes.NOTHING, "as dbus-broker-launch; refusals go where all lines go"),
    "--version": (Takes.NOTHING, "print the version"),
    "--help": (Takes.NOTHING, "print this; -h and -? do the same"),
    "-h": (Takes.NOTHING, ""),
    "-?": (Takes.NOTHING, ""),
}
_WIDTH = 79
_COLUMN = 31
_STANDARD_OUTPUT = "1"
_QUESTIONS = ("--version", "--introspect", "--help", "-h", "-?")
_CONFIGURATIONS = ("--session", "--system", "--config-file")
_CONTRARY = (("--fork", "--nofork"), ("--syslog", "--nosyslog", "--syslog-only"))
"""Of each group the last one counts."""
_LOGS: dict[str, tuple[bool, bool]] = {
    "--syslog": (True, True), "--nosyslog": (False, True), "--syslog-only": (True, False)
}
"""Whether lines go to the system log, and to standard error."""
_SCOPES = {"user": "session", "system": "system"}


class Arguments:
    """The flags that were given, each once, with their values."""

    __slots__ = ("given",)

    def __init__(self) -> None:
        self.given: dict[str, str] = {}

    def add(self, flag: str, value: str) -> None:
        """One more flag; UsageError if it can't be said after the others."""
        takes = FLAGS[flag][0]
        if flag in _CONFIGURATIONS:
            for other in _CONFIGURATIONS:
                if other in self.given:
                    what = self.given[other] or f"/usr/share/dbus-1/{other[2:]}.conf"
                    raise UsageError(f"{flag} specified but configuration file {what} already requested")
        elif takes is not Takes.NOTHING and flag in self.given:
            raise UsageError(f"{flag} is given twice")
        for group in _CONTRARY:
            if flag in group:
                for other in group:
                    self.given.pop(other, None)
        self.given[flag] = value

    def descriptor(self, flag: str) -> int | None:
        """The open descriptor to print to; None if the flag wasn't given."""
        value = self.given.get(flag)
        if value is None:
            return None
        from bus1.process import printing_descriptor

        try:
            return printing_descriptor(flag, value)
        except ValueError as error:
            raise UsageError(str(error)) from error


def parse(arguments: Sequence[str]) -> Arguments:
    """What the flags say; UsageError."""
    parsed = Arguments()
    rest = list(arguments)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        takes = FLAGS[flag][0] if flag in FLAGS else None
        if takes is None or (equals and takes is Takes.NOTHING):
            raise FlagError(f"unknown option {flag}{equals}{value}")
        if flag in _QUESTIONS:
            parsed.given = {flag: ""}
            return parsed
        if takes is Takes.DESCRIPTOR:
            if not equals and rest and not rest[0].startswith("-"):
                value = rest.pop(0)
            value = value or _STANDARD_OUTPUT
        elif takes is not Takes.NOTHING and not equals:
            if not rest:
                raise UsageError(f"{flag} needs a value")
            value = rest.pop(0)
        parsed.add(flag, value)
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    line = sys.argv[1:] if arguments is None else arguments
    try:
        if line and not line[0].startswith("-"):
            return _run_verb(line)
        return _run(parse(line))
    except FlagError as error:
        complaint = f"bus1-bridge: {error}\n{_usage()}\n"
    except UsageError as error:
        complaint = f"bus1-bridge: {error}\n"
    os.write(2, complaint.encode(errors="backslashreplace"))
    return 1


def _run_verb(line: Sequence[str]) -> int:
    from . import verbs

    if line[0] not in verbs.VERBS:
        raise FlagError(f"unknown verb {line[0]}: there are {', '.join(verbs.VERBS)}")
    return verbs.run(line)


def _help() -> str:
    from . import verbs

    lines = [_explained(flag + takes.value, text) for flag, (takes, text) in FLAGS.items() if text]
    lines += ["", "bus1-bridge VERB, with VERB --help:"]
    lines += [_explained(verb, text) for verb, text in verbs.summaries()]
    about = "A D-Bus message bus. Native bus1 programs find it under the same name with 1 behind it."
    return "\n".join([_usage(), "", about, "", *lines])


def _usage() -> str:
    return _wrapped(" ".join([
        "bus1-bridge", *(f"[{flag}{takes.value}]" for flag, (takes, text) in FLAGS.items() if text)
    ]), "    ")


def _explained(what: str, text: str) -> str:
    return _wrapped(f"  {what:<{_COLUMN}}{text}", " " * (_COLUMN + 2))


def _wrapped(text: str, indent: str) -> str:
    # rarely needed, and dear to import
    from textwrap import fill

    return fill(text, _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _introspection() -> str:
    from .driver.itself import describe_driver
    from .driver.table import METHODS

    return describe_driver(METHODS)


_ANSWERS: dict[str, Callable[[], str]] = {
    "--version": lambda: VERSION, "--introspect": _introspection, "--help": _help, "-h": _help, "-?": _help,
}


def _run(arguments: Arguments) -> int:
    for question in _ANSWERS.keys() & arguments.given.keys():
        return _answer(question)
    options = _options(arguments)
    # only now: what has nothing to serve should be quick
    from bus1.acceleration import NoSuchBody, settle
    from bus1.listening import AddressError

    from .busconfig import ConfigError
    from .options import StartError
    from .process import run

    try:
        settle()
        return run(options)
    except (NoSuchBody, StartError, AddressError, ConfigError, OSError) as error:
        raise UsageError(f"Failed to start message bus: {error}") from error


def _answer(question: str) -> int:
    # rarely needed, and dear to import
    from bus1.cli import guarded

    def tell() -> int:
        print(_ANSWERS[question]())
        return 0

    return guarded("bus1-bridge", tell)


def _options(arguments: Arguments) -> Options:
    given = arguments.given
    load = _configuration(given)
    from bus1.process import Printing

    from .options import Options

    printing = Printing(arguments.descriptor("--print-address"), arguments.descriptor("--print-pid"))
    is_launched = "--scope" in given
    address = given.get("--address") or ("systemd:" if is_launched else None)
    syslog: bool | None = None
    stderr = True
    for flag, meaning in _LOGS.items():
        if flag in given:
            syslog, stderr = meaning
    forks = True if "--fork" in given else False if is_launched or "--nofork" in given else None
    return Options(
        load, printing, address=address, forks=forks, syslog=syslog, stderr=stderr,
        writes_pidfile=not is_launched and "--nopidfile" not in given,
        asks_systemd=is_launched or "--systemd-activation" in given,
    )


def _configuration(given: dict[str, str]) -> Callable[[], BusConfig]:
    """What reads the configuration that is meant; UsageError."""
    scope = given.get("--scope")
    if scope is not None and scope not in _SCOPES:
        raise UsageError(f"--scope is user or system, not {scope}")
    file = given.get("--config-file")
    kind = _SCOPES.get(scope or "")
    for flag, meant in (("--session", "session"), ("--system", "system")):
        kind = meant if flag in given else kind
    if not file and kind is None:
        raise FlagError("No configuration file specified.")
    # a bus in the background is in another folder when it reads it again
    path = os.path.abspath(file) if file else ""
    limits = os.path.abspath(given["--limits-file"]) if "--limits-file" in given else None
    needs_listen = not (given.get("--address") or scope)

    def load() -> BusConfig:
        from . import configfiles

        if path:
            config = configfiles.load(path, needs_listen=needs_listen)
        else:
            assert kind is not None
            config = configfiles.standard(kind, needs_listen=needs_listen)
        return configfiles.add_user_limits(config, limits)

    return load
