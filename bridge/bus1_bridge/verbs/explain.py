"""explain: ``bus1-bridge explain``: would this be allowed, and which rule decides?

Theory. The answer comes from configuration files alone, through the evaluator that serves a bus: no bus
runs for it, and none is asked. Exit status 0 means allowed, 1 denied, 2 that the question makes no sense or
the configuration can't be read.

Not here: the evaluator (policy), the question (explanation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.verbs.output import Record, Style, add_output_arguments, show, table
from bus1.verbs.verb import Command, UsageError

from .configuration import add_configuration_arguments, bus_user, configuration_of, identity

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

    from ..busconfig import BusConfig
    from ..explanation import Check, Identity, Passage

ALLOWED, DENIED = 0, 1
_HEADS = ("CHECK", "OF", "VERDICT", "RULES", "DECIDED BY", "AT")
_DESCRIPTION = """\
Would this message pass, and which rule decides? Configuration files are all that is looked at.

exit status:
  0  it is allowed
  1  it is denied
  2  the question makes no sense, or the configuration cannot be read
"""


def _add_arguments(parser: ArgumentParser) -> None:
    add_configuration_arguments(parser)
    parser.add_argument("--as", dest="sender", metavar="USER", help="who asks for it; default: you")
    parser.add_argument(
        "--owner", metavar="USER",
        help="who runs the service; default: User= of its service file, else the user of the bus",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--own", action="store_true", help="not a message: may USER own the name SERVICE?")
    what.add_argument("--connect", action="store_true", help="not a message: may USER use the bus at all?")
    what.add_argument(
        "--type", choices=("method_call", "method_return", "error", "signal"), default="method_call",
        help="default: method_call",
    )
    parser.add_argument("--error", metavar="NAME", help="name of the error")
    parser.add_argument(
        "--broadcast", action="store_true",
        help="a signal without destination, which SERVICE has subscribed to",
    )
    parser.add_argument("--unrequested", action="store_true", help="an answer that nobody waits for")
    parser.add_argument(
        "--eavesdrop", action="store_true", help="SERVICE listens to what is addressed to somebody else"
    )
    parser.add_argument("--fds", type=int, metavar="N", default=0, help="file descriptors in the message")
    parser.add_argument("--named", metavar="NAME", action="append", default=[], help="a name of the sender")
    parser.add_argument("--also", metavar="NAME", action="append", default=[], help="another name of SERVICE")
    parser.add_argument("--all", action="store_true", help="show every rule that matches, the deciding first")
    add_output_arguments(parser)
    for name in ("SERVICE", "OBJECT", "INTERFACE", "METHOD"):
        parser.add_argument(name.lower(), metavar=name, nargs="?")


def _run(arguments: Namespace) -> int:
    config = configuration_of(arguments)
    checks = _checks(arguments, config)
    show(arguments, [_record(check) for check in checks], lambda style: _text(checks, style, arguments.all))
    return ALLOWED if all(check.allowed for check in checks) else DENIED


def _checks(arguments: Namespace, config: BusConfig) -> list[Check]:
    from ..explanation import to_connect, to_own, to_receive, to_send
    from ..wire import DRIVER_NAME

    me = bus_user(config)
    sender = identity(arguments.sender) if arguments.sender else _yourself()
    checks = [to_connect(config.policy, sender, me.uid)]
    if arguments.connect:
        return checks
    _check_name(arguments.service)
    if arguments.own:
        return [*checks, to_own(config.policy, sender, arguments.service)]
    passage = _passage(arguments)
    checks.append(to_send(config.policy, sender, passage))
    if arguments.service != DRIVER_NAME:
        checks.append(to_receive(config.policy, _owner(arguments, config, me), passage))
    return checks


def _yourself() -> Identity:
    import os

    return identity(str(os.getuid()))


def _owner(arguments: Namespace, config: BusConfig, me: Identity) -> Identity:
    from ..servicefiles import ServiceFiles

    if arguments.owner:
        return identity(arguments.owner)
    found = ServiceFiles(config.service_dirs, lambda line: None).find(arguments.service)
    return identity(found.user) if found is not None and found.user is not None else me


def _passage(arguments: Namespace) -> Passage:
    from ..explanation import Passage
    from ..policy import Fields, Names
    from ..policyrules import TYPES

    kind = TYPES[arguments.type]
    is_answer = arguments.type in ("method_return", "error")
    given = (arguments.object, arguments.interface, arguments.method)
    if is_answer and any(given):
        raise UsageError("an answer has a SERVICE that it goes to, but no OBJECT, INTERFACE and METHOD")
    if not is_answer and not all(given):
        raise UsageError(
            f"a {arguments.type} has a SERVICE, an OBJECT, an INTERFACE (- for none) and a METHOD"
        )
    if arguments.broadcast and arguments.type != "signal":
        raise UsageError("only a signal can be a broadcast")
    if (arguments.error is None) == (arguments.type == "error"):
        raise UsageError("--type=error and --error=NAME belong together")
    if arguments.fds < 0:
        raise UsageError("a message has no fewer than 0 descriptors")
    for name in (*arguments.named, *arguments.also):
        _check_name(name)
    interface = None if arguments.interface == "-" else arguments.interface
    message = Fields(
        kind, arguments.object, interface, arguments.method, arguments.error,
        None if arguments.broadcast else arguments.service, int(is_answer), arguments.fds,
    )
    return Passage(
        message, Names(arguments.service, arguments.also, _within(arguments.also)),
        Names("", arguments.named, _within(arguments.named)),
        requested_reply=is_answer and not arguments.unrequested,
        eavesdropping=arguments.eavesdrop and not arguments.broadcast,
    )


def _within(names: list[str]) -> Callable[[str], bool]:
    return lambda space: any(f"{name}.".startswith(f"{space}.") for name in names)


def _check_name(name: str | None) -> None:
    from bus1_services.types import is_bus_name

    if not name or not is_bus_name(name):
        raise UsageError(f"{name!r} is no bus name" if name else "a SERVICE is needed")


# ---- showing -------------------------------------------------------------------------------------


def _record(check: Check) -> Record:
    return {
        "check": check.what, "user": check.who.name, "uid": check.who.uid, "allowed": check.allowed,
        "rules": [{"text": rule.text, "file": rule.file, "line": rule.line} for rule in check.rules],
    }


def _text(checks: list[Check], style: Style, shows_all: bool) -> str:
    rows: list[tuple[object, ...]] = []
    for check in checks:
        verdict = "allowed" if check.allowed else "denied"
        rows.append((check.what, check.who.name, verdict, str(len(check.rules)), *_decided(check)))
        if shows_all:
            rows += [("", "", "", "", rule.text, rule.place) for rule in check.rules[1:]]
    return table(_HEADS, rows, style)


def _decided(check: Check) -> tuple[str, str]:
    if check.rules:
        return check.rules[0].text, check.rules[0].place
    if check.what != "connect":
        return "no rule allows it", ""
    return "it is the user of the bus" if check.allowed else "it is not the user of the bus", ""


EXPLAIN = Command(
    "would this call be allowed, and which rule decides", _DESCRIPTION, _add_arguments, _run,
    (
        ("bus1-bridge explain --system --as=alice org.freedesktop.login1 /org/freedesktop/login1 "
         "org.freedesktop.login1.Manager PowerOff", "may alice do that?"),
        ("bus1-bridge explain --system --as=daemon --own org.example.Name", "may daemon own that name?"),
        ("bus1-bridge explain --config-file=F --type=signal --broadcast org.example.Name / a.B C",
         "does the owner of that name get the signal?"),
    ),
)
