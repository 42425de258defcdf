"""Hints: which D-Bus type they mean, and which of them are mistakes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, NewType, NotRequired, Optional, Required, TypedDict

import pytest
from bus1_services import (
    Byte,
    Double,
    Int32,
    Interface,
    ObjectPath,
    Signature,
    Str,
    UInt32,
    UInt64,
    UnixFd,
    Variant,
    interfaces_of,
    method,
    prop,
)
from bus1_services.conversion import Misfit
from bus1_services.hints import conversion_of, signature_of
from bus1_services.introspection import node_xml
from bus1_services.members import MethodSpec
from bus1_services.outline import outline
from dbus_fast.introspection import Node
from typing_extensions import TypeAliasType

MANUAL = Path(__file__).parent.parent / "docs" / "services.md"


class Mode(IntEnum):
    OFF = 0
    ON = 1


class Negative(Enum):
    LOW = -1


class Color(StrEnum):
    RED = "red"


class Old(str, Enum):  # noqa: UP042
    RED = "red"


class Flags(IntFlag):
    A = 1
    B = 2


class PlainFlags(Flag):
    A = 1


class Large(IntEnum):
    HUGE = 1 << 40


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Empty(Enum):
    pass


class Truth(Enum):
    YES = True


class Room(Interface, name="org.example.Room1"):
    @method
    def enter(self) -> None: ...


@dataclass
class Point:
    x: Int32
    y: Double
    unit: ClassVar[str] = "mm"
    seen: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True)
class Deep:
    points: dict[Color, tuple[Point, ...]]
    _: KW_ONLY
    maybe: Point | None = None


class Size(NamedTuple):
    width: UInt32
    height: UInt32


class Keys(TypedDict):
    a: Required[Str]
    b: NotRequired[Room]


@dataclass
class Nothing:
    pass


@dataclass
class Tree:
    children: list[Tree]


@dataclass
class Unreadable:
    what: Missing  # type: ignore[name-defined]  # noqa: F821


Id = NewType("Id", int)
Name = TypeAliasType("Name", Annotated[str, Signature("s")])


@pytest.mark.parametrize(("hint", "signature"), [
    (Mode, "i"), (Negative, "i"), (Color, "s"), (Old, "s"), (Flags, "u"), (PlainFlags, "u"),
    (Annotated[Mode, Signature("y")], "y"), (Annotated[Large, Signature("t")], "t"),
    (Annotated[Color, Signature("o")], "o"), (Annotated[Negative, Signature("n")], "n"),
    (Point, "(id)"), (Deep, "(a{sa(id)}a(id))"), (Size, "(uu)"), (Keys, "a{sv}"), (list[Size], "a(uu)"),
    (str | None, "as"), (Optional[UInt32], "au"), (Byte | None, "ay"), (list[str] | None, "aas"),  # noqa: UP045
    (Room | None, "o"), (dict[Mode, Room | None], "a{io}"), (tuple[int, ...], "ai"), (Id, "i"), (Name, "s"),
    (Annotated[list[Any], Signature("a(yv)")], "a(yv)"), (Annotated[list[Mode], Signature("aq")], "aq"),
    (Annotated[dict[str, Mode], Signature("a{ou}")], "a{ou}"), (Annotated[Point, Signature("(id)")], "(id)"),
    (Annotated[tuple[Mode, str], Signature("(xg)")], "(xg)"), (Annotated[Mode | None, Signature("ax")], "ax"),
    (Annotated[Str, Signature("o")], "o"), (Annotated[Any, Signature("u"), "a note"], "u"),
    (Annotated[object, Signature("v")], "v"),
])
def test_a_hint_means_a_type(hint: Any, signature: str) -> None:
    assert signature_of(hint) == signature


@pytest.mark.parametrize(("hint", "words"), [
    (Large, "no 'i'"), (Mixed, "neither all text nor all numbers"), (Empty, "neither"), (Truth, "neither"),
    (Annotated[Mode, Signature("s")], "cannot be 's'"), (Annotated[Color, Signature("i")], "cannot be 'i'"),
    (Annotated[Negative, Signature("u")], "-1"), (Annotated[Mode, Signature("b")], "cannot be 'b'"),
    (Nothing, "empty struct"), (Tree, "contains itself"), (Unreadable, "cannot be read"),
    (dict[Point, str], "keys of type"), (dict[Room | None, list[Any]], "no D-Bus type"),
    (str | int | None, "several types"), (Annotated[str, Signature("i")], "cannot be 'i'"),
    (Annotated[int, Signature("s")], "cannot be 's'"), (Annotated[list[str], Signature("s")], "is an array"),
    (Annotated[list[str], Signature("ai")], "cannot be 'i'"),
    (Annotated[list[Any], Signature("a{ss}")], "is an array"),
    (Annotated[dict[str, str], Signature("as")], "is a dictionary"),
    (Annotated[Point, Signature("(idd)")], "struct of 2"), (Annotated[Room, Signature("s")], "cannot be 's'"),
    (Annotated[Room | None, Signature("ao")], "cannot be 'ao'"),
    (Annotated[Str | None, Signature("s")], "is an array"),
    (Annotated[UnixFd, Signature("u")], "cannot be 'u'"), (Annotated[Keys, Signature("a{ss}")], "cannot be"),
    (Annotated[Str, Signature("s(")], "gives no D-Bus type"), (Annotated[int, Signature("h")], "cannot be"),
    (Annotated[UInt32 | None, Signature("ai")], "'u'"), (tuple[()], "no D-Bus type"), (None, "no D-Bus type"),
])
def test_a_hint_that_cannot_be_is_a_mistake_in_words(hint: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        signature_of(hint)


@pytest.mark.parametrize("hint", [
    str, int, UInt64, bytes, Variant, ObjectPath, UnixFd, list[int], dict[str, Variant], tuple[int, Str],
    list[dict[str, tuple[Double, list[bytes]]]], Size, Annotated[Any, Signature("a(sv)")],
])
def test_values_that_pass_as_they_are_cost_nothing(hint: Any) -> None:
    conversion = conversion_of(hint)
    assert conversion.write is None
    assert conversion.read is None or hint is Size


@pytest.mark.parametrize(("hint", "value"), [
    (list[Str], "text"), (tuple[Str, ...], "text"), (dict[int, list[str]], {1: "text"}),
])
def test_a_text_is_no_list_of_its_characters(hint: Any, value: object) -> None:
    write = conversion_of(hint).write
    assert write is not None
    with pytest.raises(Misfit, match="'text' is a text, not a list"):
        write(value)


def _wrong(declare: Callable[[], type[Interface]]) -> Any:
    return pytest.param(declare, id=declare.__name__)


def takes_another() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method(takes="s")
        def do(self, mode: Mode) -> None: ...

    return Wrong


def gives_another() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @method(gives="ii")
        def do(self) -> tuple[Int32, Int32, Int32]: ...  # type: ignore[empty-body]

    return Wrong


def is_another() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @prop(gives="(ii)")
        def size(self) -> Point: ...  # type: ignore[empty-body]

    return Wrong


def is_two() -> type[Interface]:
    class Wrong(Interface, name="org.example.Wrong1"):
        @prop(gives="ii")
        def size(self) -> Any: ...

    return Wrong


@pytest.mark.parametrize("declare", list(map(_wrong, [takes_another, gives_another, is_another, is_two])))
def test_a_signature_that_a_hint_cannot_hold_is_a_mistake_that_names_the_member(
    declare: Callable[[], type[Interface]]
) -> None:
    with pytest.raises(TypeError, match=r"Wrong\.(do|size)"):
        interfaces_of(declare())


class Measure(Interface, name="org.example.Measure1"):
    @method
    def size(self) -> Size:
        return Size(1, 2)

    @method
    def one(self) -> tuple[Str]:
        return ("a",)

    @method(gives="(uu)")
    def struct(self) -> Size:
        return Size(1, 2)

    @method(gives="uu")
    def two(self) -> Any:
        return 1, 2

    @method
    def point(self) -> Point:
        return Point(1, 2)

    @prop
    def area(self) -> Size:
        return Size(1, 2)


def test_named_results_have_their_names_in_introspection() -> None:
    (interface,) = Node.parse(node_xml(interfaces_of(Measure))).interfaces
    outputs = {m.name: [(arg.name, arg.signature) for arg in m.out_args] for m in interface.methods}
    assert outputs == {
        "Size": [("width", "u"), ("height", "u")], "One": [(None, "s")], "Struct": [(None, "(uu)")],
        "Two": [(None, "u"), (None, "u")], "Point": [(None, "(id)")],
    }
    assert [p.signature for p in interface.properties] == ["(uu)"]


def test_results_are_spread_and_gathered() -> None:
    (spec,) = interfaces_of(Measure)

    def there_and_back(name: str, result: object) -> tuple[Any, Any]:
        member = spec.members[name]
        assert isinstance(member, MethodSpec)
        values = member.spread(result)
        return list(values), member.gathered(list(values), lambda *_: None)

    assert there_and_back("Size", Size(1, 2)) == ([1, 2], Size(1, 2))
    assert there_and_back("One", ("a",)) == (["a"], ("a",))
    assert there_and_back("Struct", Size(1, 2)) == ([(1, 2)], Size(1, 2))
    assert there_and_back("Two", (1, 2)) == ([1, 2], (1, 2))
    assert there_and_back("Point", Point(1, 2.0)) == ([(1, 2.0)], Point(1, 2.0))


def test_the_types_of_the_manual_are_what_it_says() -> None:
    section = MANUAL.read_text().partition("## Types\n")[2].partition("\n## ")[0]
    (block,) = [part.partition("```")[0] for part in section.split("```python\n")[1:]]
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(block, str(MANUAL), "exec", dont_inherit=True), names)
    assert outline(names["Stage"]) == [
        "method Place(sa{sv}a(iii)) -> (a(iii))", "property Main: (iii) read true", "signal Moved(s(iii))",
    ]
