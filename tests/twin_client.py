"""twin_client: one D-Bus client of a script, on one of the two buses: what it writes, and all that it gets.

Theory. What has come is kept in order, as the bytes that came, with the files behind its descriptors; the
ids of the bus alone are made the same, and what waited at most. Pieces of what is written are
really pieces: the next one follows when the bus has handled the one before, and sleeps (``Idleness``).

A client is *torn* when it has written half a message, or nobody knows what: then it can't ask the bus
anything.

Not here: the order of things (twin_stage).
"""

from __future__ import annotations

import array
import os
import re
import select
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    DESTINATION,
    ERROR,
    INTERFACE,
    MEMBER,
    PATH,
    PATIENCE,
    RETURN,
    SIGNATURE,
    Client,
    Message,
    marshal,
    message,
    parse,
)
from twin_messages import Author

_ASKED = 0x4000_0000
"""Serials of what the harness says begin here."""
_PAUSE = 0.0001
_PEAK = re.compile(rb"Peak(?:Incom|Outgo)ing(?:Bytes|FDs)\x00\x01u\x00")
"""How much waited at most: a matter of who had his turn first, and of how much is read at once."""
_ANCILLARY = socket.CMSG_SPACE(4 * 253)


class Silence(AssertionError):
    """The bus says nothing, and should; or reads nothing."""


class Got(NamedTuple):
    """One thing that a client got: a message, or the end, which has no bytes."""

    raw: bytes
    files: tuple[int, ...] = ()
    answers: int | None = None
    """The serial of the call that it answers."""
    sender: str | None = None
    is_expulsion: bool = False
    """It is the end, and the client had not said that it would leave."""

    def __str__(self) -> str:
        if not self.raw:
            return "the end"
        with suppress(Exception):
            got = parse(self.raw)
            about = f"{got.endian} type {got.type} flags {got.flags} serial {got.serial} {got.fields}"
            return f"{about} {self.files} {str(got.args)[:1000]}"
        return self.raw[:1000].hex(" ", 4)


class Idleness:
    """Tells when a process, or a thread, has nothing to do: its folder in /proc.

    When it sleeps in epoll_wait it has handled everything that had been written before, for that would have
    woken it at once, and has written all that came of it, as far as sockets take it."""

    def __init__(self, folder: str) -> None:
        self._stat = os.open(f"{folder}/stat", os.O_RDONLY)
        self._wchan = os.open(f"{folder}/wchan", os.O_RDONLY)
        self._place_is_known = False
        deadline, pause = time.monotonic() + 1.0, threading.Event()
        while not (self._sleeps() and self._place_is_known) and time.monotonic() < deadline:
            pause.wait(_PAUSE)

    def wait(self) -> None:
        """Until it sleeps there."""
        deadline, pause = time.monotonic() + PATIENCE, threading.Event()
        while not self._sleeps():
            if time.monotonic() > deadline:
                raise Silence("the bus never rests")
            pause.wait(_PAUSE)

    def close(self) -> None:
        """Look no more."""
        os.close(self._stat)
        os.close(self._wchan)

    def _sleeps(self) -> bool:
        try:
            state = os.pread(self._stat, 512, 0).rpartition(b") ")[2][:1]
            place = os.pread(self._wchan, 64, 0)
        except ProcessLookupError:
            raise Silence("the bus is gone") from None
        self._place_is_known |= place != b"0"
        # a kernel that says of no process where it sleeps says 0
        return state == b"S" and (b"epoll" in place or b"ep_poll" in place or not self._place_is_known)


