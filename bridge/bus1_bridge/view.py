"""view: the part of a bus that the clients of one endpoint may see, in the words of flatpak.

Theory. A view is made of rules: ``see=NAME``, ``talk=NAME``, ``own=NAME``, ``call=NAME=RULE`` and
``broadcast=NAME=RULE``, with the meaning that xdg-dbus-proxy gave them. NAME is a well-known name; with
``.*`` behind it, that name and all that continue it after a dot. RULE is ``[METHOD][@PATH]``: METHOD is
``*``, an interface with ``.*`` behind it, or one member of one; PATH is an object path, with ``/*`` behind it
that object and those below. What the rules give to one name is its ``Grant``; a rule that lets through only
some messages makes the name visible, and nothing more. Whoever owns a name has what the name has.

Invariants. 1. More rules never grant less. 2. A grant is found in time that depends on the name's length
alone, whatever names exist.

Not here: who owns what, and what a client has met (``switch.sight``).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple, Self

from bus1_services.types import (
    is_bus_name,
    is_bus_namespace,
    is_interface_name,
    is_member_name,
    is_object_path,
)

from bus1.errors import InvalidArgument

from .policy import Message

RULES_MAX = 1024
"""Of one view."""
RULE_MAX = 1024
"""Characters of one rule."""
_KEPT = 1024


class Level(IntEnum):
    """What may be done with a name; each includes those before it."""

    NONE = 0
    SEE = 1
    TALK = 2
    OWN = 3


class Pattern(NamedTuple):
    """Some members of some objects; None is any."""

    interface: str | None = None
    member: str | None = None
    path: str | None = None
    is_subtree: bool = False

    def matches(self, message: Message) -> bool:
        """Whether the message is about one of them; one without interface is about none in particular."""
        if self.interface is not None and message.interface != self.interface:
            return False
        if self.member is not None and message.member != self.member:
            return False
        if self.path is None or message.path == self.path:
            return True
        return self.is_subtree and (message.path or "").startswith(self.path.rstrip("/") + "/")


class Grant(NamedTuple):
    """What may be done with one name, or with whoever has it."""

    level: Level = Level.NONE
    calls: tuple[Pattern, ...] = ()
    broadcasts: tuple[Pattern, ...] = ()

    @property
    def may_start(self) -> bool:
        """The name may be started: there is something that may be called."""
        return self.level >= Level.TALK or bool(self.calls)

    def may_call(self, message: Message) -> bool:
        """This call may be sent there."""
        return self.level >= Level.TALK or any(pattern.matches(message) for pattern in self.calls)

    def may_hear(self, message: Message) -> bool:
        """This broadcast may be received from there."""
        return self.level >= Level.TALK or any(pattern.matches(message) for pattern in self.broadcasts)

    def __or__(self, other: Grant) -> Grant:
        """Both."""
        if not other.level or other == self:
            return self
        calls = dict.fromkeys((*self.calls, *other.calls))
        broadcasts = dict.fromkeys((*self.broadcasts, *other.broadcasts))
        return Grant(max(self.level, other.level), tuple(calls), tuple(broadcasts))


NOTHING = Grant()
SEEN = Grant(Level.SEE)
EVERYTHING = Grant(Level.OWN)
_LEVELS = {level.name.lower(): Grant(level) for level in (Level.SEE, Level.TALK, Level.OWN)}


class View:
    """All rules of one endpoint; never changed once it is made."""

    def __init__(self, exact: dict[str, Grant], below: dict[str, Grant]) -> None:
        self._exact = exact
        self._below = below
        """What holds for a name, and for all that continue it after a dot."""
        self._kept: dict[str, Grant] = {}

    @classmethod
    def of(cls, rules: Sequence[str]) -> Self:
        """From rules as people write them; InvalidArgument names the one that is none."""
        if len(rules) > RULES_MAX:
            raise InvalidArgument(f"{len(rules)} rules, a view has at most {RULES_MAX}")
        exact: dict[str, Grant] = {}
        below: dict[str, Grant] = {}
        for rule in rules:
            name, grant = _parse(rule)
            table = below if name.endswith(".*") else exact
            name = name.removesuffix(".*")
            table[name] = table.get(name, NOTHING) | grant
        return cls(exact, below)

    def grant(self, name: str) -> Grant:
        """What the rules give to a well-known name."""
        grant = self._kept.get(name)
        if grant is None:
            if len(self._kept) >= _KEPT:
                self._kept.clear()
            grant = self._kept[name] = self._find(name)
        return grant

    def _find(self, name: str) -> Grant:
        grant, space = self._exact.get(name, NOTHING), name
        while space:
            grant |= self._below.get(space, NOTHING)
            space = space.rpartition(".")[0]
        return grant


def _parse(rule: str) -> tuple[str, Grant]:
    """The name, as it is written, and what it gets."""
    if len(rule) > RULE_MAX:
        raise InvalidArgument(f"a rule of {len(rule)} characters: at most {RULE_MAX}")
    verb, _, rest = rule.partition("=")
    name, has_pattern, text = rest.partition("=")
    if verb in _LEVELS and not has_pattern:
        grant = _LEVELS[verb]
    elif verb == "call" and has_pattern:
        grant = Grant(Level.SEE, calls=(_pattern(rule, text),))
    elif verb == "broadcast" and has_pattern:
        grant = Grant(Level.SEE, broadcasts=(_pattern(rule, text),))
    else:
        raise InvalidArgument(
            f"the rule '{rule}' is none of see=NAME, talk=NAME, own=NAME, call=NAME=RULE, broadcast=NAME=RULE"
        )
    is_known = is_bus_namespace(name[:-2]) if name.endswith(".*") else is_bus_name(name)
    if name.startswith(":") or not is_known:
        raise InvalidArgument(f"the rule '{rule}' is about '{name}', which is no well-known name")
    return name, grant


def _pattern(rule: str, text: str) -> Pattern:
    method, at, path = text.partition("@")
    if not text:
        raise InvalidArgument(f"the rule '{rule}' says nothing about what it lets through: [METHOD][@PATH]")
    interface = member = None
    if method.endswith(".*"):
        interface = method.removesuffix(".*")
    elif method not in ("", "*"):
        interface, _, member = method.rpartition(".")
    if (interface is not None and not is_interface_name(interface)) or (
        member is not None and not is_member_name(member)
    ):
        raise InvalidArgument(f"the rule '{rule}' has '{method}', which is no *, INTERFACE.* or method")
    if not at:
        return Pattern(interface, member)
    is_subtree = path.endswith("/*")
    path = (path.removesuffix("/*") or "/") if is_subtree else path
    if not is_object_path(path):
        raise InvalidArgument(f"the rule '{rule}' has '{path}', which is no object path")
    return Pattern(interface, member, path, is_subtree)
