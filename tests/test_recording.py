"""Recordings of conversations, and values as JSON and as words: what busctl writes and takes."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from bus1_services import ObjectPath, Variant
from bus1_services.body import decode, encode
from bus1_services.plain import PlainError, from_json, from_words, to_json, to_words
from bus1_services.recording import LINE_MAX, Message, RecordingError, exchanges, read, written
from bus1_services.types import Type, single
from buses import Bus
from dbus_values import types, values
from hypothesis import given, settings
from hypothesis import strategies as st

VALUES: list[tuple[str, tuple[Any, ...], str, list[Any]]] = [
    ("", (), "", []),
    ("as", (["a", "b c"],), 'as 2 "a" "b c"', [["a", "b c"]]),
    ("a{sv}", ({"One": Variant("s", "Eins"), "Two": Variant("au", [2])},),
     'a{sv} 2 "One" s "Eins" "Two" au 1 2',
     [{"One": {"type": "s", "data": "Eins"}, "Two": {"type": "au", "data": [2]}}]),
    ("ayb", (b"\0\xff", True), "ayb 2 0 255 true", [[0, 255], True]),
    ("(ox)d", ((ObjectPath("/a"), -(1 << 63)), 0.5), '(ox)d "/a" -9223372036854775808 0.5',
     [["/a", -(1 << 63)], 0.5]),
    ("a{ug}", ({7: "a{sv}"},), 'a{ug} 1 7 "a{sv}"', [{"7": "a{sv}"}]),
]


@pytest.mark.parametrize(("signature", "values", "words", "data"), VALUES)
def test_values_are_written_as_busctl_does_and_read_again(
    signature: str, values: tuple[Any, ...], words: str, data: list[Any]
) -> None:
    assert (to_words(signature, values), to_json(signature, values)) == (words, data)
    assert from_json(signature, json.loads(json.dumps(data))) == values


def test_words_are_those_that_busctl_takes() -> None:
    assert from_words("a{sv}", ["1", "One", "s", "Eins"]) == ({"One": Variant("s", "Eins")},)
    assert from_words("v", ["v", "s", "Eins"]) == (Variant("v", Variant("s", "Eins")),)
    assert from_words("bbb", ["yes", "ON", "1"]) == (True, True, True)
    assert from_words("ayiog", ["2", "0x10", "2", "-3", "/a", "as"]) == (b"\x10\2", -3, "/a", "as")
    assert from_words("(sad)", ["x", "1", "2.5"]) == (("x", [2.5]),)


@pytest.mark.parametrize(("signature", "words", "said"), [
    ("u", [], "a value of type 'u' is missing"),
    ("u", ["1", "2"], "'2' is one word more"),
    ("u", ["-1"], "-1 is not a value of type 'u'"),
    ("y", ["256"], "256 is not a value of type 'y'"),
    ("b", ["maybe"], "'maybe' is not a value of type 'b'"),
    ("d", ["x"], "'x' is not a value of type 'd'"),
    ("o", ["a"], "'a' is not a value of type 'o'"),
    ("g", ["a"], "no type at position 1"),
    ("as", ["-", "a"], "'-' is not a value of type 'as'"),
    ("as", ["999999999999"], "a value of type 's' is missing"),
    ("v", ["ss", "a", "b"], "not one complete type"),
    ("a{vs}", ["0"], "a dict entry"),
    ("v", ["v"] * 70 + ["s", "x"], "deeper than 64"),
])
def test_words_that_do_not_fit_are_refused(signature: str, words: list[str], said: str) -> None:
    with pytest.raises(PlainError, match=said.replace("(", "\\(")):
        from_words(signature, words)


@pytest.mark.parametrize(("signature", "data"), [
    ("s", {}), ("s", []), ("s", ["a", "b"]), ("s", [1]), ("s", ["\0"]), ("s", ["\ud800"]), ("u", [True]),
    ("u", ["1"]), ("n", [1 << 15]), ("b", [0]), ("d", ["1"]), ("d", [True]), ("as", ["a"]), ("ay", [[256]]),
    ("a{ss}", [[]]), ("a{us}", [{"x": ""}]), ("(ss)", [["a"]]), ("v", ["a"]), ("v", [{"type": "s"}]),
    ("v", [{"type": 1, "data": 1}]), ("v", [{"type": "", "data": 1}]), ("o", ["a//b"]), ("z", [1]),
    ("d", [10 ** 400]),
])
def test_json_that_does_not_fit_is_refused(signature: str, data: Any) -> None:
    with pytest.raises(PlainError):
        from_json(signature, data)


def test_what_json_has_no_number_for_is_text() -> None:
    values = (math.inf, -math.inf, math.nan)
    data = json.loads(json.dumps(to_json("ddd", values), allow_nan=False))
    assert [str(value) for value in from_json("ddd", data)] == ["inf", "-inf", "nan"]


@given(st.data())
@settings(max_examples=60)
def test_json_keeps_every_value(data: st.DataObject) -> None:
    type_ = single(data.draw(types("ybnqiuxtdsog")))
    value = data.draw(values(type_))
    body = encode(type_.signature, [wrapped(type_, value)]).data
    read_back = decode(type_.signature, body, "l")
    written = json.loads(json.dumps(to_json(type_.signature, read_back), allow_nan=False))
    assert list(from_json(type_.signature, written)) == read_back


def wrapped(type_: Type, value: Any) -> Any:
    """Variants as the library has them; the strategies make pairs of them."""
    match type_.code:
        case "v":
            signature, inside = value
            return Variant(signature, wrapped(single(signature), inside))
        case "a" if type_.inside[0].code == "{":
            return {k: wrapped(type_.inside[0].inside[1], v) for k, v in value.items()}
        case "a" if type_.inside[0].code != "y":
            return [wrapped(type_.inside[0], item) for item in value]
        case "(":
            return tuple(wrapped(inside, item) for inside, item in zip(type_.inside, value, strict=True))
    return value


# ---- messages --------------------------------------------------------------------------------------

CALL = Message("method_call", 3, 0, ":1.1", "a.b", "/", "a.b", "Get", "", "s", ("x",), 4, 99)
ANSWER = Message("method_return", 1, 3, ":1.2", ":1.1", signature="u", values=(7,))


def test_a_message_is_written_as_a_line_and_read_again() -> None:
    signal = Message("signal", 2, 0, ":1.2", "", "/a", "a.b", "Ticked")
    assert list(read([written(CALL), "\n", written(signal), written(ANSWER)])) == [CALL, signal, ANSWER]
    assert json.loads(written(CALL))["payload"] == {"type": "s", "data": ["x"]}


def test_an_answer_belongs_to_the_call_of_that_caller_and_number() -> None:
    other = Message("method_call", 3, 0, ":1.9", "a.b", "/", "", "Other")
    late = Message("error", 8, 3, ":1.2", ":1.9", error_name="a.b.Late")
    stray = Message("method_return", 9, 3, ":1.2", ":1.7")
    found = exchanges([CALL, other, stray, late, ANSWER, ANSWER])
    assert [(exchange.call, exchange.answer) for exchange in found] == [(CALL, ANSWER), (other, late)]


@pytest.mark.parametrize(("line", "said"), [
    ("{", "Expecting"),
    ("[]", "no message of a type"),
    ('{"type":["signal"]}', "no message of a type"),
    ('{"type":"method_call"}', "without path"),
    ('{"type":"signal","path":"/","member":"A"}', "without interface"),
    ('{"type":"error","reply_cookie":1}', "without error_name"),
    ('{"type":"method_call","path":"x","member":"A"}', "path is 'x'"),
    ('{"type":"method_call","path":"/","member":"A","cookie":-1}', "cookie is '-1'"),
    ('{"type":"method_call","path":"/","member":"A","payload":[]}', "a payload without type and data"),
    ('{"type":"method_call","path":"/","member":"A","payload":{"type":"s","data":[1]}}', "not a value"),
    ('{"a":' * 100_000, "recursion"),
])
def test_a_line_that_is_no_message_is_told_with_its_place(line: str, said: str) -> None:
    with pytest.raises(RecordingError, match=f"^calls.json:2: .*{said}"):
        list(read([written(CALL), line], "calls.json"))


def test_a_line_has_an_end() -> None:
    with pytest.raises(RecordingError, match=f"more than {LINE_MAX} characters"):
        list(read([" " * LINE_MAX + "{}"]))


def test_what_busctl_records_is_read(bus: Bus) -> None:
    watching = bus.start("busctl", "--user", "--json=short", "monitor")
    assert watching.stdout is not None and "Monitoring" in watching.stdout.readline()
    lines = (line for line in watching.stdout if line.startswith("{"))
    with bus.connect() as client:
        client.fault("GetNameOwner", "s", "a.b")
        seen: list[Message] = []
        while not any(message.kind == "error" for message in seen):
            seen += read([next(lines)])
    called, answered = next((each.call, each.answer) for each in exchanges(seen) if each.call.signature)
    assert (called.member, called.values, called.sender) == ("GetNameOwner", ("a.b",), client.name)
    assert answered and answered.error_name == "org.freedesktop.DBus.Error.NameHasNoOwner"
    assert answered.signature == "s" and answered.time >= called.time > 0
