"""choice: which match index and which reply table are in use, Python's or the native ones.

Theory. The classes of ``match`` and ``replies`` are the reference, and stay importable there. Whoever makes
the tables of a bus takes the names of this file.

Not here: what is chosen (``bus1.acceleration``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1 import acceleration

__all__ = ("MatchIndex", "ReplyTable")

if TYPE_CHECKING or acceleration.native is None:
    from ..match import MatchIndex
    from .replies import ReplyTable
else:
    MatchIndex = acceleration.native.MatchIndex
    ReplyTable = acceleration.native.ReplyTable
