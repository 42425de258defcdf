"""twin_residents: peers in the process of their bus, in all ways in which there are some, step by step.

Theory. Three buses get the same operations: one whose peers do the everyday natively, one on the same Core
whose peers are kept from it, one on the Core in Python. Some peers of all have an eventfd that somebody
polls. Compared are results and errors, what is received, what lies in the eventfds, and the whole snapshot.

Not here: where the rows come from (``test_twin_residents``).
"""

from __future__ import annotations

import os
import re
import select
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from twin_cores import agree, pick

from bus1.acceleration import native
from bus1.core import bus
from bus1.core.api import KEEP, NO_LIMIT, Limits, RecvFlag
from bus1.hub import PlainHub
from bus1.inprocess import InProcessLink
from bus1.peer import Peer
from bus1.reactor import Reactor
from bus1.received import ReceivedMessage

Row = Sequence[int]
MAXIMA = Limits(slices=24, handles=40, inflight_bytes=4_000_000, inflight_fds=16)
NODES = (0, 0x10, 0x20, 0x104, 1 << 63)
NOBODYS = (3, 0xFFB, (1 << 64) - 1, 1 << 64, -1, True, RecvFlag.PEEK)
SIZES = (0, 0, 1, 8, 100, 1024, 5000, 1 << 20)
RECV_FLAGS = (4, 4, RecvFlag.INSTALL_FDS, RecvFlag.INSTALL_FDS, 0, 1, 5, 2, 8, -1, 1 << 70, True)
OFFSETS = (NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, 0, 8, 4096, -1, 1 << 64)
N_PEERS = 3
_DESCRIPTORS = re.compile(r"'fds': \[([^]]*)\]")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


class Way:
    """One bus, and its peers."""

    def __init__(self, core: Any, resides: bool) -> None:
        self.core = core
        self.hub = PlainHub(core)
        self.reactor = Reactor(self.hub)
        self.peers: list[Peer] = []
        self.messages: list[ReceivedMessage] = []
        self.resides = resides

    def open(self) -> None:
        """One more peer."""
        peer = Peer(InProcessLink(self.reactor, self.hub))
        assert (peer._resident is not None) is isinstance(self.core, native.Core)  # type: ignore[union-attr]
        if not self.resides:
            peer._resident = None
        self.peers.append(peer)

    def close(self) -> None:
        """Everybody leaves."""
        for message in self.messages:
            message.fds.close()
        for peer in self.peers:
            peer.close()
        self.reactor.close()


def shown(message: ReceivedMessage) -> tuple[Any, ...]:
    """All that there is to see of a message."""
    payload = message.payload
    return (
        _ADDRESS.sub("", repr(message).replace(str(list(message.fds)), f"{len(message.fds)} of them")),
        type(message), bytes(payload), type(payload.obj), payload.readonly, payload.format, message._serial,
        message._generation, message.arrival, message.is_released, message._give_back is None,
        [type(getattr(message, name)) for name in ("type", "flags", "handles", "offset", "fds")],
    )


def without_words(result: Any) -> Any:
    """TypeErrors of the two Cores are Python's and PyO3's, each in its words."""
    is_wrong_type = isinstance(result, tuple) and result and result[0] is TypeError
    return TypeError if is_wrong_type else result


