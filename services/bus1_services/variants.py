"""variants: values as other libraries have them, for code that came from there.

Theory. Natively, a value with a type of its own is a ``Variant``. Some libraries take and give the bare
value, others a pair of type and value. Services that ``bus1 migrate`` has carried over convert where a
value comes in or goes out.

Not here: bytes (``body``).
"""

from __future__ import annotations

from typing import Any

from .body import Variant
from .types import Type, single


def bare(value: Any) -> Any:
    """The value without any variant, at every depth: as pydbus gives arguments."""
    match value:
        case Variant():
            return bare(value.value)
        case list():
            return [bare(item) for item in value]
        case tuple():
            return tuple(bare(item) for item in value)
        case dict():
            return {bare(key): bare(item) for key, item in value.items()}
    return value


def pairs(value: Any) -> Any:
    """The value with a pair ``(type, value)`` for each variant, at every depth: as sdbus gives arguments."""
    match value:
        case Variant():
            return value.signature, pairs(value.value)
        case list():
            return [pairs(item) for item in value]
        case tuple():
            return tuple(pairs(item) for item in value)
        case dict():
            return {pairs(key): pairs(item) for key, item in value.items()}
    return value


def unpaired(signature: str, value: Any) -> Any:
    """The value of one complete type with a Variant for each pair where the type has ``v``.

    SignatureInvalid for a type that is none; TypeError or ValueError for a value that does not fit."""
    return _unpaired(single(signature), value)


def _unpaired(type_: Type, value: Any) -> Any:
    if "v" not in type_.signature:
        return value
    if type_.code == "v":
        if isinstance(value, Variant):
            return value
        signature, inside = value
        return Variant(signature, _unpaired(single(signature), inside))
    if type_.code == "(":
        return tuple(_unpaired(inside, item) for inside, item in zip(type_.inside, value, strict=True))
    (element,) = type_.inside
    if element.code == "{":
        return {_unpaired(element.inside[0], k): _unpaired(element.inside[1], v) for k, v in value.items()}
    return [_unpaired(element, item) for item in value]
