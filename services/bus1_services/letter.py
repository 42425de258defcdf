"""letter: a message that has been written, and waits to be sent.

Theory. Writing may fail, and run code of the values; sending may wait, or be done without waiting. Between
the two lies a letter: bytes and numbers, nothing else. Its handles are the reply node, handles by number, and
the capabilities in the values, in this order.

Not here: sending (``connection``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack

from bus1.errors import InvalidArgument

from .body import Grant, encode
from .call import Envelope, Kind, header
from .call import encode as encode_envelope


class Heading(TypedDict, total=False):
    """What a message says beside its values; ``reply`` is the node for the answer."""

    interface: str
    member: str
    flags: int
    serial: int
    reply: int
    handles: Sequence[int]


@dataclass(slots=True)
class Letter:
    """Envelope and body; all handles; descriptors by number."""

    parts: tuple[bytes, bytes]
    handles: Sequence[int]
    fds: Sequence[int] = ()
    shared: Sequence[int] = ()
    """The handles that are not the reply node."""
    owners: Sequence[Any] = ()
    """Of the descriptors, so that they are open until they are sent."""


def write(
    kind: Kind, signature: str, values: Sequence[Any], grant: Grant, **heading: Unpack[Heading]
) -> Letter:
    """A message of ``values``; InvalidArgument if they do not fit."""
    encoded = encode(signature, values, grant)
    first, handles = _reply(heading), heading.get("handles", ())
    caps: tuple[tuple[int, int], ...] = ()
    if encoded.grants:
        start = len(first) + len(handles)
        caps = tuple((ordinal, start + i) for i, (ordinal, _) in enumerate(encoded.grants))
        handles = (*handles, *(number for _, number in encoded.grants))
    names = heading.get("interface", ""), heading.get("member", ""), signature
    flags, serial, length = heading.get("flags", 0), heading.get("serial", 0), len(encoded.data)
    if caps:
        head = encode_envelope(Envelope(kind, flags, "l", serial, *names, caps, length))
    else:
        head = header(kind, flags, serial, *names, length)
    fds = tuple(map(_descriptor_of, encoded.fds)) if encoded.fds else ()
    return Letter((head, encoded.data), (*first, *handles), fds, handles, encoded.fds)


def forward(
    envelope: Envelope, body: bytes, *, reply: int | None = None, handles: Sequence[int] = (),
    fds: Sequence[int] = (),
) -> Letter:
    """A message whose body is there already; LocalProtocolError."""
    first = () if reply is None else (reply,)
    return Letter((encode_envelope(envelope), body), (*first, *handles), fds, handles)


def _reply(heading: Heading) -> tuple[int, ...]:
    return (heading["reply"],) if "reply" in heading else ()


def _descriptor_of(owner: Any) -> int:
    """The number of an open descriptor, or of its owner; InvalidArgument."""
    try:
        number = owner if isinstance(owner, int) else owner.fileno()
    except (AttributeError, TypeError, ValueError, OSError) as error:
        raise InvalidArgument(f"a {type(owner).__name__} is no open descriptor: {error}") from error
    if not isinstance(number, int) or number < 0:
        raise InvalidArgument(f"a {type(owner).__name__} is no open descriptor")
    return number
