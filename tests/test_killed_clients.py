"""A client that dies at any byte of any request: all of it has happened, or nothing, and nobody pays."""

from __future__ import annotations

import array
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import two_peers
from child import ended, forked
from native_bus import NativeBus, RawChannel

from bus1.core.api import HANDLE_INVALID, KEEP, NO_LIMIT, Limits, MessageType, RecvFlag
from bus1.descriptors import Fds
from bus1.errors import WouldBlock
from bus1.frames import (
    ANSWER,
    HEADER,
    MAGIC,
    REQUESTS,
    SCM_MAX_FD,
    VERSION,
    Event,
    FrameWriter,
    Operation,
    RecvOption,
    encode,
)
from bus1.peer import Peer

TAG = 7
TO_OBSERVER, OWN_NODE = 0xB, 0x20
"""The victim's handle to a node of the observer; a node of the victim to which the observer has a handle."""
OBSERVED_NODE = 0x10


class Stage:
    """A victim who is about to make a request, and an observer with whom it shares nodes.

    A message with a payload, a handle and a descriptor waits in the victim's queue, or has been received."""

    def __init__(self, bus: NativeBus) -> None:
        self.bus = bus
        self.observer = bus.peer()
        self.channel = bus.channel().open()
        self.guardian = Peer.from_descriptor(self.channel.descriptor, bus.address)
        assert self.observer.transfer(OBSERVED_NODE, self.channel.descriptor) == TO_OBSERVER
        self.to_victim = self.guardian.transfer(OWN_NODE, self.observer)

    def message(self, *, with_fd: bool = False) -> None:
        """Queue a message at the victim."""
        with open(os.devnull) as null:
            fds = [null.fileno()] if with_fd else []
            self.observer.send([self.to_victim], b"payload", [0x30], fds)

    def received(self) -> None:
        """The victim has received a message, and not given its slice back: offset 0, handle 0x13."""
        self.message()
        message = self.guardian.recv()
        assert (message.offset, message.handles) == (0, (0x13,))
        message.forget_slice()

    def asks(self, operation: Operation, body: bytes, tag: int = TAG) -> None:
        """A request before the one that is cut."""
        self.channel.sock.sendall(encode(operation, tag, body))

    def nobody_else(self) -> None:
        """From now on the victim alone holds its peer."""
        self.guardian.close()

    def close(self) -> None:
        self.guardian.close()
        self.channel.close()
        self.observer.close()

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@dataclass(frozen=True)
class Case:
    """One request: what comes before it, its body and descriptors, what it does to the bus."""

    operation: Operation
    body: bytes
    prepare: Callable[[Stage], None] = lambda stage: None
    n_fds: int = 0
    fd: Callable[[Stage], int] | None = None
    """A descriptor to present; without it, descriptors of /dev/null."""
    changes: bool = False
    """The state of the bus is another one afterwards, even if the peer goes on."""
    n_answers: int = 1
    tells: bytes | None = None
    """Payload of the message that the observer gets."""

    @property
    def frame(self) -> bytes:
        return encode(self.operation, TAG, self.body, self.n_fds)

    def cuts(self) -> Sequence[int]:
        """Everywhere, or, within a long payload, here and there."""
        return [n for n in range(len(self.frame) + 1) if n < 140 or n % 61 == 0 or n > len(self.frame) - 3]

    def send(self, sock: socket.socket, n: int, stage: Stage) -> None:
        """The first ``n`` bytes, with the descriptors that belong to them."""
        with open(os.devnull) as null:
            fd = null.fileno() if self.fd is None else self.fd(stage)
            writer = FrameWriter()
            writer.push(self.frame, Fds([os.dup(fd) for _ in range(self.n_fds)]))
        while n > 0 and writer.pending:
            buffers, fds = writer.chunk()
            data = b"".join(buffers)[:n]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            assert sock.sendmsg([data], ancillary) == len(data)
            writer.sent(len(data))
            n -= len(data)
        writer.close()


def sending(payload: bytes, n_handles: int = 0) -> tuple[tuple[int, ...], bytes]:
    """Fixed part and tails of a message to the observer."""
    handles = [OWN_NODE, 0x40][:n_handles]
    tail = struct.pack(f"<{1 + n_handles}Q", TO_OBSERVER, *handles)
    return (0, 1, 0, n_handles, len(payload), 0, 0), tail + payload


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def parked(stage: Stage) -> None:
    stage.asks(Operation.RECV, words(RecvFlag.INSTALL_FDS, NO_LIMIT, RecvOption.PARK))


def offered(stage: Stage) -> None:
    """Descriptors are on offer to the victim, who has not confirmed them."""
    stage.message(with_fd=True)
    stage.asks(Operation.RECV, words(RecvFlag.INSTALL_FDS, NO_LIMIT, 0))
    frame = stage.channel.frame()
    assert frame.operation == Event.OFFER and len(frame.fds) == 1
    frame.fds.close()


def mapped(stage: Stage) -> None:
    """The victim has been sent a segment."""
    stage.received()
    stage.asks(Operation.SEGMENT, words(1))
    stage.channel.frame().fds.close()


