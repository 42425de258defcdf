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
from functools import partial
from typing import TYPE_CHECKING, Any

from bus1.errors import Bus1Error, Disconnected

from .bugs import is_bug
from .call import Envelope, Kind
from .caller import Caller
from .calls import VALUES, Call, Calls, is_awaited, log
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


SwiftCall = tuple[int, tuple[str, str, str], int, int, Sequence[Any], tuple[int, int, int], bytes | None]
"""A call: node, (interface, member, signature), reply handle, serial, values, (uid, gid, pid), context."""


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

    def run(self, target: Interface, work: Swift, swift_call: SwiftCall) -> None:
        """Run a call of ``target``, and answer."""
        interface, spec, function = work
        connection = self._connection
        self._places.n_given += 1
        connection.places.n_given += 1
        answer = None
        self._n_swift = 1
        try:
            result = function(interface, *swift_call[4])
            if type(result) in VALUES or not is_awaited(result):
                given, result = spec.spread(result), None
                if (short := connection.short) is not None:
                    _, _, reply, serial, *_ = swift_call
                    failed = partial(self._failed, target, swift_call)
                    try:
                        if short.respond(reply, serial, spec.result, given, failed):
                            if connection.is_watched:
                                connection.ease()
                            return
                    except Bus1Error:
                        pass  # it comes again where it can be told
                answer = connection.write(Kind.RETURN, spec.result, given, serial=swift_call[3])
        except BaseException as error:
            if not is_bug(error):
                raise
            self._fails(target, work, swift_call, error)
            return
        finally:
            self._n_swift = 0
        if answer is None or not self._is_away(target, swift_call, answer):
            call = self._begun_call(target, work, swift_call)
            connection.start(self._finish, call, None, result, answer)

    def _is_away(self, target: Interface, swift_call: SwiftCall, answer: Letter) -> bool:
        failed = partial(self._failed, target, swift_call)
        try:
            is_posted = self._connection.post_last(swift_call[2], answer, failed)
        except Bus1Error:
            return False  # it comes again where it can be told
        if is_posted:
            self._connection.ease()
        return is_posted

    def _failed(self, target: Interface, swift_call: SwiftCall, error: Bus1Error) -> None:
        """The answer was posted in vain."""
        handle = self._connection.handle(swift_call[2])
        if isinstance(error, Disconnected):
            handle.release()
            return
        call = Call(self, *self._origin(target, swift_call, handle), None)
        self._connection.start(self._tell, call, error)

    def _fails(
        self, target: Interface, work: Swift, swift_call: SwiftCall, error: BaseException
    ) -> None:
        call = self._begun_call(target, work, swift_call)
        answer = self._failure(call, error)
        if answer is None or self._is_posted(call, answer):
            self._end(call)
        else:
            self._connection.start(self._finish, call, None, None, answer)

    def _begun_call(self, target: Interface, work: Swift, swift_call: SwiftCall) -> Call:
        connection = self._connection
        handle = connection.handle(swift_call[2])
        envelope, handle, who = self._origin(target, swift_call, handle)
        connection.places.take(who)
        self._places.take(who)
        call = Call(self, envelope, handle, who, (*work[:2], swift_call[4]))
        self._open.add(call)
        connection.mourn(handle.id, call)
        return call

    def _origin(
        self, target: Interface, swift_call: SwiftCall, reply: Handle
    ) -> tuple[Envelope, Handle, Caller]:
        """What a Call has of where it came from, as far as it is asked for."""
        _, (interface, member, signature), _, serial, _, sender, context = swift_call
        envelope = Envelope(Kind.CALL, 0, "l", serial, interface, member, signature)
        arrival = Arrival(envelope, memoryview(b""), (), (), *sender, context)
        caller = Caller(*sender, 0, (), arrival.label, arrival.endpoint, target, reply, self._connection)
        return envelope, reply, caller
