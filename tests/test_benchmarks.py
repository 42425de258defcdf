"""The benchmark runs: each scenario once, tiny, so that it cannot rot. No time is asserted anywhere."""

from __future__ import annotations

import importlib
import json
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dbus_fast._private.unmarshaller import Unmarshaller

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = {"round-trip": 3, "pipelined": 2, "fan-out": 3, "connect": 1, "start-up": 2}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which are not installed."""
    monkeypatch.syspath_prepend(str(ROOT))

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    return module


def measure(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command for one tiny round."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", "--rounds", "1", "--scale", "0.01", *options],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_scenario_yields_all_its_figures_on_the_reference_and_the_floor(scenario: str) -> None:
    done = measure("--json", "--only", scenario, "--bus", "dbus-daemon", "--bus", "floor (relay)")
    assert (done.returncode, done.stderr) == (0, "")
    results = json.loads(done.stdout)
    assert list(results) == [scenario]
    for bus in ("dbus-daemon", "floor (relay)"):
        measured = results[scenario]["buses"][bus]
        assert measured["failure"] is None
        assert len(measured["rounds"]) == 1
        assert measured["medians"] == measured["rounds"][0]
        assert len(measured["medians"]) == len(results[scenario]["figures"]) == SCENARIOS[scenario]
        assert all(value > 0 for value in measured["medians"])


def test_every_bus_that_is_installed_is_measured(load: Any) -> None:
    done = measure("--json", "--only", "round-trip", "--only", "start-up")
    assert (done.returncode, done.stderr) == (0, "")
    installed = {kind.name for kind in load("__main__").BUSES if kind.executable()}
    assert installed >= {"dbus-daemon", "bus1-bridge", "floor (relay)"}
    for scenario in json.loads(done.stdout).values():
        assert {bus for bus, measured in scenario["buses"].items() if measured["medians"]} == installed


def test_the_table_shows_median_span_and_ratio_of_each_bus(load: Any) -> None:
    results, scenarios = load("run").Results(), load("scenarios")
    results.values["pipelined", "dbus-daemon"] = [(100.0, 8.0), (300.0, 6.0), (200.0, 4.0)]
    results.values["pipelined", "fast"] = [(400.0, 3.0)]
    results.failures["pipelined", "broken"] = "Traceback\nOSError: gone"
    pipelined = next(each for each in scenarios.SCENARIOS if each.name == "pipelined")
    lines = load("report").table(pipelined, ["dbus-daemon", "fast", "broken"], results).splitlines()
    assert " ".join(lines[2].split()) == "dbus-daemon 200 (100 … 300) 1.00 6 (4 … 8) 1.00"
    assert " ".join(lines[3].split()) == "fast 400 (400 … 400) 2.00 3 (3 … 3) 2.00"
    assert lines[4] == "  broken: OSError: gone"


def test_a_bus_that_fails_costs_the_others_nothing_and_is_reported(load: Any, tmp_path: Path) -> None:
    buses, run, scenarios = load("buses"), load("run"), load("scenarios")

    class Broken(buses.PrintingBus):  # type: ignore[misc, name-defined]
        name = "broken"
        program = "false"

    connect = [each for each in scenarios.SCENARIOS if each.name == "connect"]
    results = run.run(run.Plan([Broken, buses.DbusDaemon], connect, 2, scale=0.01))
    assert len(results.values["connect", "dbus-daemon"]) == 2
    assert results.failures == {("connect", "broken"): "broken did not start: "}


def test_the_load_writes_bodies_as_another_implementation_reads_them(load: Any) -> None:
    messages = load("messages")
    policy = load("broker").POLICY
    value = load("broker").open_policy()
    fields = {messages.PATH: "/a", messages.MEMBER: "M", messages.INTERFACE: "a.b", messages.UNIX_FDS: 1}
    message = messages.build(messages.SIGNAL, 7, fields, "yosv", 1, "/a/b", "text", (policy, value))
    stream: Any = BytesIO(message)
    read = Unmarshaller(stream).unmarshall()
    assert read is not None
    assert (read.serial, read.path, read.member, read.interface) == (7, "/a", "M", "a.b")
    assert read.body[:3] == [1, "/a/b", "text"]
    assert read.body[3].signature == policy
    assert messages.frame_length(message) == len(message)


def test_both_serials_of_a_built_reply_lie_where_they_are_patched(load: Any) -> None:
    messages = load("messages")
    fields = {messages.DESTINATION: ":1.1", messages.REPLY_SERIAL: 0x01020304}
    reply = messages.build(messages.RETURN, 0x0A0B0C0D, fields, "s", "x")
    assert messages.U32.unpack_from(reply, messages.SERIAL_OFFSET) == (0x0A0B0C0D,)
    assert messages.U32.unpack_from(reply, messages.REPLY_SERIAL_OFFSET) == (0x01020304,)
    assert messages.reply_serial(reply) == 0x01020304
    assert messages.text_field(reply, messages.DESTINATION) == ":1.1"
    assert messages.text_field(reply, messages.SENDER) == ""


def test_messages_are_cut_where_they_end_however_they_arrive(load: Any) -> None:
    messages, connection = load("messages"), load("connection")
    first = messages.build(messages.SIGNAL, 1, {messages.PATH: "/a"}, "s", "one")
    second = messages.build(messages.RETURN, 2, {messages.REPLY_SERIAL: 9}, "s", "two")
    ours, theirs = socket.socketpair()
    with theirs:
        reader = connection.Connection(ours)
        theirs.sendall(first + second[:20])
        assert reader.frames() == [first]
        theirs.sendall(second[20:] + first)
        assert reader.take_reply() == second
        assert reader.frames() == [first]
        reader.close()


def test_costs_are_measured_in_every_world_of_every_size() -> None:
    few = ["--largest", "10", "--rounds", "1", "--batch", "2"]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.scaling", "--json", *few],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    costs = json.loads(done.stdout)
    assert len(costs) == 9 and "socket: there and back" in costs
    for by_dimension in costs.values():
        assert len(by_dimension) == 4
        assert all(set(by_size) == {"1", "10"} for by_size in by_dimension.values())
        assert all(cost > 0 for by_size in by_dimension.values() for cost in by_size.values())
