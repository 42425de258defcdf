"""Whatever fails while a client is accepted costs this client alone, and nothing of it is left."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.entrance import Entrance
from bus1_bridge.switch import loop
from bus1_bridge.switch.api import Failed, Punt, Short, Shutdown
from bus1_bridge.switch.deadlines import Deadlines
from bus1_bridge.switch.flow import Flow
from bus1_bridge.switch.router import Router
from bus1_bridge.switch.schedule import Schedule
from bus1_bridge.view import View
from dbus_client import Client
from native_bus import RawChannel
from test_window import Crank

from bus1 import broker, channel
from bus1.broker import Broker
from bus1.errors import InternalError
from bus1.reactor import Reactor

STEPS: tuple[tuple[Any, str], ...] = (
    (loop, "credentials_of"),
    (Router, "too_many"),
    (Router, "_enter"),
    (Flow, "meet"),
    (Deadlines, "opened"),
    (loop, "Endpoint"),
    (loop, "come_in"),
    (Schedule, "enter"),
    (Reactor, "station"),
)
"""What is done for a D-Bus client that comes in."""
NATIVE_STEPS: tuple[tuple[Any, str], ...] = (
    (broker, "Channel"),
    (channel, "credentials_of"),
    (Reactor, "add"),
    (Reactor, "call_at"),
    (channel, "Outlet"),
    (Broker, "_admit"),
    (Broker, "allowance_of"),
)
"""For a native one."""


def fail(patch: pytest.MonkeyPatch, step: tuple[Any, str], error: BaseException, at: int) -> None:
    """The step fails, the ``at``-th time that it is done: before anything is done of it."""
    owner, name = step
    original: Callable[..., Any] = getattr(owner, name)
    n = 0

    def failing(*args: Any, **more: Any) -> Any:
        nonlocal n
        n += 1
        if n == at:
            raise error
        return original(*args, **more)

    patch.setattr(owner, name, failing)


class Scene:
    """A bus with a client, and an endpoint with another one."""

    def __init__(self, folder: Path, cleanup: ExitStack) -> None:
        self.cleanup = cleanup
        self.crank = Crank(folder)
        self.switch = self.crank.switch
        cleanup.callback(lambda: self.switch.apply([Shutdown()]))
        self.entrance = Entrance("app", {}, os.getuid(), View.of([]), path=str(folder / "app"))
        doors = self.switch._entrances.doors
        assert doors is not None
        doors.open(self.entrance)
        cleanup.callback(doors.close, self.entrance)
        self.known = self.client(self.crank.path), self.client(self.entrance.path)

    def client(self, path: str) -> Client:
        client: Client = self.crank.during(lambda: Client(path))
        self.cleanup.callback(client.close)
        return client

    def state(self) -> list[object]:
        """Everything that there is of connections."""
        switch, router = self.switch, self.switch.router
        reactor = switch.reactor
        return [
            set(switch._endpoints), set(router._connections), set(router.tables.parties),
            set(router.tables.sights), set(router.incomplete), set(self.entrance.clients),
            set(router.tables.core.snapshot()["peers"]), set(reactor._sources), set(reactor._stations),
            dict(switch._reading._connections), dict(switch._flushing._connections),
            set(switch.broker._channels), dict(switch.broker._n_channels), len(os.listdir("/proc/self/fd")),
            switch.broker.holdings._booked, len(reactor._timers),
        ]

    def knock(self, path: str) -> list[Punt]:
        """Somebody connects, and is let in or not: what the bus says of that."""
        stranger = socket.socket(socket.AF_UNIX)
        stranger.settimeout(20)
        with stranger:
            stranger.connect(path)
            punts = [punt for _ in range(3) for punt in self.switch.poll(0.0)]
            assert stranger.recv(1) == b"", "it is told that the connection is over"
        return punts


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with ExitStack() as cleanup:
        yield Scene(tmp_path, cleanup)


@pytest.mark.parametrize(
    ("step", "at"), [*((step, 1) for step in STEPS), ((Schedule, "enter"), 2)],
    ids=lambda value: value[1] if isinstance(value, tuple) else str(value),
)
def test_a_failure_while_a_client_comes_in_costs_this_client_alone(
    scene: Scene, step: tuple[Any, str], at: int
) -> None:
    before = scene.state()
    errors = (
        (MemoryError(), Short(os.strerror(errno.ENOMEM))),
        (OSError(errno.ENOBUFS, "no room"), Short("no room")),
        (ZeroDivisionError("what nobody has thought of"), None),
    )
    for error, said in errors:
        with pytest.MonkeyPatch.context() as patch:
            fail(patch, step, error, at)
            (punt,) = scene.knock(scene.entrance.path)
        if said is None:
            assert isinstance(punt, Failed) and "what nobody has thought of" in punt.traceback
            assert punt.pid == (0 if step[1] == "credentials_of" else os.getpid())
        else:
            assert punt == said
        assert scene.state() == before
    for client in scene.known:
        scene.crank.during(client.sync)
    scene.client(scene.entrance.path)


@pytest.mark.parametrize("step", NATIVE_STEPS, ids=lambda step: step[1])
def test_a_failure_while_a_native_client_comes_in_costs_this_client_alone(
    scene: Scene, step: tuple[Any, str]
) -> None:
    before = scene.state()
    for error in MemoryError(), OSError(errno.ENOSPC, "no room"), ZeroDivisionError("unthought of"):
        with pytest.MonkeyPatch.context() as patch:
            fail(patch, step, error, 1)
            punts = scene.knock(scene.crank.path + "1")
        if isinstance(error, ZeroDivisionError):
            (punt,) = punts
            assert isinstance(punt, Failed) and "unthought of" in punt.traceback
        assert scene.state() == before
    guest = RawChannel(scene.crank.path + "1")
    scene.cleanup.callback(guest.close)
    scene.crank.during(guest.open)


def test_a_peer_that_core_has_made_goes_when_its_root_cannot_be_made(scene: Scene) -> None:
    router, before = scene.switch.router, scene.state()

    class Lacking:
        """Core, which sends nothing any more."""

        def __getattr__(self, name: str) -> Any:
            return getattr(core, name)

        def send(self, *_: Any, **__: Any) -> None:
            raise MemoryError

    core = router._core
    router._core = Lacking()  # type: ignore[assignment]
    assert scene.knock(scene.entrance.path) == [Short(os.strerror(errno.ENOMEM))]
    router._core = core
    assert scene.state() == before


def test_a_broken_invariant_that_shows_in_an_accept_ends_the_bus(scene: Scene) -> None:
    for step, path in (STEPS[2], scene.entrance.path), (NATIVE_STEPS[4], scene.crank.path + "1"):
        with pytest.MonkeyPatch.context() as patch, socket.socket(socket.AF_UNIX) as stranger:
            fail(patch, step, InternalError("the state is suspect"), 1)
            stranger.connect(path)
            with pytest.raises(InternalError):
                for _ in range(3):
                    scene.switch.poll(0.0)
