"""native: the load as bus1 peers, with the envelope and the reply node of every real call.

Theory. The measuring process opens all peers, gives the caller (or the emitter) a handle to a node of
each other peer by ``transfer``, and passes the descriptors of those on to the worker, which attaches to
them. A call carries a reply node as handle 0; the caller destroys it once it is answered. A signal is
one transaction to all subscribers, which are optional destinations, and carries its source node.
``Peer`` sends one request at a time: 64 outstanding calls are 64 calls without an answer, not 64
requests in flight.

Not here: the worker's side (native_echo, native_subscribers).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from time import perf_counter_ns as clock
from typing import Self

from bus1_services.call import Envelope, Kind, encode

from bus1.addresses import native_address
from bus1.core.api import DestroyFlag, MessageType
from bus1.peer import Peer
from bus1.received import ReceivedMessage

from .buses import PrintingBus
from .legacy import INTERFACE, TEXT
from .messages import marshal
from .worker import Worker

NODE = 0
"""The one node of a callee, of a subscriber, of the emitter."""


def message(kind: Kind, member: str, text: str) -> bytes:
    """An envelope and a body of one string."""
    interface = INTERFACE if member else ""
    body = marshal("s", text)
    return encode(
        Envelope(kind, interface=interface, member=member, signature="s", body_length=len(body))
    ) + body


class NativeClients:
    """The load for a native socket."""

    def __init__(self, address: str) -> None:
        self.address = address

    def connect(self) -> int:
        """From ``socket()`` to the granted handles."""
        start = clock()
        peer = Peer.connect(self.address)
        elapsed = clock() - start
        peer.close()
        return elapsed

    def pair(self) -> NativePair:
        """A caller here, an echo process as the callee."""
        return NativePair(self.address)

    def audience(self, subscribers: int, batches: Sequence[int]) -> NativeAudience:
        """An emitter here, one process with all subscribers."""
        return NativeAudience(self.address, subscribers, batches)


class Company:
    """A peer here that holds a handle to a node of each of ``count`` peers in one worker."""

    def __init__(self, address: str, count: int, module: str, *arguments: str) -> None:
        with ExitStack() as stack:
            self.peer = stack.enter_context(Peer.connect(address))
            with ExitStack() as passed_on:
                others = [passed_on.enter_context(Peer.connect(address)) for _ in range(count)]
                self.handles = [other.transfer(NODE, self.peer) for other in others]
                descriptors = [other.fileno() for other in others]
                listed = ",".join(map(str, descriptors))
                self.worker = Worker(module, address, listed, *arguments, pass_fds=descriptors)
                stack.callback(self.worker.stop)
                self.worker.line()
            self.stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


class NativePair(Company):
    """A caller here and a callee elsewhere."""

    def __init__(self, address: str) -> None:
        super().__init__(address, 1, "native_echo")
        self.call = message(Kind.CALL, "Echo", TEXT)

    def round_trips(self, count: int) -> list[int]:
        """One call at a time; its reply node is gone before the next one."""
        times = []
        for _ in range(count):
            start = clock()
            self.settle(self.peer.call(self.handles, self.call, [4]))
            times.append(clock() - start)
        return times

    def pipeline(self, count: int, window: int) -> int:
        """Each reply lets one more call out."""
        sent = min(window, count)
        start = clock()
        for number in range(1, sent + 1):
            self.peer.send(self.handles, self.call, [4 * number])
        for _ in range(count):
            node = self.settle(self.peer.recv(wait=True))
            if sent < count:
                self.peer.send(self.handles, self.call, [node])
                sent += 1
        return clock() - start

    def settle(self, reply: ReceivedMessage) -> int:
        """Give a reply's slice back and destroy its node; returns the id, which is free again."""
        if reply.type is not MessageType.DATA:
            raise RuntimeError("the callee left a call without an answer")
        node = reply.destination
        reply.release()
        self.peer.destroy([node], DestroyFlag.RELEASE_HANDLES)
        return node


class NativeAudience(Company):
    """An emitter here and its subscribers elsewhere."""

    def __init__(self, address: str, subscribers: int, batches: Sequence[int]) -> None:
        super().__init__(address, subscribers, "native_subscribers", *map(str, batches))
        self.signal = message(Kind.SIGNAL, "Tick", TEXT)

    def emit(self, count: int) -> int:
        """``count`` transactions; the subscribers' process says when it had them all."""
        start = clock()
        for _ in range(count):
            self.peer.send((), self.signal, [NODE], optional=self.handles)
        return int(self.worker.line()) - start


class Bus1Native(PrintingBus):
    """This project's bus once more, native peers on both ends."""

    name = "bus1 native"
    program = "bus1-bridge"
    library = "bus1_services"

    @property
    def clients(self) -> NativeClients:
        """The load for the native socket beside the D-Bus one."""
        address = native_address(self.address)
        assert address is not None
        return NativeClients(address)
