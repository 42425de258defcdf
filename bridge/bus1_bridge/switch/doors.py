"""doors: the sockets of the endpoints that somebody has opened.

Theory. An entrance has one listening socket, a file at the path that its opener chose. D-Bus clients that
come in there become connections like any other, behind a view; native clients are the broker's. When an
entrance closes, its file is removed, and all who came in by it are cut off before anything else happens.

Invariants. 1. No file of an entrance outlives it. 2. An entrance has at most ``CONNECTIONS_MAX`` clients.

Not here: who may open one, and what it grants (``entrances``).
"""

from __future__ import annotations

import os
import socket
from functools import partial
from typing import TYPE_CHECKING

from bus1.errors import InvalidArgument
from bus1.listener import Listener
from bus1.listening import AddressError, Listening, bind

from ..entrance import CONNECTIONS_MAX, Entrance
from ..listening import dbus_address
from .headroom import check_room

if TYPE_CHECKING:
    from .loop import PythonSwitch


class Doors:
    """All of one bus; implements ``entrances.Doors``."""

    def __init__(self, switch: PythonSwitch) -> None:
        self._switch = switch
        self._open: dict[Entrance, tuple[Listening, Listener]] = {}

    def open(self, entrance: Entrance) -> str:
        """Listen at its path; the address for clients. InvalidArgument."""
        path = entrance.path
        if not os.path.isabs(path) or "\0" in path:
            raise InvalidArgument(f"An endpoint lies at an absolute path, not at {path!r}")
        try:
            listening = bind(path)
        except AddressError as error:
            raise InvalidArgument(str(error)) from error
        switch = self._switch
        if entrance.is_native:
            listener = switch.broker.listen(listening.sock, entrance)
        else:
            accept = partial(self._accept, entrance)
            listener = Listener(switch.reactor, listening.sock, accept, check_room=check_room)
        self._open[entrance] = listening, listener
        return path if entrance.is_native else dbus_address(listening)

    def close(self, entrance: Entrance) -> None:
        """Listen no more; whoever came in is cut off."""
        listening, listener = self._open.pop(entrance)
        # first, as who is cut off may look at once
        listening.remove_file()
        if entrance.is_native:
            self._switch.broker.shut(listener, entrance)
        else:
            listener.close()
            for connection in list(entrance.clients):
                self._switch.cut_off(connection, f'the endpoint "{entrance.name}" was closed')

    def _accept(self, entrance: Entrance, connection: socket.socket) -> None:
        if len(entrance.clients) >= CONNECTIONS_MAX:
            connection.close()
            return
        self._switch.accept(connection, entrance)
