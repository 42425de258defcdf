"""station: the bus's end of one native peer, and its queue of RECVs.

Theory. A peer's descriptor is one end of a socket pair that the bus made. The bus keeps the other end and
uses it for two things: a byte is in flight while the peer is readable, so that the descriptor can be
polled; and when the last copy of the client's end closes, the kernel hangs up and the peer is over.
The answer to RECV that empties the queue says DRAINED, and the client that got it takes the byte out.

All RECVs of the peer, from whichever channel, pass through one line, those of the seed through another. A
parked one waits there until there is a message; one that may be answered again stays in front. Many that look
at the same large message are answered in several turns. A message with descriptors is first *offered*: they
are installed in the client while the message stays queued; the client confirms, and only then the message is
taken. Meanwhile the line waits, so at most one set of descriptors per line is on offer.

A segment that is retired is announced to the channels that were sent it; its charge returns when
each of them has unmapped it or is gone.

Invariants. 1. If the peer is readable, no RECV waits and no offer is open, then a byte is in flight or will
be once there is room for it. 2. A failed offer leaves the message queued. 3. A segment's charge returns
exactly once.

Not here: frames of other operations (requests), the channels' sockets (channel).
"""

from __future__ import annotations

import select
import socket
from functools import partial
from typing import TYPE_CHECKING

from .core.api import OFFSET_INVALID, Ahead, Credentials, Message, MessageType, RecvFlag
from .descriptors import Fds, duplicate, unix_socket_cookie
from .errors import (
    Bus1Error,
    NoSuchHandle,
    OutOfRange,
    PeerShutdown,
    QuotaExceeded,
    RemoteProtocolError,
    TooManyDescriptors,
    WouldBlock,
)
from .frames import (
    ANSWER,
    EVENTS,
    MAX_INLINE_SLICE,
    MESSAGE_ANSWER,
    Event,
    Note,
    RecvOption,
    SliceNote,
    encode,
    error_answer,
)
from .lane import StationLane, serves
from .line import Line, PendingRecv
from .memory import SealedMemory, Segment
from .sending import MAX_REFERENCES

if TYPE_CHECKING:
    from .broker import Broker
    from .channel import Channel

# As plain numbers: enum members cost on every message.
SEED, INSTALL_FDS = int(RecvFlag.SEED), int(RecvFlag.INSTALL_FDS)
PARK, DETACH = int(RecvOption.PARK), int(RecvOption.DETACH)
DRAINED, MORE, RELEASED = int(Note.DRAINED), int(Note.MORE), int(Note.RELEASED)
SEGMENT, DETACHED = int(SliceNote.SEGMENT), int(SliceNote.DETACHED)
_MAX_WAITING = 64
"""RECVs that may wait at one peer, all channels together."""


