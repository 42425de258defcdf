"""asking: what a running service says about itself, over D-Bus.

Theory. Introspect is asked of an object, and of those below it, one level after the other. D-Bus is spoken
because every bus has it: dbus-daemon, dbus-broker, and the bridge, native services included. An interface
that several objects have is one; where their descriptions differ, the first counts, and it is told.

Invariants. 1. However the service answers, at most ``OBJECTS_MAX`` objects are asked, at most ``DEPTH_MAX``
below each other, and at most ``BYTES_MAX`` bytes kept; what is left out is told. 2. Each answer has a
deadline.

Not here: XML (``reading``), which bus is meant (``verb``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, DBusFastError

from ..types import is_object_path
from .description import Described
from .reading import SourceError, read_node

OBJECTS_MAX = 1024
DEPTH_MAX = 16
BYTES_MAX = 16 << 20
"""Of XML, from all objects together."""
_CONNECTING = 25.0
"""Seconds until a bus that does not answer is given up."""

Introspect = Callable[[str], Awaitable[str]]
"""The XML of the object at a path; AskingError."""


class AskingError(Exception):
    """The service, or the bus, does not answer; the text says which, and why."""


@dataclass(slots=True)
class Told:
    """What a service says: its interfaces, and the paths of those that several objects have."""

    interfaces: dict[str, Described] = field(default_factory=dict)
    paths: dict[str, list[str]] = field(default_factory=dict)
    complaints: list[str] = field(default_factory=list)
    """What was left out, and what does not fit."""


async def ask_bus(address: str, name: str, path: str, patience: float) -> Told:
    """What the owner of ``name`` says of the objects at ``path`` and below; ``patience`` is in seconds per
    answer. AskingError."""
    try:
        with anyio.fail_after(_CONNECTING):
            bus = await MessageBus(address).connect()
    except (OSError, DBusFastError, AuthError, ValueError, EOFError) as error:
        raise AskingError(f"{address}: {error or 'nobody answers'}") from error

    async def introspect(object_path: str) -> str:
        return await _introspect(bus, name, object_path, patience)

    try:
        return await tell(introspect, name, path)
    finally:
        bus.disconnect()


async def tell(introspect: Introspect, name: str, path: str) -> Told:
    """Walk through the objects at ``path`` and below; AskingError if the first does not answer."""
    told, left = Told(), BYTES_MAX
    waiting = deque([(path, 0)])
    seen = {path}
    while waiting:
        here, depth = waiting.popleft()
        try:
            xml = (await introspect(here)).encode(errors="surrogateescape")
            left -= len(xml)
            if left < 0:
                told.complaints.append(f"{name} {here}: XML beyond {BYTES_MAX} bytes; the rest is left out")
                break
            node = read_node(f"{name} {here}", xml, here)
        except (AskingError, SourceError) as error:
            if here == path:
                raise AskingError(str(error)) from error
            told.complaints.append(f"left out: {error}")
            continue
        for described in node.interfaces:
            _merge(told, described)
        for child in node.children:
            below = f"{here.rstrip('/')}/{child}"
            if below in seen or not is_object_path(below):
                continue
            if len(seen) >= OBJECTS_MAX or depth >= DEPTH_MAX:
                told.complaints.append(
                    f"{name} {here}: more than {OBJECTS_MAX} objects, or {DEPTH_MAX} below each other; "
                    f"{below} and what follows are left out"
                )
                break
            seen.add(below)
            waiting.append((below, depth + 1))
    return told


def _merge(told: Told, described: Described) -> None:
    first = told.interfaces.setdefault(described.name, described)
    told.paths.setdefault(described.name, []).append(described.path)
    if first != described:
        told.complaints.append(
            f"{described.name} at {described.path} is not as at {first.path}, which is written: "
            f"{_difference(first, described)}"
        )


def _difference(first: Described, other: Described) -> str:
    """In which members two descriptions of an interface differ."""
    ours, theirs = ({member.name: member for member in each.members} for each in (first, other))
    names = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return ", ".join(names[:8]) + (", …" if len(names) > 8 else "") if names else "annotations, or order"


async def _introspect(bus: MessageBus, name: str, path: str, patience: float) -> str:
    message = Message(name, path, "org.freedesktop.DBus.Introspectable", "Introspect")
    try:
        with anyio.fail_after(patience):
            answer = await bus.call(message)
    except TimeoutError:
        raise AskingError(f"{name} {path}: no answer to Introspect within {patience:g} s") from None
    except (OSError, DBusFastError, EOFError) as error:
        raise AskingError(f"{name} {path}: {error or 'the bus is gone'}") from error
    if answer is None or answer.message_type is MessageType.ERROR:
        words = answer.body[0] if answer and answer.body and isinstance(answer.body[0], str) else ""
        raise AskingError(f"{name} {path}: {answer.error_name if answer else 'no answer'}: {words}")
    if answer.signature != "s":
        raise AskingError(f"{name} {path}: Introspect answers {answer.signature!r}, not a string")
    return str(answer.body[0])
