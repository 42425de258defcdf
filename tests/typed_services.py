"""typed_services: what mypy knows of services and of their clients. It is checked, and never run.

Theory. ``assert_type`` fails the check if mypy sees another type; so does a ``type: ignore`` without
need. So each line can fail: the first kind if a type is lost, the second if a mistake is no longer seen.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any, NamedTuple, TypedDict, assert_type

from bus1_services import (
    NOBODY,
    Caller,
    Connection,
    Int32,
    Interface,
    Manager,
    Signature,
    Str,
    Stream,
    UInt32,
    UnixFd,
    VariantDict,
    changing,
    method,
    prop,
    signal,
    watch,
)
from bus1_services.caps import attenuate, expiring, revocable


class Mode(IntEnum):
    """An enumeration."""

    OFF = 0
    ON = 1


@dataclass(frozen=True)
class Point:
    """A struct."""

    x: Int32
    y: Int32


class Size(NamedTuple):
    """Named results."""

    width: UInt32
    height: UInt32


class Wishes(TypedDict, total=False):
    """Keys with types."""

    view: Str
    mode: Mode


class Room(Interface, name="org.example.Room1"):
    """A capability."""

    @method
    def number(self) -> Int32:
        return 1


class Hotel(Interface, name="org.example.Hotel1"):
    """One class for both sides."""

    @method
    def plain(self, a: Int32, b: Str = "") -> Str:
        return b * a

    @method
    async def patient(self, modes: list[Mode]) -> dict[str, Point]:
        return {mode.name: Point(mode, 0) for mode in modes}

    @method
    def several(self) -> tuple[Int32, Str]:
        return 1, "a"

    @method
    def named(self) -> Size:
        return Size(1, 2)

    @method
    def room(self, wishes: Wishes, number: Int32 | None = None, caller: Caller = NOBODY) -> Room | None:
        assert_type(caller.uid, int)
        assert_type(wishes.get("mode"), Mode | None)
        return None if number is None else Room()

    @method(takes="a{sv}h", gives="u")
    def said(self, options: VariantDict, fd: UnixFd) -> int:
        return fd.fileno()

    @method(name="Other", deprecated=True)
    async def decorated(self, mode: Annotated[Mode, Signature("u")]) -> None: ...

    @method(deadline=2.5, limit=2, shielded=True)
    def guests(self, floor: Int32) -> Stream[Point]:
        return Stream(Point(floor, door) for door in range(3))

    @method
    async def arrivals(self) -> Stream[Room]:
        return Stream(self._rooms())

    @method
    def mistaken(self) -> Stream[Str]:
        return Stream(self._rooms())  # type: ignore[arg-type]

    async def _rooms(self) -> AsyncIterator[Room]:
        yield Room()

    @prop
    def mode(self) -> Mode:
        return Mode.ON

    @mode.setter
    def _set_mode(self, mode: Mode) -> None: ...

    @prop(emits="const")
    def best(self) -> Room | None:
        return None

    @prop
    async def nearest(self) -> Point:
        return Point(0, 0)

    @nearest.setter
    async def _set_nearest(self, nearest: Point) -> None: ...

    @prop(emits="false")
    async def free(self) -> int:
        return 3

    @signal
    def opened(self) -> None: ...

    @signal
    def moved(self, to: Point) -> None: ...

    @signal(name="Mixed")
    def mixed(self, rooms: list[Room], mode: Mode) -> None: ...


async def calls(hotel: Hotel) -> None:
    """Methods, awaited, give what their hints say; a proxy and the object itself alike."""
    assert_type(await hotel.plain(1), str)
    assert_type(await hotel.plain(a=1, b="x"), str)
    assert_type(await hotel.patient([Mode.ON]), dict[str, Point])
    assert_type(await hotel.several(), tuple[int, str])
    assert_type((await hotel.named()).height, int)
    assert_type(await hotel.room({"mode": Mode.ON}), Room | None)
    assert_type(await hotel.said({}, UnixFd(0)), int)
    assert_type(await hotel.decorated(Mode.ON), None)


async def wrong_calls(hotel: Hotel) -> None:
    """What mypy must refuse."""
    await hotel.plain("1")  # type: ignore[arg-type]
    await hotel.plain()  # type: ignore[call-arg]
    await hotel.plain(1, c="")  # type: ignore[call-arg]
    await hotel.patient([1])  # type: ignore[list-item]
    await hotel.room({"view": 1})  # type: ignore[typeddict-item]
    await hotel.room({"vista": ""})  # type: ignore[typeddict-unknown-key]
    (await hotel.room({})).number()  # type: ignore[union-attr]
    await hotel.decorated(1)  # type: ignore[arg-type]
    hotel.nothing()  # type: ignore[attr-defined]


async def properties(hotel: Hotel) -> None:
    """Properties are awaited, and set."""
    assert_type(await hotel.mode, Mode)
    assert_type(await hotel.mode.get(), Mode)
    assert_type(await hotel.best, Room | None)
    await hotel.mode.set(Mode.OFF)
    await hotel.mode.set("off")  # type: ignore[arg-type]
    assert_type(await hotel.nearest, Point)
    assert_type(await hotel.free.get(), int)
    await hotel.nearest.set(1)  # type: ignore[arg-type]
    await hotel.best.set(Point(1, 2))  # type: ignore[arg-type]


async def signals(hotel: Hotel) -> None:
    """A subscription gives the value of one argument, a tuple of several or none."""
    assert_type(hotel.moved.subscribe(), AbstractAsyncContextManager[AsyncIterator[Point]])
    async with hotel.moved.subscribe() as moves:
        async for to in moves:
            assert_type(to, Point)
    async with hotel.mixed.subscribe() as mixed:
        async for rooms, mode in mixed:
            assert_type(rooms, list[Room])
            assert_type(mode, Mode)
    async with hotel.opened.subscribe() as opened:
        assert_type(await anext(opened), tuple[()])
    await hotel.opened()
    await hotel.moved(Point(1, 2))
    await hotel.mixed([Room()], Mode.ON)
    await hotel.moved(1)  # type: ignore[arg-type]
    await hotel.mixed([Room()])  # type: ignore[call-arg]
    await hotel.opened("now")  # type: ignore[call-arg]


async def streams(hotel: Hotel) -> None:
    """The items have the type that the method says."""
    assert_type(await hotel.guests(1), Stream[Point])
    async with await hotel.guests(1) as guests:
        async for guest in guests:
            assert_type(guest, Point)
    async with await hotel.arrivals() as rooms:
        assert_type(await anext(rooms), Room)
    await hotel.guests("1")  # type: ignore[arg-type]


async def changes(connection: Connection, hotel: Hotel, manager: Manager) -> None:
    """What comes and goes is of the class that was asked for."""
    async with connection.registry.managed(Room, "org.example.Hotel", "/") as rooms:
        for path, room in rooms.items():
            assert_type(path, str)
            assert_type(room, Room)
        async for change in rooms:
            assert_type(change.object, Room)
            assert_type(change.is_there, bool)
    async with watch(hotel) as values:
        async for names in values:
            assert_type(names, frozenset[str])
    async with changing(hotel):
        await manager.add("room", Room())
    await manager.add("room", 1)  # type: ignore[arg-type]


async def objects(connection: Connection, reference: Any) -> None:
    """Proxies and views have the class that they stand for."""
    hotel = await connection.registry.proxy(Hotel, "org.example.Hotel", "/org/example/Hotel")
    assert_type(hotel, Hotel)
    assert_type(connection.proxy(Room, reference), Room)
    assert_type(attenuate(hotel, Hotel.plain, Hotel.mode), Hotel)
    assert_type(expiring(hotel, 1.0), Hotel)
    assert_type(revocable(hotel)[0], Hotel)
    attenuate(hotel, "plain")  # type: ignore[arg-type]


class Late(Hotel):
    """A subclass overrides members with other bodies."""

    @method
    async def patient(self, modes: list[Mode]) -> dict[str, Point]:
        return {}

    @prop
    def mode(self) -> Mode:
        return Mode.OFF


class Wrong(Hotel):
    """And not with other types."""

    @method
    async def patient(self, modes: list[str]) -> dict[str, Point]:  # type: ignore[override]
        return {}
