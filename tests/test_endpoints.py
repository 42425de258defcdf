"""Endpoints with less authority: opened, used, told apart, and closed; on a bus as a process of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import anyio
import pytest
from bus1_bridge.entrance import CONNECTIONS_MAX
from bus1_bridge.entrances import ENTRANCES_MAX, GRANTS_MAX, METADATA_MAX
from bus1_bridge.view import RULES_MAX, View
from bus1_command import BUS1
from bus1_services import (
    NOBODY,
    Caller,
    Connection,
    DBusError,
    Handle,
    Interface,
    Remote,
    Signature,
    Str,
    connect,
    method,
)
from bus1_services.endpoint import Endpoint, open_dbus_endpoint, open_native_endpoint
from buses import Bus, eventually
from daemons import Daemon
from daemons import path_of as path_in
from dbus_client import PATIENCE, CallFailed, Client, Wire
from sandboxes import path_of

from bus1.context import ENDPOINT_MAX, context_of, endpoint_of, label_of
from bus1.core.api import PeerFlag
from bus1.errors import Bus1Error, Disconnected, InvalidArgument, NodeDestroyed
from bus1.peer import Peer

EXAMPLES = Path(__file__).parent.parent / "examples"


class Door(Interface, name="org.example.Door1"):
    """Tells who knocks."""

    @method
    def knock(self, caller: Caller = NOBODY) -> Str:
        return caller.endpoint


class Key(Interface, name="org.example.Key1"):
    """Something else that may be granted."""

    @method
    def number(self) -> Str:
        return "7"


def serves(path: str) -> bool:
    """Somebody may come in."""
    with Wire(path) as wire:
        wire.write(b"\0AUTH\r\n")
        return wire._more()


Scene = Callable[[Connection], Awaitable[None]]


def run(bus: Bus, scene: Scene) -> None:
    """One scene, with a connection at the bus's own socket."""

    async def main() -> None:
        with anyio.fail_after(PATIENCE * 2):
            async with connect(bus.path + "1") as connection:
                await scene(connection)

    anyio.run(main)


async def client_of(endpoint: Endpoint) -> Client:
    """A D-Bus client behind it; to be closed."""
    return await anyio.to_thread.run_sync(Client, path_of(endpoint))


