"""objects: peers, nodes and handles, and how references keep them.

Theory. A node has an owner for ever; a handle is one peer's references to one node (H-1, H-2). U(node)
counts the user references of all holders plus one per handle-array entry in undelivered messages and
seeds (N-11). When U of a live node falls from more to one, only the owner's pinned reference is
left, and the owner gets NODE_RELEASE (N-10); if U rises before that is dequeued, it is taken back
(N-12). A destruction puts NODE_DESTROY into the queue of every peer that holds the node, or has an
undelivered message that carries it (N-4); it is taken back when neither is true any more (N-3).

An entry of a handle array is valid iff its message is older than the node's destruction (G-9), which
is a comparison of stamps. Only entries of nodes that were live at the send are counted; the others
are dead freight from the start (T-26).

Invariants. 1. A live node's owner holds it. 2. At most one NODE_RELEASE per node and one
NODE_DESTROY per node and peer is queued (N-6, N-13). 3. A handle exists iff it has references.
4. No message addressed to a node is queued once its owner has let the dead node go (H-33).

Not here: ids (``ids``), charges of messages (``account``), commands (``bus``).
"""

from __future__ import annotations

from collections.abc import Collection

from .account import HANDLES, Account
from .api import MessageType
from .ids import IdTable
from .pool import Pool
from .queue import Instance, Notice, Queue
from .sequencer import Sequencer
from .view import View

NEVER = 1 << 128
"""The destruction stamp of a live node."""


class Handle:
    """The references of one peer to one node."""

    __slots__ = ("node", "references")

    def __init__(self, node: Node, references: int) -> None:
        self.node = node
        self.references = references


class Node:
    """What can be addressed; ``died`` is the stamp of its destruction."""

    __slots__ = ("addressed", "carriers", "died", "holders", "notices", "owner", "release", "uses")

    def __init__(self, owner: Peer) -> None:
        self.owner = owner
        self.died = NEVER
        self.uses = 1
        """U(node)."""
        self.addressed: dict[Instance, None] = {}
        """Queued messages to this node, in their order."""
        self.holders: dict[Peer, Handle] = {}
        self.carriers: dict[Peer, int] = {}
        """Entries in undelivered messages, older than the destruction, by receiver."""
        self.release: Notice | None = None
        self.notices: dict[Peer, Notice] = {}

    def rise(self) -> None:
        """One reference more; a pending NODE_RELEASE is withdrawn."""
        self.uses += 1
        self.withdraw_release()

    def fall(self, references: int = 1) -> None:
        """Fewer references; the last but the pinned one queues NODE_RELEASE."""
        self.uses -= references
        if self.uses == 1 and self.died == NEVER:
            self.release = Notice(MessageType.NODE_RELEASE, self, self.owner.sequencer.draw())
            self.owner.queue.append(self.release)

    def withdraw_release(self) -> None:
        """Take a pending NODE_RELEASE out of the owner's queue."""
        if self.release is not None:
            self.owner.queue.remove(self.release)
            self.release = None

    def carry(self, receiver: Peer) -> None:
        """A message to ``receiver`` carries this live node."""
        self.rise()
        self.carriers[receiver] = self.carriers.get(receiver, 0) + 1

    def arrive(self, receiver: Peer) -> None:
        """That message is not undelivered any more."""
        left = self.carriers[receiver] - 1
        if left:
            self.carriers[receiver] = left
        else:
            del self.carriers[receiver]

    def notify(self) -> None:
        """Queue NODE_DESTROY at everybody concerned (N-1, N-4)."""
        self.owner.sequencer.effort += len(self.holders) + len(self.carriers)
        for peer in (*self.holders, *(peer for peer in self.carriers if peer not in self.holders)):
            self.notices[peer] = notice = Notice(MessageType.NODE_DESTROY, self, self.died)
            peer.queue.append(notice)

    def withdraw_notice(self, peer: Peer) -> None:
        """``peer`` let the dead node go: NODE_DESTROY has lost its meaning, unless a handle comes."""
        if peer not in self.holders and (peer is self.owner or peer not in self.carriers):
            notice = self.notices.pop(peer, None)
            if notice is not None:
                peer.queue.remove(notice)


