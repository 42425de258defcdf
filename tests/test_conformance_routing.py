"""Unicast, replies, errors, order, NoReply: how messages find their way (dbus-bus §6)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from buses import Bus
from dbus_client import (
    CALL,
    DESTINATION,
    ERROR,
    FAULT,
    INTERACTIVE,
    INTERFACE,
    MEMBER,
    NO_AUTO_START,
    NO_REPLY,
    PATH,
    RETURN,
    SENDER,
    SIGNAL,
    SIGNATURE,
    message,
)

NAME = "t.Service"
EVERY_TYPE = "ybnqiuxtdsogvasa{sv}(yx)aya(ii)vaas"
EVERY_VALUE: tuple[Any, ...] = (
    255, True, -2, 65535, -3, 4000000000, -4, 2**63, 1.5, "ä€𝄞", "/a/b", "a{sv}", ("(is)", (1, "x")),
    ["x", ""], {"k": ("u", 7), "": ("as", ["y"])}, (9, -10), b"\0\xff", [(1, 2), (3, 4)], ("v", ("y", 1)),
    [["z"], []],
)


@pytest.mark.parametrize("by_name", [False, True], ids=["unique", "well-known"])
def test_a_call_reaches_its_destination_and_the_return_its_caller(bus: Bus, by_name: bool) -> None:
    caller, callee = bus.connect(), bus.connect()
    callee.own(NAME)
    callee.drain()
    to = NAME if by_name else callee.name
    serial = caller.call(to, "Method", "su", "x", 7)
    call = callee.receive()
    assert (call.type, call.sender, call.destination, call.serial) == (CALL, caller.name, to, serial)
    assert (call.path, call.interface, call.member, call.args) == ("/x", "x.Y", "Method", ["x", 7])
    answer_serial = callee.answer(call, "s", "done")
    answer = caller.receive()
    assert (answer.type, answer.sender, answer.destination) == (RETURN, callee.name, caller.name)
    assert (answer.reply_serial, answer.serial, answer.args) == (serial, answer_serial, ["done"])


def test_an_error_reaches_its_caller_with_its_name_and_body(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    serial = caller.call(callee.name, "Method")
    call = callee.receive()
    addressed = {"to": call.sender, "reply_to": call.serial}
    callee.send(ERROR, error="x.Broken", signature="su", args=("why", 1), **addressed)
    answer = caller.reply(serial)
    assert (answer.type, answer.error_name, answer.args) == (ERROR, "x.Broken", ["why", 1])


@pytest.mark.parametrize("endian", ["l", "B"])
def test_a_body_of_every_type_passes_byte_for_byte_in_its_own_byte_order(bus: Bus, endian: str) -> None:
    sender, receiver = bus.connect(), bus.connect()
    serial = sender.call(receiver.name, "M", EVERY_TYPE, *EVERY_VALUE, endian=endian)
    call = receiver.receive()
    assert (call.endian, call.serial, call.sender) == (endian, serial, sender.name)
    assert call.args == list(EVERY_VALUE)
    receiver.send(
        RETURN, to=call.sender, reply_to=serial, signature=EVERY_TYPE, args=EVERY_VALUE, endian=endian
    )
    answer = sender.receive()
    assert (answer.endian, answer.body) == (endian, call.body)


def test_a_forged_sender_is_replaced(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    for forged in (receiver.name, ":1.999", "org.freedesktop.DBus", "x.y"):
        sender.emit("M", to=receiver.name, extra=[(SENDER, "s", forged)])
        assert receiver.receive().sender == sender.name


@pytest.mark.parametrize(
    "extra",
    [
        [(11, "s", "unknown")],
        [(200, "a{sv}", {"k": ("s", "v")})],
        [(11, "u", 1), (11, "u", 2), (255, "(ayv)", (b"x", ("s", "y")))],
        [(10, "o", "/c"), (11, "s", "unknown")],
    ],
    ids=["one", "container", "twice", "path-of-a-container"],
)
def test_unknown_header_fields_are_removed_and_the_rest_is_kept(
    bus: Bus, extra: list[tuple[int, str, Any]]
) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", "s", "x", extra=extra)
    call = receiver.receive()
    assert set(call.codes) == {PATH, INTERFACE, MEMBER, DESTINATION, SIGNATURE, SENDER}
    assert (call.member, call.args) == ("M", ["x"])


@pytest.mark.parametrize("flags", [0, NO_REPLY, NO_AUTO_START, INTERACTIVE, 0x80, 0xFF & ~NO_REPLY])
def test_flags_are_forwarded_the_unknown_ones_too(bus: Bus, flags: int) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", flags=flags)
    assert receiver.receive().flags == flags


def test_an_explicit_empty_signature_is_accepted(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", extra=[(SIGNATURE, "g", "")])
    assert receiver.receive().body == b""


def test_a_call_without_interface_is_delivered_as_it_is(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", interface=None)
    assert receiver.receive().interface is None


def test_a_client_can_call_itself(bus: Bus) -> None:
    client = bus.connect()
    client.own(NAME)
    client.drain()
    for to in (client.name, NAME):
        serial = client.call(to, "Myself")
        call = client.receive()
        assert (call.sender, call.serial) == (client.name, serial)
        client.answer(call, "s", "me")
        assert client.reply(serial).args == ["me"]


@pytest.mark.parametrize(
    ("to", "flags", "expected"),
    [
        ("no.such.Name", 0, "ServiceUnknown"),
        ("no.such.Name", NO_AUTO_START, "NameHasNoOwner"),
        (":1.4711", 0, "ServiceUnknown"),
        (":1.4711", NO_AUTO_START, "NameHasNoOwner"),
        ("no.such.Name", NO_REPLY, "ServiceUnknown"),
    ],
)
@pytest.mark.parametrize("kind", [CALL, SIGNAL])
def test_a_message_to_nobody_is_answered_with_the_reference_error(
    bus: Bus, kind: int, to: str, flags: int, expected: str
) -> None:
    client = bus.connect()
    serial = client.send(kind, to=to, path="/x", interface="x.Y", member="M", flags=flags)
    answer = client.reply(serial)
    assert (answer.type, answer.error_name) == (ERROR, FAULT + expected)
    assert answer.sender == "org.freedesktop.DBus"
    assert to in answer.args[0]


def test_a_message_to_one_that_has_left_is_service_unknown(bus: Bus) -> None:
    client, gone = bus.connect(), bus.connect()
    client.match("member='NameOwnerChanged'")
    gone.close()
    client.receive()
    assert client.reply(client.call(gone.name, "M")).what == (FAULT + "ServiceUnknown",)


def test_a_call_that_wants_no_reply_has_none_of_the_bus_s_making(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    caller.match("member='NameOwnerChanged'")
    caller.drain()
    caller.call(callee.name, "M", flags=NO_REPLY)
    caller.sync()
    callee.receive()
    callee.close()
    assert caller.receive().member == "NameOwnerChanged"
    assert caller.heard() == []


def test_a_serial_that_still_waits_at_the_same_callee_is_denied(bus: Bus) -> None:
    caller, callee, other = bus.connect(), bus.connect(), bus.connect()
    caller.serial = 1000
    caller.call(callee.name, "First", serial=77)
    caller.call(callee.name, "Second", serial=77)
    assert caller.receive().what == (FAULT + "AccessDenied",)
    caller.call(other.name, "Elsewhere", serial=77)
    assert other.receive().member == "Elsewhere"
    caller.sync()
    assert [got.member for got in callee.drain()] == ["First"]


def test_an_answered_serial_may_be_used_again(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    for turn in range(3):
        caller.call(callee.name, "M", serial=77)
        callee.answer(callee.receive(), "i", turn)
        assert caller.reply(77).args == [turn]


def test_a_reply_that_nobody_awaits_is_delivered_on_a_session_bus(bus: Bus) -> None:
    """The session configuration lets unrequested replies pass."""
    client, other = bus.connect(), bus.connect()
    client.send(RETURN, to=other.name, reply_to=4711)
    client.send(ERROR, to=other.name, reply_to=4712, error="x.Late")
    client.sync()
    assert [(got.type, got.reply_serial, got.sender) for got in other.drain()] == [
        (RETURN, 4711, client.name),
        (ERROR, 4712, client.name),
    ]


def test_a_reply_to_nobody_goes_nowhere_and_harms_nobody(bus: Bus) -> None:
    client = bus.connect()
    client.send(RETURN, to=":1.4711", reply_to=4711)
    assert all(got.type == ERROR for got in client.drain())


def test_a_callee_that_leaves_gives_no_reply_after_its_names_are_gone(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    for name in ("t.One", "t.Two"):
        callee.own(name)
    caller.match("type='signal',member='NameOwnerChanged'")
    caller.drain()
    serials = [caller.call(to, "M") for to in (callee.name, "t.One", "t.Two")]
    caller.sync()
    assert [callee.receive().member for _ in range(2 + 3)][-3:] == ["M"] * 3
    callee.close()
    assert [caller.receive().what for _ in range(3)] == [
        ("NameOwnerChanged", "t.Two", callee.name, ""),
        ("NameOwnerChanged", "t.One", callee.name, ""),
        ("NameOwnerChanged", callee.name, callee.name, ""),
    ]
    answers = [caller.receive() for _ in range(3)]
    assert [got.what for got in answers] == [(FAULT + "NoReply",)] * 3
    assert sorted(got.reply_serial for got in answers) == serials
    assert {got.sender for got in answers} == {"org.freedesktop.DBus"}


def test_a_caller_that_leaves_is_not_answered_and_its_callee_not_told(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    callee.match("member='NameOwnerChanged'")
    callee.drain()
    caller.call(callee.name, "M")
    call = callee.receive()
    caller.close()
    callee.receive()
    callee.answer(call)
    assert [got.type for got in callee.drain() if got.type != ERROR] == []


def test_what_was_queued_before_its_sender_left_still_arrives(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    for number in range(50):
        sender.emit("M", "u", number, to=receiver.name)
    sender.sync()
    sender.close()
    assert [receiver.receive().args for _ in range(50)] == [[number] for number in range(50)]


def test_messages_of_one_sender_arrive_in_the_order_sent_whatever_their_kind(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    receiver.match("type='signal',interface='x.Y'")
    receiver.own(NAME)
    receiver.drain()
    for number in range(100):
        match number % 4:
            case 0:
                sender.emit("M", "u", number)
            case 1:
                sender.call(receiver.name, "M", "u", number)
            case 2:
                sender.emit("M", "u", number, to=NAME)
            case _:
                sender.call(NAME, "M", "u", number, flags=NO_REPLY)
    assert [receiver.receive().args for _ in range(100)] == [[number] for number in range(100)]


def test_two_receivers_hear_two_senders_in_one_order(bus: Bus) -> None:
    senders = [bus.connect() for _ in range(2)]
    receivers = [bus.connect() for _ in range(2)]
    for receiver in receivers:
        receiver.match("type='signal',interface='x.Y'")
        receiver.drain()
    for number in range(200):
        for sender in senders:
            sender.emit("M", "u", number)
    heard = [[(got.sender, got.args[0]) for got in (r.receive() for _ in range(400))] for r in receivers]
    assert heard[0] == heard[1]


def test_the_bus_s_signals_stand_in_the_right_place_between_messages(bus: Bus) -> None:
    client, watcher = bus.connect(), bus.connect()
    watcher.match("type='signal'")
    watcher.drain()
    client.emit("Before")
    client.own(NAME)
    client.emit("Between")
    client.ask("ReleaseName", "s", NAME)
    client.emit("After")
    client.sync()
    assert [what[:2] for what in watcher.heard()] == [
        ("Before",), ("NameOwnerChanged", NAME), ("Between",), ("NameOwnerChanged", NAME), ("After",),
    ]


def test_many_calls_may_be_sent_before_the_first_answer_is_read(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", callee.name)]
    serials = range(1000, 1500)
    caller.write(b"".join(message(CALL, serial, fields) for serial in serials))
    for serial in serials:
        call = callee.receive()
        assert call.serial == serial
        callee.answer(call)
    assert [caller.receive().reply_serial for _ in serials] == list(serials)


def test_a_message_may_arrive_byte_by_byte(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    body = struct.pack("<I", 1) + b"x\0"
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", receiver.name), (SIGNATURE, "g", "s")]
    for byte in message(CALL, 9, fields, body):
        sender.write(bytes([byte]))
    assert receiver.receive().args == ["x"]


@pytest.mark.parametrize("by_name", [False, True])
def test_an_error_answers_a_call_as_a_return_does(bus: Bus, by_name: bool) -> None:
    """And the reference looks for who asked behind any of its names."""
    caller, callee = bus.connect(), bus.connect()
    caller.own("a.caller")
    caller.drain()
    serial = caller.call(callee.name, "Ask")
    call = callee.receive()
    callee.send(ERROR, error="a.b.No", to="a.caller" if by_name else caller.name, reply_to=call.serial)
    assert (caller.receive().reply_serial, callee.heard()) == (serial, [])
    callee.close()
    caller.match("member='NameOwnerChanged'")
    while caller.ask("NameHasOwner", "s", callee.name)[0]:
        pass
    assert not [got for got in caller.drain() if got.type == ERROR]


def test_one_serial_may_wait_at_two_callees(bus: Bus) -> None:
    caller, one, other = bus.connect(), bus.connect(), bus.connect()
    for callee in (one, other):
        caller.call(callee.name, "Ask", serial=4321)
    for callee, text in ((other, "second"), (one, "first")):
        callee.answer(callee.receive(), "s", text)
        assert caller.receive().args == [text]


def test_a_call_that_wants_no_answer_may_be_answered(bus: Bus) -> None:
    """It is an answer that nobody awaits, which a session bus delivers."""
    caller, callee = bus.connect(), bus.connect()
    serial = caller.call(callee.name, "Tell", flags=NO_REPLY)
    callee.answer(callee.receive())
    assert caller.receive().reply_serial == serial
