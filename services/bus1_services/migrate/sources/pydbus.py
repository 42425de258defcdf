"""pydbus: services written with pydbus.

Theory. An interface is introspection XML in the docstring of a class, or in its attribute ``dbus``. Methods,
properties and signals are the attributes of the class that have the names in the XML. Arguments come without
variants around their values.

Not here: what becomes of a class (``rewriting``).
"""

from __future__ import annotations

import ast

from ..declared import Declared, Part
from ..description import Described, Method, Property, Signal
from ..program import Function, Program
from ..reading import SourceError, read
from ..report import Kind
from .dbusfast import lost_member


class Pydbus:
    """pydbus."""

    def is_base(self, name: str) -> bool:
        """There is none."""
        return False

    def declared(self, program: Program) -> list[Declared]:
        """The classes that bring XML along."""
        found = []
        for node in program.classes():
            for statement, source in xml_of(program, node):
                try:
                    interfaces = read("its XML", source.strip().encode(errors="replace"))
                except SourceError as error:
                    program.tell(statement, Kind.LOST, f"class {node.name}", str(error), "correct the XML")
                    continue
                parts = [part for interface in interfaces for part in _parts(program, node, interface)]
                names = [part.python for part in parts]
                for part in [part for n, part in enumerate(parts) if part.python in names[:n]]:
                    lost_member(program, statement, f"two of its interfaces have a member {part.python}")
                    parts.remove(part)
                found.append(Declared(node, interfaces[0].name, parts, is_several=len(interfaces) > 1))
                break
        return found


def xml_of(program: Program, node: ast.ClassDef) -> list[tuple[ast.stmt, str]]:
    """The statements of a class that hold XML, with it."""
    found: list[tuple[ast.stmt, str]] = []
    for statement in node.body:
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text))) if statement is node.body[0]:
                values = [text]
            case ast.Assign(targets=[ast.Name(id="dbus")], value=value):
                constant = program.constant(value)
                values = [constant] if isinstance(constant, str) else list(constant or ())
                if not values:
                    program.tell(
                        statement,
                        Kind.LOST,
                        f"class {node.name}",
                        "its XML is not in this file",
                        "put it there, or start from the XML",
                    )
            case _:
                continue
        found += [(statement, text) for text in values if "<interface" in text]
    return found


def _parts(program: Program, node: ast.ClassDef, described: Described) -> list[Part]:
    functions: dict[str, list[Function]] = {}
    bound: dict[str, ast.stmt] = {}
    for statement in node.body:
        if isinstance(statement, Function):
            functions.setdefault(statement.name, []).append(statement)
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            bound[statement.targets[0].id] = statement
    parts = []
    for member in described.members:
        part = _part(program, node, member, functions.get(member.name, []), bound.get(member.name))
        if part is not None:
            part.interface = described.name
            parts.append(part)
    return parts


def _part(
    program: Program,
    node: ast.ClassDef,
    member: Method | Signal | Property,
    functions: list[Function],
    bound: ast.stmt | None,
) -> Part | None:
    match member:
        case Signal():
            return Part(member, member.name, statements=[bound] if bound is not None else [])
        case Property():
            getter = next((f for f in functions if "property" in map(ast.unparse, f.decorator_list)), None)
            setter = next((f for f in functions if f is not getter and len(f.args.args) == 2), None)
            if getter is not None and not getter.args.args:
                getter = None
            if getter is None and functions:
                lost_member(program, functions[0], "a property that is a function")
                return None
            shape = "bare" if "v" in member.signature else "values"
            return Part(member, member.name, getter, setter, shape=shape)
        case Method() if functions and functions[-1].args.args:
            return _method(program, member, functions[-1])
    program.tell(
        node,
        Kind.LOST,
        member.name,
        f"the class {node.name} does not define it in this file",
        "write the method",
    )
    return None


def _method(program: Program, member: Method, function: Function) -> Part | None:
    names = [arg.arg for arg in function.args.args[1:]]
    extra = {}
    if "dbus_context" in [*names, *(arg.arg for arg in function.args.kwonlyargs)]:
        extra["dbus_context"] = ""
        names = [name for name in names if name != "dbus_context"]
        program.tell(
            function,
            Kind.LOST,
            f"{function.name}(dbus_context)",
            "it asks who the sender of a call is",
            "a parameter of type Caller says who called; better, give each client an object of its own",
        )
    if len(names) != len(member.inputs):
        lost_member(program, function, f"it has {len(names)} arguments, and {len(member.inputs)} in the XML")
        return None
    shape = "bare" if any("v" in argument.signature for argument in member.inputs) else "values"
    return Part(member, function.name, function, shape=shape, extra=extra)
