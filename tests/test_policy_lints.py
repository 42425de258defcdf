"""Rules that look wrong: dead, shadowed, dangerous."""

from __future__ import annotations

import random
from itertools import product

import pytest
from bus1_bridge.policy import Fields, Names, Policy
from bus1_bridge.policylints import Lint, dead_names, lints
from bus1_bridge.policyrules import OWN, SEND, USER, Contexts
from policy_scenes import ERRORS, INTERFACES, MEMBERS, NAMES, PATHS, Draw
from policy_texts import config_of, policy_of

BUS = "org.freedesktop.DBus"


def found(*policies: str, is_system: bool = True) -> list[tuple[str, str]]:
    """Kind and rule of every lint."""
    return [(lint.kind, lint.rule.text) for lint in lints(policy_of(*policies).contexts, is_system=is_system)]


@pytest.mark.parametrize("rule", [
    '<allow send_path="/a" min_fds="3" max_fds="2"/>',
    '<deny send_path="/a" send_type="error" send_broadcast="true"/>',
    '<allow send_destination="no-name"/>', '<deny receive_sender="a b.c"/>', '<allow own="x"/>',
    '<allow own=":1.7"/>', '<deny own="org.freedesktop.DBus"/>', '<allow own_prefix="a..b"/>',
    '<allow user="ghost"/>', '<deny group="ghosts"/>',
])
def test_a_rule_that_matches_nothing_is_dead(rule: str) -> None:
    assert ("dead", rule) in found(rule)


@pytest.mark.parametrize("rule", [
    '<allow send_path="/a" min_fds="2" max_fds="2"/>', '<deny send_path="/a" send_broadcast="true"/>',
    '<allow send_destination=":1.7" send_type="method_call"/>', '<deny own="a.b"/>',
    '<allow own_prefix="a"/>', '<allow user="alice"/>', '<deny user="*"/>',
    '<allow send_destination_prefix="com"/>',
])
def test_a_rule_that_matches_something_is_not(rule: str) -> None:
    assert ("dead", rule) not in found(rule)


def test_a_name_that_nobody_may_own_makes_rules_about_it_dead() -> None:
    contexts = config_of(
        '<policy context="default"><allow send_destination="a.b"/><allow send_destination="a.c"/>'
        '<allow send_destination="org.freedesktop.DBus"/><deny receive_sender="a.d"/></policy>'
    ).contexts
    assert [lint.rule.name for lint in dead_names(contexts, {"a.c"})] == ["a.b", "a.d"]


@pytest.mark.parametrize("rule, later", [
    ('<allow own="a.b"/>', '<deny own="*"/>'),
    ('<allow own="a.b"/>', '<deny own_prefix="a"/>'),
    ('<allow own_prefix="a.b"/>', '<deny own_prefix="a"/>'),
    ('<deny send_type="signal"/>', '<allow send_destination="*" eavesdrop="true"/>'),
    ('<deny send_path="/a" send_member="M"/>', '<deny send_path="/a" send_requested_reply="true"/>'),
    ('<allow send_interface="a.b"/>', '<deny send_interface="a.b" send_requested_reply="true"/>'),
    ('<deny receive_sender="a.b"/>', '<deny receive_sender="a.b" receive_requested_reply="true"/>'),
    ('<allow send_destination="a.b" send_type="method_call"/>', '<deny send_type="method_call"/>'),
    ('<deny user="alice"/>', '<allow user="*"/>'),
    ('<deny group="wheel"/>', '<allow group="wheel"/>'),
])
def test_a_rule_that_a_later_one_overrules_in_any_case_is_shadowed(rule: str, later: str) -> None:
    assert ("shadowed", rule) in found(rule, later)
    assert ("shadowed", rule) in found(rule, f'<policy context="mandatory">{later}</policy>')
    assert ("shadowed", rule) not in found(later, rule)


@pytest.mark.parametrize("rule, later", [
    ('<allow own="a.b"/>', '<deny own="a.c"/>'),
    ('<allow own_prefix="a.b"/>', '<deny own="a.b"/>'),
    ('<allow own="a"/>', '<deny own_prefix="a.b"/>'),
    ('<deny send_type="signal"/>', '<allow send_type="method_call"/>'),
    # a deny rule is also about messages without an interface, an allow rule is not
    ('<deny send_interface="a.b" send_type="method_call"/>',
     '<allow send_interface="a.b" send_type="method_call"/>'),
    # replies that somebody awaits, or nobody
    ('<allow send_path="/a"/>', '<deny send_path="/a"/>'),
    ('<deny send_path="/a"/>', '<allow send_path="/a"/>'),
    # copies
    ('<allow receive_path="/a" eavesdrop="true"/>', '<deny receive_path="/a" eavesdrop="true"/>'),
    ('<allow send_path="/a" max_fds="3"/>', '<allow send_path="/a" max_fds="2"/>'),
    ('<allow send_path="/a" log="true"/>', '<allow send_path="/a"/>'),
    ('<deny user="*"/>', '<allow user="alice"/>'),
    ('<deny user="alice"/>', '<allow group="*"/>'),
])
def test_a_rule_that_still_decides_something_is_not_shadowed(rule: str, later: str) -> None:
    assert ("shadowed", rule) not in found(rule, later)


