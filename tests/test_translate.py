"""Headers to envelopes and back, with dbus_fast as a second reader."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from bus1_bridge import codec, wire
from bus1_bridge.translate import Address, NativeCheck, NativeMessage, checked_message, to_envelope, to_header
from bus1_services import call
from bus1_services.call import Kind
from dbus_fast import MessageType
from hypothesis import given
from hypothesis import strategies as st
from mixed_bus import as_dbus_fast_reads_it, pack

from bus1.core.api import Buffer
from bus1.errors import InvalidArgument, TooLarge

ADDRESS = Address(":1.7", 42, ":1.9", "/a/b", 17)


def read_native(parts: Sequence[Buffer], n_fds: int) -> NativeMessage:
    """The message, checked at once."""
    check = NativeCheck(parts, n_fds)
    while check.step(1 << 30) is None:
        continue
    return check.message


@pytest.mark.parametrize("endian", ["l", "B"])
@pytest.mark.parametrize(("kind", "interface", "member"), [
    (Kind.CALL, "a.b", "C"), (Kind.CALL, "", "C"), (Kind.RETURN, "", ""), (Kind.ERROR, "", "a.b.Oops"),
    (Kind.SIGNAL, "a.b", "C"),
])
def test_an_envelope_becomes_the_header_that_it_says(
    kind: Kind, interface: str, member: str, endian: str
) -> None:
    body = b"\0\0\0\5" if endian == "B" else b"\5\0\0\0"
    message = read_native([pack(kind, interface, member, "u", body=body, endian=endian, flags=5)], 0)
    answers = kind in (Kind.RETURN, Kind.ERROR)
    address = Address(":1.7", 42, ":1.9", None if answers else "/a/b", 17 if answers else 0)
    data = to_header(message, address, with_fds=True) + bytes(message.body)
    oracle = as_dbus_fast_reads_it(data)
    assert oracle.message_type is MessageType(int(kind))
    assert (oracle.sender, oracle.destination, oracle.serial) == (":1.7", ":1.9", 42)
    assert (oracle.path or None, oracle.reply_serial or 0) == (address.path, address.reply_serial)
    assert (oracle.interface or "") == interface
    assert (oracle.error_name if kind is Kind.ERROR else oracle.member) in (member, None)
    assert (oracle.signature, oracle.body, oracle.flags.value) == ("u", [5], 5)


@given(
    st.sampled_from(["l", "B"]), st.integers(0, 255), st.integers(1, 2**32 - 1),
    st.sampled_from([1, 2, 3, 4]), st.booleans(),
)
def test_there_and_back_keeps_kind_flags_byte_order_names_and_signature(
    endian: str, flags: int, serial: int, type: int, has_interface: bool
) -> None:
    body = b"\0\0\0\0\0"
    named = type in (wire.CALL, wire.SIGNAL)
    interface = "org.example.Thing" if type == wire.SIGNAL or (named and has_interface) else None
    original = codec.build(
        type, endian=endian, flags=flags, serial=serial, body_length=len(body), signature="s",
        path="/a" if named else None, interface=interface, member="Frob" if named else None,
        error_name="a.b" if type == wire.ERROR else None, reply_serial=0 if named else 3, sender=":1.1",
        destination=":1.2",
    )
    envelope = to_envelope(codec.parse(original), serial=serial)
    message = read_native([envelope, body], 0)
    assert message.envelope.serial == serial
    again = to_header(message, Address(
        ":1.1", serial, ":1.2", "/a" if named else None, 0 if named else 3
    ), with_fds=True)
    assert again == original


@pytest.mark.parametrize("payload", [
    b"", b"l\1\0\1" + bytes(12), pack(Kind.CALL, "a.b", "C", "b", body=b"\2\0\0\0"),
    pack(Kind.CALL, "a.b", "C", "s", body=b"\1\0\0\0\xff\0"), pack(Kind.CALL, "a.b", "C", "u", body=bytes(5)),
    pack(Kind.CALL, "a.b", "C", "h", body=b"\1\0\0\0"),
    pack(Kind.SIGNAL, "org.freedesktop.DBus.Local", "Disconnected"),
    pack(Kind.ERROR, "", "org.freedesktop.DBus.Local"),
])
def test_what_dbus_cannot_carry_is_refused(payload: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read_native([payload], 1)


def test_the_payload_is_copied_unless_it_cannot_change() -> None:
    payload = pack(Kind.CALL, "a.b", "C", "s", "x")
    assert read_native([payload], 0).payload is payload
    buffer = bytearray(payload)
    message = read_native([memoryview(buffer)[:10], memoryview(buffer)[10:]], 0)
    buffer[:] = bytes(len(buffer))
    assert message.payload == payload


def test_sizes_beyond_dbus_are_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    message = read_native([pack(Kind.CALL, "a.b", "C", "ay", body=b"\4\0\0\0abcd")], 0)
    monkeypatch.setattr(wire, "MAX_MESSAGE", len(to_header(message, ADDRESS, with_fds=True)) + 7)
    with pytest.raises(TooLarge):
        to_header(message, ADDRESS, with_fds=True)


def test_a_check_takes_as_many_steps_as_its_budget_makes_it() -> None:
    body = wire.marshal("as", ["x"] * 1000)
    check = NativeCheck([pack(Kind.CALL, "a.b", "C", "as", body=body)], 0)
    n_steps = 1
    while (left := check.step(1000)) is None:
        n_steps += 1
    assert n_steps > len(body) // 1000
    assert left < 1000
    assert check.message == read_native([check.message.payload], 0)


def test_what_is_found_bad_in_a_later_step_is_refused_then() -> None:
    body = wire.marshal("as", ["x"] * 1000)[:-1] + b"!"
    check = NativeCheck([pack(Kind.CALL, "a.b", "C", "as", body=body)], 0)
    assert check.step(1000) is None
    with pytest.raises(InvalidArgument):
        while check.step(1000) is None:
            continue


def test_only_the_paths_that_capabilities_name_are_kept() -> None:
    body = wire.marshal("oao", "/a", ["/b", "/c"])
    assert read_native([pack(Kind.CALL, "a.b", "C", "oao", body=body)], 0).paths == {}
    with_caps = read_native([pack(Kind.CALL, "a.b", "C", "oao", body=body, caps=((1, 0), (7, 0)))], 0)
    assert with_caps.paths == {1: "/b"}


def test_a_message_whose_body_was_checked_is_read_as_one_that_is_checked() -> None:
    payload = pack(Kind.CALL, "a.b", "C", "oao", "/a", ["/b"], caps=((1, 0),))
    assert checked_message([payload[:20], payload[20:]], 2, {1: "/b"}) == read_native([payload], 2)


def test_an_envelope_of_an_answer_drops_what_dbus_allows_beside_it() -> None:
    odd = codec.build(
        wire.RETURN, serial=1, reply_serial=2, interface="a.b", member="C", path="/x", sender=":1.1"
    )
    envelope, _ = call.decode(to_envelope(codec.parse(odd)))
    assert (envelope.kind, envelope.interface, envelope.member) == (Kind.RETURN, "", "")
