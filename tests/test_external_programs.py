"""Programs and libraries that others wrote, on both buses: dbus-python, jeepney, notify-send, dconf.

That the right bus serves them is seen to by ``buses``. busctl, gdbus, dbus-send and dbus-fast are in
``test_conformance_tools``, what watches in ``test_conformance_monitor_tools``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from buses import Bus
from dbus_client import PATIENCE
from jeepney import (
    DBusAddress,
    DBusErrorResponse,
    HeaderFields,
    MatchRule,
    message_bus,
    new_method_call,
    new_method_return,
    new_signal,
)
from jeepney.io.blocking import DBusConnection, Proxy, open_dbus_connection

Jeepneys = tuple[DBusConnection, DBusConnection]

PYTHON_DBUS = "/usr/bin/python3"
"""Debian's interpreter, for which it packages dbus and gi."""


# ---- dbus-python -----------------------------------------------------------------------------------

DBUS_PYTHON_SERVICE = """
import dbus, dbus.mainloop.glib, dbus.service, os, sys
from gi.repository import GLib

class Thing(dbus.service.Object):
    @dbus.service.method("t.Thing", in_signature="sa{sv}", out_signature="s")
    def Greet(self, name, options):
        return f"hello {name}, {sorted(map(str, options))}"

    @dbus.service.method("t.Thing", out_signature="h")
    def Open(self):
        reading, writing = os.pipe()
        os.write(writing, b"from the service")
        os.close(writing)
        return dbus.types.UnixFd(reading)

    @dbus.service.method("t.Thing")
    def Fail(self):
        raise dbus.DBusException("no", name="t.Error.No")

    @dbus.service.signal("t.Thing", signature="u")
    def Rang(self, times):
        pass

    @dbus.service.method("t.Thing", in_signature="u")
    def Ring(self, times):
        self.Rang(times)

    @dbus.service.method("t.Thing")
    def Quit(self):
        loop.quit()

dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
name = dbus.service.BusName("t.Thing", bus, do_not_queue=True)
Thing(bus, "/thing")
loop = GLib.MainLoop()
loop.run()
"""

DBUS_PYTHON_CLIENT = """
import dbus, dbus.mainloop.glib, os
from gi.repository import GLib

dbus.mainloop.glib.DBusGMainLoop(set_as_default=True)
bus = dbus.SessionBus()
loop = GLib.MainLoop()
thing = dbus.Interface(bus.get_object("t.Thing", "/thing"), "t.Thing")
print(thing.Greet("you", {"b": 1, "a": "x"}))
print(os.read(thing.Open().take(), 100).decode())
try:
    thing.Fail()
except dbus.DBusException as error:
    print(error.get_dbus_name())

def rang(times, sender=None):
    print("rang", times, sender == bus.get_name_owner("t.Thing"))
    loop.quit()

bus.add_signal_receiver(rang, "Rang", "t.Thing", path="/thing", sender_keyword="sender")
thing.Ring(3)
loop.run()
print("Greet" in thing.Introspect(dbus_interface="org.freedesktop.DBus.Introspectable"))
watch = bus.watch_name_owner("t.Thing", lambda owner: owner or loop.quit())
thing.Quit()
loop.run()
print("gone", bus.name_has_owner("t.Thing"))
"""
SAID_BY_DBUS_PYTHON = """\
hello you, ['a', 'b']
from the service
t.Error.No
rang 3 True
True
gone False
"""


def test_dbus_python_talks_to_dbus_python(bus: Bus) -> None:
    watcher = bus.connect()
    watcher.match("member='NameOwnerChanged',arg0='t.Thing'")
    bus.start(PYTHON_DBUS, "-c", DBUS_PYTHON_SERVICE)
    watcher.receive()
    done = bus.run(PYTHON_DBUS, "-c", DBUS_PYTHON_CLIENT)
    assert (done.stdout, done.returncode) == (SAID_BY_DBUS_PYTHON, 0), done.stderr


