"""compared: two services that should be the same, as programs: one of dbus-fast, and its successors.

``python compared.py old`` is what a user has; ``new`` does the same natively; each other word is a
successor with the defect of that name."""

from __future__ import annotations

import sys
from itertools import count

import anyio
from bus1_services import DBusError, Int32, Interface, ObjectPath, Service, Str, UInt32, method, prop, signal
from dbus_fast import DBusError as OldError
from dbus_fast import PropertyAccess
from dbus_fast.aio import MessageBus
from dbus_fast.annotations import DBusInt32, DBusObjectPath, DBusStr, DBusUInt32
from dbus_fast.service import ServiceInterface, dbus_method, dbus_property, dbus_signal

NAME, PATH, INTERFACE = "org.example.Shop", "/org/example/Shop", "org.example.Shop1"


class Sold(DBusError, name="org.example.Error.Sold"):
    """It is sold."""


class Shop(Interface, name=INTERFACE):
    """Sells things, once."""

    def __init__(self) -> None:
        self._stock = 3
        self._orders = count(100)

    @method
    async def sell(self, thing: Str, amount: Int32) -> ObjectPath:
        if amount > self._stock:
            raise Sold(f"{amount} of {thing}")
        self._stock -= amount
        await self.sold(thing)
        await self.counted(self._stock)
        return ObjectPath(f"/order/{next(self._orders)}")

    @method
    def cancel(self, order: ObjectPath) -> Str:
        number = int(order.rpartition("/")[2])
        return "cancelled" if number >= 100 else "no such order"

    @prop(emits="false")
    def stock(self) -> UInt32:
        return self._stock

    @prop(emits="const")
    def opened(self) -> Str:
        return "today"

    @signal
    def sold(self, thing: Str) -> None: ...

    @signal
    def counted(self, stock: UInt32) -> None: ...


class Wrong(Shop):
    """With an answer, an order of signals, an error and a property that differ."""

    @method
    async def sell(self, thing: Str, amount: Int32) -> ObjectPath:
        if amount > self._stock:
            raise DBusError("bug")
        self._stock -= 2 * amount
        await self.counted(self._stock)
        await self.sold(thing)
        return ObjectPath("/order")


def serve_old() -> None:
    """With dbus-fast, over D-Bus."""
    class OldShop(ServiceInterface):
        def __init__(self) -> None:
            super().__init__(INTERFACE)
            self.stock = 3
            self.orders = count(7)

        @dbus_method()
        def Sell(self, thing: DBusStr, amount: DBusInt32) -> DBusObjectPath:
            if amount > self.stock:
                raise OldError("org.example.Error.Sold", "none left")
            self.stock -= amount
            self.Sold(thing)
            self.Counted(self.stock)
            return f"/order/{next(self.orders)}"

        @dbus_method()
        def Cancel(self, order: DBusObjectPath) -> DBusStr:
            return "cancelled" if int(order.rpartition("/")[2]) >= 7 else "no such order"

        @dbus_property(access=PropertyAccess.READ)
        def Stock(self) -> DBusUInt32:
            return self.stock

        @dbus_property(access=PropertyAccess.READ)
        def Opened(self) -> DBusStr:
            return "yesterday"

        @dbus_signal()
        def Sold(self, thing: DBusStr) -> DBusStr:
            return thing

        @dbus_signal()
        def Counted(self, stock: DBusUInt32) -> DBusUInt32:
            return stock

    async def main() -> None:
        bus = await MessageBus().connect()
        bus.export(PATH, OldShop())
        await bus.request_name(NAME)
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    anyio.run(main)


if __name__ == "__main__":
    match sys.argv[1]:
        case "old":
            serve_old()
        case "dies":
            raise SystemExit(3)
        case kind:
            Service("A shop", NAME, objects={PATH: Wrong() if kind == "wrong" else Shop()}).run()