def test_a_context_does_not_shadow_another_that_comes_before_or_is_for_others() -> None:
    rule = '<allow own="a.b"/>'
    assert not found(rule, '<policy user="alice"><deny own="*"/></policy>', is_system=False)
    assert not found(f'<policy user="alice">{rule}</policy>', '<policy user="bob"><deny own="*"/></policy>')


@pytest.mark.parametrize("rule", [
    '<allow own="*"/>', '<allow own_prefix="a.b"/>', '<allow own="a.b"/>', '<allow eavesdrop="true"/>',
    '<allow send_type="method_call"/>', '<allow send_destination="*"/>', '<allow send_interface="a.b"/>',
    '<allow send_path="/a"/>', '<deny send_interface="a.b"/>',
    '<allow send_type="method_return" send_requested_reply="false"/>',
])
def test_a_rule_for_everybody_that_says_more_than_it_seems_is_dangerous(rule: str) -> None:
    for context in ('context="default"', 'context="mandatory"', 'at_console="false"'):
        policy = f"<policy {context}>{rule}</policy>"
        assert ("dangerous", rule) in found(policy)
        # on a bus of one user nobody else is there
        assert ("dangerous", rule) not in found(policy, is_system=False)
    assert ("dangerous", rule) not in found(f'<policy user="alice">{rule}</policy>')


@pytest.mark.parametrize("rule", [
    '<deny own="*"/>', '<allow receive_type="signal"/>', '<deny send_type="method_call"/>',
    '<allow send_type="signal"/>', '<allow send_destination="a.b" send_interface="a.b"/>',
    '<allow send_type="method_return"/>', '<deny send_destination="a.b" send_interface="a.b"/>',
    '<allow user="*"/>',
])
def test_what_every_system_bus_has_is_not_dangerous(rule: str) -> None:
    assert not found(rule)


def without(contexts: Contexts, lint: Lint) -> Contexts:
    """The same rules but for this one."""
    fewer = Contexts()
    for key in ("default", "mandatory", "console", "no_console"):
        setattr(fewer, key, [rule for rule in getattr(contexts, key) if rule is not lint.rule])
    for key in ("by_user", "by_group"):
        setattr(fewer, key, {
            number: [rule for rule in rules if rule is not lint.rule]
            for number, rules in getattr(contexts, key).items()
        })
    return fewer


def test_without_a_rule_that_is_shadowed_or_dead_nothing_changes() -> None:
    n_lints = 0
    for seed in range(30):
        contexts = config_of(Draw(seed).scene(0).policy).contexts
        for lint in lints(contexts, is_system=True):
            if lint.kind != "dangerous" and lint.rule.kind != USER:
                n_lints += 1
                assert_same(Policy(contexts), Policy(without(contexts, lint)), lint, random.Random(seed))
    assert n_lints > 20


def assert_same(before: Policy, after: Policy, lint: Lint, pick: random.Random) -> None:
    for _ in range(40):
        kind = pick.randint(1, 4)
        message = Fields(
            kind, pick.choice((*PATHS, None)), pick.choice((*INTERFACES, BUS, None)),
            pick.choice((*MEMBERS, None)), pick.choice((*ERRORS, None)), pick.choice((None, NAMES[0])),
            # what a call could be an answer to is anybody's guess
            pick.choice((0, kind > 1)), pick.randint(0, 3),
        )
        names = pick.sample(NAMES, 2)
        peer = Names(
            pick.choice((":1.1", BUS)), names,
            lambda space: any(f"{name}.".startswith(f"{space}.") for name in names),  # noqa: B023
        )
        for uid, groups in product((None, 1, 0), ((), (0,), (1,), (65534,))):
            for flags in product((False, True), (False, True)):
                assert verdicts(before, uid, groups, message, peer, flags) == verdicts(
                    after, uid, groups, message, peer, flags
                ), (str(lint.rule), lint.text, message)


def verdicts(
    policy: Policy, uid: int | None, groups: tuple[int, ...], message: Fields, peer: Names,
    flags: tuple[bool, bool],
) -> tuple[bool, ...]:
    client, (requested, copy) = policy.of_client(uid, groups), flags
    return (
        client.may_send(message, peer, requested_reply=requested).allowed,
        client.may_receive(message, peer, requested_reply=requested, eavesdropping=copy).allowed,
        *(client.may_own(name).allowed for name in NAMES),
    )


def test_lints_name_the_rule_that_overrules() -> None:
    (lint,) = [
        lint for lint in lints(policy_of('<allow own="a.b"/>', '<deny own="*"/>').contexts, is_system=False)
        if lint.kind == "shadowed"
    ]
    assert lint.text == (
        '<deny own="*"/> (/etc/bus.conf:2) comes later, matches all of it, and says the opposite'
    )
    assert lint.rule.kind == OWN != SEND
