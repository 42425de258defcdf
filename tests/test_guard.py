"""What the policy lets through: between D-Bus clients, native peers, the bus itself, and those who listen."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bus1_bridge import codec
from bus1_bridge.policy import Policy
from bus1_bridge.sasl import ANONYMOUS, AuthRules
from bus1_bridge.switch.effects import Refusal, Start
from bus1_bridge.switch.tables import NativeParty
from bus1_services import seed
from bus1_services.call import Kind
from bus1_services.seed import SeedDocument
from mixed_bus import Native, pack
from policy_texts import policy_of
from pure_switch import CALL, DRIVER, DRIVER_PATH, ERROR, FAULT, RETURN, SIGNAL, UID, Client, Got, PureSwitch

from bus1.errors import Denied

OPEN = '<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>'
CLOSED = (
    '<deny own="*"/><deny send_type="method_call"/><allow send_type="signal"/>'
    '<allow send_type="method_return"/><allow send_type="error"/><allow receive_type="method_call"/>'
    '<allow receive_type="method_return"/><allow receive_type="error"/><allow receive_type="signal"/>'
    f'<allow send_destination="{DRIVER}"/>'
)
"""As a system bus starts."""
DENIED = ERROR + "AccessDenied"
NAME = "com.example.A"


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    bus = PureSwitch()
    bus.tables.command_of = lambda pid: f"command {pid}"
    yield bus
    configure(bus, OPEN)
    for peer, party in list(bus.tables.parties.items()):
        if isinstance(party, NativeParty):
            bus.gateway.peer_disconnect(peer)
    bus.end()


def configure(bus: PureSwitch, *rules: str) -> Policy:
    """Another policy, between two messages."""
    policy = policy_of(*rules)
    bus.router.configure(bus.limits, policy)
    return policy


def silent_client(bus: PureSwitch) -> Client:
    """A client with a name that it need not have been told."""
    client = bus.client(hello=False)
    client.send(CALL, path=DRIVER_PATH, interface=DRIVER, destination=DRIVER, member="Hello")
    client.name = bus.tables.parties[client.connection].unique
    client.take_all()
    return client


def records(bus: PureSwitch) -> list[Refusal]:
    bus.settle()
    return [effect for effect in bus.effects if isinstance(effect, Refusal)]


def text_of(got: Got) -> str:
    assert got.error == DENIED
    return str(got.args[0])


# ---- between D-Bus clients -----------------------------------------------------------------------


def test_a_refused_call_is_answered_with_who_what_and_which_rule(bus: PureSwitch) -> None:
    configure(bus, OPEN, '<deny send_interface="a.b.C"/>')
    sender, reader = bus.client(), bus.client()
    reader.call("RequestName", "su", NAME, 0)
    serial = sender.ask(NAME, "Do")
    got = sender.take()
    assert (got.type, got.reply_serial, got.sender) == (FAULT, serial, DRIVER)
    who = f'uid={UID} pid=77 comm="command 77"'
    assert text_of(got) == (
        f'Rejected send message, 2 matched rules; type="method_call", sender="{sender.name}" ({who}) '
        f'interface="a.b.C" member="Do" error name="(unset)" requested_reply="0" '
        f'destination="{NAME}" ({who}); decided by <deny send_interface="a.b.C"/> (/etc/bus.conf:2)'
    )
    assert [got.member for got in reader.take_all()] == ["NameAcquired"]
    (record,) = records(bus)
    assert (record.sender, record.receiver, record.text) == (sender.name, reader.name, text_of(got))


def test_the_receivers_rules_count_as_well(bus: PureSwitch) -> None:
    configure(bus, OPEN, f'<deny receive_sender="{NAME}" receive_path="/x"/>')
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name)
    assert reader.take().member == "Do"
    sender.call("RequestName", "su", NAME, 0)
    assert sender.take().member == "NameAcquired"
    sender.ask(reader.name)
    assert text_of(sender.take()).startswith("Rejected receive message, 2 matched rules; ")
    assert not reader.take_all()


@pytest.mark.parametrize("kind", [CALL, SIGNAL])
def test_the_sender_is_told_even_if_it_wants_no_answer(bus: PureSwitch, kind: int) -> None:
    configure(bus, OPEN, '<deny send_path="/x"/>')
    sender, reader = bus.client(), bus.client()
    sender.send(kind, path="/x", interface="a.b.C", member="Do", destination=reader.name, flags=1)
    assert text_of(sender.take())
    assert not reader.take_all()


def test_where_no_rule_allows_it_the_refusal_says_so(bus: PureSwitch) -> None:
    configure(bus, '<allow receive_type="error"/>')
    sender, reader = silent_client(bus), silent_client(bus)
    sender.ask(reader.name)
    assert text_of(sender.take()).endswith("; no rule allows it")


def test_an_answer_passes_only_once_where_unasked_ones_may_not(bus: PureSwitch) -> None:
    configure(bus, CLOSED, f'<allow send_destination="{NAME}"/><allow own="{NAME}"/>')
    sender, reader = bus.client(), bus.client()
    reader.call("RequestName", "su", NAME, 0)
    assert reader.take().member == "NameAcquired"
    sender.ask(NAME)
    call = reader.take()
    reader.answer(call)
    assert sender.take().type == RETURN
    reader.answer(call)
    assert 'requested_reply="0"' in text_of(reader.take())
    assert not sender.take_all()


def test_an_answer_that_is_refused_may_be_given_in_another_way(bus: PureSwitch) -> None:
    configure(bus, OPEN, '<deny send_type="error" send_requested_reply="true"/>')
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name)
    call = reader.take()
    reader.send(FAULT, destination=call.sender, reply_serial=call.serial, error_name="a.b.Secret")
    assert 'requested_reply="1"' in text_of(reader.take())
    reader.answer(call)
    assert sender.take().type == RETURN


def test_an_unasked_answer_passes_on_an_open_bus(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    sender.send(RETURN, destination=reader.name, reply_serial=77)
    assert reader.take().reply_serial == 77


def test_a_broadcast_reaches_those_who_may_have_it_and_nobody_is_told(bus: PureSwitch) -> None:
    configure(
        bus, OPEN, f'<deny send_destination="{NAME}"/>',
        '<policy context="mandatory"><deny receive_sender="com.example.Loud" receive_member="M" '
        'receive_interface="a.b.C"/></policy>',
    )
    sender, plain, named = bus.client(), bus.client(), bus.client()
    for reader in (plain, named):
        reader.call("AddMatch", "s", "interface='a.b.C'")
    named.call("RequestName", "su", NAME, 0)
    named.take_all()
    sender.emit("M")
    assert [got.member for got in plain.take_all()] == ["M"]
    assert not named.take_all()
    sender.call("RequestName", "su", "com.example.Loud", 0)
    sender.take_all()
    sender.emit("M")
    sender.emit("N")
    assert [got.member for got in plain.take_all()] == ["N"]
    assert not sender.take_all()
    assert not records(bus)


def test_a_monitor_hears_who_may_not_have_a_broadcast_and_the_log_does_not(bus: PureSwitch) -> None:
    sender, reader, monitor = bus.client(), bus.client(), bus.client()
    reader.call("AddMatch", "s", "type='signal'")
    monitor.send(
        CALL, "asu", [], 0, path=DRIVER_PATH, destination=DRIVER, interface=f"{DRIVER}.Monitoring",
        member="BecomeMonitor",
    )
    reader.take_all()
    monitor.take_all()
    configure(bus, OPEN, f'<deny send_destination="{reader.name}" send_path="/x"/>')
    sender.emit("M")
    copied = monitor.take_all()
    assert [got.member for got in copied if got.type == SIGNAL] == ["M"]
    assert text_of(copied[-1]).startswith("Rejected send message, 2 matched rules; ")
    assert not reader.take_all()
    assert not records(bus)


def test_those_who_eavesdrop_need_a_rule_that_lets_them(bus: PureSwitch) -> None:
    rules = OPEN.replace('<allow eavesdrop="true"/>', '<allow receive_sender="*"/>')
    sender, reader, spy = bus.client(), bus.client(), bus.client()
    bus.tables.bus_credentials = bus.tables.parties[spy.connection].credentials
    spy.call("AddMatch", "s", "eavesdrop='true',interface='a.b.C'")
    spy.take_all()
    sender.ask(reader.name, "One")
    configure(bus, rules)
    sender.ask(reader.name, "Two")
    configure(bus, rules, '<allow receive_interface="a.b.C" eavesdrop="true"/>')
    sender.ask(reader.name, "Three")
    assert [got.member for got in spy.take_all()] == ["One", "Three"]
    assert [got.member for got in reader.take_all()] == ["One", "Two", "Three"]


def test_a_rule_that_logs_lets_pass_and_reports(bus: PureSwitch) -> None:
    configure(bus, OPEN, '<allow send_path="/x" log="true"/>')
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name)
    assert reader.take().member == "Do"
    (record,) = records(bus)
    assert record.text.startswith("Would reject message, 2 matched rules; ")


def test_a_flood_of_refusals_is_one_record_with_a_count(bus: PureSwitch) -> None:
    configure(bus, OPEN, '<deny send_path="/x"/>')
    sender, reader = bus.client(), bus.client()
    data = b"".join(
        codec.build(CALL, serial=1000 + n, path="/x", member=f"M{n}", destination=reader.name)
        for n in range(20)
    )
    sender.say(data)
    (record,) = records(bus)
    assert record.times == 20
    assert 'member="M0"' in record.text


# ---- with the bus --------------------------------------------------------------------------------


def test_the_bus_itself_is_a_destination(bus: PureSwitch) -> None:
    configure(bus, OPEN, f'<deny send_destination="{DRIVER}" send_interface="{DRIVER}" send_member="GetId"/>')
    client = bus.client()
    assert client.fault("GetId") == "AccessDenied"
    assert 'destination="org.freedesktop.DBus" (bus)' in records(bus)[0].text
    assert client.call("ListNames").type == RETURN


def test_hello_needs_no_rule(bus: PureSwitch) -> None:
    configure(bus, '<allow receive_type="*" eavesdrop="true"/>')
    assert bus.client().name == ":1.0"


def test_what_the_bus_says_is_received_by_the_rules(bus: PureSwitch) -> None:
    configure(
        bus, OPEN, f'<deny receive_sender="{DRIVER}" receive_interface="{DRIVER}" '
        'receive_member="NameAcquired"/>',
        f'<deny receive_sender="{DRIVER}" receive_path="{DRIVER_PATH}" receive_member="NameOwnerChanged"/>',
    )
    client, watcher = silent_client(bus), silent_client(bus)
    watcher.call("AddMatch", "s", "type='signal'")
    assert client.call("RequestName", "su", NAME, 0).args == (1,)
    assert not client.take_all()
    assert not watcher.take_all()


def test_a_name_may_be_owned_by_the_rules(bus: PureSwitch) -> None:
    configure(bus, OPEN, f'<deny own_prefix="{NAME}"/>')
    client = bus.client()
    got = client.call("RequestName", "su", NAME + ".B", 0)
    assert text_of(got) == (
        f'Connection "{client.name}" is not allowed to own the service "{NAME}.B" due to security policies '
        f'in the configuration file; decided by <deny own_prefix="{NAME}"/> (/etc/bus.conf:2); '
        f'it is uid={UID} pid=77 comm="command 77"'
    )
    assert bus.tables.names.owner(NAME + ".B") is None
    assert records(bus)[0].sender == client.name
    # the checks of the name itself come first
    assert client.fault("RequestName", "su", "no name", 0) == "InvalidArgs"


def test_a_service_that_may_not_be_called_is_not_started(bus: PureSwitch) -> None:
    configure(bus, OPEN, '<deny send_destination="com.example.Started"/>')
    client = bus.client()
    bus.services |= {"com.example.Started": "/bin/one", "com.example.Other": "/bin/two"}
    client.ask("com.example.Started")
    assert text_of(client.take()).endswith('"/> (/etc/bus.conf:2)')
    assert not [effect for effect in bus.effects if isinstance(effect, Start)]
    client.ask("com.example.Other")
    bus.turns()
    assert [effect.name for effect in bus.effects if isinstance(effect, Start)] == ["com.example.Other"]


# ---- another policy ------------------------------------------------------------------------------


def test_another_policy_counts_for_connections_that_exist(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    sender.ask(reader.name, "One")
    configure(bus, OPEN, '<policy user="alice"><deny send_path="/x"/></policy>')
    sender.ask(reader.name, "Two")
    configure(bus, OPEN)
    sender.ask(reader.name, "Three")
    assert [got.member for got in reader.take_all()] == ["One", "Three"]
    assert text_of(sender.take())


# ---- native peers --------------------------------------------------------------------------------


@pytest.fixture
def native(bus: PureSwitch) -> Native:
    return Native(bus, UID, 5)  # type: ignore[arg-type]


def publish(native: Native, *names: str) -> tuple[Kind, tuple[object, ...]]:
    document = SeedDocument("test", tuple((name, 0) for name in names), (("/obj", ""),))
    answer = native.ask("Publish", seed.SIGNATURE, body=seed.encode(document), handles=(0, 4))
    assert answer.envelope is not None
    return answer.envelope.kind, answer.values


def test_a_native_service_owns_names_by_the_rules_and_fails_as_a_whole(
    bus: PureSwitch, native: Native
) -> None:
    configure(bus, OPEN, f'<deny own="{NAME}"/>')
    kind, (text,) = publish(native, "com.example.Fine", NAME)
    assert kind is Kind.ERROR
    assert f'is not allowed to own the service "{NAME}"' in str(text)
    assert bus.tables.names.owner("com.example.Fine") is None
    assert not native.party.objects
    configure(bus, OPEN)
    assert publish(native, NAME)[0] is Kind.RETURN


def test_a_native_service_is_called_by_the_rules(bus: PureSwitch, native: Native) -> None:
    publish(native, NAME)
    client = bus.client()
    configure(bus, OPEN, f'<deny send_destination="{NAME}" send_path="/obj"/>')
    client.ask(NAME, path="/obj")
    assert f'destination="{NAME}" (uid={UID} pid=5 comm="command 5")' in text_of(client.take())
    client.ask(NAME, "Introspect", path="/obj", interface="org.freedesktop.DBus.Introspectable")
    assert text_of(client.take())
    configure(bus, OPEN, f'<deny receive_sender="{client.name}" receive_member="No" receive_path="/obj"/>')
    client.ask(NAME, "No", path="/obj")
    assert text_of(client.take()).startswith("Rejected receive message")
    assert not native.receive()
    client.ask(NAME, "Yes", path="/obj")
    (call,) = native.receive()
    native.answer(call)
    assert client.take().type == RETURN


def test_a_native_peer_calls_and_answers_clients_by_the_rules(bus: PureSwitch, native: Native) -> None:
    client = bus.client()
    publish(native, NAME)
    handle = native.derive(client.name, "/x")
    configure(bus, OPEN, '<deny send_path="/x"/>')
    with pytest.raises(Denied, match='Rejected send message, 2 matched rules; type="method_call"'):
        native.start_call(handle, "a.b.C", "Do")
    assert not client.take_all()
    configure(bus, OPEN, '<deny send_type="method_return" send_requested_reply="true"/>')
    client.ask(NAME, path="/obj")
    (call,) = native.receive()
    with pytest.raises(Denied, match='requested_reply="1"'):
        native.send((call.handles[0],), pack(Kind.RETURN))
    configure(bus, OPEN)
    native.answer(call)
    assert client.take().type == RETURN


def test_signals_of_native_services_reach_clients_by_the_rules(bus: PureSwitch, native: Native) -> None:
    emitter = native.publish(NAME)
    allowed, denied = bus.client(), bus.client()
    for client in (allowed, denied):
        client.call("AddMatch", "s", "type='signal',interface='a.b.C'")
        client.take_all()
    configure(bus, OPEN, f'<deny send_destination="{denied.name}"/>')
    native.send((emitter,), pack(Kind.SIGNAL, "a.b.C", "Changed"), (4,))
    assert [got.member for got in allowed.take_all()] == ["Changed"]
    assert not denied.take_all()


def test_a_native_peer_signals_to_one_client_by_the_rules(bus: PureSwitch, native: Native) -> None:
    client = bus.client()
    publish(native, NAME)
    handle = native.derive(client.name, "/x")
    configure(bus, OPEN, '<deny send_path="/obj" send_type="signal"/>')
    with pytest.raises(Denied, match='type="signal"'):
        native.send((handle,), pack(Kind.SIGNAL, "a.b.C", "Changed"), (4,))
    configure(bus, OPEN)
    native.send((handle,), pack(Kind.SIGNAL, "a.b.C", "Changed"), (4,))
    assert [got.member for got in client.take_all()] == ["Changed"]


def test_an_object_that_was_handed_out_is_used_by_the_rules_about_its_owner(
    bus: PureSwitch, native: Native
) -> None:
    path = "/org/bus1/cap/" + "0123456789abcdef" * 2
    publish(native, NAME)
    client = bus.client()
    client.ask(NAME, "Open", path="/obj")
    (call,) = native.receive()
    native.answer(call, "o", path, handles=(64,), caps=((0, 0),))
    assert client.take().args == (path,)
    configure(bus, OPEN, f'<deny send_destination="{NAME}"/>')
    for name in (NAME, native.unique, "com.example.Nobody"):
        client.ask(name, "Use", path=path)
        assert text_of(client.take())
    assert not native.receive()
    configure(bus, OPEN)
    client.ask(NAME, "Use", path=path, flags=1)
    assert [got.node for got in native.receive()] == [64]


def test_what_the_bus_answers_for_a_service_is_received_by_the_rules(
    bus: PureSwitch, native: Native
) -> None:
    publish(native, NAME)
    client = bus.client()
    configure(bus, OPEN, '<deny receive_type="method_return" receive_sender="com.example.A" '
              'receive_requested_reply="true"/>')
    client.ask(NAME, "Ping", interface="org.freedesktop.DBus.Peer", path="/elsewhere")
    assert not client.take_all()


def test_signals_of_clients_reach_native_subscribers_by_the_rules(bus: PureSwitch, native: Native) -> None:
    client = bus.client()
    native.subscribe(native.derive(client.name, "/x"))
    client.emit("One")
    configure(bus, OPEN, '<deny receive_path="/x"/>')
    client.emit("Two")
    configure(bus, OPEN)
    client.emit("Three")
    assert [got.envelope.member for got in native.receive() if got.envelope] == ["One", "Three"]


def test_a_native_peer_gets_hold_only_of_whom_it_could_call(bus: PureSwitch, native: Native) -> None:
    service = Native(bus, UID, 6)  # type: ignore[arg-type]
    publish(service, NAME)
    configure(bus, CLOSED)
    answer = native.ask("Resolve", "s", NAME)
    assert answer.envelope is not None
    assert answer.envelope.kind is Kind.ERROR
    assert "may call nothing" in answer.values[0]
    configure(bus, CLOSED, f'<allow send_destination="{NAME}" send_interface="a.b.C"/>')
    assert native.ask("Resolve", "s", NAME).handles


def test_between_native_peers_a_handle_is_the_permission(bus: PureSwitch, native: Native) -> None:
    service = Native(bus, UID, 6)  # type: ignore[arg-type]
    publish(service, NAME)
    handle = native.derive(NAME, "/obj")
    configure(bus, "")
    native.start_call(handle, "a.b.C", "Do")
    assert [got.envelope.member for got in service.receive() if got.envelope] == ["Do"]


def test_a_native_peer_connects_by_the_rules(bus: PureSwitch) -> None:
    configure(bus, OPEN, '<allow user="bob"/>')
    assert Native(bus, 1001, 6).unique  # type: ignore[arg-type]
    configure(bus, OPEN)
    with pytest.raises(Denied, match="user 1001 may not connect"):
        Native(bus, 1001, 6)  # type: ignore[arg-type]


def test_who_has_shown_to_be_nobody_has_none_of_the_rights_of_the_user_behind_the_socket(
    bus: PureSwitch,
) -> None:
    bus.tables.auth = AuthRules((ANONYMOUS,), allows_anonymous=True)
    configure(bus, OPEN, '<deny own="*"/>', '<policy user="alice"><allow own="*"/></policy>')
    client = Client(bus, bus.connect())
    client.say(b"\0AUTH ANONYMOUS\r\nBEGIN\r\n")
    client.raw()
    client.call("Hello")
    assert client.call("RequestName", "su", NAME, 0).error == DENIED
