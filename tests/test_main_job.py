"""The main job, each party a process of its own: what the bridge promises when both worlds share one bus."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from buses import Bus, eventually
from dbus_client import BUS, ERROR, FAULT, PATIENCE, RETURN, CallFailed, Client, Message, marshal

PARTIES = Path(__file__).with_name("parties.py")
NATIVE, LEGACY = "org.example.Native", "org.example.Legacy"
PATH, PARTY, SESSION = "/org/example/Party", "org.example.Party1", "org.example.Session1"


class Program:
    """A running party, and the lines it prints."""

    def __init__(self, bus: Bus, role: str, *arguments: object) -> None:
        self.role = role
        self.process = subprocess.Popen(
            [sys.executable, str(PARTIES), role, *map(str, arguments)],
            env={**bus.environment, "BUS_PATH": bus.path}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def line(self) -> str:
        """The next line; fails after PATIENCE seconds, or when the party ended."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if readable else ""
        assert line, f"{self.role} fell silent, status {self.process.poll()}"
        return line.rstrip("\n")

    def ready(self) -> str:
        """Wait for ``ready``; returns what stands behind it."""
        line = self.line()
        assert line.startswith("ready"), line
        return line.removeprefix("ready").strip()

    def lines_to_the_end(self) -> list[str]:
        """Everything until the party ends by itself, which must be well."""
        out, _ = self.process.communicate(timeout=PATIENCE * 2)
        assert self.process.returncode == 0, self.role
        return out.splitlines()

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        self.process.kill()
        self.process.wait(PATIENCE)


