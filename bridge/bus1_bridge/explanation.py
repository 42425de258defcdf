"""explanation: one question to the policy, answered with every rule that has a say.

Theory. The evaluator that serves the bus is asked, about peers that need not exist: somebody who would
connect, and own a name, or send a message to somebody who would receive it. Each of these is a ``Check``.

Not here: where the answer comes from (policy), which users there are (verbs).
"""

from __future__ import annotations

from typing import NamedTuple

from .policy import Fields, Names, Policy
from .policyrules import Rule


class Identity(NamedTuple):
    """A user of the machine."""

    name: str
    uid: int
    groups: tuple[int, ...]
    """All of them."""


class Check(NamedTuple):
    """One thing that must be allowed."""

    what: str
    """``connect``, ``own``, ``send`` or ``receive``."""
    who: Identity
    allowed: bool
    rules: tuple[Rule, ...]
    """All that match, the deciding one first; none of them allows it if there are none."""


class Passage(NamedTuple):
    """A message on its way."""

    message: Fields
    receiver: Names
    sender: Names
    requested_reply: bool = False
    eavesdropping: bool = False
    """The receiver listens to what is addressed to somebody else."""


def to_connect(policy: Policy, who: Identity, bus_uid: int) -> Check:
    """Whether this user may use the bus of ``bus_uid`` at all."""
    rules = policy.about_connecting(who.uid, who.groups, bus_uid)[::-1]
    return Check("connect", who, policy.may_connect(who.uid, who.groups, bus_uid).allowed, tuple(rules))


def to_own(policy: Policy, who: Identity, name: str) -> Check:
    """Whether this user may own the name."""
    rules = policy.of_client(who.uid, who.groups).about_owning(name)
    return _check("own", who, rules)


def to_send(policy: Policy, who: Identity, passage: Passage) -> Check:
    """Whether this user may send the message."""
    rules = policy.of_client(who.uid, who.groups).about_sending(
        passage.message, passage.receiver, requested_reply=passage.requested_reply
    )
    return _check("send", who, rules)


def to_receive(policy: Policy, who: Identity, passage: Passage) -> Check:
    """Whether this user may receive the message."""
    rules = policy.of_client(who.uid, who.groups).about_receiving(
        passage.message, passage.sender, requested_reply=passage.requested_reply,
        eavesdropping=passage.eavesdropping,
    )
    return _check("receive", who, rules)


def _check(what: str, who: Identity, rules: list[Rule]) -> Check:
    return Check(what, who, bool(rules) and rules[0].allow, tuple(rules))
