"""model_rules: the rules of bus1 that several commands share.

Theory. What is asked (what an id names, whether an entry is valid, U of a node, where a slice fits) is
worked out by looking at everything. What is changed is a reference, a node or a queue. Each change that may
end a reference is ``changing``: U of every node before and after says who gets NODE_RELEASE. ``tidy``, at
the end of each command, looks through all queues for what must not be seen any more.

Not here: commands and their errors (``model``), charges (``model_quota``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from functools import partial
from typing import Any, TypeVar

from model_objects import NEVER, SEGMENT, Data, Entry, Handle, Node, Peer
from model_quota import Accounts

from bus1.core.api import HANDLE_INVALID, Limits, MessageType
from bus1.errors import NoSuchHandle, PeerShutdown

Result = TypeVar("Result")
NODE_DESTROY, NODE_RELEASE = MessageType.NODE_DESTROY, MessageType.NODE_RELEASE


class Rules(Accounts):
    """What there is, and how it hangs together."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.defaults = limits
        self.configured: dict[int, Limits] = {}
        self.last_peer = 0
        self.event = 0
        """G-1: all events are numbered in one order."""
        self.acquired = 0
        self.fds: list[int] = []
        """Descriptors that the bus owns."""
        self.freed: list[int] = []

    def peer(self, number: int) -> Peer:
        """P-13."""
        if number not in self.peers:
            raise PeerShutdown
        return self.peers[number]

    def resolve(self, peer: Peer, number: int, fresh: dict[int, Node]) -> Node:
        """H-21; a node that the command creates waits in ``fresh`` (H-22)."""
        handle = peer.handle(number)
        if handle is not None:
            return handle.node
        if number & 3:  # H-13
            raise NoSuchHandle
        return fresh.setdefault(number, Node(peer))

    def create(self, owner: Peer, fresh: dict[int, Node]) -> None:
        """H-31: an owner's handle starts with the pinned reference."""
        for number, node in fresh.items():
            self.acquired += 1
            owner.handles.append(Handle(number, node, self.acquired))

    def add_reference(self, peer: Peer, node: Node) -> int:
        """H-2, H-11, H-12, H-16: one reference more; returns the id."""
        handle = peer.handle_to(node)
        if handle is not None:
            handle.references += 1
            return handle.number
        peer.last_id += 1
        self.acquired += 1
        peer.handles.append(Handle(peer.last_id << 3 | 3, node, self.acquired))
        return peer.last_id << 3 | 3

    def number_of(self, entry: Entry) -> int:
        """R-8, N-1, S-5: what ``msg.destination`` says."""
        handle = entry.reader.handle_to(entry.node) if entry.node is not None else None
        return handle.number if handle is not None else HANDLE_INVALID

    def is_valid(self, data: Data, node: Node) -> bool:
        """G-9, T-26; S-10 for a seed; N-30 for an own node that was let go."""
        if data.node is None:
            return node.died == NEVER
        let_go = node.owner is data.reader and data.reader.handle_to(node) is None
        return data.stamp < node.died and not let_go

    def uses(self) -> Counter[Node]:
        """U(node) of all nodes (N-11)."""
        count: Counter[Node] = Counter()
        for peer in self.peers.values():
            for handle in peer.handles:
                count[handle.node] += handle.references
            for data in [*peer.messages(), *peer.seeds]:
                count.update(node for node in data.nodes if data.stamp < node.died)
        return count

    def changing(self, change: Callable[[], Result]) -> Result:
        """N-10, N-14, N-16: a live node whose U falls to 1 is an event of its own."""
        before = self.uses()
        result = change()
        after = self.uses()
        for node in before:
            if before[node] > 1 and after[node] == 1 and node.died == NEVER:
                self.event += 1
                node.owner.queue.append(Entry(NODE_RELEASE, node.owner, node, self.event))
        return result

    def drop_references(self, peer: Peer, handle: Handle, references: int) -> None:
        """H-32, H-42."""

        def drop() -> None:
            handle.references -= references
            if not handle.references:
                peer.handles.remove(handle)

        self.changing(drop)

    def drop(self, queue: list[Any], entry: Entry) -> None:
        """Nobody will receive ``entry``: each of its handles goes, one by one."""
        while isinstance(entry, Data) and entry.nodes:
            self.changing(partial(entry.nodes.pop, 0))
        queue.remove(entry)

    def drop_all(self, queue: list[Any]) -> None:
        """The same for all."""
        for entry in list(queue):
            self.drop(queue, entry)

    def destroy(self, doomed: list[Node]) -> None:
        """H-64: all at one instant; N-1, N-4: everybody who holds one, or will, is told."""
        self.event += 1
        for node in doomed:
            for peer in self.peers.values():
                if self.concerns(node, peer):
                    peer.queue.append(Entry(NODE_DESTROY, peer, node, self.event))
        for node in doomed:
            node.died = self.event

    def concerns(self, node: Node, peer: Peer) -> bool:
        """N-3, N-4: the peer holds the node, or has a message from before its death that carries it."""
        if peer.handle_to(node) is not None:
            return True
        carried = [data for data in peer.messages() if node in data.nodes and data.stamp < node.died]
        return bool(carried) and peer is not node.owner  # N-30

    def tidy(self) -> None:
        """What must not be seen any more leaves the queues, and descriptors that nobody carries the bus."""
        for peer in self.peers.values():
            for data in peer.messages():  # H-33: the owner has let the node go
                if data.node is not None and peer.handle_to(data.node) is None:
                    self.drop(peer.queue, data)
        uses = self.uses()
        for peer in self.peers.values():
            for entry in list(peer.queue):
                node = entry.node
                assert node is not None
                if entry.type is NODE_RELEASE and (uses[node] > 1 or node.died != NEVER):
                    peer.queue.remove(entry)  # N-12, N-16
                if entry.type is NODE_DESTROY and not self.concerns(node, peer):
                    peer.queue.remove(entry)  # N-3
        carried = {fd for peer in self.peers.values() for data in self.undelivered(peer) for fd in data.fds}
        self.freed += [fd for fd in self.fds if fd not in carried]
        self.fds = [fd for fd in self.fds if fd in carried]

    def place(self, peer: Peer, size: int) -> int:
        """L-4: the smallest gap that fits, the lowest of equals, at its start."""
        gaps = []
        end = 0
        taken = [(slice_.offset, slice_.size) for slice_ in self.slices(peer)]
        for offset, length in [*sorted(taken), (SEGMENT, 0)]:
            gaps.append((offset - end, end))
            end = offset + length
        return min(gap for gap in gaps if gap[0] >= size)[1]

    def flush(self, peer: Peer, protected: Collection[Node]) -> None:
        """P-34, P-35, in that order."""
        own = [handle.node for handle in peer.handles if handle.node.owner is peer]
        self.destroy([node for node in own if node.died == NEVER and node not in protected])  # (1)
        for handle in list(peer.handles):  # (2); P-17: one by one
            kept = 1 if handle.node in protected and handle.node.died == NEVER else 0  # S-12
            self.drop_references(peer, handle, handle.references - kept)
        self.drop_all(peer.queue)  # (3); P-36: with the notices of its own flush
        peer.published.clear()  # (4)
