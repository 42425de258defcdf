"""policy: who may connect, own which name, send what to whom, and receive what from whom.

Theory. A ``Policy`` is one generation of a bus's rules, and never changes; a reload puts another in its
place. For a client it gives the rules of its contexts in their order: default, those of its groups, of its
user, of its place (at the machine or not), mandatory. In each question the last rule that matches
decides, and where none does the answer is no. The verdict names the rule.

Questions about messages come with every message, so rules are filed. Whom a rule is for, which interface and
which type of message it is about decide together whether it is looked at: the rules for one such
combination are picked once and kept, the latest first, and the first of them that applies to the message is
the verdict. Rules that are overruled by a later one in any case are left out.

A peer is given as ``Names``: a rule about a name is about everybody who owns that name or waits for it.

Invariants. 1. The verdict is that of the last matching rule in the order above. 2. What is kept is bounded
by ``PICKED_MAX`` and ``CLIENTS_MAX``.

Not here: syntax (configxml, policyrules), where questions are asked (switch.guard).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple, Protocol

from .policyrules import (
    EVERYBODY,
    GROUP,
    NOBODY_KNOWN,
    OWN,
    RECEIVE,
    SEND,
    USER,
    Contexts,
    Rule,
    RuleData,
    rule_of,
)
from .wire import CALL, SIGNAL

PICKED_MAX = 4096
CLIENTS_MAX = 1024
_OTHER = "\0"
"""Stands for all interfaces that no rule names."""


class Message(Protocol):
    """What rules look at in one message; ``wire.Header`` is one."""

    @property
    def type(self) -> int:
        """Its number."""

    @property
    def path(self) -> str | None:
        """Of the object."""

    @property
    def interface(self) -> str | None:
        """Of the member."""

    @property
    def member(self) -> str | None:
        """The method or signal."""

    @property
    def error_name(self) -> str | None:
        """Of an error."""

    @property
    def destination(self) -> str | None:
        """The text; None of a broadcast."""

    @property
    def reply_serial(self) -> int:
        """Not 0: an answer, whatever its type."""

    @property
    def unix_fds(self) -> int:
        """How many descriptors come with it."""


class Fields(NamedTuple):
    """A message that is not there, or not in one piece."""

    type: int
    path: str | None = None
    interface: str | None = None
    member: str | None = None
    error_name: str | None = None
    destination: str | None = None
    reply_serial: int = 0
    unix_fds: int = 0


class Names:
    """The names of one peer: its unique name, and those it owns or waits for."""

    __slots__ = ("held", "holds_in", "unique")

    def __init__(
        self, unique: str, held: Collection[str] = (),
        holds_in: Callable[[str], bool] = lambda space: False,
    ) -> None:
        """``holds_in(space)``: one of ``held`` is that, or continues it after a dot.

        With ``unique`` alone: somebody who has no other name, as the bus, or a service yet to come."""
        self.unique = unique
        self.held = held
        self.holds_in = holds_in

    def begin_with(self, space: str) -> bool:
        """Whether one of all these names is ``space``, or continues it after a dot."""
        return f"{self.unique}.".startswith(f"{space}.") or self.holds_in(space)


class Verdict:
    """The answer to one question, and the rule that decides it; None if no rule does."""

    __slots__ = ("allowed", "n_matched", "rule")

    def __init__(self, allowed: bool, rule: Rule | None, n_matched: int = 0) -> None:
        self.allowed = allowed
        self.rule = rule
        self.n_matched = n_matched
        """How many rules match; counted only for a refusal, and where the rule wants it logged."""

    @property
    def log(self) -> bool:
        """The message passes, but the rule wants that to be reported as if it did not."""
        return self.allowed and self.rule is not None and self.rule.log


_NO_RULE = Verdict(False, None)


class _Filed:
    """The rules of one client about one direction."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules: list[Rule] = []
        for rule in rules:
            if rule.is_total:
                self.rules.clear()
            self.rules.append(rule)
        self.allows_all = bool(self.rules) and self.rules[0].is_total and all(
            rule.allow and not rule.log for rule in self.rules
        )
        self._names = {r.name: None for r in self.rules if r.name is not None and not r.is_prefix}
        self._spaces = list(dict.fromkeys(r.name for r in self.rules if r.name is not None and r.is_prefix))
        self._interfaces = {rule.interface for rule in self.rules}
        self._picked: dict[tuple[tuple[str, ...], tuple[str, ...], str | None, int], tuple[Rule, ...]] = {}

    def verdict(self, message: Message, peer: Names, requested: bool, eavesdropping: bool) -> Verdict:
        """What the last rule says that matches."""
        picked = self._pick(message, peer)
        for rule in picked:
            if _applies(rule, message, requested, eavesdropping):
                if rule.allow and not rule.log:
                    return Verdict(True, rule)
                n_matched = sum(_applies(other, message, requested, eavesdropping) for other in picked)
                return Verdict(rule.allow, rule, n_matched)
        return _NO_RULE

    def matching(self, message: Message, peer: Names, requested: bool, eavesdropping: bool) -> list[Rule]:
        """All rules that match, the last first."""
        return [
            rule for rule in self._pick(message, peer) if _applies(rule, message, requested, eavesdropping)
        ]

    def _pick(self, message: Message, peer: Names) -> tuple[Rule, ...]:
        """The rules that may match by their names, their interface and their type, the latest first."""
        interface = message.interface
        if interface is not None and interface not in self._interfaces:
            interface = _OTHER
        names, held = self._names, peer.held
        if len(held) < len(names):
            relevant = [name for name in held if name in names]
        else:
            relevant = [name for name in names if name in held]
        if peer.unique in names:
            relevant.append(peer.unique)
        if len(relevant) > 1:
            relevant.sort()
        spaces = tuple(space for space in self._spaces if peer.begin_with(space)) if self._spaces else ()
        key = (tuple(relevant), spaces, interface, message.type)
        picked = self._picked.get(key)
        if picked is None:
            if len(self._picked) >= PICKED_MAX:
                self._picked.clear()
            picked = self._picked[key] = tuple(
                rule for rule in reversed(self.rules)
                if rule.type in (0, message.type)
                and (rule.name is None or rule.name in (spaces if rule.is_prefix else relevant))
                # without an interface, what denies one denies all
                and (rule.interface in (None, interface) or (interface is None and not rule.allow))
            )
        return picked


