"""party: one of the two services, as it is asked: over D-Bus, one call after the other.

Theory. D-Bus is what both speak, whatever they are written with. Signals are a consequence of a call if
they come before the answer to a Ping that follows it, or within the time that late ones are given. Object
paths that a recorded answer had, and that come out differently now, are remembered: a later call
to the recorded path goes to the one that takes its place.

Invariants. 1. Every wait has an end. 2. At most ``SIGNALS_MAX`` signals of one call are kept.

Not here: which calls (``questions``), starting programs (``staging``).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import anyio
from dbus_fast import Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus
from dbus_fast.errors import AuthError, DBusFastError

from ..errors import DBusError
from ..migrate.asking import AskingError, Told, tell
from ..testing.dbus import adopted, ask, connected, released
from .differences import changed, neutral
from .questions import Heard, Outcome, Question

SIGNALS_MAX = 10_000
_BUS = "org.freedesktop.DBus"
_NO_REPLY_EXPECTED = 1
_FLAGS = 7
"""Those of D-Bus that a caller may set."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: for an answer, and for signals that come late."""

    answer: float = 25.0
    settle: float = 0.1


class Party:
    """A service under its name on its bus."""

    def __init__(self, bus: MessageBus, name: str, patience: Patience) -> None:
        self._bus, self._name, self._patience = bus, name, patience
        self._owner = ""
        self._signals: list[Heard] = []
        self._now: dict[str, str] = {}
        """Recorded paths, and those that take their place."""
        bus.add_message_handler(self._take)

    async def start(self) -> None:
        """Find the service, which is started if need be; DBusError, TimeoutError."""
        with anyio.fail_after(self._patience.answer):
            await ask(self._bus, "AddMatch", "s", f"type='signal',sender='{self._name}'")
            if not (await ask(self._bus, "NameHasOwner", "s", self._name))[0]:
                await ask(self._bus, "StartServiceByName", "su", self._name, 0)
            (self._owner,) = await ask(self._bus, "GetNameOwner", "s", self._name)

    async def describe(self, path: str) -> Told:
        """What it says of its objects from ``path`` down; AskingError."""
        return await tell(self._introspect, self._name, path)

    async def ask(self, question: Question) -> Outcome:
        """What comes of a call, made comparable."""
        asked = self._as_now(question)
        self._signals.clear()
        outcome = await self._call(asked)
        await self._call(Question("/", "org.freedesktop.DBus.Peer", "Ping"))
        if self._patience.settle:
            await anyio.sleep(self._patience.settle)
        outcome = replace(outcome, signals=tuple(self._signals))
        self._remember(question, outcome)
        names = {self._owner: ":service", str(self._bus.unique_name): ":caller"}
        names |= {now: recorded for recorded, now in self._now.items()}
        return neutral(outcome, names)

    async def _call(self, question: Question) -> Outcome:
        flags = question.flags & _FLAGS
        message = Message(
            self._name, question.path, question.interface or None, question.member,
            signature=question.signature, body=released(list(question.values)), flags=MessageFlag(flags),
        )
        if flags & _NO_REPLY_EXPECTED:
            await self._bus.send(message)
            return Outcome()
        try:
            with anyio.fail_after(self._patience.answer):
                answer = await self._bus.call(message)
        except TimeoutError:
            return Outcome(error="no answer", text=f"within {self._patience.answer:g} s")
        if answer is None:
            return Outcome(error="no answer", text="the bus is gone")
        values = tuple(map(adopted, answer.body))
        if answer.message_type is MessageType.ERROR:
            return Outcome(error=answer.error_name or "?", text=" ".join(map(str, values[:1])))
        return Outcome(answer.signature, values)

    async def _introspect(self, path: str) -> str:
        outcome = await self._call(Question(path, "org.freedesktop.DBus.Introspectable", "Introspect"))
        if outcome.error or outcome.signature != "s":
            raise AskingError(f"{self._name} {path}: {outcome.error or 'no text'}: {outcome.text}")
        return str(outcome.values[0])

    def _take(self, message: Message) -> None:
        is_signal = message.message_type is MessageType.SIGNAL and message.sender != _BUS
        if is_signal and len(self._signals) < SIGNALS_MAX:
            self._signals.append(Heard(
                message.path or "", message.interface or "", message.member or "", message.signature,
                tuple(map(adopted, message.body)),
            ))

    def _as_now(self, question: Question) -> Question:
        def change(code: str, text: str) -> str:
            return self._now.get(text, text) if code == "o" else text

        values = changed(question.signature, question.values, change)
        return replace(question, path=self._now.get(question.path, question.path), values=values)

    def _remember(self, question: Question, outcome: Outcome) -> None:
        """Which paths take the place of those that a recording has."""
        recorded = question.expected
        if recorded is not None and recorded.signature == outcome.signature:
            before, after = (_paths(side.signature, side.values) for side in (recorded, outcome))
            if len(before) == len(after):
                self._now |= {old: new for old, new in zip(before, after, strict=True) if old != new}


@asynccontextmanager
async def party(address: str, name: str, patience: Patience) -> AsyncIterator[Party]:
    """The service that owns ``name`` at ``address``; AskingError if there is none."""
    try:
        async with connected(address) as bus:
            found = Party(bus, name, patience)
            try:
                await found.start()
            except DBusError as error:
                raise AskingError(f"{name} at {address}: {error}") from None
            except TimeoutError:
                raise AskingError(f"{name} at {address}: not there in {patience.answer:g} s") from None
            yield found
    except (OSError, EOFError, ValueError, DBusFastError, AuthError) as error:
        raise AskingError(f"{address}: {error or 'the bus is gone'}") from None


def _paths(signature: str, values: tuple[Any, ...]) -> list[str]:
    paths: list[str] = []

    def note(code: str, text: str) -> str:
        if code == "o":
            paths.append(text)
        return text

    changed(signature, values, note)
    return paths
