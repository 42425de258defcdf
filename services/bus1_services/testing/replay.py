"""replay: a mock out of a recording: it answers the calls that were recorded with what was answered then.

Theory. A call is known by object, interface, member and arguments. What its service did next, its answer and
the signals until the following call, is done again, in this order. A call that was recorded several times
gets its answers in turn, and then the last one again. Signals before the first call come with it.

Invariants. 1. A call that is not in the recording is answered with NotRecorded, and is an AssertionError at
the end of the block, so that no client can hide it. 2. What is answered is what was recorded, or an error.

Not here: the format (``recording``), fakes whose answers a test writes itself (``fakes``).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from dbus_fast import Message as DBusMessage
from dbus_fast import MessageFlag, MessageType, NameFlag, RequestNameReply
from dbus_fast.aio import MessageBus

from .. import NameTaken
from ..errors import DBusError
from ..plain import to_json
from ..recording import Message, RecordingError, exchanges, read
from .dbus import connected, recorded, released

_STANDARD = ("org.freedesktop.DBus.Introspectable", "org.freedesktop.DBus.Peer")
"""Interfaces that D-Bus tools use of any object; answered as of an object without any other."""
_SHOWN = 5
_TEXT_MAX = 500

Key = tuple[str, str, str, str]
"""Path, interface, member, arguments."""


class NotRecorded(DBusError, name="org.bus1.Error.NotRecorded"):
    """The recording has no such call, or no answer to it that can be given again."""


class Replay:
    """A recording as a service; made by ``PrivateBus.replay``."""

    def __init__(self, bus: MessageBus, name: str, messages: Sequence[Message]) -> None:
        self._bus = bus
        self.name = name
        self.unexpected: list[str] = []
        """Calls that the recording does not have, in words."""
        self._script: dict[Key, deque[list[Message]]] = {}
        self._callers: dict[int, str] = {}
        self._learn(messages)

    def play(self, message: DBusMessage) -> bool:
        """Answer a call; whether it is answered now."""
        if message.message_type is not MessageType.METHOD_CALL:
            return False
        call = recorded(message)
        answers = self._script.get(_key(call))
        if answers is None:
            if call.interface in _STANDARD:
                return False
            self._refuse(message, self._complaint(call))
            return True
        steps = answers[0] if len(answers) == 1 else answers.popleft()
        has_answered = False
        for step in steps:
            has_answered |= step.kind != "signal"
            self._repeat(step, message)
        if not has_answered:
            self._refuse(message, f"the recording has no answer to {_words(call)}")
        return True

    # ---- reading the recording -----------------------------------------------------------------------

    def _learn(self, messages: Sequence[Message]) -> None:
        owners = self._owners(messages)
        steps: dict[tuple[str, int], list[Message]] = {}
        latest: list[Message] = []
        for message in messages:
            if message.kind == "method_call" and message.destination in owners:
                # signals before the first call come with it
                latest = [] if steps else latest
                steps[message.sender, message.cookie] = latest
                self._script.setdefault(_key(message), deque()).append(latest)
            elif message.sender not in owners:
                continue
            elif message.kind == "signal":
                latest.append(message)
            elif (answer := steps.get((message.destination, message.reply_cookie))) is not None:
                answer.append(message)

    def _owners(self, messages: Sequence[Message]) -> set[str]:
        """The name, and the unique names of those who had it."""
        owners = {self.name}
        for call, answer in ((each.call, each.answer) for each in exchanges(messages)):
            if answer is not None and call.destination == self.name:
                owners.add(answer.sender)
            elif answer is not None and (call.member, call.values) == ("GetNameOwner", (self.name,)):
                owners.update(answer.values if answer.kind == "method_return" else ())
        for message in messages:
            if message.member == "NameOwnerChanged" and message.values[:1] == (self.name,):
                owners.update(message.values[1:])
        owners.discard("")
        called = {message.destination for message in messages if message.kind == "method_call"}
        if not owners & called:
            others = ", ".join(sorted(called - {""})) or "nobody"
            raise RecordingError(f"the recording has no call to {self.name}; it has calls to {others}")
        return owners

    # ---- speaking ------------------------------------------------------------------------------------

    def _repeat(self, step: Message, call: DBusMessage) -> None:
        if "h" in step.signature:
            self._refuse(call, "the answer had a descriptor, which no recording has")
            return
        is_signal = step.kind == "signal"
        if not is_signal and call.flags & MessageFlag.NO_REPLY_EXPECTED:
            return
        self._bus.send(DBusMessage(
            message_type=_TYPES[step.kind], path=step.path or None, interface=step.interface or None,
            member=step.member or None, error_name=step.error_name or None,
            destination=None if is_signal and not step.destination else call.sender,
            reply_serial=0 if is_signal else call.serial, signature=step.signature,
            body=[released(value) for value in step.values],
        ))

    def _refuse(self, call: DBusMessage, why: str) -> None:
        self.unexpected.append(why)
        if not call.flags & MessageFlag.NO_REPLY_EXPECTED:
            self._bus.send(DBusMessage.new_error(call, NotRecorded.default_name, why))

    def _complaint(self, call: Message) -> str:
        alike = [
            f"{arguments} at {path}" for path, interface, member, arguments in self._script
            if (interface, member) == (call.interface, call.member)
        ]
        others = f"it has {call.member} of {'; '.join(alike[:_SHOWN])}" if alike else "nor any other of it"
        return f"the recording of {self.name} has no {_words(call)}; {others}"[:_TEXT_MAX]


_TYPES = {
    "method_return": MessageType.METHOD_RETURN, "error": MessageType.ERROR, "signal": MessageType.SIGNAL,
}


@asynccontextmanager
async def replay(address: str, name: str, path: Path | str) -> AsyncIterator[Replay]:
    """Own ``name``, and answer as the recording in a file says, while the block runs.

    RecordingError, NameTaken; AssertionError at the end if there were calls that it does not have."""
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        messages = list(read(file, str(path)))
    async with connected(address) as bus:
        mock = Replay(bus, name, messages)
        bus.add_message_handler(mock.play)
        if await bus.request_name(name, NameFlag.DO_NOT_QUEUE) is not RequestNameReply.PRIMARY_OWNER:
            raise NameTaken(f"{name} is owned by somebody else")
        yield mock
    if mock.unexpected:
        raise AssertionError("\n".join(mock.unexpected))


def _key(call: Message) -> Key:
    arguments = json.dumps(to_json(call.signature, call.values), sort_keys=True)
    return call.path, call.interface, call.member, f"{call.signature} {arguments}"


def _words(call: Message) -> str:
    arguments = ", ".join(map(repr, call.values))
    return f"{call.interface}.{call.member}({arguments}) at {call.path}"
