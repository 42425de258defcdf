"""blocklink: requests of one channel, in a program without an event loop.

Theory. What ``aiolink`` does for tasks this does for one thread: its functions have the same names and are
awaited, too, but instead of being suspended they wait for the socket. So ``drive`` runs what is made of
them to its end at once. What is posted is kept until something is waited for: it leaves in one write.

Invariants. 1. Nothing is suspended here. 2. While this side cannot write, it reads: the bus takes no requests
from who takes no answers.

Not here: several threads at once (links), what the operations are (aio).
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from time import monotonic
from typing import Any, TypeVar

from .client import Client, Request
from .errors import BusGone
from .frames import REQUESTS, Operation
from .received import ReceivedMessage
from .waiting import time_left

T = TypeVar("T")


class Late(Exception):
    """The deadline of a link has come while it waited."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run what waits for nothing but such a link; RuntimeError inside it, if it waits for anything else."""
    try:
        coroutine.send(None)
        coroutine.throw(RuntimeError("this waits for an event loop, and there is none"))
    except StopIteration as end:
        result: T = end.value
        return result
    coroutine.close()
    raise RuntimeError("this goes on waiting for an event loop, and there is none")


class BlockLink:
    """One connected socket, and the requests on it; of one thread."""

    turns = None
    """There is no loop."""
    has_unsent = False
    """Whatever was posted leaves when somebody waits."""

    def __init__(self, sock: socket.socket) -> None:
        self.client = Client(self._give_back)
        self.descriptor: socket.socket | None = None
        """The peer's, once it is known."""
        self.arena_use: AbstractAsyncContextManager[None] = nullcontext()
        """There are no others who could use it."""
        self.deadline = math.inf
        """When waiting raises Late."""
        self.sock = sock
        """For who reads and writes by a way of its own, too."""
        self._is_closed = False

    def connected(self) -> None:
        """The socket stays as it is: it waits."""

    def close(self) -> None:
        """Close the socket and the descriptor."""
        if self._is_closed:
            return
        self._is_closed = True
        with suppress(OSError):
            self.client.exchange.transmit(self.sock, socket.MSG_DONTWAIT)
        self.sock.close()
        self.client.close()
        if self.descriptor is not None:
            self.descriptor.close()

    # ---- requests --------------------------------------------------------------------------------

    async def run(self, request: Request[T]) -> T:
        """A request that is answered at once."""
        return await self.wait(request)

    async def wait(self, request: Request[T]) -> T:
        """A request and its answer; given up, if waiting is interrupted."""
        exchange = self.client.exchange
        tag = self.client.start(request)
        try:
            while (answer := exchange.take(tag)) is None:
                self.read()
            return self.client.finish(request, answer)
        finally:
            if exchange.expects(tag):
                exchange.cancel(tag)

    def forget(self, operation: Operation, *values: int) -> None:
        """Make a request whose outcome does not matter."""
        if not self._is_closed:
            self.client.exchange.forget(operation, REQUESTS[operation].pack(*values))

    def _give_back(self, message: ReceivedMessage) -> None:
        self.forget(Operation.SLICE_RELEASE, *self.client.slice_of(message))

    # ---- as who has tasks ------------------------------------------------------------------------

    def cork(self) -> None:
        """Everything is kept until somebody waits."""

    def flush_posted(self) -> None:
        """Everything is kept until somebody waits."""

    def push(self) -> bool:
        """Everything is kept until somebody waits."""
        return False

    def try_flush_all(self) -> bool:
        """Send everything."""
        if not self._is_closed:
            self._push()
        return True

    async def flush(self) -> None:
        """Send everything."""
        self._push()

    async def flush_shielded(self) -> None:
        """Send everything."""
        self._push()

    async def checkpoint(self) -> None:
        """There are no others who could run."""

    # ---- the socket ------------------------------------------------------------------------------

    def read(self) -> None:
        """Send everything, then wait for bytes, and look at them; Late."""
        exchange = self.client.exchange
        if exchange.pending:
            self._push()
        if self.deadline != math.inf:
            self._poll(select.POLLIN)
        self._take_in(0)
        self.drain()

    def drain(self) -> None:
        """Take the readiness of messages that have come from the peer's descriptor."""
        exchange = self.client.exchange
        if self.descriptor is not None and (n_drained := exchange.take_drained()):
            with suppress(OSError):
                self.descriptor.recv(n_drained, socket.MSG_DONTWAIT)

    def _take_in(self, flags: int) -> None:
        exchange = self.client.exchange
        try:
            exchange.take_in(self.sock, flags)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno is None:
                raise  # not the kernel's: a signal handler's own, TimeoutError for example
            exchange.fail()

    def _push(self) -> None:
        exchange = self.client.exchange
        while True:
            try:
                exchange.transmit(self.sock, socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                if self._poll(select.POLLIN | select.POLLOUT) & ~select.POLLOUT:
                    self._take_in(socket.MSG_DONTWAIT)
            except (BrokenPipeError, ConnectionResetError):
                exchange.drop_output()  # reading finds out why
                return
            except OSError as error:
                exchange.fail(BusGone(f"the request could not be sent: {error.strerror}"))
                return

    def _poll(self, events: int) -> int:
        poll = select.poll()
        poll.register(self.sock, events)
        left = time_left(self.deadline, monotonic())
        found = poll.poll(None if left is None else math.ceil(1000 * left))
        if not found and self.deadline <= monotonic():
            raise Late
        return found[0][1] if found else 0
