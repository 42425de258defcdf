"""description: what introspection XML says, as plain data.

Theory. An annotation that has a meaning to this project (deprecation, no reply, change notification) is a
field; every other one is kept by name. Two descriptions that are equal describe the same interfaces.

Not here: where they come from (``reading``), what is made of them (``writing``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument or a result; the name may be empty."""

    name: str
    signature: str
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Method:
    """A method."""

    name: str
    inputs: tuple[Argument, ...]
    outputs: tuple[Argument, ...]
    no_reply: bool = False
    deprecated: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal."""

    name: str
    arguments: tuple[Argument, ...]
    deprecated: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Property:
    """A property; ``emits`` is EmitsChangedSignal."""

    name: str
    signature: str
    readable: bool
    writable: bool
    emits: str = "true"
    deprecated: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Described:
    """An interface: its members in order, and at which path it was described, if that is known."""

    name: str
    members: tuple[Method | Signal | Property, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    path: str = field(default="", compare=False)


def joined(arguments: Iterable[Argument]) -> str:
    """The signature of several arguments."""
    return "".join(argument.signature for argument in arguments)
