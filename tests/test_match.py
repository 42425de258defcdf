"""Match rules: their grammar, and who gets what, against the reference daemon (dbus-bus §5)."""

from __future__ import annotations

import gc
import random
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from bus1_bridge.match import (
    ArgumentMatch,
    MatchInput,
    MatchRule,
    MatchRuleInvalid,
    MatchRuleTooLong,
    parse,
)
from bus1_bridge.switch.choice import MatchIndex
from bus1_bridge.walk import arguments
from bus1_services.types import ObjectPath
from buses import Bus
from dbus_client import BUS, BUS_PATH, SIGNAL, CallFailed, marshal
from hypothesis import given
from hypothesis import strategies as st

STATS = "org.freedesktop.DBus.Debug.Stats"

NORMAL_FORMS: dict[str, str | None] = {
    "": "",
    " \t\n\r": "",
    "type='signal',": "type='signal'",
    "type='signal', \n": "type='signal'",
    "type=signal": "type='signal'",
    "type='method_call'": "type='method_call'",
    "type='method_return'": "type='method_return'",
    "type='error'": "type='error'",
    "type ='signal'": "type='signal'",
    "\ttype\n='signal',\r member='M'": "type='signal',member='M'",
    "type = 'signal'": None,
    "type='signal' ,member='M'": None,
    ",type='signal'": None,
    "type='signal',,member='M'": None,
    "type": None,
    "type=": None,
    "type='SIGNAL'": None,
    "Type='signal'": None,
    "type='signal',type='signal'": None,
    "foo='bar'": None,
    "ty pe='signal'": None,
    "type='signal',member": None,
    "type='sig'nal": "type='signal'",
    "type='sig'n'al'": "type='signal'",
    "type='signal": None,
    "type='signal\\'": None,
    "type\v='signal'": None,
    "member=''": None,
    "member='M.N'": None,
    "member='1'": None,
    "member='_1'": "member='_1'",
    "interface=''": None,
    "interface='a'": None,
    "interface='a.b'": "interface='a.b'",
    "interface='a-b.c'": None,
    "sender=''": None,
    "sender='a'": None,
    "sender='a.1'": None,
    "sender='a.b-c'": "sender='a.b-c'",
    "sender=':1.5'": "sender=':1.5'",
    "sender=':1'": "sender=':1'",
    "sender=':1..5'": None,
    "destination='a.b'": "destination='a.b'",
    "destination='a..b'": None,
    "path='/'": "path='/'",
    "path='/a/'": None,
    "path=''": None,
    "path_namespace='/'": "path_namespace='/'",
    "path_namespace='/a'": "path_namespace='/a'",
    "path_namespace='/a/'": None,
    "path='/a',path_namespace='/a'": None,
    "eavesdrop='true'": "eavesdrop='true'",
    "eavesdrop='false'": "",
    "eavesdrop='yes'": None,
    "eavesdrop=''": None,
    "arg0='x'": "arg0='x'",
    "arg0=''": "arg0=''",
    "arg00='x'": "arg0='x'",
    "arg63='x'": "arg63='x'",
    "arg64='x'": None,
    "arg='x'": None,
    "arg-1='x'": None,
    "arg0foo='x'": None,
    "arg1='x',arg0='y'": "arg0='y',arg1='x'",
    "arg0='x',arg0='y'": None,
    "arg0='x',arg00='y'": None,
    "arg0='x',arg0path='/x'": None,
    "arg3path='not a path'": "arg3path='not a path'",
    "argpath='/x'": None,
    "arg0namespace='com'": "arg0namespace='com'",
    "arg0namespace='com.a-b'": "arg0namespace='com.a-b'",
    "arg0namespace=':1.5'": "arg0namespace=':1.5'",
    "arg0namespace='.com'": None,
    "arg0namespace='com.'": None,
    "arg0namespace=''": None,
    "arg1namespace='com'": None,
    "arg00namespace='com'": None,
    "arg0='a,b'": "arg0='a,b'",
    "arg0=a'b'c": "arg0='abc'",
    "arg0=\\'": "arg0=''\\'''",
    "arg0=it\\'s": "arg0='it'\\''s'",
    "arg0='a\\'": "arg0='a\\'",
    "arg0=a\\b": "arg0='a\\b'",
    "arg0=a\\": "arg0='a\\'",
    "arg0='é\x01'": "arg0='é\x01'",
    "arg5='x',eavesdrop='true',destination='a.b',sender='c.d',path_namespace='/x',member='M',interface='i.j',"
    "type='signal',arg0namespace='a',arg1path='/a'":
    "type='signal',interface='i.j',member='M',path_namespace='/x',sender='c.d',destination='a.b',"
    "eavesdrop='true',arg0namespace='a',arg1path='/a',arg5='x'",
}  # fmt: skip
"""Rules and how they read in normal form; None for what is no rule."""


