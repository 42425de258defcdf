"""rules: match rules, as far as a native connection can follow them.

Theory. A native client hears an object after it has asked that object. So a rule has to name one, by
``sender`` and ``path``; only signals of the bus itself need no path. What else a rule says narrows down what
is handed on.

Invariants. 1. ``Rule.read`` raises DBusError and nothing else, whatever the text is.

Not here: asking objects (``listening``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from ..errors import DBusError

DRIVER = "org.freedesktop.DBus"
DRIVER_PATH = "/org/freedesktop/DBus"
_INVALID = "org.freedesktop.DBus.Error.MatchRuleInvalid"
_UNSUPPORTED = "org.freedesktop.DBus.Error.NotSupported"
_PART = re.compile(r"\s*([A-Za-z0-9_]+)\s*=((?:'[^']*'|\\'|[^,'])*+)(?:,|$)")
_PLAIN = frozenset(("type", "sender", "interface", "member", "path", "destination", "eavesdrop"))
_MAX_TEXT = 4096


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that can be followed: signals of one object, or of the bus."""

    sender: str
    path: str
    interface: str = ""
    member: str = ""
    args: tuple[tuple[int, str], ...] = ()

    @classmethod
    def read(cls, text: str) -> Rule:
        """The rule of a text; DBusError: MatchRuleInvalid, or NotSupported if it names no object."""
        parts = _split(text)
        args = {int(key[3:]): value for key, value in parts.items() if re.fullmatch(r"arg\d\d?", key)}
        odd = [key for key in parts if key not in _PLAIN and not re.fullmatch(r"arg\d\d?", key)]
        sender, path = parts.get("sender", ""), parts.get("path", "")
        if sender == DRIVER:
            path = path or DRIVER_PATH
        if odd or not sender or not path or parts.get("type", "signal") != "signal":
            what = f"not {odd[0]}" if odd else "its sender and its path"
            raise DBusError(
                f"a native connection hears the signals of an object that a rule names: {what}: {text}",
                name=_UNSUPPORTED,
            )
        return cls(
            sender, path, parts.get("interface", ""), parts.get("member", ""), tuple(sorted(args.items()))
        )

    def matches(self, message: Any) -> bool:
        """A signal of this object is meant by the rule."""
        return (
            self.path == message.path
            and self.interface in {"", message.interface}
            and self.member in {"", message.member}
            and all(
                index < len(message.body) and message.body[index] == value for index, value in self.args
            )
        )


def _split(text: str) -> dict[str, str]:
    parts: dict[str, str] = {}
    at = 0
    while at < len(text) and len(text) <= _MAX_TEXT:
        part = _PART.match(text, at)
        if part is None or part[1] in parts:
            break
        parts[part[1]] = part[2].replace("\\'", "\0").replace("'", "").replace("\0", "'").strip()
        at = part.end()
    if at < len(text) or not parts:
        raise DBusError(f"not a match rule: {text[:_MAX_TEXT]!r}", name=_INVALID)
    return parts
