"""Monitors where only ours has them, and what they cost: native peers, slow monitors, held messages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bus1_bridge.match import parse
from bus1_bridge.switch import departure
from bus1_bridge.switch.effects import Refusal
from bus1_bridge.switch.flow import PAIR_MARK
from bus1_bridge.switch.limits import BusLimits
from bus1_services.call import Kind
from hypothesis import given
from hypothesis import strategies as st
from mixed_bus import DRIVER, ERROR, Legacy, LegacyMessage, MixedBus, Native, pack
from pure_switch import DRIVER_PATH, NO_REPLY_EXPECTED, RETURN, Client, Got, PureSwitch

from bus1.core.api import MessageType
from bus1.record import replace

MONITORING = "org.freedesktop.DBus.Monitoring"
NAME = "org.example.Service"
IFACE = "org.example.Thing"
PATH = "/org/bus1/cap/" + "0" * 32
LARGE = "x" * 200_000
"""Checked within one turn."""


def become_monitor(client: Client, *rules: str) -> None:
    client.call("BecomeMonitor", "asu", list(rules), 0, interface=MONITORING)
    assert client.take().member == "NameLost"


# ---- what a slow one costs -----------------------------------------------------------------------


@pytest.fixture
def switch() -> Iterator[PureSwitch]:
    switch = PureSwitch()
    yield switch
    switch.end()


def test_a_monitor_that_does_not_read_loses_copies_which_are_counted(switch: PureSwitch) -> None:
    speaker, listener, watcher = switch.client(), switch.client(), switch.client()
    listener.call("AddMatch", "s", "member='Big'")
    become_monitor(watcher, "member='Big'")
    count = 0
    while not switch.refused():
        speaker.emit("Big", "s", LARGE)
        switch.pass_time(1.0)
        count += 1
        assert count <= PAIR_MARK // 100_000
        assert listener.take().member == "Big"
    assert switch.refused() == {(speaker.name, watcher.name, "copy"): 1}
    assert len(watcher.take_all()) == count - 1


def test_a_slow_monitor_puts_no_sender_last_and_pauses_none(switch: PureSwitch) -> None:
    speaker, callee, watcher = switch.client(), switch.client(), switch.client()
    become_monitor(watcher)
    while not switch.refused():
        switch.pass_time(1.0)
        speaker.emit("Big", "s", LARGE)
        switch.turn()
    assert not switch.delivery.flow.comes_last(speaker.connection, switch.now)
    serial = speaker.ask(callee.name, "Do", "s", LARGE)
    callee.answer(callee.take())
    assert speaker.take().reply_serial == serial
    assert not switch.delivery.flow.pauses


def test_the_bus_s_own_words_fill_a_slow_monitor_no_further_than_others_do(switch: PureSwitch) -> None:
    speaker, watcher = switch.client(), switch.client()
    become_monitor(watcher)
    for _ in range(2000):
        speaker.emit("Small")
    waiting = switch.core.waiting(watcher.connection).bytes
    switch.pass_time(1.0)
    name = "a." + "b" * 253
    while (DRIVER, watcher.name, "copy") not in switch.refused():
        for _ in range(500):
            speaker.fault("GetNameOwner", "s", name)
        switch.pass_time(1.0)
        assert switch.core.waiting(watcher.connection).bytes <= waiting + 2 * PAIR_MARK


def test_a_copy_that_core_cannot_take_is_lost_and_nothing_else(switch: PureSwitch) -> None:
    speaker, listener, watcher = switch.client(), switch.client(), switch.client()
    listener.call("AddMatch", "s", "member='Heard'")
    become_monitor(watcher)
    switch.core.peer_reset(watcher.connection, max_slices=0)
    speaker.emit("Heard")
    assert listener.take().member == "Heard"
    assert switch.refused() == {(speaker.name, watcher.name, "copy"): 1}
    switch.core.peer_reset(watcher.connection, max_slices=1000)


def test_monitors_count_as_connections() -> None:
    switch = PureSwitch(BusLimits(max_completed_connections=2, max_connections_per_user=2))
    watcher = switch.client()
    become_monitor(watcher)
    switch.client()
    refused = switch.client(hello=False)
    assert refused.fault("Hello") == "LimitsExceeded"
    switch.end()


def test_a_monitor_has_at_most_as_many_rules_as_a_client() -> None:
    switch = PureSwitch(BusLimits(max_match_rules_per_connection=2))
    client = switch.client()
    rules = ["member='A'", "member='B'", "member='C'"]
    assert client.fault("BecomeMonitor", "asu", rules, 0, interface=MONITORING) == "LimitsExceeded"
    become_monitor(client, *rules[:2])
    switch.end()


def test_only_root_and_the_user_of_the_bus_may_monitor(switch: PureSwitch) -> None:
    client = switch.client()
    party = switch.tables.parties[client.connection]
    party.credentials = replace(party.credentials, uid=1234)
    got = client.call("BecomeMonitor", "asu", [], 0, interface=MONITORING)
    assert got.error == ERROR + "AccessDenied"
    assert got.args == (
        f"{client.name} may not call {MONITORING}.BecomeMonitor: "
        'that is for root and the user of the bus; it is uid=1234 pid=77 comm=""',
    )
    switch.settle()
    (record,) = [effect for effect in switch.effects if isinstance(effect, Refusal)]
    assert (record.kind, record.sender, record.text) == ("denied", client.name, got.args[0])
    party.credentials = replace(party.credentials, uid=0)
    become_monitor(client)


def test_a_monitor_s_last_word_closes_it_with_a_reason(switch: PureSwitch) -> None:
    watcher = switch.client()
    become_monitor(watcher)
    watcher.emit("Said")
    assert switch.close_reason(watcher.connection) == "a monitor may not send messages"


def test_a_monitor_sees_a_message_that_has_to_wait_once_when_it_goes_on(switch: PureSwitch) -> None:
    speaker, callee, watcher = switch.client(), switch.client(), switch.client()
    become_monitor(watcher, "member='Big'")
    while not switch.delivery.flow.pauses:
        speaker.ask(callee.name, "Big", "s", LARGE, flags=NO_REPLY_EXPECTED)
        switch.turn()
    seen = watcher.take_all()
    assert seen[-1].serial == speaker.serial - 1
    callee.read()
    switch.turns()
    assert [got.serial for got in watcher.take_all()] == [speaker.serial]


def test_a_message_that_waits_for_its_destination_to_start_is_shown_when_it_comes(switch: PureSwitch) -> None:
    switch.services["a.name"] = "/bin/true"
    speaker, service, watcher = switch.client(), switch.client(), switch.client()
    become_monitor(watcher, "interface='a.b.C'")
    speaker.ask("a.name", "Plain")
    switch.turns()
    speaker.ask("a.name", "With", "h", 0, fds=(50,))
    switch.turns()
    assert [got.member for got in watcher.take_all()] == ["Plain"]
    service.call("RequestName", "su", "a.name", 0)
    assert [got.member for got in service.take_all()] == ["NameAcquired", "Plain", "With"]
    assert [(got.member, got.fds) for got in watcher.take_all()] == [("With", (50,))]


def test_a_call_that_starts_a_service_is_shown_once_however_often_it_is_tried(switch: PureSwitch) -> None:
    switch.services["a.name"] = "/bin/true"
    speaker, watcher = switch.client(), switch.client()
    become_monitor(watcher, "member='StartServiceByName'")
    to_driver: dict[str, Any] = {"path": DRIVER_PATH, "interface": DRIVER, "destination": DRIVER}
    speaker.send(1, "su", "a.name", 0, member="StartServiceByName", **to_driver)
    switch.turns()
    assert len(watcher.take_all()) == 1


# ---- everything ----------------------------------------------------------------------------------


def identity(got: Got) -> tuple[object, ...]:
    """A message as all see it; what the bus broadcasts is numbered for each client."""
    serial = 0 if (got.sender, got.destination) == (DRIVER, None) else got.serial
    return (got.type, got.sender, got.destination, got.member, got.error, got.reply_serial, serial, got.body)


class Crowd:
    """Clients that do anything; what each has got, in order."""

    def __init__(self, switch: PureSwitch) -> None:
        self.switch = switch
        self.clients = [switch.client() for _ in range(3)]
        self.got: dict[Client, list[tuple[object, ...]]] = {client: [] for client in self.clients}
        self.calls: list[tuple[Client, Got]] = []

    def read(self) -> None:
        for client in self.clients:
            for message in client.take_all():
                self.got[client].append(identity(message))
                if message.type == 1:
                    self.calls.append((client, message))

    def act(self, step: str, who: int, whom: int) -> None:
        client, other = self.clients[who], self.clients[whom]
        to_driver: dict[str, Any] = {"path": DRIVER_PATH, "interface": DRIVER, "destination": DRIVER}
        match step:
            case "call":
                client.ask(other.name, "Do", "s", step)
            case "nobody":
                client.ask(f"no.such{whom}")
            case "signal":
                client.emit("Changed", destination=other.name if whom else None)
            case "answer" if self.calls:
                callee, call = self.calls.pop()
                callee.answer(call)
            case "own" | "release":
                args = ("su", f"a.n{whom}", 0) if step == "own" else ("s", f"a.n{whom}")
                client.send(1, *args, member="RequestName" if step == "own" else "ReleaseName", **to_driver)
            case "match":
                client.send(1, "s", "type='signal'" if whom else "", member="AddMatch", **to_driver)
            case "renew":
                client.leave()
                self.clients[who] = new = self.switch.client(hello=False)
                self.got[new] = []
                new.name = new.call("Hello").args[0]
        self.read()


STEPS = ["call", "nobody", "signal", "answer", "own", "release", "match", "renew"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 2), st.integers(0, 2)), max_size=40))
def test_what_anybody_gets_a_monitor_sees_in_the_same_order(steps: list[tuple[str, int, int]]) -> None:
    switch = PureSwitch()
    crowd, watcher = Crowd(switch), switch.client()
    become_monitor(watcher)
    crowd.read()
    for got in crowd.got.values():
        got.clear()
    for step in steps:
        crowd.act(*step)
    seen = [identity(got) for got in watcher.take_all()]
    names = {got[1] for got in seen}
    for got in crowd.got.values():
        rest = iter(seen)
        assert all(message in rest for message in got)
    said = [got for got in seen if got[1] != DRIVER]
    assert len(said) == len(set(said))
    assert None not in names
    switch.end()


# ---- native peers --------------------------------------------------------------------------------


def facts(message: LegacyMessage) -> tuple[object, ...]:
    """All that a message says."""
    header = message.header
    return (
        header.type, header.flags, header.serial, header.reply_serial, header.sender, header.destination,
        header.path, header.interface, header.member, header.error_name, header.signature, message.body,
    )


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


@pytest.fixture
def watcher(bus: MixedBus, service: Native, client: Legacy) -> Legacy:
    legacy = bus.legacy()
    departure.become_monitor(bus.delivery, legacy.party, [parse("")])
    legacy.receive()
    return legacy


def test_a_monitor_sees_a_call_to_a_native_service_and_its_answer_as_d_bus_has_them(
    service: Native, client: Legacy, watcher: Legacy
) -> None:
    serial = client.call(NAME, "/obj", IFACE, "Frob", "s", "x")
    (call,) = service.receive()
    service.answer(call, "u", 7)
    (answer,) = client.receive()
    seen_call, seen_answer = watcher.receive()
    header = seen_call.header
    assert (header.type, header.sender, header.destination) == (1, client.unique, NAME)
    assert (header.path, header.interface, header.member) == ("/obj", IFACE, "Frob")
    assert (header.serial, seen_call.values) == (serial, ("x",))
    assert facts(seen_answer) == facts(answer)


def test_a_monitor_sees_a_native_peer_s_call_and_the_answer_to_it(
    service: Native, client: Legacy, watcher: Legacy
) -> None:
    node = service.derive(client.unique, "/theirs")
    service.start_call(node, IFACE, "Ask", "s", "what")
    (call,) = client.receive()
    client.answer(call, "s", "that")
    service.receive()
    seen_call, seen_answer = watcher.receive()
    assert facts(seen_call) == facts(call)
    assert (seen_answer.header.sender, seen_answer.header.destination) == (client.unique, service.unique)
    assert (seen_answer.header.reply_serial, seen_answer.values) == (call.header.serial, ("that",))


def test_a_monitor_sees_a_native_signal_once_and_without_anybody_listening(
    bus: MixedBus, service: Native, watcher: Legacy
) -> None:
    emitter = service.publish(NAME)
    watcher.receive()
    service.send((emitter,), pack(Kind.SIGNAL, IFACE, "Rang", "s", "x"), (4,))
    (signal,) = watcher.receive()
    header = signal.header
    assert (header.type, header.sender, header.path, header.member) == (4, service.unique, "/obj", "Rang")
    assert signal.values == ("x",)


def test_a_monitor_sees_what_the_bus_answers_for_a_native_service(
    service: Native, client: Legacy, watcher: Legacy
) -> None:
    for path, interface, member in (
        ("/", "org.freedesktop.DBus.Introspectable", "Introspect"),
        ("/nothing", "org.freedesktop.DBus.Peer", "Ping"),
        ("/nothing", IFACE, "Frob"),
        (PATH, IFACE, "Frob"),
    ):
        client.call(NAME, path, interface, member)
        (answer,) = client.receive()
        call, seen_answer = watcher.receive()
        assert (call.header.path, call.header.member) == (path, member)
        assert facts(seen_answer) == facts(answer)


def test_a_monitor_sees_the_no_reply_of_a_native_service(
    service: Native, client: Legacy, watcher: Legacy
) -> None:
    client.call(NAME, "/obj", IFACE, "Frob")
    (call,) = service.receive()
    service.release(call.handles[0])
    (answer,) = client.receive()
    assert answer.header.error_name == ERROR + "NoReply"
    assert [facts(message) for message in watcher.receive()[1:]] == [facts(answer)]


def test_a_monitor_sees_an_answer_that_no_native_caller_awaits_any_more(
    service: Native, client: Legacy, watcher: Legacy
) -> None:
    client.send(RETURN, destination=service.unique, reply_serial=12345)
    assert [message.header.reply_serial for message in watcher.receive()] == [12345]


def test_talk_among_native_peers_is_not_shown(bus: MixedBus, service: Native, watcher: Legacy) -> None:
    other = bus.native()
    node = other.derive(NAME, "/obj")
    other.start_call(node, IFACE, "Secret")
    (call,) = service.receive()
    service.answer(call)
    other.receive()
    assert [message.header.member for message in watcher.receive() if message.header.sender != DRIVER] == []


def test_descriptors_of_a_call_to_a_native_service_reach_it_and_the_monitor(
    service: Native, client: Legacy, watcher: Legacy
) -> None:
    client.call(NAME, "/obj", IFACE, "Take", "h", 0, fds=(7,))
    assert [call.fds for call in service.receive()] == [(7,)]
    assert [call.fds for call in watcher.receive()] == [(7,)]


def test_a_new_monitor_gives_up_what_it_shared_with_native_peers(
    bus: MixedBus, service: Native, client: Legacy
) -> None:
    client.call(NAME, "/obj", IFACE, "Open")
    (call,) = service.receive()
    service.answer(call, "o", PATH, handles=(8,), caps=((0, 0),))
    client.call(NAME, "/obj", IFACE, "Pending")
    (pending,) = service.receive()
    node = service.derive(client.unique, "/theirs")
    service.subscribe(node)
    asked, unread = service.start_call(node, IFACE, "Asked"), service.start_call(node, IFACE, "Unread")
    assert client.receive()
    unread = service.start_call(node, IFACE, "Unread")
    party = client.party
    assert party.grants and party.native_calls and party.derived and party.open_replies
    departure.become_monitor(bus.delivery, party, [parse("member='Nothing'")])
    bus.settle()
    assert not (party.grants or party.derived or party.open_replies or party.nodes or party.held)
    ended = {message.node for message in service.receive() if message.type is not MessageType.DATA}
    assert asked in ended and unread not in ended
    client.receive()
    assert unread in {message.node for message in service.receive()}
    assert not (party.native_calls or party.held or party.granted)
    assert pending.handles


def test_native_peers_no_longer_find_a_monitor(bus: MixedBus, service: Native, client: Legacy) -> None:
    watching = bus.native()
    unique = client.unique
    assert unique in watching.ask("List").values[0]
    departure.become_monitor(bus.delivery, client.party, [parse("")])
    bus.settle()
    assert unique not in watching.ask("List").values[0]
    answer = watching.ask("Resolve", "s", unique)
    assert answer.envelope is not None and answer.envelope.member == ERROR + "NameHasNoOwner"


def test_the_driver_is_still_reached_at_its_path_alone(switch: PureSwitch) -> None:
    client = switch.client()
    for path in ("/", "/x", DRIVER_PATH + "/x"):
        got = client.fault("BecomeMonitor", "asu", [], 0, interface=MONITORING, path=path)
        assert got == "UnknownInterface"
