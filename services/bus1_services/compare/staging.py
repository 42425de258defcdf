"""staging: where the two services are, and starting those that are programs, each on a bus of its own.

Theory. Two programs that want one name cannot have it on one bus. So each is started on a private bus, which
it finds as its session's and as the system's, and is ended when everything has been asked. An activation file
says both the name and the program.

Invariants. 1. After its block no program and no bus is left.

Not here: asking them (``party``).
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio.abc import Process
from dbus_fast import Message
from dbus_fast.aio import MessageBus

from ..testing.bus import PrivateBus
from ..testing.dbus import ask, connected
from ..types import is_bus_name

_FILE_MAX = 1 << 16
_LAST_WORDS = 5.0
"""Seconds that a program has to end before it is ended."""


class StagingError(Exception):
    """Where a service is makes no sense, or it does not come up; the text says why."""


@dataclass(frozen=True, slots=True)
class Side:
    """A service: the bus where it is, or the program that is it."""

    name: str
    address: str = ""
    command: tuple[str, ...] = ()


def side_of(text: str, command: str | None, default_address: str) -> Side:
    """What ``NAME``, ``NAME@ADDRESS`` or an activation file says, and ``command``; StagingError."""
    if text.endswith(".service"):
        name, program = _activation(Path(text))
        return Side(name, command=_words(command or program))
    name, at, address = text.partition("@")
    if not is_bus_name(name):
        raise StagingError(f"{name!r} is no bus name, and no file NAME.service")
    if command is not None:
        if at:
            raise StagingError(f"{text}: a program is started on a bus of its own, not at an address")
        return Side(name, command=_words(command))
    if not (address or default_address):
        raise StagingError(f"{name}: which bus? say {name}@ADDRESS, or set DBUS_SESSION_BUS_ADDRESS")
    return Side(name, address or default_address)


@asynccontextmanager
async def staged(side: Side, patience: float) -> AsyncIterator[str]:
    """The address where the service is; its program runs as long as the block. StagingError."""
    if not side.command:
        yield side.address
        return
    with PrivateBus() as bus:
        try:
            process = await anyio.open_process(
                side.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=None,
                env=bus.environment,
            )
        except OSError as error:
            raise StagingError(f"{side.command[0]} cannot be started: {error.strerror}") from None
        try:
            async with connected(bus.address) as client:
                await _owned(client, side, process, patience)
            yield bus.address
        finally:
            with anyio.CancelScope(shield=True):
                await _end(process)


async def _owned(client: MessageBus, side: Side, process: Process, patience: float) -> None:
    """Wait until the program owns the name, or has ended."""
    changed = anyio.Event()
    client.add_message_handler(lambda message: _note(message, side.name, changed))
    await ask(client, "AddMatch", "s", f"type='signal',member='NameOwnerChanged',arg0='{side.name}'")
    if (await ask(client, "NameHasOwner", "s", side.name))[0]:
        return
    with anyio.move_on_after(patience) as waiting:
        async with anyio.create_task_group() as tasks:

            async def ended() -> None:
                await process.wait()
                changed.set()

            tasks.start_soon(ended)
            await changed.wait()
            tasks.cancel_scope.cancel()
    if process.returncode is not None:
        raise StagingError(
            f"{shlex.join(side.command)} ended with status {process.returncode} before it owned {side.name}"
        )
    if waiting.cancelled_caught:
        raise StagingError(f"{shlex.join(side.command)} does not own {side.name} after {patience:g} s")


def _note(message: Message, name: str, changed: anyio.Event) -> None:
    if message.member == "NameOwnerChanged" and message.body[:1] == [name]:
        changed.set()


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(_LAST_WORDS):
            await process.wait()
        if process.returncode is None:
            process.kill()
    await process.wait()
    await process.aclose()


def _activation(path: Path) -> tuple[str, str]:
    """Name and program of an activation file."""
    try:
        with path.open(encoding="utf-8") as file:
            lines: Sequence[str] = file.read(_FILE_MAX).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise StagingError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    pairs = (line.partition("=") for line in lines if not line.lstrip().startswith("#"))
    keys: Mapping[str, str] = {key.strip(): value.strip() for key, sign, value in pairs if sign}
    if not is_bus_name(keys.get("Name", "")) or not keys.get("Exec"):
        raise StagingError(f"{path}: no activation file: it says no Name= and Exec=")
    return keys["Name"], keys["Exec"]


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise StagingError(f"{command!r}: {error}") from None
    if not words:
        raise StagingError("an empty command starts nothing")
    return words
