"""Match rules: grammar, every key, delivery and counting (dbus-bus §5)."""

from __future__ import annotations

from typing import Any

import pytest
from buses import Bus
from dbus_client import BUS, BUS_PATH, CALL, SIGNAL, Client

PLAIN: dict[str, Any] = {"path": "/a/b", "interface": "i.F", "member": "M"}


def hears(bus: Bus, rule: str, signature: str = "", *args: Any, **more: Any) -> bool:
    """A receiver with this one rule gets the signal, once."""
    receiver, sender = bus.connect(), bus.connect()
    sender.own("t.Sender")
    sender.drain()
    receiver.match(rule.replace("UNIQUE", sender.name).replace("SELF", receiver.name))
    receiver.drain()
    sender.send(SIGNAL, signature=signature, args=args, **{**PLAIN, **more})
    sender.sync()
    heard = [got for got in receiver.drain() if got.sender == sender.name]
    assert len(heard) <= 1
    return bool(heard)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("", True),
        ("   ", True),
        ("type='signal'", True),
        ("type=signal", True),
        ("type='signal',", True),
        ("  type='signal',\t member='M'", True),
        ("type='si'gnal", True),
        ("type='method_call'", False),
        ("type='method_return'", False),
        ("type='error'", False),
        ("sender='UNIQUE'", True),
        ("sender='t.Sender'", True),
        ("sender='t.Other'", False),
        (f"sender='{BUS}'", False),
        ("sender=':1.999'", False),
        ("interface='i.F'", True),
        ("interface='i.Fx'", False),
        ("interface='i.f'", False),
        ("member='M'", True),
        ("member='N'", False),
        ("path='/a/b'", True),
        ("path='/a'", False),
        ("path='/a/b/c'", False),
        ("path_namespace='/a/b'", True),
        ("path_namespace='/a'", True),
        ("path_namespace='/'", True),
        ("path_namespace='/a/bc'", False),
        ("path_namespace='/a/b/c'", False),
        ("destination='SELF'", False),
        ("destination='t.Sender'", False),
        ("eavesdrop='false'", True),
        ("type='signal',sender='UNIQUE',path='/a/b',interface='i.F',member='M'", True),
        ("type='signal',sender='UNIQUE',path='/a/b',interface='i.F',member='N'", False),
        ("arg0='x'", False),
        ("arg0path='/'", False),
        ("arg0namespace='x'", False),
    ],
)
def test_a_broadcast_is_heard_by_those_whose_rule_fits(bus: Bus, rule: str, expected: bool) -> None:
    assert hears(bus, rule) is expected


def test_a_signal_at_the_root_path_lies_in_the_root_namespace(bus: Bus) -> None:
    assert hears(bus, "path_namespace='/'", path="/")
    assert not hears(bus, "path_namespace='/a'", path="/")
    assert not hears(bus, "path_namespace='/a'", path="/ab")


@pytest.mark.parametrize(
    ("rule", "signature", "args", "expected"),
    [
        ("arg0='x'", "s", ("x",), True),
        ("arg0='x'", "s", ("xy",), False),
        ("arg0=''", "s", ("",), True),
        ("arg0='/x'", "o", ("/x",), False),
        ("arg0='s'", "g", ("s",), False),
        ("arg0='x'", "v", (("s", "x"),), False),
        ("arg0='x'", "as", (["x"],), False),
        ("arg1='y'", "is", (1, "y"), True),
        ("arg1='y'", "ss", ("y", "x"), False),
        ("arg1='y'", "a{sv}s", ({"k": ("s", "v")}, "y"), True),
        ("arg0='x',arg2='z'", "sss", ("x", "y", "z"), True),
        ("arg0='x',arg2='z'", "sss", ("x", "y", "y"), False),
        ("arg63='last'", "s" * 64, (*["x"] * 63, "last"), True),
        ("arg0='it'\\''s'", "s", ("it's",), True),
        ("arg0='a,b'", "s", ("a,b",), True),
        ("arg0='a\\b'", "s", ("a\\b",), True),
        ("arg0=plain", "s", ("plain",), True),
        ("arg0=pl\\'ain", "s", ("pl'ain",), True),
        ("arg0='ä€𝄞'", "s", ("ä€𝄞",), True),
        ("arg0path='/a/b'", "s", ("/a/b",), True),
        ("arg0path='/a/b'", "o", ("/a/b",), True),
        ("arg0path='/a/'", "s", ("/a/b",), True),
        ("arg0path='/a/'", "o", ("/a/b",), True),
        ("arg0path='/a/b'", "s", ("/a/",), True),
        ("arg0path='/a/b/c'", "o", ("/",), True),
        ("arg0path='/a'", "s", ("/a/b",), False),
        ("arg0path='/a/b'", "s", ("/a",), False),
        ("arg0path='/a/b'", "s", ("/a/bc",), False),
        ("arg1path='/a/'", "is", (1, "/a/x"), True),
        ("arg0path='/a/'", "i", (1,), False),
        ("arg0namespace='com.example'", "s", ("com.example",), True),
        ("arg0namespace='com.example'", "s", ("com.example.More",), True),
        ("arg0namespace='com'", "s", ("com.example",), True),
        ("arg0namespace='com.example'", "s", ("com.examples",), False),
        ("arg0namespace='com.example'", "s", ("com",), False),
        ("arg0namespace='com'", "o", ("/com",), False),
    ],
)
def test_a_rule_on_arguments_compares_them_exactly(
    bus: Bus, rule: str, signature: str, args: tuple[Any, ...], expected: bool
) -> None:
    assert hears(bus, rule, signature, *args) is expected


