"""dbus_client: a D-Bus client of sockets and bytes, for tests that must say anything to a bus.

Theory. The codec is the tests' own, so that neither the bus nor a client library judges itself. A
message is written from its fields, whatever they are; a received one keeps its raw bytes. Every
message that a bus queues for a client arrives in order, so ``sync`` (a round trip to the driver) is
the barrier: what has not arrived before its answer was never sent.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

PATIENCE = 20.0
CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY, NO_AUTO_START, INTERACTIVE = 1, 2, 4
PATH, INTERFACE, MEMBER, ERROR_NAME, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, UNIX_FDS = range(1, 10)
FIELD_TYPES = {
    PATH: "o", INTERFACE: "s", MEMBER: "s", ERROR_NAME: "s", REPLY_SERIAL: "u",
    DESTINATION: "s", SENDER: "s", SIGNATURE: "g", UNIX_FDS: "u",
}
BUS = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
FAULT = "org.freedesktop.DBus.Error."

_FIXED = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}
_ALIGN = {"y": 1, "n": 2, "q": 2, "x": 8, "t": 8, "d": 8, "g": 1, "v": 1, "(": 8, "{": 8}


def split(signature: str) -> list[str]:
    """The complete types of a well-formed signature."""
    types, depth, start = [], 0, 0
    for position, letter in enumerate(signature):
        depth += (letter in "({") - (letter in ")}")
        if depth == 0 and letter != "a":
            types.append(signature[start : position + 1])
            start = position + 1
    return types


class Writer:
    """Marshals values; a variant is a pair (signature, value), a dictionary a list of pairs or a dict."""

    def __init__(self, endian: str = "l") -> None:
        self.order = "<" if endian == "l" else ">"
        self.out = bytearray()

    def align(self, n: int) -> None:
        self.out += bytes(-len(self.out) % n)

    def write(self, kind: str, value: Any) -> None:
        self.align(_ALIGN.get(kind[0], 4))
        match kind[0]:
            case "s" | "o":
                data = value if isinstance(value, bytes) else value.encode()
                self.out += struct.pack(self.order + "I", len(data)) + data + b"\0"
            case "g":
                data = value.encode()
                self.out += bytes([len(data)]) + data + b"\0"
            case "v":
                self.write("g", value[0])
                self.write(value[0], value[1])
            case "(" | "{":
                for inner, item in zip(split(kind[1:-1]), value, strict=True):
                    self.write(inner, item)
            case "a":
                self._array(kind[1:], value)
            case letter:
                self.out += struct.pack(self.order + _FIXED[letter], value)

    def _array(self, inner: str, value: Any) -> None:
        at = len(self.out)
        self.out += bytes(4)
        self.align(_ALIGN.get(inner[0], 4))
        start = len(self.out)
        if inner == "y":
            self.out += value
        else:
            for item in value.items() if isinstance(value, dict) else value:
                self.write(inner, item)
        struct.pack_into(self.order + "I", self.out, at, len(self.out) - start)


class Reader:
    """Unmarshals what ``Writer`` writes; arrays of bytes as bytes, dictionaries as dict."""

    def __init__(self, data: bytes, endian: str, at: int = 0) -> None:
        self.data, self.order, self.at = data, "<" if endian == "l" else ">", at

    def align(self, n: int) -> None:
        end = self.at + -self.at % n
        assert not any(self.data[self.at : end]), "padding that is not zero"
        self.at = end

    def fixed(self, code: str) -> Any:
        (value,) = struct.unpack_from(self.order + code, self.data, self.at)
        self.at += struct.calcsize(code)
        return value

    def text(self, length: int) -> str:
        start, self.at = self.at, self.at + length + 1
        assert self.data[self.at - 1] == 0
        return self.data[start : self.at - 1].decode()

    def read(self, kind: str) -> Any:
        self.align(_ALIGN.get(kind[0], 4))
        match kind[0]:
            case "s" | "o":
                return self.text(self.fixed("I"))
            case "g":
                return self.text(self.fixed("B"))
            case "v":
                inner = self.read("g")
                return (inner, self.read(inner))
            case "(" | "{":
                return tuple(self.read(inner) for inner in split(kind[1:-1]))
            case "a":
                return self._array(kind[1:])
            case "b":
                return bool(self.fixed("I"))
            case letter:
                return self.fixed(_FIXED[letter])

    def _array(self, inner: str) -> Any:
        length = self.fixed("I")
        self.align(_ALIGN.get(inner[0], 4))
        end = self.at + length
        if inner == "y":
            start, self.at = self.at, end
            return self.data[start:end]
        items = []
        while self.at < end:
            items.append(self.read(inner))
        assert self.at == end
        return dict(items) if inner[0] == "{" else items


def marshal(signature: str, *values: Any, endian: str = "l") -> bytes:
    """A body."""
    writer = Writer(endian)
    for kind, value in zip(split(signature), values, strict=True):
        writer.write(kind, value)
    return bytes(writer.out)


def message(
    kind: int, serial: int, fields: Iterable[tuple[int, str, Any]], body: bytes = b"", *,
    endian: str = "l", flags: int = 0, version: int = 1, body_length: int | None = None,
) -> bytes:
    """A message of any fields, in the given order: also of those that no bus accepts."""
    writer = Writer(endian)
    writer.out += bytes([ord(endian), kind, flags, version])
    writer.out += struct.pack(writer.order + "II", len(body) if body_length is None else body_length, serial)
    writer.write("a(yv)", [(code, (signature, value)) for code, signature, value in fields])
    writer.align(8)
    return bytes(writer.out) + body


@dataclass
class Message:
    """A received message: its fields by code, its body, its descriptors, and the bytes it came in."""

    raw: bytes
    endian: str
    type: int
    flags: int
    serial: int
    fields: dict[int, Any]
    codes: list[int]
    body: bytes
    fds: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        codes = {"path": PATH, "interface": INTERFACE, "member": MEMBER, "error_name": ERROR_NAME,
                 "reply_serial": REPLY_SERIAL, "destination": DESTINATION, "sender": SENDER,
                 "unix_fds": UNIX_FDS}
        if name not in codes:
            raise AttributeError(name)
        return self.fields.get(codes[name])

    @property
    def signature(self) -> str:
        return str(self.fields.get(SIGNATURE, ""))

    @property
    def args(self) -> list[Any]:
        reader = Reader(self.body, self.endian)
        values = [reader.read(kind) for kind in split(self.signature)]
        assert reader.at == len(self.body)
        return values

    @property
    def what(self) -> tuple[Any, ...]:
        """A signal as (member, *args), an error as (name,), a return as its arguments: short to compare."""
        if self.type == ERROR:
            return (self.error_name,)
        return (self.member, *self.args) if self.type == SIGNAL else tuple(self.args)


def parse(raw: bytes) -> Message:
    """A message from its bytes; asserts what every message must keep to."""
    endian = chr(raw[0])
    assert endian in "lB" and raw[3] == 1, raw[:4]
    reader = Reader(raw, endian, 4)
    length, serial = reader.fixed("I"), reader.fixed("I")
    pairs = reader.read("a(yv)")
    reader.align(8)
    assert len(raw) == reader.at + length and serial
    for code, (signature, _) in pairs:
        assert FIELD_TYPES.get(code, signature) == signature
    codes = [code for code, _ in pairs]
    assert len(codes) == len(set(codes)), "a field came twice"
    values = {code: value for code, (_, value) in pairs}
    return Message(raw, endian, raw[1], raw[2], serial, values, codes, raw[reader.at :])


class CallFailed(Exception):
    """An error came back; ``name`` without the usual prefix."""

    def __init__(self, answer: Message) -> None:
        self.answer = answer
        self.name = str(answer.error_name).removeprefix(FAULT)
        super().__init__(answer.error_name, *answer.args)


class Wire:
    """A connected stream that has not said a word; bytes, lines and descriptors both ways."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.buffer = bytearray()
        self.fds: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()
        while self.fds:
            os.close(self.fds.pop())

    def write(self, data: bytes, fds: Sequence[int] = ()) -> None:
        """All of ``data``, descriptors with its first byte; a closed bus is no error here."""
        with suppress(BrokenPipeError, ConnectionResetError):
            sent = 0
            if fds:
                rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))
                sent = self.socket.sendmsg([data], [rights])
            self.socket.sendall(memoryview(data)[sent:])

    def _more(self) -> bool:
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(1 << 18, socket.CMSG_SPACE(4 * 253))
        except ConnectionResetError:
            return False
        assert not flags & socket.MSG_CTRUNC
        for _level, _kind, rights in ancillary:
            self.fds += array.array("i", rights[: len(rights) // 4 * 4])
        self.buffer += data
        return bool(data)

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes; EOFError when the bus closed before."""
        while len(self.buffer) < count:
            if not self._more():
                raise EOFError(bytes(self.buffer))
        data = bytes(memoryview(self.buffer)[:count])
        del self.buffer[:count]
        return data

    def line(self) -> str:
        """The next SASL line without its end; EOFError when the bus closed."""
        while b"\r\n" not in self.buffer:
            if not self._more():
                raise EOFError(bytes(self.buffer))
        return self.take(self.buffer.index(b"\r\n") + 2)[:-2].decode()

    def say(self, text: str) -> str:
        """Send one SASL line, return the answer."""
        self.write(text.encode() + b"\r\n")
        return self.line()

    def rest(self) -> bytes:
        """Everything until the bus closes."""
        while self._more():
            pass
        data = bytes(self.buffer)
        self.buffer.clear()
        return data


class Client(Wire):
    """An authenticated connection; after ``hello`` it has a unique name."""

    def __init__(self, path: str, *, takes_fds: bool = True, hello: bool = True) -> None:
        super().__init__(path)
        self.serial = 0
        self.name = ""
        self.inbox: list[Message] = []
        negotiation = b"NEGOTIATE_UNIX_FD\r\n" if takes_fds else b""
        self.write(b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n" + negotiation)
        answer = self.line()
        assert answer.startswith("OK "), answer
        self.guid = answer[3:]
        if takes_fds:
            assert self.line() == "AGREE_UNIX_FD"
        self.write(b"BEGIN\r\n")
        if hello:
            self.name = str(self.ask("Hello")[0])
            assert self.receive().what == ("NameAcquired", self.name)

    def close(self) -> None:
        for left in self.inbox:
            self.fds += left.fds
        self.inbox.clear()
        super().close()

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    def send(
        self, kind: int, *, path: str | None = None, interface: str | None = None, member: str | None = None,
        error: str | None = None, to: str | None = None, reply_to: int | None = None, signature: str = "",
        args: Sequence[Any] = (), fds: Sequence[int] = (), flags: int = 0, serial: int | None = None,
        endian: str = "l", extra: Sequence[tuple[int, str, Any]] = (),
    ) -> int:
        """A message made of the fields that are given; returns its serial."""
        serial = self.next_serial() if serial is None else serial
        given = ((PATH, path), (INTERFACE, interface), (MEMBER, member), (ERROR_NAME, error),
                 (REPLY_SERIAL, reply_to), (DESTINATION, to), (SIGNATURE, signature or None),
                 (UNIX_FDS, len(fds) or None))
        fields = [(code, FIELD_TYPES[code], value) for code, value in given if value is not None]
        body = marshal(signature, *args, endian=endian)
        self.write(message(kind, serial, [*fields, *extra], body, endian=endian, flags=flags), fds)
        return serial

    def call(self, to: str | None, member: str, signature: str = "", *args: Any, **more: Any) -> int:
        """Send a method call (path /x, interface x.Y unless given); returns its serial."""
        fields = {"path": "/x", "interface": "x.Y", **more}
        return self.send(CALL, to=to, member=member, signature=signature, args=args, **fields)

    def emit(self, member: str, signature: str = "", *args: Any, **more: Any) -> int:
        """Send a signal (path /x, interface x.Y unless given)."""
        fields = {"path": "/x", "interface": "x.Y", **more}
        return self.send(SIGNAL, member=member, signature=signature, args=args, **fields)

    def answer(self, call: Message, signature: str = "", *args: Any, **more: Any) -> int:
        """Send the return of a received call."""
        fields = {"to": call.sender, "reply_to": call.serial, **more}
        return self.send(RETURN, signature=signature, args=args, **fields)

    def receive(self) -> Message:
        """The next message, with its descriptors."""
        if self.inbox:
            return self.inbox.pop(0)
        return self._read()

    def _read(self) -> Message:
        start = self.take(16)
        order = "little" if start[:1] == b"l" else "big"
        body, array_length = (int.from_bytes(start[i : i + 4], order) for i in (4, 12))  # type: ignore[arg-type]
        got = parse(start + self.take(array_length + -array_length % 8 + body))
        count = got.unix_fds or 0
        got.fds, self.fds = self.fds[:count], self.fds[count:]
        assert len(got.fds) == count
        return got

    def reply(self, serial: int) -> Message:
        """The answer to ``serial``; everything else that comes before it stays in the inbox."""
        for position, waiting in enumerate(self.inbox):
            if waiting.reply_serial == serial:
                return self.inbox.pop(position)
        while True:
            got = self._read()
            if got.reply_serial == serial and got.type in (RETURN, ERROR):
                return got
            self.inbox.append(got)

    def request(self, to: str, member: str, signature: str = "", *args: Any, **more: Any) -> Message:
        """Call and wait for the return; CallFailed for an error."""
        answer = self.reply(self.call(to, member, signature, *args, **more))
        if answer.type == ERROR:
            raise CallFailed(answer)
        return answer

    def ask(self, member: str, signature: str = "", *args: Any, **more: Any) -> list[Any]:
        """Call a method of the driver and return what it returns."""
        fields = {"path": BUS_PATH, "interface": BUS, **more}
        return self.request(BUS, member, signature, *args, **fields).args

    def fault(self, member: str, signature: str = "", *args: Any, **more: Any) -> str:
        """The error name, shortened, with which the driver refuses this call."""
        try:
            result = self.ask(member, signature, *args, **more)
        except CallFailed as failure:
            return failure.name
        raise AssertionError(f"{member} returned {result}")

    def own(self, name: str, flags: int = 0) -> int:
        """RequestName."""
        return int(self.ask("RequestName", "su", name, flags)[0])

    def match(self, rule: str) -> None:
        """AddMatch."""
        self.ask("AddMatch", "s", rule)

    def sync(self) -> None:
        """The bus has handled everything that this client sent before."""
        self.ask("GetId")

    def drain(self) -> list[Message]:
        """Everything that the bus had queued for this client by now."""
        self.sync()
        waiting, self.inbox = self.inbox, []
        return waiting

    def heard(self) -> list[tuple[Any, ...]]:
        """``drain``, each message as its ``what``."""
        return [got.what for got in self.drain()]
