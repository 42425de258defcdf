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
from typing import TYPE_CHECKING, Any

from bus1.errors import Bus1Error, Disconnected

from .call import Envelope, Kind
from .caller import Caller
from .calls import Call, Calls, is_awaited, is_bug, log
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

    def run(
        self, envelope: Envelope, reply: int, work: Swift, values: Sequence[Any],
        caller: Callable[[Any], Caller],
    ) -> None:
        """Run a call and answer to the node ``reply``; ``caller`` makes the Caller, given its handle."""
        interface, spec, function = work
        connection = self._connection
        self._places.n_given += 1
        connection.places.n_given += 1
        result, answer = None, None
        self._n_swift = 1
        try:
            result = function(interface, *values)
            if not is_awaited(result):
                given, serial = spec.spread(result), envelope.serial
                answer, result = connection.write(Kind.RETURN, spec.result, given, serial=serial), None
        except BaseException as error:
            self._n_swift = 0
            if not is_bug(error):
                raise
            call = self._begun_call(envelope, reply, work, values, caller)
            answer = self._failure(call, error)
            self._answer_soon(call, answer)
            return
        self._n_swift = 0

        def failed(error: Bus1Error) -> None:
            handle = connection.handle(reply)
            if isinstance(error, Disconnected):
                handle.release()
            else:
                connection.start(self._tell, Call(self, envelope, handle, caller(handle), None), error)

        if answer is not None:
            try:
                if connection.post_last(reply, answer, failed):
                    connection.ease()
                    return
            except Bus1Error:
                pass  # it comes again where it can be told
        call = self._begun_call(envelope, reply, work, values, caller)
        connection.start(self._finish, call, None, result, answer)

    def _begun_call(
        self, envelope: Envelope, reply: int, work: Swift, values: Sequence[Any],
        caller: Callable[[Any], Caller],
    ) -> Call:
        connection = self._connection
        handle = connection.handle(reply)
        who = caller(handle)
        connection.places.take(who)
        self._places.take(who)
        call = Call(self, envelope, handle, who, (*work[:2], values))
        self._open.add(call)
        connection.mourn(reply, call)
        return call

    def _answer_soon(self, call: Call, answer: Letter | None) -> None:
        if answer is None or self._is_posted(call, answer):
            self._end(call)
        else:
            self._connection.start(self._finish, call, None, None, answer)
