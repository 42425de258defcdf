"""hints: D-Bus types out of Python type hints.

Theory. ``Annotated[int, Signature("u")]`` says its signature; the aliases below cover the basic types, so
that a method reads ``def seek(self, offset: Int64) -> Bool``. Other hints work, too:

    str s, bool b, int i, float d, bytes ay, Variant v, ObjectPath o, UnixFd h
    list[T], tuple[T, ...]             aT
    dict[K, V]                         a{KV}
    tuple[A, B], NamedTuple, dataclass (AB)
    TypedDict                          a{sv}, whose keys have types of their own
    T | None                           aT: an array of one, or none
    Enum                               its values': s, i, or u for flags
    a class with an interface          o: a capability, and the other side gets a proxy of that class
    such a class | None                o: without an object, the path /
    Stream[T]                          o: results that come one after the other

Where ``Annotated`` or a decorator says a signature, that is the type, and the hint must be able to hold it:
``Annotated[Mode, Signature("u")]``. A hint of which nothing is known, like Any, holds everything.

Invariants. 1. What is read is one complete type. 2. A hint it cannot read is a TypeError
when the interface is first used, never a wrong signature.

Not here: which hints belong to which argument (``members``), what is done with values (``conversion``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum, Flag
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    NewType,
    NotRequired,
    Required,
    TypeAlias,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from . import conversion
from .body import Variant
from .conversion import Conversion, Misfit
from .descriptor import UnixFd
from .types import BASIC, ObjectPath, SignatureInvalid, Type, single


@dataclass(frozen=True, slots=True)
class Signature:
    """In ``Annotated``: the D-Bus type of a value; one complete type that the hint can hold, or TypeError."""

    text: str


@dataclass(frozen=True, slots=True)
class Named:
    """In ``Annotated``: what introspection calls an argument or a result, and its annotations."""

    text: str
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


Byte = Annotated[int, Signature("y")]
"""``y``: 0 to 255."""
Bool = Annotated[bool, Signature("b")]
"""``b``: true or false."""
Int16 = Annotated[int, Signature("n")]
"""``n``: 16 bits, signed."""
UInt16 = Annotated[int, Signature("q")]
"""``q``: 16 bits, not signed."""
Int32 = Annotated[int, Signature("i")]
"""``i``: 32 bits, signed."""
UInt32 = Annotated[int, Signature("u")]
"""``u``: 32 bits, not signed."""
Int64 = Annotated[int, Signature("x")]
"""``x``: 64 bits, signed."""
UInt64 = Annotated[int, Signature("t")]
"""``t``: 64 bits, not signed."""
Double = Annotated[float, Signature("d")]
"""``d``: a float."""
Str = Annotated[str, Signature("s")]
"""``s``: a text, without NUL."""
Bytes = Annotated[bytes, Signature("ay")]
"""``ay``: bytes, as ``bytes``."""
VariantDict = Annotated[dict[str, Variant], Signature("a{sv}")]
"""``a{sv}``: values of any type by their names."""

_PLAIN: dict[Any, str] = {
    str: "s", bool: "b", int: "i", float: "d", bytes: "ay", Variant: "v", ObjectPath: "o", UnixFd: "h",
}
_HOLDS: dict[Any, str] = {str: "sog", int: "ynqiuxt"}
"""What may be said of the hints that hold more than one type."""
_RANGES: dict[str, range] = {
    code: range(-(1 << bits - 1), 1 << bits - 1) if code in "nix" else range(1 << bits)
    for code, bits in {"y": 8, "n": 16, "q": 16, "i": 32, "u": 32, "x": 64, "t": 64}.items()
}

Part: TypeAlias = Callable[[Any, Type | None], Conversion]
"""Reads a hint inside another one, and the type that is said for it."""


def conversion_of(hint: Any, signature: str | None = None) -> Conversion:
    """What is done with values of this hint, whose type ``signature`` may say; TypeError."""
    try:
        return _read(hint, None if signature is None else single(signature), ())
    except SignatureInvalid as error:
        raise TypeError(f"{hint!r} gives no D-Bus type: {error}") from error


def signature_of(hint: Any) -> str:
    """The one complete type of values of this hint; TypeError for a hint without one."""
    return single(conversion_of(hint).signature).signature


def named(hint: Any) -> Named | None:
    """What a hint says about how its argument is called."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note for note in notes if isinstance(note, Named)), None)


