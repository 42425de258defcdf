"""body: D-Bus bodies to Python values and back, with the capabilities and descriptors in them.

Theory. Writing: dbus_fast marshals, this is the only file that knows its private marshaller. Before it
does, values are walked where their type contains ``o``, ``h`` or ``v``: a descriptor becomes its index
in the list of the transaction's descriptors, an object becomes its path, and is noted with the
ordinal of that path (the envelope's ``caps``). Bodies are written little-endian.

Reading: own code. A native sender's body has been checked by nobody, and dbus_fast's reader is made for
bodies that a bus has checked: a wrong length makes it read outside the buffer. Here every step stays
inside, and all that D-Bus asks of a body is checked on the way, in both byte orders.

What the native body has a codec for it does: everyday values, and bodies that are right. Everything else, and
every complaint, is the business of what is here.

Python's types: ``y n q i u x t`` int, ``b`` bool, ``d`` float, ``s g`` str, ``o`` ObjectPath or Reference,
``h`` a descriptor's owner, ``ay`` bytes, other arrays list, ``a{..}`` dict, structs tuple, ``v`` Variant.

Invariants. 1. ``decode(s, encode(s, v).data, "l") == v`` for values of the types above. 2. ``decode``
raises RemoteProtocolError and nothing else, whatever the bytes are. 3. ``encode`` raises
InvalidArgument for values that do not fit, and its result passes ``decode``.

Not here: which objects may become capabilities (``grant``, of the caller), envelopes (``call``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from dbus_fast import Variant as _WireVariant
from dbus_fast._private.marshaller import Marshaller
from dbus_fast.errors import DBusFastError, InternalError

from bus1.acceleration import native
from bus1.core.api import Buffer
from bus1.errors import InvalidArgument, RemoteProtocolError

from . import quick
from .types import MAX_ARRAY, MAX_DEPTH, ObjectPath, Type, is_object_path, parse, single
from .way import Way

Grant: TypeAlias = Callable[[object], "tuple[str, Any] | None"]
"""The path of an object that may become a capability, and what to send for it; None for others."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A value with its type; ``signature`` is one complete type."""

    signature: str
    value: Any


class Reference(ObjectPath):
    """A path that came with a capability; ``handle`` is None if the object was already gone."""

    handle: Any

    def __new__(cls, path: str, handle: Any) -> Reference:
        reference = super().__new__(cls, path)
        reference.handle = handle
        return reference

    @property
    def path(self) -> str:
        """The path as plain text."""
        return str.__str__(self)


@dataclass(slots=True)
class Encoded:
    """A body; ``grants`` are (ordinal of the path, what ``grant`` gave), ``fds`` the descriptors."""

    data: bytes
    grants: tuple[tuple[int, Any], ...] = ()
    fds: tuple[Any, ...] = ()


def encode(signature: str, values: Sequence[Any], grant: Grant = lambda _: None) -> Encoded:
    """The body of ``values``, little-endian; InvalidArgument if they do not fit ``signature``."""
    if (plain := _encode(signature, values)) is not None:
        return Encoded(plain)
    try:
        types = parse(signature)
        if len(types) != len(values):
            raise InvalidArgument(f"{len(values)} values for {signature!r}")
        writer = _Writer(grant)
        body = [writer.plain(type_, value, 0) for type_, value in zip(types, values, strict=True)]
        data = bytes(Marshaller(signature, body).marshall())
    except InvalidArgument:
        raise
    except _MISFITS as error:
        # what dbus_fast calls internal is that its marshaller failed, and its verification finds nothing
        reason = "a wrong type, or beyond its range" if isinstance(error, InternalError) else error
        raise InvalidArgument(f"values do not fit {signature!r}: {reason}") from error
    return Encoded(data, tuple(writer.grants), tuple(writer.fds))


def decode(
    signature: str, body: Buffer, endian: str, *, caps: Iterable[tuple[int, int]] = (),
    handles: Sequence[Any] = (), fds: Sequence[Any] = (),
) -> list[Any]:
    """The values of a whole body; RemoteProtocolError. ``caps`` is the envelope's."""
    if not caps and (len(body) <= _SMALL or not _is_bulk(signature)):
        plain: list[Any] | None = _decode(signature, body, endian == "l")
        if plain is not None:
            return plain
    reader = _Reader(body, endian, caps, handles, fds)
    try:
        values = [_READ[type_.code](reader, type_) for type_ in parse(signature)]
    except struct.error as error:
        raise RemoteProtocolError("the body ends too early") from error
    if reader.position != reader.size:
        raise RemoteProtocolError(f"{reader.size - reader.position} bytes behind the body")
    if reader.caps:
        raise RemoteProtocolError("a capability for an object path that the body does not have")
    return values


