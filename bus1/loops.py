"""loops: a socket that is read all the time, on asyncio's loop for less, and elsewhere as anyio has it.

Theory. anyio knows what asyncio and trio have in common: a task waits for a socket, and is woken by an event.
Each such wait costs asyncio two changes of what it polls, and some objects. Where a call is measured in
microseconds that is much; so a socket that is read all the time is registered once and calls back. While
its messages follow each other closely, and the loop has nothing else to do, the callback waits for the next
one itself: with the loop's own epoll, which it leaves to the loop as soon as that tells of anything else.

Invariants. 1. What runs in a callback finds the task that it runs for as the current one. 2. Callbacks run in
the order in which they would if none waited; timers are late by two milliseconds at most.

Not here: what is read (aiolink, attendance), whose turn is next (turns).
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from .turns import Turns

LONGEST = 0.1
"""Seconds that a callback goes on for; whose last one is longer ago waits for nothing."""


class Watch:
    """Calls ``read`` each time a socket can be read, then ``rest``, until one of them says that it is enough.

    If what has been read is not ``is_urgent``, the tasks that ``read`` has woken run before ``rest``."""

    def __init__(
        self, sock: socket.socket, read: Callable[[], bool], rest: Callable[[], bool],
        is_urgent: Callable[[], bool], turns: Turns,
    ) -> None:
        self._sock = sock
        self._read = read
        self._rest = rest
        self._is_urgent = is_urgent
        self._turns = turns
        self._loop = turns.loop
        self._task: asyncio.Task[Any] | None = None
        self._done: asyncio.Future[None] | None = None
        self._number = sock.fileno()
        self._events = [(self._number, select.EPOLLIN)]
        """What epoll says if there is nothing but input of this socket."""
        self._last = 0.0

    async def run(self) -> None:
        """Until it is enough; raises what the functions raise."""
        if self._loop is not None:
            await self._called_back(self._loop)
            return
        while True:
            with suppress(anyio.ClosedResourceError):  # ``read`` sees that it is closed
                await anyio.wait_readable(self._sock)
            if self._read():
                return
            if not self._is_urgent():
                await checkpoint()
            if self._rest():
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
        end = min(now, self._last) + LONGEST
        self._last = now
        while self._takes_turn() and now < end and turns.wait(end - now) == self._events:
            self._last = now = monotonic()

    def _takes_turn(self) -> bool:
        """Read, and whatever follows; whether all of it is done, and there may be more."""
        turns = self._turns
        turns.is_reading = True
        try:
            goes_on = self._goes_on(self._read)
        finally:
            turns.is_reading = False
        turns.go_on()
        if not goes_on:
            return False
        if self._loop is not None and turns.is_crowded and not self._is_urgent():
            self._loop.call_soon(self._goes_on, self._rest)
            return False
        return self._goes_on(self._rest)

    def _goes_on(self, function: Callable[[], bool]) -> bool:
        loop, task, done = self._loop, self._task, self._done
        if done is None or task is None or loop is None or done.done():
            return False
        # asyncio's own functions for who switches between tasks
        asyncio._enter_task(loop, task)
        try:
            is_enough = function()
        except BaseException as error:
            done.set_exception(error)
            return False
        finally:
            asyncio._leave_task(loop, task)
        if is_enough:
            done.set_result(None)
        return not is_enough
