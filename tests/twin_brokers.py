"""twin_brokers: the same bytes from the same clients, to a broker with a shorter way and to one without.

A ``World`` is a broker whose turns the test makes, and clients that write whatever a script says. What each
client can observe after a step is a ``Sight``: the bytes that came, how many descriptors, whether the
connection is over, and how many bytes lie in its peer's descriptor.
"""

from __future__ import annotations

import fcntl
import random
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from core_bus import Core

from bus1.broker import Broker, BrokerLimits
from bus1.core.api import HANDLE_INVALID, NO_LIMIT, OFFSET_INVALID, Limits
from bus1.descriptors import Fds
from bus1.frames import HEADER, MAGIC, QUIET, REQUESTS, VERSION, FrameReader, Operation, encode
from bus1.hub import PlainHub
from bus1.reactor import Reactor
from bus1.transport import receive

ROOT = 0x10
N_CLIENTS = 4
_SENDING = ("SEND", "RESPOND", "CALL", "REPLY")
_IDS = (ROOT, 0x20, 0x24, 11, 19, 27, 35, 43, 51, 59, 67, 5, HANDLE_INVALID)


class OtherHub(PlainHub):
    """A hub that allows no shorter way: it says that it looks at everything."""

    @property
    def is_plain(self) -> bool:
        return False


@dataclass(frozen=True)
class Sight:
    """What a client has seen in one step."""

    data: bytes
    n_fds: int
    is_over: bool
    n_ready: int
    """Bytes in its peer's descriptor."""


class Client:
    """The other end of a channel."""

    def __init__(self, world: World, of: Client | None = None) -> None:
        """A new peer's, or one more of the peer of another client."""
        self.world = world
        self.sock, theirs = socket.socketpair()
        self.sock.setblocking(False)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.peer_fds = Fds()
        self.pending = bytearray()
        """What a test has not looked at."""
        hello = encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(MAGIC, VERSION, 0))
        self.sock.sendall(hello)
        world.broker.accept(theirs)
        if of is None:
            self.write(encode(Operation.OPEN, 2, bytes(8)))
        else:
            self.write(encode(Operation.ATTACH, 2, bytes(8), 1), of.peer_fds)
        world.rest()
        reader = FrameReader()
        receive(self.sock, reader, socket.MSG_DONTWAIT)
        while (frame := reader.next()) is not None:
            if frame.n_fds:
                self.peer_fds = frame.fds

    def map_segment(self) -> None:
        """Be sent the first segment: which answer brings it decides how many others may follow it."""
        send = REQUESTS[Operation.SEND].pack(0, 1, 0, 0, 0, 0, 0) + struct.pack("<Q", ROOT)
        recv = REQUESTS[Operation.RECV].pack(0, NO_LIMIT, 0)
        self.write(encode(Operation.SEND, 4, send) + encode(Operation.RECV, 5, recv))
        self.world.rest()
        self.write(encode(Operation.SLICE_RELEASE, 6, struct.pack("<QQQ", 0, 0, 0)))
        self.world.rest()
        self.take_byte()

    def write(self, data: bytes, fds: Fds | None = None) -> None:
        """As much as the socket takes."""
        with suppress(OSError):
            socket.send_fds(self.sock, [data], list(fds or ()))

    def look(self) -> Sight:
        """Everything that has come."""
        found, n_fds, is_over = bytearray(), 0, False
        try:
            while True:
                data, fds, _, _ = socket.recv_fds(self.sock, 1 << 16, 253)
                Fds(fds).close()
                n_fds += len(fds)
                found += data
                if not data:
                    is_over = True
                    break
        except BlockingIOError:
            pass
        except ConnectionResetError:
            is_over = True
        return Sight(bytes(found), n_fds, is_over, self._n_ready())

    def _n_ready(self) -> int:
        if not len(self.peer_fds):
            return 0
        return int(struct.unpack("i", fcntl.ioctl(self.peer_fds[0], termios.FIONREAD, bytes(4)))[0])

    def take_byte(self) -> None:
        """As who was told that the queue is empty."""
        if not len(self.peer_fds):
            return
        with socket.socket(fileno=self.peer_fds[0]) as pair:
            with suppress(OSError):
                pair.recv(1, socket.MSG_DONTWAIT)
            pair.detach()

    def close(self) -> None:
        self.sock.close()
        self.peer_fds.close()


