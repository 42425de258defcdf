"""The driver object: its methods, every error row, and the standard interfaces (dbus-bus §4)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from buses import Bus, eventually, open_fds
from dbus_client import BUS, BUS_PATH, CALL, ERROR, FAULT, NO_REPLY, PATIENCE, RETURN, SIGNAL, Client

INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"


@pytest.mark.parametrize(
    ("expected", "member", "signature", "args", "more"),
    [
        ("UnknownMethod", "NoSuchMethod", "", (), {}),
        ("UnknownMethod", "NoSuchMethod", "", (), {"interface": None}),
        ("UnknownInterface", "GetId", "", (), {"interface": "no.such.Interface"}),
        ("UnknownMethod", "GetId", "", (), {"interface": PEER}),
        ("InvalidArgs", "GetNameOwner", "", (), {}),
        ("InvalidArgs", "GetNameOwner", "u", (1,), {}),
        ("InvalidArgs", "GetNameOwner", "ss", ("a.b", "c.d"), {}),
        ("InvalidArgs", "GetId", "s", ("more",), {}),
        ("InvalidArgs", "Hello", "s", ("more",), {}),
        ("InvalidArgs", "RequestName", "s", ("a.b",), {}),
        ("InvalidArgs", "Get", "s", (BUS,), {"interface": PROPERTIES}),
        ("InvalidArgs", "Ping", "s", ("more",), {"interface": PEER}),
        ("UnknownInterface", "Get", "ss", (BUS, "Features"), {"interface": PROPERTIES, "path": "/"}),
        ("UnknownInterface", "GetAll", "s", (BUS,), {"interface": PROPERTIES, "path": "/other"}),
        ("UnknownInterface", "Get", "ss", ("no.such", "Features"), {"interface": PROPERTIES}),
        ("UnknownProperty", "Get", "ss", (BUS, "NoSuch"), {"interface": PROPERTIES}),
        ("UnknownInterface", "GetAll", "s", ("no.such",), {"interface": PROPERTIES}),
        ("UnknownInterface", "Set", "ssv", ("no.such", "Features", ("s", "x")), {"interface": PROPERTIES}),
        ("UnknownProperty", "Set", "ssv", (BUS, "NoSuch", ("s", "x")), {"interface": PROPERTIES}),
        ("PropertyReadOnly", "Set", "ssv", (BUS, "Features", ("s", "x")), {"interface": PROPERTIES}),
        ("NameHasNoOwner", "GetConnectionUnixUser", "s", ("no.such",), {}),
        ("NameHasNoOwner", "GetConnectionUnixProcessID", "s", (":1.999",), {}),
        ("NameHasNoOwner", "GetConnectionCredentials", "s", ("no.such",), {}),
        ("NameHasNoOwner", "GetAdtAuditSessionData", "s", ("no.such",), {}),
        ("AdtAuditDataUnknown", "GetAdtAuditSessionData", "s", (BUS,), {}),
        ("NameHasNoOwner", "GetConnectionSELinuxSecurityContext", "s", ("no.such",), {}),
        ("SELinuxSecurityContextUnknown", "GetConnectionSELinuxSecurityContext", "s", (BUS,), {}),
        ("ServiceUnknown", "StartServiceByName", "su", ("no.such", 0), {}),
        ("ServiceUnknown", "StartServiceByName", "su", (BUS, 0), {}),
        ("MatchRuleNotFound", "RemoveMatch", "s", ("type='signal'",), {}),
        ("MatchRuleInvalid", "AddMatch", "s", ("nonsense",), {}),
        ("MatchRuleInvalid", "RemoveMatch", "s", ("nonsense",), {}),
    ],
)
def test_the_driver_refuses_with_the_reference_name(
    bus: Bus, expected: str, member: str, signature: str, args: tuple[Any, ...], more: dict[str, Any]
) -> None:
    client = bus.connect()
    assert client.fault(member, signature, *args, **more) == expected
    client.sync()


def test_starting_a_name_that_is_owned_but_not_activatable_is_service_unknown(bus: Bus) -> None:
    client = bus.connect()
    client.own("t.Owned")
    assert client.fault("StartServiceByName", "su", "t.Owned", 0) == "ServiceUnknown"


@pytest.mark.parametrize("path", [BUS_PATH, "/", "/org", "/some/where/else"])
@pytest.mark.parametrize("interface", [BUS, None])
def test_the_old_methods_answer_on_any_path_and_without_interface(
    bus: Bus, path: str, interface: str | None
) -> None:
    client = bus.connect()
    (identity,) = client.ask("GetId", path=path, interface=interface)
    assert len(identity) == 32
    assert int(identity, 16)
    assert client.ask("NameHasOwner", "s", BUS, path=path, interface=interface) == [True]


def test_the_identity_of_the_bus_never_changes(bus: Bus) -> None:
    assert bus.connect().ask("GetId") == bus.connect().ask("GetId")


@pytest.mark.parametrize("path", [BUS_PATH, "/", "/anything"])
def test_the_bus_answers_as_a_peer_on_any_path(bus: Bus, path: str) -> None:
    client = bus.connect()
    assert client.ask("Ping", interface=PEER, path=path) == []
    (machine,) = client.ask("GetMachineId", interface=PEER, path=path)
    with open("/etc/machine-id") as file:
        assert machine == file.read().strip()


def test_a_call_without_destination_reaches_the_bus_as_a_peer(bus: Bus) -> None:
    client = bus.connect()
    ping = client.reply(client.call(None, "Ping", path="/", interface=PEER))
    assert (ping.type, ping.sender, ping.destination) == (RETURN, None, None)
    machine = client.reply(client.call(None, "GetMachineId", path="/", interface=PEER))
    assert (machine.type, machine.sender) == (RETURN, None)
    assert machine.args == client.ask("GetMachineId", interface=PEER)


def test_the_bus_as_a_peer_answers_whatever_the_arguments_and_whether_it_is_wanted(bus: Bus) -> None:
    client = bus.connect()
    ping = client.call(None, "Ping", "s", "x", path="/", interface=PEER, flags=NO_REPLY)
    assert client.reply(ping).type == RETURN
    machine = client.reply(client.call(None, "GetMachineId", "s", "x", path="/", interface=PEER))
    assert machine.args == client.ask("GetMachineId", interface=PEER)


@pytest.mark.parametrize(
    ("interface", "member"), [(BUS, "GetId"), (PEER, "Pong"), ("x.Y", "Z"), (None, "Z"), (None, "Ping")]
)
def test_any_other_call_without_destination_is_an_unknown_method(
    bus: Bus, interface: str | None, member: str
) -> None:
    client = bus.connect()
    answer = client.reply(client.call(None, member, path=BUS_PATH, interface=interface))
    assert (answer.type, answer.error_name) == (ERROR, FAULT + "UnknownMethod")


def test_returns_and_errors_without_destination_are_dropped(bus: Bus) -> None:
    client = bus.connect()
    client.send(RETURN, reply_to=7)
    client.send(ERROR, reply_to=7, error="x.Error")
    assert client.heard() == []


def test_what_is_no_call_is_ignored_by_the_driver(bus: Bus) -> None:
    client = bus.connect()
    client.send(SIGNAL, to=BUS, path="/x", interface="x.Y", member="Z")
    client.send(RETURN, to=BUS, reply_to=7)
    client.send(ERROR, to=BUS, reply_to=7, error="x.Error")
    assert client.heard() == []


def test_calls_in_big_endian_are_answered(bus: Bus) -> None:
    client = bus.connect()
    assert client.ask("NameHasOwner", "s", client.name, endian="B") == [True]
    assert client.ask("RequestName", "su", "t.Big", 4, endian="B") == [1]
    assert client.fault("GetNameOwner", "s", "no.such", endian="B") == "NameHasNoOwner"


def test_no_reply_to_the_driver_holds_for_empty_replies_only(bus: Bus) -> None:
    client = bus.connect()
    where: dict[str, Any] = {"path": BUS_PATH, "interface": BUS, "flags": NO_REPLY}
    client.call(BUS, "AddMatch", "s", "member='Quiet'", **where)
    client.call(BUS, "Ping", **{**where, "interface": PEER})
    valued = client.call(BUS, "NameHasOwner", "s", BUS, **where)
    failed = client.call(BUS, "GetNameOwner", "s", "no.such", **where)
    seen = [(got.reply_serial, got.what) for got in client.drain()]
    assert seen == [(valued, (True,)), (failed, (FAULT + "NameHasNoOwner",))]
    client.emit("Quiet")
    assert client.heard() == [("Quiet",)]


def test_credentials_are_those_of_the_connected_process(bus: Bus) -> None:
    client = bus.connect()
    client.own("t.Me")
    for name in (client.name, "t.Me"):
        assert client.ask("GetConnectionUnixUser", "s", name) == [os.getuid()]
        assert client.ask("GetConnectionUnixProcessID", "s", name) == [os.getpid()]
        credentials = client.ask("GetConnectionCredentials", "s", name)[0]
        assert credentials["UnixUserID"] == ("u", os.getuid())
        assert credentials["ProcessID"] == ("u", os.getpid())
        assert set(credentials["UnixGroupIDs"][1]) == {os.getgid(), *os.getgroups()}


def test_credentials_of_the_bus_are_those_of_its_process(bus: Bus) -> None:
    client = bus.connect()
    assert client.ask("GetConnectionUnixUser", "s", BUS) == [os.getuid()]
    assert client.ask("GetConnectionUnixProcessID", "s", BUS) == [bus.pid]
    credentials = client.ask("GetConnectionCredentials", "s", BUS)[0]
    assert credentials["ProcessID"] == ("u", bus.pid)
    assert credentials["UnixUserID"] == ("u", os.getuid())


def test_a_caller_without_descriptors_gets_credentials_without_one(bus: Bus) -> None:
    client = bus.connect(takes_fds=False)
    assert "ProcessFD" not in client.ask("GetConnectionCredentials", "s", client.name)[0]


def test_a_caller_that_takes_descriptors_gets_one_of_the_process(bus: Bus) -> None:
    """The reference does so from 1.15.8 on."""
    client, other = bus.connect(), bus.connect(takes_fds=False)
    answer = client.request(BUS, "GetConnectionCredentials", "s", other.name, path=BUS_PATH, interface=BUS)
    client.fds += answer.fds
    if bus.is_reference and "ProcessFD" not in answer.args[0]:
        return
    assert answer.args[0]["ProcessFD"] == ("h", 0)
    (pidfd,) = answer.fds
    described = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    assert f"\nPid:\t{os.getpid()}\n" in described
    signal.pidfd_send_signal(pidfd, 0)


def test_who_does_not_read_what_it_has_asked_for_keeps_few_descriptors_of_the_bus(new_bus: Bus) -> None:
    greedy, other = new_bus.connect(), new_bus.connect()
    before = open_fds(new_bus.pid)
    for _ in range(2000):
        greedy.call(BUS, "GetConnectionCredentials", "s", other.name, path=BUS_PATH, interface=BUS)
    serial = greedy.call(BUS, "RequestName", "su", "t.Last", 0, path=BUS_PATH, interface=BUS)
    eventually(lambda: other.ask("NameHasOwner", "s", "t.Last") == [True], lambda: "its last request")
    assert open_fds(new_bus.pid) <= before + 100
    has_descriptor = []
    while (answer := greedy.receive()).reply_serial != serial:
        if answer.reply_serial:
            has_descriptor.append(len(answer.fds))
            assert ("ProcessFD" in answer.args[0]) == bool(answer.fds)
        for fd in answer.fds:
            os.close(fd)
    assert len(has_descriptor) == 2000


def test_a_pidfd_is_of_no_use_for_a_process_that_has_gone(bus: Bus) -> None:
    """The reference does so from 1.15.8 on."""
    client = bus.connect()
    client.match("type='signal',member='NameOwnerChanged'")
    # it stays connected through a descriptor that its child inherits, and ends
    script = (
        "import os, sys; sys.path.insert(0, sys.argv[2]); from dbus_client import Client;"
        "c = Client(sys.argv[1]); os.set_inheritable(c.socket.fileno(), True);"
        "print(c.name, flush=True); os.fork() or sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, bus.path, str(Path(__file__).parent)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        name = process.stdout.readline().strip()
        assert process.wait(PATIENCE) == 0
        answer = client.request(BUS, "GetConnectionCredentials", "s", name, path=BUS_PATH, interface=BUS)
        client.fds += answer.fds
        for pidfd in answer.fds:
            with pytest.raises(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, 0)
        process.stdin.close()
        while client.receive().args != [name, name, ""]:
            pass


def test_the_bus_itself_is_activatable_and_listed_first(bus: Bus) -> None:
    assert bus.connect().ask("ListActivatableNames")[0][0] == BUS


def test_features_and_interfaces_are_constant_lists(bus: Bus) -> None:
    client = bus.connect()
    kind, features = client.ask("Get", "ss", BUS, "Features", interface=PROPERTIES)[0]
    assert kind == "as"
    assert "HeaderFiltering" in features
    assert client.ask("Get", "ss", BUS, "Interfaces", interface=PROPERTIES)[0][0] == "as"
    everything = client.ask("GetAll", "s", BUS, interface=PROPERTIES)[0]
    assert set(everything) == {"Features", "Interfaces"}
    assert client.ask("GetAll", "s", PEER, interface=PROPERTIES) == [{}]


def introspected(client: Client, path: str) -> ET.Element:
    (text,) = client.ask("Introspect", path=path, interface=INTROSPECTABLE)
    return ET.fromstring(text)


def test_the_driver_describes_every_method_that_it_has(bus: Bus) -> None:
    client = bus.connect()
    tree = introspected(client, BUS_PATH)
    described = {
        interface.get("name"): {
            method.get("name"): tuple(
                "".join(arg.get("type", "") for arg in method.findall("arg") if arg.get("direction") == way)
                for way in ("in", "out")
            )
            for method in interface.findall("method")
        }
        for interface in tree.findall("interface")
    }
    everyday = {
        "Hello": ("", "s"), "RequestName": ("su", "u"), "ReleaseName": ("s", "u"),
        "StartServiceByName": ("su", "u"), "NameHasOwner": ("s", "b"), "ListNames": ("", "as"),
        "ListActivatableNames": ("", "as"), "AddMatch": ("s", ""), "RemoveMatch": ("s", ""),
        "GetNameOwner": ("s", "s"), "ListQueuedOwners": ("s", "as"), "GetConnectionUnixUser": ("s", "u"),
        "GetConnectionUnixProcessID": ("s", "u"), "GetAdtAuditSessionData": ("s", "ay"),
        "GetConnectionSELinuxSecurityContext": ("s", "ay"), "GetId": ("", "s"),
        "GetConnectionCredentials": ("s", "a{sv}"), "ReloadConfig": ("", ""),
        "UpdateActivationEnvironment": ("a{ss}", ""),
    }
    assert described[BUS] == everyday
    assert described[INTROSPECTABLE] == {"Introspect": ("", "s")}
    assert described[PEER] == {"GetMachineId": ("", "s"), "Ping": ("", "")}
    assert described[PROPERTIES] == {"Get": ("ss", "v"), "GetAll": ("s", "a{sv}"), "Set": ("ssv", "")}
    signals = {
        signal.get("name"): "".join(arg.get("type", "") for arg in signal.findall("arg"))
        for signal in tree.findall(f"interface[@name='{BUS}']/signal")
    }
    assert signals == {
        "NameOwnerChanged": "sss", "NameLost": "s", "NameAcquired": "s", "ActivatableServicesChanged": ""
    }
    assert described["org.freedesktop.DBus.Monitoring"] == {"BecomeMonitor": ("asu", "")}
    assert described["org.freedesktop.DBus.Debug.Stats"] == {
        "GetStats": ("", "a{sv}"), "GetConnectionStats": ("s", "a{sv}"), "GetAllMatchRules": ("", "a{sas}")
    }
    changed = tree.findall(f"interface[@name='{PROPERTIES}']/signal[@name='PropertiesChanged']/arg")
    assert [arg.get("type") for arg in changed] == ["s", "a{sv}", "as"]
    properties = tree.findall(f"interface[@name='{BUS}']/property")
    assert {(p.get("name"), p.get("type"), p.get("access")) for p in properties} == {
        ("Features", "as", "read"), ("Interfaces", "as", "read"),
    }


@pytest.mark.parametrize(
    ("path", "child"), [("/", "org/freedesktop/DBus"), ("/org", None), ("/org/freedesktop", None)]
)
def test_the_way_down_to_the_driver_can_be_walked(bus: Bus, path: str, child: str | None) -> None:
    client = bus.connect()
    children = [node.get("name") or "" for node in introspected(client, path).findall("node")]
    assert children
    beyond = path.rstrip("/") + "/" + children[0]
    assert BUS_PATH.startswith(beyond)


def test_other_paths_are_described_without_the_canonical_interfaces(bus: Bus) -> None:
    names = {i.get("name") for i in introspected(bus.connect(), "/elsewhere").findall("interface")}
    assert {BUS, INTROSPECTABLE, PEER} <= names
    assert PROPERTIES not in names


@pytest.mark.parametrize("kind", [5, 100, 255])
def test_a_message_of_an_unknown_type_is_denied_and_delivered_to_nobody(bus: Bus, kind: int) -> None:
    client, other = bus.connect(), bus.connect()
    serial = client.send(kind, to=other.name, path="/x", interface="x.Y", member="Z")
    answer = client.reply(serial)
    assert answer.what == (FAULT + "AccessDenied",)
    assert other.heard() == []
    assert client.send(CALL, to=BUS, path="/", interface=PEER, member="Ping")
