"""Calls that are given up, late, too many, or refused: what each side sees, and that nothing is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import anyio
import pytest
from bus1_services import Connection, DBusError, Int32, Interface, Remote, Str, method
from bus1_services import calls as calls_module
from bus1_services.body import encode
from bus1_services.call import Envelope, Kind
from bus1_services.call import encode as encode_envelope
from bus1_services.errors import LimitsExceeded, NoReply, Timeout
from core_peer import introduce
from test_services import core_peer, nodes_of, on_a_bus, quiet

from bus1.errors import BusGone


@pytest.fixture(autouse=True, params=["asyncio", "trio"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs on both loops."""
    monkeypatch.setattr(anyio, "run", partial(anyio.run, backend=request.param))


class Works(Interface, name="org.example.Works1"):
    """Methods that take long; ``events`` is what happened in them."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.changed = anyio.Event()
        self.may_leave = anyio.Event()

    def note(self, event: str) -> None:
        self.events.append(event)
        self.changed.set()
        self.changed = anyio.Event()

    async def noted(self, *events: str) -> None:
        """Wait until these, and no others, have happened."""
        while len(self.events) < len(events):
            await self.changed.wait()
        assert self.events == list(events)

    async def work(self, name: str) -> str:
        self.note(f"{name} began")
        try:
            await self.may_leave.wait()
        except anyio.get_cancelled_exc_class():
            self.note(f"{name} was cancelled")
            raise
        self.note(f"{name} ended")
        return name

    @method
    async def plain(self, name: Str) -> Str:
        return await self.work(name)

    @method(shielded=True)
    async def kept(self, name: Str) -> Str:
        return await self.work(name)

    @method(deadline=0.001)
    async def late(self, name: Str) -> Str:
        return await self.work(name)

    @method(limit=2)
    async def narrow(self, name: Str) -> Str:
        return await self.work(name)

    @method
    async def stubborn(self) -> Str:
        self.note("began")
        with anyio.CancelScope(shield=True):
            await self.may_leave.wait()
        self.note("ended")
        return "late"

    @method
    def add(self, a: Int32, b: Int32) -> Int32:
        return a + b


class Small(Works, max_calls=4):
    """Takes four calls at a time."""


async def meet(service: Connection, client: Connection, kind: type[Works] = Works) -> tuple[Works, Works]:
    """Works, and a proxy for them."""
    works = kind()
    return works, client.proxy(Works, await introduce(service, client, works))


class Calling:
    """A call in a task of its own, which can be given up."""

    def __init__(self, call: Callable[[], Awaitable[object]]) -> None:
        self.scope = anyio.CancelScope()
        self.outcome: object = None
        self._call = call

    async def run(self) -> None:
        with self.scope:
            try:
                self.outcome = await self._call()
            except DBusError as error:
                self.outcome = error


@on_a_bus()
async def test_a_call_that_is_given_up_is_cancelled_at_the_service(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.plain, "it")
            await works.noted("it began")
            scope.cancel()
    await works.noted("it began", "it was cancelled")
    await service.export(works).finished()
    await quiet(service, client)
    assert nodes_of(client) == []
    assert await proxy.add(1, 1) == 2


@on_a_bus()
async def test_a_deadline_of_the_caller_reaches_the_service(service: Connection, client: Connection) -> None:
    works, proxy = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(3600) as scope:
                async def end() -> None:
                    await works.noted("it began")
                    scope.deadline = anyio.current_time()

                tasks.start_soon(end)
                await proxy.plain("it")
    await works.noted("it began", "it was cancelled")


@on_a_bus()
async def test_a_proxy_may_have_a_timeout(service: Connection, client: Connection) -> None:
    works, proxy = await meet(service, client)
    remote = cast(Remote, proxy.__far__)
    hasty = client.proxy(Works, remote.handle, timeout=0.001)
    with pytest.raises(Timeout, match=r"Plain was not answered within 0\.001 s"):
        await hasty.plain("it")
    await service.export(works).finished()
    assert await client.proxy(Works, remote.handle, timeout=3600).add(1, 1) == 2


@on_a_bus()
async def test_the_death_of_a_caller_cancels_its_calls(service: Connection, client: Connection) -> None:
    works, proxy = await meet(service, client)

    async def call() -> None:
        with pytest.raises(BusGone):
            await proxy.plain("it")

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await works.noted("it began")
        core_peer(client).disconnect()
    await works.noted("it began", "it was cancelled")
    await service.export(works).finished()


@on_a_bus()
async def test_the_end_of_the_bus_cancels_what_nobody_can_be_told(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        calling = Calling(lambda: proxy.plain("it"))
        tasks.start_soon(calling.run)
        await works.noted("it began")
        core_peer(service).disconnect()
        await works.noted("it began", "it was cancelled")
    assert isinstance(calling.outcome, NoReply)


@on_a_bus()
async def test_a_shielded_method_is_not_cancelled(service: Connection, client: Connection) -> None:
    works, proxy = await meet(service, client)
    for call in (lambda: proxy.kept("it"), proxy.stubborn):
        works.events, works.may_leave = [], anyio.Event()
        async with anyio.create_task_group() as tasks:
            calling = Calling(call)
            tasks.start_soon(calling.run)
            while not works.events:
                await works.changed.wait()
            calling.scope.cancel()
            await quiet(client, service)
        assert service.export(works).busy == 1
        works.may_leave.set()
        await service.export(works).finished()
        assert [event.split()[-1] for event in works.events] == ["began", "ended"]


@on_a_bus()
async def test_a_deadline_of_the_service_cancels_the_method_and_tells_the_caller(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    with pytest.raises(Timeout, match=r"Late was cancelled: it has 0\.001 s") as caught:
        await proxy.late("it")
    assert caught.value.name == "org.freedesktop.DBus.Error.Timeout"
    await works.noted("it began", "it was cancelled")


def test_an_override_keeps_how_its_method_runs_and_may_say_otherwise() -> None:
    class Same(Works):
        async def late(self, name: str) -> str:
            return await self.work(name)

    class Patient(Works):
        @method(deadline=3600)
        async def late(self, name: Str) -> Str:
            return await self.work(name)

    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        _, proxy = await meet(service, client, Same)
        with pytest.raises(Timeout):
            await proxy.late("it")
        works, proxy = await meet(service, client, Patient)
        works.may_leave.set()
        assert await proxy.late("it") == "it"

    run()


@pytest.mark.parametrize("options", [
    {"deadline": 0}, {"deadline": -1}, {"limit": 0}, {"deadline": float("nan")},
])
def test_a_bound_that_no_call_could_keep_is_an_error_of_the_declaration(options: dict[str, float]) -> None:
    class Odd(Interface, name="org.example.Odd1"):
        @method(**options)  # type: ignore[call-overload, untyped-decorator]
        def act(self) -> None: ...

    with pytest.raises(TypeError, match="act"):
        Odd.act.spec()
    with pytest.raises(TypeError, match="Nobody"):
        class Nobody(Interface, max_calls=0): ...


@on_a_bus()
async def test_a_method_with_a_limit_runs_so_many_times_and_others_wait_in_order(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        callings = [Calling(partial(proxy.narrow, name)) for name in "abcd"]
        for calling in callings:
            tasks.start_soon(calling.run)
            await quiet(client, service)
        await works.noted("a began", "b began")
        assert await proxy.add(1, 1) == 2
        works.may_leave.set()
    assert [calling.outcome for calling in callings] == list("abcd")
    assert [event for event in works.events if "began" in event] == [f"{name} began" for name in "abcd"]


@on_a_bus()
async def test_a_call_that_waits_and_is_given_up_never_runs(service: Connection, client: Connection) -> None:
    works, proxy = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        callings = [Calling(partial(proxy.narrow, name)) for name in "abcd"]
        for calling in callings:
            tasks.start_soon(calling.run)
            await quiet(client, service)
        callings[2].scope.cancel()
        await quiet(client, service)
        assert service.export(works).busy == 3
        works.may_leave.set()
    assert [calling.outcome for calling in callings] == ["a", "b", None, "d"]
    assert "c began" not in works.events


@on_a_bus()
async def test_a_call_whose_task_has_not_begun_is_dropped_with_its_caller(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    start, late = service.start, list[tuple[object, ...]]()
    service.start = lambda *work: late.append(work)
    async with anyio.create_task_group() as tasks:
        calling = Calling(lambda: proxy.plain("it"))
        tasks.start_soon(calling.run)
        await quiet(client, service)
        calling.scope.cancel()
        await quiet(client, service)
    for work in late:
        start(*work)
    await service.export(works).finished()
    assert (len(late), works.events) == (1, [])


@on_a_bus()
async def test_a_call_whose_reply_node_is_dead_already_or_missing_is_dropped(
    service: Connection, client: Connection
) -> None:
    """R-45: the handle of a dead node arrives as INVALID."""
    works, proxy = await meet(service, client)
    dead = Works()
    reply = await introduce(service, client, dead)
    service.export(dead).withdraw()
    await quiet(service, client)
    to = cast(Remote, proxy.__far__).handle.id
    call = encode("s", ("it",)).data
    head = encode_envelope(Envelope(Kind.CALL, member="Plain", signature="s", body_length=len(call)))
    await client.peer.send([to], [head, call], [reply.id])
    await client.peer.send([to], [head, call])
    await quiet(client, service)
    assert (works.events, service.export(works).busy) == ([], 0)
    assert await proxy.add(1, 1) == 2


@on_a_bus(3)
async def test_who_floods_an_object_leaves_places_for_others(
    service: Connection, client: Connection, other: Connection
) -> None:
    works, proxy = await meet(service, client, Small)
    polite = other.proxy(Works, await introduce(service, other, works))
    core_peer(other).credentials = type(core_peer(other).credentials)(4242, 4242, 4242)
    async with anyio.create_task_group() as tasks:
        callings = [Calling(partial(proxy.plain, name)) for name in "abc"]
        for calling in callings:
            tasks.start_soon(calling.run)
            await quiet(client, service)
        assert service.export(works).busy == 1
        for calling in callings[1:]:
            assert isinstance(calling.outcome, LimitsExceeded)
            assert "1 calls of Small under way; 1 of 4 places" in str(calling.outcome)
        assert await polite.add(1, 1) == 2
        works.may_leave.set()
    assert callings[0].outcome == "a"
    assert await proxy.add(1, 1) == 2


def test_a_refused_call_has_no_effect_and_refusals_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "MAX_REFUSALS", 1)

    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        works, proxy = await meet(service, client)
        remote = cast(Remote, proxy.__far__)
        start, late = service.start, list[tuple[object, ...]]()
        service.export(works).refuse(DBusError("no"))
        await remote.send("org.example.Works1", "Plain", "s", ("unanswered",))
        service.start = lambda *work: late.append(work)
        async with anyio.create_task_group() as tasks:
            callings = [Calling(lambda: proxy.plain("it")) for _ in range(3)]
            for calling in callings:
                tasks.start_soon(calling.run)
                await quiet(client, service)
            assert [type(calling.outcome) for calling in callings] == [type(None), NoReply, NoReply]
            for work in late:
                start(*work)
        assert str(callings[0].outcome) == "org.freedesktop.DBus.Error.Failed: no"
        assert works.events == []
        service.start = start
        with pytest.raises(DBusError, match="no"):
            await proxy.add(1, 1)

    run()


@on_a_bus()
async def test_the_calls_of_all_objects_of_a_service_have_a_bound(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    _, beside = await meet(service, client)
    service.places.limit = 1
    async with anyio.create_task_group() as tasks:
        calling = Calling(lambda: proxy.plain("it"))
        tasks.start_soon(calling.run)
        await works.noted("it began")
        with pytest.raises(LimitsExceeded, match="this service"):
            await beside.add(1, 1)
        works.may_leave.set()
    assert await beside.add(1, 1) == 2
    assert service.places.taken == 0


@on_a_bus()
async def test_an_object_may_refuse_new_calls_and_finish_those_it_has(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    export = service.export(works)
    async with anyio.create_task_group() as tasks:
        calling = Calling(lambda: proxy.plain("it"))
        tasks.start_soon(calling.run)
        await works.noted("it began")
        export.refuse(DBusError("closing time", name="org.example.Error.Closed"))
        for _ in range(2):
            with pytest.raises(DBusError, match="closing time"):
                await proxy.add(1, 1)
        assert export.busy == 1
        for _ in range(2):
            tasks.start_soon(export.finished)
        await quiet(service)
        works.may_leave.set()
        await export.finished()
        assert export.busy == 0
    assert calling.outcome == "it"
    export.refuse(None)
    assert await proxy.add(1, 1) == 2


@on_a_bus()
async def test_the_calls_that_an_object_has_may_be_ended_with_an_error(
    service: Connection, client: Connection
) -> None:
    works, proxy = await meet(service, client)
    async with anyio.create_task_group() as tasks:
        callings = [
            Calling(call) for call in (
                lambda: proxy.narrow("a"), lambda: proxy.narrow("b"), lambda: proxy.narrow("c"),
                lambda: proxy.kept("d"),
            )
        ]
        for calling in callings:
            tasks.start_soon(calling.run)
            await quiet(client, service)
        service.export(works).cancel(DBusError("it is over", name="org.example.Error.Over"))
    assert [str(calling.outcome) for calling in callings] == ["org.example.Error.Over: it is over"] * 4
    assert "c began" not in works.events
    assert await proxy.add(1, 1) == 2
    works.may_leave.set()
    assert await proxy.narrow("e") == "e"


class Session(Interface, name="org.example.Session1"):
    """Made for one client; ``ended`` is set when nobody has it."""

    def __init__(self) -> None:
        self.ended = anyio.Event()

    def unreferenced(self) -> None:
        self.ended.set()


class Hotel(Interface, name="org.example.Hotel1"):
    """Gives sessions that do not arrive."""

    def __init__(self) -> None:
        self.session = Session()
        self.entered = anyio.Event()

    @method(shielded=True)
    async def slow(self) -> Session:
        self.entered.set()
        with anyio.CancelScope(shield=True):
            await anyio.wait_all_tasks_blocked()
        return self.session

    @method(gives="os")
    def torn(self) -> object:
        return self.session, 5


def test_an_object_that_its_client_never_got_ends(caplog: pytest.LogCaptureFixture) -> None:
    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        hotel = Hotel()
        proxy = client.proxy(Hotel, await introduce(service, client, hotel))
        async with anyio.create_task_group() as tasks:
            calling = Calling(proxy.slow)
            tasks.start_soon(calling.run)
            await hotel.entered.wait()
            calling.scope.cancel()
        await hotel.session.ended.wait()
        hotel.session = Session()
        with pytest.raises(DBusError, match="do not fit"):
            await proxy.torn()
        await hotel.session.ended.wait()
        await quiet(service, client)
        assert len(nodes_of(service)) == 1

    run()
    assert len(caplog.records) == 1