def test_arguments_are_compared_in_big_endian_too(bus: Bus) -> None:
    assert hears(bus, "arg1='y'", "xs", 1, "y", endian="B")
    assert not hears(bus, "arg1='x'", "xs", 1, "y", endian="B")


@pytest.mark.parametrize(
    "rule",
    [
        "type", "type=", "type=''", "type='sig'", "type='signal',type='signal'", "nokey='x'",
        "type='signal", "member='M", "type='signal' , member='M'", "member=''", "interface=''",
        "sender=''", "sender='not a name'", "interface='nodot'", "interface='a.b-c'", "member='a.b'",
        "member='1a'", "path=''", "path='a'", "path='/a/'", "path='/a',path_namespace='/a'",
        "path_namespace='a'", "path_namespace='/a/'", "path='/a',path='/a'", "member='a',member='b'",
        "arg64='x'", "arg0='x',arg0='y'", "arg0='x',arg0path='/x'", "arg-1='x'", "arg0x='x'",
        "arg1namespace='a'", "arg0namespace='.com'", "arg0namespace='com.'", "arg0namespace='a b'",
        "eavesdrop='yes'", "eavesdrop=''", "destination='not a name'", ",", "type='signal',,member='M'",
    ],
)
def test_a_rule_that_is_none_is_refused(bus: Bus, rule: str) -> None:
    client = bus.connect()
    assert client.fault("AddMatch", "s", rule) == "MatchRuleInvalid"


def test_a_rule_of_twenty_keys_is_one(bus: Bus) -> None:
    """The reference looks at the first sixteen alone; what they all ask for is heard on both."""
    client, speaker = bus.connect(), bus.connect()
    client.match("type='signal'," + ",".join(f"arg{i}='x'" for i in range(20)))
    speaker.emit("First", "s" * 20, *["y"] * 20)
    speaker.emit("All", "s" * 20, *["x"] * 20)
    speaker.sync()
    assert [got.member for got in client.drain()] == ["All"]


def test_a_rule_of_more_than_1024_bytes_is_beyond_the_limit(bus: Bus) -> None:
    client = bus.connect()
    longest = "arg0='" + "x" * (1024 - len("arg0=''")) + "'"
    client.match(longest)
    assert client.fault("AddMatch", "s", longest + ",") == "LimitsExceeded"


def test_several_rules_give_one_copy(bus: Bus) -> None:
    receiver, sender = bus.connect(), bus.connect()
    for rule in ("type='signal'", "member='M'", "", f"sender='{sender.name}'"):
        receiver.match(rule)
    receiver.drain()
    sender.emit("M")
    sender.sync()
    assert receiver.heard() == [("M",)]


def test_a_sender_whose_own_rule_fits_hears_itself(bus: Bus) -> None:
    client = bus.connect()
    client.match("member='M'")
    client.emit("M", "s", "x")
    client.emit("N", "s", "x")
    assert client.heard() == [("M", "x")]


def test_without_a_rule_nothing_is_heard(bus: Bus) -> None:
    client, sender = bus.connect(), bus.connect()
    sender.emit("M")
    bus.connect()
    sender.sync()
    assert client.heard() == []


def test_a_rule_added_twice_must_be_removed_twice(bus: Bus) -> None:
    client, sender = bus.connect(), bus.connect()
    client.match("member='M'")
    client.match("member='M'")
    for expected in ([("M",)], []):
        client.ask("RemoveMatch", "s", "member='M'")
        sender.emit("M")
        sender.sync()
        assert client.heard() == expected
    assert client.fault("RemoveMatch", "s", "member='M'") == "MatchRuleNotFound"


def test_a_rule_is_removed_by_its_value_not_its_spelling(bus: Bus) -> None:
    client = bus.connect()
    client.match("type='signal',member='M',arg0='x'")
    assert client.fault("RemoveMatch", "s", "type='signal',member='M'") == "MatchRuleNotFound"
    client.ask("RemoveMatch", "s", " arg0=x,member=M,type=signal")
    assert client.fault("RemoveMatch", "s", "type='signal',member='M',arg0='x'") == "MatchRuleNotFound"


