"""What a sandboxed client may do and see: xdg-dbus-proxy before dbus-daemon, and an endpoint of ours.

The proxy decides. Where ours says of what is hidden what a bus says of what does not exist, and the proxy
something else, both are stated."""

from __future__ import annotations

from typing import Any

import pytest
from buses import Bus
from dbus_client import BUS, CALL, ERROR, FAULT, NO_AUTO_START, CallFailed, Client, Message
from sandboxes import behind

RULES = (
    "see=a.See", "talk=a.Talk", "own=a.Own.*", "call=a.Call=a.I.*@/ok/*", "broadcast=a.Cast=a.I.Sig@/ok",
    "talk=a.Unowned",
)
SERVICES = ("a.See", "a.Talk", "a.Call", "a.Cast", "a.Hidden")
EVERYTHING = "type='signal'"


def services_on(bus: Bus) -> dict[str, Client]:
    """An owner for each name."""
    services = {name: bus.connect() for name in SERVICES}
    for name, service in services.items():
        service.own(name)
        service.drain()
    return services


def outcome(client: Client, service: Client | None, to: str, **fields: Any) -> str:
    """What becomes of a call: ``delivered``, or the name of the error, shortened."""
    serial = client.call(to, "M", **fields)
    client.sync()
    errors = [got for got in client.drain() if got.reply_serial == serial and got.type == ERROR]
    if errors:
        return str(errors[0].error_name).removeprefix(FAULT)
    assert service is not None
    assert [got.member for got in service.drain() if got.type == CALL] == ["M"]
    return "delivered"


@pytest.mark.parametrize("by_name", [True, False])
def test_calls_pass_by_name_and_by_owner_as_the_rules_say(bus: Bus, by_name: bool) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    in_rule, beside = {"path": "/ok/x", "interface": "a.I"}, {"path": "/okx", "interface": "a.I"}
    introspect = {"interface": f"{BUS}.Introspectable"}
    found = {
        name: [
            outcome(client, service, name if by_name else service.name, **fields)
            for fields in ({}, in_rule, {**in_rule, "path": "/ok"}, beside, introspect)
        ]
        for name, service in services.items()
    }
    denied, hidden = "AccessDenied", "ServiceUnknown"
    if bus.is_reference and not by_name:
        hidden = "NameHasNoOwner"
    assert found == {
        "a.See": [denied] * 5,
        "a.Talk": ["delivered"] * 5,
        "a.Call": [denied, "delivered", "delivered", denied, denied],
        "a.Cast": [denied] * 5,
        "a.Hidden": [hidden] * 5,
    }
    assert outcome(client, None, "b.Nothing") == "ServiceUnknown"
    assert outcome(client, None, "b.Nothing", flags=NO_AUTO_START) == "NameHasNoOwner"
    assert outcome(client, services["a.Hidden"], "a.Hidden", flags=NO_AUTO_START) == "NameHasNoOwner"
    assert outcome(client, None, "a.Unowned") == "ServiceUnknown"


def test_names_are_listed_as_far_as_they_are_seen(bus: Bus) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    seen = {name: services[name].name for name in SERVICES[:4]}
    assert set(client.ask("ListNames")[0]) == {BUS, client.name, *seen, *seen.values()}
    assert client.ask("ListActivatableNames") == [[BUS]]
    for name, service in services.items():
        is_seen = name != "a.Hidden"
        for either in (name, service.name):
            assert client.ask("NameHasOwner", "s", either) == [is_seen]
            if is_seen:
                assert client.ask("GetNameOwner", "s", either) == [service.name]
                assert client.ask("GetConnectionUnixProcessID", "s", either)
            else:
                assert client.fault("GetNameOwner", "s", either) == "NameHasNoOwner"
                expected = "ServiceUnknown" if bus.is_reference else "NameHasNoOwner"
                assert client.fault("GetConnectionUnixProcessID", "s", either) == expected
    assert client.ask("GetNameOwner", "s", BUS) == [BUS]


def test_names_are_owned_as_the_rules_say(bus: Bus) -> None:
    services_on(bus)
    client = behind(bus, *RULES)
    for name in ("a.See", "a.Talk", "a.Unowned"):
        assert client.fault("RequestName", "su", name, 0) == "AccessDenied"
        assert client.fault("ReleaseName", "s", name) == "AccessDenied"
        assert client.fault("ListQueuedOwners", "s", name) == "AccessDenied"
    assert client.own("a.Own.mine") == 1 and client.own("a.Own") == 1
    assert client.ask("ListQueuedOwners", "s", "a.Own.mine") == [[client.name]]
    assert client.ask("ReleaseName", "s", "a.Own.mine") == [1]
    hidden = "ServiceUnknown" if bus.is_reference else "AccessDenied"
    assert client.fault("RequestName", "su", "a.Hidden", 0) == hidden