def normal_form(text: str) -> str | None:
    """As in the table."""
    try:
        return str(parse(text))
    except MatchRuleInvalid:
        return None


@pytest.mark.parametrize("text", NORMAL_FORMS)
def test_each_text_has_its_normal_form_or_is_no_rule(text: str) -> None:
    assert normal_form(text) == NORMAL_FORMS[text]


def test_the_reference_has_the_same_normal_forms(reference_bus: Bus) -> None:
    client = reference_bus.connect()
    theirs: dict[str, str | None] = {}
    for text in NORMAL_FORMS:
        try:
            client.match(text)
        except CallFailed as failure:
            assert failure.name == "MatchRuleInvalid"
            theirs[text] = None
            continue
        (rules,) = client.ask("GetAllMatchRules", path=BUS_PATH, interface=STATS)
        (theirs[text],) = rules[client.name]
        client.ask("RemoveMatch", "s", text)
    assert theirs == NORMAL_FORMS


@pytest.mark.parametrize("text", ["=foo", "arg+1='x'", "arg1_='x'", "arg٣='x'", "arg99999999999='x'"])
def test_sloppy_keys_are_refused(text: str) -> None:
    assert normal_form(text) is None


def test_an_index_is_decimal_whatever_its_zeros() -> None:
    assert normal_form("arg063='x'") == "arg63='x'"


def test_all_64_arguments_of_a_rule_count() -> None:
    rule = parse(",".join(f"arg{i}='x'" for i in range(64)))
    assert [argument.index for argument in rule.arguments] == list(range(64))


def test_a_rule_has_at_most_1024_bytes() -> None:
    assert parse("arg0='" + "é" * 508 + "a'")
    with pytest.raises(MatchRuleTooLong):
        parse("arg0='" + "é" * 508 + "ab'")


@given(st.text("argpth0123= ',\\typesndr.:/", max_size=30) | st.text(max_size=30))
def test_any_text_is_a_rule_or_invalid_and_normal_forms_are_stable(text: str) -> None:
    form = normal_form(text)
    if form is not None:
        assert normal_form(form) == form and parse(form) == parse(text)


def signal(**fields: Any) -> MatchInput:
    """A broadcast from :1.1."""
    given_arguments: Sequence[str | None] = fields.pop("arguments", ())
    return MatchInput(**{
        "type": 4, "sender": ":1.1", "path": "/a/b", "interface": "x.Y", "member": "M",
        "arguments": lambda: given_arguments, **fields,
    })  # fmt: skip


def matches(text: str, message: MatchInput) -> bool:
    """One rule, one owner."""
    index = MatchIndex()
    index.add(1, parse(text))
    return index.receivers(message) == [1]


