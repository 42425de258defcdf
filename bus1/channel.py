"""channel: the bus's side of one client connection.

Theory. A channel reads frames, lets ``requests`` execute them one after the other, and writes the answers.
It is bound to one peer by OPEN or ATTACH and does not keep it alive. Per turn it reads once and executes
what the allowance of its user permits; what is left goes on in a later turn, after everybody else had one.
A request that is ``Unfinished`` ends the turn, too: it stays in front, parsed, with its descriptors, and
those behind it wait. While answers pile up unsent, the channel executes and reads nothing: a client that
does not read stops itself alone. Where there is a lane, the input is the lane's as long as the channel has
nothing in hand.

Invariants. 1. Effects of a request are settled before its answer is written. 2. Malformed bytes close this
channel, in words, and touch nothing else. 3. Requests that are complete when the client closes its sending
side are executed, and the answers written, before the channel is closed. 4. A closed channel owns no
descriptor, no timer, no place in any table; its outlet may wait for the client to read. 5. A defect that
shows in a channel's turn costs that channel.

Not here: the peer's own descriptor and its RECVs (station), the meaning of requests (requests), how answers
leave (outlet).
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress
from typing import TYPE_CHECKING

from .core.api import Credentials
from .descriptors import Fds
from .errors import (
    Bus1Error,
    PeerShutdown,
    ProtocolError,
    QuotaExceeded,
    RemoteProtocolError,
    TooManyDescriptors,
)
from .frames import Frame, FrameReader, refusal
from .lane import ChannelLane
from .namespaces import pidfd_of, pids_of
from .outlet import Outlet
from .record import replace
from .requests import execute
from .sending import REFERENCES_PER_REQUEST, Sending
from .transport import DONTWAIT, RECEIVE_SIZE, Arrival, credentials_of, receive
from .unfinished import Unfinished

if TYPE_CHECKING:
    from .broker import Broker
    from .station import PeerStation

_HANG_UP = select.EPOLLHUP | select.EPOLLERR
_INPUT = select.EPOLLIN | select.EPOLLRDHUP | _HANG_UP


class Channel:
    """One connected client socket; a source of the reactor."""

    def __init__(self, broker: Broker, sock: socket.socket) -> None:
        self.broker = broker
        self.station: PeerStation | None = None
        self.is_greeted = False
        self.arena: tuple[int, int] | None = None
        """Descriptor and size of the memory through which large payloads come."""
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._sock = sock
        self.descriptor = sock.fileno()
        self._lane: ChannelLane | None = None
        self.accepted = credentials_of(sock)
        """Who connected; its uid is what a peer opened here is charged to."""
        self.credentials = self.accepted
        """Who sent the request that is being executed."""
        self._has_asked = False
        """What other namespaces call this process has been looked up."""
        self.sending: Sending | None = None
        """What the request in front sends, if it goes on in the next turn."""
        self._front: Frame | None = None
        """That request, or the one whose turn has not come yet; it owns its descriptors."""
        self._reader = FrameReader()
        self._n_stray_fds = 0
        self._n_incomplete = 0
        """Descriptors and bytes of requests in waiting that are charged."""
        self.spent = 0
        """What the requests of this turn have cost so far: one each, and more if they are or do much."""
        self._is_working = False
        self._is_ended = False
        self._is_closed = False
        self._has_more = False
        self._events = _INPUT
        reactor = broker.reactor
        reactor.add(self, self._events)
        try:
            until = reactor.clock() + broker.limits.handshake_timeout
            reactor.call_at(until, (self, "handshake"), self._give_up)
            self._allowance = broker.allowance_of(self.accepted.uid)
            self.outlet = Outlet(broker, sock, self.accepted.uid, self._resume)
            """Where answers leave."""
        except BaseException:
            reactor.cancel((self, "handshake"))
            reactor.remove(self)
            raise

    def fileno(self) -> int:
        """The connection."""
        return self._sock.fileno()

    # ---- turns -----------------------------------------------------------------------------------

    def ready(self, events: int, now: float) -> None:
        """Epoll: read once, execute, write."""
        try:
            if self._lane is not None:
                self._take_back()
            if events & _HANG_UP:
                # Nobody reads answers any more; what was requested completely still counts.
                self.outlet.forget()
            if events & _INPUT and not self._has_more:
                self._read()
            self._allowance.begin_turn()
            if not self._allowance.line:
                self._take_turn(now)
            elif self not in self._allowance.line:
                self._has_more = True
                self._end_turn(now)
        except Exception:
            self.broker.broke(self)

    def _resume(self, now: float) -> None:
        self.ready(0, now)

    def drain(self, now: float) -> None:
        """Execute what the client has sent completely so far: its peer is about to go."""
        try:
            self._drain(now)
        except Exception:
            self.broker.broke(self)

    def _drain(self, now: float) -> None:
        self._take_back()
        budget, turns = self.broker.limits.drained_bytes, self.broker.limits.drained_turns
        left = self.broker.limits.drained_requests
        left -= self._work(left)
        while True:
            if self._front is not None and turns > 0 and not self.outlet.is_clogged:
                turns -= 1
            elif self._front is None and budget > 0 and left > 0 and (size := self._read()):
                budget -= size
            else:
                break
            left -= self._work(left)
        self._end_turn(now)

    def go_on(self, now: float) -> None:
        """Its turn among the channels of its user has come."""
        try:
            self._take_turn(now)
        except Exception:
            self.broker.broke(self)

    def _take_turn(self, now: float) -> None:
        self._allowance.left -= self._work(self._allowance.left)
        self._end_turn(now)

    def _end_turn(self, now: float) -> None:
        if not self.outlet.is_empty:
            self._flush()
        if self._is_closed:
            return
        if self._is_ended and not self._has_more and self.outlet.is_empty:
            self.close()
            return
        if self._has_more and not self.outlet.is_clogged:
            self._allowance.wait(self)
        self._watch()
        if self._lane is not None:
            self._give_back()

    def _take_back(self) -> bool:
        """The input is Python's now; whether there was some that the lane has not executed."""
        if self._lane is None or self._is_closed:
            return False
        left = self._lane.take()
        for frame in left.frames:
            self.outlet.push(frame)
        if not (left.data or left.truncated):
            return False
        self._reader.feed(left.data, left.fds, truncated=left.truncated)
        if left.truncated:
            self.refuse(TooManyDescriptors("the bus has no room for more descriptors"))
        elif left.sender is not None:
            self.credentials = self._sender(Arrival(len(left.data), False, *left.sender))
        if left.fds:
            try:
                self.broker.holdings.check_closing(self.accepted.uid)
            except QuotaExceeded as error:
                self.refuse(error)
        return True

    def _give_back(self) -> None:
        """The input is the lane's, if nothing is in hand and nothing unusual goes on."""
        station = self.station
        if self._lane is None or station is None or not station.is_live or self._is_ended or self._has_more:
            return
        if self._front is None and self._reader.is_empty and self.outlet.is_empty:
            self._lane.give(self.credentials)

    def _watch(self) -> None:
        if self._is_closed:
            return
        events = self.outlet.events
        if not (self._is_ended or self._has_more or self.outlet.is_clogged):
            events |= select.EPOLLIN | select.EPOLLRDHUP
        if events != self._events:
            self._events = events
            self.broker.reactor.modify(self, events)

    def _read(self) -> int:
        if self._is_closed or self._is_ended:
            return 0
        try:
            size = self.broker.holdings.allowed(self.accepted.uid, self._sock, RECEIVE_SIZE)
            arrival = receive(self._sock, self._reader, DONTWAIT, size)
        except QuotaExceeded as error:
            self.refuse(error)
            return 0
        except BlockingIOError:
            return 0
        except OSError:
            self._is_ended = True
            return 0
        if arrival.truncated:
            self.refuse(TooManyDescriptors("the bus has no room for more descriptors"))
            return 0
        if not arrival.size:
            self._is_ended = True
            return 0
        self.credentials = self._sender(arrival)
        return arrival.size

    def _sender(self, arrival: Arrival) -> Credentials:
        """Who wrote what has just been read; looked up once, as long as it is the same process."""
        known, asks = self.credentials, self.broker.has_foreign_peers
        is_same = known.pid == arrival.pid and known.uid == arrival.uid and known.gid == arrival.gid
        if is_same and (self._has_asked or not asks):
            return known
        sender = Credentials(arrival.uid, arrival.gid, arrival.pid, 0, self.accepted.secctx)
        self._has_asked = False
        if asks:
            with suppress(OSError), pidfd_of(self._sock, self.accepted, sender) as pidfd:
                sender = replace(sender, pids=pids_of(sender.pid, pidfd))
                self._has_asked = True
        return sender

    def process(self) -> Fds:
        """A descriptor of the process whose request is executed (``pidfd_of``)."""
        return pidfd_of(self._sock, self.accepted, self.credentials)

    def _work(self, budget: int) -> int:
        """Execute what is there, within ``budget``; what it has cost."""
        self._is_working = True
        self._has_more = False
        self.spent = 0
        core = self.broker.hub.core
        effort = core.effort()
        try:
            while not self._is_closed:
                frame, self._front = self._front or self._reader.next(), None
                if frame is None:
                    break
                if self.spent >= budget or self.outlet.is_clogged:
                    self._front = frame
                    self._has_more = True
                    break
                self.spent += 1
                if not self._execute(frame):
                    self._has_more = True
                    break
                before, effort = effort, core.effort()
                self.spent += (effort - before) // REFERENCES_PER_REQUEST
        except ProtocolError as error:
            self.refuse(error)
        finally:
            self._is_working = False
        if not self._is_closed:
            self._mind_waiting()
        return self.spent

    def _execute(self, frame: Frame) -> bool:
        """False: the request goes on in the next turn."""
        try:
            reply = execute(self, frame)
        except Unfinished:
            self._front = frame
            return False
        finally:
            if frame.n_fds and self._front is not frame:
                self._discard(frame.fds)
        self.broker.reactor.settle()
        if reply is not None:
            self.push(*reply)
        return True

    def peer_gone(self) -> None:
        """The peer is over: the request in front can only fail, and needs nothing of what it holds."""
        self.sending = None
        if self._front is not None:
            self._discard(self._front.fds)
            self._mind_waiting()

    def _mind_waiting(self) -> None:
        # A client that stops in mid-frame must not keep descriptors of the bus for ever, nor its memory.
        if self._front is None and self._reader.is_empty and not (self._n_stray_fds or self._n_incomplete):
            return
        n_fds, n_bytes = self._reader.n_stray_fds, self._reader.n_bytes
        if self._front is not None:
            n_fds, n_bytes = n_fds + len(self._front.fds), n_bytes + len(self._front.body)
        n_bytes = max(0, n_bytes - RECEIVE_SIZE)
        if n_fds == self._n_stray_fds and n_bytes == self._n_incomplete and not n_fds:
            return
        key, reactor = (self, "descriptors"), self.broker.reactor
        try:
            self._charge_waiting(n_fds, n_bytes)
        except QuotaExceeded as error:
            self.refuse(error)
            return
        if n_fds:
            reactor.call_at(reactor.clock() + self.broker.limits.handshake_timeout, key, self._give_up)
        else:
            reactor.cancel(key)

    def _charge_waiting(self, n_fds: int, n_bytes: int) -> None:
        self.broker.charge_stray_fds(self.accepted.uid, n_fds - self._n_stray_fds)
        self._n_stray_fds = n_fds
        self.broker.charge_incomplete(self.accepted.uid, n_bytes - self._n_incomplete)
        self._n_incomplete = n_bytes

    def _discard(self, fds: Fds) -> None:
        self.broker.holdings.discard(self.accepted.uid, fds.take_all())

    # ---- output ----------------------------------------------------------------------------------

    def push(self, frame: bytes, fds: Fds | None = None) -> None:
        """Queue a frame; it leaves with this turn's answers, or at once if this is not the channel's turn."""
        if self._is_closed:
            if fds is not None:
                self._discard(fds)
            return
        if fds is None and not self._is_working and not (frame := self.outlet.send(frame)):
            return
        self.outlet.push(frame, fds)
        if not self._is_working:
            self._flush()
            if not self.outlet.is_empty and self._take_back():
                self._has_more = True
                self._allowance.wait(self)
            self._watch()

    def _flush(self) -> None:
        if self._is_closed:
            return
        try:
            self.outlet.flush()
        except OSError:
            # Nobody reads any more: close, but not in the middle.
            self.outlet.forget()
            self._is_ended = True
            self._has_more = True
            self._allowance.wait(self)

    # ---- binding and the end ---------------------------------------------------------------------

    def bind(self, station: PeerStation) -> None:
        """From now on this channel's requests are the peer's."""
        self.station = station
        station.channels[self] = None
        if station.lane is not None:
            self._lane = station.lane.channel(self.descriptor, self.accepted.uid, self.credentials)
        self.broker.reactor.cancel((self, "handshake"))

    def check_live(self) -> PeerStation:
        """The station of the peer that this channel speaks for; PeerShutdown if that is over."""
        station = self.station
        assert station is not None
        if not station.is_live:
            raise PeerShutdown("the peer has been disconnected")
        return station

    def replace_arena(self, fd: int, size: int) -> None:
        """Take ``fd`` as the new arena; QuotaExceeded leaves the old one, and ``fd`` with the caller."""
        old = self.arena[1] if self.arena else 0
        uid, holdings = self.accepted.uid, self.broker.holdings
        holdings.check(uid, 1)
        self.broker.charge_arena(uid, size - old)
        holdings.book(uid, 1)
        self._close_arena()
        self.arena = (fd, size)
        if self._lane is not None:
            self._lane.set_arena(self.arena)

    def _close_arena(self) -> None:
        if self.arena is not None:
            os.close(self.arena[0])
            self.arena = None
            self.broker.holdings.book(self.accepted.uid, -1)

    def _give_up(self, now: float) -> None:
        self.refuse(RemoteProtocolError("the client did not go on in time"))

    def refuse(self, error: Bus1Error) -> None:
        """Say why, and close."""
        self._take_back()
        if not self._is_closed:
            self.outlet.push(refusal(error))
            self._flush()
            self.close()

    def close(self) -> None:
        """Close the connection and forget it everywhere; the peer lives on."""
        self._take_back()
        if self._is_closed:
            return
        self._is_closed = True
        if self._lane is not None:
            self._lane.close()
        reactor = self.broker.reactor
        self._allowance.leave(self)
        for key in ("handshake", "descriptors"):
            reactor.cancel((self, key))
        reactor.remove(self)
        self.outlet.close()
        self.sending = None
        if self._front is not None:
            self._discard(self._front.fds)
            self._front = None
        self._discard(self._reader.take_fds())
        self._reader.close()
        self._charge_waiting(0, 0)
        if self.arena is not None:
            self.broker.charge_arena(self.accepted.uid, -self.arena[1])
            self._close_arena()
        self.broker.channel_gone(self)
        if self.station is not None:
            self.station.channel_gone(self)
