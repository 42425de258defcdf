"""calls: the calls of one object, from their acceptance until their callers know the outcome.

Theory. A call that is accepted has a place, runs, is answered, and gives its place back. A method that cannot
wait is run at once, unless an earlier call of the object has not begun; any other is a task. Tasks take calls
in the order of the queue, whichever the loop starts first, so synchronous methods run in order of arrival.
A method with a ``limit`` has a line in front of it.

A caller that gives up, or dies, destroys the reply node whose handle came along: a call that has not begun is
dropped then, and a task that runs is cancelled, unless the method is shielded.

Invariants. 1. Every call that expects an answer gets one, or its reply handle is released. 2. What a method
raises beside DBusError, or gives that cannot be sent, is answered as Failed and logged, once; others go
on. 3. A place, a turn in a line and a reply handle are given back, however a call ends. 4. At most
``MAX_REFUSALS`` callers at a time are told that they are refused; calls beyond are dropped, which they
see as NoReply.

Not here: which method is meant (``export``), how many places there are for whom (``places``).
"""

from __future__ import annotations

import inspect
import logging
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio

from bus1.errors import Bus1Error, BusGone, Disconnected, Overloaded, PeerShutdown

from .bugs import can_travel, is_bug, words
from .call import Envelope, Kind
from .caller import Caller
from .caps.gate import Gate
from .errors import DBusError, LimitsExceeded, Timeout, alone, from_name
from .handle import Handle
from .interface import Interface, Member, Method
from .letter import Letter
from .line import Line
from .members import MethodSpec, Options
from .places import Places
from .scope import Scope

if TYPE_CHECKING:
    from .connection import Connection

MAX_REFUSALS = 256

Resolved: TypeAlias = tuple[Interface, MethodSpec, Sequence[Any]]
"""A method with its arguments."""

log = logging.getLogger("bus1.services")


class Call:
    """One call on its way; ``refusal`` is what its caller is told in place of a result."""

    __slots__ = (
        "caller", "calls", "envelope", "is_given_up", "line", "member", "options", "refusal", "reply",
        "scope", "work",
    )

    def __init__(
        self, calls: Calls, envelope: Envelope, reply: Handle | None, caller: Caller,
        work: Resolved | None, refusal: DBusError | None = None,
    ) -> None:
        self.calls = calls
        self.envelope = envelope
        self.reply = reply
        self.caller = caller
        self.work = work
        self.refusal = refusal
        self.member = None if work is None else getattr(type(work[0]), work[1].attribute)
        self.options = self.member.options if isinstance(self.member, Member) else _NO_OPTIONS
        """How the service wants this method to be run."""
        self.line: Line[Call] | None = None
        self.scope: Scope | None = None
        """Around the method, while it runs."""
        self.is_given_up = False

    def bereaved(self, handle: int) -> None:
        """The reply node is destroyed, or the bus is gone: nobody waits for the answer."""
        self.is_given_up = True
        self.calls.given_up(self)


