"""party: the test's side of a process that does what it is told by lines of JSON, and answers in kind."""

from __future__ import annotations

import json
import socket
from typing import Any

from bus1.descriptors import Fds
from bus1.peer import Peer


class Party:
    """A process at the other end of a plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lines = sock.makefile("r")

    def tell(self, **what: Any) -> None:
        """Say what it shall do."""
        self._sock.sendall(json.dumps(what).encode() + b"\n")

    def answer(self) -> Any:
        """What it says next; AssertionError if it is no more."""
        line = self._lines.readline()
        assert line, "the process has ended"
        return json.loads(line)

    def ask(self, **what: Any) -> Any:
        """What it answers to that."""
        self.tell(**what)
        return self.answer()

    def taken(self, address: str) -> Peer:
        """The peer whose descriptor it passes."""
        _, fds, _, _ = socket.recv_fds(self._sock, 1, 1)
        with Fds(fds) as received:
            return Peer.from_descriptor(received[0], address)

    def close(self) -> None:
        """It is told nothing more."""
        self._lines.close()
        self._sock.close()
