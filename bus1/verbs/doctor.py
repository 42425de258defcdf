"""doctor: ``bus1 doctor``: which body of the bus is in use and why, and what else a bus needs of this place.

Theory. One record for each thing that can be looked at: its state (fine; note: something does without it;
bad), what was found, and what to do if it should be otherwise. Looking changes nothing: a native bus is
greeted, a D-Bus bus only connected to.

Invariants. 1. Whatever is missing here is told as a record: this verb works where no other does.
2. Only a body that was asked for and cannot be had is bad: exit status 1.

Not here: the choice (acceleration), which D-Bus bus serves, and why (``bus1-bridge status``).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .output import Record, Style, add_output_arguments, show, table
from .verb import Command

if TYPE_CHECKING:
    from argparse import Namespace

RUST = "1.91"
"""The oldest Rust that builds the native module."""
MANY_FILES = 4096
PATIENCE = 5.0
"""Seconds to wait for a bus that does not answer."""
_DBUS_SYSTEM_BUS = "unix:path=/run/dbus/system_bus_socket"
_TO_HAVE_IT = (
    f"To have it, put cargo (Rust {RUST} or newer) on PATH and install bus1 again, from its source:\n"
    "pip install --force-reinstall --no-deps SOURCE; with -v it tells why the module cannot be built.\n"
    "Without it everything works, and takes more time."
)


def examine() -> list[Record]:
    """All that is looked at, in the order in which it matters."""
    return [
        _bus1(), _body(), _module(), *_together(), _choice(), *_buses(), _runtime_directory(), _open_files(),
    ]


def _record(subject: str, state: str, value: object, finding: str, advice: str | None = None) -> Record:
    return {"subject": subject, "state": state, "value": value, "finding": finding, "advice": advice}


# ---- the body --------------------------------------------------------------------------------------


def _bus1() -> Record:
    import platform

    from .. import __version__

    python = f"{platform.python_implementation()} {platform.python_version()}"
    return _record("bus1", "fine", __version__, f"{__version__}, on {python}")


def _body() -> Record:
    from .. import acceleration

    try:
        native, reason = acceleration.native, acceleration.reason
    except acceleration.NoSuchBody as error:
        return _record("body", "bad", None, f"none: {error}")
    if native is not None:
        return _record("body", "fine", "native", "native")
    state = "fine" if acceleration.chosen() == "python" else "note"
    return _record("body", state, "python", f"Python, because {reason}")


def _module() -> Record:
    from shutil import which

    from .. import acceleration

    try:
        module = acceleration.load()
    except acceleration.NoSuchBody as error:
        cargo = which("cargo")
        found = f"{error}; {f'cargo is {cargo}' if cargo else 'no cargo is on PATH'}"
        # one that is there and cannot be used is nobody's wish
        state = "fine" if str(error) == acceleration.ABSENT else "note"
        return _record("native module", state, None, found, _TO_HAVE_IT) | {"parts": []}
    version, parts = module.__version__, list(module.PARTS)
    found = f"{version}: {', '.join(parts) or 'nothing in it yet'}"
    return _record("native module", "fine", version, found) | {"parts": parts}


def _together() -> list[Record]:
    from .. import acceleration

    try:
        module = acceleration.load()
    except acceleration.NoSuchBody:
        return []
    try:
        module.try_together()
    except OSError as error:
        found = f"{error.strerror or error}: the native body writes to one client after the other"
        return [_record("io_uring", "note", False, found)]
    return [_record("io_uring", "fine", True, "the native body writes to several clients at once")]


def _choice() -> Record:
    from ..acceleration import VARIABLE

    value = os.environ.get(VARIABLE) or None
    return _record(VARIABLE, "fine", value, value or "not set: the native body where there is one")


# ---- buses -----------------------------------------------------------------------------------------


def _buses() -> list[Record]:
    from ..addresses import SYSTEM_ADDRESS, default_address
    from ..errors import InvalidArgument

    found: list[Record] = []
    try:
        found.append(_native_bus("session bus", default_address()))
    except InvalidArgument as error:
        found.append(_record("session bus", "note", None, str(error)))
    found.append(_native_bus("system bus", SYSTEM_ADDRESS))
    directory = os.environ.get("XDG_RUNTIME_DIR")
    session = os.environ.get("DBUS_SESSION_BUS_ADDRESS") or (directory and f"unix:path={directory}/bus")
    system = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or _DBUS_SYSTEM_BUS
    return [*found, _dbus_bus("D-Bus session bus", session), _dbus_bus("D-Bus system bus", system)]


def _native_bus(subject: str, address: str) -> Record:
    from ..errors import Bus1Error
    from .inspect import greet
    from .verb import Failure

    try:
        greet(address, PATIENCE)
    except (Failure, Bus1Error, OSError) as error:
        return _record(subject, "note", address, str(error))
    return _record(subject, "fine", address, f"the bus at {address} answers")


def _dbus_bus(subject: str, address: str | None) -> Record:
    import socket

    from ..addresses import native_address, socket_name

    if not address:
        return _record(subject, "note", None, "nothing says where it is")
    beside = native_address(address)
    if beside is None:
        return _record(subject, "note", address, f"{address}: not looked at, as it is no unix socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        try:
            # a native socket has the name of the D-Bus socket, and 1 behind it
            sock.connect(socket_name(beside[:-1]))
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            return _record(subject, "note", address, f"no bus at {address}: {reason}")
    return _record(subject, "fine", address, f"somebody listens at {address}")


# ---- the place -------------------------------------------------------------------------------------


def _runtime_directory() -> Record:
    directory = os.environ.get("XDG_RUNTIME_DIR") or None
    subject = "XDG_RUNTIME_DIR"
    if directory is None:
        return _record(subject, "note", None, "not set: a session's bus needs an address")
    if not os.path.isdir(directory):
        return _record(subject, "note", directory, f"{directory} is no directory; bus1 broker makes it")
    if not os.access(directory, os.W_OK | os.X_OK):
        return _record(subject, "note", directory, f"{directory} cannot be written")
    return _record(subject, "fine", directory, directory)


def _open_files() -> Record:
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        return _record("open files", "fine", None, "a bus may have any number")
    state = "note" if hard < MANY_FILES else "fine"
    return _record("open files", state, hard, f"a bus may have {hard}: each client takes one or more")


# ---- the verb --------------------------------------------------------------------------------------


def _text(records: list[Record], style: Style) -> str:
    rows = [[record["subject"], record["state"], record["finding"]] for record in records]
    advice = [record["advice"] for record in records if record["advice"]]
    return "\n".join([table(["SUBJECT", "STATE", "FINDING"], rows, style), *(f"{text}\n" for text in advice)])


def _run(arguments: Namespace) -> int:
    records = examine()
    show(arguments, records, lambda style: _text(records, style))
    return 1 if any(record["state"] == "bad" for record in records) else 0


COMMAND = Command(
    "say which body of the bus is in use, and what is missing here",
    "Which body of the bus is in use, the native one or the one in Python, and why not the other; which\n"
    "buses can be reached from here, and what a bus needs of this place. The exit status is 1 if\n"
    "BUS1_ACCEL asks for a body that cannot be had.",
    add_output_arguments,
    _run,
    (
        ("bus1 doctor", "how things are"),
        ("bus1 doctor --json=pretty", "the same, for programs"),
    ),
)
