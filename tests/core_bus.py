"""core_bus: peers of one Core with the verbs of the manual page, and a pool that can be looked into."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bus1.core.api import KEEP, NO_LIMIT, Buffer, Credentials, Limits, Memory, Message
from bus1.core.choice import (
    Core as Core,  # here, and nowhere else in the tests: any other Core passes them, too
)
from bus1.errors import Bus1Error, OutOfMemory
from bus1.record import replace

MIB = 1 << 20


class FlatMemory:
    """A copying pool in plain bytearrays; it checks what Core asks of it."""

    shares_buffers = False

    def __init__(self) -> None:
        self.segments: dict[int, tuple[int, bytearray]] = {}
        self.is_short = False
        """Refuse segments and reservations."""

    def open_segment(self, generation: int, base: int, size: int) -> None:
        if self.is_short:
            raise OutOfMemory("no segment")
        assert generation not in self.segments
        for other, data in self.segments.values():
            assert base + size <= other or other + len(data) <= base
        self.segments[generation] = (base, bytearray(size))

    def close_segment(self, generation: int) -> None:
        del self.segments[generation]

    def reserve(self, generation: int, offset: int, size: int) -> None:
        if self.is_short:
            raise OutOfMemory("no pages")
        self._range(generation, offset, size)

    def write(self, generation: int, offset: int, parts: Sequence[Buffer]) -> None:
        joined = b"".join(parts)
        start = self._range(generation, offset, len(joined))
        self.segments[generation][1][start : start + len(joined)] = joined

    def read(self, offset: int) -> tuple[Buffer, ...]:
        return ()

    def release(self, generation: int, offset: int, size: int) -> None:
        start = self._range(generation, offset, size)
        self.segments[generation][1][start : start + size] = b"\xee" * size

    def at(self, offset: int, size: int) -> bytes:
        """What the peer sees there."""
        for base, data in self.segments.values():
            if base <= offset < base + len(data):
                return bytes(data[offset - base : offset - base + size])
        raise AssertionError(f"no segment at {offset}")

    def _range(self, generation: int, offset: int, size: int) -> int:
        base, data = self.segments[generation]
        assert base <= offset and offset + size <= base + len(data)
        return offset - base


class BusPeer:
    """One peer; every verb is one command."""

    def __init__(
        self, bus: CoreBus, uid: int, memory: Memory | None, limits: Limits | None, overhead: int
    ) -> None:
        self.bus = bus
        self.core = bus.core
        self.memory = memory
        self.credentials = Credentials(uid, 100, 4242, 0)
        self.number = self.core.peer_new(uid, memory, limits=limits, overhead=overhead)

    def transfer(self, handle: int, to: BusPeer | None = None) -> int:
        return self.core.handle_transfer(self.number, handle, (to or self).number)

    def release(self, handle: int) -> None:
        self.core.handle_release(self.number, handle)

    def destroy(self, *nodes: int, flags: int = 0) -> None:
        self.core.node_destroy(self.number, nodes, flags)

    def send(
        self, destinations: Iterable[int], payload: bytes = b"", handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, flags: int = 0, optional: Sequence[int] = (), secctx: bytes | None = None,
    ) -> list[int]:
        return self.core.send(
            self.number, tuple(destinations), (payload,), handles, fds, flags=flags, optional=optional,
            credentials=replace(self.credentials, secctx=secctx),
        )

    def recv(self, flags: int = 0, max_offset: int = NO_LIMIT) -> Message:
        return self.core.recv(self.number, flags, max_offset)

    def free(self, offset: int, *, serial: int = 0, unmapped: bool = True) -> None:
        self.core.slice_release(self.number, offset, serial=serial, unmapped=unmapped)

    def reset(self, flags: int = 0, peer_flags: int = KEEP, **maxima: int) -> None:
        self.core.peer_reset(self.number, flags, peer_flags, **maxima)

    def disconnect(self) -> None:
        self.core.peer_disconnect(self.number)

    def is_readable(self) -> bool:
        return self.core.is_readable(self.number)

    def references(self, handle: int) -> int:
        """u(handle): the user references of this peer."""
        found: dict[int, list[Any]] = self.state()["handles"]
        return found[handle][1] if handle in found else 0

    def state(self) -> dict[str, Any]:
        """This peer's part of the snapshot."""
        peers: dict[int, dict[str, Any]] = self.core.snapshot()["peers"]
        return peers[self.number]

    def used(self, resource: str) -> int:
        """What is charged to this peer."""
        counts: dict[str, int] = self.state()["account"]["used"]
        return counts[resource]


class CoreBus:
    """A Core and its peers."""

    def __init__(self, limits: Limits | None = None, body: type[Core] | None = None) -> None:
        """``body`` is the one to be tested, in place of that in use."""
        body = body or Core
        self.core = body(limits) if limits else body()

    def peer(
        self, uid: int = 1000, memory: Memory | None = None, *, limits: Limits | None = None,
        overhead: int = 0,
    ) -> BusPeer:
        return BusPeer(self, uid, memory, limits, overhead)

    def snapshot(self) -> dict[str, Any]:
        return self.core.snapshot()


class Unchanged:
    """``with Unchanged(bus, error):`` — the command raises ``error`` and the bus is as before (E-3)."""

    def __init__(self, bus: CoreBus, error: type[Bus1Error], match: str = "") -> None:
        self.bus = bus
        self.error = error
        self.match = match

    def __enter__(self) -> None:
        self.before = self.bus.snapshot()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        assert kind is self.error, f"{self.error.__name__} expected, not {error!r}"
        assert self.match in str(error)
        assert self.bus.snapshot() == self.before
        return True
