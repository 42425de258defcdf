"""The benchmark runs: each scenario once, tiny, so that it cannot rot. No time is asserted anywhere."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from dbus_client import BUS, Client
from dbus_fast._private.unmarshaller import Unmarshaller

ROOT = Path(__file__).resolve().parent.parent
TINY = ("--unpinned", "--rounds", "1", "--seconds", "0.005", "--largest", "20")
GROUPS = ("SINGLE", "STREAMS", "SYSTEM", "RULES", "MEMORY", "LIBRARIES", "PYTHON", "CROWD")
needs_cargo = pytest.mark.skipif(shutil.which("cargo") is None, reason="the load generator needs cargo")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of the benchmarks, which are not installed."""
    monkeypatch.syspath_prepend(str(ROOT))

    def module(name: str) -> ModuleType:
        return importlib.import_module(f"benchmarks.{name}")

    return module


def measure(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command, tiny."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks", *TINY, *options], cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=55,
    )  # fmt: skip


@needs_cargo
@pytest.mark.parametrize("group", GROUPS)
def test_each_scenario_yields_all_its_figures_on_every_bus_that_it_is_for(load: Any, group: str) -> None:
    scenarios = [each for each in getattr(load("table"), group) if each.can_be_measured()]
    if not scenarios:
        pytest.skip("their libraries are not installed")
    done = measure("--json", *(word for each in scenarios for word in ("--only", each.name)))
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)["unpinned"]
    assert set(found) == {scenario.name for scenario in scenarios}
    installed = {kind.name for kind in load("__main__").USUAL if kind.executable()}
    assert installed >= {"dbus-daemon", "bus1-bridge", "floor"}
    for scenario in scenarios:
        expected = installed & set(scenario.buses or installed)
        buses = {bus: each for bus, each in found[scenario.name]["buses"].items() if each["medians"]}
        assert set(buses) == expected
        for each in buses.values():
            assert each["failure"] is None
            assert set(each["medians"]) == {figure.name for figure in scenario.figures}
            assert list(each["medians"].values()) == each["rounds"][0]


def test_all_scenarios_are_in_one_of_the_groups_and_have_names_of_their_own(load: Any) -> None:
    table = load("table")
    names = [scenario.name for group in GROUPS for scenario in getattr(table, group)]
    assert names == [scenario.name for scenario in table.SCENARIOS]
    assert len(set(names)) == len(names)
    assert set(table.UNPINNED) < set(names)


def test_a_scenario_whose_library_is_not_installed_is_left_out(load: Any) -> None:
    scenario = scenario_of(load, "call")
    assert scenario.can_be_measured()
    missing = dataclasses.replace(scenario, library="libnone.so.1")
    assert not missing.can_be_measured()


