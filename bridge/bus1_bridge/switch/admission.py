"""admission: who may connect, once it is known who it is.

Not here: how clients show who they are (sasl), what they may do then.
"""

from __future__ import annotations

from .tables import LegacyParty, Tables


def refusal(tables: Tables, party: LegacyParty) -> str:
    """Why this client may not connect, by which rule; nothing if it may."""
    if party.uid is None:
        # it has passed already: without <allow_anonymous/> there is no OK
        return ""
    groups = {party.credentials.gid, *party.groups}
    verdict = tables.policy.may_connect(party.uid, groups, tables.bus_credentials.uid)
    if verdict.allowed:
        return ""
    rule = verdict.rule
    why = "no rule lets it in" if rule is None else f"{rule.text} in {rule.file}:{rule.line}"
    return f"user {party.uid} may not connect: {why}"
