"""verb: ``bus1 new``: a project for a service that does not exist yet.

Not here: what is in it (``project``), writing it (``files``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.verbs.verb import Command, UsageError

from ..files import add_file_arguments, deliver

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the bus name that the service will own")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--user", action="store_true", help="a service of each user's session; the default")
    scope.add_argument("--system", action="store_true", help="a service of the system")
    parser.add_argument("--output", metavar="DIR", default=".", help="where its folder goes; default: here")
    parser.add_argument("--package", metavar="NAME", help="of folder and package; default: by NAME")
    add_file_arguments(parser)


def _run(arguments: Namespace) -> int:
    from pathlib import Path

    from .project import Project

    project = Project(_bus_name(arguments.name), _package(arguments), arguments.system)
    deliver(arguments, Path(arguments.output) / project.package, project.files())
    return 0


def _bus_name(name: str) -> str:
    from ..types import is_bus_name, is_interface_name

    if not is_bus_name(name) or name.startswith(":"):
        raise UsageError(f"{name!r} is no bus name: such are org.example.Clock")
    if not is_interface_name(name.replace("-", "_")) or len(name) > 200:
        raise UsageError(f"{name!r} cannot name an interface, too: at most 200 characters, no digit first")
    return name


def _package(arguments: Namespace) -> str:
    """A package that hides no other."""
    import sys
    from keyword import iskeyword

    from ..migrate.naming import Names

    name: str = arguments.package or Names().member(arguments.name.rpartition(".")[2])
    if not name.isidentifier() or not name.isascii() or iskeyword(name):
        raise UsageError(f"argument --package: {name!r} is no name of a package")
    others = {"anyio", "bus1", "bus1_bridge", "bus1_services", "pytest", "root", "tests"}
    if name in sys.stdlib_module_names or name in others:
        if arguments.package:
            raise UsageError(f"argument --package: {name!r} would hide another package")
        name += "_service"
    return name


NEW = Command(
    "write a project for a new service",
    "Writes a project that works: a service with a method, a property and a signal to start from, a client,\n"
    "tests on a private bus, and below root/ what a package installs: a unit that takes away what the\n"
    "service has no business with, activation, interfaces, and for the system policy and an account.",
    _add_arguments,
    _run,
    (
        ("bus1 new org.example.Clock", "a project in ./clock"),
        ("bus1 new org.example.Clock --system --dry-run", "what would be written for the system"),
    ),
)