def test_without_cargo_the_command_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "dbus-daemon").symlink_to(shutil.which("dbus-daemon") or "")
    done = measure("--only", "call", "--bus", "dbus-daemon", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "the load generator is in Rust, and there is no cargo: install Rust 1.85 or later\n"


def results_of(load: Any, *values: tuple[str, str, list[tuple[float, ...]]]) -> Any:
    results = load("run").Results()
    for scenario, bus, rounds in values:
        results.values[scenario, bus] = rounds
    return results


def scenario_of(load: Any, name: str) -> Any:
    return next(each for each in load("table").SCENARIOS if each.name == name)


def test_the_table_shows_medians_the_ratio_to_the_reference_and_whether_the_goal_is_met(load: Any) -> None:
    results = results_of(
        load,
        ("call", "dbus-broker", [(20.0, 90.0, 6.0), (10.0, 95.0, 5.0), (12.0, 10.0, 4.0)]),
        ("call", "bus1-bridge", [(9.0, 99.0, 4.0)]),
        ("rules-path", "bus1-bridge", [(200.0, 190.0, 1234.5)]),
    )
    results.failures["call", "floor"] = "Traceback\nOSError: gone"
    scenarios = [scenario_of(load, "call"), scenario_of(load, "rules-path")]
    lines = load("report").table(scenarios, ["dbus-broker", "floor", "bus1-bridge"], results).splitlines()
    assert lines[0].split(" | ")[2:6] == ["dbus-broker", "floor", "bus1-bridge", "bus1-bridge / dbus-broker"]
    assert lines[2:5] == [
        "| call + reply, p50 | µs | 12 | – | 9 | 0.75 | ≤ 0.8 | yes |",
        "| the same, p99 | µs | 90 | – | 99 | 1.10 |  |  |",
        "| bus CPU per routed message in that | µs | 5 | – | 4 | 0.80 | ≤ 0.65 | no |",
    ]
    assert [line.split(" | ")[4:] for line in lines[5:8]] == [
        ["200", "–", "", " |"], ["190", "–", "≥ 0.9 of few", "yes (0.95) |"],
        ["1,234", "–", "≥ 0.9 of few", "yes (6.17) |"],
    ]
    assert lines[-1] == "call on floor failed: OSError: gone"


@needs_cargo
def test_rates_may_be_counted_by_the_time_that_bus_and_clients_have_run() -> None:
    quick = ("--rounds", "1", "--seconds", "0.1", "--only", "getid", "--only", "batched", "--bus", "floor")
    assert measure("--busy", *quick).returncode == 2
    command = [sys.executable, "-m", "benchmarks", "--pinned", "--busy", "--json", *quick]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["pinned"]["batched"]["buses"]["floor"]["medians"]["rate"] > 0


def test_what_must_never_happen_is_told_if_it_happened_once(load: Any) -> None:
    rounds: list[tuple[float, ...]] = [
        (20.0, 90.0, 6.0, 0.0, 0.0, 0.0), (10.0, 10.0, 7.0, 1.0, 0.0, 0.0), (12.0, 95.0, 5.0, 0.0, 0.0, 0.0),
    ]
    results = results_of(load, ("flood", "bus1-bridge", rounds))
    medians = results.medians(scenario_of(load, "flood"), "bus1-bridge")
    assert list(medians.values()) == [12.0, 90.0, 7.0, 1.0, 0.0, 0.0]


def test_a_goal_is_a_bound_on_a_ratio_on_the_value_or_on_another_figure(load: Any) -> None:
    goal = load("figures").Goal
    assert goal(most=0.8).value("p50", {"p50": 4.0}, {"p50": 5.0}) == 0.8
    assert goal(most=0.8).is_met(0.8) and not goal(most=0.8).is_met(0.81)
    assert goal(least=3).is_met(3) and not goal(least=3).is_met(2.9)
    assert goal(most=64, of="itself").value("growth", {"growth": 5.0}, {}) == 5.0
    assert goal(least=0.9, of="few").value("many", {"few": 10.0, "many": 9.0}, {"many": 1.0}) == 0.9
    assert goal(most=0.8).value("p50", {"p50": 4.0}, {}) is None
    assert goal(most=0.8).value("p50", {}, {"p50": 4.0}) is None


def fake_scenario(load: Any, name: str, measured: Any, furnish: Any, **options: Any) -> Any:
    figure = load("figures").Figure("value", name, "µs")
    return load("table").Scenario(name, (figure,), measured, furnish, **options)


def test_rounds_visit_every_bus_in_an_order_that_rotates(load: Any) -> None:
    daemon, bridge = load("buses").DbusDaemon, load("buses").Bus1Bridge
    visits = []

    def measured(place: Any, seconds: float) -> tuple[float, ...]:
        visits.append(place.kind.name)
        return (seconds,)

    scenarios = [
        fake_scenario(load, "two", measured, lambda place: None, rounds=2),
        fake_scenario(load, "one", measured, lambda place: None, buses=("dbus-daemon",), rounds=1),
    ]
    results = load("run").run(load("run").Plan([daemon, bridge], scenarios, 3, 0.5, pinned=True))
    assert visits == ["dbus-daemon", "bus1-bridge", "bus1-bridge", "dbus-daemon", "dbus-daemon"]
    assert results.values["two", "bus1-bridge"] == [(0.5,), (0.5,)]
    assert results.medians(scenarios[1], "bus1-bridge") == {}
    assert len(os.sched_getaffinity(0)) == os.cpu_count()


def test_a_bus_that_fails_costs_the_others_nothing_and_is_reported(load: Any) -> None:
    buses, places, run = load("buses"), load("places"), load("run")

    class Broken(buses.PrintingBus):  # type: ignore[misc, name-defined]
        name = "broken"
        program = "false"

    def measured(place: Any, seconds: float) -> tuple[float, ...]:
        return (place.bus.memory(),)

    scenarios = [fake_scenario(load, "memory", measured, places.running)]
    results = run.run(run.Plan([Broken, buses.DbusDaemon], scenarios, 2, 0.01, pinned=False))
    assert len(results.values["memory", "dbus-daemon"]) == 2
    assert results.failures == {("memory", "broken"): "broken did not start: "}
    assert results.medians(scenarios[0], "dbus-daemon")["value"] > 1_000_000


def test_a_system_s_policy_lets_the_same_pass_on_every_bus(load: Any, tmp_path: Path) -> None:
    messages, system, connection = load("messages"), load("system"), load("connection")
    request = messages.driver_call("RequestName", "su", system.SERVICE, 0)
    for kind in (load("buses").DbusDaemon, load("buses").Bus1Bridge, load("broker").DbusBroker):
        if kind.executable() is None:
            continue
        with kind(tmp_path, system=True) as bus:
            service, client = (connection.Connection.open(bus.address) for _ in range(2))
            with closing(service), closing(client):
                service.socket.sendall(request)
                service.take_reply()
                for interface in (messages.SPOKEN, "org.bus1.Forbidden"):
                    call = messages.call(system.SERVICE, messages.OBJECT, interface, "Echo")
                    client.socket.sendall(call)
                with pytest.raises(RuntimeError, match="AccessDenied"):
                    client.take_reply()
                while not (found := [each for each in service.frames() if each[1] == messages.CALL]):
                    pass
                assert [messages.text_field(each, messages.INTERFACE) for each in found] == [messages.SPOKEN]
                with pytest.raises(RuntimeError, match="AccessDenied"):
                    connection.Connection.open(bus.address, request.replace(b"Service", b"Serviss"))


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


def test_the_calls_of_a_crowd_are_those_that_are_built_one_by_one(load: Any) -> None:
    crowd, messages = load("crowd"), load("messages")
    for rule in ("", "type='signal'", crowd.RULES["argN"](12345)):
        assert crowd.add(rule) == messages.driver_call("AddMatch", "s", rule)


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


@pytest.mark.parametrize("bus", ["DbusDaemon", "Bus1Bridge"])
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
    place = crowded.Crowded(getattr(load("buses"), bus)(folder, size), crowd, size)
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
