"""flow: who may queue how much at whom, and who waits.

Theory. Core charges every undelivered message to its reader, per sender. This file compares those
charges with high-water marks before a message is handed to Core, and says what becomes of it: the
table ``_OVER_THE_MARK`` is docs/design.md §7. Descriptors weigh as much as ``FD_WEIGHT`` bytes,
because the bus has few of them. A sender that has to wait is in ``pauses``; its message stays unread
in its input, and the router tries it again when ``retries`` names it.

A reader makes progress if bytes entered its socket within the last ``PATIENCE`` seconds, or if its
queue became non-empty less than that ago. Of a native reader no socket is seen: its progress shows
as a queue that is shorter than what has been put into it.

Invariants. 1. Nothing that fits below the marks is ever refused. 2. A sender from which somebody
awaits a reply is never paused, nor is one whose reader is paused: so pauses form no cycle. 3. No sender
waits longer than ``PATIENCE`` for a reader that makes no progress.

Not here: the delivery itself, and what the refused sender is told (delivery, router).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, IntEnum

from bus1.core.api import CoreApi, Limits, Usage
from bus1.record import EMPTY, owned, record

from .limits import BusLimits, Excess

OVERHEAD = 512
"""Charged with every message of a hosted peer, beyond its slice."""
PAIR_MARK = 16 << 20
"""Bytes that one sender may keep waiting at one reader, or one message if that is larger."""
READER_MARK = 64 << 20
"""Bytes that all senders together may keep at a reader without progress, or one message."""
BUS_MARK = 16 << 20
"""Answers of the bus that a connection may leave unread before it is not read any more."""
RESERVE = 64 << 20
"""Room above ``max_outgoing_bytes`` for what the bus itself says, NoReply above all."""
FD_WEIGHT = 64 << 10
"""What a waiting descriptor counts against the marks."""
PATIENCE = 0.1
"""Seconds: how long a reader may stand still, and a sender wait for it."""

_PLENTY = 2**31 - 1


class Kind(IntEnum):
    """What a message is to its reader."""

    BROADCAST = 0
    CALL = 1
    SIGNAL = 2
    """A signal with a destination."""
    REPLY = 3
    BUS = 4
    """Said by the bus itself."""
    COPY = 5
    """What a monitor sees of others."""


class Verdict(Enum):
    """What becomes of one message for one reader."""

    DELIVER = "deliver"
    DROP = "drop"
    PAUSE = "pause"
    REFUSE = "refuse"


_OVER_THE_MARK: dict[tuple[Kind, bool], tuple[Verdict, Verdict]] = {
    # (kind, the sender can be paused): (the reader makes progress, it does not)
    (Kind.BROADCAST, False): (Verdict.DELIVER, Verdict.DROP),
    (Kind.BROADCAST, True): (Verdict.DELIVER, Verdict.DROP),
    (Kind.COPY, False): (Verdict.DELIVER, Verdict.DROP),
    (Kind.COPY, True): (Verdict.DELIVER, Verdict.DROP),
    (Kind.CALL, True): (Verdict.PAUSE, Verdict.PAUSE),
    (Kind.SIGNAL, True): (Verdict.PAUSE, Verdict.PAUSE),
    (Kind.CALL, False): (Verdict.DELIVER, Verdict.REFUSE),
    (Kind.SIGNAL, False): (Verdict.DELIVER, Verdict.DROP),
    (Kind.REPLY, False): (Verdict.DELIVER, Verdict.REFUSE),
    (Kind.REPLY, True): (Verdict.DELIVER, Verdict.REFUSE),
}


def allocated(n_bytes: int, n_fds: int = 0) -> int:
    """What a message of ``n_bytes`` weighs at a hosted reader."""
    return (n_bytes + 7 & ~7) + OVERHEAD + n_fds * FD_WEIGHT


def payload(usage: Usage) -> Usage:
    """What waits at a hosted reader, without what is charged beyond it."""
    return usage._replace(bytes=usage.bytes - usage.messages * OVERHEAD)


def user_limits(limits: BusLimits) -> Limits:
    """The user's maxima in Core: four times what all connections that may exist can hold."""
    share = 4 * max(1, limits.max_completed_connections + limits.max_incomplete_connections)
    hosted = hosted_limits(limits)
    return Limits(
        slices=share * hosted.slices,
        handles=share * hosted.handles,
        inflight_bytes=share * hosted.inflight_bytes,
        inflight_fds=share * hosted.inflight_fds,
    )


def hosted_limits(limits: BusLimits) -> Limits:
    """The maxima of one D-Bus connection in Core: the hard bound, and the bus's reserve."""
    return Limits(
        slices=_PLENTY,
        handles=_PLENTY,
        inflight_bytes=max(limits.max_outgoing_bytes, limits.max_message_size) + RESERVE,
        inflight_fds=max(limits.max_outgoing_unix_fds, limits.max_message_unix_fds),
    )


