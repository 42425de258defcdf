"""listening: the D-Bus addresses that a bus can listen on.

Theory. A server address is a list of entries, separated by ``;``, of the form
``transport:key=value,…``. They are tried in order, and the first that works is the one: that is how
``unix:runtime=yes;unix:tmpdir=/tmp`` falls back. What is printed for clients has the socket's real name,
escaped. Native clients find their socket under the same name with ``1`` behind it (``bus1.addresses``).
Whoever names a D-Bus socket wants it, as with dbus-daemon, so it replaces the one that is there. Nobody
named the native one, so it takes only the place of a socket that refuses connections.

Not here: binding (``bus1.listening``), accepting (the Switch), addresses as clients use them
(``bus1.addresses``).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from bus1.addresses import escape, native_address, socket_name, unescape
from bus1.listening import AddressError, Listening, bind


def dbus_address(listening: Listening) -> str:
    """What D-Bus clients are told of a socket, without guid."""
    is_abstract = listening.name.startswith("\0")
    key = "abstract" if is_abstract else "path"
    return f"unix:{key}={escape(os.fsencode(listening.name)[is_abstract:])}"


def listen(address: str, environment: Mapping[str, str] = os.environ) -> Listening:
    """Listen on the first entry of the address that works; AddressError."""
    complaint = AddressError(f"the address {address!r} is empty")
    for transport, values in _parse(address):
        try:
            return _listen_on(transport, values, environment)
        except AddressError as error:
            complaint = error
    raise complaint


def listen_natively(dbus: Listening) -> Listening:
    """The native socket beside a D-Bus socket; AddressError."""
    address = dbus_address(dbus)
    name = native_address(address)
    if name is None:
        raise AddressError(f"nothing lies beside {address}")
    return bind(socket_name(name))


def _parse(address: str) -> list[tuple[str, dict[str, str]]]:
    entries = []
    for entry in filter(None, address.split(";")):
        transport, colon, rest = entry.partition(":")
        if not colon or not transport:
            raise AddressError(f"Address '{entry}' does not contain a colon")
        values: dict[str, str] = {}
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


def _listen_on(transport: str, values: dict[str, str], environment: Mapping[str, str]) -> Listening:
    if transport != "unix":
        raise AddressError(f"Unknown address type '{transport}': this bus listens on unix sockets")
    # others, such as guid, are for clients
    keys = sorted(values.keys() & _UNIX.keys())
    if len(keys) != 1:
        given = ", ".join(keys) or "none of them"
        raise AddressError(f"unix: takes exactly one of {', '.join(_UNIX)}; given: {given}")
    return _UNIX[keys[0]](values[keys[0]], environment)


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
