"""probe: which process serves a bus, as the bus itself says.

Theory. Of a socket that a service manager opened, the kernel names the service manager. So the bus is asked
for its own process id, in the shortest conversation that D-Bus has.

Not here: names, services, anything else that lives on the bus.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from bus1.errors import RemoteProtocolError

from .. import codec, wire

_PATIENCE = 5.0
_MOST = 1 << 20
_HELLO, _QUESTION = 1, 2


@dataclass(frozen=True, slots=True)
class Server:
    """A process that serves a bus."""

    pid: int
    command: str
    """Its command line; empty if it can't be read."""


def ask(path: str) -> Server | None:
    """Who serves the bus on this socket; None if nobody answers as a bus does."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_PATIENCE)
            sock.connect(path)
            pid = _ask(sock)
    except (OSError, RemoteProtocolError):
        return None
    return Server(pid, _command(pid))


def _ask(sock: socket.socket) -> int:
    identity = b"%d" % os.getuid()
    calls = _call(_HELLO, "Hello") + _call(_QUESTION, "GetConnectionUnixProcessID", wire.DRIVER_NAME)
    sock.sendall(b"\0AUTH EXTERNAL " + identity.hex().encode() + b"\r\nBEGIN\r\n" + calls)
    data = bytearray()
    while b"\r\n" not in data:
        data += _more(sock, data)
    if not data.startswith(b"OK "):
        raise RemoteProtocolError("the bus does not let us in")
    del data[: data.index(b"\r\n") + 2]
    while True:
        length = codec.frame_length(data)
        while length is None or len(data) < length:
            data += _more(sock, data)
            length = codec.frame_length(data)
        header = codec.parse(data[:length])
        if header.type == wire.RETURN and header.reply_serial == _QUESTION and header.signature == "u":
            return int(wire.unmarshal("u", bytes(data[header.header_length : length]), header.endian)[0])
        if header.type == wire.ERROR:
            raise RemoteProtocolError(f"the bus answers {header.error_name}")
        del data[:length]


def _more(sock: socket.socket, so_far: bytearray) -> bytes:
    more = sock.recv(65536)
    if not more or len(so_far) > _MOST:
        raise RemoteProtocolError("no answer")
    return more


def _call(serial: int, member: str, *arguments: str) -> bytes:
    signature = "s" * len(arguments)
    body = wire.marshal(signature, *arguments)
    return codec.build(
        wire.CALL, serial=serial, body_length=len(body), path=wire.DRIVER_PATH, interface=wire.DRIVER_NAME,
        member=member, destination=wire.DRIVER_NAME, signature=signature,
    ) + body


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read(4096)
    except OSError:
        return ""
    return " ".join(os.fsdecode(part) for part in line.split(b"\0") if part)
