"""listener: a listening unix socket of a bus process.

Theory. Accepts a few connections per turn and passes them on. If the kernel runs out of descriptors or
memory, it pauses for a moment: what waits stays in the backlog.

Invariants. 1. A shortage pauses accepting and nothing else. 2. Nobody is accepted while paused.

Not here: who may connect (broker, the bridge's router).
"""

from __future__ import annotations

import errno
import select
import socket
from collections.abc import Callable

from .reactor import Reactor

SHORTAGE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}
"""What the kernel says when it lacks something that it may have again later."""
SHORTAGE_PAUSE = 0.2
"""Seconds until another attempt."""
_ACCEPTS_PER_TURN = 16


class Listener:
    """A source of the reactor that accepts; it owns its socket."""

    def __init__(
        self, reactor: Reactor, sock: socket.socket, accept: Callable[[socket.socket], None],
        pause: float = SHORTAGE_PAUSE, short: Callable[[OSError], None] = lambda error: None,
        check_room: Callable[[int], None] = lambda fileno: None,
    ) -> None:
        """``accept`` owns each connection; a shortage is told to ``short``, and waited out for ``pause``.

        ``check_room`` raises one before the kernel does, given the listening socket."""
        self._reactor = reactor
        self._sock = sock
        self._accept = accept
        self._pause = pause
        self._short = short
        self._check_room = check_room
        self._is_paused = False
        self._is_short = False
        self._more = select.poll()
        self._more.register(sock, select.POLLIN)
        sock.setblocking(False)
        reactor.add(self, select.EPOLLIN)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._sock.fileno()

    def ready(self, events: int, now: float) -> None:
        """Connections wait."""
        for n in range(_ACCEPTS_PER_TURN):
            # mostly one waits: to ask for a second is less than to try
            if self._is_paused or (n and not self._more.poll(0)):
                return
            try:
                self._check_room(self.fileno())
                connection, _ = self._sock.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno not in SHORTAGE:
                    raise
                self._is_short = True
                self._short(error)
                self._watch()
                self._reactor.call_at(now + self._pause, self, self._try_again)
                return
            self._accept(connection)

    def pause(self, is_paused: bool) -> None:
        """Accept nothing, or go on."""
        if is_paused != self._is_paused:
            self._is_paused = is_paused
            self._watch()

    def close(self) -> None:
        """Stop listening."""
        self._reactor.cancel(self)
        self._reactor.remove(self)
        self._sock.close()

    def _try_again(self, now: float) -> None:
        self._is_short = False
        self._watch()

    def _watch(self) -> None:
        is_idle = self._is_paused or self._is_short
        self._reactor.modify(self, 0 if is_idle else select.EPOLLIN)
