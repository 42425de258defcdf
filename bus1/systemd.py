"""systemd: what a service manager hands over, and what it is told.

Theory. Two small protocols of the environment. Sockets that were passed begin at descriptor 3; ``LISTEN_FDS``
says how many they are, ``LISTEN_PID`` for whom, ``LISTEN_FDNAMES`` what each is called. ``NOTIFY_SOCKET``
takes one datagram per change of state.

Invariants. 1. Who cannot be told does not stop the bus.

Not here: what is served when (verbs.broker).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from .addresses import socket_name
from .listening import AddressError, Listening

_FIRST_FD = 3
_STREAMS: dict[int, str] = {socket.AF_UNIX: "unix stream", socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}


def activated(environment: Mapping[str, str] = os.environ) -> list[Listening]:
    """The unix sockets that were passed to this process; AddressError if one of them is of no use."""
    sockets = passed(environment, {socket.AF_UNIX: "unix stream"})
    # their files are the business of whoever passed them
    return [Listening(sock, os.fsdecode(sock.getsockname()), owns_file=False) for _, sock in sockets]


def passed(
    environment: Mapping[str, str] = os.environ, families: Mapping[int, str] = _STREAMS
) -> list[tuple[str, socket.socket]]:
    """The listening stream sockets that were passed to this process, with the names that they were given.

    AddressError if one of them is something else, or of none of these families."""
    if environment.get("LISTEN_PID") != str(os.getpid()):
        return []
    try:
        count = int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        count = 0
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (count - len(names))
    return [(name, _passed(_FIRST_FD + i, families)) for i, name in zip(range(count), names, strict=False)]


def _passed(fd: int, families: Mapping[int, str]) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
        is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise AddressError(f"descriptor {fd} was passed, but is no socket: {error.strerror}") from error
    if not (is_listening and sock.type == socket.SOCK_STREAM and sock.family in families):
        kinds = " or ".join(families.values())
        raise AddressError(f"descriptor {fd} was passed, but is no listening {kinds} socket")
    return sock


def notify(state: str, environment: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager, if there is one: ``READY=1``, ``STOPPING=1``, …"""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        sock.sendto(state.encode(), socket_name(address))


def notify_reload(environment: Mapping[str, str] = os.environ) -> None:
    """Tell it that this process is reading its configuration again; ``READY=1`` ends that."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}", environment)


def watchdog_interval(environment: Mapping[str, str] = os.environ) -> float | None:
    """Within how many seconds, again and again, it wants to hear ``WATCHDOG=1``; None: never."""
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    try:
        microseconds = int(environment.get("WATCHDOG_USEC", ""))
    except ValueError:
        return None
    return microseconds / 1e6 if microseconds > 0 else None
