"""Bodies: every D-Bus type in both byte orders, capabilities, descriptors, hostile bytes."""

from __future__ import annotations

import math
import struct
from typing import Any

import pytest
from bus1_services.body import Reference, Variant, decode, encode
from bus1_services.types import ObjectPath, Type, single
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import InvalidArgument, RemoteProtocolError

INTEGERS = {"y": (0, 8), "n": (1, 16), "q": (0, 16), "i": (1, 32), "u": (0, 32), "x": (1, 64), "t": (0, 64)}
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
paths = st.from_regex(r"/|(/[A-Za-z0-9_]{1,4}){1,3}", fullmatch=True).map(ObjectPath)
signatures = st.recursive(
    st.sampled_from("ybnqiuxtdsogv"),
    lambda inner: st.one_of(
        inner.map("a{}".format),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({''.join(parts)})"),
        st.tuples(st.sampled_from("ybnqiuxtdsog"), inner).map("a{{{0[0]}{0[1]}}}".format),
    ),
    max_leaves=4,
)


def values_of(type_: Type) -> st.SearchStrategy[Any]:
    if type_.code in INTEGERS:
        signed, bits = INTEGERS[type_.code]
        return st.integers(-(1 << bits - 1) if signed else 0, (1 << bits - signed) - 1)
    if type_.code == "a":
        if type_.inside[0].code == "y":
            return st.binary(max_size=9)
        if type_.inside[0].code == "{":
            return st.dictionaries(*map(values_of, type_.inside[0].inside), max_size=3)
        return st.lists(values_of(type_.inside[0]), max_size=3)
    if type_.code == "(":
        return st.tuples(*map(values_of, type_.inside))
    if type_.code == "v":
        return st.sampled_from(["u", "s", "ay", "(ib)", "a{sv}", "v"]).flatmap(
            lambda text: values_of(single(text)).map(lambda value: Variant(text, value))
        )
    others = {"b": st.booleans(), "d": st.floats(allow_nan=False), "o": paths, "g": signatures}
    return others.get(type_.code, texts)


bodies = st.lists(signatures, min_size=1, max_size=3).flatmap(
    lambda parts: st.tuples(st.just("".join(parts)), st.tuples(*(values_of(single(part)) for part in parts)))
)


@given(bodies)
def test_values_of_every_type_survive(body: tuple[str, tuple[Any, ...]]) -> None:
    signature, values = body
    assert tuple(decode(signature, encode(signature, values).data, "l")) == values


def test_big_endian_bodies_are_read() -> None:
    body = struct.pack(">I2sHIxxxxqdII", 1, b"a\0", 0xABCD, 5, -2, 0.5, 4, 9)
    assert decode("squxdai", body, "B") == ["a", 0xABCD, 5, -2, 0.5, [9]]


@pytest.mark.parametrize(("signature", "value"), [
    ("au", [1, 2, 3]), ("ad", [math.pi]), ("ab", [True, False]), ("ax", []), ("an", [-1]), ("ay", b"\0\xff"),
])
def test_arrays_of_numbers_are_read_in_both_orders(signature: str, value: Any) -> None:
    little = encode(signature, [value]).data
    element = single(signature).inside[0]
    start = 8 if element.alignment == 8 else 4
    swapped = little[:4][::-1] + little[4:start] + b"".join(
        little[i : i + element.fixed][::-1] for i in range(start, len(little), element.fixed)
    )
    assert decode(signature, little, "l") == decode(signature, swapped, "B") == [value]


