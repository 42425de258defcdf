"""sweeper: gives nodes and references back that nobody needs any more, without anybody waiting for it.

Theory. What is given up is put on a list: from a finalizer, in any thread, at any time. The pump takes the
lists along with its request for the next message; what is given up at other times is the task's, here.

Invariants. 1. A finalizer neither waits nor sends. 2. What has been given up is given back within a turn or
two of the loop.

Not here: who owns what (``connection``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from bus1 import aio
from bus1.errors import Bus1Error


class Sweeper:
    """What a connection has given up: nodes of its own, references to others, and doubts."""

    def __init__(self, peer: aio.Peer, is_own: Callable[[int], bool]) -> None:
        """``is_own`` tells whether a node has not been given up."""
        self._peer = peer
        self._is_own = is_own
        self._released: list[int] = []
        self._destroyed: list[int] = []
        self._doubted: list[int] = []
        self._work = anyio.Event()
        self._thread = threading.get_ident()
        self.is_held = False
        """Nothing leaves now, and soon everything does."""
        self.has_work = False
        """Something was given up."""

    def release(self, handle: int) -> None:
        """Give one reference back. For finalizers, too: from any thread, at any time."""
        self._released.append(handle)
        self.has_work = True
        self.wake()

    def destroy(self, node: int) -> None:
        """Destroy an own node, and drop its pinned reference."""
        self._destroyed.append(node)
        self.has_work = True
        self.wake()

    def doubt(self, node: int) -> None:
        """Let the bus say again whether nobody else holds an own node."""
        self._doubted.append(node)
        self.has_work = True
        self.wake()

    def hold(self) -> None:
        """Nothing leaves before ``collect``, and the request behind it takes everything along."""
        if not self.is_held:
            self._peer.cork()
            self.is_held = True

    def collect(self) -> None:
        """Write the requests down; what is held leaves with the next request that is awaited."""
        self.is_held = self.has_work = False
        if self._destroyed:
            destroyed, self._destroyed = self._destroyed, []
            self._peer.destroy_soon(destroyed)
        while self._released:
            self._peer.release_soon(self._released.pop())
        if self._doubted:
            self.has_work = True
            self._work.set()

    async def swept(self) -> None:
        """Everything that was given up has been given back, unless the bus is gone."""
        try:
            await self._sweep()
            await self._peer.query()
        except Bus1Error:
            return

    async def run(self) -> None:
        """Until the bus is gone: the error says why."""
        while True:
            await self._peer.flush()
            await self._sweep()
            await self._work.wait()
            self._work = anyio.Event()

    async def _sweep(self) -> None:
        while self._destroyed or self._released or self._doubted:
            self._peer.cork()
            self.collect()
            await self._peer.flush()
            await self.settle()
            await self._peer.flush()

    async def settle(self) -> None:
        """Ask the bus about nodes that are doubted."""
        while self._doubted:
            if self._is_own(node := self._doubted.pop()):
                # Raised and lowered once: if it is still true, NODE_RELEASE comes again (N-10, N-15).
                self._peer.release_soon(await self._peer.transfer(node))

    def wake(self) -> None:
        """Something waits to be sent that nobody is going to send."""
        # A finalizer may run in another thread; the next piece of work in this one takes its id along.
        if not self.is_held and threading.get_ident() == self._thread:
            self._work.set()
