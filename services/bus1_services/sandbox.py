"""sandbox: ``bus1 sandbox``: run a D-Bus program that sees a part of the bus.

Theory. The verb opens an endpoint, and starts the program with the endpoint's address in the place of the
bus's. There is no process between the two: the bus itself shows one program less than another. The endpoint
ends with the program, and with this one.

Not here: keeping the program from other sockets and files, as bwrap(1) does; what is shown (the bridge).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.verbs.verb import Command, Failure, UsageError, add_bus_arguments, address_of

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from anyio.abc import Process

_RULES = (
    ("see", "NAME", "the program sees the name, and whose it is"),
    ("talk", "NAME", "it may also call that, and hears what it says"),
    ("own", "NAME", "it may also own the name"),
    ("call", "NAME=RULE", "it sees the name, and may make calls that match [METHOD][@PATH]"),
    ("broadcast", "NAME=RULE", "it sees the name, and hears signals that match"),
)


def _add_arguments(parser: ArgumentParser) -> None:
    for verb, value, text in _RULES:
        parser.add_argument(f"--{verb}", metavar=value, action="append", default=[], help=text)
    parser.add_argument("--name", metavar="NAME", help="as whom others know it; default: the program's name")
    parser.add_argument("command", metavar="COMMAND", nargs="...", help="the program and its arguments")
    add_bus_arguments(parser)


def _run(arguments: Namespace) -> int:
    import anyio

    if arguments.command[:1] == ["--"]:
        del arguments.command[0]
    if not arguments.command:
        raise UsageError("a command is needed")
    return anyio.run(_sandbox, arguments, address_of(arguments))


async def _sandbox(arguments: Namespace, address: str) -> int:
    import os

    import anyio

    from .connection import connect
    from .endpoint import open_dbus_endpoint
    from .errors import DBusError

    name = arguments.name or os.path.basename(arguments.command[0])
    rules = {verb: getattr(arguments, verb) for verb, _, _ in _RULES}
    try:
        async with connect(address) as connection, open_dbus_endpoint(connection, name, **rules) as endpoint:
            environment = {key: value for key, value in os.environ.items() if key != "BUS1_ADDRESS"}
            environment |= endpoint.environment
            async with (
                await anyio.open_process(
                    arguments.command, stdin=None, stdout=None, stderr=None, env=environment
                ) as process,
                anyio.create_task_group() as tasks,
            ):
                tasks.start_soon(_pass_signals_on, process)
                status = await process.wait()
                tasks.cancel_scope.cancel()
    except DBusError as error:
        raise Failure(str(error)) from None
    return status if status >= 0 else 128 - status


async def _pass_signals_on(process: Process) -> None:
    """What is meant to end this program ends the other first; Ctrl-C reaches both by itself."""
    import signal

    import anyio

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGINT) as signals:
        async for number in signals:
            if number != signal.SIGINT and process.returncode is None:
                process.send_signal(number)


SANDBOX = Command(
    "run a D-Bus program that sees a part of the bus",
    "Run a D-Bus program behind an endpoint of its own: it sees the names that the options give to it, and\n"
    "nothing else. NAME may end with .* for all names below it. Exits with the program's status.",
    _add_arguments, _run,
    (
        ("bus1 sandbox -- busctl --user list", "a program that sees nothing but the bus"),
        ("bus1 sandbox --talk=org.freedesktop.Notifications -- notify-send hello", "one that may notify"),
    ),
)
