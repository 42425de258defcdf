"""threaded_bus: a bus in a thread: of this process, or of one of its own.

``python -m fuzz.threaded_bus FOLDER`` prints where the bus's thread is in /proc, and ends with its standard
input: then it prints what the bus has complained of.

Not here: what is asked of it (twins_target).
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress

from bus1_bridge.private import ThreadedBus


def started(folder: str) -> tuple[ThreadedBus, str]:
    """A bus in ``folder``, and where its thread is."""
    before = set(threading.enumerate())
    bus = ThreadedBus(folder)
    (thread,) = set(threading.enumerate()) - before
    return bus, f"/proc/{os.getpid()}/task/{thread.native_id}"


def main() -> None:
    """Serve until nobody wants it any more."""
    bus, place = started(sys.argv[1])
    print(place, flush=True)
    sys.stdin.read()
    bus.close()
    with suppress(BrokenPipeError):  # libFuzzer does not wait for it
        os.write(sys.stdout.fileno(), "\n".join(bus.log).encode())


if __name__ == "__main__":
    main()
