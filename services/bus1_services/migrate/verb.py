"""verb: ``bus1 migrate``: a native service, a client and tests, from what there is of a D-Bus service.

Theory. There may be introspection XML, a running service, or its Python source. Either is read as data,
whole, before anything is written. What a reviewer must know goes to standard error, or with the rest into
JSON.

Not here: what the files say (``writing``, ``carrying``), writing them (``files``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bus1.verbs.verb import Command, Failure, UsageError

from ..files import add_file_arguments, deliver

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence
    from pathlib import Path

    from .report import Finding

PATIENCE = 25.0
_SYSTEM = "unix:path=/run/dbus/system_bus_socket"


class _Migrated(NamedTuple):
    """The texts of a package, and what there is to say about them."""

    texts: dict[str, str]
    findings: Sequence[Finding]


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="FILE.xml, FILE.py, or a running service's name")
    parser.add_argument("path", metavar="PATH", nargs="?", help="of a running service: from this object down")
    parser.add_argument("--output", metavar="DIR", default=".", help="where the package goes; default: here")
    parser.add_argument("--package", metavar="NAME", help="how it is called; default: as the source")
    parser.add_argument("--name", metavar="NAME", help="what the service owns; default: as before")
    parser.add_argument("--json", action="store_true", help="report in JSON")
    bus = parser.add_mutually_exclusive_group()
    bus.add_argument("--address", metavar="ADDRESS", help="the D-Bus address of the bus of a running service")
    bus.add_argument("--user", action="store_true", help="its bus is that of this session; the default")
    bus.add_argument("--system", action="store_true", help="its bus is that of the system")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=PATIENCE,
                        help="how long a running service may take for an answer; default: 25")
    add_file_arguments(parser)


def _run(arguments: Namespace) -> int:
    from pathlib import Path

    from .report import is_complete

    package = _package_name(arguments)
    migrated = _migrate(arguments, package)
    _deliver(arguments, Path(arguments.output) / package, migrated)
    return 0 if is_complete(migrated.findings) else 1


def _package_name(arguments: Namespace) -> str:
    from keyword import iskeyword
    from pathlib import Path

    from ..types import is_bus_name
    from .naming import Names

    source = arguments.source
    stem = source if _is_service(arguments) else Path(source).name.removesuffix(".xml").removesuffix(".py")
    name = str(arguments.package or Names().member(stem))
    if not name.isidentifier() or not name.isascii() or iskeyword(name):
        raise UsageError(f"argument --package: {name!r} is no name of a package")
    if arguments.name is not None and (arguments.name[:1] == ":" or not is_bus_name(arguments.name)):
        raise UsageError(f"argument --name: {arguments.name!r} is no bus name")
    if not 0 < arguments.timeout <= 86400:
        raise UsageError("argument --timeout: some seconds, a day at most")
    if not _is_service(arguments):
        given = [name for name in ("path", "address", "user", "system") if getattr(arguments, name)]
        if given:
            raise UsageError(f"{source} is a file: {', '.join(given)} would be for a running service")
    return name


def _is_service(arguments: Namespace) -> bool:
    """It is asked for by name: nothing about it looks like a file."""
    from pathlib import Path

    from ..types import is_bus_name

    source = arguments.source
    is_file = source.endswith((".xml", ".py")) or Path(source).exists()
    return is_bus_name(source) and not is_file


def _migrate(arguments: Namespace, package: str) -> _Migrated:
    if _is_service(arguments):
        return _from_service(arguments, package)
    if arguments.source.endswith(".py"):
        return _from_python(arguments, package)
    return _from_xml(arguments, package)


def _content(arguments: Namespace) -> bytes:
    from .reading import SOURCE_MAX

    with open(arguments.source, "rb") as file:
        return file.read(SOURCE_MAX + 1)


def _from_xml(arguments: Namespace, package: str) -> _Migrated:
    from .reading import SourceError, read
    from .writing import package as write

    try:
        interfaces = read(arguments.source, _content(arguments))
    except SourceError as error:
        raise Failure(str(error)) from None
    return _Migrated(write(package, arguments.name or interfaces[0].name, interfaces), ())


def _from_python(arguments: Namespace, package: str) -> _Migrated:
    from .carrying import carry
    from .reading import SourceError

    try:
        texts, findings = carry(arguments.source, _content(arguments), package, arguments.name)
    except SourceError as error:
        raise Failure(str(error)) from None
    return _Migrated(texts, findings)


def _from_service(arguments: Namespace, package: str) -> _Migrated:
    import anyio

    from ..types import is_object_path
    from .asking import AskingError, ask_bus
    from .report import Finding, Kind
    from .writing import package as write

    name, path = arguments.source, arguments.path or "/"
    if not is_object_path(path):
        raise UsageError(f"argument PATH: {path!r} is no object path")
    try:
        told = anyio.run(ask_bus, _address(arguments), name, path, arguments.timeout)
    except AskingError as error:
        raise Failure(str(error)) from None
    if not told.interfaces:
        raise Failure(f"{name} {path}: no interface is described, the standard ones apart")
    findings = [
        Finding(name, 0, Kind.LOST, "introspection", words, "look at what it says there, with bus1 or busctl")
        for words in told.complaints
    ]
    owned = arguments.name or (name if name[0] != ":" else next(iter(told.interfaces)))
    return _Migrated(write(package, owned, tuple(told.interfaces.values()), told.paths), findings)


def _address(arguments: Namespace) -> str:
    import os

    if arguments.address is not None:
        return str(arguments.address)
    if arguments.system:
        return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", _SYSTEM)
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if not address:
        raise Failure("DBUS_SESSION_BUS_ADDRESS is not set: say which bus with --address or --system")
    return address


def _deliver(arguments: Namespace, folder: Path, migrated: _Migrated) -> None:
    import sys
    from contextlib import redirect_stdout
    from io import StringIO

    from .report import report_json, report_text

    if arguments.json:
        said = StringIO()
        with redirect_stdout(said):
            deliver(arguments, folder, migrated.texts)
        print(report_json(migrated.findings, said.getvalue().splitlines()))
        return
    deliver(arguments, folder, migrated.texts)
    if migrated.findings:
        print(report_text(migrated.findings), file=sys.stderr)


MIGRATE = Command(
    "write a native service from what there is of a D-Bus service",
    "Writes a package: service.py declares each interface as a class, client.py makes proxies of the same\n"
    "classes, and a test says what clients rely on. From Python, the methods keep their bodies; from XML or\n"
    "a running service, they are to be written. Names that Python cannot have are changed, and stand beside\n"
    "the new ones, so that the bus sees no difference. The source is read as data; nothing that it names is\n"
    "opened, imported or run. What a reviewer must know is told on standard error; status 1 says that\n"
    "something was not carried over.",
    _add_arguments,
    _run,
    (
        ("bus1 migrate org.example.Clock.xml", "into a package here"),
        ("bus1 migrate org.example.Clock", "from the service that owns this name"),
        ("bus1 migrate clock.py --json", "from its source, bodies included, with a report for programs"),
        ("bus1 migrate clock.xml --package=clock --dry-run", "what would be written"),
    ),
)
