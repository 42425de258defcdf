"""torture: clients that do to a bus, at random, what no client should; a process of its own.

Theory. Each client is a socket that never blocks, a random generator of its own seed, and a table of deeds,
one of which it does at each of its turns: connect, leave, own, release, match, call, flood, stop reading,
talk nonsense. What the bus makes of that is no matter here: a client that is thrown out comes again. The
process ends after its time, and prints how often each deed was done: one that never happened tested nothing.

``python torture.py SOCKET SEED SECONDS CLIENTS`` is run by test_torture.
"""

from __future__ import annotations

import array
import json
import os
import random
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    INTERFACE,
    MEMBER,
    NO_REPLY,
    PATH,
    REPLY_SERIAL,
    RETURN,
    SIGNAL,
    SIGNATURE,
    UNIX_FDS,
    marshal,
    message,
)

MOST_PENDING = 1 << 20
"""Bytes that a client keeps for a socket that takes no more; a flood ends there."""
PAUSE = 100
"""Milliseconds between two turns of a client: the machine is for the bus, too."""
LONGEST = 1.0
"""Seconds that a client stops reading, at most, before it does anything else."""
NAMES = tuple(f"torture.name{i}" for i in range(24))
RULES = (
    "type='signal'", "", "type='signal',interface='torture.Flood'", "type='signal',member='M3'",
    "sender='torture.name1'", "arg0='x'", "path_namespace='/torture'", "type='method_call',eavesdrop='true'",
    "type='signal',sender='org.freedesktop.DBus'", "arg0namespace='torture'", "not a rule", "arg64='x'",
)
GREETING = (
    b"\0AUTH EXTERNAL " + str(os.getuid()).encode().hex().encode() + b"\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n"
)