CASES: list[tuple[str, MatchInput, bool]] = [
    ("", signal(), True),
    ("type='signal'", signal(), True),
    ("type='method_call'", signal(), False),
    ("interface='x.Y'", signal(), True),
    ("interface='x.Z'", signal(), False),
    ("interface='x.Y'", signal(interface=None), False),
    ("member='M'", signal(), True),
    ("member='N'", signal(), False),
    ("path='/a/b'", signal(), True),
    ("path='/a'", signal(), False),
    ("path_namespace='/a'", signal(), True),
    ("path_namespace='/a/b'", signal(), True),
    ("path_namespace='/a/b/c'", signal(), False),
    ("path_namespace='/a'", signal(path="/ab"), False),
    ("path_namespace='/'", signal(), True),
    ("path_namespace='/'", signal(path=None), False),
    ("sender=':1.1'", signal(), True),
    ("sender=':1.2'", signal(), False),
    ("sender='a.b'", signal(sender_names=["c.d", "a.b"]), True),
    ("sender='a.b'", signal(sender_names=["c.d"]), False),
    ("sender='org.freedesktop.DBus'", signal(sender=BUS), True),
    ("destination=':1.2'", signal(), False),
    ("destination=':1.2'", signal(destination=":1.2"), False),
    ("", signal(destination=":1.2"), False),
    ("eavesdrop='true'", signal(destination=":1.2"), True),
    ("eavesdrop='true'", signal(), True),
    ("eavesdrop='true',destination=':1.2'", signal(destination=":1.2"), True),
    ("eavesdrop='true',destination=':1.2'", signal(destination=":1.3"), False),
    ("eavesdrop='true',destination='a.b'", signal(destination=":1.3", destination_names=["a.b"]), True),
    ("eavesdrop='true',destination=':1.2'", signal(), False),
    ("arg0='x'", signal(arguments=["x"]), True),
    ("arg0='x'", signal(arguments=["y"]), False),
    ("arg0='x'", signal(arguments=[]), False),
    ("arg0=''", signal(arguments=[""]), True),
    ("arg0=''", signal(arguments=[None]), False),
    ("arg0='/x'", signal(arguments=[ObjectPath("/x")]), False),
    ("arg1='x'", signal(arguments=["y", "x"]), True),
    ("arg1='x'", signal(arguments=["x"]), False),
    ("arg0='a',arg2='c'", signal(arguments=["a", None, "c"]), True),
    ("arg0='a',arg2='c'", signal(arguments=["a", None, "d"]), False),
    ("arg0path='/a/'", signal(arguments=["/a/b"]), True),
    ("arg0path='/a/b'", signal(arguments=["/a/"]), True),
    ("arg0path='/a'", signal(arguments=["/a/b"]), False),
    ("arg0path='/a/b'", signal(arguments=["/a"]), False),
    ("arg0path='/a'", signal(arguments=[ObjectPath("/a")]), True),
    ("arg0path='/'", signal(arguments=[ObjectPath("/a")]), True),
    ("arg0path='/a'", signal(arguments=[None]), False),
    ("arg0namespace='a.b'", signal(arguments=["a.b"]), True),
    ("arg0namespace='a.b'", signal(arguments=["a.b.c"]), True),
    ("arg0namespace='a.b'", signal(arguments=["a.bc"]), False),
    ("arg0namespace='a'", signal(arguments=[ObjectPath("/a")]), False),
    ("arg0namespace='a'", signal(arguments=[None]), False),
]


@pytest.mark.parametrize(("text", "message", "expected"), CASES)
def test_a_rule_matches_what_it_says(text: str, message: MatchInput, expected: bool) -> None:
    assert matches(text, message) == expected


def test_owners_come_once_in_the_order_of_their_first_rules() -> None:
    index = MatchIndex()
    member = "member='M'"
    for owner, text in ((5, member), (3, ""), (9, "path='/a/b'"), (3, member), (5, ""), (1, member)):
        index.add(owner, parse(text))
    assert index.receivers(signal()) == [5, 3, 9, 1]
    assert index.remove(5, parse("")) and index.receivers(signal()) == [5, 3, 9, 1]
    index.drop(5)
    index.add(5, parse(""))
    assert index.receivers(signal()) == [3, 9, 1, 5]


def test_a_rule_added_n_times_is_removed_n_times() -> None:
    index, rule = MatchIndex(), parse("type='signal',member='M'")
    index.add(1, rule)
    index.add(1, parse("member='M', type='signal'"))
    index.add(2, rule)
    assert index.count(1) == 2 and index.rules_of(1) == [rule, rule]
    assert index.remove(1, rule) and index.receivers(signal()) == [1, 2]
    assert index.remove(1, rule) and index.receivers(signal()) == [2]
    assert not index.remove(1, rule) and index.count(1) == 0 and index.rules_of(1) == []


def test_rules_are_equal_by_value_and_eavesdropping_is_part_of_it() -> None:
    assert parse("eavesdrop='false'") == parse("") != parse("eavesdrop='true'")
    assert parse("arg0='a'") != parse("arg0path='a'") != parse("arg0namespace='a'")
    assert parse("path='/'") != parse("path_namespace='/'")


def test_rules_that_name_a_unique_name_that_is_gone_go_with_it() -> None:
    index = MatchIndex()
    rules = [parse("sender=':1.7'"), parse("eavesdrop='true',destination=':1.7'"), parse("sender=':1.8'")]
    for rule in rules:
        for owner in (1, 2):
            index.add(owner, rule)
    index.add(1, rules[0])
    index.forget_name(":1.7")
    assert index.rules_of(1) == index.rules_of(2) == [rules[2]] and index.count(1) == 1
    assert not index.remove(1, rules[0])
    assert index.receivers(signal(sender=":1.7")) == []
    index.forget_name(":1.7")


