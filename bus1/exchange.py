"""exchange: the client's half of a channel, sans-I/O.

Theory. Requests go in and get a tag; bytes come out for the socket. Bytes from the socket go in; answers can
be taken by tag, in any order. An offer of descriptors is confirmed as soon as it has arrived. A request that
nobody waits for any more is *abandoned*: its answer is dropped, but a message that a cancelled RECV brings
along after all is *stray*: it is the outcome of the next one, even of one that waits already. So messages
come out in the order in which they came in, and none lies here while somebody waits. One that was only looked
at (PEEK) is in the bus's queue still: it is *unwanted*, and what it has added goes back.
A *quiet* request is answered only if there is something to tell. As requests are executed in order, the
answer to a later one says that it has succeeded.

Invariants. 1. Every request has exactly one outcome: an answer (or several, if it asked for that), silence
before the answer to a later one, or the failure of the whole channel.
2. Descriptors of answers that nobody takes are closed. 3. After a failure every request fails with it.

The native body (``rust/src/client``) has the same methods; ``new_exchange`` makes the one that is in use.

Not here: what requests contain (client), when the socket is read or written (links, aio).
"""

from __future__ import annotations

import socket
import struct
from bisect import insort
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import acceleration
from .core.api import Buffer, RecvFlag
from .descriptors import Fds
from .errors import Bus1Error, BusGone, LocalProtocolError, RemoteProtocolError, WouldBlock, from_errno
from .frames import (
    ANSWER,
    ANSWER_PREFIX,
    EVENTS,
    NO_FDS,
    QUIET,
    REQUESTS,
    RESULTS,
    Event,
    Frame,
    FrameReader,
    FrameWriter,
    Note,
    Operation,
    encode,
    fields,
)
from .transport import receive, transmit

_FLAGS_AT: dict[int, int] = {Operation.RECV: 0, Operation.CALL: 7, Operation.REPLY: 7}
"""Which of the fixed fields are the flags of the RECV."""
RECEIVING = set(_FLAGS_AT)
MAX_QUIET = 256
"""Quiet requests without a later answer; then one is answered."""
Failed = Callable[[Bus1Error], None]
_SEED, _PEEK, _DRAINED = int(RecvFlag.SEED), int(RecvFlag.PEEK), int(Note.DRAINED)
_FIXED_AT = ANSWER_PREFIX.size
_MORE, _RELEASED = int(Note.MORE), int(Note.RELEASED)


@dataclass(slots=True)
class Answer:
    """The outcome of one request: fixed fields, tail, descriptors; ``offered`` those of a message."""

    operation: int
    error: Bus1Error | None
    done: int
    values: tuple[int, ...]
    tail: bytes
    fds: Fds
    offered: Fds
    arrival: int
    """Counts answers as they arrive."""
    is_from_queue: bool
    """It is about the next message of the queue (and not the seed, which can be fetched again)."""
    is_peek: bool
    """The message stays where it was."""
    is_released: bool = False
    """NODE_RELEASE of the message's node came with it."""


