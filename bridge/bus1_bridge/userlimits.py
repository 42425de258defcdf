"""userlimits: limits of single users, from a file that the reference never reads.

Theory. busconfig(5) has one set of limits for everybody, and no word for a rate. This file has both, in a
small part of TOML: tables ``[default]`` and ``[user.NAME]`` (a name, or a uid), and in them whole numbers
under the names of busconfig's limits. What ``[default]`` says holds for all users, but for those with a table
of their own that says otherwise; what no table says is as in the configuration.

Invariants. 1. Whatever isn't understood is an error with file and line; a user that doesn't exist is a
warning, as in policies.

Not here: reading the file (configfiles), who is held to what (``switch.limits``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from bus1.record import replace

from .busconfig import ConfigError
from .switch.limits import MESSAGE_SIZE_CEILING, BusLimits

KEYS: dict[str, int] = {
    "max_connections_per_user": 0, "max_incomplete_connections": 1, "new_connections_per_second": 1,
    "max_names_per_connection": 0, "max_match_rules_per_connection": 0, "max_replies_per_connection": 0,
    "max_incoming_bytes": 0, "max_incoming_unix_fds": 0, "max_outgoing_bytes": 0,
    "max_outgoing_unix_fds": 0, "max_message_size": 0, "max_message_unix_fds": 0,
}
"""What may differ by user, and the least that it may be."""
_DEFAULT = "default"
_LARGEST = 2**31 - 1
_COMMENT = r"\s*(?:#.*)?"
_TABLE = re.compile(rf"\[\s*(?:(default)|user\s*\.\s*(?:([A-Za-z0-9_-]+)|\"([^\"\\]+)\"))\s*\]{_COMMENT}")
_PAIR = re.compile(rf"([A-Za-z0-9_-]+)\s*=\s*(.*?){_COMMENT}")
_NUMBER = re.compile(r"[0-9]+(?:_[0-9]+)*")


class UserLimits(NamedTuple):
    """What a file says."""

    default: dict[str, int]
    users: dict[int, dict[str, int]]
    """By uid."""
    warnings: tuple[str, ...]

    def applied_to(self, limits: BusLimits) -> BusLimits:
        """The limits of a configuration, with those of users in them."""
        users = {uid: _replaced(limits, self.default | own) for uid, own in self.users.items()}
        return replace(limits, others=_replaced(limits, self.default), users=users)


def parse(text: str, path: str, number_of: Callable[[str], int | None]) -> UserLimits:
    """What the file says; ``number_of`` knows the uid of a user. ConfigError."""
    default: dict[str, int] = {}
    users: dict[int, dict[str, int]] = {}
    warnings: list[str] = []
    seen: set[str] = set()
    table: dict[str, int] | None = None
    for number, line in enumerate(text.splitlines(), 1):
        place, content = f"{path}:{number}", line.strip()
        if not content or content.startswith("#"):
            continue
        if content.startswith("["):
            name = _table_name(content, place)
            if name in seen:
                raise ConfigError(f"{place}: the table of {name} is there already")
            seen.add(name)
            table = default if name == _DEFAULT else {}
            if name != _DEFAULT:
                uid = number_of(name.removeprefix("user "))
                if uid is None:
                    warnings.append(f"{place}: there is no {name}: the table is ignored")
                elif uid in users:
                    raise ConfigError(f"{place}: uid {uid} has a table already, under another name")
                else:
                    users[uid] = table
        elif table is None:
            raise ConfigError(f"{place}: a table has to come first, [default] or [user.NAME]")
        else:
            _add(table, content, place)
    return UserLimits(default, users, tuple(warnings))


def _table_name(content: str, place: str) -> str:
    found = _TABLE.fullmatch(content)
    if found is None:
        raise ConfigError(f"{place}: {content} is no table: there are [default] and [user.NAME]")
    default, plain, quoted = found.groups()
    return _DEFAULT if default else f"user {plain or quoted}"


def _add(table: dict[str, int], content: str, place: str) -> None:
    found = _PAIR.fullmatch(content)
    if found is None:
        raise ConfigError(f"{place}: expected NAME = NUMBER, not {content}")
    key, value = found.groups()
    if key not in KEYS:
        raise ConfigError(f"{place}: no limit of users is called {key}: there are {', '.join(KEYS)}")
    if key in table:
        raise ConfigError(f"{place}: {key} is there twice")
    if not _NUMBER.fullmatch(value) or not KEYS[key] <= int(value) <= _LARGEST:
        raise ConfigError(f"{place}: {key} is a whole number from {KEYS[key]} to {_LARGEST}, not {value}")
    table[key] = int(value)


def _replaced(limits: BusLimits, values: dict[str, int]) -> BusLimits:
    given = dict(values)
    if "max_message_size" in given:
        given["max_message_size"] = min(given["max_message_size"], MESSAGE_SIZE_CEILING)
    return replace(limits, **given)
