"""Large bodies of native peers on their way to D-Bus clients: checked turn by turn, with nothing done before.

The whole Switch runs here, in this process, and one call of ``turn`` is one turn of it: what must happen
within a turn, or not, is counted in turns.
"""

from __future__ import annotations

import mmap
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from bus1_bridge.daemon import new_switch
from bus1_bridge.switch.api import Listen, Shutdown
from bus1_bridge.switch.limits import BYTES_PER_TURN
from bus1_services import call as envelopes
from bus1_services.call import Kind
from dbus_client import BUS, BUS_PATH, Client, Message
from mixed_bus import REGISTRY, pack
from native_bus import RawChannel

from bus1.broker import BrokerLimits
from bus1.core.api import NO_LIMIT, MessageType
from bus1.descriptors import Fds
from bus1.errors import InvalidArgument, NodeDestroyed, PeerShutdown
from bus1.frames import ANSWER_PREFIX, REQUESTS, Event, Frame, Operation, encode
from bus1.links import InProcessLink
from bus1.peer import Peer
from bus1.transport import receive

T = TypeVar("T")
SEND_TAG, QUERY_TAG = 70, 71
QUERY = encode(Operation.QUERY, QUERY_TAG, struct.pack("<Q", 0))
FEW_TURNS, MANY_TURNS = 128 << 10, 2 << 20
"""Sizes of bodies that take fewer, and more turns than a peer has whose descriptor is closed."""


