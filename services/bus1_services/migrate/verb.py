"""verb: ``bus1 migrate``: a native service, a client and tests, from the XML that describes a D-Bus service.

Theory. The source is read as data, whole, before anything is written.

Not here: what the files say (``writing``), writing them (``files``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.verbs.verb import Command, Failure, UsageError

from ..files import add_file_arguments, deliver

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.xml", help="introspection XML")
    parser.add_argument("--output", metavar="DIR", default=".", help="where the package goes; default: here")
    parser.add_argument("--package", metavar="NAME", help="how it is called; default: as the file")
    parser.add_argument("--name", metavar="NAME", help="what the service owns; default: its first interface")
    add_file_arguments(parser)


def _run(arguments: Namespace) -> int:
    from keyword import iskeyword
    from pathlib import Path

    from bus1_services.types import is_bus_name

    from .naming import Names
    from .reading import SOURCE_MAX, SourceError, read
    from .writing import package

    source = Path(arguments.file)
    name = arguments.package or Names().member(source.name.removesuffix(".xml"))
    if not name.isidentifier() or not name.isascii() or iskeyword(name):
        raise UsageError(f"argument --package: {name!r} is no name of a package")
    if arguments.name is not None and (arguments.name[:1] == ":" or not is_bus_name(arguments.name)):
        raise UsageError(f"argument --name: {arguments.name!r} is no bus name")
    with source.open("rb") as file:
        content = file.read(SOURCE_MAX + 1)
    try:
        interfaces = read(arguments.file, content)
    except SourceError as error:
        raise Failure(str(error)) from None
    modules = package(name, arguments.name or interfaces[0].name, interfaces)
    deliver(arguments, Path(arguments.output) / name, modules)
    return 0


MIGRATE = Command(
    "write a native service from the XML of a D-Bus service",
    "Writes a package from introspection XML: service.py declares each interface as a class, whose methods\n"
    "are to be written, client.py makes proxies of the same classes, and a test says what clients rely on.\n"
    "Names that Python cannot have are changed, and stand beside the new ones, so that the bus sees no\n"
    "difference. The XML is read as data; nothing that it names is opened, imported or run.",
    _add_arguments,
    _run,
    (
        ("bus1 migrate org.example.Clock.xml", "into a package here"),
        ("bus1 migrate clock.xml --package=clock --dry-run", "what would be written"),
    ),
)
