"""hints: D-Bus signatures out of Python type hints.

Theory. ``Annotated[int, Signature("u")]`` says its signature; the aliases below cover the basic types, so
that a method reads ``def seek(self, offset: Int64) -> Bool``. Plain hints work, too:
``str`` s, ``bool`` b, ``int`` i, ``float`` d, ``bytes`` ay, ``list[T]`` aT, ``dict[K, V]``
a{KV}, ``tuple[A, B]`` (AB), Variant v, ObjectPath o, UnixFd h. A class with an interface is ``o``: the
argument is a capability, and the other side gets a proxy of that class.

Invariants. 1. What ``signature_of`` returns is one complete type. 2. A hint it cannot read is a TypeError
when the interface is first used, never a wrong signature.

Not here: which hints belong to which argument (``interface``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from .body import Variant
from .descriptor import UnixFd
from .types import ObjectPath, SignatureInvalid, single


@dataclass(frozen=True, slots=True)
class Signature:
    """In ``Annotated``: the D-Bus type of a value; one complete type."""

    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """In ``Annotated``: what introspection calls an argument or a result, and its annotations."""

    text: str
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


Byte = Annotated[int, Signature("y")]
Bool = Annotated[bool, Signature("b")]
Int16 = Annotated[int, Signature("n")]
UInt16 = Annotated[int, Signature("q")]
Int32 = Annotated[int, Signature("i")]
UInt32 = Annotated[int, Signature("u")]
Int64 = Annotated[int, Signature("x")]
UInt64 = Annotated[int, Signature("t")]
Double = Annotated[float, Signature("d")]
Str = Annotated[str, Signature("s")]
Bytes = Annotated[bytes, Signature("ay")]
VariantDict = Annotated[dict[str, Variant], Signature("a{sv}")]

_PLAIN: dict[Any, str] = {
    str: "s", bool: "b", int: "i", float: "d", bytes: "ay", Variant: "v", ObjectPath: "o", UnixFd: "h",
}


def signature_of(hint: Any) -> str:
    """The one complete type of values of this hint; TypeError for a hint without one."""
    signature = _text_of(hint)
    try:
        return single(signature).signature
    except SignatureInvalid as error:
        raise TypeError(f"{hint!r} gives no D-Bus type: {error}") from error


def interface_in(hint: Any) -> type | None:
    """The interface class of a hint for a capability."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return hint if isinstance(hint, type) and hasattr(hint, "__interface__") else None


def named(hint: Any) -> Named | None:
    """What a hint says about how its argument is called."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note for note in notes if isinstance(note, Named)), None)


def _text_of(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        inner, *notes = get_args(hint)
        return next((note.text for note in notes if isinstance(note, Signature)), None) or _text_of(inner)
    if interface_in(hint) is not None:
        return "o"
    if hint in _PLAIN:
        return _PLAIN[hint]
    arguments = get_args(hint)
    match get_origin(hint), len(arguments):
        case origin, 1 if origin is list:
            return "a" + _text_of(arguments[0])
        case origin, 2 if origin is dict:
            return "a{" + _text_of(arguments[0]) + _text_of(arguments[1]) + "}"
        case origin, n if origin is tuple and n and Ellipsis not in arguments:
            return "(" + "".join(map(_text_of, arguments)) + ")"
    raise TypeError(f"{hint!r} has no D-Bus type; say it with Annotated[..., Signature('...')]")
