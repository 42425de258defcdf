"""loop: the Switch in Python, with its sockets on the reactor.

Theory. ``PythonSwitch`` is the edge around the router: it accepts connections, gives endpoints their turns,
and carries out the router's effects. One turn is one turn of the reactor; then come the clients that have
sent something, or have work left from earlier turns, in the order of the schedule and as long as its time
lasts; then the output that came of it, likewise. Native clients share the reactor through the Broker, whose
Hub is the gateway.

The time of a turn is taken when epoll returns, and holds for everything in it: the reactor's clock
sets it.

Invariants. 1. A defect, or a lack of something, that shows while one connection is accepted or served costs
that connection; only a broken invariant of Core ends the bus.

Not here: what messages do (router, gateway), what is decided outside the tables (daemon).
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial

from bus1.broker import Broker
from bus1.context import context_of
from bus1.core.api import Credentials
from bus1.defects import account
from bus1.errors import InternalError
from bus1.listener import SHORTAGE, Listener
from bus1.process import SignalPipe
from bus1.reactor import Reactor
from bus1.record import replace
from bus1.transport import credentials_of

from ..arrival import come_in
from ..entrance import Entrance
from ..gateway import Gateway
from .api import (
    Closed,
    Command,
    Configure,
    Failed,
    Listen,
    Punt,
    Readable,
    Short,
    Shutdown,
    Signalled,
    Watch,
    WatchSignals,
)
from .doors import Doors
from .effects import Close, CloseDescriptors, Effect, Wake
from .endpoint import Endpoint
from .express import express_for
from .headroom import PIDFDS_MAX, check_room, shortage
from .reception import Reception
from .router import Router
from .schedule import Schedule


class PythonSwitch:
    """The data plane of one bus: implements ``api.Switch``."""

    def __init__(
        self, router: Router, gateway: Gateway, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.router = router
        self._clock = clock
        self.reactor = Reactor(gateway, self._now)
        self.broker = Broker(self.reactor, gateway, report=lambda pid, text: self.report(Failed(pid, text)))
        self.express = router.delivery.express = express_for(self.reactor, self.broker.holdings, router)
        """The lane of everyday messages, if there is one."""
        self._reception = None if self.express is None else Reception(self, self.express)
        self._endpoints: dict[int, Endpoint] = {}
        router.tables.open_pidfd = self._open_pidfd
        self._listeners: list[Listener] = []
        self._accepts = True
        self._entrances = gateway.registry.entrances
        self._entrances.doors = Doors(self)
        self._signals: SignalPipe | None = None
        self._watched: list[Watched] = []
        self._writing: dict[Endpoint, None] = {}
        """Endpoints with output, in order."""
        self._used: dict[Endpoint, None] = {}
        """Endpoints whose wants may have changed."""
        self._readable: dict[Endpoint, None] = {}
        """Endpoints with input that has not been read yet."""
        self._n_late = 0
        """How many of those that were ready in this turn come last."""
        self._reading, self._flushing = Schedule(), Schedule()
        """Two, as the order in one must not depend on who is served in the other."""
        self._punts: list[Punt] = []

    # ---- the waist -------------------------------------------------------------------------------

    def poll(self, deadline: float | None) -> list[Punt]:
        """One turn."""
        due = self.router.next_deadline()
        if due is not None and (deadline is None or due < deadline):
            deadline = due
        if self._writing or self._readable or self._punts:
            deadline = self.router.delivery.now
        if self.express is not None:
            self.express.before_wait()
        if self._reception is not None:
            self._reception.before_wait()
        n_ready = self.reactor.run_once(deadline)
        now = self.router.delivery.now
        if self.express is not None:
            for connection in self.express.after_wait():
                if (endpoint := self._endpoints.get(connection)) is not None:
                    self.was_used(endpoint)
        self.router.tend(now)
        self._serve(n_ready, now)
        self._settle()
        if self.express is not None:
            for connection in self.express.flush_all():
                if (endpoint := self._endpoints.get(connection)) is not None:
                    self.has_output(endpoint)
        if self._writing:
            self._flush(now)
            self._settle()
        if self._used:
            self._watch()
            self._settle()
        self._mind_accepting()
        punts, self._punts = self._punts, []
        return punts

    def apply(self, commands: Sequence[Command]) -> None:
        """Carry out all commands."""
        for command in commands:
            match command:
                case Listen(descriptor, native):
                    listening = socket.socket(fileno=descriptor)
                    if native:
                        self.broker.listen(listening)
                    else:
                        is_local = listening.family == socket.AF_UNIX
                        listener = Listener(
                            self.reactor, listening, partial(self.accept, is_local=is_local),
                            short=self._note_shortage, check_room=check_room,
                        )
                        listener.pause(not self._accepts)
                        self._listeners.append(listener)
                        if self._reception is not None and is_local:
                            self._reception.open(listener)
                case WatchSignals(descriptor):
                    self._signals = SignalPipe(
                        self.reactor, descriptor, lambda number: self.report(Signalled(number))
                    )
                case Watch(descriptor):
                    self._watched.append(Watched(self, descriptor))
                case Configure(limits, policy):
                    self.router.configure(limits, policy)
                case Shutdown():
                    self._close()
                case _:
                    self.router.activation.carry_out(command)
                    self._settle()

    # ---- for endpoints and listeners -------------------------------------------------------------

    def has_output(self, endpoint: Endpoint) -> None:
        """There may be something to write."""
        self._writing[endpoint] = None

    def was_used(self, endpoint: Endpoint) -> None:
        """What the endpoint wants may have changed."""
        self._used[endpoint] = None

    def has_input(self, endpoint: Endpoint) -> None:
        """There may be something to read."""
        self._readable[endpoint] = None
        self._n_late += self.router.delivery.flow.comes_last(endpoint.connection, self.router.delivery.now)

    def broke(self, endpoint: Endpoint) -> None:
        """A defect showed while this connection was served: it pays for it."""
        error = sys.exc_info()[1]
        if isinstance(error, InternalError):
            raise
        if isinstance(error, MemoryError):
            party = self.router.tables.parties.get(endpoint.connection)
            who = self.router.delivery.refusals.named(party)
            self.report(Closed(endpoint.pid, endpoint.uid, who, "there is no memory for what it wants"))
            self._drop(endpoint)
            return
        self._punts.append(_defect(endpoint.pid))
        self._drop(endpoint)

    def accept(
        self, connection: socket.socket, entrance: Entrance | None = None, *, is_local: bool = True
    ) -> None:
        """A new D-Bus connection, at a socket of the bus's own unless an entrance is given.

        If that fails it is closed, and nothing else has happened."""
        pid = 0
        try:
            connection.setblocking(False)
            who = credentials_of(connection)
            pid = who.pid
            self._let_in(connection, who, entrance, is_local=is_local)
        except Exception as error:
            connection.close()
            if isinstance(error, InternalError):
                raise
            if isinstance(error, MemoryError):
                self.report(Short(os.strerror(errno.ENOMEM)))
            elif isinstance(error, OSError) and error.errno in SHORTAGE:
                self._note_shortage(error)
            else:
                self.report(_defect(pid))

    def _let_in(
        self, connection: socket.socket, who: Credentials, entrance: Entrance | None, *, is_local: bool
    ) -> None:
        if entrance is not None:
            who = replace(who, secctx=context_of(who.secctx, entrance.name))
        if (excess := self.router.too_many(who)) is not None:
            connection.close()
            named, why = self.router.delivery.refusals.stranger(who, excess)
            self.report(Closed(who.pid, who.uid, named, why))
            return
        if not is_local:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = self.router.connect(who, self.router.delivery.now, can_pass_fds=is_local)
        try:
            endpoint = Endpoint(self, connection, peer, who.pid, who.uid, is_local=is_local)
            if entrance is not None:
                come_in(self.router.delivery, self.router.party(peer), entrance)
            self.enter(endpoint)
        except BaseException:
            self.router.disconnect(peer, self.router.delivery.now)
            raise
        # who connects mostly says something at once: it may be there already
        self.has_input(endpoint)
        self.was_used(endpoint)
        self._mind_accepting()

    def enter(self, endpoint: Endpoint) -> None:
        """One more connection takes its turns."""
        entered: list[Schedule] = []
        try:
            for schedule in self._reading, self._flushing:
                endpoint.process = schedule.enter(endpoint.process)
                entered.append(schedule)
            self.reactor.station(endpoint.connection, endpoint)
            self._endpoints[endpoint.connection] = endpoint
        except BaseException:
            for schedule in entered:
                schedule.leave(endpoint.process)
            self.reactor.station(endpoint.connection, None)
            raise

    def part(self, endpoint: Endpoint) -> None:
        """The opposite; nothing if it takes none."""
        if self._endpoints.pop(endpoint.connection, None) is not None:
            self.reactor.station(endpoint.connection, None)
            for waiting in self._writing, self._readable, self._used:
                waiting.pop(endpoint, None)
            self._reading.leave(endpoint.process)
            self._flushing.leave(endpoint.process)

    def cut_off(self, connection: int, reason: str) -> None:
        """This connection ends now, whatever it has sent."""
        if (endpoint := self._endpoints.get(connection)) is not None:
            who = self.router.delivery.refusals.named(self.router.party(connection))
            self.report(Closed(endpoint.pid, endpoint.uid, who, reason))
            self._drop(endpoint)

    def _open_pidfd(self, connection: int, reader: int) -> int | None:
        endpoint, tables = self._endpoints.get(connection), self.router.tables
        if endpoint is None or tables.core.queued(tables.bus_peer, reader).fds >= PIDFDS_MAX:
            return None
        pidfd = endpoint.open_pidfd()
        if pidfd is not None and shortage(pidfd) is not None:
            os.close(pidfd)
            return None
        return pidfd

    def report(self, punt: Punt) -> None:
        """Something for the control plane."""
        self._punts.append(punt)

    # ---- parts of a turn -------------------------------------------------------------------------

    def _note_shortage(self, error: OSError) -> None:
        limit = shortage(sys.maxsize)
        about = f" ({limit.limit}={limit.value})" if limit and error.errno == errno.EMFILE else ""
        self.report(Short(f"{error.strerror}{about}"))

    def _now(self) -> float:
        now = self._clock()
        self.router.delivery.now = now
        return now

    def _serve(self, n_ready: int, now: float) -> None:
        """Everybody who wants something, the least served first, until the time of the turn is over."""
        busy = self.router.busy()
        if not (self._readable or busy):
            self._n_late = 0
            return
        comes_last = self.router.delivery.flow.comes_last
        waiting: dict[int, None] = {}
        late: dict[int, None] = {}
        for endpoint in self._readable:
            (late if comes_last(endpoint.connection, now) else waiting)[endpoint.connection] = None
        waiting.update(dict.fromkeys(busy))
        if not waiting and n_ready <= self._n_late:
            # what they say is being dropped, but nobody else has anything
            waiting = late
        self._n_late = 0
        self._in_order(self._reading, waiting, self._serve_one, now)

    def _serve_one(self, endpoint: Endpoint, now: float) -> None:
        self._readable.pop(endpoint, None)
        endpoint.serve(now)

    def _flush(self, now: float) -> None:
        """Write for everybody who has output, the least served first; the rest goes on in the next turn."""
        writing, self._writing = self._writing, {}
        waiting = [endpoint.connection for endpoint in writing]
        for connection in self._in_order(self._flushing, waiting, Endpoint.flush, now):
            if (endpoint := self._endpoints.get(connection)) is not None:
                self._writing.setdefault(endpoint)

    def _in_order(
        self, schedule: Schedule, waiting: Collection[int], turn: Callable[[Endpoint, float], None],
        now: float,
    ) -> Sequence[int]:
        """Give those who wait their turn, as long as there is time; returns who was not reached."""
        if not waiting:
            return ()
        before = time.perf_counter()

        def serve(connection: int) -> float:
            nonlocal before
            endpoint = self._endpoints.get(connection)
            if endpoint is not None:
                try:
                    turn(endpoint, now)
                except Exception:
                    self.broke(endpoint)
                self._used[endpoint] = None
                self.reactor.settle()
            start, before = before, time.perf_counter()
            return before - start

        endpoints = self._endpoints
        return schedule.run([(endpoints[c].process, c) for c in waiting if c in endpoints], serve)

    def _watch(self) -> None:
        used, self._used = self._used, {}
        for endpoint in used:
            if self._endpoints.get(endpoint.connection) is endpoint:
                try:
                    endpoint.watch(waits=endpoint in self._readable)
                except Exception:
                    self.broke(endpoint)

    def _mind_accepting(self) -> None:
        accepts = self.router.accepts()
        if accepts != self._accepts:
            self._accepts = accepts
            for listener in self._listeners:
                listener.pause(not accepts)

    def _settle(self) -> None:
        """Carry out everything, and what comes of that: nothing of it may wait for the next event."""
        self.reactor.settle()
        while effects := self.router.take_effects():
            self._carry_out(effects)
            self.reactor.settle()

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Wake(connection):
                    endpoint = self._endpoints.get(connection)
                    if endpoint is not None:
                        self._writing[endpoint] = None
                case Close(connection, reason, who):
                    endpoint = self._endpoints.get(connection)
                    if endpoint is not None:
                        if reason:
                            self._punts.append(Closed(endpoint.pid, endpoint.uid, who, reason))
                        self._drop(endpoint)
                case CloseDescriptors(fds):
                    for fd in fds:
                        self.reactor.close_fd(fd)
                case _:
                    self._punts.append(effect)

    def _drop(self, endpoint: Endpoint) -> None:
        if endpoint.connection in self._endpoints:
            self.part(endpoint)
            self.router.disconnect(endpoint.connection, self.router.delivery.now)
            endpoint.close()

    def _close(self) -> None:
        for listener in self._listeners:
            if self._reception is not None:
                self._reception.close(listener)
            listener.close()
        self._listeners.clear()
        self._entrances.close_all()
        self.router.tables.guests.meet_all()
        for endpoint in list(self._endpoints.values()):
            self._drop(endpoint)
        self._settle()
        self.broker.close()
        for watched in self._watched:
            watched.close()
        self._watched.clear()
        if self._signals is not None:
            self._signals.close()
        self._settle()
        self.reactor.close()


class Watched:
    """A descriptor that somebody else reads: a source of the reactor."""

    def __init__(self, switch: PythonSwitch, descriptor: int) -> None:
        self._switch = switch
        self._descriptor = descriptor
        switch.reactor.add(self, select.EPOLLIN)

    def fileno(self) -> int:
        """The watched descriptor."""
        return self._descriptor

    def ready(self, events: int, now: float) -> None:
        """It is readable."""
        self._switch.report(Readable(self._descriptor))

    def close(self) -> None:
        """Watch no more."""
        self._switch.reactor.remove(self)


def _defect(pid: int) -> Failed:
    """What has just been raised, as a defect of the bus."""
    return Failed(pid, account())
