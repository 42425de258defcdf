"""Malformed messages cost their sender the connection, and nobody else anything (dbus-bus §3)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from buses import Bus
from dbus_client import (
    CALL,
    DESTINATION,
    ERROR,
    ERROR_NAME,
    INTERFACE,
    MEMBER,
    NO_REPLY,
    PATH,
    REPLY_SERIAL,
    RETURN,
    SENDER,
    SIGNAL,
    SIGNATURE,
    UNIX_FDS,
    marshal,
    message,
)

Field = tuple[int, str, Any]
TARGET = "t.Target"
TO: Field = (DESTINATION, "s", TARGET)
CALLED: list[Field] = [(PATH, "o", "/x"), (INTERFACE, "s", "x.Y"), (MEMBER, "s", "M"), TO]


def call(*more: Field, without: int = 0, **options: Any) -> bytes:
    replaced = {without} | {code for code, _, _ in more}
    fields = [entry for entry in CALLED if entry[0] not in replaced]
    return message(CALL, options.pop("serial", 9), [*fields, *more], flags=NO_REPLY, **options)


def body(signature: str, data: bytes, endian: str = "l") -> bytes:
    return message(CALL, 9, [*CALLED, (SIGNATURE, "g", signature)], data, endian=endian, flags=NO_REPLY)


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def doubled(entry: Field) -> bytes:
    return message(CALL, 9, [*CALLED, entry], flags=NO_REPLY)


def unterminated() -> bytes:
    """A member whose text is not followed by NUL."""
    good = call()
    return good.replace(b"M\0", b"MM", 1)


def dirty_padding() -> bytes:
    """A byte of the padding after the header fields is set."""
    good = call()
    length = int.from_bytes(good[12:16], "little")
    assert length % 8
    return patched(good, 16 + length, b"\1")


HEADERS = {
    "endian-0": patched(call(), 0, b"\0"),
    "endian-L": patched(call(), 0, b"L"),
    "type-0": patched(call(), 1, b"\0"),
    "version-0": patched(call(), 3, b"\0"),
    "version-2": patched(call(), 3, b"\2"),
    "serial-0": patched(call(), 8, u32(0)),
    "fields-beyond-128-mib": patched(call(), 12, u32(128 * 2**20 + 1)),
    "fields-length-all-ones": patched(call(), 12, u32(2**32 - 1)),
    "body-beyond-128-mib": patched(call(), 4, u32(128 * 2**20)),
    "body-length-all-ones": patched(call(), 4, u32(2**32 - 1)),
    "fields-cut": patched(call(), 12, u32(int.from_bytes(call()[12:16], "little") - 3)),
    "dirty-padding": dirty_padding(),
    "unterminated": unterminated(),
    "field-0": call((0, "s", "x")),
    "path-twice": doubled((PATH, "o", "/y")),
    "member-twice": doubled((MEMBER, "s", "N")),
    "destination-twice": doubled((DESTINATION, "s", "t.Other")),
    "path-as-string": call((PATH, "s", "/x")),
    "member-as-path": call((MEMBER, "o", "/x")),
    "destination-as-variant": call((DESTINATION, "v", ("s", TARGET))),
    "signature-as-string": call((SIGNATURE, "s", "")),
    "fds-as-string": call((UNIX_FDS, "s", "1")),
    "reply-serial-as-u64": call((REPLY_SERIAL, "t", 1)),
    "reply-serial-0": call((REPLY_SERIAL, "u", 0)),
    "call-without-path": call(without=PATH),
    "call-without-member": call(without=MEMBER),
    "return-without-reply-serial": message(RETURN, 9, [TO]),
    "error-without-name": message(ERROR, 9, [TO, (REPLY_SERIAL, "u", 1)]),
    "error-without-reply-serial": message(ERROR, 9, [TO, (ERROR_NAME, "s", "x.Y")]),
    "signal-without-path": message(SIGNAL, 9, [TO, (INTERFACE, "s", "x.Y"), (MEMBER, "s", "M")]),
    "signal-without-interface": message(SIGNAL, 9, [TO, (PATH, "o", "/x"), (MEMBER, "s", "M")]),
    "signal-without-member": message(SIGNAL, 9, [TO, (PATH, "o", "/x"), (INTERFACE, "s", "x.Y")]),
    "local-interface": call((INTERFACE, "s", "org.freedesktop.DBus.Local")),
    "local-path": call((PATH, "o", "/org/freedesktop/DBus/Local")),
    "path-empty": call((PATH, "o", "")),
    "path-relative": call((PATH, "o", "x")),
    "path-trailing-slash": call((PATH, "o", "/x/")),
    "path-double-slash": call((PATH, "o", "/x//y")),
    "path-letter": call((PATH, "o", "/x-y")),
    "interface-one-element": call((INTERFACE, "s", "x")),
    "interface-empty": call((INTERFACE, "s", "")),
    "interface-hyphen": call((INTERFACE, "s", "x.y-z")),
    "interface-digit": call((INTERFACE, "s", "x.1y")),
    "interface-too-long": call((INTERFACE, "s", "x." + "y" * 254)),
    "member-empty": call((MEMBER, "s", "")),
    "member-dot": call((MEMBER, "s", "a.b")),
    "member-digit": call((MEMBER, "s", "1a")),
    "member-too-long": call((MEMBER, "s", "m" * 256)),
    "member-not-utf8": call((MEMBER, "s", b"\xff\xfe")),
    "error-name-one-element": message(ERROR, 9, [TO, (ERROR_NAME, "s", "x"), (REPLY_SERIAL, "u", 1)]),
    "destination-one-element": call((DESTINATION, "s", "target")),
    "destination-empty": call((DESTINATION, "s", "")),
    "destination-digit": call((DESTINATION, "s", "t.1x")),
    "destination-too-long": call((DESTINATION, "s", "t." + "x" * 254)),
    "sender-malformed": call((SENDER, "s", "not a name")),
    "unknown-field-malformed": call((99, "s", b"\xff")),
    "container-not-a-path": call((10, "s", "/c")),
    "container-twice": call((10, "o", "/c"), (10, "o", "/c")),
    "body-without-signature": message(CALL, 9, CALLED, b"\0" * 4),
    "signature-of-more-than-the-body": body("u", b""),
}


BODIES = {
    "byte-left-over": ("y", b"\0\0"),
    "byte-missing": ("uu", u32(1) + b"\0\0\0"),
    "boolean-2": ("b", u32(2)),
    "padding-dirty": ("yu", b"\1\0\1\0" + u32(1)),
    "padding-before-struct-dirty": ("y(y)", b"\1\0\0\0\0\0\1\0\2"),
    "string-unterminated": ("s", u32(1) + b"xy"),
    "string-with-nul": ("s", u32(3) + b"a\0b\0"),
    "string-beyond-the-end": ("s", u32(100) + b"x\0"),
    "string-length-all-ones": ("s", u32(2**32 - 1) + b"x\0"),
    "string-not-utf8": ("s", u32(2) + b"\xc3\x28\0"),
    "string-overlong": ("s", u32(2) + b"\xc0\x80\0"),
    "string-surrogate": ("s", u32(3) + b"\xed\xa0\x80\0"),
    "string-beyond-unicode": ("s", u32(4) + b"\xf4\x90\x80\x80\0"),
    "path-malformed": ("o", marshal("s", "no/slash")),
    "path-empty": ("o", marshal("s", "")),
    "signature-malformed": ("g", marshal("g", "a")),
    "signature-unterminated": ("g", b"\1ii"),
    "array-beyond-the-end": ("ay", u32(100) + b"x"),
    "array-not-a-multiple": ("au", u32(6) + b"\0" * 6),
    "array-element-crosses-the-end": ("as", u32(6) + marshal("s", "abc")),
    "array-beyond-64-mib": ("ay", u32(64 * 2**20 + 1)),
    "array-padding-dirty": ("at", u32(0) + u32(1)),
    "variant-of-two-types": ("v", b"\2ii\0" + u32(1) + u32(2)),
    "variant-of-nothing": ("v", b"\0\0"),
    "variant-of-unknown-type": ("v", b"\1z\0\0" + u32(1)),
    "variant-nested-65-deep": ("v", b"\1v\0" * 65 + b"\1y\0\0"),
    "dictionary-key-container": ("a{(y)s}", u32(0) + u32(0)),
}

SIGNATURES = {
    "unknown-letter": "z",
    "array-of-nothing": "a",
    "struct-empty": "()",
    "struct-open": "(i",
    "struct-closed-only": "i)",
    "entry-outside-array": "{sv}",
    "entry-of-one": "a{s}",
    "entry-of-three": "a{sss}",
    "entry-key-variant": "a{vs}",
    "entry-misnested": "a{s(i})",
    "struct-misnested": "(a{si)}",
    "arrays-33-deep": "a" * 33 + "y",
    "structs-33-deep": "(" * 33 + "y" + ")" * 33,
}


def loses_only_its_sender(bus: Bus, data: bytes) -> bool:
    """The sender is cut off; its target hears nothing of it, and talks on."""
    target, offender, bystander = bus.connect(), bus.connect(), bus.connect()
    target.own(TARGET)
    target.drain()
    offender.write(data)
    offender.rest()
    bystander.emit("Fine", to=TARGET)
    bystander.sync()
    return target.heard() == [("Fine",)]


@pytest.mark.parametrize("case", HEADERS)
def test_a_malformed_header_ends_the_connection(bus: Bus, case: str) -> None:
    assert loses_only_its_sender(bus, HEADERS[case])


@pytest.mark.parametrize("case", BODIES)
def test_a_malformed_body_ends_the_connection(bus: Bus, case: str) -> None:
    signature, data = BODIES[case]
    assert loses_only_its_sender(bus, body(signature, data))


@pytest.mark.parametrize("case", SIGNATURES)
def test_a_malformed_signature_ends_the_connection(bus: Bus, case: str) -> None:
    assert loses_only_its_sender(bus, body(SIGNATURES[case], b""))


def test_a_malformed_body_in_big_endian_ends_the_connection(bus: Bus) -> None:
    assert loses_only_its_sender(bus, body("b", struct.pack(">I", 2), "B"))


@pytest.mark.parametrize(
    ("signature", "value"),
    [
        ("s", "￾￿\U0010ffff"),
        ("s", ""),
        ("as", []),
        ("a(yt)", []),
        ("a{sv}", {}),
        ("a" * 32 + "y", None),
        ("(" * 32 + "y" + ")" * 32, None),
        ("g", ""),
        ("o", "/"),
        ("ad", [0.0, float("inf")]),
        ("v", ("v", ("v", ("ay", b"deep")))),
    ],
    ids=lambda value: value[:8] if isinstance(value, str) else "value",
)
def test_what_is_unusual_but_well_formed_is_delivered(bus: Bus, signature: str, value: Any) -> None:
    if value is None:
        value = b"" if signature.startswith("a") else 7
        for _ in range(31 if signature.startswith("a") else 32):
            value = [] if signature.startswith("a") else (value,)
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", signature, value)
    assert receiver.receive().args == [value]


def test_names_of_255_bytes_are_delivered(bus: Bus) -> None:
    sender, receiver = bus.connect(), bus.connect()
    interface, member = "x." + "y" * 253, "m" * 255
    receiver.own("t." + "n" * 253)
    receiver.drain()
    sender.call("t." + "n" * 253, member, interface=interface, path="/" + "p" * 1000)
    got = receiver.receive()
    assert (got.interface, got.member, len(got.path)) == (interface, member, 1001)


def test_messages_before_a_malformed_one_are_carried_out(bus: Bus) -> None:
    target, offender = bus.connect(), bus.connect()
    target.own(TARGET)
    target.drain()
    second, never = call((MEMBER, "s", "Second")), call((MEMBER, "s", "Never"))
    offender.write(call() + second + HEADERS["version-2"] + never)
    offender.rest()
    assert [got.member for got in target.drain()] == ["M", "Second"]


def test_one_that_stops_in_the_middle_of_a_message_disturbs_nobody(bus: Bus) -> None:
    target, silent, leaver = bus.connect(), bus.connect(), bus.connect()
    target.own(TARGET)
    target.drain()
    silent.write(call()[:-5])
    leaver.write(call()[:30])
    leaver.close()
    bystander = bus.connect()
    bystander.emit("Fine", to=TARGET)
    bystander.sync()
    assert target.heard() == [("Fine",)]
    silent.write(call()[-5:])
    assert target.receive().sender == silent.name


def test_a_callee_that_is_cut_off_gives_its_caller_no_reply(bus: Bus) -> None:
    caller, callee = bus.connect(), bus.connect()
    serial = caller.call(callee.name, "M")
    callee.receive()
    callee.write(HEADERS["type-0"])
    assert caller.reply(serial).error_name == "org.freedesktop.DBus.Error.NoReply"
