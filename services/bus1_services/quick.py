"""quick: bodies of numbers and texts, there and back.

Theory. Most bodies are a few plain values in a row. They are written and read here in one go. Whatever is not
plain, or does not fit, is None here, and ``body`` goes on: it knows all types, and what is wrong.

Invariants. 1. What is not None is what ``body`` gives without this file, to the byte and to the type.

Not here: bodies with anything in them that has parts, is a path, or brings something along.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error
from typing import Any

from bus1.core.api import Buffer

from .types import MAX_SIGNATURE

_SMALL = 1 << 16
"""Larger bodies gain nothing."""
_LENGTH = Struct("<I")
_FIXED: dict[str, tuple[Struct, type]] = {
    "y": (Struct("<B"), int), "n": (Struct("<h"), int), "q": (Struct("<H"), int), "i": (Struct("<i"), int),
    "u": (Struct("<I"), int), "x": (Struct("<q"), int), "t": (Struct("<Q"), int), "d": (Struct("<d"), float),
    "b": (Struct("<I"), bool),
}
"""How they lie in a body, and of which type exactly they are."""


def encode(signature: str, values: Sequence[Any]) -> bytes | None:
    """A body, little-endian; None: not in this way."""
    if len(values) != len(signature) or len(signature) > MAX_SIGNATURE:
        return None
    out = b""
    try:
        for code, value in zip(signature, values, strict=True):
            if code == "s":
                if type(value) is not str or "\0" in value or len(value) > _SMALL:
                    return None
                text = value.encode()
                out += bytes(-len(out) % 4) + _LENGTH.pack(len(text)) + text + b"\0"
            else:
                layout, kind = _FIXED[code]
                if type(value) is not kind:
                    return None
                out += bytes(-len(out) % layout.size) + layout.pack(value)
    except (error, KeyError, UnicodeEncodeError):
        return None
    return out


def decode(signature: str, body: Buffer, is_little: bool) -> list[Any] | None:
    """The values of a whole body; None: not in this way."""
    if not is_little or len(body) > _SMALL or len(signature) > MAX_SIGNATURE:
        return None
    data, at, values = bytes(body), 0, []
    try:
        for code in signature:
            layout, kind = (_LENGTH, str) if code == "s" else _FIXED[code]
            before, at = at, at + -at % layout.size
            if at != before and any(data[before:at]):
                return None
            value = layout.unpack_from(data, at)[0]
            at += layout.size
            if kind is str:
                end = at + value
                if data.find(0, at) != end:
                    return None
                value, at = data[at:end].decode(), end + 1
            elif kind is bool:
                if value > 1:
                    return None
                value = value == 1
            values.append(value)
    except (error, KeyError, UnicodeDecodeError):
        return None
    return values if at == len(data) else None
