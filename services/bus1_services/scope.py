"""scope: a piece of a program that others can end, on whatever loop it runs, or on none.

Not here: who has one (``calls``), what it is made of (``connection``, ``blocking``).
"""

from __future__ import annotations

from typing import Protocol


class Scope(Protocol):
    """What ``with`` gives around the piece."""

    @property
    def cancelled_caught(self) -> bool:
        """It has been ended by its deadline, or by ``cancel``."""

    def cancel(self) -> None:
        """End it."""
