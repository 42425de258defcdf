"""Large messages, readers that don't read, half-closed streams: whose problem load is (dbus-bus §6)."""

from __future__ import annotations

import hashlib
import socket
import struct
from contextlib import suppress

import pytest
from buses import Bus
from dbus_client import (
    CALL,
    DESTINATION,
    ERROR,
    FAULT,
    MEMBER,
    NO_REPLY,
    PATH,
    SIGNATURE,
    CallFailed,
    Client,
    message,
)

MIB = 2**20


def big_call(to: Client, *sizes: int) -> bytes:
    body = bytearray()
    for size in sizes:
        body += bytes(-len(body) % 4) + struct.pack("<I", size) + bytes(size)
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "Big"), (DESTINATION, "s", to.name)]
    return message(CALL, 9, [*fields, (SIGNATURE, "g", "ay" * len(sizes))], bytes(body), flags=NO_REPLY)


def test_a_message_of_100_mib_passes_unchanged(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    data = big_call(receiver, 50 * MIB, 50 * MIB)
    sender.write(data)
    got = receiver.receive()
    assert len(got.body) == 100 * MIB + 8
    assert hashlib.sha256(got.body).digest() == hashlib.sha256(data[-len(got.body) :]).digest()
    sender.sync()


def test_a_large_message_does_not_stop_the_others(bus: Bus) -> None:
    sender, receiver, bystander = bus.connect(), bus.connect(), bus.connect()
    data = big_call(receiver, 30 * MIB)
    sender.write(data[: 20 * MIB])
    bystander.sync()
    sender.write(data[20 * MIB :])
    bystander.sync()
    assert len(receiver.receive().body) == 30 * MIB + 4


def test_a_reader_that_does_not_read_holds_up_neither_sender_nor_others(bus: Bus) -> None:
    """More broadcasts than any socket holds: the other reader gets each, in order."""
    sender, stuck, reader = bus.connect(), bus.connect(), bus.connect()
    for receiver in (stuck, reader):
        receiver.match("type='signal',interface='x.Y'")
        receiver.drain()
    for number in range(600):
        sender.emit("M", "uay", number, bytes(50_000))
        assert reader.receive().args[0] == number
    sender.sync()
    assert stuck.receive().args[0] == 0


def test_calls_of_one_reader_are_answered_while_another_is_stuck(bus: Bus) -> None:
    sender, stuck = bus.connect(), bus.connect()
    stuck.match("type='signal'")
    for _ in range(100):
        sender.emit("M", "ay", bytes(50_000))
    caller, callee = bus.connect(), bus.connect()
    serial = caller.call(callee.name, "M")
    callee.answer(callee.receive(), "s", "still here")
    assert caller.reply(serial).args == ["still here"]


def test_a_stuck_reader_that_leaves_frees_its_callers(bus: Bus) -> None:
    caller, stuck = bus.connect(), bus.connect()
    serials = [caller.call(stuck.name, "M", "ay", bytes(100_000)) for _ in range(50)]
    caller.sync()
    stuck.close()
    assert {caller.reply(serial).error_name for serial in serials} == {FAULT + "NoReply"}


def test_a_half_closed_client_has_its_complete_requests_carried_out(bus: Bus) -> None:
    """Both execute them; ours drains the answers too, the reference may close at once (dbus-bus §6)."""
    client, other = bus.connect(), bus.connect()
    serial = client.next_serial()
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "Last"), (DESTINATION, "s", other.name)]
    client.write(message(CALL, serial, fields, flags=NO_REPLY))
    client.call("no.such.Name", "Refused", serial=4711)
    client.socket.shutdown(socket.SHUT_WR)
    assert other.receive().member == "Last"
    if bus.is_reference:
        client.rest()
    else:
        assert client.receive().what == (FAULT + "ServiceUnknown",)
        assert client.rest() == b""


def test_what_was_queued_for_a_half_closed_client_is_drained(bus: Bus) -> None:
    """The reference closes at end of input; ours drains what it had accepted first (dbus-bus §6)."""
    sender, reader, watcher = bus.connect(), bus.connect(), bus.connect()
    watcher.match("member='NameOwnerChanged'")
    watcher.drain()
    for number in range(100):
        sender.emit("M", "uay", number, bytes(40_000), to=reader.name)
    sender.sync()
    reader.socket.shutdown(socket.SHUT_WR)
    if bus.is_reference:
        assert watcher.receive().what == ("NameOwnerChanged", reader.name, reader.name, "")
        return
    assert [reader.receive().args[0] for _ in range(100)] == list(range(100))
    assert reader.rest() == b""
    assert watcher.receive().what == ("NameOwnerChanged", reader.name, reader.name, "")


def test_hundreds_of_rules_and_names_are_held_and_freed(bus: Bus) -> None:
    client = bus.connect()
    for number in range(300):
        client.match(f"arg0='{number}'")
        assert client.own(f"t.n{number}") == 1
    client.drain()
    assert len(client.ask("ListNames")[0]) == 300 + 2
    client.emit("M", "s", "299")
    assert client.heard() == [("M", "299")]
    with suppress(CallFailed):
        client.ask("RemoveMatch", "s", "arg0='299'")
    client.emit("M", "s", "299")
    assert client.heard() == []


def test_two_hundred_clients_hear_one_broadcast(bus: Bus) -> None:
    sender = bus.connect()
    receivers = [bus.connect() for _ in range(200)]
    for receiver in receivers:
        receiver.match("member='M'")
    sender.emit("M", "s", "to all")
    assert all(receiver.receive().args == ["to all"] for receiver in receivers)


@pytest.mark.parametrize("way", ["close", "shutdown", "reset"])
def test_any_way_of_leaving_is_noticed(bus: Bus, way: str) -> None:
    caller, leaver = bus.connect(), bus.connect()
    serial = caller.call(leaver.name, "M")
    caller.sync()
    match way:
        case "close":
            leaver.close()
        case "shutdown":
            leaver.receive()
            leaver.socket.shutdown(socket.SHUT_RDWR)
        case _:
            leaver.receive()
            leaver.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            leaver.close()
    assert caller.reply(serial).type == ERROR
