"""wire: D-Bus headers, and the bus's own bodies.

Theory. A header is 16 fixed bytes (byte order, type, flags, version, length of the body, serial, length
of the fields) and an array of fields, padded to a multiple of 8; the body follows. Since the fixed part
holds all that changes from message to message, calls and signals repeat their fields byte for byte:
parsed fields are kept in a bounded cache by their bytes. Answers carry the serial of their call, so
theirs are not kept.

``stamp`` forwards a header in its own byte order: the fields stay as they lie, apart from a SENDER of
the client's, which the bus's replaces (else that comes last), and unknown fields, which are cut out.

Invariants. 1. ``parse`` raises nothing but RemoteProtocolError, whatever the bytes, and its time is
bounded: unknown fields may take ``UNKNOWN_FIELDS_BUDGET`` to check.
2. ``parse(build(…))`` gives the arguments of ``build`` back.
3. ``parse(stamp(m, parse(m), s))`` equals ``parse(m)`` apart from sender, length and unknown fields.

Not here: whether a body fits its signature (``walk``), framing of a stream, descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from bus1_services.types import (
    MAX_ARRAY,
    MAX_NAME,
    Type,
    is_bus_name,
    is_error_name,
    is_interface_name,
    is_member_name,
    is_object_path,
    single,
)
from bus1_services.types import parse as parse_signature

from bus1.core.api import Buffer
from bus1.errors import RemoteProtocolError, TooLarge
from bus1.record import record

from .walk import ANY_FD, ORDER, U32, BodyCheck, skip

CALL, RETURN, ERROR, SIGNAL = 1, 2, 3, 4
NO_REPLY_EXPECTED, NO_AUTO_START = 1, 2
MAX_MESSAGE = 1 << 27
VERSION = 1
DRIVER_NAME = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
"""The bus itself as an object."""
# a client library talks to itself under these; no message of the bus has them
LOCAL_INTERFACE = "org.freedesktop.DBus.Local"
LOCAL_PATH = "/org/freedesktop/DBus/Local"
ERROR_PREFIX = "org.freedesktop.DBus.Error."
ERROR_TEXT_MAX = 1024
"""Bytes of the bus's own error texts: room for valid names, not for whatever a caller calls a name."""
UNKNOWN_FIELDS_BUDGET = 1 << 16
"""Header fields from code 10 on are checked and cut out; this is what the check may cost."""

_FIXED_PART = {endian: struct.Struct(f"{order}BBBBIII") for endian, order in ORDER.items()}
_ENDIANS = {ord("l"): "l", ord("B"): "B"}
_KEPT = 1024
"""Fields of more bytes than this are not cached."""
_ZEROS = bytes(8)


class Fields(NamedTuple):
    """The known header fields; None (signature: empty, numbers: 0) where absent."""

    path: str | None = None
    interface: str | None = None
    member: str | None = None
    error_name: str | None = None
    reply_serial: int = 0
    destination: str | None = None
    sender: str | None = None
    signature: str = ""
    unix_fds: int = 0


class Header:
    """A header that was found valid; ``header_length`` counts the padding behind it."""

    __slots__ = (
        "body_length", "destination", "endian", "error_name", "fields_length", "flags", "has_unknown_fields",
        "header_length", "interface", "member", "path", "reply_serial", "sender", "serial", "signature",
        "type", "unix_fds",
    )

    def __init__(
        self, endian: str, type: int, flags: int, body_length: int, serial: int, fields_length: int,
        fields: Fields, has_unknown_fields: bool,
    ) -> None:
        self.endian = endian
        self.type = type
        self.flags = flags
        self.serial = serial
        self.body_length = body_length
        self.fields_length = fields_length
        self.header_length = 16 + fields_length + -fields_length % 8
        (
            self.path, self.interface, self.member, self.error_name, self.reply_serial,
            self.destination, self.sender, self.signature, self.unix_fds,
        ) = fields
        self.has_unknown_fields = has_unknown_fields


@record(frozen=True)
class _Field:
    """A row of the table of known fields."""

    code: int
    name: str
    signature: str
    check: Callable[[Any], bool] | None = None


