"""match: match rules, and who gets a broadcast.

Theory. A rule is text of ``key='value'`` pairs; ``parse`` turns it into a value, and rules are
equal if they ask for the same. The index files rules by what most messages differ in: the
*place* (type, interface, member, path), each part of it possibly open, then the sender, then all
other conditions (``conditions``). A message looks up its own place with every combination of open parts
that some rule uses (at most 16, and as many for eavesdroppers), so rules for other places, senders,
names and paths cost nothing. A rule that nobody else has takes about 1 KiB of memory.

Owners are integers, one for whoever receives (connections; others may use integers of their own).
Each owner has a rank, given when it adds its first rule: ``receivers`` answers in that order.

Invariants. 1. ``receivers`` is exactly the owners of rules that match, each once.
2. A rule that was added n times is gone when it has been removed n times.
3. A rule without ``eavesdrop`` matches broadcasts only; a rule with a destination matches no
broadcast.
4. Nothing of an owner remains after ``drop``.

Not here: who may eavesdrop and how many rules one may have (the driver).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

from bus1_services.types import (
    ObjectPath,
    is_bus_name,
    is_bus_namespace,
    is_interface_name,
    is_member_name,
    is_object_path,
)

from bus1.errors import Rejected, TooLarge
from bus1.record import record

from .conditions import VALUE_MAX, ConditionTree
from .tally import Tally

MAX_TEXT = VALUE_MAX
"""Bytes of a rule's text."""
MAX_ARGUMENT = 63
TYPES: dict[str, int] = {"method_call": 1, "method_return": 2, "error": 3, "signal": 4}
_TYPE_NAMES = {number: name for name, number in TYPES.items()}


class MatchRuleInvalid(Rejected, ValueError):
    """The text is not a match rule; the message says why."""


class MatchRuleTooLong(TooLarge):
    """The text has more than ``MAX_TEXT`` bytes (the driver answers LimitsExceeded)."""


@record(frozen=True)
class ArgumentMatch:
    """What a rule asks of one argument: ``form`` is ``""``, ``path`` or ``namespace``."""

    index: int
    form: str
    value: str


@record(frozen=True)
class MatchRule:
    """One rule as a value; None and 0 stand for keys that are not given. ``str()`` is its normal form."""

    type: int = 0
    sender: str | None = None
    interface: str | None = None
    member: str | None = None
    path: str | None = None
    path_namespace: str | None = None
    destination: str | None = None
    eavesdrop: bool = False
    arguments: tuple[ArgumentMatch, ...] = ()
    """In ascending order of index, at most one for each."""

    def __str__(self) -> str:
        pairs = [("type", _TYPE_NAMES.get(self.type))]
        pairs += [(key, getattr(self, key)) for key in _NORMAL_ORDER]
        pairs.append(("eavesdrop", "true" if self.eavesdrop else None))
        pairs += [(f"arg{a.index}{a.form}", a.value) for a in self.arguments]
        return ",".join(f"{key}={_quote(value)}" for key, value in pairs if value is not None)


_NORMAL_ORDER = ("interface", "member", "path", "path_namespace", "sender", "destination")


@record()
class MatchInput:
    """What rules look at in one message."""

    type: int
    sender: str
    """Unique name of the sender, or ``org.freedesktop.DBus``."""
    sender_names: Collection[str] = ()
    """Well-known names that the sender is primary owner of."""
    path: str | None = None
    interface: str | None = None
    member: str | None = None
    destination: str | None = None
    """Unique name of the addressed recipient (or the text of DESTINATION); None for a broadcast."""
    destination_names: Collection[str] = ()
    """Well-known names that the recipient is primary owner of."""
    arguments: Callable[[], Sequence[str | ObjectPath | None]] = list
    """Gives the first arguments (``walk.arguments``); called only if a rule needs them."""