def test_starting_a_service_takes_leave_to_call_it(bus: Bus) -> None:
    services_on(bus)
    client = behind(bus, *RULES)
    assert client.fault("StartServiceByName", "su", "a.See", 0) == "AccessDenied"
    for name in ("a.Talk", "a.Call", "a.Unowned", "a.Hidden"):
        assert client.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"


def test_broadcasts_come_from_whom_the_rules_name(bus: Bus) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    client.match("interface='a.I'")
    heard = {}
    for name, service in services.items():
        for member, path in (("Sig", "/ok"), ("Sig", "/no"), ("Other", "/ok")):
            service.emit(member, interface="a.I", path=path)
        service.sync()
        heard[name] = [(got.member, got.path) for got in client.drain()]
    everything = [("Sig", "/ok"), ("Sig", "/no"), ("Other", "/ok")]
    assert heard == {
        "a.See": [], "a.Talk": everything, "a.Call": [], "a.Cast": [("Sig", "/ok")], "a.Hidden": [],
    }


def test_its_broadcasts_go_out_and_its_signals_where_it_may_talk(bus: Bus) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    listener = bus.connect()
    listener.match("interface='x.Y'")
    client.emit("Out")
    for name in services:
        client.emit("To", to=name)
    client.sync()
    assert [got.member for got in listener.drain()] == ["Out"]
    got = {name: [message.member for message in service.drain()] for name, service in services.items()}
    assert got == {"a.See": [], "a.Talk": ["To"], "a.Call": [], "a.Cast": [], "a.Hidden": []}


def test_owners_of_names_that_are_seen_are_followed_to_their_end(bus: Bus) -> None:
    client = behind(bus, *RULES)
    client.match("member='NameOwnerChanged'")
    hidden, seen = bus.connect(), bus.connect()
    hidden.own("a.Hidden")
    seen.own("a.See")
    assert client_hears(client, seen, hidden) == [("NameOwnerChanged", "a.See", "", seen.name)]
    hidden.close()
    seen.close()
    name = seen.name
    assert [client.receive().what, client.receive().what] == [
        ("NameOwnerChanged", "a.See", name, ""), ("NameOwnerChanged", name, name, ""),
    ]
    assert client.heard() == []


def client_hears(client: Client, *first: Client) -> list[tuple[Any, ...]]:
    """What it has got once these have been served."""
    for each in first:
        each.sync()
    return client.heard()


def test_whoever_calls_it_is_seen_and_answered_once(bus: Bus) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    stranger = services["a.Hidden"]
    stranger.call(client.name, "Hello")
    call: Message = client.receive()
    assert call.sender == stranger.name
    assert client.ask("NameHasOwner", "s", stranger.name) == [True]
    assert client.ask("NameHasOwner", "s", "a.Hidden") == [False]
    assert outcome(client, stranger, stranger.name) == "AccessDenied"
    for _ in range(2):
        client.answer(call, "s", "yes")
    client.sync()
    assert [got.what for got in stranger.drain()] == [("yes",)]


def test_it_is_nobody_who_may_look_at_everybody(bus: Bus) -> None:
    client = behind(bus, *RULES)
    monitoring, stats = f"{BUS}.Monitoring", f"{BUS}.Debug.Stats"
    assert client.fault("AddMatch", "s", "eavesdrop='true'") == "AccessDenied"
    assert client.fault("BecomeMonitor", "asu", [], 0, interface=monitoring) == "AccessDenied"
    assert client.fault("GetStats", interface=stats) == "AccessDenied"
    assert client.fault("GetAllMatchRules", interface=stats) == "AccessDenied"
    assert client.fault("UpdateActivationEnvironment", "a{ss}", {"A": "b"}) == "AccessDenied"
    assert client.fault("ReloadConfig") == "AccessDenied"
    assert "RequestName" in client.ask("Introspect", interface=f"{BUS}.Introspectable")[0]


def test_what_was_seen_stays_seen(bus: Bus) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    client.ask("ListNames")
    service = services["a.See"]
    service.ask("ReleaseName", "s", "a.See")
    assert client.ask("NameHasOwner", "s", "a.See") == [False]
    assert client.ask("NameHasOwner", "s", service.name) == [True]


def test_descriptors_and_large_messages_pass(bus: Bus) -> None:
    services, client = services_on(bus), behind(bus, *RULES)
    text = "x" * (1 << 20)
    serial = client.call("a.Talk", "Big", "s", text, fds=[client.socket.fileno()])
    got = services["a.Talk"].receive()
    assert got.args == [text] and len(got.fds) == 1
    services["a.Talk"].fds += got.fds
    services["a.Talk"].answer(got, "s", text)
    assert client.reply(serial).args == [text]
    with pytest.raises(CallFailed):
        client.request("a.Hidden", "Big", "s", text)
