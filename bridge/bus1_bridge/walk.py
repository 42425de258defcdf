"""walk: bodies as they lie, checked and read without making objects of them.

Theory. A signature is compiled once into *steps*: one per value, with structs flattened into an
alignment followed by their fields, so that only arrays and variants need a frame on the stack. A
check runs the steps over the bytes. It is a machine with plain state (position, frame, stack), hence it
can stop anywhere and go on later: ``step(budget)`` spends one unit per byte that it looks at, and never
less than 16 per value. What is looked at in bulk (long texts, arrays of booleans or descriptors) is
cut into chunks; arrays of other types of fixed size are one step, whatever their length.

Every rule of the D-Bus specification on bodies is checked: lengths, zero padding, UTF-8 without NUL,
paths, signatures, booleans, array sizes, indices of descriptors, depth of nesting (as the reference
counts it: containers that are entered, variants included), and that nothing is left at the end.

Invariants. 1. A check raises nothing but RemoteProtocolError, whatever the bytes.
2. The verdict does not depend on the budgets.
3. One ``step`` costs time in proportion to its budget, whatever the body.

Not here: headers (``wire``), signatures (``bus1_services.types``), values (``wire.unmarshal``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from bus1_services.types import (
    MAX_ARRAY,
    MAX_DEPTH,
    ObjectPath,
    Type,
    is_object_path,
    parse,
    single,
)

from bus1.core.api import Buffer
from bus1.errors import RemoteProtocolError
from bus1.record import record

VALUE_COST = 16
ANY_FD = 1 << 32
"""As ``n_fds``: any index of a descriptor will do."""
CHUNK = 1 << 16
_COPIED = 1 << 20
"""A body up to this size is copied into bytes, which are faster to cut than views."""
_ZEROS = bytes(8)
_PATH_BYTES = b"/0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

U32: dict[str, Callable[[Buffer, int], tuple[int]]] = {
    "l": struct.Struct("<I").unpack_from,
    "B": struct.Struct(">I").unpack_from,
}
ORDER: dict[str, str] = {"l": "<", "B": ">"}
"""The struct module's name of each byte order."""

# those from _BOOL on are rows of _CHECKS
_END, _FIXED, _ALIGN, _TEXT, _ARRAY, _VARIANT = range(6)
_BOOL, _FD, _PATH, _SIGNATURE, _FIXED_ARRAY, _BOOLS, _FDS = range(6, 13)
_KINDS: dict[str, int] = {
    "b": _BOOL, "h": _FD, "s": _TEXT, "o": _PATH, "g": _SIGNATURE, "v": _VARIANT, "(": _ALIGN, "{": _ALIGN,
}
_ARRAY_KINDS: dict[str, int] = {"b": _BOOLS, "h": _FDS}

_Steps = tuple[tuple[int, int, int, "_Steps", int], ...]
"""Each: (kind, alignment mask, size or the element's alignment mask, the element's steps, depth); the
last is an _END."""
_Frame = tuple[_Steps, int, int, int]
"""(steps, index of the next, end of the array or -1, containers outside)."""


@lru_cache(maxsize=1024)
def _steps(signature: str) -> _Steps:
    return _compile(parse(signature), 0)


@lru_cache(maxsize=1024)
def _variant_steps(signature: bytes) -> _Steps:
    """``signature`` with the NUL behind it."""
    return _compile((single(_without_nul(signature)),), 0)


def _without_nul(signature: bytes) -> str:
    if not signature.endswith(b"\0"):
        raise RemoteProtocolError("a signature is cut off, or has no NUL behind")
    return signature[:-1].decode("latin-1")


def _compile(types: tuple[Type, ...], depth: int) -> _Steps:
    steps: list[tuple[int, int, int, _Steps, int]] = []
    for type_ in types:
        mask = type_.alignment - 1
        if type_.code != "a":
            steps.append((_KINDS.get(type_.code, _FIXED), mask, type_.fixed, (), depth))
            steps.extend(_compile(type_.inside, depth + 1)[:-1])
        elif type_.inside[0].fixed:
            element = type_.inside[0]
            steps.append((_ARRAY_KINDS.get(element.code, _FIXED_ARRAY), mask, element.fixed - 1, (), depth))
        else:
            inside = _compile(type_.inside, depth + 1)
            steps.append((_ARRAY, mask, type_.inside[0].alignment - 1, inside, depth))
    return (*steps, (_END, 0, 0, (), depth))


@record()
class _Bulk:
    """A range that is looked at chunk by chunk."""

    kind: int
    at: int
    end: int


class Paths(Protocol):
    """Where the object paths of a body go, in marshalling order."""

    def append(self, path: str, /) -> None:
        """The next one."""


