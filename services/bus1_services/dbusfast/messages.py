"""messages: a library's messages, out of what arrives here, and into what is sent.

Theory. What arrives was written by anybody, so it is read by our own codec, and its values are then given the
library's form: structs are its tuples or lists, variants its ``Variant``, descriptors indices into a list of
open numbers. What is sent the library marshals itself, header and all, and raises for values that do not fit
exactly where it always did; the body behind the header is taken as it is.

Invariants. 1. A handler is given what it would be given by the library's own reader. 2. Descriptors that
no value names are closed.

Not here: which message is meant for whom (``calls``, ``listening``, ``outgoing``).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any

from bus1.errors import RemoteProtocolError

from ..body import Reference
from ..call import CallFlag, Envelope, Kind
from ..descriptor import UnixFd
from ..handle import Arrival, Handle
from ..types import Type, parse, single
from .library import Library

_KNOWN_FLAGS = CallFlag.NO_REPLY_EXPECTED | CallFlag.NO_AUTO_START | CallFlag.ALLOW_INTERACTIVE_AUTHORIZATION
_BODY_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Route:
    """What a header says beyond an envelope."""

    serial: int
    sender: str | None
    path: str | None = None
    reply_serial: int = 0


class _Values:
    """Values of one message in the library's form; remembers descriptors and capabilities."""

    def __init__(self, library: Library) -> None:
        self.fds: list[int] = []
        self.capabilities: dict[str, Handle] = {}
        self._library = library
        self._taken: dict[int, int] = {}

    def plain(self, type_: Type, value: Any) -> Any:
        match type_.code:
            case "o":
                return self._path(value)
            case "h":
                return self._descriptor(value)
            case "v":
                inside = single(value.signature)
                return self._library.variant(value.signature, self.plain(inside, value.value))
            case "(":
                items = zip(type_.inside, value, strict=True)
                return self._library.struct(self.plain(inside, item) for inside, item in items)
            case "a" if type_.inside[0].code == "{":
                key, item = type_.inside[0].inside
                return {self.plain(key, k): self.plain(item, v) for k, v in value.items()}
            case "a" if type_.inside[0].code in "ohva({":
                return [self.plain(type_.inside[0], item) for item in value]
            case _:
                return value

    def _path(self, value: str) -> str:
        if isinstance(value, Reference) and isinstance(value.handle, Handle):
            self.capabilities[value.path] = value.handle
        return str.__str__(value)

    def _descriptor(self, owner: UnixFd) -> int:
        index = self._taken.get(id(owner))
        if index is None:
            index = self._taken[id(owner)] = len(self.fds)
            self.fds.append(owner.take())
        return index


def received(library: Library, arrival: Arrival, route: Route) -> tuple[Any, dict[str, Handle]]:
    """The message that has arrived, and the capabilities among its paths; RemoteProtocolError.

    Its descriptors are open numbers that belong to whoever handles it, as always with the library."""
    envelope = arrival.envelope
    decoded = arrival.values()
    values = _Values(library)
    is_error = envelope.kind is Kind.ERROR
    try:
        body = [values.plain(t, v) for t, v in zip(parse(envelope.signature), decoded, strict=True)]
        message = library.message(
            message_type=library.message_type(int(envelope.kind)),
            flags=library.message_flag(envelope.flags & _KNOWN_FLAGS),
            serial=route.serial, reply_serial=route.reply_serial, sender=route.sender, path=route.path,
            interface=envelope.interface or None, member=None if is_error else envelope.member or None,
            error_name=envelope.member if is_error else None, signature=envelope.signature, body=body,
            unix_fds=values.fds,
        )
    except Exception as error:
        for fd in values.fds:
            os.close(fd)
        raise RemoteProtocolError(f"{library.package} does not take it: {error}") from error
    return message, values.capabilities


def envelope_of(message: Any, body: bytes, serial: int = 0) -> Envelope:
    """The envelope for a library's message; ``serial`` is what an answer repeats."""
    kind = Kind(message.message_type.value)
    named = kind in {Kind.CALL, Kind.SIGNAL}
    return Envelope(
        kind, message.flags.value & 0xFF, "l", serial, (message.interface or "") if named else "",
        (message.member if named else message.error_name if kind is Kind.ERROR else "") or "",
        message.signature, (), len(body),
    )


def body_of(message: Any, *, with_descriptors: bool) -> bytes:
    """The body as the library marshals it; raises as the library does when it sends."""
    whole = bytes(message._marshall(with_descriptors))
    length = _BODY_LENGTH.unpack_from(whole, 4)[0]
    return whole[len(whole) - length :]
