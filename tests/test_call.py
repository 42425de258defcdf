"""The envelope: what is written is read, and nothing but RemoteProtocolError comes out of hostile bytes."""

from __future__ import annotations

import subprocess
import sys
from struct import pack_into

import pytest
from bus1_services.call import CallFlag, Envelope, Kind, decode, encode
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import LocalProtocolError, RemoteProtocolError

CALL = Envelope(Kind.CALL, 0, "l", 7, "org.example.A1", "Do", "so", ((0, 1),), 16)
WHOLE = encode(CALL) + bytes(16)

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,9}(\.[A-Za-z_][A-Za-z0-9_]{0,9}){1,3}", fullmatch=True)
members = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,20}", fullmatch=True)
numbers = st.integers(0, 0xFFFF_FFFF)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    kind = draw(st.sampled_from(Kind))
    interface = {
        Kind.CALL: st.one_of(st.just(""), names), Kind.SIGNAL: names,
    }.get(kind, st.just(""))
    member = {Kind.RETURN: st.just(""), Kind.ERROR: names}.get(kind, members)
    signature, length = draw(st.sampled_from([("", 0), ("u", 4), ("aos", 3000), ("a{sv}", 64)]))
    ordinals = sorted(draw(st.sets(numbers, max_size=4)))
    return Envelope(
        kind, draw(st.integers(0, 255)), draw(st.sampled_from("lB")), draw(numbers), draw(interface),
        draw(member), signature, tuple((ordinal, draw(numbers)) for ordinal in ordinals), length,
    )


@given(envelopes())
def test_what_encode_writes_decode_reads(envelope: Envelope) -> None:
    head = encode(envelope)
    assert len(head) % 8 == 0
    assert decode(head + bytes(envelope.body_length)) == (envelope, len(head))


def test_the_layout_is_the_documented_one() -> None:
    assert WHOLE[:24] == bytes.fromhex("b1010100 6c000100 07000000 10000000 0e00 0200 0200 0000")
    assert WHOLE[24:32] == bytes.fromhex("0000000001000000")
    assert WHOLE[32:] == b"org.example.A1Doso" + bytes(6) + bytes(16)


def test_a_body_may_follow_in_a_buffer_that_is_not_copied() -> None:
    envelope, offset = decode(memoryview(bytearray(WHOLE)))
    assert (envelope, offset) == (CALL, len(WHOLE) - 16)


@pytest.mark.parametrize(("at", "layout", "value", "complaint"), [
    (0, "B", 0x6C, "not an envelope"),
    (1, "B", 2, "not an envelope"),
    (2, "B", 0, "no such kind"),
    (2, "B", 5, "no such kind"),
    (4, "B", 0, "byte order"),
    (4, "B", ord("b"), "byte order"),
    (5, "B", 1, "reserved"),
    (22, "<H", 1, "reserved"),
    (6, "<H", 2, "the envelope says"),
    (6, "<H", 0xFFFF, "the envelope says"),
    (12, "<I", 15, "the envelope says"),
    (12, "<I", 17, "the envelope says"),
    (12, "<I", 0xFFFF_FFFF, "a body of"),
    (16, "<H", 13, "not zero"),
    (16, "<H", 0xFFFF, "a name of"),
    (18, "<H", 0, "the envelope says"),
    (18, "<H", 1, "not zero"),
    (20, "<H", 0, "the envelope says"),
    (20, "<H", 1, "not zero"),
    (32, "B", ord("1"), "interface"),
    (32, "B", 0, "interface"),
    (32, "B", 0xC3, "not ASCII"),
    (46, "B", ord("."), "member"),
    (48, "B", ord("z"), "no type"),
    (55, "B", 1, "padding"),
])
def test_every_field_that_is_wrong_is_refused(at: int, layout: str, value: int, complaint: str) -> None:
    broken = bytearray(WHOLE)
    pack_into(layout, broken, at, value)
    with pytest.raises(RemoteProtocolError, match=complaint):
        decode(broken)


@pytest.mark.parametrize("size", [0, 1, 23, 24, 31, 55, len(WHOLE) - 1])
def test_a_message_that_ends_early_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE[:size])


def test_a_message_that_goes_on_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode(WHOLE + b"\0")


@pytest.mark.parametrize("caps", [((1, 0), (0, 0)), ((0, 0), (0, 1))])
def test_ordinals_of_capabilities_rise(caps: tuple[tuple[int, int], ...]) -> None:
    head = bytearray(encode(Envelope(Kind.RETURN, signature="o", caps=((0, 0), (1, 1)), body_length=8)))
    pack_into("<IIII", head, 24, *(number for cap in caps for number in cap))
    with pytest.raises(RemoteProtocolError, match="order"):
        decode(head + bytes(8))


@pytest.mark.parametrize("envelope", [
    Envelope(Kind.CALL, member="A.B"),
    Envelope(Kind.CALL, interface="noDot", member="A"),
    Envelope(Kind.CALL, interface="a." + "b" * 254, member="A"),
    Envelope(Kind.SIGNAL, member="A"),
    Envelope(Kind.RETURN, member="A"),
    Envelope(Kind.RETURN, interface="a.b"),
    Envelope(Kind.ERROR, member="A"),
    Envelope(Kind.ERROR, interface="a.b", member="a.b"),
    Envelope(Kind.RETURN, signature="u"),
    Envelope(Kind.RETURN, body_length=4),
    Envelope(Kind.RETURN, signature="(", body_length=4),
    Envelope(Kind.RETURN, endian="x"),
    Envelope(Kind.RETURN, flags=256),
    Envelope(Kind.RETURN, serial=-1),
    Envelope(Kind.RETURN, serial=1 << 32),
    Envelope(Kind.RETURN, signature="ay", body_length=(128 << 20) + 1),
    Envelope(Kind.RETURN, signature="o", caps=((1, 0), (1, 0)), body_length=8),
    Envelope(Kind.RETURN, signature="o", caps=((0, 1 << 32),), body_length=8),
])
def test_encode_refuses_what_decode_would_refuse(envelope: Envelope) -> None:
    with pytest.raises(LocalProtocolError):
        encode(envelope)


@given(st.binary(max_size=200), st.integers(0, len(WHOLE)))
def test_hostile_bytes_give_an_envelope_or_a_protocol_error(data: bytes, at: int) -> None:
    for hostile in (data, WHOLE[:at] + data + WHOLE[at + len(data) :]):
        try:
            envelope, offset = decode(hostile)
        except RemoteProtocolError:
            continue
        assert encode(envelope) == hostile[:offset]


def test_unknown_flags_are_kept() -> None:
    envelope = Envelope(Kind.CALL, 0x83, member="A")
    assert decode(encode(envelope))[0].flags == 0x83
    assert not envelope.expects_reply


def test_only_a_call_without_no_reply_expects_a_reply() -> None:
    assert Envelope(Kind.CALL, CallFlag.NO_AUTO_START, member="A").expects_reply
    assert not Envelope(Kind.SIGNAL, interface="a.b", member="A").expects_reply


def test_the_daemon_can_import_it_without_a_dbus_library_or_an_event_loop() -> None:
    code = (
        "import sys, bus1_services.call, bus1_services.seed, bus1_services.types\n"
        "print(*sorted({'anyio', 'asyncio', 'dbus_fast'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
