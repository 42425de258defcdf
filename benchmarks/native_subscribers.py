"""native_subscribers: a native audience (``… native_subscribers ADDRESS DESCRIPTOR,… BATCH…``).

Theory. As subscribers.py: ``ready`` once all are attached; then for each batch the time of the monotonic
clock when every peer has had that many signals. Slice and source handle of a signal are given back
before the next.
"""

from __future__ import annotations

import select
import sys
from time import perf_counter_ns as clock

from bus1.core.api import MessageType
from bus1.peer import Peer


def receive(peers: dict[int, Peer], poll: select.epoll, wanted: int) -> int:
    """When each peer has had ``wanted`` signals: the time of the last one."""
    missing = dict.fromkeys(peers, wanted)
    left = wanted * len(missing)
    last = clock()
    while left:
        for number, _ in poll.poll():
            with peers[number].recv() as signal:
                last = clock()
                if signal.type is not MessageType.DATA:
                    raise RuntimeError("the emitter has gone")
                missing[number] -= 1
                left -= 1
            peers[number].release(signal.handles[0])
    if any(missing.values()):
        raise RuntimeError("some subscriber had a signal twice, another not at all")
    return last


def main(address: str, descriptors: str, *batches: str) -> None:
    """Attach to all peers, then time each batch."""
    with select.epoll() as poll:
        peers = {}
        for descriptor in descriptors.split(","):
            peer = Peer.from_descriptor(int(descriptor), address)
            peers[peer.fileno()] = peer
            poll.register(peer, select.EPOLLIN)
        print("ready", flush=True)
        for batch in batches:
            print(receive(peers, poll, int(batch)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
