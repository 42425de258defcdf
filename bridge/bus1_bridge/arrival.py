"""arrival: how clients become parties of the bus that do not come in by its front door, or speak no D-Bus.

Theory. A native peer is a party as soon as it is opened: it has a number for its unique name, the limits of a
hosted peer, and the handles that its endpoint grants. A D-Bus client that comes in by an entrance is a party
like any other, with a ``Sight`` of its own.

Not here: D-Bus clients of the bus's own sockets (router), leaving (``switch.departure``).
"""

from __future__ import annotations

from collections.abc import Collection

from bus1.core.api import Credentials
from bus1.errors import Denied

from .entrance import Entrance
from .registry import Registry
from .switch import flow
from .switch.delivery import Delivery
from .switch.sight import Sight
from .switch.tables import LegacyParty, NativeParty


def arrive(
    delivery: Delivery, registry: Registry, peer: int, credentials: Credentials, entrance: Entrance | None
) -> tuple[int, ...]:
    """A native peer is there: what its endpoint grants. Denied to other users; NodeDestroyed."""
    tables = delivery.tables
    if refusal := delivery.guard.refusal_to_connect(credentials):
        raise Denied(refusal)
    granted = (registry.grant(peer),) if entrance is None else registry.entrances.grant(entrance, peer)
    limits = flow.hosted_limits(delivery.limits)
    tables.core.peer_reset(
        peer, max_slices=limits.slices, max_handles=limits.handles,
        max_inflight_bytes=limits.inflight_bytes, max_inflight_fds=limits.inflight_fds,
    )
    unique = f":1.{tables.next_unique}"
    tables.next_unique += 1
    party = tables.parties[peer] = NativeParty(peer, credentials, unique, entrance=entrance)
    delivery.guard.admit(party)
    return granted


def come_in(delivery: Delivery, party: LegacyParty, entrance: Entrance) -> None:
    """A D-Bus client that has said nothing yet came in there: it sees what the entrance shows."""
    tables, view = delivery.tables, entrance.view
    assert view is not None

    def names_of(unique: str) -> Collection[str] | None:
        other = tables.unique.get(unique)
        return None if other is None else tables.names.primary(other.peer)

    party.entrance = entrance
    party.sight = tables.sights[party.peer] = Sight(party, entrance, view, names_of)
    entrance.clients.add(party.peer)
