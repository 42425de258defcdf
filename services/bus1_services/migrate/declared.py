"""declared: interfaces as a Python program declares them: description and source together.

Not here: how each library declares (``sources``), what becomes of it (``rewriting``).
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Protocol

from .description import Argument, Described, Method, Property, Signal
from .program import Function, Program


@dataclass(slots=True)
class Part:
    """One member: what it is on the bus, its name in Python, and the statements that declare it.

    Without a function, a property is a plain attribute."""

    member: Method | Signal | Property
    python: str
    function: Function | None = None
    setter: Function | None = None
    statements: list[ast.stmt] = field(default_factory=list)
    """Of a declaration that is no function."""
    shape: str = "values"
    """How variants come and go: ``values``, ``bare``, ``pairs``."""
    extra: dict[str, str] = field(default_factory=dict)
    """Parameters that are none on the bus, with what they are now."""
    interface: str = ""
    """Which one it belongs to, if the class has several."""


@dataclass(slots=True)
class Declared:
    """One interface class."""

    node: ast.ClassDef
    interface: str
    parts: list[Part]
    keeps_names: bool = False
    """Members are used in Python as they are natively, under the same names."""
    is_several: bool = False
    """It has several interfaces: each is declared apart, and the class derives from them."""

    def described(self, name: str) -> Described:
        """The interface on the bus."""
        return Described(name, tuple(part.member for part in self.parts))


class Source(Protocol):
    """What there is to know of one library."""

    def declared(self, program: Program) -> list[Declared]:
        """The interfaces of a program; what cannot be read is noted as a finding."""

    def is_base(self, name: str) -> bool:
        """A class of the library that interfaces derive from, to be replaced by Interface."""


def arguments(signature_of: list[tuple[str, str]]) -> tuple[Argument, ...]:
    """Arguments out of names and types."""
    return tuple(Argument(name, signature) for name, signature in signature_of)