# ---- jeepney ---------------------------------------------------------------------------------------


@pytest.fixture
def jeepneys(bus: Bus) -> Iterator[Jeepneys]:
    """Two connections of that library."""
    with (
        open_dbus_connection(bus.address, enable_fds=True) as one,
        open_dbus_connection(bus.address, enable_fds=True) as other,
    ):
        yield one, other


def test_jeepney_calls_a_service_of_jeepney(jeepneys: Jeepneys) -> None:
    service, client = jeepneys
    assert Proxy(message_bus, service).RequestName("t.Jeep") == (1,)
    address = DBusAddress("/jeep", bus_name="t.Jeep", interface="t.Jeep")
    with ThreadPoolExecutor() as pool, service.filter(MatchRule(type="method_call")) as calls:
        call = new_method_call(address, "Double", "(iv)", ((21, ("s", "x")),))
        answering = pool.submit(client.send_and_get_reply, call, timeout=PATIENCE)
        got = service.recv_until_filtered(calls, timeout=PATIENCE)
        assert got.body == ((21, ("s", "x")),)
        assert got.header.fields[HeaderFields.sender] == client.unique_name
        service.send(new_method_return(got, "i", (42,)))
        assert answering.result().body == (42,)


def test_jeepney_hears_what_it_has_asked_for(jeepneys: Jeepneys) -> None:
    emitter, listener = jeepneys
    rule = MatchRule(type="signal", interface="t.Jeep", path="/jeep")
    Proxy(message_bus, listener).AddMatch(rule)
    with listener.filter(rule) as heard:
        for path in ("/other", "/jeep"):
            emitter.send(new_signal(DBusAddress(path, interface="t.Jeep"), "Rang", "as", (["x", path],)))
        assert listener.recv_until_filtered(heard, timeout=PATIENCE).body == (["x", "/jeep"],)


def test_jeepney_sends_a_descriptor(jeepneys: Jeepneys) -> None:
    sender, receiver = jeepneys
    reading, writing = os.pipe()
    address = DBusAddress("/jeep", bus_name=receiver.unique_name, interface="t.Jeep")
    with open(reading, "rb") as pipe, receiver.filter(MatchRule(type="method_call")) as calls:
        sender.send(new_method_call(address, "Take", "h", (writing,)))
        os.close(writing)
        (descriptor,) = receiver.recv_until_filtered(calls, timeout=PATIENCE).body
        with descriptor.to_file("wb") as theirs:
            theirs.write(b"through the bus")
        assert pipe.read() == b"through the bus"


def test_jeepney_is_told_of_an_error(jeepneys: Jeepneys) -> None:
    with pytest.raises(DBusErrorResponse, match=r"org\.freedesktop\.DBus\.Error\.NameHasNoOwner"):
        Proxy(message_bus, jeepneys[0]).GetNameOwner("t.Nobody")


# ---- notify-send -----------------------------------------------------------------------------------

NOTIFICATIONS = "org.freedesktop.Notifications"


def test_notify_send_reaches_who_shows_notifications(bus: Bus) -> None:
    server = bus.connect()
    server.own(NOTIFICATIONS)
    server.drain()
    flags = ("--app-name=tester", "--urgency=critical", "--expire-time=1500", "--print-id")
    tool = bus.start("notify-send", *flags, "Title", "a <b>body</b>")
    while (call := server.receive()).member != "Notify":
        assert call.member == "GetServerInformation"
        server.answer(call, "ssss", "server", "us", "1", "1.2")
    server.answer(call, "u", 17)
    assert tool.communicate(timeout=PATIENCE)[0] == "17\n"
    app, replaces, _icon, title, body, _actions, hints, timeout = call.args
    assert (app, replaces, title, body, timeout) == ("tester", 0, "Title", "a <b>body</b>", 1500)
    assert hints["urgency"] == ("y", 2)