def _applies(rule: Rule, message: Message, requested: bool, eavesdropping: bool) -> bool:
    """The rest of the conditions, after those that ``_pick`` looks at."""
    if message.reply_serial:
        if requested:
            if not rule.allow and not rule.requested_reply:
                return False
        elif rule.allow and rule.requested_reply and not rule.eavesdrop:
            return False
    if rule.kind == RECEIVE and rule.eavesdrop != eavesdropping and rule.allow == eavesdropping:
        # an allow rule without eavesdrop is not about copies, a deny rule with it is about nothing else
        return False
    is_broadcast = message.destination is None and message.type == SIGNAL
    return (
        rule.broadcast in (None, is_broadcast)
        and (rule.path is None or message.path in (None, rule.path))
        and (rule.member is None or message.member in (None, rule.member))
        and (rule.error is None or message.error_name in (None, rule.error))
        and rule.min_fds <= message.unix_fds <= rule.max_fds
    )


class ClientPolicy:
    """What the rules say about clients of one kind."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        self._sent = _Filed(rule for rule in rules if rule.kind == SEND)
        self._received = _Filed(rule for rule in rules if rule.kind == RECEIVE)
        self._owned = [rule for rule in rules if rule.kind == OWN]
        self.sends_all = self._sent.allows_all
        """It may send everything to everybody."""
        self.receives_all = self._received.allows_all
        """It may receive everything from everybody."""

    def as_data(self) -> tuple[list[RuleData], list[RuleData]]:
        """Its rules about sending and about receiving, in their order: what its native twin is made of."""
        sent, received = self._sent.rules, self._received.rules
        return [rule.as_data() for rule in sent], [rule.as_data() for rule in received]

    def narrowed(self) -> ClientPolicy:
        """The same, of a client of whose messages more than this is asked: none passes unasked."""
        # rarely needed, and dear to import
        from copy import copy

        other = copy(self)
        other.sends_all = other.receives_all = False
        return other

    def may_send(self, message: Message, receiver: Names, *, requested_reply: bool = False) -> Verdict:
        """Whether it may send this; ``requested_reply``: the receiver waits for this answer."""
        return self._sent.verdict(message, receiver, requested_reply, False)

    def may_receive(
        self, message: Message, sender: Names, *, requested_reply: bool = False, eavesdropping: bool = False
    ) -> Verdict:
        """Whether it may receive this, which is addressed to somebody else if it eavesdrops."""
        return self._received.verdict(message, sender, requested_reply, eavesdropping)

    def may_own(self, name: str) -> Verdict:
        """Whether it may own the name."""
        matching = self.about_owning(name)
        return Verdict(matching[0].allow, matching[0], len(matching)) if matching else _NO_RULE

    def may_reach(self, receiver: Names) -> bool:
        """Whether there is a call that it may send there."""
        for rule in reversed(self._sent.rules):
            if rule.type not in (0, CALL) or rule.broadcast:
                continue
            if rule.name is not None and not _is_about(rule, receiver):
                continue
            if rule.allow:
                return True
            if not (rule.interface or rule.member or rule.path or rule.error or rule.counts_fds):
                return False
        return False

    # ---- with all rules that match, the last first -----------------------------------------------

    def about_sending(
        self, message: Message, receiver: Names, *, requested_reply: bool = False
    ) -> list[Rule]:
        """The rules that match what is sent."""
        return self._sent.matching(message, receiver, requested_reply, False)

    def about_receiving(
        self, message: Message, sender: Names, *, requested_reply: bool = False, eavesdropping: bool = False
    ) -> list[Rule]:
        """The rules that match what is received."""
        return self._received.matching(message, sender, requested_reply, eavesdropping)

    def about_owning(self, name: str) -> list[Rule]:
        """The rules that match a name to be owned."""
        return [
            rule for rule in reversed(self._owned)
            if rule.name is None or rule.name == name
            or (rule.is_prefix and name.startswith(f"{rule.name}."))
        ]


def _is_about(rule: Rule, peer: Names) -> bool:
    assert rule.name is not None
    if rule.is_prefix:
        return peer.begin_with(rule.name)
    return rule.name == peer.unique or rule.name in peer.held


NOTHING = ClientPolicy()
"""Nothing is allowed: for whoever has not been given a policy."""


class Policy:
    """One generation of all rules."""

    def __init__(self, contexts: Contexts, console_uids: Collection[int] = frozenset()) -> None:
        self.contexts = contexts
        self._console_uids = console_uids
        self._clients: dict[tuple[int | None, tuple[int, ...], bool], ClientPolicy] = {}

    def may_connect(self, uid: int | None, groups: Collection[int], bus_uid: int) -> Verdict:
        """Whether a user may connect to the bus that ``bus_uid`` runs; nobody without a uid may."""
        if uid is None:
            return _NO_RULE
        verdict = Verdict(uid == bus_uid, None)
        for rule in self.about_connecting(uid, groups, bus_uid):
            verdict = Verdict(rule.allow, rule, verdict.n_matched + 1)
        return verdict

    def about_connecting(self, uid: int, groups: Collection[int], bus_uid: int) -> list[Rule]:
        """The rules that match who connects, the deciding one last."""
        return [
            rule for rule in (*self.contexts.default, *self.contexts.mandatory)
            if rule.kind in (USER, GROUP) and _is_subject(rule, uid, groups, bus_uid)
        ]

    def of_client(self, uid: int | None, groups: Iterable[int]) -> ClientPolicy:
        """What the rules say about clients of this user with these groups, the primary one included."""
        contexts = self.contexts
        of_user = uid if uid in contexts.by_user else None
        of_groups = tuple(sorted(set(groups) & contexts.by_group.keys()))
        is_at_console = uid in self._console_uids
        key = (of_user, of_groups, is_at_console)
        client = self._clients.get(key)
        if client is None:
            if len(self._clients) >= CLIENTS_MAX:
                self._clients.clear()
            client = self._clients[key] = ClientPolicy([
                *contexts.default,
                *(rule for group in of_groups for rule in contexts.by_group[group]),
                *(contexts.by_user[of_user] if of_user is not None else ()),
                *(contexts.console if is_at_console else contexts.no_console),
                *contexts.mandatory,
            ])
        return client


def _is_subject(rule: Rule, uid: int, groups: Collection[int], bus_uid: int) -> bool:
    if rule.subject == NOBODY_KNOWN:
        # whom it should keep out cannot be told, so it keeps out everybody who is not needed
        return not rule.allow and uid not in (0, bus_uid)
    return rule.subject == EVERYBODY or (
        rule.subject == uid if rule.kind == USER else rule.subject in groups
    )


def _open() -> Policy:
    contexts = Contexts()
    for given, text in (
        ({"send_destination": "*", "eavesdrop": "true"}, '<allow send_destination="*" eavesdrop="true"/>'),
        ({"eavesdrop": "true"}, '<allow eavesdrop="true"/>'),
        ({"own": "*"}, '<allow own="*"/>'),
    ):
        contexts.default.append(rule_of(True, given, text, ("built in", 0), lambda kind, name: EVERYBODY))
    return Policy(contexts)


OPEN = _open()
"""The policy of the usual session bus: its user may do everything."""
