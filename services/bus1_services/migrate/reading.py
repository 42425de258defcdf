"""reading: introspection XML into descriptions.

Theory. ``read`` walks the text with expat. Elements of D-Bus are checked one by one: what may stand where,
with which attributes; elements of others (documentation) are passed over with all that is in them. The text
is hostile: its size, its depth and its entities are bounded, and nothing outside of it is ever read.
Entities that it declares itself are not expanded in text, and are short and plain in attributes.

Invariants. 1. ``read`` raises SourceError with a line, or each name and signature in the result is valid.
2. Change notification is that of the property, or else of its interface.

Not here: reading files (``verb``).
"""

from __future__ import annotations

import pyexpat
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from ..members import EMITS
from ..types import (
    SignatureInvalid,
    is_interface_name,
    is_member_name,
    is_object_path,
    is_property_name,
    single,
)
from .description import Argument, Described, Method, Property, Signal, joined

SOURCE_MAX = 2 << 20
"""Bytes of one source."""
DEPTH_MAX = 32
"""Elements within elements."""
ENTITIES_MAX = 32
ENTITY_MAX = 256
"""Characters that one entity stands for."""
TEXT_MAX = 1 << 16
"""Characters of one attribute."""
INTERFACES_MAX = 1024
CHILDREN_MAX = 4096
"""Nodes within the first."""
MEMBERS_MAX = 4096
"""Of one interface."""
ARGUMENTS_MAX = 255
"""Of one member, each at least one character of a signature."""

STANDARD = frozenset(f"org.freedesktop.DBus.{name}" for name in ("Introspectable", "Peer", "Properties"))
"""Interfaces that every exported object has."""

_INSIDE = {
    "": {"node"},
    "node": {"node", "interface"},
    "interface": {"method", "signal", "property", "annotation"},
    "method": {"arg", "annotation"},
    "signal": {"arg", "annotation"},
    "property": {"annotation"},
    "arg": {"annotation"},
    "annotation": set[str](),
}
_DEPRECATED = "org.freedesktop.DBus.Deprecated"
_NO_REPLY = "org.freedesktop.DBus.Method.NoReply"
_EMITS = "org.freedesktop.DBus.Property.EmitsChangedSignal"


class SourceError(Exception):
    """The source cannot be understood; the text says where, and why."""


@dataclass(frozen=True, slots=True)
class Node:
    """The interfaces of an object, without the standard ones, and the names of the nodes below it."""

    interfaces: tuple[Described, ...]
    children: tuple[str, ...]


class _Element:
    """An open element, and what it has got so far."""

    __slots__ = ("annotations", "attributes", "inside", "name", "path")

    def __init__(self, name: str, attributes: dict[str, str], path: str) -> None:
        self.name, self.attributes, self.path = name, attributes, path
        self.annotations: dict[str, str] = {}
        self.inside: list[Method | Signal | Property | tuple[Argument, bool]] = []


def read(source: str, content: bytes) -> tuple[Described, ...]:
    """The interfaces of ``content``, without the standard ones; ``source`` is its name. SourceError."""
    interfaces = read_node(source, content).interfaces
    if not interfaces:
        raise SourceError(f"{source}: no interface is described, the standard ones apart")
    return interfaces


def read_node(source: str, content: bytes, path: str = "") -> Node:
    """What ``content`` says of the object at ``path``, whatever it calls itself. SourceError."""
    return _Source(source, path).read(content)