def strings(size: int, length: int = 3) -> bytes:
    """A body ``as`` of ``size`` bytes of strings, and 4."""
    element = struct.pack("<I", length) + b"x" * length + b"\0"
    assert len(element) % 4 == 0 == size % len(element)
    return struct.pack("<I", size) + element * (size // len(element))


def signal_like(body: bytes) -> bytes:
    """The payload of a call that wants no answer."""
    return pack(Kind.CALL, "org.example.Thing", "Take", "as", body=body, flags=1)


class SteppedBus:
    """A bus that lives in this thread."""

    def __init__(self, folder: Path) -> None:
        self.switch = new_switch("0" * 32)
        self.path = str(folder / "bus")
        for path, native in ((self.path, False), (self.path + "1", True)):
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(path)
                listening.listen()
                self.switch.apply([Listen(listening.detach(), native)])

    def turn(self) -> None:
        self.switch.poll(0.0)

    def during(self, work: Callable[[], T]) -> T:
        """What a client does that waits for the bus."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work)
            while not future.done():
                self.switch.poll(time.monotonic() + 0.005)
            return future.result()

    def client(self) -> Client:
        return self.during(lambda: Client(self.path))

    def sync(self, client: Client) -> list[Message]:
        """What has come to the client by now."""
        self.during(client.sync)
        found, client.inbox = client.inbox, []
        return found

    def peers(self) -> dict[int, Any]:
        peers: dict[int, Any] = self.switch.router.tables.core.snapshot()["peers"]
        return peers


def ask(peer: Peer, member: str, signature: str, *values: object, handles: tuple[int, ...] = ()) -> int:
    """Call the registry; returns the handle that it gives."""
    reply = {"Resolve": 0x100, "Derive": 0x104}[member]
    payload = pack(Kind.CALL, REGISTRY, member, signature, *values)
    with peer.call([peer.granted[0]], payload, [reply, *handles]) as answer:
        assert envelopes.decode(answer.payload)[0].kind is Kind.RETURN
        handle = answer.handles[0]
    assert peer.recv(wait=True).type is MessageType.NODE_RELEASE  # of the reply node
    return handle


def object_of(peer: Peer, client: Client) -> int:
    """A handle of an object of a D-Bus client."""
    root = ask(peer, "Resolve", "s", client.name)
    return ask(peer, "Derive", "o", "/object", handles=(root,))


class Sender:
    """A native peer, with a channel of it that writes what the test wants."""

    def __init__(self, bus: SteppedBus, reader: Client) -> None:
        self.bus = bus
        self.peer = bus.during(lambda: Peer.connect(bus.path + "1"))
        self.handle = bus.during(lambda: object_of(self.peer, reader))
        self.channel = RawChannel(bus.path + "1")
        bus.during(self.channel.greet)
        self.channel.write(encode(Operation.ATTACH, 3, bytes(8), 1), Fds([os.dup(self.peer.fileno())]))
        assert errno_of(bus.during(self.channel.frame)) == 0
        self.arena: mmap.mmap | None = None

    def fill(self, payload: bytes) -> mmap.mmap:
        """Put a payload into the arena."""
        self.channel.sock.sendall(encode(Operation.ARENA, 4, struct.pack("<Q", len(payload))))
        answer = self.bus.during(self.channel.frame)
        with answer.fds:
            self.arena = mmap.mmap(answer.fds[0], len(payload))
        self.arena[:] = payload
        return self.arena

    def request(
        self, size: int, operation: Operation = Operation.SEND, *rest: int, n_fds: int = 0,
        tag: int = SEND_TAG,
    ) -> bytes:
        """A request to send what lies in the arena to the object."""
        fixed = REQUESTS[operation].pack(0, 1, 0, 0, 0, 0, size, *rest)
        return encode(operation, tag, fixed + struct.pack("<Q", self.handle), n_fds)

    def begin(self, payload: bytes, fd: int | None = None) -> None:
        """Send it, and let the bus have its first turn."""
        self.fill(payload)
        fds = None if fd is None else Fds([fd])
        self.channel.write(self.request(len(payload), n_fds=len(fds or ())), fds)
        self.bus.turn()
        assert self.take() == []

    def take(self) -> list[Frame]:
        """The frames that the bus has sent."""
        while select.select([self.channel.sock], [], [], 0)[0]:
            if not receive(self.channel.sock, self.channel.reader).size:
                break
        return list(iter(self.channel.reader.next, None))

    def answer(self) -> Frame:
        return self.bus.during(self.channel.frame)

    def close(self) -> None:
        if self.arena is not None:
            self.arena.close()
        self.channel.close()
        self.peer.close()


def errno_of(frame: Frame) -> int:
    return int(ANSWER_PREFIX.unpack_from(frame.body)[0])


def is_closed(reading: int) -> bool:
    """Nobody has the writing end of this pipe any more."""
    try:
        return os.read(reading, 1) == b""
    except BlockingIOError:
        return False


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[SteppedBus]:
    bus = SteppedBus(tmp_path)
    yield bus
    bus.switch.apply([Shutdown()])


@pytest.fixture
def reader(bus: SteppedBus) -> Iterator[Client]:
    with bus.client() as reader:
        yield reader


@pytest.fixture
def sender(bus: SteppedBus, reader: Client) -> Iterator[Sender]:
    sender = Sender(bus, reader)
    yield sender
    sender.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The writing end belongs to whom it is sent."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    yield reading, writing
    os.close(reading)


def test_while_64_mib_of_strings_are_checked_others_are_answered_in_every_turn(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    body = strings(64 << 20, 27)
    with bus.client() as other:
        sender.begin(signal_like(body))
        n_turns = 1
        while not (answers := sender.take()):
            serial = other.call(BUS, "GetId", path=BUS_PATH, interface=BUS)
            bus.turn()
            n_turns += 1
            assert select.select([other.socket], [], [], 0)[0], "a turn in which the bus did not answer"
            assert other.receive().reply_serial == serial
    assert [errno_of(answer) for answer in answers] == [0]
    assert n_turns >= len(body) // BYTES_PER_TURN
    assert bus.during(reader.receive).body == body


def test_nothing_of_a_sequence_happens_before_its_send_is_finished(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    peer = sender.peer
    own = bus.during(lambda: peer.transfer(0x200))
    bus.during(lambda: peer.send([0x200], b"answered"))
    message = bus.during(peer.recv)
    number = max(bus.peers())
    assert message.offset in [offset for offset, *_ in bus.peers()[number]["pool"]["published"]]
    payload = signal_like(strings(FEW_TURNS))
    sender.fill(payload)
    before = bus.peers()
    release = (0, NO_LIMIT, 0, message.offset, 0, 0, own)
    sender.channel.sock.sendall(sender.request(len(payload), Operation.REPLY, *release) + QUERY)
    n_turns = 0
    while not (answers := sender.take()):
        assert bus.peers() == before
        bus.turn()
        n_turns += 1
    assert n_turns > 1
    assert [answer.tag for answer in answers] == [SEND_TAG, QUERY_TAG], "requests behind it wait"
    errno, done, _ = ANSWER_PREFIX.unpack_from(answers[0].body)
    assert (errno, done) == (0, 3)
    assert bus.peers()[number]["pool"]["published"] == []
    assert len(bus.sync(reader)) == 1


def test_what_the_arena_holds_when_the_request_is_taken_is_what_is_sent(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    body = strings(FEW_TURNS)
    sender.begin(signal_like(body))
    assert sender.arena is not None
    sender.arena[:] = b"!" * len(sender.arena)
    assert errno_of(sender.answer()) == 0
    assert bus.during(reader.receive).body == body


def test_a_request_goes_on_when_its_channel_has_been_closed(
    bus: SteppedBus, reader: Client, sender: Sender, pipe: tuple[int, int]
) -> None:
    body = strings(MANY_TURNS)
    sender.begin(signal_like(body), pipe[1])
    sender.channel.sock.close()
    got = bus.during(reader.receive)
    assert got.body == body
    assert len(got.fds) == 1
    os.close(got.fds.pop())
    bus.during(sender.peer.query)
    assert is_closed(pipe[0])


def test_when_the_peer_is_disconnected_its_unfinished_request_fails_and_holds_nothing(
    bus: SteppedBus, reader: Client, sender: Sender, pipe: tuple[int, int]
) -> None:
    sender.begin(signal_like(strings(MANY_TURNS)), pipe[1])
    assert not is_closed(pipe[0])
    bus.during(sender.peer.disconnect)
    assert is_closed(pipe[0])
    assert errno_of(sender.answer()) == PeerShutdown.errno
    assert bus.sync(reader) == []


def test_a_small_rest_is_finished_when_the_peers_descriptor_is_closed(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    sender.begin(signal_like(strings(FEW_TURNS)))
    sender.peer.close()
    bus.turn()
    assert [errno_of(answer) for answer in sender.take()] == [0]
    assert len(bus.sync(reader)) == 1


def test_a_large_rest_ends_with_the_peer_whose_descriptor_is_closed(
    bus: SteppedBus, reader: Client, sender: Sender, pipe: tuple[int, int]
) -> None:
    assert BrokerLimits().drained_turns * BYTES_PER_TURN < 4 * MANY_TURNS  # a string of 8 bytes costs 36
    n_peers = len(bus.peers())
    sender.begin(signal_like(strings(MANY_TURNS)), pipe[1])
    sender.peer.close()
    bus.turn()
    assert len(bus.peers()) == n_peers - 1
    assert is_closed(pipe[0])
    assert errno_of(sender.answer()) == PeerShutdown.errno
    assert bus.sync(reader) == []


def test_the_end_of_the_bus_frees_what_an_unfinished_request_holds(
    bus: SteppedBus, sender: Sender, pipe: tuple[int, int]
) -> None:
    sender.begin(signal_like(strings(MANY_TURNS)), pipe[1])
    bus.switch.broker.close()
    assert is_closed(pipe[0])


def test_descriptors_of_unfinished_requests_are_bounded_as_those_of_incomplete_ones(
    bus: SteppedBus, sender: Sender, pipe: tuple[int, int]
) -> None:
    bus.switch.broker.limits = BrokerLimits(stray_fds_per_user=0)
    payload = signal_like(strings(FEW_TURNS))
    sender.fill(payload)
    sender.channel.write(sender.request(len(payload), n_fds=1), Fds([pipe[1]]))
    bus.turn()
    assert [frame.operation for frame in sender.take()] == [Event.REFUSED]
    assert is_closed(pipe[0])


def test_many_sends_of_one_turn_share_its_budget(bus: SteppedBus, reader: Client, sender: Sender) -> None:
    payload = signal_like(strings(32 << 10))  # a check of more than half the budget
    sender.fill(payload)
    sender.channel.sock.sendall(b"".join(sender.request(len(payload), tag=tag) for tag in range(20)))
    tags: list[int] = []
    while len(tags) < 20:
        bus.turn()
        answers = sender.take()
        assert len(answers) <= 2
        assert not any(errno_of(answer) for answer in answers)
        tags += [answer.tag for answer in answers]
    assert tags == list(range(20))
    assert len(bus.sync(reader)) == 20


def test_bodies_that_are_found_bad_cost_their_sender_its_turn(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    payload = signal_like(strings(32 << 10)[:-1] + b"!")
    sender.fill(payload)
    sender.channel.sock.sendall(sender.request(len(payload)) * 10)
    n_answers = 0
    while n_answers < 10:
        bus.turn()
        answers = sender.take()
        assert len(answers) <= 1
        assert all(errno_of(answer) == InvalidArgument.errno for answer in answers)
        n_answers += len(answers)
    assert bus.sync(reader) == []


def test_a_body_that_is_found_bad_in_a_later_turn_is_refused(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    sender.begin(signal_like(strings(FEW_TURNS)[:-1] + b"!"))
    assert errno_of(sender.answer()) == InvalidArgument.errno
    assert bus.sync(reader) == []


def test_a_destination_that_goes_in_the_meantime_is_gone_when_the_send_happens(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    sender.begin(signal_like(strings(MANY_TURNS)))
    reader.close()
    assert errno_of(sender.answer()) == NodeDestroyed.errno


def test_what_comes_by_another_channel_overtakes_an_unfinished_request(
    bus: SteppedBus, reader: Client, sender: Sender
) -> None:
    sender.begin(signal_like(strings(MANY_TURNS)))
    bus.during(lambda: sender.peer.send([sender.handle], signal_like(strings(8))))
    assert errno_of(sender.answer()) == 0
    assert [len(message.body) for message in bus.sync(reader)] == [12, MANY_TURNS + 4]


def test_a_peer_in_the_process_of_the_bus_sends_in_one_go(bus: SteppedBus, reader: Client) -> None:
    body = strings(FEW_TURNS)
    with Peer(InProcessLink(bus.switch.reactor, bus.switch.broker.hub)) as peer:
        assert peer.send([object_of(peer, reader)], signal_like(body)) == [0]
        assert bus.during(reader.receive).body == body
