"""Bodies as they lie: every rule of the format, at any budget (dbus-bus §3)."""

from __future__ import annotations

import struct
from typing import Any

import pytest
import vectors
from bus1_bridge.codec import BodyCheck, arguments, check_body
from bus1_bridge.walk import ANY_FD, CHUNK, VALUE_COST
from bus1_services.types import ObjectPath, Type, parse
from dbus_client import marshal
from dbus_fast import Message, MessageType
from dbus_fast.signature import Variant
from dbus_values import bodies, cuts, edits, mutated, u32
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.api import Buffer
from bus1.errors import RemoteProtocolError

MIB = 1 << 20
endians = st.sampled_from("lB")


def object_paths(signature: str, body: Buffer, endian: str) -> list[str]:
    """All object paths of a valid body."""
    paths: list[str] = []
    assert BodyCheck(signature, body, endian, ANY_FD, paths).step(1 << 62)
    return paths



def is_valid(signature: str, body: bytes | memoryview, endian: str = "l", n_fds: int = 0) -> bool:
    """The verdict, all at once."""
    try:
        check_body(signature, body, endian, n_fds)
    except RemoteProtocolError:
        return False
    return True


def steps(check: BodyCheck, budget: int) -> int | None:
    """How many steps it takes; None if the body is refused."""
    count = 1
    try:
        while not check.step(budget):
            count += 1
    except RemoteProtocolError:
        return None
    return count


@pytest.mark.parametrize("name", vectors.BODIES)
def test_each_malformed_body_is_refused(name: str) -> None:
    assert not is_valid(*vectors.BODIES[name])


@pytest.mark.parametrize("name", vectors.DESCRIPTORS)
def test_a_descriptor_index_stays_below_the_number_of_descriptors(name: str) -> None:
    signature, body = vectors.DESCRIPTORS[name]
    assert not is_valid(signature, body) and is_valid(signature, body, n_fds=1)


@given(bodies, endians)
def test_what_the_tests_marshal_is_valid(pair: tuple[str, tuple[Any, ...]], endian: str) -> None:
    signature, values = pair
    check_body(signature, marshal(signature, *values, endian=endian), endian, 0)


def test_every_type_is_valid_in_both_byte_orders() -> None:
    for endian in "lB":
        body = marshal(vectors.EVERY_SIGNATURE, *vectors.EVERY_VALUE, endian=endian)
        check_body(vectors.EVERY_SIGNATURE, body, endian, 0)
        assert not is_valid(vectors.EVERY_SIGNATURE, body, "lB"[endian == "l"])


def test_what_dbus_fast_marshals_is_valid() -> None:
    value = {"a": Variant("as", ["b", "c"]), "d": Variant("(ox)", ["/a", -1]), "e": Variant("aay", [b"x"])}
    message = Message(
        message_type=MessageType.SIGNAL, path="/a", interface="a.b", member="C", serial=1,
        signature="a{sv}bgd", body=[value, True, "a{sv}", 1.5],
    )  # fmt: skip
    raw = bytes(message._marshall(False))
    check_body("a{sv}bgd", raw[len(raw) - int.from_bytes(raw[4:8], "little") :], "l", 0)


@given(bodies, endians, edits, cuts, st.integers(1, 200))
def test_the_verdict_does_not_depend_on_the_budget(
    pair: tuple[str, tuple[Any, ...]], endian: str, changes: list[tuple[int, int]], cut: int | None,
    budget: int,
) -> None:
    signature, values = pair
    body = mutated(marshal(signature, *values, endian=endian), changes, cut)
    in_steps = steps(BodyCheck(signature, body, endian, 1), budget) is not None
    assert in_steps == is_valid(signature, body, endian, 1)


@given(st.text("ybasovgh(){}x", max_size=8), st.binary(max_size=64), endians, st.integers(0, 3))
def test_no_bytes_and_no_signature_make_it_fail(signature: str, body: bytes, endian: str, n_fds: int) -> None:
    if is_valid(signature, body, endian, n_fds):
        arguments(signature, body, endian)
        object_paths(signature, body, endian)


