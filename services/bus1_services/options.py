"""options: what the command line of a service may say.

Theory. Where a service is to be served, whether it takes its names over, how long it stays unused, and how
much it says: that is decided where it is started, not where it is written. A program that has arguments of
its own reads them itself, and gives ``run`` none.

Not here: what follows from it (``program``).
"""

from __future__ import annotations

import logging
import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .logs import configure
from .ownership import NameFlag

if TYPE_CHECKING:
    from .app import Service


def obey(arguments: Sequence[str], services: Sequence[Service], exit_on_idle: float | None) -> float | None:
    """Do what these say; after how many seconds unused the program ends. SystemExit, with status 2 for
    nonsense."""
    names = [name for service in services for name in service.names]
    parser = ArgumentParser(
        description=f"Serves {', '.join(service.title for service in services)}.", allow_abbrev=False,
        epilog=f"Its names on the bus: {', '.join(names)}." if names else None,
    )
    parser.add_argument("--address", metavar="PATH", help="the socket of the bus; default: the session's bus")
    parser.add_argument(
        "--exit-on-idle", metavar="SECONDS", type=_seconds, default=exit_on_idle,
        help="end when nobody has needed it for so long",
    )
    parser.add_argument(
        "--replace", action="store_true", help="take the names over from who was started with this option"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="tell of every call")
    found = parser.parse_args(arguments)
    for service in services:
        if found.address is not None:
            service.address = found.address
        if found.replace:
            service.flags |= NameFlag.REPLACE_EXISTING | NameFlag.ALLOW_REPLACEMENT
    configure(program=parser.prog)
    if found.verbose:
        logging.getLogger("bus1.services").setLevel(logging.DEBUG)
    seconds: float | None = found.exit_on_idle
    return seconds


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
