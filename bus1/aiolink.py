"""aiolink: requests of one channel, awaited by several tasks.

Theory. The same requests, codec and pool as ``links``. Whoever waits first reads the socket for all, and
hands that role on when its own answer has come. A short request is shielded from cancellation once it has
been written, so its result is never lost; one that may wait is cancelled at the bus. What is *posted* needs
no answer; while the link is *corked*, it is kept until somebody flushes.

Invariants. 1. A cancelled request has either had no effect, or returned its result. 2. No task waits for
bytes that another task has already read.

Not here: what the operations are (aio).
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar

import anyio
from anyio import CancelScope, Event
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from .client import Client, Request
from .errors import BusGone
from .exchange import Answer
from .frames import REQUESTS, Operation
from .loops import Reader, Watch
from .received import ReceivedMessage
from .turns import Turns

T = TypeVar("T")


class AsyncLink:
    """One connected socket, and the requests on it."""

    def __init__(self, sock: socket.socket) -> None:
        self.client = Client(self._give_back)
        self.descriptor: socket.socket | None = None
        """The peer's, once it is known."""
        self.arena_use = anyio.Lock()
        """Held while a payload lies in the arena."""
        self.sock = sock
        """For who reads and writes by a way of its own, too."""
        self._is_read = False
        self._is_flushed = False
        self._is_corked = False
        self.turns: Turns | None = None
        """Of the loop, once the socket is used."""
        self._watch: Watch | None = None
        """Of the task that receives for this peer."""
        self._is_closed = False
        self.waiting: dict[int, Event] = {}
        """Tasks that wait for the answers to their requests."""

    def connected(self) -> None:
        """From now on the socket is used."""
        self.sock.setblocking(False)
        self.turns = Turns()

    def close(self) -> None:
        """Close the socket and the descriptor; whoever waits is told."""
        if self._is_closed:
            return
        self._try_flush()
        self._is_closed = True
        with suppress(OSError):
            anyio.notify_closing(self.sock)
        if self._watch is not None:
            self._watch.closing()
        self.sock.close()
        self.client.close()
        if self.descriptor is not None:
            self.descriptor.close()
        self._wake(list(self.waiting))

    # ---- requests --------------------------------------------------------------------------------

    async def run(self, request: Request[T]) -> T:
        """A request that is answered at once: shielded, so that its result is never lost."""
        await checkpoint_if_cancelled()
        with CancelScope(shield=True):
            tag = self.client.start(request)
            await self.flush()
            answer = await self._answer_to(tag)
        return self.client.finish(request, answer)

    async def wait(self, request: Request[T]) -> T:
        """A request whose answer may take for ever: cancelled at the bus."""
        await checkpoint_if_cancelled()
        tag = self.client.start(request)
        try:
            if not self.try_flush_all():
                with CancelScope(shield=True):
                    await self.flush()
            return self.client.finish(request, await self._answer_to(tag))
        finally:
            if self.client.exchange.expects(tag):
                self.client.exchange.cancel(tag)
                self._try_flush()

    async def attend(self, tag: int, reader: Reader) -> None:
        """Read for all, by ``reader``, until it has had enough.

        While another task reads for a request of its own, it looks when something has come for ``tag``."""
        while self._is_read:
            event = self.waiting[tag] = Event()
            try:
                await event.wait()
            finally:
                self.waiting.pop(tag, None)
            if reader.look() or reader.rest():
                return
        assert self.turns is not None
        self._is_read = True
        self._watch = Watch(self.sock, reader, self.turns)
        try:
            await self._watch.run()
        finally:
            self._is_read, self._watch = False, None
            self._wake(list(self.waiting)[:1])

    # ---- requests that nobody waits for ----------------------------------------------------------

    def cork(self) -> None:
        """Keep what is posted or forgotten from now on until the next ``flush``, or request."""
        self._is_corked = True

    def push(self) -> bool:
        """``flush_posted``, then ``has_unsent``."""
        if self._is_corked or self._is_closed:
            return False
        self._try_flush()
        return self.client.exchange.pending > 0

    @property
    def has_unsent(self) -> bool:
        """Something was posted that did not fit into the socket: ``flush``."""
        return not self._is_corked and self.client.exchange.pending > 0

    def _give_back(self, message: ReceivedMessage) -> None:
        self.forget(Operation.SLICE_RELEASE, *self.client.slice_of(message))

    def forget(self, operation: Operation, *values: int) -> None:
        """Make a request whose outcome does not matter."""
        if not self._is_closed:
            self.client.exchange.forget(operation, REQUESTS[operation].pack(*values))
            self.flush_posted()

    def flush_posted(self) -> None:
        """Send what has been posted, unless it is to be kept."""
        if not (self._is_corked or self._is_closed):
            self._try_flush()

    # ---- the socket ------------------------------------------------------------------------------

    async def _answer_to(self, tag: int) -> Answer:
        exchange = self.client.exchange
        is_reader = False
        try:
            while (answer := exchange.take(tag)) is None:
                if is_reader or not self._is_read:
                    is_reader = self._is_read = True
                    await self._read()
                else:
                    event = self.waiting[tag] = Event()
                    await event.wait()
            return answer
        finally:
            self.waiting.pop(tag, None)
            if is_reader:
                self._is_read = False
            if not self._is_read:
                # Whoever is woken has its answer, and wakes the next, or reads from now on.
                self._wake(list(self.waiting)[:1])

    async def _read(self) -> None:
        with suppress(anyio.ClosedResourceError):  # found out again below
            await anyio.wait_readable(self.sock)
        self.take_in()

    def take_in(self) -> None:
        """Read once; whoever has been answered is woken."""
        exchange = self.client.exchange
        try:
            exchange.take_in(self.sock)
        except BlockingIOError:
            return
        except OSError:
            exchange.fail()
        self._try_flush()
        if self.descriptor is not None and (n_drained := exchange.take_drained()):
            with suppress(OSError):
                self.descriptor.recv(n_drained, socket.MSG_DONTWAIT)
        if self.waiting:
            self._wake(list(self.waiting) if exchange.failure else exchange.answered())

    def _wake(self, tags: Sequence[int]) -> None:
        for tag in tags:
            if (event := self.waiting.get(tag)) is not None:
                event.set()

    def _try_flush(self) -> bool:
        """Send what can be sent now; False if something is left."""
        exchange = self.client.exchange
        try:
            exchange.transmit(self.sock)
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            exchange.drop_output()  # reading finds out why
        except OSError as error:
            exchange.fail(BusGone(f"the request could not be sent: {error.strerror}"))
        return True

    def try_flush_all(self) -> bool:
        """Nothing is kept any more; False if something could not be sent."""
        self._is_corked = False
        # True also if another task is at it: this frame is behind its own
        return self._is_flushed or self._try_flush()

    async def flush(self) -> None:
        """Send everything; nothing is kept any more."""
        if self.try_flush_all():
            return
        self._is_flushed = True
        try:
            while not self._try_flush():
                await self._until_writable()
        finally:
            self._is_flushed = False

    async def flush_shielded(self) -> None:
        """The same, and cancellation waits until it is done."""
        await checkpoint_if_cancelled()
        with CancelScope(shield=True):
            await self.flush()

    async def checkpoint(self) -> None:
        """Let others run."""
        await checkpoint()

    async def _until_writable(self) -> None:
        """Reads meanwhile: the bus takes no requests while it cannot get rid of its answers."""
        async with anyio.create_task_group() as tasks:
            if not self._is_read:
                self._is_read = True
                tasks.start_soon(self._keep_reading)
            with suppress(OSError, anyio.ClosedResourceError):
                await anyio.wait_writable(self.sock)
            tasks.cancel_scope.cancel()

    async def _keep_reading(self) -> None:
        try:
            while not self.client.exchange.failure:
                await self._read()
        finally:
            self._is_read = False
            self._wake(list(self.waiting)[:1])