_native = None if native is None else native.Bodies(ObjectPath, Variant)
_encode, _decode = (quick.encode, quick.decode) if _native is None else (_native.encode, _native.decode)
"""For bodies of everyday; None for others."""


def short_way(exchange: Any) -> Any:
    """The way of everyday calls through this exchange (``swift``)."""
    return Way(exchange) if _native is None or native is None else native.Swift(exchange, _native)


_SMALL = 1 << 16


@lru_cache(maxsize=1024)
def _is_bulk(signature: str) -> bool:
    """Long bodies of this are arrays of numbers, which are not copied once more."""
    return all(type_.code == "a" and type_.inside[0].fixed for type_ in parse(signature))


@lru_cache(maxsize=1024)
def _is_walked(type_: Type) -> bool:
    return type_.code in "ohv(" or type_.signature == "ay" or any(map(_is_walked, type_.inside))


class _Writer:
    """Turns values into what the marshaller takes, in marshalling order."""

    def __init__(self, grant: Grant) -> None:
        self.grants: list[tuple[int, Any]] = []
        self.fds: list[Any] = []
        self._grant = grant
        self._paths = 0

    def plain(self, type_: Type, value: Any, depth: int) -> Any:
        if not _is_walked(type_):
            return value
        if depth > MAX_DEPTH:
            raise InvalidArgument(f"values nest deeper than {MAX_DEPTH}")
        return self._PLAIN[type_.code](self, type_, value, depth + 1)

    def _path(self, type_: Type, value: Any, depth: int) -> str:
        ordinal, self._paths = self._paths, self._paths + 1
        granted = None if type(value) is str or type(value) is ObjectPath else self._grant(value)
        if granted is not None:
            value = granted[0]
            self.grants.append((ordinal, granted[1]))
        if not isinstance(value, str) or not is_object_path(value):
            raise InvalidArgument(f"not an object path: {value!r}")
        return str(value)

    def _descriptor(self, type_: Type, value: Any, depth: int) -> int:
        self.fds.append(value)
        return len(self.fds) - 1

    def _variant(self, type_: Type, value: Any, depth: int) -> _WireVariant:
        if not isinstance(value, Variant):
            raise InvalidArgument(f"not a Variant: {value!r}")
        plain = self.plain(single(value.signature), value.value, depth)
        return _WireVariant(value.signature, plain, verify=False)

    def _array(self, type_: Type, value: Any, depth: int) -> Any:
        element = type_.inside[0]
        if element.code == "y":
            if isinstance(value, int):
                raise InvalidArgument(f"not bytes: {value!r}")
            return bytes(value)
        if element.code == "{":
            key, item = element.inside
            return {self.plain(key, k, depth): self.plain(item, v, depth) for k, v in value.items()}
        return [self.plain(element, item, depth) for item in value]

    def _struct(self, type_: Type, value: Any, depth: int) -> list[Any]:
        if len(value) != len(type_.inside):
            raise InvalidArgument(f"{len(value)} values for {type_.signature!r}")
        return [self.plain(inside, item, depth) for inside, item in zip(type_.inside, value, strict=True)]

    _PLAIN: Mapping[str, Callable[[_Writer, Type, Any, int], Any]] = {
        "o": _path, "h": _descriptor, "v": _variant, "a": _array, "(": _struct,
    }


