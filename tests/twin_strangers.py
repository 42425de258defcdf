"""twin_strangers: clients that connect byte by byte, in pieces, or with nonsense, and go when they like.

Theory. What a stranger says is text with a few words in braces; pieces of it are sent one after the other,
each when the bus has handled the one before, and what comes back is kept as bytes. So the two bodies are
compared before Hello, too, where ``TwinClient`` says what every library says.

Not here: what well-behaved clients do (twin_client), which strangers there are (twin_scripts).
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Callable
from contextlib import suppress

from dbus_client import BUS, BUS_PATH, CALL, DESTINATION, INTERFACE, MEMBER, PATH, SIGNATURE, marshal, message
from twin_client import Got


def _call(member: str, serial: int, text: str | None = None) -> str:
    fields = [(PATH, "o", BUS_PATH), (INTERFACE, "s", BUS), (MEMBER, "s", member), (DESTINATION, "s", BUS)]
    if text is None:
        return message(CALL, serial, fields, b"").decode("latin-1")
    body = marshal("s", text)
    return message(CALL, serial, [*fields, (SIGNATURE, "g", "s")], body).decode("latin-1")


WORDS = {
    "{uid}": str(os.getuid()).encode().hex(), "{hello}": _call("Hello", 1), "{id}": _call("GetId", 2),
    "{list}": _call("ListNames", 3), "{match}": _call("AddMatch", 4, "sender='t.N0',arg0='x'"),
    "{owner}": _call("GetNameOwner", 5, BUS), "{listen}": _call("AddMatch", 6, "type='signal'"),
    "{credentials}": _call("GetConnectionCredentials", 7, ":1.0"),
    "{unmatch}": _call("RemoveMatch", 8, "arg0='x',sender='t.N0'"),
}
"""What stands for what in what strangers say."""


class Strangers:
    """All strangers of one bus."""

    def __init__(self, path: str, wait: Callable[[], None], blank: Callable[[bytes], bytes]) -> None:
        """``wait`` until the bus has nothing to do; ``blank`` what differs between any two buses."""
        self._path = path
        self._wait = wait
        self._blank = blank
        self._here: list[socket.socket] = []
        self.got: list[Got] = []
        """What they have got, one behind the other."""

    def knock(self, *pieces: str, fds: int = 0, then: str = "close") -> None:
        """One comes and says all pieces, the last one with ``fds`` descriptors; ``then`` it ends so."""
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(self._path)
        stranger.setblocking(False)
        self._here.append(stranger)
        for n, piece in enumerate(pieces):
            for word, text in WORDS.items():
                piece = piece.replace(word, text)
            with suppress(BrokenPipeError, ConnectionResetError):
                _send(stranger, piece.encode("latin-1"), fds if n == len(pieces) - 1 else 0)
            if then != "run" or n < len(pieces) - 1:
                self._wait()
                self._read(stranger)
        if then == "shut":
            stranger.shutdown(socket.SHUT_WR)
            self._wait()
            self._read(stranger)
        if then != "stay":
            self._here.remove(stranger)
            stranger.close()
            self._wait()

    def leave(self) -> None:
        """Those that are still there close, the first first."""
        for stranger in self._here:
            stranger.close()
            self._wait()
        self._here.clear()

    def _read(self, stranger: socket.socket) -> None:
        data, is_over = b"", True
        try:
            while more := stranger.recv(1 << 16):
                data += more
        except ConnectionResetError:
            pass
        except BlockingIOError:
            is_over = False
        if is_over:
            # of what it is answered before it is expelled for the same piece, some is written or none
            self.got.append(Got(b""))
        elif data:
            self.got.append(Got(self._blank(data)))


def _send(stranger: socket.socket, data: bytes, n_fds: int) -> None:
    if not n_fds:
        stranger.send(data, socket.MSG_NOSIGNAL)
        return
    fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(n_fds)]
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
    try:
        stranger.sendmsg([data], [rights], socket.MSG_NOSIGNAL)
    finally:
        for fd in fds:
            os.close(fd)
