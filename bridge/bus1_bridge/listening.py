"""listening: the D-Bus addresses that a bus can listen on.

Theory. A server address is a list of entries, separated by ``;``, of the form
``transport:key=value,…``. They are tried in order, and the first that works is the one: that is how
``unix:runtime=yes;unix:tmpdir=/tmp`` falls back. A ``Door`` is what comes of it: what clients are told, with
the socket's real name, escaped, and the sockets behind it. Native clients find their socket under the same
name with ``1`` behind it (``bus1.addresses``). Whoever names a D-Bus socket wants it, as with dbus-daemon, so
it replaces the one that is there. Nobody named the native one, so it takes only the place of a socket that
refuses connections.

``systemd:`` stands for all sockets that a service manager has passed; the one that is called ``bus1`` is for
native clients.

Not here: binding (``bus1.listening``, tcp), accepting (the Switch), addresses as clients use them
(``bus1.addresses``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from typing import NamedTuple

from bus1.addresses import escape, native_address, socket_name, unescape
from bus1.listening import AddressError, Listening, bind

NATIVE_NAME = "bus1"
"""What a service manager calls the socket for native clients."""

_Values = dict[str, str]


class Door(NamedTuple):
    """One address, and the sockets that serve it."""

    address: str
    """What D-Bus clients are told, without guid; empty for native clients."""
    sockets: tuple[Listening, ...]

    @property
    def is_native(self) -> bool:
        """It is for native clients."""
        return not self.address


def dbus_address(listening: Listening) -> str:
    """What D-Bus clients are told of a unix socket, without guid."""
    is_abstract = listening.name.startswith("\0")
    key = "abstract" if is_abstract else "path"
    return f"unix:{key}={escape(os.fsencode(listening.name)[is_abstract:])}"


def listen(address: str, environment: Mapping[str, str] = os.environ) -> list[Door]:
    """Listen on the first entry of the address that works; AddressError."""
    complaint = AddressError(f"the address {address!r} is empty")
    for transport, values in _parse(address):
        try:
            return _TRANSPORTS.get(transport, _unheard_of(transport))(values, environment)
        except AddressError as error:
            complaint = error
    raise complaint


def listen_natively(door: Door) -> Door:
    """The native socket beside a unix socket for D-Bus clients; AddressError."""
    name = native_address(door.address)
    if name is None:
        raise AddressError(f"nothing lies beside {door.address}")
    return Door("", (bind(socket_name(name)),))


def _parse(address: str) -> list[tuple[str, _Values]]:
    entries = []
    for entry in filter(None, address.split(";")):
        transport, colon, rest = entry.partition(":")
        if not colon or not transport:
            raise AddressError(f"Address '{entry}' does not contain a colon")
        values: _Values = {}
        for pair in filter(None, rest.split(",")):
            key, equals, value = pair.partition("=")
            if not (key and equals and value):
                raise AddressError("'=' character not found or has no value following it")
            if key in values:
                raise AddressError(f"key '{key}' is given twice in '{entry}'")
            try:
                values[key] = os.fsdecode(unescape(value))
            except ValueError as error:
                raise AddressError(str(error)) from error
            if "\0" in values[key]:
                raise AddressError(f"a NUL in '{value}'")
        entries.append((transport, values))
    return entries


# ---- transports ----------------------------------------------------------------------------------

_Transport = Callable[[_Values, Mapping[str, str]], list[Door]]


def _unix(values: _Values, environment: Mapping[str, str]) -> list[Door]:
    # others, such as guid, are for clients
    keys = sorted(values.keys() & _UNIX.keys())
    if len(keys) != 1:
        given = ", ".join(keys) or "none of them"
        raise AddressError(f"unix: takes exactly one of {', '.join(_UNIX)}; given: {given}")
    listening = _UNIX[keys[0]](values[keys[0]], environment)
    return [Door(dbus_address(listening), (listening,))]


def _tcp(values: _Values, environment: Mapping[str, str]) -> list[Door]:
    # rarely needed
    from . import tcp

    address, sockets = tcp.listen(values)
    return [Door(address, tuple(Listening(sock, "", owns_file=False) for sock in sockets))]


def _systemd(values: _Values, environment: Mapping[str, str]) -> list[Door]:
    # rarely needed
    import socket

    from bus1.systemd import passed

    from . import tcp

    doors = []
    for name, sock in passed(environment):
        where = sock.getsockname()
        # the file of a unix socket is the business of whoever passed it
        if sock.family == socket.AF_UNIX:
            listening = Listening(sock, os.fsdecode(where), owns_file=False)
            address = "" if name == NATIVE_NAME else dbus_address(listening)
        else:
            listening, address = Listening(sock, "", owns_file=False), tcp.describe(where[0], [sock])
        doors.append(Door(address, (listening,)))
    if all(door.is_native for door in doors):
        raise AddressError("No socket received: systemd: needs LISTEN_FDS of a service manager")
    return doors


def _unheard_of(transport: str) -> _Transport:
    def complain(values: _Values, environment: Mapping[str, str]) -> list[Door]:
        raise AddressError(
            f"Unknown address type '{transport}': this bus listens on {', '.join(_TRANSPORTS)}"
        )

    return complain


_TRANSPORTS: dict[str, _Transport] = {"unix": _unix, "systemd": _systemd, "tcp": _tcp}


# ---- unix ----------------------------------------------------------------------------------------


def _path(value: str, environment: Mapping[str, str]) -> Listening:
    return bind(value, _is_socket)


def _abstract(value: str, environment: Mapping[str, str]) -> Listening:
    return bind("\0" + value)


def _directory(value: str, environment: Mapping[str, str]) -> Listening:
    name = "dbus-" + os.urandom(6).hex()
    return _path(os.path.join(value, name), environment)


def _runtime(value: str, environment: Mapping[str, str]) -> Listening:
    if value != "yes":
        raise AddressError(f"unix:runtime takes only the value yes, not '{value}'")
    directory = environment.get("XDG_RUNTIME_DIR")
    if not directory:
        raise AddressError("unix:runtime=yes: XDG_RUNTIME_DIR is not set")
    return _path(os.path.join(directory, "bus"), environment)


_UNIX: dict[str, Callable[[str, Mapping[str, str]], Listening]] = {
    "path": _path, "abstract": _abstract, "dir": _directory, "tmpdir": _directory, "runtime": _runtime,
}


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.stat(path).st_mode)
