"""crowded: buses with a crowd on them, and the few clients whose operations are measured.

Theory. The clients that are measured are all in this process and take turns, so that an operation is over
when it has had its effect: an emitter and one subscriber, a caller and a callee that is called by its name.

Not here: what the crowd does (crowd).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from . import messages
from .broker import DbusBroker
from .buses import Bus, Bus1Bridge, DbusDaemon
from .connection import Connection
from .crowd import ARGUMENTS, MEMBER, SUBSCRIPTION
from .messages import CALL, OBJECT, SIGNAL, SPOKEN, TEXT
from .worker import Worker

CALLEE = "org.bus1.Callee"
PASSING = "org.bus1.Passing"
PATIENCE = 300
"""Seconds that a crowd may take to gather."""

BUSES: tuple[type[Bus], ...] = (DbusDaemon, DbusBroker, Bus1Bridge)


class Crowded:
    """A bus that is running, a crowd, and what is measured: ``operations`` by name."""

    def __init__(self, bus: Bus, kind: str, size: int) -> None:
        """Start ``bus`` and fill it; whoever made this closes it."""
        with ExitStack() as stack:
            self.bus = stack.enter_context(bus)
            crowd = Worker("crowd", bus.address, kind, str(size))
            stack.callback(crowd.stop)
            crowd.line(PATIENCE)
            self._stack = stack
            subscribe = messages.driver_call("AddMatch", "s", SUBSCRIPTION)
            self._emitter, self._caller = self._open(), self._open()
            self._subscriber = self._open(subscribe)
            self._callee = self._open(messages.driver_call("RequestName", "su", CALLEE, 0))
            fields = {messages.PATH: OBJECT, messages.INTERFACE: SPOKEN, messages.MEMBER: MEMBER}
            texts = [TEXT] * ARGUMENTS
            self._signal = messages.build(SIGNAL, 2, fields, "s" * ARGUMENTS, *texts)
            self._call = messages.call(CALLEE, OBJECT, SPOKEN, "Echo", "s", TEXT)
            self._reply = messages.build(
                messages.RETURN, 3, {messages.REPLY_SERIAL: 1, messages.DESTINATION: self._caller.unique}
            )
            self._request = messages.driver_call("RequestName", "su", PASSING, 0)
            self._release = messages.driver_call("ReleaseName", "s", PASSING)
            self._stack = stack.pop_all()

    def close(self) -> None:
        """End the clients, the crowd and the bus."""
        self._stack.close()

    @property
    def operations(self) -> dict[str, Callable[[], None]]:
        """Each may be repeated as often as one likes."""
        return {
            "broadcast to one subscriber": self.broadcast,
            "call by name, and reply": self.call,
            "connect, Hello, leave": self.connect,
            "request a name, release it": self.pass_by,
        }

    def _open(self, *requests: bytes) -> Connection:
        connection = Connection.open(self.bus.address, *requests)
        self._stack.callback(connection.close)
        return connection

    def broadcast(self) -> None:
        """A signal, until the subscriber has it."""
        self._emitter.socket.sendall(self._signal)
        _take(self._subscriber, SIGNAL)

    def call(self) -> None:
        """A call to a name, until its answer is there."""
        self._caller.socket.sendall(self._call)
        _take(self._callee, CALL)
        self._callee.socket.sendall(self._reply)
        self._caller.take_reply()

    def connect(self) -> None:
        """A client that comes and goes."""
        Connection.open(self.bus.address).close()

    def pass_by(self) -> None:
        """A name that is owned for a moment."""
        for request in (self._request, self._release):
            self._caller.socket.sendall(request)
            self._caller.take_reply()


def _take(connection: Connection, kind: int) -> None:
    """Read until a message of this kind is there; the callee of this load has no other use for the rest."""
    while not any(message[1] == kind and SPOKEN.encode() in message for message in connection.frames()):
        pass