@pytest.mark.parametrize(("signature", "body"), [
    ("s", b"\xff\xff\xff\xff"), ("s", b"\xf0\xff\xff\xffabc\0"), ("ay", b"\xff\xff\xff\xff"),
    ("s", b"\1\0\0\0a"), ("s", b"\1\0\0\0ab"), ("s", b"\3\0\0\0a\0b\0"), ("s", b"\1\0\0\0\xff\0"),
    ("s", b"\3\0\0\0\xed\xa0\x80\0"), ("u", b"\1\0\0"), ("u", b"\1\0\0\0\0"), ("b", b"\2\0\0\0"),
    ("ab", b"\4\0\0\0\2\0\0\0"), ("yu", b"\1\1\0\0\1\0\0\0"), ("au", b"\3\0\0\0abc"), ("as", b"\5\0\0\0"),
    ("as", b"\1\0\0\0\1\0\0\0a\0"), ("o", b"\1\0\0\0a\0"), ("g", b"\1z\0"), ("g", b"\2u"), ("v", b"\0\0"),
    ("v", b"\2uu\0\1\0\0\0"), ("v", b"\1v\0" * 70 + b"\1y\0\1"), ("h", b"\0\0\0\0"),
    ("ah", b"\4\0\0\0\0\0\0\0"),
    ("a(y)", b"\1\0\0\0\1\0\0\0\1"), ("", b"\0"), ("a{yy}", b"\1\0\0\0\0\0\0\0\1"),
    ("ax", b"\4\0\0\0\0\0\0\0abcd"),
    ("au", b"\4\0\0\4\0\0\0\0"),
])
def test_a_wrong_body_is_refused(signature: str, body: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(signature, body, "l")


@given(bodies, st.binary(max_size=8), st.integers(0, 100), st.sampled_from("lB"))
def test_hostile_bytes_give_values_or_a_protocol_error(
    body: tuple[str, tuple[Any, ...]], noise: bytes, at: int, endian: str
) -> None:
    data = encode(*body).data
    hostile = data[:at] + noise + data[at + len(noise) :]
    try:
        values = decode(body[0], hostile, endian)
    except RemoteProtocolError:
        return
    assert len(encode(body[0], values).data) <= len(hostile)


@pytest.mark.parametrize(("signature", "values"), [
    ("u", [-1]), ("u", [1 << 32]), ("y", [256]), ("s", [1]), ("s", ["a\0b"]), ("s", ["\ud800"]), ("s", []),
    ("s", ["a", "b"]), ("(ss)", [("a",)]), ("(ss)", [("a", "b", "c")]), ("ay", [5]), ("ay", ["text"]),
    ("o", ["no path"]), ("o", [5]), ("v", ["bare"]), ("v", [Variant("uu", 1)]), ("a{sv}", [[1]]),
    ("g", ["z"]), ("z", [1]), ("as", [None]), ("(", [1]),
])
def test_values_that_do_not_fit_are_refused(signature: str, values: list[Any]) -> None:
    with pytest.raises(InvalidArgument):
        encode(signature, values)


@pytest.mark.parametrize(("signature", "value"), [
    ("v", Variant("i", 1 << 40)), ("v", Variant("u", "text")), ("i", 1.5), ("d", 10**400),
])
def test_what_the_marshaller_has_no_words_for_is_told_in_ours(signature: str, value: object) -> None:
    with pytest.raises(InvalidArgument, match=f"fit '{signature}': a wrong type, or beyond its range"):
        encode(signature, [value])


def test_values_nested_too_deep_are_refused() -> None:
    value = Variant("y", 1)
    for _ in range(70):
        value = Variant("v", value)
    with pytest.raises(InvalidArgument):
        encode("v", [value])


class Thing:
    """Something that is no string."""

    def __init__(self, path: str, number: int) -> None:
        self.granted = path, number


def grant(value: object) -> tuple[str, int] | None:
    return value.granted if isinstance(value, Thing) else None


def test_objects_become_paths_with_capabilities_and_back() -> None:
    clock, file = Thing("/org/bus1/cap/1", 8), Thing("/org/bus1/cap/2", 12)
    values = ["/plain", {"a": Variant("ao", ["/other", clock])}, (file, 1)]
    encoded = encode("oa{sv}(ou)", values, grant)
    assert encoded.grants == ((2, 8), (3, 12))
    read = decode("oa{sv}(ou)", encoded.data, "l", caps=[(2, 0), (3, 1)], handles=["h8", None])
    plain, entries, (reference, _) = read
    assert type(plain) is ObjectPath and plain == "/plain"
    inner = entries["a"].value[1]
    assert isinstance(inner, Reference) and (inner.path, inner.handle) == ("/org/bus1/cap/1", "h8")
    assert isinstance(reference, Reference) and reference.handle is None


@pytest.mark.parametrize("caps", [[(1, 0)], [(0, 1)], [(0, 0), (5, 0)]])
def test_a_capability_without_path_or_handle_is_refused(caps: list[tuple[int, int]]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode("o", encode("o", ["/a"]).data, "l", caps=caps, handles=["only"])


def test_descriptors_become_indices_and_back() -> None:
    encoded = encode("hah", [40, [50, 60]])
    assert encoded.fds == (40, 50, 60)
    assert encoded.data == struct.pack("<IIII", 0, 8, 1, 2)
    assert decode("hah", encoded.data, "l", fds=["a", "b", "c"]) == ["a", ["b", "c"]]
