"""twin_messages: the messages of a script as bytes.

Theory. Whatever fields a term has become a message, sensible or not; ``turn`` rotates the fields,
``damage`` overwrites bytes afterwards. Serials are counted per client unless given.

Not here: how they are cut and written (twin_stage).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    FIELD_TYPES,
    INTERFACE,
    MEMBER,
    PATH,
    REPLY_SERIAL,
    RETURN,
    SENDER,
    SIGNAL,
    SIGNATURE,
    UNIX_FDS,
    Message,
    marshal,
    message,
)
from twin_script import Term

KINDS = {"call": CALL, "ret": RETURN, "error": ERROR, "signal": SIGNAL}
FIELDS = {
    "path": PATH, "interface": INTERFACE, "member": MEMBER, "name": ERROR_NAME, "reply_to": REPLY_SERIAL,
    "to": DESTINATION, "sender": SENDER, "signature": SIGNATURE, "n_fds": UNIX_FDS,
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "call": {"path": "/x", "interface": "t.I", "member": "M"},
    "signal": {"path": "/x", "interface": "t.I", "member": "S"},
    "ret": {"reply_to": 1}, "error": {"name": "t.Error", "reply_to": 1}, "other": {},
}
_NOBODY = ":1.999999"


@dataclass
class Author:
    """Who writes: what has come so far, and which serial is next."""

    name_of: Callable[[str], str]
    """The unique name of a client of the script; empty if it has none."""
    calls: list[Message] = field(default_factory=list)
    """Calls that have come, the latest last."""
    serial: int = 0

    def write(self, term: Term) -> tuple[bytes, list[int]]:
        """A message, and which descriptors go with it."""
        more = term.named
        match term.word:
            case "raw":
                return bytes.fromhex(term.values[0]), list(more.get("fds", ()))
            case "ask":
                member, signature, args = (*term.values, "", ())[:3] if len(term.values) < 3 else term.values
                about = {"to": BUS, "path": BUS_PATH, "interface": BUS, "member": member}
                return self._built("call", about | {"signature": signature, "args": args} | more)
            case "answer" | "fail":
                word = "ret" if term.word == "answer" else "error"
                return self._built(word, self._of(term.values[0]) | more)
            case word:
                return self._built(word, _DEFAULTS[word] | more)

    def _of(self, n: int) -> dict[str, Any]:
        if not self.calls:
            return {"to": _NOBODY, "reply_to": n + 1, "name": "t.Error"}
        call = self.calls[-1 - n % len(self.calls)]
        return {"to": call.sender, "reply_to": call.serial, "name": "t.Error"}

    def _built(self, word: str, more: dict[str, Any]) -> tuple[bytes, list[int]]:
        kind, fds = KINDS.get(word) or more.get("type", 5), list(more.get("fds", ()))
        endian, signature = more.get("endian", "l"), more.get("signature", "")
        if "size" in more:
            more |= {"signature": "ay", "args": [b"x" * more["size"]]}
            signature = "ay"
        if word != "error":
            more = {key: value for key, value in more.items() if key != "name"}
        if fds:
            more = {"n_fds": len(fds)} | more
        fields = [
            (code, FIELD_TYPES[code], self._plain(more[key]))
            for key, code in FIELDS.items() if more.get(key) not in (None, "", 0)
        ]
        fields += [(code, kind_, self._plain(value)) for code, kind_, value in more.get("extra", ())]
        turn = more.get("turn", 0) % max(1, len(fields))
        args = [self._plain(value) for value in more.get("args", ())]
        if (serial := more.get("serial")) is None:
            self.serial += 1
            serial = self.serial
        data = bytearray(message(
            kind, serial, fields[turn:] + fields[:turn], marshal(signature, *args, endian=endian),
            endian=endian, flags=more.get("flags", 0), version=more.get("version", 1),
            body_length=more.get("body_length"),
        ))
        for at, value in more.get("damage", ()):
            data[at % len(data)] = value
        return bytes(data), fds

    def _plain(self, value: Any) -> Any:
        if isinstance(value, str) and value.startswith("@"):
            return self.name_of(value[1:]) or _NOBODY
        return value