class _Reader:
    """A body as it is read; a read beyond its end is a struct.error or a RemoteProtocolError."""

    __slots__ = ("_fds", "_handles", "_view", "caps", "depth", "order", "paths", "position", "size")

    def __init__(
        self, body: Buffer, endian: str, caps: Iterable[tuple[int, int]], handles: Sequence[Any],
        fds: Sequence[Any],
    ) -> None:
        self._view = memoryview(body)
        self._handles = handles
        self._fds = fds
        self.size = len(self._view)
        self.position = 0
        self.order = "<" if endian == "l" else ">"
        self.depth = 0
        self.paths = 0
        self.caps = dict(caps)

    def take(self, n: int) -> memoryview:
        start = self.position
        if n > self.size - start:
            raise RemoteProtocolError("the body ends too early")
        self.position = start + n
        return self._view[start : start + n]

    def align(self, alignment: int) -> None:
        n = -self.position % alignment
        if n and any(self.take(n)):
            raise RemoteProtocolError("padding of the body is not zero")

    def number(self, type_: Type) -> Any:
        self.align(type_.alignment)
        value = struct.unpack_from(self.order + _FORMAT[type_.code], self._view, self.position)[0]
        self.position += type_.fixed
        return value

    def boolean(self, type_: Type) -> bool:
        value = self.number(type_)
        if value > 1:
            raise RemoteProtocolError(f"a boolean of {value}")
        return bool(value)

    def string(self, type_: Type) -> str:
        return self._text(self._length())

    def signature(self, type_: Type) -> str:
        text = self._text(self.take(1)[0])
        parse(text)
        return text

    def path(self, type_: Type) -> ObjectPath:
        text = self._text(self._length())
        if not is_object_path(text):
            raise RemoteProtocolError(f"not an object path: {text[:255]!r}")
        index = self.caps.pop(self.paths, None)
        self.paths += 1
        if index is None:
            return ObjectPath(text)
        if index >= len(self._handles):
            raise RemoteProtocolError(f"there is no handle {index} with this message")
        return Reference(text, self._handles[index])

    def descriptor(self, type_: Type) -> Any:
        index = self.number(type_)
        if index >= len(self._fds):
            raise RemoteProtocolError(f"there is no descriptor {index} with this message")
        return self._fds[index]

    def variant(self, type_: Type) -> Variant:
        signature = self._text(self.take(1)[0])
        inside = single(signature)
        self._enter()
        value = _READ[inside.code](self, inside)
        self.depth -= 1
        return Variant(signature, value)

    def array(self, type_: Type) -> Any:
        length = self._length()
        if length > MAX_ARRAY:
            raise RemoteProtocolError(f"an array of {length} bytes")
        element = type_.inside[0]
        self.align(element.alignment)
        if element.fixed and element.code != "h":
            return self._numbers(element, self.take(length))
        if length > self.size - self.position:
            raise RemoteProtocolError("the body ends too early")
        self._enter()
        end = self.position + length
        values = []
        while self.position < end:
            values.append(_READ[element.code](self, element))
        if self.position != end:
            raise RemoteProtocolError("an array does not end where its last element does")
        self.depth -= 1
        return dict(values) if element.code == "{" else values

    def members(self, type_: Type) -> tuple[Any, ...]:
        self.align(8)
        self._enter()
        values = tuple([_READ[inside.code](self, inside) for inside in type_.inside])
        self.depth -= 1
        return values

    def _enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise RemoteProtocolError(f"values nest deeper than {MAX_DEPTH}")

    def _length(self) -> int:
        self.align(4)
        value: int = struct.unpack_from(self.order + "I", self._view, self.position)[0]
        self.position += 4
        return value

    def _text(self, length: int) -> str:
        raw = bytes(self.take(length + 1))
        if raw.find(0) != length:
            raise RemoteProtocolError("a string does not end where it says")
        try:
            return raw[:-1].decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError("a string is not UTF-8") from error

    def _numbers(self, element: Type, raw: memoryview) -> Any:
        if element.code == "y":
            return bytes(raw)
        if len(raw) % element.fixed:
            raise RemoteProtocolError(f"an array of {len(raw)} bytes of {element.code!r}")
        values = list(struct.unpack(f"{self.order}{len(raw) // element.fixed}{_FORMAT[element.code]}", raw))
        if element.code == "b":
            if any(value > 1 for value in values):
                raise RemoteProtocolError("a boolean beyond 1")
            return [bool(value) for value in values]
        return values


_FORMAT = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}

_MISFITS = (DBusFastError, struct.error, TypeError, AttributeError, LookupError, ValueError, OverflowError)
"""What a walk over values and the marshaller raise for values of wrong types."""

_READ: Mapping[str, Callable[[_Reader, Type], Any]] = {
    **dict.fromkeys("ynqiuxtd", _Reader.number), "b": _Reader.boolean, "s": _Reader.string, "o": _Reader.path,
    "g": _Reader.signature, "h": _Reader.descriptor, "v": _Reader.variant, "a": _Reader.array,
    "(": _Reader.members, "{": _Reader.members,
}