FIELDS: dict[int, _Field] = {
    field.code: field
    for field in (
        _Field(1, "path", "o", lambda path: path != LOCAL_PATH and is_object_path(path)),
        _Field(2, "interface", "s", lambda name: name != LOCAL_INTERFACE and is_interface_name(name)),
        _Field(3, "member", "s", is_member_name),
        _Field(4, "error_name", "s", is_error_name),
        _Field(5, "reply_serial", "u", bool),
        _Field(6, "destination", "s", is_bus_name),
        _Field(7, "sender", "s", is_bus_name),
        _Field(8, "signature", "g"),
        _Field(9, "unix_fds", "u"),
    )
}
_SENDER = 7
_STARTS = {field.code: bytes((field.code, 1, ord(field.signature), 0)) for field in FIELDS.values()}
# the orders in which the reference writes its answers, and its broadcasts
_ANSWER_ORDER = (1, 2, 3, 6, 4, 5, 8, 9, 7)
_BROADCAST_ORDER = (1, 2, 3, 7, 8, 9)
_REQUIRED: dict[int, tuple[str, ...]] = {
    CALL: ("path", "member"),
    RETURN: ("reply_serial",),
    ERROR: ("error_name", "reply_serial"),
    SIGNAL: ("path", "interface", "member"),
}


def frame_length(data: Buffer) -> int | None:
    """Length of the message that starts here; None for fewer than 16 bytes; RemoteProtocolError."""
    if len(data) < 16:
        return None
    endian = _ENDIANS.get(data[0])
    if endian is None:
        raise RemoteProtocolError(f"byte order {data[0]:#04x}")
    _, _, _, version, body_length, _, fields_length = _FIXED_PART[endian].unpack_from(data)
    if version != VERSION:
        raise RemoteProtocolError(f"protocol version {version}")
    length: int = 16 + fields_length + -fields_length % 8 + body_length
    if fields_length > MAX_ARRAY or length > MAX_MESSAGE:
        raise RemoteProtocolError(f"a message of {length} bytes with {fields_length} bytes of fields")
    return length


def parse(message: Buffer) -> Header:
    """The header of a message, of which at least the header is there. RemoteProtocolError."""
    length = frame_length(message)
    if length is None:
        raise RemoteProtocolError("the message ends within its header")
    endian = _ENDIANS[message[0]]
    _, type_, flags, _, body_length, serial, fields_length = _FIXED_PART[endian].unpack_from(message)
    fields = bytes(message[16 : 16 + fields_length + -fields_length % 8])
    if type_ == 0 or serial == 0 or len(fields) != length - 16 - body_length:
        raise RemoteProtocolError("type 0, serial 0, or the message ends within its header")
    if len(fields) > _KEPT or type_ in {RETURN, ERROR}:
        known, has_unknown = _parse_fields(fields, fields_length, endian)
    else:
        known, has_unknown = _kept_fields(fields, fields_length, endian)
    for name in _REQUIRED.get(type_, ()):
        if not getattr(known, name):
            raise RemoteProtocolError(f"a message of type {type_} without {name}")
    return Header(endian, type_, flags, body_length, serial, fields_length, known, has_unknown)


def _parse_fields(fields: bytes, length: int, endian: str) -> tuple[Fields, bool]:
    """``fields`` is the array with the padding behind it, which starts at ``length``."""
    found: dict[str, Any] = {}
    has_unknown = has_container = False
    at = 0
    try:
        while at < length:
            if at & 7:
                at = _padding(fields, at)
            field = FIELDS.get(fields[at])
            if field is None:
                if not fields[at]:
                    raise RemoteProtocolError("header field 0")
                if fields[at] == _CONTAINER and (fields[at + 1 : at + 4] != b"\1o\0" or has_container):
                    raise RemoteProtocolError("header field 10 is of a wrong type, or given twice")
                has_container = has_container or fields[at] == _CONTAINER
                if not has_unknown:
                    _check_unknown(fields[:length], endian)
                has_unknown = True
                at = skip(_VARIANT, fields, at + 1, endian)
                continue
            if fields[at : at + 4] != _STARTS[field.code] or field.name in found:
                raise RemoteProtocolError(f"header field {field.name} is of a wrong type, or given twice")
            found[field.name], at = _READ[field.signature](fields, at + 4, endian)
            if field.check is not None and not field.check(found[field.name]):
                raise RemoteProtocolError(f"header field {field.name} has no valid value")
    except (struct.error, IndexError) as error:
        raise RemoteProtocolError("the header fields are cut off") from error
    if at != length or fields[at:].strip(b"\0"):
        raise RemoteProtocolError("the header fields end within a field, or their padding is not zero")
    return Fields(**found), has_unknown


