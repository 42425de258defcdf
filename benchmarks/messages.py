"""messages: the few D-Bus messages of the load, built before the clock runs.

Theory. The load generator must cost little and must not depend on what it measures, so it has its own
small little-endian writer, and reads of an incoming message only its length, type and serials. ``write``
appends one value of a signature; structs are tuples, arrays are lists, a variant is (signature, value).

Invariants. 1. A built message has the serial at offset 8, and a reply the number that it answers at
``REPLY_SERIAL_OFFSET``: both can be patched in place.

Not here: validation; the buses do that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping

from bus1.core.api import Buffer

OBJECT = "/org/bus1/Benchmark"
"""Where the load's calls go to and its signals come from."""
SPOKEN = "org.bus1.Benchmark"
"""Their interface."""
TEXT = "The quick brown fox jumps over the lazy dog."

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
PATH, INTERFACE, MEMBER, REPLY_SERIAL, DESTINATION, SENDER, SIGNATURE, UNIX_FDS = 1, 2, 3, 5, 6, 7, 8, 9

SERIAL_OFFSET = 8
REPLY_SERIAL_OFFSET = 20
"""It is a reply's first field: 16 bytes of fixed header, 4 of code and signature, then the value."""

FIELD_TYPES = {
    PATH: "o", INTERFACE: "s", MEMBER: "s", REPLY_SERIAL: "u", DESTINATION: "s", SENDER: "s", SIGNATURE: "g",
    UNIX_FDS: "u",
}
INTEGERS = {"y": ("<B", 1), "b": ("<I", 4), "u": ("<I", 4), "h": ("<I", 4), "t": ("<Q", 8)}
ALIGNMENT = {"y": 1, "g": 1, "v": 1, "b": 4, "u": 4, "h": 4, "s": 4, "o": 4, "a": 4, "t": 8, "(": 8}
LENGTHS = struct.Struct("<4xI4xI")
U32 = struct.Struct("<I")


def marshal(signature: str, *values: object) -> bytes:
    """The D-Bus body of ``values``."""
    out = bytearray()
    for kind, value in zip(split(signature), values, strict=True):
        write(out, kind, value)
    return bytes(out)


def split(signature: str) -> Iterator[str]:
    """The complete types of a signature."""
    start = depth = 0
    for end, code in enumerate(signature, 1):
        depth += (code == "(") - (code == ")")
        if depth == 0 and code != "a":
            yield signature[start:end]
            start = end


def write(out: bytearray, kind: str, value: object) -> None:
    """Append one value, aligned as if ``out`` began at a multiple of 8."""
    out += bytes(-len(out) % ALIGNMENT[kind[0]])
    if kind[0] in INTEGERS:
        out += struct.pack(INTEGERS[kind[0]][0], value)
    elif kind[0] in "so":
        text = str(value).encode()
        out += U32.pack(len(text)) + text + b"\0"
    elif kind[0] == "g":
        out += bytes([len(str(value))]) + str(value).encode() + b"\0"
    elif kind[0] == "v":
        assert isinstance(value, tuple)
        write(out, "g", value[0])
        write(out, value[0], value[1])
    elif kind[0] == "a":
        write_array(out, kind[1:], value)
    else:
        assert isinstance(value, tuple)
        for member, part in zip(split(kind[1:-1]), value, strict=True):
            write(out, member, part)


def write_array(out: bytearray, kind: str, value: object) -> None:
    """Append an array: its length, padding to the first element, the elements."""
    assert isinstance(value, list)
    at = len(out)
    out += bytes(4)
    out += bytes(-len(out) % ALIGNMENT[kind[0]])
    first = len(out)
    for element in value:
        write(out, kind, element)
    U32.pack_into(out, at, len(out) - first)


def build(
    kind: int, serial: int, fields: Mapping[int, object], signature: str = "", *values: object
) -> bytes:
    """A whole message; ``fields`` by code, SIGNATURE added."""
    body = marshal(signature, *values)
    if signature:
        fields = {**fields, SIGNATURE: signature}
    listed = [(code, (FIELD_TYPES[code], fields[code])) for code in sorted(fields)]
    header = marshal("yyyyuua(yv)", ord("l"), kind, 0, 1, len(body), serial, listed)
    return header + bytes(-len(header) % 8) + body


def call(destination: str, path: str, interface: str, member: str, signature: str = "", *values: object,
         serial: int = 1) -> bytes:
    """A method call."""
    fields: dict[int, object] = {PATH: path, INTERFACE: interface, MEMBER: member, DESTINATION: destination}
    return build(CALL, serial, fields, signature, *values)


def driver_call(member: str, signature: str = "", *values: object, serial: int = 1) -> bytes:
    """A method call to the bus itself."""
    name = "org.freedesktop.DBus"
    return call(name, "/org/freedesktop/DBus", name, member, signature, *values, serial=serial)


def frame_length(data: Buffer, at: int = 0) -> int:
    """Length of the message that starts at ``at``; 16 bytes of it must be there."""
    body, fields = LENGTHS.unpack_from(data, at)
    return int(16 + (fields + 7 & ~7) + body)


def text_field(message: bytes, code: int) -> str:
    """The string value of a header field; empty if it isn't there."""
    at = message.find(bytes([code, 1]) + FIELD_TYPES[code].encode() + b"\0", 16) + 4
    if at < 16:
        return ""
    length = U32.unpack_from(message, at)[0]
    return message[at + 4 : at + 4 + length].decode()


def reply_serial(message: bytes) -> int:
    """The serial that a reply answers."""
    return int(U32.unpack_from(message, message.index(b"\x05\x01u\0", 16) + 4)[0])
