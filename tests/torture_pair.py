"""torture_pair: two clients that behave, beside those that don't; a process of its own.

Theory. One calls the other at a steady pace, each call when it is due, or as soon as the answer to the one
before is there; the other answers. Every call must be answered, with what was sent, whoever else is on the
bus. What is printed: how many calls were made in which time, and how long each took, for a report.

``python torture_pair.py SOCKET SECONDS CALLS_A_SECOND`` is run by test_torture.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from dbus_client import CALL, Client

NAME = "well.behaved"


def serve(callee: Client, stop: threading.Event) -> None:
    """Answer every call, until one says that it is the last."""
    while not stop.is_set():
        got = callee.receive()
        if got.type == CALL and got.member == "Echo":
            callee.answer(got, "u", *got.args)
            if got.args == [0]:
                return


def main(path: str, seconds: float, rate: float) -> None:
    """Call for that long."""
    with Client(path) as callee, Client(path) as caller:
        assert callee.own(NAME) == 1
        stop = threading.Event()
        server = threading.Thread(target=serve, args=(callee, stop), daemon=True)
        server.start()
        print("ready", flush=True)
        took: list[float] = []
        start = due = time.monotonic()
        pause = threading.Event()
        while (now := time.monotonic()) < start + seconds:
            if now < due:
                pause.wait(due - now)
            due = max(due + 1 / rate, time.monotonic() - 0.25)  # never more than a quarter of a second behind
            number = len(took) + 1
            before = time.perf_counter()
            assert caller.request(NAME, "Echo", "u", number).args == [number]
            took.append(time.perf_counter() - before)
        elapsed = time.monotonic() - start
        caller.request(NAME, "Echo", "u", 0)
        server.join()
    took.sort()
    print(json.dumps({
        "calls": len(took), "seconds": elapsed,
        "p50": took[len(took) // 2], "p99": took[len(took) * 99 // 100], "max": took[-1],
    }))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), float(sys.argv[3]))
