"""twin_script: what several clients of a bus do, one step after the other, as data and as text.

Theory. A script is a list of ``Term``; a term is a word with values and named values, and values may be
terms again. As text it is one call of Python's syntax per line: what hypothesis prints of a failing script
is what a file of ``corpus/twins`` contains. Texts that begin with ``@`` stand for the unique name of that
client.

Steps: ``connect("a", fds=, hello=)``; ``send("a", message, …, cuts=, keep=)``: messages in one go, cut where
``cuts`` says, each piece handled by the bus before the next is written; of the last message ``keep`` bytes
stay behind until ``rest("a")`` or another ``send``; ``storm(of("a", message, …), of("b", …))``: all at once;
``shut("a")``: sends nothing more; ``close("a")``; ``deafen("a")`` reads nothing until ``listen("a")``;
``monitor("a", rules)``; ``stats("a")``: asks for all statistics; ``policy(elements)``: these rules for
everybody, behind those of the bus; ``knock(piece, …)``: one of twin_strangers; those of native peers
(twin_natives). A step that makes no sense (a client that isn't there) does nothing.

Messages: ``call``, ``signal``, ``ret``, ``error``, ``other`` (``type=``) with the fields to path interface
member name reply_to sender signature args flags serial endian extra turn version body_length fds damage
size (that many bytes as the body); ``ask(member, signature, args)`` to the driver; ``answer(n)`` and
``fail(n)``: to the n-th latest call that the client has got; ``raw(hex)``.

Not here: what is done with it (twin_stage).
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Term:
    """A word with values: a step, or a message."""

    word: str
    values: tuple[Any, ...] = ()
    more: tuple[tuple[str, Any], ...] = ()

    def __repr__(self) -> str:
        inside = [repr(value) for value in self.values] + [f"{key}={value!r}" for key, value in self.more]
        return f"{self.word}({', '.join(inside)})"

    @property
    def named(self) -> dict[str, Any]:
        """The named values."""
        return dict(self.more)


Script = Sequence[Term]


def term(word: str, *values: Any, **more: Any) -> Term:
    """A term; what is None is left out."""
    return made(word, values, more)


def made(word: str, values: Sequence[Any], more: Mapping[str, Any]) -> Term:
    """A term of collected parts."""
    return Term(word, tuple(values), tuple((key, value) for key, value in more.items() if value is not None))


def text_of(script: Script) -> str:
    """A line per step."""
    return "".join(f"{step!r}\n" for step in script)


def script_of(text: str) -> list[Term]:
    """The steps of a text; empty lines and what follows ``#`` are for people."""
    return [_term(node.value) for node in ast.parse(text).body if isinstance(node, ast.Expr)]


def _term(node: ast.expr) -> Term:
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name), ast.unparse(node)
    more = tuple((word.arg or "", _value(word.value)) for word in node.keywords)
    return Term(node.func.id, tuple(_value(value) for value in node.args), more)


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Call():
            return _term(node)
        case ast.List():
            return [_value(each) for each in node.elts]
        case ast.Tuple():
            return tuple(_value(each) for each in node.elts)
        case ast.BinOp(left, ast.Mult(), right):
            return _value(left) * _value(right)
        case ast.BinOp(left, ast.Add(), right):
            return _value(left) + _value(right)
    return ast.literal_eval(node)


def shortened(script: Script, is_enough: Callable[[Script], bool], tries: int = 60) -> Script:
    """Steps and messages left out as long as it ``is_enough``; asked so many times at most."""

    def without(start: int, size: int) -> bool:
        nonlocal script, tries
        shorter = [*script[:start], *script[start + size :]]
        tries -= 1
        if tries >= 0 and is_enough(shorter):
            script = shorter
            return True
        return False

    size = len(script) // 2
    while size:
        start = len(script) - size
        while start >= 0:
            without(start, size)
            start = min(start, len(script)) - size
        size //= 2
    for n, step in enumerate(script):
        for i in reversed(range(1, len(step.values))):
            if step.word != "send" or len(script[n].values) < 3 or tries <= 0:
                break
            values = script[n].values
            fewer = Term("send", (*values[:i], *values[i + 1 :]), step.more)
            tries -= 1
            if is_enough(candidate := [*script[:n], fewer, *script[n + 1 :]]):
                script = candidate
    return script
