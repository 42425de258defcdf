"""services: what a .service file says: which program owns a name, and how it is started.

Theory. A service file is a key file. Only its group ``[D-BUS Service]`` counts, and of that the keys below;
everything else is for others, and is passed over. ``Exec=`` is split into arguments as a shell does it, but
no shell runs and nothing is expanded. Whether the command can be split is seen when it is to be started: a
file with a bad command makes its name known, and the start fails.

Not here: where the files lie (servicefiles), starting (starting).
"""

from __future__ import annotations

from typing import NamedTuple

from bus1_services.types import is_bus_name

from bus1.errors import InvalidArgument

from .wire import DRIVER_NAME

GROUP = "D-BUS Service"
_BLANKS = " \t"
_QUOTES = "'\""
_ESCAPED_IN_QUOTES = '"\\`$\n'
_ESCAPES = {"s": " ", "n": "\n", "t": "\t", "r": "\r", "\\": "\\"}


class ServiceError(InvalidArgument):
    """A service file, or the command in it, makes no sense; the text says why."""


class Service(NamedTuple):
    """One name that can be started."""

    name: str
    command: str
    """``Exec=``, not yet split."""
    file: str
    user: str | None = None
    unit: str | None = None
    """``SystemdService=``."""
    label: str | None = None
    """``AssumedAppArmorLabel=``."""


def parse(data: bytes, file: str) -> Service:
    """The service that a file describes; ServiceError."""
    keys = _keys(data)
    for wanted in ("Name", "Exec"):
        if not keys.get(wanted):
            raise ServiceError(f'No "{wanted}" key in .service file')
    name = keys["Name"]
    if not is_bus_name(name) or name.startswith(":") or name == DRIVER_NAME:
        raise ServiceError(f'"{name}" is not a name that a service can own')
    return Service(
        name, keys["Exec"], file, keys.get("User") or None, keys.get("SystemdService") or None,
        keys.get("AssumedAppArmorLabel") or None,
    )


def split_command(text: str) -> tuple[str, ...]:
    """The arguments of a command, quoted as in a shell; ServiceError."""
    words: list[str] = []
    word: str | None = None
    at = 0
    while at < len(text):
        letter = text[at]
        at += 1
        if letter in " \t\n":
            if word is not None:
                words.append(word)
            word = None
        elif letter == "#" and word is None:
            break
        elif letter in _QUOTES:
            quoted, at = _quoted(text, at, letter)
            word = (word or "") + quoted
        elif letter == "\\":
            if at == len(text):
                raise ServiceError(f"the command ends with a backslash: {text}")
            word = (word or "") + text[at]
            at += 1
        else:
            word = (word or "") + letter
    if word is not None:
        words.append(word)
    if not words:
        raise ServiceError("the command is empty")
    return tuple(words)


def _quoted(text: str, at: int, quote: str) -> tuple[str, int]:
    """What stands between the quote before ``at`` and its partner, and where it goes on."""
    start, found = at, ""
    while at < len(text):
        letter = text[at]
        at += 1
        if letter == quote:
            return found, at
        if letter == "\\" and quote == '"' and at < len(text) and text[at] in _ESCAPED_IN_QUOTES:
            letter = text[at]
            at += 1
        found += letter
    raise ServiceError(f"no matching {quote} for the one before {text[start:]}")


def _keys(data: bytes) -> dict[str, str]:
    """The keys of the group that counts; of a key that is there twice, the first."""
    try:
        lines = data.decode().split("\n")
    except UnicodeDecodeError as error:
        raise ServiceError(f"not UTF-8: {error}") from error
    keys: dict[str, str] = {}
    group: str | None = None
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r")
        if not line.strip(_BLANKS) or line.startswith("#"):
            continue
        if "\0" in line:
            raise ServiceError(f"line {number}: a NUL")
        if line.startswith("["):
            group = line.rstrip(_BLANKS)[1:-1]
            if not line.rstrip(_BLANKS).endswith("]") or not group or "[" in group or "]" in group:
                raise ServiceError(f"line {number}: not a group: {line}")
            continue
        key, equals, value = line.partition("=")
        key = key.rstrip(_BLANKS)
        if group is None:
            raise ServiceError(f"line {number}: key=value before [{GROUP}]")
        if not equals or not key:
            raise ServiceError(f"line {number}: not key=value: {line}")
        if group == GROUP:
            keys.setdefault(key, _unescape(value.strip(_BLANKS), number))
    return keys


def _unescape(value: str, number: int) -> str:
    if "\\" not in value:
        return value
    found = ""
    letters = iter(value)
    for letter in letters:
        if letter == "\\":
            letter = next(letters, "")
            if letter not in _ESCAPES:
                raise ServiceError(f"line {number}: unknown escape \\{letter}")
            letter = _ESCAPES[letter]
        found += letter
    return found
