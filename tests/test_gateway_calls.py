"""Calls and answers between D-Bus clients and native peers, over the pure Core and the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bus1_bridge import codec, wire
from bus1_bridge.gateway import CALLEE_SILENT
from bus1_bridge.switch.departure import GONE
from bus1_bridge.switch.limits import BusLimits
from bus1_services.call import Kind
from bus1_services.types import Type, parse, single
from dbus_fast import Message as OracleMessage
from dbus_fast import Variant
from mixed_bus import DRIVER, ERROR, Legacy, MixedBus, Native, as_dbus_fast_reads_it, pack

from bus1.core.api import Credentials, MessageType
from bus1.errors import (
    Denied,
    InvalidArgument,
    NodeDestroyed,
    NoSuchHandle,
    NotSupported,
    NotUnique,
    QuotaExceeded,
    TooLarge,
)

NAME = "org.example.Service"
IFACE = "org.example.Thing"


@pytest.fixture
def bus() -> Iterator[MixedBus]:
    bus = MixedBus()
    yield bus
    bus.end()


@pytest.fixture
def service(bus: MixedBus) -> Native:
    native = bus.native()
    native.publish(NAME)
    return native


@pytest.fixture
def client(bus: MixedBus) -> Legacy:
    return bus.legacy()


# ---- legacy -> native ----------------------------------------------------------------------------


def test_a_call_arrives_as_an_envelope_with_a_reply_node_and_its_answer_bears_the_callees_name(
    service: Native, client: Legacy
) -> None:
    serial = client.call(NAME, "/obj", IFACE, "Frob", "su", "x", 7, flags=4)
    (call,) = service.receive()
    assert call.envelope is not None
    assert (call.node, call.pid) == (4, 200)
    assert (call.envelope.kind, call.envelope.interface, call.envelope.member) == (Kind.CALL, IFACE, "Frob")
    assert (call.envelope.flags, call.envelope.serial, call.values) == (4, serial, ("x", 7))
    service.answer(call, "as", ["a", "b"])
    (answer,) = client.receive()
    header = answer.header
    assert (header.type, header.sender, header.destination) == (wire.RETURN, service.unique, client.unique)
    assert (header.reply_serial, answer.values) == (serial, (["a", "b"],))
    assert header.serial != 0
    assert not client.party.nodes and not client.party.open_replies


def test_an_error_envelope_becomes_a_dbus_error(service: Native, client: Legacy) -> None:
    serial = client.call(service.unique, "/obj", None, "Frob")
    (call,) = service.receive()
    service.send((call.handles[0],), pack(Kind.ERROR, "", "org.example.Error.No", "s", "because"))
    (answer,) = client.receive()
    assert (answer.header.type, answer.header.error_name) == (wire.ERROR, "org.example.Error.No")
    assert (answer.header.reply_serial, answer.values) == (serial, ("because",))


def test_a_reply_node_takes_one_answer_and_nothing_but_answers(service: Native, client: Legacy) -> None:
    client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    for kind, names in ((Kind.CALL, (IFACE, "Frob")), (Kind.SIGNAL, (IFACE, "Frob"))):
        with pytest.raises(InvalidArgument):
            service.send((call.handles[0],), pack(kind, *names), (service.new_node(),))
    with pytest.raises(InvalidArgument):
        service.send((call.handles[0],), b"not an envelope")
    with pytest.raises(InvalidArgument):
        service.send((call.handles[0],), pack(Kind.RETURN, "", "", "b", body=b"\2\0\0\0"))
    assert client.receive() == []
    service.send((call.handles[0],), pack(Kind.RETURN))
    with pytest.raises(NodeDestroyed):
        service.send((call.handles[0],), pack(Kind.RETURN))
    assert len(client.receive()) == 1


def test_the_answer_bears_the_name_of_the_peer_that_was_called_even_if_another_gives_it(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    other = bus.native(pid=300)
    client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    passed = bus.core.handle_transfer(service.peer, call.handles[0], other.peer)
    service.release(call.handles[0])
    assert client.receive() == []
    other.send((passed,), pack(Kind.RETURN))
    (answer,) = client.receive()
    assert answer.header.sender == service.unique


def test_a_callee_that_drops_the_reply_handle_makes_the_caller_see_no_reply(
    service: Native, client: Legacy
) -> None:
    serial = client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    service.release(call.handles[0])
    (answer,) = client.receive()
    assert (answer.header.error_name, answer.values) == (ERROR + "NoReply", (CALLEE_SILENT,))
    assert (answer.header.reply_serial, answer.header.sender) == (serial, DRIVER)
    assert not client.party.nodes


def test_kill_of_a_native_service_changes_its_names_before_the_no_reply_of_its_callers(
    service: Native, client: Legacy
) -> None:
    """dbus-bus §6: well-known names, the last acquired first, the unique name last, then NoReply."""
    client.match(f"type='signal',sender='{DRIVER}'")
    service.publish(NAME, "org.example.Second")
    client.receive()
    unique = service.unique
    serials = [client.call(NAME, "/obj", IFACE, "Frob")]
    service.receive()
    serials.append(client.call(unique, "/obj", IFACE, "Frob"))
    service.kill()
    *changes, first, second = client.receive()
    assert [change.values for change in changes] == [
        ("org.example.Second", unique, ""), (NAME, unique, ""), (unique, unique, ""),
    ]
    assert [answer.header.error_name for answer in (first, second)] == [ERROR + "NoReply"] * 2
    assert [answer.header.reply_serial for answer in (first, second)] == serials
    assert first.values == (GONE,)


def test_a_service_that_disconnects_with_the_call_unread_is_no_reply_too(
    service: Native, client: Legacy
) -> None:
    client.call(NAME, "/obj", IFACE, "Frob")
    service.kill()
    assert [message.header.error_name for message in client.receive()] == [ERROR + "NoReply"]


def test_a_call_without_an_expected_answer_takes_no_reply_node(service: Native, client: Legacy) -> None:
    client.call(NAME, "/obj", IFACE, "Frob", flags=1)
    client.call(NAME, "/nothing", IFACE, "Frob", flags=1)
    (call,) = service.receive()
    assert call.handles == () and not client.party.nodes
    assert client.receive() == []


def test_the_same_outstanding_serial_at_the_same_callee_is_refused(service: Native, client: Legacy) -> None:
    client.call(NAME, "/obj", IFACE, "Frob", serial=5)
    client.call(service.unique, "/obj", IFACE, "Frob", serial=5)
    (answer,) = client.receive()
    assert answer.header.error_name == ERROR + "AccessDenied"
    assert len(service.receive()) == 1


def test_max_replies_per_connection_counts_reply_nodes() -> None:
    bus = MixedBus(BusLimits(
        max_replies_per_connection=2, max_completed_connections=100, max_incomplete_connections=0
    ))
    service, client = bus.native(), bus.legacy()
    service.publish(NAME)
    bus.tables.replies.add(client.peer, 99, 1)
    client.call(NAME, "/obj", IFACE, "Frob")
    client.call(NAME, "/obj", IFACE, "Frob")
    (answer,) = client.receive()
    assert answer.header.error_name == ERROR + "LimitsExceeded"
    (call,) = service.receive()
    service.answer(call)
    client.call(NAME, "/obj", IFACE, "Frob")
    assert len(service.receive()) == 1
    assert [message.header.type for message in client.receive()] == [wire.RETURN]


def test_a_native_peer_that_cannot_take_the_call_is_limits_exceeded_for_the_caller(
    bus: MixedBus, client: Legacy
) -> None:
    service = bus.native()
    service.publish(NAME)
    bus.core.peer_reset(service.peer, max_slices=2)
    errors = []
    for fd in range(70, 74):
        client.call(NAME, "/obj", IFACE, "Frob", fds=(fd,))
        errors += [message.header.error_name for message in client.receive()]
    assert errors and set(errors) == {ERROR + "LimitsExceeded"}
    assert len(errors) + len(service.receive()) == 4
    assert len(bus.closed) == 4


def test_a_call_to_a_destroyed_published_node_is_the_answer_for_paths_that_never_were(
    service: Native, client: Legacy
) -> None:
    client.call(NAME, "/never", IFACE, "Frob")
    service.destroy(4)
    client.call(NAME, "/obj", IFACE, "Frob")
    never, destroyed = client.receive()
    assert never.header.error_name == destroyed.header.error_name == ERROR + "UnknownObject"
    assert never.values == ("No such object path '/never'",)
    assert destroyed.values == ("No such object path '/obj'",)


@pytest.mark.parametrize("path", ["/", "/org", "/org/example"])
def test_introspection_shows_the_children_of_published_paths(
    bus: MixedBus, client: Legacy, path: str
) -> None:
    service = bus.native()
    service.publish(NAME, objects={"/org/example/A": 4, "/org/example/A/b": 8, "/org/other": 12})
    client.call(NAME, path, "org.freedesktop.DBus.Introspectable", "Introspect")
    (answer,) = client.receive()
    (xml,) = answer.values
    expected = {"/": ["org"], "/org": ["example", "other"], "/org/example": ["A"]}[path]
    assert [line.split('"')[1] for line in xml.splitlines() if "<node name" in line] == expected
    assert answer.header.sender == service.unique


def test_the_bus_answers_introspect_and_peer_for_a_native_service(bus: MixedBus, client: Legacy) -> None:
    service = bus.native()
    service.publish(NAME, objects={"/obj": 4}, xml='<interface name="org.example.Thing"/>')
    client.call(NAME, "/obj", None, "Introspect")
    client.call(NAME, "/nowhere", "org.freedesktop.DBus.Peer", "Ping")
    client.call(NAME, "/nowhere", None, "GetMachineId")
    client.call(NAME, "/nowhere", "org.freedesktop.DBus.Introspectable", "Introspect")
    client.call(NAME, "/obj", "org.freedesktop.DBus.Introspectable", "Introspect", "s", "more")
    client.call(NAME, "/obj", "org.freedesktop.DBus.Peer", "Ping")
    xml, ping, machine, nowhere, wrong = client.receive()
    assert '<interface name="org.example.Thing"/>' in xml.values[0]
    assert 'name="org.freedesktop.DBus.Properties"' in xml.values[0]
    assert (ping.values, machine.values) == ((), ("m" * 32,))
    assert nowhere.header.error_name == ERROR + "UnknownObject"
    assert wrong.header.error_name == ERROR + "InvalidArgs"
    assert [message.envelope and message.envelope.member for message in service.receive()] == ["Ping"]


def test_a_machine_without_an_id_has_none_for_clients_of_native_services_either(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    bus.tables.machine_id = ""
    client.call(NAME, "/", "org.freedesktop.DBus.Peer", "GetMachineId")
    client.call(NAME, "/", "org.freedesktop.DBus.Peer", "GetMachineId", flags=1)
    assert [m.header.error_name for m in client.receive()] == [ERROR + "FileNotFound"]


def test_a_destination_that_is_an_own_dead_node_is_a_dead_one(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    """T-40; an unused id would be a new node, which makes no sense beside a D-Bus client."""
    handle, own = service.derive(client.unique, "/p"), service.new_node()
    root = bus.core.handle_transfer(service.peer, own, service.peer)
    bus.core.node_destroy(service.peer, [own])
    for number, error in ((root, NodeDestroyed), (service.new_node(), InvalidArgument)):
        with pytest.raises(error):
            service.send((handle, number), pack(Kind.SIGNAL, IFACE, "Tick"), (4,))
    assert client.receive() == []
    service.release(own, own)


def test_a_service_that_publishes_nothing_but_names_has_an_empty_root(bus: MixedBus, client: Legacy) -> None:
    service = bus.native()
    service.publish(NAME, objects={})
    client.call(NAME, "/", "org.freedesktop.DBus.Introspectable", "Introspect")
    client.call(NAME, "/", IFACE, "Frob")
    xml, error = client.receive()
    assert xml.header.type == wire.RETURN and "<node name" not in xml.values[0]
    assert error.header.error_name == ERROR + "UnknownObject"


# ---- native -> legacy ----------------------------------------------------------------------------


@pytest.fixture
def legacy_service(bus: MixedBus) -> Legacy:
    service = bus.legacy()
    service.own("org.example.Legacy")
    return service


def test_a_native_call_reaches_the_object_with_a_serial_of_the_bus_and_its_answer_the_reply_node(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    native = bus.native()
    handle = native.derive("org.example.Legacy", "/some/path")
    reply = native.start_call(handle, IFACE, "Frob", "s", "in", serial=4242, flags=2)
    (call,) = legacy_service.receive()
    header = call.header
    assert (header.type, header.path, header.interface, header.member) == (1, "/some/path", IFACE, "Frob")
    assert (header.sender, header.destination, header.flags) == (native.unique, legacy_service.unique, 2)
    assert header.serial not in (0, 4242) and call.values == ("in",)
    legacy_service.answer(call, "s", "out")
    answer = native.receive()[0]
    assert answer.envelope is not None
    assert (answer.node, answer.envelope.kind, answer.envelope.serial) == (reply, Kind.RETURN, 4242)
    assert (answer.values, answer.pid) == (("out",), 200)
    assert not legacy_service.party.native_calls and not legacy_service.party.held


def test_an_error_of_a_legacy_service_reaches_the_native_caller(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    native = bus.native()
    native.start_call(native.derive(legacy_service.unique, "/p"), IFACE, "Frob")
    (call,) = legacy_service.receive()
    legacy_service.send(
        wire.ERROR, "s", "no", destination=call.header.sender, reply_serial=call.header.serial,
        error_name="org.example.Error.No",
    )
    answer = native.receive()[0]
    assert answer.envelope and (answer.envelope.kind, answer.envelope.member) == (
        Kind.ERROR, "org.example.Error.No"
    )


def test_unexpected_answers_go_nowhere(bus: MixedBus, legacy_service: Legacy) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    native.publish()
    native.start_call(handle, IFACE, "Frob")
    bus.closed.clear()
    chosen = next(iter(legacy_service.party.native_calls))
    # guessed before it was read
    legacy_service.send(wire.RETURN, destination=native.unique, reply_serial=chosen, fds=(50,))
    (call,) = legacy_service.receive()
    legacy_service.send(wire.RETURN, destination=native.unique, reply_serial=call.header.serial + 7)
    assert [message.type for message in native.receive()] == []
    legacy_service.answer(call)
    legacy_service.answer(call)
    assert [message.type for message in native.receive()] == [MessageType.DATA, MessageType.NODE_RELEASE]
    assert bus.closed == [50]


def test_serials_of_unanswered_native_calls_are_not_given_out_again(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    native.start_call(handle, IFACE, "Frob")
    (first,) = legacy_service.receive()
    legacy_service.party.next_serial = 0xFFFF_FFFF
    native.start_call(handle, IFACE, "Frob")
    assert legacy_service.party.next_serial == 1
    legacy_service.party.next_serial = first.header.serial
    native.start_call(handle, IFACE, "Frob")
    second, third = legacy_service.receive()
    assert second.header.serial == 0xFFFF_FFFF
    assert third.header.serial == first.header.serial + 1


def test_a_dead_legacy_service_releases_the_reply_nodes_of_native_callers(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    replies = [native.start_call(handle, IFACE, "Frob") for _ in range(2)]
    assert len(legacy_service.receive()) == 2
    replies.append(native.start_call(handle, IFACE, "Frob"))  # never read
    legacy_service.kill()
    messages = native.receive()
    assert {m.node for m in messages if m.type is MessageType.NODE_RELEASE} == set(replies)
    assert [m.node for m in messages if m.type is MessageType.NODE_DESTROY] == [handle]


def test_a_native_caller_that_gives_up_frees_the_call(bus: MixedBus, legacy_service: Legacy) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    read = native.start_call(handle, IFACE, "Frob")
    (call,) = legacy_service.receive()
    unread = native.start_call(handle, IFACE, "Frob")
    native.destroy(read, unread)
    assert len(legacy_service.receive()) == 1
    assert not legacy_service.party.native_calls and not legacy_service.party.held
    legacy_service.answer(call)
    assert native.receive() == []


def test_a_call_whose_reply_node_is_dead_is_forgotten_once_written(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    native = bus.native()
    handle, reply = native.derive(legacy_service.unique, "/p"), native.new_node()
    bus.core.handle_transfer(native.peer, reply, native.peer)
    native.destroy(reply)
    native.send((handle,), pack(Kind.CALL, IFACE, "Frob"), (reply,))
    (call,) = legacy_service.receive()
    assert not legacy_service.party.native_calls and not legacy_service.party.held
    legacy_service.answer(call)


def test_a_derived_node_ends_when_nobody_holds_it(bus: MixedBus, legacy_service: Legacy) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    assert native.derive(legacy_service.unique, "/p") == handle
    assert legacy_service.party.derived
    native.release(handle, handle)
    legacy_service.receive()
    assert not legacy_service.party.derived and not legacy_service.party.nodes


@pytest.mark.parametrize("kind", [Kind.RETURN, Kind.ERROR])
def test_a_derived_node_takes_no_answers(bus: MixedBus, legacy_service: Legacy, kind: Kind) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    (root,) = native.ask("Resolve", "s", legacy_service.unique).handles
    before = bus.core.snapshot()
    with pytest.raises(InvalidArgument):
        native.send((handle,), pack(kind, "", "a.b" if kind is Kind.ERROR else ""))
    with pytest.raises(InvalidArgument, match="handle 0"):
        native.send((handle,), pack(Kind.CALL, IFACE, "Frob"))
    with pytest.raises(InvalidArgument):
        native.send((handle,), pack(Kind.CALL, "org.freedesktop.DBus.Local", "Disconnected", flags=1))
    with pytest.raises(InvalidArgument):
        native.send((root,), pack(Kind.CALL, IFACE, "Frob", flags=1))
    assert bus.core.snapshot() == before
    assert legacy_service.receive() == []


def test_a_reply_node_can_be_delegated_from_one_legacy_client_to_another(
    bus: MixedBus, service: Native, client: Legacy, legacy_service: Legacy
) -> None:
    """The native service passes the caller's reply node on: the answer comes from the service's name."""
    serial = client.call(NAME, "/obj", IFACE, "Frob", "s", "in")
    (call,) = service.receive()
    handle = service.derive(legacy_service.unique, "/p")
    payload = pack(Kind.CALL, IFACE, "Frob", "s", "in", serial=1)
    service.send((handle,), payload, (call.handles[0],))
    service.release(call.handles[0])
    (forwarded,) = legacy_service.receive()
    legacy_service.answer(forwarded, "s", "out")
    (answer,) = client.receive()
    assert (answer.header.reply_serial, answer.header.sender) == (serial, service.unique)
    assert answer.values == ("out",)
    assert not legacy_service.party.held


def test_one_send_reaches_a_native_peer_and_a_legacy_client(bus: MixedBus, legacy_service: Legacy) -> None:
    a, b = bus.native(), bus.native()
    b.publish("org.example.B")
    native_handle = a.derive("org.example.B", "/obj")
    handle = a.derive(legacy_service.unique, "/p")
    slots = a.send((native_handle, handle), pack(Kind.CALL, IFACE, "Frob", "s", "both", flags=1))
    assert slots == [0, 0]
    assert [message.values for message in b.receive()] == [("both",)]
    assert [message.values for message in legacy_service.receive()] == [("both",)]


def test_a_mandatory_destination_that_fails_leaves_everything_as_it_was(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    a, b = bus.native(), bus.native()
    b.publish("org.example.B")
    native_handle = a.derive("org.example.B", "/obj")
    handle = a.derive(legacy_service.unique, "/p")
    b.destroy(4)
    before = bus.core.snapshot()
    payload = pack(Kind.CALL, IFACE, "Frob", "s", "x")
    for destinations, error in (
        ((handle, native_handle), NodeDestroyed), ((native_handle, handle), NodeDestroyed),
        ((handle, 0x7FFB), NoSuchHandle), ((handle, handle), NotUnique),
    ):
        with pytest.raises(error):
            a.send(destinations, payload, (1 << 30,), (60,))
    assert bus.core.snapshot() == before
    assert bus.closed == []
    path = "/org/bus1/cap/" + "0" * 32
    with pytest.raises(NodeDestroyed):
        a.send(
            (handle, native_handle), pack(Kind.CALL, IFACE, "Frob", "o", path, caps=((0, 1),)), (1 << 30, 64)
        )
    with pytest.raises(NodeDestroyed):
        a.send(
            (handle, native_handle), pack(Kind.CALL, "org.bus1.Signals1", "Subscribe", "ss", "", ""),
            (1 << 30, 64),
        )
    assert bus.core.snapshot() == before
    assert not legacy_service.party.notes and not legacy_service.party.native_calls
    assert legacy_service.party.granted == 0 and not bus.gateway.registry.subjects
    slots = a.send((handle,), payload, (1 << 30,), (61,), optional=(native_handle, 0x7FFB))
    assert slots == [0, -113, -6]
    assert len(legacy_service.receive()) == 1


def test_a_legacy_client_that_does_not_read_is_a_full_queue_for_the_native_sender(
    bus: MixedBus, legacy_service: Legacy
) -> None:
    native = bus.native()
    handle = native.derive(legacy_service.unique, "/p")
    body = (8 << 20).to_bytes(4, "little") + bytes(8 << 20)
    payload = pack(Kind.CALL, IFACE, "Frob", "ay", body=body, flags=1)
    native.send((handle,), payload)
    bus.delivery.now = 10.0
    with pytest.raises(QuotaExceeded):
        for _ in range(3):
            native.send((handle,), payload)
    assert native.send((), payload, optional=(handle,)) == [-122]
    waiting = bus.core.snapshot()["peers"][legacy_service.peer]
    assert len(waiting["queue"]) <= 2
    assert len(legacy_service.receive()) <= 2
    assert native.send((handle,), payload) == [0]


def test_an_answer_that_does_not_fit_is_no_reply_in_its_place(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    big = (10 << 20).to_bytes(4, "little") + bytes(10 << 20)
    serials = [client.call(NAME, "/obj", IFACE, "Frob") for _ in range(3)]
    for call in service.receive():
        bus.delivery.now += 10
        service.answer(call, "ay", body=big)
    answers = client.receive()
    assert [answer.header.error_name for answer in answers] == [None, ERROR + "NoReply", ERROR + "NoReply"]
    assert [answer.header.reply_serial for answer in answers] == serials


# ---- descriptors ---------------------------------------------------------------------------------


def test_descriptors_pass_four_ways_and_none_is_left_behind(
    bus: MixedBus, service: Native, client: Legacy, legacy_service: Legacy
) -> None:
    """Native to native, native to legacy, legacy to native, and back in the answers."""
    second = bus.native()
    client.call(NAME, "/obj", IFACE, "Frob", "h", 0, fds=(40,))
    (call,) = service.receive()
    assert (call.fds, call.values) == ((40,), (0,))
    service.answer(call, "hh", 1, 0, fds=(41, 42))
    (answer,) = client.receive()
    assert (answer.fds, answer.values) == ((41, 42), (1, 0))
    second.start_call(second.derive(legacy_service.unique, "/p"), IFACE, "Frob", "h", 0, fds=(43,))
    (forwarded,) = legacy_service.receive()
    assert forwarded.fds == (43,)
    legacy_service.answer(forwarded, "h", 0, fds=(44,))
    assert second.receive()[0].fds == (44,)
    second.start_call(second.derive(NAME, "/obj"), IFACE, "Frob", "h", 0, fds=(45,))
    assert [message.fds for message in service.receive() if message.type is MessageType.DATA] == [(45,)]
    assert sorted(bus.closed) == [40, 41, 42, 43, 44, 45]


def test_unix_sockets_travel_to_and_from_legacy_clients_but_not_between_native_peers(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    """T-30."""
    other = bus.native()
    handle, own = other.derive(NAME, "/obj"), other.derive(client.unique, "/p")
    payload = pack(Kind.CALL, IFACE, "Frob", "h", 0, flags=1)
    for destinations, optional, flags in (((handle,), (), 0), ((own,), (handle,), 0), ((), (), 2)):
        with pytest.raises(NotSupported):
            other.send(destinations, payload, (), (900,), optional=optional, flags=flags)
    client.call(NAME, "/obj", IFACE, "Frob", "h", 0, fds=(901,), flags=1)
    other.send((own,), payload, (), (902,))
    assert [m.fds for m in service.receive()] == [(901,)]
    assert [m.fds for m in client.receive()] == [(902,)]


def test_descriptors_are_refused_for_a_client_that_takes_none(bus: MixedBus, service: Native) -> None:
    client = bus.legacy(takes_fds=False)
    client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    with pytest.raises(NotSupported):
        service.send((call.handles[0],), pack(Kind.RETURN, "", "", "h", 0), (), (40,))
    with pytest.raises(NotSupported):
        service.start_call(service.derive(client.unique, "/p"), IFACE, "Frob", "h", 0, fds=(40,))
    assert bus.closed == []
    service.answer(call)
    assert [message.header.type for message in client.receive()] == [wire.RETURN]


def test_no_client_gets_more_descriptors_than_the_bus_allows_in_a_message(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    """libdbus takes max_message_unix_fds (16) and disconnects at more; native peers alone take them all."""
    most, too_many = tuple(range(40, 56)), tuple(range(60, 77))
    client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    with pytest.raises(TooLarge, match="17 descriptors, D-Bus clients take 16"):
        service.send((call.handles[0],), pack(Kind.RETURN, "", "", "h", 0), (), too_many)
    with pytest.raises(TooLarge):
        service.start_call(service.derive(client.unique, "/p"), IFACE, "Frob", "h", 0, fds=too_many)
    assert client.receive() == [] and bus.closed == []
    service.answer(call, "h", 0, fds=most)
    assert [message.fds for message in client.receive()] == [most]
    other = bus.native()
    other.start_call(other.derive(NAME, "/obj"), IFACE, "Frob", "h", 0, fds=too_many)
    assert [m.fds for m in service.receive() if m.type is MessageType.DATA] == [too_many]


def test_descriptors_of_a_refused_call_are_closed_once(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    client.call(NAME, "/nothing", IFACE, "Frob", "h", 0, fds=(40,))
    client.call(NAME, "/obj", None, "Introspect", fds=(41,))
    assert bus.closed == [40, 41]
    client.call(NAME, "/obj", IFACE, "Frob", "h", 0, fds=(42,))
    service.kill()
    assert bus.closed == [40, 41, 42]


# ---- bodies --------------------------------------------------------------------------------------

EVERY_TYPE = "ybnqiuxtdsogvasa{sv}(i(sd))aaiav"
VALUES = [
    7, True, -2, 3, -4, 5, -6, 2**63, 1.5, "grüße", "/a/b", "a{sv}", Variant("(ias)", [1, ["x"]]), ["", "y"],
    {"k": Variant("v", Variant("ay", b"\1\2"))}, [1, ["deep", -0.5]], [[1], [], [2, 3]], [Variant("o", "/o")],
]


def oracle_body(endian: str) -> bytes:
    """The body of VALUES as dbus_fast marshals it; big-endian by this project's own encoder of numbers."""
    message = OracleMessage(
        destination="a.b", path="/", interface="a.b", member="C", signature=EVERY_TYPE, body=VALUES, serial=1
    )
    data = bytes(message._marshall(False))
    body = data[codec.parse(data).header_length :]
    return body if endian == "l" else swapped(EVERY_TYPE, body)


