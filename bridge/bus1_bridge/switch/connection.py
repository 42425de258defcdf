"""connection: one D-Bus connection as bytes in, messages, bytes out.

Theory. A connection authenticates, then sends messages. Bytes that came in wait in one buffer, which
grows with what really arrived, never with what a header announces; descriptors wait beside it until
the message that claims them is complete. A complete frame becomes ``Incoming``: its header is checked
at once, its body in steps, so that a large one takes many turns.

Output has no queue here. What is kept is how much of the first item has been written: that item is an
authentication line, a message that stands for a notification, or the front of the hosted queue in Core.

Invariants. 1. Every descriptor that came in is in ``fds``, in ``incoming``, or has been given away.
2. After a RemoteProtocolError the connection is of no further use.

Not here: what messages mean (router), sockets (loop).
"""

from __future__ import annotations

from collections.abc import Sequence

from bus1.core.api import Buffer, Usage
from bus1.errors import RemoteProtocolError
from bus1.record import record

from .. import codec, wire
from ..capabilities import GrantedPaths
from ..codec import BodyCheck
from ..sasl import MAX_BUFFER, ServerAuth
from ..walk import ANY_FD
from .limits import BusLimits
from .tables import NOTHING_YET, LegacyParty

AUTH_CHUNK = 2 << 10
"""Bytes to ask the socket for during the authentication, whose lines are short and cost much each."""
CHUNK = 64 << 10
"""Bytes to ask the socket for when nothing is known of what comes."""
LARGE_CHUNK = 1 << 20
"""The most to ask for in one go within a large message."""
_FIXED_HEADER = 16


@record()
class Incoming:
    """One complete frame with its descriptors; ``check`` is the unfinished check of its body."""

    message: Buffer
    header: wire.Header
    fds: tuple[int, ...]
    check: BodyCheck | None
    granted: GrantedPaths | None = None
    """What the check has found of the sender's capabilities; None if the sender has none."""
    is_shown: bool = False
    """Monitors have seen it."""
    may_wait: bool = True
    """False: it has waited for its destination to be started, and is delivered or refused now."""

    @property
    def body(self) -> memoryview:
        """The body as it lies."""
        return memoryview(self.message)[self.header.header_length :]


