"""attendance: the task that receives for a peer, and is called back for what comes.

Theory. One RECV is answered many times. Its answers are handed over as soon as they are read, to a function
that does not wait, so a message costs no switch of tasks. What that function posts is kept until the tasks
that it has woken have run, and leaves in one write. What does have to wait, the task does: for the memory
that a message lies in, and for room in the socket.

Invariants. 1. Messages are handed over in the order in which they came. 2. When the task ends, for whatever
reason, what came and was not handed over is the outcome of the next RECV.

Not here: reading for other tasks (aiolink), loops (loops), what is done with messages.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Protocol

from anyio import CancelScope
from anyio.lowlevel import checkpoint_if_cancelled

from .aiolink import AsyncLink
from .blocklink import BlockLink
from .client import Request
from .exchange import Answer
from .received import ReceivedMessage


class ShortWay(Protocol):
    """Takes messages out of the exchange by a way of its own."""

    def take(self, tag: int) -> bool | None:
        """Hand the next one over: whether that has woken a task; None: it is left."""

    def next(
        self, sock: socket.socket, descriptor: socket.socket, tag: int, epoll: Any, seconds: float
    ) -> Any:
        """Wait for something that ``deal`` knows: see ``loops.Reader``."""

    def deal(self, found: Any) -> bool | None:
        """As ``take``."""

    def put_back(self) -> None:
        """What ``next`` has given is not dealt with: it is taken once more."""


class Attendance:
    """Repeats ``request``, a RECV that is answered several times; see ``aio.Peer.attend``."""

    def __init__(
        self, link: AsyncLink | BlockLink, request: Request[Answer],
        hear: Callable[[ReceivedMessage], bool], rest: Callable[[], None],
        swift: Callable[[int], bool | None] | None = None, short: ShortWay | None = None,
    ) -> None:
        self._link = link
        self._client = link.client
        self._request = request
        self._hear = hear
        self._rest = rest
        self._swift = swift
        self._short = short
        self.deal = _left if short is None else short.deal
        """Hand over what ``wait`` has given; None: it is left to ``look``."""
        self.tag = 0
        """Of the RECV."""
        self.missing: tuple[Answer, Request[None]] | None = None
        """A message whose memory has to be asked for first."""
        self._has_woken = False

    async def run(self) -> None:
        """Until the channel fails, or the RECV does, with the error."""
        link = self._link
        assert isinstance(link, AsyncLink)
        await checkpoint_if_cancelled()
        try:
            while True:
                await self.begin()
                if not (self.look() or self.rest()):
                    await link.attend(self.tag, self)
                if self.missing is None and not link.try_flush_all():
                    with CancelScope(shield=True):
                        await link.flush()
        finally:
            self.end()

    async def begin(self) -> None:
        """What has to wait: the memory of a message is fetched, and the RECV made again."""
        if self.missing is not None:
            answer, first = self.missing
            await self._link.run(first)
            self.missing = None
            self._link.cork()
            self._has_woken |= self._hear(self._client.message(answer))
        else:
            self.renew()

    def look(self) -> bool:
        """Hand over what has come; whether ``begin`` is needed before there can be more."""
        client, swift, tag = self._client, self._swift, self.tag
        exchange = client.exchange
        while exchange.has_answer(tag):
            self._link.cork()
            if swift is not None and (has_woken := swift(tag)) is not None:
                self._has_woken |= has_woken
                continue
            if (message := client.short_message(tag)) is None:
                if (answer := exchange.take(tag)) is None:
                    return False
                client.finish(self._request, answer)
                if (first := client.missing_segment(answer)) is not None:
                    self.missing = answer, first
                    return True
                message = client.message(answer)
            self._has_woken |= self._hear(message)
        return False

    def renew(self) -> bool:
        """The RECV can be answered, or is made again; False: ``begin`` has more to do."""
        if self.missing is None and not self._client.exchange.expects(self.tag):
            self.tag = self._client.start(self._request)
        return self.missing is None

    def end(self) -> None:
        """What comes from now on is the outcome of the next RECV."""
        if self.missing is not None:
            self._client.exchange.keep(self.missing[0])
        self._client.exchange.cancel(self.tag)
        self._link.try_flush_all()

    # ---- what the loop's callback asks -----------------------------------------------------------

    def read(self) -> bool:
        """``look``, when something can be read."""
        assert isinstance(self._link, AsyncLink)
        self._link.take_in()
        return self.look()

    def is_urgent(self) -> bool:
        """No task has been woken that may post something."""
        return not self._has_woken

    def wait(self, seconds: float) -> Any:
        """What comes next by the short way, if nobody needs what else may come; see ``loops.Reader``."""
        link, short = self._link, self._short
        if short is None or type(link) is not AsyncLink or link.turns is None or link.descriptor is None:
            return None
        if link.waiting:
            return None
        return short.next(link.sock, link.descriptor, self.tag, link.turns.epoll, seconds)

    def put_back(self) -> None:
        """What ``wait`` has given is the outcome of the next RECV, or of the next look."""
        assert self._short is not None
        self._short.put_back()

    def rest(self) -> bool:
        """Send what was posted; whether the task has to do something."""
        self._has_woken = False
        self._rest()
        if not self._client.exchange.expects(self.tag):
            self.tag = self._client.start(self._request)
        return not self._link.try_flush_all()


def _left(found: Any) -> bool | None:
    return None
