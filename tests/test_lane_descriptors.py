"""Descriptors on the express lane: each with its own message, and none left behind."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.switch.api import Shutdown
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.planner import Planner
from buses import open_fds
from dbus_client import BUS, BUS_PATH, Client
from shortage import room_for
from test_window import Crank

from bus1 import acceleration

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
BURST = (0, 1, 0, 0, 3, 1, 1, 0, 2, 0)


class Scene:
    """A sender and a reader on a bus that lives while it is turned; pipes tell which descriptor is which."""

    def __init__(
        self, folder: Path, python: list[str], cleanup: ExitStack, limits: BusLimits | None = None
    ) -> None:
        self.cleanup = cleanup
        self.crank = Crank(folder, limits=limits)
        cleanup.callback(lambda: self.crank.switch.apply([Shutdown()]))
        self.sender, self.reader = self.client(), self.client()
        pipes = [os.pipe() for _ in range(8)]
        for pipe in pipes:
            for fd in pipe:
                cleanup.callback(os.close, fd)
        self.pipes = pipes
        # a first message leaves Core ready for others
        self.say([1])
        self.crank.turn()
        self.hear([1])
        self.python = python
        python.clear()
        self.before = open_fds(os.getpid())

    def client(self) -> Client:
        client: Client = self.crank.during(lambda: Client(self.crank.path))
        self.cleanup.callback(client.close)
        return client

    def say(self, counts: Sequence[int], *, size: int = 0) -> None:
        """Calls with so many descriptors each, the nth is the nth pipe's; each call is written by itself."""
        for count in counts:
            fds = [pipe[0] for pipe in self.pipes[:count]]
            self.sender.call(
                self.reader.name, "M", "ay" + "h" * count, bytes(size), *range(count), fds=fds, flags=1
            )

    def hear(self, counts: Sequence[int]) -> None:
        """What the reader gets are such calls, each with its own descriptors."""
        for count in counts:
            got = self.reader.receive()
            assert len(got.fds) == count
            for pipe, fd in zip(self.pipes, got.fds, strict=False):
                os.write(pipe[1], b"x")
                assert os.read(fd, 2) == b"x"
                os.close(fd)
            got.fds.clear()

    @property
    def waiting(self) -> tuple[int, int]:
        """Messages and descriptors that wait for the reader."""
        usage = self.crank.switch.router.tables.core.waiting(self.crank.number(self.reader.name))
        return usage.messages, usage.fds

    def narrow(self, size: int, reader: Client | None = None) -> None:
        """The bus's socket to the reader, or to another one, takes little."""
        endpoint = self.crank.switch._endpoints[self.crank.number((reader or self.reader).name)]
        with socket.socket(fileno=os.dup(endpoint.fileno())) as its:
            its.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Python has planned."""
    python: list[str] = []
    plan = Planner.plan

    def noted(self: Planner, *given: Any, **more: Any) -> Any:
        python.append("planned")
        return plan(self, *given, **more)

    monkeypatch.setattr(Planner, "plan", noted)
    return python


@pytest.fixture
def scene(tmp_path: Path, python: list[str]) -> Iterator[Scene]:
    with ExitStack() as cleanup:
        yield Scene(tmp_path, python, cleanup)


def test_a_burst_passes_in_one_turn_without_python_and_without_a_queue(scene: Scene) -> None:
    scene.say(BURST)
    scene.crank.turn()
    assert scene.waiting == (0, 0)
    assert not scene.python
    assert open_fds(os.getpid()) == scene.before, "what was written is closed"
    scene.hear(BURST)


@pytest.mark.parametrize("size", [100, 5000])
def test_what_finds_no_room_waits_with_its_descriptors_and_arrives(scene: Scene, size: int) -> None:
    scene.narrow(20_000)
    rounds = 6
    scene.crank.during(lambda: scene.say(BURST * rounds, size=size))
    scene.crank.turn_until(lambda: scene.waiting[1] > 0)
    scene.crank.during(lambda: scene.hear(BURST * rounds))
    scene.crank.turn_until(lambda: scene.waiting == (0, 0))
    assert open_fds(os.getpid()) == scene.before


def test_a_message_that_is_written_in_parts_gives_its_descriptors_once(scene: Scene) -> None:
    scene.narrow(1)
    scene.say([2], size=12_000)
    scene.crank.turn_until(lambda: scene.waiting == (1, 2))
    scene.crank.during(lambda: scene.hear([2]))
    scene.crank.turn_until(lambda: scene.waiting == (0, 0))
    assert open_fds(os.getpid()) == scene.before


def test_more_descriptors_than_one_write_has_pass_in_their_order(scene: Scene) -> None:
    counts = [8] * 20
    scene.say(counts)
    scene.crank.turn()
    assert scene.waiting == (0, 0)
    assert open_fds(os.getpid()) == scene.before
    scene.hear(counts)


@pytest.mark.parametrize("leaves", ["reader", "sender"])
@pytest.mark.parametrize("is_blocked", [False, True])
def test_who_leaves_meanwhile_leaves_no_descriptor_behind(
    scene: Scene, leaves: str, is_blocked: bool
) -> None:
    if is_blocked:
        scene.narrow(1)
    scene.say(BURST, size=2000)
    if is_blocked:
        scene.crank.turn_until(lambda: scene.waiting[1] > 0)
    gone = scene.reader if leaves == "reader" else scene.sender
    unique = scene.crank.switch.router.tables.unique
    gone.close()
    if leaves == "sender" or not is_blocked:
        # the events of both are one turn's
        scene.crank.turn()
    if leaves == "sender":
        scene.crank.during(lambda: scene.hear(BURST))
    scene.crank.turn_until(lambda: gone.name not in unique)
    # of one connection both ends are gone
    assert open_fds(os.getpid()) == scene.before - 2


def test_what_goes_to_python_in_between_keeps_its_place(scene: Scene) -> None:
    scene.say([1, 0, 2])
    serial = scene.sender.call(BUS, "ListNames", path=BUS_PATH, interface=BUS)
    scene.say([1, 0])
    scene.crank.during(lambda: scene.hear([1, 0, 2, 1, 0]))
    assert scene.crank.during(scene.sender.receive).reply_serial == serial
    assert scene.python
    assert open_fds(os.getpid()) == scene.before


@pytest.mark.parametrize("limit", ["max_incoming_unix_fds", "max_outgoing_unix_fds"])
def test_what_waits_together_keeps_the_limits_of_descriptors(
    tmp_path: Path, python: list[str], limit: str
) -> None:
    with ExitStack() as cleanup:
        limits: Any = {limit: 2}
        scene = Scene(tmp_path, python, cleanup, BusLimits(**limits))
        scene.narrow(1)
        scene.say([1] * 5, size=2000)
        scene.crank.turn_until(lambda: bool(python))
        scene.crank.turn()
        assert scene.waiting == (2, 2)
        scene.crank.during(lambda: scene.hear([1, 1, 1]))


# ---- bounds of all together --------------------------------------------------------------------------
MANY, EACH = 4, 16


def crowd(scene: Scene, n: int) -> list[Client]:
    """Readers for whom something has passed already, so that they are ready for more."""
    readers = [scene.client() for _ in range(n)]
    for reader in readers:
        scene.sender.call(reader.name, "M", flags=1)
        scene.crank.during(reader.receive)
    scene.python.clear()
    return readers


def shower(scene: Scene, sender: Client, readers: Sequence[Client], size: int = 0) -> None:
    """To each reader some calls with many descriptors each."""
    fds = [scene.pipes[0][0]] * EACH
    for reader in readers:
        for _ in range(MANY):
            sender.call(reader.name, "M", "ay" + "h" * EACH, bytes(size), *range(EACH), fds=fds, flags=1)


def hear_all(scene: Scene, readers: Sequence[Client]) -> None:
    """Each has all that was sent to it, and the bus keeps none of it."""

    def hear() -> None:
        for reader in readers:
            for _ in range(MANY):
                got = reader.receive()
                assert len(got.fds) == EACH
                for fd in got.fds:
                    os.close(fd)

    scene.crank.during(hear)
    holdings = scene.crank.switch.broker.holdings
    scene.crank.turn_until(lambda: not holdings._messages)
    assert open_fds(os.getpid()) == scene.before


def test_all_that_is_in_transit_together_has_few_descriptors(scene: Scene) -> None:
    readers = crowd(scene, 8)
    scene.before = open_fds(os.getpid())
    shower(scene, scene.sender, readers)
    with room_for(420):
        # those of all these calls would not have room
        assert scene.crank.switch.poll(0.0) == []
    assert not scene.python
    hear_all(scene, readers)


def test_few_descriptors_wait_that_nobody_is_charged_for(scene: Scene) -> None:
    readers, second = crowd(scene, 9), scene.client()
    scene.before = open_fds(os.getpid())
    for reader in readers:
        scene.narrow(1, reader)
    for sender, its in (scene.sender, readers[:8]), (second, readers[8:]):
        sender.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        shower(scene, sender, its, 3000)
    assert scene.crank.switch.poll(0.0) == []
    assert scene.python, "what the second sends is left to who can charge it"
    hear_all(scene, readers)


@pytest.mark.parametrize("size", [2000, 20_000])
def test_descriptors_in_a_queue_are_charged_to_who_has_sent_them(scene: Scene, size: int) -> None:
    holdings = scene.crank.switch.broker.holdings
    scene.narrow(1)
    before, n = holdings._booked, 4
    scene.crank.during(lambda: scene.say([2] * n, size=size))
    scene.crank.turn_until(lambda: scene.waiting[1] > 0)
    scene.crank.turn()
    assert holdings._booked - before == scene.waiting[1] == len(holdings._messages)
    assert set(holdings._messages.values()) == {os.getuid()}
    scene.crank.during(lambda: scene.hear([2] * n))
    scene.crank.turn_until(lambda: scene.waiting == (0, 0))
    assert holdings._booked == before and not holdings._messages
    assert open_fds(os.getpid()) == scene.before
