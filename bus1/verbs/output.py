"""output: what verbs print: tables and trees for people, JSON for programs.

Theory. A verb has records, and a way to write them as text. JSON is one record a line when short, an array
when pretty. Text goes through a pager, and is coloured, if standard output is a terminal and nobody objects.

Invariants. 1. Text from elsewhere cannot control the terminal: ``printable`` stands before every cell.

Not here: what the records are.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

Record = dict[str, Any]
_FALSE = {"0", "no", "n", "false", "f", "off"}
_LINES, _SIGNS = ("├─ ", "└─ ", "│  ", "   "), ("|- ", "`- ", "|  ", "   ")
_UNDERLINE, _RED, _PLAIN = "\x1b[4m", "\x1b[31m", "\x1b[0m"


class Style(NamedTuple):
    """How text is written."""

    has_legend: bool = True
    has_colour: bool = False
    has_lines: bool = True
    """Branches of trees may be drawn, as the encoding is UTF-8."""

    def head(self, text: str) -> str:
        """The head of a table."""
        return f"{_UNDERLINE}{text}{_PLAIN}" if self.has_colour else text

    def alarming(self, text: str) -> str:
        """What should catch the eye."""
        return f"{_RED}{text}{_PLAIN}" if self.has_colour else text


def add_output_arguments(parser: ArgumentParser) -> None:
    """How it is printed."""
    parser.add_argument(
        "--json", metavar="MODE", choices=("short", "pretty", "off"), default="off",
        help="short: JSON, one record a line; pretty: JSON, indented; off: text, the default",
    )
    parser.add_argument(
        "-j", dest="json", action="store_const", const="-j",
        help="--json=pretty on a terminal, --json=short otherwise",
    )
    parser.add_argument("--no-legend", action="store_true", help="no heads above the columns")
    parser.add_argument("--no-pager", action="store_true", help="print directly, also on a terminal")


def show(arguments: Namespace, records: Sequence[Record], text: Callable[[Style], str]) -> None:
    """Print ``records`` as ``arguments`` want it; ``text`` writes them for people."""
    if sys.stdout is None:
        return  # it was closed before the start: the exit status is all that was asked for
    mode = arguments.json
    is_terminal = sys.stdout.isatty()
    if mode == "-j":
        mode = "pretty" if is_terminal else "short"
    if mode == "short":
        _print("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records))
    elif mode == "pretty":
        _print(json.dumps(records, indent=2) + "\n")
    else:
        has_lines = (sys.stdout.encoding or "").lower().startswith("utf")
        style = Style(not arguments.no_legend, wants_colour(os.environ, is_terminal), has_lines)
        page(text(style), is_terminal and not arguments.no_pager)


def wants_colour(environment: Mapping[str, str], is_terminal: bool) -> bool:
    """$SYSTEMD_COLORS decides, otherwise $NO_COLOR and the terminal do."""
    if chosen := environment.get("SYSTEMD_COLORS"):
        return chosen.lower() not in _FALSE
    return is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def page(text: str, wants_pager: bool) -> None:
    """Print a text, through the user's pager if it is wanted and there."""
    if wants_pager:
        import shlex
        import subprocess

        # an empty value is no pager, as for systemd's tools
        chosen = os.environ.get("SYSTEMD_PAGER", os.environ.get("PAGER", "less"))
        environment = {"LESS": "FRSXMK", **os.environ}
        try:
            if words := shlex.split(chosen):
                subprocess.run(words, input=text, text=True, errors="backslashreplace", env=environment)
                return
        except (FileNotFoundError, PermissionError, ValueError):
            pass  # a pager that cannot be had, or whose name makes no sense
    _print(text)


def _print(text: str) -> None:
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    sys.stdout.write(text)
    sys.stdout.flush()


def printable(value: object) -> str:
    """A value as a terminal may have it: what is not printable is escaped; None is ``-``."""
    if value is None:
        return "-"
    return "".join(
        char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
        for char in str(value)
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], style: Style) -> str:
    """Columns side by side; numbers stand right, everything else left."""
    cells = [[printable(value) for value in row] for row in rows]
    head = [*([list(heads)] if style.has_legend else [])]
    widths = [max(map(len, column)) for column in zip(*head, *cells, strict=True)]
    is_number = [all(isinstance(row[at], int) for row in rows) and bool(rows) for at in range(len(heads))]

    def line(row: list[str]) -> str:
        return " ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, is_number, strict=True)
        ).rstrip()

    lines = [style.head(line(row)) for row in head] + [line(row) for row in cells]
    return "".join(text + "\n" for text in lines)


Branch = tuple[str, list["Branch"]]
"""A line of a tree, and what hangs below it."""


def tree(branches: Sequence[Branch], style: Style) -> str:
    """Lines with what hangs below them; the texts must be printable already."""
    lines: list[str] = []
    for text, below in branches:
        lines.append(text)
        _hang(below, "", lines, _LINES if style.has_lines else _SIGNS)
    return "".join(line + "\n" for line in lines)


def _hang(branches: Sequence[Branch], indent: str, lines: list[str], marks: tuple[str, ...]) -> None:
    fork, last, pipe, empty = marks
    for at, (text, below) in enumerate(branches, 1):
        is_last = at == len(branches)
        lines.append(indent + (last if is_last else fork) + text)
        _hang(below, indent + (empty if is_last else pipe), lines, marks)
