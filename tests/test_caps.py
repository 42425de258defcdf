"""What is handed out in place of an object: views; and who tries to get more from them."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, cast

import anyio
import pytest
from bus1_services import (
    NOBODY,
    Bool,
    Caller,
    Connection,
    DBusError,
    Int32,
    Interface,
    ObjectPath,
    Reference,
    Remote,
    SignalStream,
    Signature,
    Str,
    UInt32,
    UnixFd,
    Variant,
    VariantDict,
    interfaces_of,
    method,
    prop,
    signal,
)
from bus1_services.caps import Audit, Membrane, Revoked, Use, attenuate, audit, expiring, revocable
from bus1_services.errors import (
    AccessDenied,
    InvalidArgs,
    NoReply,
    PropertyReadOnly,
    UnknownInterface,
    UnknownMethod,
    UnknownProperty,
)
from bus1_services.handle import Handle
from bus1_services.members import SignalSpec
from bus1_services.standard import Introspectable, Properties
from core_peer import introduce
from test_services import core_peer, on_a_bus, quiet

from bus1 import record
from bus1.errors import InvalidArgument, NodeDestroyed

SHELF = "org.example.Shelf1"
PROPERTIES = "org.freedesktop.DBus.Properties"


class Reader(Interface, name="org.example.Reader1"):
    """Somebody who wants to be told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @method
    def tell(self, book: Book) -> Str:
        self.told.append(book)
        return "thanks"


class Book(Interface, name="org.example.Book1"):
    """What a shelf gives."""

    def __init__(self, title: str) -> None:
        self._title = title

    @method
    def next(self) -> Book:
        return Book(self._title + "'")

    @prop
    def title(self) -> Str:
        return self._title


class Vault(Interface, name="org.example.Vault1"):
    """The part that is seldom granted."""

    @method
    def burn(self) -> Str:
        return "burnt"

    @prop
    def key(self) -> Str:
        return "secret"