def test_an_array_of_fixed_size_is_one_step_however_long() -> None:
    for code, size in (("y", 1), ("n", 2), ("u", 4), ("d", 8)):
        length = 1 << 26
        body = memoryview(u32(length) + bytes((4 if size == 8 else 0) + length))
        assert steps(BodyCheck("a" + code, body, "l", 0), 2 * VALUE_COST) == 1
        assert not is_valid("a" + code, memoryview(u32(length + size) + bytes(4 + length + size)))


def test_a_step_does_no_more_than_its_budget_allows() -> None:
    many = 20000
    for signature, body, cost in (
        ("as", marshal("as", ["ab"] * many), many * VALUE_COST),
        ("av", marshal("av", [("y", 1)] * many), 2 * many * VALUE_COST),
        ("a(y)", marshal("a(y)", [(1,)] * many), 2 * many * VALUE_COST),
        ("s", marshal("s", "x" * (8 * CHUNK)), 8 * CHUNK),
        ("as", marshal("as", ["x" * (CHUNK - 1)] * 8), 8 * (CHUNK - 1)),
        ("ab", marshal("ab", [True] * (2 * CHUNK)), 8 * CHUNK),
    ):
        count = steps(BodyCheck(signature, body, "l", 0), CHUNK)
        assert count is not None and count >= cost // (2 * CHUNK)


def test_long_strings_are_checked_across_all_chunks() -> None:
    long = 2 * CHUNK
    for text in ("x" * long, "é" * long + "x", "x" + "é" * long, "xy" + "€" * long, "😀" * long + "xyz"):
        data = text.encode()
        body = u32(len(data)) + data + b"\0"
        assert is_valid("s", body)
        for at in (4, CHUNK + 3, CHUNK + 4, CHUNK + 5, len(body) - 2):
            assert not is_valid("s", body[:at] + b"\xff" + body[at + 1 :])
            assert not is_valid("s", body[:at] + b"\0" + body[at + 1 :])
        assert not is_valid("s", body[:-1] + b"x")
        assert not is_valid("s", body[:-1])
    assert not is_valid("s", u32(2 * CHUNK) + b"x" * (2 * CHUNK - 1) + b"\xc3\0")
    assert not is_valid("s", u32(2 * CHUNK) + b"\x80" * (2 * CHUNK) + b"\0")


def test_long_paths_are_checked_across_all_chunks() -> None:
    for unit in (b"/a", b"/abc"):
        data = unit * CHUNK
        body = u32(len(data)) + data + b"\0"
        assert is_valid("o", body)
        for at in (4, CHUNK + 3, CHUNK + 4, CHUNK + 5, len(body) - 2):
            assert not is_valid("o", body[:at] + b"-" + body[at + 1 :])
        for at in (4 + CHUNK - 1, 4 + CHUNK, len(body) - 3):
            assert not is_valid("o", body[:at] + b"//" + body[at + 2 :])
        assert not is_valid("o", body[:-2] + b"/\0")
        assert not is_valid("o", body[:-1] + b"a")
    assert object_paths("ov", u32(2 * CHUNK) + b"/a" * CHUNK + b"\0\1y\0\7", "l") == ["/a" * CHUNK]


