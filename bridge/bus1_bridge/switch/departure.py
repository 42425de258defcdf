"""departure: how a party ceases to be one that others can reach.

Theory. There are two ways. Whoever leaves is gone in one step: its rules, its names with what they cause,
its place in the tables, its peer in Core, and the calls that wait for it. Whoever becomes a monitor stays
connected, but has none of that any more, and sees what its rules match instead. The orders are the
reference's: a leaver loses the name it took last first, a monitor its unique name.

Invariants. 1. Nothing of a party that left is in the tables. 2. Every call to a party that departs is
answered with NoReply, after the changes of its names.

Not here: connections (router), native peers' publications (registry).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from bus1.record import replace

from .. import hosted
from ..match import MatchRule
from ..names import Change
from .effects import Line
from .tables import LegacyParty, Party

if TYPE_CHECKING:
    from .delivery import Delivery

GONE = "Message recipient disconnected from message bus without replying"


def leave(delivery: Delivery, party: Party) -> None:
    """The party is gone, of whichever kind; nothing if it is gone already."""
    tables, peer = delivery.tables, party.peer
    if tables.parties.get(peer) is not party:
        return
    blind = _unaware_of(delivery, party)
    changes = tables.names.drop(peer)
    _drop_rules(delivery, party, blind)
    if party.announced:
        changes.append(Change(party.unique, peer, None))
    delivery.name_changes(changes, leaving=party)
    if isinstance(party, LegacyParty):
        party.stream = None
        if party.is_monitor:
            tables.monitors.drop(peer)
    del tables.parties[peer]
    tables.unique.pop(party.unique, None)
    tables.sights.pop(peer, None)
    if party.entrance is not None:
        party.entrance.clients.discard(peer)
    _let_go(delivery, party)
    delivery.flow.forget(peer)
    tables.core.peer_disconnect(peer)
    _answer_callers(delivery, peer)
    if delivery.entrances is not None:
        delivery.entrances.left(peer)


def abandon(delivery: Delivery, peer: int) -> None:
    """The peer has not become a party, or not wholly, as something failed: it goes again."""
    if (party := delivery.tables.parties.get(peer)) is not None:
        leave(delivery, party)
    else:
        delivery.tables.core.peer_disconnect(peer)


def become_monitor(delivery: Delivery, party: LegacyParty, rules: Sequence[MatchRule]) -> None:
    """The client gives up its names, rules and calls, and sees everything that ``rules`` match."""
    tables, peer = delivery.tables, party.peer
    blind = _unaware_of(delivery, party)
    changes = [Change(party.unique, peer, None), *reversed(tables.names.drop(peer))]
    party.announced = False
    del tables.unique[party.unique]
    delivery.name_changes(changes)
    _drop_rules(delivery, party, blind)
    party.is_monitor = True
    for rule in rules:
        tables.monitors.add(peer, replace(rule, eavesdrop=True))
    _let_go(delivery, party)
    hosted.retire(tables.core, party)
    who = delivery.refusals.who(party)
    delivery.effects.append(Line(f"Connection {party.unique} ({who}) became a monitor."))
    _answer_callers(delivery, peer)


def _unaware_of(delivery: Delivery, party: Party) -> list[int]:
    """The peers of those who do not see the party, and must not notice that it goes."""
    return [peer for peer, sight in delivery.tables.sights.items() if not sight.sees(party.unique)]


def _drop_rules(delivery: Delivery, party: Party, spared: Collection[int]) -> None:
    """Its rules go, and those of others that name it; what ``spared`` have stays."""
    matches, eavesdroppers = delivery.tables.matches, delivery.eavesdroppers
    matches.drop(party.peer)
    eavesdroppers.pop(party.peer, None)
    if not party.unique:
        return
    before = [(peer, matches.count(peer)) for peer in eavesdroppers]
    matches.forget_name(party.unique, spared)
    for peer, n_rules in before:
        if matches.count(peer) == n_rules:
            continue
        count = sum(rule.eavesdrop for rule in matches.rules_of(peer))
        if count:
            eavesdroppers[peer] = count
        else:
            del eavesdroppers[peer]


def _let_go(delivery: Delivery, party: Party) -> None:
    """What it had others wait for, or keep, is given up."""
    if delivery.activation:
        delivery.activation.forget(party)
    delivery.tables.bindings.forget(party.peer)
    for sight in delivery.tables.sights.values():
        sight.left(party.unique)


def _answer_callers(delivery: Delivery, peer: int) -> None:
    for caller, serial in delivery.tables.replies.drop(peer)[1]:
        waiting = delivery.tables.parties.get(caller)
        if isinstance(waiting, LegacyParty):
            delivery.send_no_reply(waiting, serial, GONE)
