"""The codec in Python and the native one: the same answers, the same errors in the same words."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import vectors
from bus1_bridge import walk, wire
from bus1_services.types import ObjectPath
from dbus_client import marshal, message
from dbus_values import bodies, cuts, edits, mutated, paths, u32
from hypothesis import example, given
from hypothesis import strategies as st
from test_external_messages import INVALID, VALID

from bus1.core.api import Buffer
from bus1.errors import Bus1Error

native = pytest.importorskip("bus1._native")

TO = ":1.7"
CORPUS = Path(__file__).parent.parent / "fuzz" / "corpus"
FIELDS = {
    "path": "o", "interface": "s", "member": "s", "error_name": "s", "reply_serial": "u",
    "destination": "s", "sender": "s", "signature": "g", "unix_fds": "u",
}  # fmt: skip
"""Known fields with their types, in the order of their codes from 1."""
MESSAGES = {**dict(vectors.malformed(TO)), **dict(vectors.without_descriptors(TO)), **dict(vectors.odd(TO))}
BODIES = [*vectors.BODIES.values(), *vectors.DESCRIPTORS.values()]
endians = st.sampled_from("lB")


def outcome(action: Callable[..., Any], *given_: Any, **options: Any) -> Any:
    """What it returns, or the class and the text of what it raises."""
    try:
        return action(*given_, **options)
    except Bus1Error as error:
        return type(error), str(error)


def told(header: Any) -> Any:
    """All that a header says, with the types of it; an error as it is."""
    if isinstance(header, tuple):
        return header
    values = {name: getattr(header, name) for name in wire.Header.__slots__}
    return {name: (type(value), value) for name, value in values.items()}


def same_message(raw: Buffer) -> None:
    """Framing, header and stamp are the same."""
    assert outcome(native.frame_length, raw) == outcome(wire.frame_length, raw)
    ours, theirs = outcome(native.parse_header, raw), outcome(wire.parse, raw)
    assert told(ours) == told(theirs)
    if isinstance(theirs, wire.Header):
        for sender in (":1.42", ":1.4294967296", "a.b"):
            assert outcome(native.stamp_header, raw, ours, sender) == outcome(wire.stamp, raw, theirs, sender)


def stepped(check: Callable[..., Any], budgets: Sequence[int], *of: Any) -> Any:
    """Every answer of every step, what is left in the end, and the paths on the way."""
    found: list[str] = []
    answers: list[Any] = []
    try:
        machine = check(*of, found)
        while not answers or answers[-1] is False:
            answers.append(machine.step(budgets[len(answers) % len(budgets)]))
        answers.append(machine.left)
    except Bus1Error as error:
        answers.append((type(error), str(error)))
    return answers, found


def same_body(signature: str, body: Buffer, endian: str, *budgets: int) -> None:
    """The verdict is the same, and with a budget every single step."""
    of = (signature, body, endian)
    for n_fds in (0, 2, walk.ANY_FD):
        verdict = outcome(walk.check_body, *of, n_fds)
        assert outcome(native.check_body, *of, n_fds) == verdict
    machines = (native.BodyCheck, walk.BodyCheck)
    ours, theirs = (stepped(check, budgets or (1 << 62,), *of, walk.ANY_FD) for check in machines)
    assert ours == theirs
    if verdict is None:
        both = [read(*of, limit) for read in (native.arguments, walk.arguments) for limit in (64, 2)]
        assert both[:2] == both[2:] and both[0] == native.arguments(*of)
        assert [type(value) for value in both[0]] == [type(value) for value in both[2]]


# ---- headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MESSAGES)
def test_each_vector_is_judged_alike_at_every_length(name: str) -> None:
    raw = MESSAGES[name]
    for length in range(min(len(raw), 300) + 1):
        same_message(raw[:length])
    same_message(raw)


@pytest.mark.parametrize("endian", "lB")
def test_each_byte_of_a_header_may_be_wrong(endian: str) -> None:
    more = {"signature": "a{sv}", "reply_serial": 3, "error_name": "e.F", "unix_fds": 1, "sender": ":1"}
    fields = [*vectors.fields_of(TO, **more), (60, "(sv)", ("x", ("y", 1))), (10, "o", "/c")]
    others = {0, 1, 7, 10, 0x2E, 0x2F, 0x41, 0x7F, 0x80, 0xFF}
    for kind in range(1, 6):
        raw = message(kind, 1, fields, b"body", endian=endian)
        for at, byte in enumerate(raw):
            for other in {*others, byte ^ 1, byte ^ 0x80, (byte + 1) % 256}:
                same_message(vectors.patched(raw, at, bytes([other])))


texts = st.text(":./-_aZ09é \0", max_size=12) | st.sampled_from([
    ":1.5", ":", "a.b", "/a/b", "a", "x." + "y" * 253, "x." + "y" * 254, "M" * 255, "M" * 256,
    "/" + "p" * 300, "/" + "p" * 300 + "/", "/p-" + "p" * 300, wire.LOCAL_PATH, wire.LOCAL_INTERFACE,
])  # fmt: skip
UNKNOWN = [(60, "s", "zz"), (10, "o", "/c"), (200, "a{sv}", {"a": ("y", 1)}), (255, "y", 3)]
unknown = st.lists(st.sampled_from(UNKNOWN), max_size=3)
named = st.sampled_from(["path", "interface", "member", "error_name", "destination"])


@given(
    st.integers(0, 5), endians, st.dictionaries(named, texts), unknown, st.randoms(use_true_random=False)
)
@example(1, "l", {"path": "/a", "member": "M", "destination": ":.1"}, [], None)
@example(1, "l", {"path": "/a", "member": "M", "destination": ":1.-"}, [], None)
def test_names_are_judged_alike(
    kind: int, endian: str, given_: dict[str, str], extra: list[Any], chance: Any
) -> None:
    known = {"path": "/a", "interface": "a.b", "member": "M", "error_name": "e.F", "destination": TO}
    codes = list(FIELDS)
    fields: list[tuple[int, str, Any]] = [
        (codes.index(name) + 1, FIELDS[name], text) for name, text in {**known, **given_}.items()
    ]
    fields += [(5, "u", 3), (8, "g", "s"), *extra]
    if chance is not None:
        chance.shuffle(fields)
    same_message(message(kind, 1, fields, endian=endian))


@given(bodies, endians, edits, cuts, st.booleans())
def test_changed_messages_are_judged_alike(
    pair: tuple[str, tuple[Any, ...]], endian: str, changes: list[tuple[int, int]], cut: int | None,
    is_unknown: bool,
) -> None:
    signature, values = pair
    body = marshal(signature, *values, endian=endian)
    extra = [(60, "v", ("s", "x"))] if is_unknown else []
    same_message(mutated(vectors.call(TO, signature, body, *extra, endian=endian), changes, cut))


STARTS = [b"", b"l\1\0\1", b"B\4\0\1", b"l\2\0\1\0\0\0\0\1\0\0\0\x20\0\0\0"]


@given(st.binary(max_size=80), st.sampled_from(STARTS))
def test_noise_is_judged_alike(noise: bytes, start: bytes) -> None:
    same_message(start + noise)


def test_unknown_fields_are_too_many_at_the_same_byte() -> None:
    def with_unknown(count: int, path: str) -> bytes:
        return message(1, 1, [(1, "o", path), (3, "s", "M"), *[(60, "y", 1)] * count])

    def is_valid(count: int) -> bool:
        return isinstance(outcome(wire.parse, with_unknown(count, "/")), wire.Header)

    most = max(filter(is_valid, range(400, 600)))
    assert not is_valid(599)
    verdicts = set()
    for length in range(1, 200):
        raw = with_unknown(most, "/" + "p" * length)
        same_message(raw)
        verdicts.add(type(outcome(wire.parse, raw)))
    assert len(verdicts) == 2


@pytest.mark.parametrize("pad", range(9))
def test_there_is_room_for_the_sender_up_to_the_same_byte(pad: int) -> None:
    raw = wire.build(wire.CALL, serial=1, path="/" + "p" * (pad + 1), member="M")
    room = len(wire.stamp(raw, wire.parse(raw), ":1.42"))
    for more in (-1, 0, 1):
        same_message(vectors.patched(raw, 4, u32((1 << 27) - room + more)))
    same_message(vectors.patched(raw, 4, u32((1 << 27) - len(raw) + 1)))


def test_long_fields_are_read_alike() -> None:
    for path in ("/a" * (1 << 18), "/a" * (1 << 18) + "/", "/a" * 4000 + "-"):
        for kind in (1, 2):
            same_message(wire.build(kind, serial=1, path=path, member="M", reply_serial=1))


def test_a_header_may_lie_in_any_buffer() -> None:
    raw = vectors.call(TO, "s", marshal("s", "hello"), (60, "s", "zz"))
    for view in (bytearray(raw), memoryview(raw), memoryview(bytearray(b"x" + raw))[1:]):
        same_message(view)
    for empty in (b"", bytearray(), memoryview(b"")):
        same_message(empty)


@given(st.fixed_dictionaries({}, optional={
    "endian": endians, "flags": st.integers(0, 255), "body_length": st.integers(0, 1 << 27), "path": paths,
    "interface": texts, "member": texts, "error_name": texts, "reply_serial": st.integers(0, 2**32 - 1),
    "destination": st.none() | texts, "sender": st.none() | texts, "unix_fds": st.integers(0, 253),
    "signature": st.sampled_from(["", "s", "a{sv}"]),
}), st.integers(1, 5))  # fmt: skip
def test_headers_of_the_bus_are_built_alike(given_: dict[str, Any], kind: int) -> None:
    assert native.build_header(kind, serial=7, **given_) == wire.build(kind, serial=7, **given_)


# ---- bodies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("signature", "body"), BODIES)
def test_each_wrong_body_is_judged_alike(signature: str, body: bytes) -> None:
    for endian in "lB":
        for cut in range(max(0, len(body) - 200), len(body) + 1):
            same_body(signature, body[:cut], endian)
        for budget in (1, 40):
            same_body(signature, body, endian, budget)


@pytest.mark.parametrize("endian", "lB")
def test_each_byte_of_a_body_may_be_wrong(endian: str) -> None:
    body = marshal(vectors.EVERY_SIGNATURE, *vectors.EVERY_VALUE, endian=endian)
    for at, byte in enumerate(body):
        for other in {0, 1, 2, 5, 0x28, 0x61, 0x73, 0x7F, 0x80, 0xFF, byte ^ 1, (byte + 1) % 256}:
            same_body(vectors.EVERY_SIGNATURE, vectors.patched(body, at, bytes([other])), endian)


@given(bodies, endians, edits, cuts, st.lists(st.integers(1, 200), min_size=1, max_size=3))
def test_bodies_are_judged_alike_step_by_step(
    pair: tuple[str, tuple[Any, ...]], endian: str, changes: list[tuple[int, int]], cut: int | None,
    budgets: list[int],
) -> None:
    signature, values = pair
    body = marshal(signature, *values, endian=endian)
    same_body(signature, body, endian, *budgets)
    same_body(signature, mutated(body, changes, cut), endian, *budgets)


@given(st.text("ybasovgh(){}x'\"\\\n\0é€", max_size=10), st.binary(max_size=40), endians)
@example("'", b"", "l")
@example("'\"", b"", "l")
@example("\x80\xa0\xad\xe9", b"", "l")
@example("\udc80", b"", "l")
@example("y" * 256, b"", "l")
@example("é" * 256, b"", "l")
@example("a" * 33, b"", "l")
@example("a(" * 33, b"", "l")
@example("a{s" * 33, b"", "l")
@example("a{sv", b"", "l")
@example("a{}", b"", "l")
def test_signatures_are_judged_alike(signature: str, body: bytes, endian: str) -> None:
    same_body(signature, body, endian)
    none = (signature, b"", "l", 0)
    assert outcome(native.arguments, *none) == outcome(walk.arguments, *none)


nearly = st.text("ybasovgh(){}x'\"\\", max_size=12).map(str.encode)


@given(st.binary(max_size=12) | nearly, st.binary(max_size=30))
@example(bytes(range(128)), b"")
@example(bytes(range(128, 256)), b"")
@example(b"y" * 255, bytes(255))
def test_signatures_within_bodies_are_judged_alike(signature: bytes, value: bytes) -> None:
    text = bytes([len(signature)]) + signature + b"\0"
    for pad in range(9):
        same_body("g", text + bytes(pad), "l")
        same_body("v", text + bytes(pad) + value, "l", 50)
    same_body("vy", bytes([min(len(signature) + 9, 255)]) + signature + b"\0", "l")


def long_bodies() -> Iterator[tuple[str, bytes, Sequence[int]]]:
    """What is looked at in bulk, with places where it may be wrong."""
    chunk = walk.CHUNK
    around = (4, 4 + chunk - 1, 4 + chunk, 4 + chunk + 1)
    for length in (chunk - 2, chunk - 1, chunk, chunk + 1, chunk + 2, 2 * chunk + 3):
        wide = ("x" * (length % size) + char * (length // size) for size, char in ((3, "€"), (4, "😀")))
        for text in ("x" * length, "/a" * (length // 2), "/abc" * (length // 4), *wide):
            data = text.encode()
            body = u32(len(data)) + data + b"\0"
            for signature in "so":
                yield signature, body, (*around, len(body) - 2, len(body) - 1)
    for code in "bh":
        numbers = struct.pack("<I", 1) * chunk
        yield "a" + code, u32(len(numbers)) + numbers, (*around, len(numbers))


def test_long_values_are_judged_alike_across_all_chunks() -> None:
    for signature, body, places in long_bodies():
        same_body(signature, body, "l", walk.CHUNK)
        for at in places:
            for other in (b"\0", b"\2", b"/", b"//", b"\xe2", b"\x80"):
                same_body(signature, vectors.patched(body, at, other)[: len(body)], "l", 20_000)
        same_body(signature, body[:-1], "l", 50_000)


@pytest.mark.parametrize("endian", "lB")
def test_a_large_body_is_looked_at_where_it_lies(endian: str) -> None:
    body = bytearray(marshal("sao", "é" * (1 << 20), ["/a"] * 1000, endian=endian))
    view = memoryview(body)
    same_body("sao", view, endian, 1 << 16)
    same_body("sao", view[:-1], endian, 1 << 16)
    check = native.BodyCheck("sao", view, endian, 0)
    assert not check.step(100)
    body[-2:-1] = b"-"
    assert outcome(check.step, 1 << 62)[1] == "not an object path"


def test_containers_are_counted_alike() -> None:
    values: list[tuple[str, Any]] = [
        ("y", 1), ("(y)", (1,)), ("ay", b""), ("as", []), ("as", ["x"]), ("a(y)", [(1,)]),
    ]  # fmt: skip
    for signature, value in values:
        for depth in range(60, 67):
            same_body("v", vectors.nested_variants(depth, signature, value), "l", 333)
            body = bytes(8 * (depth % 2)) + vectors.nested_variants(depth, signature, value)
            same_body("t(v)" if depth % 2 else "(v)", body, "l", 333)
    for arrays in range(30, 34):
        same_body("a" * arrays + "v", u32(0), "l")


def test_what_fuzzers_found_and_what_others_test_with_is_judged_alike() -> None:
    files = sorted(path for path in CORPUS.rglob("*") if path.is_file())
    assert files
    for data in [path.read_bytes()[:2000] for path in files]:
        same_message(data)
        same_message(b"l\1\0\1" + data)
        for signature in ("v", "a{sv}", "asu"):
            same_body(signature, data, "B")
            same_body(signature, u32(len(data) - len(data) % 4) + data, "l", 500)
    for raw in (*VALID.values(), *INVALID.values()):
        same_message(raw)


def test_who_takes_the_paths_may_fail_and_stops_the_check() -> None:
    class Refusing:
        def append(self, path: str, /) -> None:
            raise LookupError(path)

    body = marshal("soo", "x", "/a", "/b")
    for check in (native.BodyCheck, walk.BodyCheck):
        with pytest.raises(LookupError, match="/a"):
            check("soo", body, "l", 0, Refusing()).step(1000)


def test_paths_are_told_before_the_rest_of_them_is_looked_at() -> None:
    path = b"/" + b"\xe9" * walk.CHUNK
    body = u32(len(path)) + path + b"\0"
    same_body("o", body, "l", 1)
    assert stepped(native.BodyCheck, [1], "o", body, "l", 0)[1] == [path.decode("latin-1")]


def test_arguments_of_both_are_strings_and_object_paths() -> None:
    body = marshal("sov", "é", "/a", ("s", "x"))
    got = native.arguments("sov", body, "l")
    assert got == ["é", "/a", None] and type(got[0]) is str and type(got[1]) is ObjectPath
