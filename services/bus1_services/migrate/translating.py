"""translating: what bodies use of a library, in native words.

Theory. A few things have a counterpart: variants, errors, values of types. Whatever else comes from the
library is an expression that raises NotImplementedError with its place, and is told as lost.

Not here: members (``rewriting``), how a program starts (``wiring``).
"""

from __future__ import annotations

import ast

from ..types import is_error_name
from .aids import Aids
from .borrowing import Borrowed
from .planning import Plan
from .program import LIBRARIES, Function, Program
from .report import Kind
from .sources import SOURCES
from .sources import dasbus as dasbus_types
from .sources.dbusfast import constructor_arguments

_ERRORS = "org.freedesktop.DBus.Error."
_GETTERS = {
    f"get_{name}"
    for name in (
        "string",
        "boolean",
        "byte",
        "int16",
        "uint16",
        "int32",
        "uint32",
        "int64",
        "uint64",
        "double",
        "variant",
    )
}
"""Of GLib's variants, without arguments."""
_TEMPLATES = {
    "InterfaceTemplate": "InterfaceTemplate",
    "BasicInterfaceTemplate": "InterfaceTemplate",
    "Publishable": "",
}
"""Bases of dasbus, with what stands in their place."""
_OVERRIDES = {"dbus_method_async_override", "dbus_property_async_override"}
_EXPORTING = {
    "dbus_fast": ("export", "unexport", "request_name", "release_name"),
    "dasbus": ("publish_object", "unpublish_object", "register_service", "unregister_service"),
    "pydbus": ("publish", "register_object", "request_name"),
    "sdbus": ("export_to_dbus", "request_name_async", "release_name_async", "export_with_manager"),
}
"""What brings objects and names to the bus, by library."""


def translate(
    program: Program, plans: list[Plan], borrowed: Borrowed, aids: Aids, dropped: set[ast.AST]
) -> None:
    """Change what is used of libraries, in whatever is neither replaced nor ``dropped``."""
    translating = _Translating(program, plans, borrowed, aids, dropped)
    for node in ast.walk(program.tree):
        if isinstance(node, ast.ClassDef):
            translating.class_(node)
    for node in ast.walk(program.tree):
        if isinstance(node, ast.Call):
            translating.call(node)
        elif isinstance(node, ast.ExceptHandler):
            translating.handler(node)
    translating.leftovers()


