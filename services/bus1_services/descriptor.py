"""descriptor: one file descriptor with an owner, the Python value of D-Bus type ``h``.

Invariants. 1. A descriptor is closed once: by ``close``, at the end of a ``with`` block, when the owner is
dropped, or by whoever took it.
"""

from __future__ import annotations

import os
from typing import Self


class UnixFd:
    """Owns one descriptor. ``take`` what you keep; what nobody took is closed with its owner.

    What is sent stays the sender's. ValueError, and InvalidArgument when sent, once it is taken or closed."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """The number, still owned; ValueError once it is taken or closed."""
        if self._number < 0:
            raise ValueError("the descriptor has been taken or closed")
        return self._number

    def take(self) -> int:
        """The number; from now on the caller closes it."""
        number = self.fileno()
        self._number = -1
        return number

    def close(self) -> None:
        """Close it, unless it is taken or closed already."""
        if self._number >= 0:
            os.close(self.take())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"UnixFd({self._number})"
