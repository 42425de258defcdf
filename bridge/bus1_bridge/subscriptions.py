"""subscriptions: native peers that follow the signals of a D-Bus connection.

Theory. A native peer subscribes at a derived node, that is at one object of one connection, so no
search among match rules is needed: four look-ups by (path, interface, member) find everybody, the
empty text being "any". The hosted peer of the connection holds the subscriber nodes: when the
connection goes, subscribers see NODE_RELEASE; when a subscriber destroys its node, the hosted peer sees
NODE_DESTROY.

Invariants. 1. A node receives a signal once, however many of its subscriptions match. 2. A derived node
lives while its path has subscribers.

Not here: signals of native services, who know their subscribers themselves.
"""

from __future__ import annotations

from bus1.core.api import CoreApi, NodeRef
from bus1.errors import QuotaExceeded
from bus1.record import owned

from . import hosted
from .switch.tables import LegacyParty

SUBSCRIBERS_MAX = 4096
"""Subscriptions at one legacy client."""

Topic = tuple[str, str, str]
"""(path, interface, member); empty for all."""


def subscribe(party: LegacyParty, topic: Topic, handle: int, node: NodeRef) -> bool:
    """Signals of this topic go to ``node`` from now on; the hosted peer's ``handle`` is taken.

    False if the node has this topic already. QuotaExceeded at ``SUBSCRIBERS_MAX``."""
    if handle in party.subscriptions.get(topic, ()):
        return False
    if sum(map(len, party.subscriptions.values())) >= SUBSCRIBERS_MAX:
        raise QuotaExceeded(f"{party.unique} has {SUBSCRIBERS_MAX} subscribers")
    party.subscriptions = owned(party.subscriptions)
    party.subscriptions.setdefault(topic, {})[handle] = node
    if party.express is not None:
        party.express.lane.set_followers(party.peer, True)
    hosted.hold(party, handle, topic)
    return True


def ended(core: CoreApi, party: LegacyParty, topic: Topic, handle: int) -> None:
    """The subscriber's node is gone, and its handle is released."""
    subscribers = party.subscriptions[topic]
    del subscribers[handle]
    if not subscribers:
        del party.subscriptions[topic]
        if party.express is not None:
            party.express.lane.set_followers(party.peer, bool(party.subscriptions))
    node = party.derived.get(topic[0])
    if node is not None and not has_any(party, topic[0]):
        hosted.touch(core, party, node)


def has_any(party: LegacyParty, path: str) -> bool:
    """Somebody follows the object at ``path``."""
    return any(topic[0] == path for topic in party.subscriptions)


def followers(party: LegacyParty, path: str, interface: str, member: str) -> list[NodeRef]:
    """The subscriber nodes for one signal, each once, in the order of their subscriptions."""
    found: dict[NodeRef, None] = {}
    for topic in (
        (path, interface, member), (path, interface, ""), (path, "", member), (path, "", ""),
    ):
        found.update(dict.fromkeys(party.subscriptions.get(topic, {}).values()))
    return list(found)
