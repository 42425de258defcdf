"""native_parties: the other side of native load (``… native_parties ROLE ADDRESS DESCRIPTOR,… ARGUMENT``).

Theory. It attaches to peers whose descriptors it has got, and prints ``ready``. A callee answers, gives the
call's slice back, lets the reply node go and waits for the next call in one request. Subscribers print the
time of the monotonic clock when every peer has had all signals; slice and source handle of a signal are given
back before the next. A sink gives a message back in the request that waits for the next, and prints a line
for each ``PART`` messages.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from time import perf_counter_ns as clock

from bus1.core.api import MessageType
from bus1.peer import Peer

PART = 4
"""Messages that a sink receives between two lines."""


def echo(peers: list[Peer], answer: str) -> None:
    """Answer until killed."""
    (peer,) = peers
    call = peer.recv(wait=True)
    while call.type is MessageType.DATA:
        reply_node = call.handles[0]
        call = peer.reply([reply_node], bytes.fromhex(answer), answered=call, release=reply_node)


def sink(peers: list[Peer]) -> None:
    """Receive until killed."""
    (peer,) = peers
    message = peer.recv(wait=True)
    while True:
        for _ in range(PART):
            message = peer.reply((), answered=message)
        print("received", flush=True)


def subscribers(peers: list[Peer], count: str) -> None:
    """Until each has had ``count`` signals."""
    by_number = {peer.fileno(): peer for peer in peers}
    missing = dict.fromkeys(by_number, int(count))
    last = clock()
    with select.epoll() as poll:
        for number in by_number:
            poll.register(number, select.EPOLLIN)
        while any(missing.values()):
            for number, _ in poll.poll():
                with by_number[number].recv() as signal:
                    last = clock()
                    if signal.type is not MessageType.DATA:
                        raise RuntimeError("the emitter has gone")
                    missing[number] -= 1
                by_number[number].release(signal.handles[0])
    print(last, flush=True)


ROLES: dict[str, Callable[..., None]] = {"echo": echo, "sink": sink, "subscribers": subscribers}


def main(role: str, address: str, descriptors: str, *arguments: str) -> None:
    """Attach to all peers, then play the role."""
    peers = [Peer.from_descriptor(int(each), address) for each in descriptors.split(",")]
    print("ready", flush=True)
    ROLES[role](peers, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
