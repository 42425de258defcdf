"""Headers: every rule of the format, and what a bus changes in them (dbus-bus §3, §6)."""

from __future__ import annotations

import io
from typing import Any

import pytest
import vectors
from bus1_bridge import wire
from bus1_bridge.codec import build, check_body, frame_length, parse, stamp
from bus1_bridge.wire import CALL, ERROR, RETURN, SIGNAL, Header, Variant
from buses import Bus
from dbus_client import (
    BUS,
    BUS_PATH,
    MEMBER,
    PATH,
    SENDER,
    marshal,
    message,
)
from dbus_client import parse as client_parse
from dbus_fast import Message, MessageType
from dbus_fast._private.unmarshaller import Unmarshaller
from dbus_values import bodies, cuts, edits, mutated, paths
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import RemoteProtocolError, TooLarge

TO = ":1.7"
FIELDS = {
    "path": "o", "interface": "s", "member": "s", "error_name": "s", "reply_serial": "u",
    "destination": "s", "sender": "s", "signature": "g", "unix_fds": "u",
}  # fmt: skip
"""Known fields with their types, in the order of their codes from 1."""
REST = ("endian", "type", "flags", "serial", "body_length", "header_length", "has_unknown_fields")


def values_of(header: Header) -> dict[str, Any]:
    """All fields by name."""
    return {name: getattr(header, name) for name in FIELDS}


def is_valid(raw: bytes) -> bool:
    """Framing, header and body, as a bus does it."""
    try:
        if frame_length(raw) != len(raw):
            return False
        header = parse(raw)
        check_body(header.signature, raw[header.header_length :], header.endian, header.unix_fds)
    except RemoteProtocolError:
        return False
    return True


MALFORMED = dict(vectors.malformed(TO))
ODD = dict(vectors.odd(TO))


@pytest.mark.parametrize("name", MALFORMED)
def test_each_malformed_message_is_refused(name: str) -> None:
    assert not is_valid(MALFORMED[name])


@pytest.mark.parametrize("name", ODD)
def test_each_odd_message_is_valid(name: str) -> None:
    assert is_valid(ODD[name])


def test_a_bus_refuses_and_takes_the_same(bus: Bus) -> None:
    sink = bus.connect()
    wrong = []
    for name, raw in vectors.malformed(sink.name):
        client = bus.connect()
        client.write(raw)
        try:
            client.sync()
            wrong.append(name)
        except EOFError:
            client.close()
    for name, raw in vectors.odd(sink.name):
        client = bus.connect()
        client.write(raw)
        try:
            client.sync()
        except EOFError:
            wrong.append(name)
        client.close()
    assert wrong == []


elements = st.text("abXY_", min_size=1, max_size=8)
dotted = st.lists(elements, min_size=2, max_size=4).map(".".join)
headers = st.fixed_dictionaries({
    "type": st.integers(1, 255), "endian": st.sampled_from("lB"), "flags": st.integers(0, 255),
    "serial": st.integers(1, 2**32 - 1), "body_length": st.integers(0, 1 << 26), "path": paths,
    "interface": dotted, "member": elements, "error_name": dotted, "reply_serial": st.integers(1, 2**32 - 1),
    "destination": st.none() | dotted, "sender": st.none() | dotted,
    "signature": st.sampled_from(["", "s", "a{sv}", "(yu)ao"]), "unix_fds": st.integers(0, 253),
})  # fmt: skip


@given(headers)
def test_what_is_built_is_parsed_again(given_: dict[str, Any]) -> None:
    # the bus broadcasts signals, which have neither
    left_out = {"error_name", "reply_serial"} if given_["type"] == SIGNAL else set()
    kept = {name: value for name, value in given_.items() if name not in left_out}
    raw = build(kept.pop("type"), **kept)
    header = parse(raw)
    assert header.header_length == len(raw) and len(raw) % 8 == 0 and not header.has_unknown_fields
    assert frame_length(raw) == len(raw) + given_["body_length"]
    assert all(getattr(header, name) == value for name, value in kept.items() if name in (*FIELDS, *REST))
    assert not any(getattr(header, name) for name in left_out)


UNKNOWN = [(60, "s", "zz"), (10, "o", "/c"), (200, "a{sv}", {"a": ("y", 1)}), (60, "x", 2), (255, "y", 3)]
unknown = st.lists(st.sampled_from(UNKNOWN), max_size=3, unique_by=repr)  # a second container is refused