def test_one_client_cannot_remove_the_rule_of_another(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    client.match("member='M'")
    assert other.fault("RemoveMatch", "s", "member='M'") == "MatchRuleNotFound"


def test_a_well_known_sender_is_its_primary_owner_at_the_time(bus: Bus) -> None:
    receiver, owner, waiting = bus.connect(), bus.connect(), bus.connect()
    receiver.match("sender='t.Name',type='signal'")
    owner.own("t.Name")
    waiting.own("t.Name")
    owner.emit("FromOwner")
    owner.sync()
    waiting.emit("WhileWaiting")
    waiting.sync()
    owner.ask("ReleaseName", "s", "t.Name")
    owner.emit("FromFormer")
    owner.sync()
    waiting.emit("FromHeir")
    waiting.sync()
    assert receiver.heard() == [("FromOwner",), ("FromHeir",)]


def test_signals_of_the_driver_are_matched_like_any(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    client.match(f"sender='{BUS}',member='NameOwnerChanged',arg0='t.Seen'")
    client.match("type='signal',member='NameOwnerChanged',arg0namespace='u'")
    for name in ("t.Seen", "t.Unseen", "u.Seen"):
        other.own(name)
    assert client.heard() == [
        ("NameOwnerChanged", "t.Seen", "", other.name),
        ("NameOwnerChanged", "u.Seen", "", other.name),
    ]


def test_rules_that_name_a_leaver_go_with_it(bus: Bus) -> None:
    """The reference looks for them only when the leaver had rules itself, so here it has one."""
    client, leaver = bus.connect(), bus.connect()
    leaver.match("member='M'")
    rule = f"sender='{leaver.name}'"
    client.match(rule)
    client.match("type='signal',member='NameOwnerChanged'")
    leaver.close()
    assert client.receive().member == "NameOwnerChanged"
    assert client.fault("RemoveMatch", "s", rule) == "MatchRuleNotFound"


def test_a_unicast_signal_goes_to_its_destination_alone_matched_or_not(bus: Bus) -> None:
    client, other, sender = bus.connect(), bus.connect(), bus.connect()
    other.match("type='signal',member='M'")
    sender.emit("M", to=client.name)
    sender.sync()
    assert client.heard() == [("M",)]
    assert other.heard() == []


def test_a_call_and_its_answer_are_seen_by_nobody_whose_rule_would_fit(bus: Bus) -> None:
    client, callee, third = bus.connect(), bus.connect(), bus.connect()
    third.match("")
    third.drain()
    serial = client.call(callee.name, "Secret")
    callee.answer(callee.receive())
    client.reply(serial)
    assert third.heard() == []


def is_eavesdropped(bus: Bus, spy: Client) -> bool:
    caller, callee = bus.connect(), bus.connect()
    spy.drain()
    caller.send(CALL, to=callee.name, path="/x", interface="x.Y", member="Overheard")
    caller.sync()
    return ("Overheard",) in [(got.member,) for got in spy.drain() if got.type == CALL]


def test_an_eavesdropper_of_the_same_user_hears_unicast(bus: Bus) -> None:
    spy = bus.connect()
    spy.match("eavesdrop='true',type='method_call',member='Overheard'")
    assert is_eavesdropped(bus, spy)
    plain = bus.connect()
    plain.match("type='method_call',member='Overheard'")
    assert not is_eavesdropped(bus, plain)


@pytest.mark.parametrize("last", ["true", "false"])
def test_of_several_wishes_to_eavesdrop_the_last_one_counts(bus: Bus, last: str) -> None:
    """Old monitors write one in front of the rule that they were given."""
    spy = bus.connect()
    first = "false" if last == "true" else "true"
    spy.match(f"eavesdrop='{first}',member='Overheard',eavesdrop='{last}'")
    assert is_eavesdropped(bus, spy) is (last == "true")


def test_an_eavesdropper_hears_its_own_request_to_be_one_after_the_answer(bus: Bus) -> None:
    spy = bus.connect()
    rule = "eavesdrop='true',member='AddMatch'"
    serial = spy.call(BUS, "AddMatch", "s", rule, path=BUS_PATH, interface=BUS)
    assert spy.receive().reply_serial == serial
    assert spy.receive().serial == serial


def test_an_eavesdropper_hears_what_the_driver_was_asked_and_not_what_it_refused(bus: Bus) -> None:
    spy, client = bus.connect(), bus.connect()
    spy.match("eavesdrop='true',type='method_call'")
    spy.drain()
    client.ask("ListNames")
    client.fault("GetNameOwner", "s", "no.such")
    client.fault("Nonsense")
    client.ask("ListNames")
    assert [got.member for got in spy.drain() if got.sender == client.name] == ["ListNames", "ListNames"]


def test_an_eavesdropper_hears_no_answer_of_the_driver_and_no_name_of_others(bus: Bus) -> None:
    spy, client = bus.connect(), bus.connect()
    spy.match(f"eavesdrop='true',sender='{BUS}',destination='{client.name}'")
    client.own("a.name")
    client.ask("ListNames")
    assert spy.heard() == []