RECEIVING = (RecvFlag.INSTALL_FDS, NO_LIMIT, RecvOption.PARK)
SEND, SEND_TAIL = sending(b"m", 2)
LONG, LONG_TAIL = sending(bytes(5000))
CALL, CALL_TAIL = sending(b"call", 1)
REPLY, REPLY_TAIL = sending(b"reply")
CASES: dict[str, Case] = {
    "ARENA": Case(Operation.ARENA, words(4096)),
    "SNAPSHOT": Case(Operation.SNAPSHOT, words(0)),
    "SEGMENT": Case(Operation.SEGMENT, words(1), Stage.received),
    "SEGMENT_UNMAPPED": Case(Operation.SEGMENT_UNMAPPED, words(1), mapped),
    "INSTALLED": Case(Operation.INSTALLED, words(1), offered, changes=True),
    "INSTALLED, failed": Case(Operation.INSTALLED, words(0), offered),
    "CANCEL": Case(Operation.CANCEL, b"", parked),
    "DISCONNECT": Case(Operation.DISCONNECT, words(0), changes=True),
    "QUERY": Case(Operation.QUERY, words(0)),
    "QUERY during an offer": Case(Operation.QUERY, words(0), offered),
    "RESET": Case(Operation.RESET, words(1, KEEP, 5, KEEP, KEEP, KEEP), Stage.received, changes=True),
    "RESET during an offer": Case(
        Operation.RESET, words(0, KEEP, 5, KEEP, KEEP, KEEP), offered, changes=True
    ),
    "RELEASE": Case(Operation.RELEASE, words(TO_OBSERVER), changes=True),
    "TRANSFER to itself": Case(Operation.TRANSFER, words(0, 0x50, HANDLE_INVALID), changes=True),
    "TRANSFER": Case(
        Operation.TRANSFER, words(0, 0x50, HANDLE_INVALID), n_fds=1,
        fd=lambda stage: stage.observer.fileno(), changes=True,
    ),
    "DESTROY": Case(Operation.DESTROY, words(0, 2, OWN_NODE, 0x50), changes=True),
    "SLICE_RELEASE": Case(Operation.SLICE_RELEASE, words(0, 0, 0), Stage.received, changes=True),
    "SEND": Case(Operation.SEND, REQUESTS[Operation.SEND].pack(*SEND) + SEND_TAIL, changes=True, tells=b"m"),
    "SEND with descriptors": Case(
        Operation.SEND, REQUESTS[Operation.SEND].pack(*SEND) + SEND_TAIL, n_fds=2, changes=True, tells=b"m"
    ),
    "SEND with more descriptors than the kernel takes at once": Case(
        Operation.SEND, REQUESTS[Operation.SEND].pack(*SEND) + SEND_TAIL, n_fds=SCM_MAX_FD + 2,
        changes=True, tells=b"m",
    ),
    "SEND of a long payload": Case(
        Operation.SEND, REQUESTS[Operation.SEND].pack(*LONG) + LONG_TAIL, changes=True, tells=bytes(5000)
    ),
    "RECV": Case(Operation.RECV, words(0, NO_LIMIT, 0), Stage.message, changes=True),
    "RECV of descriptors": Case(
        Operation.RECV, words(RecvFlag.INSTALL_FDS, NO_LIMIT, 0), lambda stage: stage.message(with_fd=True),
        n_answers=0,
    ),
    "RECV that waits": Case(Operation.RECV, words(*RECEIVING), n_answers=0),
    "CALL": Case(
        Operation.CALL, REQUESTS[Operation.CALL].pack(*CALL, *RECEIVING) + CALL_TAIL, n_fds=1, n_answers=0,
        changes=True, tells=b"call",
    ),
    "REPLY": Case(
        Operation.REPLY, REQUESTS[Operation.REPLY].pack(*REPLY, *RECEIVING, 0, 0, 0, 0x13) + REPLY_TAIL,
        Stage.received, n_answers=0, changes=True, tells=b"reply",
    ),
    "RESPOND": Case(
        Operation.RESPOND, REQUESTS[Operation.RESPOND].pack(*REPLY, 0x13) + REPLY_TAIL,
        Stage.received, changes=True, tells=b"reply",
    ),
}
GREETING = encode(Operation.HELLO, TAG, REQUESTS[Operation.HELLO].pack(MAGIC, VERSION, 0))


@pytest.fixture(scope="module")
def bus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("bus"), Limits())
    yield bus
    bus.close()


bystanders = two_peers.bystanders


def news(observer: Peer) -> list[tuple[MessageType, bytes]]:
    """Everything the observer is told until the victim's node is gone."""
    found: list[tuple[MessageType, bytes]] = []
    while not found or found[-1][0] is not MessageType.NODE_DESTROY:
        with observer.recv(wait=True) as message:
            found.append((message.type, bytes(message.payload)))
    while True:
        try:
            with observer.recv() as message:
                found.append((message.type, bytes(message.payload)))
        except WouldBlock:
            return found


