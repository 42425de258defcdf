"""tcp: listening for clients of other machines.

Theory. A name may stand for several network addresses; the bus listens on all of them, at one port, and tells
clients the name. Nothing of this is encrypted, and the kernel knows nobody behind such a socket, so its
clients need a mechanism of authentication that does without.

Not here: who asks for it (listening), what such clients may do.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping

from bus1.addresses import escape
from bus1.listening import BACKLOG, AddressError

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
_MAX_PORT = 65535
_ENOUGH = 16
"""Network addresses of one name."""


def listen(values: Mapping[str, str]) -> tuple[str, list[socket.socket]]:
    """Listen on ``host``, ``bind``, ``port`` and ``family``; the address for clients. AddressError."""
    host = values.get("host", "localhost")
    where = values.get("bind", host)
    port, family = values.get("port", "0"), values.get("family")
    if family is not None and family not in FAMILIES:
        raise AddressError(f"Unknown address family '{family}': there are ipv4 and ipv6")
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise AddressError(f"tcp: port {port} is no number from 0 to {_MAX_PORT}")
    sockets = _listen_on(where, int(port), socket.AF_UNSPEC if family is None else FAMILIES[family])
    return describe(host, sockets), sockets


def describe(host: str, sockets: list[socket.socket]) -> str:
    """The address for clients of sockets that share a port."""
    address = f"tcp:host={escape(host.encode())},port={sockets[0].getsockname()[1]}"
    families = {sock.family for sock in sockets}
    for name, family in FAMILIES.items():
        if families == {family}:
            address += f",family={name}"
    return address


def _listen_on(where: str, port: int, family: int) -> list[socket.socket]:
    shown = f'"{where}" port {port}'
    try:
        found = socket.getaddrinfo(
            None if where == "*" else where, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise AddressError(
            f'Failed to lookup host/port: "{where}:{port}": {error.args[-1]}'
        ) from error
    sockets: list[socket.socket] = []
    trouble: OSError | None = None
    for kind, _, _, _, place in found[:_ENOUGH]:
        try:
            # whichever port the first one was given is everybody's
            at = (place[0], port or sockets[0].getsockname()[1]) if sockets else place
            sockets.append(_bind(kind, at))
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                _close(sockets)
                raise AddressError(f"Failed to bind socket {shown}: {error.strerror}") from error
            trouble = error
    if not sockets:
        reason = "no such address" if trouble is None else trouble.strerror
        raise AddressError(f"Failed to bind socket {shown}: {reason}")
    return sockets


def _bind(family: int, where: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _close(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()