def test_long_arrays_of_booleans_and_descriptors_are_checked_to_the_end() -> None:
    for endian in "lB":
        order = "<" if endian == "l" else ">"
        numbers = [1] * (CHUNK // 2)
        for at in (0, CHUNK // 4 - 1, CHUNK // 4, len(numbers) - 1):
            for code, wrong in (("ab", 2), ("ab", 1 << 24), ("ah", 2)):
                good = struct.pack(f"{order}I{len(numbers)}I", 4 * len(numbers), *numbers)
                assert is_valid(code, good, endian, 2)
                changed = [*numbers[:at], wrong, *numbers[at + 1 :]]
                bad = struct.pack(f"{order}I{len(numbers)}I", 4 * len(numbers), *changed)
                assert not is_valid(code, bad, endian, 2)


def test_a_large_view_is_judged_like_bytes() -> None:
    values = ("é" * MIB, "/a" * 10, ["x"], True)
    for endian in "lB":
        body = marshal("soasb", *values, endian=endian)
        assert is_valid("soasb", memoryview(body), endian)
        assert object_paths("soasb", memoryview(body), endian) == ["/a" * 10]
        assert arguments("soasb", memoryview(body), endian)[1:] == ["/a" * 10, None, None]
        for at in (5, MIB + 5, len(body) - 1, len(body) - 8):
            changed = body[:at] + b"\xff" + body[at + 1 :]
            assert not is_valid("soasb", memoryview(changed), endian)
        assert not is_valid("soasb", memoryview(body)[:-1], endian)


def test_nesting_is_counted_as_the_reference_counts_it() -> None:
    assert is_valid("v", vectors.nested_variants(64))
    assert is_valid("v", vectors.nested_variants(64, "a(y)", []))
    assert not is_valid("v", vectors.nested_variants(65))
    assert not is_valid("v", vectors.nested_variants(64, "(y)", (1,)))
    assert not is_valid("v", vectors.nested_variants(64, "as", ["x"]))
    assert is_valid("(v)", vectors.nested_variants(63)) and not is_valid("(v)", vectors.nested_variants(64))


def paths_in(type_: Type, value: Any) -> list[str]:
    """The object paths of a value, by the naive way."""
    if type_.code == "o":
        return [value]
    if type_.code == "v":
        return paths_in(parse(value[0])[0], value[1])
    if type_.code == "a" and not isinstance(value, bytes):
        elements = value.items() if isinstance(value, dict) else value
        return [path for element in elements for path in paths_in(type_.inside[0], element)]
    parts = zip(type_.inside, value, strict=True) if type_.code in "({" else ()
    return [path for inside, part in parts for path in paths_in(inside, part)]


@given(bodies, endians)
def test_object_paths_come_in_marshalling_order(pair: tuple[str, tuple[Any, ...]], endian: str) -> None:
    signature, values = pair
    body = marshal(signature, *values, endian=endian)
    pairs = zip(parse(signature), values, strict=True)
    expected = [path for type_, value in pairs for path in paths_in(type_, value)]
    assert object_paths(signature, body, endian) == expected


@given(bodies, endians, st.integers(0, 4))
def test_arguments_are_the_first_strings_and_paths(
    pair: tuple[str, tuple[Any, ...]], endian: str, limit: int
) -> None:
    signature, values = pair
    got = arguments(signature, marshal(signature, *values, endian=endian), endian, limit)
    kinds = {"s": str, "o": ObjectPath}
    pairs = list(zip(parse(signature), values, strict=True))[:limit]
    assert got == [value if type_.code in kinds else None for type_, value in pairs]
    assert [type(value) for value in got] == [kinds.get(type_.code, type(None)) for type_, _ in pairs]


def test_containers_before_an_argument_are_skipped_with_their_padding() -> None:
    for endian in "lB":
        containers: list[tuple[str, Any]] = [
            ("ax", []), ("ax", [1]), ("a{yx}", {1: 2}), ("a(yy)", []), ("v", ("d", 1.5)),
            ("(yv)", (1, ("x", 2))),
        ]  # fmt: skip
        for signature, value in containers:
            body = marshal(signature + "s", value, "x", endian=endian)
            assert arguments(signature + "s", body, endian)[-1] == "x"


def test_a_bad_signature_is_refused_before_the_first_step() -> None:
    with pytest.raises(RemoteProtocolError):
        BodyCheck("a", b"", "l", 0)


def test_a_check_can_collect_the_paths_on_its_way() -> None:
    paths: list[str] = []
    body = marshal("aov", ["/a", "/b"], ("(so)", ("x", "/c")))
    check = BodyCheck("aov", body, "l", 0, paths)
    while not check.step(1):
        pass
    assert paths == ["/a", "/b", "/c"]
    assert object_paths("su", marshal("su", "/x", 1), "l") == []
