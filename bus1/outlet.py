"""outlet: the sending side of a channel.

Theory. Frames queue up here and leave as the client reads. When the kernel is short of memory, or has too
many descriptors in flight, sending goes on after a pause. Descriptors count for the user from the time when
they are queued until the kernel says that everything has been read; if the channel is closed before, its
socket stays, deaf, until then: what lies in it is in flight.

Invariants. 1. ``close`` leaves nothing queued. 2. What is queued of all channels of a user weighs at most
``unsent_bytes_per_user``, and an answer per channel: each may queue half of what is left.

Not here: who writes what (channel, station), the account of descriptors (holdings).
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from .descriptors import Fds
from .frames import FrameWriter
from .listener import SHORTAGE
from .transport import DONTWAIT, transmit, transmit_at_once

if TYPE_CHECKING:
    from .broker import Broker

_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.2


class Outlet:
    """What a channel sends; it owns the socket."""

    def __init__(
        self, broker: Broker, sock: socket.socket, uid: int, resume: Callable[[float], None]
    ) -> None:
        """``resume`` is called when a shortage may be over."""
        self.is_closed = False
        self._broker = broker
        self._sock = sock
        self._uid = uid
        self._resume = resume
        self._writer = FrameWriter(lambda fds: broker.holdings.discard(uid, fds.take_all()))
        self._weight = 0
        """What this channel has booked of its user's unsent bytes."""
        self._n_unread = 0
        """Descriptors that have been queued since the client had read everything."""
        self._is_short = False
        self._pause = _FIRST_PAUSE
        broker.holdings.book(uid, 1)

    @property
    def is_empty(self) -> bool:
        """Everything has been sent."""
        return not self._writer.pending

    @property
    def is_clogged(self) -> bool:
        """Too much waits for the client to read: bytes, or any descriptor, as it fills the bus's table."""
        if not self._weight:
            return False
        limits = self._broker.limits
        left = limits.unsent_bytes_per_user - self._broker.unsent[self._uid]
        return self._writer.n_fds > 0 or self._weight > min(limits.unsent_bytes, max(0, left // 2))

    @property
    def events(self) -> int:
        """What to watch for."""
        return select.EPOLLOUT if self._writer.pending and not self._is_short else 0

    def push(self, frame: bytes, fds: Fds | None = None) -> None:
        """Queue a frame; takes the descriptors."""
        if fds:
            self._n_unread += len(fds)
            self._broker.holdings.sent(self._uid, len(fds), self)
        self._writer.push(frame, fds)
        self._weigh()

    def send(self, frame: bytes) -> bytes:
        """Send a frame without descriptors now, if nothing waits; what has to be pushed of it."""
        if self._writer.pending or self._is_short:
            return frame
        try:
            n = transmit_at_once(self._sock, frame)
        except OSError:
            return frame  # it comes again where it can be told
        self._pause = _FIRST_PAUSE
        return frame[n:]

    def flush(self) -> None:
        """Send what the kernel takes now; OSError if nobody reads any more."""
        if self._is_short:
            return
        try:
            transmit(self._sock, self._writer, DONTWAIT)
            self._pause = _FIRST_PAUSE
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno not in SHORTAGE:
                raise
            self._is_short = True
            reactor = self._broker.reactor
            reactor.call_at(reactor.clock() + self._pause, (self, "shortage"), self._try_again)
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        finally:
            self._weigh()

    def _try_again(self, now: float) -> None:
        self._is_short = False
        self._resume(now)

    def _weigh(self) -> None:
        weight = self._writer.weight
        if weight != self._weight:
            self._broker.unsent[self._uid] += weight - self._weight
            self._weight = weight

    def forget(self) -> None:
        """Drop what is queued."""
        self._writer.close()
        self._weigh()

    # ---- descriptors under way -------------------------------------------------------------------

    def may_push(self, n_fds: int) -> bool:
        """Whether the user may be sent so many descriptors now."""
        self.look()
        return self._broker.holdings.may_send(self._uid, n_fds)

    def check_room(self, n_fds: int) -> None:
        """QuotaExceeded if ``may_push`` says no."""
        if not self.may_push(n_fds):
            self._broker.holdings.check(self._uid, n_fds)

    def look(self) -> None:
        """Notice it if the client has read everything."""
        if self._n_unread and not self._writer.n_fds and not _unread_bytes(self._sock):
            n, self._n_unread = self._n_unread, 0
            if self.is_closed:
                self._broker.holdings.hang_up(self._uid, self._sock)
                n += 1
            self._broker.holdings.read(self._uid, n, self)

    def close(self) -> None:
        """Send no more; the socket is closed now, or when nothing of it is in flight."""
        self._broker.reactor.cancel((self, "shortage"))
        self.forget()
        self.look()
        self.is_closed = True
        if self._n_unread:
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
            self._broker.holdings.watch(self._uid)
        else:
            self._broker.holdings.hang_up(self._uid, self._sock)
            self._broker.holdings.book(self._uid, -1)

    def abandon(self) -> None:
        """Close the socket whatever is in flight; only once the channel is closed."""
        self._broker.holdings.hang_up(self._uid, self._sock)
        self._broker.holdings.read(self._uid, self._n_unread + 1, self)
        self._n_unread = 0


def _unread_bytes(sock: socket.socket) -> int:
    """What the other side has not read, in the kernel's measure."""
    size: int = struct.unpack("i", fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)))[0]
    return size
