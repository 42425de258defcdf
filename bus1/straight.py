"""straight: messages that go to their receiver's channel at once.

Theory. Who sends usually finds that the receiver has a RECV parked. The message then goes from the one
channel to the other without a queue, a wake-up or a slice in between (``bus1.core.straight``). Whether it may
is found out first; whatever is not everyday, or wrong, goes the long way from its first byte on.

Only a Core in Python has this way; where the native body is in use, its lane does the same and more. The hub
has to say that it does nothing else with what native peers send to each other (``Hub.is_plain``).

Invariants. 1. Nobody can tell which way a message has gone.

Not here: the effects on Core (``bus1.core.straight``), RECVs (station), the long way (sending).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from . import acceleration
from .core.choice import Core
from .frames import MAX_INLINE_SLICE, REQUESTS, Frame, Operation
from .hub import Hub

if TYPE_CHECKING:
    from .channel import Channel
    from .station import PeerStation

_SEND, _RESPOND = REQUESTS[Operation.SEND], REQUESTS[Operation.RESPOND]
_NUMBERS = struct.Struct("<Q"), struct.Struct("<QQ")
"""A destination; a destination and a handle."""


class Straight:
    """The straight way to the peers of one broker."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self.stations: dict[int, PeerStation] = {}
        """By the number of their peer."""

    def send(self, channel: Channel, frame: Frame) -> bool:
        """Carry out a SEND or a RESPOND without descriptors. False: nothing has happened."""
        body, is_answer = frame.body, frame.operation == Operation.RESPOND
        layout = _RESPOND if is_answer else _SEND
        at = layout.size
        if channel.sending is not None or len(body) < at:
            return False
        flags, n_destinations, n_optional, n_handles, n_inline, _, n_arena, *rest = layout.unpack_from(body)
        if flags or n_destinations != 1 or n_optional or n_handles > 1 or n_arena:
            return False
        payload_at = at + 8 + 8 * n_handles
        if len(body) != payload_at + n_inline:
            return False
        number, *handles = _NUMBERS[n_handles].unpack_from(body, at)
        sender = channel.station
        if sender is None or not sender.is_live or (is_answer and rest[0] != number):
            return False
        node = self._core.node_of(sender.peer, number)
        reader = None if node is None else self.stations.get(node[0])
        request = None if reader is None else reader.queue_line.first()
        if reader is None or request is None or (is_answer and not request.more):
            return False
        found = self._core.hand_over(
            sender.peer, number, body[payload_at:], tuple(handles), channel.credentials, request.max_offset,
            MAX_INLINE_SLICE, is_answer=is_answer,
        )
        if found is None:
            return False
        reader.handed_over(request, *found)
        return True


def straight_for(hub: Hub) -> Straight | None:
    """The straight way through this hub's Core; None if there is none."""
    core = hub.core
    if acceleration.native is not None or not isinstance(core, Core) or not hub.is_plain:
        return None
    return Straight(core)