class Residents:
    """All three, and the operations."""

    def __init__(self) -> None:
        assert native is not None
        cores = ((native.Core(MAXIMA), True), (native.Core(MAXIMA), False), (bus.Core(MAXIMA), False))
        self.ways = [Way(*each) for each in cores]
        self.tally: Counter[str] = Counter()
        self.pipe = os.pipe()
        self.polled: set[int] = set()
        self.closed: set[int] = set()
        self.operations = (
            self.send, self.send, self.send, self.send, self.send, self.recv, self.recv, self.recv,
            self.recv, self.give_back, self.give_back, self.give_back, self.transfer, self.transfer,
            self.release, self.destroy, self.release_slice, self.reset, self.look, self.talk, self.talk,
            self.call, self.odd, self.open,
        )
        for _ in range(N_PEERS):
            self.open(())

    def step(self, row: Row) -> None:
        """One operation, chosen by the first number of the row."""
        pick(self.operations, row[0])(row[1:])

    def finish(self) -> None:
        """Everybody leaves: nothing is left."""
        for way in self.ways:
            way.close()
            assert way.core.snapshot()["users"] == {}
        for fd in self.pipe:
            os.close(fd)

    # ---- comparing -------------------------------------------------------------------------------

    def run(self, what: str, operation: Callable[[Way], Any]) -> Any:
        """One operation in all ways; the result."""
        results = []
        for way in self.ways:
            try:
                result = operation(way)
            except Exception as error:
                result = type(error), str(error)
            if isinstance(result, ReceivedMessage):
                way.messages.append(result)
                result = shown(result)
            results.append(result)
        agree(what, *results[:2])
        result, reference = results[0], results[2]
        agree(what, *map(without_words, (result, reference)))
        is_error = isinstance(result, tuple) and isinstance(result[0], type)
        self.tally[f"{what}: {result[0].__name__}" if is_error else what] += 1
        self.compare(what)
        return result

    def compare(self, what: str) -> None:
        """Their states."""
        snapshots = [
            _DESCRIPTORS.sub(lambda found: f"{len(found[1].split())} descriptors", repr(way.core.snapshot()))
            for way in self.ways
        ]
        agree(what, *snapshots[:2])
        agree(what, *snapshots[1:])
        assert [way.core.has_effects() for way in self.ways] == [False] * 3
        readable = [
            [bool(select.select([way.peers[at]], [], [], 0)[0]) for at in sorted(self.polled)]
            for way in self.ways
        ]
        assert readable[0] == readable[1] == readable[2], what
        numbers = [way.peers[at]._link.peer for way in self.ways for at in sorted(self.polled)]  # type: ignore[attr-defined]
        there = self.ways[0].core.snapshot()["peers"]
        if len(self.polled):
            expected = [
                number not in there or bool(there[number]["queue"]) for number in numbers[: len(self.polled)]
            ]
            assert readable[0] == expected, what

    # ---- choices ---------------------------------------------------------------------------------

    def at(self, number: int) -> int:
        return number % len(self.ways[0].peers)

    def open_at(self, number: int) -> int:
        """One that has its descriptor yet; a new one if need be."""
        there = [at for at in range(len(self.ways[0].peers)) if at not in self.closed]
        if not there:
            for way in self.ways:
                way.open()
            there = [len(self.ways[0].peers) - 1]
        return pick(there, number)

    def handle(self, at: int, number: int) -> Any:
        """A handle of a peer mostly, else an unused id, else nonsense."""
        if number % 16 == 15:
            return pick(NOBODYS, number // 16)
        peer = self.ways[0].core.snapshot()["peers"].get(self.ways[0].peers[at]._link.peer)  # type: ignore[attr-defined]
        held = list(peer["handles"]) if peer else []
        return pick(held if held and number % 8 < 6 else NODES, number // 8)

    def ids(self, at: int, number: int, count: int) -> Any:
        """Some of them, in one of several shapes."""
        found = [self.handle(at, number * 7 + i * 29) for i in range(count)]
        return pick((found, found, tuple(found), dict.fromkeys(found)), number)

    def payload(self, number: int) -> Any:
        """In one piece, in several, or in what is no payload."""
        data = bytes(i * 7 + number & 0xFF for i in range(256)) * (pick(SIZES, number) // 256 + 1)
        data = data[: pick(SIZES, number)]
        return pick(
            (
                data, data, [data], (data, b"tail"), bytearray(data), memoryview(data), [], (),
                [data[:3], bytearray(data[3:])], [memoryview(data)[::2]], "text", 5, [5], None, [data] * 1030,
            ),
            number // 8,
        )

    def message(self, number: int) -> int | None:
        """One that was received, the later ones mostly."""
        n = len(self.ways[0].messages)
        return n - 1 - number % min(n, 8) if n else None

    # ---- operations ------------------------------------------------------------------------------

    def open(self, row: Row) -> None:
        if len(self.ways[0].peers) < 2 * N_PEERS:
            for way in self.ways:
                way.open()
            self.compare("open")

    def send(self, row: Row) -> None:
        at = self.at(row[0])
        options: dict[str, Any] = {}
        if row[4] % 4 == 0:
            options["flags"] = pick((0, 0, 1, 2, 3, -1, 1 << 66, False), row[4] // 4)
        if row[3] % 8 == 0:
            options["optional"] = self.ids(at, row[3], 2)
        destinations, payload = self.ids(at, row[1], pick((1, 1, 1, 2, 0), row[1])), self.payload(row[2])
        handles = self.ids(at, row[3], 2) if row[3] % 4 == 0 else pick(((), []), row[3])
        fds = pick(([self.pipe[0]], (self.pipe[1],), [-1], [999]), row[4] // 8) if row[4] % 8 == 1 else ()
        self.run("send", lambda way: way.peers[at].send(destinations, payload, handles, fds, **options))

    def recv(self, row: Row) -> None:
        at = self.at(row[0])
        options: dict[str, Any] = {}
        if row[3] % 4 == 0:
            options["timeout"] = pick((0, 0.0, -1, float("nan"), None), row[3] // 4)
        flags, max_offset = pick(RECV_FLAGS, row[1]), pick(OFFSETS, row[2])
        self.run("recv", lambda way: way.peers[at].recv(flags, max_offset, **options))

    def give_back(self, row: Row) -> None:
        if (at := self.message(row[0])) is not None:
            self.run("give back", lambda way: way.messages[at].release())

    def release_slice(self, row: Row) -> None:
        at, message = self.at(row[0]), self.message(row[1])
        if message is not None:
            self.run("release_slice", lambda way: way.peers[at].release_slice(way.messages[message].offset))

    def transfer(self, row: Row) -> None:
        at, to = self.at(row[0]), self.at(row[1])
        handle = self.handle(at, row[2])
        self.run("transfer", lambda way: way.peers[at].transfer(handle, way.peers[to]))

    def release(self, row: Row) -> None:
        at = self.at(row[0])
        handle = self.handle(at, row[1])
        self.run("release", lambda way: way.peers[at].release(handle))

    def destroy(self, row: Row) -> None:
        at = self.at(row[0])
        nodes = self.ids(at, row[1], pick((1, 1, 2), row[2]))
        self.run("destroy", lambda way: way.peers[at].destroy(nodes, pick((0, 1, 2), row[3])))

    def reset(self, row: Row) -> None:
        at = self.at(row[0])
        name = pick(("max_slices", "max_handles", "max_inflight_bytes", "max_inflight_fds"), row[1])
        value = pick((KEEP, 3, 5, 12, 4000, 1000, (1 << 31) - 1), row[2])
        flags = pick((0, 0, 1, 2, 3), row[3]) if row[4] % 4 == 0 else 0
        self.run("reset", lambda way: way.peers[at].reset(flags, pick((KEEP, 1, 0), row[4]), **{name: value}))

    def look(self, row: Row) -> None:
        """Somebody polls it from now on."""
        at = self.open_at(row[0])
        self.polled.add(at)
        self.run("look", lambda way: way.peers[at].fileno() > 0)

    def talk(self, row: Row) -> None:
        """A message that arrives, and is given back."""
        at, to = self.at(row[0]), self.at(row[1])
        handle = self.run("transfer", lambda way: way.peers[to].transfer(0x30, way.peers[at]))
        if not isinstance(handle, int):
            return
        self.run("send", lambda way: way.peers[at].send([handle], [b"hello"] * (row[2] % 3)))
        self.run("recv", lambda way: way.peers[to].recv())
        self.give_back((0,))

    def call(self, row: Row) -> None:
        """To oneself: who else would answer?"""
        at = self.at(row[0])
        handle = self.run("transfer", lambda way: way.peers[at].transfer(0x30))
        if not isinstance(handle, int):
            return
        self.run("call", lambda way: way.peers[at].call([handle], self.payload(row[1])))
        if (last := self.message(0)) is not None and row[2] % 2:
            self.run("reply", lambda way: way.peers[at].reply([handle], answered=way.messages[last]))

    def odd(self, row: Row) -> None:
        """What ends a peer, for a while."""
        if row[0] % 4:
            return
        at = self.at(row[1])
        end = pick(("disconnect", "disconnect", "close"), row[2])
        if end == "close":
            self.polled.discard(at)
            self.closed.add(at)
        self.run(end, lambda way: getattr(way.peers[at], end)())
