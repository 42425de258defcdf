"""swift: calls of one object that are over before anything else can happen.

Theory. Most calls are of a method that does not wait, and their answers are posted. Between arrival and
answer nothing else happens on the connection then, so nobody can ask for the place that such a call has,
for its line or its reply handle. These calls are run without them. When a call turns out to be another one
after all, because its result has to be awaited, or is none, or cannot be posted, it becomes a ``Call`` that
has begun.

Invariants. 1. A caller cannot tell the difference, and neither can the method.

Not here: what is asked of a call that lasts (``calls``), which method is meant (``export``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from bus1.errors import Bus1Error, Disconnected

from .call import Envelope, Kind
from .caller import Caller
from .calls import Call, Calls, is_awaited, is_bug, log
from .handle import Arrival, Handle
from .interface import Interface, Method
from .letter import Letter
from .members import MethodSpec

if TYPE_CHECKING:
    from .connection import Connection

Swift = tuple[Interface, MethodSpec, Callable[..., Any]]
"""An object, its method, and the function behind it."""


def swift(interface: Interface, spec: MethodSpec) -> Swift | None:
    """The method, if its calls may be over at once: it is no coroutine, and wants plain values."""
    member = getattr(type(interface), spec.attribute)
    if interface.__far__ is not None or not isinstance(member, Method) or not member.is_plain:
        return None
    if member.options.limit is not None or spec.caller is not None or spec.no_reply or spec.takes.is_read:
        return None
    return interface, spec, member.function


@dataclass(slots=True)
class Origin:
    """Where a call came from, in case that somebody has to know."""

    target: Interface
    connection: Connection
    names: tuple[str, str, str]
    """Interface, member, signature."""
    serial: int
    sender: tuple[int, int, int]
    context: bytes | None

    def envelope(self) -> Envelope:
        """Of the call, as far as it is asked for later."""
        interface, member, signature = self.names
        return Envelope(Kind.CALL, 0, "l", self.serial, interface, member, signature)

    def caller(self, reply: Handle) -> Caller:
        """Who waits for the answer, by this handle."""
        arrival = Arrival(self.envelope(), memoryview(b""), (), (), *self.sender, self.context)
        return Caller(
            *self.sender, 0, (), arrival.label, arrival.endpoint, self.target, reply, self.connection
        )


class SwiftCalls(Calls):
    """``Calls``, and those beside them that are over at once."""

    def __init__(self, connection: Connection, limit: int, what: str) -> None:
        super().__init__(connection, limit, what)
        self._n_swift = 0

    @property
    def busy(self) -> int:
        """How many are accepted and not answered yet."""
        return len(self._open) + self._n_swift

    @property
    def is_quiet(self) -> bool:
        """Nobody waits for an answer, not even for a refusal."""
        return super().is_quiet and not self._n_swift

    @property
    def is_free(self) -> bool:
        """A call would begin at once, whoever made it, and nobody follows what calls do."""
        return not (
            self._open or self._refusal or self._n_swift or self._connection.places.taken
            or log.isEnabledFor(logging.DEBUG)
        )

    def run(self, origin: Origin, reply: int, work: Swift, values: Sequence[Any]) -> None:
        """Run a call and answer to the node ``reply``."""
        interface, spec, function = work
        connection = self._connection
        self._places.n_given += 1
        connection.places.n_given += 1
        answer = None
        self._n_swift = 1
        try:
            result = function(interface, *values)
            if not is_awaited(result):
                given, result = spec.spread(result), None
                if connection.short is not None and self._responds(origin, reply, spec, given):
                    return
                answer = connection.write(Kind.RETURN, spec.result, given, serial=origin.serial)
        except BaseException as error:
            if not is_bug(error):
                raise
            self._fails(origin, reply, work, values, error)
            return
        finally:
            self._n_swift = 0
        if answer is None or not self._is_away(origin, reply, answer):
            call = self._begun_call(origin, reply, work, values)
            connection.start(self._finish, call, None, result, answer)

    def _responds(self, origin: Origin, reply: int, spec: MethodSpec, values: Sequence[Any]) -> bool:
        """The answer has gone the short way."""
        short = self._connection.short
        failed = partial(self._failed, origin, reply)
        try:
            if short is None or not short.respond(reply, origin.serial, spec.result, values, failed):
                return False
        except Bus1Error:
            return False  # it comes again where it can be told
        self._connection.ease()
        return True

    def _is_away(self, origin: Origin, reply: int, answer: Letter) -> bool:
        try:
            is_posted = self._connection.post_last(reply, answer, partial(self._failed, origin, reply))
        except Bus1Error:
            return False  # it comes again where it can be told
        if is_posted:
            self._connection.ease()
        return is_posted

    def _failed(self, origin: Origin, reply: int, error: Bus1Error) -> None:
        """The answer was posted in vain."""
        handle = self._connection.handle(reply)
        if isinstance(error, Disconnected):
            handle.release()
            return
        call = Call(self, origin.envelope(), handle, origin.caller(handle), None)
        self._connection.start(self._tell, call, error)

    def _fails(
        self, origin: Origin, reply: int, work: Swift, values: Sequence[Any], error: BaseException
    ) -> None:
        call = self._begun_call(origin, reply, work, values)
        answer = self._failure(call, error)
        if answer is None or self._is_posted(call, answer):
            self._end(call)
        else:
            self._connection.start(self._finish, call, None, None, answer)

    def _begun_call(self, origin: Origin, reply: int, work: Swift, values: Sequence[Any]) -> Call:
        connection = self._connection
        handle = connection.handle(reply)
        who = origin.caller(handle)
        connection.places.take(who)
        self._places.take(who)
        call = Call(self, origin.envelope(), handle, who, (*work[:2], values))
        self._open.add(call)
        connection.mourn(reply, call)
        return call
