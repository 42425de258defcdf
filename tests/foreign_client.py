# mypy: ignore-errors
"""foreign_client: a client as others write them, for dbus-fast or dbus-next; prints what it experiences.

Run as ``foreign_client.py dbus_fast|dbus_next`` while the examples clock and notify are served.
"""

import asyncio
import sys
from importlib import import_module

library = import_module(sys.argv[1])
MessageBus = import_module(f"{sys.argv[1]}.aio").MessageBus
DBusError, Message, Variant = library.DBusError, library.Message, library.Variant

CLOCK = "org.example.Clock", "/org/example/Clock", "org.example.Clock1"
NOTIFICATIONS = (
    "org.freedesktop.Notifications", "/org/freedesktop/Notifications", "org.freedesktop.Notifications"
)


async def proxy(bus, name, path, *interfaces):
    node = await bus.introspect(name, path)
    found = bus.get_proxy_object(name, path, node)
    return [found.get_interface(interface) for interface in interfaces]


async def use_the_clock(bus):
    clock, properties = await proxy(bus, *CLOCK, "org.freedesktop.DBus.Properties")
    changes = asyncio.Queue()

    def changed(interface, values, invalidated):
        changes.put_nowait((interface, {k: (v.signature, v.value) for k, v in values.items()}, invalidated))

    print(await clock.call_format("%%"), repr(await clock.get_zone()) > "")
    properties.on_properties_changed(changed)
    await clock.set_zone("HERE")
    print(await changes.get(), await clock.get_zone())
    properties.off_properties_changed(changed)
    await clock.set_zone("THERE")
    print(await clock.get_zone(), changes.qsize())
    try:
        await properties.call_get(CLOCK[2], "Missing")
    except DBusError as error:
        print(error.type, error.text)


async def use_notifications(bus):
    (notifications,) = await proxy(bus, *NOTIFICATIONS)
    closed = asyncio.Queue()

    def is_closed(number, reason):
        closed.put_nowait((number, reason))

    notifications.on_notification_closed(is_closed)
    number = await notifications.call_notify("test", 0, "", "Tea", "at four", [], {"x": Variant("u", 1)}, -1)
    print(number, await notifications.call_get_server_information())
    await notifications.call_close_notification(number)
    print(await closed.get(), await notifications.call_get_capabilities())


async def ask(bus, destination, path, interface, member, signature="", *body):
    reply = await bus.call(Message(
        destination=destination, path=path, interface=interface, member=member, signature=signature,
        body=list(body),
    ))
    print(member, reply.message_type.name, reply.error_name, reply.signature)
    return reply.body


async def main():
    bus = await MessageBus().connect()
    await use_the_clock(bus)
    await use_notifications(bus)
    await ask(bus, *CLOCK, "Missing")
    await ask(bus, *CLOCK, "Format", "u", 1)
    await ask(bus, CLOCK[0], "/nowhere", CLOCK[2], "Format", "s", "")
    await ask(bus, "org.example.Nobody", "/", "org.example.Nobody1", "Ask")
    driver = "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus"
    print(CLOCK[0] in (await ask(bus, *driver, "ListNames"))[0])
    (owner,) = await ask(bus, *driver, "GetNameOwner", "s", CLOCK[0])
    print(owner[0], await ask(bus, *driver, "NameHasOwner", "s", "org.example.Nobody"))
    await ask(bus, *driver, "GetNameOwner", "s", "org.example.Nobody")
    await ask(bus, *driver, "AddMatch", "s", "nonsense")
    await ask(bus, *driver, "RemoveMatch", "s", f"sender='{owner}',path='/x'")
    bus.disconnect()
    await bus.wait_for_disconnect()


if __name__ == "__main__":
    asyncio.run(main())
