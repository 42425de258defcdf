"""dasbus: services written with dasbus.

Theory. An interface is a class marked ``@dbus_interface(NAME)``. What has a name like ``GetAll`` is a member:
functions, properties, and what ``dbus_signal`` makes. Types are hints with the library's names.

Not here: what becomes of a class (``rewriting``).
"""

from __future__ import annotations

import ast
import re

from ...types import is_interface_name
from ..declared import Declared, Part, arguments
from ..description import Argument, Method, Property, Signal
from ..program import Function, Program
from ..report import Kind
from .dbusfast import interface_name, lost_member, takes_value

_BASIC = {
    "Bool": "b",
    "bool": "b",
    "Str": "s",
    "str": "s",
    "Double": "d",
    "float": "d",
    "Byte": "y",
    "Int": "i",
    "int": "i",
    "Int16": "n",
    "UInt16": "q",
    "Int32": "i",
    "UInt32": "u",
    "Int64": "x",
    "UInt64": "t",
    "UnixFD": "h",
    "ObjPath": "o",
    "Variant": "v",
    "Structure": "a{sv}",
}
_MEMBER = re.compile(r"[A-Z][A-Za-z0-9]*")
_DEPTH_MAX = 16


class Dasbus:
    """dasbus."""

    def is_base(self, name: str) -> bool:
        """What keeps properties."""
        return name == "PropertiesInterface"

    def declared(self, program: Program) -> list[Declared]:
        """The classes that are marked as interfaces."""
        found = []
        for node in program.classes():
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and is_named(program, decorator.func, "dbus_interface"):
                    name = _name(program, decorator)
                    found.append(Declared(node, interface_name(program, node, name), _parts(program, node)))
        return found


def is_named(program: Program, node: ast.AST, name: str) -> bool:
    """This is the library's thing of that name."""
    return program.library(node) == ("dasbus", name) or (
        isinstance(node, ast.Name)
        and node.id == name
        and not program.dotted(node)
        and any(module.startswith("dasbus") for module in program.stars)
    )


def identifier(program: Program, node: ast.AST | None) -> dict[str, str]:
    """The names in what the library calls an identifier: of interface, service, path; else nothing."""
    match node:
        case ast.Name(id=name) if len(values := program.bound.get(name, [])) == 1:
            return identifier(program, values[0])
        case ast.Call(func=func) if program.library(func)[1].startswith("DBus"):
            given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            space = program.constant(given.get("namespace"))
            base = program.text(given.get("basename"))
            if not isinstance(space, tuple):
                return {}
            parts = [*space, *([base] if base else [])]
            versions = {}
            for key in ("interface_version", "object_version", "service_version"):
                value = given.get(key)
                version = value.value if isinstance(value, ast.Constant) else None
                versions[key] = "" if version is None else str(version)
            name = ".".join(parts)
            return {
                "interface_name": name + versions["interface_version"],
                "service_name": name + versions["service_version"],
                "object_path": "/" + "/".join(parts) + versions["object_version"],
            }
    return {}


def name_in(program: Program, node: ast.AST | None) -> str | None:
    """A name or a path, as a text or as an attribute of an identifier."""
    if isinstance(node, ast.Attribute) and (names := identifier(program, node.value)):
        return names.get(node.attr)
    return program.text(node)


def _name(program: Program, decorator: ast.Call) -> str | None:
    given = {keyword.arg: keyword.value for keyword in decorator.keywords if keyword.arg}
    given |= dict(zip(("interface_name", "namespace"), decorator.args, strict=False))
    name = name_in(program, given.get("interface_name"))
    space = program.constant(given["namespace"]) if "namespace" in given else ()
    if name is None or not isinstance(space, tuple):
        return None
    full = ".".join([*space, name])
    return full if is_interface_name(full) else None