class Calls:
    """Those of one object, which is ``what`` in words, and takes ``limit`` of them at a time."""

    def __init__(self, connection: Connection, limit: int, what: str) -> None:
        self._connection = connection
        self._what = what
        self._places = Places(limit, what)
        self._lines: dict[str, Line[Call]] = {}
        self._waiting: set[Call] = set()
        """In a line."""
        self._open: set[Call] = set()
        """Those that have a place."""
        self._ready: deque[Call] = deque()
        """Those whose tasks have not started yet."""
        self._refusals = 0
        self._refusal: DBusError | None = None
        self._finished = anyio.Event()

    # ---- what the export asks ----------------------------------------------------------------

    @property
    def busy(self) -> int:
        """How many are accepted and not answered yet."""
        return len(self._open)

    @property
    def is_quiet(self) -> bool:
        """Nobody waits for an answer, not even for a refusal."""
        return not self._open and not self._refusals

    def close(self, refusal: DBusError | None) -> None:
        """Refuse what arrives from now on with this error; with None, accept again."""
        self._refusal = refusal

    def lost(self) -> None:
        """The bus is gone, and with it all callers."""
        for call in tuple(self._open):
            call.bereaved(0)

    def cancel(self, error: DBusError) -> None:
        """End all of them, shielded or not: their callers get ``error``."""
        for call in tuple(self._open):
            call.refusal = call.refusal or error
            if call in self._waiting:
                self._leave_line(call)
                self._start(call)
            elif call.scope is not None:
                call.scope.cancel()

    async def finished(self) -> None:
        """Wait until none is left."""
        while self._open:
            if self._finished.is_set():
                self._finished = anyio.Event()
            await self._finished.wait()

    def admit(self, caller: Caller) -> None:
        """Take a place for a call of this caller; DBusError."""
        if self._refusal is not None:
            raise from_name(self._refusal.name, self._refusal.text)
        self._connection.places.take(caller)
        try:
            self._places.take(caller)
        except LimitsExceeded:
            self._connection.places.leave(caller)
            raise

    def leave(self, caller: Caller) -> None:
        """Give the place back of a call that will not be added."""
        self._places.leave(caller)
        self._connection.places.leave(caller)

    def add(self, envelope: Envelope, reply: Handle | None, caller: Caller, work: Resolved) -> None:
        """Run a call that has a place, now or when its turn comes."""
        call = Call(self, envelope, reply, caller, work)
        self._open.add(call)
        if reply is not None:
            self._connection.mourn(reply.id, call)
        if call.options.limit is None:
            self._start(call)
            return
        call.line = self._lines.setdefault(work[1].attribute, Line(call.options.limit))
        if call.line.enter(caller, call):
            self._start(call)
        else:
            self._waiting.add(call)

    def refuse(self, envelope: Envelope, reply: Handle, caller: Caller, error: DBusError) -> None:
        """Tell a caller that its call is not accepted."""
        if self._refusals >= MAX_REFUSALS:
            reply.release()
            return
        self._refusals += 1
        self._start(Call(self, envelope, reply, caller, None, error))

    # ---- what happens to a call --------------------------------------------------------------

    def given_up(self, call: Call) -> None:
        """Nobody waits for this one any more."""
        if call in self._waiting:
            self._leave_line(call)
            self._end(call)
        elif call.scope is not None and not call.options.shielded:
            call.scope.cancel()

    def _start(self, call: Call) -> None:
        if self._ready or not self._runs_at_once(call):
            self._ready.append(call)
            self._connection.start(self._run)

    def _runs_at_once(self, call: Call) -> bool:
        """Whether it needs no task: its method does not wait, and the answer can be posted."""
        work = call.work
        if work is None or call.refusal is not None or not _is_plain(call, work[0]):
            return False
        begun = self._begun()
        answer: Letter | None = None
        try:
            result = _begin(call, *work)
            if is_awaited(result):
                self._connection.start(self._finish, call, begun, result)
                return True
            answer = self._answer(call, work[1], result)
        except BaseException as error:
            if not is_bug(error):
                raise
            answer = self._failure(call, error)
        if answer is None or self._is_posted(call, answer):
            self._end(call, begun)
        else:
            self._connection.start(self._finish, call, begun, None, answer)
        return True

    async def _run(self) -> None:
        """Run the call that came first to its end, and answer."""
        call = self._ready.popleft()
        begun, result, answer = self._begun(), None, None
        try:
            if call.work is None or call.refusal is not None:
                answer = self._refusal_of(call, call.refusal or DBusError())
            elif not call.is_given_up:
                result = _begin(call, *call.work)
                if not is_awaited(result):
                    answer, result = self._answer(call, call.work[1], result), None
        except BaseException as error:
            if not is_bug(error):
                self._end(call, begun)
                raise
            answer = self._failure(call, error)
        await self._finish(call, begun, result, answer)

    async def _finish(
        self, call: Call, begun: float | None, result: Awaitable[Any] | None, answer: Letter | None = None
    ) -> None:
        """Wait for the result, if it has to be waited for, and answer."""
        try:
            if result is not None:
                answer = await self._awaited(call, result)
            if answer is not None and not self._is_posted(call, answer):
                await self._deliver(call, answer)
        finally:
            self._end(call, begun)

    async def _awaited(self, call: Call, result: Awaitable[Any]) -> Letter | None:
        deadline, work = call.options.deadline, call.work
        assert work is not None
        try:
            with self._connection.within(deadline) as call.scope:
                value = await result
            if call.scope.cancelled_caught:
                late = f"{work[1].name} was cancelled: it has {deadline} s"
                return self._refusal_of(call, call.refusal or Timeout(late))
            return self._answer(call, work[1], value)
        except BaseException as error:
            if not is_bug(error):
                raise
            return self._failure(call, error)

    def _end(self, call: Call, begun: float | None = None) -> None:
        """Give back all that the call has."""
        # its arguments may own descriptors, and a posted answer that fails is told of much later
        call.work = None
        if begun is not None:
            about = self._about(call) | {"bus1_seconds": f"{time.monotonic() - begun:.6f}"}
            log.debug("%s of %s is done", call.envelope.member, self._what, extra=about)
        if call.reply is not None:
            self._connection.forgo(call.reply.id, call)
            call.reply.release()
        if call not in self._open:
            self._refusals -= 1
            self._connection.ease()
            return
        self._open.remove(call)
        self.leave(call.caller)
        if call.line is not None:
            following = call.line.leave()
            if following is not None:
                self._waiting.remove(following)
                self._start(following)
        if not self._open:
            self._finished.set()
        self._connection.ease()

    def _leave_line(self, call: Call) -> None:
        assert call.line is not None
        call.line.forget(call.caller, call)
        call.line = None
        self._waiting.remove(call)

    # ---- answers -----------------------------------------------------------------------------

    def _begun(self) -> float | None:
        return time.monotonic() if log.isEnabledFor(logging.DEBUG) else None

    def _answer(self, call: Call, spec: MethodSpec, result: Any) -> Letter | None:
        """The result as a message; whatever the values raise while they are written."""
        values = spec.spread(result)
        if call.reply is None:
            return None
        return self._connection.write(Kind.RETURN, spec.result, values, serial=call.envelope.serial)

    def _failure(self, call: Call, error: BaseException) -> Letter | None:
        """What the method, or its result, raised; called where ``error`` is handled."""
        error = alone(error)
        if isinstance(error, DBusError):
            return self._refusal_of(call, error)
        about = self._about(call, type(error).__name__)
        log.exception("%s of %s failed", call.envelope.member, self._what, extra=about)
        return self._refusal_of(call, DBusError(words(error)))

    def _refusal_of(self, call: Call, error: DBusError) -> Letter | None:
        """An error as a message, unless nobody waits for one."""
        if call.reply is None or call.is_given_up:
            return None
        if not can_travel(error):
            log.error(
                "%s of %s raised what is no D-Bus error", call.envelope.member, self._what, exc_info=error,
                extra=self._about(call, type(error).__name__),
            )
            error = DBusError(words(error))
        return self._connection.write(
            Kind.ERROR, "s", (error.text,), member=error.name, serial=call.envelope.serial
        )

    def _is_posted(self, call: Call, answer: Letter) -> bool:
        """The answer is on its way, and the reply handle with it."""
        reply = call.reply
        assert reply is not None

        def failed(error: Bus1Error) -> None:
            call.reply = self._connection.handle(reply.id)
            if isinstance(error, Disconnected):
                call.reply.release()
            else:
                self._connection.start(self._tell, call, error)

        try:
            is_posted = self._connection.post_last(reply.id, answer, failed)
        except Bus1Error:
            return False  # it comes again where it can be told
        if is_posted:
            self._connection.forgo(reply.spent(), call)
            call.reply = None
        return is_posted

    async def _deliver(self, call: Call, answer: Letter) -> None:
        assert call.reply is not None
        try:
            # In vain, if nobody waits any more: then objects among the values learn that nobody has them.
            await self._connection.deliver([call.reply.id], answer)
        except (Disconnected, BusGone, PeerShutdown):
            log.debug("nobody waits for the answer of %s any more", call.envelope.member)
        except Bus1Error as error:
            await self._tell(call, error)

    async def _tell(self, call: Call, error: Bus1Error) -> None:
        """The answer cannot be sent, but a word about that may."""
        if isinstance(error, Overloaded):
            refusal = self._refusal_of(call, LimitsExceeded(f"the answer does not fit: {error}"))
        else:
            refusal = self._failure(call, error)
        if refusal is None or call.reply is None:
            return
        try:
            await self._connection.deliver([call.reply.id], refusal)
        except Bus1Error as failure:
            # Whatever it is, the reply handle is released next, and the caller sees NoReply.
            log.debug("%s could not be answered: %s", call.envelope.member, failure)
        call.reply.release()

    def _about(self, call: Call, error: str | None = None) -> dict[str, object]:
        """What programs can read in a line about a call (``logs.FIELDS``)."""
        return {
            "bus1_object": self._what, "bus1_interface": call.envelope.interface or None,
            "bus1_member": call.envelope.member, "bus1_uid": call.caller.uid, "bus1_pid": call.caller.pid,
            "bus1_error": error,
        }


_NO_OPTIONS = Options()


VALUES = frozenset({NoneType, bool, int, float, str, bytes, list, dict, tuple})
"""Of these nothing is awaited, and most results are of these."""


def is_awaited(result: Any) -> bool:
    """The result has to be waited for."""
    return type(result) not in VALUES and inspect.isawaitable(result)


def _is_plain(call: Call, interface: Interface) -> bool:
    """The method of an object here, and no coroutine."""
    return interface.__far__ is None and isinstance(call.member, Method) and call.member.is_plain


def _begin(call: Call, interface: Interface, spec: MethodSpec, args: Sequence[Any]) -> Any:
    """Call the method; its result, or what to await for it."""
    if isinstance(gate := interface.__far__, Gate):
        return gate.perform(spec.attribute, tuple(args), call.caller)
    extra = {} if spec.caller is None else {spec.caller: call.caller}
    if isinstance(call.member, Method):
        return call.member.function(interface, *args, **extra)
    return getattr(interface, spec.attribute)(*args, **extra)
