"""vectors: D-Bus messages that every bus must refuse, and odd ones that every bus must take.

Each vector is a name and the bytes of one message. All are calls to ``DESTINATION`` unless their point
is another one: a unique name of the bus that the messages go to, filled in by ``malformed`` and ``odd``.
A bus disconnects the sender of a malformed message and answers nothing; it hands an odd one to
its destination, or answers with an error, and keeps the connection.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

from dbus_client import (
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    INTERFACE,
    MEMBER,
    PATH,
    REPLY_SERIAL,
    RETURN,
    SENDER,
    SIGNAL,
    SIGNATURE,
    UNIX_FDS,
    marshal,
    message,
)

Field = tuple[int, str, Any]
SERIAL = 77


def call(
    to: str, signature: str = "", body: bytes = b"", *extra: Field,
    kind: int = CALL, serial: int = SERIAL, **options: Any,
) -> bytes:  # fmt: skip
    """A call with a body that need not fit its signature."""
    fields = fields_of(to, signature=signature or None)
    return message(kind, serial, [*fields, *extra], body, **options)


def patched(raw: bytes, at: int, new: bytes) -> bytes:
    """``raw`` with some bytes replaced."""
    return raw[:at] + new + raw[at + len(new) :]


def fields_of(to: str, **changed: Any) -> list[Field]:
    """The fields of a call; a value that is None is left out, a pair is (signature, value)."""
    given = {"path": "/x", "interface": "x.Y", "member": "M", "destination": to, **changed}
    codes = {"path": (PATH, "o"), "interface": (INTERFACE, "s"), "member": (MEMBER, "s"),
             "destination": (DESTINATION, "s"), "sender": (SENDER, "s"), "error_name": (ERROR_NAME, "s"),
             "reply_serial": (REPLY_SERIAL, "u"), "signature": (SIGNATURE, "g"), "unix_fds": (UNIX_FDS, "u")}
    return [
        (codes[name][0], *(value if isinstance(value, tuple) else (codes[name][1], value)))
        for name, value in given.items()
        if value is not None
    ]


def with_fields(to: str, kind: int = CALL, **changed: Any) -> bytes:
    """A message without a body, of a kind and with fields that need not fit."""
    return message(kind, SERIAL, fields_of(to, **changed))


def nested_variants(depth: int, signature: str = "y", value: Any = 7) -> bytes:
    """A body of signature ``v``: ``depth`` variants within each other."""
    for _ in range(depth):
        signature, value = "v", (signature, value)
    return marshal("v", value)


def _deep(array: int, struct_: int) -> str:
    return "a" * array + "(" * struct_ + "y" + ")" * struct_


def _padded_field(to: str) -> bytes:
    """A header whose padding between two fields is not zero."""
    raw = call(to)
    at = raw.index(b"/x\0") + 3
    return patched(raw, at, b"\1")


def _padded_header(to: str) -> bytes:
    # the last field decides whether there is padding, so it is one that does not depend on ``to``
    raw = message(CALL, SERIAL, [*fields_of(to, member=None), (MEMBER, "s", "M")])
    length = int.from_bytes(raw[12:16], "little")
    assert length % 8
    return patched(raw, 16 + length, b"\1")


def _fields_length(to: str, change: int) -> bytes:
    raw = call(to)
    return patched(raw, 12, struct.pack("<I", int.from_bytes(raw[12:16], "little") + change))


U32: Callable[[int], bytes] = struct.Struct("<I").pack

HEADERS: dict[str, Callable[[str], bytes]] = {
    "byte order x": lambda to: patched(call(to), 0, b"x"),
    "byte order L": lambda to: patched(call(to), 0, b"L"),
    "protocol version 0": lambda to: call(to, version=0),
    "protocol version 2": lambda to: call(to, version=2),
    "type 0": lambda to: call(to, kind=0),
    "serial 0": lambda to: call(to, serial=0),
    "fields of more than 128 MiB": lambda to: patched(call(to), 12, U32((1 << 27) + 8)),
    "body of more than 128 MiB": lambda to: call(to, body_length=(1 << 27)),
    "lengths that wrap around": lambda to: patched(call(to, body_length=0xFFFF_FFF8), 12, U32(0xFFFF_FFF8)),
    "field 0": lambda to: call(to, "", b"", (0, "s", "x")),
    "field 0 without a value": lambda to: call(to, "", b"", (0, "g", "")),
    "path twice": lambda to: call(to, "", b"", (PATH, "o", "/x")),
    "destination twice": lambda to: call(to, "", b"", (DESTINATION, "s", to)),
    "signature twice": lambda to: call(to, "y", b"\1", (SIGNATURE, "g", "y")),
    "path as a string": lambda to: with_fields(to, path=("s", "/x")),
    "member as a path": lambda to: with_fields(to, member=("o", "/M")),
    "member as a variant": lambda to: with_fields(to, member=("v", ("s", "M"))),
    "signature as a string": lambda to: with_fields(to, signature=("s", "y")),
    "reply serial as a signed number": lambda to: with_fields(to, RETURN, reply_serial=("i", 3)),
    "descriptors as a byte": lambda to: with_fields(to, unix_fds=("y", 0)),
    "reply serial 0": lambda to: with_fields(to, RETURN, reply_serial=0),
    "reply serial 0 in a call": lambda to: with_fields(to, reply_serial=0),
    "call without path": lambda to: with_fields(to, path=None),
    "call without member": lambda to: with_fields(to, member=None),
    "return without reply serial": lambda to: with_fields(to, RETURN),
    "error without reply serial": lambda to: with_fields(to, ERROR, error_name="x.Y"),
    "error without name": lambda to: with_fields(to, ERROR, reply_serial=3),
    "signal without path": lambda to: with_fields(to, SIGNAL, path=None),
    "signal without interface": lambda to: with_fields(to, SIGNAL, interface=None),
    "signal without member": lambda to: with_fields(to, SIGNAL, member=None),
    "local interface": lambda to: with_fields(to, interface="org.freedesktop.DBus.Local"),
    "local path": lambda to: with_fields(to, path="/org/freedesktop/DBus/Local"),
    "path without slash": lambda to: with_fields(to, path="x"),
    "path with a slash at its end": lambda to: with_fields(to, path="/x/"),
    "path with an empty element": lambda to: with_fields(to, path="/x//y"),
    "path with a hyphen": lambda to: with_fields(to, path="/x-y"),
    "empty path": lambda to: with_fields(to, path=""),
    "path that is not ASCII": lambda to: with_fields(to, path="/é"),
    "interface of one element": lambda to: with_fields(to, interface="x"),
    "interface with a hyphen": lambda to: with_fields(to, interface="x.Y-Z"),
    "interface of 256 bytes": lambda to: with_fields(to, interface="x." + "Y" * 254),
    "interface element that starts with a digit": lambda to: with_fields(to, interface="x.1Y"),
    "member with a dot": lambda to: with_fields(to, member="M.N"),
    "member that starts with a digit": lambda to: with_fields(to, member="1"),
    "empty member": lambda to: with_fields(to, member=""),
    "member of 256 bytes": lambda to: with_fields(to, member="M" * 256),
    "destination of one element": lambda to: with_fields("x"),
    "destination with an empty element": lambda to: with_fields("x..y"),
    "empty destination": lambda to: with_fields(""),
    "destination element that starts with a digit": lambda to: with_fields("x.1"),
    "sender without syntax": lambda to: with_fields(to, sender="x"),
    "error name of one element": lambda to: with_fields(to, ERROR, error_name="x", reply_serial=3),
    "invalid signature": lambda to: with_fields(to, signature="z"),
    "array of nothing": lambda to: with_fields(to, signature="a"),
    "empty struct": lambda to: with_fields(to, signature="()"),
    "struct that is not closed": lambda to: with_fields(to, signature="(y"),
    "bracket that was not opened": lambda to: with_fields(to, signature="y)"),
    "dict entry outside an array": lambda to: with_fields(to, signature="{sv}"),
    "dict entry with one type": lambda to: call(to, "a{s}", U32(0)),
    "dict entry with three types": lambda to: call(to, "a{sss}", U32(0)),
    "dict entry with a container as key": lambda to: call(to, "a{vs}", U32(0)),
    "brackets that cross": lambda to: call(to, "a({yy)}", U32(0)),
    "33 arrays": lambda to: call(to, _deep(33, 0), U32(0)),
    "33 structs": lambda to: call(to, _deep(0, 33), b"\0"),
    "unknown field that is cut off": lambda to: patched(
        call(to, "", b"", (60, "s", "zz")), len(call(to, "", b"", (60, "s", "zz"))) - 8, U32(99)),
    "unknown field with two types": lambda to: call(to, "", b"", (60, "ss", "z")),
    "unknown field without type": lambda to: call(to, "", b"", (60, "y", 0)).replace(b"\x3c\1y", b"\x3c\0\0"),
    "unknown field with an invalid boolean": lambda to: call(to, "", b"", (60, "b", 2)),
    "padding between fields": _padded_field,
    "padding behind the fields": _padded_header,
    "fields that are longer than their array": lambda to: _fields_length(to, -1),
    "array that is longer than its fields": lambda to: _fields_length(to, 1),
}

BODIES: dict[str, tuple[str, bytes]] = {
    "body without signature": ("", b"\0"),
    "signature without body": ("y", b""),
    "one byte too many": ("y", b"\0\0"),
    "one byte too few": ("u", b"\0\0\0"),
    "boolean 2": ("b", U32(2)),
    "boolean 256": ("b", U32(256)),
    "boolean 2 in an array": ("ab", U32(12) + U32(1) + U32(2) + U32(0)),
    "padding that is not zero": ("yu", b"\0\0\1\0" + U32(1)),
    "padding of a struct": ("y(y)", b"\0\0\0\0\0\0\1\0\0"),
    "padding of an empty array": ("ax", U32(0) + U32(1)),
    "padding of an empty array missing": ("ax", U32(0)),
    "string without NUL": ("s", U32(1) + b"xy"),
    "string with a NUL inside": ("s", U32(3) + b"x\0y\0"),
    "string that is cut off": ("s", U32(9) + b"xy\0"),
    "string of 4 GiB": ("s", U32(0xFFFF_FFFF) + b"x\0"),
    "string that is not UTF-8": ("s", U32(1) + b"\xff\0"),
    "overlong UTF-8": ("s", U32(2) + b"\xc0\xaf\0"),
    "surrogate": ("s", U32(3) + b"\xed\xa0\x80\0"),
    "beyond U+10FFFF": ("s", U32(4) + b"\xf4\x90\x80\x80\0"),
    "UTF-8 cut off": ("s", U32(2) + b"\xe2\x82\0"),
    "empty object path": ("o", U32(0) + b"\0"),
    "object path with a slash at its end": ("o", U32(3) + b"/x/\0"),
    "object path with a dot": ("o", U32(4) + b"/x.y\0"),
    "object path with a NUL": ("o", U32(3) + b"/\0x\0"),
    "invalid signature value": ("g", b"\1a\0"),
    "signature without NUL": ("g", b"\1yy"),
    "signature that is cut off": ("g", b"\5y\0"),
    "array that is cut off": ("au", U32(8) + U32(1)),
    "array with half an element": ("au", U32(6) + U32(1) + b"\0\0"),
    "array of doubles with half an element": ("ad", U32(12) + U32(0) + bytes(12)),
    "array of booleans with half an element": ("ab", U32(6) + U32(1) + b"\0\0"),
    "array whose last string reaches beyond": ("asy", U32(5) + U32(1) + b"x\0\0"),
    "array of more than 64 MiB": ("ay", U32((1 << 26) + 1)),
    "array of 4 GiB": ("aay", U32(0xFFFF_FFFF)),
    "variant of two types": ("v", b"\2yy\0\1\1"),
    "variant of no type": ("v", b"\0\0"),
    "variant of half a type": ("v", b"\1a\0\0" + U32(0)),
    "variant that is cut off": ("v", b"\1u\0\0"),
    "65 variants within each other": ("v", nested_variants(65)),
    "64 variants around a struct": ("v", nested_variants(64, "(y)", (1,))),
}


DESCRIPTORS: dict[str, tuple[str, bytes]] = {
    "descriptor that is not there": ("h", U32(0)),
    "descriptor in a variant that is not there": ("v", b"\1h\0\0" + U32(0)),
    "descriptor in an array that is not there": ("ah", U32(4) + U32(0)),
}


def malformed(to: str) -> Iterator[tuple[str, bytes]]:
    """Messages after which a bus must close the connection."""
    for name, make in HEADERS.items():
        yield name, make(to)
    for name, (signature, body) in BODIES.items():
        yield name, call(to, signature, body)


def without_descriptors(to: str) -> Iterator[tuple[str, bytes]]:
    """Bodies that name descriptors which did not come: no bus looks, but the check can refuse them."""
    for name, (signature, body) in DESCRIPTORS.items():
        yield name, call(to, signature, body)


_ODD: dict[str, Callable[[str], bytes]] = {
    "big endian": lambda to: call(to, "su", marshal("su", "x", 1, endian="B"), endian="B"),
    "all flags": lambda to: call(to, flags=0xFF),
    "greatest serial": lambda to: call(to, serial=0xFFFF_FFFF),
    "no interface": lambda to: with_fields(to, interface=None),
    "empty signature": lambda to: with_fields(to, signature=""),
    "no descriptors announced": lambda to: with_fields(to, unix_fds=0),
    "fields in another order": lambda to: message(CALL, SERIAL, list(reversed(fields_of(to)))),
    "sender of somebody else": lambda to: with_fields(to, sender=":1.999"),
    "sender without second element": lambda to: with_fields(to, sender=":1"),
    "call with fields of an error": lambda to: with_fields(to, reply_serial=3, error_name="x.Y"),
    "unknown field": lambda to: call(to, "", b"", (60, "s", "zz")),
    "unknown field twice": lambda to: call(to, "", b"", (60, "s", "zz"), (60, "y", 1)),
    "unknown field in front": lambda to: message(
        CALL, SERIAL, [(200, "a{sv}", {"x": ("ay", b"y")}), *fields_of(to)]),
    "unknown field 255": lambda to: call(to, "", b"", (255, "(yv)", (1, ("x", 2)))),
    "member of 255 bytes": lambda to: with_fields(to, member="M" * 255),
    "path of 10000 bytes": lambda to: with_fields(to, path="/x" * 5000),
    "root path": lambda to: with_fields(to, path="/"),
    "interface with underscores and digits": lambda to: with_fields(to, interface="_1._2"),
    "non-characters": lambda to: call(to, "s", marshal("s", "￾﷐\U0010ffff")),
    "empty strings": lambda to: call(to, "sgas", marshal("sgas", "", "", [""])),
    "32 arrays and 32 structs": lambda to: call(to, _deep(32, 32), U32(0)),
    "32 structs": lambda to: call(to, _deep(0, 32), b"\7"),
    "64 variants within each other": lambda to: call(to, "v", nested_variants(64)),
    "64 variants around an empty array of structs": lambda to: call(to, "v", nested_variants(64, "a(y)", [])),
    "64 variants around bytes": lambda to: call(to, "v", nested_variants(64, "ay", b"x")),
    "63 variants around a struct": lambda to: call(to, "v", nested_variants(63, "(y)", (1,))),
    "signature of 255 bytes": lambda to: call(to, "y" * 255, bytes(255)),
    "empty array of structs with its padding": lambda to: call(to, "a(yy)", U32(0) + U32(0)),
    "every type": lambda to: call(to, EVERY_SIGNATURE, marshal(EVERY_SIGNATURE, *EVERY_VALUE)),
    "every type in big endian": lambda to: call(
        to, EVERY_SIGNATURE, marshal(EVERY_SIGNATURE, *EVERY_VALUE, endian="B"), endian="B"),
    "not a number": lambda to: call(to, "d", b"\xff" * 8),
}

EVERY_SIGNATURE = "ybnqiuxtdsogvaya{sv}(y(xs))aasa(ib)abad"
EVERY_VALUE: tuple[Any, ...] = (
    255, True, -1, 65535, -5, 2**32 - 1, -(2**63), 2**64 - 1, 1.5, "é", "/a/b", "a{sv}",
    ("(sv)", ("x", ("u", 3))), b"bytes", {"a": ("as", ["b", "c"]), "d": ("v", ("y", 1))}, (1, (2, "z")),
    [["p"], [], ["q", "r"]], [(1, True), (2, False)], [True, False], [0.0, -2.5],
)


def odd(to: str) -> Iterator[tuple[str, bytes]]:
    """Messages that a bus must hand over, or answer: they are valid."""
    for name, make in _ODD.items():
        yield name, make(to)