class _Translating:
    def __init__(
        self, program: Program, plans: list[Plan], borrowed: Borrowed, aids: Aids, dropped: set[ast.AST]
    ) -> None:
        self._program, self._borrowed, self._aids = program, borrowed, aids
        self._segments = program.segments
        self._plans = {plan.declared.node: plan for plan in plans}
        libraries = {LIBRARIES.get(dotted.partition(".")[0], "") for dotted in program.imports.values()}
        self._exporting = {name for library in libraries for name in _EXPORTING.get(library, ())}
        self._done = set(dropped)

    # ---- classes ---------------------------------------------------------------------------------

    def class_(self, node: ast.ClassDef) -> None:
        """The head of a class: Interface in place of the library's bases, the name of the interface."""
        plan = self._plans.get(node)
        self._overrides(node)
        bases = [(base, self._base(base)) for base in node.bases]
        replaced = [name for _, name in bases if name]
        if plan is None and all(name is None for _, name in bases):
            self._error_class(node)
            return
        texts = [
            self._native(name) if name else self._segments.original(base)
            for base, name in bases
            if name != ""
        ]
        inherits = any(isinstance(base, ast.Name) and self._is_interface(base.id) for base, _ in bases)
        if plan is not None and plan.bases:
            texts[:0] = plan.bases
        elif plan is not None and not replaced and not inherits:
            texts.insert(0, self._borrowed("Interface"))
        texts = list(dict.fromkeys(text for text in texts if text != "object"))
        if plan is not None and not plan.bases:
            texts.append(f"name={_quoted(plan.declared.interface)}")
        texts += [self._segments.original(k) for k in node.keywords if k.arg != "interface_name"]
        marks = [
            f"@{self._segments.original(d)}\n"
            for d in node.decorator_list
            if not self._program.library(d.func if isinstance(d, ast.Call) else d)[0]
            and not (
                isinstance(d, ast.Call) and dasbus_types.is_named(self._program, d.func, "dbus_interface")
            )
        ]
        indent = self._segments.indent_of(node)
        head = f"class {node.name}({', '.join(texts)}):".replace("():", ":")
        self._segments.replace(*self._segments.head(node), indent.join([*marks, head]))
        if plan is not None:
            self._check_bases(node)

    def _overrides(self, node: ast.ClassDef) -> None:
        """sdbus marks members that override those of a base; natively there is nothing to say."""
        for function in node.body:
            for decorator in function.decorator_list if isinstance(function, Function) else []:
                called = decorator.func if isinstance(decorator, ast.Call) else decorator
                library, name = self._program.library(called)
                if library == "sdbus" and name in _OVERRIDES:
                    self._segments.replace(*self._decorator_lines(decorator), "")
                    self._done.update(ast.walk(decorator))

    def _base(self, base: ast.expr) -> str | None:
        """What stands in place of a library's base, an empty text for nothing; None for others."""
        library, name = self._program.library(base)
        if library == "dasbus" and name in _TEMPLATES:
            return _TEMPLATES[name]
        return "Interface" if library and SOURCES[library].is_base(name) else None

    def _native(self, name: str) -> str:
        return self._aids(name) if name == "InterfaceTemplate" else self._borrowed(name)

    def _is_interface(self, name: str, depth: int = 0) -> bool:
        """A class of this program that derives from a library's base, or becomes an interface."""
        for node in self._program.classes():
            if node.name == name and depth < 16:
                if node in self._plans or any(self._base(base) for base in node.bases):
                    return True
                return any(
                    isinstance(b, ast.Name) and self._is_interface(b.id, depth + 1) for b in node.bases
                )
        return False

    def _check_bases(self, node: ast.ClassDef) -> None:
        for base in node.bases:
            if self._plans[node].declared.keeps_names or not self._is_fast(node):
                return
            above = next((c for c in self._plans if isinstance(base, ast.Name) and c.name == base.id), None)
            if above is not None:
                self._program.tell(
                    node,
                    Kind.LOST,
                    f"class {node.name}",
                    f"the members of {above.name} were members of its interface, too; now they belong to "
                    f"{self._plans[above].declared.interface} alone",
                    "declare them where they belong",
                )

    def _is_fast(self, node: ast.ClassDef) -> bool:
        """Its members are marked in dbus-fast's way, where those of its bases belong to its own interface."""
        functions = [part.function for part in self._plans[node].declared.parts if part.function is not None]
        marks = [d.func for f in functions for d in f.decorator_list if isinstance(d, ast.Call)]
        return any(self._program.library(mark)[0] == "dbus_fast" for mark in marks)

    def _error_class(self, node: ast.ClassDef) -> None:
        """An exception that stands for an error name."""
        names = []
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and self._makes_errors(decorator.func):
                name = dasbus_types.name_in(self._program, decorator.args[0]) if decorator.args else None
                space = next((k.value for k in decorator.keywords if k.arg == "namespace"), None)
                before = self._program.constant(space) if space is not None else ()
                if name and isinstance(before, tuple):
                    names.append(".".join([*before, name]))
                    self._segments.replace(*self._decorator_lines(decorator), "")
        for statement in node.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id="dbus_error_name")], value=value):
                    if (name := self._program.text(value)) is not None:
                        names.append(name)
                        is_only = len(node.body) == 1
                        self._segments.replace(*self._segments.span(statement), "pass" if is_only else "")
        if len(names) != 1 or not is_error_name(names[0]):
            return
        start, end = self._segments.span(node)[0], self._segments.head(node)[1]
        self._segments.replace(
            start, end, f"class {node.name}({self._borrowed('DBusError')}, name={_quoted(names[0])}):"
        )

    def _makes_errors(self, function: ast.expr) -> bool:
        """The decorator that dasbus makes for errors."""
        values = self._program.bound.get(function.id, []) if isinstance(function, ast.Name) else []
        return (
            len(values) == 1
            and isinstance(values[0], ast.Call)
            and (self._program.library(values[0].func) == ("dasbus", "get_error_decorator"))
        )

    def _decorator_lines(self, decorator: ast.expr) -> tuple[int, int]:
        start, end = self._segments.span(decorator)
        source = self._segments.source
        return source.rfind("\n", 0, start) + 1, source.index("\n", end) + 1

    # ---- calls -----------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> None:
        """A call of something that has a counterpart."""
        owner = self._program.enclosing_class(node)
        if owner is not None and self._constructs(node, owner):
            return
        library, name = self._program.library(node.func)
        dotted = self._program.dotted(node.func)
        if owner is not None and isinstance(node.func, ast.Attribute) and node.func.attr in self._exporting:
            self._exports(node)
            return
        if isinstance(node.func, ast.Attribute) and not node.args and not node.keywords:
            self._unpack(node.func)
        if isinstance(node.func, ast.Name) and (made := self._made(node.func.id)) is not None:
            self._make(node, made)
        if name == "Variant" or dotted.endswith("GLib.Variant") or self._is_dasbus(node.func, "Variant"):
            self._use(node.func, "Variant")
        elif library == "dbus_fast" and name == "DBusError":
            self._error(node, node.args)
        elif library == "dbus_fast" and name == "unpack_variants":
            self._use(node.func, "bare")
        elif self._is_dasbus(node.func, "get_variant") and len(node.args) == 2:
            text = dasbus_types.signature(self._program, node.args[0]) or self._program.text(node.args[0])
            if text is not None:
                self._use(node.func, "Variant")
                self._replace(node.args[0], _quoted(text))
        elif self._is_dasbus(node.func, "get_native"):
            self._use(node.func, "bare")
        elif self._is_dasbus(node.func, "unwrap_variant") and len(node.args) == 1:
            self._replace(node.func, "")
            self._segments.surround(node.args[0], "", "")
            end = self._segments.span(node)[1]
            self._segments.replace(end, end, ".value")

    def _constructs(self, node: ast.Call, owner: ast.ClassDef) -> bool:
        """The constructor of a base that is native now."""
        if not isinstance(node.func, ast.Attribute) or node.func.attr != "__init__":
            return False
        given = constructor_arguments(node)
        bases = [self._program.library(base) for base in owner.bases]
        if any(base == ("dbus_fast", "DBusError") for base in bases):
            self._error(node, given)
            return True
        if any(self._base(base) == "InterfaceTemplate" for base in owner.bases):
            return False
        is_direct = self._base(node.func.value) is not None
        if is_direct or (
            any(self._base(base) for base in owner.bases) and ast.unparse(node.func.value) == "super()"
        ):
            self._replace(node, "super().__init__()")
            return True
        return False

    def _exports(self, node: ast.Call) -> None:
        """Methods of the old bus that no other code calls by these names."""
        if node in self._done or not isinstance(node.func, ast.Attribute) or not node.args:
            return
        what = f"{self._segments.original(node.func)}()"
        self._program.tell(
            node,
            Kind.LOST,
            what,
            "it brings something to the bus at run time, or takes it away",
            "give the object out as a result; or publish it, with Connection.registry",
        )
        self._replace(node, self._aids.lost(self._program, node, what))

    def _made(self, name: str) -> ast.ClassDef | None:
        """The interface class of this name that has no constructor of its own, and was given its name."""
        for node in self._plans:
            library = {self._program.library(base)[0] for base in node.bases}
            if (
                node.name == name
                and "dbus_fast" in library
                and not any(isinstance(f, Function) and f.name == "__init__" for f in node.body)
            ):
                return node
        return None

    def _make(self, node: ast.Call, made: ast.ClassDef) -> None:
        self._replace(node, f"{made.name}()")

    def _error(self, node: ast.Call, given: list[ast.expr]) -> None:
        """dbus-fast gives the name first: both by keyword."""
        if isinstance(node.func, ast.Attribute) and node.func.attr == "__init__":
            pass
        else:
            self._use(node.func, "DBusError")
        for argument, keyword in zip(given, ("name", "text"), strict=False):
            if argument in node.args:
                self._segments.surround(argument, f"{keyword}=")
        for named in node.keywords:
            if named.arg == "type":
                start = self._segments.span(named)[0]
                self._segments.replace(start, start + len("type"), "name")

    def _unpack(self, function: ast.Attribute) -> None:
        """GLib's variants."""
        has_glib = any(dotted.startswith("gi.repository") for dotted in self._program.imports.values())
        if not has_glib and not any("dasbus" in dotted for dotted in self._program.imports.values()):
            return
        call = self._program.parents[function]
        assert isinstance(call, ast.Call)
        end = self._segments.span(call)[1]
        if function.attr == "unpack":
            start = self._segments.span(function.value)[1]
            self._segments.surround(function.value, f"{self._borrowed('bare')}(")
            self._segments.replace(start, end, ")")
        elif function.attr in _GETTERS and not self._program.dotted(function):
            self._segments.replace(self._segments.span(function.value)[1], end, ".value")

    # ---- names -----------------------------------------------------------------------------------

    def handler(self, node: ast.ExceptHandler) -> None:
        """``error.type`` of an error is its name."""
        if (
            node.type is None
            or self._program.library(node.type) != ("dbus_fast", "DBusError")
            or not node.name
        ):
            return
        for inside in ast.walk(node):
            match inside:
                case ast.Attribute(value=ast.Name(id=name), attr="type") if name == node.name:
                    end = self._segments.span(inside)[1]
                    self._segments.replace(end - len("type"), end, "name")

    def leftovers(self) -> None:
        """What else is used: an error name, a class with a counterpart, or something that is lost."""
        for node in ast.walk(self._program.tree):
            if not isinstance(node, ast.Name | ast.Attribute) or node in self._done:
                continue
            parent = self._program.parents[node]
            if isinstance(parent, ast.Attribute) and self._program.library(parent)[0]:
                continue
            library, name = self._program.library(node)
            dotted = self._program.dotted(node)
            if dotted.endswith("GLib.Variant"):
                self._use(node, "Variant")
            elif library and not self._segments.is_replaced(node) and not self._is_hint(node):
                self._leftover(node, library, name)

    def _leftover(self, node: ast.Name | ast.Attribute, library: str, name: str) -> None:
        before = self._program.dotted(node).split(".")
        if "ErrorType" in before[:-1]:
            words = "".join(word.capitalize() for word in name.split("_"))
            special = {"ServiceError": "com.dubstepdish.dbus.next.ServiceError"}
            self._replace(node, _quoted(special.get(words, _ERRORS + words.replace("Io", "IO"))))
        elif name in {"Variant", "DBusError"}:
            self._use(node, name)
        elif library == "dasbus" and _TEMPLATES.get(name):
            self._replace(node, self._aids("InterfaceTemplate"))
        elif library == "dasbus" and before == ["dasbus", "signal", "Signal"]:
            self._replace(node, self._aids("Signal"))
        elif library == "sdbus" and name in {"DbusFailedError", "SdBusBaseError"}:
            self._use(node, "DBusError")
        elif library == "dasbus" and name in {
            "Str",
            "Int",
            "UInt16",
            "UInt32",
            "UInt64",
            "Int16",
            "Int32",
            "Int64",
            "Byte",
            "Bool",
            "Double",
            "ObjPath",
        }:
            code = dasbus_types.signature(self._program, node) or "s"
            self._replace(node, {"s": "str", "o": "str", "b": "bool", "d": "float"}.get(code, "int"))
        else:
            what = self._segments.original(node)
            self._program.tell(
                node,
                Kind.LOST,
                what,
                f"it belongs to {self._program.dotted(node).partition('.')[0] or library}, "
                "and has no counterpart",
                "write it anew",
            )
            self._replace(node, self._aids.lost(self._program, node, what))

    def _is_hint(self, node: ast.AST) -> bool:
        """Part of an annotation: nothing evaluates those that are not members'."""
        child, above = node, self._program.parents.get(node)
        while above is not None:
            match above:
                case ast.arg(annotation=hint) if hint is child:
                    return True
                case ast.AnnAssign(annotation=hint) if hint is child:
                    return True
                case ast.FunctionDef(returns=hint) | ast.AsyncFunctionDef(returns=hint) if hint is child:
                    return True
                case ast.stmt():
                    return False
            child, above = above, self._program.parents.get(above)
        return False

    def _is_dasbus(self, node: ast.AST, name: str) -> bool:
        return dasbus_types.is_named(self._program, node, name)

    def _use(self, node: ast.AST, name: str) -> None:
        self._replace(node, self._borrowed(name))

    def _replace(self, node: ast.AST, text: str) -> None:
        if node not in self._done and not self._segments.is_replaced(node):
            self._segments.replace_node(node, text)
        self._done.update(ast.walk(node))


def _quoted(text: str) -> str:
    return f'"{text}"' if ascii(text) == f"'{text}'" else ascii(text)
