"""types: D-Bus signatures and the syntax of the names that travel in D-Bus strings.

Theory. A signature is a sequence of complete types. ``parse`` is the one parser of signatures:
headers, bodies and interfaces all read them through it. A ``Type`` knows what a codec needs: the
alignment, the size where it is fixed, the types inside. Names are checked by one expression each.
Both are asked for the same few texts again and again, so answers are kept in bounded caches.

Invariants. 1. ``parse`` raises nothing but ``SignatureInvalid``, whatever the text.
2. The signatures of the types of ``parse(s)``, joined, are ``s``.
3. No type nests deeper than 32 arrays and 32 structs; a dict entry counts as a struct.

Not here: values (``body``, the bridge's ``walk`` and ``wire``); the nesting that variants add.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from bus1.errors import RemoteProtocolError
from bus1.record import record

MAX_SIGNATURE = 255
MAX_NAME = 255
MAX_NESTING = 32
"""Of arrays, and again of structs, within one signature."""
MAX_DEPTH = 64
"""Of containers within one body, variants included."""
MAX_ARRAY = 1 << 26
"""Bytes of one array."""

ALIGNMENT: dict[str, int] = {
    "y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "h": 4,
    "s": 4, "o": 4, "g": 1, "v": 1, "a": 4, "(": 8, "{": 8,
}
FIXED_SIZE: dict[str, int] = {"y": 1, "b": 4, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "h": 4}
BASIC = frozenset("ybnqiuxtdhsog")


class SignatureInvalid(RemoteProtocolError, ValueError):
    """Not a D-Bus signature; a ValueError, too, for one that a program wrote itself."""


class ObjectPath(str):
    """A value of type ``o``, where it has to be told from a string."""

    __slots__ = ()


@record(frozen=True)
class Type:
    """One complete type: its code (``a``, ``(``, ``{`` for containers), and the types inside."""

    code: str
    signature: str
    alignment: int
    fixed: int
    """Size of every value in bytes; 0 if values differ in size, and for containers."""
    inside: tuple[Type, ...] = ()


_BASIC_TYPES: dict[str, Type] = {
    code: Type(code, code, ALIGNMENT[code], FIXED_SIZE.get(code, 0)) for code in (*sorted(BASIC), "v")
}


@lru_cache(maxsize=2048)
def parse(signature: str) -> tuple[Type, ...]:
    """The complete types of ``signature``; SignatureInvalid."""
    if len(signature) > MAX_SIGNATURE:
        raise SignatureInvalid(f"signature of {len(signature)} bytes, {MAX_SIGNATURE} are allowed")
    types: list[Type] = []
    at = 0
    while at < len(signature):
        type_, at = _complete_type(signature, at, 0, 0)
        types.append(type_)
    return tuple(types)


def single(signature: str) -> Type:
    """The type of a signature that is exactly one complete type; SignatureInvalid."""
    types = parse(signature)
    if len(types) != 1:
        raise SignatureInvalid(f"{signature!r} is not one complete type")
    return types[0]


def split_signature(signature: str) -> list[str]:
    """The signature of each complete type; SignatureInvalid."""
    return [type_.signature for type_ in parse(signature)]


def _complete_type(text: str, at: int, arrays: int, structs: int) -> tuple[Type, int]:
    code = text[at : at + 1]
    basic = _BASIC_TYPES.get(code)
    if basic is not None:
        return basic, at + 1
    if code == "a":
        return _array(text, at, arrays + 1, structs)
    if code == "(":
        return _struct(text, at, arrays, structs + 1)
    raise SignatureInvalid(f"no type at position {at} of {text!r}")


def _array(text: str, at: int, arrays: int, structs: int) -> tuple[Type, int]:
    if arrays > MAX_NESTING:
        raise SignatureInvalid(f"more than {MAX_NESTING} arrays within each other in {text!r}")
    if text[at + 1 : at + 2] == "{":
        element, end = _dict_entry(text, at + 1, arrays, structs + 1)
    else:
        element, end = _complete_type(text, at + 1, arrays, structs)
    return Type("a", text[at:end], 4, 0, (element,)), end


def _struct(text: str, at: int, arrays: int, structs: int) -> tuple[Type, int]:
    inside, end = _until(")", text, at, arrays, structs)
    if not inside:
        raise SignatureInvalid(f"an empty struct in {text!r}")
    return Type("(", text[at:end], 8, 0, inside), end


def _dict_entry(text: str, at: int, arrays: int, structs: int) -> tuple[Type, int]:
    inside, end = _until("}", text, at, arrays, structs)
    if len(inside) != 2 or inside[0].code not in BASIC:
        raise SignatureInvalid(f"a dict entry of {text!r} is not a basic key and one value")
    return Type("{", text[at:end], 8, 0, inside), end


def _until(close: str, text: str, at: int, arrays: int, structs: int) -> tuple[tuple[Type, ...], int]:
    if structs > MAX_NESTING:
        raise SignatureInvalid(f"more than {MAX_NESTING} structs within each other in {text!r}")
    inside: list[Type] = []
    at += 1
    while text[at : at + 1] != close:
        type_, at = _complete_type(text, at, arrays, structs)
        inside.append(type_)
    return tuple(inside), at + 1


def _syntax(expression: str) -> Callable[[str], bool]:
    matches = re.compile(expression, re.ASCII).fullmatch

    @lru_cache(maxsize=4096)
    def known(text: str) -> bool:
        return matches(text) is not None

    def check(text: str) -> bool:
        return len(text) <= MAX_NAME and known(text)

    return check


# like the reference, which asks for no second element
_UNIQUE = r":[A-Za-z0-9_-]*+(?:\.[A-Za-z0-9_-]++)*+"
_BUS_ELEMENT = r"[A-Za-z_-][A-Za-z0-9_-]*+"
_ELEMENT = r"[A-Za-z_][A-Za-z0-9_]*+"

is_bus_name = _syntax(rf"{_UNIQUE}|{_BUS_ELEMENT}(?:\.{_BUS_ELEMENT})++")
"""A unique or a well-known bus name."""
is_bus_namespace = _syntax(rf"{_UNIQUE}|{_BUS_ELEMENT}(?:\.{_BUS_ELEMENT})*+")
"""What arg0namespace takes: a bus name, or the first elements of one."""
is_interface_name = _syntax(rf"{_ELEMENT}(?:\.{_ELEMENT})++")
"""An interface name."""
is_error_name = is_interface_name
"""An error name: the same syntax."""
is_member_name = _syntax(_ELEMENT)
"""The name of a method or a signal."""

is_property_name = _syntax(r"[A-Za-z_][A-Za-z0-9_-]*+")
"""The name of a property: it travels in bodies alone, and some that are in use have hyphens."""

_is_short_path = _syntax(r"/|(?:/[A-Za-z0-9_]++)++")
_PATH_BYTES = b"/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"


def is_object_path(text: str) -> bool:
    """An object path: of any length, so long ones are not kept."""
    if len(text) <= MAX_NAME:
        return _is_short_path(text)
    return (
        text[0] == "/" and text[-1] != "/" and "//" not in text
        and text.isascii() and not text.encode().translate(None, _PATH_BYTES)
    )
