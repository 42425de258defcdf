"""replies: which answers are outstanding between legacy clients.

Theory. A delivered call that wants an answer opens a slot (caller, callee, serial); the first
answer takes it. Slots are filed under both ends, so the end of either finds its own. A slot knows when it
was opened, and a caller's slots stand in that order.

Invariants. 1. A slot stands under its caller and under its callee, or under neither.
2. ``outstanding`` and ``awaited_from`` are counts of slots.

Not here: calls with a native end (their reply nodes are the slots); what an answer without a slot
is worth (the router).
"""

from __future__ import annotations

from itertools import takewhile
from typing import TypeVar

from bus1.errors import NotUnique

_T = TypeVar("_T")


class ReplyTable:
    """All open slots; peers are Core peers."""

    def __init__(self) -> None:
        self._made: dict[int, dict[tuple[int, int], float]] = {}
        self._received: dict[int, dict[tuple[int, int], None]] = {}

    def add(self, caller: int, callee: int, serial: int, now: float = 0.0) -> None:
        """Open a slot; NotUnique if the caller already awaits this serial from the callee."""
        made = self._made.get(caller)
        if made is None:
            made = self._made[caller] = {}
        if (callee, serial) in made:
            raise NotUnique(f"a call with serial {serial} to the same destination is outstanding")
        made[callee, serial] = now
        self._received.setdefault(callee, {})[caller, serial] = None

    def take(self, caller: int, callee: int, serial: int) -> bool:
        """Close the slot that this answer belongs to; False if there is none."""
        made = self._made.get(caller)
        if made is None or (callee, serial) not in made:
            return False
        _remove(self._made, caller, (callee, serial))
        _remove(self._received, callee, (caller, serial))
        return True

    def awaits(self, caller: int, callee: int, serial: int) -> bool:
        """Whether the slot is open."""
        return (callee, serial) in self._made.get(caller, ())

    def drop(self, peer: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The peer is gone: close its slots.

        Returns the calls it made as (callee, serial), and the calls of others to it as (caller,
        serial); the latest first, as the reference answers them. Calls to itself are among the first."""
        made = list(reversed(self._made.pop(peer, {})))
        for callee, serial in made:
            _remove(self._received, callee, (peer, serial))
        received = list(reversed(self._received.pop(peer, {})))
        for caller, serial in received:
            _remove(self._made, caller, (peer, serial))
        return made, received

    def outstanding(self, caller: int) -> int:
        """How many answers the caller waits for."""
        return len(self._made.get(caller, ()))

    def awaited_from(self, callee: int) -> int:
        """How many answers others (or itself) wait for from the callee."""
        return len(self._received.get(callee, ()))

    def overdue(self, now: float, timeout: float) -> list[tuple[int, int, int]]:
        """(caller, callee, serial) of every slot that has been open for as long."""
        return [
            (caller, callee, serial)
            for caller, made in self._made.items()
            for (callee, serial), _ in takewhile(lambda slot: slot[1] + timeout <= now, made.items())
        ]

    def oldest(self) -> float | None:
        """When the oldest slot was opened."""
        return min((next(iter(made.values())) for made in self._made.values()), default=None)


def _remove(table: dict[int, dict[tuple[int, int], _T]], peer: int, slot: tuple[int, int]) -> None:
    slots = table[peer]
    del slots[slot]
    if not slots:
        del table[peer]
