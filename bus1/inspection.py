"""inspection: the state of a bus as a document, for people who look into it.

Theory. The document is what Core's snapshot shows, which contains no payload, and beside it what the broker
and the hub know of each peer: who opened it, which processes use it, how it is called. It is written whole,
between two commands, so it shows one instant; everybody waits meanwhile. It leaves the bus as a sealed memory
file, because it may be larger than any frame.

Invariants. 1. Only root and the user of the bus are shown anything. 2. Nobody can change a document.

Not here: what the operation looks like (requests), how the document is read (verbs.records).
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

from . import __version__
from .core.api import Credentials
from .descriptors import Fds
from .errors import Denied, OutOfMemory
from .frames import SNAPSHOT_FORMAT
from .record import values

if TYPE_CHECKING:
    from .broker import Broker

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


def document_for(broker: Broker, asker: Credentials) -> tuple[int, Fds]:
    """Size and descriptor of the document; Denied to whoever is neither root nor the bus's own user."""
    owner = os.geteuid()
    if asker.uid not in {0, owner}:
        raise Denied(f"user {asker.uid} may not look into the bus of user {owner}")
    try:
        data = json.dumps(_document(broker), default=bytes.hex, separators=(",", ":")).encode()
        return len(data), Fds([_sealed(data)])
    except (OSError, MemoryError) as error:
        raise OutOfMemory(f"no room for the document: {error}") from error


def _sealed(data: bytes) -> int:
    fd = os.memfd_create("bus1-snapshot", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _document(broker: Broker) -> dict[str, Any]:
    return {
        "format": SNAPSHOT_FORMAT,
        "bus": {
            "pid": os.getpid(), "uid": os.geteuid(), "version": __version__, "limits": values(broker.limits),
        },
        "peers": _peers(broker),
        "core": broker.hub.core.snapshot(),
    }


def _peers(broker: Broker) -> dict[int, dict[str, Any]]:
    commands = _Commands()
    known = {
        number: _peer(label.credentials, commands) | {"names": label.names}
        for number, label in broker.hub.labels().items()
    }
    for station in broker.stations():
        peer = known.setdefault(station.peer, _peer(station.opener, commands))
        peer["channels"] = [channel.accepted.pid for channel in station.channels]
    return known


def _peer(who: Credentials, commands: _Commands) -> dict[str, Any]:
    return {
        "uid": who.uid, "gid": who.gid, "pid": who.pid, "command": commands[who.pid],
        "names": [], "channels": None,
    }


class _Commands(dict[int, str | None]):
    """What each process is called now; None if it is gone, or out of sight."""

    def __missing__(self, pid: int) -> str | None:
        try:
            with open(f"/proc/{pid}/comm", "rb") as file:
                name = file.read().removesuffix(b"\n").decode("utf-8", "backslashreplace")
        except OSError:
            self[pid] = None
        else:
            self[pid] = name
        return self[pid]
