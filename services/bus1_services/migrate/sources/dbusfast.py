"""dbusfast: services written with dbus-fast or dbus-next.

Theory. An interface is a class with members marked ``@dbus_method()``, ``@dbus_property()`` and
``@dbus_signal()`` (``method`` and ``signal``, in older code). Types are signatures in annotations, as texts
or in ``Annotated``. The name goes to the constructor of ServiceInterface.

Not here: what becomes of a class (``rewriting``).
"""

from __future__ import annotations

import ast

from ...types import (
    SignatureInvalid,
    is_interface_name,
    is_member_name,
    is_property_name,
    parse,
    split_signature,
)
from ..declared import Declared, Part, arguments
from ..description import Argument, Method, Property, Signal
from ..program import Function, Program
from ..report import Kind

_MEMBERS = {
    "method": "method",
    "dbus_method": "method",
    "signal": "signal",
    "dbus_signal": "signal",
    "dbus_property": "property",
}
_ALIASES = {
    "DBusBool": "b",
    "DBusByte": "y",
    "DBusBytes": "ay",
    "DBusDict": "a{sv}",
    "DBusDouble": "d",
    "DBusInt16": "n",
    "DBusInt32": "i",
    "DBusInt64": "x",
    "DBusObjectPath": "o",
    "DBusSignatureType": "g",
    "DBusStr": "s",
    "DBusUInt16": "q",
    "DBusUInt32": "u",
    "DBusUInt64": "t",
    "DBusUnixFd": "h",
    "DBusVariant": "v",
}
_DEPTH_MAX = 16


class DbusFast:
    """dbus-fast, and dbus-next."""

    def is_base(self, name: str) -> bool:
        """ServiceInterface."""
        return name == "ServiceInterface"

    def declared(self, program: Program) -> list[Declared]:
        """The classes that have members of the library."""
        found = []
        for node in program.classes():
            parts = _parts(program, node)
            if parts:
                found.append(Declared(node, interface_name(program, node, _given_name(program, node)), parts))
        return found


def interface_name(program: Program, node: ast.ClassDef, name: str | None) -> str:
    """A name that was found for a class, or one that says that none was."""
    if name is not None and is_interface_name(name):
        return name
    made_up = f"org.example.{node.name.strip('_') or 'Interface'}"
    program.tell(
        node,
        Kind.LOST,
        f"class {node.name}",
        "the name of its interface cannot be told from this file",
        f"put it in place of {made_up}",
    )
    return made_up


def _parts(program: Program, node: ast.ClassDef) -> list[Part]:
    parts: dict[str, Part] = {}
    for statement in node.body:
        if not isinstance(statement, Function):
            continue
        for decorator in statement.decorator_list:
            if (
                isinstance(decorator, ast.Attribute)
                and decorator.attr == "setter"
                and isinstance(decorator.value, ast.Name)
                and decorator.value.id in parts
                and takes_value(program, statement)
            ):
                parts[decorator.value.id].setter = statement
            if isinstance(decorator, ast.Call):
                library, name = program.library(decorator.func)
                if library == "dbus_fast" and name in _MEMBERS:
                    part = _part(program, statement, decorator, _MEMBERS[name])
                    if part is not None:
                        parts[statement.name] = part
    return list(parts.values())


def _part(program: Program, function: Function, decorator: ast.Call, kind: str) -> Part | None:
    options = {keyword.arg: keyword.value for keyword in decorator.keywords if keyword.arg}
    positional = ("access", "name", "disabled") if kind == "property" else ("name", "disabled")
    options |= dict(zip(positional, decorator.args, strict=False))
    disabled = options.get("disabled")
    if isinstance(disabled, ast.Constant) and disabled.value is True:
        return None
    name = function.name
    if "name" in options and not (
        isinstance(options["name"], ast.Constant) and options["name"].value is None
    ):
        name = program.text(options["name"]) or ""
    if not (is_property_name if kind == "property" else is_member_name)(name):
        lost_member(program, function, "its name on the bus cannot be told")
        return None
    if not function.args.args:
        lost_member(program, function, "it has no parameter for its object")
        return None
    given = signature(program, function.returns)
    inputs = [(arg.arg, signature(program, arg.annotation)) for arg in function.args.args[1:]]
    if given is None or (kind == "method" and any(not text for _, text in inputs)):
        lost_member(program, function, "its types cannot be told")
        return None
    outputs = tuple(Argument("", text) for text in split_signature(given))
    if kind == "signal":
        return Part(Signal(name, outputs), function.name, function)
    if kind == "method":
        taken = arguments([(arg, text or "") for arg, text in inputs])
        if (
            function.args.vararg
            or function.args.kwonlyargs
            or function.args.kwarg
            or function.args.posonlyargs
        ):
            lost_member(program, function, "not all of its arguments are positional")
            return None
        return Part(Method(name, taken, outputs), function.name, function)
    if len(outputs) != 1:
        lost_member(program, function, f"{given!r} is not one complete type")
        return None
    access = options.get("access")
    word = getattr(access, "attr", "READWRITE") if access is not None else "READWRITE"
    return Part(Property(name, given, word != "WRITE", word != "READ"), function.name, function)


