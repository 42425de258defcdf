"""borrowing: what a carried module imports, under names that are free in it.

Not here: what it imported before (``carrying``).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from .program import Function, Program

_HOMES = {
    **dict.fromkeys(("Annotated", "Any"), "typing"),
    **dict.fromkeys(("bare", "pairs", "unpaired"), "bus1_services.variants"),
    "Coroutine": "collections.abc",
    "BoundProperty": "bus1_services.interface",
}
"""Where names come from that the package itself does not give."""


class Borrowed:
    """Names of this project, and of ``typing``, as one module has them."""

    def __init__(self, program: Program) -> None:
        self._taken = set(_bound(program.tree)) - {
            name
            for name in program.imports
            if program.library(ast.Name(name))[0] or program.imports[name].startswith("gi.repository.GLib.")
        }
        self._same = {name for name in ("Annotated", "Any") if program.imports.get(name) == f"typing.{name}"}
        self._used: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        """How ``name`` is called in the module, which will import it."""
        local = name
        if name in self._same:
            return name
        while local in self._taken:
            local = f"bus1_{local}"
        self._used[name] = local
        return local

    def free(self, name: str) -> str:
        """A name, that or a similar one, for something new at the top of the module."""
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def imports(self) -> str:
        """The import statements."""
        homes: dict[str, list[str]] = {}
        for name, local in sorted(self._used.items()):
            home = _HOMES.get(name, "bus1_services")
            homes.setdefault(home, []).append(name if name == local else f"{name} as {local}")
        return "".join(_import(home, names) for home, names in sorted(homes.items(), reverse=True))


def _import(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}\n"
    if len(line) <= 88:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")\n"


def _bound(tree: ast.Module) -> Iterator[str]:
    """Names that the module, or the body of a class, binds."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    yield name
                case ast.Name(id=name, ctx=ast.Store()):
                    yield name
                case ast.alias(name=name, asname=as_name):
                    yield as_name or name.partition(".")[0]
            if not isinstance(node, Function):
                waiting.append(node)
