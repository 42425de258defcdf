"""model_twins: a Core and the model of it, given the same commands and compared after each.

Theory. Compared are the result or the class of the error, all that ``Core.snapshot()`` shows, what the
command left for the edge, and the bytes in the pools. After a refusal the snapshot is the one before.

Not here: which commands (``model_machine``).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from core_bus import CoreBus, FlatMemory
from model import Model
from model_objects import Entry, Peer
from model_rules import NODE_RELEASE
from model_snapshot import snapshot

from bus1.core.api import Limits, Memory
from bus1.errors import Bus1Error, QuotaExceeded

MAXIMA = Limits(slices=16, handles=28, inflight_bytes=300_000, inflight_fds=16)


class Twins:
    """A Core and the model of it."""

    def __init__(self) -> None:
        self.core = CoreBus(MAXIMA).core
        self.model = Model(MAXIMA)
        self.memories: dict[int, Memory] = {}
        self.written = snapshot(self.model)
        self.readable: set[int] = set()
        self.tally: Counter[str] = Counter()

    def run(self, command: str, *arguments: Any, **options: Any) -> Any:
        """One command on both; the result, or the error."""
        pending = self.pending()
        expected = attempt(self.model, command, arguments, options)
        told = attempt(self.core, command, arguments, options)
        if isinstance(expected, Bus1Error):
            assert type(told) is type(expected), f"{expected!r} expected, not {told!r}"
            assert self.core.snapshot() == self.written, "a refusal has changed something"
            level = f" {expected}" if isinstance(expected, QuotaExceeded) else ""
            self.tally[f"{command}: {type(expected).__name__}{level}"] += 1
        else:
            assert told == expected
            self.tally[command] += 1
            if command in {"send", "handle_transfer"}:
                self.tally["NODE_RELEASE withdrawn"] += len(pending - self.pending())
            if command == "peer_new":
                self.memories[expected] = arguments[1]
            self.written = snapshot(self.model)
            assert self.core.snapshot() | {"woken": [], "freed": []} == self.written
        self.check_effects()
        return expected

    def pending(self) -> set[Entry]:
        """All NODE_RELEASE that nobody has received."""
        peers = self.model.peers.values()
        return {entry for peer in peers for entry in peer.queue if entry.type is NODE_RELEASE}

    def check_effects(self) -> None:
        """What the edge is told, and what the peers can see."""
        readable = {number for number, peer in self.model.peers.items() if peer.queue}
        woken = self.core.take_woken()
        assert len(woken) == len(set(woken))
        assert readable - self.readable <= set(woken) <= readable  # P-43
        self.readable = readable
        freed, self.model.freed = self.model.freed, []
        assert sorted(self.core.take_freed_fds()) == sorted(freed)
        assert self.core.take_retired() == []
        for number, peer in self.model.peers.items():
            assert self.core.is_readable(number) is bool(peer.queue)  # P-41
            self.check_pool(peer, self.memories[number])

    def check_pool(self, peer: Peer, memory: Memory) -> None:
        """L-13: payloads lie there from the send on; L-6: what was received stays as it was received."""
        for slice_ in self.model.slices(peer):
            if not isinstance(memory, FlatMemory):
                assert b"".join(memory.read(slice_.offset)) == slice_.payload
            elif slice_ in peer.published:
                assert memory.at(slice_.offset, slice_.size) == slice_.contents
            else:
                assert memory.at(slice_.offset, len(slice_.payload)) == slice_.payload


def attempt(bus: Any, command: str, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The result of a command, or its error."""
    try:
        return getattr(bus, command)(*arguments, **options)
    except Bus1Error as error:
        return error