class Exchange:
    """Requests and answers of one channel."""

    def __init__(self) -> None:
        self.reader = FrameReader()
        self.writer = FrameWriter()
        self.stray: list[Answer] = []
        """Messages that cancelled RECVs brought along, in order of arrival."""
        self.unwanted: list[Answer] = []
        """Messages that cancelled RECVs have looked at, and added references to handles."""
        self.retired: list[int] = []
        """Segments that the bus wants back."""
        self.n_drained = 0
        """Bytes to take from the peer's descriptor."""
        self._failure: Bus1Error | None = None
        self._last_tag = 0
        self.n_answers = 0
        """How many have arrived."""
        self._outstanding: dict[int, int] = {}
        self._abandoned: set[int] = set()
        self._quiet: dict[int, tuple[int, Failed | None]] = {}
        """Quiet requests that may still fail: operation, and who is told."""
        self._flags: dict[int, int] = {}
        """Of the RECVs among them."""
        self._answers: dict[int, Answer] = {}
        self._later: dict[int, deque[Answer]] = {}
        """Further answers to the same request."""
        self._offers: dict[int, Fds] = {}

    def request(self, operation: int, body: bytes, fds: Fds | None = None) -> int:
        """Queue a request; takes the descriptors; returns its tag."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        self._last_tag += 1
        tag = self._last_tag
        self._outstanding[tag] = operation
        if operation in RECEIVING:
            self._flags[tag] = fields(REQUESTS, operation, body)[_FLAGS_AT[operation]]
        self.writer.push(encode(operation, tag, body, len(fds or ())), fds)
        return tag

    @property
    def may_be_quiet(self) -> bool:
        """Whether ``post`` can be used now."""
        return len(self._quiet) < MAX_QUIET

    def post(self, operation: int, body: bytes, failed: Failed | None = None) -> None:
        """Queue a quiet request; ``failed`` is told if it fails, but not of the failure of the channel."""
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        self._last_tag += 1
        self._quiet[self._last_tag] = (operation, failed)
        self.writer.push(encode(operation | QUIET, self._last_tag, body))

    def post_message(
        self, handle: int, parts: Sequence[Buffer], handles: Sequence[int], failed: Failed | None,
        is_last: bool,
    ) -> None:
        """``post`` of SEND through one handle, or of RESPOND; a small payload. struct.error for no u64."""
        operation, release = (Operation.RESPOND, (handle,)) if is_last else (Operation.SEND, ())
        layout = f"<QIIIIQQ{1 + len(release) + len(handles)}Q"
        counts = 1, 0, len(handles), sum(map(len, parts))
        head = struct.pack(layout, 0, *counts, 0, 0, *release, handle, *handles)
        self.post(operation, b"".join((head, *parts)), failed)

    def forget(self, operation: int, body: bytes) -> None:
        """Queue a request whose outcome does not matter."""
        if self._failure is not None:
            return
        if self.may_be_quiet:
            self.post(operation, body)
        else:
            self.abandon(self.request(operation, body))

    def recall(self, tag: int) -> None:
        """Ask the bus to give a RECV up; it is still answered, with a message if that was faster."""
        if tag in self._outstanding and self._failure is None:
            self.writer.push(encode(Operation.CANCEL, tag, b""))

    def cancel(self, tag: int) -> None:
        """Nobody waits for this RECV any more: recall it."""
        self.recall(tag)
        self.abandon(tag)

    def abandon(self, tag: int) -> None:
        """Nobody waits for this answer any more."""
        while (answer := self._next(tag)) is not None:
            self._keep_or_drop(answer)
        if tag in self._outstanding:
            self._abandoned.add(tag)

    def expects(self, tag: int) -> bool:
        """The request has an answer that was not taken, or will have one, or the channel has failed."""
        return tag in self._answers or tag in self._outstanding or self._failure is not None

    def _next(self, tag: int) -> Answer | None:
        answer = self._answers.pop(tag, None)
        if answer is not None and (later := self._later.get(tag)) is not None:
            self._answers[tag] = later.popleft()
            if not later:
                del self._later[tag]
        return answer

    def take(self, tag: int) -> Answer | None:
        """The next answer, once; None while it is outstanding. Raises the channel's failure.

        To a RECV a stray message is as good; it is outstanding itself then, as ``expects`` says."""
        answer = self._next(tag)
        if answer is None and self._failure is not None:
            raise self._failure.with_traceback(None)
        if answer is None and self.stray and self._takes_any(tag):
            return self.stray.pop(0)
        if answer is not None and self.stray and answer.is_from_queue:
            return self._first_of(answer)
        return answer

    def has_answer(self, tag: int) -> bool:
        """Whether ``take`` may give something now, or raise."""
        return tag in self._answers or bool(self.stray) or self._failure is not None

    def take_message(self, tag: int) -> tuple[Any, ...] | None:
        """The fields of an everyday message, if it is next, where there is a short way to them; else None."""
        return None

    def take_message_answer(self, tag: int) -> Answer | None:
        """The next answer, if it is a message of the queue that came without descriptors."""
        answer = self._answers.get(tag)
        if answer is None or answer.error is not None or self.stray or answer.fds or answer.offered:
            return None
        return self._next(tag) if answer.is_from_queue and not answer.is_peek else None

    def put_back(self, tag: int, answer: Answer) -> None:
        """An answer that was taken is the next one again."""
        if (later := self._answers.get(tag)) is not None:
            self._later.setdefault(tag, deque()).appendleft(later)
        self._answers[tag] = answer

    def is_waiting(self, tag: int) -> bool:
        """The RECV will be answered, and nothing has come for it that was not taken."""
        return not self.has_answer(tag) and tag in self._outstanding

    @property
    def has_stray(self) -> bool:
        """A cancelled RECV has brought a message along."""
        return bool(self.stray)

    def next_stray(self) -> Answer | None:
        """The first of them, if there is any."""
        return self.stray.pop(0) if self.stray else None

    def keep(self, answer: Answer) -> None:
        """A message that was taken is the outcome of the next RECV."""
        self.stray.insert(0, answer)

    def take_unwanted(self) -> list[Answer]:
        """Messages that cancelled RECVs have looked at, once."""
        unwanted, self.unwanted = self.unwanted, []
        return unwanted

    def take_retired(self) -> list[int]:
        """Segments that the bus wants back, once."""
        retired, self.retired = self.retired, []
        return retired

    def take_drained(self) -> int:
        """How many bytes to take from the peer's descriptor, once."""
        n_drained, self.n_drained = self.n_drained, 0
        return n_drained

    def _first_of(self, answer: Answer) -> Answer:
        """The message that arrived first: this one, or one that was kept."""
        if answer.error is None:
            self._keep_or_drop(answer)
        elif not isinstance(answer.error, WouldBlock):
            return answer
        return self.stray.pop(0)

    def _takes_any(self, tag: int) -> bool:
        is_recv = self._outstanding.get(tag) == Operation.RECV and tag not in self._abandoned
        return is_recv and not self._flags[tag] & _SEED

    def answered(self) -> list[int]:
        """Tags for which there is something to be taken."""
        if not self.stray:
            return list(self._answers)
        return [*self._answers, *(tag for tag in self._flags if self._takes_any(tag))]

    @property
    def failure(self) -> Bus1Error | None:
        """Why this channel is of no use any more."""
        return self._failure

    @property
    def pending(self) -> int:
        """Bytes that have not been sent."""
        return self.writer.pending

    def feed(self, data: bytes, fds: Sequence[int], truncated: bool) -> None:
        """What was read in another way; ``process`` looks at it."""
        self.reader.feed(data, fds, truncated=truncated)

    def receive(self, sock: socket.socket, flags: int = 0) -> int:
        """Read once; 0 at the end of input. OSError as recvmsg."""
        return receive(sock, self.reader, flags).size

    def take_in(self, sock: socket.socket, flags: int = 0) -> None:
        """Read once, and look at what has come; the end of input is the channel's. OSError as recvmsg."""
        if self.receive(sock, flags):
            self.process()
        else:
            self.fail()

    def transmit(self, sock: socket.socket, flags: int = 0) -> None:
        """Send what is queued; OSError as sendmsg, with the rest still queued."""
        transmit(sock, self.writer, flags)

    def drop_output(self) -> None:
        """Nothing can be sent any more: reading finds out why."""
        self.writer.close()

    def process(self) -> None:
        """Look at every frame that has arrived."""
        try:
            while self._failure is None and (frame := self.reader.next()) is not None:
                if frame.n_fds:
                    self._look_at(frame)
                else:
                    self._arrived(frame)
        except RemoteProtocolError as error:
            self.fail(error)

    def fail(self, error: Bus1Error | None = None) -> None:
        """The channel is of no use any more (None: the bus has closed it)."""
        if self._failure is None:
            self._failure = error or BusGone("the bus has closed the connection")
        self._outstanding.clear()
        self._abandoned.clear()
        self._quiet.clear()
        self._flags.clear()
        for fds in self._offers.values():
            fds.close()
        self._offers.clear()
        while self.unwanted:
            _close(self.unwanted.pop())
        self.reader.close()
        self.writer.close()

    # ---- arrivals --------------------------------------------------------------------------------

    def _look_at(self, frame: Frame) -> None:
        try:
            self._arrived(frame)
        except RemoteProtocolError:
            # The error lives as long as this channel, and the frame with it.
            frame.fds.close()
            raise

    def _arrived(self, frame: Frame) -> None:
        if frame.is_quiet:
            raise RemoteProtocolError(f"a quiet frame {frame.operation:#x} from the bus")
        if frame.operation & ANSWER:
            self._answer(frame)
        elif frame.operation == Event.OFFER:
            self._offer(frame)
        elif frame.operation == Event.RETIRED:
            self.retired.append(fields(EVENTS, Event.RETIRED, frame.body)[0])
        elif frame.operation == Event.REFUSED:
            (code,) = fields(EVENTS, Event.REFUSED, frame.body)
            text = frame.body[EVENTS[Event.REFUSED].size :].decode("utf-8", "replace")
            error = from_errno(code, text)
            self.fail(LocalProtocolError(text) if isinstance(error, RemoteProtocolError) else error)
        else:
            raise RemoteProtocolError(f"the bus sent an unknown frame {frame.operation:#x}")

    def _offer(self, frame: Frame) -> None:
        if self._outstanding.get(frame.tag) not in RECEIVING:
            raise RemoteProtocolError(f"descriptors offered for tag {frame.tag}, which receives nothing")
        if (earlier := self._offers.pop(frame.tag, None)) is not None:
            earlier.close()
        is_complete = len(frame.fds) == frame.n_fds
        if is_complete:
            self._offers[frame.tag] = frame.fds
        else:
            frame.fds.close()
        body = REQUESTS[Operation.INSTALLED].pack(is_complete)
        self.writer.push(encode(Operation.INSTALLED, frame.tag, body))

    def _settle_quiet(self, frame: Frame) -> bool:
        """Forget the quiet requests that have succeeded; whether the answer is to another."""
        quiet, tag = self._quiet, frame.tag
        failed = quiet.pop(tag, None)
        for earlier in [number for number in quiet if number < tag] if quiet else ():
            del quiet[earlier]
        if failed is None:
            return False
        operation, listener = failed
        if operation | ANSWER != frame.operation or len(frame.body) < ANSWER_PREFIX.size:
            raise RemoteProtocolError(f"an answer {frame.operation:#x} to a quiet request, tag {tag}")
        code, _, _ = ANSWER_PREFIX.unpack_from(frame.body)
        text = frame.body[ANSWER_PREFIX.size :].decode("utf-8", "replace")
        frame.fds.close()
        if listener is not None and code:
            listener(from_errno(code, text))
        return True

    def _answer(self, frame: Frame) -> None:
        if self._quiet and self._settle_quiet(frame):
            return
        operation = self._outstanding.get(frame.tag)
        if operation is None or operation | ANSWER != frame.operation:
            raise RemoteProtocolError(f"an answer {frame.operation:#x} to nothing, tag {frame.tag}")
        if len(frame.body) < ANSWER_PREFIX.size:
            raise RemoteProtocolError("an answer without a prefix")
        code, done, notes = ANSWER_PREFIX.unpack_from(frame.body)
        values: tuple[int, ...] = ()
        error = None
        if code:
            error, tail = from_errno(code, frame.body[_FIXED_AT:].decode("utf-8", "replace")), b""
        else:
            layout = RESULTS[operation]
            if len(frame.body) < (tail_at := _FIXED_AT + layout.size):
                fields(RESULTS, operation, frame.body[_FIXED_AT:])
            values, tail = layout.unpack_from(frame.body, _FIXED_AT), frame.body[tail_at:]
        # Nothing can be wrong with it from here on: what was offered has somebody to take it.
        offered = self._offers.pop(frame.tag, NO_FDS)
        self.n_drained += notes & _DRAINED
        self.n_answers += 1
        flags = self._flags.get(frame.tag, 0)
        is_last = bool(code) or not notes & _MORE
        if is_last:
            del self._outstanding[frame.tag]
            self._flags.pop(frame.tag, None)
        is_from_queue = operation in RECEIVING and not flags & _SEED
        which = self.n_answers, is_from_queue, bool(flags & _PEEK), bool(notes & _RELEASED)
        if error is not None:
            offered.close()
        answer = Answer(operation, error, done, values, tail, frame.fds, offered, *which)
        if frame.tag in self._abandoned:
            if is_last:
                self._abandoned.discard(frame.tag)
            self._keep_or_drop(answer)
        elif frame.tag in self._answers:
            self._later.setdefault(frame.tag, deque()).append(answer)
        else:
            self._answers[frame.tag] = answer

    def _keep_or_drop(self, answer: Answer) -> None:
        if answer.is_peek and answer.error is None and self._failure is None:
            self.unwanted.append(answer)
        elif answer.is_from_queue and not answer.is_peek and answer.error is None:
            insort(self.stray, answer, key=lambda kept: kept.arrival)
        else:
            _close(answer)


def new_exchange() -> Exchange:
    """A new one, in the body that is in use."""
    native = acceleration.native
    exchange: Exchange = Exchange() if native is None else native.Exchange()
    return exchange


def _close(answer: Answer) -> None:
    answer.fds.close()
    answer.offered.close()
