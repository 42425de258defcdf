"""layout: Python expressions on lines of a bounded width.

Theory. A ``Group`` is brackets with items. It stands on one line if that fits, and otherwise with one item
a line, each laid out the same way. Texts too long for a line are written in pieces, which Python joins.

Invariants. 1. What is laid out means the same at any width. 2. Every text is written in ASCII.

Not here: what is written (``writing``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

WIDTH = 88
_PIECE = 64
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class Group:
    """``head``, brackets, and what is in them; ``after`` follows."""

    head: str
    items: tuple[Item, ...]
    brackets: str = "()"
    after: Item = ""
    separator: str = ","


@dataclass(frozen=True, slots=True)
class Pair:
    """A key and what belongs to it: ``key=value``, ``key: value``."""

    key: str
    value: Item


Item: TypeAlias = "str | Group | Pair"


def literal(text: str) -> Item:
    """A string literal; in pieces, if it is long."""
    if len(_quoted(text)) <= _PIECE:
        return _quoted(text)
    # each character may take ten as an escape
    size = _PIECE if text.isascii() and text.isprintable() else _PIECE // 10
    return Group("", tuple(_quoted(text[at : at + size]) for at in range(0, len(text), size)), separator="")


def lay_out(item: Item, indent: int, before: str = "", after: str = "") -> str:
    """``before``, the item and ``after``, as lines that are indented by so many levels."""
    line = _INDENT * indent + before + _flat(item) + after
    if len(line) <= WIDTH and "\n" not in line:
        return line
    match item:
        case str():
            return line
        case Pair():
            value = item.value
            if isinstance(value, str) and value[0] in "'\"":
                value = Group("", (value,), separator="")
            return lay_out(value, indent, before + item.key, after)
        case Group():
            start = f"{_INDENT * indent}{before}{item.head}{item.brackets[0]}"
            inside = [lay_out(inner, indent + 1, after=item.separator) for inner in item.items]
            end = lay_out(item.after, indent, item.brackets[1], after)
            return "\n".join([start, *inside, end]) if item.items else f"{start}{end.lstrip()}"


def _flat(item: Item) -> str:
    match item:
        case str():
            return item
        case Pair():
            return item.key + _flat(item.value)
        case Group():
            inside = f"{item.separator} ".join(map(_flat, item.items))
            return f"{item.head}{item.brackets[0]}{inside}{item.brackets[1]}{_flat(item.after)}"


def _quoted(text: str) -> str:
    quoted = ascii(text)
    return f'"{quoted[1:-1]}"' if quoted[0] == "'" and '"' not in quoted and "\\'" not in quoted else quoted