class Peer:
    """A queue, a pool, an account and handles; ``view`` is how it sees the ids of others."""

    __slots__ = ("account", "flags", "ids", "number", "pool", "queue", "seed", "sequencer", "view")

    def __init__(
        self, number: int, account: Account, pool: Pool, sequencer: Sequencer, view: View | None = None
    ) -> None:
        self.number = number
        self.account = account
        self.pool = pool
        self.sequencer = sequencer
        self.view = view
        self.queue = Queue(number, sequencer)
        self.ids = IdTable()
        self.flags = 0
        self.seed: Instance | None = None

    def own(self, node: Node, number: int) -> None:
        """A new node comes into being under ``number``, with its pinned reference (charged)."""
        node.holders[self] = handle = Handle(node, 1)
        self.ids.name(number, handle)

    def hold(self, node: Node) -> int:
        """One user reference more (charged, counted in U); returns its id (H-16, H-55)."""
        handle = node.holders.get(self)
        if handle is None:
            node.holders[self] = handle = Handle(node, 1)
            return self.ids.assign(handle)
        handle.references += 1
        return self.ids.ids[node]

    def release(self, handle: Handle, references: int = 1) -> None:
        """Drop user references; the caller follows up with ``forsake`` if it was the last of an own node."""
        node = handle.node
        handle.references -= references
        self.account.give(HANDLES, references)
        if not handle.references:
            del node.holders[self]
            self.ids.forget(node)
            if node.died != NEVER:
                node.withdraw_notice(self)
        node.fall(references)

    def forsake(self, nodes: Collection[Node]) -> None:
        """Drop the queued messages to own dead nodes that were let go (H-33)."""
        lost = [instance for node in nodes for instance in node.addressed]
        for instance in sorted(lost, key=lambda instance: instance.stamp):
            self.queue.remove(instance)
            self.discard(instance)

    def discard(self, instance: Instance) -> None:
        """An undelivered message, already out of the queue, is gone for good."""
        self.sequencer.effort += 1 + len(instance.nodes)
        if instance.node is not None:
            del instance.node.addressed[instance]
        for node in instance.nodes:
            if instance.stamp < node.died:
                node.arrive(self)
                node.fall()
                if node.died != NEVER:
                    node.withdraw_notice(self)
        self._settle(instance)

    def discard_seed(self) -> None:
        """Drop the seed, if there is one (S-11)."""
        seed, self.seed = self.seed, None
        if seed is not None:
            self.sequencer.effort += len(seed.nodes)
            for node in seed.nodes:
                if seed.stamp < node.died:
                    node.fall()
            self._settle(seed)

    def flush(self, protected: frozenset[Node]) -> None:
        """P-34, P-35: everything but the seed and its own nodes, which are ``protected`` (S-12 … S-14)."""
        handles = list(self.ids.handles.values())
        own = [h.node for h in handles if h.node.owner is self and h.node.died == NEVER]
        destroy([node for node in own if node not in protected], self.sequencer.draw())
        entries = self.queue.clear()
        self.sequencer.effort += len(handles) + len(entries)
        for entry in entries:
            if isinstance(entry, Notice):
                entry.node.notices.pop(self, None)
                entry.node.release = None if entry.node.release is entry else entry.node.release
        for handle in handles:
            kept = handle.node.died == NEVER and handle.node in protected
            if handle.references > kept:
                self.release(handle, handle.references - kept)
        for entry in entries:
            if isinstance(entry, Instance):
                self.discard(entry)
        self.pool.unpublish()

    def _settle(self, instance: Instance) -> None:
        instance.charge.settle(0)
        self.pool.unpin(instance.slice)
        if instance.fds is not None:
            instance.fds.drop()


def destroy(nodes: Collection[Node], stamp: int) -> None:
    """Live nodes die at one instant (H-64)."""
    for node in nodes:
        node.withdraw_release()
        node.died = stamp
    for node in nodes:
        node.notify()