class PeerStation:
    """One native peer as the broker sees it: its pair, its line of RECVs, who maps what."""

    def __init__(self, broker: Broker, peer: int, opener: Credentials, memory: SealedMemory) -> None:
        self.broker = broker
        self.peer = peer
        self.opener = opener
        self.uid = opener.uid
        self.is_live = True
        self.channels: dict[Channel, None] = {}
        self._memory = memory
        self.queue_line = Line()
        self._seed_line = Line()
        self._is_signalled = self._is_blocked = False
        self._holders: dict[int, set[Channel]] = {}
        self._retiring: dict[int, set[Channel]] = {}
        self._end, self.client_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._end.setblocking(False)
        cookie = unix_socket_cookie(self.client_end.fileno())
        assert cookie is not None
        self.cookie = cookie
        try:
            broker.reactor.add(self, 0)
        except OSError:
            self._end.close()
            self.client_end.close()
            raise
        broker.reactor.station(peer, self)
        self.lane: StationLane | None = None
        """Where its line is, while nothing unusual is to be done."""
        if broker.lane is not None and serves(memory):
            self.lane = StationLane(broker.lane, peer, self._end.fileno(), memory)
            self._give_line()

    # ---- the pair --------------------------------------------------------------------------------

    def fileno(self) -> int:
        """The bus's end of the pair."""
        return self._end.fileno()

    def ready(self, events: int, now: float) -> None:
        """The last copy of the client's end is closed, or there is room for a byte again."""
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self.broker.hang_up(self)
        elif events & select.EPOLLOUT:
            self._is_blocked = False
            self.broker.reactor.modify(self, 0)
            self._take_line()
            self._signal()
            self._give_line()
        else:  # the lane could not serve it
            self._take_line()
            self._serve(self.queue_line)

    def _signal(self) -> None:
        if self._is_signalled or self._is_blocked or self.queue_line.offer or not self.is_live:
            return
        if not self.broker.hub.core.is_readable(self.peer):
            return
        try:
            self._end.send(b"\1", socket.MSG_NOSIGNAL)
            self._is_signalled = True
        except BlockingIOError:
            # Full of bytes that nobody has taken yet: the descriptor is readable, the byte can wait.
            self._is_blocked = True
            self.broker.reactor.modify(self, select.EPOLLOUT)
        except (BrokenPipeError, ConnectionResetError):
            return  # the hang-up is on its way

    def _drained(self) -> int:
        if self._is_signalled and not self.broker.hub.core.is_readable(self.peer):
            self._is_signalled = False
            return DRAINED
        return 0

    def end(self) -> None:
        """The peer is gone: hang up, answer whoever waits."""
        self._take_line()
        self.is_live = False
        if self.lane is not None:
            self.lane.close()
        self.broker.reactor.station(self.peer, None)
        self.broker.reactor.remove(self)
        self.broker.holdings.hang_up(self.uid, self._end)
        self.client_end.close()
        for channel in self.channels:
            channel.peer_gone()
        waiting = self.queue_line.all() + self._seed_line.all()
        self.queue_line, self._seed_line = Line(), Line()
        for request in waiting:
            self._fail(request, PeerShutdown("the peer has been disconnected"))

    # ---- receiving -------------------------------------------------------------------------------

    def woken(self) -> None:
        """The peer turned readable."""
        if self.lane is None or not self.lane.woken():
            self._take_line()
            self._serve(self.queue_line)

    def handed_over(self, request: PendingRecv, message: Message, contents: bytes, released: bool) -> None:
        """Answer it with a message whose slice is released already (``straight``)."""
        self.queue_line.waiting.popleft()
        notes = self._drained() | (RELEASED if released else 0)
        self._push(request, message, notes, contents, DETACHED, self._memory.segment_at(message.offset))

    def recv(self, request: PendingRecv) -> None:
        """Answer a RECV, now or when its turn comes."""
        self._take_line()
        line = self._line_of(request)
        if len(line.waiting) >= _MAX_WAITING:
            self._fail(request, QuotaExceeded("too many RECVs wait at this peer"))
            self._give_line()
            return
        line.waiting.append(request)
        self._serve(line)

    def _line_of(self, request: PendingRecv) -> Line:
        return self._seed_line if request.flags & SEED else self.queue_line

    def cancel(self, channel: Channel, tag: int) -> None:
        """Answer a parked RECV with EAGAIN; one that is on offer goes on."""
        self._take_line()
        for request in self.queue_line.waiting:
            if request.channel is channel and request.tag == tag:
                self.queue_line.waiting.remove(request)
                self._fail(request, WouldBlock("nothing has come in time"))
                break
        self._give_line()

    def _take_line(self) -> None:
        if self.lane is not None:
            is_signalled = self.lane.take(self.queue_line, self.channels)
            if is_signalled is not None:
                self._is_signalled = is_signalled

    def _give_line(self) -> None:
        if self.lane is not None and self.is_live and not self._is_blocked:
            self.lane.give(self.queue_line, self._is_signalled)

    def _serve(self, line: Line) -> None:
        parked: list[PendingRecv] = []
        core = self.broker.hub.core
        most = core.effort() + MAX_REFERENCES
        while line.waiting and line.offer is None:
            if core.effort() > most:
                self.broker.reactor.call_at(self.broker.reactor.clock(), line, partial(self._go_on, line))
                break
            request = line.waiting.popleft()
            if request.options & PARK and self.is_live and not core.is_readable(self.peer):
                parked.append(request)
                continue
            try:
                if not self._answer(request):
                    parked.append(request)
            except WouldBlock as nothing:
                if request.options & PARK:
                    parked.append(request)
                else:
                    self._fail(request, nothing)
            except Bus1Error as error:
                self._fail(request, error)
        line.waiting.extendleft(reversed(parked))
        self._signal()
        self._give_line()

    def _go_on(self, line: Line, now: float) -> None:
        if self.is_live:
            self._take_line()
            self._serve(line)

    def go_on(self) -> None:
        """A user may have read the descriptors that it was sent."""
        if self.is_live:
            self._take_line()
            self._serve(self._seed_line)
            self._take_line()
            self._serve(self.queue_line)

    def _answer(self, request: PendingRecv) -> bool:
        """False: its user has to read other descriptors first."""
        if not (request.flags & INSTALL_FDS and (front := self._front_with_fds(request))):
            self._take(request)
            return True
        fds = front.fds
        channel = request.channel
        if request.options & PARK and not channel.outlet.may_push(len(fds)):
            self.broker.holdings.watch(channel.accepted.uid, self)
            return False
        channel.outlet.check_room(len(fds))
        channel.push(encode(Event.OFFER, request.tag, b"", len(fds)), duplicate(fds))
        request.offered = front.stamp
        self._line_of(request).offer = request
        return True

    def _front_with_fds(self, request: PendingRecv) -> Ahead | None:
        """What the RECV would take, if it has descriptors."""
        core = self.broker.hub.core
        if request.flags & SEED:
            front = core.seed_ahead(self.peer)
        else:
            front = next(iter(core.ahead(self.peer, 1)), None)
        if front is None or not front.fds:
            return None
        if front.offset + front.size > request.max_offset:
            raise OutOfRange(f"the slice ends at {front.offset + front.size}")
        return front

    def installed(self, channel: Channel, tag: int, is_installed: bool) -> None:
        """The client confirms an offer: the message is taken; or it could not: the message stays (R-33)."""
        self._take_line()
        for line in (self.queue_line, self._seed_line):
            request = line.offer
            if request is not None and request.channel is channel and request.tag == tag:
                break
        else:
            raise RemoteProtocolError(f"no descriptors are on offer for tag {tag}")
        line.offer = None
        if not is_installed:
            self._fail(request, TooManyDescriptors("the client could not take the descriptors"))
        elif self._is_still_in_front(request):
            self._confirm(request)
        else:
            line.waiting.appendleft(request)
        self._serve(line)

    def _is_still_in_front(self, request: PendingRecv) -> bool:
        """What was offered has not been dropped meanwhile; its descriptors' numbers may be others' by now."""
        try:
            front = self._front_with_fds(request)
        except Bus1Error:
            return False
        return front is not None and front.stamp == request.offered

    def _confirm(self, request: PendingRecv) -> None:
        try:
            self._take(request)
        except Bus1Error as error:
            self._fail(request, error)

    def _take(self, request: PendingRecv) -> None:
        message = self.broker.hub.core.recv(self.peer, request.flags, request.max_offset)
        released = self._take_release(message) if request.more else 0
        notes = self._drained() | released
        segment = None if message.offset == OFFSET_INVALID else self._memory.segment_at(message.offset)
        if segment is None:
            self._push(request, message, notes, b"", 0, None)
            return
        inline = b""
        if message.size <= MAX_INLINE_SLICE:
            inline = self._memory.contents(message.offset, message.size)
            if request.options & DETACH:
                self._release_slice(segment, message.offset, message.serial)
                self._push(request, message, notes, inline, DETACHED, segment)
                return
        slice_note = 0
        fds: Fds | None = None
        holders = self._holders.setdefault(segment.generation, set())
        if request.channel not in holders and request.channel.outlet.may_push(1):
            try:
                fds = duplicate([segment.fd])
                holders.add(request.channel)
                slice_note = SEGMENT
                self._note_holders(segment.generation)
            except TooManyDescriptors:
                fds = None  # the client asks for it with SEGMENT
        self._push(request, message, notes, inline, slice_note, segment, fds)

    def _take_release(self, message: Message) -> int:
        """A reply is the last message to its node: what that leaves behind goes along."""
        if message.type is MessageType.DATA:
            core = self.broker.hub.core
            for entry in core.ahead(self.peer):
                if entry.type is MessageType.NODE_RELEASE and entry.destination == message.destination:
                    core.recv(self.peer)
                    return RELEASED
        return 0

    def _push(
        self, request: PendingRecv, message: Message, notes: int, inline: bytes, slice_note: int,
        segment: Segment | None, fds: Fds | None = None,
    ) -> None:
        where = (segment.generation, segment.base, segment.size) if segment else (0, 0, 0)
        # A client that does not read is answered no more than it asked for in time.
        if request.more and not request.channel.outlet.is_clogged:
            request.more -= 1
            notes |= MORE
            self._line_of(request).waiting.appendleft(request)
        head = MESSAGE_ANSWER.pack(
            MESSAGE_ANSWER.size + len(inline), request.operation | ANSWER, len(fds or ()), request.tag,
            0, request.done, notes,
            *message[:9], len(message.handles), len(message.fds), len(message.secctx or b""), message.size,
            slice_note, len(inline), *where, message.serial,
        )
        request.channel.push(head + inline, fds)

    def _fail(self, request: PendingRecv, error: Bus1Error) -> None:
        notes = self._drained() if self.is_live else 0
        frame = error_answer(request.operation, request.tag, error, done=request.done, notes=notes)
        request.channel.push(frame)

    # ---- segments --------------------------------------------------------------------------------

    def slice_release(
        self, channel: Channel, offset: int, serial: int, *, is_unmapped: bool = False
    ) -> None:
        """SLICE_RELEASE; the segment's charge waits for the channels that may still map it."""
        segment = self._memory.segment_at(offset)
        if not is_unmapped or segment is None:
            self._release_slice(segment, offset, serial)
            return
        holders = self._holders.get(segment.generation, set())
        self.broker.hub.core.slice_release(self.peer, offset, serial=serial, unmapped=not holders - {channel})
        holders.discard(channel)
        self._note_holders(segment.generation)
        self._forget_holders(segment.generation, holders)

    def _release_slice(self, segment: Segment | None, offset: int, serial: int) -> None:
        holders = self._holders.get(segment.generation) if segment else None
        self.broker.hub.core.slice_release(self.peer, offset, serial=serial, unmapped=not holders)
        if segment and holders is not None:
            self._forget_holders(segment.generation, holders)

    def _forget_holders(self, generation: int, holders: set[Channel]) -> None:
        if not holders and self._memory.segment(generation) is None:
            self._holders.pop(generation, None)

    def segment_for(self, channel: Channel, generation: int) -> tuple[Segment, Fds]:
        """A segment once more, for a channel that could not take it with the answer."""
        segment = self._memory.segment(generation)
        if segment is None or not self.is_live:
            raise NoSuchHandle(f"the pool has no segment {generation}")
        fds = duplicate([segment.fd])
        self._holders.setdefault(generation, set()).add(channel)
        self._note_holders(generation)
        return segment, fds

    def _note_holders(self, generation: int) -> None:
        if self.lane is not None:
            self.lane.note_holders(generation, self._holders.get(generation, ()))

    def retired(self, generation: int) -> None:
        """Core wants a segment back: ask those who map it."""
        holders = self._holders.pop(generation, None)
        self._note_holders(generation)
        if not holders:
            self.broker.hub.core.segment_unmapped(self.peer, generation)
            return
        self._retiring[generation] = holders
        for channel in holders:
            channel.push(encode(Event.RETIRED, 0, EVENTS[Event.RETIRED].pack(generation)))

    def segment_unmapped(self, channel: Channel, generation: int) -> None:
        """One channel has unmapped a segment."""
        for table in (self._retiring, self._holders):
            if channel in (holders := table.get(generation, ())):
                assert isinstance(holders, set)
                holders.discard(channel)
                self._note_holders(generation)
                if not holders:
                    del table[generation]
                    if table is self._retiring:
                        self.broker.hub.core.segment_unmapped(self.peer, generation)
                return
        raise NoSuchHandle(f"segment {generation} is not mapped through this channel")

    def channel_gone(self, channel: Channel) -> None:
        """A channel is closed: its RECVs are cancelled, its offers have failed, it maps nothing."""
        self._take_line()
        self.channels.pop(channel, None)
        for line in (self.queue_line, self._seed_line):
            line.leave(channel)
        if not self.is_live:
            return
        for table in (self._holders, self._retiring):
            for generation in [number for number, holders in table.items() if channel in holders]:
                self.segment_unmapped(channel, generation)
        self.go_on()
