"""pace: how fast each user may open connections.

Theory. A leaky bucket per user: every connection that gets a name puts a drop in,
``new_connections_per_second`` drops leave it each second, and as many find room in it.

Invariants. 1. Without a rate nothing is kept. 2. At most ``USERS`` are kept, or those that have been at it
within a second.

Not here: what the user is told (``driver.connections``).
"""

from __future__ import annotations

from .limits import BusLimits

USERS = 1024


class Pace:
    """The buckets of all users."""

    def __init__(self) -> None:
        self._buckets: dict[int | None, tuple[float, float]] = {}
        """What was in it, and when."""

    def admits(self, uid: int | None, limits: BusLimits, now: float) -> bool:
        """One more connection of this user; False: not yet, and nothing has changed."""
        rate = limits.new_connections_per_second
        if rate is None:
            return True
        level = self._level(uid, rate, now)
        if level + 1 > rate:
            return False
        if len(self._buckets) >= USERS and uid not in self._buckets:
            self._buckets = {who: it for who, it in self._buckets.items() if it[1] + 1 > now}
        self._buckets[uid] = (level + 1, now)
        return True

    def count(self, uid: int | None) -> int:
        """How many connections of this user were let in of late."""
        return round(self._buckets.get(uid, (0.0, 0.0))[0])

    def _level(self, uid: int | None, rate: int, now: float) -> float:
        level, then = self._buckets.get(uid, (0.0, now))
        return max(0.0, level - (now - then) * rate)
