"""Stock tools and a client library, unmodified, on both buses (dbus-bus §12, §14)."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from buses import COMMANDS, Bus
from dbus_client import BUS, BUS_PATH, PATIENCE, Client
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

NAME = "t.Tool"


def busctl(bus: Bus, *arguments: str) -> str:
    done = bus.run("busctl", f"--address={bus.address}", "--no-pager", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def gdbus(bus: Bus, verb: str, *arguments: str) -> str:
    done = bus.run("gdbus", verb, "--session", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dbus_send(bus: Bus, *arguments: str) -> str:
    done = bus.run("dbus-send", "--session", "--print-reply=literal", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_busctl_lists_the_names_and_their_processes(bus: Bus) -> None:
    client = bus.connect()
    client.own(NAME)
    rows = {line.split()[0]: line.split() for line in busctl(bus, "list", "--no-legend").splitlines()}
    assert {BUS, NAME, client.name} <= set(rows)
    assert rows[NAME][1] == str(os.getpid())


def test_busctl_shows_the_status_of_a_name_and_of_the_bus(bus: Bus) -> None:
    client = bus.connect()
    client.own(NAME)
    shown = busctl(bus, "status", NAME)
    assert f"PID={os.getpid()}" in shown
    assert f"UniqueName={client.name}" in shown
    assert f"PID={bus.pid}" in busctl(bus, "status", BUS)


def test_busctl_introspects_the_driver(bus: Bus) -> None:
    members = {line.split()[0] for line in busctl(bus, "introspect", BUS, BUS_PATH).splitlines()}
    assert {".RequestName", ".NameOwnerChanged", ".Features", ".Ping", BUS} <= members


def test_busctl_walks_the_tree_of_the_driver(bus: Bus) -> None:
    paths = busctl(bus, "tree", "--list", BUS).split()
    assert BUS_PATH in paths
    assert "/" in paths


def test_busctl_calls_the_driver_and_reads_its_properties(bus: Bus) -> None:
    assert busctl(bus, "call", BUS, BUS_PATH, BUS, "NameHasOwner", "s", BUS) == "b true\n"
    assert "HeaderFiltering" in busctl(bus, "get-property", BUS, BUS_PATH, BUS, "Features")


def test_busctl_says_why_a_call_failed(bus: Bus) -> None:
    done = bus.run("busctl", f"--address={bus.address}", "call", "no.such.Name", "/", "a.B", "C")
    assert done.returncode == 1
    assert "no.such.Name" in done.stderr


def test_busctl_emits_a_signal_that_a_client_hears(bus: Bus) -> None:
    client = bus.connect()
    client.match("interface='a.B'")
    busctl(bus, "emit", "/p", "a.B", "Rang", "su", "x", "3")
    assert client.receive().what == ("Rang", "x", 3)


def test_gdbus_calls_the_driver(bus: Bus) -> None:
    where = ("--dest", BUS, "--object-path", BUS_PATH)
    assert gdbus(bus, "call", *where, "--method", f"{BUS}.NameHasOwner", BUS) == "(true,)\n"
    assert BUS in gdbus(bus, "call", *where, "--method", f"{BUS}.ListNames")


def test_gdbus_introspects_the_driver(bus: Bus) -> None:
    text = gdbus(bus, "introspect", "--dest", BUS, "--object-path", BUS_PATH)
    assert "interface org.freedesktop.DBus {" in text
    assert "NameOwnerChanged" in text
    assert f"node {BUS_PATH}" in gdbus(bus, "introspect", "--recurse", "--dest", BUS, "--object-path", "/")


def test_gdbus_monitor_prints_the_signals_of_a_name(bus: Bus) -> None:
    client = bus.connect()
    client.own(NAME)
    monitor = bus.start("gdbus", "monitor", "--session", "--dest", NAME)
    assert monitor.stdout is not None
    output = ""
    while "Rang" not in output:
        client.emit("Rang", "s", "x", path="/p", interface="a.B")
        if select.select([monitor.stdout], [], [], 0.05)[0]:
            output += os.read(monitor.stdout.fileno(), 4096).decode()
        assert monitor.poll() is None, output
    assert f"The name {NAME} is owned by {client.name}" in output
    assert "/p: a.B.Rang ('x',)\n" in output


def test_gdbus_waits_for_a_name(bus: Bus) -> None:
    watcher = bus.connect()
    watcher.match("member='NameOwnerChanged'")
    waiter = bus.start("gdbus", "wait", "--session", "--timeout", "20", NAME)
    while watcher.receive().args[1:2] != [""]:
        pass
    watcher.own(NAME)
    assert waiter.wait(PATIENCE) == 0


def test_dbus_send_calls_the_driver(bus: Bus) -> None:
    assert len(dbus_send(bus, f"--dest={BUS}", BUS_PATH, f"{BUS}.GetId").split()[0]) == 32
    assert "boolean true" in dbus_send(bus, f"--dest={BUS}", "/", f"{BUS}.NameHasOwner", f"string:{BUS}")


def test_dbus_send_reports_an_error_by_its_name(bus: Bus) -> None:
    done = bus.run("dbus-send", "--session", "--print-reply", "--dest=no.such.Name", "/", "a.B.C")
    assert done.returncode == 1
    assert done.stderr.startswith("Error org.freedesktop.DBus.Error.ServiceUnknown: ")


def test_dbus_send_emits_a_signal_that_a_client_hears(bus: Bus) -> None:
    client = bus.connect()
    client.match("interface='a.B'")
    arguments = ("--type=signal", "/p", "a.B.Rang", "array:string:x,y", "dict:string:int32:k,1", "double:1.5")
    assert bus.run("dbus-send", "--session", *arguments).returncode == 0
    assert client.receive().what == ("Rang", ["x", "y"], {"k": 1}, 1.5)


def test_dbus_send_s_call_is_answered_by_a_client(bus: Bus) -> None:
    client = bus.connect()
    client.own(NAME)
    client.drain()
    tool = bus.start("dbus-send", "--session", "--print-reply=literal", f"--dest={NAME}", "/p", "a.B.C")
    client.answer(client.receive(), "s", "answered")
    output, _ = tool.communicate(timeout=PATIENCE)
    assert output.strip() == "answered"


async def leave(*buses: MessageBus) -> None:
    for bus in buses:
        bus.disconnect()
        await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]


async def exchange_descriptor(address: str, client: Client) -> tuple[bytes, int]:
    """dbus_fast calls ``client`` with a socket; the client answers over it, and by the bus with another."""
    loop = asyncio.get_running_loop()
    bus = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = Message(
            destination=client.name, path="/x", interface="a.B", member="Take", signature="h", body=[0],
            unix_fds=[theirs.fileno()],
        )
        answering = loop.run_in_executor(None, answer_with_descriptor, client)
        reply = await bus.call(request)
        await answering
        assert reply is not None
        assert reply.message_type is MessageType.METHOD_RETURN
        said = ours.recv(100)
        (back,) = reply.unix_fds
        os.write(back, b"back")
        os.close(back)
    await leave(bus)
    return said, len(reply.unix_fds)


def answer_with_descriptor(client: Client) -> None:
    call = client.receive()
    (fd,) = call.fds
    os.write(fd, b"through the bus")
    client.send(2, to=call.sender, reply_to=call.serial, signature="h", args=(0,), fds=[fd])
    client.sync()
    os.close(fd)


def test_dbus_fast_calls_and_passes_descriptors_both_ways(bus: Bus) -> None:
    assert asyncio.run(exchange_descriptor(bus.address, bus.connect())) == (b"through the bus", 1)


async def own_and_be_called(address: str) -> tuple[str, list[str]]:
    service = await MessageBus(bus_address=address).connect()
    caller = await MessageBus(bus_address=address).connect()
    code = await service.request_name(NAME)

    def handle(message: Message) -> Message | None:
        return Message.new_method_return(message, "s", ["hello"]) if message.member == "Greet" else None

    service.add_message_handler(handle)
    reply = await caller.call(Message(destination=NAME, path="/", interface="a.B", member="Greet"))
    driver = caller.get_proxy_object(BUS, BUS_PATH, await caller.introspect(BUS, BUS_PATH))
    names = await driver.get_interface(BUS).call_list_names()  # type: ignore[attr-defined]
    await leave(service, caller)
    assert reply is not None
    return f"{code.name} {reply.body[0]}", names


def test_dbus_fast_serves_introspects_and_calls(bus: Bus) -> None:
    said, names = asyncio.run(own_and_be_called(bus.address))
    assert said == "PRIMARY_OWNER hello"
    assert NAME in names


@pytest.mark.parametrize("kind", list(COMMANDS))
def test_dbus_run_session_runs_a_command_on_a_bus_of_its_own(kind: str, tmp_path: Path) -> None:
    command = ["dbus-run-session", f"--dbus-daemon={COMMANDS[kind]}", "--", "busctl", "--user", "list"]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE * 2)
    assert done.returncode == 0, done.stderr
    assert {line.split()[0] for line in done.stdout.splitlines() if line} >= {BUS, ":1.0"}


@pytest.mark.parametrize("kind", list(COMMANDS))
def test_dbus_run_session_returns_the_status_of_the_command(kind: str, tmp_path: Path) -> None:
    code = "import os, sys; sys.exit(7 if os.environ['DBUS_SESSION_BUS_ADDRESS'].startswith('unix:') else 1)"
    command = ["dbus-run-session", f"--dbus-daemon={COMMANDS[kind]}", "--", sys.executable, "-c", code]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=PATIENCE * 2)
    assert done.returncode == 7
