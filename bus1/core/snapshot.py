"""snapshot: the state of the bus as plain data.

Theory. Everything that Core knows, as dicts, lists, ints, strings, bytes, bools and None, in an order
that depends on nothing but the commands so far. Nodes are written ``[owner peer, node id]``; a dead
node whose id is free again has the id None. What a pool contains is its ``Memory``'s; here is where.

Not here: reading it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .account import RESOURCES, Account, Ledger, User
from .objects import NEVER, Node, Peer
from .pool import Pool, Slice
from .queue import Entry, Notice
from .sequencer import Sequencer


def of_bus(numbers: int, sequencer: Sequencer, ledger: Ledger, peers: Mapping[int, Peer]) -> dict[str, Any]:
    """All of it."""
    return {
        "last_peer": numbers,
        "stamp": sequencer.stamp,
        "woken": list(sequencer.woken),
        "freed": list(sequencer.freed),
        "retired": [list(entry) for entry in sequencer.retired],
        "users": {uid: _user(user) for uid, user in ledger.users.items()},
        "peers": {number: _peer(peer) for number, peer in peers.items()},
    }


def _counts(counts: list[int]) -> dict[str, int]:
    return dict(zip(RESOURCES, counts, strict=True))


def _user(user: User) -> dict[str, Any]:
    return {
        "limits": _counts(user.limits),
        "used": _counts(user.used),
        "shares": {uid: _counts(share) for uid, share in sorted(user.shares.items())},
        "peers": user.accounts,
    }


def _account(account: Account) -> dict[str, Any]:
    return {
        "uid": account.user.uid,
        "overhead": account.overhead,
        "limits": _counts(account.limits),
        "used": _counts(account.used),
        "shares": {uid: _counts(share) for uid, share in sorted(account.shares.items())},
        "queued": {sender: list(flow.undelivered) for sender, flow in sorted(account.flows.items())},
    }


def _peer(peer: Peer) -> dict[str, Any]:
    handles = sorted(peer.ids.handles.items())
    return {
        "account": _account(peer.account),
        "flags": peer.flags,
        "last_id": peer.ids.counter,
        "nodes": {number: _node(handle.node) for number, handle in handles if handle.node.owner is peer},
        "handles": {number: [_reference(h.node), h.references] for number, h in handles},
        "queue": [_entry(entry) for entry in peer.queue.entries],
        "seed": None if peer.seed is None else _entry(peer.seed),
        "pool": _pool(peer.pool),
    }


def _reference(node: Node) -> list[int | None]:
    return [node.owner.number, node.owner.ids.ids.get(node)]


def _node(node: Node) -> dict[str, Any]:
    return {
        "uses": node.uses,
        "died": None if node.died == NEVER else node.died,
        "holders": sorted(peer.number for peer in node.holders),
        "carriers": {peer.number: count for peer, count in node.carriers.items()},
        "addressed": node.addressed,
        "release_queued": node.release is not None,
    }


def _entry(entry: Entry) -> dict[str, Any]:
    known: dict[str, Any] = {
        "type": entry.type.name,
        "stamp": entry.stamp,
        "node": None if entry.node is None else _reference(entry.node),
    }
    if isinstance(entry, Notice):
        return known
    who = entry.credentials
    return known | {
        "sender": entry.sender,
        "credentials": [who.uid, who.gid, who.pid, who.tid],
        "secctx": entry.secctx,
        "n_bytes": entry.n_bytes,
        "slice": _slice(entry.slice),
        "charged": entry.charge.size,
        "handles": [_reference(node) for node in entry.nodes],
        "fds": [] if entry.fds is None else list(entry.fds.numbers),
        "note": entry.note,
    }


def _slice(slice_: Slice) -> list[int]:
    return [slice_.offset, slice_.size, slice_.charged]


def _pool(pool: Pool) -> dict[str, Any]:
    segments = sorted(pool.segments.items())
    return {
        "last_generation": pool.generation,
        "segments": {number: [s.base, s.size, s.slices, s.exposed] for number, s in segments},
        "retired": {number: [s.base, s.size, charged] for number, (s, charged) in pool.retired.items()},
        "published": [_slice(slice_) for _, slice_ in sorted(pool.published.items())],
        "slices": pool.slices,
    }
