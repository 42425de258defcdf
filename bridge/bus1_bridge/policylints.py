"""policylints: rules that do nothing, and rules that do more than they seem to.

Theory. Each lint looks at the rules alone. A rule is *dead* if nothing can match it. It is *shadowed* if
whatever it matches is matched by a later rule that counts for the same clients: one of its own context, or a
mandatory one. It is *dangerous* if it is about more than its author will have meant: rules without a
destination are about every service there is, and a rule that denies an interface denies all messages
that name none.

Not here: who may do what in the end (policytable).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bus1_services.types import is_bus_name, is_bus_namespace

from .policyrules import EVERYBODY, GROUP, NOBODY_KNOWN, OWN, RECEIVE, SEND, USER, Contexts, Rule
from .wire import CALL, DRIVER_NAME, ERROR, RETURN, SIGNAL

_EQUAL = ("path", "member", "error", "broadcast")
"""Conditions that are met by equality."""


class Lint(NamedTuple):
    """Something that is wrong with a rule."""

    kind: str
    """``dead``, ``shadowed`` or ``dangerous``."""
    rule: Rule
    text: str


def lints(contexts: Contexts, *, is_system: bool) -> list[Lint]:
    """All that is suspicious, in the order of files and lines; ``is_system``: of a bus of many users."""
    found = list(_shadowed(contexts))
    for rules, is_for_all in contexts.lists():
        for rule in rules:
            text = _dead(rule)
            if text:
                found.append(Lint("dead", rule, text))
            elif is_system and is_for_all and (text := _dangerous(rule)):
                found.append(Lint("dangerous", rule, text))
    return sorted(found, key=lambda lint: (lint.rule.file, lint.rule.line, lint.kind))


# ---- dead ----------------------------------------------------------------------------------------


def _dead(rule: Rule) -> str:
    if rule.kind in (USER, GROUP):
        if rule.subject != NOBODY_KNOWN:
            return ""
        return f"there is no such {rule.kind}" + ("" if rule.allow else ": it keeps out everybody but root")
    if rule.min_fds > rule.max_fds:
        return "no number of descriptors is both enough and few enough"
    if rule.broadcast and rule.type not in (0, SIGNAL):
        return "only signals are broadcast"
    if rule.name is not None:
        is_name = is_bus_namespace(rule.name) if rule.is_prefix else is_bus_name(rule.name)
        if not is_name:
            return f'"{rule.name}" is no bus name'
        if rule.kind == OWN and (rule.name.startswith(":") or rule.name == DRIVER_NAME):
            return f"nobody owns {rule.name} by asking for it"
    return ""


# ---- shadowed ------------------------------------------------------------------------------------


def _shadowed(contexts: Contexts) -> Iterator[Lint]:
    for rules, _ in contexts.lists():
        after = [] if rules is contexts.mandatory else contexts.mandatory
        for at, rule in enumerate(rules):
            # the nearest one says most
            shadow = next((other for other in (*rules[at + 1 :], *after) if _covers(other, rule)), None)
            if shadow is not None:
                effect = "says the same" if shadow.allow == rule.allow else "says the opposite"
                yield Lint("shadowed", rule, f"{shadow} comes later, matches all of it, and {effect}")


def _covers(later: Rule, rule: Rule) -> bool:
    """Whether everything that ``rule`` matches is matched by ``later``."""
    if later.kind != rule.kind:
        return False
    if rule.kind in (USER, GROUP):
        return later.subject == rule.subject or (later.subject == EVERYBODY and rule.subject >= 0)
    if not _covers_name(later, rule):
        return False
    if rule.kind == OWN:
        return True
    return (
        later.type in (0, rule.type)
        and _covers_interface(later, rule)
        and all(getattr(later, key) in (None, getattr(rule, key)) for key in _EQUAL)
        and later.min_fds <= rule.min_fds and rule.max_fds <= later.max_fds
        and _replies(rule) <= _replies(later)
        and (rule.kind == SEND or _copies(rule) <= _copies(later))
        and not rule.log
    )


def _covers_name(later: Rule, rule: Rule) -> bool:
    if later.name is None:
        return True
    if rule.name is None or (rule.is_prefix and not later.is_prefix):
        return False
    if later.is_prefix:
        return f"{rule.name}.".startswith(f"{later.name}.")
    return rule.name == later.name


def _covers_interface(later: Rule, rule: Rule) -> bool:
    if later.interface is None:
        return True
    # an allow rule leaves messages without interface alone, a deny rule doesn't
    return later.interface == rule.interface and (rule.allow or not later.allow)


def _replies(rule: Rule) -> frozenset[str]:
    """Which answers it is about."""
    if rule.type == CALL:
        return frozenset()
    if rule.allow:
        both = not rule.requested_reply or rule.eavesdrop
        return frozenset({"awaited", "not awaited"} if both else {"awaited"})
    return frozenset({"awaited", "not awaited"} if rule.requested_reply else {"not awaited"})


def _copies(rule: Rule) -> frozenset[str]:
    """Whether it is about messages to oneself, or about copies of others'."""
    if rule.allow:
        return frozenset({"own", "copy"} if rule.eavesdrop else {"own"})
    return frozenset({"copy"} if rule.eavesdrop else {"own", "copy"})


# ---- dangerous -----------------------------------------------------------------------------------


def _dangerous(rule: Rule) -> str:
    """What is wrong with a rule that counts for everybody on a bus of many users."""
    if rule.kind == OWN:
        if rule.allow and (rule.name is None or rule.is_prefix):
            what = "any name" if rule.name is None else f"any name that begins with {rule.name}"
            return f"everybody may own {what}, and so be taken for any service of that name"
        return f"everybody may own {rule.name}, and so be taken for it" if rule.allow else ""
    if rule.kind == RECEIVE:
        if rule.allow and rule.eavesdrop:
            return "everybody may listen to what is addressed to others"
        return ""
    if rule.kind != SEND:
        return ""
    is_about_calls = rule.type in (0, CALL) and not rule.broadcast
    if rule.name is None and is_about_calls and rule.error is None:
        return _without_destination(rule)
    if rule.allow and not rule.requested_reply and rule.type in (0, RETURN, ERROR):
        return "everybody may send answers that nobody has asked for"
    return ""


def _without_destination(rule: Rule) -> str:
    if rule.allow:
        if rule.interface is not None or rule.path is not None:
            what = rule.interface if rule.interface is not None else f"the path {rule.path}"
            return f"without a send_destination it lets everybody call {what} of every service"
        return "it lets everybody call everything of every service"
    if rule.interface is not None:
        return "without a send_destination it also denies every call that names no interface"
    return ""


def dead_names(contexts: Contexts, may_be_owned: Iterable[str]) -> list[Lint]:
    """Rules about calling exact names that nobody may own."""
    owned = set(may_be_owned)
    return [
        Lint("dead", rule, f"nobody may own {rule.name}")
        for rule in contexts.rules()
        if rule.kind in (SEND, RECEIVE) and rule.name is not None and not rule.is_prefix
        and rule.name != DRIVER_NAME and not rule.name.startswith(":") and rule.name not in owned
    ]