@record()
class Pause:
    """A sender whose next message waits for room at ``reader``."""

    reader: int
    since: float
    size: int
    n_fds: int


@record()
class _Reader:
    """What is known of a reader's pace."""

    moved: float
    """When it last made progress."""
    gave_up: bool = False
    """A sender has waited in vain, and nothing moved since."""
    expected: int = 0
    """Of a native reader: bytes that wait if it has taken nothing."""
    is_native: bool = False
    waiting: dict[int, Pause] = EMPTY
    """Paused senders that wait for this reader, the longest first."""


class Flow:
    """The paces of all readers, and the senders that wait for them."""

    def __init__(self, core: CoreApi, limits: BusLimits) -> None:
        self._core = core
        self._limits = limits
        self._of_peers: dict[int, BusLimits] = {}
        """Those of D-Bus clients for whose user others hold."""
        self._readers: dict[int, _Reader] = {}
        self.awaited: dict[int, None] = {}
        """Readers that somebody waits for; ``router`` reads it, too."""
        self._changed: set[int] = set()
        """Those of them that took something since the last look."""
        self._freed: list[int] = []
        """Senders whose reader is gone."""
        self.pauses: dict[int, Pause] = {}
        self._wasteful: dict[int, float] = {}
        """Senders of broadcasts that were dropped, and until when they come last."""

    def configure(self, limits: BusLimits) -> None:
        """Other bounds from now on."""
        self._limits = limits

    def meet(self, peer: int, limits: BusLimits) -> None:
        """From now on these are the bounds of what this peer sends, and has waiting."""
        if limits is self._limits:
            self._of_peers.pop(peer, None)
        else:
            self._of_peers[peer] = limits

    def admits(
        self, sender: int, reader: int, size: int, kind: Kind, now: float, *, pausable: bool = False,
        n_fds: int = 0,
    ) -> Verdict:
        """What becomes of a message of ``size`` (see ``allocated``) from ``sender`` to ``reader``.

        PAUSE enters the sender into ``pauses``; any other verdict ends its pause for this reader."""
        if kind is Kind.BUS:
            return Verdict.DELIVER
        verdict = self._judge(sender, reader, size, n_fds, kind, now, pausable)
        pause = self.pauses.get(sender)
        if pause is not None and (verdict is not Verdict.PAUSE) == (pause.reader == reader):
            self._end_pause(sender)
            pause = None
        if verdict is Verdict.PAUSE and pause is None:
            pace = self._readers.setdefault(reader, _Reader(now))
            pace.waiting = owned(pace.waiting)
            self.pauses[sender] = pace.waiting[sender] = Pause(reader, now, size, n_fds)
            self.awaited[reader] = None
        if verdict is Verdict.DROP and kind is Kind.BROADCAST:
            self._wasteful[sender] = now + PATIENCE
        return verdict

    def comes_last(self, sender: int, now: float) -> bool:
        """What ``sender`` says is being dropped: it is to be read only when others are idle."""
        until = self._wasteful.get(sender)
        if until is not None and now >= until:
            del self._wasteful[sender]
            until = None
        return until is not None

    def wasteful(self, now: float) -> Iterable[int]:
        """Senders whose broadcasts are being dropped."""
        if not self._wasteful:
            return ()
        return [sender for sender in list(self._wasteful) if self.comes_last(sender, now)]

    def delivering(self, reader: int, size: int, now: float) -> None:
        """A message of ``size`` is about to be queued at ``reader``."""
        pace = self._readers.get(reader)
        if pace is None:
            pace = self._readers[reader] = _Reader(now)
        elif not self._core.waiting(reader).messages:
            pace.moved, pace.gave_up, pace.expected = now, False, 0
        pace.expected += size

    def undelivered(self, reader: int, size: int) -> None:
        """That message was not queued after all."""
        pace = self._readers.get(reader)
        if pace is not None:
            pace.expected -= size

    def moved(self, reader: int, when: float) -> None:
        """Its queue became non-empty, or bytes of it entered the socket: that was at ``when``."""
        self._readers.setdefault(reader, _Reader(when))
        self.progressed(reader, when)

    def progressed(self, reader: int, now: float) -> None:
        """Bytes entered the reader's socket."""
        pace = self._readers.get(reader)
        if pace is not None:
            pace.moved, pace.gave_up = now, False
            if pace.waiting:
                self._changed.add(reader)

    def forget(self, peer: int) -> None:
        """The peer is gone, as a reader and as a sender; who waited for it is due at once."""
        self._end_pause(peer)
        self._of_peers.pop(peer, None)
        self._wasteful.pop(peer, None)
        pace = self._readers.pop(peer, None)
        if pace is not None:
            self._freed += pace.waiting
            for sender in pace.waiting:
                del self.pauses[sender]
            self.awaited.pop(peer, None)
            self._changed.discard(peer)

    def makes_progress(self, reader: int, now: float) -> bool:
        """True while the reader's queue moves, or has just become non-empty."""
        pace = self._readers.get(reader)
        return pace is None or now - pace.moved < PATIENCE

    def look_at_native(self, reader: int, now: float) -> None:
        """Notice the progress of a reader whose socket this bus does not see."""
        pace = self._readers.get(reader)
        if pace is None:
            return
        pace.is_native = True
        waiting = self._core.waiting(reader).bytes
        if waiting < pace.expected:
            self.progressed(reader, now)
        pace.expected = waiting

    def retries(self, now: float) -> list[int]:
        """Paused senders whose message should be tried again now."""
        if not (self._freed or self._changed or self.awaited):
            return []
        due, self._freed = self._freed, []
        for reader in self.awaited:
            pace = self._readers[reader]
            if pace.is_native:
                self.look_at_native(reader, now)
            has_changed = reader in self._changed
            for sender, pause in pace.waiting.items():
                if now >= _expiry(pace, pause) or (
                    has_changed and self._fits(sender, reader, pause.size, pause.n_fds, now)
                ):
                    due.append(sender)
                elif not has_changed:
                    break
        self._changed.clear()
        return due

    def next_deadline(self) -> float | None:
        """When the first pause ends by itself; a time that has passed if something is due."""
        if self._freed or self._changed:
            return float("-inf")
        if not self.awaited:
            return None
        first = (self._readers[reader] for reader in self.awaited)
        return min((_expiry(pace, next(iter(pace.waiting.values()))) for pace in first), default=None)

    def _end_pause(self, sender: int) -> None:
        pause = self.pauses.pop(sender, None)
        if pause is not None:
            pace = self._readers[pause.reader]
            del pace.waiting[sender]
            if not pace.waiting:
                del self.awaited[pause.reader]
                self._changed.discard(pause.reader)

    def _judge(
        self, sender: int, reader: int, size: int, n_fds: int, kind: Kind, now: float, pausable: bool
    ) -> Verdict:
        if self._fits(sender, reader, size, n_fds, now):
            return Verdict.DELIVER
        moving = self.makes_progress(reader, now)
        waits = pausable and reader not in self.pauses
        verdict = _OVER_THE_MARK[kind, waits][not moving]
        if verdict is Verdict.PAUSE and not moving and self._waited(sender, reader, now):
            return Verdict.REFUSE
        if verdict is Verdict.DELIVER and self._hard_excess(reader, size, n_fds) is not None:
            return _OVER_THE_MARK[kind, False][1]
        return verdict

    def excess(self, sender: int, reader: int, size: int, n_fds: int, now: float) -> Excess | None:
        """What this message would go beyond; None if nothing."""
        waiting = self._core.waiting(reader)
        if not waiting.messages:
            return None
        hard = self._hard_excess(reader, size, n_fds)
        if hard is not None:
            return hard
        limits = self._of_peers.get(sender, self._limits)
        mine = self._core.queued(sender, reader)
        if n_fds and mine.fds and mine.fds + n_fds > limits.max_incoming_unix_fds:
            return Excess("max_incoming_unix_fds", limits.max_incoming_unix_fds, mine.fds)
        weight = _weight(mine)
        if weight and weight + size > PAIR_MARK:
            return Excess("bytes_per_sender", PAIR_MARK, weight)
        if mine.bytes and mine.bytes + size - n_fds * FD_WEIGHT > limits.max_incoming_bytes:
            return Excess("max_incoming_bytes", limits.max_incoming_bytes, mine.bytes)
        weight = _weight(waiting)
        if weight + size > READER_MARK and not self.makes_progress(reader, now):
            return Excess("bytes_per_reader", READER_MARK, weight)
        return None

    def _hard_excess(self, reader: int, size: int, n_fds: int) -> Excess | None:
        limits = self._of_peers.get(reader, self._limits)
        waiting = self._core.waiting(reader)
        if waiting.bytes and waiting.bytes + size - n_fds * FD_WEIGHT > limits.max_outgoing_bytes:
            return Excess("max_outgoing_bytes", limits.max_outgoing_bytes, waiting.bytes)
        if n_fds and waiting.fds and waiting.fds + n_fds > limits.max_outgoing_unix_fds:
            return Excess("max_outgoing_unix_fds", limits.max_outgoing_unix_fds, waiting.fds)
        return None

    def _fits(self, sender: int, reader: int, size: int, n_fds: int, now: float) -> bool:
        return self.excess(sender, reader, size, n_fds, now) is None

    def _waited(self, sender: int, reader: int, now: float) -> bool:
        """The patience with this reader is over: for this sender, or for all until it moves."""
        pace = self._readers.get(reader)
        if pace is None:
            return False
        pause = self.pauses.get(sender)
        if pause is not None and pause.reader == reader and now - pause.since >= PATIENCE:
            pace.gave_up = True
        return pace.gave_up


def _expiry(pace: _Reader, pause: Pause) -> float:
    return max(pause.since, pace.moved) + PATIENCE


def _weight(usage: Usage) -> int:
    return usage.bytes + usage.fds * FD_WEIGHT
