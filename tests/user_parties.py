"""user_parties: processes of several users: some of them talk, one misbehaves.

``User`` starts one. Run as a script this file takes the ids of that user for good, opens a peer, and does
what it is told by lines of JSON on its socket.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from threading import Lock, Thread
from typing import Any, Self

from native_bus import RawChannel

from bus1.core.api import NO_LIMIT, DestroyFlag, RecvFlag
from bus1.descriptors import Fds, duplicate
from bus1.errors import BY_ERRNO, QuotaExceeded
from bus1.frames import ANSWER_PREFIX, EVENTS, REQUESTS, Event, Operation, encode
from bus1.peer import Peer
from bus1.received import ReceivedMessage

MIB = 1 << 20
NODE = 0x10
SIZES = (0, 9, 1000, 70_000, MIB)


class User:
    """The test's side of a process with the ids ``uid``, and of its peer."""

    def __init__(self, uid: int, address: str) -> None:
        self.uid = uid
        self._sock, theirs = socket.socketpair()
        with theirs:
            number = theirs.fileno()
            arguments = [sys.executable, __file__, str(uid), address, str(number)]
            self.process = subprocess.Popen(arguments, pass_fds=[number])
        self._lines = self._sock.makefile("r")
        self._is_over = False
        self.remarks: list[Any] = []
        """What it said before it was killed, and nobody had asked for."""
        _, fds, _, _ = socket.recv_fds(self._sock, 1, 1)
        with Fds(fds) as received:
            self.peer = Peer.from_descriptor(received[0], address)

    def tell(self, **what: Any) -> None:
        self._sock.sendall(json.dumps(what).encode() + b"\n")

    def answer(self) -> Any:
        """What it says next; AssertionError if it is no more."""
        line = self._lines.readline()
        assert line, f"the process of user {self.uid} has ended"
        return json.loads(line)

    def ask(self, **what: Any) -> Any:
        self.tell(**what)
        return self.answer()

    def kill(self) -> None:
        """The process ends at once, and with it whatever the user has on the bus."""
        if self._is_over:
            return
        self._is_over = True
        self.peer.close()
        self.process.kill()
        self.process.wait()
        self.remarks = [json.loads(line) for line in self._lines]
        self._lines.close()
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()


# ---- in the processes ------------------------------------------------------------------------------


