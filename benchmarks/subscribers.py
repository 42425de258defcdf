"""subscribers: the audience of a fan-out (``python -m benchmarks.subscribers ADDRESS COUNT BATCH…``).

Theory. It prints ``ready`` when all its connections have subscribed. For each batch it waits until every
connection has had that many signals and prints the time of the monotonic clock at the last one.
"""

from __future__ import annotations

import select
import sys
from time import perf_counter_ns as clock

from . import messages
from .connection import Connection
from .legacy import MATCH
from .messages import SIGNAL


def receive(connections: dict[int, Connection], poll: select.epoll, interface: bytes, wanted: int) -> None:
    """Return when each connection has had ``wanted`` signals of ``interface``."""
    missing = dict.fromkeys(connections, wanted)
    left = wanted * len(missing)
    while left:
        for number, _ in poll.poll():
            for message in connections[number].frames():
                if message[1] == SIGNAL and interface in message:
                    missing[number] -= 1
                    left -= 1
    if any(missing.values()):
        raise RuntimeError("some subscriber had a signal twice, another not at all")


def main(address: str, count: str, *batches: str) -> None:
    """Subscribe, then time each batch."""
    subscribe = messages.driver_call("AddMatch", "s", MATCH, serial=2)
    with select.epoll() as poll:
        connections = {}
        for _ in range(int(count)):
            connection = Connection.open(address, subscribe)
            connections[connection.socket.fileno()] = connection
            poll.register(connection.socket, select.EPOLLIN)
        print("ready", flush=True)
        for batch in batches:
            receive(connections, poll, b"org.bus1.Benchmark", int(batch))
            print(clock(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
