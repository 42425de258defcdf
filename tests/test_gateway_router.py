"""The gateway behind the router: D-Bus clients as streams of bytes, native peers on the same Core."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bus1_bridge import codec, wire
from bus1_bridge.switch.limits import BYTES_PER_TURN
from bus1_bridge.switch.router import Router
from bus1_bridge.switch.tables import LegacyParty
from bus1_services.call import Kind
from mixed_bus import DRIVER, ERROR, UID, LegacyMessage, MixedBus, Native, pack, read_legacy
from pure_switch import resume

from bus1.core.api import Credentials, MessageType

NAME = "org.example.Service"
IFACE = "org.example.Thing"
PATH = "/org/bus1/cap/" + "a" * 32
LARGE = (9 << 20).to_bytes(4, "little") + bytes(9 << 20)


class Wire:
    """A D-Bus client that speaks bytes."""

    def __init__(self, bus: MixedBus, router: Router) -> None:
        self.bus = bus
        self.router = router
        self.connection = router.connect(Credentials(UID, UID, 200), bus.delivery.now)
        self.serial = 0
        self.input = b""
        router.receive(self.connection, b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n", (), bus.delivery.now)
        assert b"OK " in self.take(1 << 20)
        self.write(self.message(wire.CALL, destination=DRIVER, path="/", interface=DRIVER, member="Hello"))
        self.unique: str = self.read()[0].values[0]

    def message(
        self, type: int, signature: str = "", *values: object, body: bytes | None = None, **fields: object
    ) -> bytes:
        self.serial += 1
        body = wire.marshal(signature, *values) if body is None else body
        header = codec.build(
            type, serial=self.serial, body_length=len(body), signature=signature, **fields  # type: ignore[arg-type]
        )
        return header + body

    def write(self, data: bytes) -> None:
        self.router.receive(self.connection, data, (), self.bus.delivery.now)
        self.bus.settle()

    def call(
        self, destination: str, path: str, member: str, signature: str = "", *values: object,
        body: bytes | None = None,
    ) -> int:
        """A call that the client does not wait for; returns its serial."""
        self.write(self.message(
            wire.CALL, signature, *values, body=body, destination=destination, path=path, interface=IFACE,
            member=member,
        ))
        return self.serial

    def take(self, limit: int) -> bytes:
        """Read up to ``limit`` bytes from the socket."""
        taken = b""
        for buffers, _ in self.router.outgoing(self.connection, limit):
            taken += b"".join(buffers)
        taken = taken[:limit]
        self.router.sent(self.connection, len(taken), self.bus.delivery.now)
        self.bus.settle()
        return taken

    def read(self) -> list[LegacyMessage]:
        """Everything that comes, in odd pieces."""
        while piece := self.take(37):
            self.input += piece
        found = []
        while (length := codec.frame_length(self.input)) is not None and length <= len(self.input):
            found.append(read_legacy(self.input[:length]))
            self.input = self.input[length:]
        return found


@pytest.fixture
def bus() -> Iterator[MixedBus]:
    bus = MixedBus()
    yield bus
    bus.end()


@pytest.fixture
def router(bus: MixedBus) -> Router:
    return Router(bus.delivery, bus.gateway)


@pytest.fixture
def client(bus: MixedBus, router: Router) -> Wire:
    return Wire(bus, router)


@pytest.fixture
def service(bus: MixedBus, client: Wire) -> Native:
    native = bus.native()
    native.publish(NAME)
    client.read()
    return native


def test_a_call_its_answer_and_a_no_reply_cross_the_router_byte_by_byte(
    service: Native, client: Wire
) -> None:
    answered = client.call(NAME, "/obj", "Frob", "s", "in")
    dropped = client.call(NAME, "/obj", "Frob", "s", "in")
    first, second = service.receive()
    service.release(second.handles[0])
    service.answer(first, "s", "out")
    no_reply, answer = client.read()
    assert (no_reply.header.error_name, no_reply.header.reply_serial) == (ERROR + "NoReply", dropped)
    assert (answer.values, answer.header.reply_serial) == (("out",), answered)
    assert answer.header.sender == service.unique


def test_a_capability_is_granted_by_the_last_byte_of_its_message(
    bus: MixedBus, service: Native, client: Wire
) -> None:
    party = bus.tables.unique[client.unique]
    assert isinstance(party, LegacyParty)
    client.call(NAME, "/obj", "Open")
    (call,) = service.receive()
    service.answer(call, "o", PATH, handles=(64,), caps=((0, 0),))
    size = sum(len(b) for buffers, _ in client.router.outgoing(client.connection, 1 << 20) for b in buffers)
    client.input += client.take(size - 1)
    assert party.grants == {}
    client.input += client.take(1)
    assert list(party.grants) == [PATH]
    assert client.read()[0].values == (PATH,)
    client.call(NAME, PATH, "Frob")
    assert [m.node for m in service.receive() if m.type is MessageType.DATA] == [64]


def test_names_that_were_never_announced_do_not_exist_for_legacy_clients(
    bus: MixedBus, client: Wire
) -> None:
    quiet = bus.native()
    client.call(quiet.unique, "/", "Frob")
    (answer,) = client.read()
    assert answer.header.error_name == ERROR + "ServiceUnknown"


def test_the_driver_knows_native_owners(service: Native, client: Wire) -> None:
    client.write(client.message(
        wire.CALL, "s", NAME, destination=DRIVER, path="/org/freedesktop/DBus", interface=DRIVER,
        member="GetNameOwner",
    ))
    client.write(client.message(
        wire.CALL, destination=DRIVER, path="/org/freedesktop/DBus", interface=DRIVER, member="ListNames"
    ))
    owner, names = client.read()
    assert owner.values == (service.unique,)
    assert sorted(names.values[0]) == sorted([DRIVER, NAME, service.unique, client.unique])


def test_broadcasts_of_a_router_client_reach_native_subscribers(
    bus: MixedBus, service: Native, client: Wire
) -> None:
    node = service.subscribe(service.derive(client.unique, "/obj"), IFACE)
    client.write(client.message(wire.SIGNAL, "s", "x", path="/obj", interface=IFACE, member="Tick"))
    assert [(m.node, m.values) for m in service.receive() if m.envelope] == [(node, ("x",))]


def test_a_caller_waits_for_a_native_peer_that_does_not_read_and_is_then_refused(
    bus: MixedBus, router: Router, service: Native, client: Wire
) -> None:
    """docs/design.md §7: paused for 100 ms at most, then LimitsExceeded; what was sent before is kept."""
    for _ in range(2):
        client.call(NAME, "/obj", "Frob", "ay", body=LARGE)
    assert not router.wants_input(client.connection)
    assert bus.core.queued(client.bus.tables.unique[client.unique].peer, service.peer).messages == 1
    bus.delivery.now += 0.3
    resume(router, bus.delivery.now)
    bus.settle()
    assert router.wants_input(client.connection)
    assert [m.header.error_name for m in client.read()] == [ERROR + "LimitsExceeded"]
    assert len(service.receive()) == 1


def test_a_caller_that_waited_goes_on_when_the_native_peer_reads(
    bus: MixedBus, router: Router, service: Native, client: Wire
) -> None:
    for _ in range(2):
        client.call(NAME, "/obj", "Frob", "ay", body=LARGE)
    assert len(service.receive()) == 1
    bus.delivery.now += 0.01
    resume(router, bus.delivery.now)
    bus.settle()
    assert len(service.receive()) == 1
    assert client.read() == []


def test_a_dead_connection_releases_what_native_peers_wait_for(
    bus: MixedBus, router: Router, service: Native, client: Wire
) -> None:
    reply = service.start_call(service.derive(client.unique, "/p"), IFACE, "Frob")
    assert [m.header.type for m in client.read()] == [wire.CALL]
    router.disconnect(client.connection, bus.delivery.now)
    bus.settle()
    assert (MessageType.NODE_RELEASE, reply) in [(m.type, m.node) for m in service.receive()]


def test_a_client_that_has_left_is_closed_when_its_last_news_has_no_message(
    bus: MixedBus, router: Router, client: Wire
) -> None:
    native = bus.native()
    handle = native.derive(client.unique, "/thing")
    client.read()
    native.release(handle)
    assert router.has_output(client.connection), "the release of the node that stood for its object"
    router.end_of_input(client.connection, bus.delivery.now)
    assert client.unique in bus.tables.unique
    assert client.read() == []
    assert client.unique not in bus.tables.unique


def test_an_emission_is_seen_by_router_clients_that_match(service: Native, client: Wire) -> None:
    client.write(client.message(
        wire.CALL, "s", f"type='signal',sender='{NAME}'", destination=DRIVER, path="/org/freedesktop/DBus",
        interface=DRIVER, member="AddMatch",
    ))
    emitter = service.publish(NAME)
    service.send((emitter,), pack(Kind.SIGNAL, IFACE, "Tick", "s", "x"), (4,))
    _, signal = client.read()
    assert (signal.header.path, signal.header.sender, signal.values) == ("/obj", service.unique, ("x",))


def hold(service: Native, client: Wire) -> None:
    """The service hands an object to the client."""
    client.call(NAME, "/obj", "Open")
    (call,) = service.receive()
    service.answer(call, "o", PATH, handles=(64,), caps=((0, 0),))
    client.read()


@pytest.fixture
def budgets(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What each step of a check of a body may cost."""
    found: list[int] = []

    class Recorded:
        def __init__(self, *of: Any) -> None:
            self._check = codec.BodyCheck(*of)

        def step(self, budget: int) -> bool:
            found.append(budget)
            return self._check.step(budget)

    monkeypatch.setattr("bus1_bridge.switch.connection.BodyCheck", Recorded)
    return found


