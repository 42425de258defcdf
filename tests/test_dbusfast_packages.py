"""Packages that others wrote for dbus-fast and dbus-next, run natively as they are."""

from __future__ import annotations

import queue
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from bus1_services import Double, Interface, Str, Variant, connect, method, prop
from bus1_services.standard import Properties
from buses import Bus
from dbus_client import CALL, Client
from fake_mpd import FakeMpd
from foreign_ways import HERE, NATIVELY

PLAYER, PLAYER_PATH = "org.mpris.MediaPlayer2.Player", "/org/mpris/MediaPlayer2"
ADAPTER = """<node><interface name="org.bluez.Adapter1">
<property name="Address" type="s" access="read"/></interface>
<interface name="org.bluez.GattManager1"><method name="RegisterApplication">
<arg type="o" direction="in"/><arg type="a{sv}" direction="in"/></method></interface>
<interface name="org.bluez.LEAdvertisingManager1"><method name="RegisterAdvertisement">
<arg type="o" direction="in"/><arg type="a{sv}" direction="in"/></method></interface></node>"""
BLUEZ = """<node><interface name="org.bluez.AgentManager1">
<method name="RegisterAgent"><arg type="o" direction="in"/><arg type="s" direction="in"/></method>
<method name="RequestDefaultAgent"><arg type="o" direction="in"/></method></interface>
<node name="hci0"/></node>"""
CHARACTERISTIC, GATT_PATH = "org.bluez.GattCharacteristic1", "/com/spacecheese/bluez_peripheral"


class PlayerProxy(Interface, name=PLAYER):
    """What a native client knows of MPRIS players."""

    @method
    def play(self) -> None: ...

    @method
    def pause(self) -> None: ...

    @prop
    def loop_status(self) -> Str:
        return ""

    @loop_status.setter
    def _set_loop_status(self, value: str) -> None: ...

    @prop
    def playback_status(self) -> Str:
        return ""

    @prop
    def volume(self) -> Double:
        return 0.0


