"""The registry's client, against a registry that is played by hand."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import anyio
import pytest
from bus1_services import Connection, Handle, Interface, Str, method, seed
from bus1_services.call import Envelope, Kind
from bus1_services.connection import attach
from bus1_services.errors import NameHasNoOwner, UnknownObject, from_name
from bus1_services.handle import Arrival
from bus1_services.registry import NameOwnerChanged
from core_peer import CoreBus, CorePeer, connections

from bus1.aio import Peer
from bus1.core.api import Message, MessageType, RecvFlag, ResetFlag
from bus1.errors import Bus1Error, LocalProtocolError, RemoteProtocolError, WouldBlock


class Clock(Interface, name="org.example.Clock1"):
    """A clock."""

    @method
    def now(self) -> Str:
        return "noon"


class Lamp(Interface, name="org.example.Lamp1"):
    """Notes its end."""

    def __init__(self) -> None:
        self.was_dropped = anyio.Event()

    def unreferenced(self) -> None:
        self.was_dropped.set()


def seed_of(connection: Connection) -> Message:
    peer = cast(CorePeer, connection.peer)
    message = peer.bus.core.recv(peer.number, RecvFlag.SEED | RecvFlag.PEEK)
    for handle in message.handles:
        peer.bus.core.handle_release(peer.number, handle)
    return message


def refuse(values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
    raise LookupError("no")


class HandRegistry:
    """Answers one service and its clients; ``document`` is what was published last."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.node = connection.node(self)
        self.emitter = connection.node(self)
        self.calls: list[str] = []
        self.document = seed.SeedDocument("")
        self.held: list[Handle] = []
        self.watcher: Handle | None = None
        self.error = NameHasNoOwner.default_name
        self.answers: dict[str, Callable[[list[Any], list[Handle]], tuple[str, list[Any], list[int]]]] = {
            "Publish": self._publish, "Withdraw": lambda values, _: ("au", [[1] * len(values[0])], []),
            "Resolve": self._resolve, "Derive": self._derive, "List": lambda *_: ("as", [["a.b"]], []),
            "Watch": self._watch,
        }

    def arrived(self, arrival: Arrival) -> None:
        reply, *others = arrival.handles
        assert reply is not None
        self.calls.append(arrival.envelope.member)
        values = arrival.values()
        self.connection.start(self._answer, arrival.envelope, reply, values, others)

    def released(self) -> None: ...

    def lost(self, error: Bus1Error) -> None: ...

    async def change(self, *values: str) -> None:
        assert self.watcher is not None
        await self.connection.transmit(
            [self.watcher.id], Kind.SIGNAL, "sss", values, interface="org.bus1.Registry1",
            member="NameOwnerChanged", handles=[self.node],
        )

    async def _answer(
        self, envelope: Envelope, reply: Handle, values: list[Any], others: list[Handle]
    ) -> None:
        try:
            signature, results, handles = self.answers[envelope.member](values, others)
        except LookupError:
            await self.connection.transmit(
                [reply.id], Kind.ERROR, "s", ["nobody"], member=self.error
            )
        else:
            await self.connection.transmit([reply.id], Kind.RETURN, signature, results, handles=handles)
        reply.release()

    def _publish(self, values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        title, names, objects = values
        self.document = seed.SeedDocument(title, tuple(names), tuple(objects))
        self.held = handles
        return "sau", [":1.7", [1] * len(names)], [self.emitter]

    def _resolve(self, values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        dict(self.document.names)[values[0]]
        return "s", [":1.7"], [self.held[0].id]

    def _derive(self, values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        assert handles[0].id == self.held[0].id
        paths = [path for path, _ in self.document.objects]
        return "", [], [self.held[1 + paths.index(values[0])].id]

    def _watch(self, values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        self.watcher = handles[0]
        return "", [], []


def with_a_registry(
    function: Callable[[HandRegistry, Connection, Connection], Awaitable[None]]
) -> Callable[[], None]:
    """Run a test with a registry, a service and a client, each granted the registry; on both loops."""

    async def main() -> None:
        bus = CoreBus()
        async with connections(bus, 1) as (host,):
            registry = HandRegistry(host)
            service, client = bus.peer(), bus.peer()
            for peer in (service, client):
                peer.granted = (await cast(CorePeer, host.peer).transfer(registry.node, peer),)
            async with attach(cast(Peer, service)) as one, attach(cast(Peer, client)) as other:
                await function(registry, one, other)
            service.disconnect()
            client.disconnect()
        assert bus.charges() == {}

    def test() -> None:
        for backend in ("asyncio", "trio"):
            anyio.run(main, backend=backend)

    test.__name__ = function.__name__
    return test


@with_a_registry
async def test_an_object_is_found_although_its_owner_changes_meanwhile(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    """One that leaves after it was resolved is not the last word; one that stays without the object is."""
    await service.registry.publish("Clocks", {"a.b": 0}, {"/clock": Clock()})
    owners = iter([":1.1", ":1.2", ":1.3", ":1.3"])
    derived: list[str] = []

    def resolve(values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        return "s", [next(owners)], [registry.held[0].id]

    def derive(values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        derived.append(values[0])
        if len(derived) < 3:
            raise LookupError
        return "", [], [registry.held[1].id]

    registry.error = UnknownObject.default_name
    registry.answers |= {"Resolve": resolve, "Derive": derive}
    clock = await client.registry.proxy(Clock, "a.b", "/clock")
    assert await clock.now() == "noon"
    assert derived == ["/clock"] * 3
    owners, derived[:] = iter([":1.3", ":1.3"]), []
    with pytest.raises(UnknownObject):
        await client.registry.proxy(Clock, "a.b", "/clock")
    owners, derived[:] = iter(f":1.{number}" for number in range(99)), []
    registry.answers["Derive"] = refuse
    with pytest.raises(NameHasNoOwner, match="came and went"):
        await client.registry.proxy(Clock, "a.b", "/clock")


@with_a_registry
async def test_a_published_object_is_found_by_name_and_path(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    published = await service.registry.publish("A clock", {"org.example.Clock": 4}, {"/clock": Clock()})
    assert (published.unique, published.results) == (":1.7", (1,))
    assert registry.document.title == "A clock"
    assert registry.document.names == (("org.example.Clock", 4),)
    ((path, xml),) = registry.document.objects
    assert path == "/clock" and xml.strip().startswith('<interface name="org.example.Clock1">')
    clock = await client.registry.proxy(Clock, "org.example.Clock", "/clock")
    assert await clock.now() == "noon"


@with_a_registry
async def test_the_document_is_pinned_as_the_seed(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    """S-12: the published nodes survive a flush of the peer."""
    clock = Clock()
    await service.registry.publish("A clock", {}, {"/clock": clock})
    peer = cast(CorePeer, service.peer)
    message = peer.bus.core.recv(peer.number, RecvFlag.SEED | RecvFlag.PEEK)
    assert message.type is MessageType.DATA
    assert seed.decode(b"".join(map(bytes, peer.memory.read(message.offset)))) == registry.document
    assert message.handles == (service.root.node, service.export(clock).node)
    peer.bus.core.peer_reset(peer.number, ResetFlag.FLUSH)
    peer.bus.settle()
    handle = client.handle(await peer.transfer(service.export(clock).node, client.peer))
    assert await client.proxy(Clock, handle).now() == "noon"


@with_a_registry
async def test_a_published_object_outlives_its_last_holder(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    clock = Clock()
    await service.registry.publish("A clock", {}, {"/clock": clock})
    export = service.export(clock)
    export.released()
    assert service.export(clock) is export
    await service.registry.withdraw()
    assert export.emitter is None
    export.released()
    assert service.export(clock) is not export


@with_a_registry
async def test_publishing_again_replaces_the_objects(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    first, second, third = Clock(), Clock(), Clock()
    await service.registry.publish("Clocks", {}, {"/1": first, "/2": second})
    await service.registry.publish("Clocks", {}, {"/2": second, "/3": third})
    assert [path for path, _ in registry.document.objects] == ["/2", "/3"]
    exports = [service.export(clock) for clock in (first, second, third)]
    assert [export.is_published for export in exports] == [False, True, True]
    assert [export.emitter is not None for export in exports] == [False, True, True]


@with_a_registry
async def test_a_first_publication_that_fails_leaves_nothing_published(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    registry.answers["Publish"] = refuse
    lamp = Lamp()
    with pytest.raises(NameHasNoOwner):
        await service.registry.publish("A lamp", {}, {"/lamp": lamp})
    with pytest.raises(WouldBlock):
        seed_of(service)
    assert not service.published
    await lamp.was_dropped.wait()


@pytest.mark.parametrize("path", ["/new", "no path"])
def test_a_publication_that_fails_leaves_the_one_before(path: str) -> None:
    @with_a_registry
    async def run(registry: HandRegistry, service: Connection, client: Connection) -> None:
        old, new = Lamp(), Lamp()
        await service.registry.publish("Old", {}, {"/old": old})
        earlier = seed_of(service)
        registry.answers["Publish"] = refuse
        with pytest.raises((NameHasNoOwner, LocalProtocolError)):
            await service.registry.publish("New", {}, {"/old": old, path: new})
        assert seed_of(service).handles == earlier.handles
        await new.was_dropped.wait()
        (export,) = service.published
        assert (export.target, export.is_published, export.emitter is None) == (old, True, False)
        assert not old.was_dropped.is_set()

    run()


@with_a_registry
async def test_an_object_ends_when_its_publication_is_withdrawn(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    """S-11: the seed pins the object no longer."""
    lamp = Lamp()
    await service.registry.publish("A lamp", {"org.example.Lamp": 4}, {"/lamp": lamp})
    await service.registry.withdraw("org.example.Lamp")
    assert seed_of(service).handles
    for handle in registry.held:
        handle.release()
    await service.registry.withdraw()
    with pytest.raises(WouldBlock):
        seed_of(service)
    await lamp.was_dropped.wait()


@with_a_registry
async def test_a_cancelled_publication_is_ended_by_a_withdrawal(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    """Nobody knows whether the registry took it."""
    lamp, asked = Lamp(), anyio.Event()

    def publish(values: list[Any], handles: list[Handle]) -> tuple[str, list[Any], list[int]]:
        asked.set()
        tasks.cancel_scope.cancel()
        return "", [], []

    registry.answers["Publish"] = publish
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.registry.publish, "A lamp", {}, {"/lamp": lamp})
    assert asked.is_set() and not lamp.was_dropped.is_set()
    await service.registry.withdraw()
    await lamp.was_dropped.wait()


@with_a_registry
async def test_names_are_listed_given_up_and_resolved(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    await service.registry.publish("A clock", {"org.example.Clock": 4}, {})
    assert await client.registry.names() == ["a.b"]
    assert await service.registry.withdraw("org.example.Clock") == [1]
    assert (await client.registry.resolve("org.example.Clock")).unique == ":1.7"
    with pytest.raises(NameHasNoOwner, match="nobody"):
        await client.registry.resolve("org.example.Nobody")


@with_a_registry
async def test_changes_of_owners_are_watched(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    async with client.registry.watch("org.example.Clock") as changes:
        await registry.change("org.example.Clock", "", ":1.7")
        assert await anext(changes) == NameOwnerChanged("org.example.Clock", "", ":1.7")
    await client.swept()
    assert registry.watcher is not None
    registry.watcher.release()


@with_a_registry
async def test_an_answer_of_another_type_is_a_protocol_error(
    registry: HandRegistry, service: Connection, client: Connection
) -> None:
    registry.answers["List"] = lambda *_: ("s", ["a"], [])
    registry.answers["Resolve"] = lambda *_: ("s", ["a"], [])
    with pytest.raises(RemoteProtocolError):
        await client.registry.names()
    with pytest.raises(RemoteProtocolError, match="without the handle"):
        await client.registry.resolve("a.b")


def test_an_error_name_without_a_class_is_kept() -> None:
    error = from_name("org.example.Error.New", "text")
    assert (error.name, error.text) == ("org.example.Error.New", "text")
    assert str(error) == "org.example.Error.New: text"