class _Source:
    """One source on its way into descriptions."""

    def __init__(self, source: str, path: str) -> None:
        self._source = source
        self._root = path
        self._children: dict[str, None] = {}
        self._open: list[_Element] = []
        self._n_foreign = 0
        """Elements of others that are open."""
        self._n_entities = 0
        self._found: dict[str, Described] = {}
        self._parser = pyexpat.ParserCreate()

    def read(self, content: bytes) -> Node:
        """What the source says."""
        if len(content) > SOURCE_MAX:
            raise SourceError(f"{self._source}: larger than {SOURCE_MAX} bytes")
        parser = self._parser
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.EntityDeclHandler = self._entity
        parser.AttlistDeclHandler = self._attlist
        # with a handler like this one, entities in text are not expanded
        parser.DefaultHandler = lambda text: None
        try:
            parser.Parse(content, True)
        except pyexpat.ExpatError as error:
            words = pyexpat.ErrorString(error.code)
            raise SourceError(f"{self._source}:{error.lineno}: {words}") from None
        except (ValueError, LookupError) as error:
            raise SourceError(f"{self._source}: {error}") from None
        return Node(tuple(self._found.values()), tuple(self._children))

    def _fail(self, words: str) -> NoReturn:
        raise SourceError(f"{self._source}:{self._parser.CurrentLineNumber}: {words}")

    def _entity(
        self, name: str, is_parameter: bool, value: str | None, base: str | None, system: str | None,
        public: str | None, notation: str | None,
    ) -> None:
        self._n_entities += 1
        if is_parameter or value is None:
            self._fail(f"the entity {name} is not plain text")
        if len(value) > ENTITY_MAX or "&" in value or "<" in value:
            self._fail(f"the entity {name} is not plain text of at most {ENTITY_MAX} characters")
        if self._n_entities > ENTITIES_MAX:
            self._fail(f"more than {ENTITIES_MAX} entities")

    def _attlist(self, element: str, attribute: str, kind: str, default: str | None, required: int) -> None:
        if default is not None:
            self._fail(f"a default for {attribute} of <{element}>")

    # ---- elements --------------------------------------------------------------------------------

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) + self._n_foreign >= DEPTH_MAX:
            self._fail(f"more than {DEPTH_MAX} elements within each other")
        outer = self._open[-1].name if self._open else ""
        if self._n_foreign or (outer and name not in _INSIDE):
            self._n_foreign += 1
            return
        if name not in _INSIDE[outer]:
            self._fail(f"<{name}> in <{outer}>" if outer else f"<{name}> in place of <node>")
        for key, value in attributes.items():
            if len(value) > TEXT_MAX:
                self._fail(f"{key} of <{name}> has more than {TEXT_MAX} characters")
        path = self._open[-1].path if self._open else ""
        if name == "node" and not self._open and self._root:
            path = self._root
        elif name == "node":
            if len(self._open) == 1:
                self._child(attributes.get("name", ""))
            path = self._path(path, attributes.get("name", ""))
        self._open.append(_Element(name, attributes, path))

    def _end(self, name: str) -> None:
        if self._n_foreign:
            self._n_foreign -= 1
            return
        element = self._open.pop()
        match element.name:
            case "annotation":
                self._annotation(element)
            case "arg":
                self._open[-1].inside.append(self._argument(element))
            case "method" | "signal":
                self._open[-1].inside.append(self._called(element))
            case "property":
                self._open[-1].inside.append(self._property(element))
            case "interface":
                self._interface(element)

    def _child(self, name: str) -> None:
        if len(self._children) >= CHILDREN_MAX:
            self._fail(f"more than {CHILDREN_MAX} nodes in one")
        self._children[name] = None

    def _path(self, outer: str, name: str) -> str:
        """Where a node is; empty if that is not said."""
        if not name:
            return ""
        path = name if name.startswith("/") else f"{outer.rstrip('/')}/{name}" if outer else ""
        if path and not is_object_path(path):
            self._fail(f"{path!r} is no object path")
        return path

    def _annotation(self, element: _Element) -> None:
        name = self._given(element, "name")
        self._open[-1].annotations[name] = self._given(element, "value")

    def _argument(self, element: _Element) -> tuple[Argument, bool]:
        """An argument, and whether it is a result."""
        outer = self._open[-1].name
        direction = element.attributes.get("direction", "in")
        if direction not in {"in", "out"}:
            self._fail(f"direction {direction!r} of an <arg>")
        if len(self._open[-1].inside) >= ARGUMENTS_MAX:
            self._fail(f"more than {ARGUMENTS_MAX} arguments")
        argument = Argument(element.attributes.get("name", ""), self._type(element), element.annotations)
        # those of a signal have one direction, whatever is written there
        return argument, outer == "signal" or direction == "out"

    def _called(self, element: _Element) -> Method | Signal:
        name, notes = self._member_name(element), element.annotations
        arguments = [argument for argument in element.inside if isinstance(argument, tuple)]
        inputs = tuple(argument for argument, is_result in arguments if not is_result)
        outputs = tuple(argument for argument, is_result in arguments if is_result)
        for side in (inputs, outputs):
            if sum(len(argument.signature) for argument in side) > 255:
                self._fail(f"the signature of {name} has more than 255 characters")
        deprecated = self._flag(notes, _DEPRECATED)
        if element.name == "signal":
            return Signal(name, outputs, deprecated, notes)
        no_reply = self._flag(notes, _NO_REPLY)
        if no_reply and outputs:
            self._fail(f"{name} has results, but nobody expects a reply")
        return Method(name, inputs, outputs, no_reply, deprecated, notes)

    def _property(self, element: _Element) -> Property:
        name, notes = self._member_name(element), element.annotations
        access = self._given(element, "access")
        if access not in {"read", "write", "readwrite"}:
            self._fail(f"access {access!r} of the property {name}")
        deprecated, emits = self._flag(notes, _DEPRECATED), self._emits(notes)
        readable, writable = access.startswith("read"), access.endswith("write")
        return Property(name, self._type(element), readable, writable, emits, deprecated, notes)

    def _interface(self, element: _Element) -> None:
        name, notes = self._given(element, "name"), element.annotations
        if len(element.inside) > MEMBERS_MAX:
            self._fail(f"{name} has more than {MEMBERS_MAX} members")
        if not is_interface_name(name):
            self._fail(f"{name!r} is no interface name")
        emits = self._emits(notes) or "true"
        members: list[Method | Signal | Property] = []
        for member in element.inside:
            if isinstance(member, Property) and not member.emits:
                members.append(replace(member, emits=emits))
            elif not isinstance(member, tuple):
                members.append(member)
        self._distinct(name, members)
        described = Described(name, tuple(members), notes, element.path)
        if len(self._found) >= INTERFACES_MAX:
            self._fail(f"more than {INTERFACES_MAX} interfaces")
        if name not in STANDARD and self._found.setdefault(name, described) != described:
            self._fail(f"the interface {name} is described twice, and differently")

    def _distinct(self, interface: str, members: Sequence[Method | Signal | Property]) -> None:
        seen = set()
        for member in members:
            match member:
                case Method():
                    key = ("method", member.name, joined(member.inputs))
                case Signal():
                    key = ("signal", member.name, joined(member.arguments))
                case Property():
                    key = ("property", member.name, "")
            if key in seen:
                self._fail(f"{interface} has the {key[0]} {member.name} twice")
            seen.add(key)

    # ---- attributes ------------------------------------------------------------------------------

    def _given(self, element: _Element, key: str) -> str:
        value = element.attributes.get(key)
        if value is None:
            self._fail(f"<{element.name}> without {key}")
        return value

    def _member_name(self, element: _Element) -> str:
        name = self._given(element, "name")
        if not (is_property_name if element.name == "property" else is_member_name)(name):
            self._fail(f"{name!r} is no name of a {element.name}")
        return name

    def _type(self, element: _Element) -> str:
        try:
            return single(self._given(element, "type")).signature
        except SignatureInvalid as error:
            self._fail(str(error))

    def _flag(self, notes: dict[str, str], name: str) -> bool:
        """Whether an annotation says true; it is taken out."""
        value = notes.pop(name, "false").lower()
        if value not in {"true", "false"}:
            self._fail(f"the annotation {name} is neither true nor false: {value!r}")
        return value == "true"

    def _emits(self, notes: dict[str, str]) -> str:
        """Change notification as annotated, or empty; it is taken out."""
        emits = notes.pop(_EMITS, "")
        if emits and emits not in EMITS:
            self._fail(f"the annotation {_EMITS} is none of {', '.join(EMITS)}: {emits!r}")
        return emits
