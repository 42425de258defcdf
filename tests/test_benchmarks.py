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
from dbus_client import BUS, Client
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


CROWDS = {
    "rules, by path": 1, "rules, by interface": 1, "rules, by arg0": 1, "rules, by argN": 1,
    "connections": 3, "names": 2,
}
"""How many operations are measured among each."""


def measure_costs(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the command with crowds of ten."""
    few = ["--largest", "10", "--rounds", "1", "--batch", "2"]
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.costs", *few, *options],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50,
    )  # fmt: skip


@pytest.mark.parametrize("crowd", CROWDS)
def test_operations_are_measured_among_every_crowd_on_every_bus(load: Any, crowd: str) -> None:
    assert set(load("crowd").KINDS) == set(CROWDS)
    done = measure_costs("--json", "--only", crowd)
    assert (done.returncode, done.stderr) == (0, "")
    costs = json.loads(done.stdout)
    buses = {kind.name for kind in load("crowded").BUSES if kind.executable()}
    assert buses >= {"dbus-daemon", "bus1-bridge"}
    assert {(cost["among"], cost["size"]) for cost in costs} == {(crowd, 10)}
    assert {cost["bus"] for cost in costs} == buses
    assert len({cost["operation"] for cost in costs}) * len(buses) == len(costs) == CROWDS[crowd] * len(buses)
    assert all(cost["time"] > 0 and cost["processor"] > 0 for cost in costs)


def test_the_table_of_costs_has_a_row_for_each_operation_and_bus(load: Any) -> None:
    cost = load("costs").Cost
    found = [
        cost("call", "names", bus, size, time * factor, time / 2)
        for bus, factor in (("dbus-daemon", 1), ("bus1-bridge", 3))
        for size, time in ((10, 20.0), (1_000, 50.0))
    ]
    assert load("costs").tables(found).splitlines()[4:] == [
        "| call | dbus-daemon | 20 (10) | 50 (25) | × 2.50 (× 2.50) |",
        "| call | bus1-bridge | 60 (10) | 150 (25) | × 2.50 (× 2.50) |",
    ]


@pytest.mark.parametrize("bus", ["RoomyDaemon", "RoomyBridge"])
@pytest.mark.parametrize("crowd", ["rules, by argN", "connections", "names"])
def test_a_crowd_brings_what_it_is_asked_for(load: Any, tmp_path: Path, bus: str, crowd: str) -> None:
    few, more = (count_all(load, tmp_path, bus, crowd, size) for size in (10, 30))
    grown = {name: more[name] - few[name] for name in more}
    expected = {"rules": 20, "connections": 0, "names": 0}
    if crowd == "names":
        expected = {"rules": 0, "connections": 0, "names": 20}
    if crowd == "connections":
        expected = {"rules": 20, "connections": 20, "names": 0}
    assert grown == expected


def count_all(load: Any, folder: Path, bus: str, crowd: str, size: int) -> dict[str, int]:
    """What there is of each on a bus with a crowd."""
    crowded = load("crowded")
    place = crowded.Crowded(getattr(crowded, bus)(folder, size), crowd, size)
    try:
        with Client(str(place.bus.socket)) as client:
            (counted,) = client.ask("GetStats", interface=f"{BUS}.Debug.Stats")
            names = client.ask("ListNames")[0]
    finally:
        place.close()
    unique = [name for name in names if name.startswith(":")]
    return {
        "rules": counted["MatchRules"][1], "connections": len(unique), "names": len(names) - len(unique),
    }
