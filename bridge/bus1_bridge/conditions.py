"""conditions: what match rules ask of a message beyond its place and sender, filed by the answer.

Theory. A condition is a key (which text of the message, and how it is compared) with a value. A rule is
the list of its conditions in a fixed order, and so a way down a tree: a node has a branch for each key,
in it a node for each value, and the owners of the rule that ends there. A message asks every branch for
the few values that it meets: its own text, the prefixes of it, or, where a path of the message may stand
above the rule's, one range of the sorted values. It meets a value before it meets what hangs below.

Invariants. 1. The nodes that a message visits are those whose conditions it meets, all of them.
2. A message asks at most ``VALUE_MAX`` values that are not there of one branch, however long its texts
are. 3. No node but the root is empty.

Not here: the place and the sender of a rule, and its text (``match``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from bus1_services.types import ObjectPath

if TYPE_CHECKING:
    from .match import MatchInput, MatchRule

VALUE_MAX = 1024
"""Bytes of a value: more than a rule has."""
Key = tuple[str, int]
"""A form, and the index of the argument for those that look at one."""


class ConditionTree:
    """Rules by their conditions."""

    __slots__ = ("_branches", "_owners")

    def __init__(self) -> None:
        self._owners: dict[int, None] = {}
        self._branches: dict[Key, dict[str, ConditionTree]] = {}

    def __bool__(self) -> bool:
        return bool(self._owners or self._branches)

    def add(self, rule: MatchRule, owner: int) -> None:
        """The owner has this rule."""
        node = self
        for key, value in _conditions(rule):
            branch = node._branches.get(key)
            if branch is None:
                branch = node._branches[key] = _sorted() if key[0] == "path" else {}
            child = branch.get(value)
            if child is None:
                child = branch[value] = ConditionTree()
            node = child
        node._owners[owner] = None

    def discard(self, rule: MatchRule, owner: int) -> bool:
        """The owner has this rule no more; True if nobody has."""
        node, way = self, []
        for key, value in _conditions(rule):
            way.append((node, key, value))
            node = node._branches[key][value]
        del node._owners[owner]
        is_last = not node._owners
        for above, key, value in reversed(way):
            branch = above._branches[key]
            if branch[value]:
                break
            del branch[value]
            if not branch:
                del above._branches[key]
        return is_last

    def owners(self, rule: MatchRule) -> list[int]:
        """Who has this rule."""
        node = self
        for key, value in _conditions(rule):
            node = node._branches[key][value]
        return list(node._owners)

    def receivers(self, message: MatchInput) -> Iterator[Iterable[int]]:
        """The owners of each rule whose conditions the message meets."""
        ahead = [self]
        while ahead:
            node = ahead.pop()
            if node._owners:
                yield node._owners
            for (form, index), branch in node._branches.items():
                for value in FORMS[form](branch, message, index):
                    child = branch.get(value)
                    if child is not None:
                        ahead.append(child)


def _sorted() -> dict[str, ConditionTree]:
    # rarely needed, and dear to import
    from sortedcontainers import SortedDict

    made: dict[str, ConditionTree] = SortedDict()
    return made


def _conditions(rule: MatchRule) -> Iterator[tuple[Key, str]]:
    if rule.destination is not None:
        yield ("destination", 0), rule.destination
    if rule.path_namespace is not None:
        yield ("path_namespace", 0), rule.path_namespace
    for argument in rule.arguments:
        yield (argument.form, argument.index), argument.value


# ---- the values of a branch that a message may meet, each once --------------------------------------


def _recipients(_branch: object, message: MatchInput, _index: int) -> Iterable[str]:
    return () if message.destination is None else {message.destination, *message.destination_names}


def _ancestors(_branch: object, message: MatchInput, _index: int) -> Iterable[str]:
    return () if message.path is None else {"/", *_beginnings(message.path, "/")}


def _texts(_branch: object, message: MatchInput, index: int) -> Iterable[str]:
    text = _argument(message, index)
    return () if text is None or isinstance(text, ObjectPath) or len(text) > VALUE_MAX else (text,)


def _namespaces(_branch: object, message: MatchInput, index: int) -> Iterable[str]:
    text = _argument(message, index)
    return () if text is None or isinstance(text, ObjectPath) else _beginnings(text, ".")


def _paths(branch: Any, message: MatchInput, index: int) -> Iterator[str]:
    text = _argument(message, index)
    if text is None:
        return
    if len(text) <= VALUE_MAX:
        yield text
    at = text.find("/", 0, VALUE_MAX)
    while 0 <= at < len(text) - 1:
        yield text[: at + 1]
        at = text.find("/", at + 1, VALUE_MAX)
    if text.endswith("/"):
        for value in branch.irange(text, inclusive=(False, False)):
            if not value.startswith(text):
                break
            yield value


def _argument(message: MatchInput, index: int) -> str | ObjectPath | None:
    values = message.arguments()
    return values[index] if index < len(values) else None


def _beginnings(text: str, separator: str) -> Iterator[str]:
    """The text, and what stands before each separator; nothing that is too long for a value."""
    if len(text) <= VALUE_MAX:
        yield text
    at = text.find(separator, 0, VALUE_MAX)
    while at >= 0:
        yield text[:at]
        at = text.find(separator, at + 1, VALUE_MAX)


FORMS: dict[str, Callable[[dict[str, ConditionTree], MatchInput, int], Iterable[str]]] = {
    "destination": _recipients, "path_namespace": _ancestors,
    "": _texts, "namespace": _namespaces, "path": _paths,
}