class Stage:
    """Starts parties on one bus."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.programs: list[Program] = []

    def start(self, role: str, *arguments: object) -> Program:
        program = Program(self.bus, role, *arguments)
        self.programs.append(program)
        return program

    def running(self, role: str, *arguments: object) -> Program:
        """Started, and ready."""
        program = self.start(role, *arguments)
        program.ready()
        return program


@pytest.fixture
def stage(bus1_bus: Bus) -> Iterator[Stage]:
    """bus1-bridge and whoever the test starts; all parties are gone before the bus is looked at."""
    stage = Stage(bus1_bus)
    try:
        yield stage
    finally:
        for program in stage.programs:
            if program.process.poll() is None:
                program.process.kill()
            program.process.communicate()


def watcher_of(stage: Stage) -> Client:
    """A D-Bus client that hears every NameOwnerChanged."""
    client = stage.bus.connect()
    client.match("type='signal',member='NameOwnerChanged'")
    return client


def changes_until(client: Client, *last: str) -> list[tuple[object, ...]]:
    """NameOwnerChanged signals up to the one given."""
    seen: list[tuple[object, ...]] = []
    while not seen or seen[-1] != ("NameOwnerChanged", *last):
        got = client.receive()
        if got.member == "NameOwnerChanged":
            seen.append(got.what)
    return seen


# ---- calls in all directions -----------------------------------------------------------------------------


def test_stock_tools_call_a_native_service_and_list_it(stage: Stage) -> None:
    stage.running("native_service", NATIVE)
    called = stage.bus.run("busctl", "--user", "call", NATIVE, PATH, PARTY, "Burst", "u", "1")
    assert called.returncode == 0, called.stderr
    listed = stage.bus.run("busctl", "--user", "list", "--no-pager")
    assert NATIVE in listed.stdout
    tree = stage.bus.run("busctl", "--user", "tree", NATIVE, "--list", "--no-pager")
    assert PATH in tree.stdout.split()
    described = stage.bus.run("gdbus", "introspect", "--session", "-d", NATIVE, "-o", PATH)
    assert "Burst(in  u count)" in " ".join(described.stdout.split(" ")), described.stdout


@pytest.mark.parametrize("endian", ["l", "B"])
def test_a_body_of_every_type_survives_the_way_through_a_native_service(stage: Stage, endian: str) -> None:
    stage.running("native_echo", NATIVE)
    client = stage.bus.connect()
    signature = "ybnqiuxtdsogvasa{sv}a(ix)aa{us}(y(d(s)))ayabaovat"
    values = [
        255, True, -2, 65535, -3, 2**32 - 1, -(2**63), 2**64 - 1, 1.5, "ä€𐍈", "/a/b", "a{sv}",
        ("a(sv)", [("in", ("v", ("u", 7)))]), ["x", ""], {"k": ("ai", [1, 2])}, [(1, -1)], [{1: "e"}, {}],
        (1, (2.5, ("deep",))), b"\x00\xff", [True, False], ["/", "/x"], ("(yv)", (3, ("s", "v"))), [],
    ]  # fmt: skip
    body = marshal(signature, *values, endian=endian)
    serial = client.call(
        NATIVE, "Echo", signature, *values, path=PATH, interface=PARTY, endian=endian
    )
    answer = client.reply(serial)
    assert (answer.type, answer.endian, answer.signature, answer.body) == (RETURN, endian, signature, body)


def test_a_payload_of_100_mib_passes_through_a_native_service(stage: Stage) -> None:
    """As two arrays, since one may have 64 MiB."""
    stage.running("native_echo", NATIVE)
    client = stage.bus.connect()
    half = os.urandom(1 << 20) * 50
    answer = client.request(NATIVE, "Echo", "ayay", half, half, path=PATH, interface=PARTY)
    assert answer.body == marshal("ayay", half, half)


@pytest.mark.parametrize("callee", [NATIVE, LEGACY])
@pytest.mark.parametrize("caller", ["legacy", "native"])
def test_descriptors_pass_in_all_four_directions(stage: Stage, caller: str, callee: str) -> None:
    stage.running("native_service" if callee == NATIVE else "legacy_service", callee)
    if caller == "native":
        program = stage.start("native_caller", callee)
        assert program.lines_to_the_end() == ["heard through", "heard again"]
        return
    client = stage.bus.connect()
    reader, writer = os.pipe()
    try:
        answer = client.request(callee, "PassOn", "h", 0, path=PATH, interface=PARTY, fds=[writer])
        assert os.read(reader, 100) == b"through"
        (back,) = answer.fds
        os.write(back, b"again")
        os.close(answer.fds.pop())
        assert os.read(reader, 100) == b"again"
    finally:
        os.close(reader)
        os.close(writer)


# ---- one order -------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_a_legacy_and_a_native_client_see_the_signals_of_both_worlds_in_one_order(stage: Stage) -> None:
    """10,000 signals of two services at once: G-5 across the bridge."""
    half = 5000
    stage.running("native_service", NATIVE)
    stage.running("legacy_service", LEGACY)
    listeners = [
        stage.running(role, 2 * half, NATIVE, LEGACY) for role in ("native_listener", "legacy_listener")
    ]
    client = stage.bus.connect()
    for name in (NATIVE, LEGACY):
        client.call(name, "Burst", "u", half, path=PATH, interface=PARTY, flags=1)
    heard = [listener.lines_to_the_end() for listener in listeners]
    assert heard[0] == heard[1]
    for name in (NATIVE, LEGACY):
        assert [line for line in heard[0] if line.startswith(name)] == [f"{name} {n}" for n in range(half)]
    turns = sum(a.split()[0] != b.split()[0] for a, b in zip(heard[0], heard[0][1:], strict=False))
    assert turns > 10, "the two bursts did not overlap"


# ---- death -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NATIVE, LEGACY])
def test_kill_9_of_a_service_is_seen_in_the_order_of_the_reference(stage: Stage, name: str) -> None:
    """NameOwnerChanged for the name, then for the unique name, then NoReply: whoever the service was."""
    service = stage.running("native_service" if name == NATIVE else "legacy_service", name)
    caller, other = watcher_of(stage), watcher_of(stage)
    unique = caller.ask("GetNameOwner", "s", name)[0]
    caller.drain()
    other.drain()
    serial = caller.call(name, "Hang", path=PATH, interface=PARTY)
    assert service.line() == "hanging"
    service.kill()
    seen: list[Message] = [caller.receive() for _ in range(3)]
    assert [got.what for got in seen] == [
        ("NameOwnerChanged", name, unique, ""),
        ("NameOwnerChanged", unique, unique, ""),
        (FAULT + "NoReply",),
    ]  # fmt: skip
    assert (seen[2].type, seen[2].reply_serial, seen[2].sender) == (ERROR, serial, BUS)
    assert [other.receive().what for _ in range(2)] == [got.what for got in seen[:2]]


def test_kill_9_of_a_client_that_held_a_capability_is_told_to_its_owner(stage: Stage) -> None:
    service = stage.running("native_service", NATIVE)
    holder = stage.running("legacy_holder", NATIVE)
    holder.kill()
    assert service.line() == "session released"


def test_a_native_service_keeps_its_callers_apart_from_its_own_death(stage: Stage) -> None:
    """A service that goes by SIGTERM leaves no name behind, and its callers are told."""
    service = stage.running("native_service", NATIVE)
    watcher = watcher_of(stage)
    unique = watcher.ask("GetNameOwner", "s", NATIVE)[0]
    serial = watcher.call(NATIVE, "Hang", path=PATH, interface=PARTY)
    assert service.line() == "hanging"
    service.process.send_signal(signal.SIGTERM)
    assert watcher.reply(serial).type == ERROR
    if ("NameOwnerChanged", unique, unique, "") not in [got.what for got in watcher.inbox]:
        changes_until(watcher, unique, unique, "")
    assert service.process.wait(PATIENCE) == 0


# ---- capabilities ----------------------------------------------------------------------------------------


def refusal(
    client: Client, path: str, member: str = "Ping", interface: str = SESSION
) -> tuple[str, list[str]]:
    """Name and text of the error for a call to ``path``, with the path itself left out of the text."""
    with pytest.raises(CallFailed) as failed:
        client.request(NATIVE, member, path=path, interface=interface)
    answer = failed.value.answer
    assert answer.sender is not None
    return str(answer.error_name), [str(text).replace(path, "PATH") for text in answer.args]


def test_an_object_handed_to_one_client_does_not_exist_for_any_other(stage: Stage) -> None:
    stage.running("native_service", NATIVE)
    holder, other = stage.bus.connect(), stage.bus.connect()
    path = holder.request(NATIVE, "Open", path=PATH, interface=PARTY).args[0]
    assert path.startswith("/org/bus1/cap/") and len(path.rpartition("/")[2]) == 32
    assert holder.request(NATIVE, "Ping", path=path, interface=SESSION).args == ["pong"]
    never = "/org/bus1/cap/" + "0" * 32
    for member, interface in (("Ping", SESSION), ("Introspect", "org.freedesktop.DBus.Introspectable")):
        assert refusal(other, path, member, interface) == refusal(other, never, member, interface)
    tree = stage.bus.run("busctl", "--user", "tree", NATIVE, "--list", "--no-pager")
    assert path not in tree.stdout


def test_a_released_capability_is_gone_for_its_holder_and_told_to_its_owner(stage: Stage) -> None:
    service = stage.running("native_service", NATIVE)
    holder = stage.bus.connect()
    path = holder.request(NATIVE, "Open", path=PATH, interface=PARTY).args[0]
    holder.request(NATIVE, "Release", path=path, interface="org.bus1.Capability1")
    assert service.line() == "session released"
    never = "/org/bus1/cap/" + "0" * 32
    assert refusal(holder, path) == refusal(holder, never)


# ---- the daemon ------------------------------------------------------------------------------------------


def test_the_daemon_loads_neither_asyncio_nor_client_libraries(stage: Stage) -> None:
    """Asked of the running process: both come with extension modules, which would be mapped."""
    stage.running("native_service", NATIVE)
    with open(f"/proc/{stage.bus.pid}/maps") as maps:
        mapped = maps.read()
    assert "dbus_fast" not in mapped and "_asyncio" not in mapped


def test_nothing_is_left_when_all_parties_were_killed(stage: Stage) -> None:
    """The fixture asserts that descriptors and names are back where they were; here they were in use."""
    stage.running("native_service", NATIVE)
    stage.running("legacy_service", LEGACY)
    stage.running("legacy_holder", NATIVE)
    for program in stage.programs:
        program.kill()
    probe = stage.bus.connect()
    eventually(lambda: probe.ask("ListNames")[0] == [BUS, probe.name], lambda: probe.ask("ListNames"))
