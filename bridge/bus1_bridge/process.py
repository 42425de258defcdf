"""process: the process around a bus, from its start to its end.

Theory. What every bus process needs is ``bus1.process``; here is what a D-Bus daemon adds: two sockets, an
address with a guid, and ``--fork``, with which the parent prints, and leaves, once the child serves. What
serves clients (``daemon``) is imported when the address has been printed.

Not here: flags (cli), addresses (listening), serving (daemon).
"""

from __future__ import annotations

import os
from collections.abc import Callable

from bus1.listening import AddressError, Listening
from bus1.log import write_line
from bus1.process import Printing, live, prepare, silence

from .listening import dbus_address, listen, listen_natively

PROGRAM = "bus1-bridge"
SESSION_ADDRESS = "unix:tmpdir=/tmp"
"""Where the usual session.conf listens."""


class Options:
    """What the command line asks for."""

    __slots__ = ("address", "forks", "printing")

    def __init__(self, address: str, printing: Printing, *, forks: bool = False) -> None:
        self.address = address
        self.printing = printing
        self.forks = forks


def run(options: Options) -> int:
    """The whole life of the bus; returns the exit status. AddressError before anything is printed."""
    prepare()
    sockets = [listen(options.address)]
    try:
        sockets.append(listen_natively(sockets[0]))
    except AddressError as error:
        write_line(PROGRAM, f"no native socket: {error}")
    guid = os.urandom(16).hex()
    address = f"{dbus_address(sockets[0])},guid={guid}"
    if options.forks:
        return _fork(options, sockets, guid, address)
    return _live(sockets, address, guid, early=lambda: options.printing.announce(address, os.getpid()))


def _live(
    sockets: list[Listening], address: str, guid: str, *, early: Callable[[], None] = lambda: None,
    late: Callable[[], None] = lambda: None,
) -> int:
    """Serve until a signal says stop; ``early`` is called before what serves is there, ``late`` after."""

    def serve(signals: int) -> None:
        from . import daemon

        descriptors = [listening.sock.detach() for listening in sockets]
        daemon.serve(descriptors, address, guid, signals, late)

    live(sockets, serve, early)
    return 0


def _fork(options: Options, sockets: list[Listening], guid: str, address: str) -> int:
    """The child serves; the parent leaves once the child does."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setsid()

        def ready() -> None:
            silence()
            options.printing.close()
            os.write(writing, b"1")
            os.close(writing)

        return _live(sockets, address, guid, late=ready)
    os.close(writing)
    is_ready = os.read(reading, 1)
    os.close(reading)
    for listening in sockets:
        listening.sock.close()
    if not is_ready:
        return 1
    options.printing.announce(address, child)
    return 0
