"""headroom: whether this process has descriptors left, beyond a reserve.

Theory. The kernel gives out the lowest free number, so the number of a new descriptor tells how many are in
use: nothing has to be counted. The last few are for what everybody needs, such as reading messages that
carry descriptors: what would stay open, as a connection or in a queue, is turned away before them. The
limit is asked for each time, as it may be changed from outside.

Not here: who is turned away, and in which words (planner, loop, refusals).
"""

from __future__ import annotations

import errno
import os
import resource

from .limits import Excess

RESERVE = 64
"""So many are kept free, or an eighth of them, if that is less."""

PIDFDS_MAX = 64
"""As many descriptors of the bus's own may wait for one reader: a client asks for no more in a turn."""


def shortage(number: int) -> Excess | None:
    """Why a descriptor that got this number can't be kept for long; None if it can."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or number < soft - min(RESERVE, soft // 8):
        return None
    return Excess("RLIMIT_NOFILE", soft, number)


def check_room(fileno: int) -> None:
    """EMFILE if one more connection would get too high a number; any open descriptor helps to find out."""
    probe = os.dup(fileno)
    os.close(probe)
    if shortage(probe) is not None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