_kept_fields = lru_cache(maxsize=1024)(_parse_fields)


def _text_field(fields: bytes, at: int, endian: str) -> tuple[str, int]:
    start = at + 4
    stop = start + U32[endian](fields, at)[0]
    if fields.find(0, start, stop + 1) != stop:
        raise RemoteProtocolError("a header field is cut off, or has a NUL inside or none behind")
    # no check lets anything but ASCII pass
    return fields[start:stop].decode("latin-1"), stop + 1


def _signature_field(fields: bytes, at: int, endian: str) -> tuple[str, int]:
    stop = at + 1 + fields[at]
    if fields.find(0, at + 1, stop + 1) != stop:
        raise RemoteProtocolError("the signature is cut off, or has a NUL inside or none behind")
    signature = fields[at + 1 : stop].decode("latin-1")
    parse_signature(signature)
    return signature, stop + 1


def _number_field(fields: bytes, at: int, endian: str) -> tuple[int, int]:
    return U32[endian](fields, at)[0], at + 4


_READ: dict[str, Callable[[bytes, int, str], tuple[str | int, int]]] = {
    "s": _text_field, "o": _text_field, "g": _signature_field, "u": _number_field,
}
_VARIANT = single("v")
_CONTAINER = 10
"""The path of the sender's container: checked like a known field, and cut out like an unknown one."""


def _padding(fields: bytes, at: int) -> int:
    stop = (at | 7) + 1
    if fields[at:stop] != _ZEROS[: stop - at]:
        raise RemoteProtocolError("padding between header fields is missing or not zero")
    return stop


def _check_unknown(fields: bytes, endian: str) -> None:
    # the fields as the array they are, at the distance from a multiple of 8 that they have in a header
    array = struct.pack(f"{ORDER[endian]}II", 0, len(fields)) + fields
    if not BodyCheck("ua(yv)", array, endian, ANY_FD).step(UNKNOWN_FIELDS_BUDGET):
        raise RemoteProtocolError("the unknown header fields are too many to check")


def stamp(message: Buffer, header: Header, sender: str) -> bytes:
    """The header to forward, with padding; TooLarge if the message would exceed the protocol's limit."""
    fields = bytes(message[16 : 16 + header.fields_length])
    field = _kept_field(_SENDER, sender, header.endian)
    if header.has_unknown_fields or header.sender is not None:
        fields = _known_fields(fields, header.endian, field)
    if header.sender is None:
        fields = b"".join((fields, _ZEROS[: -len(fields) % 8], field))
    padded = 16 + len(fields) + -len(fields) % 8
    if len(fields) > MAX_ARRAY or padded + header.body_length > MAX_MESSAGE:
        raise TooLarge("there is no room for the sender in a message of that size")
    return b"".join((
        message[:12], struct.pack(f"{ORDER[header.endian]}I", len(fields)), fields, bytes(-len(fields) % 8),
    ))


def _known_fields(fields: bytes, endian: str, sender: bytes) -> bytes:
    """The known fields as they lie, with ``sender`` in the place of a SENDER."""
    kept = bytearray()
    at = 0
    while at < len(fields):
        at += -at % 8
        start, at = at, skip(_VARIANT, fields, at + 1, endian)
        if fields[start] in FIELDS:
            kept += bytes(-len(kept) % 8)
            kept += sender if fields[start] == _SENDER else fields[start:at]
    return bytes(kept)


def build(
    type: int, *, endian: str = "l", flags: int = 0, serial: int, body_length: int = 0,
    path: str | None = None, interface: str | None = None, member: str | None = None,
    error_name: str | None = None, reply_serial: int = 0, destination: str | None = None,
    sender: str | None = None, signature: str = "", unix_fds: int = 0,
) -> bytes:
    """A header with its padding; fields that are None, 0 or empty are left out. Nothing is checked."""
    given = (path, interface, member, error_name, reply_serial, destination, sender, signature, unix_fds)
    fields = bytearray()
    for code in _BROADCAST_ORDER if type == SIGNAL and destination is None else _ANSWER_ORDER:
        value = given[code - 1]
        if value:
            fields += _ZEROS[: -len(fields) % 8]
            is_kept = isinstance(value, str) and len(value) <= MAX_NAME
            fields += (_kept_field if is_kept else _encode)(code, value, endian)
    fixed = _FIXED_PART[endian].pack(ord(endian), type, flags, VERSION, body_length, serial, len(fields))
    return fixed + fields + bytes(-len(fields) % 8)


