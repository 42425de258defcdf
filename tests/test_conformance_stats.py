"""Debug.Stats: the reference's keys and numbers, on both daemons (dbus-bus §4.2)."""

from __future__ import annotations

from typing import Any

import pytest
from buses import Bus
from dbus_client import BUS, Client

STATS = "org.freedesktop.DBus.Debug.Stats"
MONITORING = "org.freedesktop.DBus.Monitoring"
GLOBAL = {
    "Serial", "ListMemPoolUsedBytes", "ListMemPoolCachedBytes", "ListMemPoolAllocatedBytes",
    "ActiveConnections", "IncompleteConnections", "MatchRules", "PeakMatchRules",
    "PeakMatchRulesPerConnection", "BusNames", "PeakBusNames", "PeakBusNamesPerConnection",
}
OF_ONE = {
    "Serial", "UniqueName", "MatchRules", "PeakMatchRules", "BusNames", "PeakBusNames",
    "IncomingMessages", "IncomingBytes", "IncomingFDs", "PeakIncomingBytes", "PeakIncomingFDs",
    "OutgoingMessages", "OutgoingBytes", "OutgoingFDs", "PeakOutgoingBytes", "PeakOutgoingFDs",
}


def stats(client: Client, member: str = "GetStats", *args: str) -> dict[str, Any]:
    """The reference's keys of the statistics, without their types."""
    values: dict[str, Any] = client.ask(member, "s" * len(args), *args, interface=STATS)[0]
    kinds = {key: kind for key, (kind, _) in values.items() if "." not in key}
    assert all(kind == ("s" if key == "UniqueName" else "u") for key, kind in kinds.items())
    return {key: values[key][1] for key in kinds}


def stats_of(client: Client, name: str) -> dict[str, Any]:
    return stats(client, "GetConnectionStats", name)


def rules(client: Client) -> dict[str, list[str]]:
    """GetAllMatchRules."""
    values: dict[str, list[str]] = client.ask("GetAllMatchRules", interface=STATS)[0]
    return values


def test_statistics_have_the_keys_of_the_reference(bus: Bus) -> None:
    client = bus.connect()
    assert stats(client).keys() == GLOBAL
    assert stats_of(client, client.name).keys() == OF_ONE


def test_each_kind_of_statistics_is_numbered(bus: Bus) -> None:
    client = bus.connect()
    first, of_one = stats(client)["Serial"], stats_of(client, client.name)["Serial"]
    assert [stats(client)["Serial"] for _ in range(3)] == [first + 1, first + 2, first + 3]
    assert stats_of(client, client.name)["Serial"] == of_one + 1


def test_connections_are_counted_with_and_without_a_name(bus: Bus) -> None:
    client = bus.connect()
    before = stats(client)
    bus.connect(), bus.connect()
    stranger = bus.connect(hello=False)
    stranger.fault("GetId")
    after = stats(client)
    assert after["ActiveConnections"] == before["ActiveConnections"] + 2
    assert after["IncompleteConnections"] == before["IncompleteConnections"] + 1