def takes_value(program: Program, setter: Function) -> bool:
    """A setter has its object and a value; others are told as lost."""
    if len(setter.args.args) == 2 and not setter.args.vararg and not setter.args.kwonlyargs:
        return True
    lost_member(program, setter, "a setter takes its object and a value")
    return False


def lost_member(program: Program, node: ast.stmt, why: str) -> None:
    """Note that a member cannot be carried over."""
    name = getattr(node, "name", "a member")
    program.tell(node, Kind.LOST, name, why, "declare it by hand")


def signature(program: Program, node: ast.AST | None, depth: int = 0) -> str | None:
    """The D-Bus types that an annotation says; empty for nothing, None if that cannot be told."""
    if depth > _DEPTH_MAX:
        return None
    match node:
        case None | ast.Constant(value=None):
            return ""
        case ast.Constant(value=str(text)):
            return _signature_text(program, text, depth)
        case ast.Subscript(slice=ast.Tuple(elts=[first, *notes])):
            for note in notes:
                if (
                    isinstance(note, ast.Call)
                    and note.args
                    and program.library(note.func)[1] == "DBusSignature"
                ):
                    return _valid(program.text(note.args[0]))
            return signature(program, first, depth + 1)
    if node is not None and (alias := _ALIASES.get(program.library(node)[1])):
        return alias
    if isinstance(node, ast.Name) and len(values := program.bound.get(node.id, [])) == 1:
        return signature(program, values[0], depth + 1)
    return _valid(program.text(node))


def _signature_text(program: Program, text: str, depth: int) -> str | None:
    if (valid := _valid(text)) is not None:
        return valid
    try:
        return signature(program, ast.parse(text, mode="eval").body, depth + 1)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _valid(text: str | None) -> str | None:
    try:
        if text is not None:
            parse(text)
        return text
    except SignatureInvalid:
        return None


# ---- the name of the interface ---------------------------------------------------------------------


def _given_name(program: Program, node: ast.ClassDef) -> str | None:
    """What reaches the constructor of ServiceInterface."""
    init = next((f for f in node.body if isinstance(f, Function) and f.name == "__init__"), None)
    if init is None:
        return _made_with(program, node, 0, "name")
    for call in ast.walk(init):
        if isinstance(call, ast.Call) and (given := constructor_arguments(call)):
            if (name := program.text(given[0])) is not None:
                return name
            if isinstance(given[0], ast.Name):
                return _parameter(program, node, init, given[0].id)
    return None


def constructor_arguments(call: ast.Call) -> list[ast.expr]:
    """What a call of the constructor above gives it."""
    match call.func:
        case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"):
            return [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "name")]
        case ast.Attribute(value=ast.Name(), attr="__init__") if call.args:
            return call.args[1:]
    return []


def _parameter(program: Program, node: ast.ClassDef, init: Function, name: str) -> str | None:
    """What a parameter of the constructor is: what instances are made with, or its default."""
    names = [arg.arg for arg in init.args.args]
    if name not in names:
        return None
    made = _made_with(program, node, names.index(name) - 1, name)
    defaults = dict(zip(reversed(names), reversed(init.args.defaults), strict=False))
    return made if made is not None else program.text(defaults.get(name))


def _made_with(program: Program, node: ast.ClassDef, position: int, keyword: str) -> str | None:
    for call in ast.walk(program.tree):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == node.name:
            named = [given.value for given in call.keywords if given.arg == keyword]
            value = named[0] if named else call.args[position] if position < len(call.args) else None
            if (text := program.text(value)) is not None:
                return text
    return None
