"""way: the short way of everyday calls through an exchange in Python.

Theory. Between the values of a call and the frame lie a body, an envelope and a request, and as much on the
way back, each with an object of its own. Of everyday calls nothing but numbers and texts is ever looked at,
so they are written and read without these. What is not everyday has not been taken here, or not been sent:
the usual way goes on then.

The native body has the same (``rust/src/py/swift.rs``), for more types of values.

Invariants. 1. Messages are taken in the order in which they came. 2. A message that is not everyday is not
taken, and nothing of one that cannot be sent is.

Not here: which calls may go this way (``short``).
"""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from bus1.core.api import HANDLE_INVALID, DestroyFlag, MessageFlag, MessageType
from bus1.errors import LocalProtocolError, RemoteProtocolError
from bus1.exchange import Answer, Exchange, Failed
from bus1.frames import MAX_INLINE_PAYLOAD, Operation, SliceNote

from . import quick
from .call import Envelope, Kind, header
from .call import decode as decode_envelope

if TYPE_CHECKING:
    from .short import Names

_DATA, _CALL, _RETURN = MessageType.DATA, Kind.CALL, Kind.RETURN
_HAS_SECCTX, _DETACHED = int(MessageFlag.HAS_SECCTX), int(SliceNote.DETACHED)
_ALL_FLAGS = int(MessageFlag.HAS_SECCTX | MessageFlag.CONTINUE)
_MOST = MAX_INLINE_PAYLOAD // 2
_MAX_WAIT = 60.0
"""Seconds that are waited at most."""
_GIVE_UP = struct.Struct("<QQQ")


