"""The driver: what conformance tests cannot reach (limits, credentials, tables), and its one table."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from xml.etree import ElementTree

import pytest
from bus1_bridge.driver import ERROR_NAMES, METHODS, DriverError, Method, error_name
from bus1_bridge.switch.api import ConfigureActivation
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.wire import ERROR_TEXT_MAX, Variant, marshal
from pure_switch import (
    CALL,
    DRIVER,
    DRIVER_PATH,
    ERROR,
    FAULT,
    NO_REPLY_EXPECTED,
    RETURN,
    UID,
    Client,
    PureSwitch,
)

from bus1 import errors
from bus1.core.api import Credentials

PROPERTIES = "org.freedesktop.DBus.Properties"
PEER = "org.freedesktop.DBus.Peer"
MONITORING = "org.freedesktop.DBus.Monitoring"
STATS = "org.freedesktop.DBus.Debug.Stats"


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    switch = PureSwitch()
    yield switch
    switch.end()


# ---- the order of things -------------------------------------------------------------------------


def test_hello_is_answered_then_announced_then_acquired(bus: PureSwitch) -> None:
    other, new = bus.client(), bus.client(hello=False)
    other.call("AddMatch", "s", "member='NameOwnerChanged'")
    new.send(1, path="/org/freedesktop/DBus", interface=DRIVER, member="Hello", destination=DRIVER)
    got = new.take_all()
    assert [(g.type, g.member, g.serial, g.flags) for g in got] == [
        (RETURN, None, 1, NO_REPLY_EXPECTED), (4, "NameAcquired", 2, NO_REPLY_EXPECTED)
    ]
    assert got[0].args == got[1].args == (":1.1",)
    assert other.take().args == (":1.1", "", ":1.1")


def test_a_name_that_changes_hands_is_lost_announced_acquired_and_then_answered(bus: PureSwitch) -> None:
    old, new = bus.client(), bus.client()
    old.call("RequestName", "su", "a.b", 1)
    old.take_all()
    for client in (old, new):
        client.call("AddMatch", "s", "member='NameOwnerChanged'")
    serial = new.send(
        1, "su", "a.b", 2, path="/", interface=DRIVER, member="RequestName", destination=DRIVER
    )
    assert [g.member for g in old.take_all()] == ["NameLost", "NameOwnerChanged"]
    got = new.take_all()
    assert [g.member for g in got] == ["NameOwnerChanged", "NameAcquired", None]
    assert got[0].args == ("a.b", old.name, new.name)
    assert (got[2].reply_serial, got[2].args) == (serial, (1,))


def test_serials_of_the_bus_count_up_per_connection(bus: PureSwitch) -> None:
    one, other = bus.client(), bus.client()
    assert [one.call("GetId").serial for _ in range(3)] == [3, 4, 5]
    assert other.call("GetId").serial == 3


# ---- limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "limits", [BusLimits(max_completed_connections=1), BusLimits(max_connections_per_user=1)]
)
def test_hello_beyond_the_limits_is_refused_and_may_be_tried_again(limits: BusLimits) -> None:
    bus = PureSwitch(limits)
    first, second = bus.client(), bus.client(hello=False)
    assert second.fault("Hello") == "LimitsExceeded"
    first.leave()
    assert second.call("Hello").args == (":1.1",)
    bus.end()


def test_max_names_counts_the_unique_name_and_those_waited_for() -> None:
    bus = PureSwitch(BusLimits(max_names_per_connection=3))
    owner, client = bus.client(), bus.client()
    owner.call("RequestName", "su", "a.taken", 0)
    assert client.call("RequestName", "su", "a.one", 0).args == (1,)
    assert client.call("RequestName", "su", "a.taken", 0).args == (2,)
    assert client.fault("RequestName", "su", "a.three", 0) == "LimitsExceeded"
    assert client.fault("RequestName", "su", "a.one", 0) == "LimitsExceeded"
    assert client.call("ReleaseName", "s", "a.taken").args == (1,)
    assert client.call("RequestName", "su", "a.three", 0).args == (1,)
    bus.end()


def test_an_error_text_repeats_a_bounded_part_of_what_the_caller_said(bus: PureSwitch) -> None:
    client = bus.client()
    (text,) = client.call("GetNameOwner", "s", "x" * 50_000).args
    assert 100 < len(text) <= ERROR_TEXT_MAX
    longest = ":1." + "9" * 252
    (text,) = client.call("GetNameOwner", "s", longest).args
    assert f"'{longest}'" in text


def test_who_took_its_last_eavesdropping_rule_back_eavesdrops_no_more(bus: PureSwitch) -> None:
    spy = bus.client()
    rules = ["eavesdrop='true'", "eavesdrop='true',type='signal'"]
    for rule in (*rules, rules[0]):
        spy.call("AddMatch", "s", rule)
    for rule in (rules[0], rules[1]):
        assert bus.delivery.eavesdroppers
        spy.call("RemoveMatch", "s", rule)
    assert bus.delivery.eavesdroppers
    spy.call("RemoveMatch", "s", rules[0])
    assert not bus.delivery.eavesdroppers
    other = bus.client()
    spy.call("AddMatch", "s", f"eavesdrop='true',sender='{other.name}'")
    other.leave()
    assert not bus.delivery.eavesdroppers
    spy.call("AddMatch", "s", rules[0])
    spy.leave()
    assert not bus.delivery.eavesdroppers


def test_max_match_rules_counts_every_instance() -> None:
    bus = PureSwitch(BusLimits(max_match_rules_per_connection=2))
    client = bus.client()
    for _ in range(2):
        client.call("AddMatch", "s", "type='signal'")
    assert client.fault("AddMatch", "s", "type='signal'") == "LimitsExceeded"
    client.call("RemoveMatch", "s", "type='signal'")
    assert client.call("AddMatch", "s", "").type == RETURN
    bus.end()


@pytest.mark.parametrize(("text", "error"), [
    ("x" * 1025, "LimitsExceeded"), ("nonsense", "MatchRuleInvalid"), ("type='x'", "MatchRuleInvalid"),
])
def test_bad_rules_are_told_apart(bus: PureSwitch, text: str, error: str) -> None:
    client = bus.client()
    assert client.fault("AddMatch", "s", text) == error
    assert bus.tables.matches.count(client.connection) == 0


# ---- credentials ---------------------------------------------------------------------------------


def test_credentials_are_those_of_accept(bus: PureSwitch) -> None:
    asking = bus.client()
    connection = bus.router.connect(
        Credentials(UID, 50, 4242, secctx=b"unconfined", groups=(7, 3, 50)), bus.now
    )
    client = Client(bus, connection)
    client.say(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
    client.raw()
    name = client.call("Hello").args[0]
    assert asking.call("GetConnectionCredentials", "s", name).args == ({
        "UnixUserID": Variant("u", UID), "ProcessID": Variant("u", 4242),
        "UnixGroupIDs": Variant("au", [3, 7, 50]), "LinuxSecurityLabel": Variant("ay", b"unconfined\0"),
    },)
    assert asking.call("GetConnectionUnixProcessID", "s", name).args == (4242,)
    assert asking.call("GetConnectionUnixUser", "s", name).args == (UID,)


def test_the_bus_has_credentials_of_its_own(bus: PureSwitch) -> None:
    client = bus.client()
    assert client.call("GetConnectionCredentials", "s", DRIVER).args == (
        {"UnixUserID": Variant("u", UID), "ProcessID": Variant("u", 1)},
    )


def test_a_process_that_the_kernel_does_not_name_is_unknown(bus: PureSwitch) -> None:
    asking = bus.client()
    client = Client(bus, bus.router.connect(Credentials(UID, UID, 0), bus.now))
    client.say(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
    client.raw()
    name = client.call("Hello").args[0]
    assert asking.fault("GetConnectionUnixProcessID", "s", name) == "UnixProcessIdUnknown"
    assert "ProcessID" not in asking.call("GetConnectionCredentials", "s", name).args[0]


# ---- the bus as a peer, and quirks ---------------------------------------------------------------


def test_a_call_without_destination_is_answered_without_a_sender(bus: PureSwitch) -> None:
    client = bus.client(hello=False)
    for member, args in (("Ping", ()), ("GetMachineId", ("c" * 32,))):
        got = client.call(member, interface=PEER, destination=None)
        assert (got.type, got.sender, got.destination, got.args) == (RETURN, None, None, args)
    got = client.call("GetId", destination=None)
    assert (got.type, got.error, got.sender) == (FAULT, ERROR + "UnknownMethod", None)


def test_no_reply_is_honoured_for_empty_answers_alone(bus: PureSwitch) -> None:
    client = bus.client()
    for member, signature, args in (("Ping", "", ()), ("AddMatch", "s", ("",)), ("GetId", "", ())):
        client.send(
            1, signature, *args, path="/", interface=None, member=member, destination=DRIVER,
            flags=NO_REPLY_EXPECTED,
        )
    assert len(client.take_all()) == 1
    assert client.fault("RemoveMatch", "s", "type='error'", flags=NO_REPLY_EXPECTED) == "MatchRuleNotFound"


def test_a_machine_without_id_says_so(bus: PureSwitch) -> None:
    client = bus.client()
    bus.tables.machine_id = ""
    assert client.fault("GetMachineId", interface=PEER) == "FileNotFound"
    got = client.call("GetMachineId", interface=PEER, destination=None)
    assert (got.error, got.sender) == (ERROR + "FileNotFound", None)


# ---- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/org/freedesktop/DBus", "/", "/org", "/org/freedesktop", "/elsewhere"])
def test_introspection_describes_the_table_and_leads_to_the_driver(bus: PureSwitch, path: str) -> None:
    client = bus.client()
    text = client.call("Introspect", interface="org.freedesktop.DBus.Introspectable", path=path).args[0]
    root = ElementTree.fromstring(text)
    at_home = path == "/org/freedesktop/DBus"
    described = {
        (interface.get("name"), method.get("name")): tuple(
            "".join(arg.get("type", "") for arg in method.iter("arg") if arg.get("direction") == way)
            for way in ("in", "out")
        )
        for interface in root.iter("interface") for method in interface.iter("method")
    }
    everywhere = {m.interface for m in METHODS if m.on_every_path}
    assert described == {
        (m.interface, m.name): (m.takes, m.returns) for m in METHODS if at_home or m.interface in everywhere
    }
    children = [node.get("name", "") for node in root.findall("node")]
    leads_on = path in {"/", "/org", "/org/freedesktop"}
    assert [f"{path.rstrip('/')}/{child}" for child in children] == ["/org/freedesktop/DBus"] * leads_on


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_every_method_refuses_other_arguments_and_some_live_on_one_path(
    bus: PureSwitch, method: Method
) -> None:
    client = bus.client()
    where = {"interface": method.interface}
    assert client.fault(method.name, "ayay", b"", b"", **where) == "InvalidArgs"
    if not method.on_every_path:
        elsewhere = any(m.on_every_path for m in METHODS if m.interface == method.interface)
        error = "AccessDenied" if elsewhere else "UnknownInterface"
        assert client.fault(method.name, "ayay", b"", b"", path="/x", **where) == error


def test_every_error_of_the_contract_has_a_name() -> None:
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.Bus1Error):
            assert error_name(kind("text")).startswith(ERROR)
    assert error_name(DriverError("NameHasNoOwner", "")) == ERROR + "NameHasNoOwner"
    assert error_name(errors.QuotaExceeded("")) == error_name(errors.PoolFull("")) == ERROR + "LimitsExceeded"
    assert error_name(errors.InvalidArgument("")) == ERROR + "InvalidArgs"
    assert ERROR_NAMES[errors.Denied] == ERROR + "AccessDenied"


def test_properties_are_what_this_bus_can_do(bus: PureSwitch) -> None:
    client = bus.client()
    features = ["ActivatableServicesChanged", "HeaderFiltering"]
    for uses_systemd in (False, True):
        bus.router.activation.settings = ConfigureActivation(uses_systemd=uses_systemd)
        assert client.call("GetAll", "s", DRIVER, interface=PROPERTIES).args == ({
            "Features": Variant("as", features + ["SystemdActivation"] * uses_systemd),
            "Interfaces": Variant("as", [MONITORING, STATS]),
        },)
    assert client.call("GetAll", "s", PEER, interface=PROPERTIES).args == ({},)


def test_a_value_that_nothing_can_be_set_to_is_not_unpacked(bus: PureSwitch) -> None:
    """However large it is: these numbers would cost ten times their bytes."""
    client, numbers = bus.client(), list(range(1 << 18))
    body = marshal("ssv", DRIVER, "Features", Variant("au", numbers))
    tracemalloc.start()
    client.send(
        CALL, "ssv", body=body, destination=DRIVER, path=DRIVER_PATH, interface=PROPERTIES, member="Set"
    )
    bus.turns()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * len(body)
    assert client.take().error == ERROR + "PropertyReadOnly"
