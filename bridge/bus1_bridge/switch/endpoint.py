"""endpoint: the socket of one D-Bus connection.

Theory. The edge of one connection: it reads what the router wants and writes what the router has,
and decides nothing. Messages without descriptors are written together, as many as fit into one call;
one with descriptors goes alone, so that they arrive with its first byte.

Descriptors count for the client's user until they are closed. One whose descriptors make the bus wait for
close(2), and are all that it may have open, sends no more: what would bring them is not read.

Epoll reports a hang-up whether one asks for it or not, so an endpoint that wants neither to read nor to
write is not registered at all.

Invariants. 1. Descriptors that come in are close-on-exec, and owned by the router once it has their bytes.
2. One call of ``flush`` writes a bounded amount. 3. While the kernel lacks something, an endpoint waits
for a timer, not for epoll.

In the express lane (``express``) the lane reads and writes the socket, and here comes what it hands over.

Not here: accepting, the order in which endpoints have their turn (loop).
"""

from __future__ import annotations

import array
import select
import socket
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from bus1.broker import Broker
from bus1.core.api import Buffer
from bus1.errors import QuotaExceeded
from bus1.listener import SHORTAGE, SHORTAGE_PAUSE
from bus1.reactor import Reactor
from bus1.transport import pidfd_of, rights

from .express import Express
from .router import Router
from .writing import Outgoing

FLUSH_BYTES = 256 << 10
"""What one endpoint writes per turn, about."""
_BUFFERS = 512
_MAX_FDS = 253
# As plain numbers: enum members cost on every read.
_CLOEXEC, _TRUNCATED = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_ANCILLARY = socket.CMSG_SPACE(_MAX_FDS * 4)
_READ = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR


class Turns(Protocol):
    """Who gives endpoints their turn."""

    router: Router
    reactor: Reactor
    broker: Broker
    express: Express | None

    def has_output(self, endpoint: Endpoint) -> None:
        """There may be something to write."""

    def was_used(self, endpoint: Endpoint) -> None:
        """What the endpoint wants may have changed."""

    def has_input(self, endpoint: Endpoint) -> None:
        """There may be something to read."""

    def broke(self, endpoint: Endpoint) -> None:
        """An exception that is no contract: a defect; called within the handler."""