@contextmanager
def program(bus: Bus, *command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """A program, run natively; ended with SIGTERM."""
    started = subprocess.Popen(
        [sys.executable, *NATIVELY, *command], env=bus.environment | environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )
    with started:
        try:
            yield started
        finally:
            started.terminate()


def wait_for(client: Client, name: str) -> None:
    """Until somebody owns this name."""
    client.match(f"type='signal',member='NameOwnerChanged',arg0='{name}'")
    if not client.ask("NameHasOwner", "s", name)[0]:
        while client.receive().what[:2] != ("NameOwnerChanged", name):
            pass


def heard(client: Client, *wanted: Any) -> None:
    """Receive until this signal has come."""
    while client.receive().what != wanted:
        pass


def said(started: subprocess.Popen[str], wanted: str) -> None:
    """Read the program's output up to this line."""
    assert started.stdout is not None
    lines = []
    for line in started.stdout:
        lines.append(line)
        if line == f"{wanted}\n":
            return
    raise AssertionError("".join(lines))


def test_a_player_made_with_aionowplaying_is_used_by_d_bus_clients(bus1_bus: Bus) -> None:
    client, name = bus1_bus.connect(), "org.mpris.MediaPlayer2.Foreign"
    to = {"path": PLAYER_PATH, "interface": PLAYER}
    properties = {"path": PLAYER_PATH, "interface": "org.freedesktop.DBus.Properties"}
    with program(bus1_bus, str(HERE / "foreign_player.py")) as player:
        wait_for(client, name)
        client.match(f"sender='{name}'")
        client.request(name, "Play", **to)
        said(player, "play")
        assert client.request(name, "Get", "ss", PLAYER, "PlaybackStatus", **properties).args == [
            ("s", "Playing")
        ]
        heard(client, "PropertiesChanged", PLAYER, {"Rate": ("d", 2.0)}, [])
        client.request(name, "Seek", "x", 5_000_000, **to)
        said(player, "seek 5000000")
        client.request(name, "Set", "ssv", PLAYER, "LoopStatus", ("s", "Track"), **properties)
        said(player, "loop Track")
        assert client.request(
            name, "Get", "ss", "org.mpris.MediaPlayer2", "Identity", **properties
        ).args == [("s", "A foreign player")]
        client.call(name, "Quit", **to | {"interface": "org.mpris.MediaPlayer2"})
        assert player.wait() == 0


def test_a_player_made_with_aionowplaying_is_used_by_native_clients(bus1_bus: Bus) -> None:
    async def main() -> None:
        async with connect(bus1_bus.path + "1") as connection:
            name = "org.mpris.MediaPlayer2.Foreign"
            player = await connection.registry.proxy(PlayerProxy, name, PLAYER_PATH)
            properties = await connection.registry.proxy(Properties, name, PLAYER_PATH)
            async with properties.properties_changed.subscribe() as changes:
                await player.play()
                assert await player.playback_status == "Playing"
                while (await anext(changes))[1] != {"Rate": Variant("d", 2.0)}:
                    pass
            await player.loop_status.set("Playlist")
            assert await player.loop_status == "Playlist"
            found = await properties.get_all("org.mpris.MediaPlayer2")
            assert found["Identity"].value == "A foreign player"

    client = bus1_bus.connect()
    with program(bus1_bus, str(HERE / "foreign_player.py")):
        wait_for(client, "org.mpris.MediaPlayer2.Foreign")
        anyio.run(main)


def serve_bluez(client: Client) -> dict[str, tuple[str, list[Any]]]:
    """Be BlueZ until an advertisement is registered; who registered what."""
    registered: dict[str, tuple[str, list[Any]]] = {}
    answers = {"/org/bluez": BLUEZ, "/org/bluez/hci0": ADAPTER}
    while "RegisterAdvertisement" not in registered:
        call = client.receive()
        if call.type != CALL:
            continue
        if call.member == "Introspect":
            client.answer(call, "s", answers[call.path])
        elif call.member == "Get":
            client.answer(call, "v", ("s", "00:11:22:33:44:55"))
        else:
            registered[call.member] = call.sender, call.args
            client.answer(call)
    return registered


def test_a_peripheral_made_with_bluez_peripheral_registers_and_is_called_back(bus1_bus: Bus) -> None:
    """It calls BlueZ, a D-Bus program, which calls the objects of the sender."""
    bluez = bus1_bus.connect()
    bluez.own("org.bluez")
    address = bus1_bus.address
    with program(
        bus1_bus, str(HERE / "foreign_peripheral.py"), DBUS_SYSTEM_BUS_ADDRESS=address,
    ) as peripheral:
        registered = serve_bluez(bluez)
        said(peripheral, "advertised")
        (sender, (path, _)) = registered["RegisterApplication"]
        assert path == GATT_PATH and registered["RegisterAgent"][1][1] == "NoInputNoOutput"
        manager = {"path": path, "interface": "org.freedesktop.DBus.ObjectManager"}
        (objects,) = bluez.request(sender, "GetManagedObjects", **manager).args
        (where,) = [path for path, interfaces in objects.items() if CHARACTERISTIC in interfaces]
        assert objects[where][CHARACTERISTIC]["Service"] == ("o", f"{GATT_PATH}/service0")
        to = {"path": where, "interface": CHARACTERISTIC}
        bluez.match(f"sender='{sender}'")
        assert bluez.request(sender, "ReadValue", "a{sv}", {"offset": ("q", 3)}, **to).args == [b"\x14\x03"]
        bluez.request(sender, "StartNotify", **to)
        bluez.request(sender, "WriteValue", "aya{sv}", b"\x15", {}, **to)
        heard(bluez, "PropertiesChanged", CHARACTERISTIC, {"Value": ("ay", b"\x15")}, [])
        assert bluez.request(sender, "ReadValue", "a{sv}", {}, **to).args == [b"\x15\x00"]
        agent_sender, (agent, _) = registered["RegisterAgent"]
        assert bluez.request(
            agent_sender, "RequestAuthorization", "o", "/device", path=agent, interface="org.bluez.Agent1"
        ).args == []


@pytest.fixture
def mpd(tmp_path: Path) -> Iterator[FakeMpd]:
    fake = FakeMpd(tmp_path / "mpd")
    yield fake
    fake.close()


def test_the_program_mpd2mpris_controls_a_music_player(bus1_bus: Bus, mpd: FakeMpd, tmp_path: Path) -> None:
    """A whole program, started by the name of its module; used from both sides, and ended."""
    client, name = bus1_bus.connect(), "org.mpris.MediaPlayer2.mpd"
    properties = {"path": PLAYER_PATH, "interface": "org.freedesktop.DBus.Properties"}

    async def main() -> None:
        async with connect(bus1_bus.path + "1") as connection:
            player = await connection.registry.proxy(PlayerProxy, name, PLAYER_PATH)
            await player.pause()
            assert await anyio.to_thread.run_sync(mpd.commands.get) == "pause 1"
            assert await player.volume == 0.5

    with program(bus1_bus, "mpd2mpris", "--host", str(tmp_path / "mpd"), HOME=str(tmp_path)) as bridge:
        client.match(f"sender='{name}',member='PropertiesChanged'")
        wait_for(client, name)
        while not _title(client.request(name, "Get", "ss", PLAYER, "Metadata", **properties).args):
            pass
        client.request(name, "Play", path=PLAYER_PATH, interface=PLAYER)
        assert mpd.commands.get() == "play"
        anyio.run(main)
        bridge.terminate()
        assert bridge.wait() == 0
    assert not client.ask("NameHasOwner", "s", name)[0]
    with pytest.raises(queue.Empty):
        mpd.commands.get_nowait()


def _title(answer: list[Any]) -> bool:
    ((_, metadata),) = answer
    return bool(metadata.get("xesam:title") == ("s", "Tea"))
