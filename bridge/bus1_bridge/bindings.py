"""bindings: which object each capability path of the bus stands for.

Theory. A capability path is known to whoever ever received it, so knowing it must not be enough to
speak for the object behind it. The first node that is granted under a path has the path from then on, for
every client, until the node dies: whether somebody holds a grant at the moment does not matter. A node's
owner may bind further paths to it; anybody else only passes on what is bound, and binds a first path
where there is none.

Invariants. 1. A path leads to one live node at most. 2. No peer's nodes have more than ``BINDINGS_MAX``
paths. 3. A peer that is gone has none.

Not here: who holds a grant (``capabilities``). That a node died is noticed when its path is asked for
again, or when its owner has doubled the number of its paths.
"""

from __future__ import annotations

from collections import Counter

from bus1.core.api import CoreApi, NodeRef
from bus1.errors import InvalidArgument, QuotaExceeded
from bus1.record import field, record

BINDINGS_MAX = 65536
"""Paths of the live nodes of one peer."""
_FIRST_SWEEP = 64


@record()
class _Owner:
    """The paths of one peer's nodes."""

    nodes: dict[str, int] = field(default_factory=dict)
    paths: Counter[int] = field(default_factory=Counter)
    """How many paths each node has."""
    sweep_at: int = _FIRST_SWEEP


class Bindings:
    """All paths that are taken."""

    def __init__(self, core: CoreApi) -> None:
        self._core = core
        self._nodes: dict[str, NodeRef] = {}
        self._owners: dict[int, _Owner] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def node(self, path: str) -> NodeRef | None:
        """The live node that the path stands for."""
        node = self._nodes.get(path)
        if node is not None and self._core.node_of(*node) is None:
            self._remove(path)
            node = None
        return node

    def check(self, sender: int, path: str, node: NodeRef, more: int = 0) -> bool:
        """Whether ``sender`` would bind ``path`` to ``node``; False if it is bound to it already.

        ``more`` bindings are about to be made besides. InvalidArgument if it may not, QuotaExceeded at
        ``BINDINGS_MAX``."""
        bound = self.node(path)
        if bound is not None:
            if bound != node:
                raise InvalidArgument(f"{path} is the path of another object")
            return False
        owner = self._owners.get(node[0])
        if owner is not None:
            if node[0] != sender and owner.paths[node[1]]:
                raise InvalidArgument("only its owner gives an object another path")
            if len(owner.nodes) + more >= BINDINGS_MAX:
                self._sweep(owner)
            if len(owner.nodes) + more >= BINDINGS_MAX:
                raise QuotaExceeded(f"the objects of one peer have at most {BINDINGS_MAX} capability paths")
        return True

    def bind(self, path: str, node: NodeRef) -> None:
        """The path stands for the live node from now on, as ``check`` allowed."""
        if path in self._nodes:
            return
        owner = self._owners.setdefault(node[0], _Owner())
        if len(owner.nodes) >= owner.sweep_at:
            self._sweep(owner)
            owner = self._owners.setdefault(node[0], owner)
            owner.sweep_at = max(_FIRST_SWEEP, 2 * len(owner.nodes))
        self._nodes[path] = node
        owner.nodes[path] = node[1]
        owner.paths[node[1]] += 1

    def forget(self, peer: int) -> None:
        """The peer is gone, and all its nodes are."""
        owner = self._owners.pop(peer, None)
        if owner is not None:
            for path in owner.nodes:
                del self._nodes[path]

    def _sweep(self, owner: _Owner) -> None:
        for path in list(owner.nodes):
            self.node(path)

    def _remove(self, path: str) -> None:
        peer, node = self._nodes.pop(path)
        owner = self._owners[peer]
        del owner.nodes[path]
        owner.paths[node] -= 1
        if not owner.paths[node]:
            del owner.paths[node]
        if not owner.nodes:
            del self._owners[peer]