class TwinClient:
    """Its connection, authenticated; with a name once it has said Hello."""

    def __init__(
        self, path: str, author: Author, idleness: Idleness, ids: set[bytes], *, takes_fds: bool
    ) -> None:
        """``ids`` are those of the bus; they are blanked in what comes."""
        self._wire = Client(path, takes_fds=takes_fds, hello=False)
        self._wire.socket.setblocking(False)
        self.guid = self._wire.guid.encode()
        self.author = author
        self.name = ""
        self.got: list[Got] = []
        self.is_over = self.is_torn = self.is_deaf = self.is_monitor = False
        self.unsent = b""
        """The rest of what it has begun to say."""
        self._is_leaving = False
        self._idleness = idleness
        self._ids = ids
        self._asked = _ASKED

    # ---- writing ---------------------------------------------------------------------------------

    def write(self, data: bytes, cuts: set[int], fds: Mapping[int, list[int]]) -> None:
        """``data`` in pieces, cut at ``cuts`` and where descriptors go with what follows."""
        edges = sorted({0, len(data), *cuts, *fds})
        for start, end in pairwise(edges):
            self._write(data[start:end], fds.get(start, ()))
            self._idleness.wait()

    def write_some(self, data: memoryview) -> memoryview:
        """As much as goes; what is left."""
        if self.is_over:
            return data[:0]
        try:
            return data[self._wire.socket.send(data, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            return data
        except (BrokenPipeError, ConnectionResetError):
            return data[:0]

    def _write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        sock, view = self._wire.socket, memoryview(data)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while view and not self.is_over:
            try:
                view = view[sock.sendmsg([view], rights, socket.MSG_NOSIGNAL) :]
                rights = []
            except BlockingIOError:
                if not select.select((), (sock,), (), PATIENCE)[1]:
                    raise Silence("the bus reads nothing") from None
            except (BrokenPipeError, ConnectionResetError):
                return

    def end_input(self) -> None:
        """Nothing more comes from here."""
        self._is_leaving = True
        with suppress(OSError):
            self._wire.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection, whatever is on its way."""
        self.is_over = True
        self._wire.close()

    # ---- reading ---------------------------------------------------------------------------------

    @property
    def is_asking(self) -> bool:
        """It can ask the bus, and read the answer."""
        return not (self.is_over or self.is_torn or self.unsent or self.is_deaf or self.is_monitor)

    def read(self) -> bool:
        """Everything that is there; False if there was nothing."""
        has_read = False
        while not self.is_over and self._more():
            self._take()
            has_read = True
        return has_read

    def read_to_the_end(self) -> None:
        """Everything until the bus closes the connection."""
        while not self.is_over:
            self._wait()
            self.read()

    def call(self, member: str, signature: str = "", *args: Any, interface: str = BUS) -> Message | None:
        """Ask the driver and read up to its answer; None if the bus hangs up instead.

        The bus has then done all that came of it. Others may hear of it later than who asked: when the time
        of a turn is over, what is left is written in the next one."""
        answer = self._answer_to(member, signature, *args, interface=interface)
        self._idleness.wait()
        return answer

    def _answer_to(self, member: str, signature: str, *args: Any, interface: str) -> Message | None:
        self._asked += 1
        fields = [
            (PATH, "o", BUS_PATH), (INTERFACE, "s", interface), (MEMBER, "s", member), (DESTINATION, "s", BUS)
        ]
        fields += [(SIGNATURE, "g", signature)] if signature else []
        self._write(message(CALL, self._asked, fields, marshal(signature, *args)))
        while not self.is_over:
            seen = len(self.got)
            self.read()
            for got in self.got[seen:]:
                if got.raw and got.answers == self._asked:
                    return parse(got.raw)
            self._wait()
        return None

    def ping(self) -> None:
        """Ask for nothing, and read up to the answer."""
        self.call("Ping", interface="org.freedesktop.DBus.Peer")

    def _wait(self) -> None:
        if not self.is_over and not select.select((self._wire.socket,), (), (), PATIENCE)[0]:
            raise Silence("the bus is silent")

    def _more(self) -> bool:
        """Read once; False if nothing is there now."""
        wire = self._wire
        try:
            data, ancillary, flags, _ = wire.socket.recvmsg(1 << 18, _ANCILLARY)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data, ancillary, flags = b"", [], 0
        assert not flags & socket.MSG_CTRUNC
        for _level, _kind, rights in ancillary:
            wire.fds += array.array("i", rights[: len(rights) // 4 * 4])
        wire.buffer += data
        if not data:
            # of a message that was cut off it is a matter of time how much has come
            self.got.append(Got(b"", is_expulsion=not self._is_leaving))
            self.close()
        return True

    def _take(self) -> None:
        """Whole messages become what it has got."""
        buffer = self._wire.buffer
        while len(buffer) >= 16:
            order = "little" if buffer[:1] == b"l" else "big"
            body, fields = (int.from_bytes(buffer[i : i + 4], order) for i in (4, 12))  # type: ignore[arg-type]
            size = 16 + fields + -fields % 8 + body
            if len(buffer) < size:
                return
            raw = bytes(memoryview(buffer)[:size])
            del buffer[:size]
            self._note(raw, parse(raw))

    def _note(self, raw: bytes, got: Message) -> None:
        count, fds = got.unix_fds or 0, self._wire.fds
        files = tuple(os.fstat(fd).st_ino for fd in fds[:count])
        for fd in fds[:count]:
            os.close(fd)
        del fds[:count]
        answers = got.reply_serial if got.type in (RETURN, ERROR) else None
        self.got.append(Got(self.blanked(raw), files, answers, got.sender))
        if got.type == CALL:
            self.author.calls.append(got)
        elif not self.name and got.sender == BUS and got.member == "NameAcquired":
            self.name = str(got.args[0])

    def blanked(self, raw: bytes) -> bytes:
        """What has come without what differs between any two buses."""
        for each in self._ids:
            raw = raw.replace(each, bytes(len(each)))
        for found in _PEAK.finditer(raw):
            at = found.end() + -found.end() % 4
            raw = raw[:at] + bytes(4) + raw[at + 4 :]
        return raw