def swapped(signature: str, body: bytes) -> bytes:
    """A body in the other byte order: every number turned round, everything else as it is."""
    out = bytearray(body)

    def walk(kind: Type, at: int) -> int:
        at += -at % kind.alignment
        if kind.fixed:
            out[at : at + kind.fixed] = body[at : at + kind.fixed][::-1]
            return at + kind.fixed
        if kind.code in "sog":
            width = 1 if kind.code == "g" else 4
            length = int.from_bytes(body[at : at + width], "little")
            out[at : at + width] = body[at : at + width][::-1]
            return at + width + length + 1
        if kind.code == "v":
            length = body[at]
            return walk(single(body[at + 1 : at + 1 + length].decode()), at + length + 2)
        if kind.code == "a":
            length = int.from_bytes(body[at : at + 4], "little")
            out[at : at + 4] = body[at : at + 4][::-1]
            start = at + 4 + -(at + 4) % kind.inside[0].alignment
            at = start
            while at < start + length:
                at = walk(kind.inside[0], at)
            return start + length
        for inner in kind.inside:
            at = walk(inner, at)
        return at

    at = 0
    for kind in parse(signature):
        at = walk(kind, at)
    assert at == len(body)
    return bytes(out)


@pytest.mark.parametrize("endian", ["l", "B"])
def test_a_body_of_every_type_survives_legacy_native_legacy_byte_for_byte(
    bus: MixedBus, service: Native, client: Legacy, legacy_service: Legacy, endian: str
) -> None:
    body = oracle_body(endian)
    client.call(NAME, "/obj", IFACE, "Frob", EVERY_TYPE, body=body, endian=endian)
    (call,) = service.receive()
    assert call.envelope and (call.envelope.endian, call.body) == (endian, body)
    payload = pack(Kind.CALL, IFACE, "Frob", EVERY_TYPE, body=call.body, endian=call.envelope.endian)
    service.send((service.derive(legacy_service.unique, "/p"),), payload, (call.handles[0],))
    (forwarded,) = legacy_service.receive()
    assert (forwarded.header.endian, forwarded.body) == (endian, body)
    legacy_service.send(
        wire.RETURN, EVERY_TYPE, body=body, endian=endian, destination=forwarded.header.sender,
        reply_serial=forwarded.header.serial,
    )
    (answer,) = client.receive()
    assert (answer.header.endian, answer.header.signature, answer.body) == (endian, EVERY_TYPE, body)