def state(bus: NativeBus) -> dict[str, Any]:
    return {key: value for key, value in bus.snapshot().items() if key != "stamp"}


def test_every_operation_has_a_case() -> None:
    before_binding = {Operation.HELLO, Operation.OPEN, Operation.ATTACH}
    assert {case.operation for case in CASES.values()} | before_binding == set(REQUESTS)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_request_that_is_cut_anywhere_changes_nothing_and_a_whole_one_is_executed(
    bus: NativeBus, case: Case
) -> None:
    """The channel ends after n bytes; the peer lives on, and its state shows what has happened."""
    for n in case.cuts():
        with Stage(bus) as stage:
            case.prepare(stage)
            before = state(bus)
            case.send(stage.channel.sock, n, stage)
            found = stage.channel.frames_until_the_end()
            if n < len(case.frame):
                assert (state(bus), found) == (before, []), n
                continue
            assert (state(bus) != before) is case.changes
            answers = [frame for frame in found if frame.operation & ANSWER]
            assert [frame.tag for frame in answers] == [TAG] * case.n_answers


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_p_16_a_client_killed_at_any_byte_of_a_request_leaves_nothing(bus: NativeBus, case: Case) -> None:
    """P-16: socket and descriptor close at once; whoever knew the peer hears of its end, and of nothing
    else unless the request was complete."""
    told: list[tuple[MessageType, bytes]] = []
    for n in case.cuts():
        with Stage(bus) as stage:
            case.prepare(stage)
            stage.nobody_else()
            case.send(stage.channel.sock, n, stage)
            stage.channel.close()
            found = news(stage.observer)
            told = told or found
            if n < len(case.frame):
                assert found == told, n
            elif case.tells is not None:
                assert found[0] == (MessageType.DATA, case.tells)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_p_16_a_process_killed_in_the_middle_of_a_request_leaves_nothing(bus: NativeBus, case: Case) -> None:
    """P-16: SIGKILL, at a sample of cuts; the kernel closes what the process had."""
    length = len(case.frame)
    for n in {0, HEADER.size // 2 + 1, HEADER.size, length // 2, length - 1, length}:
        with Stage(bus) as stage:
            case.prepare(stage)
            stage.nobody_else()
            kill_after(partial(case.send, stage.channel.sock, n, stage), stage.channel)
            found = news(stage.observer)
            if case.tells is not None:
                assert ((MessageType.DATA, case.tells) in found) == (n == length)


def kill_after(act: Callable[[], None], channel: RawChannel) -> None:
    """A process that holds the channel and its peer alone does something, and is killed."""
    read, write = os.pipe()

    def act_and_stay() -> None:
        act()
        os.write(write, b"x")
        signal.pause()

    child = forked(act_and_stay)
    channel.close()
    assert os.read(read, 1) == b"x"
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    os.close(read)
    os.close(write)


@pytest.mark.parametrize("operation", [Operation.HELLO, Operation.OPEN, Operation.ATTACH])
def test_a_client_that_dies_while_it_makes_itself_known_leaves_nothing(
    bus: NativeBus, operation: Operation
) -> None:
    """P-16: nobody but itself has ever heard of the peer."""
    with bus.peer() as peer:
        before, n_bus_fds = state(bus), bus.n_fds()
        fds = {Operation.ATTACH: [peer.fileno()]}.get(operation, [])
        request = GREETING if operation is Operation.HELLO else encode(operation, TAG, bytes(8), len(fds))
        for n in range(len(request) + 1):
            with bus.channel() as channel:
                if operation is not Operation.HELLO:
                    channel.greet()
                if n:
                    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
                    channel.sock.sendmsg([request[:n]], rights)
                found = channel.frames_until_the_end() if n % 2 else []
            if n % 2:
                assert len(found) == (n == len(request))
        while bus.n_fds() > n_bus_fds:
            pass
        after = state(bus)
    assert after["peers"].keys() == before["peers"].keys()
    assert after["users"] == before["users"]


@pytest.mark.parametrize("n", range(len(CASES["INSTALLED"].frame)))
def test_a_message_on_offer_to_a_client_that_dies_goes_to_the_next(bus: NativeBus, n: int) -> None:
    """R-33: what was not confirmed to the last byte is still queued, with its descriptors."""
    with Stage(bus) as stage:
        offered(stage)
        CASES["INSTALLED"].send(stage.channel.sock, n, stage)
        assert stage.channel.frames_until_the_end() == []
        with stage.guardian.recv() as message:
            assert bytes(message.payload) == b"payload" and len(message.fds) == 1


def test_answers_that_nobody_reads_any_more_are_no_obstacle(bus: NativeBus) -> None:
    """P-16: what was complete is executed, though the client was killed before it read a single answer."""
    with Stage(bus) as stage:
        frame = CASES["SEND"].frame
        kill_after(lambda: stage.channel.sock.sendall(frame * 20 + frame[:-1]), stage.channel)
        stage.guardian.close()
        assert [kind for kind, _ in news(stage.observer)].count(MessageType.DATA) == 20
