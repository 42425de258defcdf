"""inprocess: two peers and the bus in one process (``python -m benchmarks.inprocess SECONDS``).

Theory. An empty message is sent, received, and what it holds given back, again and again. It prints one
line of JSON: how often a second, by the time that passed, and by that which the process has run.
"""

from __future__ import annotations

import json
import sys
from time import perf_counter as clock
from time import process_time as busy

from .worlds import InProcessWorld

BATCH = 1000


def main(seconds: str) -> None:
    """Warm up, measure, print."""
    world = InProcessWorld()
    send, receive, to = world.sender.send, world.reader.recv, [world.to_reader]
    done, start, ran = -BATCH, clock(), busy()
    while (elapsed := clock() - start) < float(seconds) or done <= 0:
        for _ in range(BATCH):
            send(to)
            receive().release()
        done += BATCH
        if done == 0:
            start, ran = clock(), busy()
    rates = {"rate": done / elapsed, "busy_rate": done / (busy() - ran)}
    world.close()
    print(json.dumps(rates), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