def parse(text: str) -> MatchRule:
    """The rule that ``text`` stands for; MatchRuleInvalid, MatchRuleTooLong."""
    if len(text.encode()) > MAX_TEXT:
        raise MatchRuleTooLong(f"a match rule may have {MAX_TEXT} bytes")
    pairs: dict[str, str] = {}
    arguments: dict[int, ArgumentMatch] = {}
    for key, value in _pairs(text):
        if key.startswith("arg"):
            argument = _argument(key, value)
            if arguments.setdefault(argument.index, argument) is not argument:
                raise MatchRuleInvalid(f"argument {argument.index} is given twice")
            continue
        if key not in _CHECKS:
            raise MatchRuleInvalid(f"unknown key {key!r}")
        is_first = key not in pairs or key == _REPEATABLE
        if not (is_first and _CHECKS[key](value)):
            raise MatchRuleInvalid(f"key {key!r} is given twice, or {value!r} is no value for it")
        pairs[key] = value
    if "path" in pairs and "path_namespace" in pairs:
        raise MatchRuleInvalid("path and path_namespace exclude each other")
    return MatchRule(
        type=TYPES[pairs.pop("type")] if "type" in pairs else 0,
        eavesdrop=pairs.pop("eavesdrop", "false") == "true",
        arguments=tuple(arguments[index] for index in sorted(arguments)),
        **pairs,
    )


_REPEATABLE = "eavesdrop"
"""The last one counts: old monitors put one in front of the rule that they were given."""
_CHECKS: dict[str, Callable[[str], bool]] = {
    "type": TYPES.__contains__,
    "sender": is_bus_name,
    "interface": is_interface_name,
    "member": is_member_name,
    "path": is_object_path,
    "path_namespace": is_object_path,
    "destination": is_bus_name,
    "eavesdrop": ("true", "false").__contains__,
}


