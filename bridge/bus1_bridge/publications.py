"""publications: what native peers offer, and the emitters they speak through.

Theory. A published node is held by the bus peer, so it is in use as long as it is published. An emitter
is a node of the bus peer that stands for "everybody whose match rules fit"; it belongs to one
publisher, and ends when nobody holds it any more.

Invariants. 1. ``_references`` counts exactly the bus peer's references to published nodes. 2. Published
nodes are the publisher's own, and alive up to the NODE_DESTROY that ``gone`` takes. 3. No published path
is reserved.

Not here: names (``registry``), introspection (``published``), signals (``outbound``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from bus1_services.seed import SeedDocument

from bus1.core.api import DestroyFlag

from . import capabilities, wire
from .busobject import Failure
from .switch.tables import NativeParty, PublishedObject, Tables

OBJECTS_MAX = 1024
"""Published objects of one native peer."""


class Publications:
    """All published nodes and all emitters."""

    def __init__(self, tables: Tables, next_node: Callable[[], int]) -> None:
        self._tables = tables
        self._core = tables.core
        self._bus = tables.bus_peer
        self._next_node = next_node
        self._references: Counter[int] = Counter()
        self._publisher: dict[int, NativeParty] = {}
        self._paths: dict[int, list[str]] = {}
        """Of the objects behind a handle: thousands may go at once."""

    def complaint(self, party: NativeParty, document: SeedDocument, handles: Sequence[int]) -> Failure | None:
        """What is wrong with publishing this."""
        if len(handles) != 1 + len(document.objects):
            return Failure("InvalidArgs", "A seed document comes with its root and a node per object")
        nodes = (self._core.node_of(self._bus, handle) for handle in handles)
        if any(node is None or node[0] != party.peer for node in nodes):
            return Failure("InvalidArgs", "Only live nodes of the publisher can be published")
        for path, _ in document.objects:
            if is_reserved(path):
                return Failure("InvalidArgs", f"The path {path} is reserved")
        return None

    def replace(self, party: NativeParty, document: SeedDocument, handles: Sequence[int]) -> None:
        """Publish this in the place of what was: the bus peer keeps a reference per handle."""
        self.withdraw(party)
        for handle in handles:
            self._references[handle] += 1
            self._publisher[handle] = party
        party.title = document.title
        party.root_handle = handles[0]
        party.root = self._core.node_of(self._bus, handles[0])
        for (path, xml), handle in zip(document.objects, handles[1:], strict=True):
            node = self._core.node_of(self._bus, handle)
            assert node is not None
            party.objects[path] = PublishedObject(node, handle, xml)
            party.paths.setdefault(node, path)
            self._paths.setdefault(handle, []).append(path)

    def withdraw(self, party: NativeParty) -> None:
        """Nothing of the party is published any more."""
        handles = [entry.handle for entry in party.objects.values()]
        if party.root_handle is not None:
            handles.append(party.root_handle)
        party.objects, party.paths = {}, {}
        party.root = party.root_handle = None
        for handle in handles:
            self._paths.pop(handle, None)
            self._references[handle] -= 1
            if not self._references[handle]:
                del self._references[handle], self._publisher[handle]
            self._core.handle_release(self._bus, handle)

    def gone(self, handle: int) -> None:
        """The node behind a handle of the bus peer was destroyed."""
        party = self._publisher.pop(handle, None)
        if party is None:
            return
        for path in self._paths.pop(handle, ()):
            party.paths.pop(party.objects.pop(path).node, None)
        if party.root_handle == handle:
            party.root = party.root_handle = None
        for _ in range(self._references.pop(handle)):
            self._core.handle_release(self._bus, handle)

    def emitter(self, party: NativeParty) -> int:
        """The party's emitter, a new one if need be, with one reference more."""
        node = self._next_node() if party.emitter is None else party.emitter
        self._core.handle_transfer(self._bus, node, self._bus)
        party.emitter = node
        self._tables.emitters[node] = party.peer
        return node

    def end_emitter(self, node: int) -> None:
        """Nobody holds the emitter, or its party is gone."""
        party = self._tables.parties.get(self._tables.emitters.pop(node))
        if isinstance(party, NativeParty):
            party.emitter = None
        self._core.node_destroy(self._bus, [node], DestroyFlag.RELEASE_HANDLES)


def is_reserved(path: str) -> bool:
    """No object of a party has this path: capabilities, and what D-Bus libraries hang up on."""
    return path.startswith(wire.LOCAL_PATH) or capabilities.is_reserved(path)
