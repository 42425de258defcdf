"""statistics: Debug.Stats, for those who look for what is large, stuck or lost.

Theory. The reference's keys come first, with its types; what waits is what its readers have not taken yet.
Keys of our own begin with ``org.bus1.DBus.Debug.Stats.``, and where dbus-broker has the same, they have
its names and types. All is read from counters and look-ups: nothing is walked through but the list of
those who are there.

Numbers that do not fit into 32 bits are written as the largest that does.

Not here: the counting.
"""

from __future__ import annotations

from collections.abc import Mapping

from bus1.core.api import Usage
from bus1.errors import InvalidArgument

from ..switch.flow import payload
from ..switch.tables import LegacyParty, Party, number_of
from ..wire import DRIVER_NAME, Variant
from .connections import known_credentials
from .method import Call, Values

_OURS = "org.bus1.DBus.Debug.Stats."
_U32 = 0xFFFF_FFFF
_SLOTS = ("Objects", "Handles", "Bytes", "Fds")
"""What is counted per user: slices of pools, references, bytes, descriptors."""


def get_stats(call: Call) -> Values:
    """GetStats: of the whole bus."""
    delivery, tables = call.delivery, call.delivery.tables
    names, rules = tables.names.tally, tables.matches.tally
    n_named = len(tables.unique) + len(tables.monitors)
    n_strange = sum(isinstance(party, LegacyParty) and not party.unique for party in tables.parties.values())
    named = (party for party in tables.parties.values() if party.unique)
    parties = sorted(named, key=lambda party: number_of(party.unique))
    return (_numbers({
        "Serial": _next_serial(call),
        # of a pool that this bus doesn't have
        "ListMemPoolUsedBytes": 0,
        "ListMemPoolCachedBytes": 0,
        "ListMemPoolAllocatedBytes": 0,
        "ActiveConnections": n_named,
        "IncompleteConnections": n_strange,
        "MatchRules": rules.total,
        "PeakMatchRules": rules.peak,
        "PeakMatchRulesPerConnection": rules.owner_peak,
        "BusNames": names.total,
        "PeakBusNames": names.peak,
        "PeakBusNamesPerConnection": names.owner_peak,
        _OURS + "Monitors": len(tables.monitors),
    }) | {
        _OURS + "NotDelivered": _counts(delivery.refusals.not_delivered),
        _OURS + "PeerAccounting": Variant("a(sa{sv}a{su})", [_peer(call, party) for party in parties]),
        _OURS + "UserAccounting": Variant("a(ua(suu)a{ua{su}})", _users(call)),
    },)


def get_connection_stats(call: Call, name: str) -> Values:
    """GetConnectionStats: of one connection, by any name of it."""
    party = call.target(name, "statistics")
    if party is None:
        raise InvalidArgument(
            f'GetConnectionStats is not meaningful for the message bus "{DRIVER_NAME}" itself'
        )
    tables, peer = call.delivery.tables, party.peer
    names, rules, replies = tables.names.tally, tables.matches.tally, tables.replies
    pause = call.delivery.flow.pauses.get(peer)
    reader = tables.parties.get(pause.reader) if pause else None
    return (
        {"UniqueName": Variant("s", party.unique)} | _numbers({
            "Serial": _next_serial(call),
            "MatchRules": rules.of(peer),
            "PeakMatchRules": rules.peak_of(peer),
            "BusNames": names.of(peer),
            "PeakBusNames": names.peak_of(peer),
            **_traffic(call, party),
            _OURS + "PendingReplies": replies.outstanding(peer) + _native_calls(party),
            _OURS + "AwaitedReplies": replies.awaited_from(peer),
        }) | {
            _OURS + "Waiting": Variant("a(suuu)", _holders(call, party)),
            _OURS + "WaitsFor": Variant("s", reader.unique if reader else ""),
            _OURS + "NotReceived": _counts(party.not_received),
            _OURS + "NotDelivered": _counts(party.not_delivered),
        },
    )


def get_all_match_rules(call: Call) -> Values:
    """GetAllMatchRules: the rules of everybody with a name, in their normal form; the latest first."""
    tables = call.delivery.tables
    return ({
        name: [str(rule) for rule in reversed(tables.matches.rules_of(party.peer))]
        for name, party in sorted(tables.unique.items(), key=lambda item: number_of(item[0]))
    },)