class Way:
    """The short way through one exchange; what ``short`` expects of it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._taken: tuple[int, Answer] | None = None

    # ---- out -------------------------------------------------------------------------------------

    def post_call(
        self, handle: int, node: int, names: Names, values: Sequence[Any], failed: Failed
    ) -> bool:
        """Queue a call whose answer goes to ``node``; False: nothing was done."""
        return self._post(_CALL, handle, (node,), 0, names[:3], values, failed)

    def respond(
        self, reply: int, serial: int, signature: str, values: Sequence[Any], failed: Failed
    ) -> bool:
        """Queue the answer, and give its handle back with it; False: nothing was done."""
        return self._post(_RETURN, reply, (), serial, ("", "", signature), values, failed)

    def _post(
        self, kind: Kind, handle: int, handles: tuple[int, ...], serial: int, names: tuple[str, str, str],
        values: Sequence[Any], failed: Failed,
    ) -> bool:
        if (body := quick.encode(names[2], values)) is None or not self._exchange.may_be_quiet:
            return False
        try:
            head = header(kind, 0, serial, *names, len(body))
        except LocalProtocolError:
            return False
        if len(head) + len(body) > _MOST:
            return False
        self._exchange.post_message(handle, (head, body), handles, failed, kind is _RETURN)
        return True

    # ---- in --------------------------------------------------------------------------------------

    def take(self, tag: int) -> tuple[Any, ...] | None:
        """The next message, if it is everyday; else None.

        A result without capabilities: for which node, its signature, the values. A call that wants an answer:
        of which node, names, reply handle, serial, values, who made it, and in which context."""
        if (answer := self._exchange.take_message_answer(tag)) is None:
            return None
        if (fields := _fields(answer)) is None:
            self._exchange.put_back(tag, answer)
        else:
            self._taken = tag, answer
        return fields

    def put_back(self) -> None:
        """What was taken last is the next message again."""
        if self._taken is not None:
            self._exchange.put_back(*self._taken)
            self._taken = None

    def give_up(self, node: int) -> None:
        """The answer has come to this node: it is destroyed with the next write."""
        self._exchange.forget(Operation.DESTROY, _GIVE_UP.pack(DestroyFlag.RELEASE_HANDLES, 1, node))

    # ---- both ------------------------------------------------------------------------------------

    def call(
        self, sock: socket.socket, descriptor: socket.socket, tag: int, handle: int, node: int, names: Names,
        values: Sequence[Any], failed: Failed,
    ) -> list[Any] | bool | None:
        """Call and wait: the values; None: it was sent, and the answer is to be waited for; False: nothing
        was done. ``descriptor`` is the peer's, the readiness of which is taken."""
        exchange = self._exchange
        if not exchange.is_waiting(tag) or not self.post_call(handle, node, names, values, failed):
            return False
        self._go_on(sock, descriptor)
        if (found := self.take(tag)) is None:
            return None
        if len(found) != 3 or found[0] != node or found[1] != names[3]:
            self.put_back()
            return None
        self.give_up(node)
        answer: list[Any] = found[2]
        return answer

    def wait(
        self, sock: socket.socket, descriptor: socket.socket, tag: int
    ) -> tuple[Any, ...] | bool | None:
        """``take``, once something has come: if nothing has, send what is queued, and wait for it.

        False: something has been read, and what has come is not for ``take``; None: nothing was read."""
        has_read = self._exchange.is_waiting(tag) and self._go_on(sock, descriptor)
        if (found := self.take(tag)) is not None:
            return found
        return False if has_read else None

    def next(
        self, sock: socket.socket, descriptor: socket.socket, tag: int, epoll: select.epoll, seconds: float
    ) -> tuple[Any, ...] | bool | None:
        """As ``wait``, for who has a loop: it is waited for so many seconds with that one's epoll.

        If that tells of anything but input of this socket, nothing is read."""
        def is_input() -> bool:
            return epoll.poll(min(seconds, _MAX_WAIT), 2) == [(sock.fileno(), select.EPOLLIN)]

        has_read = self._exchange.is_waiting(tag) and self._go_on(sock, descriptor, is_input)
        if (found := self.take(tag)) is not None:
            return found
        return False if has_read else None

    def _go_on(
        self, sock: socket.socket, descriptor: socket.socket, is_input: Callable[[], bool] | None = None
    ) -> bool:
        """Send what is queued, and read once, if there ``is_input``; False: that, or an error of the socket.

        Who waits next meets the error."""
        exchange = self._exchange
        try:
            exchange.transmit(sock)
            if is_input is not None and not is_input():
                return False
            exchange.take_in(sock)
        except OSError as error:
            if error.errno is None:
                raise  # not the kernel's: a signal handler's own
            return False
        if n_drained := exchange.take_drained():
            with suppress(OSError):
                descriptor.recv(n_drained, socket.MSG_DONTWAIT)
        return True


def _fields(answer: Answer) -> tuple[Any, ...] | None:
    (
        kind, flags, destination, uid, gid, pid, _, _, n_bytes, n_handles, n_fds, n_secctx, _, note, n_inline,
        *_,
    ) = answer.values
    tail = answer.tail
    if kind != _DATA or flags > _ALL_FLAGS or n_handles > 1 or n_fds or not note & _DETACHED:
        return None
    at = n_bytes + 7 & -8
    if n_inline != len(tail) or at + 8 * n_handles + n_secctx > n_inline:
        return None
    try:
        envelope, offset = decode_envelope(tail[:n_bytes])
    except RemoteProtocolError:
        return None
    if envelope.kind is not (_CALL if n_handles else _RETURN) or envelope.flags or envelope.caps:
        return None
    values = quick.decode(envelope.signature, tail[offset:n_bytes], envelope.endian == "l")
    if values is None:
        return None
    if not n_handles:
        return destination, envelope.signature, values
    reply = int.from_bytes(tail[at : at + 8], "little")
    if reply == HANDLE_INVALID or answer.is_released:
        return None
    context = tail[at + 8 : at + 8 + n_secctx] if flags & _HAS_SECCTX else None
    return destination, _names(envelope), reply, envelope.serial, values, (uid, gid, pid), context


def _names(envelope: Envelope) -> tuple[str, str, str]:
    return envelope.interface, envelope.member, envelope.signature
