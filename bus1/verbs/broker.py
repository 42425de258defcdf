"""broker: ``bus1 broker``, a bus for native peers alone, in the foreground.

Theory. The process is ``bus1.process``'s: sockets first, then what is printed, then the import of what
serves. Sockets come from a service manager, from ``--address``, or lie in the usual place; a socket file that
nobody listens on is replaced, nothing else is.

Not here: serving (``bus1.broker``), D-Bus clients (the bridge).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .verb import Command, Failure, UsageError

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..listening import Listening

PROGRAM = "bus1-broker"
_LARGEST = (1 << 63) - 1
_MAXIMA = (
    ("--max-slices", "slices", "messages that wait, or have been received and not given back"),
    ("--max-handles", "handles", "references to nodes, those in waiting messages included"),
    ("--max-bytes", "inflight_bytes", "bytes of those messages"),
    ("--max-fds", "inflight_fds", "descriptors of waiting messages"),
)
"""Flags, the fields of Limits behind them, what is counted."""
PEERS_PER_USER = CHANNELS_PER_USER = 1024


def number(text: str) -> int:
    """A count or a size on the command line; its name is what argparse calls it."""
    value = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= value <= _LARGEST:
        raise ValueError(text)
    return value


def _add_arguments(parser: ArgumentParser) -> None:
    from ..core.api import Limits

    parser.add_argument(
        "--address", metavar="ADDRESS",
        help="listen on this path, or @NAME for an abstract one; default: $BUS1_ADDRESS, "
             "$XDG_RUNTIME_DIR/bus1, for root /run/bus1/bus",
    )
    for flag, what in (("--print-address", "address"), ("--print-pid", "process id")):
        parser.add_argument(
            flag, metavar="FD", nargs="?", const="1",
            help=f"print the {what} once the bus listens, to this descriptor [1]",
        )
    defaults = Limits()
    for flag, field, what in _MAXIMA:
        default = getattr(defaults, field)
        parser.add_argument(
            flag, dest=field, metavar="N", type=number, default=default,
            help=f"for each user: {what} [{default}]",
        )
    parser.add_argument(
        "--peers-per-user", metavar="N", type=number, default=PEERS_PER_USER,
        help=f"how many peers a user may have [{PEERS_PER_USER}]",
    )
    parser.add_argument(
        "--channels-per-user", metavar="N", type=number, default=CHANNELS_PER_USER,
        help=f"how many connections; each process needs one per peer [{CHANNELS_PER_USER}]",
    )


def _run(arguments: Namespace) -> int:
    from ..acceleration import settle
    from ..listening import AddressError
    from ..process import Printing, live, prepare, printing_descriptor

    flags = {"--print-address": arguments.print_address, "--print-pid": arguments.print_pid}
    try:
        printing = Printing(*(
            None if text is None else printing_descriptor(flag, text) for flag, text in flags.items()
        ))
    except ValueError as error:
        raise UsageError(str(error)) from error
    settle()
    prepare()
    try:
        sockets = _sockets(arguments.address)
    except (AddressError, OSError) as error:
        raise Failure(f"the bus cannot start: {error}") from error

    def announce() -> None:
        try:
            printing.announce(sockets[0].path or sockets[0].address, os.getpid())
        except OSError as error:
            raise Failure(f"the address cannot be printed: {error.strerror}") from error

    live(sockets, lambda signals: _serve(sockets, arguments, signals), announce)
    return 0


def _sockets(address: str | None) -> Sequence[Listening]:
    from ..addresses import socket_name
    from ..listening import AddressError, bind
    from ..systemd import activated

    passed = activated()
    if passed and address is not None:
        raise AddressError("sockets were passed to it, and --address names another one")
    return passed or [bind(socket_name(usual_place() if address is None else address))]


def usual_place(environment: Mapping[str, str] = os.environ) -> str:
    """Where a bus listens that was not told; the directory of the usual places is made."""
    from ..addresses import SYSTEM_ADDRESS

    if chosen := environment.get("BUS1_ADDRESS"):
        return chosen
    if directory := environment.get("XDG_RUNTIME_DIR"):
        os.makedirs(directory, 0o700, exist_ok=True)
        return os.path.join(directory, "bus1")
    if os.geteuid() == 0:
        os.makedirs(os.path.dirname(SYSTEM_ADDRESS), 0o755, exist_ok=True)
        return SYSTEM_ADDRESS
    raise Failure("say --address: neither BUS1_ADDRESS nor XDG_RUNTIME_DIR is set")


def _serve(sockets: Sequence[Listening], arguments: Namespace, signals: int) -> None:
    # only now: whoever waits for the address reads on
    from time import monotonic

    from ..broker import Broker, BrokerLimits
    from ..core.api import Limits
    from ..core.choice import Core
    from ..hub import PlainHub
    from ..log import Log
    from ..process import STOP, SignalPipe
    from ..reactor import Reactor
    from ..systemd import notify

    limits = Limits(*(getattr(arguments, field) for _, field, _ in _MAXIMA))
    hub = PlainHub(Core(limits))
    reactor, log, told = Reactor(hub), Log(PROGRAM), set[int]()
    bounds = BrokerLimits(
        peers_per_user=arguments.peers_per_user, channels_per_user=arguments.channels_per_user
    )
    broker = Broker(reactor, hub, bounds, lambda pid, text: log.note(
        f"a defect of the bus closed the connection of pid {pid}:\n{text}"
    ))
    pipe = SignalPipe(reactor, signals, told.add)
    for listening in sockets:
        broker.listen(listening.sock)
    notify("READY=1")
    while not told & STOP:
        reactor.run_once(log.deadline)
        log.write(monotonic())
    notify("STOPPING=1")
    broker.close()
    pipe.close()
    reactor.close()


COMMAND = Command(
    "serve a bus for native peers alone",
    "A bus for native peers alone, in the foreground, until SIGTERM or SIGINT. Sockets that a service\n"
    "manager passes are served instead of --address; it is told when the bus is ready, and when it ends.",
    _add_arguments,
    _run,
    (
        ("bus1 broker", "the bus of this session"),
        ("bus1 broker --address=@test", "one with an abstract name"),
        ("bus1 broker --print-pid=3 3>file", "its process id goes to a file"),
    ),
)
