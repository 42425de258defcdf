"""The tables of both bodies, driven with the same steps, answer the same and end in the same state."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from bus1_bridge import match
from bus1_bridge.match import MatchInput, parse
from bus1_bridge.switch import replies
from bus1_services.types import ObjectPath
from hypothesis import given, settings
from hypothesis import strategies as st
from test_match import MESSAGES, NORMAL_FORMS, TEXTS, signal

from bus1 import acceleration
from bus1.errors import NotUnique

if acceleration.native is None:
    pytest.skip(f"there is one body: {acceleration.reason}", allow_module_level=True)
native: ModuleType = acceleration.native

OWNERS = st.integers(1, 4)
NAMES = st.sampled_from([":1.1", ":1.2", ":1.3", "a.b"])


def outcome(action: Callable[[], object]) -> object:
    """What it returns, or what it raises."""
    try:
        return action()
    except Exception as error:
        return type(error), str(error)


def same(theirs: Callable[[], object], ours: Callable[[], object]) -> object:
    """Both do the same, and what that is."""
    expected = outcome(theirs)
    assert outcome(ours) == expected
    return expected


# ---- match rules ---------------------------------------------------------------------------------


def agree_on(text: str) -> None:
    """The native index reads the text, and gives the rule back."""

    def in_index() -> object:
        index = native.MatchIndex()
        index.add(1, text)
        return index.rules_of(1)

    same(lambda: [parse(text)], in_index)


@pytest.mark.parametrize("text", [
    *NORMAL_FORMS, "=foo", "arg+1='x'", "arg1_='x'", "arg٣='x'", "arg99999999999='x'", "arg063='x'",
    "arg0='" + "é" * 508 + "a'", "arg0='" + "é" * 508 + "ab'", "path='/" + "a" * 300 + "'",
    "member='" + "M" * 256 + "'", "sender=':" + "1" * 255 + "'", "eavesdrop=true,eavesdrop=false",
    "eavesdrop=true,eavesdrop=x", "type=signal,type=x", "path='//'", "path='/é'", "member='é'",
    ",".join(f"arg{i}path='x'" for i in range(64)), "sender=':'", "sender=':1.a.'", "arg0namespace=':'",
    "sender='-a.-b'", "interface='_._'", "arg0namespace='-'",
])  # fmt: skip
def test_both_read_the_same_rule_or_refuse_it_in_the_same_words(text: str) -> None:
    agree_on(text)


@given(
    st.text("argpth0123= ',\\typesndr.:/-", max_size=30)
    | st.lists(st.sampled_from([*"='\\,./:-_ \t\n019az", "é", "arg", "path", "namespace", "sender", "member",
                                "interface", "type", "signal", "eavesdrop", "true", "destination"]))
    .map("".join) | st.text(max_size=30).filter(lambda text: text.isprintable())
    | TEXTS
)  # fmt: skip
def test_both_read_any_text_the_same(text: str) -> None:
    agree_on(text)


LIKELY = st.lists(
    st.sampled_from([
        "type='signal'", "interface='x.Y'", "member='M'", "path='/a/b'", "path_namespace='/a'",
        "sender=':1.1'", "sender='a.b'", "eavesdrop='true'", "arg0='x'", "arg0namespace='x'",
        "arg1path='/a/'", "arg1='x'",
        "destination=':1.2'", "path_namespace='/'",
    ]),
    max_size=3, unique_by=lambda text: text.partition("=")[0].removesuffix("_namespace")[:4],
).map(",".join)  # fmt: skip
"""Rules that most messages meet, so that what they have in common is looked at."""
RULE_STEPS = st.lists(
    st.tuples(st.just("add"), OWNERS, LIKELY) | st.tuples(st.sampled_from(["add", "remove"]), OWNERS, TEXTS)
    | st.tuples(st.sampled_from(["remove", "take", "monitor"]), OWNERS, LIKELY)
    | st.tuples(st.sampled_from(["take", "drop"]), OWNERS, st.just(""))
    | st.tuples(st.just("forget"), st.lists(OWNERS, max_size=2), NAMES),
    min_size=12, max_size=40,
)  # fmt: skip
LIKELY_MESSAGES = st.builds(
    signal, sender_names=st.sampled_from([(), ("a.b",), ("c.d", "a.b")]),
    destination=st.sampled_from([None, None, ":1.2"]),
    arguments=st.sampled_from([(), ("x",), ("x.y", "/a/"), ("x", "/a/b"), (None, "x"), ("x", "x")]),
)


class Indexes:
    """An index for what is sent and one for monitors, as a bus has them."""

    def __init__(self, kind: type[Any]) -> None:
        self.rules = kind()
        self.monitors = kind(self.rules.tally)

    def step(self, kind: str, owner: Any, text: str) -> object:
        """One change."""
        if kind == "forget":
            return self.rules.forget_name(text, owner)
        if kind == "drop":
            return self.rules.drop(owner)
        if kind == "take":
            have = self.rules.rules_of(owner)
            return bool(have) and self.rules.remove(owner, have[len(have) // 2])
        if kind == "monitor":
            return self.monitors.add(owner, parse(text))
        return getattr(self.rules, kind)(owner, parse(text))

    def state(self) -> object:
        """All that can be seen."""
        owners, tally = range(1, 6), self.rules.tally
        return (
            [(len(index), [(index.rules_of(owner), index.count(owner)) for owner in owners])
             for index in (self.rules, self.monitors)],
            [tally.total, tally.peak, tally.owner_peak],
            [(tally.of(owner), tally.peak_of(owner)) for owner in owners],
        )  # fmt: skip

    def receivers(self, message: MatchInput) -> object:
        """Of the message, and who watches it."""
        return self.rules.receivers(message), self.monitors.receivers(message)


@settings(max_examples=300)
@given(RULE_STEPS, st.lists(MESSAGES | LIKELY_MESSAGES, min_size=2, max_size=6))
def test_both_indexes_end_in_the_same_state_and_find_the_same_receivers(
    steps: list[tuple[str, Any, str]], messages: list[MatchInput]
) -> None:
    theirs, ours = Indexes(match.MatchIndex), Indexes(native.MatchIndex)
    for step in steps:
        assert theirs.step(*step) == ours.step(*step)
        assert theirs.state() == ours.state()
    for message in messages:
        assert theirs.receivers(message) == ours.receivers(message)


PARTS = st.lists(st.sampled_from(["/", "/", ".", "a", "b", "é"]), max_size=6).map("".join)
STEPS_DOWN = st.sampled_from(["/aa/", "/aa/b", "/aa/b/", "/aa/b/c", "/aa/b/c/", "/aa/b/cd/", "/aa/b/c/d"])
VALUES = PARTS | STEPS_DOWN | st.sampled_from(["x" * 990, "x/" * 490, "a." * 490, "a/" * 490 + "b"])
LONG = st.sampled_from(["x" * 1025, "x/" * 600, "a." * 600, "/" * 1200, "a/" * 700 + "b", "é/" * 400])
SPACES = st.sampled_from(["arg0namespace='a'", "arg0namespace='a.b'", "arg0namespace='a.b.a'"])
ARGUMENT_RULES = st.builds(
    lambda index, form, value, more: ",".join([f"arg{index}{form}='{value}'", *more]),
    st.integers(0, 1), st.sampled_from(["", "path", "path"]), VALUES,
    st.sampled_from([[], [], ["arg2='x'"], ["arg2path='/a/'"], ["arg2path='/a/b'"], ["type='signal'"]]),
) | SPACES  # fmt: skip
ARGUMENTS = st.tuples(
    VALUES | LONG, VALUES | st.none() | PARTS.map(ObjectPath), st.sampled_from(["x", "/a/", "/a/b"])
)


@settings(max_examples=300)
@given(st.lists(ARGUMENT_RULES, min_size=5, max_size=25), st.lists(ARGUMENTS, min_size=4, max_size=12))
def test_both_indexes_compare_arguments_alike(
    texts: list[str], several: list[tuple[str | None, ...]]
) -> None:
    theirs, ours = match.MatchIndex(), native.MatchIndex()
    for owner, text in enumerate(texts):
        theirs.add(owner, parse(text))
        ours.add(owner, text)
    for values in several:
        message = signal(arguments=values)
        assert theirs.receivers(message) == ours.receivers(message)


def test_many_rules_and_their_end_leave_nothing_behind() -> None:
    chance = random.Random(7)
    theirs, ours = match.MatchIndex(), native.MatchIndex()
    texts = [
        f"path='/p{i % 50}',arg0='{i % 7}'" if i % 2 else f"interface='a.b{i % 30}',sender=':1.{i % 9}'"
        for i in range(500)
    ]
    for owner in range(20):
        for text in chance.sample(texts, 40):
            theirs.add(owner, parse(text))
            ours.add(owner, text)
    messages = [
        signal(path=f"/p{i}", interface=f"a.b{i % 30}", sender=f":1.{i % 9}", arguments=[str(i % 7)])
        for i in range(50)
    ]
    for owner in chance.sample(range(20), 20):
        for message in messages:
            assert theirs.receivers(message) == ours.receivers(message)
        if owner % 2:
            for rule in theirs.rules_of(owner):
                assert ours.remove(owner, rule)
        theirs.drop(owner)
        ours.drop(owner)
    assert len(ours) == ours.tally.total == 0
    assert all(ours.receivers(message) == [] for message in messages)


def test_an_error_of_the_arguments_comes_through_and_nothing_is_stuck() -> None:
    def fail() -> list[str]:
        raise OSError("unreadable")

    index = native.MatchIndex()
    index.add(1, "arg0='x'")
    with pytest.raises(OSError, match="unreadable"):
        index.receivers(MatchInput(4, ":1.1", arguments=fail))
    assert index.receivers(signal(arguments=["x"])) == [1]


def test_arguments_may_ask_the_index_itself() -> None:
    index = native.MatchIndex()
    index.add(1, "arg0='x'")
    index.add(2, "")
    values = lambda: ["x"] if index.count(1) else []  # noqa: E731
    assert index.receivers(MatchInput(4, ":1.1", arguments=values)) == [1, 2]


# ---- reply slots ---------------------------------------------------------------------------------

PEERS = st.integers(1, 3)
TIMES = st.integers(0, 5).map(float)
SLOT_STEPS = st.lists(
    st.tuples(st.just("add"), PEERS, PEERS, PEERS, TIMES)
    | st.tuples(st.sampled_from(["take", "awaits"]), PEERS, PEERS, PEERS)
    | st.tuples(st.sampled_from(["drop", "outstanding", "awaited_from"]), PEERS)
    | st.tuples(st.just("overdue"), TIMES, TIMES) | st.tuples(st.just("oldest")),
    min_size=10, max_size=60,
)  # fmt: skip


@given(SLOT_STEPS)
def test_both_tables_of_slots_answer_the_same(steps: list[tuple[Any, ...]]) -> None:
    theirs, ours = replies.ReplyTable(), native.ReplyTable()
    ends = [("overdue", 9.0, 0.0), ("drop", 1), ("drop", 2), ("drop", 3), ("oldest",)]
    for name, *arguments in [*steps, *ends]:
        same(partial(getattr(theirs, name), *arguments), partial(getattr(ours, name), *arguments))


def test_the_refusal_of_a_slot_reads_the_same() -> None:
    theirs, ours = replies.ReplyTable(), native.ReplyTable()
    for table in (theirs, ours):
        table.add(1, 2, 7)
    refused = same(lambda: theirs.add(1, 2, 7), lambda: ours.add(1, 2, 7))
    assert isinstance(refused, tuple) and refused[0] is NotUnique