@given(headers, unknown, st.randoms(use_true_random=False))
def test_a_stamp_changes_the_sender_and_unknown_fields_and_nothing_else(
    given_: dict[str, Any], extra: list[Any], chance: Any
) -> None:
    fields = [(code, FIELDS[name], given_[name]) for code, name in enumerate(FIELDS, 1) if given_[name]]
    fields += extra
    chance.shuffle(fields)
    body = b"body"
    options = {name: given_[name] for name in ("endian", "flags")}
    raw = message(given_["type"], given_["serial"], fields, body, **options)
    header = parse(raw)
    assert header.has_unknown_fields == bool(extra)
    stamped = stamp(raw, header, ":1.42")
    after = parse(stamped)
    assert values_of(after) == {**values_of(header), "sender": ":1.42"}
    assert [getattr(after, name) for name in REST[:5]] == [getattr(header, name) for name in REST[:5]]
    assert after.header_length == len(stamped) and not after.has_unknown_fields
    seen = client_parse(stamped + body)
    expected = [code for code, _, _ in fields if code < 10]
    assert seen.codes == (expected if SENDER in expected else [*expected, SENDER]) and seen.body == body


@given(bodies, st.sampled_from("lB"), edits, cuts)
def test_no_bytes_make_it_fail(
    pair: tuple[str, tuple[Any, ...]], endian: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    signature, values = pair
    body = marshal(signature, *values, endian=endian)
    raw = mutated(vectors.call(TO, signature, body, (60, "v", ("s", "x")), endian=endian), changes, cut)
    try:
        frame_length(raw)
        header = parse(raw)
    except RemoteProtocolError:
        return
    stamped = stamp(raw, header, ":1.42")
    assert values_of(parse(stamped)) == {**values_of(header), "sender": ":1.42"}


@given(st.binary(max_size=80), st.sampled_from([b"l\1\0\1", b"B\4\0\1"]))
def test_random_bytes_make_it_fail_no_more(noise: bytes, start: bytes) -> None:
    for raw in (noise, start + noise):
        try:
            frame_length(raw)
            parse(raw)
        except RemoteProtocolError:
            continue


def test_the_length_is_known_from_16_bytes_on() -> None:
    raw = vectors.call(TO, "s", marshal("s", "hello"))
    assert [frame_length(raw[:n]) for n in range(16)] == [None] * 16
    assert {frame_length(raw[:n]) for n in range(16, len(raw))} == {len(raw)}
    assert frame_length(memoryview(raw)[:16]) == len(raw) == frame_length(bytearray(raw))


def test_the_largest_message_has_128_mib() -> None:
    header = build(CALL, serial=1, path="/", member="M", body_length=0)
    fits = build(CALL, serial=1, path="/", member="M", body_length=(1 << 27) - len(header))
    assert frame_length(fits) == 1 << 27
    with pytest.raises(RemoteProtocolError):
        frame_length(build(CALL, serial=1, path="/", member="M", body_length=(1 << 27) - len(header) + 1))


def test_a_message_with_no_room_for_the_sender_is_too_large_to_stamp() -> None:
    room = len(stamp(raw := build(CALL, serial=1, path="/", member="M"), parse(raw), ":1.42"))
    fits = build(CALL, serial=1, path="/", member="M", body_length=(1 << 27) - room)
    assert stamp(fits, parse(fits), ":1.42")
    large = build(CALL, serial=1, path="/", member="M", body_length=(1 << 27) - room + 1)
    with pytest.raises(TooLarge):
        stamp(large, parse(large), ":1.42")


def test_types_from_5_on_need_no_fields() -> None:
    for kind in (5, 255):
        header = parse(message(kind, 1, []))
        assert (header.type, header.path, header.signature, header.unix_fds) == (kind, None, "", 0)


def test_the_header_alone_is_enough_and_may_lie_in_any_buffer() -> None:
    raw = vectors.call(TO, "s", marshal("s", "hello"))
    header = parse(raw)
    for view in (memoryview(raw), bytearray(raw), memoryview(raw)[: header.header_length]):
        assert values_of(parse(view)) == values_of(header)
        assert stamp(view, header, ":1.1") == stamp(raw, header, ":1.1")
    for length in range(header.header_length):
        with pytest.raises(RemoteProtocolError):
            parse(raw[:length])


def test_equal_fields_in_another_message_keep_their_own_fixed_part() -> None:
    first = parse(build(CALL, serial=1, flags=0, path="/a", member="M"))
    second = parse(build(CALL, serial=2, flags=4, path="/a", member="M", body_length=0))
    signal = build(CALL, serial=2, path="/a", member="M")
    assert (first.serial, first.flags, second.serial, second.flags) == (1, 0, 2, 4)
    with pytest.raises(RemoteProtocolError):
        parse(signal[:1] + bytes([SIGNAL]) + signal[2:])


def test_fields_are_read_in_the_byte_order_of_their_message() -> None:
    little = build(CALL, serial=1, path="/a", member="M", reply_serial=0x01020304)
    big = build(CALL, endian="B", serial=1, path="/a", member="M", reply_serial=0x01020304)
    assert parse(little).reply_serial == parse(big).reply_serial == 0x01020304


def test_unknown_fields_may_be_many_but_not_without_end() -> None:
    def with_unknown(count: int) -> bytes:
        return message(CALL, 1, [(PATH, "o", "/a"), (MEMBER, "s", "M"), *[(60, "y", 1)] * count])

    raw = with_unknown(400)
    assert len(stamp(raw, parse(raw), ":1.1")) < 100
    with pytest.raises(RemoteProtocolError):
        parse(with_unknown(4000))


def test_a_long_path_is_no_obstacle() -> None:
    path = "/a" * (1 << 20)
    raw = build(CALL, serial=1, path=path, member="M")
    assert parse(raw).path == path
    with pytest.raises(RemoteProtocolError):
        parse(build(CALL, serial=1, path=path + "/", member="M"))


def test_dbus_fast_reads_what_is_built_and_writes_what_is_parsed() -> None:
    body = wire.marshal("sa{sv}", "x", {"a": Variant("as", ["b"])})
    raw = build(
        SIGNAL, serial=3, path="/a", interface="a.b", member="M", sender=":1.5", destination=":1.6",
        signature="sa{sv}", body_length=len(body),
    ) + body  # fmt: skip
    read = _dbus_fast(raw)
    assert (read.path, read.interface, read.member, read.sender, read.destination, read.serial) == (
        "/a", "a.b", "M", ":1.5", ":1.6", 3,
    )  # fmt: skip
    assert read.body[0] == "x" and read.body[1]["a"].value == ["b"]
    theirs = Message(
        message_type=MessageType.ERROR, error_name="a.B", reply_serial=9, destination=":1.2", serial=4,
        signature="s", body=["text"],
    )  # fmt: skip
    header = parse(bytes(theirs._marshall(False)))
    assert (header.type, header.error_name, header.reply_serial) == (ERROR, "a.B", 9)
    assert (header.destination, header.signature) == (":1.2", "s")


def _dbus_fast(raw: bytes) -> Message:
    read = Unmarshaller(io.BytesIO(raw)).unmarshall()  # type: ignore[arg-type]
    assert read is not None
    return read


@given(bodies)
def test_the_bus_s_own_bodies_are_those_of_the_format(pair: tuple[str, tuple[Any, ...]]) -> None:
    signature, values = pair
    for endian in "lB":
        read = wire.unmarshal(signature, marshal(signature, *values, endian=endian), endian)
        assert wire.marshal(signature, *read) == marshal(signature, *values)
        assert read == values


def test_a_bus_writes_its_own_messages_in_the_same_order_of_fields(bus: Bus) -> None:
    client = bus.connect()
    client.match("type='signal'")
    returned = client.reply(client.call(BUS, "GetId", path=BUS_PATH, interface=BUS))
    empty = client.reply(client.call(BUS, "Ping", path=BUS_PATH, interface="org.freedesktop.DBus.Peer"))
    failed = client.reply(client.call(BUS, "NoSuch", path=BUS_PATH, interface=BUS))
    client.own("a.B")
    changed, acquired = client.receive(), client.receive()
    assert (changed.member, acquired.member) == ("NameOwnerChanged", "NameAcquired")
    for got in (returned, empty, failed, changed, acquired):
        built = build(
            got.type, serial=got.serial, flags=got.flags, body_length=len(got.body), path=got.path,
            interface=got.interface, member=got.member, error_name=got.error_name,
            reply_serial=got.reply_serial or 0, destination=got.destination, sender=got.sender,
            signature=got.signature,
        )  # fmt: skip
        assert built + got.body == got.raw, got


def test_a_bus_stamps_every_message_to_the_same_bytes(bus: Bus) -> None:
    sender, sink = bus.connect(), bus.connect()
    for name, raw in vectors.odd(sink.name):
        if raw[1] != CALL:
            continue
        sender.write(raw)
        sender.sync()
        header = parse(raw)
        expected = stamp(raw, header, sender.name) + raw[header.header_length :]
        got = sink.receive()
        assert got.raw == expected, name
        sink.send(RETURN, to=sender.name, reply_to=got.serial)
        sender.receive()
