"""turns: whose turn is next, where asyncio's loop can be spared the asking.

Theory. Who waits for one thing, waits for a bare future. Between its end and the task that it wakes, asyncio
has a turn of its loop, and one more until it looks at sockets again: each costs as much as all else about a
call. Where nothing else can happen between, a callback that reads does itself what the loop would do next: it
gives the turn to the tasks that it has woken, and looks whether the socket is all that the loop's own epoll
would tell of (``loops``). That takes a look into asyncio's own loop. Where it is another one, or has changed
within, it does all that itself; on any other loop there is what anyio has.

Invariants. 1. Tasks run in the order in which the loop would run them. 2. A pause that is over is not
cancelled, as no future is.

Not here: what is read (``loops``), who waits for what (``aiolink``, the services).
"""

from __future__ import annotations

import asyncio
import select
from collections import deque
from collections.abc import Callable, Generator
from contextvars import Context
from functools import partial
from time import monotonic
from typing import Any, Protocol

import anyio


class Pause(Protocol):
    """One task waits, once, by ``await``; ``end`` wakes it, whether it waits already or not."""

    def end(self) -> None:
        """Wake the task; a second time does nothing."""

    def __await__(self) -> Generator[Any, Any, None]: ...


class Turns:
    """What happens when, on the loop that runs the current task."""

    def __init__(self) -> None:
        self.loop = asyncio_loop()
        """asyncio's; None for any other."""
        self._inner: Any = self.loop
        self.is_reading = False
        """A callback is at work, which calls ``go_on``, or ``leave``, as soon as it is done."""
        self.woken: deque[_Future] = deque()
        """Whose turn is next, before that of all others."""
        self.ready: deque[Any] | None = None
        """What the loop runs next; None if there is no looking at that."""
        self.epoll: select.epoll | None = None
        """What the loop waits with, likewise."""
        self.pause: Callable[[], Pause] = _Event
        """For one task to wait for one thing."""
        if self.loop is not None:
            self.pause = partial(_Future, self, loop=self.loop)
        if type(self.loop) is asyncio.SelectorEventLoop and not self.loop.get_debug():
            epoll = getattr(getattr(self.loop, "_selector", None), "_selector", None)
            ready = getattr(self.loop, "_ready", None)
            is_known = hasattr(self.loop, "_scheduled") and hasattr(self.loop, "_stopping")
            if type(epoll) is select.epoll and type(ready) is deque and is_known:
                self.ready, self.epoll = ready, epoll

    @property
    def is_crowded(self) -> bool:
        """The loop has something to run next, as far as is known."""
        return self.ready is None or bool(self.ready)

    def patience(self, end: float) -> float:
        """Seconds that the loop would wait now, but not beyond ``end``; 0 or less: it would do something."""
        loop = self._inner
        if self.epoll is None or self.ready or loop._stopping:
            return 0
        if (scheduled := loop._scheduled) and scheduled[0]._when < end:
            end = scheduled[0]._when
        return end - monotonic()

    def go_on(self) -> None:
        """Run the tasks that were woken, now."""
        woken = self.woken
        try:
            while woken:
                future = woken.popleft()
                if future.context is not None and future.wake is not None:
                    # no task is within its context here: the loop calls back in a copy of one
                    future.context.run(future.wake, future)
        finally:
            if woken:
                self.leave()

    def leave(self) -> None:
        """Let the loop run them."""
        while self.woken:
            self.woken.popleft().go_on_soon()


class _Event:
    """A pause on any loop."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = anyio.Event()

    def end(self) -> None:
        self._event.set()

    def __await__(self) -> Generator[Any, Any, None]:
        return self._event.wait().__await__()


class _Future(asyncio.Future[None]):
    """A pause on asyncio's loop. What would tell the loop to run its task is kept."""

    __slots__ = ("_turns", "context", "wake")

    def __init__(self, turns: Turns, *, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        self._turns = turns
        self.wake: Callable[[asyncio.Future[None]], object] | None = None
        """Runs the task that waits, in its ``context``."""
        self.context: Context | None = None

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context | None = None) -> None:
        """The first is that of the task that waits."""
        if self.wake is None and context is not None and not self.done():
            self.wake, self.context = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def end(self) -> None:
        if self.done():
            return
        turns, ready = self._turns, self._turns.ready
        self.set_result(None)
        if turns.is_reading and ready is not None and not ready:
            turns.woken.append(self)
        else:
            self.go_on_soon()

    def cancel(self, msg: Any | None = None) -> bool:
        if self.done():
            return False
        self.go_on_soon()
        return super().cancel(msg)

    def go_on_soon(self) -> None:
        """Let the loop run the task, once the pause is over."""
        wake, self.wake = self.wake, None
        if wake is not None:
            super().add_done_callback(wake, context=self.context)


def asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that runs the current task, if it is asyncio's."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return None if asyncio.current_task(loop) is None else loop
