"""native_bus: buses of native peers alone, for tests: in a process of its own, or in this one.

Run as a script it is the bus process: ``native_bus.py ADDRESS LIMITS``, commands on stdin, answers on stdout.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import Any

from broken_hubs import LateHub, LenientHub, TornHub
from core_bus import Core

from bus1 import broker as broker_module
from bus1 import transport
from bus1.addresses import socket_name
from bus1.broker import Broker, BrokerLimits
from bus1.core.api import Limits
from bus1.descriptors import Fds
from bus1.frames import MAGIC, REQUESTS, VERSION, Frame, FrameReader, FrameWriter, Operation, encode
from bus1.hub import PlainHub
from bus1.links import InProcessLink
from bus1.memory import SealedMemory
from bus1.peer import Peer
from bus1.reactor import Reactor
from bus1.record import values
from bus1.transport import receive, transmit

PATIENCE = 30.0
"""Seconds until a test says what the bus has not given back."""


def charges(snapshot: dict[str, Any]) -> dict[str, Any]:
    """What is charged to anybody: empty when everything has been given back."""
    used = {
        f"user {uid}, {resource}": count
        for uid, user in snapshot["users"].items()
        for counts in [user["used"], *user["shares"].values()]
        for resource, count in counts.items()
        if count
    }
    return used | {f"peer {number}": peer["nodes"] for number, peer in snapshot["peers"].items()}


class NativeBus:
    """A bus process."""

    def __init__(
        self, directory: Path, limits: Limits | None = None, *, hub: str = "plain", label: str | None = None,
        uid: int = 0, n_descriptors: int = 0, pools_by_os: bool = False, **broker_limits: float,
    ) -> None:
        """``label`` is the security context of every client, as a kernel with labels tells it.

        ``uid``, unless 0, is whose process it is, ``n_descriptors`` its limit, in place of the hard one.
        ``pools_by_os``: pools are made by functions of os, which can ``fail``, whatever Core is in use."""
        self.address = str(directory / "bus1")
        options = {
            "core": values(limits or Limits()), "broker": broker_limits, "hub": hub, "label": label,
            "uid": uid, "n_descriptors": n_descriptors, "pools_by_os": pools_by_os,
        }
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.address, json.dumps(options)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, command: str) -> Any:
        """The bus process answers after everything that reached it before."""
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return self._answer()

    def snapshot(self) -> dict[str, Any]:
        snapshot: dict[str, Any] = self.ask("snapshot")
        return snapshot

    def n_fds(self) -> int:
        return int(self.ask("fds"))

    def fail(self, name: str, times: int, first: int = 0) -> int:
        """Let a function of os fail in the bus process (``Failing``); how many failures are still to come."""
        return int(self.ask(f"fail {name} {times} {first}"))

    def peer(self) -> Peer:
        return Peer.connect(self.address)

    def channel(self) -> RawChannel:
        return RawChannel(self.address)

    def wait_until_idle(self, n_fds: int) -> None:
        """Until the bus has noticed that its clients are gone: everything is given back."""
        give_up = monotonic() + PATIENCE
        while monotonic() < give_up and (charges(self.snapshot()) or self.n_fds() > n_fds):
            pass
        assert charges(self.snapshot()) == {}
        assert self.n_fds() == n_fds

    def close(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        assert self.process.wait(20) == 0
        self.process.stdout.close()


class InProcessBus:
    """A bus in this process, without sockets."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.hub = PlainHub(Core(limits) if limits else Core())
        self.reactor = Reactor(self.hub)

    def snapshot(self) -> dict[str, Any]:
        return self.hub.core.snapshot()

    def n_fds(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def peer(self) -> Peer:
        return Peer(InProcessLink(self.reactor, self.hub))

    def wait_until_idle(self, n_fds: int) -> None:
        assert charges(self.snapshot()) == {}
        assert self.n_fds() <= n_fds

    def close(self) -> None:
        self.reactor.close()


class RawChannel:
    """A client that writes whatever the test wants."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.connect(socket_name(address))
        self.reader = FrameReader()
        self.descriptor = -1

    def greet(self) -> RawChannel:
        self.sock.sendall(encode(Operation.HELLO, 1, REQUESTS[Operation.HELLO].pack(MAGIC, VERSION, 0)))
        assert self.frame().tag == 1
        return self

    def open(self) -> RawChannel:
        self.greet()
        self.sock.sendall(encode(Operation.OPEN, 2, struct.pack("<Q", 0)))
        answer = self.frame()
        assert answer.tag == 2 and len(answer.fds) == 1
        self.descriptor = answer.fds.take()
        return self

    def write(self, frame: bytes, fds: Fds | None = None) -> None:
        writer = FrameWriter()
        writer.push(frame, fds)
        transmit(self.sock, writer)

    def frame(self) -> Frame:
        """The next frame; EOFError when the bus has closed the channel."""
        while (frame := self.reader.next()) is None:
            try:
                size = receive(self.sock, self.reader).size
            except ConnectionResetError:
                size = 0
            if not size:
                raise EOFError
        return frame

    def frames_until_the_end(self) -> list[Frame]:
        """What the bus still says when the client has closed its sending side."""
        self.sock.shutdown(socket.SHUT_WR)
        found: list[Frame] = []
        while True:
            try:
                frame = self.frame()
            except EOFError:
                return found
            frame.fds.close()
            found.append(frame)

    def close(self) -> None:
        self.sock.close()
        self.reader.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> RawChannel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Control:
    """Commands of the test, as one more source of the reactor."""

    def __init__(self, hub: PlainHub) -> None:
        self.hub = hub
        self.is_over = False
        self._buffer = b""

    def fileno(self) -> int:
        return 0

    def ready(self, events: int, now: float) -> None:
        data = os.read(0, 65536)
        self.is_over = not data
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        answers: dict[str, Callable[..., Any]] = {
            "snapshot": self.hub.core.snapshot, "fds": lambda: len(os.listdir("/proc/self/fd")),
            "fail": fail,
        }
        for line in lines:
            command, *arguments = line.decode().split()
            print(json.dumps(answers[command](*arguments), default=bytes.hex), flush=True)


class Failing:
    """A function of os that fails with ENOMEM ``times`` times, after it has worked ``first`` times."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.first = self.times = 0

    def __call__(self, *arguments: Any) -> Any:
        if self.first:
            self.first -= 1
        elif self.times:
            self.times -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return self.function(*arguments)


def fail(name: str, times: str, first: str = "0") -> int:
    """How many failures of the last time were still to come."""
    function = getattr(os, name)
    if not isinstance(function, Failing):
        function = Failing(function)
        setattr(os, name, function)
    left = function.times
    function.times, function.first = int(times), int(first)
    return left


HUBS: dict[str, type[PlainHub]] = {"plain": PlainHub, "lenient": LenientHub, "torn": TornHub, "late": LateHub}


def main(address: str, options: str) -> None:
    chosen = json.loads(options)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = chosen["n_descriptors"] or hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if uid := chosen["uid"]:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if (label := chosen["label"]) is not None:
        vars(transport)["_label"] = lambda sock: label.encode()
    if chosen["pools_by_os"]:
        vars(broker_module)["SealedMemory"] = SealedMemory
    hub = HUBS[chosen["hub"]](Core(Limits(**chosen["core"])))
    reactor = Reactor(hub)
    broker = Broker(reactor, hub, BrokerLimits(**chosen["broker"]))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(socket_name(address))
    listener.listen(128)
    broker.listen(listener)
    control = _Control(hub)
    reactor.add(control, select.EPOLLIN)
    print(json.dumps("ready"), flush=True)
    while not control.is_over:
        reactor.run_once(None)
    broker.close()
    reactor.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
