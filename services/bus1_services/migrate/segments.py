"""segments: a Python source, and changes to it in places that ``ast`` names.

Theory. What is not changed stays as it is written, comments and blank lines included. Changes are collected,
and applied together: a part is replaced, or something is put before or after it. A change inside of a part
that is replaced as a whole goes with it.

Invariants. 1. ``text`` without changes is the source. 2. The order in which changes are made does not matter,
unless they are at one place: then they stand in that order.

Not here: which changes (``rewriting``).
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class _Change:
    start: int
    end: int
    text: str


class Segments:
    """One source text with its changes; offsets count characters. It ends with one end of line."""

    def __init__(self, source: str) -> None:
        self.source = source = source.rstrip("\n") + "\n"
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._changes: list[_Change] = []
        self._colons: dict[int, int] | None = None

    # ---- places ----------------------------------------------------------------------------------

    def at(self, line: int, column: int) -> int:
        """The offset of what ``ast`` calls a line and a column, which counts UTF-8 bytes."""
        prefix = self._lines[line - 1].encode()[:column].decode(errors="replace") if column else ""
        return self._starts[line - 1] + len(prefix)

    def span(self, node: ast.AST) -> tuple[int, int]:
        """Where a node begins and ends."""
        at = vars(node)
        return self.at(at["lineno"], at["col_offset"]), self.at(at["end_lineno"], at["end_col_offset"])

    def lines_of(self, node: ast.stmt) -> tuple[int, int]:
        """A statement with its decorators, as whole lines if nothing else stands on them."""
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(decorator.lineno for decorator in decorators)])
        start, (_, end) = self._starts[first - 1], self.span(node)
        own = self.source[start : self.at(first, node.col_offset)]
        rest, _, _ = self.source[end:].partition("\n")
        if own.strip() or (rest.strip() and not rest.lstrip().startswith("#")):
            return self.span(node)
        return start, end + len(rest) + 1

    def indent_of(self, node: ast.stmt) -> str:
        """The white space before a statement."""
        line = self._lines[node.lineno - 1]
        return line[: len(line) - len(line.lstrip())]

    def head(self, function: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> tuple[int, int]:
        """From the first decorator, or ``def``, to the end of the colon."""
        first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
        line = self._lines[first - 1]
        start = self._starts[first - 1] + len(line) - len(line.lstrip())
        return start, self._colon_after(self.span(function)[0]) + 1

    def original(self, node: ast.AST) -> str:
        """A node as it was written."""
        start, end = self.span(node)
        return self.source[start:end]

    # ---- changes ---------------------------------------------------------------------------------

    def replace(self, start: int, end: int, text: str) -> None:
        """Put ``text`` in place of a part."""
        self._changes.append(_Change(start, end, text))

    def replace_node(self, node: ast.AST, text: str) -> None:
        """Put ``text`` in place of a node."""
        self.replace(*self.span(node), text)

    def surround(self, node: ast.AST, before: str, after: str = "") -> None:
        """Put something before and after a node."""
        start, end = self.span(node)
        self.replace(start, start, before)
        if after:
            self.replace(end, end, after)

    def is_replaced(self, node: ast.AST) -> bool:
        """Some change has it in it, as a whole."""
        start, end = self.span(node)
        return any(c.start <= start and end <= c.end and c.start < c.end for c in self._changes)

    def text(self, start: int = 0, end: int | None = None) -> str:
        """A part, with the changes in it."""
        end = len(self.source) if end is None else end
        inside = [change for change in self._changes if start <= change.start and change.end <= end]
        # the widest of those that begin together first; what is put at one place keeps its order
        inside.sort(key=lambda change: (change.start, change.start == change.end and -1, -change.end))
        pieces, at = [], start
        for change in inside:
            if change.start < at:
                continue
            pieces += [self.source[at : change.start], change.text]
            at = change.end
        return "".join([*pieces, self.source[at:end]])

    def _colon_after(self, start: int) -> int:
        """The offset of the first colon outside of brackets after ``start``."""
        if self._colons is None:
            self._colons = {}
            depth, waiting = 0, []
            for token in tokenize.generate_tokens(io.StringIO(self.source).readline):
                offset = self._starts[token.start[0] - 1] + token.start[1]
                if token.type == tokenize.NAME and token.string in {"def", "class", "async"} and depth == 0:
                    waiting.append(offset)
                elif token.type == tokenize.OP and token.string in "([{":
                    depth += 1
                elif token.type == tokenize.OP and token.string in ")]}":
                    depth -= 1
                elif token.type == tokenize.OP and token.string == ":" and depth == 0:
                    self._colons.update(dict.fromkeys(waiting, offset))
                    waiting.clear()
        return self._colons[start]
