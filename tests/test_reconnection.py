"""A bus that goes away and comes back: what dies with it, what comes back, and what is said of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from bus1_services import Backoff, Connection, Service, connect, stay_connected
from buses import Bus, start_bus
from desk import NAME, PATH, Desk, both_loops

from bus1.errors import BusGone

AT_ONCE = Backoff(0.001, 0.01)


class Restartable:
    """A bus that a test ends and starts again, at the same place."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running = ExitStack()
        self.address = f"{folder}/bus1"

    def start(self) -> Bus:
        """Start it."""
        return start_bus("bus1-bridge", self._folder, self._running)

    def kill(self) -> None:
        """It is gone without a word."""
        self._running.close()

    def service(self, desk: Desk, **options: object) -> Service:
        return Service("A desk", NAME, objects={PATH: desk}, address=self.address, **options)  # type: ignore[arg-type]


@pytest.fixture
def restartable(tmp_path: Path) -> Iterator[Restartable]:
    bus = Restartable(tmp_path)
    yield bus
    bus.kill()


def test_pauses_grow_within_bounds_and_are_shortened_by_chance() -> None:
    never, always = Backoff(1, 30, lambda: 0.0), Backoff(1, 30, lambda: 1.0)
    assert list(islice(never.pauses(), 7)) == [1, 2, 4, 8, 16, 30, 30]
    assert list(islice(always.pauses(), 7)) == [0.5, 1, 2, 4, 8, 15, 15]
    assert all(0.5 <= pause <= 1 for pause in islice(Backoff(1, 1).pauses(), 100))
    for first, longest in ((0, 1), (-1, 1), (2, 1)):
        with pytest.raises(ValueError, match=f"pauses from {first} to {longest}"):
            Backoff(first, longest)


@both_loops
def test_a_service_comes_back_with_its_bus_and_its_objects_are_what_they_were(
    restartable: Restartable, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        desk, lives = Desk(), 0
        may_restart = anyio.Event()

        async def visit(client: Connection) -> None:
            proxy = await client.registry.proxy(Desk, NAME, PATH)
            async with proxy.served.subscribe() as stream:
                assert await proxy.ask() == "here"
                await desk.served("you")
                assert await anext(stream) == "you"

        async def live(connection: Connection) -> None:
            nonlocal lives
            lives += 1
            async with connect(restartable.address) as client:
                await visit(client)
            if lives == 1:
                restartable.kill()
                may_restart.set()
                await connection.ended()

        async def restart() -> None:
            await may_restart.wait()
            restartable.start()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(restart)
            await restartable.service(desk, reconnect=AT_ONCE).serve(live)
        assert (lives, desk.n_served) == (2, 2)

    restartable.start()
    anyio.run(main, backend=backend)
    gone, there = [message for message in caplog.messages if message.startswith("A desk: ")]
    assert gone.endswith("; trying again") and there == "A desk: the bus is there again"


@both_loops
def test_what_belongs_to_the_old_bus_says_that_it_is_gone(restartable: Restartable, backend: str) -> None:
    """Running calls, calls from then on, streams, handles, names, and the connection itself."""

    async def main() -> None:
        desk = Desk()
        outcomes: list[str] = []

        async def expect(what: str, use: Callable[[], Awaitable[object]]) -> None:
            with pytest.raises(BusGone):
                await use()
            outcomes.append(what)

        service = restartable.service(desk)
        with pytest.raises(BusGone):
            async with service.running() as connection, connect(restartable.address) as client:
                proxy = await client.registry.proxy(Desk, NAME, PATH)
                async with proxy.served.subscribe() as stream, anyio.create_task_group() as tasks:
                    tasks.start_soon(expect, "call", proxy.wait)
                    tasks.start_soon(expect, "stream", lambda: anext(stream))
                    tasks.start_soon(expect, "client", client.ended)
                    await desk.entered.wait()
                    restartable.kill()
                await expect("new call", proxy.ask)
                await expect("name", lambda: client.registry.resolve(NAME))
                async with proxy.served.subscribe():
                    pytest.fail("nothing is there to subscribe to")
        await desk.served("nobody")
        assert not connection.is_open
        assert sorted(outcomes) == ["call", "client", "name", "new call", "stream"]

    restartable.start()
    anyio.run(main, backend=backend)


@both_loops
def test_a_service_without_a_policy_ends_with_its_bus(restartable: Restartable, backend: str) -> None:
    async def main() -> None:
        async def kill(connection: Connection) -> None:
            restartable.kill()
            await anyio.sleep_forever()

        with pytest.raises(BusGone):
            await restartable.service(Desk(), tasks=[kill]).serve()

    restartable.start()
    anyio.run(main, backend=backend)


@both_loops
def test_a_client_waits_for_a_bus_that_is_not_there_yet(
    restartable: Restartable, backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        found: list[list[str]] = []

        async def visit(connection: Connection) -> None:
            found.append(await connection.registry.names())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: stay_connected(visit, restartable.address, backoff=AT_ONCE))
            await anyio.wait_all_tasks_blocked()
            assert found == []
            restartable.start()
        assert found == [[]]

    anyio.run(main, backend=backend)
    assert len(caplog.messages) == 2
    assert f"no bus at {restartable.address}" in caplog.messages[0]


def test_errors_of_the_function_itself_are_not_outages(restartable: Restartable) -> None:
    async def fail(connection: Connection) -> None:
        await connection.registry.names()
        raise LookupError("no tea")

    restartable.start()
    with pytest.raises(LookupError, match="no tea"):
        anyio.run(lambda: stay_connected(fail, restartable.address, backoff=AT_ONCE))


@both_loops
def test_a_bus_that_drops_its_clients_is_not_hammered(
    restartable: Restartable, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses grow although each attempt succeeds, and begin anew after a connection that lasted."""

    async def main() -> None:
        pauses: list[float] = []
        clock = anyio.current_time
        late = 0.0

        async def pause(seconds: float) -> None:
            await anyio.lowlevel.checkpoint()
            pauses.append(seconds)

        async def live(connection: Connection) -> None:
            nonlocal late
            if len(pauses) == 3:
                late += 31
            if len(pauses) < 5:
                await connection.peer.disconnect()
                await connection.ended()

        with monkeypatch.context() as patch:
            patch.setattr("bus1_services.reconnection.anyio.sleep", pause)
            patch.setattr("bus1_services.reconnection.anyio.current_time", lambda: clock() + late)
            await stay_connected(live, restartable.address, backoff=Backoff(1, 30, lambda: 0))
        assert pauses == [1, 2, 4, 1, 2]

    restartable.start()
    anyio.run(main, backend=backend)