class World:
    """One of the two."""

    def __init__(self, *, is_plain: bool, limits: Limits, **broker_limits: Any) -> None:
        hub = PlainHub(Core(limits)) if is_plain else OtherHub(Core(limits))
        self.hub = hub
        self.now = 0.0
        self.reactor = Reactor(hub, lambda: self.now)
        self.broker = Broker(self.reactor, hub, BrokerLimits(**broker_limits))
        self.clients: list[Client] = []
        for _ in range(N_CLIENTS):
            self.clients.append(Client(self))
        self.clients.append(Client(self, self.clients[0]))
        for giver in self.clients[:N_CLIENTS]:
            for taker in self.clients[:N_CLIENTS]:
                if giver is not taker:
                    body = struct.pack("<3Q", 0, ROOT, HANDLE_INVALID)
                    giver.write(encode(Operation.TRANSFER, 3, body, 1), taker.peer_fds)
                    self.rest()
        for client in self.clients:
            client.map_segment()
        self.look()

    def rest(self) -> None:
        """Turns until nothing happens any more."""
        quiet = 0
        while quiet < 3:
            before = self.hub.core.effort(), len(self.reactor._timers), self._n_written()
            n_events = self.reactor.run_once(self.reactor.clock())
            after = self.hub.core.effort(), len(self.reactor._timers), self._n_written()
            quiet = quiet + 1 if not n_events and before == after else 0

    def _n_written(self) -> int:
        """What lies on the way to clients and from them."""
        total = 0
        for client in self.clients:
            for request in (termios.FIONREAD, termios.TIOCOUTQ):
                total += struct.unpack("i", fcntl.ioctl(client.sock, request, bytes(4)))[0]
        return total

    def look(self) -> list[Sight]:
        """What every client has seen."""
        return [client.look() for client in self.clients]

    def close(self) -> None:
        clients, self.clients = self.clients, []
        for client in clients:
            client.close()
        self.rest()
        self.broker.close()
        self.reactor.close()


@dataclass(frozen=True)
class Step:
    """One client does one thing."""

    client: int
    data: bytes
    takes_byte: bool = False
    has_fd: bool = False
    """The first frame brings a descriptor."""


def scripts(
    seed: int, length: int, *, asks_for_more: bool = False, spoilt: float = 0.005
) -> Iterator[Step]:
    """Steps that make sense often enough.

    ``spoilt`` is which part of the writes has a wrong byte. With how many messages a RECV is answered depends
    on what has left when: who asks for more is not sent a segment twice here."""
    chance = random.Random(seed)
    for number in range(length):
        client = chance.randrange(N_CLIENTS + 1)
        if chance.random() < 0.1:
            yield Step(client, b"", takes_byte=True)
            continue
        tags = [100 + 10 * number + i for i in range(chance.choice((1, 1, 1, 2, 5)))]
        frames = b"".join(_frame(chance, tag, asks_for_more) for tag in tags)
        if chance.random() < spoilt and not asks_for_more:
            frames = _spoil(chance, frames)
        cut = chance.randrange(len(frames) + 1) if chance.random() < 0.2 else len(frames)
        yield Step(client, frames[:cut])
        if cut < len(frames):
            yield Step(client, frames[cut:])


def calls(seed: int, length: int) -> Iterator[Step]:
    """Steps of clients that call each other, and wait for calls and answers nearly all the time."""
    chance = random.Random(seed)
    reply = 0x20
    brought: list[list[int]] = [[] for _ in range(N_CLIENTS)]
    n_brought = [0] * N_CLIENTS
    for tag in range(100, 100 + length):
        client, frames = chance.randrange(N_CLIENTS), []
        if chance.random() < 0.4:
            options = 3 if chance.random() < 0.9 else chance.choice((0, 1, 2))
            most = chance.choice((0, 1, 3, 31, 255)) << 8 if options & 1 else 0
            limit = NO_LIMIT if chance.random() < 0.9 else chance.choice((0, 64, 4096))
            frames.append(encode(Operation.RECV, tag, struct.pack("<QQQ", 4, limit, options | most)))
        size = chance.choice((0, 1, 7, 8, 9, 100, 100, 4080, 4088, 4096))
        payload = bytes([chance.randrange(256)]) * size
        quiet = QUIET if chance.random() < 0.8 else 0
        if brought[client] and chance.random() < 0.5:
            handle = brought[client].pop(chance.randrange(len(brought[client])))
            tail = struct.pack("<Q", handle if chance.random() < 0.9 else chance.choice(_IDS))
            fields = REQUESTS[Operation.RESPOND].pack(0, 1, 0, 0, size, 0, 0, handle)
            frames.append(encode(Operation.RESPOND | quiet, tag + 1000, fields + tail + payload))
        elif chance.random() < 0.8:
            number = chance.randrange(N_CLIENTS - 1)
            other = number + (number >= client)
            reply += 4
            handles = chance.choice(((reply,),) * 6 + ((), (11 + 8 * (1 - number % 2),), (reply - 4,)))
            n_brought[other] += len(handles)
            brought[other] += [19 + 8 * (n_brought[other] + 1)] * len(handles)
            fields = REQUESTS[Operation.SEND].pack(0, 1, 0, len(handles), size, 0, 0)
            tail = struct.pack(f"<{1 + len(handles)}Q", 11 + 8 * number, *handles)
            frames.append(encode(Operation.SEND | quiet, tag + 1000, fields + tail + payload))
        else:
            fields = REQUESTS[Operation.DESTROY].pack(1, 1)
            node = struct.pack("<Q", reply - 4 * chance.randrange(4))
            frames.append(encode(Operation.DESTROY | quiet, tag + 1000, fields + node))
        chance.shuffle(frames)
        yield Step(client, b"".join(frames))
        if chance.random() < 0.1:
            yield Step(client, b"", takes_byte=True)


