"""busobject: calls of native peers to objects of the bus itself, as values.

Theory. The registry is an ordinary object, so its calls are ordinary envelopes. A ``Method`` is a row of
a table: what it takes, what it gives, and the function. The function returns an ``Answer`` or a
``Failure``; nothing is raised. What comes out in the end is ``Served``: the answer as a message, and the
handles that the bus peer then releases.

Not here: the methods (``registry``), and sending (``gateway``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, NamedTuple

from bus1_services import call
from bus1_services.call import Envelope, Kind

from bus1.core.api import HANDLE_INVALID, Buffer
from bus1.errors import Overloaded, RemoteProtocolError

from . import codec, wire
from .switch.tables import LegacyParty, NativeParty

BODY_MAX = 4 << 20
"""Bytes of a call's body: it is checked and read within one command."""


class Call(NamedTuple):
    """One call of a native peer to the bus."""

    caller: NativeParty
    envelope: Envelope
    body: memoryview
    values: tuple[Any, ...]
    handles: tuple[int, ...]
    """Arguments, without the reply node; ids of the bus peer."""
    subject: tuple[LegacyParty, str] | None
    """The object of a legacy client that was called; None for the registry itself."""
    reply: int = HANDLE_INVALID
    """The reply node, for who answers later."""


class Answer(NamedTuple):
    """What a method returns: values, and handles of the bus peer with one reference to give away."""

    values: tuple[object, ...] = ()
    handles: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()
    """Handles of the call that the bus peer keeps."""


class Failure(NamedTuple):
    """A method's error reply; ``name`` without the usual prefix."""

    name: str
    text: str


class Later(Enum):
    """What a method returns that keeps the reply node, and answers when it can."""

    LATER = 0


LATER = Later.LATER


class Served(NamedTuple):
    """One entry of the bus peer's queue is done: send this if ``reply`` is not None, then release."""

    reply: int | None = None
    parts: tuple[Buffer, ...] = ()
    handles: tuple[int, ...] = ()
    releases: tuple[int, ...] = ()


class Method(NamedTuple):
    """A row of the table."""

    takes: str
    gives: str
    n_handles: int | None
    """How many it takes beside the reply node; None: its own business."""
    function: Callable[[Call], Answer | Failure | Later]
    reads_body: bool = False
    """It reads and checks the body itself; ``Call.values`` is empty."""


Methods = dict[tuple[str, str], Method]
"""By interface and member; the first row's interface is meant where a call names none."""


def serve(
    methods: Methods, caller: NativeParty, payload: bytes, handles: Sequence[int],
    subject: tuple[LegacyParty, str] | None,
) -> Served:
    """Carry out one message; anything but a valid call has no effect and no answer."""
    received = tuple(handle for handle in handles if handle != HANDLE_INVALID)
    try:
        envelope, offset = call.decode(payload)
    except RemoteProtocolError:
        return Served(releases=received)
    if envelope.kind is not Kind.CALL or (envelope.expects_reply and not handles):
        return Served(releases=received)
    reply, *arguments = handles if envelope.expects_reply else (HANDLE_INVALID, *handles)
    body = memoryview(payload)[offset:]
    try:
        result, gives = _carry_out(methods, caller, envelope, body, tuple(arguments), subject, reply)
    except RemoteProtocolError:
        return Served(releases=received)
    if result is LATER:
        return Served(releases=tuple((Counter(received) - Counter([reply])).elements()))
    kept: tuple[int, ...] = ()
    given: tuple[int, ...] = ()
    if isinstance(result, Failure):
        name = wire.ERROR_PREFIX + result.name
        parts = _message(envelope, Kind.ERROR, name, "s", wire.error_body(result.text))
    else:
        kept, given = result.kept, result.handles
        parts = _message(envelope, Kind.RETURN, "", gives, wire.marshal(gives, *result.values))
    releases = (*(Counter(received) - Counter(kept)).elements(), *given)
    return Served(None if reply == HANDLE_INVALID else reply, parts, given, releases)


def late(question: Envelope, reply: int, error: tuple[str, str] | None) -> Served:
    """The answer to a call that was kept: no values, or the whole name and the text of an error."""
    if reply == HANDLE_INVALID:
        return Served()
    if error is None:
        parts = _message(question, Kind.RETURN, "", "", b"")
    else:
        parts = _message(question, Kind.ERROR, error[0], "s", wire.error_body(error[1]))
    return Served(reply, parts, (), (reply,))


def _carry_out(
    methods: Methods, caller: NativeParty, envelope: Envelope, body: memoryview,
    handles: tuple[int, ...], subject: tuple[LegacyParty, str] | None, reply: int,
) -> tuple[Answer | Failure | Later, str]:
    if len(body) > BODY_MAX:
        return Failure("LimitsExceeded", f"A call to the bus has at most {BODY_MAX} bytes"), ""
    interface = envelope.interface or next(iter(methods))[0]
    method = methods.get((interface, envelope.member))
    if method is None:
        return Failure("UnknownMethod", f"The bus has no method {interface}.{envelope.member}"), ""
    if envelope.signature != method.takes:
        text = f"{envelope.member} takes '{method.takes}', not '{envelope.signature}'"
        return Failure("InvalidArgs", text), ""
    if method.n_handles is not None and len(handles) != method.n_handles:
        return Failure("InvalidArgs", f"{envelope.member} takes {method.n_handles} handles"), ""
    values: tuple[Any, ...] = ()
    if not method.reads_body:
        codec.check_body(envelope.signature, body, envelope.endian, 0)
        values = wire.unmarshal(envelope.signature, body, envelope.endian)
    try:
        called = Call(caller, envelope, body, values, handles, subject, reply)
        return method.function(called), method.gives
    except Overloaded as error:
        return Failure("LimitsExceeded", str(error)), ""


def _message(
    question: Envelope, kind: Kind, member: str, signature: str, body: bytes
) -> tuple[Buffer, ...]:
    head = call.encode(Envelope(
        kind, serial=question.serial, member=member, signature=signature, body_length=len(body)
    ))
    return (head, body) if body else (head,)
