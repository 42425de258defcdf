"""relay: a process that only receives and sends (``python -m benchmarks.relay PATH``), for the floor.

Theory. The first bytes of a connection are its greeting and get a canned answer, with a second reply for
an AddMatch. From then on it is either the hub, which is the first that speaks again, or a spoke: what
the hub says goes to all spokes, what a spoke says goes to the hub. No byte of it is looked at. When the
hub leaves, there may be another.
"""

from __future__ import annotations

import select
import socket
import sys

from . import messages
from .connection import CHUNK

LINES = b"OK 0123456789abcdef0123456789abcdef\r\nAGREE_UNIX_FD\r\n"
HELLO = messages.build(messages.RETURN, 1, {messages.REPLY_SERIAL: 1}, "s", ":1.1")
MATCHED = messages.build(messages.RETURN, 2, {messages.REPLY_SERIAL: 2})


class Relay:
    """One hub, any number of spokes."""

    def __init__(self, listener: socket.socket, poll: select.epoll) -> None:
        self.listener = listener
        self.poll = poll
        self.connections: dict[int, socket.socket] = {}
        self.greeted: set[int] = set()
        self.hub = -1
        poll.register(listener, select.EPOLLIN)

    def run(self) -> None:
        """Serve until killed."""
        while True:
            for number, _ in self.poll.poll():
                if number == self.listener.fileno():
                    self.accept()
                elif data := self.connections[number].recv(CHUNK):
                    self.pass_on(number, data)
                else:
                    self.drop(number)

    def accept(self) -> None:
        """Take a new connection."""
        stream, _ = self.listener.accept()
        self.connections[stream.fileno()] = stream
        self.poll.register(stream, select.EPOLLIN)

    def pass_on(self, number: int, data: bytes) -> None:
        """Greet, or send ``data`` to the other side."""
        if number not in self.greeted:
            self.greeted.add(number)
            self.connections[number].sendall(LINES + HELLO + (MATCHED if b"AddMatch" in data else b""))
            return
        if self.hub < 0:
            self.hub = number
        if number != self.hub:
            self.connections[self.hub].sendall(data)
            return
        for other, stream in self.connections.items():
            if other != number:
                stream.sendall(data)

    def drop(self, number: int) -> None:
        """Forget a connection that has ended."""
        self.greeted.discard(number)
        self.connections.pop(number).close()
        if number == self.hub:
            self.hub = -1


def main(path: str) -> None:
    """Listen, say so, serve."""
    with socket.socket(socket.AF_UNIX) as listener, select.epoll() as poll:
        listener.bind(path)
        listener.listen(128)
        print(f"unix:path={path}", flush=True)
        Relay(listener, poll).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
