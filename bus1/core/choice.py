"""choice: the Core in use, and the memories that belong to it.

Theory. There are two bodies of Core, with one behaviour: ``bus1.core.bus`` and the native one. Who makes a
bus takes ``Core`` from here, and memories for its peers: the native Core writes to native ones by itself, and
to any other through its methods.

Invariants. 1. Both are of the same body.

Not here: which body it is, and why (``bus1.acceleration``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..acceleration import native

if TYPE_CHECKING or native is None:
    from ..memory import HeapMemory as HeapMemory
    from ..memory import SealedMemory as SealedMemory
    from .bus import Core as Core
else:
    Core, HeapMemory, SealedMemory = native.Core, native.HeapMemory, native.SealedMemory
