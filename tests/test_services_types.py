"""What hints make of values between a service and its clients: enumerations, structs, objects within them."""

from __future__ import annotations

import gc
import weakref
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum, IntEnum, IntFlag, StrEnum
from typing import Annotated, Any, NamedTuple, NotRequired, TypedDict, cast

import anyio
import pytest
from bus1_services import (
    Byte,
    Connection,
    DBusError,
    Double,
    Int32,
    Interface,
    Reference,
    Remote,
    Signature,
    Str,
    UInt32,
    Variant,
    method,
    prop,
    signal,
)
from bus1_services.caps import Membrane, attenuate
from bus1_services.errors import InvalidArgs, NoReply
from bus1_services.gone import Gone
from bus1_services.standard import Properties
from bus1_services.testing import Fake
from core_peer import introduce
from test_services import core_peer, on_a_bus, quiet

from bus1.errors import InvalidArgument, NodeDestroyed


class Mode(IntEnum):
    OFF = 0
    ON = 1


class Color(StrEnum):
    RED = "red"
    GREEN = "green"


class Shape(Enum):
    ROUND = "round"


class Flags(IntFlag):
    LOUD = 1
    BLINKING = 2


@dataclass(frozen=True, slots=True)
class Point:
    x: Int32
    y: Int32 = 0

    def __post_init__(self) -> None:
        if self.x < 0:
            raise ValueError(f"x is {self.x}, below 0")


@dataclass
class Spot:
    place: Point
    color: Color
    _: KW_ONLY
    notes: list[Str]
    times_seen: int = field(default=0, init=False)


class Size(NamedTuple):
    width: UInt32
    height: UInt32


class Options(TypedDict, total=False):
    volume: Double
    color: Color
    corners: list[Point]


class Strict(TypedDict):
    name: Str
    count: NotRequired[UInt32]


