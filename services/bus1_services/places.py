"""places: how many calls are taken at a time, and how many of them from one caller.

Theory. Of what others leave free a user may have half, and of that a process of the user half again. So
whoever floods a service leaves places for everybody else, and who is alone has many. The rule is that of the
bus's own quotas (Q-2).

Invariants. 1. ``taken`` is the sum over users, and a user's count the sum over its processes. 2. Who has
no place is not remembered.

Not here: in which order calls run (``line``).
"""

from __future__ import annotations

from .caller import Caller
from .errors import LimitsExceeded


class Places:
    """``limit`` places; ``what`` has them, in words. ValueError, if there are none."""

    def __init__(self, limit: int, what: str) -> None:
        if limit < 1:
            raise ValueError(f"{limit} calls of {what}")
        self.limit = limit
        self.what = what
        self.taken = 0
        self.n_given = 0
        """Places that were ever taken."""
        self._held: dict[int | tuple[int, int], int] = {}
        """By user, and by user and process."""

    def take(self, caller: Caller) -> None:
        """One place more for this caller; LimitsExceeded."""
        user, process, held_by = caller.uid, (caller.uid, caller.pid), self._held
        users, processes = held_by.get(user, 0), held_by.get(process, 0)
        of_user = _share(self.limit - self.taken + users)
        of_process = _share(of_user - users + processes)
        if users < of_user and processes < of_process:
            self.taken += 1
            self.n_given += 1
            held_by[user], held_by[process] = users + 1, processes + 1
            return
        if users >= of_user:
            who, held = f"user {caller.uid}", users
        else:
            who, held = f"process {caller.pid} of user {caller.uid}", processes
        raise LimitsExceeded(
            f"{who} has {held} calls of {self.what} under way; {self.taken} of {self.limit} places are taken"
        )

    def leave(self, caller: Caller) -> None:
        """Give one back."""
        self.taken -= 1
        held_by, keys = self._held, (caller.uid, (caller.uid, caller.pid))
        for key in keys:
            held_by[key] -= 1
            if not held_by[key]:
                del held_by[key]


def _share(free: int) -> int:
    """Half, but not none of what there is."""
    return (free + 1) // 2
