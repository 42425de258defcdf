"""watchers: native peers that follow the owners of names.

Theory. A watcher is a node of a native peer, held by the bus peer. NameOwnerChanged goes to it as a signal
of the registry, until the node is destroyed.

Invariants. 1. The bus peer holds one reference per watcher. 2. A watcher follows one name, or all.

Not here: NameOwnerChanged for D-Bus clients (``switch.delivery``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bus1_services import call
from bus1_services.call import Envelope, Kind

from bus1.core.api import NodeRef, Parcel
from bus1.errors import QuotaExceeded

from . import wire
from .names import Change
from .switch.delivery import Delivery

WATCHERS_MAX = 1024
"""Of one native peer."""


class Watchers:
    """All watchers, and the signal that they get."""

    def __init__(self, delivery: Delivery, interface: str, source: int) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._interface = interface
        self._source = source
        self._owner: dict[int, int] = {}
        self._count: Counter[int] = Counter()
        self._following: dict[str, dict[int, None]] = {}
        """Handles by the name that they follow."""

    def add(self, handle: int, node: NodeRef, name: str) -> bool:
        """The node follows ``name``, all names if empty; False if it followed something before.

        True takes the reference. QuotaExceeded at ``WATCHERS_MAX``."""
        if handle in self._owner:
            self._leave(handle)
            self._follow(handle, name)
            return False
        if self._count[node[0]] >= WATCHERS_MAX:
            raise QuotaExceeded(f"A peer has at most {WATCHERS_MAX} watchers")
        self._follow(handle, name)
        self._owner[handle] = node[0]
        self._count[node[0]] += 1
        return True

    def gone(self, handle: int) -> None:
        """The node behind a handle of the bus peer was destroyed."""
        owner = self._owner.pop(handle, None)
        if owner is None:
            return
        self._leave(handle)
        self._count[owner] -= 1
        if not self._count[owner]:
            del self._count[owner]
        self._tables.core.handle_release(self._tables.bus_peer, handle)

    def names_changed(self, changes: Sequence[Change]) -> None:
        """NameOwnerChanged, to all who follow the name."""
        if not self._following:
            return
        for change in changes:
            handles = [*self._following.get("", ()), *self._following.get(change.name, ())]
            if handles:
                self._tell(handles, change)

    def _follow(self, handle: int, name: str) -> None:
        self._tables.watchers[handle] = name
        self._following.setdefault(name, {})[handle] = None

    def _leave(self, handle: int) -> None:
        name = self._tables.watchers.pop(handle)
        del self._following[name][handle]
        if not self._following[name]:
            del self._following[name]

    def _tell(self, handles: Sequence[int], change: Change) -> None:
        body = wire.marshal("sss", change.name, self._unique(change.old), self._unique(change.new))
        head = call.encode(Envelope(
            Kind.SIGNAL, interface=self._interface, member="NameOwnerChanged", signature="sss",
            body_length=len(body),
        ))
        nodes = (self._tables.core.node_of(self._tables.bus_peer, handle) for handle in handles)
        self._delivery.transmit(None, [
            Parcel(node, (head, body), (self._source,), mandatory=False) for node in nodes if node is not None
        ])

    def _unique(self, peer: int | None) -> str:
        party = None if peer is None else self._tables.parties.get(peer)
        return "" if party is None else party.unique