class BodyCheck:
    """The check of one body against its signature; ``step`` until it is done."""

    __slots__ = (
        "_at", "_bulk", "_data", "_frame", "_length", "_n_fds", "_order", "_paths", "_stack", "_u32", "left",
    )

    def __init__(
        self, signature: str, body: Buffer, endian: str, n_fds: int, paths: Paths | None = None
    ) -> None:
        """RemoteProtocolError for a bad signature. ``paths`` collects the object paths on the way."""
        self.left = 0
        """Of the budget of the last step, once the check is done."""
        self._data: bytes | memoryview = bytes(body) if len(body) <= _COPIED else memoryview(body)
        self._length = len(body)
        self._order = ORDER[endian]
        self._u32 = U32[endian]
        self._n_fds = n_fds
        self._paths = paths
        self._at = 0
        self._bulk: _Bulk | None = None
        self._frame: _Frame = (_steps(signature), 0, -1, 0)
        self._stack: list[_Frame] = []

    def step(self, budget: int) -> bool:
        """Go on for about ``budget`` bytes; True once the body is found valid. RemoteProtocolError."""
        try:
            left = self._run(budget)
        except (struct.error, IndexError) as error:
            raise RemoteProtocolError("the body ends within a value") from error
        if left is None:
            return False
        self.left = left
        return True

    def _run(self, left: int) -> int | None:
        data, length, u32, stack, at = self._data, self._length, self._u32, self._stack, self._at
        whole = data if isinstance(data, bytes) else None
        steps, index, end, outside = self._frame
        left = self._look_on(left)
        while left > 0:
            kind, mask, size, inside, depth = steps[index]
            index += 1
            left -= VALUE_COST
            if at & mask:
                at = self._padding(at, mask)
            if kind == _TEXT:
                start = at + 4
                at = start + u32(data, at)[0] + 1
                if at - start > CHUNK:
                    left = self._text(start, at - 1, left)
                    continue
                text = bytes(data[start:at]) if whole is None else whole[start:at]
                if text.find(0) != at - start - 1:  # the first NUL is the last byte, and that exists
                    raise RemoteProtocolError("a string is cut off, or has a NUL inside or none behind")
                if not text.isascii():
                    _check_utf8(text)
                left -= at - start
            elif kind == _FIXED:
                at += size
                if at > length:
                    raise RemoteProtocolError("the body ends within a value")
            elif kind == _END:
                if at < end:
                    index = 0
                elif end not in {-1, at}:
                    raise RemoteProtocolError("an element reaches beyond its array")
                elif stack:
                    steps, index, end, outside = stack.pop()
                elif at != length:
                    raise RemoteProtocolError(f"the body has {length} bytes, its signature gives {at}")
                else:
                    return left
            elif kind > _VARIANT:
                at, cost = _CHECKS[kind](self, at, kind, size)
                left = self._look_on(left - cost)
            elif outside + depth >= MAX_DEPTH and (kind != _ARRAY or u32(data, at)[0]):
                raise RemoteProtocolError(f"more than {MAX_DEPTH} containers within each other")
            elif kind == _VARIANT:
                start = at + 1
                at = start + data[at] + 1
                left -= VALUE_COST * (at - start)
                stack.append((steps, index, end, outside))
                steps, index, end, outside = _variant_steps(bytes(data[start:at])), 0, -1, outside + depth + 1
            elif kind == _ARRAY:
                at, stop = self._array(at, size)
                if at < stop:
                    stack.append((steps, index, end, outside))
                    steps, index, end = inside, 0, stop
        self._frame, self._at = (steps, index, end, outside), at
        return None

    def _padding(self, at: int, mask: int) -> int:
        stop = (at | mask) + 1
        if self._data[at:stop] != _ZEROS[: stop - at]:
            raise RemoteProtocolError("padding is missing or not zero")
        return stop

    def _array(self, at: int, mask: int) -> tuple[int, int]:
        """First and last position of the elements."""
        size = self._u32(self._data, at)[0]
        if size > MAX_ARRAY:
            raise RemoteProtocolError(f"an array of {size} bytes, {MAX_ARRAY} are allowed")
        at += 4
        if at & mask:
            at = self._padding(at, mask)
        if at + size > self._length:
            raise RemoteProtocolError("an array reaches beyond the body")
        return at, at + size

    def _text(self, start: int, stop: int, left: int) -> int:
        """A string that is long."""
        self._look_at(_TEXT, start, stop)
        return self._look_on(left)

    def _path(self, at: int, kind: int, size: int) -> tuple[int, int]:
        start = at + 4
        stop = start + self._u32(self._data, at)[0]
        if stop - start > CHUNK:
            self._look_at(kind, start, stop)
            is_path = self._data[start] == _SLASH != self._data[stop - 1]
            cost = 0
        else:
            text = bytes(self._data[start : stop + 1])
            is_path = text.find(0) == stop - start and is_object_path(text[:-1].decode("latin-1"))
            cost = stop - start
        if not is_path:
            raise RemoteProtocolError("not an object path")
        if self._paths is not None:
            self._paths.append(bytes(self._data[start:stop]).decode("latin-1"))
        return stop + 1, cost

    def _signature(self, at: int, kind: int, size: int) -> tuple[int, int]:
        stop = at + 2 + self._data[at]
        parse(_without_nul(bytes(self._data[at + 1 : stop])))
        return stop, VALUE_COST * (stop - at)

    def _number(self, at: int, kind: int, size: int) -> tuple[int, int]:
        if self._u32(self._data, at)[0] > self._greatest(kind):
            raise RemoteProtocolError(_TOO_GREAT[kind])
        return at + 4, 0

    def _fixed_array(self, at: int, kind: int, mask: int) -> tuple[int, int]:
        start, stop = self._array(at, mask)
        if stop - start & mask:
            raise RemoteProtocolError("the length of an array is no multiple of its element's size")
        if kind != _FIXED_ARRAY and stop > start:
            self._bulk = _Bulk(kind, start, stop)
        return stop, 0

    def _greatest(self, kind: int) -> int:
        return 1 if kind in {_BOOL, _BOOLS} else self._n_fds - 1

    def _look_at(self, kind: int, start: int, stop: int) -> None:
        if stop >= self._length or self._data[stop] != 0:
            raise RemoteProtocolError("a string is cut off, or has no NUL behind")
        self._bulk = _Bulk(kind, start, stop)

    def _look_on(self, left: int) -> int:
        """Go on with the bulk, if there is one; returns what is left of the budget."""
        while self._bulk is not None and left > 0:
            bulk = self._bulk
            start, stop = bulk.at, min(bulk.at + CHUNK, bulk.end)
            if bulk.kind == _TEXT:
                stop = self._whole_characters(stop, bulk.end)
                text = bytes(self._data[start:stop])
                if 0 in text:
                    raise RemoteProtocolError("a string has a NUL inside")
                _check_utf8(text)
            elif bulk.kind == _PATH:
                text = bytes(self._data[start : stop + 1])
                if b"//" in text or text[: stop - start].translate(None, _PATH_BYTES):
                    raise RemoteProtocolError("not an object path")
            else:
                numbers = struct.unpack(f"{self._order}{(stop - start) // 4}I", self._data[start:stop])
                if max(numbers) > self._greatest(bulk.kind):
                    raise RemoteProtocolError(_TOO_GREAT[bulk.kind])
            bulk.at = stop
            left -= stop - start
            if stop == bulk.end:
                self._bulk = None
        return left

    def _whole_characters(self, stop: int, end: int) -> int:
        # a character has at most three bytes after its first
        for back in range(4):
            if stop == end or self._data[stop - back] & 0xC0 != 0x80:
                return stop - back if stop < end else stop
        return stop


