"""Descriptors in values: who owns them, who closes them, and that none is left, however a call ends."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypedDict, cast

import anyio
import pytest
from bus1_services import (
    Connection,
    DBusError,
    Interface,
    Remote,
    Str,
    UInt32,
    UnixFd,
    Variant,
    VariantDict,
    method,
    prop,
    signal,
)
from bus1_services.errors import InvalidArgs, UnknownMethod
from core_peer import introduce
from test_services import core_peer, on_a_bus, quiet

from bus1.errors import BusGone, InvalidArgument

DEPOT = "org.example.Depot1"


class Mode(IntEnum):
    ON = 1


@dataclass
class Parcel:
    name: Str
    content: UnixFd
    spare: UnixFd | None = None


class Files(TypedDict, total=False):
    log: UnixFd


class Depot(Interface, name=DEPOT):
    """Takes descriptors, and gives some."""

    def __init__(self) -> None:
        self.kept: list[int] = []
        self.owned: list[UnixFd] = []
        self.entered = anyio.Event()
        self.error: type[Exception] | None = None

    @method
    def put(
        self, one: UnixFd, many: list[UnixFd], named: dict[str, UnixFd], parcels: list[Parcel], files: Files,
        loose: Variant, options: VariantDict, mode: Mode,
    ) -> UInt32:
        found = [one, *many, *named.values(), files["log"], loose.value, options["fd"].value]
        for parcel in parcels:
            found += [parcel.content] if parcel.spare is None else [parcel.content, parcel.spare]
        assert all(isinstance(fd, UnixFd) and os.fstat(fd.fileno()) for fd in found)
        if self.error is not None:
            raise self.error("no")
        return len(found)

    @method
    def keep(self, fd: UnixFd) -> None:
        self.kept.append(fd.take())

    @method
    def own(self, fd: UnixFd) -> None:
        self.owned.append(fd)

    @method
    async def wait(self, fd: UnixFd) -> None:
        self.entered.set()
        await anyio.sleep_forever()

    @method
    def give(self, n: UInt32) -> list[Parcel]:
        return [Parcel(str(i), null(), null() if i % 2 else None) for i in range(n)]

    @method
    def show(self) -> UnixFd:
        return self.owned[0]

    @prop
    def log(self) -> UnixFd:
        return null()

    @log.setter
    def _set_log(self, fd: UnixFd) -> None:
        self.owned.append(fd)

    @signal
    def arrived(self, parcels: list[Parcel], mode: Mode) -> None: ...


class Liar(Interface, name=DEPOT):
    """Gives what the clients of a Depot do not expect."""

    @method
    def give(self, n: UInt32) -> UnixFd:
        return null()

    @method(gives="a(shah)")
    def show(self) -> Any:
        return [("a", null(), [null(), null()])]

    @prop(gives="(shah)")
    def log(self) -> Any:
        return ("a", null(), [null(), null()])


class Giver(Interface, name=DEPOT):
    """As Liar says that it is, with a hint that its values do not fit."""

    @method(gives="a(shah)")
    def show(self) -> list[Parcel]: ...  # type: ignore[empty-body]

    @prop
    def log(self) -> Parcel: ...  # type: ignore[empty-body]


def null() -> UnixFd:
    return UnixFd(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def number_of_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


@contextmanager
def nothing_left() -> Iterator[None]:
    """No descriptor more than before, without help of the garbage collector."""
    before = number_of_fds()
    yield
    assert number_of_fds() <= before


async def meet(service: Connection, client: Connection) -> tuple[Depot, Depot, Remote]:
    depot = Depot()
    handle = await introduce(service, client, depot)
    return depot, client.proxy(Depot, handle), Remote(client, handle)


def everything(fd: UnixFd) -> tuple[Any, ...]:
    return (
        fd, [fd, fd], {"a": fd}, [Parcel("b", fd), Parcel("c", fd, fd)], {"log": fd}, Variant("h", fd),
        {"fd": Variant("h", fd)}, Mode.ON,
    )


@on_a_bus()
async def test_descriptors_arrive_within_everything_and_are_closed_with_their_owners(
    service: Connection, client: Connection
) -> None:
    _, proxy, _ = await meet(service, client)
    with nothing_left(), null() as fd:
        assert await proxy.put(*everything(fd)) == 10
        assert os.fstat(fd.fileno())
        await quiet(service, client)


@pytest.mark.parametrize("error", [DBusError, InvalidArgs, ValueError])
def test_a_method_that_fails_keeps_no_descriptor(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest keeps what is logged, with the frames of the method.
    monkeypatch.setattr(logging.getLogger("bus1.services"), "disabled", True)

    @on_a_bus()
    async def run(service: Connection, client: Connection) -> None:
        depot, proxy, _ = await meet(service, client)
        depot.error = error
        with nothing_left(), null() as fd:
            with pytest.raises(DBusError, match="no"):
                await proxy.put(*everything(fd))
            await quiet(service, client)

    run()


@on_a_bus()
async def test_a_call_that_is_refused_keeps_no_descriptor(service: Connection, client: Connection) -> None:
    _, _, remote = await meet(service, client)
    signature = Depot.put.spec().signature
    with nothing_left(), null() as fd:
        wire = [
            fd, [fd], {"a": fd}, [("b", fd, [])], {"log": Variant("h", fd)}, Variant("h", fd),
            {"fd": Variant("h", fd)}, 1,
        ]
        assert (await remote.call(DEPOT, "Put", signature, wire)).values == [7]
        bad = [*wire]
        bad[3] = [("b", fd, [fd, fd])]
        for values, member in (([*wire[:-1], 9], "Put"), (bad, "Put"), (wire, "Nothing")):
            with pytest.raises((InvalidArgs, UnknownMethod)):
                await remote.call(DEPOT, member, signature, values)
        with pytest.raises(InvalidArgs):
            await remote.call(DEPOT, "Put", "h", (fd,))
        await quiet(service, client)


@on_a_bus()
async def test_a_cancelled_call_keeps_no_descriptor(service: Connection, client: Connection) -> None:
    depot, proxy, _ = await meet(service, client)
    with nothing_left(), null() as fd:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(proxy.wait, fd)
            await depot.entered.wait()
            tasks.cancel_scope.cancel()
        await quiet(service, client)


@on_a_bus()
async def test_a_method_keeps_what_it_takes_or_holds(service: Connection, client: Connection) -> None:
    depot, proxy, _ = await meet(service, client)
    with null() as fd:
        await proxy.keep(fd)
        await proxy.own(fd)
    await quiet(service, client)
    (kept,), (owned,) = depot.kept, depot.owned
    assert os.fstat(kept) and os.fstat(owned.fileno())
    os.close(kept)
    with await proxy.show() as shown:
        assert os.fstat(shown.fileno())
    assert os.fstat(owned.fileno())
    owned.close()
    with pytest.raises(DBusError, match="taken or closed"):
        await proxy.show()


@on_a_bus()
async def test_results_are_closed_with_their_owners_and_take_keeps_one(
    service: Connection, client: Connection
) -> None:
    _, proxy, _ = await meet(service, client)
    with nothing_left():
        parcels = await proxy.give(4)
        kept = parcels[1].content.take()
        assert sum(parcel.spare is not None for parcel in parcels) == 2
        del parcels
        assert os.fstat(kept)
        os.close(kept)
        await proxy.give(3)
        await quiet(service, client)


@on_a_bus()
async def test_an_answer_that_does_not_fit_keeps_no_descriptor_while_its_error_is_looked_at(
    service: Connection, client: Connection
) -> None:
    handle = await introduce(service, client, Liar())
    expected, other = client.proxy(Depot, handle), client.proxy(Giver, handle)
    calls: list[Callable[[], Any]] = [
        lambda: expected.give(1), other.show, other.log.get, lambda: expected.log.get()
    ]
    with nothing_left():
        failures = []
        for ask in calls:
            with pytest.raises(InvalidArgs) as failure:
                await ask()
            failures.append(failure)
        await quiet(service, client)


@on_a_bus()
async def test_signals_that_nobody_read_keep_no_descriptor(service: Connection, client: Connection) -> None:
    depot, proxy, _ = await meet(service, client)
    with nothing_left():
        async with proxy.arrived.subscribe() as arrived:
            for _ in range(3):
                await depot.arrived(await depot.give(2), Mode.ON)
            parcels, _ = await anext(arrived)
            assert os.fstat(parcels[1].content.fileno())
            await quiet(service, client)
        del arrived, parcels
        await quiet(service, client)


@on_a_bus()
async def test_properties_give_and_take_descriptors(service: Connection, client: Connection) -> None:
    depot, proxy, _ = await meet(service, client)
    with nothing_left():
        with await proxy.log as log:
            assert os.fstat(log.fileno())
        with null() as fd:
            await proxy.log.set(fd)
        await quiet(service, client)
        assert os.fstat(depot.owned[0].fileno())
        depot.owned.clear()


@on_a_bus()
async def test_what_is_no_open_descriptor_is_not_sent(service: Connection, client: Connection) -> None:
    depot, proxy, _ = await meet(service, client)
    closed = null()
    closed.close()
    for wrong in (closed, None, "0", -1):
        with pytest.raises(InvalidArgument):
            await proxy.keep(cast(UnixFd, wrong))
    assert depot.kept == []


@on_a_bus()
async def test_descriptors_of_a_client_that_dies_are_closed(service: Connection, client: Connection) -> None:
    depot, proxy, _ = await meet(service, client)
    with nothing_left(), null() as fd:
        async with anyio.create_task_group() as tasks:
            async def call() -> None:
                with pytest.raises(BusGone):
                    await proxy.wait(fd)

            tasks.start_soon(call)
            await depot.entered.wait()
            core_peer(client).disconnect()
        await quiet(service)
