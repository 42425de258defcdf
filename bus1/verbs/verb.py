"""verb: what a verb of the command ``bus1`` is, and what verbs have in common.

Theory. Each room fills the entry-point group ``bus1.commands`` with its verbs: a name, and where its
``Command`` is found. A module of verbs is imported as soon as one of them is used or explained, so it
imports little, and the rest when it runs.

Not here: which verb was asked for (cli), what is printed (output).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

GROUP = "bus1.commands"
_WIDEST_EXAMPLE = 40
"""Columns; beyond them, what an example is good for stands below it."""


class Failure(Exception):
    """The command has failed; the text says why. Exit status 1."""


class UsageError(Exception):
    """The arguments make no sense; the text says why. Exit status 2."""


class Command(NamedTuple):
    """One verb."""

    summary: str
    """One line, for the list of verbs."""
    description: str
    add_arguments: Callable[[ArgumentParser], None]
    run: Callable[[Namespace], int]
    """Returns the exit status; Failure, UsageError, Bus1Error and OSError are told in words."""
    examples: tuple[tuple[str, str], ...] = ()
    """What to type, and what it is good for."""


def example_lines(examples: tuple[tuple[str, str], ...]) -> str:
    """Examples as help texts show them."""
    width = max((len(typed) for typed, _ in examples), default=0)
    if width <= _WIDEST_EXAMPLE:
        return "\n".join(["examples:", *(f"  {typed:<{width}}  {purpose}" for typed, purpose in examples)])
    return "\n".join(["examples:", *(f"  {typed}\n      {purpose}" for typed, purpose in examples)])


def add_bus_arguments(parser: ArgumentParser) -> None:
    """Which bus is meant."""
    bus = parser.add_mutually_exclusive_group()
    bus.add_argument("--address", metavar="ADDRESS", help="the bus at this path, or @NAME: abstract")
    bus.add_argument("--user", action="store_true", help="the bus of this session; the default")
    bus.add_argument("--system", action="store_true", help="the bus of the system")


def address_of(arguments: Namespace) -> str:
    """The address of the bus that is meant."""
    from ..addresses import SYSTEM_ADDRESS, default_address

    if arguments.address is not None:
        return str(arguments.address)
    return SYSTEM_ADDRESS if arguments.system else default_address()
