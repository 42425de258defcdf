"""tally: how many of something each owner has, and the most that it ever had.

Theory. What is counted one by one is counted here, so that no look at statistics has to walk through
tables.

Invariants. 1. ``total`` is the sum over all owners, others that were noted among them. 2. A peak is never
below what it is the peak of. 3. Of an owner that was forgotten nothing is left but its part in the peaks of
all.

Not here: what is counted (``names``, ``match``).
"""

from __future__ import annotations


class Tally:
    """One kind of thing, by owner."""

    __slots__ = ("_counts", "_elsewhere", "_peaks", "owner_peak", "peak", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self._peaks: dict[int, int] = {}
        self._elsewhere = 0
        self.total = 0
        self.peak = 0
        """The highest ``total``."""
        self.owner_peak = 0
        """The most that one owner ever had."""

    def add(self, owner: int) -> None:
        """One more."""
        count = self._counts[owner] = self._counts.get(owner, 0) + 1
        if count > self._peaks.get(owner, 0):
            self._peaks[owner] = count
            if count > self.owner_peak:
                self.owner_peak = count
        self.total += 1
        if self.total > self.peak:
            self.peak = self.total

    def remove(self, owner: int, n: int = 1) -> None:
        """So many less."""
        self._counts[owner] -= n
        self.total -= n

    def note_others(self, n: int, most: int = 0) -> None:
        """So many owners that are not known here have one each; ``most`` of them had so at the same time."""
        ours = self.total - self._elsewhere
        if most:
            self.peak = max(self.peak, ours + most)
            self.owner_peak = max(self.owner_peak, 1)
        self._elsewhere = n
        self.total = ours + n

    def forget(self, owner: int) -> None:
        """The owner has none any more, and never had."""
        self.total -= self._counts.pop(owner, 0)
        self._peaks.pop(owner, None)

    def of(self, owner: int) -> int:
        """How many the owner has."""
        return self._counts.get(owner, 0)

    def peak_of(self, owner: int) -> int:
        """The most that the owner had."""
        return self._peaks.get(owner, 0)
