"""legacy: the load as raw D-Bus sockets.

Theory. All messages are built before the clock runs; what arrives is cut by its length, and only type
and reply serial are read. While calls are pipelined, each answer lets one more call out, in one write
per read.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns as clock
from typing import Self

from . import messages
from .connection import Connection
from .messages import ERROR, RETURN, SERIAL_OFFSET, U32
from .worker import Worker

PATH = "/org/bus1/Benchmark"
INTERFACE = "org.bus1.Benchmark"
TEXT = "The quick brown fox jumps over the lazy dog."
MATCH = f"type='signal',interface='{INTERFACE}'"


class DbusClients:
    """The load for a D-Bus bus."""

    def __init__(self, address: str) -> None:
        self.address = address

    def connect(self) -> int:
        """From ``socket()`` to the answer of Hello."""
        start = clock()
        connection = Connection.open(self.address)
        elapsed = clock() - start
        connection.close()
        return elapsed

    def pair(self) -> DbusPair:
        """A caller here, an echo process as the callee."""
        return DbusPair(self.address)

    def audience(self, subscribers: int, batches: Sequence[int]) -> DbusAudience:
        """An emitter here, one process with all subscribers."""
        return DbusAudience(self.address, subscribers, batches)


class DbusPair:
    """Two raw connections."""

    def __init__(self, address: str) -> None:
        self.worker = Worker("echo", address)
        try:
            callee = self.worker.line()
            self.connection = Connection.open(address)
        except BaseException:
            self.worker.stop()
            raise
        self.call = messages.call(callee, PATH, INTERFACE, "Echo", "s", TEXT)
        self.serial = 1

    def round_trips(self, count: int) -> list[int]:
        """One call at a time."""
        call, times = bytearray(self.call), []
        send, take_reply = self.connection.socket.sendall, self.connection.take_reply
        for serial in range(self.serial + 1, self.serial + 1 + count):
            U32.pack_into(call, SERIAL_OFFSET, serial)
            start = clock()
            send(call)
            reply = take_reply()
            times.append(clock() - start)
            if messages.reply_serial(reply) != serial:
                raise RuntimeError("a reply to another call")
        self.serial += count
        return times

    def pipeline(self, count: int, window: int) -> int:
        """Each read of k replies is followed by one write of k calls."""
        size = len(self.call)
        calls = bytearray(self.call * count)
        for position in range(count):
            U32.pack_into(calls, position * size + SERIAL_OFFSET, self.serial + 1 + position)
        self.serial += count
        stream, view = self.connection, memoryview(calls)
        sent, answered = min(window, count), 0
        start = clock()
        stream.socket.sendall(view[: sent * size])
        while answered < count:
            for reply in stream.frames():
                if reply[1] == ERROR:
                    raise RuntimeError(f"the bus answered {reply!r}")
                answered += reply[1] == RETURN
            upto = min(answered + window, count)
            if upto > sent:
                stream.socket.sendall(view[sent * size : upto * size])
                sent = upto
        return clock() - start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.worker.stop()


class DbusAudience:
    """One raw connection that emits, many that subscribe."""

    def __init__(self, address: str, subscribers: int, batches: Sequence[int]) -> None:
        self.worker = Worker("subscribers", address, str(subscribers), *map(str, batches))
        try:
            self.worker.line()
            self.connection = Connection.open(address)
        except BaseException:
            self.worker.stop()
            raise
        fields = {
            messages.PATH: PATH, messages.INTERFACE: INTERFACE, messages.MEMBER: "Tick",
        }
        self.signal = messages.build(messages.SIGNAL, 2, fields, "s", TEXT)

    def emit(self, count: int) -> int:
        """One write of ``count`` signals; the subscribers' process says when it had them all."""
        burst = self.signal * count
        start = clock()
        self.connection.socket.sendall(burst)
        return int(self.worker.line()) - start

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.worker.stop()
