"""cli: the command ``bus1``: finds the verb that is meant, and runs it.

Theory. The grammar is busctl's: a verb, then its arguments; options may stand on either side of the verb.
Only the module of that verb is loaded, all of them for ``--help``. Exit status 0 is success, 1 is a failure
that is told in words on standard error, 2 a command line that makes no sense.

Not here: the verbs themselves (the modules in the entry-point group ``bus1.commands``).
"""

from __future__ import annotations

import os
import sys
from argparse import REMAINDER, SUPPRESS, ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points

from . import __version__
from .acceleration import NoSuchBody
from .errors import Bus1Error
from .verbs.output import add_output_arguments, printable
from .verbs.verb import GROUP, Command, Failure, UsageError, add_bus_arguments, example_lines

_EXAMPLES = (
    ("bus1 broker --address=/tmp/bus", "serve native peers there, until Ctrl-C"),
    ("bus1 peers --address=/tmp/bus", "who is on that bus"),
    ("bus1 --json=short tree", "who holds what on the session's bus, for programs"),
    ("bus1 quota --help", "what a verb does, and its options"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status. SystemExit after help, and for usage errors."""
    line = list(sys.argv[1:] if arguments is None else arguments)
    return guarded("bus1", lambda: _run(line))


def guarded(program: str, run: Callable[[], int]) -> int:
    """Run a verb: what fails is told in words on standard error; returns the exit status."""
    try:
        try:
            return run()
        finally:
            _flush()
    except BrokenPipeError:
        return 1  # whoever read has seen enough
    except (Failure, Bus1Error, NoSuchBody) as error:
        complaint = str(error)
    except OSError as error:
        complaint = ": ".join(str(part) for part in (error.filename, error.strerror or error) if part)
    except KeyboardInterrupt:
        return 130
    os.write(2, f"{program}: {printable(complaint)}\n".encode(errors="backslashreplace"))
    return 1


def _flush() -> None:
    """Write what is left; if that fails, leave nothing that the interpreter would stumble over at its end."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
        raise


def _run(line: list[str]) -> int:
    verbs = {entry.name: entry for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name)}
    parser = _parser("bus1", f"bus1 [OPTION ...] {{{','.join(verbs)}}} [ARGUMENT ...]", add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this; VERB --help explains a verb")
    parser.add_argument("--version", action="version", version=f"bus1 {__version__}", help="show the version")
    add_bus_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("verb", nargs="?", help=SUPPRESS)
    parser.add_argument("rest", nargs=REMAINDER, help=SUPPRESS)
    found = parser.parse_args(line)
    if found.help:
        parser.description = "A capability message bus in user space: serve one, and look into it."
        parser.epilog = _explain(verbs)
        parser.print_help()
        return 0
    if found.verb not in verbs:
        parser.error(f"unknown verb {found.verb!r}" if found.verb else "a verb is needed")
    command = _load(verbs[found.verb])
    before, rest = line[: len(line) - len(found.rest)], found.rest
    if before[-1] == "--":
        # argparse has taken it for the end of our options; it is for the verb's
        rest.insert(0, before.pop())
    return run_command(parser_of(found.verb, command), command, before[:-1] + rest)


def run_command(parser: ArgumentParser, command: Command, line: Sequence[str]) -> int:
    """Parse a verb's arguments and run it; SystemExit for usage errors."""
    try:
        return command.run(parser.parse_args(line))
    except UsageError as error:
        parser.error(str(error))


def parser_of(verb: str, command: Command, program: str = "bus1") -> ArgumentParser:
    """The parser of one verb's arguments."""
    parser = _parser(f"{program} {verb}", None)
    parser.description = command.description
    parser.epilog = example_lines(command.examples)
    command.add_arguments(parser)
    return parser


def _parser(program: str, usage: str | None, *, add_help: bool = True) -> ArgumentParser:
    return ArgumentParser(
        program, usage, allow_abbrev=False, add_help=add_help, formatter_class=RawDescriptionHelpFormatter
    )


def _load(entry: EntryPoint) -> Command:
    try:
        command = entry.load()
    except (ImportError, AttributeError) as error:
        raise Failure(f"the verb {entry.name} cannot be loaded: {error}") from error
    if not isinstance(command, Command):
        raise Failure(f"the verb {entry.name} cannot be loaded: {entry.value} is no command")
    return command


def _explain(verbs: dict[str, EntryPoint]) -> str:
    lines = ["verbs:"]
    for name, entry in verbs.items():
        try:
            lines.append(f"  {name:<12} {_load(entry).summary}")
        except Failure as failure:
            lines.append(f"  {name:<12} ({failure})")
    return "\n".join([*lines, "", example_lines(_EXAMPLES)])
