"""listening: the D-Bus addresses that a bus can listen on.

Theory. A server address is a list of entries, separated by ``;``, of the form
``transport:key=value,…``. They are tried in order, and the first that works is the one: that is how
``unix:runtime=yes;unix:tmpdir=/tmp`` falls back. What is printed for clients has the socket's real name,
escaped. Native clients find their socket under the same name with ``1`` behind it (``bus1.addresses``).
Whoever names a D-Bus socket wants it, as with dbus-daemon, so it replaces the one that is there. Nobody
named the native one, so it takes only the place of a socket that refuses connections.

Invariants. 1. A socket is listening when it is returned. 2. ``close`` leaves no file of this bus behind,
and removes no other.

Not here: accepting (the Switch), addresses as clients use them (``bus1.addresses``).
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable, Mapping

from bus1.addresses import escape, native_address, socket_name, unescape

BACKLOG = 128
_MAX_NAME = 107
"""Bytes of a socket's name."""
_PLAIN = frozenset(b"-_/.\\*0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_HEX = b"0123456789abcdefABCDEF"


class AddressError(Exception):
    """The bus can't listen there; the text says why."""


class Listening:
    """A listening socket, and what clients are told of it.

    ``address`` is in D-Bus's syntax, without guid; ``path`` is the file to remove at the end, which exists;
    None for an abstract name. It is found from any working directory."""

    __slots__ = ("_identity", "address", "path", "sock")

    def __init__(self, sock: socket.socket, address: str, path: str | None) -> None:
        self.sock = sock
        self.address = address
        self.path = path if path is None else os.path.abspath(path)
        self._identity = None if path is None else _identity(path)

    def remove_file(self) -> None:
        """Remove the socket's file; nothing if it is gone, or another one by now."""
        if self.path is not None:
            try:
                if _identity(self.path) == self._identity:
                    os.unlink(self.path)
            except FileNotFoundError:
                return

    def close(self) -> None:
        """Close the socket and remove its file."""
        self.sock.close()
        self.remove_file()


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
    name = native_address(dbus.address)
    if name is None:
        raise AddressError(f"nothing lies beside {dbus.address}")
    return _bind(socket_name(name), name, _is_dead_socket)


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
    return _bind(value, value)


def _abstract(value: str, environment: Mapping[str, str]) -> Listening:
    return _bind("\0" + value, "@" + value)


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


def _identity(path: str) -> tuple[int, int]:
    about = os.lstat(path)
    return about.st_dev, about.st_ino


def _is_socket(path: str) -> bool:
    return stat.S_ISSOCK(os.stat(path).st_mode)


def _is_dead_socket(path: str) -> bool:
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(os.fsencode(path)) == errno.ECONNREFUSED


def _bind(name: str, shown: str, gives_way: Callable[[str], bool] = _is_socket) -> Listening:
    """``shown`` is the name for people, with @ for abstract ones; a file that ``gives_way`` is replaced."""
    is_abstract = name.startswith("\0")
    raw = os.fsencode(name)
    if len(raw) > _MAX_NAME + is_abstract:
        raise AddressError(f"Socket name too long: {shown}")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if not is_abstract:
            _clear(name, gives_way)
        sock.bind(raw)
        if not is_abstract:
            # who may use the bus is a matter of credentials, not of the file's mode
            os.chmod(name, 0o777)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise AddressError(f"Failed to bind socket \"{shown}\": {error.strerror}") from error
    key = "abstract" if is_abstract else "path"
    return Listening(sock, f"unix:{key}={escape(raw[is_abstract:])}", None if is_abstract else name)


def _clear(path: str, gives_way: Callable[[str], bool]) -> None:
    try:
        if gives_way(path):
            os.unlink(path)
    except FileNotFoundError:
        return