def _spoil(chance: random.Random, frames: bytes) -> bytes:
    at = chance.randrange(len(frames))
    return frames[:at] + bytes([chance.choice((0, 1, 0x7F, 0xFF))]) + frames[at + 1 :]


def _recv(chance: random.Random, *, may_ask: bool) -> tuple[int, int, int]:
    flags = chance.choice((0, 4, 4, 4, 0, 1, 2)) if chance.random() < 0.3 else 4
    options = chance.choice((0, 1, 1, 2, 3, 3, 3))
    if may_ask and options & 1 and chance.random() < 0.4:
        options |= chance.choice((1, 3, 31, 255)) << 8
    max_offset = chance.choice((NO_LIMIT, NO_LIMIT, NO_LIMIT, NO_LIMIT, 0, 64))
    return flags, max_offset, options


def _frame(chance: random.Random, tag: int, asks_for_more: bool) -> bytes:
    name = chance.choice((
        *_SENDING, "SEND", "SEND", "CALL", "RECV", "RECV", "RECV", "RECV", "RELEASE", "DESTROY", "TRANSFER",
        "SLICE_RELEASE", "SLICE_RELEASE", "CANCEL", "QUERY", "SEGMENT",
        *(() if asks_for_more else ("RESET", "SEGMENT_UNMAPPED")),
    ))
    operation = Operation[name]
    tail = b""
    if name in _SENDING:
        destinations = [chance.choice(_IDS[3:6] if chance.random() < 0.9 else _IDS)]
        if chance.random() < 0.2:
            destinations += [chance.choice(_IDS) for _ in range(chance.randrange(4))]
        n_optional = chance.randrange(3) if name == "SEND" and chance.random() < 0.2 else 0
        optional = [chance.choice(_IDS) for _ in range(n_optional)]
        handles = [chance.choice(_IDS[:9]) for _ in range(chance.choice((0, 0, 0, 1, 2)))]
        size = chance.choice((0, 1, 8, 100, 100, 4000, 4090, 5000, 65536))
        payload = bytes([chance.randrange(256)]) * size
        flags = chance.choice((0, 0, 0, 0, 0, 1, 2, 4)) if name == "SEND" else 0
        fields = [flags, len(destinations), n_optional, len(handles), size, 0, 0]
        tail = struct.pack(
            f"<{len(destinations) + n_optional + len(handles)}Q", *destinations, *optional, *handles
        ) + payload
    else:
        fields = []
    if name in ("RECV", "CALL", "REPLY"):
        fields += _recv(chance, may_ask=asks_for_more and name == "RECV")
    if name in ("REPLY", "SLICE_RELEASE"):
        flags = 0 if asks_for_more else chance.choice((0, 0, 0, 1))
        fields += [chance.choice((0, 8, 16, 112, OFFSET_INVALID)), flags, 0]
    if name in ("REPLY", "RESPOND", "RELEASE"):
        handle = chance.choice(_IDS[3:] if chance.random() < 0.2 else (*_IDS[6:11], HANDLE_INVALID))
        if name == "RESPOND" and chance.random() < 0.5:
            handle = chance.choice(_IDS[6:11])  # as who answers a call
            tail = struct.pack("<Q", handle) + tail[8:]
        fields += [handle]
    if name == "DESTROY":
        known = _IDS[:5] if chance.random() < 0.05 else _IDS[1:3]
        nodes = [chance.choice(known) for _ in range(chance.choice((1, 1, 2)))]
        fields += [chance.choice((0, 1)), len(nodes)]
        tail = struct.pack(f"<{len(nodes)}Q", *nodes)
    if name == "TRANSFER":
        fields += [0, chance.choice(_IDS), HANDLE_INVALID]
    if name in ("SEGMENT", "QUERY"):
        fields += [chance.choice((0, 1, 2))]
    if name == "SEGMENT_UNMAPPED":
        fields += [chance.choice((0, 1, 2, 3))]
    if name == "RESET":
        fields += [chance.choice((0,) * 20 + (1, 3)), *[NO_LIMIT] * 5]
    if name == "CANCEL":
        tag -= chance.choice((1, 10, 20, 21, 40))
    quiet = QUIET if chance.random() < 0.25 and name in ("SEND", "RESPOND", "RELEASE", "SLICE_RELEASE") else 0
    return encode(operation | quiet, tag, REQUESTS[operation].pack(*fields) + tail)


def frames_of(data: bytes) -> list[tuple[int, str, int, int]]:
    """Headers of whole frames, for people."""
    found: list[tuple[int, str, int, int]] = []
    at = 0
    while at + HEADER.size <= len(data):
        length, operation, n_fds, tag = HEADER.unpack_from(data, at)
        found.append((length, hex(operation), n_fds, tag))
        at += max(length, HEADER.size)
    return found
