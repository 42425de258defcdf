"""Conversions of any hint: what has its type is read or refused; what was read can be sent and read again."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag, StrEnum
from types import GenericAlias
from typing import Any, NamedTuple, TypedDict

import pytest
from bus1_services import (
    Bool,
    Byte,
    Bytes,
    Double,
    Int32,
    Interface,
    ObjectPath,
    Str,
    UInt64,
    Variant,
)
from bus1_services.body import decode, encode
from bus1_services.errors import DBusError
from bus1_services.hints import conversion_of
from bus1_services.row import Row
from bus1_services.types import BASIC, Type, single


class Mode(IntEnum):
    OFF = 0
    ON = 1


class Color(StrEnum):
    RED = "red"


class Shape(Enum):
    ROUND = "blue"
    NONE = ""


class Flags(IntFlag):
    LOUD = 1


@dataclass(frozen=True)
class Spot:
    x: Int32
    mode: Mode
    note: Str | None = None


class Pair(NamedTuple):
    color: Color
    spot: Spot


class Wishes(TypedDict, total=False):
    mode: Mode
    spots: list[Spot]


class Room(Interface, name="org.example.Room1"):
    pass


PLAIN = [
    Str, Int32, Bool, Byte, Double, Bytes, UInt64, ObjectPath, Variant, Mode, Color, Flags, Shape, Room,
    Room | None,
]
RECORDS = [Spot, Pair, Wishes]
KEYS = [Str, Int32, Mode, Color, Shape, Room]
VARIANTS = [Variant("i", 1), Variant("a(iias)", [(1, 0, [])]), Variant("s", "red")]


def some_hint(chance: random.Random, depth: int = 0) -> Any:
    kinds: list[Callable[[], Any]] = [lambda: chance.choice(PLAIN), lambda: chance.choice(RECORDS)]
    if depth < 3:
        one, two = (some_hint(chance, depth + 1) for _ in range(2))
        kinds += [
            lambda: GenericAlias(list, one), lambda: GenericAlias(tuple, (one, ...)), lambda: one | None,
            lambda: GenericAlias(tuple, (one, two)), lambda: GenericAlias(dict, (chance.choice(KEYS), one)),
        ]
    return chance.choice(kinds)()


def some_value(chance: random.Random, type_: Type) -> Any:
    """What ``decode`` may give for this type."""
    match type_.code:
        case "s":
            return chance.choice(["red", "blue", ""])
        case "o":
            return ObjectPath(chance.choice(["/", "/a"]))
        case "b":
            return chance.random() < 0.5
        case "d":
            return chance.random()
        case "v":
            return chance.choice(VARIANTS)
        case "(":
            return tuple(some_value(chance, inside) for inside in type_.inside)
        case "a":
            return some_array(chance, type_, chance.randrange(3))
    return chance.randrange(3)


def some_array(chance: random.Random, type_: Type, size: int) -> Any:
    (element,) = type_.inside
    if element.code == "y":
        return bytes(chance.randbytes(size))
    if element.code != "{":
        return [some_value(chance, element) for _ in range(size)]
    if type_.signature == "a{sv}":
        return {key: chance.choice(VARIANTS) for key in chance.sample(["mode", "spots", "other"], size)}
    key, value = element.inside
    return {some_value(chance, key): some_value(chance, value) for _ in range(size)}


def as_it_came(interface: type, value: Any) -> Any:
    return value


@pytest.mark.parametrize("seed", range(10))
def test_what_is_read_can_be_sent_and_read_again(seed: int) -> None:
    chance = random.Random(seed)
    assert sum(is_read_again(chance) for _ in range(300)) > 100


def is_read_again(chance: random.Random) -> bool:
    """Of a value of some hint: not, if it is refused."""
    conversion = conversion_of(some_hint(chance))
    row = Row([("value", conversion)])
    try:
        read = row.read([some_value(chance, single(conversion.signature))], as_it_came)
    except DBusError as error:
        assert error.text.startswith("value: ")
        return False
    body = encode(conversion.signature, row.write(read)).data
    assert list(row.read(decode(conversion.signature, body, "l"), as_it_came)) == list(read)
    return True


def test_keys_are_of_basic_types() -> None:
    assert {conversion_of(hint).signature for hint in KEYS} <= BASIC
