"""dbus: D-Bus clients for tests, made with dbus-fast: a plain one, one that listens, one that records.

Theory. All three are connections of their own, so that the program under test notices nothing. Whoever
records becomes a monitor of the bus, and sees the messages in the order of the bus, whoever talks natively or
over D-Bus.

Not here: recordings in general (``recording``), replaying (``replay``).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import anyio
from dbus_fast import Message, MessageType
from dbus_fast import Variant as DBusVariant
from dbus_fast.aio import MessageBus

from .. import recording
from ..body import Variant
from ..errors import NameHasNoOwner, NoReply, from_name
from ..types import is_bus_name
from .history import PATIENCE, History
from .signals import Heard

_BUS, _BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
_KINDS = {
    MessageType.METHOD_CALL: "method_call", MessageType.METHOD_RETURN: "method_return",
    MessageType.ERROR: "error", MessageType.SIGNAL: "signal",
}


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[MessageBus]:
    """A connection for the time of a block."""
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    try:
        yield bus
    finally:
        bus.disconnect()
        # what ended it earlier was told to whoever waited for an answer
        with suppress(EOFError, OSError):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


class DBusSignals:
    """The signals that matched a rule, from the start of the block of ``heard``."""

    def __init__(self, bus: MessageBus) -> None:
        self._bus = bus
        self._history: History[Heard] = History("signals")
        bus.add_message_handler(self._take)

    @property
    def heard(self) -> list[Heard]:
        """All that have arrived so far, in order."""
        return self._history.so_far()

    async def wait_for(self, count: int, within: float = PATIENCE) -> list[Heard]:
        """The first ``count``, as soon as they are there; TimeoutError tells what came instead."""
        return await self._history.wait_for(count, within)

    async def all(self) -> list[Heard]:
        """All that were emitted before now, those on their way included; DBusError."""
        await ask(self._bus, "GetId")
        return self.heard

    def _take(self, message: Message) -> None:
        is_ours = message.sender == _BUS and message.destination is not None
        if message.message_type is MessageType.SIGNAL and not is_ours:
            self._history.add(Heard(
                message.member or "", tuple(map(adopted, message.body)), message.interface or "",
                message.path or "",
            ))


@asynccontextmanager
async def heard(address: str, rule: str = "") -> AsyncIterator[DBusSignals]:
    """Hear the signals that match a rule; DBusError for a rule that makes no sense."""
    async with connected(address) as bus:
        signals = DBusSignals(bus)
        await ask(bus, "AddMatch", "s", rule if "type=" in rule else f"type='signal'{rule and ','}{rule}")
        yield signals


@asynccontextmanager
async def record(address: str, name: str, path: Path | str) -> AsyncIterator[None]:
    """Write all calls to the owner of a name, its answers and its signals to a file, while the block runs.

    ``address`` is any D-Bus bus that lets this user monitor it. DBusError; OSError for the file; ValueError
    for a name that is none."""
    if not is_bus_name(name):
        raise ValueError(f"{name!r} is no bus name")
    # line by line: a test that fails may be what the recording is wanted for
    with open(path, "w", encoding="utf-8", buffering=1) as file:
        async with connected(address) as monitor, connected(address) as marker:
            recorder = _Recorder(file, str(monitor.unique_name), str(marker.unique_name))
            monitor.add_message_handler(recorder.take)
            await ask(
                monitor, "BecomeMonitor", "asu", recorder.rules(name), 0,
                interface="org.freedesktop.DBus.Monitoring",
            )
            with suppress(NameHasNoOwner):
                # clients often call an owner by its unique name: the recording shall know whose that is
                await ask(marker, "GetNameOwner", "s", name)
            yield
            # it comes behind everything that was said before
            await ask(marker, "GetId")
            await recorder.finish()


class _Recorder:
    """What a monitor sees, until it sees the marker's last message."""

    def __init__(self, file: TextIO, monitor: str, marker: str) -> None:
        self._file = file
        self._monitor, self._marker = monitor, marker
        self._over = anyio.Event()
        self._failure: Exception | None = None

    def rules(self, name: str) -> list[str]:
        """What to monitor: the owner of a name, who that is, and the marker."""
        return [
            f"sender='{name}'", f"destination='{name}'", f"sender='{_BUS}',destination='{self._marker}'",
            f"sender='{self._marker}'", f"sender='{_BUS}',member='NameOwnerChanged',arg0='{name}'",
        ]

    def take(self, message: Message) -> bool:
        """Write it; calls count as answered, since a monitor that speaks is hung up on."""
        if message.sender == self._marker and message.member == "GetId":
            self._over.set()
        elif message.destination != self._monitor and not self._over.is_set() and self._failure is None:
            try:
                self._file.write(recording.written(recorded(message)) + "\n")
            except Exception as error:
                self._failure = error
        return message.message_type is MessageType.METHOD_CALL

    async def finish(self) -> None:
        """Everything has been written; raises what prevented it."""
        with anyio.fail_after(PATIENCE):
            await self._over.wait()
        if self._failure is not None:
            raise self._failure


async def ask(
    bus: MessageBus, member: str, signature: str = "", *body: Any, interface: str = _BUS
) -> list[Any]:
    """Call a method of the bus itself; DBusError, NoReply if it has hung up."""
    try:
        answer = await bus.call(Message(
            destination=_BUS, path=_BUS_PATH, interface=interface, member=member, signature=signature,
            body=list(body),
        ))
    except (EOFError, OSError) as error:
        raise NoReply("the bus has hung up") from error
    if answer is None or answer.error_name is not None:
        raise from_name(answer.error_name, "".join(map(str, answer.body[:1]))) if answer else NoReply()
    return list(answer.body)


# ---- values ------------------------------------------------------------------------------------------


def recorded(message: Message) -> recording.Message:
    """A message of dbus-fast as recordings have it, received now."""
    return recording.Message(
        _KINDS[message.message_type], message.serial or 0, message.reply_serial or 0, message.sender or "",
        message.destination or "", message.path or "", message.interface or "", message.member or "",
        message.error_name or "", message.signature, tuple(map(adopted, message.body)), message.flags.value,
        time.time_ns() // 1000,
    )


def adopted(value: Any) -> Any:
    """A value of dbus-fast as ``body`` has it, structs apart: they stay lists."""
    match value:
        case DBusVariant():
            return Variant(value.signature, adopted(value.value))
        case list():
            return [adopted(item) for item in value]
        case dict():
            return {key: adopted(item) for key, item in value.items()}
    return value


def released(value: Any) -> Any:
    """A value as dbus-fast takes it."""
    match value:
        case Variant():
            return DBusVariant(value.signature, released(value.value))
        case list() | tuple():
            return [released(item) for item in value]
        case dict():
            return {key: released(item) for key, item in value.items()}
    return value