_SLASH = ord("/")
_TOO_GREAT: dict[int, str] = dict.fromkeys((_BOOL, _BOOLS), "a boolean is neither 0 nor 1") | dict.fromkeys(
    (_FD, _FDS), "the index of a descriptor that the message does not have"
)
_CHECKS: dict[int, Callable[[BodyCheck, int, int, int], tuple[int, int]]] = {
    _BOOL: BodyCheck._number,
    _FD: BodyCheck._number,
    _PATH: BodyCheck._path,
    _SIGNATURE: BodyCheck._signature,
    _FIXED_ARRAY: BodyCheck._fixed_array,
    _BOOLS: BodyCheck._fixed_array,
    _FDS: BodyCheck._fixed_array,
}


def _check_utf8(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("a string is not UTF-8") from error


def check_body(signature: str, body: Buffer, endian: str, n_fds: int) -> None:
    """The whole check at once; RemoteProtocolError."""
    if body or signature:
        check = BodyCheck(signature, body, endian, n_fds)
        while not check.step(_UNLIMITED):
            pass


_UNLIMITED = 1 << 62


def arguments(signature: str, body: Buffer, endian: str, limit: int = 64) -> list[str | ObjectPath | None]:
    """The first arguments of a valid body as match rules see them: strings, object paths, None for others."""
    values: list[str | ObjectPath | None] = []
    at = 0
    types = parse(signature)[:limit]
    last = max((i for i, type_ in enumerate(types) if type_.code in _TEXTS), default=-1)
    for type_ in types[: last + 1]:
        kind = _TEXTS.get(type_.code)
        start = at + -at % type_.alignment
        at = skip(type_, body, at, endian)
        values.append(None if kind is None else kind(bytes(body[start + 4 : at - 1]).decode()))
    return values + [None] * (len(types) - len(values))


_TEXTS: dict[str, type[str]] = {"s": str, "o": ObjectPath}


def skip(type_: Type, data: Buffer, at: int, endian: str) -> int:
    """The position behind a value of valid data (positions as in the body, for alignment)."""
    at += -at % type_.alignment
    code = type_.code
    if type_.fixed:
        return at + type_.fixed
    if code in _TEXTS:
        return at + 5 + U32[endian](data, at)[0]
    if code == "a":
        return at + 4 + -(at + 4) % type_.inside[0].alignment + U32[endian](data, at)[0]
    if code in {"g", "v"}:
        signature, at = bytes(data[at + 1 : at + 1 + data[at]]).decode(), at + 2 + data[at]
        return at if code == "g" else skip(single(signature), data, at, endian)
    for inside in type_.inside:
        at = skip(inside, data, at, endian)
    return at
