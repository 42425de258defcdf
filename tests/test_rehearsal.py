"""A large payload is copied out of its sender's arena only if somebody gets it."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from core_bus import CoreBus
from stepped_bus import Client, SteppedBus

from bus1.acceleration import native
from bus1.core.api import KEEP, NO_LIMIT, Limits, SendFlag
from bus1.errors import Bus1Error, QuotaExceeded
from bus1.frames import ANSWER_PREFIX, REQUESTS, Frame, Operation, encode
from bus1.memory import read_arena
from bus1.transport import receive

MIB = 1 << 20
LARGE = 8 * MIB
TO_FULL, TO_ROOMY, DEAD, UNKNOWN = 0xB, 0x13, 0x1B, 0x3003
LIMITS = Limits(inflight_bytes=64 * MIB)
SENDS: dict[str, tuple[Sequence[int], Sequence[int], int, Sequence[int]]] = {
    "to somebody with room": ([TO_ROOMY], [], 0, []),
    "to somebody without": ([TO_FULL], [], 0, []),
    "to one of each": ([TO_ROOMY, TO_FULL], [], 0, []),
    "to one of each, with CONTINUE": ([TO_ROOMY, TO_FULL], [], SendFlag.CONTINUE, []),
    "to nobody who can take it, with CONTINUE": ([TO_FULL, DEAD], [], SendFlag.CONTINUE, []),
    "to a dead node": ([DEAD], [], 0, []),
    "to a dead node first": ([DEAD, TO_FULL], [], 0, []),
    "to optional ones": ([], [], 0, [UNKNOWN, TO_FULL, DEAD]),
    "to nobody": ([], [], 0, []),
    "to nobody, making nodes": ([], [0x1000, 0x1008], 0, []),
    "to oneself, making nodes": ([0x2000], [0x1000], 0, []),
    "twice to one": ([TO_ROOMY, TO_ROOMY], [], 0, []),
    "with an unknown handle": ([TO_ROOMY], [UNKNOWN], 0, []),
    "as the seed": ([], [0x1000], SendFlag.SEED, []),
    "as the seed with a destination": ([TO_ROOMY], [], SendFlag.SEED, []),
    "with unknown flags": ([TO_ROOMY], [], 8, []),
}


class Scene:
    """A sender who knows a peer with room, one without, and a dead node."""

    def __init__(self) -> None:
        self.bus = CoreBus(LIMITS)
        self.sender, full, roomy = self.bus.peer(1), self.bus.peer(2), self.bus.peer(3)
        assert [full.transfer(0x10, self.sender), roomy.transfer(0x10, self.sender)] == [TO_FULL, TO_ROOMY]
        assert roomy.transfer(0x20, self.sender) == DEAD
        roomy.destroy(0x20)
        full.reset(max_inflight_bytes=LARGE - 8)

    def outcome(self, act: Any, payload: Any, send: str, fds: Sequence[int] = ()) -> Any:
        destinations, handles, flags, optional = SENDS[send]
        try:
            return act(
                self.sender.number, destinations, payload, handles, fds, flags=flags, optional=optional,
                credentials=self.sender.credentials,
            )
        except Bus1Error as error:
            return type(error), str(error)


@pytest.mark.parametrize("send", SENDS)
def test_a_rehearsal_tells_what_a_send_does_and_changes_nothing(send: str) -> None:
    """E-3: its error, or whether anybody gets the payload."""
    scene = Scene()
    before = scene.bus.snapshot()
    foreseen = scene.outcome(scene.bus.core.rehearse, LARGE, send)
    assert scene.bus.snapshot() == before
    assert scene.bus.core.take_freed_fds() == []
    done = scene.outcome(scene.bus.core.send, (bytes(LARGE),), send)
    if isinstance(done, list):
        assert foreseen is (0 in done or SENDS[send][2] == SendFlag.SEED)
    else:
        assert foreseen == done


def test_a_rehearsal_finds_out_that_there_is_no_room_for_new_nodes() -> None:
    scene = Scene()
    scene.sender.reset(max_handles=1)
    before = scene.bus.snapshot()
    foreseen = scene.outcome(scene.bus.core.rehearse, LARGE, "to nobody, making nodes")
    assert foreseen == scene.outcome(scene.bus.core.send, (bytes(LARGE),), "to nobody, making nodes")
    assert foreseen[0] is QuotaExceeded and scene.bus.snapshot() == before


# ---- over the link ---------------------------------------------------------------------------------


@pytest.fixture
def bus() -> Iterator[SteppedBus]:
    bus = SteppedBus()
    yield bus
    bus.broker.close()
    bus.reactor.close()


@pytest.fixture
def client(bus: SteppedBus) -> Iterator[Client]:
    """It has an arena."""
    client = Client(bus)
    client.ask(encode(Operation.ARENA, 3, struct.pack("<Q", LARGE)))
    while not client.answers():
        bus.turn()
    yield client
    client.close()


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of what has been copied out of arenas."""
    sizes: list[int] = []

    def read(fd: int, start: int, size: int) -> bytes:
        sizes.append(size)
        return read_arena(fd, start, size)

    monkeypatch.setattr("bus1.sending.read_arena", read)
    return sizes


def large(*destinations: int, flags: int = 0, operation: Operation = Operation.SEND) -> bytes:
    fixed = REQUESTS[Operation.SEND].pack(flags, len(destinations), 0, 0, 0, 0, LARGE)
    if operation is Operation.CALL:
        fixed += REQUESTS[Operation.RECV].pack(0, NO_LIMIT, 0)
    return encode(operation, 9, fixed + struct.pack(f"<{len(destinations)}Q", *destinations))


def outcome(bus: SteppedBus, client: Client, request: bytes) -> tuple[int, bytes]:
    """Errno and the rest of the answer."""
    client.sock.sendall(request)
    frame: Frame | None = None
    while frame is None:
        bus.turn()
        try:
            receive(client.sock, client.reader, 0x40)
        except BlockingIOError:
            continue
        frame = client.reader.next()
    return ANSWER_PREFIX.unpack_from(frame.body)[0], frame.body[ANSWER_PREFIX.size :]


@pytest.mark.parametrize("operation", [Operation.SEND, Operation.CALL])
def test_a_payload_that_nobody_has_room_for_is_not_copied(
    bus: SteppedBus, client: Client, copied: list[int], operation: Operation
) -> None:
    limits = REQUESTS[Operation.RESET].pack(0, KEEP, KEEP, KEEP, MIB, KEEP)
    assert outcome(bus, client, encode(Operation.RESET, 4, limits))[0] == 0
    code, words = outcome(bus, client, large(0x10, operation=operation))
    assert code == QuotaExceeded.errno and b"bytes" in words
    code, slots = outcome(bus, client, large(0x10, flags=SendFlag.CONTINUE))
    assert (code, struct.unpack("<Qq", slots)) == (0, (1, -QuotaExceeded.errno))
    assert outcome(bus, client, large())[0] == 0
    assert copied == []


def test_a_payload_that_somebody_gets_is_copied_once(
    bus: SteppedBus, client: Client, copied: list[int]
) -> None:
    """The native body has the kernel copy it, which ``test_one_copy`` looks at."""
    assert outcome(bus, client, large(0x10))[0] == 0
    assert copied == ([LARGE] if native is None else [])
