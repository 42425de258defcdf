"""hinting: Python hints for D-Bus types.

Theory. Each type has the hint that reads best: an alias, ``list``, ``dict``, ``tuple``. A type whose hint
would be longer than a signature that people can read is ``Any`` with that signature.

Invariants. 1. The signature of a hint is that of the type. 2. ``used`` has every name that a hint uses.

Not here: names of arguments (``naming``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..types import Type, single
from .description import Argument
from .layout import Group, Item, Pair, literal

_BASIC = {
    "y": "Byte", "b": "Bool", "n": "Int16", "q": "UInt16", "i": "Int32", "u": "UInt32", "x": "Int64",
    "t": "UInt64", "d": "Double", "s": "Str", "o": "ObjectPath", "h": "UnixFd", "v": "Variant",
    "ay": "Bytes", "a{sv}": "VariantDict",
}
_PLAIN_MAX = 12
"""Types within each other and beside each other, until a signature is easier to read."""


class Hints:
    """Hints of one module."""

    def __init__(self, local: Callable[[str], str] = str) -> None:
        self.used: set[str] = set()
        self._local = local
        """How a name is called in the module."""

    def of(self, signature: str) -> Item:
        """For a value of one type."""
        type_ = single(signature)
        if _size(type_) > _PLAIN_MAX:
            return self._annotated(self._name("Any"), self._signature(signature))
        return self._hint(type_)

    def argument(self, argument: Argument, python: str) -> Item:
        """For an argument called ``python`` here."""
        if argument.name == python and not argument.annotations:
            return self.of(argument.signature)
        return self._annotated(self.of(argument.signature), self._named(argument))

    def results(self, outputs: tuple[Argument, ...]) -> Item:
        """For what a method gives."""
        if not outputs:
            return "None"
        if len(outputs) > 1:
            return Group("tuple", tuple(self.argument(output, "") for output in outputs), "[]")
        (output,) = outputs
        hint = self.argument(output, "")
        if output.signature[0] == "(" and isinstance(hint, Group) and hint.head == "tuple":
            return self._annotated(hint, self._signature(output.signature))
        return hint

    def _hint(self, type_: Type) -> Item:
        signature = type_.signature
        if signature in _BASIC:
            return self._name(_BASIC[signature])
        if signature == "g":
            return self._annotated("str", self._signature("g"))
        if type_.code == "(":
            return Group("tuple", tuple(map(self._hint, type_.inside)), "[]")
        (element,) = type_.inside
        if element.code == "{":
            return Group("dict", tuple(map(self._hint, element.inside)), "[]")
        return Group("list", (self._hint(element),), "[]")

    def _named(self, argument: Argument) -> Item:
        notes = (notes_of(argument.annotations),) if argument.annotations else ()
        return Group(self._name("Named"), (literal(argument.name), *notes))

    def _signature(self, signature: str) -> Item:
        return Group(self._name("Signature"), (literal(signature),))

    def _annotated(self, hint: Item, note: Item) -> Item:
        return Group(self._name("Annotated"), (hint, note), "[]")

    def _name(self, name: str) -> str:
        self.used.add(name)
        return self._local(name)


def notes_of(annotations: Mapping[str, str]) -> Item:
    """Annotations as a dict."""
    pairs = [(literal(name), literal(value)) for name, value in annotations.items()]
    return Group("", tuple(_pair(name, value) for name, value in pairs), "{}")


def _pair(name: Item, value: Item) -> Item:
    if isinstance(name, str):
        return Pair(f"{name}: ", value)
    assert isinstance(name, Group)
    return Group(name.head, name.items, name.brackets, Pair(": ", value), name.separator)


def _size(type_: Type) -> int:
    if type_.signature in _BASIC:
        return 1
    return 1 + sum(map(_size, type_.inside))
