"""loops: a socket that is read all the time, on asyncio's loop for less, and elsewhere as anyio has it.

Theory. anyio knows what asyncio and trio have in common: a task waits for a socket, and is woken by an event.
Each such wait costs asyncio two changes of what it polls, and some objects. Where a call is measured in
microseconds that is much; so a socket that is read all the time is registered once and calls back. While
its messages follow each other closely, and the loop has nothing else to do, the callback waits for the next
one itself: with the loop's own epoll, and for as long as the loop would. As soon as there is anything else,
it leaves everything to the loop.

Invariants. 1. What runs in a callback finds the task that it runs for as the current one. 2. Callbacks run in
the order, and timers at the times, in which they would if none waited.

Not here: what is read (aiolink, attendance), whose turn is next (turns).
"""

from __future__ import annotations

import asyncio
import math
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

import anyio
from anyio.lowlevel import checkpoint

from .turns import Turns

LONGEST = 0.1
"""Seconds that a callback goes on for; whose last one is longer ago waits for nothing."""
_NOT_CALLED = object()


class Reader(Protocol):
    """What is done each time, and ends with what it raises; ``wait``, which alone waits, does not."""

    def look(self) -> bool:
        """Look at what has been read; whether that is enough."""

    def read(self) -> bool:
        """Read, and look."""

    def rest(self) -> bool:
        """What follows, behind tasks that were woken, if it is not ``is_urgent``; whether that is enough."""

    def is_urgent(self) -> bool:
        """No task has been woken."""

    def wait(self, seconds: float) -> Any:
        """Something for ``deal``, once it comes; False: something else has; None: nothing, or who knows."""

    def deal(self, found: Any) -> bool | None:
        """What ``look`` does with it; None: it is left to that."""

    def put_back(self) -> None:
        """What ``wait`` has given is left to whoever looks next."""


class Watch:
    """Calls a reader each time a socket can be read, until it says that it is enough."""

    def __init__(self, sock: socket.socket, reader: Reader, turns: Turns) -> None:
        self._sock = sock
        self._reader = reader
        self._turns = turns
        self._loop = turns.loop
        self._task: asyncio.Task[Any] | None = None
        self._done: asyncio.Future[None] | None = None
        self._number = sock.fileno()
        self._events = [(self._number, select.EPOLLIN)]
        """What epoll says if there is nothing but input of this socket."""
        self._last = -math.inf

    async def run(self) -> None:
        """Until it is enough; raises what the functions raise."""
        if self._loop is not None:
            await self._called_back(self._loop)
            return
        while True:
            with suppress(anyio.ClosedResourceError):  # ``read`` sees that it is closed
                await anyio.wait_readable(self._sock)
            if self._reader.read():
                return
            if not self._reader.is_urgent():
                await checkpoint()
            if self._reader.rest():
                return

    def closing(self) -> None:
        """The socket is about to be closed, and anyio has been told: ``read`` is called once more."""
        if self._loop is not None and self._done is not None:
            self._loop.remove_reader(self._number)
            self._loop.call_soon(self._readable)

    async def _called_back(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task, self._done = asyncio.current_task(), loop.create_future()
        loop.add_reader(self._number, self._readable)
        try:
            await self._done
        finally:
            self._done.cancel()
            if self._sock.fileno() >= 0:
                loop.remove_reader(self._number)

    def _readable(self) -> None:
        turns, now = self._turns, monotonic()
        end = now + LONGEST if now - self._last < LONGEST else now
        look = self._reader.read
        try:
            while self._takes_turn(look):
                if self._goes_short(end):
                    look = self._reader.look
                    continue
                seconds = turns.patience(end)
                if turns.epoll is None or seconds <= 0 or turns.epoll.poll(seconds, 2) != self._events:
                    break
                look = self._reader.read
        finally:
            # also where an interrupt of the program has come from anywhere
            turns.is_reading, self._last = False, monotonic()
            turns.leave()

    def _takes_turn(self, look: Callable[[], bool]) -> bool:
        """Look, and do whatever follows; whether all of it is done, and there may be more."""
        turns, reader = self._turns, self._reader
        turns.is_reading = True
        goes_on = self._goes_on(look)
        turns.is_reading = False
        turns.go_on()
        if goes_on and turns.is_crowded and not reader.is_urgent() and self._loop is not None:
            self._loop.call_soon(self._goes_on, reader.rest)
            return False
        return goes_on and self._goes_on(reader.rest)

    def _goes_short(self, end: float) -> bool:
        """Go on by the short way, as long as all that comes goes it; whether something is to be looked at."""
        turns, reader, has_begun = self._turns, self._reader, False
        while (seconds := turns.patience(end)) > 0:
            if not (found := reader.wait(seconds)):
                return has_begun or found is False
            has_begun = turns.is_reading = True
            dealt = self._called(reader.deal, found)
            turns.is_reading = False
            if dealt is _NOT_CALLED:
                reader.put_back()
                return False
            if turns.woken:
                turns.go_on()
            if dealt is None:
                break
        # What one read has brought may be more than one message.
        return has_begun

    def _goes_on(self, function: Callable[[], bool]) -> bool:
        """Call it for the task, which has its turn if that is enough; whether it has not."""
        is_enough = self._called(function)
        if is_enough and self._done is not None and not self._done.done():
            self._done.set_result(None)
        return is_enough is False

    def _called(self, function: Callable[..., bool | None], *args: Any) -> object:
        """What a function says to the task, which ends with what it raises (None); ``_NOT_CALLED``."""
        loop, task, done = self._loop, self._task, self._done
        if done is None or task is None or loop is None or done.done():
            return _NOT_CALLED
        # asyncio's own functions for who switches between tasks
        asyncio._enter_task(loop, task)
        try:
            is_enough = function(*args)
        except BaseException as error:
            if not done.done():
                done.set_exception(error)
            return None
        finally:
            asyncio._leave_task(loop, task)
        return is_enough
