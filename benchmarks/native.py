"""native: the load as bus1 peers (``python -m benchmarks.native KIND ADDRESS …``); prints a line of JSON.

Theory. This process opens all peers, gives the caller (or the emitter) a handle to a node of each other
peer by ``transfer``, and passes the descriptors of those on to another process, which attaches to them. A
call carries the envelope and a fresh reply node, as every real call does; the caller destroys it once it is
answered. A signal is one transaction to all subscribers, which are optional destinations, and carries its
source node. One-way messages are at most ``AHEAD`` ahead of their receiver, who says so beside the bus.

Not here: the other process (native_parties); the services framework (library).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import ExitStack
from time import perf_counter_ns as clock
from typing import Self

from bus1_services.call import Envelope, Kind, encode

from bus1.core.api import DestroyFlag, MessageType
from bus1.peer import Peer

from .messages import SPOKEN, TEXT, marshal
from .native_parties import PART
from .worker import Worker, busy_time

NODE = 0
"""The one node of a callee, of a subscriber, of the emitter."""
AHEAD = 2
"""Parts that a sender may be ahead."""


def message(kind: Kind, member: str, text: str) -> bytes:
    """An envelope and a body of one string."""
    interface = SPOKEN if member else ""
    body = marshal("s", text)
    return encode(
        Envelope(kind, interface=interface, member=member, signature="s", body_length=len(body))
    ) + body


class Company:
    """A peer here that holds a handle to a node of each of ``count`` peers in one worker."""

    def __init__(self, address: str, count: int, role: str, *arguments: str) -> None:
        with ExitStack() as stack:
            self.peer = stack.enter_context(Peer.connect(address))
            with ExitStack() as passed_on:
                others = [passed_on.enter_context(Peer.connect(address)) for _ in range(count)]
                self.handles = [other.transfer(NODE, self.peer) for other in others]
                descriptors = [other.fileno() for other in others]
                listed = ",".join(map(str, descriptors))
                words = (role, address, listed, *arguments)
                self.worker = Worker("native_parties", *words, pass_fds=descriptors)
                stack.callback(self.worker.stop)
                self.worker.line()
            self.stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()


def call(address: str, count: str) -> dict[str, object]:
    """One call at a time: the nanoseconds of each."""
    text, times = message(Kind.CALL, "Echo", TEXT), []
    answer = message(Kind.RETURN, "", "The quick brown fox.")
    with Company(address, 1, "echo", answer.hex()) as company:
        for _ in range(int(count) + int(count) // 5):
            start = clock()
            reply = company.peer.call(company.handles, text, [4])
            if reply.type is not MessageType.DATA:
                raise RuntimeError("the callee left a call without an answer")
            reply.release()
            company.peer.destroy([reply.destination], DestroyFlag.RELEASE_HANDLES)
            times.append(clock() - start)
    return {"times": times[-int(count) :]}


def signals(address: str, subscribers: str, count: str) -> dict[str, object]:
    """Signals to all subscribers: deliveries per second."""
    signal = message(Kind.SIGNAL, "Tick", TEXT)
    with Company(address, int(subscribers), "subscribers", count) as company:
        start = clock()
        for _ in range(int(count)):
            company.peer.send((), signal, [NODE], optional=company.handles)
        elapsed = int(company.worker.line()) - start
    return {"rate": int(subscribers) * int(count) / elapsed * 1e9}


def one_way(address: str, bus: str, size: str, parts: str) -> dict[str, object]:
    """Messages of one size to one receiver, on the bus with this pid: bytes per second."""
    payload = bytes(int(size))
    with Company(address, 1, "sink") as company:
        others = int(bus), company.worker.process.pid
        spent, start = busy_time(others), clock()
        for part in range(int(parts)):
            for _ in range(PART + (not part)):  # the sink has given one back when it has the next
                company.peer.send(company.handles, payload)
            if part >= AHEAD:
                company.worker.line()
        for _ in range(min(AHEAD, int(parts))):
            company.worker.line()
        elapsed, spent = clock() - start, busy_time(others) - spent
    amount = len(payload) * (PART * int(parts) + 1) * 1e9
    return {"rate": amount / elapsed, "busy_rate": amount / spent}


KINDS: dict[str, Callable[..., dict[str, object]]] = {"call": call, "signals": signals, "one-way": one_way}


if __name__ == "__main__":
    print(json.dumps(KINDS[sys.argv[1]](*sys.argv[2:])), flush=True)