class Room(Interface, name="org.example.Room1"):
    """Handed out."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.was_left = anyio.Event()

    @method
    def number(self) -> Int32:
        return self._number

    def unreferenced(self) -> None:
        self.was_left.set()


@dataclass
class Booking:
    guest: Str
    room: Room
    spare: Room | None = None


class Hotel(Interface, name="org.example.Hotel1"):
    """Takes and gives everything."""

    def __init__(self) -> None:
        self.rooms = [Room(1), Room(2)]
        self.seen: list[Any] = []
        self._mode = Mode.OFF
        self._spot = Spot(Point(1, 2), Color.RED, notes=["a"])
        self._best: Room | None = None

    @method
    def change(
        self, mode: Mode, color: Color, flags: Flags, shape: Shape
    ) -> tuple[Mode, Color, Flags, Shape]:
        self.seen.append((mode, color, flags, shape))
        return mode, color, flags, shape

    @method
    def small(self, mode: Annotated[Mode, Signature("y")]) -> dict[Color, list[Mode]]:
        return {Color.GREEN: [mode]}

    @method(takes="u", gives="(ns)")
    def said(self, mode: Mode) -> tuple[Mode, Color]:
        return mode, Color.RED

    @method
    def lie(self) -> Mode:
        return cast(Mode, 7)

    @method
    def move(self, spot: Spot, along: list[Point]) -> Spot:
        self.seen.append((spot, along))
        return Spot(along[-1], spot.color, notes=[*spot.notes, "moved"])

    @method
    def points(self) -> dict[str, Point]:
        return {"a": Point(1), "b": Point(2, 3)}

    @method
    def measure(self, sizes: list[Size]) -> Size:
        return max(sizes)

    @method
    def pair(self, size: Annotated[Size, Signature("(uu)")]) -> Annotated[Size, Signature("(uu)")]:
        return size

    @method
    def find(self, name: Str | None = None, at: Point | None = None) -> Str | None:
        self.seen.append((name, at))
        return name

    @method
    def configure(self, options: Options) -> Options:
        self.seen.append(options)
        return options

    @method
    def strict(self, record: Strict) -> None:
        self.seen.append(record)

    @method
    def fixed(self, numbers: tuple[Byte, ...]) -> tuple[Mode, ...]:
        self.seen.append(numbers)
        return tuple(map(Mode, numbers))

    @method
    def all_rooms(self) -> list[Room]:
        return self.rooms

    @method
    def by_name(self) -> dict[str, Room]:
        return {"first": self.rooms[0]}

    @method
    def book(self, booking: Booking) -> Booking:
        self.seen.append(booking)
        return booking

    @method
    def swap(self, rooms: list[Room], one: Room | None = None) -> Room | None:
        self.seen.append((rooms, one))
        return one

    @prop
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def _set_mode(self, mode: Mode) -> None:
        self._mode = mode

    @prop
    def spot(self) -> Spot:
        return self._spot

    @prop
    def best(self) -> Room | None:
        return self._best

    @best.setter
    def _set_best(self, room: Room | None) -> None:
        self._best = room

    @signal
    def moved(self, spot: Spot) -> None: ...

    @signal
    def opened(self, rooms: list[Room], mode: Mode) -> None: ...


async def meet(service: Connection, client: Connection) -> tuple[Hotel, Hotel, Remote]:
    hotel = Hotel()
    handle = await introduce(service, client, hotel)
    return hotel, client.proxy(Hotel, handle), Remote(client, handle)


HOTEL = "org.example.Hotel1"


# ---- enumerations ----------------------------------------------------------------------------------


@on_a_bus()
async def test_members_of_enumerations_arrive_on_both_sides(service: Connection, client: Connection) -> None:
    hotel, proxy, remote = await meet(service, client)
    sent = (Mode.ON, Color.RED, Flags.LOUD, Shape.ROUND)
    assert await proxy.change(*sent) == sent
    assert [type(value) for value in hotel.seen[0]] == [Mode, Color, Flags, Shape]
    raw = await remote.call(HOTEL, "Change", "isus", (1, "red", 1, "round"))
    assert (raw.signature, raw.values) == ("isus", [1, "red", 1, "round"])


@on_a_bus()
async def test_enumerations_within_containers_and_of_said_types(
    service: Connection, client: Connection
) -> None:
    _, proxy, remote = await meet(service, client)
    ((color, modes),) = (await proxy.small(Mode.ON)).items()
    assert (type(color), [type(mode) for mode in modes]) == (Color, [Mode])
    assert (await remote.call(HOTEL, "Small", "y", (1,))).signature == "a{sai}"
    mode, color = await proxy.said(Mode.ON)
    assert (type(mode), type(color)) == (Mode, Color)
    assert (await remote.call(HOTEL, "Said", "u", (1,))).signature == "(ns)"


@on_a_bus()
async def test_an_unknown_value_is_refused_by_name_and_a_flag_keeps_it(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    with pytest.raises(InvalidArgs, match="mode: 9 is no Mode"):
        await remote.call(HOTEL, "Change", "isus", (9, "red", 1, "round"))
    with pytest.raises(InvalidArgs, match="color: 'blue' is no Color"):
        await remote.call(HOTEL, "Change", "isus", (1, "blue", 1, "round"))
    with pytest.raises(InvalidArgs, match=r"color: '\?+.{0,80} is no Color$"):
        await remote.call(HOTEL, "Change", "isus", (1, "?" * 100_000, 1, "round"))
    assert hotel.seen == []
    (_, _, flags, _) = await proxy.change(Mode.ON, Color.RED, Flags(64 | 1), Shape.ROUND)
    assert flags == 65 and Flags.LOUD in flags


@on_a_bus()
async def test_a_value_of_no_member_is_refused_where_it_is_sent(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    sent = len(core_peer(client).sent)
    with pytest.raises(InvalidArgument, match="color: 'blue' is no Color"):
        await proxy.change(Mode.ON, cast(Color, "blue"), Flags.LOUD, Shape.ROUND)
    assert len(core_peer(client).sent) == sent
    with pytest.raises(DBusError, match="7 is no Mode"):
        await proxy.lie()
    assert hotel.seen == [] and await remote.call(HOTEL, "Points")


class Later(Interface, name=HOTEL):
    """The same interface, with more members of its enumerations, and paths where objects were."""

    @method(gives="ao")
    def all_rooms(self) -> Any:
        return ["/org/example/Room"]

    @method
    def lie(self) -> Int32:
        return 7

    @prop
    def mode(self) -> Int32:
        return 7

    @signal
    def opened(self, rooms: list[Room], mode: Int32) -> None: ...


@on_a_bus()
async def test_a_client_is_told_what_it_does_not_know(service: Connection, client: Connection) -> None:
    later = Later()
    proxy = client.proxy(Hotel, await introduce(service, client, later))
    with pytest.raises(InvalidArgs, match="the result: 7 is no Mode"):
        await proxy.lie()
    with pytest.raises(InvalidArgs, match="Mode: 7 is no Mode"):
        await proxy.mode
    with pytest.raises(InvalidArgs, match="/org/example/Room is a path without a capability"):
        await proxy.all_rooms()
    async with proxy.opened.subscribe() as opened:
        await later.opened([], 7)
        await later.opened([], 1)
        with pytest.raises(InvalidArgs, match="mode: 7 is no Mode"):
            await anext(opened)
        assert await anext(opened) == ([], Mode.ON)


# ---- structs -----------------------------------------------------------------------------------------


@on_a_bus()
async def test_dataclasses_are_structs_within_everything(service: Connection, client: Connection) -> None:
    hotel, proxy, remote = await meet(service, client)
    spot = Spot(Point(1, 2), Color.GREEN, notes=["x"])
    assert await proxy.move(spot, [Point(5)]) == Spot(Point(5, 0), Color.GREEN, notes=["x", "moved"])
    assert hotel.seen == [(spot, [Point(5, 0)])]
    assert await proxy.points() == {"a": Point(1), "b": Point(2, 3)}
    raw = await remote.call(HOTEL, "Move", "((ii)sas)a(ii)", (((1, 2), "red", []), [(3, 4)]))
    assert (raw.signature, raw.values) == ("((ii)sas)", [((3, 4), "red", ["moved"])])


@on_a_bus()
async def test_what_a_dataclass_refuses_is_refused_with_its_words(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    with pytest.raises(InvalidArgs, match="x is -1, below 0"):
        await remote.call(HOTEL, "Move", "((ii)sas)a(ii)", (((1, 2), "red", []), [(-1, 4)]))
    with pytest.raises(InvalidArgs, match="spot: color: 'blue' is no Color"):
        await remote.call(HOTEL, "Move", "((ii)sas)a(ii)", (((1, 2), "blue", []), []))
    with pytest.raises(InvalidArgument, match="spot: a tuple is no Spot"):
        await proxy.move(cast(Spot, (1, 2)), [])
    with pytest.raises(InvalidArgument):
        await proxy.move(Spot(Point(1), Color.RED, notes=[]), cast(list[Point], 3))
    assert hotel.seen == [] and await proxy.points()


@on_a_bus()
async def test_a_named_tuple_is_several_results_and_elsewhere_a_struct(
    service: Connection, client: Connection
) -> None:
    _, proxy, remote = await meet(service, client)
    largest = await proxy.measure([Size(1, 2), Size(3, 4)])
    assert type(largest) is Size and largest == (3, 4)
    assert (await remote.call(HOTEL, "Measure", "a(uu)", ([(1, 2)],))).signature == "uu"
    pair = await proxy.pair(Size(5, 6))
    assert type(pair) is Size and pair.height == 6
    assert (await remote.call(HOTEL, "Pair", "(uu)", ((1, 2),))).signature == "(uu)"


# ---- what may be missing -----------------------------------------------------------------------------


@on_a_bus()
async def test_what_may_be_missing_is_an_array_of_one_or_none(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    assert await proxy.find() is None
    assert await proxy.find("me", Point(1, 1)) == "me"
    assert hotel.seen == [(None, None), ("me", Point(1, 1))]
    raw = await remote.call(HOTEL, "Find", "asa(ii)", (["you"], []))
    assert (raw.signature, raw.values) == ("as", [["you"]])
    with pytest.raises(InvalidArgs, match="name: 2 values, where one or none is expected"):
        await remote.call(HOTEL, "Find", "asa(ii)", (["a", "b"], []))


@on_a_bus()
async def test_a_typed_dict_has_types_for_its_keys(service: Connection, client: Connection) -> None:
    hotel, proxy, remote = await meet(service, client)
    options: Options = {"volume": 0.5, "color": Color.RED, "corners": [Point(1)]}
    assert await proxy.configure(options) == options
    assert await proxy.configure({}) == {}
    assert hotel.seen == [options, {}]
    raw = await remote.call(HOTEL, "Configure", "a{sv}", ({
        "color": Variant("s", "green"), "new": Variant("u", 1),
    },))
    assert raw.values == [{"color": Variant("s", "green")}]
    with pytest.raises(InvalidArgs, match="options: volume is a 'd', not a 's'"):
        await remote.call(HOTEL, "Configure", "a{sv}", ({"volume": Variant("s", "loud")},))
    with pytest.raises(InvalidArgs, match="options: color: 'blue' is no Color"):
        await remote.call(HOTEL, "Configure", "a{sv}", ({"color": Variant("s", "blue")},))


@on_a_bus()
async def test_a_typed_dict_asks_for_the_keys_that_are_required(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    await proxy.strict({"name": "n"})
    await proxy.strict({"name": "n", "count": 2})
    assert hotel.seen == [{"name": "n"}, {"name": "n", "count": 2}]
    with pytest.raises(InvalidArgs, match="record: Strict without name"):
        await remote.call(HOTEL, "Strict", "a{sv}", ({},))
    with pytest.raises(InvalidArgument, match="record: Strict without name"):
        await proxy.strict(cast(Strict, {"count": 1}))
    with pytest.raises(InvalidArgument, match="record: Strict has no nome"):
        await proxy.strict(cast(Strict, {"name": "n", "nome": "n"}))


@on_a_bus()
async def test_a_tuple_of_any_length_is_an_array(service: Connection, client: Connection) -> None:
    hotel, proxy, _ = await meet(service, client)
    assert await proxy.fixed((0, 1, 1)) == (Mode.OFF, Mode.ON, Mode.ON)
    assert hotel.seen == [(0, 1, 1)]


# ---- objects within values ---------------------------------------------------------------------------


@on_a_bus()
async def test_objects_travel_within_containers_and_come_home_as_themselves(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, _ = await meet(service, client)
    rooms = await proxy.all_rooms()
    assert [await room.number() for room in rooms] == [1, 2]
    named = await proxy.by_name()
    assert await named["first"].number() == 1
    booking = await proxy.book(Booking("me", rooms[0], rooms[1]))
    assert hotel.seen[0] == Booking("me", hotel.rooms[0], hotel.rooms[1])
    assert await booking.room.number() == 1 and booking.spare and await booking.spare.number() == 2
    assert (await proxy.book(Booking("me", rooms[0]))).spare is None
    mine = Room(9)
    back = await proxy.swap([mine], mine)
    assert back is mine
    assert [await room.number() for room in hotel.seen[-1][0]] == [9]


@on_a_bus()
async def test_an_object_that_may_be_missing_is_the_root_path(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    assert await proxy.swap([]) is None
    raw = await remote.call(HOTEL, "Swap", "aoo", ([], "/"))
    assert (raw.signature, raw.values) == ("o", ["/"]) and not isinstance(raw.values[0], Reference)
    handle = await introduce(service, client, hotel.rooms[0])
    handle.path = "/"
    assert (await remote.call(HOTEL, "Swap", "aoo", ([], handle))).values[0] != "/"
    assert hotel.seen.pop() == ([], hotel.rooms[0])
    with pytest.raises(InvalidArgs, match="one: not a live capability"):
        await remote.call(HOTEL, "Swap", "aoo", ([], "/org/example/Room"))
    with pytest.raises(InvalidArgs, match="rooms: not a live capability"):
        await remote.call(HOTEL, "Swap", "aoo", (["/"], "/"))
    assert hotel.seen == [([], None), ([], None)]


@on_a_bus()
async def test_objects_in_properties_and_signals(service: Connection, client: Connection) -> None:
    hotel, proxy, _ = await meet(service, client)
    assert await proxy.best is None
    (room, _) = await proxy.all_rooms()
    await proxy.best.set(room)
    assert hotel._best is hotel.rooms[0]
    best = await proxy.best
    assert best is not None and await best.number() == 1
    async with proxy.opened.subscribe() as opened, proxy.moved.subscribe() as moved:
        await hotel.opened(hotel.rooms, Mode.ON)
        await hotel.moved(Spot(Point(3), Color.RED, notes=[]))
        rooms, mode = await anext(opened)
        assert [await room.number() for room in rooms] == [1, 2] and mode is Mode.ON
        assert await anext(moved) == Spot(Point(3), Color.RED, notes=[])
        with pytest.raises(InvalidArgument, match="spot: a str is no Spot"):
            await hotel.moved(cast(Spot, "here"))


@on_a_bus(3)
async def test_an_object_that_ended_on_its_way_is_like_one_that_ended_since(
    service: Connection, client: Connection, third: Connection
) -> None:
    """R-45: its handle arrives as INVALID."""
    hotel, proxy, _ = await meet(service, client)
    elsewhere = Room(3)
    hotel.rooms[0] = service.proxy(Room, await introduce(third, service, elsewhere))
    third.export(elsewhere).withdraw()
    await quiet(third, service)
    rooms = await proxy.all_rooms()
    assert await rooms[1].number() == 2
    assert isinstance(rooms[0].__far__, Gone)
    with pytest.raises(NodeDestroyed):
        await rooms[0].number()
    with pytest.raises(NoReply):
        await attenuate(rooms[0], Room.number).number()
    with pytest.raises(InvalidArgument):
        await proxy.swap([rooms[0]])


@on_a_bus()
async def test_the_last_holder_of_a_list_of_objects_ends_them(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, _ = await meet(service, client)
    rooms = await proxy.all_rooms()
    await quiet(service, client)
    assert not hotel.rooms[1].was_left.is_set()
    del rooms
    gc.collect()
    await hotel.rooms[0].was_left.wait()
    await hotel.rooms[1].was_left.wait()


# ---- properties ----------------------------------------------------------------------------------------


@on_a_bus()
async def test_properties_have_pythons_values_and_tell_the_buss(
    service: Connection, client: Connection
) -> None:
    hotel, proxy, remote = await meet(service, client)
    assert await proxy.mode is Mode.OFF
    assert await proxy.spot == hotel._spot
    properties = client.proxy(Properties, remote.handle)
    async with properties.properties_changed.subscribe() as changes:
        await proxy.mode.set(Mode.ON)
        assert await anext(changes) == (HOTEL, {"Mode": Variant("i", 1)}, [])
    assert hotel._mode is Mode.ON
    assert (await properties.get_all(HOTEL))["Spot"] == Variant("((ii)sas)", ((1, 2), "red", ["a"]))
    with pytest.raises(InvalidArgs, match="Mode: 5 is no Mode"):
        await properties.set(HOTEL, "Mode", Variant("i", 5))
    with pytest.raises(InvalidArgument, match="Mode: 5 is no Mode"):
        await proxy.mode.set(cast(Mode, 5))
    assert hotel._mode is Mode.ON


def test_a_fake_has_values_of_the_hinted_types_if_the_empty_one_is_one() -> None:
    async def main() -> None:
        fake = Fake(Hotel).object
        assert await fake.mode is Mode.OFF and await fake.best is None
        with pytest.raises(DBusError, match="NotSupported: the fake has no value that fits: Spot: color: ''"):
            await fake.spot

    anyio.run(main)


# ---- views ---------------------------------------------------------------------------------------------


@on_a_bus(3)
async def test_values_pass_views_and_membranes_with_the_objects_in_them_wrapped(
    service: Connection, client: Connection, third: Connection
) -> None:
    hotel, _, _ = await meet(service, client)
    membrane = Membrane()
    view = client.proxy(Hotel, await introduce(service, client, membrane.wrap(hotel)))
    narrow = client.proxy(Hotel, await introduce(service, client, attenuate(hotel, Hotel.change, Hotel.move)))
    sent = (Mode.ON, Color.RED, Flags.LOUD, Shape.ROUND)
    assert await view.change(*sent) == sent and await narrow.change(*sent) == sent
    spot = Spot(Point(1), Color.RED, notes=[])
    assert await view.move(spot, [Point(2)]) == await narrow.move(spot, [Point(2)])
    booking = await view.book(Booking("me", Room(5)))
    assert isinstance(booking, Booking) and await booking.room.number() == 5
    inside = hotel.seen[-1].room
    assert inside.__far__ is not None
    rooms = await view.all_rooms()
    assert type(await view.measure([Size(1, 2)])) is Size
    membrane.revoke()
    for gone in (rooms[0].number, inside.number):
        with pytest.raises((NodeDestroyed, DBusError)):
            await gone()


@on_a_bus(3)
async def test_a_relay_passes_on_what_it_understands_and_keeps_back_the_rest(
    service: Connection, middle: Connection, client: Connection
) -> None:
    later = Later()
    far = middle.proxy(Hotel, await introduce(service, middle, later))
    for view in (attenuate(far, Hotel.opened), Membrane().wrap(far)):
        proxy = client.proxy(Hotel, await introduce(middle, client, view))
        async with proxy.opened.subscribe() as opened:
            await quiet(service, middle, client)
            await later.opened([], 7)
            await later.opened([Room(4)], 1)
            rooms, mode = await anext(opened)
            assert mode is Mode.ON and [await room.number() for room in rooms] == [4]


@on_a_bus()
async def test_a_stream_of_signals_that_has_ended_keeps_no_object(
    service: Connection, client: Connection
) -> None:
    _, proxy, remote = await meet(service, client)
    far = weakref.ref(proxy.__far__)
    async with proxy.opened.subscribe() as opened:
        pass
    del proxy
    assert far() is None
    assert await remote.call(HOTEL, "Points") and opened
