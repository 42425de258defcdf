"""caller: who called a method, for methods that ask.

Theory. A method with a parameter annotated ``Caller`` is given one; the parameter is not part of the
D-Bus signature, and should have the default ``NOBODY``, which local calls and proxies leave alone. The
ids are those that the kernel attested when the message was sent (P-50): information, not permission;
permission is that the caller holds a handle.

Not here: names of callers; a native caller has none that the callee could see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Caller:
    """Account and process of a caller; ``handles`` came beside the arguments, None for dead ones."""

    uid: int
    gid: int
    pid: int
    flags: int = 0
    handles: tuple[Any, ...] = ()


NOBODY = Caller(0xFFFF_FFFF, 0xFFFF_FFFF, 0)
