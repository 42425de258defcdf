"""The tools that watch a bus see the same on both: dbus-monitor, busctl, gdbus (dbus-bus §12)."""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from buses import Bus
from dbus_client import BUS, BUS_PATH, PATIENCE, CallFailed, Client, Message, parse

LINKTYPE_DBUS = 231


class Watching:
    """A tool that has become a monitor, and what it has written so far."""

    def __init__(self, bus: Bus, witness: Client, *command: str) -> None:
        witness.match("type='signal',member='NameOwnerChanged'")
        self._tool = bus.start(*command)
        assert self._tool.stdout is not None
        self._fd = self._tool.stdout.fileno()
        self.output = b""
        while True:
            name, old, new = witness.receive().args
            if name.startswith(":") and old == name and new == "":
                break
        witness.ask("RemoveMatch", "s", "type='signal',member='NameOwnerChanged'")

    def until(self, is_enough: Callable[[bytes], bool]) -> bytes:
        """The tool's output, once it has written enough; the tool is interrupted then."""
        while not is_enough(self.output):
            assert select.select([self._fd], [], [], PATIENCE)[0], self.output
            data = os.read(self._fd, 1 << 16)
            assert data, self.output
            self.output += data
        self._tool.send_signal(signal.SIGINT)
        self._tool.wait(PATIENCE)
        return self.output


def scene(client: Client, other: Client) -> None:
    """One of everything: the driver, a call with its answer, a refusal, signals."""
    client.own("a.name")
    serial = client.call(other.name, "Do", "s", "please")
    other.answer(other.receive(), "s", "done")
    client.reply(serial)
    try:
        client.request("no.such", "Nonsense")
    except CallFailed as failure:
        assert failure.name == "ServiceUnknown"
    client.emit("Rang", "s", "bell")
    client.emit("End")


def essence(got: Message) -> tuple[Any, ...]:
    """What is compared of a message: all but the bus's numbers and the replies to them."""
    return (got.type, got.sender, got.destination, got.member or got.error_name, got.args)


def expected(client: Client, other: Client) -> list[tuple[Any, ...]]:
    """What everybody sees of the scene."""
    me, you = client.name, other.name
    missing = ["The name no.such was not provided by any .service files"]
    return [
        (1, me, BUS, "RequestName", ["a.name", 0]),
        (4, BUS, None, "NameOwnerChanged", ["a.name", "", me]),
        (4, BUS, me, "NameAcquired", ["a.name"]),
        (2, BUS, me, None, [1]),
        (1, me, you, "Do", ["please"]),
        (2, you, me, None, ["done"]),
        (1, me, "no.such", "Nonsense", []),
        (3, BUS, me, "org.freedesktop.DBus.Error.ServiceUnknown", missing),
        (4, me, None, "Rang", ["bell"]),
        (4, me, None, "End", []),
    ]


def pcap(data: bytes) -> Iterator[Message]:
    """The messages of a capture in libpcap's format."""
    magic, _, _, _, _, _, linktype = struct.unpack_from("<IHHiIII", data)
    assert (magic, linktype) == (0xA1B2C3D4, LINKTYPE_DBUS)
    at = 24
    while at + 16 <= len(data):
        _, _, size, original = struct.unpack_from("<IIII", data, at)
        if at + 16 + size > len(data):
            return
        assert size == original
        yield parse(data[at + 16 : at + 16 + size])
        at += 16 + size


def pcapng(data: bytes) -> Iterator[Message]:
    """The messages of a capture in pcapng's format."""
    at = 0
    while at + 8 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if at + length > len(data):
            return
        if kind == 1:
            assert struct.unpack_from("<H", data, at + 8) == (LINKTYPE_DBUS,)
        if kind == 6:
            (size,) = struct.unpack_from("<I", data, at + 20)
            yield parse(data[at + 28 : at + 28 + size])
        at += length


def has_ended(read: Callable[[bytes], Iterator[Message]]) -> Callable[[bytes], bool]:
    """The capture holds the last message of the scene."""
    return lambda data: len(data) >= 24 and any(got.member == "End" for got in read(data))


def after(messages: Iterator[Message], member: str) -> list[Message]:
    """From the first message with this member on."""
    kept = list(messages)
    return kept[[got.member for got in kept].index(member) :]


