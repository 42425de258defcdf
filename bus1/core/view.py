"""view: how one peer sees the ids of others (P-51).

Theory. The kernel tells the bus who sends in terms of the bus's own namespaces. A peer that was opened in
other ones is told in terms of those: user and group ids through the maps of its user namespace, the
process id as the one that the sender has in the peer's pid namespace. A peer without a view sees what the
bus sees.

Invariants. 1. An id that does not exist there is never another id that does: users and groups become
OVERFLOW, processes 0. 2. Whoever is OVERFLOW to the bus is it to everybody: that is how the kernel tells
the bus of ids that it does not know either.

Not here: where views come from (``bus1.namespaces``).
"""

from __future__ import annotations

from ..record import record, replace
from .api import Credentials

OVERFLOW = 65534
"""Who has no id there."""
Extent = tuple[int, int, int]
"""First id there, first id of the bus, how many."""


@record(frozen=True)
class View:
    """The namespaces of a peer's opener; ``View()`` knows nobody."""

    uids: tuple[Extent, ...] = ()
    gids: tuple[Extent, ...] = ()
    pid_namespace: int = 0
    """Its number; 0 if it is not known."""

    def of(self, credentials: Credentials) -> Credentials:
        """The same task as this peer sees it; its label is no matter of namespaces."""
        pids = dict(credentials.pids)
        return replace(
            credentials, uid=_mapped(self.uids, credentials.uid), gid=_mapped(self.gids, credentials.gid),
            pid=pids.get(self.pid_namespace, 0) if self.pid_namespace else 0, tid=0,
        )


def _mapped(extents: tuple[Extent, ...], number: int) -> int:
    for there, here, count in extents:
        if here <= number < here + count and number != OVERFLOW:
            return there + number - here
    return OVERFLOW
