"""twin_cores: the Core in Python and the native one, given the same commands and compared after each.

Theory. A command is a row of small numbers. They pick what to do and with what: mostly from what there is,
else nonsense, up to numbers that no register holds. Compared are the result or the class and the text of the
error, the effects, the effort, the whole snapshot with the order in it, and what lies in the pools.

Not here: where the rows come from (``test_twin_cores``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from core_bus import FlatMemory

from bus1 import memory
from bus1.acceleration import native
from bus1.core import bus
from bus1.core.api import KEEP, NO_LIMIT, Credentials, Limits, Message, Parcel
from bus1.core.view import View

Choice = TypeVar("Choice")
Row = Sequence[int]
MAXIMA = Limits(slices=24, handles=40, inflight_bytes=9_000_000, inflight_fds=16)
WIDE = Limits()
NODES = (0, 0x10, 0x20, 0x104, 1 << 63)
NOBODYS = (3, 0xB, 0xFFB, (1 << 64) - 1, 1, 2, 1 << 64, (1 << 64) + 16, -4, -1)
SIZES = (0, 0, 1, 8, 13, 100, 4000, 70_000, 1 << 20, (1 << 20) + 5000, 5, 3000)
FLAGS = (0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, -1, 1 << 70)
LABELS = (None, None, b"", b"label", b"a label.")
VIEWS = (
    None, None, View(), View(((0, 1, 5),), ((7, 100, 3),), 9), View(((0, 65534, 3), (50, 2, 1)), (), 8),
)


def pick(choices: Sequence[Choice], number: int) -> Choice:
    """One of ``choices``."""
    return choices[number % len(choices)]


def told(core: Any, command: str, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
    """The result of a command, or the class and the text of its error."""
    try:
        return getattr(core, command)(*arguments, **options)
    except Exception as error:
        return type(error).__name__, str(error)


def agree(what: str, one: Any, two: Any) -> None:
    """The same, with the same order in it; the error shows where it begins to differ."""
    one, two = repr(one), repr(two)
    if one != two:
        at = next((i for i, pair in enumerate(zip(one, two, strict=False)) if pair[0] != pair[1]), 0)
        start = max(0, at - 200)
        raise AssertionError(f"{what}\n{one[start : at + 200]}\nis not\n{two[start : at + 200]}")


class TwinCores:
    """Both, and the commands."""

    def __init__(self) -> None:
        assert native is not None
        self.cores: tuple[Any, Any] = (bus.Core(MAXIMA), native.Core(MAXIMA))
        self.memories: dict[int, tuple[Any, Any]] = {}
        self.tally: Counter[str] = Counter()
        self.last_fd = 0
        self.state: dict[str, Any] = self.cores[0].snapshot()
        self.commands = (
            self.peer_new, self.send, self.send, self.send, self.recv, self.recv, self.recv, self.recv,
            self.route, self.route, self.handle_transfer, self.handle_transfer, self.handle_release,
            self.node_destroy, self.slice_release, self.slice_release, self.slice_release, self.look,
            self.rehearse, self.drain, self.peer_reset, self.odd, self.send_seed, self.peer_disconnect,
            self.forget_segments, self.limits, self.talk, self.talk, self.let_go_on_the_way,
        )
        for number in range(3):
            self.peer_new((number, number, 0, 0, 0, 0))

    def step(self, row: Row) -> None:
        """One command, chosen by the first number of the row."""
        pick(self.commands, row[0])(row[1:])

    # ---- comparing -------------------------------------------------------------------------------

    def run(self, command: str, *arguments: Any, each: Sequence[Any] = ((), ()), **options: Any) -> Any:
        """One command on both; the result."""
        results = [
            told(core, command, (*arguments, *own), options)
            for core, own in zip(self.cores, each, strict=True)
        ]
        what = f"{command}{arguments} {options}"[:600]
        agree(what, *results)
        result = results[0]
        is_error = isinstance(result, tuple) and len(result) == 2 and isinstance(result[0], str)
        self.tally[f"{command}: {result[0]}" if is_error else command] += 1
        snapshots = [core.snapshot() for core in self.cores]
        agree(what, *snapshots)
        self.state = snapshots[0]
        assert self.cores[0].effort() == self.cores[1].effort(), what
        assert self.cores[0].has_effects() is self.cores[1].has_effects(), what
        return result

    def check_pools(self) -> None:
        """What lies in the pools."""
        for number, peer in self.state["peers"].items():
            pair = self.memories[number]
            slices = [*peer["pool"]["published"], *(e["slice"] for e in peer["queue"] if "slice" in e)]
            for offset, size, *_ in slices:
                one, two = (contents(memory, offset, size) for memory in pair)
                assert one == two, (number, offset, size)

    def finish(self) -> None:
        """Everybody leaves: nothing is left, every descriptor was freed once."""
        self.check_pools()
        for number in list(self.state["peers"]):
            self.run("peer_disconnect", number)
        assert (self.state["users"], self.state["let_go"]) == ({}, [])
        self.drain(())

    # ---- choices ---------------------------------------------------------------------------------

    def peer(self, number: int) -> int:
        """A peer, mostly one that is there."""
        there: list[int] = list(self.state["peers"])
        if number % 16 == 15 or not there:
            return pick((0, 99, len(self.memories) + 1, -1, 1 << 64), number // 16)
        return pick(there, number)

    def peer_with(self, number: int, has: Callable[[dict[str, Any]], Any]) -> int:
        """A peer that has something, mostly."""
        found = [name for name, peer in self.state["peers"].items() if has(peer)]
        return pick(found, number) if found and number % 8 != 7 else self.peer(number)

    def held(self, peer: int) -> list[int]:
        """Its handles."""
        found = self.state["peers"].get(peer)
        return list(found["handles"]) if found else []

    def handle(self, peer: int, number: int) -> int:
        """A handle of ``peer`` mostly, else an unused id, else nonsense."""
        if number % 16 == 15:
            return pick(NOBODYS, number // 16)
        held = self.held(peer)
        return pick(held if held and number % 8 < 6 else NODES, number // 8)

    def handles(self, peer: int, number: int, count: int) -> list[int]:
        """Some of them."""
        return [self.handle(peer, number * 7 + i * 29) for i in range(count)]

    def parts(self, number: int) -> Sequence[Any]:
        """A payload in pieces of several kinds."""
        data = bytes(i * 7 + number & 0xFF for i in range(256)) * (pick(SIZES, number) // 256 + 1)
        data = data[: pick(SIZES, number)]
        shapes: tuple[Sequence[Any], ...] = (
            [data], [data, b""], [data[:3], bytearray(data[3:])], [memoryview(data)], (data,), [],
        )
        return pick(shapes, number // 12)

    def fds(self, number: int) -> list[int]:
        """Descriptors, each attached once."""
        count = pick((0, 0, 0, 1, 3), number)
        self.last_fd += count
        return list(range(self.last_fd - count, self.last_fd))

    def who(self, peer: int, number: int) -> Credentials:
        """What the kernel says of the sender."""
        pids = ((9, 77), (8, 66))[: number % 3]
        return Credentials(number % 4, 100, 4000 + (peer & 0xFF), 5, pick(LABELS, number), pids)

    # ---- commands --------------------------------------------------------------------------------

    def peer_new(self, row: Row) -> None:
        if len(self.state["peers"]) >= 7:
            return
        assert native is not None
        pair = pick(
            (
                (None, None), (FlatMemory(), FlatMemory()), (memory.HeapMemory(), native.HeapMemory()),
                (memory.SealedMemory(), native.SealedMemory()), (memory.HeapMemory(), memory.HeapMemory()),
            ),
            row[0],
        )
        options: dict[str, Any] = {
            "limits": pick((None, None, Limits(6, 10, 200_000, 4), WIDE), row[2]),
            "overhead": pick((0, 0, 300), row[3]), "view": pick(VIEWS, row[4]),
        }
        number = self.run("peer_new", row[1] % 3, each=tuple((one,) for one in pair), **options)
        self.memories[number] = pair

    def peer_disconnect(self, row: Row) -> None:
        if row[0] % 3 == 0:
            self.run("peer_disconnect", self.peer(row[1]))

    def peer_reset(self, row: Row) -> None:
        name = pick(("max_slices", "max_handles", "max_inflight_bytes", "max_inflight_fds"), row[3])
        value = pick((KEEP, KEEP, 5, 12, 100_000, 1 << 31, (1 << 31) - 1, KEEP - 1, KEEP + 1, -1), row[4])
        flags = pick((0, 0, 1, 2, 3, 4, -2, 1 << 65), row[1])
        options: dict[str, Any] = {name: value}
        peer_flags = pick((KEEP, KEEP, 0, 1, 1, 2, -1, 1 << 64), row[2])
        self.run("peer_reset", self.peer(row[0]), flags, peer_flags, **options)

    def limits(self, row: Row) -> None:
        chosen = pick((MAXIMA, WIDE, Limits(10, 20, 10_000, 3), MAXIMA), row[1])
        self.run("set_user_limits", row[0] % 4, chosen)

    def handle_transfer(self, row: Row) -> None:
        giver = self.peer(row[0])
        self.run("handle_transfer", giver, self.handle(giver, row[1]), self.peer(row[2]))

    def handle_release(self, row: Row) -> None:
        peer = self.peer(row[0])
        self.run("handle_release", peer, self.handle(peer, row[1]))

    def node_destroy(self, row: Row) -> None:
        peer = self.peer(row[0])
        count = pick((1, 1, 2, 3, 0, 41), row[1])
        numbers = [8 * i + 0x1000 for i in range(41)] if count == 41 else self.handles(peer, row[2], count)
        self.run("node_destroy", peer, numbers, pick((0, 1, 0, 1, 2, -1, 1 << 64), row[3]))

    def send(self, row: Row) -> None:
        peer = self.peer(row[0])
        to = self.handles(peer, row[1], pick((1, 1, 1, 2, 3, 0), row[2]))
        optional = self.handles(peer, row[3], pick((0, 0, 0, 1, 2), row[3]))
        self.run(
            "send", peer, to, self.parts(row[4]), self.handles(peer, row[4] + 1, pick((0, 0, 1, 3), row[1])),
            self.fds(row[2]), flags=pick((*[0, 0, 1] * 8, *FLAGS), row[3]), optional=optional,
            credentials=self.who(peer, row[0]),
        )

    def send_seed(self, row: Row) -> None:
        peer = self.peer(row[0])
        self.run(
            "send", peer, (), self.parts(row[1]), self.handles(peer, row[2], row[3] % 4), self.fds(row[3]),
            flags=2, credentials=self.who(peer, row[4]),
        )

    def route(self, row: Row) -> None:
        peer = self.peer(row[0])
        parts = tuple(self.parts(row[1]))
        parcels = []
        for i in range(pick((1, 1, 2, 4, 0), row[2])):
            reader = self.peer(row[3] + i)
            parcels.append(Parcel(
                (reader, pick(NODES, row[4] // 4 + i)), parts if i < 2 else (b"other",),
                tuple(self.handles(peer, row[4], pick((0, 0, 1, 2), row[4]))), bool(row[1] & 1),
                row[2] % 3 == 0, row[4],
            ))
        self.run("route", peer, parcels, self.fds(row[4]), credentials=self.who(peer, row[2]))

    def talk(self, row: Row) -> None:
        """Small messages of several sizes are received, and some of them given back: that leaves gaps."""
        reader = self.peer_with(row[0], lambda peer: peer["pool"]["shares_buffers"])
        sender = self.peer(row[1])
        to = self.run("handle_transfer", reader, 0, sender)
        if not isinstance(to, int):
            return
        for i in range(1 + row[2] % 6):
            parts = [bytes((row[3] + 5 * i) % 9 * 8)]
            self.run("send", sender, [to], parts, credentials=self.who(sender, row[4]))
        for i in range(1 + row[3] % 6):
            message = self.run("recv", reader, 4)
            if isinstance(message, Message) and message.size and (row[4] >> i) & 1:
                self.run("slice_release", reader, message.offset)

    def let_go_on_the_way(self, row: Row) -> None:
        """A node dies, and its owner lets it go, while a message brings its handle back."""
        owner, friend = self.peer(row[0]), self.peer(row[1])
        node = 0x400 + 8 * (row[2] % 8)
        handle = self.run("handle_transfer", owner, node, friend)
        back = self.run("handle_transfer", owner, 0, friend)
        if isinstance(handle, int) and isinstance(back, int):
            self.run("send", friend, [back], (), [handle, handle], credentials=self.who(friend, row[3]))
            self.run("node_destroy", owner, [node], row[3] % 4 != 0)
            for _ in range(row[4] % 8):
                self.run("recv", owner)

    def rehearse(self, row: Row) -> None:
        peer = self.peer(row[0])
        size = pick((*SIZES, 1 << 31, 1 << 40), row[4])
        self.run(
            "rehearse", peer, self.handles(peer, row[1], row[2] % 3), size,
            self.handles(peer, row[3], row[3] % 3), flags=pick((0, 1, 2, 9), row[2]),
            optional=self.handles(peer, row[4], row[4] % 2), credentials=self.who(peer, row[0]),
        )

    def recv(self, row: Row) -> None:
        flags = pick((*[0, 4] * 6, *FLAGS), row[1])
        most = pick((*[NO_LIMIT] * 9, 8, 4 << 20, -1, 1 << 70), row[2])
        peer = self.peer_with(row[0], lambda peer: peer["seed"] if flags & 2 else peer["queue"])
        self.run("recv", peer, flags, most)

    def slice_release(self, row: Row) -> None:
        peer = self.peer_with(row[0], lambda peer: peer["pool"]["published"])
        found = self.state["peers"].get(peer)
        published = found["pool"]["published"] if found else []
        offset, _, _, serial = pick(published, row[1]) if published and row[1] % 8 else (row[2] * 8, 0, 0, 3)
        offset = pick((*[offset] * 8, -1, 1 << 64), row[2])
        serial = pick((*[0, serial] * 4, serial + 1, 1 << 64, -1), row[3])
        self.run("slice_release", peer, offset, serial=serial, unmapped=row[4] % 3 != 0)

    def forget_segments(self, row: Row) -> None:
        peer = self.peer_with(row[0], lambda peer: peer["pool"]["retired"])
        found = self.state["peers"].get(peer)
        retired = list(found["pool"]["retired"]) if found else []
        self.run("segment_unmapped", peer, pick([*retired, 1, -1, 1 << 64], row[1]))

    def look(self, row: Row) -> None:
        peer, other = self.peer(row[0]), self.peer(row[1])
        self.run("ahead", peer, row[2] % 5)
        self.run("seed_ahead", peer)
        self.run("peer_query", peer)
        self.run("is_readable", peer)
        self.run("node_of", peer, self.handle(peer, row[3]))
        self.run("queued", pick((other, 0), row[4]), peer)
        self.run("waiting", peer)
        self.run("users")
        self.check_pools()

    def odd(self, row: Row) -> None:
        """Too much of something."""
        peer = self.peer(row[0])
        parts = [b""] * pick((1024, 1025, 0, 0), row[1])
        to = [0x2000 + 8 * i for i in range(pick((0, 41, 12), row[2]))]
        fds = range(pick((0, 256, 257), row[3]))
        self.run("send", peer, to, parts, (), fds, credentials=self.who(peer, 0))
        self.run("route", peer, [], fds, credentials=self.who(peer, 0))

    def drain(self, row: Row) -> None:
        """What the edge does after a command; here only now and then."""
        self.run("take_woken")
        self.run("take_freed_fds")
        self.run("take_retired")


def contents(pool: Any, offset: int, size: int) -> bytes:
    """What a peer, or its link, finds there."""
    if pool is None:
        return b""
    if hasattr(pool, "contents"):
        return bytes(pool.contents(offset, size))
    if isinstance(pool, FlatMemory):
        return pool.at(offset, size)
    return b"".join(pool.read(offset))
