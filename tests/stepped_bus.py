"""stepped_bus: a bus of native peers in the test's own thread, whose turns the test makes.

Not here: buses with a process of their own (native_bus).
"""

from __future__ import annotations

import socket
import struct
from typing import Any

from core_bus import Core

from bus1.broker import Broker, BrokerLimits
from bus1.core.api import Limits
from bus1.descriptors import Fds
from bus1.frames import MAGIC, REQUESTS, VERSION, FrameReader, Operation, encode
from bus1.hub import PlainHub
from bus1.reactor import Reactor
from bus1.transport import receive

PER_TURN = 8
OPENING = 2
QUERY = encode(Operation.QUERY, 7, struct.pack("<Q", 0))
PLENTY = Limits(1 << 20, 1 << 20, 1 << 30, 1 << 20)


class SteppedBus:
    """A broker whose turns the test makes."""

    def __init__(self, **limits: Any) -> None:
        self.hub = PlainHub(Core(PLENTY))
        self.reactor = Reactor(self.hub)
        self.broker = Broker(self.reactor, self.hub, BrokerLimits(requests_per_turn=PER_TURN, **limits))

    def turn(self) -> None:
        self.reactor.run_once(self.reactor.clock())

    def snapshot(self) -> dict[str, Any]:
        return self.hub.core.snapshot()


class Client:
    """The other end of a channel; it reads what has come, and never waits."""

    def __init__(self, bus: SteppedBus) -> None:
        self.bus = bus
        self.sock, theirs = socket.socketpair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.reader = FrameReader()
        self.n_answers = 0
        self.fds = Fds()
        """Its peer's descriptor."""
        self.sock.sendall(
            encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(MAGIC, VERSION, 0))
            + encode(Operation.OPEN, OPENING, bytes(8))
        )
        bus.broker.accept(theirs)
        while self.answers() < 2:
            bus.turn()

    def answers(self) -> int:
        """How many answers have come since something was asked last."""
        try:
            while receive(self.sock, self.reader, socket.MSG_DONTWAIT).size:
                pass
        except BlockingIOError:
            pass
        while (frame := self.reader.next()) is not None:
            self.n_answers += 1
            if frame.tag == OPENING:
                self.fds = frame.fds
        return self.n_answers

    def ask(self, request: bytes) -> None:
        self.n_answers = 0
        self.sock.sendall(request)

    def close(self) -> None:
        self.fds.close()
        self.sock.close()
