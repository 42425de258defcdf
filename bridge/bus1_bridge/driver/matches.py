"""matches: AddMatch and RemoveMatch.

Theory. A rule's text is parsed, and the index does the rest (``bus1_bridge.match``). To eavesdrop is a
right of root and of the user of the bus.

Not here: monitors.
"""

from __future__ import annotations

from bus1.errors import Denied

from .. import match
from .errors import DriverError
from .method import Call, Values

_SHOWN = 200
"""Of a rule that is too much, as much is repeated."""


def add_match(call: Call, text: str) -> Values:
    """AddMatch."""
    caller, delivery = call.caller, call.delivery
    matches = delivery.tables.matches
    count = matches.count(caller.peer)
    if count >= delivery.limits_of(caller).max_match_rules_per_connection:
        what = f'no room for "{text[:_SHOWN]}"'
        raise DriverError(
            "LimitsExceeded", delivery.limited(caller, "max_match_rules_per_connection", count, what)
        )
    rule = match.parse(text)
    if rule.eavesdrop:
        if not call.is_privileged:
            denied = f'Connection "{caller.unique}" is not allowed to eavesdrop'
            raise Denied(delivery.refusals.denied(caller, denied, "eavesdrop"))
        delivery.eavesdroppers[caller.peer] += 1
    matches.add(caller.peer, rule)
    return ()


def remove_match(call: Call, text: str) -> Values:
    """RemoveMatch: one instance of an equal rule."""
    rule, peer, eavesdroppers = match.parse(text), call.caller.peer, call.delivery.eavesdroppers
    if not call.delivery.tables.matches.remove(peer, rule):
        raise DriverError("MatchRuleNotFound", "The given match rule wasn't found and can't be removed")
    if rule.eavesdrop:
        eavesdroppers[peer] -= 1
        if not eavesdroppers[peer]:
            del eavesdroppers[peer]
    return ()