def test_arguments_are_not_read_for_rules_that_cannot_match_anyway() -> None:
    index = MatchIndex()
    for i in range(200):
        for text in (
            f"sender=':1.{i + 100}',arg0='x'", f"member='N{i}',arg0='x'", f"path='/p{i}',arg0namespace='x'",
            f"interface='x.Z{i}',arg1='x'", f"type='error',arg2='x{i}'",
            "eavesdrop='true',destination=':1.9',arg1='x'",
        ):  # fmt: skip
            index.add(i, parse(text))

    def fail() -> list[str]:
        raise AssertionError

    assert index.receivers(MatchInput(4, ":1.1", (), "/a/b", "x.Y", "M", arguments=fail)) == []


KEYS_AND_FOREIGN_VALUES = [
    "path='/x/p{}'", "interface='x.Z{}'", "member='N{}'", "sender=':1.9{}'", "sender='com.x{}'",
    "type='error',arg0='x{}'", "type='signal',interface='x.Y',member='N{}',path='/a/b'",
    "interface='x.Y',sender='com.x{}',arg0='/org/a/b/'", "arg63='x{}'", "arg63path='/com/x{}'",
    "eavesdrop='true',sender=':1.9{}'", "eavesdrop='true',path='/x/p{}'",
    "arg0namespace='com.x{}'", "path_namespace='/com/x{}'", "arg0path='/com/x{}/'", "arg0path='/org/x/{}'",
    "arg1path='/com/x{}'", "arg3='x{}'", "arg0='/org/a/b/',arg1='x{}'",
    "path_namespace='/a',arg0path='/org/',arg1='x{}'", "eavesdrop='true',destination='com.x{}'",
]


@pytest.mark.parametrize("text", KEYS_AND_FOREIGN_VALUES)
@pytest.mark.parametrize("message", [
    signal(arguments=["/org/a/b/", "/org/", "x.y", "x.y"]), signal(arguments=["org.a.b", "", "", ""]),
    signal(arguments=["a/" * 50_000, "a." * 50_000, "", "x" * 100_000]),
    signal(destination=":1.2", destination_names=["a.b"], arguments=["", "/org", "", "x"]),
    signal(sender_names=[f"a.n{i}" for i in range(20)], arguments=["/org/a/b/", "x"]),
])
def test_rules_that_cannot_match_cost_nothing(text: str, message: MatchInput) -> None:
    """The work for a message is the same whether ten or a thousand rules ask for something else."""
    index = MatchIndex()
    counts = []
    for numbers in (range(10), range(10, 1000)):
        for i in numbers:
            index.add(i, parse(text.format(i)))
        calls = 0

        def count(*_event: object) -> None:
            nonlocal calls
            calls += 1

        gc.disable()  # what it finalizes is called, too
        sys.setprofile(count)
        try:
            found = index.receivers(message)
        finally:
            sys.setprofile(None)
            gc.enable()
        assert found == []
        counts.append(calls)
    assert counts[0] == counts[1] < 5000


def naive(rule: MatchRule, message: MatchInput) -> bool:
    """The comparison key by key, as dbus-bus §5 has it."""
    values, path = message.arguments(), message.path
    addressed = {message.destination, *message.destination_names} if message.destination else set()
    namespace = rule.path_namespace
    return (
        rule.type in {0, message.type}
        and rule.sender in {None, message.sender, *message.sender_names}
        and rule.interface in {None, message.interface}
        and rule.member in {None, message.member}
        and rule.path in {None, path}
        and (rule.eavesdrop or not addressed)
        and rule.destination in {None, *addressed}
        and (
            namespace in {None, "/", path}
            or (path is not None and namespace is not None and path.startswith(namespace + "/"))
        )
        and all(a.index < len(values) and naive_argument(a, values[a.index]) for a in rule.arguments)
    )


def naive_argument(asked: ArgumentMatch, value: str | ObjectPath | None) -> bool:
    if value is None or (isinstance(value, ObjectPath) and asked.form != "path"):
        return False
    wanted = asked.value
    return value == wanted or {
        "": False,
        "namespace": value.startswith(wanted + "."),
        "path": (wanted.endswith("/") and value.startswith(wanted))
        or (value.endswith("/") and wanted.startswith(value)),
    }[asked.form]


