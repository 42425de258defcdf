"""reactor: one epoll loop that owns every socket of a bus process.

Theory. A *source* is something with a descriptor: a listener, a channel, the bus's end of a peer's
descriptor, a D-Bus connection, a wake-up pipe. A *station* is where the wake-ups of one Core peer
go. Commands on Core leave effects behind (peers that turned readable, segments to unmap,
descriptors to close); ``settle`` carries them out, until nothing is left. It runs after each source,
and whoever executes commands calls it before answering, so that an answer never overtakes what
its command caused.

A turn is: one epoll_wait, every ready source once, every timer that was due when the turn began.
Work that exceeded its budget is continued by a timer that is due at once: others come first.

The reactor runs in any thread, installs no signal handlers, and several may live in one process. Threads
that use peers in its process take turns by its ``lock``.

Invariants. 1. An event of a descriptor that was removed since, by whichever thread, reaches nobody, even
if its number is in use again. 2. ``settle`` returns only when Core's three effect lists are empty.
3. At most one timer exists per key. 4. A timer set during a turn never runs in the same turn.

Not here: what a source does with its bytes (channel, broker, the bridge's loop).
"""

from __future__ import annotations

import math
import os
import select
import time
from collections.abc import Callable, Sequence, Sized
from heapq import heapify, heappop, heappush
from threading import RLock
from typing import Protocol

from . import acceleration
from .core.api import CoreApi
from .waiting import time_left

_STALE = 64
"""So many entries of timers that are no more are kept, and as many as there are timers."""


class Settling(Protocol):
    """What the reactor needs of a hub: Core, and the hosted objects that answer after each command."""

    @property
    def core(self) -> CoreApi:
        """The state machine whose effects are carried out."""

    @property
    def late(self) -> Sized:
        """What hosted objects have to say that no command of now has asked for."""

    def settle(self) -> None:
        """Let hosted objects answer; may execute further commands."""


class Source(Protocol):
    """Something with a descriptor that the reactor watches."""

    def fileno(self) -> int:
        """The watched descriptor; the same number from ``add`` to ``remove``."""

    def ready(self, events: int, now: float) -> None:
        """Epoll reported ``events`` (EPOLLIN, EPOLLOUT, EPOLLHUP …)."""


class Station(Protocol):
    """Where the wake-ups of one peer go."""

    def woken(self) -> None:
        """The peer turned readable."""

    def retired(self, generation: int) -> None:
        """A segment of the peer's pool should be unmapped."""


