"""connection: one raw client socket that cuts what arrives into messages.

Theory. Authentication, Hello and whatever else the client wants first go out in one write, as sd-bus
does; the answers are read until the last one is there. After that ``socket`` may be used directly.

Invariants. 1. No read waits longer than ``PATIENCE`` seconds: a silent bus is an error, not a hang.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import Self

from . import messages
from .messages import ERROR, RETURN, frame_length
from .worker import PATIENCE

CHUNK = 262144


class Connection:
    """A connected stream socket, owned."""

    def __init__(self, stream: socket.socket) -> None:
        self.socket = stream
        self.wait_at_most(PATIENCE)
        self.unique = ""
        self.rest = b""

    @classmethod
    def open(cls, address: str, *requests: bytes) -> Self:
        """Connect, authenticate, say Hello and send ``requests``; returns when all are answered."""
        self = cls(socket.socket(socket.AF_UNIX))
        try:
            self.socket.connect(socket_path(address))
            self.socket.sendall(GREETING + b"".join(requests))
            self.skip_lines(2)
            self.unique = hello_name(self.take_reply())
            for _ in requests:
                self.take_reply()
        except BaseException:
            self.close()
            raise
        return self

    def wait_at_most(self, seconds: int) -> None:
        """Limit each read and write; 0 waits for ever. The kernel counts, which saves a poll per read."""
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            self.socket.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", seconds, 0))

    def skip_lines(self, count: int) -> None:
        """Read past ``count`` lines of authentication."""
        while self.rest.count(b"\r\n") < count:
            self.rest += self.receive()
        self.rest = self.rest.split(b"\r\n", count)[count]

    def receive(self) -> bytes:
        """The next bytes; ConnectionError at the end of input, TimeoutError for a silent bus."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            raise TimeoutError("the bus did not answer") from None
        if not data:
            raise ConnectionError("the bus closed the connection")
        return data

    def frames(self) -> list[bytes]:
        """At least one whole message; an incomplete one is kept for the next call."""
        found: list[bytes] = []
        while not found:
            at, data = 0, self.rest
            while len(data) - at >= 16 and len(data) - at >= (length := frame_length(data, at)):
                found.append(data[at : at + length])
                at += length
            self.rest = data[at:]
            if not found:
                self.rest += self.receive()
        return found

    def take_reply(self) -> bytes:
        """The next method return, other messages skipped; RuntimeError for an error."""
        while True:
            batch = self.frames()
            for position, message in enumerate(batch):
                if message[1] == ERROR:
                    raise RuntimeError(f"the bus answered {message!r}")
                if message[1] == RETURN:
                    self.rest = b"".join(batch[position + 1 :]) + self.rest
                    return message

    def take_replies(self, count: int) -> None:
        """As many method returns, nothing being outstanding then; RuntimeError for an error."""
        while count > 0:
            for message in self.frames():
                if message[1] == ERROR:
                    raise RuntimeError(f"the bus answered {message!r}")
                count -= message[1] == RETURN

    def close(self) -> None:
        """Close the socket; again is fine."""
        self.socket.close()


def socket_path(address: str) -> str:
    """The path of ``unix:path=P,…``, the one form that the benchmarks use."""
    return address.removeprefix("unix:path=").split(",")[0]


def hello_name(reply: bytes) -> str:
    """The unique name in the answer to Hello: a body of one string."""
    body = reply[-messages.LENGTHS.unpack_from(reply)[0] :]
    return body[4:-1].decode()


IDENTITY = str(os.getuid()).encode().hex()
AUTHENTICATION = f"\0AUTH EXTERNAL {IDENTITY}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n".encode()
GREETING = AUTHENTICATION + messages.driver_call("Hello")