class Connection:
    """The state of one connection, apart from its party and its hosted peer."""

    __slots__ = (
        "_buffer", "_fds_came", "_start", "_whole", "accepted", "auth", "ending", "fds", "fds_are_timed",
        "fds_since", "has_ended", "incoming", "is_deaf", "limits", "lines", "notice", "offset", "party",
        "peak",
    )

    def __init__(self, party: LegacyParty, auth: ServerAuth, limits: BusLimits, now: float) -> None:
        self.party = party
        party.stream = self
        self.auth: ServerAuth | None = auth
        self.accepted = now
        self.incoming: Incoming | None = None
        self.fds: Sequence[int] = ()
        self.fds_since = 0.0
        """When the oldest of ``fds`` came, or a later one."""
        self._fds_came = 0.0
        self.fds_are_timed = False
        """The router has a deadline for them."""
        self.lines = b""
        """Answers of the authentication, not yet written."""
        self.notice = b""
        """A message in place of a notification, being written; it goes before the queue."""
        self.offset = 0
        """Bytes written of the notice or, without one, of the queue's first message."""
        self.has_ended = False
        """The client sends nothing more."""
        self.is_deaf = False
        """The client receives nothing more."""
        self.ending = ""
        """Why the bus closes it as soon as the output is written."""
        self.peak = NOTHING_YET
        """The most that ever waited to be handled."""
        self.limits = limits
        """Those of its user."""
        self._whole = b""
        """What came last if nothing waited: mostly exactly one message, which needs no copy then."""
        self._buffer: bytearray | bytes = b""
        """All else; bytes only if there are none."""
        self._start = 0

    def take(self, data: bytes, fds: Sequence[int], now: float) -> None:
        """Bytes of one recvmsg; ownership of the descriptors passes. RemoteProtocolError."""
        if fds:
            if not self.fds:
                self.fds_since = now
            self._fds_came = now
            self.fds = [*self.fds, *fds]
            if len(self.fds) > self.limits.max_message_unix_fds:
                raise RemoteProtocolError(f"{len(self.fds)} descriptors are pending ({self._fds_limit()})")
        if self.auth is None:
            if self._buffer or self._whole:
                self._keep(self._whole + data)
                self._whole = b""
            else:
                self._whole = data
        else:
            self._authenticate(self.auth, data)
        n_bytes = len(self._buffer) - self._start + len(self._whole)
        if n_bytes > self.peak.bytes or len(self.fds) > self.peak.fds:
            self.peak = Usage(max(n_bytes, self.peak.bytes), 0, max(len(self.fds), self.peak.fds))
        if self.fds and self.auth is None and not self.party.takes_fds:
            raise RemoteProtocolError("descriptors came without negotiation")

    def unhandled(self) -> Usage:
        """What has come and is not handled yet; its first message, if that is whole."""
        n_bytes, n_fds = len(self._buffer) - self._start + len(self._whole), len(self.fds)
        if self.incoming is None:
            return Usage(n_bytes, 0, n_fds)
        return Usage(n_bytes + len(self.incoming.message), 1, n_fds + len(self.incoming.fds))

    @property
    def is_empty(self) -> bool:
        """Nothing has come that is not handled."""
        return self.incoming is None and not (self._whole or self.fds or len(self._buffer) > self._start)

    def advance(self, budget: int) -> tuple[Incoming | None, int]:
        """The next complete and checked message, and the bytes of the budget that were used.

        None: there is none yet, or the budget is used up (then ``incoming`` is set)."""
        if self.auth is not None:
            return None, 0
        if self.incoming is None:
            self.incoming = self._next_frame()
            if self.incoming is None:
                return None, 0
        incoming = self.incoming
        used = incoming.header.header_length
        if incoming.check is not None:
            if not incoming.check.step(max(1, budget - used)):
                return None, budget
            incoming.check = None
            used += incoming.header.body_length
        self.incoming = None
        return incoming, used

    def hold(self, incoming: Incoming) -> None:
        """The message can't go on now: ``advance`` gives it again."""
        self.incoming = incoming

    def wanted(self) -> int:
        """How many bytes to ask the socket for."""
        if self.auth is not None:
            return AUTH_CHUNK
        available = len(self._buffer) - self._start
        length = codec.frame_length(bytes(self._buffer[self._start : self._start + _FIXED_HEADER]))
        if self.fds:
            # of later messages nothing is read: their descriptors would count with those that are here
            return min(max(1, (length or _FIXED_HEADER) - available), LARGE_CHUNK)
        if length is None or length <= max(CHUNK, available):
            return CHUNK
        return min(length - available, LARGE_CHUNK)

    def take_descriptors(self) -> list[int]:
        """All descriptors that are still here; the caller owns them."""
        fds, self.fds = list(self.fds), ()
        if self.incoming is not None:
            fds.extend(self.incoming.fds)
            self.incoming.fds = ()
        return fds

    def _authenticate(self, auth: ServerAuth, data: bytes) -> None:
        if len(auth.rest) + len(data) > MAX_BUFFER:
            raise RemoteProtocolError(f"more than {MAX_BUFFER} bytes of authentication at once")
        self.lines += auth.feed(data)
        if auth.done:
            self.auth = None
            self.party.takes_fds = auth.takes_fds
            self.party.identify(auth.identity)
            self._whole = auth.rest

    def _next_frame(self) -> Incoming | None:
        whole, self._whole = self._whole, b""
        if not (whole or self._buffer):
            return None
        if whole:
            if codec.frame_length(whole) == len(whole) <= self.limits.max_message_size:
                return self._check(whole)
            self._keep(whole)
        start = self._start
        length = codec.frame_length(bytes(self._buffer[start : start + _FIXED_HEADER]))
        if length is None:
            self._compact()
            return None
        if length > self.limits.max_message_size:
            limit = self.limits.max_message_size
            raise RemoteProtocolError(f"a message of {length} bytes (max_message_size={limit})")
        available = len(self._buffer) - start
        if length > available:
            self._compact()
            return None
        message: Buffer
        if start == 0 and length == available > CHUNK:
            # no copy: the buffer itself is the message from now on
            message, self._buffer = self._buffer, b""
        else:
            message = bytes(self._buffer[start : start + length])
            self._start = start + length
            if length == available:
                self._compact()
        return self._check(message)

    def _check(self, message: Buffer) -> Incoming:
        header = codec.parse(message)
        n_fds = header.unix_fds
        if n_fds > self.limits.max_message_unix_fds:
            raise RemoteProtocolError(f"{n_fds} descriptors in one message ({self._fds_limit()})")
        if n_fds > len(self.fds):
            raise RemoteProtocolError(f"{n_fds} descriptors announced, {len(self.fds)} came")
        fds = tuple(self.fds[:n_fds])
        incoming = Incoming(message, header, fds, None)
        if self.party.grants and ("o" in header.signature or "v" in header.signature):
            incoming.granted = GrantedPaths(self.party)
        # as the reference: an index that names none of the descriptors is the receiver's business
        incoming.check = BodyCheck(
            header.signature, incoming.body, header.endian, ANY_FD, incoming.granted
        )
        if n_fds:
            self.fds = self.fds[n_fds:] or ()
            self.fds_since = self._fds_came
        return incoming

    def _fds_limit(self) -> str:
        return f"max_message_unix_fds={self.limits.max_message_unix_fds}"

    def _keep(self, data: bytes) -> None:
        if isinstance(self._buffer, bytearray):
            self._buffer += data
        else:
            self._buffer = bytearray(data)

    def _compact(self) -> None:
        if self._start >= len(self._buffer):
            self._buffer = b""
        elif isinstance(self._buffer, bytearray):
            del self._buffer[: self._start]
        self._start = 0


def behind(parts: Sequence[Buffer], skip: int) -> tuple[Buffer, ...]:
    """The buffers without their first ``skip`` bytes."""
    rest: list[Buffer] = []
    for part in parts:
        if skip >= len(part):
            skip -= len(part)
        else:
            rest.append(memoryview(part)[skip:] if skip else part)
            skip = 0
    return tuple(rest)