def test_names_are_counted_with_the_unique_ones_and_those_that_wait(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    before = stats(client)
    for name in ("a.one", "a.two", "a.three"):
        client.own(name)
    other.own("a.one")
    client.ask("ReleaseName", "s", "a.three")
    after = stats(client)
    assert after["BusNames"] == before["BusNames"] + 3
    assert after["PeakBusNames"] >= before["BusNames"] + 3
    assert after["PeakBusNamesPerConnection"] >= 4
    mine, others = stats_of(client, "a.two"), stats_of(client, other.name)
    assert (mine["UniqueName"], mine["BusNames"], mine["PeakBusNames"]) == (client.name, 3, 4)
    assert (others["BusNames"], others["PeakBusNames"]) == (2, 2)


def test_rules_are_counted_as_often_as_they_were_added(bus: Bus) -> None:
    client = bus.connect()
    before = stats(client)
    for _ in range(3):
        client.match("member='Rang'")
    client.match("member='Other'")
    client.ask("RemoveMatch", "s", "member='Rang'")
    after, mine = stats(client), stats_of(client, client.name)
    assert after["MatchRules"] == before["MatchRules"] + 3
    assert after["PeakMatchRules"] >= before["MatchRules"] + 4
    assert after["PeakMatchRulesPerConnection"] >= 4
    assert (mine["MatchRules"], mine["PeakMatchRules"]) == (3, 4)


def test_what_was_counted_goes_with_its_owner(bus: Bus) -> None:
    client = bus.connect()
    before = stats(client)
    with Client(bus.path) as leaver:
        leaver.own("a.name")
        leaver.match("member='Rang'")
    client.match("member='NameOwnerChanged'")
    while client.ask("NameHasOwner", "s", leaver.name)[0]:
        pass
    client.ask("RemoveMatch", "s", "member='NameOwnerChanged'")
    after = stats(client)
    assert [after[key] for key in ("ActiveConnections", "BusNames", "MatchRules")] == [
        before[key] for key in ("ActiveConnections", "BusNames", "MatchRules")
    ]


def test_what_waits_for_one_that_does_not_read_is_told(bus: Bus) -> None:
    speaker, reader = bus.connect(), bus.connect()
    text = "x" * 100_000
    n = 40
    for _ in range(n):
        speaker.call(reader.name, "Do", "s", text, flags=1)
    speaker.sync()
    of_reader = stats_of(speaker, reader.name)
    # a part has gone into the socket
    assert 0 < of_reader["OutgoingMessages"] <= n
    assert of_reader["OutgoingMessages"] * 100_000 < of_reader["OutgoingBytes"]
    assert of_reader["OutgoingBytes"] <= of_reader["OutgoingMessages"] * 101_000
    assert of_reader["PeakOutgoingBytes"] >= of_reader["OutgoingBytes"]
    assert len([got for got in reader.drain() if got.member == "Do"]) == n
    of_reader = stats_of(speaker, reader.name)
    assert (of_reader["OutgoingMessages"], of_reader["OutgoingBytes"]) == (0, 0)
    assert of_reader["PeakOutgoingBytes"] >= 100_000


def test_what_comes_in_has_a_peak(bus: Bus) -> None:
    client = bus.connect()
    client.emit("Large", "s", "x" * 100_000)
    assert stats_of(client, client.name)["PeakIncomingBytes"] >= 100_000


@pytest.mark.parametrize(
    ("expected", "member", "args", "path"),
    [
        ("InvalidArgs", "GetConnectionStats", (BUS,), None),
        ("NameHasNoOwner", "GetConnectionStats", ("no.such",), None),
        ("NameHasNoOwner", "GetConnectionStats", (":1.999999",), None),
        ("NameHasNoOwner", "GetConnectionStats", ("",), None),
        ("UnknownInterface", "GetStats", (), "/"),
        ("UnknownInterface", "GetAllMatchRules", (), "/org/freedesktop"),
        ("UnknownMethod", "GetNothing", (), None),
        ("InvalidArgs", "GetStats", ("more",), None),
    ],
)
def test_a_wrong_question_is_refused(
    bus: Bus, expected: str, member: str, args: tuple[str, ...], path: str | None
) -> None:
    more = {"interface": STATS} | ({"path": path} if path else {})
    assert bus.connect().fault(member, "s" * len(args), *args, **more) == expected


def test_rules_are_listed_by_owner_in_normal_form_each_as_often_as_it_was_added(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    for rule in ("arg0='x',type='signal', sender='a.b'", "path_namespace=/a", "path_namespace=/a", ""):
        client.match(rule)
    client.match("member='Copied',eavesdrop='true'")
    listed = rules(client)
    assert listed.keys() == {client.name, other.name}
    assert listed[other.name] == []
    assert sorted(listed[client.name]) == [
        "", "member='Copied',eavesdrop='true'", "path_namespace='/a'", "path_namespace='/a'",
        "type='signal',sender='a.b',arg0='x'",
    ]


def test_every_rule_that_is_listed_can_be_removed(bus: Bus) -> None:
    client = bus.connect()
    for rule in (r"arg0=don\'t", "arg3path='/a/',arg0namespace=a", "destination='a.b',eavesdrop=true", ""):
        client.match(rule)
    for rule in rules(client)[client.name]:
        client.ask("RemoveMatch", "s", rule)
    assert rules(client) == {client.name: []}


def test_a_monitor_counts_and_is_not_listed(bus: Bus) -> None:
    client, watcher = bus.connect(), bus.connect()
    before = stats(client)
    watcher.ask("BecomeMonitor", "asu", ["member='A'", "member='B'"], 0, interface=MONITORING)
    after = stats(client)
    assert after["ActiveConnections"] == before["ActiveConnections"]
    assert after["BusNames"] == before["BusNames"] - 1
    assert after["MatchRules"] == before["MatchRules"] + 2
    assert rules(client) == {client.name: []}
