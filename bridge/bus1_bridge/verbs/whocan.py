"""whocan: ``bus1-bridge who-can``: who may own and call what, and which rules look wrong.

Theory. The table comes from configuration files alone. It has a line for every name, and every method, that
some rule sets apart, and tells which kinds of clients may; ``*`` stands for all that has no line of its own.

Not here: how it is found out (policytable), which rules look wrong (policylints).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.verbs.output import Record, Style, add_output_arguments, show, table
from bus1.verbs.verb import Command

from .configuration import add_configuration_arguments, bus_user, configuration_of, name_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..busconfig import BusConfig
    from ..policylints import Lint
    from ..policytable import Row

_DESCRIPTION = """\
Who may connect, own which name, and call which method, as far as configuration files tell; and rules that are
dead, shadowed by others, or dangerous. What the receivers of calls may receive is not looked at.

exit status:
  0  the table is shown; with --lint: no rule looks wrong
  1  with --lint: some rule looks wrong
  2  the arguments make no sense, or the configuration cannot be read
"""


def _add_arguments(parser: ArgumentParser) -> None:
    add_configuration_arguments(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--own", action="store_true", help="only who may own names")
    what.add_argument("--call", action="store_true", help="only who may call methods")
    what.add_argument("--lint", action="store_true", help="only rules that look wrong")
    add_output_arguments(parser)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="only these names, and those that begin with them"
    )


def _run(arguments: Namespace) -> int:
    config = configuration_of(arguments)
    shows_all = not (arguments.own or arguments.call or arguments.lint)
    owners, callers, found = _look(config, arguments.names)
    connecting = _connecting(config) if shows_all and not arguments.names else None
    owners = owners if shows_all or arguments.own else []
    callers = callers if shows_all or arguments.call else []
    found = found if shows_all or arguments.lint else []
    records = [
        *([{"what": "connect", "allowed": connecting.allowed}] if connecting else []),
        *(_row_record("own", row) for row in owners), *(_row_record("call", row) for row in callers),
        *(_lint_record(lint) for lint in found),
    ]
    show(arguments, records, lambda style: _text(connecting, owners, callers, found, style))
    return int(arguments.lint and bool(found))


def _look(config: BusConfig, names: list[str]) -> tuple[list[Row], list[Row], list[Lint]]:
    from bus1_services.types import is_bus_name

    from ..policylints import dead_names, lints
    from ..policyrules import RECEIVE, SEND
    from ..policytable import callers, kinds, owners
    from ..servicefiles import ServiceFiles
    from ..wire import DRIVER_NAME

    contexts = config.contexts
    clients = kinds(contexts, name_of)
    startable = ServiceFiles(config.service_dirs, lambda line: None).names()
    called = {
        rule.name for rule in contexts.rules()
        if rule.kind in (SEND, RECEIVE) and rule.name is not None and not rule.is_prefix
        and is_bus_name(rule.name) and not rule.name.startswith(":")
    }
    owning = owners(contexts, clients, called.union(startable) - {DRIVER_NAME})
    calling = callers(contexts, clients, startable)
    ownable = {row.name for row in owning if any(row.allowed.values())}
    found = lints(contexts, is_system=config.type == "system") + dead_names(contexts, ownable)
    found.sort(key=lambda lint: (lint.rule.file, lint.rule.line, lint.kind))
    if names:
        owning = [row for row in owning if _is_meant(row.name, names)]
        calling = [row for row in calling if _is_meant(row.name, names)]
        found = [lint for lint in found if _is_meant(lint.rule.name or "", names)]
    return owning, calling, found


def _connecting(config: BusConfig) -> Row:
    from ..policytable import connecting

    return connecting(config.contexts, bus_user(config).uid, name_of)


def _is_meant(name: str, names: list[str]) -> bool:
    return any(f"{name}.".startswith(f"{wanted}.") for wanted in names)


# ---- showing -------------------------------------------------------------------------------------


def _row_record(what: str, row: Row) -> Record:
    record: Record = {"what": what, "name": row.name}
    if what == "call":
        record |= {"path": row.path, "interface": row.interface, "member": row.member}
    return {**record, "allowed": row.allowed}


def _lint_record(lint: Lint) -> Record:
    rule = lint.rule
    return {
        "what": "lint", "kind": lint.kind, "rule": rule.text, "file": rule.file, "line": rule.line,
        "text": lint.text,
    }


def _text(
    connecting: Row | None, owners: list[Row], callers: list[Row], found: list[Lint], style: Style
) -> str:
    parts = []
    if connecting:
        parts.append(table(("WHO MAY CONNECT",), [(connecting.who,)], style))
    if owners:
        parts.append(table(("NAME", "WHO MAY OWN IT"), [(row.name, row.who) for row in owners], style))
    if callers:
        parts.append(table(
            ("NAME", "PATH", "INTERFACE", "METHOD", "WHO MAY CALL IT"),
            [(row.name, row.path, row.interface, row.member, row.who) for row in callers], style,
        ))
    if found:
        parts.append(table(
            ("LOOKS", "RULE", "AT", "WHY"),
            [(lint.kind, lint.rule.text, lint.rule.place, lint.text) for lint in found], style,
        ))
    return "\n".join(parts) or "nothing\n"


WHO_CAN = Command(
    "who may own and call what, and which rules look wrong", _DESCRIPTION, _add_arguments, _run,
    (
        ("bus1-bridge who-can --system", "the whole table"),
        ("bus1-bridge who-can --system --call org.bluez", "one service's methods"),
        ("bus1-bridge who-can --system --lint", "only what looks wrong"),
    ),
)
