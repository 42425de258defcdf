"""model_snapshot: the model written as ``Core.snapshot()`` writes the bus.

Not here: what the keys mean (``bus1.core.snapshot``).
"""

from __future__ import annotations

from typing import Any

from model_objects import NEVER, SEGMENT, Data, Entry, Node, Peer, Slice, maxima
from model_quota import cost, total
from model_rules import NODE_RELEASE, Rules

RESOURCES = ("slices", "handles", "bytes", "fds")


def snapshot(model: Rules) -> dict[str, Any]:
    """All of it; what a command left for the edge has been taken."""
    return Writer(model).written()


class Writer:
    """Writes a model down; nodes that their owner has let go are numbered as they are met."""

    def __init__(self, model: Rules) -> None:
        self.model = model
        self.uses = model.uses()
        self.let_go: list[Node] = []

    def written(self) -> dict[str, Any]:
        """The bus."""
        model = self.model
        peers = {number: self.peer(peer) for number, peer in model.peers.items()}
        return {
            "last_peer": model.last_peer,
            "defaults": counts(maxima(model.defaults)),
            "configured": {uid: counts(maxima(limits)) for uid, limits in model.configured.items()},
            "stamp": model.event,
            "woken": [],
            "freed": [],
            "retired": [],
            "users": {uid: self.user(uid) for uid in model.users},
            "peers": peers,
            "let_go": [self.node(node) | {"owner": node.owner.number} for node in self.let_go],
        }

    def user(self, uid: int) -> dict[str, Any]:
        """One user, and the shares of others in it."""
        peers = self.model.peers_of(uid)
        senders = {data.uid for peer in peers for data in self.model.undelivered(peer)}
        return {
            "limits": counts(self.model.users[uid]),
            "used": counts(self.model.used_by(uid)),
            "shares": {
                sender: counts(total(self.model.share(peer, sender) for peer in peers)) for sender in senders
            },
            "peers": len(peers),
        }

    def peer(self, peer: Peer) -> dict[str, Any]:
        """One peer."""
        return {
            "account": self.account(peer),
            "flags": peer.flags,
            "view": None,
            "last_id": peer.last_id,
            "nodes": {h.number: self.node(h.node) for h in peer.handles if h.node.owner is peer},
            "handles": {
                h.number: [self.name(h.node), h.references]
                for h in sorted(peer.handles, key=lambda handle: handle.number)
            },
            "named": [handle.number for handle in peer.handles],
            "queue": [self.entry(entry) for entry in peer.queue],
            "seed": self.entry(peer.seeds[0]) if peer.seeds else None,
            "pool": self.pool(peer),
        }

    def account(self, peer: Peer) -> dict[str, Any]:
        """What is charged to a peer, and to whom it is booked."""
        undelivered = self.model.undelivered(peer)
        queued: dict[int, list[int]] = {}
        for data in undelivered:
            slices, _, size, fds = cost(data)
            flow = queued.setdefault(data.sender, [0, 0, 0, data.uid])
            flow[:3] = flow[0] + size, flow[1] + slices, flow[2] + fds
        return {
            "uid": peer.uid,
            "overhead": peer.overhead,
            "limits": counts(peer.limits),
            "used": counts(self.model.used(peer)),
            "shares": {uid: counts(self.model.share(peer, uid)) for uid in {d.uid for d in undelivered}},
            "queued": queued,
        }

    def name(self, node: Node) -> list[int | None]:
        """What stands for a node: its owner and the owner's id, if the owner still has one."""
        handle = node.owner.handle_to(node)
        if handle is not None:
            return [node.owner.number, handle.number]
        if node not in self.let_go:
            self.let_go.append(node)
        return [None, self.let_go.index(node)]

    def node(self, node: Node) -> dict[str, Any]:
        """One node, and who has to do with it."""
        peers = self.model.peers.values()
        held = [(handle.since, peer.number) for peer in peers if (handle := peer.handle_to(node))]
        carriers = {
            peer.number: sum(data.nodes.count(node) for data in peer.messages() if data.stamp < node.died)
            for peer in peers
        }
        entries = [entry for entry in node.owner.queue if entry.node is node]
        return {
            "uses": self.uses[node],
            "died": None if node.died == NEVER else node.died,
            "holders": [number for _, number in sorted(held)],
            "carriers": {number: count for number, count in carriers.items() if count},
            "addressed": sum(isinstance(entry, Data) for entry in entries),
            "release_queued": any(entry.type is NODE_RELEASE for entry in entries),
        }

    def entry(self, entry: Entry) -> dict[str, Any]:
        """One message or notification."""
        known: dict[str, Any] = {
            "type": entry.type.name,
            "stamp": entry.stamp,
            "node": None if entry.node is None else self.name(entry.node),
        }
        if not isinstance(entry, Data):
            return known
        who = entry.credentials
        return known | {
            "sender": entry.sender,
            "credentials": [who.uid, who.gid, who.pid, who.tid],
            "pids": [],
            "secctx": entry.secctx,
            "n_bytes": len(entry.payload),
            "slice": place(entry.slice),
            "charged": entry.slice.charged,
            "handles": [self.name(node) for node in entry.nodes],
            "fds": list(entry.fds),
            "note": 0,
        }

    def pool(self, peer: Peer) -> dict[str, Any]:
        """Where slices lie: all in one segment, which stays once there was one."""
        slices = len(self.model.slices(peer))
        segment = [0, SEGMENT, slices, peer.is_exposed, True]
        return {
            "shares_buffers": peer.shares_buffers,
            "last_generation": int(peer.has_segment),
            "last_serial": peer.last_serial,
            "segments": {1: segment} if peer.has_segment else {},
            "retired": {},
            "published": [[*place(slice_), slice_.serial] for slice_ in peer.published],
            "slices": slices,
        }


def counts(amounts: list[int]) -> dict[str, int]:
    """The four resources by name."""
    return dict(zip(RESOURCES, amounts, strict=True))


def place(slice_: Slice) -> list[int]:
    """A slice."""
    return [slice_.offset, slice_.size, slice_.charged]
