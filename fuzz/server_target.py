"""server_target: a whole bus, two bystanders, and clients who do what the fuzzer invents.

Theory. Core, hub, reactor and broker are the real ones; clients come as ends of socket pairs, and
everything happens in this one thread: a step of a client, then turns of the reactor, which never waits, for
its clock is the program's. Limits are small, so that they are reached. Each client belongs to one of two
users, the bystanders to a third one: quotas shall protect them. Where the native body is in use, inputs of an
odd size have its lane, which needs a plain hub; the others have a hub that takes its time.

Oracles. 1. Nothing escapes from a turn. 2. The bus comes to rest when nobody does anything. 3. Clients are
told what the protocol has words for (hostile_client). 4. Two bystanders still exchange a message. 5. When
all are gone everything is given back: peers, charges, timers, sources, channels, descriptors. 6. What the
bus holds at any time is bounded by what its users may have.

Not here: what a client does (hostile_client).
"""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

from bus1 import acceleration
from bus1.broker import Broker, BrokerLimits
from bus1.core.api import Buffer, Credentials, Limits
from bus1.core.choice import Core
from bus1.descriptors import Fds
from bus1.errors import Bus1Error
from bus1.frames import REQUESTS, FrameReader, Operation, encode
from bus1.hub import PlainHub
from bus1.reactor import Reactor
from bus1.transport import Arrival, receive
from bus1.unfinished import Unfinished

from .bystander import Bystander
from .descriptors import open_numbers
from .hostile_client import HostileClient
from .program import Program

LIMITS = Limits(slices=48, handles=64, inflight_bytes=16 << 20, inflight_fds=300)
BROKER_LIMITS = BrokerLimits(
    channels_per_user=5, peers_per_user=4, arena_bytes=1 << 20, arena_bytes_per_user=3 << 20,
    stray_fds_per_user=280, unsent_bytes=1 << 12, requests_per_turn=3, drained_bytes=1 << 12, drained_turns=3,
    remembered_peers=2,
)
HOSTILE_USERS = (1001, 1002)
BYSTANDING_USER = 1003
MAX_CLIENTS = 8
STEPS = (
    "request", "request", "request", "request", "request", "open", "introduce", "attach", "connect",
    "nonsense", "stop_or_read", "close_one", "kill", "later", "scribble", "go_on", "shortage",
)
HASTY = 0x80
"""Bit of a step after which the bus has one turn only."""
KINDS = ("pipe", "memory", "peer", "socket", "null", "path", "event")
COUNTS = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 40, 253, 254, 256, 0)
"""How many descriptors travel with a frame: mostly none, sometimes more than the kernel takes at once."""
_LARGE = 4500
_TURNS = 4000
_PATIENCE = 20.0
"""Seconds that a thread may need to close a descriptor."""
OPERATIONS = (
    Operation.HELLO, Operation.OPEN, Operation.ATTACH, Operation.ARENA, Operation.SEGMENT,
    Operation.SEGMENT_UNMAPPED, Operation.INSTALLED, Operation.CANCEL, Operation.SNAPSHOT,
    Operation.DISCONNECT, Operation.QUERY, Operation.RESET, Operation.RELEASE, Operation.TRANSFER,
    Operation.DESTROY, Operation.SLICE_RELEASE, Operation.SEND, Operation.RECV, Operation.CALL,
    Operation.REPLY, Operation.RESPOND, *[Operation.SEND] * 5, *[Operation.RECV] * 5, Operation.CALL,
    Operation.REPLY, *[Operation.TRANSFER] * 2, *[Operation.INSTALLED] * 2,
)
"""What a request is, by its number in the corpus: a new one takes the place of one that is there several
times, or all inputs change their meaning."""
_USERS = len(HOSTILE_USERS) + 1
_PER_USER = (
    2 * BROKER_LIMITS.channels_per_user + 4 * BROKER_LIMITS.peers_per_user + LIMITS.slices
    + _USERS * LIMITS.inflight_fds + BROKER_LIMITS.stray_fds_per_user
)
"""Descriptors of the bus that one user can take: connections with their arenas, peers, segments, parcels to
each user, and what came with requests that are not complete."""
_REMEMBERED = {"_gone", "_gone_order"}
"""What a broker keeps of peers that are gone."""


def one_input(data: bytes) -> None:
    """Run one program; an AssertionError, or what should not be raised, is a finding."""
    before = open_numbers()
    world = World(Program(data), PlainHub if acceleration.native and len(data) % 2 else SlowHub)
    try:
        world.run()
        world.end()
    finally:
        world.close()
    assert comes_true(lambda: open_numbers() == before), "descriptors were not closed"