async def fails(name: str, opening: Any) -> str:
    """The text of the error, which must have this name."""
    with pytest.raises(DBusError) as failure:
        async with opening:
            pass
    assert failure.value.name.rpartition(".")[2] == name, failure.value
    return failure.value.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where sockets may lie: nothing else does."""
    (tmp_path / "sockets").mkdir()
    return tmp_path / "sockets"


# ---- identity ------------------------------------------------------------------------------------


def test_a_context_carries_the_label_and_the_endpoint() -> None:
    for label in (None, b"", b"unconfined", b"system_u:x:y\0"):
        context = context_of(label, "app é")
        assert (label_of(context), endpoint_of(context)) == ((label or b"").rstrip(b"\0"), "app é")
    for plain in (None, b"", b"unconfined", b"unconfined\0"):
        assert endpoint_of(plain) == ""
        assert label_of(plain) == (plain or b"").rstrip(b"\0")


def test_the_endpoint_comes_with_every_message_natively_and_from_dbus(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        door = Door()
        await connection.registry.publish("door", {"org.example.Door": 0}, {"/door": door})
        async with (
            open_native_endpoint(connection, "native app", door) as native,
            open_dbus_endpoint(connection, "dbus app", talk=["org.example.Door"]) as dbus,
            connect(native.address) as behind, connect(bus1_bus.path + "1") as outside,
        ):
            assert await behind.proxy(Door, behind.granted[0]).knock() == "native app"
            assert await (await outside.registry.proxy(Door, "org.example.Door", "/door")).knock() == ""

            def call() -> list[Any]:
                with Client(path_of(dbus)) as client:
                    fields = {"path": "/door", "interface": "org.example.Door1"}
                    return client.request("org.example.Door", "Knock", **fields).args

            assert await anyio.to_thread.run_sync(call) == ["dbus app"]

    run(bus1_bus, scene)


def test_dbus_services_find_the_endpoint_in_the_credentials(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        async with open_dbus_endpoint(connection, "app", metadata={"instance": "7"}) as endpoint:

            def look() -> None:
                with Client(path_of(endpoint)) as client, Client(bus1_bus.path) as other:
                    for asker, expected in ((other, ("s", "app")), (client, ("s", "app"))):
                        (known,) = asker.ask("GetConnectionCredentials", "s", client.name)
                        assert known["org.bus1.Endpoint"] == expected
                        assert known["org.bus1.Endpoint.Metadata"] == ("a{ss}", {"instance": "7"})
                        assert known["ProcessID"] == ("u", os.getpid())
                    (known,) = other.ask("GetConnectionCredentials", "s", other.name)
                    assert not any(key.startswith("org.bus1") for key in known)

            await anyio.to_thread.run_sync(look)

    run(bus1_bus, scene)


def test_a_receiver_of_plain_messages_is_told_if_it_asks(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        def receive(address: str) -> bytes | None:
            with Peer.connect(address) as peer:
                peer.reset(peer_flags=PeerFlag.WANT_SECCTX)
                peer.send([4], b"to myself")
                with peer.recv() as message:
                    return message.secctx

        async with open_native_endpoint(connection, "app") as endpoint:
            outside = await anyio.to_thread.run_sync(receive, bus1_bus.path + "1")
            behind = await anyio.to_thread.run_sync(receive, endpoint.address)
            assert behind == context_of(outside, "app")

    run(bus1_bus, scene)


# ---- what is granted -----------------------------------------------------------------------------


def test_native_clients_get_what_is_granted_in_its_order_and_nothing_else(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        door, key = Door(), Key()
        async with (
            open_native_endpoint(connection, "two", key, door) as two,
            open_native_endpoint(connection, "none") as none,
            connect(two.address) as behind, connect(none.address) as bare,
        ):
            assert len(behind.granted) == 2 and bare.granted == ()
            assert await behind.proxy(Key, behind.granted[0]).number() == "7"
            assert await behind.proxy(Door, behind.granted[1]).knock() == "two"
            with pytest.raises(DBusError, match="Registry1"):
                await Remote(behind, behind.granted[0]).call("org.bus1.Registry1", "List")

    run(bus1_bus, scene)


def test_a_granted_capability_that_is_gone_lets_nobody_in(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        async with connect(bus1_bus.path + "1") as owner:
            handed = owner.export(Key())
            await owner.registry.publish("key", {"org.example.Key": 0}, {"/key": handed.target})
            key = await connection.registry.proxy(Key, "org.example.Key", "/key")
            async with (
                open_native_endpoint(connection, "app", key) as endpoint,
                connect(endpoint.address) as before,
            ):
                assert await before.proxy(Key, before.granted[0]).number() == "7"
                await owner.registry.withdraw()
                handed.withdraw()
                await owner.swept()
                with pytest.raises(NodeDestroyed, match='"app" grants is gone'):
                    async with connect(endpoint.address):
                        pytest.fail("came in")
                text = await fails("InvalidArgs", open_native_endpoint(connection, "late", key))
                assert text == "A capability that is to be granted is gone"

    run(bus1_bus, scene)


def test_the_registry_may_be_granted_but_opens_nothing_there(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        async with (
            open_native_endpoint(connection, "app", connection.granted[0]) as endpoint,
            connect(endpoint.address) as behind,
        ):
            assert await behind.registry.names() == []
            text = await fails("AccessDenied", open_dbus_endpoint(behind, "more"))
            assert "for root and the user of the bus" in text and 'endpoint="app"' in text

    run(bus1_bus, scene)


class House(Interface, name="org.example.House1"):
    """Has rooms."""

    @method
    def open(self) -> Key:
        return Key()

    @method
    def burn(self) -> Str:
        return "ashes"


def test_a_dbus_client_may_use_the_capabilities_that_it_was_given(bus1_bus: Bus) -> None:
    """The rule lets it open; what it gets for that is a permission of its own, whatever name it calls."""

    async def scene(connection: Connection) -> None:
        await connection.registry.publish("house", {"org.example.House": 0}, {"/house": House()})
        rule = "org.example.House=org.example.House1.Open@/house"
        async with open_dbus_endpoint(connection, "app", call=[rule]) as endpoint:

            def use() -> None:
                with Client(path_of(endpoint)) as client, Client(path_of(endpoint)) as thief:
                    house = {"path": "/house", "interface": "org.example.House1"}
                    with pytest.raises(CallFailed) as refused:
                        client.request("org.example.House", "Burn", **house)
                    assert refused.value.name == "AccessDenied"
                    (path,) = client.request("org.example.House", "Open", **house).args
                    room = {"path": path, "interface": "org.example.Key1"}
                    for name in ("org.example.House", "org.example.Nothing", ":1.999"):
                        assert client.request(name, "Number", **room).args == ["7"]
                        with pytest.raises(CallFailed) as refused:
                            thief.request(name, "Number", **room)
                        assert refused.value.name == "UnknownObject"

            await anyio.to_thread.run_sync(use)

    run(bus1_bus, scene)


# ---- lifetimes -----------------------------------------------------------------------------------


def test_when_it_closes_all_who_came_in_are_cut_off(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        door = Door()
        async with (
            open_native_endpoint(connection, "native", door) as native,
            open_dbus_endpoint(connection, "dbus") as dbus, connect(native.address) as behind,
        ):
            with await client_of(dbus) as client:
                assert stat.S_ISSOCK(os.stat(native.address).st_mode)
                await native.close()
                await dbus.close()
                assert not os.path.exists(native.address) and not os.path.exists(path_of(dbus))
                with pytest.raises(Bus1Error):
                    await behind.proxy(Door, behind.granted[0]).knock()
                assert await anyio.to_thread.run_sync(client.rest) == b""
            with pytest.raises(NodeDestroyed):
                await native.close()
            for address in (native.address, path_of(dbus)):
                with pytest.raises(FileNotFoundError), socket.socket(socket.AF_UNIX) as attempt:
                    attempt.connect(address)

    run(bus1_bus, scene)
    assert "the endpoint \"dbus\" was closed" in bus1_bus.log()


def test_it_ends_with_the_block_and_with_its_opener(bus1_bus: Bus, folder: Path) -> None:
    async def scene(connection: Connection) -> None:
        path = str(folder / "endpoint")
        async with open_dbus_endpoint(connection, "app", path=path) as endpoint:
            assert path_of(endpoint) == path
            assert endpoint.environment == {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={path}"}
        assert not os.path.exists(path)
        async with open_native_endpoint(connection, "app", path=path) as endpoint:
            assert endpoint.environment == {"BUS1_ADDRESS": path}
        assert not os.path.exists(path)

    run(bus1_bus, scene)
    code = (
        "import anyio, os, signal\n"
        "from bus1_services import connect\n"
        "from bus1_services.endpoint import open_dbus_endpoint\n"
        "async def main():\n"
        f"    async with connect({bus1_bus.path + '1'!r}) as c:\n"
        f"        async with open_dbus_endpoint(c, 'app', path={str(folder / 'orphan')!r}):\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "anyio.run(main)\n"
    )
    subprocess.run([BUS1.with_name("python"), "-c", code], timeout=PATIENCE, check=False)
    eventually(lambda: not (folder / "orphan").exists(), lambda: os.listdir(folder))


def test_whoever_holds_an_endpoint_keeps_it_open(bus1_bus: Bus, folder: Path) -> None:
    async def scene(connection: Connection) -> None:
        path = str(folder / "endpoint")
        answer = await Remote(connection, connection.granted[0]).call(
            "org.bus1.Endpoints1", "OpenDBus", "ssasa{ss}", ("app", path, [], {})
        )
        (handle,) = answer.handles
        async with (
            open_native_endpoint(connection, "manager", handle) as manager, connect(manager.address) as other,
        ):
            assert handle is not None
            handle.release()
            await connection.swept()
            kept = other.granted[0]
            await manager.close()
            with pytest.raises(Disconnected):
                await Remote(other, kept).call("org.bus1.Endpoint1", "Close")
        eventually(lambda: not os.path.exists(path), lambda: path)

    run(bus1_bus, scene)


class Keeper(Interface, name="org.example.Keeper1"):
    """Hands out what it keeps."""

    handle: Handle | None = None

    @method
    def give(self) -> Annotated[Any, Signature("o")]:
        return self.handle


def test_a_client_that_holds_its_own_endpoint_may_close_it(bus1_bus: Bus) -> None:
    """The channel whose request is being carried out is cut off in the middle of it."""

    async def scene(connection: Connection) -> None:
        keeper = Keeper()
        async with open_native_endpoint(connection, "app", keeper) as endpoint:
            keeper.handle = endpoint.handle
            async with connect(endpoint.address) as behind:
                own = await behind.proxy(Keeper, behind.granted[0]).give()
                with pytest.raises(Disconnected):
                    await Remote(behind, own.handle).call("org.bus1.Endpoint1", "Close")
                with pytest.raises(Disconnected):
                    await behind.proxy(Keeper, behind.granted[0]).give()
            assert not os.path.exists(endpoint.address)
        assert await connection.registry.names() == []

    run(bus1_bus, scene)


def test_the_peers_of_those_who_came_in_end_whoever_holds_them(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        async with open_native_endpoint(connection, "app", connection.granted[0]) as endpoint:

            def behind() -> Peer:
                return Peer.connect(endpoint.address)

            peer = await anyio.to_thread.run_sync(behind)
            outside = bus1_bus.path + "1"
            with await anyio.to_thread.run_sync(Peer.from_descriptor, peer.fileno(), outside) as same:
                await anyio.to_thread.run_sync(same.send, [4], b"to myself")
                await endpoint.close()
                with pytest.raises(Bus1Error):
                    await anyio.to_thread.run_sync(same.send, [4], b"to myself")
            peer.close()

    run(bus1_bus, scene)


def test_the_bus_takes_the_sockets_of_its_endpoints_along(bridge: Daemon, folder: Path) -> None:
    process, address = bridge.serve(f"--config-file={bridge.configure()}")
    by_dbus, native = str(folder / "by dbus"), str(folder / "native")
    with Client(path_in(address)) as manager:
        manager.ask("OpenDBus", "ssasa{ss}", "app", by_dbus, [], {}, interface="org.bus1.Endpoints1")

        async def scene() -> None:
            async with connect(path_in(address) + "1") as connection:
                with pytest.raises(Disconnected):
                    async with open_native_endpoint(connection, "app", path=native):
                        assert sorted(os.listdir(folder)) == ["by dbus", "native"]
                        await anyio.to_thread.run_sync(bridge.stop, process)
                        await connection.ended()

        anyio.run(scene)
    assert not os.listdir(folder)


# ---- refusals ------------------------------------------------------------------------------------


def test_what_cannot_be_opened_is_refused_in_words_and_leaves_nothing(bus1_bus: Bus, folder: Path) -> None:
    async def scene(connection: Connection) -> None:
        def at(name: str = "app", **options: Any) -> Any:
            return open_dbus_endpoint(connection, name, **{"path": str(folder / "socket")} | options)

        assert "see=a" in await fails("InvalidArgs", at(see=["a"]))
        for name in ("", "a\nb", "x" * (ENDPOINT_MAX + 1)):
            assert "An endpoint's name" in await fails("InvalidArgs", at(name))
        assert "absolute path" in await fails("InvalidArgs", at(path="relative"))
        for path in (str(folder / "no" / "folder"), str(folder), "/" + "x" * 200):
            assert await fails("InvalidArgs", at(path=path))
        (folder / "file").write_text("mine")
        assert await fails("InvalidArgs", at(path=str(folder / "file")))
        assert (folder / "file").read_text() == "mine"
        assert "metadata" in await fails("LimitsExceeded", at(metadata={"a": "x" * METADATA_MAX}))
        assert "rules" in await fails("InvalidArgs", at(see=["a.b"] * 1025))
        async with at():
            assert await fails("InvalidArgs", at())
        many = [connection.export(Key()).target for _ in range(GRANTS_MAX + 1)]
        assert str(GRANTS_MAX) in await fails(
            "LimitsExceeded", open_native_endpoint(connection, "app", *many, path=str(folder / "socket"))
        )
        with pytest.raises(InvalidArgument, match="nothing that can be granted"):
            async with open_native_endpoint(connection, "app", "text"):
                pytest.fail("opened")
        assert os.listdir(folder) == ["file"]

    run(bus1_bus, scene)


def test_endpoints_and_their_clients_are_bounded(bus1_bus: Bus, folder: Path) -> None:
    async def scene(connection: Connection) -> None:
        opener, made = Remote(connection, connection.granted[0]), []
        for number in range(ENTRANCES_MAX):
            arguments: Any = (f"app {number}", str(folder / str(number)), [], {})
            made.append(await opener.call("org.bus1.Endpoints1", "OpenDBus", "ssasa{ss}", arguments))
        assert str(ENTRANCES_MAX) in await fails("LimitsExceeded", open_dbus_endpoint(connection, "more"))

        def crowd() -> None:
            path = str(folder / "0")
            inside = [Client(path, hello=False) for _ in range(CONNECTIONS_MAX)]
            with Wire(path) as refused:
                assert refused.rest() == b""
            inside.pop().close()
            eventually(lambda: serves(path), lambda: "still full")
            for client in inside:
                client.close()

        await anyio.to_thread.run_sync(crowd)
        for answer in made:
            (handle,) = answer.handles
            assert handle is not None
            handle.release()
        await connection.swept()
        eventually(lambda: not os.listdir(folder), lambda: os.listdir(folder))
        async with open_dbus_endpoint(connection, "again"):
            pass

    run(bus1_bus, scene)


def test_an_endpoint_ends_its_clients_in_whatever_state_they_are(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        async with open_dbus_endpoint(connection, "app", talk=["a.Stuck"]) as endpoint:

            def misbehave() -> None:
                with Client(path_of(endpoint), hello=False) as silent, Client(path_of(endpoint)) as torn, \
                        Client(path_of(endpoint)) as deaf, Client(bus1_bus.path) as stuck:
                    stuck.own("a.Stuck")
                    torn.write(b"l\1\0\1\xff\0\0\0")
                    for _ in range(50):
                        deaf.call("a.Stuck", "Do", "s", "x" * 65536, flags=1)
                    anyio.from_thread.run(endpoint.close)
                    for client in (silent, torn):
                        assert client.rest() == b""
                    assert stuck.ask("GetId")

            await anyio.to_thread.run_sync(misbehave)

    run(bus1_bus, scene)


def test_the_page_tells_the_bounds() -> None:
    page = (EXAMPLES.parent / "docs" / "endpoints.md").read_text()
    assert f"| endpoints of a user | {ENTRANCES_MAX} |" in page
    assert f"| clients of an endpoint, for D-Bus | {CONNECTIONS_MAX};" in page
    assert f"| {RULES_MAX}, {GRANTS_MAX}, {METADATA_MAX}, {ENDPOINT_MAX} |" in page
    for rule in re.findall(r'"([\w.]+=[\w.*@/]+)"', page):
        assert View.of([f"call={rule}"])


# ---- the command, and the example ------------------------------------------------------------------


def sandbox(bus: Bus, *arguments: str) -> subprocess.CompletedProcess[str]:
    return bus.run(str(BUS1), "sandbox", *arguments)


def test_a_stock_program_sees_what_it_was_given(bus1_bus: Bus) -> None:
    with Client(bus1_bus.path) as hidden, Client(bus1_bus.path) as seen:
        hidden.own("org.example.Hidden")
        seen.own("org.example.Seen")
        names = sandbox(bus1_bus, "--see=org.example.Seen", "--", "busctl", "--user", "--no-legend", "list")
        assert names.returncode == 0, names.stderr
        listed = {line.split()[0] for line in names.stdout.splitlines()}
        assert {"org.example.Seen", seen.name, "org.freedesktop.DBus"} <= listed
        assert not {"org.example.Hidden", hidden.name} & listed


def test_a_service_manager_that_speaks_dbus_opens_them_too(bus1_bus: Bus, folder: Path) -> None:
    path, name = str(folder / "socket"), "org.example.App"
    with Client(bus1_bus.path) as manager:
        fields = {"interface": "org.bus1.Endpoints1"}
        rules = ["own=org.example.App"]
        assert manager.ask("OpenDBus", "ssasa{ss}", name, path, rules, {}, **fields) == [f"unix:path={path}"]
        with Client(path) as client:
            assert client.own(name) == 1
            assert manager.ask("GetConnectionCredentials", "s", name)[0]["org.bus1.Endpoint"] == ("s", name)
            assert client.fault("OpenDBus", "ssasa{ss}", "x", path, [], {}, **fields) == "AccessDenied"
            assert manager.ask("Close", "s", f"unix:path={path}", **fields) == []
            assert client.rest() == b""
        manager.ask("OpenDBus", "ssasa{ss}", name, path, rules, {}, **fields)
    eventually(lambda: not os.path.exists(path), lambda: path)


def test_the_command_ends_as_the_program_does(bus1_bus: Bus) -> None:
    assert sandbox(bus1_bus, "sh", "-c", "exit 7").returncode == 7
    assert sandbox(bus1_bus, "sh", "-c", "kill -KILL $$").returncode == 128 + 9
    failed = sandbox(bus1_bus, "--see=a", "--", "true")
    assert (failed.returncode, failed.stdout) == (1, "") and "see=a" in failed.stderr
    assert sandbox(bus1_bus).returncode == sandbox(bus1_bus, "--").returncode == 2
    inner = sandbox(bus1_bus, "--", str(BUS1), "sandbox", "true")
    assert inner.returncode == 1, "who is behind an endpoint finds no native bus"


def test_the_example_shows_what_a_program_sees(bus1_bus: Bus) -> None:
    confine = ["--bwrap"] if may_confine() else []
    for options in ([], confine):
        check_example(bus1_bus.run(str(BUS1.with_name("python")), str(EXAMPLES / "sandbox.py"), *options))


def may_confine() -> bool:
    """There is a bwrap(1), and it may make namespaces here."""
    command = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]
    return shutil.which("bwrap") is not None and subprocess.run(command, check=False).returncode == 0


def check_example(told: subprocess.CompletedProcess[str]) -> None:
    assert told.returncode == 0, told.stdout + told.stderr
    listed, _, answers = told.stdout.partition("What can it do?")
    assert "org.example.Greeter " in listed and "org.example.Secrets" not in listed
    for answer in (
        "/greeter", "Hello sandbox, from org.example.App!", "Secrets was not provided by", "b false",
    ):
        assert answer in answers


def test_a_single_text_is_no_list_of_names(bus1_bus: Bus) -> None:
    async def scene(connection: Connection) -> None:
        with pytest.raises(TypeError, match=re.escape("talk is a list, not a text: talk=['org.example.D']")):
            async with open_dbus_endpoint(connection, "app", talk="org.example.D"):
                pass

    run(bus1_bus, scene)