def fields_of(kind: type) -> dict[str, Any]:
    """The hints of the fields of a dataclass, a NamedTuple or a TypedDict, in order; TypeError."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"a field of {kind.__qualname__} cannot be read: {error}") from error
    if is_dataclass(kind):
        return {one.name: hints[one.name] for one in fields(kind) if one.init}
    return {name: hints.get(name) for name in getattr(kind, "_fields", hints)}


def _read(hint: Any, said: Type | None, within: tuple[type, ...]) -> Conversion:
    if isinstance(hint, NewType):
        return _read(hint.__supertype__, said, within)
    if type(hint).__name__ == "TypeAliasType":  # ``type Name = ...``, which Python 3.11 does not have
        return _read(hint.__value__, said, within)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        # The outermost one, which typing puts last.
        note = next((note for note in reversed(arguments) if isinstance(note, Signature)), None)
        return _read(arguments[0], said if note is None else _agreed(hint, note.text, said), within)

    def part(inner: Any, type_: Type | None) -> Conversion:
        return _read(inner, type_, within)

    if origin in {Union, UnionType}:
        return _optional(hint, arguments, said, part)
    if origin is None and isinstance(hint, type):
        found = _class(hint, said, within)
    else:
        found = _container(hint, origin, arguments, said, part)
    if found is not None:
        _agreed(hint, found.signature, said)
        return found
    if said is None:
        raise TypeError(f"{hint!r} has no D-Bus type; say it with Annotated[..., Signature('...')]")
    return Conversion(said.signature)


def _agreed(hint: Any, signature: str, said: Type | None) -> Type:
    """The type, which is the one that is said, if one is; TypeError."""
    if said is not None and said.signature != signature:
        raise TypeError(f"{hint!r} is {signature!r} on the bus, and cannot be {said.signature!r}")
    return said or single(signature)


def _class(hint: type, said: Type | None, within: tuple[type, ...]) -> Conversion | None:
    if hint in _PLAIN:
        may_be = said is not None and said.signature in _HOLDS.get(hint, "")
        return Conversion(said.signature if said is not None and may_be else _PLAIN[hint])
    if hasattr(hint, "__interface__"):
        return conversion.capability(hint)
    if issubclass(hint, Enum):
        return conversion.enumeration(hint, _type_of_enum(hint, said))
    is_struct = is_dataclass(hint) or (issubclass(hint, tuple) and hasattr(hint, "_fields"))
    if not is_struct and not is_typeddict(hint):
        return None
    if hint in within:
        raise TypeError(f"{hint.__qualname__} contains itself, which no D-Bus type does")

    def part(inner: Any, type_: Type | None) -> Conversion:
        return _read(inner, type_, (*within, hint))

    return _struct(hint, said, part) if is_struct else _record(hint, part)


def _container(
    hint: Any, origin: Any, arguments: tuple[Any, ...], said: Type | None, part: Part
) -> Conversion | None:
    if hasattr(origin, "__conversion__"):
        return cast(Conversion, origin.__conversion__(*(part(argument, None) for argument in arguments)))
    if origin is list:
        return conversion.array(part(arguments[0], _element(hint, said)))
    if origin is dict:
        return _mapping(hint, arguments, said, part)
    if origin is not tuple or not arguments:
        return None
    if arguments[-1] is Ellipsis:
        return conversion.array(part(arguments[0], _element(hint, said)), tuple)
    return conversion.struct(_parts({str(n): hint for n, hint in enumerate(arguments)}, hint, said, part))


def _optional(hint: Any, arguments: tuple[Any, ...], said: Type | None, part: Part) -> Conversion:
    inner = [argument for argument in arguments if argument is not NoneType]
    if len(inner) != 1 or len(inner) == len(arguments):
        raise TypeError(f"{hint!r} is several types, and a value on the bus has one")
    bare = get_args(inner[0])[0] if get_origin(inner[0]) is Annotated else inner[0]
    if isinstance(bare, type) and hasattr(bare, "__interface__"):
        found = conversion.optional_capability(bare)
    else:
        found = conversion.optional(part(inner[0], _element(hint, said)))
    _agreed(hint, found.signature, said)
    return found


def _mapping(hint: Any, arguments: tuple[Any, ...], said: Type | None, part: Part) -> Conversion:
    entry = _element(hint, said, is_dict=True)
    key_type, item_type = (None, None) if entry is None else entry.inside
    key = part(arguments[0], key_type)
    if key.signature not in BASIC:
        raise TypeError(f"{hint!r} has keys of type {key.signature!r}, which D-Bus does not have")
    return conversion.mapping(key, part(arguments[1], item_type))


def _element(hint: Any, said: Type | None, is_dict: bool = False) -> Type | None:
    """The type inside the array that is said, which is one of entries, or is not."""
    if said is None:
        return None
    if said.code != "a" or (said.inside[0].code == "{") != is_dict:
        what = "a dictionary" if is_dict else "an array"
        raise TypeError(f"{hint!r} is {what} on the bus, and cannot be {said.signature!r}")
    return said.inside[0]


def _struct(kind: type, said: Type | None, part: Part) -> Conversion:
    parts = _parts(fields_of(kind), kind, said, part)
    if not is_dataclass(kind):
        return conversion.struct(parts, kind._make)  # type: ignore[attr-defined]

    def split(value: Any) -> list[Any]:
        if not isinstance(value, kind):
            raise Misfit(f"a {type(value).__name__} is no {kind.__qualname__}")
        return [getattr(value, name) for name in parts]

    return conversion.struct(parts, lambda values: kind(**dict(zip(parts, values, strict=True))), split)


def _parts(hints: Mapping[str, Any], of: Any, said: Type | None, part: Part) -> dict[str, Conversion]:
    if said is not None and (said.code != "(" or len(said.inside) != len(hints)):
        raise TypeError(f"{of!r} is a struct of {len(hints)}, and cannot be {said.signature!r}")
    types = [None] * len(hints) if said is None else said.inside
    return {name: part(hint, type_) for (name, hint), type_ in zip(hints.items(), types, strict=True)}


def _record(kind: Any, part: Part) -> Conversion:
    hints = fields_of(kind)
    # Of hints that are strings, typing does not know which it should have taken for NotRequired.
    required = frozenset(
        key for key, hint in hints.items()
        if get_origin(hint) is Required
        or (key in kind.__required_keys__ and get_origin(hint) is not NotRequired)
    )
    bare = {
        key: get_args(hint)[0] if get_origin(hint) in {Required, NotRequired} else hint
        for key, hint in hints.items()
    }
    return conversion.record(kind, {key: part(hint, None) for key, hint in bare.items()}, required)


def _type_of_enum(kind: type[Enum], said: Type | None) -> str:
    values = [member.value for member in kind.__members__.values()]
    is_text = all(isinstance(value, str) for value in values)
    is_number = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    if not values or not (is_text or is_number):
        raise TypeError(f"{kind.__qualname__} has values that are neither all text nor all numbers")
    usual = "s" if is_text else "u" if issubclass(kind, Flag) else "i"
    signature = usual if said is None else said.signature
    if is_text and signature in _HOLDS[str]:
        return signature
    if is_text or signature not in _RANGES:
        raise TypeError(f"{kind.__qualname__} cannot be {signature!r} on the bus")
    if outside := [value for value in values if value not in _RANGES[signature]]:
        raise TypeError(f"{kind.__qualname__} has {outside[0]}, which is no {signature!r}; "
                        "say another type with Annotated[..., Signature('...')]")
    return signature
