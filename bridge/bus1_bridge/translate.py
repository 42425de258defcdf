"""translate: D-Bus headers to envelopes and back; bodies are never touched.

Theory. An envelope says what a message means, a D-Bus header also says from whom, to whom and about
which object. Going to D-Bus, those facts come from the bus (an ``Address``); coming from D-Bus, they are
dropped, because the node that the envelope is sent to stands for them. Kind, flags, byte order, names
and signature are carried over as they are, so the body that follows is valid under either header.

Invariants. 1. A header made here is one that every D-Bus library accepts: nothing of the reserved
Local interface, at most 128 MiB with its body. 2. Going to D-Bus and back keeps kind, flags, byte order,
names and signature.

Not here: bodies (``walk`` checks them), serial numbers and destinations (``hosted``, ``outbound``), how
many descriptors clients take (``gateway``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from bus1_services import call
from bus1_services.call import Envelope, Kind

from bus1.core.api import Buffer
from bus1.errors import InvalidArgument, RemoteProtocolError, TooLarge

from . import codec, wire
from .codec import BodyCheck


class Address(NamedTuple):
    """What a D-Bus header says beyond an envelope."""

    sender: str
    serial: int
    destination: str | None = None
    path: str | None = None
    reply_serial: int = 0


class NativeMessage(NamedTuple):
    """A message of a native peer, checked from the first byte to the last."""

    envelope: Envelope
    payload: bytes
    """The whole of it, as native receivers get it."""
    body: memoryview
    n_fds: int
    paths: dict[int, str]
    """The object paths that the envelope's capabilities name, by ordinal."""


class _NamedPaths:
    """Keeps of a body's object paths those that the envelope names: a hostile body has millions."""

    def __init__(self, envelope: Envelope) -> None:
        self._wanted = {ordinal for ordinal, _ in envelope.caps}
        self._count = 0
        self.found: dict[int, str] = {}

    def append(self, path: str, /) -> None:
        if self._count in self._wanted:
            self.found[self._count] = path
        self._count += 1


class NativeCheck:
    """The check of one message of a native peer; ``step`` until it is done."""

    def __init__(self, parts: Sequence[Buffer], n_fds: int) -> None:
        """Raises InvalidArgument if D-Bus cannot carry it, and so does ``step``."""
        payload = parts[0] if len(parts) == 1 and isinstance(parts[0], bytes) else b"".join(parts)
        try:
            envelope, offset = call.decode(payload)
        except RemoteProtocolError as error:
            raise _not_carried(error) from error
        if wire.LOCAL_INTERFACE in (envelope.interface, envelope.member):
            raise InvalidArgument(f"{wire.LOCAL_INTERFACE} is reserved")
        body = memoryview(payload)[offset:]
        paths = _NamedPaths(envelope)
        self._check = BodyCheck(
            envelope.signature, body, envelope.endian, n_fds, paths if envelope.caps else None
        )
        self.message = NativeMessage(envelope, payload, body, n_fds, paths.found)
        """Not to be used before the check is done."""

    def step(self, budget: int) -> int | None:
        """Go on for about ``budget`` bytes; None if it is not done, else what is left of them."""
        try:
            return self._check.left if self._check.step(budget) else None
        except RemoteProtocolError as error:
            raise _not_carried(error) from error


def _not_carried(error: RemoteProtocolError) -> InvalidArgument:
    return InvalidArgument(f"not a message that D-Bus can carry: {error}")


def checked_message(parts: Sequence[Buffer], n_fds: int, paths: dict[int, str]) -> NativeMessage:
    """A valid message: one that the bus made, or of a D-Bus client's checked body."""
    payload = b"".join(parts)
    envelope, offset = call.decode(payload)
    return NativeMessage(envelope, payload, memoryview(payload)[offset:], n_fds, paths)


def to_header(message: NativeMessage, address: Address, *, with_fds: bool) -> bytes:
    """The D-Bus header for a native message; TooLarge beyond 128 MiB."""
    envelope = message.envelope
    is_error = envelope.kind is Kind.ERROR
    header = codec.build(
        int(envelope.kind),
        endian=envelope.endian,
        flags=envelope.flags,
        serial=address.serial,
        body_length=envelope.body_length,
        path=address.path,
        interface=envelope.interface or None,
        member=None if is_error else envelope.member or None,
        error_name=envelope.member if is_error else None,
        reply_serial=address.reply_serial,
        destination=address.destination,
        sender=address.sender,
        signature=envelope.signature,
        unix_fds=message.n_fds if with_fds else 0,
    )
    if len(header) + envelope.body_length > wire.MAX_MESSAGE:
        raise TooLarge(f"{len(header) + envelope.body_length} bytes, D-Bus carries {wire.MAX_MESSAGE}")
    return header


def to_envelope(header: wire.Header, *, serial: int = 0, caps: tuple[tuple[int, int], ...] = ()) -> bytes:
    """The envelope for a D-Bus message; ``serial`` is what an answer should repeat."""
    kind = Kind(header.type)
    named = kind in (Kind.CALL, Kind.SIGNAL)
    return call.encode(Envelope(
        kind,
        flags=header.flags,
        endian=header.endian,
        serial=serial,
        interface=(header.interface or "") if named else "",
        member=(header.member if named else header.error_name) or "",
        signature=header.signature,
        caps=caps,
        body_length=header.body_length,
    ))
