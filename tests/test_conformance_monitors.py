"""Monitors: how one becomes one, what it sees in which order, and what it may not (dbus-bus §4.2, §12)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from buses import Bus, eventually
from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    ERROR,
    FAULT,
    NO_AUTO_START,
    NO_REPLY,
    RETURN,
    SIGNAL,
    CallFailed,
    Client,
    Message,
)

MONITORING = "org.freedesktop.DBus.Monitoring"
PEER = "org.freedesktop.DBus.Peer"


def become_monitor(client: Client, *rules: str) -> None:
    """BecomeMonitor, with its reply taken."""
    client.ask("BecomeMonitor", "asu", list(rules), 0, interface=MONITORING)


def monitor(bus: Bus, *rules: str, **options: Any) -> Client:
    """A monitor that has heard of the loss of its name."""
    client = bus.connect(**options)
    become_monitor(client, *rules)
    assert client.receive().what == ("NameLost", client.name)
    return client


def seen(got: Message) -> tuple[Any, ...]:
    """A message in short: who said what to whom."""
    kind = {CALL: "call", RETURN: "return", ERROR: "error", SIGNAL: "signal"}.get(got.type, got.type)
    return (kind, got.sender, got.destination, got.member or got.error_name)


def until(watcher: Client, last: str) -> list[Message]:
    """What the monitor sees up to the signal ``last``, that one not included."""
    messages = []
    while (got := watcher.receive()).member != last:
        messages.append(got)
    return messages


@pytest.fixture
def speaker(bus: Bus) -> Iterator[Client]:
    """A client that is there before any monitor."""
    yield bus.connect()


# ---- becoming one --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "rules", "flags", "path"),
    [
        ("InvalidArgs", [], 1, BUS_PATH),
        ("InvalidArgs", [], 0x8000_0000, BUS_PATH),
        ("MatchRuleInvalid", ["nonsense"], 0, BUS_PATH),
        ("MatchRuleInvalid", ["type='signal'", "type='none'"], 0, BUS_PATH),
        ("UnknownInterface", [], 0, "/"),
        ("UnknownInterface", [], 0, "/somewhere/else"),
    ],
)
def test_one_that_asks_wrongly_becomes_no_monitor(
    bus: Bus, expected: str, rules: list[str], flags: int, path: str
) -> None:
    client = bus.connect()
    more = {"interface": MONITORING, "path": path}
    assert client.fault("BecomeMonitor", "asu", rules, flags, **more) == expected
    assert client.name in client.ask("ListNames")[0]
    assert client.heard() == []


def test_a_new_monitor_is_answered_then_loses_its_unique_name_and_the_others_as_it_got_them(bus: Bus) -> None:
    other, client = bus.connect(), bus.connect()
    other.match("member='NameOwnerChanged'")
    for name in ("a.first", "a.second", "a.third"):
        client.own(name)
    other.own("a.waited.for")
    client.own("a.waited.for")
    client.drain(), other.drain()
    serial = client.call(BUS, "BecomeMonitor", "asu", [], 0, path=BUS_PATH, interface=MONITORING)
    answer = client.receive()
    assert (answer.type, answer.reply_serial, answer.args) == (RETURN, serial, [])
    lost = [client.name, "a.first", "a.second", "a.third"]
    assert [client.receive().what for _ in lost] == [("NameLost", name) for name in lost]
    assert other.heard() == [("NameOwnerChanged", name, client.name, "") for name in lost]


def test_a_monitor_is_listed_nowhere_and_cannot_be_reached(bus: Bus, speaker: Client) -> None:
    client = monitor(bus)
    assert client.name not in speaker.ask("ListNames")[0]
    assert speaker.ask("NameHasOwner", "s", client.name) == [False]
    for member in ("GetNameOwner", "GetConnectionUnixUser", "GetConnectionCredentials", "ListQueuedOwners"):
        assert speaker.fault(member, "s", client.name) == "NameHasNoOwner"
    with pytest.raises(CallFailed) as failure:
        speaker.request(client.name, "Do")
    assert failure.value.name == "ServiceUnknown"


def test_one_that_waits_for_a_name_of_a_new_monitor_gets_it(bus: Bus) -> None:
    heir, client = bus.connect(), bus.connect()
    client.own("a.name")
    heir.own("a.name")
    become_monitor(client)
    assert heir.heard() == [("NameAcquired", "a.name")]


def test_whoever_awaits_a_reply_of_a_new_monitor_gets_no_reply(bus: Bus, speaker: Client) -> None:
    client = bus.connect()
    first, second = speaker.call(client.name, "First"), speaker.call(client.name, "Second")
    client.sync()
    become_monitor(client)
    answers = {got.reply_serial: got.what for got in speaker.drain()}
    assert answers == {first: (FAULT + "NoReply",), second: (FAULT + "NoReply",)}


def test_a_new_monitor_hears_no_more_by_the_rules_it_had(bus: Bus, speaker: Client) -> None:
    client = bus.connect()
    client.match("type='signal'")
    become_monitor(client, "member='Wanted'")
    speaker.emit("Unwanted")
    speaker.emit("Wanted")
    speaker.emit("Wanted", "u", 2)
    heard = [client.receive().what for _ in range(4)]
    lost = ("NameLost", client.name), ("NameOwnerChanged", client.name, client.name, "")
    assert sorted(heard[:2]) == sorted(lost)
    assert heard[2:] == [("Wanted",), ("Wanted", 2)]


def test_a_rule_that_names_a_new_monitor_goes_with_its_name(bus: Bus) -> None:
    other, client = bus.connect(), bus.connect()
    client.match("member='X'")
    rule = f"sender='{client.name}'"
    other.match(rule)
    become_monitor(client)
    assert other.fault("RemoveMatch", "s", rule) == "MatchRuleNotFound"


# ---- what it sees --------------------------------------------------------------------------------


def test_a_monitor_sees_a_new_client_say_hello_under_the_name_that_it_gets(bus: Bus) -> None:
    watcher = monitor(bus)
    client = bus.connect()
    assert [seen(watcher.receive()) for _ in range(4)] == [
        ("call", client.name, BUS, "Hello"),
        ("return", BUS, client.name, None),
        ("signal", BUS, None, "NameOwnerChanged"),
        ("signal", BUS, client.name, "NameAcquired"),
    ]


def test_a_monitor_sees_a_client_before_its_hello_be_refused(bus: Bus) -> None:
    watcher = monitor(bus)
    client = bus.connect(hello=False)
    client.fault("ListNames")
    call, answer = watcher.receive(), watcher.receive()
    assert (call.member, answer.error_name) == ("ListNames", FAULT + "AccessDenied")


def test_a_monitor_sees_calls_answers_errors_and_signals_once_in_order_and_as_they_are(
    bus: Bus, speaker: Client
) -> None:
    callee = bus.connect()
    callee.match("interface='x.Y'")
    watcher = monitor(bus)
    expected = []
    speaker.call(callee.name, "Do", "sv", "x", ("u", 7))
    expected.append(call := callee.receive())
    callee.answer(call, "as", ["y"])
    expected.append(speaker.receive())
    speaker.call(callee.name, "Again")
    expected.append(call := callee.receive())
    callee.send(ERROR, error="a.b.Failure", to=speaker.name, reply_to=call.serial, signature="s", args=["z"])
    expected.append(speaker.receive())
    speaker.emit("Broadcast", "t", 1 << 63)
    expected.append(callee.receive())
    speaker.emit("Unicast", to=callee.name)
    expected.append(callee.receive())
    speaker.emit("End")
    assert [got.raw for got in until(watcher, "End")] == [got.raw for got in expected]


def test_a_monitor_sees_the_driver_s_calls_signals_and_replies_in_the_order_of_things(
    bus: Bus, speaker: Client
) -> None:
    watcher = monitor(bus)
    speaker.own("a.name")
    speaker.emit("End")
    assert [seen(got) for got in until(watcher, "End")] == [
        ("call", speaker.name, BUS, "RequestName"),
        ("signal", BUS, None, "NameOwnerChanged"),
        ("signal", BUS, speaker.name, "NameAcquired"),
        ("return", BUS, speaker.name, None),
    ]


def test_a_monitor_sees_what_the_bus_says_with_the_numbers_that_the_receiver_sees(
    bus: Bus, speaker: Client
) -> None:
    watcher = monitor(bus, "type='method_return'", "type='error'")
    answers = [speaker.reply(speaker.call(BUS, member, path=BUS_PATH)) for member in ("GetId", "Nonsense")]
    assert [watcher.receive().raw for _ in answers] == [answer.raw for answer in answers]


def test_a_monitor_sees_a_client_leave_and_what_it_cannot_be_told_any_more(bus: Bus) -> None:
    client, watcher = bus.connect(), bus.connect()
    client.own("a.name")
    become_monitor(watcher)
    assert watcher.receive().what == ("NameLost", watcher.name)
    client.close()
    assert [(*seen(got)[1:], got.args[0]) for got in [watcher.receive() for _ in range(4)]] == [
        (BUS, client.name, "NameLost", "a.name"),
        (BUS, None, "NameOwnerChanged", "a.name"),
        (BUS, client.name, "NameLost", client.name),
        (BUS, None, "NameOwnerChanged", client.name),
    ]


def test_a_monitor_sees_refused_messages_each_with_the_error_behind_it(bus: Bus, speaker: Client) -> None:
    other = bus.connect()
    watcher = monitor(bus)
    speaker.call("no.such", "Call")
    speaker.call("no.such", "NoStart", flags=NO_AUTO_START)
    speaker.emit("Signal", to=":1.999999")
    speaker.send(RETURN, to=watcher.name, reply_to=77)
    speaker.call(other.name, "Twice", serial=9000)
    speaker.call(other.name, "Twice", serial=9000)
    speaker.send(9, path="/", interface="a.b", member="Unknown", to=other.name)
    speaker.send(9, path="/", interface="a.b", member="Unknown", to=BUS)
    speaker.emit("End")
    me = speaker.name

    def error(name: str) -> tuple[Any, ...]:
        return ("error", BUS, me, FAULT + name)

    assert [seen(got) for got in until(watcher, "End")] == [
        ("call", me, "no.such", "Call"), error("ServiceUnknown"),
        ("call", me, "no.such", "NoStart"), error("NameHasNoOwner"),
        ("signal", me, ":1.999999", "Signal"), error("ServiceUnknown"),
        ("return", me, watcher.name, None), error("ServiceUnknown"),
        ("call", me, other.name, "Twice"),
        ("call", me, other.name, "Twice"), error("AccessDenied"),
        (9, me, other.name, "Unknown"), error("AccessDenied"),
        (9, me, BUS, "Unknown"), error("AccessDenied"),
    ]


def test_a_monitor_sees_what_the_driver_ignores_and_not_what_is_said_to_nobody(
    bus: Bus, speaker: Client
) -> None:
    watcher = monitor(bus)
    speaker.emit("Ignored", to=BUS)
    speaker.send(RETURN, to=BUS, reply_to=5)
    speaker.call(None, "Ping", interface=PEER)
    speaker.send(RETURN, reply_to=6)
    speaker.emit("End")
    assert [seen(got) for got in until(watcher, "End")] == [
        ("signal", speaker.name, BUS, "Ignored"), ("return", speaker.name, BUS, None)
    ]


def test_a_forged_sender_is_replaced_before_a_monitor_sees_it(bus: Bus, speaker: Client) -> None:
    watcher = monitor(bus)
    speaker.emit("Forged", extra=[(7, "s", "org.freedesktop.DBus")])
    assert watcher.receive().sender == speaker.name


def test_a_monitor_sees_another_become_one(bus: Bus) -> None:
    watcher, client = monitor(bus), bus.connect()
    become_monitor(client)
    members = [watcher.receive().member for _ in range(8)]
    assert members[4:] == ["BecomeMonitor", None, "NameLost", "NameOwnerChanged"]


def test_a_monitor_sees_what_a_client_says_to_others_before_its_hello(bus: Bus, speaker: Client) -> None:
    watcher = monitor(bus, "member='TooEarly'")
    stranger = bus.connect(hello=False)
    stranger.emit("TooEarly", to=speaker.name)
    assert stranger.rest() == b""
    assert seen(watcher.receive())[2:] == (speaker.name, "TooEarly")


def test_no_reply_holds_for_the_answer_to_becoming_a_monitor(bus: Bus) -> None:
    client = bus.connect()
    client.call(BUS, "BecomeMonitor", "asu", [], 0, path=BUS_PATH, interface=MONITORING, flags=NO_REPLY)
    assert client.receive().what == ("NameLost", client.name)


def test_the_log_tells_who_became_a_monitor_and_who_was_cut_off(new_bus: Bus) -> None:
    watcher = monitor(new_bus, "member='Nothing'")
    eventually(lambda: f"Connection {watcher.name} (uid={os.getuid()} pid={os.getpid()}" in new_bus.log(),
               new_bus.log)
    assert "became a monitor" in new_bus.log()


# ---- its rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", ["Call", "ToTheBus", "Broadcast", "Unicast"]),
        ("type='method_call'", ["Call", "ToTheBus"]),
        ("type='signal'", ["Broadcast", "Unicast"]),
        ("eavesdrop='true'", ["Call", "ToTheBus", "Broadcast", "Unicast"]),
        ("eavesdrop='false',type='signal'", ["Broadcast", "Unicast"]),
        ("destination='org.freedesktop.DBus'", ["ToTheBus"]),
        ("destination='{callee}'", ["Call", "Unicast"]),
        ("destination='a.callee'", ["Call", "Unicast"]),
        ("destination='a.speaker'", []),
        ("sender='{speaker}'", ["Call", "ToTheBus", "Broadcast", "Unicast"]),
        ("sender='a.speaker',type='signal'", ["Broadcast", "Unicast"]),
        ("sender='a.callee'", []),
        ("interface='x.Y',member='Broadcast'", ["Broadcast"]),
        ("path_namespace='/org'", ["ToTheBus"]),
        ("path='/x'", ["Call", "Broadcast", "Unicast"]),
        ("arg0='one'", ["Call", "Broadcast"]),
        ("arg1path='/aa/'", ["Broadcast"]),
        ("arg0namespace='on'", []),
        ("path_namespace='/'", ["Call", "ToTheBus", "Broadcast", "Unicast"]),
    ],
)
def test_a_monitor_sees_what_its_rules_match_wherever_it_goes(
    bus: Bus, rule: str, expected: list[str]
) -> None:
    speaker, callee = bus.connect(), bus.connect()
    speaker.own("a.speaker")
    callee.own("a.callee")
    watcher = monitor(bus, rule.format(speaker=speaker.name, callee=callee.name), "member='End'")
    speaker.call("a.callee", "Call", "s", "one")
    speaker.call(BUS, "ToTheBus", path=BUS_PATH)
    speaker.emit("Broadcast", "so", "one", "/aa/bb")
    speaker.emit("Unicast", to=callee.name)
    speaker.emit("End")
    names = {"Call", "ToTheBus", "Broadcast", "Unicast"}
    assert [got.member for got in until(watcher, "End") if got.member in names] == expected


def test_several_rules_of_a_monitor_show_a_message_once(bus: Bus, speaker: Client) -> None:
    watcher = monitor(bus, "type='signal'", "member='Once'", "", "interface='x.Y'")
    speaker.emit("Once")
    speaker.emit("End")
    assert [got.member for got in until(watcher, "End")] == ["Once"]


def test_each_monitor_has_rules_of_its_own(bus: Bus, speaker: Client) -> None:
    one, other = monitor(bus, "member='One'", "member='End'"), monitor(bus, "member='Other'", "member='End'")
    for member in ("One", "Other", "End"):
        speaker.emit(member)
    assert [got.member for got in until(one, "End")] == ["One"]
    assert [got.member for got in until(other, "End")] == ["Other"]


# ---- descriptors ---------------------------------------------------------------------------------


def test_a_monitor_that_takes_descriptors_gets_its_own_and_another_does_not_see_the_message(
    bus: Bus, speaker: Client
) -> None:
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        rule = "type='signal',interface='x.Y'"
        able, unable = monitor(bus, rule), monitor(bus, rule, takes_fds=False)
        with open(writer, "wb"):
            speaker.emit("With", "h", 0, fds=[writer])
        speaker.emit("End")
        (got,) = (got for got in until(able, "End") if got.member == "With")
        assert got.unix_fds == 1
        with open(got.fds.pop(), "wb") as mine:
            mine.write(b"seen")
        assert pipe.read() == b"seen"
        assert [got.member for got in until(unable, "End")] == []


def test_a_monitor_sees_a_call_with_descriptors_that_is_refused(bus: Bus, speaker: Client) -> None:
    callee = bus.connect(takes_fds=False)
    watcher = monitor(bus)
    with open("/dev/null", "rb") as null:
        speaker.call(callee.name, "Refused", "h", 0, fds=[null.fileno()])
    call, error = watcher.receive(), watcher.receive()
    os.close(call.fds.pop())
    assert (call.member, error.error_name) == ("Refused", FAULT + "NotSupported")


def test_a_monitor_sees_that_a_listener_without_descriptors_did_not_get_a_broadcast(
    bus: Bus, speaker: Client
) -> None:
    listener = bus.connect(takes_fds=False)
    listener.match("member='With'")
    watcher = monitor(bus, "member='With'", "type='error'")
    with open("/dev/null", "rb") as null:
        serial = speaker.emit("With", "h", 0, fds=[null.fileno()])
    signal, error = watcher.receive(), watcher.receive()
    os.close(signal.fds.pop())
    assert (signal.serial, error.reply_serial, error.destination) == (serial, serial, speaker.name)
    assert error.error_name == FAULT + "NotSupported"
    assert speaker.heard() == listener.heard() == []


# ---- what it may not -----------------------------------------------------------------------------


@pytest.mark.parametrize("destination", [BUS, "a.name", ":1.0", None])
def test_a_monitor_that_sends_a_message_is_disconnected(bus: Bus, destination: str | None) -> None:
    client = monitor(bus, "member='Nothing'")
    client.emit("Said", to=destination)
    assert client.rest() == b""


def test_a_monitor_that_is_cut_off_or_leaves_is_not_missed(bus: Bus, speaker: Client) -> None:
    speaker.match("type='signal'")
    client = monitor(bus, "member='Nothing'")
    speaker.drain()
    client.close()
    assert speaker.heard() == []