def comes_true(is_so: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> bool:
    """Whether it is so before ``_PATIENCE`` is over: threads close what may be slow."""
    deadline, pause = time.monotonic() + _PATIENCE, threading.Event()
    while not is_so():
        if time.monotonic() >= deadline:
            return False
        pause.wait(0.002)
        meanwhile()
    return True


class SlowHub(PlainHub):
    """A hub that needs three turns for a large payload."""

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
        progress: object = None,
    ) -> list[int]:
        """``PlainHub.send``, after a while."""
        turn = progress if isinstance(progress, int) else 0
        if turn < 2 and sum(map(len, parts)) > _LARGE:
            raise Unfinished(turn + 1)
        return super().send(
            peer, destinations, parts, handles, fds, flags=flags, optional=optional, credentials=credentials
        )


class World:
    """The bus and all who use it."""

    def __init__(self, program: Program, kind: type[PlainHub] = SlowHub) -> None:
        self._program = program
        self._n_before = len(open_numbers())
        self._now = 0.0
        self._core = Core(LIMITS)
        hub = kind(self._core)
        self._reactor = Reactor(hub, lambda: self._now)
        self._broker = Broker(self._reactor, hub, BROKER_LIMITS)
        self._users: dict[socket.socket, int] = {}
        """Who the kernel says is at the other end of a connection; all of them would be this process."""
        self._kernel = mock.patch.multiple(
            "bus1.channel", credentials_of=self._connected, receive=self._received
        )
        self._kernel.start()
        self._clients: list[HostileClient] = []
        self._room: int | None = None
        self._sender = Bystander(self._accepted(BYSTANDING_USER), self.rest)
        self._receiver = Bystander(self._accepted(BYSTANDING_USER), self.rest)
        self._handle = self._receiver.transfer(0x10, self._sender.descriptor)

    def run(self) -> None:
        """Every step of the program, each followed by some turns."""
        while not self._program.is_over:
            choice = self._program.byte()
            getattr(self, f"_{STEPS[choice % len(STEPS)]}")()
            with self._scarcity():
                if choice & HASTY:
                    self._turn()
                else:
                    self.rest()
            for client in self._clients:
                client.read()
            assert self._n_of_bus() <= _USERS * _PER_USER, "the bus has too many descriptors"

    def end(self) -> None:
        """Everybody goes; what remains is what was there in the beginning."""
        self.rest()
        self._sender.send(self._handle, b"still there")
        while self._receiver.recv() != b"still there":
            pass
        for client in self._clients:
            client.die()
        self.rest()
        self._sender.close()
        self._receiver.close()
        self.rest()
        self._wait_for_closing()
        snapshot = self._core.snapshot()
        assert not snapshot["peers"] and not snapshot["let_go"], "peers remain"
        for user in snapshot["users"].values():
            counts = [user["used"], *user["shares"].values()]
            assert not any(count for resources in counts for count in resources.values()), "charges remain"
        assert not self._reactor._timers and not self._reactor._sources and not self._reactor._stations
        broker = self._broker
        kept = {name for name, table in vars(broker).items() if isinstance(table, Collection) and table}
        assert kept <= _REMEMBERED, f"the broker remembers {kept - _REMEMBERED}"
        assert not broker.holdings._users

    def _wait_for_closing(self) -> None:
        """What is in flight is looked at now and then; what threads closed is noted when somebody asks."""
        holdings = self._broker.holdings
        self._look_later()
        comes_true(lambda: not (holdings.are_closing or holdings._users), self._look_later)

    def _look_later(self) -> None:
        self._now += 1
        self.rest()

    def close(self) -> None:
        """For the next input, whatever became of this one."""
        for client in self._clients:
            client.die()
        self._broker.close()
        self._reactor.close()
        self._kernel.stop()

    # ---- the bus ---------------------------------------------------------------------------------

    def _n_of_bus(self) -> int:
        """Descriptors that are open beside those of the clients and those that were before."""
        bystanders = 2 * 2
        return len(open_numbers()) - self._n_before - bystanders - sum(c.n_descriptors for c in self._clients)

    def _turn(self) -> bool:
        """One turn; False if there was nothing to do."""
        # what a timer does may have made something ready
        was_due = self._is_due()
        n_ready = self._reactor.run_once(-1.0)
        return n_ready > 0 or was_due or self._is_due()

    def _is_due(self) -> bool:
        due = self._reactor._next_due()
        return due is not None and due <= self._now

    def rest(self) -> None:
        """Turns until nothing is left to do."""
        for _ in range(_TURNS):
            if not self._turn():
                return
        raise AssertionError("the bus never rests")

    def _accepted(self, uid: int) -> socket.socket:
        """A connection of this user; the client's end."""
        here, there = socket.socketpair()
        there.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        self._users[there] = uid
        self._broker.accept(there)
        return here

    def _connected(self, sock: socket.socket) -> Credentials:
        uid = self._users[sock]
        return Credentials(uid, uid, os.getpid())

    def _received(self, sock: socket.socket, reader: FrameReader, flags: int, size: int) -> Arrival:
        arrival, uid = receive(sock, reader, flags, size), self._users[sock]
        return Arrival(arrival.size, arrival.truncated, arrival.pid, uid, uid)

    # ---- steps -----------------------------------------------------------------------------------

    def _client(self) -> HostileClient | None:
        choice = self._program.byte()
        return self._clients[choice % len(self._clients)] if self._clients else None

    def _new(self) -> HostileClient:
        uid = self._program.one_of(HOSTILE_USERS)
        if len(self._clients) == MAX_CLIENTS:
            self._clients.pop(0).die()
            self.rest()
        client = HostileClient(self._accepted(uid), uid)
        self._clients.append(client)
        return client

    def _connect(self) -> None:
        client = self._new()
        if self._program.byte() & 1:
            client.greet()

    def _open(self) -> None:
        client = self._new()
        client.greet()
        client.open()
        self.rest()
        client.read()
        if client.descriptor >= 0 and self._program.byte() & 3:
            self._acquaint(client)

    def _acquaint(self, client: HostileClient) -> None:
        """A handle to the bystander's node, so that it can be flooded."""
        try:
            client.learned.append(self._receiver.transfer(0x10, client.descriptor))
        except Bus1Error:
            return  # its account is full, or its peer is gone already

    def _introduce(self) -> None:
        one, other = self._client(), self._client()
        if one is not None and other is not None and other.descriptor >= 0:
            fds = Fds([os.dup(other.descriptor)])
            body = REQUESTS[Operation.TRANSFER].pack(0, self._program.number(one.learned), 2**64 - 1)
            one.write(encode(Operation.TRANSFER, 0, body, 1), fds)

    def _attach(self) -> None:
        other = self._client()
        if other is not None and other.descriptor >= 0:
            descriptor = os.dup(other.descriptor)  # the new client may have to replace the other
            client = self._new()
            client.greet()
            client.attach(descriptor)

    def _request(self) -> None:
        if (client := self._client()) is not None:
            client.request(self._program, self._descriptors(), OPERATIONS)

    def _nonsense(self) -> None:
        if (client := self._client()) is None:
            return
        if self._program.byte() & 1:
            body = self._program.take(self._program.byte())
            fds = self._descriptors()
            operation, tag = self._program.short(), self._program.number()
            client.write(encode(operation, tag, body, self._program.byte()), fds)
        else:
            client.write(self._program.take(self._program.byte()), self._descriptors())

    def _stop_or_read(self) -> None:
        if (client := self._client()) is not None:
            client.reads = not client.reads

    def _close_one(self) -> None:
        if (client := self._client()) is None:
            return
        what = self._program.one_of((socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR, -1))
        if what == -1:
            client.drop_descriptor()
        else:
            client.sock.shutdown(what)

    def _kill(self) -> None:
        if (client := self._client()) is not None:
            client.die()
            self._clients.remove(client)

    def _later(self) -> None:
        self._now += self._program.one_of((0.0, 1.0, 29.0, 31.0))

    def _scribble(self) -> None:
        if (client := self._client()) is not None:
            client.scribble(self._program)

    def _go_on(self) -> None:
        if (client := self._client()) is not None:
            client.send(1 + self._program.byte())

    def _shortage(self) -> None:
        self._room = self._program.byte() % 4
        self._request()

    @contextmanager
    def _scarcity(self) -> Iterator[None]:
        """The bus has room for a few descriptors only, if the program wants that."""
        if self._room is None:
            yield
            return
        taken = set(map(int, open_numbers()))
        free = [number for number in range(len(taken) + 5) if number not in taken]
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[self._room], limits[1]))
        try:
            yield
        finally:
            self._room = None
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    def _descriptors(self) -> Fds | None:
        n = self._program.one_of(COUNTS)
        if not n:
            return None
        kind = self._program.one_of(KINDS)
        client = self._client() if kind == "peer" else None
        fd = os.dup(client.descriptor) if client is not None and client.descriptor >= 0 else _new(kind)
        return Fds([fd, *[os.dup(fd) for _ in range(n - 1)]])


def _new(kind: str) -> int:
    match kind:
        case "pipe":
            fd, other = os.pipe()
            os.close(other)
            return fd
        case "memory":
            return os.memfd_create("memory", os.MFD_CLOEXEC)
        case "socket":
            one, other_end = socket.socketpair()
            other_end.close()
            return one.detach()
        case "path":
            return os.open("/", os.O_PATH | os.O_CLOEXEC)
        case "event":
            return os.eventfd(0)
        case _:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
