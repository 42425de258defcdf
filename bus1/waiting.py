"""waiting: for how long to ask the kernel to wait.

Theory. Deadlines are times of a monotonic clock, infinity if there is none. The kernel takes time-outs of a
few weeks at most; who waits for longer wakes up meanwhile, looks at the clock, and waits again.

Not here: clocks, and what is waited for (reactor, links).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

_LONGEST = 1e5
"""Seconds."""


def time_left(deadline: float, now: float) -> float | None:
    """The next time-out on the way to ``deadline``: 0 if it has come, None for ever."""
    return None if deadline == math.inf else min(max(0.0, deadline - now), _LONGEST)


def earliest(times: Iterable[float | None]) -> float | None:
    """The first of some times, each of which may not be set; None if none is."""
    first = None
    for time in times:
        if time is not None and (first is None or time < first):
            first = time
    return first
