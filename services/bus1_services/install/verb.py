"""verb: ``bus1 install`` and ``bus1 uninstall``: a finished service on this machine, and away again.

Theory. The service is imported, as its own program would do, and asked for its names and interfaces. What
would be changed is computed first, shown with ``--dry-run``, and carried out as a whole otherwise.

Not here: what is changed (``installation``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bus1.verbs.verb import Command, Failure, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

    from bus1.changes import Change

    from ..app import Service
    from .installation import Installation
    from .places import Places

_SOURCE = re.compile(r"[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?", re.ASCII)


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("service", metavar="MODULE[:ATTRIBUTE]",
                        help="a Service, or a function that gives one; default: service")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--user", action="store_true", help="for this user; for each, with --prefix; default")
    scope.add_argument("--system", action="store_true", help="for the system")
    parser.add_argument("--prefix", metavar="DIR", help="/usr for a package; for the system, /usr/local")
    parser.add_argument("--root", metavar="DIR", default="", help="work on the system below this directory")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")


def _add_install(parser: ArgumentParser) -> None:
    _add_arguments(parser)
    parser.add_argument("--exec", metavar="COMMAND", help="what starts it; default: this Python, -m MODULE")
    parser.add_argument("--run-as", metavar="ACCOUNT", help="its account on the system; default: by its name")
    parser.add_argument("--force", action="store_true", help="replace files of others")


def _install(arguments: Namespace) -> int:
    from .installation import CannotInstall
    from .texts import Finished, Unfit, account_for

    source, installation = _source(arguments), _installation(arguments)
    if arguments.run_as and not arguments.system:
        raise UsageError("--run-as is for --system: a session's services run as its user")
    service = _service(source)
    try:
        account = arguments.run_as or account_for((service.names or ("",))[0]) if arguments.system else ""
        finished = Finished(source, service, _program(arguments, source), account)
        changes = installation.install(finished, force=arguments.force)
    except (CannotInstall, Unfit) as error:
        raise Failure(str(error)) from None
    if _carry_out(arguments, installation, changes):
        print(f"{' and '.join(finished.names)}: started when somebody calls; "
              f"systemctl {'' if arguments.system else '--user '}start {finished.unit} starts it now.")
        print(f"To take it back: bus1 uninstall {source}{' --system' if arguments.system else ''}")
    return 0


def _uninstall(arguments: Namespace) -> int:
    from .installation import CannotInstall

    installation = _installation(arguments)
    try:
        changes = installation.uninstall(_source(arguments))
    except CannotInstall as error:
        raise Failure(str(error)) from None
    _carry_out(arguments, installation, changes)
    return 0


def _source(arguments: Namespace) -> str:
    if not _SOURCE.fullmatch(arguments.service):
        raise UsageError(f"{arguments.service!r} is not MODULE or MODULE:ATTRIBUTE")
    source: str = arguments.service
    return source if ":" in source else f"{source}:service"


def _service(source: str) -> Service:
    """Import it, as seen from the current directory."""
    import os
    import sys
    from importlib import import_module

    from ..app import Service

    module, _, attribute = source.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise Failure(f"{source} cannot be had: {error}") from error
    service = found() if callable(found) else found
    if not isinstance(service, Service):
        raise Failure(f"{source} is no Service, and gives none: {type(service).__name__}")
    return service


def _program(arguments: Namespace, source: str) -> tuple[str, ...]:
    import os
    import shlex
    import sys

    if arguments.exec is None:
        return (sys.executable, "-m", source.partition(":")[0])
    try:
        program = tuple(shlex.split(arguments.exec))
    except ValueError as error:
        raise UsageError(f"argument --exec: {error}") from None
    if not arguments.root and program and not os.access(program[0], os.X_OK):
        raise Failure(f"{program[0]} is no program")
    return program


def _installation(arguments: Namespace) -> Installation:
    import os

    from .installation import Installation

    if arguments.root and not os.path.isdir(arguments.root):
        raise UsageError(f"--root={arguments.root} is no directory")
    return Installation(_places(arguments), os.path.abspath(arguments.root) if arguments.root else "")


def _places(arguments: Namespace) -> Places:
    from .places import of_system, of_user, of_users

    prefix = arguments.prefix
    if prefix is not None and not prefix.startswith("/"):
        raise UsageError(f"--prefix={prefix} is no absolute path")
    if arguments.system:
        return of_system((prefix or "/usr/local").rstrip("/"))
    return of_user() if prefix is None else of_users(prefix.rstrip("/"))


def _carry_out(arguments: Namespace, installation: Installation, changes: Sequence[Change]) -> bool:
    """Do it, and tell the bus, or say what would be done; True if something was."""
    import os

    from bus1.verbs.changing import carry_out_or_tell

    if changes:
        changes = [*changes, *installation.telling(dict(os.environ))]
    return carry_out_or_tell(changes, dry_run=arguments.dry_run)


INSTALL = Command(
    "tell this machine of a finished service",
    "Writes what a machine needs to start a service when somebody calls it: a unit for systemd that takes\n"
    "away what the service has no business with, activation files, introspection XML, and for the system\n"
    "policy and an account. All of it follows from the service itself, which is imported for that.",
    _add_install, _install,
    (
        ("bus1 install clock.service", "for this user"),
        ("bus1 install clock.service --system --dry-run", "what would be done for the system"),
        ("bus1 install clock.service --system --prefix=/usr --root=debian/clock --exec=/usr/bin/clock",
         "for a package"),
    ),
)
UNINSTALL = Command(
    "undo install",
    "Removes the files that install has written for a service, which need not be there any more.",
    _add_arguments, _uninstall,
    (("bus1 uninstall clock.service", "what was installed for this user"),),
)