class Innocent:
    """Somebody who calls, or answers calls."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.held: list[ReceivedMessage] = []

    def serve(self, reply_to: int, caller: int) -> None:
        """Answer the caller's messages, with what came; throw away everybody else's."""
        while True:
            with self.peer.recv(wait=True) as message:
                if message.uid == caller:
                    self.peer.send([reply_to], bytes(message.payload), fds=list(message.fds))

    def call(self, handle: int, times: int) -> int:
        """Calls of several sizes, each with a descriptor that comes back; how many were answered."""
        for number, size in zip(range(times), SIZES * times, strict=False):
            payload = number.to_bytes(4, "little") + bytes(size)
            with Fds(os.pipe()) as pipe:
                with self.peer.call([handle], payload, fds=[pipe[1]]) as answer:
                    assert bytes(answer.payload) == payload
                    os.write(answer.fds[0], b"back")
                assert os.read(pipe[0], 9) == b"back"
        return times

    def send(self, handle: int, size: int, n_handles: int, n_fds: int, times: int = 1) -> int:
        """The same message again and again; how often it was not refused."""
        with open(os.devnull) as null:
            for done in range(times):
                try:
                    self.peer.send([handle], bytes(size), [NODE] * n_handles, [null.fileno()] * n_fds)
                except QuotaExceeded:
                    return done
        return times

    def recv(self) -> int:
        """Take a message out of the queue, and keep its slice; its size."""
        self.held.append(self.peer.recv())
        return self.held[-1].size

    def release(self) -> int:
        """Give all slices back; how many."""
        for message in self.held:
            message.release()
        n, self.held = len(self.held), []
        return n


class Pipeline(RawChannel):
    """A channel that requests without waiting for answers."""

    def __init__(self, address: str, peer: Peer) -> None:
        super().__init__(address)
        hello = encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(b"bus1", 1, 0))
        self.requests([hello])
        self.write(encode(Operation.ATTACH, 2, bytes(8), 1), duplicate([peer.fileno()]))
        self.answers(1)

    def requests(self, frames: list[bytes]) -> None:
        """Write them all, then read as many answers; an error among them is raised."""
        with suppress(BrokenPipeError):  # refused: the answer says why
            self.sock.sendall(b"".join(frames))
        self.answers(len(frames))

    def answers(self, n: int) -> None:
        """Read so many; an error among them is raised, a refusal at once."""
        errors = {self._error() for _ in range(n)} - {0}
        for error in errors:
            raise BY_ERRNO[error]("of a request")

    def _error(self) -> int:
        frame = self.frame()
        frame.fds.close()
        if frame.operation == Event.REFUSED:
            raise BY_ERRNO[EVENTS[Event.REFUSED].unpack_from(frame.body)[0]]("the channel is refused")
        if frame.operation == Event.OFFER:
            return 0
        return int(ANSWER_PREFIX.unpack_from(frame.body)[0])


class Hostile:
    """What a user does who wants the bus for itself. Each method prepares one step of a loop without end."""

    def __init__(self, peer: Peer, address: str, victim: int) -> None:
        self.peer = peer
        self.address = address
        self.victim = victim
        """Handle to a node of an innocent user."""
        self.kept: list[Any] = []

    def floods(self) -> Callable[[], None]:
        """Messages as fast as they go."""
        pipeline = Pipeline(self.address, self.peer)
        frames = [sending([self.victim], b"x")] * 500
        return lambda: pipeline.requests(frames)

    def floods_itself(self) -> Callable[[], None]:
        """The same to a peer of its own, that never receives."""
        pipeline = Pipeline(self.address, self.peer)
        frames = [sending([NODE], b"x")] * 500
        return lambda: pipeline.requests(frames)

    def never_reads(self) -> Callable[[], None]:
        """Requests on many channels, whose answers nobody reads."""
        pipelines = [Pipeline(self.address, self.peer) for _ in range(50)]
        query = encode(Operation.QUERY, 9, bytes(8)) * 1000
        for pipeline in pipelines:
            pipeline.sock.setblocking(False)

        def step() -> None:
            for pipeline in pipelines:
                try:
                    # cut anywhere: whoever reads nothing need not care what the bus makes of it
                    pipeline.sock.send(query)
                except BlockingIOError:
                    continue

        return step

    def opens_peers(self) -> Callable[[], None]:
        """Peers that need no channel to live."""

        def step() -> None:
            with Peer.connect(self.address) as peer:
                self.kept.append(os.dup(peer.fileno()))

        return step

    def opens_channels(self) -> Callable[[], None]:
        return lambda: self.kept.append(Peer.from_descriptor(self.peer.fileno(), self.address))

    def passes_descriptors(self) -> Callable[[], None]:
        """To itself and to the victim, as many as a message takes."""
        null, turns = os.open(os.devnull, os.O_RDONLY), count()

        def step() -> None:
            self.peer.send([(self.victim, NODE)[next(turns) % 2]], fds=[null] * 256)

        return step

    def abandons_descriptors(self) -> Callable[[], None]:
        """In requests that never become complete, on one channel after the other."""
        null = os.open(os.devnull, os.O_RDONLY)
        incomplete = encode(Operation.SEND, 1, bytes(100), 200)[:-1]

        def step() -> None:
            pipeline = Pipeline(self.address, self.peer)
            self.kept.append(pipeline)
            pipeline.write(incomplete, duplicate([null] * 200))
            Pipeline(self.address, self.peer).close()  # answered: the bus has read the other one
            if is_readable(pipeline.sock):
                pipeline.answers(1)

        return step

    def holds_slices(self) -> Callable[[], None]:
        def step() -> None:
            self.peer.send([NODE], bytes(6000))
            self.kept.append(self.peer.recv())

        return step

    def sends_the_largest(self) -> Callable[[], None]:
        """More than anybody may receive."""
        pipeline = Pipeline(self.address, self.peer)
        size = 16 * MIB
        pipeline.requests([encode(Operation.ARENA, 3, struct.pack("<Q", size))])
        frames = [sending([self.victim], b"", arena=size)] * 20
        return lambda: pipeline.requests(frames)

    def fills_pools(self) -> Callable[[], None]:
        """Large messages to one peer of its own after the other."""
        return lambda: self.kept.append(self._filled())

    def _filled(self) -> Peer:
        peer = Peer.connect(self.address)
        peer.send([NODE], bytes(3 * MIB))
        return peer

    def creates_nodes(self) -> Callable[[], None]:
        numbers = count(0x1000)
        return lambda: void(self.peer.send([], handles=[8 * next(numbers) for _ in range(4000)]))

    def creates_and_destroys(self) -> Callable[[], None]:
        """As many nodes as a request takes, over and over."""
        nodes = [8 * number for number in range(1000, 17000)]
        fixed = REQUESTS[Operation.SEND].pack(0, 0, 0, len(nodes), 0, 0, 0)
        create = encode(Operation.SEND, 4, fixed + ids(nodes))
        fixed = REQUESTS[Operation.DESTROY].pack(DestroyFlag.RELEASE_HANDLES, len(nodes))
        destroy = encode(Operation.DESTROY, 4, fixed + ids(nodes))
        pipeline = Pipeline(self.address, self.peer)
        return lambda: pipeline.requests([create, destroy] * 10)

    def multicasts(self) -> Callable[[], None]:
        """To more nodes of its own than may have a message."""
        pipeline = Pipeline(self.address, self.peer)
        frames = [sending([8 * number for number in range(1000, 9000)], b"x")] * 10
        return lambda: pipeline.requests(frames)

    def leaves_offers_unread(self) -> Callable[[], None]:
        """On one channel after the other, all of which are refused in the end."""
        recv = REQUESTS[Operation.RECV].pack(RecvFlag.PEEK | RecvFlag.INSTALL_FDS, NO_LIMIT, 0)
        hello = REQUESTS[Operation.HELLO].pack(b"bus1", 1, 0)
        with open(os.devnull) as null:
            self.peer.send([NODE], fds=[null.fileno()] * 200)
        return self._unread([encode(Operation.RECV, 5, recv), encode(Operation.HELLO, 6, hello)])

    def leaves_arenas_unread(self) -> Callable[[], None]:
        return self._unread([encode(Operation.ARENA, 5, struct.pack("<Q", 4096))] * 100)

    def leaves_segments_unread(self) -> Callable[[], None]:
        self.peer.send([NODE], b"x")
        return self._unread([encode(Operation.SEGMENT, 5, struct.pack("<Q", 1))] * 100)

    def _unread(self, frames: list[bytes]) -> Callable[[], None]:
        """Requests whose answers bring descriptors, on channels that nobody reads; one is read for each."""

        def step() -> None:
            reading = Pipeline(self.address, self.peer)
            with reading:
                reading.requests(frames[:1])
            pipeline = Pipeline(self.address, self.peer)
            self.kept.append(pipeline)
            pipeline.sock.sendall(b"".join(frames))

        return step

    def makes_arenas(self) -> Callable[[], None]:
        def step() -> None:
            pipeline = Pipeline(self.address, self.peer)
            self.kept.append(pipeline)
            pipeline.requests([encode(Operation.ARENA, 3, struct.pack("<Q", 1 << 28))])

        return step


def void(_: object) -> None:
    """For steps whose result does not matter."""


def is_readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def ids(values: list[int]) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def sending(destinations: list[int], payload: bytes, *, arena: int = 0) -> bytes:
    """A SEND; ``arena`` bytes of the payload lie there."""
    fixed = REQUESTS[Operation.SEND].pack(0, len(destinations), 0, 0, len(payload), 0, arena)
    return encode(Operation.SEND, 4, fixed + ids(destinations) + payload)


class Loop:
    """Repeats a step; says when it got going, and when the bus first said that this is too much."""

    def __init__(self, say: Callable[[object], None], name: str, step: Callable[[], object]) -> None:
        self._say = say
        self._name = name
        self._step = step
        self._said: set[str] = set()

    def run(self) -> None:
        """Until the process is killed, or meets another error than EDQUOT: that ends it."""
        try:
            while True:
                self._note(self._outcome())
        except BaseException as error:
            self._say(f"{self._name}: {error!r}")
            raise

    def _outcome(self) -> str:
        try:
            self._step()
        except QuotaExceeded:
            return "refused"
        return "served"

    def _note(self, outcome: str) -> None:
        if outcome not in self._said:
            self._said.add(outcome)
            self._say(f"{self._name} {outcome}")


def misbehave(hostile: Hostile, ways: list[str], say: Callable[[object], None]) -> None:
    """All ways at once."""
    steps = [getattr(hostile, way)() for way in ways]
    threads = [Thread(target=Loop(say, *loop).run) for loop in zip(ways, steps, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main(uid: int, address: str, sock: socket.socket) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    peer, lock = Peer.connect(address), Lock()
    socket.send_fds(sock, [b"."], [peer.fileno()])

    def say(what: object) -> None:
        with lock:
            sock.sendall(json.dumps(what).encode() + b"\n")

    innocent = Innocent(peer)
    for line in sock.makefile("r"):
        command = json.loads(line)
        do = command.pop("do")
        if do == "misbehave":
            misbehave(Hostile(peer, address, command["victim"]), command["ways"], say)
        else:
            say(getattr(innocent, do)(**command))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], socket.socket(fileno=int(sys.argv[3])))
