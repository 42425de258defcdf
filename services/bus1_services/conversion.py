"""conversion: what is done with values of a type between Python and the bus.

Theory. ``body`` knows plain values: numbers, texts, lists, tuples, dictionaries. A ``Conversion`` makes
others of them, and back: members of enumerations, dataclasses, objects. Its two functions are None where
nothing is to be done, which is the rule: such values pass as they are, at no cost. The Conversion of a
container is put together from those of what is inside, once, when a declaration is read.

A capability that arrives is handed to ``adopt``, of whoever reads, which makes an object of the class.

Invariants. 1. The signature of a Conversion is one complete type. 2. A value that arrives and does not fit is
a Misfit; code of the program's own classes, which runs here, may raise anything.

Not here: which hint means which Conversion (``hints``), several values in a row (``row``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, TypeAlias

from .body import Reference, Variant
from .types import ObjectPath

NO_OBJECT = ObjectPath("/")
"""Stands for no object where one may be missing, as in the services of others."""
TEXT_MAX = 80
"""Characters of a value that an error tells."""


class Misfit(ValueError):
    """A value has the type that was declared, and still is none of those that are meant."""


class Adopt(Protocol):
    """What makes a capability that arrived an object of a class; Misfit."""

    def __call__(self, interface: type[Any], value: Any, /) -> Any: ...


Reader: TypeAlias = Callable[[Any, Adopt], Any]
Writer: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Conversion:
    """A D-Bus type, and how its values are read and written; None: as they are.

    ``annotations`` tell in introspection what the type does not."""

    signature: str
    read: Reader | None = None
    write: Writer | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


def read_part(name: str, part: Conversion, value: Any, adopt: Adopt) -> Any:
    """The part of a value that is called ``name``; a Misfit says so."""
    if part.read is None:
        return value
    try:
        return part.read(value, adopt)
    except Misfit as misfit:
        raise Misfit(f"{name}: {misfit}") from None


def write_part(name: str, part: Conversion, value: Any) -> Any:
    """The same on the way out; Misfit."""
    if part.write is None:
        return value
    try:
        return part.write(value)
    except Misfit as misfit:
        raise Misfit(f"{name}: {misfit}") from None


def capability(interface: type) -> Conversion:
    """An object: ``o``."""
    return Conversion("o", lambda value, adopt: adopt(interface, value))


def optional_capability(interface: type) -> Conversion:
    """An object, or None: the path ``/``."""

    def read(value: Any, adopt: Adopt) -> Any:
        if value == NO_OBJECT and not isinstance(value, Reference):
            return None
        return adopt(interface, value)

    return Conversion("o", read, lambda value: NO_OBJECT if value is None else value)


def optional(one: Conversion) -> Conversion:
    """A value, or None: an array of one, or none."""

    def read(value: Any, adopt: Adopt) -> Any:
        if len(value) > 1:
            raise Misfit(f"{len(value)} values, where one or none is expected")
        if not value:
            return None
        return value[0] if one.read is None else one.read(value[0], adopt)

    def write(value: Any) -> Any:
        if value is None:
            return []
        return [value if one.write is None else one.write(value)]

    return Conversion("a" + one.signature, read, write)


def array(one: Conversion, kind: Callable[[Any], Any] = list) -> Conversion:
    """A list, or a tuple, of any length."""
    read, write = one.read, one.write

    def each(value: Any, adopt: Adopt) -> Any:
        assert read is not None
        return kind([read(item, adopt) for item in value])

    def every(value: Any) -> Any:
        if isinstance(value, str):
            # Python has it as a sequence of texts, and nobody means that
            raise Misfit(f"{_shortened(value)} is a text, not a list")
        return value if write is None else [write(item) for item in value]

    # The bytes of ``ay`` are no list yet.
    is_ready = kind is list and one.signature != "y"
    reader = each if read is not None else None if is_ready else lambda value, _: kind(value)
    is_written = write is not None or one.signature == "s"
    return Conversion("a" + one.signature, reader, every if is_written else None)


def mapping(key: Conversion, item: Conversion) -> Conversion:
    """A dictionary."""

    def read(value: Any, adopt: Adopt) -> Any:
        return {
            k if key.read is None else key.read(k, adopt): v if item.read is None else item.read(v, adopt)
            for k, v in value.items()
        }

    def write(value: Any) -> Any:
        return {
            k if key.write is None else key.write(k): v if item.write is None else item.write(v)
            for k, v in value.items()
        }

    return Conversion(
        f"a{{{key.signature}{item.signature}}}",
        None if key.read is item.read is None else read,
        None if key.write is item.write is None else write,
    )


def enumeration(kind: type[Enum], signature: str) -> Conversion:
    """A member of ``kind``, or what a flag keeps of unknown bits, by its value."""

    known = {member.value: member for member in kind.__members__.values()}

    def member(value: Any) -> Enum:
        try:
            return kind(value)
        except ValueError:
            raise Misfit(f"{_shortened(value)} is no {kind.__qualname__}") from None

    def read(value: Any, adopt: Adopt) -> Enum:
        return known.get(value) or member(value)

    def write(value: Any) -> Any:
        return value._value_ if type(value) is kind else member(value).value

    return Conversion(signature, read, write)


def struct(
    parts: Mapping[str, Conversion], make: Callable[[Sequence[Any]], Any] | None = None,
    split: Callable[[Any], Sequence[Any]] | None = None,
) -> Conversion:
    """A struct of named parts: ``make`` of them what Python has, ``split`` that; a tuple without."""
    named = list(parts.items())
    is_read = make is not None or any(part.read for part in parts.values())
    is_written = split is not None or any(part.write for part in parts.values())

    def read(value: Any, adopt: Adopt) -> Any:
        pairs = zip(named, value, strict=True)
        values = [read_part(name, part, inside, adopt) for (name, part), inside in pairs]
        return tuple(values) if make is None else make(values)

    def write(value: Any) -> Any:
        inside = value if split is None else split(value)
        if len(inside) != len(named):
            raise Misfit(f"{len(inside)} values for a struct of {len(named)}")
        pairs = zip(named, inside, strict=True)
        return tuple([write_part(name, part, value) for (name, part), value in pairs])

    signature = "(" + "".join(part.signature for part in parts.values()) + ")"
    return Conversion(signature, read if is_read else None, write if is_written else None)


def record(kind: type, keys: Mapping[str, Conversion], required: frozenset[str]) -> Conversion:
    """``a{sv}`` whose known keys have types of their own; unknown ones are left out when it is read."""
    name = kind.__qualname__

    def read(value: Any, adopt: Adopt) -> Any:
        if missing := sorted(required - value.keys()):
            raise Misfit(f"{name} without {', '.join(missing)}")
        return {key: _opened(key, part, value[key], adopt) for key, part in keys.items() if key in value}

    def write(value: Any) -> Any:
        if missing := sorted(required - value.keys()):
            raise Misfit(f"{name} without {', '.join(missing)}")
        if unknown := sorted(value.keys() - keys.keys()):
            raise Misfit(f"{name} has no {', '.join(unknown)}")
        return {
            key: Variant(keys[key].signature, write_part(key, keys[key], inside))
            for key, inside in value.items()
        }

    return Conversion("a{sv}", read, write)


def _opened(key: str, part: Conversion, variant: Variant, adopt: Adopt) -> Any:
    if variant.signature != part.signature:
        raise Misfit(f"{key} is a {part.signature!r}, not a {variant.signature!r}")
    return read_part(key, part, variant.value, adopt)


def _shortened(value: object) -> str:
    return repr(value)[:TEXT_MAX]
