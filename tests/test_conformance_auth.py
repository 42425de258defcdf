"""SASL as GLib, sd-bus, libdbus and dbus-fast each do it, and what a bus refuses (dbus-bus §2)."""

from __future__ import annotations

import os

import pytest
from buses import Bus
from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    DESTINATION,
    INTERFACE,
    MEMBER,
    PATH,
    Client,
    Wire,
    message,
    parse,
)

UID = str(os.getuid()).encode().hex()
HELLO = message(
    CALL, 1, [(PATH, "o", BUS_PATH), (INTERFACE, "s", BUS), (MEMBER, "s", "Hello"), (DESTINATION, "s", BUS)]
)


def is_greeted(wire: Wire) -> bool:
    """The answer to HELLO arrives."""
    start = wire.take(16)
    fields = int.from_bytes(start[12:16], "little")
    answer = parse(start + wire.take(fields + -fields % 8 + int.from_bytes(start[4:8], "little")))
    return bool(answer.reply_serial == 1 and answer.args[0].startswith(":"))


def test_glib_talks_line_by_line_and_asks_for_the_mechanisms_first(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say("AUTH") == "REJECTED EXTERNAL"
    assert wire.say(f"AUTH EXTERNAL {UID}") == f"OK {bus.guid}"
    assert wire.say("NEGOTIATE_UNIX_FD") == "AGREE_UNIX_FD"
    wire.write(b"BEGIN\r\n")
    wire.write(HELLO)
    assert is_greeted(wire)


def test_sd_bus_sends_everything_and_its_first_message_at_once(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n" + HELLO)
    assert [wire.line() for _ in range(3)] == ["DATA", f"OK {bus.guid}", "AGREE_UNIX_FD"]
    assert is_greeted(wire)


def test_libdbus_names_its_uid_and_waits_for_each_answer(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0AUTH EXTERNAL " + UID.encode() + b"\r\n")
    assert wire.line() == f"OK {bus.guid}"
    assert wire.say("NEGOTIATE_UNIX_FD") == "AGREE_UNIX_FD"
    wire.write(b"BEGIN\r\n" + HELLO)
    assert is_greeted(wire)


def test_dbus_fast_without_a_uid_answers_the_challenge_with_nothing(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say("AUTH EXTERNAL") == "DATA"
    assert wire.say("DATA") == f"OK {bus.guid}"
    wire.write(b"BEGIN\r\n")
    wire.write(HELLO)
    assert is_greeted(wire)


def test_a_challenge_may_be_answered_with_the_uid(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say("AUTH EXTERNAL") == "DATA"
    assert wire.say(f"DATA {UID}") == f"OK {bus.guid}"


def test_one_byte_at_a_time_is_fast_enough(bus: Bus) -> None:
    wire = bus.wire()
    for byte in b"\0AUTH EXTERNAL " + UID.encode() + b"\r\nBEGIN\r\n" + HELLO:
        wire.write(bytes([byte]))
    assert wire.line() == f"OK {bus.guid}"
    assert is_greeted(wire)


def test_the_guid_is_of_32_hex_digits_and_the_same_for_everybody(bus: Bus) -> None:
    assert len(bus.guid) == 32
    assert int(bus.guid, 16)
    assert {bus.connect().guid, bus.connect().guid} == {bus.guid}


def test_no_descriptors_are_agreed_on_unless_asked_for(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0AUTH EXTERNAL " + UID.encode() + b"\r\nBEGIN\r\n" + HELLO)
    assert wire.line() == f"OK {bus.guid}"
    assert is_greeted(wire)


def test_descriptors_may_be_negotiated_twice(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say(f"AUTH EXTERNAL {UID}").startswith("OK")
    assert [wire.say("NEGOTIATE_UNIX_FD") for _ in range(2)] == ["AGREE_UNIX_FD"] * 2


@pytest.mark.parametrize("first", [b"A", b"\r\n", b"l\1\0\1"], ids=["letter", "newline", "message"])
def test_a_first_byte_that_is_not_nul_ends_the_connection(bus: Bus, first: bytes) -> None:
    wire = bus.wire()
    wire.write(first + b"AUTH EXTERNAL " + UID.encode() + b"\r\n")
    assert wire.rest() == b""


@pytest.mark.parametrize(
    "line",
    [
        "AUTH",
        "AUTH EXTERNAL " + str(os.getuid() + 1).encode().hex(),
        "AUTH EXTERNAL " + b"root".hex(),
        "AUTH EXTERNAL " + b"-1".hex(),
        "AUTH EXTERNAL " + b"4294967295".hex(),
        "AUTH ANONYMOUS",
        "AUTH ANONYMOUS " + b"trace".hex(),
        "AUTH DBUS_COOKIE_SHA1 " + UID,
        "AUTH UNHEARD_OF",
    ],
)
def test_what_is_rejected_names_the_mechanism_and_may_be_tried_again(bus: Bus, line: str) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say(line) == "REJECTED EXTERNAL"
    assert wire.say(f"AUTH EXTERNAL {UID}") == f"OK {bus.guid}"


@pytest.mark.parametrize(
    "line",
    [
        "HOWDY", "", "DATA", "DATA 30", "CANCEL", "NEGOTIATE_UNIX_FD", "AUTH EXTERNAL zz", "auth EXTERNAL",
    ],
)
def test_a_line_out_of_place_is_an_error_and_keeps_the_state(bus: Bus, line: str) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say(line).split()[0] == "ERROR"
    assert wire.say(f"AUTH EXTERNAL {UID}") == f"OK {bus.guid}"


@pytest.mark.parametrize("line", [b"AUTH \xc3\xa4", b"AUTH\0EXTERNAL"], ids=["not-ascii", "nul"])
def test_bytes_that_are_no_text_are_an_error(bus: Bus, line: bytes) -> None:
    wire = bus.wire()
    wire.write(b"\0" + line + b"\r\n")
    assert wire.line().split()[0] == "ERROR"
    assert wire.say(f"AUTH EXTERNAL {UID}") == f"OK {bus.guid}"


@pytest.mark.parametrize("line", ["CANCEL", "ERROR", "ERROR changed my mind"])
def test_a_client_may_take_back_its_authentication(bus: Bus, line: str) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say(f"AUTH EXTERNAL {UID}").startswith("OK")
    assert wire.say(line) == "REJECTED EXTERNAL"
    assert wire.say("NEGOTIATE_UNIX_FD").split()[0] == "ERROR"
    assert wire.say(f"AUTH EXTERNAL {UID}") == f"OK {bus.guid}"


def test_a_second_auth_after_ok_is_an_error(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0")
    assert wire.say(f"AUTH EXTERNAL {UID}").startswith("OK")
    assert wire.say(f"AUTH EXTERNAL {UID}").split()[0] == "ERROR"
    wire.write(b"BEGIN\r\n" + HELLO)
    assert is_greeted(wire)


def test_the_sixth_rejection_is_the_last(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0" + b"AUTH\r\n" * 6)
    assert [wire.line() for _ in range(6)] == ["REJECTED EXTERNAL"] * 6
    assert wire.rest() == b""


@pytest.mark.parametrize("before", [b"", b"AUTH EXTERNAL\r\n"], ids=["at-once", "in-the-challenge"])
def test_begin_before_ok_ends_the_connection(bus: Bus, before: bytes) -> None:
    wire = bus.wire()
    wire.write(b"\0" + before + b"BEGIN\r\n" + HELLO)
    assert wire.rest() in (b"", b"DATA\r\n"), "whether the challenge is still written is left open"


def test_a_line_beyond_16_kib_ends_the_connection(bus: Bus) -> None:
    wire = bus.wire()
    wire.write(b"\0AUTH " + b"A" * 20_000)
    assert wire.rest() == b""


@pytest.mark.parametrize("said", [b"", b"\0", b"\0AUTH EXT", b"\0AUTH EXTERNAL\r\n"])
def test_a_client_that_leaves_or_stops_in_the_middle_disturbs_nobody(bus: Bus, said: bytes) -> None:
    bus.wire().write(said)
    gone = bus.wire()
    gone.write(said)
    gone.close()
    assert isinstance(bus.connect(), Client)
