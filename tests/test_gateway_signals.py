"""Signals of both kinds of emitters at both kinds of subscribers, over the pure Core and the gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from bus1_bridge.subscriptions import SUBSCRIBERS_MAX
from bus1_services.call import Kind
from mixed_bus import DRIVER, ERROR, MixedBus, Native, pack

from bus1.core.api import MessageType
from bus1.errors import Denied, InvalidArgument, NotSupported, TooLarge

NAME = "org.example.Service"
IFACE = "org.example.Thing"


@pytest.fixture
def bus() -> Iterator[MixedBus]:
    bus = MixedBus()
    yield bus
    bus.end()


class Emitting:
    """A native service with one object, its emitter and its native subscribers."""

    def __init__(self, bus: MixedBus) -> None:
        self.native = bus.native()
        self.emitter = self.native.publish(NAME)
        self.subscribers: list[int] = []

    def emit(self, member: str, *values: str, source: int = 4, fds: tuple[int, ...] = ()) -> list[int]:
        signature = "s" * len(values) + "h" * len(fds)
        payload = pack(Kind.SIGNAL, IFACE, member, signature, *values, *range(len(fds)))
        return self.native.send((self.emitter,), payload, (source,), fds, optional=self.subscribers)


@pytest.fixture
def service(bus: MixedBus) -> Emitting:
    return Emitting(bus)


def subscribed_to_native(bus: MixedBus, service: Emitting) -> Native:
    """A native peer that subscribed at a native object, which remembers its node."""
    native = bus.native()
    node = native.new_node()
    service.subscribers.append(bus.core.handle_transfer(native.peer, node, service.native.peer))
    return native


def signals(native: Native) -> list[tuple[str, tuple[object, ...]]]:
    return [
        (message.envelope.member, message.values) for message in native.receive()
        if message.envelope is not None and message.envelope.kind is Kind.SIGNAL
    ]


def test_a_signal_of_a_native_service_reaches_the_legacy_clients_that_match(
    bus: MixedBus, service: Emitting
) -> None:
    matching, other = bus.legacy(), bus.legacy()
    matching.match(f"type='signal',sender='{NAME}',path='/obj',interface='{IFACE}',member='Tick',arg0='x'")
    other.match("type='signal',path='/elsewhere'")
    assert service.emit("Tick", "x") == [0]
    service.emit("Tick", "y")
    service.emit("Tock", "x")
    (signal,) = matching.receive()
    header = signal.header
    assert (header.sender, header.path, header.destination) == (service.native.unique, "/obj", None)
    assert (header.interface, header.member, signal.values) == (IFACE, "Tick", ("x",))
    assert header.serial != 0
    assert other.receive() == []


def test_the_path_of_a_signal_is_that_of_its_source_and_without_one_no_legacy_client_hears_it(
    bus: MixedBus,
) -> None:
    client, native = bus.legacy(), bus.native()
    client.match(f"interface='{IFACE}'")
    emitter = native.publish(objects={"/a": 4, "/b": 8, "/c": 8})
    for source in (8, 4, 12):
        assert native.send((emitter,), pack(Kind.SIGNAL, IFACE, "Tick"), (source,)) == [0]
    assert [signal.header.path for signal in client.receive()] == ["/b", "/a"]


def test_an_emission_is_one_transaction_for_native_and_legacy_subscribers(
    bus: MixedBus, service: Emitting
) -> None:
    native, client = subscribed_to_native(bus, service), bus.legacy()
    client.match("")
    assert service.emit("Tick", "1") == [0, 0]
    native.kill()
    assert service.emit("Tick", "2") == [0, -113]
    ticks = [signal.values for signal in client.receive() if signal.header.member == "Tick"]
    assert ticks == [("1",), ("2",)]


def test_the_body_of_an_emission_is_checked_first(bus: MixedBus, service: Emitting) -> None:
    native, client = subscribed_to_native(bus, service), bus.legacy()
    client.match("")
    before = bus.core.snapshot()
    bad = pack(Kind.SIGNAL, IFACE, "Tick", "b", body=b"\2\0\0\0")
    for payload, handles in (
        (bad, (4,)), (pack(Kind.SIGNAL, IFACE, "Tick"), ()), (pack(Kind.CALL, IFACE, "Tick"), (4,)),
        (pack(Kind.SIGNAL, "org.freedesktop.DBus.Local", "Disconnected"), (4,)), (b"", (4,)),
    ):
        with pytest.raises(InvalidArgument):
            service.native.send((service.emitter,), payload, handles, optional=service.subscribers)
    assert bus.core.snapshot() == before
    assert signals(native) == [] and client.receive() == []


def test_an_emitter_serves_its_own_peer_alone(bus: MixedBus, service: Emitting) -> None:
    other = bus.native()
    other.publish("org.example.Other")
    stolen = bus.core.handle_transfer(service.native.peer, service.emitter, other.peer)
    with pytest.raises(Denied):
        other.send((stolen,), pack(Kind.SIGNAL, IFACE, "Tick"), (4,))


def test_an_emitter_ends_with_its_last_handle_and_a_new_one_comes_with_the_next_publish(
    bus: MixedBus, service: Emitting
) -> None:
    assert service.native.publish(NAME) == service.emitter
    service.native.release(service.emitter, service.emitter)
    assert not bus.tables.emitters
    service.emitter = service.native.publish(NAME)
    client = bus.legacy()
    client.match("member='Tick'")
    service.emit("Tick")
    assert len(client.receive()) == 1


def test_an_emitter_dies_with_its_publisher_whoever_holds_it(bus: MixedBus, service: Emitting) -> None:
    other = bus.native()
    passed = bus.core.handle_transfer(service.native.peer, service.emitter, other.peer)
    service.native.kill()
    assert not bus.tables.emitters
    assert [(m.type, m.node) for m in other.receive()] == [(MessageType.NODE_DESTROY, passed)]


def test_a_signal_with_descriptors_skips_legacy_clients_that_take_none(
    bus: MixedBus, service: Emitting
) -> None:
    takes, cannot = bus.legacy(), bus.legacy(takes_fds=False)
    for client in (takes, cannot):
        client.match("member='Tick'")
    service.emit("Tick", fds=(40,))
    assert [signal.fds for signal in takes.receive()] == [(40,)]
    assert cannot.receive() == []
    assert bus.closed == [40]
    service.emit("Nobody", fds=(41,))
    assert bus.closed == [40, 41]


def test_a_signal_with_more_descriptors_than_a_client_takes_is_refused_whole(
    bus: MixedBus, service: Emitting
) -> None:
    client = bus.legacy()
    client.match("member='Tick'")
    with pytest.raises(TooLarge):
        service.emit("Tick", fds=tuple(range(40, 57)))
    assert client.receive() == [] and bus.closed == []


def test_a_reader_that_is_stuck_loses_a_broadcast_and_nobody_else_does(
    bus: MixedBus, service: Emitting
) -> None:
    stuck, reading = bus.legacy(), bus.legacy()
    for client in (stuck, reading):
        client.match("member='Tick'")
    native = subscribed_to_native(bus, service)
    text = "x" * (6 << 20)
    for _ in range(5):
        bus.delivery.now += 1.0
        service.emit("Tick", text)
        assert len(reading.receive()) == 1
        assert len(signals(native)) == 1
    assert len(stuck.receive()) == 2
    (record,) = bus.delivery.take_refused()
    assert (record.receiver, record.kind, record.times) == (stuck.unique, "broadcast", 3)


# ---- legacy emitters -----------------------------------------------------------------------------


def test_a_native_subscriber_hears_the_object_it_subscribed_at(bus: MixedBus) -> None:
    emitter, native = bus.legacy(), bus.native()
    handle = native.derive(emitter.unique, "/obj")
    all_of_it = native.subscribe(handle)
    one_member = native.subscribe(handle, IFACE, "Tick")
    by_interface = native.subscribe(handle, IFACE)
    by_member = native.subscribe(handle, "", "Tick")
    emitter.signal("/obj", IFACE, "Tick", "s", "1")
    emitter.signal("/obj", IFACE, "Tock", "s", "2")
    emitter.signal("/obj", "org.example.Else", "Tick", "s", "3")
    emitter.signal("/other", IFACE, "Tick", "s", "4")
    received = [(m.node, m.values[0]) for m in native.receive() if m.type is MessageType.DATA]
    assert sorted(received) == sorted([
        (all_of_it, "1"), (all_of_it, "2"), (all_of_it, "3"), (one_member, "1"),
        (by_interface, "1"), (by_interface, "2"), (by_member, "1"), (by_member, "3"),
    ])


def test_a_node_that_subscribed_twice_hears_a_signal_once_with_its_source_as_handle_0(bus: MixedBus) -> None:
    emitter, native = bus.legacy(), bus.native()
    handle = native.derive(emitter.unique, "/obj")
    node = native.subscribe(handle)
    for _ in range(2):
        answer = native.call(
            handle, "org.bus1.Signals1", "Subscribe", "ss", IFACE, "Tick", handles=(node,)
        )
        assert answer.envelope and answer.envelope.kind is Kind.RETURN
    assert [sum(uses.values()) for uses in emitter.party.held.values()] == [2]
    emitter.signal("/obj", IFACE, "Tick", "h", 0, fds=(40,))
    (signal,) = native.receive()
    assert signal.handles == (handle,)
    assert signal.fds == (40,)
    native.release(handle)


def test_a_subscription_ends_with_the_subscribers_node_and_with_the_emitter(bus: MixedBus) -> None:
    emitter, native = bus.legacy(), bus.native()
    handle = native.derive(emitter.unique, "/obj")
    node, kept = native.subscribe(handle), native.subscribe(handle)
    native.release(handle)
    native.receive()
    native.destroy(node)
    emitter.receive()
    assert emitter.party.derived  # somebody still follows the path
    emitter.signal("/obj", IFACE, "Tick")
    (signal,) = native.receive()
    assert signal.node == kept
    native.release(*signal.handles)
    native.destroy(kept)
    emitter.receive()
    assert not emitter.party.subscriptions and not emitter.party.derived and not emitter.party.held
    last = native.subscribe(native.derive(emitter.unique, "/obj"))
    native.receive()
    emitter.kill()
    assert (MessageType.NODE_RELEASE, last) in [(m.type, m.node) for m in native.receive()]


def test_subscribing_is_refused_in_words(bus: MixedBus) -> None:
    emitter, native = bus.legacy(), bus.native()
    handle = native.derive(emitter.unique, "/obj")
    for member, signature, values, handles, error in (
        ("Subscribe", "s", ("",), (1 << 30,), "InvalidArgs"),
        ("Subscribe", "ss", ("", ""), (), "InvalidArgs"),
        ("Subscribe", "ss", ("no dots", ""), (1 << 30,), "InvalidArgs"),
        ("Subscribe", "ss", ("", "a.b"), (1 << 30,), "InvalidArgs"),
        ("Subscribe", "ss", ("", ""), (handle,), "InvalidArgs"), ("Other", "", (), (), "UnknownMethod"),
    ):
        answer = native.call(handle, "org.bus1.Signals1", member, signature, *values, handles=handles)
        assert answer.envelope and answer.envelope.member == ERROR + error
    assert not emitter.party.subscriptions and not emitter.party.held
    assert emitter.receive() == []


def test_the_number_of_subscribers_is_limited(bus: MixedBus, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SUBSCRIBERS_MAX >= 1024
    monkeypatch.setattr("bus1_bridge.subscriptions.SUBSCRIBERS_MAX", 2)
    emitter, native = bus.legacy(), bus.native()
    handle = native.derive(emitter.unique, "/obj")
    nodes = [native.subscribe(handle) for _ in range(2)]
    answer = native.call(
        handle, "org.bus1.Signals1", "Subscribe", "ss", "", "", handles=(native.new_node(),)
    )
    assert answer.envelope and answer.envelope.member == ERROR + "LimitsExceeded"
    native.destroy(nodes[0])
    emitter.receive()
    native.subscribe(handle)


def test_a_unicast_signal_goes_to_its_destinations_subscribers_or_to_its_root(bus: MixedBus) -> None:
    emitter, listener, bystander = bus.legacy(), bus.native(), bus.native()
    listener.publish(NAME, objects={})
    bystander.subscribe(bystander.derive(emitter.unique, "/obj"))
    emitter.signal("/obj", IFACE, "Tick", "s", "root", destination=NAME)
    (signal,) = listener.receive()
    assert (signal.node, signal.values) == (0, ("root",))
    assert len(signal.handles) == 1
    listener.release(*signal.handles)
    node = listener.subscribe(listener.derive(emitter.unique, "/obj"))
    emitter.signal("/obj", IFACE, "Tick", "s", "node", destination=listener.unique)
    assert [(m.node, m.values) for m in listener.receive() if m.envelope] == [(node, ("node",))]
    assert signals(bystander) == []


def test_a_signal_that_is_not_delivered_leaves_no_derived_node(bus: MixedBus) -> None:
    emitter, listener = bus.legacy(), bus.native()
    listener.publish(NAME)
    bus.core.peer_reset(listener.peer, max_slices=0)
    emitter.signal("/obj", IFACE, "Tick", "h", 0, destination=NAME, fds=(40,))
    assert listener.receive() == [] and bus.closed == [40]
    emitter.receive()
    assert not emitter.party.derived and not emitter.party.nodes


def test_a_native_peer_sends_a_signal_to_one_legacy_client(bus: MixedBus, service: Emitting) -> None:
    client, other = bus.legacy(), bus.legacy()
    other.match("")
    handle = service.native.derive(client.unique, "/any/path")
    payload = pack(Kind.SIGNAL, IFACE, "Tick", "s", "you")
    assert service.native.send((handle,), payload, (4,)) == [0]
    (signal,) = client.receive()
    assert (signal.header.path, signal.header.destination) == ("/obj", client.unique)
    assert other.receive() == []
    with pytest.raises(InvalidArgument):
        service.native.send((handle,), payload, (service.native.new_node(),))
    deaf = bus.legacy(takes_fds=False)
    with pytest.raises(NotSupported):
        service.native.send(
            (service.native.derive(deaf.unique, "/"),), pack(Kind.SIGNAL, IFACE, "T", "h", 0), (4,), (40,)
        )


# ---- one order -----------------------------------------------------------------------------------


def test_both_kinds_of_subscribers_see_the_signals_of_both_kinds_of_emitters_in_one_order(
    bus: MixedBus, service: Emitting
) -> None:
    legacy_emitter, legacy_reader = bus.legacy(), bus.legacy()
    native_reader = subscribed_to_native(bus, service)
    native_reader.subscribe(native_reader.derive(legacy_emitter.unique, "/obj"))
    legacy_reader.match(f"interface='{IFACE}'")
    expected = []
    for number in range(200):
        # an irregular but fixed interleaving
        for turn in range((number * 7) % 3):
            service.emit("Tick", f"native {number} {turn}")
            expected.append(f"native {number} {turn}")
        legacy_emitter.signal("/obj", IFACE, "Tick", "s", f"legacy {number}")
        expected.append(f"legacy {number}")
    assert [values[0] for _, values in signals(native_reader)] == expected
    assert [signal.values[0] for signal in legacy_reader.receive()] == expected


def test_name_changes_stand_in_the_same_order_for_watchers_and_legacy_clients(bus: MixedBus) -> None:
    client, watcher, service = bus.legacy(), bus.native(), bus.native()
    client.match(f"sender='{DRIVER}',member='NameOwnerChanged'")
    watcher.ask("Watch", "s", "", handles=(watcher.new_node(),))
    service.publish(NAME, "org.example.Second")
    legacy = bus.legacy()
    legacy.own("org.example.Legacy")
    service.ask("Withdraw", "as", [NAME])
    service.kill()
    legacy.kill()
    seen = [signal.values for signal in client.receive()]
    assert [values for _, values in signals(watcher)] == seen
    assert len(seen) == 10
