"""sdbus: services written with python-sdbus, in its asynchronous way.

Theory. An interface is a class with ``interface_name=``. Its members have signatures in their decorators, and
are used in Python as they are natively: awaited, under the same names. A variant is a pair of its type and
its value.

Not here: what becomes of a class (``rewriting``).
"""

from __future__ import annotations

import ast

from ...types import SignatureInvalid, is_member_name, is_property_name, parse, split_signature
from ..declared import Declared, Part
from ..description import Argument, Method, Property, Signal
from ..program import Function, Program
from .dbusfast import interface_name, lost_member, takes_value

_POSITIONAL = {
    "dbus_method_async": (
        "input_signature",
        "result_signature",
        "flags",
        "result_args_names",
        "input_args_names",
        "method_name",
    ),
    "dbus_property_async": ("property_signature", "flags", "property_name"),
    "dbus_signal_async": ("signal_signature", "signal_args_names", "flags", "signal_name"),
}
_EMITS = {
    "DbusPropertyEmitsChangeFlag": "true",
    "DbusPropertyEmitsInvalidationFlag": "invalidates",
    "DbusPropertyConstFlag": "const",
}


class Sdbus:
    """python-sdbus."""

    def is_base(self, name: str) -> bool:
        """The asynchronous interfaces."""
        return name in {
            "DbusInterfaceCommonAsync",
            "DbusInterfaceBaseAsync",
            "DbusObjectManagerInterfaceAsync",
        }

    def declared(self, program: Program) -> list[Declared]:
        """The classes that have members of the library."""
        found = []
        for node in program.classes():
            parts = _parts(program, node)
            named = next((k.value for k in node.keywords if k.arg == "interface_name"), None)
            if parts:
                name = interface_name(program, node, program.text(named))
                found.append(Declared(node, name, parts, keeps_names=True))
        return found


def _parts(program: Program, node: ast.ClassDef) -> list[Part]:
    parts: dict[str, Part] = {}
    for statement in node.body:
        if not isinstance(statement, Function):
            continue
        for decorator in statement.decorator_list:
            if isinstance(decorator, ast.Attribute) and isinstance(decorator.value, ast.Name):
                part = parts.get(decorator.value.id)
                is_setter = decorator.attr in {"setter", "setter_private"} and takes_value(program, statement)
                if part is not None and is_setter:
                    part.setter = statement
                    if decorator.attr == "setter" and isinstance(part.member, Property):
                        member = part.member
                        part.member = Property(member.name, member.signature, True, True, member.emits)
            if isinstance(decorator, ast.Call):
                library, kind = program.library(decorator.func)
                if library == "sdbus" and kind in _POSITIONAL:
                    part = _part(program, statement, decorator, kind)
                    if part is not None:
                        parts[statement.name] = part
    return list(parts.values())


def _part(program: Program, function: Function, decorator: ast.Call, kind: str) -> Part | None:
    options = {keyword.arg: keyword.value for keyword in decorator.keywords if keyword.arg}
    options |= dict(zip(_POSITIONAL[kind], decorator.args, strict=False))
    if not function.args.args:
        lost_member(program, function, "it has no parameter for its object")
        return None
    what = kind.split("_")[1]
    name = _camel(function.name)
    if f"{what}_name" in options:
        name = program.text(options[f"{what}_name"]) or ""
    if not (is_property_name if what == "property" else is_member_name)(name):
        lost_member(program, function, "its name on the bus cannot be told")
        return None
    texts = [
        program.text(options[key]) if key in options else ""
        for key in ("input_signature", "result_signature", "property_signature", "signal_signature")
    ]
    if any(text is None or not _is_signature(text) for text in texts):
        lost_member(program, function, "its types cannot be told")
        return None
    takes, gives, of, sent = (split_signature(text or "") for text in texts)
    flags = ast.unparse(options["flags"]) if "flags" in options else ""
    deprecated = "DbusDeprecatedFlag" in flags
    shape = "pairs" if any("v" in text for text in texts if text) else "values"
    if what == "signal":
        arguments = _named(sent, _names(program, options, "signal_args_names", ()))
        return Part(Signal(name, arguments, deprecated), function.name, function, shape=shape)
    if what == "property":
        if len(of) != 1:
            lost_member(program, function, "it has not one complete type")
            return None
        emits = next((emits for flag, emits in _EMITS.items() if flag in flags), "false")
        return Part(
            Property(name, of[0], True, False, emits, deprecated), function.name, function, shape=shape
        )
    parameters = tuple(arg.arg for arg in function.args.args[1:])
    if (
        len(parameters) != len(takes)
        or function.args.vararg
        or function.args.kwonlyargs
        or function.args.kwarg
    ):
        lost_member(program, function, f"it has not one argument for each type of {texts[0]!r}")
        return None
    inputs = _named(takes, _names(program, options, "input_args_names", parameters))
    outputs = _named(gives, _names(program, options, "result_args_names", ()))
    no_reply = "DbusNoReplyFlag" in flags and not outputs
    return Part(Method(name, inputs, outputs, no_reply, deprecated), function.name, function, shape=shape)


def _names(
    program: Program, options: dict[str, ast.expr], key: str, otherwise: tuple[str, ...]
) -> tuple[str, ...]:
    value = program.constant(options.get(key))
    return value if isinstance(value, tuple) and value else otherwise


def _named(signatures: list[str], names: tuple[str, ...]) -> tuple[Argument, ...]:
    padded = [*names, *[""] * len(signatures)]
    return tuple(Argument(name, text) for name, text in zip(padded, signatures, strict=False))


def _is_signature(text: str) -> bool:
    try:
        parse(text)
    except SignatureInvalid:
        return False
    return True


def _camel(name: str) -> str:
    """As the library names members: ``get_all`` is GetAll, and what has capitals stays."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))
