"""plain: values as JSON, and as the words of a command line; both are busctl's.

Theory. JSON says types apart from values: ``{"type": "as", "data": [["a", "b"]]}``, with one item of ``data``
for each argument, and so again inside of a variant. Bytes are numbers, keys are text, a descriptor is its
number in the message; what JSON has no number for is the text ``NaN`` or ``Infinity``. Words are
the values alone, as ``busctl call`` takes them: ``as 2 a b``, ``a{sv} 1 One s Eins``.

Invariants. 1. What is read fits its signature. 2. ``from_json(s, to_json(s, v)) == v`` for what ``body``
reads, descriptors and capabilities apart. 3. Reading raises PlainError and nothing else.

Not here: whole messages (``recording``), what values are in Python (``body``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .body import Variant
from .types import MAX_DEPTH, ObjectPath, SignatureInvalid, Type, is_object_path, parse, single

_BITS = {"y": (0, 8), "n": (1, 16), "q": (0, 16), "i": (1, 32), "u": (0, 32), "x": (1, 64), "t": (0, 64),
         "h": (0, 32)}
_TRUE, _FALSE = ("true", "yes", "y", "on", "t", "1"), ("false", "no", "n", "off", "f", "0")
_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


class PlainError(ValueError):
    """This is not a value of that type; the text says which, and why."""


# ---- JSON ------------------------------------------------------------------------------------------


def to_json(signature: str, values: Sequence[Any]) -> list[Any]:
    """The ``data`` of values that fit ``signature``."""
    return [_written(type_, value) for type_, value in zip(parse(signature), values, strict=True)]


def from_json(signature: str, data: Any) -> tuple[Any, ...]:
    """The values behind a ``data``; PlainError."""
    types = _types(signature)
    if not isinstance(data, list) or len(data) != len(types):
        raise PlainError(f"{_shown(data)} is not a value for each type of {signature!r}")
    return tuple(_read(type_, item, 0) for type_, item in zip(types, data, strict=True))


def _written(type_: Type, value: Any) -> Any:
    match type_.code:
        case "v":
            return {"type": value.signature, "data": _written(single(value.signature), value.value)}
        case "(":
            return [_written(inside, item) for inside, item in zip(type_.inside, value, strict=True)]
        case "a":
            (element,) = type_.inside
            if element.code == "{":
                key, item = element.inside
                return {_key(_written(key, k)): _written(item, v) for k, v in value.items()}
            return [_written(element, item) for item in value]
        case "d":
            return value if abs(value) < float("inf") else json.dumps(value)
        case "h":
            return value if isinstance(value, int) else 0
        case "s" | "o" | "g":
            return str(value)
    return value


def _key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _read(type_: Type, data: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PlainError(f"values nest deeper than {MAX_DEPTH}")
    match type_.code:
        case "v":
            if not isinstance(data, dict) or not isinstance(data.get("type"), str) or "data" not in data:
                _misfit(type_, data)
            (inside,) = _types(data["type"], only=1)
            return Variant(inside.signature, _read(inside, data["data"], depth + 1))
        case "(":
            if not isinstance(data, list) or len(data) != len(type_.inside):
                _misfit(type_, data)
            return tuple(_read(t, item, depth + 1) for t, item in zip(type_.inside, data, strict=True))
        case "a":
            return _read_array(type_, data, depth + 1)
        case "s" | "o" | "g":
            return _checked(type_, data) if isinstance(data, str) else _misfit(type_, data)
        case "d":
            if isinstance(data, str) and data in _SPECIAL:
                return _SPECIAL[data]
            is_number = isinstance(data, int | float) and not isinstance(data, bool)
            return _double(type_, data) if is_number else _misfit(type_, data)
        case "b":
            return data if isinstance(data, bool) else _misfit(type_, data)
    if not isinstance(data, int) or isinstance(data, bool):
        _misfit(type_, data)
    return _checked(type_, data)


def _read_array(type_: Type, data: Any, depth: int) -> Any:
    (element,) = type_.inside
    if element.code == "{":
        if not isinstance(data, dict):
            _misfit(type_, data)
        key, item = element.inside
        return {_read_key(key, k): _read(item, v, depth) for k, v in data.items()}
    if not isinstance(data, list):
        _misfit(type_, data)
    values = [_read(element, item, depth) for item in data]
    return bytes(values) if element.code == "y" else values


def _read_key(type_: Type, text: str) -> Any:
    if type_.code in "sog":
        return _checked(type_, text)
    try:
        return _read(type_, json.loads(text), 0)
    except (ValueError, RecursionError):
        _misfit(type_, text)


# ---- words -----------------------------------------------------------------------------------------


def from_words(signature: str, words: Sequence[str]) -> tuple[Any, ...]:
    """The values that follow a signature on a command line; PlainError."""
    left = iter(words)
    values = tuple(_taken(type_, left, 0) for type_ in _types(signature))
    if (more := next(left, None)) is not None:
        raise PlainError(f"{more!r} is one word more than {signature!r} takes")
    return values


def to_words(signature: str, values: Sequence[Any]) -> str:
    """Signature and values on one line, texts in quotes: what ``busctl call`` shows."""
    words = [signature] if signature else []
    for type_, value in zip(parse(signature), values, strict=True):
        words += _words(type_, value)
    return " ".join(words)


def _taken(type_: Type, words: Iterator[str], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise PlainError(f"values nest deeper than {MAX_DEPTH}")
    if type_.code == "(":
        return tuple(_taken(inside, words, depth + 1) for inside in type_.inside)
    word = next(words, None)
    if word is None:
        raise PlainError(f"a value of type {type_.signature!r} is missing at the end")
    match type_.code:
        case "v":
            (inside,) = _types(word, only=1)
            return Variant(inside.signature, _taken(inside, words, depth + 1))
        case "a":
            (element,) = type_.inside
            count = _number(type_, word)
            if element.code == "{":
                key, item = element.inside
                return {_taken(key, words, depth + 1): _taken(item, words, depth + 1) for _ in range(count)}
            values = [_taken(element, words, depth + 1) for _ in range(count)]
            return bytes(values) if element.code == "y" else values
        case "s" | "o" | "g":
            return _checked(type_, word)
        case "d":
            return _double(type_, word)
        case "b":
            return _boolean(type_, word)
    return _checked(type_, _number(type_, word))


def _words(type_: Type, value: Any) -> list[str]:
    match type_.code:
        case "v":
            return [value.signature, *_words(single(value.signature), value.value)]
        case "(":
            pairs = zip(type_.inside, value, strict=True)
            return [word for inside, item in pairs for word in _words(inside, item)]
        case "a":
            (element,) = type_.inside
            if element.code == "{":
                key, item = element.inside
                words = [word for k, v in value.items() for word in (*_words(key, k), *_words(item, v))]
            else:
                words = [word for item in value for word in _words(element, item)]
            return [str(len(value)), *words]
        case "s" | "o" | "g":
            return [json.dumps(str(value), ensure_ascii=False)]
        case "b":
            return ["true" if value else "false"]
        case "d":
            return [f"{value:.17g}"]
    return [str(value)]


# ---- single values ---------------------------------------------------------------------------------


def _types(signature: str, *, only: int | None = None) -> tuple[Type, ...]:
    try:
        types = parse(signature)
    except SignatureInvalid as error:
        raise PlainError(str(error)) from None
    if only is not None and len(types) != only:
        raise PlainError(f"{signature!r} is not one complete type")
    return types


def _checked(type_: Type, value: Any) -> Any:
    """A text or an integer that its type can have."""
    match type_.code:
        case "o":
            return ObjectPath(value) if is_object_path(value) else _misfit(type_, value)
        case "g":
            _types(value)
            return value
        case "s":
            return value if _is_text(value) else _misfit(type_, value)
    signed, bits = _BITS[type_.code]
    low, high = -signed << (bits - 1), 1 << (bits - signed)
    return value if low <= value < high else _misfit(type_, value)


def _is_text(text: str) -> bool:
    try:
        return b"\0" not in text.encode()
    except UnicodeEncodeError:
        return False


def _number(type_: Type, word: str) -> int:
    try:
        return int(word, 0)
    except ValueError:
        _misfit(type_, word)


def _double(type_: Type, value: Any) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        _misfit(type_, value)


def _boolean(type_: Type, word: str) -> bool:
    if word.lower() not in _TRUE + _FALSE:
        _misfit(type_, word)
    return word.lower() in _TRUE


def _misfit(type_: Type, value: Any) -> NoReturn:
    raise PlainError(f"{_shown(value)} is not a value of type {type_.signature!r}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."