class Endpoint:
    """One D-Bus connection's socket: a source and a station of the reactor."""

    __slots__ = (
        "_express", "_is_full", "_is_local", "_is_short", "_sock", "_turns", "_watched", "brought",
        "connection", "pid", "process", "uid",
    )

    def __init__(
        self, turns: Turns, sock: socket.socket, connection: int, pid: int, uid: int, *, is_local: bool = True
    ) -> None:
        self._turns = turns
        self._sock = sock
        self.connection = connection
        self.pid = pid
        self.uid = uid
        self.process = (uid, pid or -connection)
        """Who shares its turns with whom; one whose process isn't known shares with nobody."""
        self._is_local = is_local
        """It is a unix socket."""
        self._is_full = False
        """The socket takes nothing at the moment."""
        self._is_short = False
        """The kernel lacks something; a timer ends that."""
        self._watched = 0
        self._express: Express | None = None
        """The lane, while it serves this socket."""
        self.brought: tuple[bytes, list[int], str] | None = None
        """What others have read of it and not carried out: bytes, descriptors, and how that ended."""

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def stays_in(self, express: Express) -> None:
        """The lane has served the socket from the beginning, and goes on."""
        self._turns.reactor.lend(self)
        self._express = express

    def open_pidfd(self) -> int | None:
        """A new descriptor of the client's process, if the kernel gives any."""
        return pidfd_of(self._sock)

    def ready(self, events: int, now: float) -> None:
        """Epoll has news."""
        if events & _READ:
            self._turns.has_input(self)
        if events & ~select.EPOLLIN:
            self._is_full = False
            self._turns.has_output(self)
        self._turns.was_used(self)

    def serve(self, now: float) -> None:
        """Its turn: go on with what has been read, or read."""
        router = self._turns.router
        try:
            if router.go_on(self.connection, now):
                if self._express is not None:
                    # what the lane has handed over comes in the next turn
                    self._turns.has_input(self)
            elif not self._take_over(now) and router.wants_input(self.connection):
                self._read(now)
        except Exception:
            self._turns.broke(self)
        self._turns.was_used(self)

    def woken(self) -> None:
        """The hosted queue has become non-empty."""
        if self._express is not None:
            self._express.lane.wake(self.connection)
        else:
            self._turns.has_output(self)

    def retired(self, generation: int) -> None:
        """Hosted peers have no mapped segments."""

    def flush(self, now: float) -> None:
        """Write what there is, as far as the socket takes it and the turn allows."""
        router, express = self._turns.router, self._express
        if express is None:
            self._flush(router, now)
        elif express.lane.flush(self.connection):
            # what comes next in the queue is not for the lane
            express.take_output(self.connection)
            self._flush(router, now)
            express.return_output(self.connection)

    def _flush(self, router: Router, now: float) -> None:
        left = FLUSH_BYTES
        while not (self._is_full or self._is_short) and left > 0:
            items = router.outgoing(self.connection, FLUSH_BYTES)
            if not items:
                return
            for buffers, fds, size in _batches(items):
                written = self._write(buffers, fds, now)
                left -= written
                router.sent(self.connection, written, now)
                if written < size:
                    self._is_full = True
                    break
        # the turn is over: EPOLLOUT comes at once if there is more
        self._is_full = True

    def watch(self, *, waits: bool) -> None:
        """Ask epoll for what is wanted now, and for nothing if that is nothing.

        ``waits``: that there is input is known, and its turn will come."""
        if self._turns.express is not None:
            self._mind_lane(self._turns.express)
        wants = self._wants(waits)
        if self._express is not None:
            self._express.lane.want(self.connection, wants)
            return
        if wants == self._watched:
            return
        reactor = self._turns.reactor
        try:
            if not wants:
                reactor.remove(self)
            elif self._watched:
                reactor.modify(self, wants)
            else:
                reactor.add(self, wants)
        except OSError:
            # ENOSPC or ENOMEM: a connection that cannot be watched is of no use
            self._turns.broke(self)
        else:
            self._watched = wants

    def _mind_lane(self, express: Express) -> None:
        """Join the lane, leave it, or let it go on, as the connection is now."""
        if self._express is None:
            if not self._is_short and self.brought is None and express.may_join(self.connection):
                self._join(express)
        elif self._is_short or not express.may_stay(self.connection):
            self._leave(express)
        else:
            express.give_back(self.connection)

    def _join(self, express: Express) -> None:
        if self._watched:
            self._turns.reactor.remove(self)
            self._watched = 0
        self._turns.reactor.lend(self)
        express.join(self)
        self._express = express
        self._is_full = False

    def _leave(self, express: Express) -> None:
        self._express = None
        self._turns.reactor.take_back(self)
        data, fds = express.leave(self.connection)
        now = self._turns.router.delivery.now
        if data or fds:
            self._receive(data, fds, "", now)
        self._turns.has_output(self)

    def _wants(self, waits: bool) -> int:
        if self._is_short:
            return 0
        router, wants = self._turns.router, 0
        if self._express is not None:
            waits = waits or self._express.lane.has_input(self.connection)
        if not waits and router.wants_input(self.connection):
            wants |= select.EPOLLIN
        if self._is_full and router.has_output(self.connection):
            wants |= select.EPOLLOUT
        return wants

    def close(self) -> None:
        """Close the socket."""
        reactor = self._turns.reactor
        reactor.cancel(self)
        reactor.station(self.connection, None)
        if self.brought is not None:
            self._turns.broker.holdings.discard(None, self.brought[1])
            self.brought = None
        if self._express is not None:
            reactor.take_back(self)
            with suppress(MemoryError):
                _, fds = self._express.leave(self.connection)
                self._turns.broker.holdings.discard(None, fds)
            self._express = None
        if self._watched:
            reactor.remove(self)
            self._watched = 0
        self._turns.broker.holdings.hang_up(self.uid, self._sock, is_local=self._is_local)

    def _read(self, now: float) -> None:
        router, holdings = self._turns.router, self._turns.broker.holdings
        try:
            size = holdings.allowed(self.uid, self._sock, router.wanted(self.connection))
            data, ancillary, flags, _ = self._sock.recvmsg(size, _ANCILLARY, _CLOEXEC)
        except QuotaExceeded as error:
            router.lose(self.connection, str(error), now)
            return
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno in SHORTAGE:
                self._wait(now)
                return
            self._receive(b"", [], "failed", now)
            return
        ended = "truncated" if flags & _TRUNCATED else "" if data else "ended"
        self._receive(data, rights(ancillary), ended, now)

    def _take_over(self, now: float) -> bool:
        """Carry out what the lane has handed over; False if that is nothing."""
        handed, self.brought = self.brought, None
        if self._express is not None:
            handed = self._express.lane.take(self.connection)
            if handed is None:
                # while the lane reads, nobody else does
                return bool(self._express.lane.has_input(self.connection))
        if handed is None:
            return False
        data, fds, ended = handed
        try:
            if fds:
                self._turns.broker.holdings.check_closing(self.uid)
        except QuotaExceeded as error:
            self._turns.router.lose(self.connection, str(error), now)
            self._turns.broker.holdings.discard(None, fds)
            return True
        if ended == "short":
            self._receive(data, fds, "", now)
            self._wait(now)
        else:
            self._receive(data, fds, ended, now)
        return True

    def _receive(self, data: bytes, fds: list[int], ended: str, now: float) -> None:
        """What a socket has brought, and how it ended, if it did."""
        router = self._turns.router
        self._turns.broker.holdings.own(fds, self.uid)
        if ended == "truncated":
            # some descriptors of this message are lost, so the stream is of no use any more
            router.delivery.discard(fds)
            router.lose(self.connection, "descriptors were lost on the way", now)
            return
        if ended == "exhausted":
            router.delivery.discard(fds)
            raise MemoryError
        if ended == "unwatched":
            router.delivery.discard(fds)
            raise OSError("epoll has no room to watch this connection")
        if data or not ended:
            router.receive(self.connection, data, fds, now)
        else:
            router.delivery.discard(fds)
        if ended:
            router.end_of_input(self.connection, now)
        if ended == "failed":
            router.hang_up(self.connection, now)

    def _write(self, buffers: list[Buffer], fds: tuple[int, ...], now: float) -> int:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            return self._sock.sendmsg(buffers, ancillary, _NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if error.errno in SHORTAGE:
                self._wait(now)
            else:
                self._turns.router.hang_up(self.connection, now)
        return 0

    def _wait(self, now: float) -> None:
        self._is_short = True
        self._turns.reactor.call_at(now + SHORTAGE_PAUSE, self, self._try_again)

    def _try_again(self, now: float) -> None:
        self._is_short = self._is_full = False
        self._turns.has_output(self)


def _batches(items: list[Outgoing]) -> Iterator[tuple[list[Buffer], tuple[int, ...], int]]:
    """What goes into one sendmsg each: buffers, descriptors, and bytes in total."""
    buffers: list[Buffer] = []
    size = 0
    for parts, fds in items:
        if buffers and (fds or len(buffers) + len(parts) > _BUFFERS):
            yield buffers, (), size
            buffers, size = [], 0
        if fds:
            yield list(parts), fds, sum(map(len, parts))
        else:
            buffers += parts
            size += sum(map(len, parts))
    if buffers:
        yield buffers, (), size
