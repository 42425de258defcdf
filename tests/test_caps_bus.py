"""Views on a real bus: what D-Bus clients can do with their paths, and what they cannot; the example."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from bus1_services import Connection, Int32, Interface, Service, Str, connect, method, prop
from bus1_services import signal as emitted
from bus1_services.caps import Membrane, attenuate, expiring, revocable
from bus1_services.export import Export
from buses import Bus
from dbus_client import CallFailed, Client
from test_services_bus import aside, native

from bus1.errors import NodeDestroyed

POWERBOX = Path(__file__).parent.parent / "examples" / "powerbox.py"
NAME, PATH, LAMP = "org.example.Lamps", "/org/example/Lamps", "org.example.Lamp1"
PROPERTIES = "org.freedesktop.DBus.Properties"
INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
ERROR = "org.freedesktop.DBus.Error."


class Lamp(Interface, name=LAMP):
    """A lamp with a switch."""

    def __init__(self) -> None:
        self.switched = 0

    @method
    def label(self, prefix: Str) -> Str:
        return prefix + "lamp"

    @method
    def switch(self) -> Int32:
        self.switched += 1
        return self.switched

    @method
    def twin(self) -> Lamp:
        return Lamp()

    @prop
    def level(self) -> Int32:
        return 1

    @prop
    def secret(self) -> Str:
        return "hidden"

    @emitted
    def burnt(self, reason: Str) -> None: ...

    @emitted
    def sold(self, price: Int32) -> None: ...


class Store(Interface, name="org.example.Store1"):
    """Hands one lamp out in several ways."""

    def __init__(self) -> None:
        self.lamp = Lamp()
        self.view, self.revoke = revocable(self.lamp)
        self.membrane = Membrane()

    @method
    def dim(self) -> Lamp:
        return attenuate(self.lamp, Lamp.label, Lamp.level, Lamp.twin, fixed={Lamp.label: {"prefix": "a "}})

    @method
    def rent(self) -> Lamp:
        return self.view

    @method
    def glimpse(self) -> Lamp:
        return expiring(self.lamp, 0.05)

    @method
    def enclose(self) -> Lamp:
        return self.membrane.wrap(self.lamp)

    @method
    async def take_back(self) -> None:
        self.revoke()
        self.membrane.revoke()
        (near,) = self.__near__
        await cast(Export, near).connection.swept()


@asynccontextmanager
async def store(bus: Bus) -> AsyncIterator[tuple[Store, Connection]]:
    """The store, served."""
    served = Store()
    async with Service("A store", NAME, objects={PATH: served}, address=native(bus)).running() as connection:
        yield served, connection


def obtain(client: Client, member: str) -> str:
    """The path that the store gives to ``client``."""
    path: str = client.request(NAME, member, path=PATH, interface="org.example.Store1").args[0]
    return path


def refusal(client: Client, path: str, member: str, signature: str = "", *args: Any, **more: Any) -> str:
    """The name of the error that a call is answered with."""
    with pytest.raises(CallFailed) as failed:
        client.request(NAME, member, signature, *args, path=path, **more)
    return str(failed.value.answer.error_name)


def test_a_legacy_holder_of_a_view_gets_what_is_granted_and_nothing_else(bus1_bus: Bus) -> None:
    def legacy(client: Client, stranger: Client) -> None:
        path = obtain(client, "Dim")
        answer = client.request(NAME, "Label", "s", "a ", path=path, interface=LAMP)
        assert answer.args == ["a lamp"]
        assert refusal(client, path, "Label", "s", "b ", interface=LAMP) == ERROR + "AccessDenied"
        assert refusal(client, path, "Switch", interface=LAMP) == ERROR + "UnknownMethod"
        assert refusal(client, path, "Switch", interface=None) == ERROR + "UnknownMethod"
        for other in ("org.example.Store1", LAMP + ".x", "org.example.Lamp"):
            assert refusal(client, path, "Switch", interface=other) == ERROR + "UnknownInterface"
        to: dict[str, Any] = {"path": path, "interface": PROPERTIES}
        assert client.request(NAME, "GetAll", "s", "", **to).args == [{"Level": ("i", 1)}]
        assert refusal(client, path, "Get", "ss", LAMP, "Secret", interface=PROPERTIES) == (
            ERROR + "UnknownProperty"
        )
        (xml,) = client.request(NAME, "Introspect", path=path, interface=INTROSPECTABLE).args
        assert "Label" in xml
        for hidden in ("Switch", "Secret", "Burnt"):
            assert hidden not in xml
        for member, interface in (("Label", LAMP), ("Introspect", INTROSPECTABLE), ("GetAll", PROPERTIES)):
            assert refusal(stranger, path, member, interface=interface) == ERROR + "UnknownObject"

    async def main() -> None:
        async with store(bus1_bus) as (served, _):
            await aside(legacy, bus1_bus.connect(), bus1_bus.connect())
            assert served.lamp.switched == 0

    anyio.run(main)


def test_a_legacy_client_that_keeps_the_path_of_what_was_taken_back_has_nothing(bus1_bus: Bus) -> None:
    def legacy(client: Client) -> None:
        rented, enclosed, dim = (obtain(client, member) for member in ("Rent", "Enclose", "Dim"))
        twins = []
        for lamp in (enclosed, dim):
            twins += client.request(NAME, "Twin", path=lamp, interface=LAMP).args
        through_membrane, by_itself = twins
        client.request(NAME, "Switch", path=rented, interface=LAMP)
        client.request(NAME, "TakeBack", path=PATH, interface="org.example.Store1")
        for path in (rented, enclosed, through_membrane):
            for member, interface in (("Switch", LAMP), ("Introspect", INTROSPECTABLE)):
                assert refusal(client, path, member, interface=interface) == ERROR + "UnknownObject"
        assert client.request(NAME, "Switch", path=by_itself, interface=LAMP).args == [1]

    async def main() -> None:
        async with store(bus1_bus) as (served, _):
            await aside(legacy, bus1_bus.connect())
            assert served.lamp.switched == 1

    anyio.run(main)


def test_calls_that_race_the_revocation_work_before_it_or_not_at_all(bus1_bus: Bus) -> None:
    def legacy(client: Client, other: Client) -> list[str | None]:
        path = obtain(client, "Rent")
        before = [client.call(NAME, "Switch", path=path, interface=LAMP) for _ in range(30)]
        other.request(NAME, "TakeBack", path=PATH, interface="org.example.Store1")
        after = [client.call(NAME, "Switch", path=path, interface=LAMP) for _ in range(30)]
        return [client.reply(serial).error_name for serial in (*before, *after)]

    async def main() -> None:
        async with store(bus1_bus) as (served, _):
            outcomes = await aside(legacy, bus1_bus.connect(), bus1_bus.connect())
            done = outcomes.index(ERROR + "UnknownObject") if ERROR + "UnknownObject" in outcomes else 60
            assert done <= 30 and served.lamp.switched <= 30
            assert None not in outcomes[30:]
            assert set(outcomes) <= {
                None, ERROR + "UnknownObject", ERROR + "NoReply", "org.bus1.Error.Revoked",
            }

    anyio.run(main)


def test_a_view_for_a_time_is_no_object_when_the_time_is_over(bus1_bus: Bus) -> None:
    def legacy(client: Client) -> str:
        path = obtain(client, "Glimpse")
        while True:
            serial = client.call(NAME, "Label", "s", "", path=path, interface=LAMP)
            name = client.reply(serial).error_name
            if name not in {None, "org.bus1.Error.Revoked", ERROR + "NoReply"}:
                return str(name)

    async def main() -> None:
        async with store(bus1_bus):
            assert await aside(legacy, bus1_bus.connect()) == ERROR + "UnknownObject"

    anyio.run(main)


def test_a_published_view_is_what_every_client_sees_until_it_is_revoked(bus1_bus: Bus) -> None:
    async def main() -> None:
        lamp = Lamp()
        view, revoke = revocable(attenuate(lamp, Lamp.label, Lamp.level, Lamp.burnt))
        service = Service("A lamp", NAME, objects={PATH: view}, address=native(bus1_bus))
        legacy = bus1_bus.connect()
        legacy.match(f"sender='{NAME}'")
        async with service.running() as serving, connect(native(bus1_bus)) as client:
            proxy = await client.registry.proxy(Lamp, NAME, PATH)
            assert await proxy.label("a ") == "a lamp"
            await lamp.sold(1)
            await lamp.secret.changed()
            await lamp.burnt("old")
            await lamp.level.changed()

            def look() -> None:
                heard = [legacy.receive().member, legacy.receive().member]
                assert heard == ["Burnt", "PropertiesChanged"]
                (xml,) = legacy.request(NAME, "Introspect", path=PATH, interface=INTROSPECTABLE).args
                assert "Burnt" in xml and "Switch" not in xml and "Secret" not in xml
                assert refusal(legacy, PATH, "Switch", interface=LAMP) == ERROR + "UnknownMethod"

            await aside(look)
            revoke()
            await serving.swept()
            with pytest.raises(NodeDestroyed):
                await proxy.label("a ")
            gone = await aside(lambda: refusal(legacy, PATH, "Label", "s", "", interface=LAMP))
            assert gone == ERROR + "UnknownObject"
        assert lamp.switched == 0

    anyio.run(main)


def test_a_view_of_a_d_bus_programs_object_is_as_narrow(bus1_bus: Bus) -> None:
    old = bus1_bus.connect()
    old.own("org.example.Old")
    called: list[tuple[Any, ...]] = []

    def serve() -> None:
        while (call := old.receive()).member != "Stop":
            if call.path == "/old":
                called.append((call.interface, call.member, *call.args))
                old.answer(call, "s", "a lamp")
                old.emit("Sold", "i", 1, path="/old", interface=LAMP)
                old.emit("Burnt", "s", "old", path="/old", interface=LAMP)

    async def main() -> None:
        async with connect(native(bus1_bus)) as broker, anyio.create_task_group() as tasks:
            held = await broker.registry.proxy(Lamp, "org.example.Old", "/old")
            view, revoke = revocable(attenuate(held, Lamp.burnt, fixed={Lamp.label: {"prefix": "a "}}))
            await broker.registry.publish("A broker", {NAME: 0}, {PATH: view})
            tasks.start_soon(aside, serve)
            await aside(look, bus1_bus.connect())
            revoke()
            await broker.swept()
            gone = await aside(lambda: refusal(bus1_bus.connect(), PATH, "Label", "s", "a ", interface=LAMP))
            assert gone == ERROR + "UnknownObject"

    def look(client: Client) -> None:
        client.match(f"sender='{NAME}'")
        to: dict[str, Any] = {"path": PATH, "interface": LAMP}
        assert client.request(NAME, "Label", "s", "a ", **to).args == ["a lamp"]
        assert (client.receive().what, client.inbox) == (("Burnt", "old"), [])
        assert refusal(client, PATH, "Label", "s", "b ", interface=LAMP) == ERROR + "AccessDenied"
        assert refusal(client, PATH, "Switch", interface=LAMP) == ERROR + "UnknownMethod"
        assert refusal(client, PATH, "Get", "ss", LAMP, "Secret", interface=PROPERTIES) == (
            ERROR + "UnknownProperty"
        )
        client.call("org.example.Old", "Stop", path="/stop", interface=LAMP)

    anyio.run(main)
    assert called == [(LAMP, "Label", "a ")]


def test_the_powerbox_shows_lends_and_takes_back(bus1_bus: Bus, tmp_path: Path) -> None:
    (tmp_path / "letter").write_bytes(b"dear reader")
    (tmp_path / "below").mkdir()
    program = bus1_bus.start(sys.executable, str(POWERBOX), "serve", str(tmp_path))
    assert program.stdout is not None
    assert program.stdout.readline() == "org.example.Powerbox is served\n"
    visited: subprocess.CompletedProcess[str] = bus1_bus.run(sys.executable, str(POWERBOX), "visit")
    told = visited.stdout.splitlines()
    pid = told[3].split()[1] if len(told) > 3 else ""
    assert told == [
        "shown letter: 11 bytes",
        f"written what was only shown: {ERROR}UnknownMethod",
        "written what was lent: 4 bytes",
        f"process {pid} got a Folder, used by 1, 0 refused",
        f"process {pid} got a File, used by 1, 1 refused",
        "read what was taken back: nobody is there",
    ], visited.stderr
    client = bus1_bus.connect()
    to = {"path": "/org/example/Powerbox", "interface": "org.example.Powerbox1"}
    (file,) = client.request("org.example.Powerbox", "Show", "sd", "letter", 60.0, **to).args
    answer = client.request("org.example.Powerbox", "Read", path=file, interface="org.example.File1")
    assert bytes(answer.args[0]) == b"ours"
    for member, args in (("Write", ("ay", b"mine")), ("Open", ("s", "../x"))):
        with pytest.raises(CallFailed):
            client.request("org.example.Powerbox", member, *args, path=file, interface="org.example.File1")
    (given,) = client.request("org.example.Powerbox", "Given", **to).args
    assert given[-1] == f"process {os.getpid()} got a File, used by 1, 2 refused"
    for seconds in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(CallFailed):
            client.request("org.example.Powerbox", "Show", "sd", "letter", seconds, **to)
    (folder,) = client.request("org.example.Powerbox", "Lend", **to).args
    for name in ("../letter", "/etc/passwd", "below", ""):
        with pytest.raises(CallFailed):
            client.request("org.example.Powerbox", "Open", "s", name, path=folder)
    assert (tmp_path / "letter").read_bytes() == b"ours"
