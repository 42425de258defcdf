"""The seed document: a D-Bus body of its own few lines of codec, with dbus_fast as the oracle."""

from __future__ import annotations

import pytest
from bus1_services.body import decode as decode_body
from bus1_services.body import encode as encode_body
from bus1_services.seed import SIGNATURE, SeedDocument, decode, encode
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import LocalProtocolError, RemoteProtocolError, TooLarge

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
paths = st.from_regex(r"/|(/[A-Za-z0-9_]{1,6}){1,3}", fullmatch=True)
bus_names = st.from_regex(r"[a-z_-][a-z0-9_-]{0,5}(\.[a-z_-][a-z0-9_-]{0,5}){1,2}", fullmatch=True)
documents = st.builds(
    SeedDocument, texts,
    st.dictionaries(bus_names, st.integers(0, 0xFFFF_FFFF), max_size=3).map(lambda d: tuple(d.items())),
    st.dictionaries(paths, texts, max_size=3).map(lambda d: tuple(d.items())),
)
DOCUMENT = SeedDocument("A clock", (("org.example.Clock", 4),), (("/a", "<interface/>"), ("/b", "")))
BODY = encode(DOCUMENT)


@given(documents)
def test_what_encode_writes_decode_reads(document: SeedDocument) -> None:
    assert decode(encode(document)) == document


@given(documents)
def test_the_document_is_a_dbus_body(document: SeedDocument) -> None:
    body = encode(document)
    assert body == encode_body(SIGNATURE, (document.title, document.names, document.objects)).data
    title, names, objects = decode_body(SIGNATURE, body, "l")
    assert (title, tuple(names), tuple(objects)) == (document.title, document.names, document.objects)


@pytest.mark.parametrize("document", [
    SeedDocument("a\0b"),
    SeedDocument("\ud800"),
    SeedDocument("", ((":1.5", 0),)),
    SeedDocument("", (("nodot", 0),)),
    SeedDocument("", (("a.b", -1),)),
    SeedDocument("", (("a.b", 1 << 32),)),
    SeedDocument("", (("a.b", 0), ("a.b", 4))),
    SeedDocument("", (), (("", ""),)),
    SeedDocument("", (), (("/a/", ""),)),
    SeedDocument("", (), (("/a", ""), ("/a", "x"))),
    SeedDocument("", (), (("/a", "\0"),)),
])
def test_encode_refuses_what_decode_would_refuse(document: SeedDocument) -> None:
    with pytest.raises(LocalProtocolError):
        encode(document)


@pytest.mark.parametrize(("title", "names", "objects"), [
    ("", [(":1.5", 0)], []),
    ("", [("a.b", 0), ("a.b", 0)], []),
    ("", [], [("/a", ""), ("/a", "")]),
])
def test_decode_refuses_a_wrong_document_in_a_right_body(
    title: str, names: list[tuple[str, int]], objects: list[tuple[str, str]]
) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(encode_body("sa(su)a(ss)", (title, names, objects)).data)


def test_every_shorter_or_longer_body_is_refused() -> None:
    for size in range(len(BODY)):
        with pytest.raises(RemoteProtocolError):
            decode(BODY[:size])
    with pytest.raises(RemoteProtocolError):
        decode(BODY + b"\0")


@given(st.binary(max_size=60), st.integers(0, len(BODY)))
def test_hostile_bytes_give_a_document_or_a_protocol_error(data: bytes, at: int) -> None:
    for hostile in (data, BODY[:at] + data + BODY[at + len(data) :]):
        try:
            document = decode(hostile)
        except RemoteProtocolError:
            continue
        assert encode(document) == hostile


@pytest.mark.parametrize(("max_names", "max_objects"), [(2, 9), (9, 2)])
def test_decode_stops_where_there_are_more_names_or_objects_than_allowed(
    max_names: int, max_objects: int
) -> None:
    three = SeedDocument("t", (("a.a", 0), ("a.b", 0), ("a.c", 0)), (("/a", ""), ("/b", ""), ("/c", "")))
    with pytest.raises(TooLarge):
        decode(encode(three), max_names, max_objects)
    assert decode(encode(three), 3, 3) == three
