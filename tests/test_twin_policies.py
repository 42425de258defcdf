"""Both bodies of a client's policy give the same verdicts, and name the same rule."""

from __future__ import annotations

from typing import Any

import pytest
from bus1_bridge.policy import ClientPolicy, Fields, Names
from bus1_bridge.policyrules import MOST_FDS, RECEIVE, SEND, Rule
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_scenes import INTERFACES, MEMBERS, NAMES, PATHS, Draw
from policy_texts import ALICE, BOB, named, policy_of

from bus1 import acceleration

native = acceleration.native
pytestmark = pytest.mark.skipif(native is None, reason="there is no native body")


def rule_with(kind: str, allow: bool, **said: Any) -> Rule:
    """A rule that says this."""
    rule = Rule(kind, allow)
    for key, value in said.items():
        setattr(rule, key, value)
    return rule


def maybe(*values: str) -> st.SearchStrategy[str | None]:
    return st.none() | st.none() | st.sampled_from(values)


RULES = st.builds(
    rule_with, st.sampled_from([SEND, RECEIVE]), st.booleans(), type=st.sampled_from([0, 0, 0, 1, 2, 3, 4]),
    interface=maybe("x.Y", "x.Z"), member=maybe("M", "N"), error=maybe("e.E"), path=maybe("/a", "/b"),
    name=maybe("a.b", "a", "c.d", ":1.7", ":1", "org.freedesktop.DBus"), is_prefix=st.booleans(),
    requested_reply=st.booleans(), eavesdrop=st.booleans(),
    broadcast=st.sampled_from([None, None, True, False]), min_fds=st.sampled_from([0, 0, 1]),
    max_fds=st.sampled_from([MOST_FDS, MOST_FDS, 0, 1]), log=st.booleans(),
)  # fmt: skip
ALL_FIELDS = st.builds(
    Fields, st.integers(1, 6), maybe("/a", "/b", "/c"), maybe("x.Y", "x.Z", "x.W"), maybe("M", "N"),
    maybe("e.E"), maybe("a.b", ":1.7"), st.sampled_from([0, 5]), st.integers(0, 2),
)  # fmt: skip
PEOPLE = st.builds(
    named, st.sampled_from(["a.b", "a.b.c", "q.r"]), st.sampled_from(["a", "c.d", "a.bc", "a-b", "s.t"]),
) | st.sampled_from([Names(":1.7"), Names("org.freedesktop.DBus"), Names("a.b"), named("c.d", unique=":1")])


def agree(
    theirs: ClientPolicy, ours: Any, message: Fields, peer: Names, requested: bool, eavesdropping: bool
) -> bool:
    """Both give the same verdicts; whether both directions are allowed."""
    sent = theirs.may_send(message, peer, requested_reply=requested)
    place = theirs._sent.rules.index(sent.rule) if sent.rule is not None else None
    assert ours.may_send(message, peer, requested_reply=requested) == (sent.allowed, sent.log, place)
    flags = {"requested_reply": requested, "eavesdropping": eavesdropping}
    received = theirs.may_receive(message, peer, **flags)
    place = theirs._received.rules.index(received.rule) if received.rule is not None else None
    assert ours.may_receive(message, peer, **flags) == (received.allowed, received.log, place)
    return sent.allowed and received.allowed


def twin_of(policy: ClientPolicy) -> Any:
    """What its native twin says."""
    assert native is not None
    return native.ClientPolicy(*policy.as_data())


@settings(max_examples=400)
@given(
    st.lists(RULES, min_size=4, max_size=12), st.lists(st.tuples(ALL_FIELDS, PEOPLE), min_size=2, max_size=6),
    st.booleans(), st.booleans(),
)
def test_the_same_rule_decides(
    rules: list[Rule], several: list[tuple[Fields, Names]], requested: bool, eavesdropping: bool
) -> None:
    theirs = ClientPolicy(rules)
    ours = twin_of(theirs)
    for message, peer in several:
        agree(theirs, ours, message, peer, requested, eavesdropping)


def test_a_peer_with_more_names_than_there_are_rules_is_found_by_them() -> None:
    rules = [rule_with(SEND, True), rule_with(SEND, False, name="n.n77"), rule_with(SEND, True, name="n.n78")]
    theirs = ClientPolicy(rules)
    ours = twin_of(theirs)
    for names in ([f"n.n{i}" for i in range(100)], [f"n.n{i}" for i in range(78)], ["m.m"] * 5):
        peer = named(*names)
        assert ours.may_send(Fields(1), peer)[0] == theirs.may_send(Fields(1), peer).allowed


@pytest.mark.parametrize("seed", range(40))
def test_policies_as_files_have_them_decide_the_same(seed: int) -> None:
    draw = Draw(seed)
    elements = f"\n{draw.policy()}".split("\n<policy")[1:]
    policy = policy_of(*(f"<policy{element}" for element in elements), console=[ALICE])
    pick, verdicts = draw.random, set()
    for uid, groups in ((ALICE, ()), (BOB, (0,)), (0, (1, 65534)), (1, ())):
        theirs = policy.of_client(uid, groups)
        ours = twin_of(theirs)
        for _ in range(60):
            message = Fields(
                pick.randint(1, 4), pick.choice((*PATHS, None)), pick.choice((*INTERFACES, None)),
                pick.choice((*MEMBERS, None)), pick.choice(("com.example.E", None)),
                pick.choice((":1.7", None)), pick.choice((0, 5)), pick.choice((0, 1, 2)),
            )
            peer = named(*pick.sample(NAMES, pick.randint(0, 3)), unique=pick.choice((":1.1", ":1.7")))
            verdicts.add(agree(theirs, ours, message, peer, pick.random() < 0.5, pick.random() < 0.3))
    assert False in verdicts
