"""outbox: what a program has sent, carried out one by one in its order.

Theory. ``send`` of the libraries is an ordinary function: the message is written when the loop comes to it.
Here one task carries messages out, each completely before the next, so that an object is published before
the message that tells of it, and a signal comes before the answer that was given after it.

Invariants. 1. The order of ``put`` is the order on the bus. 2. Each message's future is done in the end, and
its descriptors, which are copies, are closed. 3. At most ``MAX_WAITING`` messages wait.

Not here: what carrying out means (``bus``).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_WAITING = 65536


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message with its marshalled body and copies of its descriptors."""

    message: Any
    body: bytes
    fds: tuple[int, ...]
    sent: asyncio.Future[None]

    def close(self) -> None:
        """It has been carried out, or never will be."""
        for fd in self.fds:
            os.close(fd)
        if not self.sent.done():
            self.sent.set_result(None)


class Outbox:
    """A queue and the task that empties it; ``rest`` is called whenever it is empty."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, carry: Callable[[Parcel], Awaitable[None]],
        rest: Callable[[], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._carry = carry
        self._rest = rest
        self._waiting: deque[Parcel] = deque()
        self._work = asyncio.Event()
        self._is_closing = False
        self.is_idle = False
        """Everything that was put is carried out, and what follows: something may be sent past this queue."""
        self.ended = asyncio.Event()
        """Everything is carried out, and nothing more will be."""

    def put(self, message: Any, body: bytes, fds: Sequence[int]) -> asyncio.Future[None]:
        """Send this after all that was put before; done when it is on the bus. BufferError, OSError."""
        if len(self._waiting) >= MAX_WAITING:
            raise BufferError(f"{MAX_WAITING} messages wait to be sent")
        copies: list[int] = []
        try:
            copies.extend(map(os.dup, fds))
        except OSError:
            for fd in copies:
                os.close(fd)
            raise
        parcel = Parcel(message, body, tuple(copies), self._loop.create_future())
        self._waiting.append(parcel)
        self.wake()
        return parcel.sent

    def wake(self) -> None:
        """There is something to do, if only at rest."""
        self.is_idle = False
        self._work.set()

    def close(self) -> None:
        """End once everything is carried out."""
        self._is_closing = True
        self.wake()

    def discard(self) -> None:
        """Nothing more can be carried out."""
        self._is_closing = True
        while self._waiting:
            self._waiting.popleft().close()
        self.wake()

    async def run(self) -> None:
        """Carry out what is put, until ``close``."""
        while True:
            self._work.clear()
            while self._waiting:
                parcel = self._waiting.popleft()
                try:
                    await self._carry(parcel)
                finally:
                    parcel.close()
            await self._rest()
            if self._is_closing and not self._waiting:
                self.ended.set()
                return
            self.is_idle = not self._work.is_set()
            await self._work.wait()
