"""call: the envelope, the small fixed header in front of every native message.

Theory. One message is an envelope and a D-Bus body. The envelope says what a D-Bus header says about
*what* is meant (kind, flags, serial, interface, member, signature, byte order), and nothing about
*who*: the destination is the node that the message was sent to, the sender is known to the bus, the
answer goes to the reply node that came along as handle 0. The body follows verbatim, so that a
bridge never marshals one anew.

Layout, all integers little-endian::

     0  u8   magic 0xB1             8  u32  serial
     1  u8   version 1             12  u32  length of the body
     2  u8   kind                  16  u16  length of interface
     3  u8   flags                 18  u16  length of member
     4  u8   byte order, l or B    20  u16  length of signature
     5  u8   0                     22  u16  0
     6  u16  n_caps                24  n_caps times (u32 ordinal, u32 index)

then interface, member and signature, zeros up to a multiple of 8, and the body. A D-Bus message
starts with ``l`` or ``B``, so the two cannot be mixed up.

A ``caps`` entry says that the ordinal-th object path of the body (from 0, in marshalling order, nested
ones too) is the capability at that index of the message's handle list.

Invariants. 1. ``decode(encode(e) + body) == (e, len(encode(e)))`` for every envelope that ``encode``
takes. 2. ``decode`` raises RemoteProtocolError and nothing else, whatever the bytes are, and does work
in proportion to the header, never to the body. 3. Ordinals rise strictly.

Not here: bodies (``body``), what is done with a message (``export``, ``proxy``, the bridge's gateway),
whether an index lies within the handle list (only the receiver knows that list).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from functools import lru_cache
from itertools import pairwise
from struct import Struct

from bus1.core.api import Buffer
from bus1.errors import LocalProtocolError, RemoteProtocolError
from bus1.record import record

from .types import MAX_NAME, SignatureInvalid, is_error_name, is_interface_name, is_member_name, parse

MAGIC = 0xB1
VERSION = 1
MAX_BODY = 128 * 1024 * 1024
"""As a D-Bus message."""
MAX_CAPS = 0xFFFF

_U32 = 0xFFFF_FFFF
_HEADER = Struct("<BBBBBBHIIHHHH")
_CAP = Struct("<II")
_EXTENT, _EXTENT_AT = Struct("<H4xI"), 6
"""n_caps and the length of the body."""
_MAX_KEPT = 1024
"""Bytes of an envelope without capabilities, and more than any has."""


class Kind(IntEnum):
    """What a message is; D-Bus's numbers."""

    CALL = 1
    RETURN = 2
    ERROR = 3
    SIGNAL = 4


class CallFlag(IntFlag):
    """D-Bus's message flags; unknown bits are kept and mean nothing."""

    NO_REPLY_EXPECTED = 1
    NO_AUTO_START = 2
    ALLOW_INTERACTIVE_AUTHORIZATION = 4


_NO_REPLY_EXPECTED = int(CallFlag.NO_REPLY_EXPECTED)


@record(frozen=True)
class Envelope:
    """One message without its body; ``member`` of an ERROR is the error's name."""

    kind: Kind
    flags: int = 0
    endian: str = "l"
    serial: int = 0
    interface: str = ""
    member: str = ""
    signature: str = ""
    caps: tuple[tuple[int, int], ...] = ()
    body_length: int = 0

    @property
    def expects_reply(self) -> bool:
        """Handle 0 is a reply node."""
        return self.kind is Kind.CALL and not self.flags & _NO_REPLY_EXPECTED


def encode(envelope: Envelope) -> bytes:
    """Header and padding; the caller appends a body of exactly ``body_length`` bytes.

    Raises LocalProtocolError for an envelope that ``decode`` would refuse."""
    complaint = _complaint_of_numbers(envelope) or _complaint(envelope)
    if complaint is not None:
        raise LocalProtocolError(complaint)
    names = (envelope.interface.encode(), envelope.member.encode(), envelope.signature.encode())
    head = _HEADER.pack(
        MAGIC, VERSION, envelope.kind, envelope.flags, ord(envelope.endian), 0, len(envelope.caps),
        envelope.serial, envelope.body_length, *map(len, names), 0,
    )
    caps = b"".join(_CAP.pack(ordinal, index) for ordinal, index in envelope.caps)
    message = b"".join((head, caps, *names))
    return message + bytes(-len(message) % 8)


@lru_cache(1024)
def header(
    kind: Kind, flags: int, serial: int, interface: str, member: str, signature: str, body_length: int
) -> bytes:
    """``encode`` of an envelope without capabilities: most are as one before them."""
    return encode(Envelope(kind, flags, "l", serial, interface, member, signature, (), body_length))


def decode(buffer: Buffer) -> tuple[Envelope, int]:
    """The envelope of a whole message, and the offset of its body; RemoteProtocolError."""
    view = memoryview(buffer)
    size = len(view)
    if size >= _HEADER.size:
        n_caps, body_length = _EXTENT.unpack_from(view, _EXTENT_AT)
        offset = size - body_length
        if not n_caps and _HEADER.size <= offset <= _MAX_KEPT:
            return _known(bytes(view[:offset]), size), offset
    return _decode(view, size)


