"""Cancellations that nobody asked a call for: a bug of the method that lets them out, and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from bus1_services import Connection, DBusError, Interface, Str, Stream, method
from bus1_services.testing import PrivateBus

NAME, PATH = "org.example.Shop", "/org/example/Shop"


class Shop(Interface, name="org.example.Shop1"):
    """Waits for what somebody else has cancelled, in each way in which a method can."""

    def _cancelled(self) -> asyncio.Future[str]:
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        future.cancel()
        return future

    @method
    def look(self) -> Str:
        return self._cancelled().result()

    @method
    async def wait(self) -> Str:
        return await self._cancelled()

    @method(deadline=60, limit=1)
    async def hurry(self) -> Str:
        return await self._cancelled()

    @method
    def follow(self) -> Stream[Str]:
        return Stream(self._lines())

    async def _lines(self) -> AsyncIterator[str]:
        yield "first"
        yield await self._cancelled()

    @method
    async def sleep(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            # what it raises takes the place of the cancellation that was asked for
            await self._cancelled()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_a_cancellation_that_nobody_asked_for_fails_one_call(
    private_bus: PrivateBus, native_connection: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    async with private_bus.serve(NAME, {PATH: Shop()}):
        shop = await native_connection.registry.proxy(Shop, NAME, PATH)
        for call in (shop.look, shop.wait, shop.hurry, shop.hurry, shop.look):
            with pytest.raises(DBusError, match="Failed: CancelledError"):
                await call()
        async with await shop.follow() as lines:
            assert await anext(lines) == "first"
            with pytest.raises(DBusError, match="CancelledError"):
                await anext(lines)
    raised = [record.exc_info[0] for record in caplog.records if record.exc_info]
    assert raised == [asyncio.CancelledError] * 6


@pytest.mark.anyio
async def test_a_call_that_is_cancelled_ends_whatever_it_raises_then(
    private_bus: PrivateBus, native_connection: Connection
) -> None:
    async with private_bus.serve(NAME, {PATH: Shop()}):
        shop = await native_connection.registry.proxy(Shop, NAME, PATH)
        for _ in range(3):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(shop.sleep)
                with pytest.raises(DBusError, match="Failed"):
                    await shop.wait()
                tasks.cancel_scope.cancel()
        with pytest.raises(DBusError, match="Failed"):
            await shop.look()
