"""The rules of a view: what they give to which names, and what is no rule."""

from __future__ import annotations

import pytest
from bus1_bridge.policy import Fields
from bus1_bridge.view import NOTHING, RULE_MAX, RULES_MAX, Level, View
from bus1_bridge.wire import CALL, SIGNAL
from hypothesis import given
from hypothesis import strategies as st

from bus1.errors import InvalidArgument

LEVELS = {"see": Level.SEE, "talk": Level.TALK, "own": Level.OWN}
names = st.lists(st.sampled_from("abc"), min_size=2, max_size=4).map(".".join)
named_rules = st.tuples(st.sampled_from(list(LEVELS)), names, st.sampled_from(["", ".*"]))


@given(rules=st.lists(named_rules, max_size=6), name=names)
def test_a_name_gets_the_most_that_any_rule_about_it_gives(
    rules: list[tuple[str, str, str]], name: str
) -> None:
    about = [
        LEVELS[verb] for verb, subject, star in rules
        if name == subject or (star and name.startswith(f"{subject}."))
    ]
    view = View.of([f"{verb}={subject}{star}" for verb, subject, star in rules])
    assert view.grant(name).level == max(about, default=Level.NONE)
    assert view.grant(name) == view.grant(name)


def test_a_wildcard_is_about_the_name_itself_and_what_continues_it_after_a_dot() -> None:
    view = View.of(["talk=org.foo.*", "see=net.*"])
    assert [view.grant(name).level for name in ("org.foo", "org.foo.bar", "org.foo.bar.baz", "net.x")] == [
        Level.TALK, Level.TALK, Level.TALK, Level.SEE,
    ]
    assert [view.grant(name) for name in ("org.foobar", "org", "foo.org.foo", "network.x")] == [NOTHING] * 4


@pytest.mark.parametrize(("rule", "passes", "not_passed"), [
    ("*", [("/a", "x.Y", "M"), ("/", None, "M")], []),
    ("x.Y.*", [("/a", "x.Y", "M")], [("/a", "x.Y.Z", "M"), ("/a", "x.YZ", "M"), ("/a", None, "M")]),
    ("x.Y.M", [("/a", "x.Y", "M")], [("/a", "x.Y", "N"), ("/a", "x.Y.M", "M"), ("/a", None, "M")]),
    ("@/a", [("/a", "x.Y", "M")], [("/a/b", "x.Y", "M"), ("/", "x.Y", "M")]),
    ("*@/a/*", [("/a", "x.Y", "M"), ("/a/b/c", "x.Y", "M")], [("/ab", "x.Y", "M"), ("/", "x.Y", "M")]),
    ("@/*", [("/", "x.Y", "M"), ("/a", "x.Y", "M")], []),
    ("x.Y.M@/a", [("/a", "x.Y", "M")], [("/b", "x.Y", "M"), ("/a", "x.Y", "N")]),
])
def test_a_rule_lets_through_the_members_and_objects_that_it_names(
    rule: str, passes: list[tuple[str, str | None, str]], not_passed: list[tuple[str, str | None, str]]
) -> None:
    calls, hears = View.of([f"call=a.b={rule}"]).grant("a.b"), View.of([f"broadcast=a.b={rule}"]).grant("a.b")
    for fields in passes:
        assert calls.may_call(Fields(CALL, *fields)) and not calls.may_hear(Fields(SIGNAL, *fields))
        assert hears.may_hear(Fields(SIGNAL, *fields)) and not hears.may_call(Fields(CALL, *fields))
    for fields in not_passed:
        assert not calls.may_call(Fields(CALL, *fields))
        assert not hears.may_hear(Fields(SIGNAL, *fields))
    assert calls.level == hears.level == Level.SEE
    assert calls.may_start and not hears.may_start


def test_several_rules_about_a_name_add_up() -> None:
    grant = View.of(["call=a.b=x.Y.M", "call=a.*=x.Z.*", "broadcast=a.b=*", "call=a.b=x.Y.M"]).grant("a.b")
    assert grant.may_call(Fields(CALL, "/", "x.Y", "M")) and grant.may_call(Fields(CALL, "/", "x.Z", "N"))
    assert not grant.may_call(Fields(CALL, "/", "x.Y", "N"))
    assert grant.may_hear(Fields(SIGNAL, "/", "x.Y", "N"))
    assert len(grant.calls) == 2


@pytest.mark.parametrize("rule", [
    "", "see", "see=", "see=a", "see=:1.5", "see=a..b", "see=a.b=c", "talk=.*", "talk=*", "own=a.*.b",
    "hear=a.b", "call=a.b", "call=a.b=", "call=a.b=M", "call=a.b=x.Y.*@", "call=a.b=x.Y.M@a", "call=a.b=@/a/",
    "call=:1.5=*", "call=a.b=x.*.M", "call=a.b=.*", "broadcast=a.b", "broadcast=a.b=x Y.M", "SEE=a.b",
    "--see=a.b", "see=" + "a." * RULE_MAX + "b",
])
def test_what_is_no_rule_is_refused(rule: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        View.of(["see=a.b", rule])
    assert len(rule) > RULE_MAX or rule in str(refused.value)


def test_the_number_of_rules_is_bounded() -> None:
    View.of(["see=a.b"] * RULES_MAX)
    with pytest.raises(InvalidArgument, match=f"{RULES_MAX + 1} rules"):
        View.of(["see=a.b"] * (RULES_MAX + 1))


def test_a_view_keeps_no_memory_of_the_names_that_it_is_asked_about() -> None:
    view = View.of(["see=a.*"])
    for number in range(5000):
        assert view.grant(f"a.n{number}").level == Level.SEE and view.grant(f"b.n{number}") == NOTHING
    assert len(view._kept) <= 1024
