"""The docstrings of bus1_services: they are the contract, so they name the errors of what they describe."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import bus1_services
import pytest
from bus1_services import blocking, caps, errors, polkit, testing

import bus1.errors

ROOM = Path(bus1_services.__file__).parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
PROTOCOL = {"NotImplementedError", "StopAsyncIteration", "StopIteration"}
"""Raised for the language, and not for a caller."""


def raised(node: ast.AST, caught: frozenset[str] = frozenset()) -> Iterator[str]:
    """The classes of what the body of a function raises and does not catch, functions within left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(child, ast.Try):
            handled = {
                name for handler in child.handlers if handler.type is not None
                for name in re.findall(r"\w+", ast.unparse(handler.type))
            }
            yield from raised(ast.Module(child.body, []), caught | handled)
            for rest in (*child.handlers, *child.orelse, *child.finalbody):
                yield from raised(rest, caught)
            continue
        if isinstance(child, ast.Raise) and child.exc is not None:
            what = child.exc.func if isinstance(child.exc, ast.Call) else child.exc
            name = ast.unparse(what).rpartition(".")[2]
            if name[0].isupper() and name not in caught | PROTOCOL:
                yield name
        yield from raised(child, caught)


def is_public(name: str) -> bool:
    return not name.startswith("_") or name.startswith("__")


def silent(tree: ast.Module) -> Iterator[str]:
    """Functions, and methods, that raise what their docstring does not name: nor that of their class."""
    for member in tree.body:
        inside = member.body if isinstance(member, ast.ClassDef) else [member]
        about = ast.get_docstring(member) or "" if isinstance(member, ast.ClassDef) else ""
        if getattr(member, "name", "_").startswith("_"):
            continue
        for function in inside:
            if isinstance(function, Function) and is_public(function.name):
                told = set(re.findall(r"\w+", f"{about} {ast.get_docstring(function) or ''}"))
                for name in sorted(set(raised(function)) - told):
                    yield f"{function.name}: {name}"


def test_whatever_a_function_raises_its_docstring_names() -> None:
    found = [
        f"{path.relative_to(ROOM)}: {line}"
        for path in sorted(ROOM.rglob("*.py")) for line in silent(ast.parse(path.read_text()))
    ]
    assert found == []


def test_what_is_caught_is_not_raised_and_what_is_not_named_is_found() -> None:
    tree = ast.parse(
        "def f():\n  try:\n    raise KeyError\n  except (KeyError, OSError):\n    raise errors.Late(1)\n"
        "class C:\n  'OSError.'\n  def m(self):\n    if self:\n      raise Late\n    raise OSError\n"
        "  def _m(self):\n    raise Late\n"
    )
    assert list(silent(tree)) == ["f: Late", "m: Late"]


def described(module: str, name: str) -> str:
    """The docstring of a name, or the text below its assignment."""
    body = ast.parse(Path(str(importlib.import_module(module).__file__)).read_text()).body
    text = ""
    for node, after in pairwise([*body, ast.Pass()]):
        if isinstance(node, ast.ClassDef | Function) and node.name == name:
            # the last one: before it are overloads
            text = ast.get_docstring(node) or ""
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            is_told = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            if is_told and name in map(ast.unparse, targets):
                text = ast.unparse(after)
    return text


HOMES = {
    **{name: f"bus1_services.{home}" for name, home in bus1_services._HOME.items()},
    **{name: f"bus1_services.testing.{home}" for name, home in testing._HOME.items()},
    **{name: value.__module__ for name, value in vars(caps).items() if callable(value)},
    **dict.fromkeys(("Polkit", "NotAuthorized", "InteractiveAuthorizationRequired"), polkit.__name__),
}


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    # importing the module would put it in the name's place
    assert not {f"{home.rpartition('.')[0]}.{name}" for name, home in HOMES.items()} & set(HOMES.values())


@pytest.mark.parametrize("name", HOMES)
def test_a_public_name_says_what_it_is(name: str) -> None:
    assert described(HOMES[name], name)


ERRORS = {
    name for module in (bus1.errors, errors, builtins) for name, value in vars(module).items()
    if isinstance(value, type) and issubclass(value, BaseException)
}
NEVER_FAILS = {"revocable"}
FUNCTIONS = [
    (home, name) for name, home in HOMES.items()
    if name not in NEVER_FAILS and inspect.isfunction(vars(importlib.import_module(home))[name])
]


@pytest.mark.parametrize(("module", "name"), [(blocking.__name__, "connect"), *FUNCTIONS])
def test_a_public_function_says_how_it_fails(module: str, name: str) -> None:
    words = described(module, name)
    assert ERRORS & set(re.findall(r"\w+", words)) or re.search(r"raise|\wError\b", words)