class Client:
    """One of them."""

    def __init__(self, path: str, seed: str, done: Counter[str]) -> None:
        self._path = path
        self._random = random.Random(seed)
        self._done = done
        self._serial = 0
        self._pending = bytearray()
        self._deaf_until = 0.0
        self._socket: socket.socket | None = None

    def turn(self, now: float) -> None:
        """Do something."""
        if self._socket is None:
            self._connect()
            return
        self._flush()
        if now >= self._deaf_until:
            self._read()
        deeds = self._random.choices(list(_DEEDS), list(_DEEDS.values()), k=1)
        self._done[deeds[0].__name__.strip("_")] += 1
        deeds[0](self)

    def leave(self) -> None:
        """Close, in whatever state it is."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._pending.clear()

    # ---- deeds -----------------------------------------------------------------------------------

    def _connect(self) -> None:
        self._done["connect"] += 1
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            sock.connect(self._path)
        except OSError:  # the backlog is full
            sock.close()
            return
        self._socket = sock
        self._pending.clear()
        self._serial, self._deaf_until = 0, 0.0
        way = self._random.random()
        if way < 0.8:
            self._say(GREETING)
            self._ask("Hello")
        elif way < 0.9:
            self._say(GREETING[: self._random.randrange(len(GREETING))])

    def _own(self) -> None:
        self._ask("RequestName", "su", self._random.choice(NAMES), self._random.randrange(8))

    def _release(self) -> None:
        self._ask("ReleaseName", "s", self._random.choice(NAMES))

    def _match(self) -> None:
        self._ask("AddMatch", "s", self._random.choice(RULES))

    def _unmatch(self) -> None:
        self._ask("RemoveMatch", "s", self._random.choice(RULES))

    def _inquire(self) -> None:
        member = self._random.choice(("ListNames", "GetId", "NameHasOwner", "GetConnectionCredentials", "No"))
        arguments = () if member in ("ListNames", "GetId") else (self._random.choice(NAMES),)
        self._ask(member, "s" * len(arguments), *arguments)

    def _call(self) -> None:
        # a unique name of the torturers, of nobody, or of those beside them: those ignore it
        to = self._random.choice((*NAMES, f":1.{self._random.randrange(10, 4000)}"))
        flags = self._random.choice((0, NO_REPLY))
        self._send(CALL, {PATH: "/torture", MEMBER: "M", DESTINATION: to}, flags=flags, size=64)

    def _answer(self) -> None:
        kind = self._random.choice((RETURN, ERROR))
        fields: dict[int, str | int] = {
            DESTINATION: f":1.{self._random.randrange(10, 4000)}",
            REPLY_SERIAL: self._random.randrange(1, 50),
        }
        if kind == ERROR:
            fields[ERROR_NAME] = "torture.Error"
        self._send(kind, fields)

    def _pass_fds(self) -> None:
        if self._socket is None or self._pending:
            return
        fields: dict[int, str | int] = {PATH: "/torture", INTERFACE: "torture.Fds", MEMBER: "F", UNIX_FDS: 2}
        if self._random.random() < 0.7:
            fields[DESTINATION] = self._random.choice(NAMES)
        data = self._message(SIGNAL, fields)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 0]))
        with suppress(OSError):
            self._pending += data[self._socket.sendmsg([data], [rights]) :]

    def _flood(self) -> None:
        member = f"M{self._random.randrange(5)}"
        fields: dict[int, str | int] = {PATH: "/torture", INTERFACE: "torture.Flood", MEMBER: member}
        if self._random.random() < 0.3:
            fields[DESTINATION] = self._random.choice(NAMES)
        size = self._random.choice((0, 100, 1000, 20000))
        for _ in range(self._random.randrange(10, 60)):
            if self._socket is None or len(self._pending) > MOST_PENDING:
                return
            self._send(SIGNAL, fields, size=size)

    def _stop_reading(self) -> None:
        self._deaf_until = time.monotonic() + self._random.random() * LONGEST

    def _monitor(self) -> None:
        self._ask("BecomeMonitor", "asu", [], 0, interface=f"{BUS}.Monitoring")

    def _garbage(self) -> None:
        good = bytearray(self._message(CALL, {PATH: "/x", MEMBER: "M", DESTINATION: NAMES[0]}))
        for _ in range(self._random.randrange(1, 4)):
            good[self._random.randrange(len(good))] = self._random.randrange(256)
        self._say(self._random.choice((bytes(good), self._random.randbytes(60), good[:20])))

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(self._random.choice((socket.SHUT_RD, socket.SHUT_WR)))

    # ---- the socket ------------------------------------------------------------------------------

    def _ask(self, member: str, signature: str = "", *args: object, interface: str = BUS) -> None:
        fields: dict[int, str | int] = {
            PATH: BUS_PATH, INTERFACE: interface, MEMBER: member, DESTINATION: BUS,
        }
        body = marshal(signature, *args)
        if signature:
            fields[SIGNATURE] = signature
        self._say(self._message(CALL, fields, body))

    def _send(self, kind: int, fields: dict[int, str | int], *, flags: int = 0, size: int = 0) -> None:
        body = marshal("ay", bytes(size)) if size else b""
        self._say(self._message(kind, {**fields, SIGNATURE: "ay"} if size else fields, body, flags))

    def _message(self, kind: int, fields: dict[int, str | int], body: bytes = b"", flags: int = 0) -> bytes:
        self._serial += 1
        given = [(code, _TYPES.get(code, "s"), value) for code, value in fields.items()]
        return message(kind, self._serial, given, body, flags=flags)

    def _say(self, data: bytes | bytearray) -> None:
        self._pending += data
        self._flush()

    def _flush(self) -> None:
        if self._socket is None or not self._pending:
            return
        try:
            del self._pending[: self._socket.send(self._pending)]
        except BlockingIOError:
            return
        except OSError:
            self._done["thrown_out"] += 1
            self.leave()

    def _read(self) -> None:
        if self._socket is None:
            return
        try:
            # what is passed on is closed at once
            data, ancillary, _, _ = self._socket.recvmsg(1 << 18, socket.CMSG_SPACE(4 * 253))
        except BlockingIOError:
            return
        except OSError:
            data, ancillary = b"", []
        for _level, _kind, rights in ancillary:
            for fd in array.array("i", rights[: len(rights) // 4 * 4]):
                os.close(fd)
        if not data:
            self._done["thrown_out"] += 1
            self.leave()


_TYPES = {PATH: "o", SIGNATURE: "g", REPLY_SERIAL: "u", UNIX_FDS: "u"}
_DEEDS: dict[Callable[[Client], None], float] = {
    Client._own: 8, Client._release: 6, Client._match: 8, Client._unmatch: 6, Client._inquire: 8,
    Client._call: 12, Client._answer: 4, Client._pass_fds: 4, Client._flood: 1, Client._stop_reading: 3,
    Client._garbage: 1, Client._shut: 0.5, Client.leave: 1.5, Client._monitor: 0.3,
}
"""What a client does, and how often."""


def main(path: str, seed: str, seconds: float, count: int) -> None:
    """Torture the bus for that long."""
    done: Counter[str] = Counter()
    clients = [Client(path, f"{seed}/{i}", done) for i in range(count)]
    end = time.monotonic() + seconds
    pause = select.poll()
    while (now := time.monotonic()) < end:
        for client in clients:
            client.turn(now)
        pause.poll(PAUSE)
    for client in clients:
        client.leave()
    print(json.dumps(done))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]))
