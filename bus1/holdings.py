"""holdings: the descriptors that each user costs the bus, open in it or under way to clients.

Theory. A process may have so many descriptors open. The kernel lets a user, unless it is root, have as many
in flight: sent through unix sockets, and not read yet. What the bus sends counts for the user that the bus
runs as, until the client reads it or hangs up. So each descriptor is booked for the user that it is open for,
or sent to, in one account; a user may have half of what all others have left. Who asks for more is refused
in words; who is to be sent more while something is unread has to read first.

The kernel does not say when a client reads. It is asked (``Reader.look``) when it matters: when the part is
used up, and while somebody waits, in growing intervals; the more there are to ask about, the rarer.

What a user's descriptors make of close(2) is the user's: those that may take their time count until they are
closed (closing).

Invariants. 1. Whatever one user does, half of what it leaves is there for the next, less one message: who has
nothing unread may be sent one. 2. A descriptor of a message is booked for its sender until Core lets it go.

Not here: sending (outlet), who asks (broker, requests, station).
"""

from __future__ import annotations

import fcntl
import os
import resource
import socket
import struct
import termios
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Protocol

from .closing import Closer, closes_at_once
from .errors import QuotaExceeded
from .reactor import Reactor
from .transport import foreseen

_OWN = 64
"""Descriptors that the bus needs for itself."""
_UNLIMITED = 1 << 20
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.1
_PAUSE_PER_READER = 2e-5
"""Some ten times what a look at one takes."""


class Reader(Protocol):
    """Where descriptors have been sent that a client may not have read yet."""

    is_closed: bool
    """Only the descriptors under way keep it."""

    def look(self) -> None:
        """Ask the kernel; when all is read, book that with ``Holdings.read``."""

    def abandon(self) -> None:
        """Stop waiting for the client."""


class Stalled(Protocol):
    """Who waits until a user has read something."""

    def go_on(self) -> None:
        """There may be room now."""


class _Holding:
    """What is booked for one user, where something is unread, who waits, and how long from look to look."""

    __slots__ = ("is_due", "n", "next_look", "pause", "stalled", "unread")

    def __init__(self) -> None:
        self.n = 0
        self.unread: dict[Reader, None] = {}
        self.stalled: dict[Stalled, None] = {}
        self.pause = _FIRST_PAUSE
        self.is_due = False
        self.next_look = 0.0


