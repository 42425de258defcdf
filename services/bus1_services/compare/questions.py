"""questions: what is asked of two services: calls, and what each of them got in return.

Theory. A question is a call without its ends. Questions come from a recording, from a command line, or are
made up from introspection; the last kind changes nothing at the service, as only what is meant for
reading is called. A recording may be of more than one service: calls belong to it if they go to its name, or
to a unique name of which the recording says that it owned the name.

Not here: asking (``party``), comparing the outcomes (``differences``).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ..migrate.description import Described, Property
from ..plain import PlainError, from_words
from ..recording import Exchange, Message, exchanges
from ..types import is_interface_name, is_member_name, is_object_path

PROPERTIES = "org.freedesktop.DBus.Properties"
_BUS = "org.freedesktop.DBus"
_NOT_THERE = "BusCompareAsksForNothing"
"""A member that no interface has: how is it refused?"""


@dataclass(frozen=True, slots=True)
class Question:
    """A call; ``expected`` is what a recording says that it gave."""

    path: str
    interface: str
    member: str
    signature: str = ""
    values: tuple[Any, ...] = ()
    flags: int = 0
    expected: Message | None = None

    @property
    def key(self) -> str:
        """Interface and member; those of the property for Get and Set."""
        if self.interface == PROPERTIES and self.member in {"Get", "Set"} and len(self.values) > 1:
            return f"{self.values[0]}.{self.values[1]}"
        return f"{self.interface}.{self.member}"


@dataclass(frozen=True, slots=True)
class Heard:
    """A signal."""

    path: str
    interface: str
    member: str
    signature: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """An answer, or the name and the text of an error; and the signals that came of it, in order."""

    signature: str = ""
    values: tuple[Any, ...] = ()
    error: str = ""
    text: str = ""
    signals: tuple[Heard, ...] = ()


def parsed(line: str) -> Question:
    """``PATH INTERFACE METHOD [SIGNATURE ARGUMENT...]`` in busctl's grammar; PlainError."""
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise PlainError(str(error)) from None
    if len(words) < 3:
        raise PlainError(f"{line!r} is not PATH INTERFACE METHOD [SIGNATURE ARGUMENT...]")
    path, interface, member, *rest = words
    checks = ((path, is_object_path), (interface, is_interface_name), (member, is_member_name))
    for word, is_valid in checks:
        if not is_valid(word):
            raise PlainError(f"{word!r} in {line!r} is not what should stand there")
    signature = rest[0] if rest else ""
    return Question(path, interface, member, signature, from_words(signature, rest[1:]))


def recorded(messages: Sequence[Message], name: str) -> list[Question]:
    """The calls of a recording to the owner of ``name``, in order."""
    found = exchanges(messages)
    owners = {name, *_owners(messages, found, name)}
    return [
        Question(call.path, call.interface, call.member, call.signature, call.values, call.flags, answer)
        for call, answer in ((each.call, each.answer) for each in found) if call.destination in owners
    ]


def probes(objects: Iterable[tuple[Described, str]]) -> Iterator[Question]:
    """What can be asked without changing anything: every property, and how nonsense is refused."""
    for described, path in objects:
        yield from readings(described, path)
        yield Question(path, PROPERTIES, "Get", "ss", (described.name, _NOT_THERE))
        yield Question(path, described.name, _NOT_THERE)
        if described.name == "org.freedesktop.DBus.ObjectManager":
            yield Question(path, described.name, "GetManagedObjects")


def readings(described: Described, path: str) -> list[Question]:
    """All properties together, and then each of them; nothing if there are none."""
    names = [member.name for member in described.members if isinstance(member, Property)]
    together = [Question(path, PROPERTIES, "GetAll", "s", (described.name,))] if names else []
    return together + [Question(path, PROPERTIES, "Get", "ss", (described.name, name)) for name in names]


def _owners(messages: Iterable[Message], found: Iterable[Exchange], name: str) -> Iterator[str]:
    """The unique names that have owned ``name``, as far as the recording tells."""
    for message in messages:
        is_change = message.sender == _BUS and message.member == "NameOwnerChanged"
        if is_change and message.signature == "sss" and message.values[0] == name:
            yield from (owner for owner in message.values[1:] if owner)
    for each in found:
        call, answer = each.call, each.answer
        if answer is None or answer.kind != "method_return":
            continue
        if call.destination == name:
            yield answer.sender
        elif call.destination == _BUS and call.member == "GetNameOwner" and call.values == (name,):
            yield from (owner for owner in answer.values if isinstance(owner, str))