class Reactor:
    """Sources, stations and timers of one bus process."""

    def __init__(self, hub: Settling, clock: Callable[[], float] = time.monotonic) -> None:
        self.hub = hub
        self.clock = clock
        native = acceleration.native
        self.poller = None if native is None else native.Poller()
        """What lanes join: they serve their sockets while the reactor waits."""
        self._epoll = self.poller or select.epoll()
        self._sources: dict[int, Source] = {}
        self._n_removed = 0
        self._removed: dict[int, int] = {}
        """Descriptors, while a turn is under way: which removal was the last. A poller counts them itself."""
        self._n_turns = 0
        """Turns that are under way, of all threads."""
        self._stations: dict[int, Station] = {}
        self._timers: dict[object, tuple[float, int, Callable[[float], None]]] = {}
        self._due: list[tuple[float, int, object]] = []
        """A heap of every timer: when, its number, its key; and of some that are no more."""
        self._sequence = 0
        self._settling = False
        self.close_fd: Callable[[int], None] = os.close
        """How a descriptor is closed that Core has let go."""
        self.returned: Callable[[], None] = lambda: None
        """Is called when a wait is over, before anything else that comes of it."""
        self.turn = 0
        """Counts the turns."""
        self.lock = RLock()
        """Held while the bus is worked on, not while a turn waits: peers in its process have threads."""

    # ---- sources ---------------------------------------------------------------------------------

    def add(self, source: Source, events: int) -> None:
        """Watch a source; the caller keeps it, and removes it before closing its descriptor."""
        fd = source.fileno()
        self._epoll.register(fd, events)
        self._sources[fd] = source

    def modify(self, source: Source, events: int) -> None:
        """Watch for other events from now on; 0 leaves hang-ups and errors."""
        self._epoll.modify(source.fileno(), events)

    def remove(self, source: Source) -> None:
        """Stop watching; closes nothing."""
        fd = source.fileno()
        self._epoll.unregister(fd)
        self._depart(fd)

    def lend(self, source: Source) -> None:
        """A lane of ``poller`` watches the descriptor from now on; what it reports comes to the source."""
        self._sources[source.fileno()] = source

    def take_back(self, source: Source) -> None:
        """No lane watches it any more, and nobody does."""
        self._depart(source.fileno())

    def _depart(self, fd: int) -> None:
        del self._sources[fd]
        self._n_removed = self._n_removed + 1 if self.poller is None else self.poller.depart()
        self._removed[fd] = self._n_removed

    # ---- stations --------------------------------------------------------------------------------

    def station(self, peer: int, station: Station | None) -> None:
        """Where wake-ups of ``peer`` go; None forgets it."""
        if station is None:
            self._stations.pop(peer, None)
        else:
            self._stations[peer] = station

    def settle(self) -> None:
        """Carry out what commands left behind, until nothing is left.

        A station that settles while it is being told of a wake-up changes nothing: the call that is
        under way carries on with what it caused."""
        hub = self.hub
        core = hub.core
        if self._settling or not (core.has_effects() or hub.late):
            return
        self._settling = True
        try:
            while True:
                hub.settle()
                if not core.has_effects():
                    return
                for fd in core.take_freed_fds():
                    self.close_fd(fd)
                # before anything is told: what that causes comes in the next round
                woken, retired = core.take_woken(), core.take_retired()
                for peer in woken:
                    if (station := self._stations.get(peer)) is not None:
                        station.woken()
                for peer, generation in retired:
                    if (station := self._stations.get(peer)) is not None:
                        station.retired(generation)
        finally:
            self._settling = False

    # ---- timers ----------------------------------------------------------------------------------

    def call_at(self, when: float, key: object, action: Callable[[float], None]) -> None:
        """Run ``action(now)`` once, at ``when`` or soon after; replaces the timer of the same key."""
        self.cancel(key)
        self._sequence += 1
        self._timers[key] = (when, self._sequence, action)
        heappush(self._due, (when, self._sequence, key))

    def cancel(self, key: object) -> None:
        """Forget the timer of this key, if there is one."""
        if self._timers.pop(key, None) is not None and len(self._due) > 2 * len(self._timers) + _STALE:
            self._due[:] = [(when, number, key) for key, (when, number, _) in self._timers.items()]
            heapify(self._due)

    def _is_stale(self, number: int, key: object) -> bool:
        timer = self._timers.get(key)
        return timer is None or timer[1] != number

    def _next_due(self) -> float | None:
        while self._due:
            when, number, key = self._due[0]
            if not self._is_stale(number, key):
                return when
            heappop(self._due)
        return None

    def _run_timers(self, now: float, last: int) -> None:
        later = []
        try:
            while self._due and self._due[0][0] <= now:
                entry = heappop(self._due)
                _, number, key = entry
                if self._is_stale(number, key):
                    continue
                if number > last:
                    later.append(entry)
                    continue
                self._timers.pop(key)[2](now)
                self.settle()
        finally:
            for entry in later:
                heappush(self._due, entry)

    # ---- the loop --------------------------------------------------------------------------------

    def run_once(self, deadline: float | None) -> int:
        """One turn: wait until something is ready or due, or ``deadline`` has come (None: for ever).

        It may end earlier, with nothing done. Returns how many sources were ready."""
        with self.lock:
            self.settle()
            due = self._next_due()
            self._n_turns += 1
        until = min(math.inf if deadline is None else deadline, math.inf if due is None else due)
        try:
            events, n_removed = self._wait(time_left(until, self.clock()))
            with self.lock:
                self._carry_out(events, n_removed)
        finally:
            with self.lock:
                self._n_turns -= 1
                if not self._n_turns:
                    self._removed.clear()
        return len(events)

    def _wait(self, timeout: float | None) -> tuple[Sequence[tuple[int, int]], int]:
        """What is ready, and how many removals cannot have made that wrong."""
        if isinstance(self._epoll, select.epoll):
            n_removed = self._n_removed
            return self._epoll.poll(timeout), n_removed
        try:
            found: tuple[list[tuple[int, int]], int] = self._epoll.poll(timeout)
        finally:
            with self.lock:
                self.returned()
        return found

    def _carry_out(self, events: Sequence[tuple[int, int]], n_removed: int) -> None:
        self.turn += 1
        if self.poller is not None:
            self.settle()  # what lanes have left
        now, last = self.clock(), self._sequence
        for fd, mask in events:
            source = self._sources.get(fd)
            if source is None or self._removed.get(fd, 0) > n_removed:
                continue
            source.ready(mask, now)
            self.settle()
        self._run_timers(now, last)

    def close(self) -> None:
        """Forget everything and close the epoll descriptor; sources stay open."""
        self._sources.clear()
        self._stations.clear()
        self._timers.clear()
        self._due.clear()
        self._epoll.close()