def test_dbus_fast_reads_what_the_gateway_writes(service: Native, client: Legacy) -> None:
    client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    service.answer(call, EVERY_TYPE, body=oracle_body("l"))
    core = client.bus.core
    data = b"".join(core.ahead(client.peer)[0].parts)
    message = as_dbus_fast_reads_it(data)
    assert (message.sender, message.signature) == (service.unique, EVERY_TYPE)
    assert message.body[9] == "grüße" and message.body[7] == 2**63


# ---- the native side of the door -----------------------------------------------------------------


def test_other_users_are_not_let_in(bus: MixedBus) -> None:
    peer = bus.core.peer_new(2000)
    before = bus.core.snapshot()
    with pytest.raises(Denied):
        bus.gateway.peer_opened(peer, Credentials(2000, 2000, 1))
    assert bus.core.snapshot() == before
    bus.core.peer_disconnect(peer)


def test_a_native_peer_takes_its_number_at_open_and_is_announced_before_its_first_visible_act(
    bus: MixedBus, client: Legacy
) -> None:
    client.match(f"type='signal',sender='{DRIVER}'")
    quiet, native = bus.native(), bus.native()
    assert client.receive() == []
    assert native.unique not in bus.tables.unique
    native.start_call(native.derive(client.unique, "/p"), IFACE, "Frob")
    change, call = client.receive()
    assert change.values == (native.unique, "", native.unique)
    assert call.header.sender == native.unique
    quiet.kill()
    assert client.receive() == []


