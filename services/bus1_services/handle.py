"""handle: one reference to a node, and a message with all that came along.

Theory. A reference to a node belongs to a ``Handle`` object: one object, one reference. Who is done with it
calls ``release``; a Handle that is dropped releases itself. Either way the id is only queued: giving it back
is the connection's business. The id is one of that connection: at another it would be whatever has it there.

Not here: who takes arrivals (``connection``).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from bus1.context import endpoint_of, label_of
from bus1.core.api import HANDLE_INVALID
from bus1.errors import InvalidArgument
from bus1.received import ReceivedMessage

from .body import Reference, decode
from .call import Envelope
from .descriptor import UnixFd

CAPABILITY_PREFIX = "/org/bus1/cap/"


def capability_path() -> str:
    """A path that nobody can guess, for an object that some clients hold and others do not."""
    return CAPABILITY_PREFIX + secrets.token_hex(16)


class Handle:
    """One reference to a node, released by ``release``, at the end of ``with``, or with its last user."""

    __slots__ = ("__weakref__", "_home", "_release", "id", "path")

    def __init__(self, number: int, release: Callable[[int], None]) -> None:
        self._home = release
        self.id = number
        self.path: str | None = None
        """How the object is written in bodies, once it came or went in one as a capability."""
        self._release: Callable[[int], None] | None = release

    def release(self) -> None:
        """Give the reference back; a second time does nothing."""
        release, self._release = self._release, None
        if release is not None:
            release(self.id)

    def spent(self) -> int:
        """The reference goes back in another way; its id."""
        self._release = None
        return self.id

    def at(self, release: Callable[[int], None]) -> Self:
        """Itself, where it is released like that; InvalidArgument at any other connection."""
        if release is not self._home:
            raise InvalidArgument(f"{self!r} is of another connection: a view of the object may travel here")
        return self

    def capability(self) -> tuple[str, int]:
        """The path to write and the handle to send, to pass the object on."""
        if self.path is None:
            self.path = capability_path()
        return self.path, self.id

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def __del__(self) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"Handle({self.id:#x})"


def held_by(value: object) -> Handle | None:
    """The handle of a Handle or a Reference; it remembers a capability's path."""
    held = value.handle if isinstance(value, Reference) else value
    if not isinstance(held, Handle):
        return None
    if isinstance(value, Reference) and value.startswith(CAPABILITY_PREFIX):
        held.path = value.path
    return held


def brought(
    message: ReceivedMessage, release: Callable[[int], None]
) -> tuple[tuple[Handle | None, ...], tuple[UnixFd, ...]]:
    """Owners of the handles (None for dead ones) and of the descriptors that came with a message."""
    handles: tuple[Handle | None, ...] = ()
    if message.handles:
        handles = tuple([None if h == HANDLE_INVALID else Handle(h, release) for h in message.handles])
    return handles, tuple(map(UnixFd, message.fds.take_all())) if message.fds else ()


@dataclass(slots=True)
class Arrival:
    """A message on its way to the receiver of its node; ``body`` is valid until the receiver returns."""

    envelope: Envelope
    body: memoryview
    handles: tuple[Handle | None, ...]
    """None for nodes that were dead on arrival (R-45)."""
    fds: tuple[UnixFd, ...]
    uid: int
    gid: int
    pid: int
    context: bytes | None = None
    """The sender's security context (``bus1.context``), if it has any."""

    @property
    def label(self) -> str:
        """The kernel's label of the sender."""
        return label_of(self.context).decode(errors="backslashreplace") if self.context else ""

    @property
    def endpoint(self) -> str:
        """The endpoint that the sender came in by, if that is not the bus's own."""
        return endpoint_of(self.context) if self.context else ""

    def values(self) -> list[Any]:
        """The body's values; RemoteProtocolError."""
        envelope = self.envelope
        return decode(
            envelope.signature, self.body, envelope.endian, caps=envelope.caps, handles=self.handles,
            fds=self.fds,
        )

    def discard(self) -> None:
        """Give back all that came along."""
        for handle in self.handles:
            if handle is not None:
                handle.release()
        for fd in self.fds:
            fd.close()