class Holdings:
    """The account of all users."""

    def __init__(self, reactor: Reactor, is_own: Callable[[int], bool]) -> None:
        """``is_own`` tells the copies of what the bus has made, and keeps: they close at once."""
        self._is_own = is_own
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._total = max(2, (_UNLIMITED if soft == resource.RLIM_INFINITY else soft) - _OWN)
        self._reactor = reactor
        self._booked = 0
        self._users: dict[int, _Holding] = {}
        self._messages: dict[int, int] = {}
        """Whose message carries a descriptor."""
        self._closing: Counter[int] = Counter()
        """How many that take their time each user has."""
        self._closer = Closer()
        reactor.close_fd = self._let_go

    # ---- booking ---------------------------------------------------------------------------------

    def book(self, uid: int, n: int) -> None:
        """``n`` more for a user, or fewer, whatever its part is."""
        holding = self._of(uid)
        holding.n += n
        self._booked += n
        if not (holding.n or holding.unread or holding.stalled):
            del self._users[uid]

    def check(self, uid: int, n: int) -> None:
        """QuotaExceeded if ``n`` more are more than the part of the user."""
        if not self._fits(uid, n):
            held = self._users[uid].n if uid in self._users else 0
            raise QuotaExceeded(
                f"user {uid} would have {held + n} descriptors on this bus, open or unread, "
                f"and may have {self._part(uid)}"
            )

    def charge(self, uid: int, n: int) -> None:
        """``check``, then ``book``."""
        self.check(uid, n)
        self.book(uid, n)

    def allowed(self, uid: int, sock: socket.socket, size: int) -> int:
        """How much to read from a client, ``size`` or less. OSError.

        QuotaExceeded if it brings descriptors, and what waits to be closed is all that the user may have."""
        if not (self._closer.is_used and self._closes_too_many(uid)):
            return size
        n_bytes, has_fds = foreseen(sock, size)
        if has_fds:
            self.check_closing(uid)
        return n_bytes or size

    @property
    def are_closing(self) -> bool:
        """Somebody's descriptors take their time."""
        self._note_closed()
        return bool(self._closing)

    def check_closing(self, uid: int) -> None:
        """QuotaExceeded if what waits to be closed is all that the user may have open."""
        if self._closes_too_many(uid):
            raise QuotaExceeded(
                f"{self._closing[uid]} descriptors that user {uid} has sent take their time to close, "
                f"and it may have {self._part(uid)} on this bus"
            )

    def _closes_too_many(self, uid: int) -> bool:
        self._note_closed()
        if 0 < self._closing.get(uid, 0) >= self._part(uid):
            self._await_closed()
        return 0 < self._closing.get(uid, 0) >= self._part(uid)

    def own(self, fds: Sequence[int], uid: int) -> None:
        """Book descriptors for their sender until ``Reactor.close_fd`` closes them."""
        if fds:
            self._messages.update(dict.fromkeys(fds, uid))
            self.book(uid, len(fds))

    def _let_go(self, fd: int) -> None:
        if (uid := self._messages.pop(fd, None)) is not None:
            self.book(uid, -1)
        self.discard(uid, (fd,))

    def discard(self, uid: int | None, fds: Iterable[int]) -> None:
        """Close what a user has sent (None: it is booked for nobody), without waiting."""
        for fd in fds:
            if closes_at_once(fd) or self._is_own(fd):
                os.close(fd)
            else:
                self._close_soon(uid, fd)
        self._note_closed()

    def hang_up(self, uid: int, sock: socket.socket, *, is_local: bool = True) -> None:
        """Close a client's socket, without waiting for descriptors in it that nobody has read.

        ``is_local``: it is a unix socket, so there may be some."""
        if is_local:
            with suppress(OSError):
                # more cannot come from now on; the other end sees a hang-up once, when it is closed (P-43)
                sock.shutdown(socket.SHUT_RD)
            if _has_unread(sock):
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
                self._close_soon(uid, sock.detach())
        sock.close()
        self._note_closed()

    def _close_soon(self, uid: int | None, fd: int) -> None:
        if uid is not None:
            self.book(uid, 1)
            self._closing[uid] += 1
        self._closer.close(uid, fd)

    def _note_closed(self) -> None:
        if not self._closer.is_used:
            return
        self._closer.retry()
        while self._closer.closed:
            uid = self._closer.closed.popleft()
            if uid is not None:
                self.book(uid, -1)
                self._closing[uid] -= 1
                if not self._closing[uid]:
                    del self._closing[uid]

    def _await_closed(self) -> None:
        for uid in list(self._closing):
            self._closer.wait(uid)
        self._note_closed()

    def _of(self, uid: int) -> _Holding:
        return self._users.setdefault(uid, _Holding())

    def _part(self, uid: int) -> int:
        own = self._users[uid].n if uid in self._users else 0
        return max(0, self._total - self._booked + own) // 2

    def _fits(self, uid: int, n: int) -> bool:
        self._note_closed()
        held = self._users[uid].n if uid in self._users else 0
        if self._closing and held + n > self._part(uid):
            # what waits to be closed is nobody else's room, either
            self._await_closed()
        holding = self._users.get(uid)
        if holding is None:
            return n <= self._part(uid)
        if holding.n + n > self._part(uid) and self._reactor.clock() >= holding.next_look:
            self._look(holding)
        return holding.n + n <= self._part(uid)

    # ---- under way -------------------------------------------------------------------------------

    def may_send(self, uid: int, n: int) -> bool:
        """The user has room for ``n``, or has read all that it was sent."""
        return self._fits(uid, n) or uid not in self._users or not self._users[uid].unread

    def sent(self, uid: int, n: int, reader: Reader) -> None:
        """Book what has been queued for a client."""
        self._of(uid).unread[reader] = None
        self.book(uid, n)

    def read(self, uid: int, n: int, reader: Reader) -> None:
        """The client has read all of it."""
        self._of(uid).unread.pop(reader, None)
        self.book(uid, -n)

    def watch(self, uid: int, stalled: Stalled | None = None) -> None:
        """Look again and again: ``stalled`` waits for room, or a closed reader for its client."""
        holding = self._of(uid)
        if stalled is not None:
            holding.stalled[stalled] = None
        if not holding.is_due:
            holding.is_due = True
            holding.pause = _FIRST_PAUSE
            self._look_later(uid, holding)

    def _look_later(self, uid: int, holding: _Holding) -> None:
        when = max(self._reactor.clock() + holding.pause, holding.next_look)
        self._reactor.call_at(when, (self, uid), lambda now: self._look_again(uid, holding))

    def _look_again(self, uid: int, holding: _Holding) -> None:
        before = holding.n
        self._look(holding)
        holding.pause = _FIRST_PAUSE if holding.n < before else min(2 * holding.pause, _LONGEST_PAUSE)
        for stalled in list(holding.stalled):
            if not self.may_send(uid, 1):
                break
            del holding.stalled[stalled]
            stalled.go_on()
        holding.is_due = bool(holding.stalled) or any(reader.is_closed for reader in holding.unread)
        if holding.is_due:
            self._look_later(uid, holding)
        elif self._users.get(uid) is holding:
            self.book(uid, 0)

    def _look(self, holding: _Holding) -> None:
        holding.next_look = self._reactor.clock() + len(holding.unread) * _PAUSE_PER_READER
        for reader in list(holding.unread):
            reader.look()

    def close(self) -> None:
        """Wait for no client any more; what is being closed has a moment, as otherwise."""
        for uid, holding in list(self._users.items()):
            self._reactor.cancel((self, uid))
            holding.stalled.clear()
            for reader in list(holding.unread):
                reader.abandon()
        self._closer.finish()
        self._note_closed()


def _has_unread(sock: socket.socket) -> bool:
    return bool(struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, bytes(4)))[0])
