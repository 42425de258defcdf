"""monitoring: BecomeMonitor.

Theory. A client that may see everything gives up all else. Its rules are checked before anything happens; the
reply is queued first, then the client loses its names and becomes invisible.

Not here: what monitors see (``switch.copies``).
"""

from __future__ import annotations

from bus1.errors import InvalidArgument

from .. import match
from ..switch import departure
from .errors import DriverError
from .method import Call, Values


def become_monitor(call: Call, texts: list[str], flags: int) -> Values:
    """BecomeMonitor: no rule means everything."""
    caller, delivery = call.caller, call.delivery
    if flags:
        raise InvalidArgument(f"BecomeMonitor knows no flags yet, not {flags:#x}")
    if len(texts) > delivery.limits_of(caller).max_match_rules_per_connection:
        what = f"no room for the {len(texts)} of a monitor"
        raise DriverError(
            "LimitsExceeded", delivery.limited(caller, "max_match_rules_per_connection", 0, what)
        )
    rules = [match.parse(text) for text in texts or ("",)]
    call.afterwards.append(lambda: departure.become_monitor(delivery, caller, rules))
    return ()
