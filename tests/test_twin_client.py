"""The client's half of a channel, and the codec of bodies: in Python and native, they do the same."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from bus1_services import body
from bus1_services.body import Variant
from bus1_services.types import ObjectPath, parse
from hypothesis import given, settings
from hypothesis import strategies as st

from bus1.errors import Bus1Error, InvalidArgument, NotSupported, RemoteProtocolError, WouldBlock
from bus1.exchange import Answer, Exchange
from bus1.frames import REQUESTS, RESULTS, Event, Note, Operation, answer, encode, error_answer

native: ModuleType = pytest.importorskip("bus1._native", reason="there is no native module")

OPERATIONS = sorted({operation for operation in REQUESTS if operation in RESULTS})
RECEIVING = (Operation.RECV, Operation.CALL, Operation.REPLY)
NOTES = st.sampled_from([0, 0, Note.DRAINED, Note.MORE, Note.MORE | Note.RELEASED, 7])


class InPython:
    """``Exchange`` with what tests look at."""

    def __init__(self) -> None:
        self.exchange: Any = Exchange()

    def feed(self, data: bytes) -> None:
        self.exchange.reader.feed(data)

    def output(self) -> bytes:
        found = b""
        while self.exchange.writer.pending:
            part = b"".join(self.exchange.writer.chunk()[0])
            self.exchange.writer.sent(len(part))
            found += part
        return found


class InRust:
    """The native one."""

    def __init__(self) -> None:
        self.exchange: Any = native.Exchange()

    def feed(self, data: bytes) -> None:
        self.exchange.feed(data, [], False)

    def output(self) -> bytes:
        found: bytes = self.exchange.output()
        return found


def plain(value: object) -> object:
    """What can be compared."""
    if isinstance(value, Answer):
        return (
            int(value.operation), plain(value.error), value.done, value.values, value.tail, list(value.fds),
            list(value.offered), value.arrival, value.is_from_queue, value.is_peek, value.is_released,
        )
    if isinstance(value, Bus1Error):
        return type(value), str(value)
    return [plain(one) for one in value] if isinstance(value, list) else value


def outcome(act: Callable[[], object]) -> object:
    """What it returns, or raises."""
    try:
        return plain(act())
    except Bus1Error as error:
        return plain(error)


def request_body(operation: int, flags: int) -> bytes:
    """Long enough, with these flags for its RECV."""
    return bytes(40) + struct.pack("<Q", flags) + bytes(80) if operation in RECEIVING[1:] else (
        struct.pack("<Q", flags) + bytes(80)
    )


def answers(tag: int) -> st.SearchStrategy[bytes]:
    """Answers that fit, and some that do not."""
    values = st.sampled_from(OPERATIONS).flatmap(lambda operation: st.builds(
        lambda tail, notes, done: answer(
            operation, tag, bytes(RESULTS[operation].size) + tail, notes=notes, done=done
        ),
        st.binary(max_size=20), NOTES, st.integers(0, 5),
    ))
    errors = st.builds(
        lambda operation, error: error_answer(operation, tag, error), st.sampled_from(OPERATIONS),
        st.sampled_from([NotSupported("no"), WouldBlock("nothing"), RemoteProtocolError("\u20ac")]),
    )
    return st.one_of(values, errors)


STEPS = st.one_of(
    st.tuples(st.just("request"), st.sampled_from([*OPERATIONS, *RECEIVING * 4]), st.integers(0, 7)),
    st.tuples(st.just("post"), st.sampled_from([Operation.SEND, Operation.RELEASE]), st.booleans()),
    st.tuples(st.just("post_message"), st.booleans(), st.integers(0, 3)),
    st.tuples(st.just("forget"), st.just(Operation.RELEASE), st.none()),
    st.tuples(st.sampled_from(["take", "cancel", "recall", "abandon"]), st.integers(0, 12), st.none()),
    st.tuples(st.sampled_from(["take_next", "keep", "unwanted"]), st.none(), st.none()),
    st.tuples(st.just("answer"), st.integers(1, 12).flatmap(answers), st.integers(0, 300)),
    st.tuples(st.just("answer_right"), st.integers(1, 12), NOTES),
    st.tuples(st.just("bytes"), st.binary(max_size=40), st.none()),
    st.tuples(st.just("event"), st.sampled_from(list(Event)), st.binary(max_size=12)),
    st.tuples(st.just("fail"), st.none(), st.none()),
)


class Script:
    """Does the same to one exchange and notes what comes of it."""

    def __init__(self, side: InPython | InRust) -> None:
        self.side = side
        self.seen: list[object] = []
        self.operations: dict[int, int] = {}

    def step(self, kind: str, what: Any, more: Any) -> None:
        exchange = self.side.exchange
        if kind == "request":
            tag = outcome(lambda: exchange.request(what, request_body(what, more)))
            self.note(tag)
            if isinstance(tag, int):
                self.operations[tag] = what
        elif kind == "post":
            listener = (lambda error: self.note(("failed", plain(error)))) if more else None
            self.note(exchange.may_be_quiet)
            self.note(outcome(lambda: exchange.post(what, bytes(16), listener)))
        elif kind == "post_message":
            parts, handles = [b"head", b"body"], list(range(more))
            self.note(outcome(lambda: exchange.post_message(7, parts, handles, None, what)))
        elif kind == "forget":
            exchange.forget(what, bytes(8))
        elif kind in {"take", "cancel", "recall", "abandon"}:
            self.note(exchange.expects(what))
            self.note(outcome(lambda: getattr(exchange, kind)(what)))
        elif kind == "take_next":
            self.note(outcome(exchange.next_stray))
        elif kind == "keep":
            stray = exchange.next_stray()
            if stray is not None:
                exchange.keep(stray)
        elif kind == "unwanted":
            self.note(outcome(exchange.take_unwanted))
        elif kind == "fail":
            exchange.fail()
        else:
            self.side.feed(self.data(kind, what, more))
            self.note(outcome(exchange.process))
        self.look()

    def data(self, kind: str, what: Any, more: Any) -> bytes:
        if kind == "answer":
            data: bytes = what
            # one byte of some is another one, and some are cut
            return data[:more] if more < len(data) else data
        if kind == "answer_right":
            operation = self.operations.get(what, Operation.RELEASE)
            return answer(operation, what, bytes(RESULTS[operation].size), notes=more)
        return what if kind == "bytes" else encode(what, 1, more)

    def look(self) -> None:
        exchange = self.side.exchange
        self.note((
            exchange.answered(), exchange.n_answers, plain(exchange.failure), exchange.pending,
            exchange.has_stray, exchange.may_be_quiet, exchange.take_retired(), exchange.take_drained(),
            self.side.output(),
        ))

    def note(self, what: object) -> None:
        self.seen.append(what)


@settings(max_examples=400)
@given(st.lists(STEPS, max_size=40))
def test_both_exchanges_do_the_same_with_any_script(steps: list[tuple[str, Any, Any]]) -> None:
    python, rust = Script(InPython()), Script(InRust())
    for step in steps:
        for script in (python, rust):
            script.step(*step)
        assert python.seen == rust.seen


@settings(max_examples=200)
@given(st.data())
def test_both_exchanges_do_the_same_with_bytes_that_were_changed(data: st.DataObject) -> None:
    python, rust = InPython(), InRust()
    stream = b""
    for side in (python, rust):
        for operation in OPERATIONS:
            side.exchange.request(operation, request_body(operation, 4))
    for tag, operation in enumerate(OPERATIONS, 1):
        stream += answer(operation, tag, bytes(RESULTS[operation].size) + b"tail")
    changed = bytearray(stream)
    for _ in range(data.draw(st.integers(0, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(changed)))
    for part in (bytes(changed[:cut]), bytes(changed[cut:])):
        for side in (python, rust):
            side.feed(part)
            side.exchange.process()
    for tag in range(1, len(OPERATIONS) + 1):
        found = [outcome(partial(side.exchange.take, tag)) for side in (python, rust)]
        assert found[0] == found[1]


# ---- bodies ----------------------------------------------------------------------------------------------


NUMBERS = {"y": (0, 1 << 8), "n": (-(1 << 15), 1 << 15), "q": (0, 1 << 16), "i": (-(1 << 31), 1 << 31),
           "u": (0, 1 << 32), "x": (-(1 << 63), 1 << 63), "t": (0, 1 << 64)}
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
PATHS = st.sampled_from(["/", "/a", "/org/bus1_1"])
BASIC: dict[str, st.SearchStrategy[Any]] = {
    **{code: st.integers(low, high - 1) for code, (low, high) in NUMBERS.items()},
    "b": st.booleans(), "d": st.floats(allow_nan=False), "s": TEXTS, "o": PATHS.map(ObjectPath),
    "g": st.sampled_from(["", "s", "a{sv}", "(i(ss))"]),
}


def typed(code: str) -> st.SearchStrategy[tuple[str, Any]]:
    return st.tuples(st.just(code), BASIC[code])


def of_type(signature: str) -> st.SearchStrategy[Any]:
    """Values of one complete type."""
    (type_,) = parse(signature)
    inside = [one.signature for one in type_.inside]
    if type_.code in BASIC:
        return BASIC[type_.code]
    if type_.code == "v":
        return st.sampled_from(["s", "u", "ay", "(sb)", "a{sx}"]).flatmap(
            lambda one: st.builds(Variant, st.just(one), of_type(one))
        )
    if type_.code == "(":
        return st.tuples(*map(of_type, inside))
    if signature == "ay":
        return st.binary(max_size=9)
    if type_.inside[0].code == "{":
        key, item = (one.signature for one in type_.inside[0].inside)
        return st.dictionaries(of_type(key), of_type(item), max_size=3)
    return st.lists(of_type(inside[0]), max_size=3)


SIGNATURES = st.lists(st.sampled_from([
    *BASIC, "v", "as", "ay", "ab", "ad", "ax", "an", "(sb)", "(y(nv)at)", "a{sv}", "a{y(ds)}", "aao",
    "a(uas)", "av", "aa{sas}",
]), max_size=4)
ROWS = SIGNATURES.flatmap(lambda parts: st.tuples(
    st.just("".join(parts)), st.tuples(*map(of_type, parts))
))


@pytest.fixture(autouse=True)
def _python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "_native", None)


BODIES = native.Bodies(ObjectPath, Variant)


@settings(max_examples=400)
@given(ROWS)
def test_everyday_values_are_the_same_bytes_and_come_back(row: tuple[str, tuple[Any, ...]]) -> None:
    signature, values = row
    data = body.encode(signature, values).data
    assert BODIES.encode(signature, values) == data
    assert BODIES.encode(signature, list(values)) == data
    assert BODIES.decode(signature, data, True) == list(values) == body.decode(signature, data, "l")
    assert [type(value) for value in BODIES.decode(signature, memoryview(data), True)] == [
        type(value) for value in body.decode(signature, data, "l")
    ]


@settings(max_examples=400)
@given(ROWS, st.data(), st.booleans())
def test_a_body_is_read_natively_only_as_python_reads_it(
    row: tuple[str, tuple[Any, ...]], data: st.DataObject, is_little: bool
) -> None:
    signature, values = row
    changed = bytearray(body.encode(signature, values).data)
    for _ in range(data.draw(st.integers(0, 3)) if changed else 0):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.sampled_from([0, 1, 4, 8, 47, 255]))
    changed = changed[: data.draw(st.integers(0, len(changed)))] if data.draw(st.booleans()) else changed
    quick = BODIES.decode(signature, bytes(changed), is_little)
    try:
        right = body.decode(signature, bytes(changed), "l" if is_little else "B")
    except RemoteProtocolError:
        assert quick is None
    else:
        assert quick is not None
        assert repr(quick) == repr(right)


@pytest.mark.parametrize(("signature", "values"), [
    ("y", (256,)), ("s", ("\0",)), ("s", (7,)), ("u", (-1,)), ("u", (True,)), ("b", (1,)), ("as", ("text",)),
    ("o", ("no path",)), ("g", ("{",)), ("(ss)", (("one",),)), ("v", ("plain",)), ("s", ()), ("", ("one",)),
    ("ay", ([1, 2],)), ("s", ("\ud800",)), ("d", (1,)), ("h", (0,)), ("z", (1,)), ("a{sv}", ([],)),
    ("s" * 256, ("x",) * 256), ("v", (Variant("ss", "x"),)),
])
def test_what_is_not_everyday_is_left_to_python(signature: str, values: tuple[Any, ...]) -> None:
    assert BODIES.encode(signature, values) is None
    try:
        body.encode(signature, values)
    except (InvalidArgument, RemoteProtocolError):
        return


def test_a_body_nests_as_deep_as_python_allows() -> None:
    value: Any = Variant("s", "x")
    for depth in range(1, 70):
        value = Variant("v", value)
        try:
            data = body.encode("v", (value,)).data
        except InvalidArgument:
            break
        try:
            right: list[Any] | None = body.decode("v", data, "l")
        except RemoteProtocolError:
            right = None
        assert BODIES.decode("v", data, True) == right, depth
