"""snapshot: the state of the bus as plain data.

Theory. Everything that Core knows and that decides what it will do, as dicts, lists, ints, strings, bytes,
bools and None; where order decides, it is a list. Nodes are written ``[owner peer, node id]``. One that its
owner has let go has no id: it is ``[None, n]``, the n-th of ``let_go``, counted as they are met here. What
a pool contains is its ``Memory``'s; here is where.

Not here: reading it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .account import RESOURCES, Account, Ledger, User, ceilings
from .api import Limits
from .objects import NEVER, Node, Peer
from .pool import Pool, Slice
from .queue import Entry, Notice
from .sequencer import Sequencer
from .view import View


def of_bus(numbers: int, sequencer: Sequencer, ledger: Ledger, peers: Mapping[int, Peer]) -> dict[str, Any]:
    """All of it."""
    names = Names()
    written = {number: _peer(peer, names) for number, peer in peers.items()}
    return {
        "last_peer": numbers,
        "defaults": _maxima(ledger.defaults),
        "configured": {uid: _maxima(limits) for uid, limits in ledger.configured.items()},
        "stamp": sequencer.stamp,
        "woken": list(sequencer.woken),
        "freed": list(sequencer.freed),
        "retired": [list(entry) for entry in sequencer.retired],
        "users": {uid: _user(user) for uid, user in ledger.users.items()},
        "peers": written,
        "let_go": [_node(node) | {"owner": node.owner.number} for node in names.let_go],
    }


class Names:
    """How nodes are written."""

    def __init__(self) -> None:
        self.let_go: dict[Node, int] = {}
        """Nodes that their owner has let go, with their places."""

    def of(self, node: Node) -> list[int | None]:
        """What stands for ``node``."""
        number = node.owner.ids.ids.get(node)
        if number is None:
            return [None, self.let_go.setdefault(node, len(self.let_go))]
        return [node.owner.number, number]


def _maxima(limits: Limits) -> dict[str, int]:
    return _counts(ceilings(limits))


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
        "queued": {sender: [*flow.undelivered, flow.uid] for sender, flow in sorted(account.flows.items())},
    }


def _peer(peer: Peer, names: Names) -> dict[str, Any]:
    handles = sorted(peer.ids.handles.items())
    return {
        "account": _account(peer.account),
        "flags": peer.flags,
        "view": None if peer.view is None else _view(peer.view),
        "last_id": peer.ids.counter,
        "nodes": {number: _node(handle.node) for number, handle in handles if handle.node.owner is peer},
        "handles": {number: [names.of(h.node), h.references] for number, h in handles},
        "named": list(peer.ids.handles),
        "queue": [_entry(entry, names) for entry in peer.queue.entries],
        "seed": None if peer.seed is None else _entry(peer.seed, names),
        "pool": _pool(peer.pool),
    }


def _view(view: View) -> dict[str, Any]:
    return {
        "uids": [list(extent) for extent in view.uids],
        "gids": [list(extent) for extent in view.gids],
        "pid_namespace": view.pid_namespace,
    }


def _node(node: Node) -> dict[str, Any]:
    return {
        "uses": node.uses,
        "died": None if node.died == NEVER else node.died,
        "holders": [peer.number for peer in node.holders],
        "carriers": {peer.number: count for peer, count in node.carriers.items()},
        "addressed": len(node.addressed),
        "release_queued": node.release is not None,
    }


def _entry(entry: Entry, names: Names) -> dict[str, Any]:
    known: dict[str, Any] = {
        "type": entry.type.name,
        "stamp": entry.stamp,
        "node": None if entry.node is None else names.of(entry.node),
    }
    if isinstance(entry, Notice):
        return known
    who = entry.credentials
    return known | {
        "sender": entry.sender,
        "credentials": [who.uid, who.gid, who.pid, who.tid],
        "pids": [list(pid) for pid in who.pids],
        "secctx": entry.secctx,
        "n_bytes": entry.n_bytes,
        "slice": _slice(entry.slice),
        "charged": entry.charge.size,
        "handles": [names.of(node) for node in entry.nodes],
        "fds": [] if entry.fds is None else list(entry.fds.numbers),
        "note": entry.note,
    }


def _slice(slice_: Slice) -> list[int]:
    return [slice_.offset, slice_.size, slice_.charged]


def _pool(pool: Pool) -> dict[str, Any]:
    segments = sorted(pool.segments.items())
    return {
        "shares_buffers": pool.memory.shares_buffers,
        "last_generation": pool.generation,
        "last_serial": pool.serial,
        "segments": {number: [s.base, s.size, s.slices, s.exposed, s.shared] for number, s in segments},
        "retired": {number: [s.base, s.size, charged] for number, (s, charged) in pool.retired.items()},
        "published": [[*_slice(slice_), slice_.serial] for slice_ in pool.published.values()],
        "slices": pool.slices,
    }