def _parts(program: Program, node: ast.ClassDef) -> list[Part]:
    parts: dict[str, Part] = {}
    for statement in node.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            match statement:
                case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=func, args=[])):
                    if is_named(program, func, "dbus_signal") and _MEMBER.fullmatch(name):
                        parts[name] = Part(Signal(name, ()), name, statements=[statement])
        if not isinstance(statement, Function) or not _MEMBER.fullmatch(statement.name):
            continue
        marks = [ast.unparse(decorator) for decorator in statement.decorator_list]
        if f"{statement.name}.setter" in marks:
            part = parts.get(statement.name)
            if part is not None and isinstance(part.member, Property) and takes_value(program, statement):
                part.setter = statement
                readable = part.member.readable
                part.member = Property(part.member.name, part.member.signature, readable, True)
            continue
        if (part := _part(program, statement, marks)) is not None:
            parts[statement.name] = part
    return list(parts.values())


def _part(program: Program, function: Function, marks: list[str]) -> Part | None:
    if not function.args.args:
        lost_member(program, function, "it has no parameter for its object")
        return None
    inputs, extra = [], {}
    accepts_more = any(
        is_named(program, mark, "accepts_additional_arguments") for mark in function.decorator_list
    )
    if function.args.vararg or ((function.args.kwarg or function.args.kwonlyargs) and not accepts_more):
        lost_member(program, function, "not all of its arguments are positional")
        return None
    if accepts_more:
        program.tell(
            function,
            Kind.LOST,
            function.name,
            "it asks for the connection and the sender of a call",
            "a parameter of type Caller says who called; better, give each client an object of its own",
        )
        extra = {arg.arg: "" for arg in [*function.args.kwonlyargs, function.args.kwarg] if arg is not None}
    for arg in function.args.args[1:]:
        text = signature(program, arg.annotation)
        if text is None:
            lost_member(program, function, f"the type of its argument {arg.arg} cannot be told")
            return None
        inputs.append((arg.arg, text))
    if any(is_named(program, mark, "dbus_signal") for mark in function.decorator_list):
        return Part(Signal(function.name, arguments(inputs)), function.name, function)
    nothing = function.returns is None or (
        isinstance(function.returns, ast.Constant) and function.returns.value is None
    )
    result = "" if nothing else signature(program, function.returns)
    if result is None:
        lost_member(program, function, "the type of its result cannot be told")
        return None
    if "property" in marks:
        if not result:
            lost_member(program, function, "a property without type")
            return None
        return Part(Property(function.name, result, True, False), function.name, function)
    outputs: tuple[Argument, ...] = (Argument("", result),) if result else ()
    several = any(is_named(program, mark, "returns_multiple_arguments") for mark in function.decorator_list)
    if several and isinstance(function.returns, ast.Subscript) and result:
        elements = function.returns.slice
        each = elements.elts if isinstance(elements, ast.Tuple) else [elements]
        outputs = tuple(Argument("", signature(program, element) or "") for element in each)
    return Part(Method(function.name, arguments(inputs), outputs), function.name, function, extra=extra)


def signature(program: Program, node: ast.AST | None, depth: int = 0) -> str | None:
    """The D-Bus type that a hint says; None if that cannot be told."""
    if depth > _DEPTH_MAX:
        return None
    match node:
        case ast.Constant(value=str(text)):
            try:
                return signature(program, ast.parse(text, mode="eval").body, depth + 1)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                return None
        case ast.Subscript(value=value, slice=inside):
            elements = inside.elts if isinstance(inside, ast.Tuple) else [inside]
            parts = [signature(program, element, depth + 1) for element in elements]
            if any(part is None for part in parts):
                return None
            joined = "".join(part or "" for part in parts)
            match _last(program, value).lower(), len(parts):
                case "list", 1:
                    return f"a{joined}"
                case "dict", 2 if parts[0] and len(parts[0]) == 1:
                    return f"a{{{joined}}}"
                case "tuple", n if n:
                    return f"({joined})"
            return None
    if node is None:
        return None
    name = _last(program, node)
    if name in _BASIC:
        return _BASIC[name]
    if isinstance(node, ast.Name) and len(values := program.bound.get(node.id, [])) == 1:
        return signature(program, values[0], depth + 1)
    return None


def _last(program: Program, node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return (program.dotted(node).rpartition(".")[2] or node.id) if isinstance(node, ast.Name) else ""
