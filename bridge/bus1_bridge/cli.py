"""cli: the command ``bus1-bridge``, with the flags of dbus-daemon.

Theory. Programs that start a bus know dbus-daemon's flags in all their shapes: a value follows ``=`` or
as the next argument, and where a descriptor is optional the next argument counts only if it is no
flag. ``_FLAGS`` is the table of what this bus takes; anything else is an error in words. What only asks
something is answered at once: nobody looks at the flags behind it.

Not here: what the options do (process).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import Enum

from bus1 import __version__

USAGE = (
    "bus1-bridge [--version] [--help] [--session] [--address=ADDRESS] [--print-address[=DESCRIPTOR]] "
    "[--print-pid[=DESCRIPTOR]] [--nofork] [--fork]"
)
VERSION = (
    f"D-Bus Message Bus Daemon {__version__} (bus1-bridge)\n"
    "A D-Bus message bus on bus1; MIT licence, no warranty."
)


class UsageError(Exception):
    """The arguments make no sense; the text says why."""


class Takes(Enum):
    """Whether a flag has a value."""

    NOTHING = 0
    VALUE = 1
    DESCRIPTOR = 2
    """It may be left out: standard output."""


_FLAGS: dict[str, tuple[Takes, str]] = {
    "--session": (Takes.NOTHING, "a session bus, for the programs of this user; always needed"),
    "--address": (Takes.VALUE, "listen on unix:path=, abstract=, dir=, tmpdir= or runtime=yes; "
                               "the first of several (;) that works"),
    "--print-address": (Takes.DESCRIPTOR, "print the address for clients once the bus listens [1]"),
    "--print-pid": (Takes.DESCRIPTOR, "print the process id [1]"),
    "--fork": (Takes.NOTHING, "serve in the background"),
    "--nofork": (Takes.NOTHING, "serve in the foreground, as without --fork"),
    "--version": (Takes.NOTHING, "print the version"),
    "--help": (Takes.NOTHING, "print this; -h and -? do the same"),
    "-h": (Takes.NOTHING, ""),
    "-?": (Takes.NOTHING, ""),
}
_LATER = (
    "--system", "--config-file", "--nopidfile", "--syslog", "--nosyslog", "--syslog-only",
    "--systemd-activation", "--introspect",
)
"""Flags of dbus-daemon that this bus has nothing behind."""
_STANDARD_OUTPUT = "1"
_HELP = ("--help", "-h", "-?")
_QUESTIONS = ("--version", *_HELP)


class Arguments:
    """The flags that were given, each once, with their values."""

    __slots__ = ("given",)

    def __init__(self) -> None:
        self.given: dict[str, str] = {}

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
        if flag in _LATER:
            raise UsageError(f"{flag} is an option of dbus-daemon that this version does not support")
        takes = _FLAGS[flag][0] if flag in _FLAGS else None
        if takes is None or (equals and takes is Takes.NOTHING):
            raise UsageError(f"unknown option {flag}{equals}{value}")
        if flag in parsed.given:
            raise UsageError(f"{flag} is given twice")
        if flag in _QUESTIONS:
            parsed.given = {flag: ""}
            return parsed
        if takes is Takes.DESCRIPTOR:
            if not equals and rest and not rest[0].startswith("-"):
                value = rest.pop(0)
            value = value or _STANDARD_OUTPUT
        elif takes is Takes.VALUE and not equals:
            if not rest:
                raise UsageError(f"{flag} needs a value")
            value = rest.pop(0)
        parsed.given[flag] = value
    if "--fork" in parsed.given and "--nofork" in parsed.given:
        raise UsageError("--fork and --nofork exclude each other")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    line = sys.argv[1:] if arguments is None else arguments
    try:
        if line and not line[0].startswith("-"):
            return _run_verb(line)
        return _run(parse(line))
    except UsageError as error:
        complaint = f"bus1-bridge: {error}\n{USAGE}\n"
    os.write(2, complaint.encode(errors="backslashreplace"))
    return 1


def _run_verb(line: Sequence[str]) -> int:
    from . import verbs

    if line[0] not in verbs.VERBS:
        raise UsageError(f"unknown verb {line[0]}: there are {', '.join(verbs.VERBS)}")
    return verbs.run(line)


def _help() -> str:
    forms = {Takes.NOTHING: "", Takes.VALUE: "=ADDRESS", Takes.DESCRIPTOR: "[=DESCRIPTOR]"}
    lines = [
        f"  {flag + forms[takes]:<31}{text}" for flag, (takes, text) in _FLAGS.items() if text
    ]
    from . import verbs

    lines += ["", "bus1-bridge VERB, with VERB --help:"]
    lines += [f"  {verb:<31}{text}" for verb, text in verbs.summaries()]
    about = "A D-Bus message bus. Native bus1 programs find it under the same name with 1 behind it."
    return "\n".join([USAGE, "", about, "", *lines])


def _run(arguments: Arguments) -> int:
    given = arguments.given
    if "--version" in given:
        print(VERSION)
        return 0
    if any(flag in given for flag in _HELP):
        print(_help())
        return 0
    if "--session" not in given:
        raise UsageError("say --session: this version knows no configuration files")
    # only now: what has nothing to serve should be quick
    from bus1.listening import AddressError
    from bus1.process import Printing

    from . import process

    printing = Printing(arguments.descriptor("--print-address"), arguments.descriptor("--print-pid"))
    address = given.get("--address") or process.SESSION_ADDRESS
    options = process.Options(address, printing, forks="--fork" in given)
    try:
        return process.run(options)
    except (AddressError, OSError) as error:
        raise UsageError(f"Failed to start message bus: {error}") from error
