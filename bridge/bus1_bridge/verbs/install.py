"""install: ``bus1-bridge install``, ``revert`` and ``status``.

Theory. The three verbs look at the same scopes. What would be changed is computed first, shown with
``--dry-run``, and carried out as a whole otherwise. The people who type this trust their desktop to it, so
each answer says what is so now, from when on, and how to go back.

Not here: what is changed (``install``).
"""

from __future__ import annotations

import os
import shutil
import sys
from typing import TYPE_CHECKING

from bus1.verbs.verb import Command, Failure, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from bus1.changes import Change

    from ..install.installation import Installation

_SCOPES = (
    ("user", "the session bus of this user"),
    ("global", "the session buses of all users"),
    ("system", "the system bus"),
)


def _add_scopes(parser: ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group()
    for name, what in _SCOPES:
        group.add_argument(f"--{name}", dest="scope", action="store_const", const=name, help=what)
    parser.add_argument("--root", metavar="DIR", default="", help="work on the system below this directory")


def _add_changes(parser: ArgumentParser) -> None:
    _add_scopes(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--program", metavar="PATH", help="the program to start; default: this one")
    parser.add_argument(
        "--shim", metavar="DIR", nargs="?", const="",
        help="a link dbus-daemon in DIR, for programs that start a bus by that name "
             "[~/.local/bin, for others than this user /usr/local/bin]",
    )


def _add_install(parser: ArgumentParser) -> None:
    _add_changes(parser)
    parser.add_argument("--replace", action="store_true", help="take the place of another enabled bus")
    parser.add_argument(
        "--trial", action="store_true",
        help="for one start only: the start after that finds the old bus again, whatever happens",
    )


def _install(arguments: Namespace) -> int:
    installation, program = _installation(arguments), _program(arguments)
    changes: list[Change] = []
    from bus1.verbs.changing import carry_out_or_tell

    from ..install.installation import CannotInstall

    try:
        if arguments.scope:
            changes += installation.install(program, replaces=arguments.replace, is_trial=arguments.trial)
        if arguments.shim is not None:
            changes += installation.shim(program, arguments.shim or None)
    except CannotInstall as error:
        raise Failure(str(error)) from error
    if carry_out_or_tell(changes, dry_run=arguments.dry_run) and arguments.scope:
        scope = installation.scope
        print(f"bus1-bridge serves {scope.takes_effect}; what runs now is left as it is.")
        if arguments.trial:
            print("The start after that is the old bus again; install without --trial keeps this one.")
        else:
            print(f"To go back: bus1-bridge revert --{scope.name}")
    return 0


def _revert(arguments: Namespace) -> int:
    from bus1.verbs.changing import carry_out_or_tell

    from ..install.installation import CannotInstall

    installation = _installation(arguments)
    changes: list[Change] = []
    try:
        if arguments.scope:
            changes += installation.revert()
        if arguments.shim is not None:
            changes += installation.unshim(_program(arguments), arguments.shim or None)
    except CannotInstall as error:
        raise Failure(str(error)) from error
    if carry_out_or_tell(changes, dry_run=arguments.dry_run) and arguments.scope:
        print(f"The bus that was there before serves {installation.scope.takes_effect}.")
    return 0


def _status(arguments: Namespace) -> int:
    from ..install.installation import CannotInstall

    for name in [arguments.scope] if arguments.scope else [name for name, _ in _SCOPES]:
        installation = _installation(arguments, name)
        try:
            print("\n".join(_describe(installation, is_live=not arguments.root)))
        except CannotInstall as error:
            raise Failure(str(error)) from error
    return 0


def _describe(installation: Installation, *, is_live: bool) -> list[str]:
    from ..install.probe import ask

    scope, found = installation.scope, installation.situation()
    lines = [f"{scope.name}: {dict(_SCOPES)[scope.name]}"]
    if is_live:
        server = ask(scope.socket)
        lines.append(f"  now:     {f'pid {server.pid}, {server.command}' if server else 'nobody serves'}"
                     f" ({scope.socket})")
    if found.decides is None:
        lines.append("  unit:    none: systemd starts no bus here")
    elif found.leads_to is None:
        lines.append(f"  unit:    {found.decides}, which leads nowhere")
    else:
        lines.append(f"  unit:    {found.leads_to}"
                     + (f", by {found.decides}" if found.decides != found.leads_to else ""))
    if found.is_ours:
        lines.append("  install: is done; revert "
                     + (f"links {scope.alias} to {found.remembered} again" if found.remembered
                        else f"removes {scope.alias}"))
    elif found.alias is not None:
        lines.append(f"  install: needs --replace, as {scope.alias} leads to {found.alias}")
    else:
        lines.append(f"  install: would link {scope.alias}, and bus1-bridge serve {scope.takes_effect}")
    return lines


def _installation(arguments: Namespace, scope: str | None = None) -> Installation:
    from ..install.installation import Installation
    from ..install.scopes import scope_named

    name = scope or arguments.scope
    if name is None:
        if getattr(arguments, "shim", None) is None:
            raise UsageError("say --user, --global or --system, or --shim")
        name = "global" if os.geteuid() == 0 else "user"
    root = arguments.root
    if root and not os.path.isdir(root):
        raise UsageError(f"--root={root} is no directory")
    return Installation(scope_named(name), os.path.abspath(root) if root else "")


def _program(arguments: Namespace) -> str:
    program = arguments.program or shutil.which(sys.argv[0])
    if not program:
        raise UsageError("--program=PATH is needed: where this one lies is unknown")
    return os.path.abspath(program)


INSTALL = Command(
    "make this the bus that systemd starts",
    "Writes a unit and enables it, so that systemd starts this bus in the place of the usual one. The bus\n"
    "that runs is not touched; the distribution's sockets, configuration and service files stay in use.",
    _add_install, _install,
    (
        ("bus1-bridge install --user --trial", "this user's session bus, for the next login only"),
        ("bus1-bridge install --user", "this user's session bus, from the next login on"),
        ("bus1-bridge install --global --replace", "every user's, instead of another that is enabled"),
        ("bus1-bridge install --system --dry-run", "what would be done for the system bus"),
        ("bus1-bridge install --shim=/usr/local/bin", "a dbus-daemon for whatever starts one by name"),
    ),
)
REVERT = Command(
    "undo install",
    "Disables and removes the unit that install wrote, and restores the link that it replaced.",
    _add_changes, _revert,
    (
        ("bus1-bridge revert --user", "the usual session bus, from the next login on"),
        ("bus1-bridge revert --shim=/usr/local/bin", "remove the dbus-daemon that install put there"),
    ),
)
STATUS = Command(
    "which bus serves, why, and what install would do",
    "Asks the buses that run who they are, and looks at the units that decide about the next start.",
    _add_scopes, _status,
    (("bus1-bridge status", "all scopes"), ("bus1-bridge status --user", "one of them")),
)
