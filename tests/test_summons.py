"""Native peers that want a service to be there: it is started for them, as it is for D-Bus clients."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
from bus1_bridge.activation import Activation
from bus1_bridge.daemon import new_switch
from bus1_bridge.summons import ASKING_MAX
from bus1_bridge.switch.api import Answer, StartFailed
from bus1_bridge.switch.effects import Effect, Found, Line, LookUp, Start
from bus1_services import Service, Stopping, connect
from bus1_services.call import CallFlag, Kind
from bus1_services.errors import DBusError, NameHasNoOwner
from bus1_services.idle import idle
from buses import Bus
from desk import PATH, Desk, aside, both_loops, has_no_owner, native, until
from mixed_bus import MixedBus, Native, pack
from startable import Startable
from test_idle import PROGRAM

from bus1.errors import NodeDestroyed
from bus1.record import replace

UNKNOWN = "org.freedesktop.DBus.Error.ServiceUnknown"


@pytest.fixture
def startable(bus1_bus: Bus) -> Startable:
    return Startable(bus1_bus)


def test_a_proxy_starts_the_service_that_it_needs(bus1_bus: Bus, startable: Startable) -> None:
    name = startable.name()
    program = bus1_bus.folder / "clerk.py"
    program.write_text(PROGRAM)
    startable.file(name, f"{sys.executable} {program} {name} {native(bus1_bus)} 1000")

    async def main() -> None:
        async with connect(native(bus1_bus)) as client:
            with pytest.raises(NameHasNoOwner):
                await client.registry.proxy(Desk, name, PATH, start=False)
            desk = await client.registry.proxy(Desk, name, PATH)
            os.kill(int(await desk.ask()), signal.SIGTERM)
            await has_no_owner(client, name)

    anyio.run(main)


@pytest.mark.timeout(10)
def test_what_is_to_be_started_is_told_however_quiet_the_bus_is() -> None:
    """An answer of the control plane leads to a start in between two turns: the next one does not wait."""
    switch = new_switch("0" * 32)
    switch.report(Line("started"))
    assert switch.poll(None) == [Line("started")]


def test_what_cannot_be_started_has_no_owner_and_a_failed_start_is_told(
    bus1_bus: Bus, startable: Startable
) -> None:
    name, other = startable.name(), startable.name()
    startable.file(name, "/bin/false")
    startable.file(other, "/nowhere/at/all")

    async def main() -> None:
        async with connect(native(bus1_bus)) as client:
            for unknown in ("org.example.Nothing", ":1.77", "not a name", "org.freedesktop.DBus"):
                with pytest.raises(DBusError) as failure:
                    await client.registry.start(unknown)
                assert failure.value.name == UNKNOWN
                with pytest.raises(NameHasNoOwner):
                    await client.registry.proxy(Desk, unknown, PATH)
            for failing, error in ((name, "ChildExited"), (other, "ExecFailed")):
                with pytest.raises(DBusError) as failure:
                    await client.registry.proxy(Desk, failing, PATH)
                assert failure.value.name == f"org.freedesktop.DBus.Error.Spawn.{error}"

    anyio.run(main)


@both_loops
def test_native_and_d_bus_clients_wait_for_one_start(
    bus1_bus: Bus, startable: Startable, backend: str
) -> None:
    """Each is answered once the name is owned, and who has given up, or died, is not missed."""
    name, program = startable.add()

    async def main() -> None:
        started: list[str] = []

        async def start(client: Any, who: str) -> None:
            await client.registry.start(name)
            started.append(who)

        legacy = bus1_bus.connect()
        serial = legacy.call("org.freedesktop.DBus", "StartServiceByName", "su", name, 0,
                             path="/org/freedesktop/DBus", interface="org.freedesktop.DBus")
        async with connect(native(bus1_bus)) as client, anyio.create_task_group() as tasks:
            tasks.start_soon(start, client, "one")
            tasks.start_soon(start, client, "two")
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as others:
                    others.start_soon(start, client, "given up")
                    async with connect(native(bus1_bus)) as dying:
                        others.start_soon(start, dying, "dead")
                        await aside(program.wait)
                        await dying.registry.names()
                        scope.cancel()
            assert started == []
            service = Service("A desk", name, objects={PATH: Desk()}, address=native(bus1_bus))
            async with service.running():
                await until(lambda: len(started) == 2)
                assert (await aside(legacy.reply, serial)).args == [1]
                await client.registry.start(name)
            assert sorted(started) == ["one", "two"]
        assert len(program.pids) == 1

    anyio.run(main, backend=backend)


@both_loops
def test_no_native_call_is_lost_while_a_service_leaves_and_comes_back_all_the_time(
    bus1_bus: Bus, startable: Startable, backend: str
) -> None:
    """Who finds that the object has gone, finds it anew; what was called is answered."""
    name, _ = startable.add()

    async def main() -> None:
        desk, lives = Desk(), 0
        answers: list[str] = []

        def is_enough() -> bool:
            return len(answers) >= 60 and lives > 5

        async def call() -> None:
            async with connect(native(bus1_bus)) as client:
                while not is_enough():
                    try:
                        answers.append(await (await client.registry.proxy(Desk, name, PATH)).ask())
                    except (NodeDestroyed, Stopping, NameHasNoOwner):
                        continue

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(call)
            while not is_enough():
                lives += 1
                service = Service("A desk", name, objects={PATH: desk}, address=native(bus1_bus))
                async with service.running() as connection:
                    seen = desk.n_served
                    await until(lambda seen=seen: desk.n_served > seen or is_enough())  # type: ignore[misc]
                    await idle([connection], 0)
                    await service.relinquish(connection)
            tasks.cancel_scope.cancel()
        assert set(answers) == {"here"}
        assert desk.n_served >= len(answers)

    anyio.run(main, backend=backend)


# ---- without sockets -------------------------------------------------------------------------------


class Starting:
    """A bus without sockets, and what its control plane is asked."""

    def __init__(self) -> None:
        self.bus = MixedBus()
        self.activation = self.bus.delivery.activation = Activation(self.bus.delivery)
        self.resumed: list[int] = []
        self.activation.resume = self.resumed.append
        self.effects: list[Effect] = []

    def settle(self) -> None:
        """As the bus does, but keep what goes out."""
        self.effects += self.bus.delivery.effects
        self.bus.settle()

    def start(self, native: Native, name: str, **more: Any) -> int:
        """Call Start without settling in between; the reply node."""
        kept, self.bus.settle = self.bus.settle, lambda: None  # type: ignore[method-assign]
        try:
            node = native.start_call(native.registry, "org.bus1.Registry1", "Start", "s", name, **more)
            self.bus.gateway.settle()
        finally:
            self.bus.settle = kept  # type: ignore[method-assign]
        self.settle()
        return node

    def tell(self, *commands: Any) -> None:
        """The control plane says this."""
        for command in commands:
            self.activation.carry_out(command)
        self.settle()


@pytest.fixture
def starting() -> Iterator[Starting]:
    starting = Starting()
    yield starting
    starting.bus.end()


def summaries(native: Native) -> list[tuple[int, Any]]:
    """Which reply nodes were answered, and with what error."""
    found = []
    for message in native.receive():
        if message.envelope is not None:
            assert message.envelope.kind in {Kind.RETURN, Kind.ERROR}
            found.append((message.node, message.envelope.member))
    return found


def test_calls_of_start_wait_for_the_control_plane_and_then_for_an_owner(starting: Starting) -> None:
    one, other, owner = (starting.bus.native() for _ in "123")
    first, second = starting.start(one, "a.a"), starting.start(one, "b.b")
    third = starting.start(other, "a.a")
    assert starting.effects == [LookUp(one.peer, "a.a"), LookUp(other.peer, "a.a")]
    starting.tell(Answer(one.peer, Found("program")))
    assert [type(effect) for effect in starting.effects[2:]] == [Start, LookUp]
    starting.tell(Answer(one.peer, None), Answer(other.peer, Found("program")))
    assert summaries(one) == [(second, UNKNOWN)]
    assert summaries(other) == []
    owner.publish("a.a")
    assert summaries(one) == [(first, "")] and summaries(other) == [(third, "")]
    assert summaries(one) == []
    fourth = starting.start(one, "a.a")
    assert summaries(one) == [(fourth, "")]


def test_a_start_that_fails_or_takes_too_long_is_told_to_each(starting: Starting) -> None:
    native = starting.bus.native()
    first = starting.start(native, "a.a")
    starting.tell(Answer(native.peer, Found("program")), StartFailed("a.a", 1, "x.Y", "no", False))
    assert summaries(native) == [(first, "x.Y")]
    second = starting.start(native, "a.a")
    starting.tell(Answer(native.peer, Found("program")))
    starting.activation.expire(1e9)
    starting.settle()
    assert summaries(native) == [(second, "org.freedesktop.DBus.Error.TimedOut")]


def test_peers_that_go_leave_nothing_and_calls_without_reply_start_all_the_same(starting: Starting) -> None:
    """The fixture compares the charges."""
    asking, waiting, silent = (starting.bus.native() for _ in "123")
    starting.start(asking, "a.a")
    starting.start(waiting, "b.b")
    starting.tell(Answer(waiting.peer, Found("program")))
    payload = pack(Kind.CALL, "org.bus1.Registry1", "Start", "s", "c.c", flags=CallFlag.NO_REPLY_EXPECTED)
    silent.send((silent.registry,), payload)
    starting.tell(Answer(silent.peer, Found("program")), StartFailed("c.c", 2, "x.Y", "no", False))
    assert summaries(silent) == []
    asking.kill()
    waiting.kill()
    starting.settle()
    starting.tell(Answer(asking.peer, Found("program")))
    silent.publish("b.b")
    assert summaries(silent) == []
    assert starting.resumed == []


def test_a_peer_has_a_bounded_number_of_starts_under_way(starting: Starting) -> None:
    native = starting.bus.native()
    nodes = [starting.start(native, f"a.a{number}") for number in range(ASKING_MAX + 1)]
    limited = "org.freedesktop.DBus.Error.LimitsExceeded"
    assert summaries(native) == [(nodes[-1], limited)]
    starting.bus.delivery.limits = replace(starting.bus.delivery.limits, max_pending_service_starts=3)
    for _ in nodes[:-1]:
        starting.tell(Answer(native.peer, Found("program")))
    assert [error for _, error in summaries(native)] == [limited] * (ASKING_MAX - 3)
