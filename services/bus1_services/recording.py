"""recording: messages as lines of JSON, in the format of ``busctl --json=short monitor``.

Theory. A line is one message: its header fields, and ``payload`` with the signature of the body and its
values (``plain``). What busctl writes can be read here, and the other way round. A conversation is what
calls and their answers make of it: an answer belongs to the call of that caller and number.

Invariants. 1. ``read`` raises RecordingError with the place of the line, or each field of what it yields is
valid, and its values fit their signature. 2. ``read([written(m)])`` yields ``m``.

Not here: who listens, and what is made of a recording.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .plain import PlainError, from_json, to_json
from .types import (
    is_bus_name,
    is_error_name,
    is_interface_name,
    is_member_name,
    is_object_path,
)

LINE_MAX = 1 << 24
"""Characters of one line."""

_NEEDED = {
    "method_call": ("path", "member"), "signal": ("path", "interface", "member"),
    "error": ("reply_cookie", "error_name"), "method_return": ("reply_cookie",),
}
"""The types of messages, and what each of them has."""
_TEXTS: Mapping[str, Callable[[str], bool]] = {
    "sender": is_bus_name, "destination": is_bus_name, "path": is_object_path,
    "interface": is_interface_name, "member": is_member_name, "error_name": is_error_name,
}
_NUMBERS = {"cookie": 32, "reply_cookie": 32, "flags": 8, "timestamp-realtime": 64}


class RecordingError(ValueError):
    """This line is no message; the text says where it is, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message; fields that it does not have are empty, or 0."""

    kind: str
    """``method_call``, ``method_return``, ``error`` or ``signal``."""
    cookie: int = 0
    """The number that its sender gave it."""
    reply_cookie: int = 0
    """Of an answer: the number of its call."""
    sender: str = ""
    destination: str = ""
    path: str = ""
    interface: str = ""
    member: str = ""
    error_name: str = ""
    signature: str = ""
    values: tuple[Any, ...] = ()
    flags: int = 0
    time: int = 0
    """Microseconds of the wall clock."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A call, and its answer, if it got one."""

    call: Message
    answer: Message | None = None


def written(message: Message) -> str:
    """The line of a message whose values fit their signature, without its end."""
    record: dict[str, Any] = {
        "type": message.kind, "endian": "l", "flags": message.flags, "version": 1, "cookie": message.cookie,
        "reply_cookie": message.reply_cookie, "timestamp-realtime": message.time,
        **{name: getattr(message, name) for name in _TEXTS},
    }
    for name in ("reply_cookie", *_TEXTS):
        if not record[name]:
            del record[name]
    record["payload"] = {"type": message.signature, "data": to_json(message.signature, message.values)}
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def read(lines: Iterable[str], source: str = "recording") -> Iterator[Message]:
    """The messages in lines, empty ones apart; RecordingError."""
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_MAX:
            raise RecordingError(f"{source}:{number}: more than {LINE_MAX} characters")
        if not line.strip():
            continue
        try:
            yield _message(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise RecordingError(f"{source}:{number}: {error}") from None


def exchanges(messages: Iterable[Message]) -> list[Exchange]:
    """The calls in order, with the first answer of each; answers to nothing are left out."""
    found: list[Exchange] = []
    waiting: dict[tuple[str, int], int] = {}
    for message in messages:
        if message.kind == "method_call":
            waiting[message.sender, message.cookie] = len(found)
            found.append(Exchange(message))
        elif message.reply_cookie:
            at = waiting.pop((message.destination, message.reply_cookie), None)
            if at is not None:
                found[at] = Exchange(found[at].call, message)
    return found


def _message(record: Any) -> Message:
    if not isinstance(record, dict) or record.get("type") not in list(_NEEDED):
        raise RecordingError(f"no message of a type: {', '.join(_NEEDED)}")
    kind = record["type"]
    for name in _NEEDED[kind]:
        if not record.get(name):
            raise RecordingError(f"a {kind} without {name}")
    texts = {name: _text(record, name) for name in _TEXTS}
    numbers = {name: _number(record, name) for name in _NUMBERS}
    payload = record.get("payload", {"type": "", "data": []})
    if not isinstance(payload, dict) or not isinstance(payload.get("type"), str) or "data" not in payload:
        raise RecordingError("a payload without type and data")
    try:
        values = from_json(payload["type"], payload["data"])
    except PlainError as error:
        raise RecordingError(str(error)) from None
    return Message(
        kind, numbers["cookie"], numbers["reply_cookie"], **texts, signature=payload["type"], values=values,
        flags=numbers["flags"], time=numbers["timestamp-realtime"],
    )


def _text(record: Mapping[str, Any], name: str) -> str:
    text = record.get(name) or ""
    if not isinstance(text, str) or (text and not _TEXTS[name](text)):
        raise RecordingError(f"{name} is {str(text)[:80]!r}")
    return text


def _number(record: Mapping[str, Any], name: str) -> int:
    number = record.get(name) or 0
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << _NUMBERS[name]:
        raise RecordingError(f"{name} is {str(number)[:80]!r}")
    return number
