"""links: how a peer reaches its bus: through a socket, or inside the bus process.

Theory. A ``Link`` offers the page's operations for one peer. ``SocketLink`` speaks the native protocol on a
channel of its own; several threads may have requests outstanding: one of them reads, for all. After a fork
the child notices that the channel is its parent's, and attaches through a new one. ``InProcessLink``
(inprocess) calls Core directly; its descriptor is an eventfd, and one thread drives the bus.

Invariants. 1. An operation that raises has changed nothing. 2. Descriptors passed in stay the caller's.
3. A RECV that is interrupted loses no message: the next one returns it. 4. An operation that a signal handler
begins in the middle of another one of its thread is Busy, instead of waiting for ever.

Not here: awaiting (aio), how payloads are read (received, mapping).
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Protocol, TypeVar

from .addresses import default_address, native_address, socket_name
from .client import Client, Request
from .core.api import Buffer, PeerState, RecvFlag
from .errors import Bus1Error, BusGone, Disconnected, NoSuchHandle
from .exchange import RECEIVING, Answer
from .frames import RecvOption
from .inprocess import InProcessLink
from .nesting import Nesting
from .received import ReceivedMessage
from .waiting import time_left

__all__ = ["InProcessLink", "Link", "SocketLink", "default_address", "native_address"]

T = TypeVar("T")
_LONGEST_PUSH = 0.1
"""Seconds until a thread that sends looks whether it has been answered meanwhile."""
_attaching = threading.Lock()
"""In the child of a fork, whose locks are its parent's, one thread at a time opens a new channel."""
_n_forks = 0
"""Between this process and the first one."""


def _note_fork() -> None:
    global _attaching, _n_forks
    _attaching = threading.Lock()
    _n_forks += 1


os.register_at_fork(after_in_child=_note_fork)


def _process() -> tuple[int, int]:
    """Another one in each child; its pid alone can be its parent's, in a new pid namespace."""
    return os.getpid(), _n_forks


class Link(Protocol):
    """The page's operations for one peer; errors are those of semantics §11."""

    granted: tuple[int, ...]

    def fileno(self) -> int:
        """The peer's descriptor."""

    def send(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int],
    ) -> list[int]:
        """One transaction; a slot per destination, optional ones last."""

    def recv(self, flags: int, max_offset: int, *, timeout: float) -> ReceivedMessage:
        """The next message, or the seed; WouldBlock if there is none within ``timeout`` seconds."""

    def call(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int,
    ) -> ReceivedMessage:
        """``send``, then ``recv`` that waits."""

    def reply(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, answered: ReceivedMessage | None, release: int, flags: int,
    ) -> ReceivedMessage:
        """``send``, give the slice of ``answered`` back, release a handle, then ``recv`` that waits."""

    def transfer(self, handle: int, destination: int | None) -> int:
        """One more reference for the peer behind a descriptor (None: this one); its id there."""

    def release(self, handle: int) -> None:
        """Drop one reference."""

    def destroy(self, nodes: Sequence[int], flags: int) -> None:
        """Destroy own nodes at one instant."""

    def release_slice(self, offset: int) -> None:
        """Give the slice at ``offset`` back."""

    def reset(
        self, flags: int, peer_flags: int, *, max_slices: int, max_handles: int, max_inflight_bytes: int,
        max_inflight_fds: int,
    ) -> None:
        """P-30 … P-37."""

    def query(self) -> PeerState:
        """P-20 … P-22."""

    def disconnect(self) -> None:
        """End the peer for all its holders."""

    def close(self) -> None:
        """This holder is done; the peer ends with its last holder."""


