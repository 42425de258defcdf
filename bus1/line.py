"""line: RECVs that wait at one peer.

Theory. A RECV that has not been answered, or may be answered again, is a ``PendingRecv``. Those of the queue,
and those of the seed, stand in a ``Line`` each.

Not here: who is answered when (station).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .core.api import RecvFlag
from .frames import RecvOption
from .record import field, record

if TYPE_CHECKING:
    from .channel import Channel

_INSTALL_FDS = int(RecvFlag.INSTALL_FDS)
_EVERYDAY = int(RecvOption.PARK | RecvOption.DETACH)


@record(eq=False)
class PendingRecv:
    """A RECV that has not been answered yet; ``done`` counts the operations of its sequence so far."""

    channel: Channel
    operation: int
    tag: int
    flags: int
    max_offset: int
    options: int
    more: int = 0
    """With how many further messages it may be answered."""
    done: int = 0
    offered: int = 0
    """The stamp of the message whose descriptors have been offered."""


@record(eq=False)
class Line:
    """RECVs in the order in which they came; nobody is served while an offer is open."""

    waiting: deque[PendingRecv] = field(default_factory=deque)
    offer: PendingRecv | None = None

    def first(self) -> PendingRecv | None:
        """Who would be answered first, if it takes whatever comes and gives its slice back at once."""
        if self.offer is not None or not self.waiting:
            return None
        request = self.waiting[0]
        is_everyday = not request.flags & ~_INSTALL_FDS and request.options == _EVERYDAY
        return request if is_everyday else None

    def all(self) -> list[PendingRecv]:
        """Everybody who has not been answered."""
        return [*([self.offer] if self.offer else []), *self.waiting]

    def leave(self, channel: Channel) -> None:
        """Forget the RECVs of a channel."""
        self.waiting = deque(request for request in self.waiting if request.channel is not channel)
        if self.offer is not None and self.offer.channel is channel:
            self.offer = None
