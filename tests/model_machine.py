"""model_machine: arbitrary commands from several peers and users, for a Core and the model of it.

Theory. Hypothesis chooses a rule and small numbers; these pick from what exists most of the time, and
nonsense sometimes. All limits are tight, so that every quota bites. ``tally`` notes what has happened.

Not here: what is compared (``model_twins``), how the model works (``model``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, TypeVar

from core_bus import FlatMemory
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from model import DATA, PEEK, SEED
from model_objects import NEVER, Data, Peer
from model_quota import HANDLES
from model_twins import MAXIMA, Twins

from bus1.core.api import (
    FD_MAX,
    HANDLE_INVALID,
    KEEP,
    NO_LIMIT,
    VEC_MAX,
    Credentials,
    Limits,
    Message,
)
from bus1.core.choice import HeapMemory
from bus1.errors import Bus1Error

Choice = TypeVar("Choice")
OTHERS = (
    None, None, Limits(8, 20, 100_000, 6), Limits(3, 28, 300_000, 16), Limits(16, 6, 300_000, 1), MAXIMA,
    Limits(100, 100, 1_000_000, 100), Limits(100, 100, 1_000_000, 100),
)
UIDS = (1, 1, 2, 3)
SIZES = (0, 1, 8, 9, 100, 0, 13, 0, 4000, 5, 24, 20_000, 70_000)
LABELS = (None, None, b"", b"label", b"a label.", b"unconfined")
NODES = (0x10, 0x20, 0x30, 0, 0x104)
NOBODYS = (0xB, 0x13, 0xFFB, HANDLE_INVALID, 1, 2, 0x11)
BAD_LIMITS = (1 << 31, KEEP - 1)


def pick(choices: Sequence[Choice], number: int) -> Choice:
    """One of ``choices``."""
    return choices[number % len(choices)]


small = st.integers(0, 15)
some = st.integers(0, 99)
few = st.lists(some, max_size=4)
somewhere = st.lists(some, min_size=1, max_size=4)


class Machine(RuleBasedStateMachine):
    """Some peers of some users, who do this and that."""

    tally: ClassVar[Counter[str]] = Counter()
    """How often what happened, in all examples."""

    def __init__(self) -> None:
        super().__init__()
        self.twins = Twins()
        self.twins.tally = self.tally
        self.tally["examples"] += 1
        self.model = self.twins.model
        self.last_fd = 100
        self.last_payload = 0
        numbers = [self.twins.run("peer_new", uid, FlatMemory()) for uid in UIDS[1:]]
        for giver in numbers:
            for taker in numbers:
                if giver != taker:
                    self.twins.run("handle_transfer", giver, 0x10, taker)
        self.twins.run("peer_reset", numbers[0], 0, 1)

    # ---- choices ---------------------------------------------------------------------------------

    def peer(self, number: int) -> Peer:
        """A peer; if all are gone, one that never was."""
        return pick(list(self.model.peers.values()) or [Peer(999, 1, True, 0, [0, 0, 0, 0])], number)

    def peer_with(self, attribute: str, number: int) -> Peer:
        """One whose ``attribute`` is not empty, mostly."""
        found = [peer for peer in self.model.peers.values() if getattr(peer, attribute)]
        return pick(found, number) if found and number % 8 != 7 else self.peer(number)

    def handle(self, peer: Peer, number: int) -> int:
        """A handle of ``peer`` mostly, else an unused id, else nonsense."""
        if number % 12 == 11:
            return pick(NOBODYS, number // 12)
        held = [handle.number for handle in peer.handles]
        return pick(held if held and number % 8 < 6 else NODES, number // 8)

    def handles(self, peer: Peer, numbers: Sequence[int]) -> list[int]:
        """Some of them, with repetitions."""
        return [self.handle(peer, number) for number in numbers]

    def foreign(self, peer: Peer, number: int) -> int:
        """A handle that ``peer`` received, if it has one."""
        found = [handle.number for handle in peer.handles if handle.node.owner is not peer]
        return pick(found, number) if found and number % 8 != 7 else self.handle(peer, number // 8)

    def surplus(self, peer: Peer, number: int) -> int:
        """A handle of which ``peer`` can release a reference, if it has one."""
        found = [
            handle.number for handle in peer.handles
            if handle.references > 1 or handle.node.owner is not peer or handle.node.died != NEVER
        ]
        return pick(found, number) if found and number % 8 != 7 else self.handle(peer, number // 8)

    def parts(self, number: int) -> list[bytes]:
        """A payload unlike any other, in pieces."""
        self.last_payload += 1
        data = (self.last_payload.to_bytes(3, "little") * 30_000)[: pick(SIZES, number)]
        return [data[:3], data[3:5], data[5:]] if number % 3 else [data]

    def fds(self, number: int) -> list[int]:
        """Descriptors, each attached once."""
        count = max(0, number % 8 - 4)
        self.last_fd += count
        return list(range(self.last_fd - count, self.last_fd))

    # ---- peers -----------------------------------------------------------------------------------

    @rule(uid=small, shape=some)
    def peer_new(self, uid: int, shape: int) -> None:
        if len(self.model.peers) < 6:
            memory = FlatMemory() if shape % 3 else HeapMemory()
            limits, overhead = pick(OTHERS, shape), pick((0, 0, 0, 50), shape // 8)
            self.twins.run("peer_new", pick(UIDS, uid), memory, limits=limits, overhead=overhead)

    @rule(who=small, is_meant=small)
    def peer_disconnect(self, who: int, is_meant: int) -> None:
        if is_meant % 4 == 3:
            self.twins.run("peer_disconnect", self.peer(who).number)

    @rule(who=small, flags=small, peer_flags=small, number=some)
    def peer_reset(self, who: int, flags: int, peer_flags: int, number: int) -> None:
        peer = self.peer(who)
        used = [1, 1, 1, 1] if peer.number == 999 else self.model.used(peer)
        maximum = pick(("max_slices", "max_handles", "max_inflight_bytes", "max_inflight_fds"), number)
        now = used[number % 4]
        wanted = pick((KEEP, KEEP, now, now + 8, 8, 40, 0, *BAD_LIMITS), number // 4)
        if maximum == "max_inflight_bytes":
            wanted = pick((KEEP, 300_000, 1 << 31, wanted), number)
        self.twins.run(
            "peer_reset", peer.number, pick((0, 0, 0, 0, 0, 1, 2, 3, 4), flags),
            pick((KEEP, 1, 0, 1, KEEP, 2), peer_flags), **{maximum: wanted},
        )

    @rule(who=small, what=small)
    def flush(self, who: int, what: int) -> None:
        if what % 2:
            peer = self.peer_with("seeds", who)
            flags = pick((1, 3, 1, 2), what // 2)
            pinned = [node for seed in peer.seeds for node in seed.nodes if node.died == NEVER]
            self.twins.run("peer_reset", peer.number, flags)
            kept = sum(node.owner is peer and node.died == NEVER for node in pinned)
            self.tally["nodes protected by a seed"] += kept if flags == 1 else 0
            self.tally["seeds flushed"] += len(pinned) if flags & 2 else 0

    @rule(who=small, what=small, number=some)
    def something_odd(self, who: int, what: int, number: int) -> None:
        peer = self.peer(who)
        if not self.model.peers:
            what = 5
        match what % 8:
            case 0:
                self.twins.run("peer_query", peer.number)
            case 1:
                self.twins.run("set_user_limits", peer.uid, pick((MAXIMA, *OTHERS[2:-2]), number))
            case 2 | 3:
                self.use_up(peer, number)
            case 4:
                self.send_too_much(peer, number)
            case 5:
                self.ask_nobody(pick((0, 999, self.model.last_peer + 1), number), peer)

    def use_up(self, peer: Peer, number: int) -> None:
        """No handle, or one, is left for the peer or its user; then it wants some in several ways."""
        left = number % 2
        if number % 4 < 2:
            limits = Limits(16, self.model.used_by(peer.uid)[HANDLES] + left, 300_000, 16)
            self.twins.run("set_user_limits", peer.uid, limits)
        else:
            self.twins.run("peer_reset", peer.number, max_handles=self.model.used(peer)[HANDLES] + left)
        giver = self.peer(number // 4)
        self.twins.run("handle_transfer", giver.number, self.handle(giver, number), peer.number)
        self.receive(peer, PEEK, NO_LIMIT)
        self.twins.run("node_destroy", peer.number, [0x500])
        if number % 8:
            self.twins.run("set_user_limits", peer.uid, MAXIMA)
            self.twins.run("peer_reset", peer.number, max_handles=28)

    def send_too_much(self, peer: Peer, number: int) -> None:
        """Counts at the caps, and beyond."""
        credentials = Credentials(peer.uid, 0, 1)
        parts = [b""] * pick((0, VEC_MAX, VEC_MAX + 1), number)
        fds = range(1000, 1000 + pick((0, FD_MAX + 1), number // 3))
        many = [0x1000 + 8 * i for i in range(pick((0, 0, 28, 29), number // 6))]
        self.twins.run("send", peer.number, many, parts, (), fds, credentials=credentials)
        self.twins.run("node_destroy", peer.number, [0x1000 + 8 * i for i in range(29)])

    def ask_nobody(self, gone: int, peer: Peer) -> None:
        """P-13: everything that is asked of a peer that is not there."""
        self.twins.run("peer_disconnect", gone)
        self.twins.run("peer_query", gone)
        self.twins.run("peer_reset", gone, 99)
        self.twins.run("handle_transfer", gone, 0x10, peer.number)
        self.twins.run("handle_transfer", peer.number, 0x10, gone)
        self.twins.run("handle_release", gone, 0x10)
        self.twins.run("node_destroy", gone, [0x10], 99)
        self.twins.run("slice_release", gone, 0)
        self.twins.run("send", gone, [0x10], flags=99, credentials=Credentials(1, 1, 1))
        self.twins.run("recv", gone, 99)

    # ---- handles and nodes -----------------------------------------------------------------------

    @rule(who=small, what=some, to=small)
    def handle_transfer(self, who: int, what: int, to: int) -> None:
        giver, taker = self.peer(who), self.peer(to)
        self.twins.run("handle_transfer", giver.number, self.handle(giver, what), taker.number)

    @rule(who=small, what=some)
    def handle_release(self, who: int, what: int) -> None:
        peer = self.peer_with("handles", who)
        self.twins.run("handle_release", peer.number, self.surplus(peer, what))

    @rule(who=small, what=st.lists(some, max_size=3), flags=small)
    def node_destroy(self, who: int, what: list[int], flags: int) -> None:
        peer = self.peer(who)
        own = [handle.number for handle in peer.handles if handle.node.owner is peer]
        nodes = [
            pick(own, number // 3) if own and number % 3 else self.handle(peer, number // 3)
            for number in what
        ]
        strangers = [pick(NOBODYS, flags)] if flags % 8 == 5 else []
        self.twins.run("node_destroy", peer.number, [*nodes, *strangers], pick((0, 1, 0, 1, 2), flags))

    @rule(who=small, what=some, flags=small)
    def destroy_on_the_way(self, who: int, what: int, flags: int) -> None:
        """A node dies while a message or a seed carries it."""
        reader = self.peer_with("queue" if flags % 4 else "seeds", who)
        nodes = [node for data in [*reader.messages(), *reader.seeds] for node in data.nodes]
        if nodes:
            node = pick(nodes, what)
            handle = node.owner.handle_to(node)
            number = handle.number if handle is not None else 0x500
            self.twins.run("node_destroy", node.owner.number, [number], flags % 2)

    @rule(who=small, what=few, unmapped=st.booleans())
    def slice_release(self, who: int, what: list[int], unmapped: bool) -> None:
        peer = self.peer_with("published", who)
        for number in what:
            offsets = tuple(slice_.offset for slice_ in peer.published)
            guesses = offsets if offsets and number % 8 else (0, 8, 9, 112)
            offset = pick(guesses, number // 8)
            known = [slice_.serial for slice_ in peer.published if slice_.offset == offset]
            serial = pick((0, *known, *range(peer.last_serial + 2)), number // 64)
            self.twins.run("slice_release", peer.number, offset, serial=serial, unmapped=unmapped)

    # ---- messages --------------------------------------------------------------------------------

    def send(
        self, peer: Peer, destinations: Sequence[int], carried: Sequence[int], number: int, label: int,
        *, flags: int = 0, optional: Sequence[int] = (),
    ) -> None:
        """One command; ``number`` chooses payload and descriptors."""
        who = Credentials(peer.uid, 100 + peer.number, 4000, peer.number, pick(LABELS, label))
        slots = self.twins.run(
            "send", peer.number, destinations, self.parts(number), carried, self.fds(number // 4),
            flags=flags, optional=optional, credentials=who,
        )
        if not isinstance(slots, Bus1Error):
            self.tally.update(f"send: {'delivered' if slot == 0 else slot}" for slot in slots)

    @rule(who=small, to=somewhere, carried=few, number=some, label=small)
    def send_to_each(self, who: int, to: list[int], carried: list[int], number: int, label: int) -> None:
        peer = self.peer(who)
        for i, what in enumerate(to):
            self.send(peer, [self.foreign(peer, what)], self.handles(peer, carried), number + i, label)

    @rule(who=small, to=some, carried=few, number=some, label=small, count=st.integers(1, 4))
    def talk(self, who: int, to: int, carried: list[int], number: int, label: int, count: int) -> None:
        """Messages are sent and received, and some of them released: that leaves gaps."""
        peer = self.peer(who)
        destination = self.foreign(peer, to)
        for i in range(count):
            self.send(peer, [destination], self.handles(peer, carried[i:]), number + i, label)
        handle = peer.handle(destination)
        if handle is not None:
            reader = handle.node.owner
            for _ in range(count):
                self.receive(reader, pick((4, 0), number), NO_LIMIT)
            for slice_ in reader.published[number % 2 :: 1 + number % 3]:
                self.twins.run("slice_release", reader.number, slice_.offset)

    @rule(who=small, to=somewhere, carried=few, number=some, flags=some, label=small)
    def send_to_all(
        self, who: int, to: list[int], carried: list[int], number: int, flags: int, label: int
    ) -> None:
        peer = self.peer(who)
        destinations = [self.foreign(peer, what) for what in to]
        if flags % 4:
            destinations = list(dict.fromkeys(destinations))
        split = pick((4, 4, 1, 2, 0), number)
        strangers = [pick(NOBODYS, flags)] if label % 4 == 3 else []
        bits = pick((2, 3, 4), flags) if flags % 32 == 31 else pick((0, 1), flags // 4)
        self.send(
            peer, destinations[:split], self.handles(peer, carried), number, label, flags=bits,
            optional=[*destinations[split:], *strangers],
        )

    @rule(who=small, carried=few, number=some, label=small)
    def send_seed(self, who: int, carried: list[int], number: int, label: int) -> None:
        peer = self.peer(who)
        self.send(peer, [], self.handles(peer, carried), number, label, flags=2)
        if number % 3 == 2 and peer.seeds:
            for node in peer.seeds[0].nodes[: number % 2]:
                handle = node.owner.handle_to(node)
                self.twins.run("node_destroy", node.owner.number, [handle.number] if handle else [])
            self.receive(peer, pick((2, 3, 6, 7, 6), label), NO_LIMIT)

    @rule(who=small, count=st.integers(1, 3), flags=small)
    def recv(self, who: int, count: int, flags: int) -> None:
        peer = self.peer_with("queue", who)
        for _ in range(count):
            if flags % 4 == 3:
                self.receive(peer, pick((1, 5), flags // 4), NO_LIMIT)
            self.receive(peer, pick((0, 4), flags), NO_LIMIT)

    @rule(who=small, flags=some, room=small)
    def recv_with_flags(self, who: int, flags: int, room: int) -> None:
        peer = self.peer_with("seeds" if who % 2 else "queue", who // 2)
        bits = pick((0, 1, 2, 3, 4, 5, 6, 7, 8, 1, 5, 1), flags)
        source = peer.seeds if bits & SEED else peer.queue
        end = 8
        if source and isinstance(source[0], Data):
            end = source[0].slice.offset + source[0].slice.size
        self.receive(peer, bits, pick((NO_LIMIT, NO_LIMIT, end, end - 1, NO_LIMIT, NO_LIMIT), room))

    def receive(self, peer: Peer, flags: int, max_offset: int) -> None:
        """One command, and what came of it."""
        message = self.twins.run("recv", peer.number, flags, max_offset)
        if isinstance(message, Message):
            self.count(message, flags)

    def count(self, message: Message, flags: int) -> None:
        """Note what was received."""
        kind = f"{'peeked' if flags & PEEK else 'received'} {'seed' if flags & SEED else message.type.name}"
        traits = {
            "CONTINUE": message.flags & 2, "secctx": message.secctx, "fds": message.fds,
            "handles": message.handles, "INVALID": HANDLE_INVALID in message.handles,
            "a handle to an own node": message.type is DATA and any(not h & 3 for h in message.handles),
        }
        self.tally[kind] += 1
        self.tally.update(f"{kind} with {trait}" for trait, is_there in traits.items() if is_there)

    def teardown(self) -> None:
        """P-10, P-16: when all are gone, nothing is left (``check_effects`` sees the descriptors)."""
        for number in list(self.model.peers):
            self.twins.run("peer_disconnect", number)
        assert (self.twins.written["users"], self.model.fds) == ({}, [])