TEXTS = st.builds(
    ",".join,
    st.lists(
        st.sampled_from([
            "type='signal'", "type='error'", "interface='x.Y'", "interface='x.Z'", "member='M'", "member='N'",
            "path='/a/b'", "path='/a'", "path_namespace='/a'", "sender=':1.1'", "sender='a.b'",
            "sender='c.d'", "destination=':1.2'", "eavesdrop='true'", "arg0='x'", "arg0='y'",
            "arg0path='/a/'", "arg0path='/a/b/c'", "arg0path='/'", "arg0path=''", "arg0path='/a/b/'",
            "arg1='x'", "arg1path='/a/b'", "arg0namespace='x'", "arg0namespace='x.y'", "path_namespace='/'",
            "path_namespace='/a/b'", "path_namespace='/a/bc'", "destination='a.b'",
        ]),
        max_size=4, unique_by=lambda text: text.partition("=")[0].removesuffix("_namespace")[:4],
    ),
)  # fmt: skip
MESSAGES = st.builds(
    signal,
    type=st.sampled_from([3, 4]), sender_names=st.sampled_from([(), ("a.b",), ("a.b", "c.d", "e.f", "g.h")]),
    path=st.sampled_from(["/", "/a", "/a/b", "/a/bc"]), interface=st.sampled_from([None, "x.Y", "x.Z"]),
    member=st.sampled_from(["M", "N"]), destination=st.sampled_from([None, None, ":1.2"]),
    destination_names=st.sampled_from([(), ("a.b",)]),
    arguments=st.sampled_from([
        [], ["x"], ["x.y", "x"], ["x.y.z", "/a/"], ["x.yz"], [None, "x"], ["/a/b"], [ObjectPath("/a/b")],
        [""], ["/a/"], ["/a/b/"], ["/a/b/c", "/a/b"], [ObjectPath("/")], ["/"], ["a/"],
    ]),
)  # fmt: skip


STEPS = st.lists(st.tuples(st.integers(1, 4), TEXTS, st.sampled_from("aaaard")), max_size=20)


@given(STEPS, st.lists(MESSAGES, max_size=4))
def test_the_index_finds_exactly_the_owners_of_rules_that_match(
    steps: list[tuple[int, str, str]], messages: list[MatchInput]
) -> None:
    index, model = MatchIndex(), list[tuple[int, MatchRule]]()
    for owner, text, kind in steps:
        entry = (owner, parse(text))
        if kind == "a":
            index.add(*entry)
            model.append(entry)
        elif kind == "r":
            assert index.remove(*entry) == (entry in model)
            if entry in model:
                model.remove(entry)
        else:
            index.drop(owner)
            model = [other for other in model if other[0] != owner]
    for message in messages:
        expected = {owner for owner, rule in model if naive(rule, message)}
        assert set(index.receivers(message)) == expected
    for owner in range(1, 5):
        assert index.count(owner) == len(index.rules_of(owner)) == sum(other == owner for other, _ in model)


def test_a_bus_delivers_the_signals_that_the_index_finds(bus: Bus) -> None:
    chance = random.Random(3)
    emitter, receiver = bus.connect(), bus.connect()
    emitter.own("a.b")
    keys = {
        "type": ["signal", "error"], "interface": ["x.Y", "x.Z"], "member": ["M", "N"],
        "path": ["/a/b", "/a"], "path_namespace": ["/a", "/", "/a/b/c"],
        "sender": ["a.b", emitter.name, "c.d", BUS], "destination": [receiver.name],
        "arg0": ["x", "", "/a/b"], "arg1": ["x"], "arg0namespace": ["x", "x.y"],
        "arg0path": ["/a/", "/a/b/c", "/", "x"], "arg2path": ["/a/b"],
    }  # fmt: skip
    bodies: list[tuple[str, list[Any]]] = [
        ("", []), ("s", ["x"]), ("s", ["x.y"]), ("s", [""]), ("ss", ["x.y.z", "x"]), ("o", ["/a/b"]),
        ("s", ["/a/"]), ("s", ["/a/b"]), ("uso", [1, "x", "/a/b"]), ("asv", [["x"], ("s", "x")]),
    ]  # fmt: skip
    place = ("path", "interface", "member")
    for _ in range(150):
        picked = chance.sample(sorted(keys), chance.randrange(1, 4))
        text = ",".join(f"{key}='{chance.choice(keys[key])}'" for key in picked)
        if normal_form(text) is None:
            continue
        receiver.match(text)
        expected = []
        for signature, args in bodies:
            fields: dict[str, Any] = {key: chance.choice(keys[key]) for key in place}
            serial = emitter.send(SIGNAL, signature=signature, args=args, **fields)
            values = arguments(signature, marshal(signature, *args), "l")
            if matches(text, signal(sender=emitter.name, sender_names=["a.b"], arguments=values, **fields)):
                expected.append(serial)
        emitter.sync()
        receiver.sync()
        assert [got.serial for got in receiver.inbox if got.sender == emitter.name] == expected, text
        receiver.inbox.clear()
        receiver.ask("RemoveMatch", "s", text)
