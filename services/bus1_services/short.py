"""short: the short way of everyday calls through a connection, where there is a native one.

Theory. What ``letter``, ``call`` and ``body`` do to a message on its way is done in one go then: for
results that bring nothing but values, for calls that may be over at once, and for calls of declared
methods. Everything else goes the usual way, in its turn.

Not here: which calls may be over at once (``swift``), bytes (``rust/src/py/swift.rs``).
"""

from __future__ import annotations

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
        self, peer: Peer, way: Any, receiver: Callable[[int], Receiver | None], sweeper: Sweeper
    ) -> None:
        self._peer = peer
        self._way = way
        self._receiver = receiver
        self._sweeper = sweeper
        self._is_kept = False
        self.call = way.call
        """As ``post_call``, for who has no loop, and wait: the values; None if they have to be waited for."""
        self.wait = way.wait
        """For who has no loop: if nothing has come, send what is posted, and read; what ``deal`` is for.

        False: something was read, and what has come is for the usual way; None: nothing was read."""
        self.respond: Callable[[int, int, str, Sequence[Any], Failed], bool] = self._respond
        """Send a result, and give the reply handle back with it. False: nothing has happened."""

    def post_call(
        self, handle: int, node: int, names: Names, values: Sequence[Any], failed: Failed
    ) -> bool:
        """Send a call of a declared method whose answer goes to ``node``. False: nothing has happened."""
        return self._way.post_call(handle, node, names, values, failed) and self._is_posted()

    def keep_posted(self) -> None:
        """There is no loop: what is posted leaves when somebody waits, and nobody is to be woken for it."""
        self.respond = self._way.respond
        self._is_kept = True

    def _respond(
        self, reply: int, serial: int, signature: str, values: Sequence[Any], failed: Failed
    ) -> bool:
        return self._way.respond(reply, serial, signature, values, failed) and self._is_posted()

    def _is_posted(self) -> bool:
        self._peer.flush_posted()
        if self._peer.has_unsent:
            self._sweeper.wake()
        return True

    def take(self, tag: int) -> bool | None:
        """Deal with the next message of this RECV: whether that has woken a task. None: it is left."""
        found = self._way.take(tag)
        return None if found is None else self.deal(found)

    def deal(self, found: tuple[Any, ...]) -> bool | None:
        """The same, with what ``wait`` has given."""
        if len(found) == _N_OF_RESULT:
            pending = self._receiver(found[0])
            if type(pending) is PendingCall:
                if not self._is_kept:
                    self._sweeper.hold()
                pending.given(found[1], found[2])
                return True
        else:
            export = self._receiver(found[0])
            if type(export) is Export and (work := export.swift(found[1])) is not None:
                if not self._is_kept:
                    self._sweeper.hold()
                export.run(work, found)
                return False
        self._way.put_back()
        return None


def short(
    peer: Peer, receiver: Callable[[int], Receiver | None], sweeper: Sweeper
) -> Short | None:
    """The short way through the channel of this peer; None if there is none."""
    way = None if peer.exchange is None else short_way(peer.exchange)
    return None if way is None else Short(peer, way, receiver, sweeper)
