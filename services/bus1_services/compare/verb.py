"""verb: ``bus1 compare``: a D-Bus service and the one that shall take its place.

Not here: asking them (``comparison``), where they differ (``differences``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.verbs.output import Record, Style, add_output_arguments, printable, show
from bus1.verbs.verb import Command, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from .comparison import Comparison, Plan
    from .questions import Question
    from .staging import Side

_SYSTEM = "unix:path=/run/dbus/system_bus_socket"
_PLACES = 'the owner of a bus name, NAME@ADDRESS for another bus, or an activation file'


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("old", metavar="OLD", help=_PLACES)
    parser.add_argument("new", metavar="NEW", nargs="?", help="the same for the other; default: as OLD")
    parser.add_argument("--old-exec", metavar="COMMAND", help="start this, on a private bus, as OLD")
    parser.add_argument("--new-exec", metavar="COMMAND", help="start this, on a private bus, as NEW")
    parser.add_argument("--calls", metavar="FILE", action="append", default=[],
                        help="replay the calls to OLD of a recording: busctl --json=short monitor")
    parser.add_argument("--call", metavar="'PATH INTERFACE METHOD ...'", action="append", default=[],
                        help="call this, with signature and arguments as for busctl call")
    parser.add_argument("--probe", action="store_true",
                        help="ask for all properties, and for what is not there; the default without calls")
    parser.add_argument("--path", metavar="PATH", default="/", help="describe the objects from here down")
    parser.add_argument("--ignore", metavar="PATTERN", action="append", default=[],
                        help="INTERFACE.MEMBER, * for anything: its values may differ, its types may not; "
                             "INTERFACE: it may be missing")
    parser.add_argument("--strict", action="store_true",
                        help="texts of errors, names of arguments and documentation count, too")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=25.0, help="for an answer; 25")
    parser.add_argument("--settle", metavar="SECONDS", type=float, default=0.1,
                        help="for signals that come after the answer; 0.1")
    bus = parser.add_mutually_exclusive_group()
    bus.add_argument("--address", metavar="ADDRESS", help="the D-Bus address where names are looked up")
    bus.add_argument("--user", action="store_true", help="the bus of this session; the default")
    bus.add_argument("--system", action="store_true", help="the bus of the system")
    add_output_arguments(parser)


def _run(arguments: Namespace) -> int:
    import anyio

    from ..migrate.asking import AskingError
    from .comparison import compare
    from .staging import StagingError

    try:
        old, new = _sides(arguments)
        result = anyio.run(compare, old, new, _plan(arguments, old.name))
    except (AskingError, StagingError) as error:
        raise UsageError(str(error)) from None
    records: list[Record] = [
        {"what": each.what, "path": each.path, "name": each.key, "arguments": each.question, "old": each.old,
         "new": each.new}
        for each in result.differences
    ]
    show(arguments, records, lambda style: _text(result, style))
    return 1 if records else 0


def _sides(arguments: Namespace) -> tuple[Side, Side]:
    import os

    from .staging import side_of

    address = arguments.address or os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    if arguments.system:
        address = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS", _SYSTEM)
    old = side_of(arguments.old, arguments.old_exec, address)
    new = side_of(arguments.new or old.name, arguments.new_exec, address)
    if old == new and not old.command:
        raise UsageError(f"{old.name} would be compared with itself: say what NEW is, or --new-exec")
    return old, new


def _plan(arguments: Namespace, name: str) -> Plan:
    from ..types import is_object_path
    from .comparison import Plan
    from .party import Patience

    if not is_object_path(arguments.path):
        raise UsageError(f"argument --path: {arguments.path!r} is no object path")
    if not (0 < arguments.timeout <= 86400 and 0 <= arguments.settle <= 86400):
        raise UsageError("--timeout and --settle are some seconds, a day at most")
    questions = [*_recorded(arguments, name), *_given(arguments)]
    return Plan(
        questions, arguments.probe or not questions, arguments.path, arguments.strict, arguments.ignore,
        Patience(arguments.timeout, arguments.settle),
    )


def _recorded(arguments: Namespace, name: str) -> list[Question]:
    from ..recording import RecordingError, read
    from .questions import recorded

    found = []
    for file in arguments.calls:
        try:
            with open(file, encoding="utf-8") as lines:
                calls = recorded(list(read(lines, file)), name)
        except (RecordingError, UnicodeDecodeError) as error:
            raise UsageError(str(error)) from None
        if not calls:
            raise UsageError(f"{file}: no call to {name} is recorded there")
        found += calls
    return found


def _given(arguments: Namespace) -> list[Question]:
    from ..plain import PlainError
    from .questions import parsed

    try:
        return [parsed(line) for line in arguments.call]
    except PlainError as error:
        raise UsageError(f"argument --call: {error}") from None


def _text(result: Comparison, style: Style) -> str:
    lines = []
    for each in result.differences:
        head = " ".join(part for part in (each.path, each.key, each.question) if part)
        lines.append(style.head(f"{each.what}: {printable(head)}"))
        lines += [f"  old: {printable(each.old)}", f"  new: {style.alarming(printable(each.new))}"]
    lines += [f"left out: {printable(words)}" for words in result.left_out]
    asked = f"{result.n_asked} calls"
    lines.append(f"{asked}, {len(result.differences)} differences" if lines else f"{asked}, no difference")
    return "".join(f"{line}\n" for line in lines)


COMPARE = Command(
    "show where two services answer differently",
    "Asks two services the same, and shows where their descriptions, answers, errors, signals and\n"
    "properties differ. Two programs that want the same name are each started on a private bus. Without\n"
    "--calls and --call, only properties are read, and nothing is changed at either.\n\n"
    "exit status:\n"
    "  0  no difference\n"
    "  1  there are differences\n"
    "  2  the arguments make no sense, or a service cannot be asked\n",
    _add_arguments,
    _run,
    (
        ("bus1 compare org.example.Clock --old-exec='python old.py' --new-exec='python -m clock.service'",
         "two programs"),
        ("bus1 compare org.example.Clock org.example.Clock2 --calls=day.json", "replay what was recorded"),
    ),
)
