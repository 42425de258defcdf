"""Whatever is asked of Core, in whatever order: books balance, refusals change nothing, nothing is left."""

from __future__ import annotations

from collections import Counter
from typing import Any

from core_bus import BusPeer, CoreBus, FlatMemory
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.account import RESOURCES
from bus1.core.api import HANDLE_INVALID, Limits, Parcel
from bus1.errors import Bus1Error, WouldBlock

Step = tuple[int, int, int, int, int]
TIGHT = Limits(slices=24, handles=48, inflight_bytes=12 << 20, inflight_fds=12)
SIZES = (0, 1, 8, 100, 4000, 1 << 20)
NODES = (0x10, 0x20, 0x30, 0x40)


class Chaos:
    """Some peers of two users; numbers choose what happens next."""

    def __init__(self) -> None:
        self.bus = CoreBus(TIGHT)
        self.core = self.bus.core
        self.peers = [self.bus.peer(uid, FlatMemory() if uid else None) for uid in (0, 0, 1, 1)]
        self.next_fd = 1
        self.attached: set[int] = set()
        self.commands = [
            self.send, self.send, self.send, self.recv, self.recv, self.recv, self.transfer, self.transfer,
            self.release, self.release, self.free, self.free, self.destroy, self.route, self.seed, self.reset,
            self.unmapped, self.disconnect,
        ]

    def run(self, step: Step) -> None:
        """One command, and everything that must hold afterwards."""
        command, who, a, b, c = step
        peer = self.peers[who % len(self.peers)]
        before = self.bus.snapshot()
        try:
            self.commands[command % len(self.commands)](peer, a, b, c)
        except Bus1Error:
            assert self.bus.snapshot() == before
            return
        after = self.bus.snapshot()
        check_books(after)
        check_references(after)
        woken = self.core.take_woken()
        assert len(set(woken)) == len(woken)
        assert all(self.core.is_readable(number) for number in woken)
        for number, state in after["peers"].items():
            was = number in before["peers"] and before["peers"][number]["queue"]
            assert was or not state["queue"] or number in woken
        self.check_descriptors(after)

    def handles(self, peer: BusPeer) -> list[int]:
        return [*peer.state()["handles"], *NODES, 0xFFB]

    def fds(self, count: int) -> tuple[int, ...]:
        self.next_fd += count
        return tuple(range(self.next_fd - count, self.next_fd))

    def send(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        known = self.handles(peer)
        destinations = {known[(a + i * 7) % len(known)]: None for i in range(1 + b % 3)}
        carried = [known[(c + i) % len(known)] for i in range(c % 4)]
        fds = self.fds(b % 3)
        optional = list(destinations)[1:] if a % 2 else []
        mandatory = [d for d in destinations if d not in optional]
        payload = bytes(SIZES[a % len(SIZES)])
        peer.send(mandatory, payload, carried, fds, flags=c % 2, optional=optional, secctx=b"x" * (c % 12))
        self.attached.update(fds)

    def route(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        parcels = []
        for i in range(1 + b % 4):
            reader = self.peers[(a + i) % len(self.peers)]
            node = (reader.number, NODES[(c + i) % len(NODES)])
            handles = tuple(self.handles(peer)[: c % 3])
            parcels.append(Parcel(node, (bytes(SIZES[c % 5]),), handles, i % 2 == 0, b % 2 == 0, i))
        fds = self.fds(a % 3)
        self.core.route(peer.number, parcels, fds, credentials=peer.credentials)
        self.attached.update(fds)

    def seed(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        if a % 2:
            self.recv(peer, a | 2, b, c)
            return
        known = self.handles(peer)
        fds = self.fds(b % 2)
        peer.send([], bytes(SIZES[b % 5]), known[c % len(known) :][:3], fds, flags=2)
        self.attached.update(fds)

    def recv(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        flags = a % 8 if a % 3 == 0 else a & 2
        try:
            message = peer.recv(flags, 1 << 16 if c == 0 else 1 << 40)
        except WouldBlock:
            assert flags & 2 or not peer.state()["queue"]
            raise
        held = peer.state()["handles"]
        assert all(handle in held or handle == HANDLE_INVALID for handle in message.handles)
        assert message.destination in held or flags & 2

    def transfer(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        known = self.handles(peer)
        peer.transfer(known[a % len(known)], self.peers[b % len(self.peers)])

    def release(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        known = self.handles(peer)
        peer.release(known[a % len(known)])

    def destroy(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        peer.destroy(*[NODES[(a + i) % 4] for i in range(1 + b % 2)], flags=c % 2)

    def free(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        published = peer.state()["pool"]["published"]
        peer.free(published[a % len(published)][0] if published else 0, unmapped=bool(b % 2))

    def unmapped(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        retired = [*peer.state()["pool"]["retired"], 999]
        self.core.segment_unmapped(peer.number, retired[0])

    def reset(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        peer.reset(a % 4, b % 2, max_handles=(8, 48)[c % 2])

    def disconnect(self, peer: BusPeer, a: int, b: int, c: int) -> None:
        if a % 4 == 0:
            uid = peer.credentials.uid
            peer.disconnect()
            self.peers[self.peers.index(peer)] = self.bus.peer(uid, FlatMemory() if b % 2 else None)

    def check_descriptors(self, state: dict[str, Any]) -> None:
        """Each descriptor that was taken is carried by a message, or freed, once."""
        freed = self.core.take_freed_fds()
        assert len(set(freed)) == len(freed) and self.attached.issuperset(freed)
        self.attached.difference_update(freed)
        carried = {fd for peer in state["peers"].values() for entry in entries(peer) for fd in entry["fds"]}
        assert carried == self.attached

    def finish(self) -> None:
        """Everybody leaves; nothing stays."""
        for peer in self.peers:
            peer.disconnect()
        state = self.bus.snapshot()
        assert (state["users"], state["peers"]) == ({}, {})
        self.check_descriptors(state)
        assert self.core.take_retired() == [] and self.core.take_woken() == []
        for peer in self.peers:
            assert not isinstance(peer.memory, FlatMemory) or peer.memory.segments == {}


def entries(peer: dict[str, Any]) -> list[dict[str, Any]]:
    """The data messages at a peer, the seed too."""
    found = [entry for entry in peer["queue"] if entry["type"] == "DATA"]
    return found + ([peer["seed"]] if peer["seed"] else [])


def check_books(state: dict[str, Any]) -> None:
    """Use is the sum of what is there; users are the sum of their peers; shares are what is undelivered."""
    totals: dict[int, Counter[str]] = {uid: Counter() for uid in state["users"]}
    shares: dict[int, dict[int, Counter[str]]] = {uid: {} for uid in state["users"]}
    for peer in state["peers"].values():
        account, messages, pool = peer["account"], entries(peer), peer["pool"]
        slices = {s[0]: s[2] for s in pool["published"]} | {m["slice"][0]: m["slice"][2] for m in messages}
        assert account["used"] == {
            "slices": len(slices),
            "handles": sum(references for _, references in peer["handles"].values())
            + sum(len(message["handles"]) for message in messages),
            "bytes": sum(slices.values()) + sum(charged for _, _, charged in pool["retired"].values()),
            "fds": sum(len(message["fds"]) for message in messages),
        }
        assert pool["slices"] == len(slices) == sum(s[2] for s in pool["segments"].values())
        assert sum(share["slices"] for share in account["shares"].values()) == len(messages)
        assert sum(flow[1] for flow in account["queued"].values()) == len(messages)
        assert sum(flow[0] for flow in account["queued"].values()) == sum(m["charged"] for m in messages)
        totals[account["uid"]].update(account["used"])
        for uid, share in account["shares"].items():
            shares[account["uid"]].setdefault(uid, Counter()).update(share)
    for uid, user in state["users"].items():
        assert user["used"] == {name: totals[uid][name] for name in RESOURCES}
        assert user["shares"] == {
            sender: {name: share[name] for name in RESOURCES} for sender, share in shares[uid].items()
        }


def check_references(state: dict[str, Any]) -> None:
    """U(node) is what N-11 says; holders hold; NODE_RELEASE is queued only where nobody else is left."""
    uses: Counter[tuple[int | None, int]] = Counter()
    carriers: dict[tuple[int | None, int], Counter[int]] = {}
    nodes: dict[tuple[int | None, int], dict[str, Any]] = {
        (number, node): known
        for number, peer in state["peers"].items() for node, known in peer["nodes"].items()
    } | {(None, i): known for i, known in enumerate(state["let_go"])}
    for number, peer in state["peers"].items():
        for (owner, node), references in peer["handles"].values():
            uses[owner, node] += references
            assert number in nodes[owner, node]["holders"]
        for entry in entries(peer):
            for owner, node in entry["handles"]:
                death = nodes[owner, node]["died"]
                if death is None or entry["stamp"] < death:
                    uses[owner, node] += 1
                    if entry["node"] is not None:
                        carriers.setdefault((owner, node), Counter())[number] += 1
        destroyed = [tuple(e["node"]) for e in peer["queue"] if e["type"] == "NODE_DESTROY"]
        assert len(set(destroyed)) == len(destroyed)
    for name, known in nodes.items():
        assert known["uses"] == uses[name]
        assert known["carriers"] == carriers.get(name, {})
        assert not known["release_queued"] or (known["uses"], known["died"]) == (1, None)
    assert all(known["died"] for known in state["let_go"])
    for number, peer in state["peers"].items():
        released = Counter(e["node"][1] for e in peer["queue"] if e["type"] == "NODE_RELEASE")
        for node, known in peer["nodes"].items():
            assert released[node] == known["release_queued"] <= 1
            addressed = [e for e in peer["queue"] if e["type"] == "DATA" and e["node"] == [number, node]]
            assert known["addressed"] == len(addressed)
        assert released.keys() <= peer["nodes"].keys()
        assert all(e["node"][1] is not None for e in peer["queue"] if e["type"] == "DATA")


numbers = st.integers(0, 15)


steps_of_chaos = st.lists(
    st.tuples(st.integers(0, 17), st.integers(0, 3), numbers, numbers, numbers), min_size=20, max_size=80
)


@given(steps_of_chaos)
def test_the_books_balance_and_refusals_change_nothing(steps: list[Step]) -> None:
    """E-3."""
    chaos = Chaos()
    for step in steps:
        chaos.run(step)
    chaos.finish()