class Shelf(Vault, name=SHELF):
    """Everything that is granted in part."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.entered = anyio.Event()
        self.may_leave = anyio.Event()
        self.was_dropped = anyio.Event()
        self.readers: list[Reader] = []
        self.book = Book("first")
        self._label = "old"

    @method
    def find(self, title: Str, year: Int32) -> Str:
        self.calls.append((title, year))
        return f"{title} {year}"

    @method
    def take(self) -> Book:
        return self.book

    @method
    def give(self, book: Book) -> Str:
        return "mine" if book is self.book else "foreign"

    @method
    def register(self, reader: Reader) -> None:
        self.readers.append(reader)

    @method
    def who(self, caller: Caller = NOBODY) -> UInt32:
        return caller.pid

    @method
    async def wait(self) -> Str:
        self.entered.set()
        await self.may_leave.wait()
        return "late"

    @method
    def raw(self) -> UnixFd:
        return UnixFd(os.open("/dev/null", os.O_RDONLY))

    @method
    def beside(self, caller: Caller = NOBODY) -> Int32:
        return len(caller.handles)

    @method
    def hidden(self) -> Variant:
        return Variant("v", Variant("h", 0))

    @method
    def loose(self) -> Annotated[Any, Signature("o")]:
        return self.book

    @method
    def several(self) -> Annotated[Any, Signature("ao")]:
        return iter([self.book])

    @method
    def mark(self, place: ObjectPath) -> Bool:
        self.calls.append((place,))
        return isinstance(place, Reference)

    @method
    def echo(self, values: VariantDict) -> VariantDict:
        return values

    @prop
    def label(self) -> Str:
        return self._label

    @label.setter
    def _set_label(self, label: str) -> None:
        self._label = label

    @prop
    def size(self) -> Int32:
        return 3

    @signal
    def moved(self, title: Str) -> None: ...

    @signal
    def lent(self, book: Book) -> None: ...

    def unreferenced(self) -> None:
        self.was_dropped.set()


async def hand_over(service: Connection, client: Connection, view: Any) -> tuple[Shelf, Remote]:
    """The view as its holder sees it: with types, and without."""
    handle = await introduce(service, client, view)
    return client.proxy(Shelf, handle), Remote(client, handle)


# ---- attenuation ---------------------------------------------------------------------------------


@on_a_bus()
async def test_an_attenuated_object_answers_what_is_granted(service: Connection, client: Connection) -> None:
    shelf = Shelf()
    view = attenuate(shelf, Shelf.find, Shelf.who, Shelf.size, writable=[Shelf.label])
    proxy, _ = await hand_over(service, client, view)
    assert await proxy.find("Emma", 1815) == "Emma 1815"
    assert await view.find("Emma", 1816) == "Emma 1816"
    assert await proxy.who() == os.getpid()
    await proxy.label.set("new")
    assert (shelf._label, await proxy.label, await proxy.size) == ("new", "new", 3)


@on_a_bus()
async def test_what_is_not_granted_is_not_there_by_any_way(service: Connection, client: Connection) -> None:
    view = attenuate(Shelf(), Shelf.find, Shelf.label)
    proxy, remote = await hand_over(service, client, view)
    for interface, member, error in (
        (SHELF, "Take", UnknownMethod), ("", "Take", UnknownMethod), ("", "Burn", UnknownMethod),
        ("org.example.Vault1", "Burn", UnknownInterface), (SHELF, "Burn", UnknownMethod),
        ("org.example.Vault1", "Find", UnknownInterface),
    ):
        with pytest.raises(error):
            await remote.call(interface, member)
    for interface, name in ((SHELF, "Size"), ("", "Key"), ("", "Size")):
        with pytest.raises(UnknownProperty):
            await remote.call(PROPERTIES, "Get", "ss", (interface, name))
    with pytest.raises(UnknownInterface):
        await remote.call(PROPERTIES, "GetAll", "s", ("org.example.Vault1",))
    with pytest.raises(PropertyReadOnly):
        await proxy.label.set("mine")
    properties, describe = (client.proxy(c, remote.handle) for c in (Properties, Introspectable))
    assert await cast(Properties, properties).get_all("") == {"Label": Variant("s", "old")}
    xml = await cast(Introspectable, describe).introspect()
    assert "Find" in xml and 'access="read"' in xml
    for hidden in ("Vault", "Burn", "Take", "Size", "Moved", "readwrite"):
        assert hidden not in xml
    with pytest.raises(AccessDenied):
        await view.take()
    with pytest.raises(PropertyReadOnly):
        await view.label.set("mine")


@on_a_bus()
async def test_a_fixed_argument_takes_its_value_alone(service: Connection, client: Connection) -> None:
    shelf = Shelf()
    proxy, remote = await hand_over(
        service, client, attenuate(shelf, fixed={Shelf.find: {"title": "Emma"}})
    )
    assert await proxy.find("Emma", 1) == "Emma 1"
    for title in ("emma", "", "Emma\u200b"):
        with pytest.raises(AccessDenied, match="title of Find"):
            await proxy.find(title, 1)
    with pytest.raises(AccessDenied):
        await remote.call("", "Find", "si", ("Other", 1))
    assert shelf.calls == [("Emma", 1)]


@on_a_bus()
async def test_a_capability_does_not_come_in_under_the_name_of_a_fixed_path(
    service: Connection, client: Connection
) -> None:
    path = ObjectPath("/org/example/place")
    proxy, _ = await hand_over(
        service, client, attenuate(Shelf(), Shelf.take, fixed={Shelf.mark: {"place": path}})
    )
    mine = cast(Remote, (await proxy.take()).__far__).handle
    mine.path = path
    assert await proxy.mark(Reference(path, mine)) is False
    with pytest.raises(AccessDenied):
        await proxy.mark(ObjectPath("/org/example/other"))


class Door(Interface, name="org.example.Door1"):
    """Members that have one name on the bus."""

    @method(name="Open")
    def open_as(self, who: Str) -> Str:
        return f"as {who}"

    @method(name="Open")
    def open_for(self, seconds: Int32) -> Str:
        return f"for {seconds} s"

    @signal(name="Open")
    def opened(self, who: Str) -> None: ...

    @signal(name="Open")
    def opened_for(self, seconds: Int32) -> None: ...


@on_a_bus()
async def test_of_several_members_of_one_name_the_granted_one_is_there(
    service: Connection, client: Connection
) -> None:
    two = attenuate(Door(), Door.open_for, Door.opened)
    for view in (
        attenuate(Door(), Door.open_for), attenuate(two, Door.open_for),
        attenuate(Door(), fixed={Door.open_for: {"seconds": 5}}),
    ):
        proxy = client.proxy(Door, await introduce(service, client, view))
        assert await proxy.open_for(5) == "for 5 s"
        with pytest.raises(InvalidArgs):
            await proxy.open_as("root")
    with pytest.raises(AccessDenied):
        await proxy.open_for(500)


@on_a_bus(3)
async def test_of_several_signals_of_one_name_the_granted_one_is_relayed(
    service: Connection, broker: Connection, client: Connection
) -> None:
    door = Door()
    held = broker.proxy(Door, await introduce(service, broker, door))
    remote = Remote(client, await introduce(broker, client, attenuate(held, Door.open_for, Door.opened_for)))
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        await door.opened("root")
        await door.opened_for(5)
        assert (await anext(stream)).values == [5]
    await quiet(client, broker, service)


@on_a_bus()
async def test_signals_that_are_not_granted_are_not_heard(service: Connection, client: Connection) -> None:
    shelf = Shelf()
    below = revocable(shelf)[0]  # exported nowhere itself
    _, remote = await hand_over(service, client, attenuate(below, Shelf.moved, Shelf.label))
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        await stream.add(remote.handle, SHELF, "Lent")
        await shelf.lent(shelf.book)
        await shelf.size.changed()
        await shelf.moved("Emma")
        await shelf.label.set("new")
        heard = [await anext(stream), await anext(stream)]
        assert [(h.member, h.values[0]) for h in heard] == [("Moved", "Emma"), ("PropertiesChanged", SHELF)]
        assert heard[0].source is not None
        with pytest.raises(UnknownMethod):  # what a signal comes from is the view
            await Remote(client, heard[0].source).call("", "Burn")


@on_a_bus()
async def test_a_view_that_comes_home_is_no_more_than_it_was(service: Connection, client: Connection) -> None:
    shelf = Shelf()
    keeper = Reader()
    told, _ = await hand_over(service, client, attenuate(shelf.book, Book.title))
    receiver = client.proxy(Reader, await introduce(service, client, keeper))
    await receiver.tell(cast(Book, told))
    assert keeper.told[0] is not shelf.book
    with pytest.raises(AccessDenied):
        await keeper.told[0].next()


@on_a_bus(3)
async def test_who_attenuates_what_he_holds_cannot_give_more(
    service: Connection, broker: Connection, client: Connection
) -> None:
    shelf = Shelf()
    held, _ = await hand_over(service, broker, attenuate(shelf, Shelf.find, Shelf.take))
    view = attenuate(held, Shelf.find, Shelf.size)
    proxy, remote = await hand_over(broker, client, view)
    assert await proxy.find("Emma", 1) == "Emma 1"
    with pytest.raises(UnknownMethod):
        await remote.call(SHELF, "Take")
    with pytest.raises(DBusError):  # granted here, by one who does not hold it
        await proxy.size.get()
    with pytest.raises(TypeError):
        attenuate(view, Shelf.take)


@on_a_bus(3)
async def test_a_view_of_an_object_elsewhere_relays_the_signals_that_it_grants(
    service: Connection, broker: Connection, client: Connection
) -> None:
    shelf = Shelf()
    held, _ = await hand_over(service, broker, shelf)
    view, revoke = revocable(attenuate(held, Shelf.moved, Shelf.lent, Shelf.label))
    _, remote = await hand_over(broker, client, view)
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        await shelf.size.changed()
        await shelf.moved("Emma")
        await shelf.label.set("new")
        await shelf.lent(shelf.book)
        heard = [await anext(stream) for _ in range(3)]
        assert [h.member for h in heard] == ["Moved", "PropertiesChanged", "Lent"]
        assert heard[1].values == [SHELF, {"Label": Variant("s", "new")}, []]
        assert await client.proxy(Book, heard[2].values[0]).title == "first"
        revoke()
        await shelf.moved("after")
        with pytest.raises(NoReply):
            await anext(stream)
    await quiet(client, broker, service)
    assert service.export(shelf)._subscribers == []


@on_a_bus(3)
async def test_a_change_that_an_object_elsewhere_tells_badly_is_looked_up_or_left_out(
    service: Connection, broker: Connection, client: Connection
) -> None:
    shelf = Shelf()
    held, _ = await hand_over(service, broker, shelf)
    _, remote = await hand_over(broker, client, attenuate(held, Shelf.moved, Shelf.label))
    told = cast(SignalSpec, interfaces_of(Properties)[0].members["PropertiesChanged"])
    emit = service.export(shelf).emit
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        await emit(PROPERTIES, told, (SHELF, {"Label": Variant("i", 1), "Size": Variant("i", 1)}, []))
        await emit(PROPERTIES, told, (SHELF, {}, ["Label", "Size", "Nothing"]))
        await shelf.moved("Emma")
        heard = [await anext(stream) for _ in range(2)]
        assert [h.values for h in heard] == [[SHELF, {"Label": Variant("s", "old")}, []], ["Emma"]]


@on_a_bus(3)
async def test_a_view_that_relays_signals_ends_with_its_object(
    service: Connection, broker: Connection, client: Connection
) -> None:
    shelf = Shelf()
    held, _ = await hand_over(service, broker, shelf)
    proxy, remote = await hand_over(broker, client, attenuate(held, Shelf.find, Shelf.moved))
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        service.export(shelf).withdraw()
        with pytest.raises(NoReply):
            await anext(stream)
    with pytest.raises(NodeDestroyed):
        await proxy.find("Emma", 1)


@on_a_bus(3)
async def test_what_one_connection_holds_travels_on_another_as_a_view_alone(
    service: Connection, client: Connection, other: Connection
) -> None:
    shelf = Shelf()
    here, _ = await hand_over(service, client, shelf)
    there, remote = await hand_over(service, other, shelf)
    book = await here.take()
    held = cast(Remote, book.__far__).handle
    assert await here.give(book) == "mine"
    for foreign in (book, held):
        with pytest.raises(InvalidArgument, match="another connection"):
            await remote.call(SHELF, "Give", "o", (foreign,))
    for misuse in (lambda: other.proxy(Book, held), lambda: Remote(other, held)):
        with pytest.raises(InvalidArgument, match="another connection"):
            misuse()
    view, _ = revocable(book)
    assert await there.give(view) == "foreign"


def test_a_mistake_in_a_grant_is_a_type_error() -> None:
    shelf = attenuate(Shelf(), Shelf.find, Shelf.label)
    mistakes: list[Callable[[], object]] = [
        lambda: attenuate(Shelf(), Book.next),
        lambda: attenuate(shelf, Shelf.take),
        lambda: attenuate(Shelf(), writable=[Shelf.size]),
        lambda: attenuate(shelf, writable=[Shelf.label]),
        lambda: attenuate(Shelf(), writable=[Shelf.find]),
        lambda: attenuate(Shelf(), fixed={Shelf.find: {"author": "Austen"}}),
        lambda: attenuate(Shelf(), fixed={Shelf.label: {"label": "x"}}),
    ]
    for wrong in mistakes:
        with pytest.raises(TypeError):
            wrong()


# ---- revocation ----------------------------------------------------------------------------------


@on_a_bus(3)
async def test_revocation_ends_the_access_of_all_to_whom_it_was_passed_on(
    service: Connection, client: Connection, friend: Connection
) -> None:
    shelf = Shelf()
    view, revoke = revocable(shelf)
    narrow = attenuate(view, Shelf.find)
    kept, remote = await hand_over(service, client, view)
    number = await cast(Any, client.peer).transfer(remote.handle.id, friend.peer)
    passed_on = friend.proxy(Shelf, friend.handle(number))
    narrowed, _ = await hand_over(service, friend, narrow)
    for proxy in (kept, passed_on, narrowed):
        assert await proxy.find("Emma", 1) == "Emma 1"
    shelf.calls.clear()
    revoke()
    revoke()
    await service.swept()
    for proxy in (kept, passed_on, narrowed):
        with pytest.raises(NodeDestroyed):
            await proxy.find("Emma", 2)
    for gone in (view, narrow):
        with pytest.raises(Revoked):
            await gone.find("Emma", 3)
        with pytest.raises(Revoked):
            service.export(gone)
    assert shelf.calls == [] and shelf.__near__ == []
    again, _ = await hand_over(service, client, shelf)
    assert await again.find("Emma", 4) == "Emma 4"


@on_a_bus()
async def test_a_call_that_races_the_revocation_brings_nothing_out(
    service: Connection, client: Connection
) -> None:
    shelf = Shelf()
    view, revoke = revocable(shelf)
    proxy, _ = await hand_over(service, client, view)
    outcomes: list[object] = []

    async def call(coroutine: Any) -> None:
        try:
            outcomes.append(await coroutine)
        except DBusError as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, proxy.wait())
        await shelf.entered.wait()
        revoke()
        shelf.may_leave.set()
    assert outcomes == [Revoked]


@on_a_bus()
async def test_a_call_that_was_queued_before_the_revocation_does_not_run(
    service: Connection, client: Connection
) -> None:
    shelf = Shelf()
    view, revoke = revocable(shelf)
    proxy, _ = await hand_over(service, client, view)
    hold = core_peer(service).hold = anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises((Revoked, NoReply)):
                await proxy.find("Emma", 1)

        tasks.start_soon(call)
        await anyio.wait_all_tasks_blocked()
        revoke()
        hold.set()
        core_peer(service).hold = None
    assert shelf.calls == []


@on_a_bus()
async def test_a_subscriber_hears_nothing_after_the_revocation(
    service: Connection, client: Connection
) -> None:
    shelf = Shelf()
    view, revoke = revocable(shelf)
    _, remote = await hand_over(service, client, view)
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        await shelf.moved("before")
        assert (await anext(stream)).values == ["before"]
        revoke()
        await shelf.moved("after")
        with pytest.raises(NoReply):
            await anext(stream)


@on_a_bus()
async def test_an_object_that_is_held_through_views_alone_ends_with_the_last(
    service: Connection, client: Connection
) -> None:
    shelf = Shelf()
    first, second = attenuate(revocable(shelf)[0], Shelf.find), attenuate(shelf, Shelf.take)
    held = [await hand_over(service, client, view) for view in (first, second)]
    held.pop(0)
    await quiet(client, service)
    assert not shelf.was_dropped.is_set() and len(shelf.__near__) == 1
    held.clear()
    await shelf.was_dropped.wait()
    assert shelf.__near__ == []


@on_a_bus(3)
async def test_the_object_behind_a_view_may_go_first(
    service: Connection, broker: Connection, client: Connection
) -> None:
    shelf = Shelf()
    held, _ = await hand_over(service, broker, shelf)
    proxy, _ = await hand_over(broker, client, revocable(attenuate(held, Shelf.find))[0])
    assert await proxy.find("Emma", 1) == "Emma 1"
    service.export(shelf).withdraw()
    await service.swept()
    with pytest.raises(NoReply, match="behind this capability"):
        await proxy.find("Emma", 1)


# ---- expiry --------------------------------------------------------------------------------------


@on_a_bus()
async def test_nothing_passes_after_the_deadline_even_if_the_timer_is_late(
    service: Connection, client: Connection
) -> None:
    now, shelf = [100.0], Shelf()
    view = expiring(shelf, 60, clock=lambda: now[0])
    narrow = attenuate(view, Shelf.find)
    proxies = [(await hand_over(service, client, v))[0] for v in (view, narrow)]
    now[0] = 159.9
    for proxy in proxies:
        assert await proxy.find("Emma", 1) == "Emma 1"
    now[0] = 160
    for proxy in proxies:
        with pytest.raises(Revoked, match="time"):
            await proxy.find("Emma", 1)
    with pytest.raises(Revoked):
        expiring_again = revocable(view)[0]
        service.export(expiring_again)


@on_a_bus()
async def test_a_call_that_outlasts_the_deadline_brings_nothing_out(
    service: Connection, client: Connection
) -> None:
    now, shelf = [0.0], Shelf()
    proxy, _ = await hand_over(service, client, expiring(shelf, 1, clock=lambda: now[0]))
    async with anyio.create_task_group() as tasks:

        async def call() -> None:
            with pytest.raises(Revoked):
                await proxy.wait()

        tasks.start_soon(call)
        await shelf.entered.wait()
        now[0] = 2
        shelf.may_leave.set()


@on_a_bus()
async def test_the_timer_destroys_the_node(service: Connection, client: Connection) -> None:
    shelf = Shelf()
    proxy, remote = await hand_over(service, client, expiring(shelf, 0.02))
    async with SignalStream(client) as stream:
        await stream.add(remote.handle)
        with pytest.raises(NoReply):  # its only source is gone
            await anext(stream)
    with pytest.raises(NodeDestroyed):
        await proxy.find("Emma", 1)
    assert shelf.__near__ == []


@on_a_bus()
async def test_a_view_that_nobody_holds_does_not_wait_for_its_time(
    service: Connection, client: Connection
) -> None:
    view: Shelf | None = expiring(Shelf(), 3600)
    ended = weakref.ref(view)
    held = await hand_over(service, client, view)
    del held
    view = None
    await quiet(client, service)
    gc.collect()
    assert ended() is None


def test_a_time_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError):
        expiring(Shelf(), float("nan"))


# ---- membrane ------------------------------------------------------------------------------------


@on_a_bus()
async def test_all_that_came_through_a_membrane_ends_with_it(service: Connection, client: Connection) -> None:
    shelf, membrane = Shelf(), Membrane()
    proxy, _ = await hand_over(service, client, membrane.wrap(shelf))
    book = await proxy.take()
    second = await book.next()
    third = await second.next()
    assert await third.title == "first''"
    membrane.revoke()
    await service.swept()
    for held in (book, second, third):
        with pytest.raises(NodeDestroyed):
            await held.next()
    with pytest.raises(NodeDestroyed):
        await proxy.take()
    with pytest.raises(Revoked):
        membrane.wrap(shelf)
    assert await shelf.book.title == "first" and shelf.book.__near__ == []


@on_a_bus()
async def test_an_object_that_goes_home_through_a_membrane_is_itself(
    service: Connection, client: Connection
) -> None:
    shelf, membrane = Shelf(), Membrane()
    proxy, _ = await hand_over(service, client, membrane.wrap(shelf))
    book = await proxy.take()
    assert await proxy.give(book) == "mine"
    assert await proxy.give(Book("other")) == "foreign"
    assert membrane.wrap(shelf) is membrane.wrap(shelf)


@on_a_bus()
async def test_what_comes_in_through_a_membrane_is_wrapped_too(
    service: Connection, client: Connection
) -> None:
    shelf, membrane, reader = Shelf(), Membrane(), Reader()
    proxy, _ = await hand_over(service, client, membrane.wrap(shelf))
    await proxy.register(reader)
    assert await shelf.readers[0].tell(shelf.book) == "thanks"
    assert await reader.told[0].title == "first"
    membrane.revoke()
    await service.swept()
    with pytest.raises(NodeDestroyed):
        await reader.told[0].title.get()
    with pytest.raises(Revoked):
        await shelf.readers[0].tell(shelf.book)
    assert len(reader.told) == 1


@on_a_bus()
async def test_what_cannot_be_wrapped_does_not_pass_a_membrane(
    service: Connection, client: Connection
) -> None:
    shelf, membrane = Shelf(), Membrane()
    proxy, remote = await hand_over(service, client, membrane.wrap(shelf))
    with pytest.raises(AccessDenied, match="descriptor"):
        await proxy.raw()
    with pytest.raises(AccessDenied, match="descriptor"):
        await proxy.hidden()
    _, plain = await hand_over(service, client, revocable(shelf)[0])
    for holder, there in ((plain, 1), (remote, 0)):
        assert (await holder.call(SHELF, "Beside", handles=[remote.handle.id])).values == [there]
    with open("/dev/null", "rb") as file:
        for value in (Variant("h", file), Variant("ah", [file]), Variant("v", Variant("h", file))):
            with pytest.raises(AccessDenied):
                await proxy.echo({"x": value})
    with pytest.raises(AccessDenied, match="without a type"):
        await proxy.echo({"x": Variant("o", Book("mine"))})
    with pytest.raises(AccessDenied, match="without a type"):
        await proxy.echo({"x": Variant("a{os}", {Reference("/mine", remote.handle): ""})})
    assert await proxy.echo({"x": Variant("ai", [1])}) == {"x": Variant("ai", [1])}
    loose = [await proxy.loose(), *await proxy.several()]
    membrane.revoke()
    await service.swept()
    for reference in loose:
        with pytest.raises(NodeDestroyed):
            await Remote(client, cast(Handle, reference.handle)).call("", "Next")
    del remote


@on_a_bus(3)
async def test_objects_in_signals_pass_a_membrane_as_views(
    service: Connection, broker: Connection, client: Connection
) -> None:
    for target, by in ((Shelf(), service), (Shelf(), broker)):
        held = target if by is service else (await hand_over(service, broker, target))[0]
        await lend_by_a_signal(target, held, by, client)


async def lend_by_a_signal(shelf: Shelf, held: Shelf, service: Connection, client: Connection) -> None:
    """A shelf behind a membrane of ``service``, which may hold it itself, lends a book, and has it back."""
    membrane = Membrane()
    proxy, _ = await hand_over(service, client, membrane.wrap(held))
    async with SignalStream(client) as stream:
        await stream.add(cast(Remote, proxy.__far__).handle, SHELF, "Lent")
        await shelf.lent(shelf.book)
        (reference,) = (await anext(stream)).values
        book = client.proxy(Book, reference)
        assert await book.title == "first"
        membrane.revoke()
        await service.swept()
        with pytest.raises(NodeDestroyed):
            await book.title.get()


# ---- audit ---------------------------------------------------------------------------------------


@on_a_bus(3)
async def test_an_audit_tells_who_was_given_what_through_whom_and_who_used_it(
    service: Connection, client: Connection, friend: Connection
) -> None:
    book, shelf = Audit(), Shelf()
    view, revoke = revocable(shelf)
    editor = book.hand(view, "the editor")
    plugin = book.hand(attenuate(editor, Shelf.find, Shelf.label), "its plugin")
    assert [holding.nodes for holding in book.holdings()] == [(), ()]
    kept, _ = await hand_over(service, client, editor)
    proxy, remote = await hand_over(service, client, plugin)
    number = await cast(Any, client.peer).transfer(remote.handle.id, friend.peer)
    core_peer(friend).credentials = record.replace(core_peer(friend).credentials, pid=4711)
    passed_on = Remote(friend, friend.handle(number))

    await kept.find("Emma", 1)
    await proxy.find("Emma", 2)
    await proxy.label
    for attempt in ("Burn", "Take"):  # by somebody who was given nothing
        with pytest.raises(UnknownMethod):
            await passed_on.call("", attempt)

    uid, pid = os.getuid(), os.getpid()
    first, second = book.holdings()
    assert (first.to, first.what, first.through, first.has_ended) == ("the editor", "Shelf", (), False)
    assert (second.to, second.through, second.has_ended) == ("its plugin", ("the editor",), False)
    assert second.uses == (Use(uid, pid, 2, 0), Use(uid, 4711, 2, 2))
    assert first.uses == (Use(uid, pid, 3, 0), Use(uid, 4711, 2, 2))
    assert second.nodes == (service.export(plugin).node,)
    assert set(first.nodes) == {service.export(editor).node, *second.nodes}

    later = book.hand(view, "somebody, later")
    revoke()
    assert [(h.nodes, h.has_ended) for h in book.holdings()] == [((), True)] * 3
    with pytest.raises(Revoked):
        await later.find("Emma", 3)


@on_a_bus()
async def test_what_nobody_holds_any_more_leaves_the_audit(service: Connection, client: Connection) -> None:
    book, shelf = Audit(), Shelf()
    held = await hand_over(service, client, book.hand(shelf, "a client"))
    assert len(book.holdings()) == 1
    del held
    await shelf.was_dropped.wait()
    gc.collect()
    assert book.holdings() == []


def test_an_audit_counts_a_bounded_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MAX_USERS", 2)
    book = Audit()
    view = book.hand(Shelf(), "many")
    gate = cast(audit.Audited[Shelf], view.__far__)
    for pid in (1, 2, 3, 4, 1):
        gate.used(replace(NOBODY, uid=0, pid=pid), refused=False)
    assert book.holdings()[0].uses == (Use(0, 1, 2), Use(0, 2, 1), Use(NOBODY.uid, NOBODY.pid, 2))
