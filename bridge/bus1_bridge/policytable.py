"""policytable: who may own which name and call which method, as far as a configuration tells.

Theory. Clients differ for the policy by their user, their groups and their place, and only where a policy
names these: so there are few kinds of clients, and everybody else is one of them. Names and methods differ
only where a rule names them; everything else is again one of each. For every kind of client and every
combination that occurs the evaluator is asked. What receivers may receive is not looked at: who they will be
no file tells.

Not here: what is suspicious about rules (policylints), how it is printed (verbs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .policy import ClientPolicy, Fields, Names, Policy
from .policyrules import GROUP, OWN, SEND, USER, Contexts, Rule
from .wire import CALL

ANY = "*"
_OTHER_NAME, _OTHER_INTERFACE, _OTHER_MEMBER, _OTHER_PATH = "other.Name", "other.Interface", "Other", "/other"
"""Stand for everything that no rule names."""
_AT_CONSOLE = -3
_UNNAMED = -9
"""A user whom no rule names."""


class Kind(NamedTuple):
    """Clients that are all the same to the policy."""

    label: str
    client: ClientPolicy


class Row(NamedTuple):
    """A name, or a method of it, and which kinds of clients may."""

    name: str
    path: str
    interface: str
    member: str
    """``*`` stands for all that no other row names."""
    allowed: dict[str, bool]
    """By the label of the kind."""

    @property
    def who(self) -> str:
        """The kinds that may, in words."""
        everybody, *others = self.allowed.items()
        if everybody[1]:
            besides = [label for label, allowed in others if not allowed]
            return "everybody" + (f" but {', '.join(besides)}" if besides else "")
        return ", ".join(label for label, allowed in others if allowed) or "nobody"


def kinds(contexts: Contexts, name_of: Callable[[str, int], str]) -> list[Kind]:
    """All kinds of clients, everybody first; ``name_of(USER or GROUP, number)`` names them."""
    policy = Policy(contexts, {_AT_CONSOLE})
    found = [Kind("everybody", policy.of_client(None, ()))]
    found += [Kind(name_of(USER, uid), policy.of_client(uid, ())) for uid in contexts.by_user]
    for gid in contexts.by_group:
        found.append(Kind(f"group {name_of(GROUP, gid)}", policy.of_client(None, (gid,))))
    if contexts.console:
        found.append(Kind("at the console", policy.of_client(_AT_CONSOLE, ())))
    return found


def connecting(contexts: Contexts, bus_uid: int, name_of: Callable[[str, int], str]) -> Row:
    """Which users, and members of which groups, may use the bus of ``bus_uid`` at all."""
    policy = Policy(contexts)
    rules = [rule for rule in (*contexts.default, *contexts.mandatory) if rule.subject >= 0]
    users = dict.fromkeys([0, bus_uid, *(rule.subject for rule in rules if rule.kind == USER)])
    groups = dict.fromkeys(rule.subject for rule in rules if rule.kind == GROUP)
    asked: list[tuple[str, int, tuple[int, ...]]] = [
        ("everybody", _UNNAMED, ()),
        *((name_of(USER, uid), uid, ()) for uid in users),
        *((f"group {name_of(GROUP, gid)}", _UNNAMED, (gid,)) for gid in groups),
    ]
    return Row("", "", "", "", {
        label: policy.may_connect(uid, gids, bus_uid).allowed for label, uid, gids in asked
    })


def owners(contexts: Contexts, clients: list[Kind], names: Iterable[str] = ()) -> list[Row]:
    """Who may own each name that a rule names, each of ``names``, and any other."""
    rules = [rule for rule in contexts.rules() if rule.kind == OWN]
    return [
        Row(shown, "", "", "", {kind.label: kind.client.may_own(name).allowed for kind in clients})
        for shown, name in _asked(rules, names)
    ]


def callers(contexts: Contexts, clients: list[Kind], names: Iterable[str] = ()) -> list[Row]:
    """Who may call each method that a rule names, and any other, of each name that a rule names."""
    rules = [rule for rule in contexts.rules() if rule.kind == SEND and rule.type in (0, CALL)]
    rows: list[Row] = []
    for shown, name in _asked(rules, names):
        rows += _methods(rules, clients, shown, Names(name))
    return rows


def _asked(rules: list[Rule], names: Iterable[str]) -> list[tuple[str, str]]:
    """What is shown, and the name that is asked about."""
    exact = {rule.name for rule in rules if rule.name is not None and not rule.is_prefix}
    spaces = {rule.name for rule in rules if rule.name is not None and rule.is_prefix}
    return [
        *((name, name) for name in sorted(exact.union(names))),
        *((f"{space}.{ANY}", f"{space}.{_OTHER_NAME}") for space in sorted(spaces)),
        (ANY, _OTHER_NAME),
    ]


def _methods(rules: list[Rule], clients: list[Kind], shown: str, receiver: Names) -> list[Row]:
    concerned = [
        rule for rule in rules if (
            receiver.begin_with(rule.name) if rule.is_prefix and rule.name is not None
            else rule.name == receiver.unique or (rule.name is None and shown == ANY)
        )
    ]
    places = {(rule.path or ANY, rule.interface or ANY, rule.member or ANY) for rule in concerned}
    rest, *others = [
        _row(shown, receiver, place, clients)
        for place in sorted(places | {(ANY, ANY, ANY)}, key=lambda place: (place != (ANY, ANY, ANY), place))
    ]
    return [rest, *(row for row in others if row.allowed != rest.allowed)]


def _row(shown: str, receiver: Names, place: tuple[str, str, str], clients: list[Kind]) -> Row:
    path, interface, member = place
    message = Fields(
        CALL, _OTHER_PATH if path == ANY else path, _OTHER_INTERFACE if interface == ANY else interface,
        _OTHER_MEMBER if member == ANY else member, destination=receiver.unique,
    )
    allowed = {kind.label: kind.client.may_send(message, receiver).allowed for kind in clients}
    return Row(shown, path, interface, member, allowed)
