"""files: what a verb writes for people to keep: shown as a difference, or written.

Theory. The files are known, whole, before the first is written. They are written all or none. Those that are
there already stop it, unless ``--force`` says that they may be replaced; a link is replaced, never followed.

Not here: what is in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bus1.verbs.verb import Failure

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from pathlib import Path


def add_file_arguments(parser: ArgumentParser) -> None:
    """What to do with files: ``--force`` or ``--dry-run``."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--force", action="store_true", help="replace files that are there")
    how.add_argument("--dry-run", action="store_true", help="write nothing, show a diff")


def deliver(arguments: Namespace, folder: Path, texts: Mapping[str, str]) -> None:
    """Write the texts, by file name, into ``folder``, or show how they differ; Failure, OSError."""
    if arguments.dry_run:
        _show(folder, texts)
    else:
        _write(folder, texts, may_replace=arguments.force)


def _show(folder: Path, texts: Mapping[str, str]) -> None:
    from difflib import unified_diff

    for file, text in texts.items():
        path = folder / file
        before, name = "", "/dev/null"
        if path.is_file():
            before, name = path.read_text(errors="backslashreplace"), str(path)
        lines = unified_diff(before.splitlines(), text.splitlines(), name, str(path), lineterm="")
        for line in lines:
            print(line)


def _write(folder: Path, texts: Mapping[str, str], *, may_replace: bool) -> None:
    import os

    from bus1.changes import WriteFile, carry_out

    there = [str(folder / file) for file in texts if os.path.lexists(folder / file)]
    if there and not may_replace:
        raise Failure(f"{', '.join(there)}: there already; --force replaces, --dry-run shows how")
    carry_out([WriteFile(str(folder / file), text, may_replace=may_replace) for file, text in texts.items()])
    for file in texts:
        print(folder / file)