def _pairs(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    while True:
        while text[at : at + 1] in _BLANK:
            at += 1
        if at >= len(text):
            return
        equals = text.find("=", at)
        if equals < 0:
            raise MatchRuleInvalid(f"no '=' after {text[at:]!r}")
        value, end = _value(text, equals + 1)
        yield text[at:equals].rstrip(" \t\n\r"), value
        at = end


_BLANK = frozenset(" \t\n\r")


def _value(text: str, at: int) -> tuple[str, int]:
    """The unquoted value that starts at ``at``, and the position behind its comma."""
    value: list[str] = []
    is_quoted = False
    while at < len(text):
        character = text[at]
        at += 1
        if character == "'":
            is_quoted = not is_quoted
        elif is_quoted:
            value.append(character)
        elif character == ",":
            return "".join(value), at
        elif character == "\\" and text[at : at + 1] == "'":
            value.append("'")
            at += 1
        else:
            value.append(character)
    if is_quoted:
        raise MatchRuleInvalid("an apostrophe is not closed")
    return "".join(value), at


_ARGUMENT_FORMS = frozenset({"", "path", "namespace"})


def _argument(key: str, value: str) -> ArgumentMatch:
    digits = key[3:].rstrip("abcdefghijklmnopqrstuvwxyz")
    form = key[3 + len(digits) :]
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 3 or int(digits) > MAX_ARGUMENT:
        raise MatchRuleInvalid(f"{key!r} names none of the arguments 0 to {MAX_ARGUMENT}")
    index = int(digits)
    if form not in _ARGUMENT_FORMS or (form == "namespace" and digits != "0"):
        raise MatchRuleInvalid(f"unknown key {key!r}")
    if form == "namespace" and not is_bus_namespace(value):
        raise MatchRuleInvalid(f"{value!r} is not the beginning of a bus name")
    return ArgumentMatch(index, form, value)


def _quote(value: str) -> str:
    return "'" + value.replace("'", r"'\''") + "'"


_Place = tuple[int, str | None, str | None, str | None]
_Shape = tuple[bool, bool, bool, bool, bool]
"""Which parts of a place are given, and whether it is for eavesdroppers."""
_BySender = dict[str | None, ConditionTree]


class MatchIndex:
    """The rules of everybody; its length is the number of owners that have one."""

    def __init__(self, tally: Tally | None = None) -> None:
        """``tally`` may count the rules of another index, too."""
        self.tally = tally or Tally()
        self._shapes: dict[_Shape, dict[_Place, _BySender]] = {}
        self._owned: dict[int, dict[MatchRule, int]] = {}
        self._ranks: dict[int, int] = {}
        self._next_rank = 0
        self._naming: dict[str, dict[MatchRule, None]] = {}

    def __len__(self) -> int:
        return len(self._owned)

    def add(self, owner: int, rule: MatchRule) -> None:
        """One more instance of the rule for this owner."""
        if owner not in self._ranks:
            self._ranks[owner] = self._next_rank
            self._next_rank += 1
        owned = self._owned.setdefault(owner, {})
        owned[rule] = owned.get(rule, 0) + 1
        self.tally.add(owner)
        shape, place = _place(rule)
        senders = self._shapes.setdefault(shape, {}).setdefault(place, {})
        tree = senders.get(rule.sender)
        if tree is None:
            tree = senders[rule.sender] = ConditionTree()
        tree.add(rule, owner)
        for name in _unique_names(rule):
            self._naming.setdefault(name, {})[rule] = None

    def remove(self, owner: int, rule: MatchRule) -> bool:
        """One instance less; False if the owner has none."""
        owned = self._owned.get(owner)
        if owned is None or rule not in owned:
            return False
        if owned[rule] == 1:
            self._discard(owner, rule)
        else:
            owned[rule] -= 1
            self.tally.remove(owner)
        return True

    def drop(self, owner: int) -> None:
        """All rules of the owner go."""
        for rule in list(self._owned.get(owner, ())):
            self._discard(owner, rule)
        self._ranks.pop(owner, None)
        if not self.tally.of(owner):
            self.tally.forget(owner)

    def forget_name(self, unique: str, spared: Collection[int] = ()) -> None:
        """Everybody's rules with this unique name as sender or destination go: it never returns.

        ``spared`` keep theirs: they must not notice."""
        for rule in list(self._naming.get(unique, ())):
            shape, place = _place(rule)
            for owner in self._shapes[shape][place][rule.sender].owners(rule):
                if owner not in spared:
                    self._discard(owner, rule)

    def receivers(self, message: MatchInput) -> list[int]:
        """Owners with a rule that matches, in the order in which they added their first rules."""
        found: set[int] = set()
        for tree in self._candidates(message):
            for owners in tree.receivers(message):
                found.update(owners)
        return sorted(found, key=self._ranks.__getitem__)

    def rules_of(self, owner: int) -> list[MatchRule]:
        """The owner's rules, each as often as it was added."""
        return [rule for rule, times in self._owned.get(owner, {}).items() for _ in range(times)]

    def count(self, owner: int) -> int:
        """How many rules the owner has, each as often as it was added."""
        return self.tally.of(owner)

    def _candidates(self, message: MatchInput) -> Iterator[ConditionTree]:
        type_, interface, member, path = message.type, message.interface, message.member, message.path
        is_broadcast = message.destination is None
        for (by_type, by_interface, by_member, by_path, eavesdrops), places in self._shapes.items():
            if not (is_broadcast or eavesdrops):
                continue
            senders = places.get((
                type_ if by_type else 0,
                interface if by_interface else None,
                member if by_member else None,
                path if by_path else None,
            ))
            if senders is not None:
                for sender in _senders(senders, message):
                    yield senders[sender]

    def _discard(self, owner: int, rule: MatchRule) -> None:
        owned = self._owned[owner]
        self.tally.remove(owner, owned.pop(rule))
        if not owned:
            del self._owned[owner]
        shape, place = _place(rule)
        places = self._shapes[shape]
        senders = places[place]
        tree = senders[rule.sender]
        if not tree.discard(rule, owner):
            return
        for name in _unique_names(rule):
            del self._naming[name][rule]
            if not self._naming[name]:
                del self._naming[name]
        if not tree:
            del senders[rule.sender]
        if not senders:
            del places[place]
        if not places:
            del self._shapes[shape]


def _place(rule: MatchRule) -> tuple[_Shape, _Place]:
    shape = (
        rule.type != 0, rule.interface is not None, rule.member is not None, rule.path is not None,
        rule.eavesdrop,
    )
    return shape, (rule.type, rule.interface, rule.member, rule.path)


def _unique_names(rule: MatchRule) -> set[str]:
    return {name for name in (rule.sender, rule.destination) if name is not None and name.startswith(":")}


def _senders(filed: _BySender, message: MatchInput) -> list[str | None]:
    """The senders with rules that this message's sender answers to."""
    names = message.sender_names
    if len(names) < len(filed):
        return [name for name in (None, message.sender, *names) if name in filed]
    return [name for name in filed if name is None or name == message.sender or name in names]