# ---- parts ---------------------------------------------------------------------------------------


def _next_serial(call: Call) -> int:
    asked, name = call.delivery.asked, call.method.name
    asked[name] += 1
    return asked[name] - 1


def _traffic(call: Call, party: Party) -> dict[str, int]:
    """What waits in both directions, and the most that ever did."""
    outgoing = _outgoing(call, party)
    incoming, peak_in, peak_out = Usage(), Usage(), outgoing
    if isinstance(party, LegacyParty):
        if party.stream is not None:
            incoming, peak_in = party.stream.unhandled(), party.stream.peak
        peak = payload(party.peak)
        if party.express is not None:
            here, most_in, most_out = party.express.usage(party.peer)
            incoming = Usage(*map(sum, zip(incoming, here, strict=True)))
            peak_in, peak = _largest(peak_in, most_in), _largest(peak, payload(most_out))
        peak_out = _largest(outgoing, peak)
    return {
        "IncomingMessages": incoming.messages, "IncomingBytes": incoming.bytes, "IncomingFDs": incoming.fds,
        "PeakIncomingBytes": peak_in.bytes, "PeakIncomingFDs": peak_in.fds,
        "OutgoingMessages": outgoing.messages, "OutgoingBytes": outgoing.bytes, "OutgoingFDs": outgoing.fds,
        "PeakOutgoingBytes": peak_out.bytes, "PeakOutgoingFDs": peak_out.fds,
    }


def _largest(first: Usage, second: Usage) -> Usage:
    return Usage(max(first.bytes, second.bytes), 0, max(first.fds, second.fds))


def _outgoing(call: Call, party: Party) -> Usage:
    waiting = call.delivery.tables.core.waiting(party.peer)
    return payload(waiting) if isinstance(party, LegacyParty) else waiting


def _holders(call: Call, party: Party) -> list[tuple[str, int, int, int]]:
    """Whose messages wait for the party: sender, messages, bytes as charged, descriptors."""
    tables = call.delivery.tables
    others = ((other.unique, other.peer) for other in tables.parties.values())
    senders = [(DRIVER_NAME, tables.bus_peer), *sorted(others, key=lambda other: number_of(other[0]))]
    queued = ((name, tables.core.queued(peer, party.peer)) for name, peer in senders)
    return [(name, held.messages, _short(held.bytes), held.fds) for name, held in queued if held.messages]


def _native_calls(party: Party) -> int:
    return len(party.open_replies) if isinstance(party, LegacyParty) else 0


def _peer(call: Call, party: Party) -> tuple[str, dict[str, Variant], dict[str, int]]:
    """An entry of PeerAccounting."""
    tables, activation, traffic = call.delivery.tables, call.delivery.activation, _traffic(call, party)
    return party.unique, known_credentials(party, tables.bus_credentials), {
        "NameObjects": tables.names.count(party.peer),
        "Matches": tables.matches.tally.of(party.peer),
        "ReplyObjects": tables.replies.outstanding(party.peer) + _native_calls(party),
        "IncomingBytes": _short(traffic["IncomingBytes"]),
        "IncomingFds": traffic["IncomingFDs"],
        "OutgoingBytes": _short(traffic["OutgoingBytes"]),
        "OutgoingFds": traffic["OutgoingFDs"],
        "ActivationRequestBytes": _short(activation.weight_of(party.peer)) if activation else 0,
    }


def _users(call: Call) -> list[tuple[int, list[tuple[str, int, int]], dict[int, dict[str, int]]]]:
    """UserAccounting: of each user what is left and the maximum, and what others have used of it."""
    return [
        (
            uid,
            [
                (slot, _short(limit - used), _short(limit))
                for slot, used, limit in zip(_SLOTS, usage.used, usage.limits, strict=True)
            ],
            {
                other: dict(zip(_SLOTS, map(_short, share), strict=True))
                for other, share in usage.shares.items()
            },
        )
        for uid, usage in call.delivery.tables.core.users().items()
    ]


def _numbers(values: Mapping[str, int]) -> dict[str, Variant]:
    return {name: Variant("u", _short(value)) for name, value in values.items()}


def _counts(counts: Mapping[str, int]) -> Variant:
    return Variant("a{su}", {kind: _short(count) for kind, count in counts.items()})


def _short(number: int) -> int:
    return min(number, _U32)