class SocketLink:
    """A peer on the bus at ``address``: a new one, or that behind a peer's descriptor, which is copied."""

    def __init__(self, address: str | None = None, descriptor: int | None = None) -> None:
        self.granted: tuple[int, ...] = ()
        self._address = default_address() if address is None else address
        self._nesting = Nesting()
        self._sock, self._client = self._connect()
        self._process = _process()
        try:
            if descriptor is None:
                number, self.granted = self._run(self._client.open())
            else:
                self._run(self._client.attach(descriptor))
                number = os.dup(descriptor)
        except BaseException:
            self._sock.close()
            raise
        self._descriptor = socket.socket(fileno=number)

    def _connect(self) -> tuple[socket.socket, Client]:
        self._state = threading.Condition()
        self._arena_use = threading.Lock()
        self._is_read = False
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(None)  # whatever the program's default is
            sock.connect(socket_name(self._address))
            self._sock, self._client = sock, Client(self._give_back)
            self._exchange(self._client.hello())
        except BaseException as error:
            sock.close()
            if isinstance(error, OSError) and not isinstance(error, Bus1Error):
                raise BusGone(f"no bus at {self._address}: {error.strerror or error}") from error
            raise
        return sock, self._client

    def fileno(self) -> int:
        """The peer's descriptor."""
        return self._descriptor.fileno()

    # ---- waiting for answers ---------------------------------------------------------------------

    def _run(self, request: Request[T]) -> T:
        with self._nesting:
            self._mind_fork()
            return self._exchange(request)

    def _mind_fork(self) -> None:
        if _process() == self._process:
            return
        with _attaching:
            if _process() != self._process:
                self._sock.close()  # this copy alone: the parent goes on using its own
                self._connect()
                self._exchange(self._client.attach(self.fileno()))
                self._process = _process()

    def _exchange(self, request: Request[T], timeout: float = math.inf) -> T:
        client = self._client
        tag = 0
        try:
            with self._state:
                tag = client.start(request)
                self._flush()
            answer = self._await(tag, monotonic() + timeout)
            if answer is None:
                with self._state:
                    client.exchange.recall(tag)
                    self._flush()
                answer = self._await(tag)
        except BaseException:
            with self._state:  # without a tag, it has not begun
                client.exchange.cancel(tag) if _parks(request) else client.exchange.abandon(tag)
                self._flush()
            raise
        assert answer is not None
        with self._state:
            if client.exchange.expects(tag):  # a message that was there already has come in its place
                client.exchange.cancel(tag)
                self._flush()
            return client.finish(request, answer)

    def _await(self, tag: int, deadline: float = math.inf) -> Answer | None:
        """The answer; None if it has not come by ``deadline``."""
        exchange = self._client.exchange
        while True:
            with self._state:
                answer, left = exchange.take(tag), time_left(deadline, monotonic())
                while answer is None and left != 0 and self._is_read:
                    self._wait_for_reader(left)
                    answer, left = exchange.take(tag), time_left(deadline, monotonic())
                if answer is not None or left == 0:
                    return answer
                self._is_read = True
            try:
                self._read(left)
            finally:
                with self._state:
                    self._is_read = False
                    self._state.notify_all()

    def _wait_for_reader(self, timeout: float | None) -> None:
        """Another thread reads for this one, which has the lock; it may not know of what is left to send."""
        if not self._client.exchange.pending:
            self._state.wait(timeout)
            return
        self._state.release()
        try:
            poll = select.poll()
            poll.register(self._sock, select.POLLOUT)
            poll.poll(1000 * min(_LONGEST_PUSH, math.inf if timeout is None else timeout))
        finally:
            self._state.acquire()
        self._flush()

    def _read(self, timeout: float | None) -> None:
        exchange = self._client.exchange
        polls = exchange.pending or timeout is not None
        if polls:
            poll = select.poll()
            poll.register(self._sock, select.POLLIN | (select.POLLOUT if exchange.pending else 0))
            poll.poll(None if timeout is None else math.ceil(1000 * timeout))
        flags = socket.MSG_DONTWAIT if polls else 0
        try:
            size = exchange.receive(self._sock, flags)
        except BlockingIOError:
            size = -1
        except OSError as error:
            if error.errno is None:
                raise  # not the kernel's: a signal handler's own, TimeoutError for example
            with self._state:
                exchange.fail()
            return
        with self._state:
            if not size:
                exchange.fail()
            exchange.process()
            self._flush()
            n_drained = exchange.take_drained()
        if n_drained:
            with suppress(BlockingIOError):
                self._descriptor.recv(n_drained, socket.MSG_DONTWAIT)

    def _flush(self) -> None:
        exchange = self._client.exchange
        try:
            exchange.transmit(self._sock, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # goes on as soon as somebody waits for an answer
        except (BrokenPipeError, ConnectionResetError):
            # What the bus said before it closed is still to be read; without it, reading finds the end.
            exchange.drop_output()
        except BaseException as error:
            # If it is a signal handler's, some may have been sent, and must not be sent twice.
            exchange.fail(BusGone(f"the request could not be sent: {error}"))
            if not isinstance(error, OSError) or error.errno is None:
                raise

    # ---- operations ------------------------------------------------------------------------------

    def send(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int],
    ) -> list[int]:
        """One transaction; a slot per destination, optional ones last."""
        with self._nesting:
            self._mind_fork()
            return self._send(destinations, parts, handles, fds, flags, optional)

    def recv(self, flags: int, max_offset: int, *, timeout: float) -> ReceivedMessage:
        """The next message, or the seed; WouldBlock if there is none within ``timeout`` seconds."""
        with self._nesting:
            return self._recv(flags, max_offset, timeout)

    def _recv(self, flags: int, max_offset: int, timeout: float) -> ReceivedMessage:
        self._mind_fork()
        if not flags & RecvFlag.SEED:
            with self._state:
                stray = self._client.exchange.next_stray()
            if stray is not None:
                return self._message(stray)
        if not timeout:
            return self._message(self._exchange(self._client.recv(flags, max_offset, 0)))
        request = self._client.recv(flags, max_offset, RecvOption.PARK)
        return self._message(self._exchange(request, timeout))

    def call(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int,
    ) -> ReceivedMessage:
        """``send``, then ``recv`` that waits."""
        with self._nesting:
            if self._sends_first(destinations, parts, handles, fds):
                destinations, parts, handles, fds = (), (), (), ()
            return self._message(self._exchange(self._client.call(
                destinations, parts, handles, fds, flags=flags, options=RecvOption.PARK
            )))

    def reply(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, answered: ReceivedMessage | None, release: int, flags: int,
    ) -> ReceivedMessage:
        """``send``, give the slice of ``answered`` back, release a handle, then ``recv`` that waits."""
        with self._nesting:
            if self._sends_first(destinations, parts, handles, fds):
                destinations, parts, handles, fds = (), (), (), ()
            return self._message(self._exchange(self._client.reply(
                destinations, parts, handles, fds, answered=answered, release=release, flags=flags,
                options=RecvOption.PARK,
            )))

    def transfer(self, handle: int, destination: int | None) -> int:
        """One more reference for the peer behind a descriptor (None: this one); its id there."""
        return self._run(self._client.transfer(handle, destination))

    def release(self, handle: int) -> None:
        """Drop one reference."""
        self._run(self._client.release(handle))

    def destroy(self, nodes: Sequence[int], flags: int) -> None:
        """Destroy own nodes at one instant."""
        self._run(self._client.destroy(nodes, flags))

    def release_slice(self, offset: int) -> None:
        """Give the slice at ``offset`` back."""
        self._run(self._client.slice_release(offset))

    def reset(
        self, flags: int, peer_flags: int, *, max_slices: int, max_handles: int, max_inflight_bytes: int,
        max_inflight_fds: int,
    ) -> None:
        """P-30 … P-37."""
        self._run(self._client.reset(
            flags, peer_flags, max_slices=max_slices, max_handles=max_handles,
            max_inflight_bytes=max_inflight_bytes, max_inflight_fds=max_inflight_fds,
        ))

    def query(self) -> PeerState:
        """P-20 … P-22."""
        return self._run(self._client.query())

    def disconnect(self) -> None:
        """End the peer for all its holders."""
        self._run(self._client.disconnect())

    def close(self) -> None:
        """This holder is done; the peer ends with its last holder."""
        self._sock.close()
        self._client.close()
        self._descriptor.close()

    def _sends_first(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int],
    ) -> bool:
        """What needs the arena is sent before the rest of its sequence, which may wait for others."""
        self._mind_fork()
        if not self._client.needs_arena(parts):
            return False
        self._send(destinations, parts, handles, fds, 0, ())
        return True

    def _send(
        self, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], flags: int, optional: Sequence[int],
    ) -> list[int]:
        client = self._client

        def request() -> Request[list[int]]:
            return client.send(destinations, parts, handles, fds, flags=flags, optional=optional)

        if not client.needs_arena(parts):
            return self._exchange(request())
        with self._arena_use:
            try:
                if (first := client.arena_for(parts)) is not None:
                    self._exchange(first)
                result = self._exchange(request())
            except Bus1Error:
                raise
            except BaseException:
                client.drop_arena()  # the bus may read it yet
                raise
            client.trim_arena()
            return result

    def _message(self, answer: Answer) -> ReceivedMessage:
        client = self._client
        with self._state:
            first = client.missing_segment(answer)
        if first is not None:
            try:
                self._exchange(first)
            except BaseException:
                with self._state:
                    client.exchange.keep(answer)
                raise
        with self._state:
            return client.message(answer)

    def _give_back(self, message: ReceivedMessage) -> None:
        with self._nesting:
            self._mind_fork()
            with self._state:
                slice_ = self._client.slice_of(message)
            with suppress(NoSuchHandle, Disconnected):
                self._exchange(self._client.slice_release(*slice_))


def _parks(request: Request[T]) -> bool:
    return request.operation in RECEIVING