def test_capabilities_in_a_large_body_are_found_turn_by_turn(
    bus: MixedBus, router: Router, service: Native, client: Wire, budgets: list[int]
) -> None:
    hold(service, client)
    paths = ["/plain"] * 60_000 + [PATH]
    body = wire.marshal("ao", paths)
    budgets.clear()
    client.call(NAME, "/obj", "Take", "ao", body=body)
    while not (received := service.receive()):
        resume(router, bus.delivery.now)
        bus.settle()
    assert received[0].envelope and received[0].envelope.caps == ((60_000, 1),)
    assert bus.core.node_of(service.peer, received[0].handles[1]) == (service.peer, 64)
    assert max(budgets) <= BYTES_PER_TURN
    assert len(budgets) > len(body) // BYTES_PER_TURN


def test_an_answer_between_two_clients_by_way_of_a_native_peer_is_checked_once(
    bus: MixedBus, router: Router, service: Native, client: Wire, budgets: list[int]
) -> None:
    callee = Wire(bus, router)
    client.read()
    hold(service, callee)
    client.read()
    client.call(NAME, "/obj", "Ask")
    (question,) = service.receive()
    # the native peer lets the callee answer in its place: handle 0 is the first caller's reply node
    payload = pack(Kind.CALL, IFACE, "Ask")
    service.send((service.derive(callee.unique, "/p"),), payload, (question.handles[0],))
    service.release(question.handles[0])
    asked = callee.read()[-1]
    budgets.clear()
    callee.write(callee.message(
        wire.RETURN, "asvo", ["x"] * 50_000, wire.Variant("o", "/x"), PATH, destination=service.unique,
        reply_serial=asked.header.serial,
    ))
    given: list[LegacyMessage] = []
    while not given:
        resume(router, bus.delivery.now)
        bus.settle()
        taken = router.outgoing(client.connection, 1 << 24)
        given = [read_legacy(b"".join(buffers)) for buffers, _ in taken]
        router.sent(client.connection, sum(len(b) for buffers, _ in taken for b in buffers), 0.0)
    assert given[-1].values[2] == PATH
    assert max(budgets) <= BYTES_PER_TURN
    granted = bus.tables.unique[client.unique]
    assert isinstance(granted, LegacyParty)
    assert list(granted.grants) == [PATH]