@lru_cache(1024)
def _known(header: bytes, size: int) -> Envelope:
    """Most messages begin with the same bytes as one before them."""
    return _decode(memoryview(header), size)[0]


def _decode(view: memoryview, size: int) -> tuple[Envelope, int]:
    """``view`` is a message of ``size`` bytes, or what it has in front of its body."""
    if size < _HEADER.size:
        raise RemoteProtocolError(f"a message of {size} bytes has no room for an envelope")
    magic, version, kind, flags, endian, zero, n_caps, serial, body_length, *lengths = (
        _HEADER.unpack_from(view)
    )
    if magic != MAGIC or version != VERSION:
        raise RemoteProtocolError(f"not an envelope of version {VERSION}: {magic:#04x} {version}")
    if zero or lengths[3]:
        raise RemoteProtocolError("a reserved field of the envelope is not zero")
    if body_length > MAX_BODY:
        raise RemoteProtocolError(f"a body of {body_length} bytes")
    if kind not in _KINDS or endian not in _ENDIANS:
        raise RemoteProtocolError(f"no such kind of message or byte order: {kind}, {endian:#04x}")
    if max(lengths) > MAX_NAME:
        raise RemoteProtocolError(f"a name of {max(lengths)} bytes")
    start = _HEADER.size + _CAP.size * n_caps
    end = start + sum(lengths)
    offset = end + -end % 8
    if size - offset != body_length:
        raise RemoteProtocolError(f"{size} bytes, the envelope says {offset} + {body_length}")
    if any(view[end:offset]):
        raise RemoteProtocolError("padding of the envelope is not zero")
    interface, member, signature = _texts(bytes(view[start:end]), lengths)
    caps = tuple(_CAP.iter_unpack(view[_HEADER.size : start]))
    envelope = Envelope(
        _KINDS[kind], flags, _ENDIANS[endian], serial, interface, member, signature, caps, body_length
    )
    complaint = _complaint(envelope)
    if complaint is not None:
        raise RemoteProtocolError(complaint)
    return envelope, offset


_KINDS = {int(kind): kind for kind in Kind}
_ENDIANS = {ord("l"): "l", ord("B"): "B"}

_NAMES_OF_KIND = {
    #            (interface needed, allowed), member's check (None: must be empty)
    Kind.CALL: (False, True, is_member_name),
    Kind.RETURN: (False, False, None),
    Kind.ERROR: (False, False, is_error_name),
    Kind.SIGNAL: (True, True, is_member_name),
}


def _texts(data: bytes, lengths: list[int]) -> tuple[str, str, str]:
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a name of the envelope is not ASCII") from error
    a, b = lengths[0], lengths[0] + lengths[1]
    return text[:a], text[a:b], text[b:]


def _complaint_of_numbers(envelope: Envelope) -> str | None:
    for name, number, limit in (
        ("flags", envelope.flags, 0xFF), ("serial", envelope.serial, _U32),
        ("body_length", envelope.body_length, MAX_BODY), ("number of caps", len(envelope.caps), MAX_CAPS),
        *(("cap", number, _U32) for cap in envelope.caps for number in cap),
    ):
        if not 0 <= number <= limit:
            return f"{name} is {number}"
    if envelope.endian not in _ENDIANS.values():
        return f"no such byte order: {envelope.endian!r}"
    return None


def _complaint(envelope: Envelope) -> str | None:
    """What is wrong with these fields, in words."""
    complaint = _complaint_of_names(envelope.kind, envelope.interface, envelope.member, envelope.signature)
    if complaint is None and bool(envelope.signature) != bool(envelope.body_length):
        return f"signature {envelope.signature[:MAX_NAME]!r} for a body of {envelope.body_length} bytes"
    return complaint or (_complaint_of_caps(envelope.caps) if envelope.caps else None)


@lru_cache(1024)
def _complaint_of_names(kind: Kind, interface: str, member: str, signature: str) -> str | None:
    interface_needed, interface_allowed, member_check = _NAMES_OF_KIND[kind]
    if interface:
        if not interface_allowed or not is_interface_name(interface):
            return f"interface {interface[:MAX_NAME]!r} in a {kind.name}"
    elif interface_needed:
        return f"a {kind.name} without interface"
    if member if member_check is None else not member_check(member):
        return f"member {member[:MAX_NAME]!r} in a {kind.name}"
    return _complaint_of_signature(signature)


def _complaint_of_signature(signature: str) -> str | None:
    try:
        parse(signature)
    except SignatureInvalid as error:
        return str(error)
    return None


def _complaint_of_caps(caps: tuple[tuple[int, int], ...]) -> str | None:
    if any(later[0] <= earlier[0] for earlier, later in pairwise(caps)):
        return "capabilities are not in the order of their object paths"
    return None
