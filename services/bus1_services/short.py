"""short: the short way of everyday calls through a connection, where there is a native one.

Theory. What ``letter``, ``call`` and ``body`` do to a message on its way is done in one go then: for
results that bring nothing but values, for calls that may be over at once, and for calls of declared
methods. Everything else goes the usual way, in its turn.

Not here: which calls may be over at once (``swift``), bytes (``rust/src/py/swift.rs``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from bus1.errors import Bus1Error

from .body import short_way
from .export import Export
from .proxy import PendingCall
from .receiver import Receiver
from .sweeper import Sweeper

if TYPE_CHECKING:
    from bus1.aio import Peer

Names = tuple[str, str, str, str]
"""Interface, member, signature of the arguments, signature of the results."""
_N_OF_RESULT = 3
"""Fields of a result: node, signature, values; a call has more."""
Failed = Callable[[Bus1Error], None]


class Short:
    """The short way of one connection; made by ``short``."""

    def __init__(
        self, peer: Peer, way: Any, receivers: dict[int, Receiver], sweeper: Sweeper
    ) -> None:
        self._peer = peer
        self._way = way
        self._receivers = receivers
        self._sweeper = sweeper
        self._is_kept = False
        self.call = way.call
        """As ``post_call``, for who has no loop, and wait: the values; None if they have to be waited for."""
        self.wait = way.wait
        """For who has no loop: if nothing has come, send what is posted, and read; what ``deal`` is for.

        False: something was read, and what has come is for the usual way; None: nothing was read."""
        self._next = way.next
        self._give_up = way.give_up
        self.put_back = way.put_back
        """The message that was given last is taken once more."""
        self.respond: Callable[[int, int, str, Sequence[Any], Failed], bool] = self._respond
        """Send a result, and give the reply handle back with it. False: nothing has happened."""

    def post_call(
        self, handle: int, node: int, names: Names, values: Sequence[Any], failed: Failed
    ) -> bool:
        """Send a call of a declared method whose answer goes to ``node``. False: nothing has happened."""
        if not self._way.post_call(handle, node, names, values, failed):
            return False
        if not self._sweeper.is_held and self._peer.push():
            self._sweeper.wake()
        return True

    def keep_posted(self) -> None:
        """There is no loop: what is posted leaves when somebody waits, and nobody is to be woken for it."""
        self.respond = self._way.respond
        self._is_kept = True

    def _respond(
        self, reply: int, serial: int, signature: str, values: Sequence[Any], failed: Failed
    ) -> bool:
        if not self._way.respond(reply, serial, signature, values, failed):
            return False
        if not self._sweeper.is_held and self._peer.push():
            self._sweeper.wake()
        return True

    def next(
        self, sock: socket.socket, descriptor: socket.socket, tag: int, epoll: Any, seconds: float
    ) -> Any:
        """``wait`` for who has a loop, with its epoll, until that tells of something (``loops.Reader``)."""
        if self._sweeper.has_work:
            return None  # it leaves in the usual way, and may need a task
        return self._next(sock, descriptor, tag, epoll, seconds)

    def take(self, tag: int) -> bool | None:
        """Deal with the next message of this RECV: whether that has woken a task. None: it is left."""
        found = self._way.take(tag)
        return None if found is None else self.deal(found)

    def deal(self, found: tuple[Any, ...]) -> bool | None:
        """The same, with what ``wait`` has given."""
        if len(found) == _N_OF_RESULT:
            pending = self._receivers.get(found[0])
            if type(pending) is PendingCall:
                if not (self._is_kept or self._sweeper.is_held):
                    self._sweeper.hold()
                del self._receivers[found[0]]
                self._give_up(found[0])
                pending.given(found[1], found[2])
                return True
        else:
            export = self._receivers.get(found[0])
            if type(export) is Export and (work := export.swift(found[1])) is not None:
                if not (self._is_kept or self._sweeper.is_held):
                    self._sweeper.hold()
                export.run(work, found)
                return False
        self.put_back()
        return None


def short(
    peer: Peer, receivers: dict[int, Receiver], sweeper: Sweeper
) -> Short | None:
    """The short way through the channel of this peer; None if there is none."""
    way = None if peer.exchange is None else short_way(peer.exchange)
    return None if way is None else Short(peer, way, receivers, sweeper)
