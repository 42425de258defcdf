"""loops: what can be had for less if asyncio runs this task, and what stands for it elsewhere.

Theory. anyio knows what asyncio and trio have in common: a task waits for a socket, and is woken by an event.
Each such wait costs asyncio two changes of what it polls, and some objects. Where a call is measured in
microseconds that is much; so a socket that is read all the time is registered once and calls back, and who
waits for one thing waits for a bare future. On any other loop, the same is done with what anyio has.

Invariants. 1. What runs in a callback finds the task that it runs for as the current one.

Not here: what is read, who waits for what (aiolink, attendance).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import anyio
from anyio.lowlevel import checkpoint


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs the current task, if it is asyncio's."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return None if asyncio.current_task(loop) is None else loop


class Pause:
    """One task waits, once, by ``await``; ``end`` wakes it, whether it waits already or not."""

    __slots__ = ("_event", "_future")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """``loop`` is what ``asyncio_loop`` says."""
        self._future: asyncio.Future[None] | None = None
        self._event: anyio.Event | None = None
        if loop is None:
            self._event = anyio.Event()
        else:
            self._future = loop.create_future()

    def end(self) -> None:
        """Wake the task; a second time does nothing."""
        if self._future is None:
            assert self._event is not None
            self._event.set()
        elif not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, Any, None]:
        if self._future is not None:
            return self._future.__await__()
        assert self._event is not None
        return self._event.wait().__await__()


class Watch:
    """Calls ``read`` each time a socket can be read, then ``rest``, until one of them says that it is enough.

    If what has been read is not ``is_urgent``, the tasks that ``read`` has woken run before ``rest``."""

    def __init__(
        self, sock: socket.socket, read: Callable[[], bool], rest: Callable[[], bool],
        is_urgent: Callable[[], bool],
    ) -> None:
        self._sock = sock
        self._read = read
        self._rest = rest
        self._is_urgent = is_urgent
        self._loop = asyncio_loop()
        self._task: asyncio.Task[Any] | None = None
        self._done: asyncio.Future[None] | None = None
        self._number = sock.fileno()

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
        if self._goes_on(self._read):
            if self._is_urgent():
                self._goes_on(self._rest)
            elif self._loop is not None:
                self._loop.call_soon(self._goes_on, self._rest)

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