def _encode(code: int, value: str | int, endian: str) -> bytes:
    number = struct.Struct(f"{ORDER[endian]}I").pack
    if isinstance(value, int):
        return _STARTS[code] + number(value)
    text = value.encode()
    length = bytes((len(text),)) if FIELDS[code].signature == "g" else number(len(text))
    return b"".join((_STARTS[code], length, text, b"\0"))


_kept_field = lru_cache(maxsize=4096)(_encode)


class Variant(NamedTuple):
    """A value of type ``v`` for ``marshal`` and ``unmarshal``."""

    signature: str
    value: object


_NUMBERS = {
    "y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I",
}


def error_body(text: str) -> bytes:
    """The body of an error of the bus; a text beyond ``ERROR_TEXT_MAX`` is cut."""
    return marshal("s", text[:ERROR_TEXT_MAX].encode()[:ERROR_TEXT_MAX].decode(errors="ignore"))


def marshal(signature: str, *values: Any) -> bytes:
    """A body, little-endian: arrays from lists, dicts or bytes, structs from tuples, ``v`` from Variant."""
    if signature == "s" and len(values) == 1:
        # most of what the bus says
        text = values[0].encode()
        return b"%b%b\0" % (struct.pack("<I", len(text)), text)
    out = bytearray()
    for type_, value in zip(parse_signature(signature), values, strict=True):
        _put(type_, value, out)
    return bytes(out)


def _put(type_: Type, value: Any, out: bytearray) -> None:
    out += bytes(-len(out) % type_.alignment)
    code = type_.code
    if code in _NUMBERS:
        out += struct.pack(f"<{_NUMBERS[code]}", value)
    elif code in {"s", "o"}:
        text = value.encode()
        out += struct.pack("<I", len(text)) + text + b"\0"
    elif code == "g":
        out += bytes((len(value),)) + value.encode() + b"\0"
    elif code == "v":
        _put(single("g"), value.signature, out)
        _put(single(value.signature), value.value, out)
    elif code == "a":
        out += bytes(4)
        length_at = len(out) - 4
        out += bytes(-len(out) % type_.inside[0].alignment)
        start = len(out)
        for element in value.items() if isinstance(value, dict) else value:
            _put(type_.inside[0], element, out)
        struct.pack_into("<I", out, length_at, len(out) - start)
    else:
        for inside, part in zip(type_.inside, value, strict=True):
            _put(inside, part, out)


def unmarshal(signature: str, body: Buffer, endian: str) -> tuple[Any, ...]:
    """The values of a valid body, as ``marshal`` takes them; ``ay`` as bytes, dicts as dicts."""
    values: list[Any] = []
    at = 0
    for type_ in parse_signature(signature):
        value, at = _get(type_, body, at, endian)
        values.append(value)
    return tuple(values)


def _get(type_: Type, body: Buffer, at: int, endian: str) -> tuple[Any, int]:
    at += -at % type_.alignment
    code = type_.code
    if code in _NUMBERS:
        (number,) = struct.unpack_from(ORDER[endian] + _NUMBERS[code], body, at)
        return bool(number) if code == "b" else number, at + type_.fixed
    if code in {"s", "o", "g"}:
        size = 1 if code == "g" else 4
        stop = at + size + (body[at] if code == "g" else U32[endian](body, at)[0])
        return bytes(body[at + size : stop]).decode(), stop + 1
    if code == "v":
        signature, at = _get(single("g"), body, at, endian)
        value, at = _get(single(signature), body, at, endian)
        return Variant(signature, value), at
    if code == "a":
        return _get_array(type_.inside[0], body, at, endian)
    parts = []
    for inside in type_.inside:
        part, at = _get(inside, body, at, endian)
        parts.append(part)
    return tuple(parts), at


def _get_array(element: Type, body: Buffer, at: int, endian: str) -> tuple[Any, int]:
    start = at + 4 + -(at + 4) % element.alignment
    stop = start + U32[endian](body, at)[0]
    if element.code == "y":
        return bytes(body[start:stop]), stop
    values = []
    at = start
    while at < stop:
        value, at = _get(element, body, at, endian)
        values.append(value)
    return dict(values) if element.code == "{" else values, stop