def test_dbus_monitor_prints_everything(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    watching = Watching(bus, client, "dbus-monitor", "--session")
    scene(client, other)
    text = watching.until(lambda data: b"member=End\n" in data).decode()
    lines = text[text.index("member=RequestName") :].splitlines()
    said = [line.split(maxsplit=1)[0] for line in lines if not line.startswith("   ")]
    kinds = {1: "method", 2: "method", 3: "error", 4: "signal"}
    assert said[1:] == [kinds[what[0]] for what in expected(client, other)][1:]
    assert '   string "bell"' in lines
    assert any("error_name=org.freedesktop.DBus.Error.ServiceUnknown" in line for line in lines)


def test_dbus_monitor_captures_what_wireshark_reads(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    watching = Watching(bus, client, "dbus-monitor", "--session", "--pcap")
    scene(client, other)
    data = watching.until(has_ended(pcap))
    assert [essence(got) for got in after(pcap(data), "RequestName")] == expected(client, other)


def test_dbus_monitor_prints_what_its_rules_match_alone(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    rules = "member='Rang'", "member='End'"
    watching = Watching(bus, client, "dbus-monitor", "--session", "--profile", *rules)
    scene(client, other)
    lines = watching.until(lambda data: b"\tEnd\n" in data).decode().splitlines()
    lines = [line for line in lines if f"\t{client.name}\t" in line and "\tx.Y\t" in line]
    assert [line.split("\t")[-1] for line in lines] == ["Rang", "End"]


def test_busctl_monitor_prints_everything(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    watching = Watching(bus, client, "busctl", f"--address={bus.address}", "--json=short", "monitor")
    scene(client, other)
    text = watching.until(lambda data: b'"member":"End"' in data).decode()
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    records = records[[record.get("member") for record in records].index("RequestName") :]
    numbers = {"method_call": 1, "method_return": 2, "error": 3, "signal": 4}
    assert [
        (
            numbers[record["type"]], record["sender"], record.get("destination"), record.get("member"),
            record["payload"].get("data", []),
        )
        for record in records
    ] == [
        (kind, sender, destination, None if kind == 3 else member, args)
        for kind, sender, destination, member, args in expected(client, other)
    ]


def test_busctl_monitors_one_name_by_sender_and_destination(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    other.own("a.other")
    other.drain()
    address = f"--address={bus.address}"
    watching = Watching(bus, client, "busctl", address, "--json=short", "monitor", "a.other")
    client.emit("NotSeen")
    client.call("a.other", "Do")
    other.answer(other.receive())
    client.reply(client.serial)
    other.emit("End")
    text = watching.until(lambda data: b'"member":"End"' in data).decode()
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    seen = [(record["type"], record.get("member")) for record in records if record.get("path") != BUS_PATH]
    assert seen == [("method_call", "Do"), ("method_return", None), ("signal", "End")]


def test_busctl_captures_what_wireshark_reads(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    watching = Watching(bus, client, "busctl", f"--address={bus.address}", "capture")
    scene(client, other)
    data = watching.until(has_ended(lambda data: pcapng(strip_notes(data))))
    messages = pcapng(strip_notes(data))
    assert [essence(got) for got in after(messages, "RequestName")] == expected(client, other)


def strip_notes(data: bytes) -> bytes:
    """Without the line for people that busctl writes to its standard error."""
    return data.replace(b"Monitoring bus message stream.\n", b"")


def test_gdbus_monitors_a_name_without_being_a_monitor(bus: Bus) -> None:
    client = bus.connect()
    client.own("a.name")
    client.match("member='NameOwnerChanged'")
    tool = bus.start("gdbus", "monitor", "--session", "--dest", "a.name", "--object-path", "/p")
    assert tool.stdout is not None
    output = ""
    while "End" not in output:
        client.emit("Elsewhere", path="/q")
        client.emit("End", "s", "x", path="/p")
        if select.select([tool.stdout], [], [], 0.05)[0]:
            output += os.read(tool.stdout.fileno(), 4096).decode()
        assert tool.poll() is None, output
    assert "Elsewhere" not in output
    assert "/p: x.Y.End ('x',)" in output
    assert not any(got.args[2:] == [""] for got in client.drain() if got.member == "NameOwnerChanged")


def test_a_monitor_that_is_interrupted_leaves_nothing(bus: Bus) -> None:
    client = bus.connect()
    watching = Watching(bus, client, "dbus-monitor", "--session", "member='End'")
    client.emit("End")
    watching.until(lambda data: b"member=End" in data)
    assert client.ask("ListNames")[0] == [BUS, client.name]
    done = subprocess.run(
        ["busctl", f"--address={bus.address}", "--no-pager", "--no-legend", "list"], env=bus.environment,
        capture_output=True, text=True, timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
