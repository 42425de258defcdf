"""records: what ``bus1 peers``, ``tree`` and ``quota`` show, as records.

Theory. The bus answers SNAPSHOT with one document, see docs/protocol.md. Here it is turned around: from each
node to those who hold it, from each user to who uses how much. Records are plain data, the same for JSON and
text.

Not here: asking the bus, and writing text (inspect).
"""

from __future__ import annotations

import pwd
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from ..core.account import RESOURCES

Record = dict[str, Any]
_UNKNOWN: Record = {"pid": None, "command": None, "names": [], "channels": None}


class Document:
    """The document of a bus, with what is behind its numbers."""

    def __init__(self, data: dict[str, Any]) -> None:
        self.data = data
        self.peers: dict[int, Record] = {int(number): peer for number, peer in data["core"]["peers"].items()}
        self._known: dict[int, Record] = {int(number): known for number, known in data["peers"].items()}
        self._let_go: list[Record] = data["core"]["let_go"]

    def who(self, number: int) -> Record:
        """A peer, and who is behind it."""
        known = self._known.get(number, _UNKNOWN)
        uid = known.get("uid", self.peers[number]["account"]["uid"])
        return {
            "peer": number, "uid": uid, "user": user_name(uid), "pid": known["pid"],
            "command": known["command"], "names": known["names"], "channels": known["channels"],
        }

    def owner(self, node: list[int | None]) -> int:
        """Who owns a node, as it is written."""
        owner, number = node
        assert number is not None
        return int(self._let_go[number]["owner"]) if owner is None else owner

    def is_dead(self, node: list[int | None]) -> bool:
        """Whether a node has been destroyed."""
        owner, number = node
        assert number is not None
        if owner is None:
            return self._let_go[number]["died"] is not None
        return self.peers[owner]["nodes"][str(number)]["died"] is not None


@lru_cache
def user_name(uid: int) -> str:
    """The name of a user; the number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return str(uid)


# ---- peers -----------------------------------------------------------------------------------------


def peers(document: Document) -> list[Record]:
    """A record per peer, with what it has and uses."""
    return [document.who(number) | _load(document, number) for number in sorted(document.peers)]


def _load(document: Document, number: int) -> Record:
    peer = document.peers[number]
    used = peer["account"]["used"]
    return {
        "nodes": sum(node["died"] is None for node in peer["nodes"].values()),
        "handles": sum(document.owner(node) != number for node, _ in peer["handles"].values()),
        "queued": len(peer["queue"]),
        "slices": len(peer["pool"]["published"]),
        "bytes": used["bytes"],
        "fds": used["fds"],
    }


# ---- tree ------------------------------------------------------------------------------------------


def tree(document: Document) -> list[Record]:
    """A record per peer: its nodes with those who hold them, and what it holds of others.

    Owners that are gone come last, if nodes of theirs are still held."""
    holders, carriers, seeds = _holders(document), _carriers(document), _seeds(document)
    found: dict[int, list[Record]] = {number: [] for number in sorted(document.peers)}
    for key, (owner, number) in _nodes(document).items():
        found.setdefault(owner, []).append({
            "node": number, "dead": document.is_dead(list(key)), "holders": holders.get(key, []),
            "in_flight": [{"peer": peer, "messages": n} for peer, n in carriers.get(key, {}).items()],
            "seeds": seeds.get(key, []),
        })
    return [
        (document.who(owner) if owner in document.peers else {"peer": owner, "gone": True})
        | {"nodes": nodes, "holds": _holds(document, owner)}
        for owner, nodes in found.items()
    ]


Key = tuple[int | None, int | None]
"""A node as the document writes it."""


def _nodes(document: Document) -> dict[Key, tuple[int, int | None]]:
    """All nodes: their owners, and their ids, None for what was let go."""
    own: dict[Key, tuple[int, int | None]] = {
        (number, int(name)): (number, int(name))
        for number, peer in document.peers.items() for name in peer["nodes"]
    }
    let_go = document.data["core"]["let_go"]
    return own | {(None, at): (node["owner"], None) for at, node in enumerate(let_go)}


def _holders(document: Document) -> dict[Key, list[Record]]:
    found: dict[Key, list[Record]] = {}
    for number, peer in document.peers.items():
        for name, (node, references) in peer["handles"].items():
            if document.owner(node) != number:
                holder = {"peer": number, "handle": int(name), "references": references}
                found.setdefault(_key(node), []).append(holder)
    return found


def _carriers(document: Document) -> dict[Key, Counter[int]]:
    found: dict[Key, Counter[int]] = {}
    for number, peer in document.peers.items():
        for message in peer["queue"]:
            for key in set(_handles_in(message)):
                found.setdefault(key, Counter())[number] += 1
    return found


def _seeds(document: Document) -> dict[Key, list[int]]:
    found: dict[Key, list[int]] = {}
    for number, peer in document.peers.items():
        for key in set(_handles_in(peer["seed"] or {})):
            found.setdefault(key, []).append(number)
    return found


def _handles_in(message: Record) -> Iterator[Key]:
    return map(_key, message.get("handles", ()))


def _key(node: list[int | None]) -> Key:
    return node[0], node[1]


def _holds(document: Document, number: int) -> list[Record]:
    if number not in document.peers:
        return []
    return [
        {
            "handle": int(name), "owner": document.owner(node), "node": None if node[0] is None else node[1],
            "references": references, "dead": document.is_dead(node),
        }
        for name, (node, references) in document.peers[number]["handles"].items()
        if document.owner(node) != number
    ]


# ---- quota -----------------------------------------------------------------------------------------


def quota(document: Document, uid: int | None = None) -> list[Record]:
    """Per user and resource what is used, then the same for each peer of that user."""
    core = document.data["core"]
    found: list[Record] = []
    for user in [uid] if uid is not None else sorted(map(int, core["users"])):
        account = core["users"].get(str(user)) or _idle(core, user)
        found += _resources(user, None, account)
        for number, peer in sorted(document.peers.items()):
            if peer["account"]["uid"] == user:
                found += _resources(user, number, peer["account"])
    return found


def _idle(core: Record, uid: int) -> Record:
    """A user without peers: its maxima."""
    limits = core["configured"].get(str(uid), core["defaults"])
    return {"limits": limits, "used": dict.fromkeys(RESOURCES, 0), "shares": {}}


def _resources(uid: int, peer: int | None, account: Record) -> Iterator[Record]:
    for resource in RESOURCES:
        yield {
            "uid": uid, "user": user_name(uid), "peer": peer, "resource": resource,
            "used": account["used"][resource], "limit": account["limits"][resource],
            "shares": [
                {"uid": int(sender), "user": user_name(int(sender)), "used": share[resource]}
                for sender, share in account["shares"].items() if share[resource]
            ],
        }
