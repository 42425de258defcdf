"""verbs: what ``bus1-bridge VERB`` does beside being a bus.

Theory. The command line of a daemon has flags alone; if its first word is a verb of this table, that verb is
run instead. Each is a ``Command`` as those of ``bus1``, in a module that is loaded when it is used.

Not here: the flags of the daemon (cli).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus1.verbs.verb import Command

PROGRAM = "bus1-bridge"

VERBS: dict[str, tuple[str, str]] = {
    "install": ("install", "INSTALL"),
    "revert": ("install", "REVERT"),
    "status": ("install", "STATUS"),
    "explain": ("explain", "EXPLAIN"),
    "who-can": ("whocan", "WHO_CAN"),
}
"""Verb -> module here, and the name of its Command in there."""


def command_of(verb: str) -> Command:
    """The verb's Command; KeyError."""
    module, name = VERBS[verb]
    command: Command = getattr(import_module(f"{__name__}.{module}"), name)
    return command


def run(line: Sequence[str]) -> int:
    """Run the verb that the line starts with; returns the exit status. SystemExit for usage errors."""
    from bus1.cli import guarded, parser_of, run_command

    verb, *rest = line

    def run_it() -> int:
        command = command_of(verb)
        return run_command(parser_of(verb, command, PROGRAM), command, rest)

    return guarded(PROGRAM, run_it)


def summaries() -> list[tuple[str, str]]:
    """Every verb with its line in the help text."""
    return [(verb, command_of(verb).summary) for verb in VERBS]
