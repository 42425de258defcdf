"""systemd: what a service manager hands over, and what it is told.

Theory. Two small protocols of the environment. Sockets that were passed begin at descriptor 3; ``LISTEN_FDS``
says how many they are, and ``LISTEN_PID`` for whom. ``NOTIFY_SOCKET`` takes one datagram per change of state.

Invariants. 1. Who cannot be told does not stop the bus.

Not here: what is served when (verbs.broker).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress

from .addresses import socket_name
from .listening import AddressError, Listening

_FIRST_FD = 3


def activated(environment: Mapping[str, str] = os.environ) -> list[Listening]:
    """The sockets that were passed to this process; AddressError if one of them is of no use."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        count = 0
    return [_passed(fd) for fd in range(_FIRST_FD, _FIRST_FD + count)]


def _passed(fd: int) -> Listening:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        kind = sock.family, sock.type, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise AddressError(f"descriptor {fd} was passed, but is no socket: {error.strerror}") from error
    if kind != (socket.AF_UNIX, socket.SOCK_STREAM, 1):
        raise AddressError(f"descriptor {fd} was passed, but is no listening unix stream socket")
    name = sock.getsockname()
    # its file is the business of whoever passed it
    return Listening(sock, os.fsdecode(name), owns_file=False)


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager, if there is one: ``READY=1``, ``STOPPING=1``, …"""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), socket_name(address))