def test_who_failed_to_say_anything_is_not_announced(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    native, watcher = bus.native(), bus.native()
    watcher.ask("Watch", "s", "", handles=(4,))
    client.match(f"type='signal',sender='{DRIVER}'")
    handle, full = native.derive(client.unique, "/p"), native.derive(NAME, "/obj")
    bus.core.peer_reset(service.peer, max_slices=0)
    before = bus.core.snapshot()
    with pytest.raises(QuotaExceeded):
        native.send((handle, full), pack(Kind.CALL, IFACE, "Frob", flags=1))
    assert bus.core.snapshot() == before
    assert not native.party.announced and native.unique not in bus.tables.unique
    native.send((handle,), pack(Kind.CALL, IFACE, "Frob", flags=1))
    assert [m.header.member for m in client.receive()] == ["NameOwnerChanged", "Frob"]
    assert [m.values for m in watcher.receive()] == [(native.unique, "", native.unique)]


def test_the_messages_of_a_client_that_does_not_read_show_in_cores_snapshot(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    handle = service.derive(client.unique, "/p")
    for _ in range(3):
        service.start_call(handle, IFACE, "Frob", "s", "x" * 1000)
    queue = bus.core.snapshot()["peers"][client.peer]["queue"]
    assert [entry["sender"] for entry in queue if entry["type"] == "DATA"] == [service.peer] * 3
    assert bus.core.waiting(client.peer).bytes >= 3000
