"""Which rule decides: contexts, conditions, and what it costs."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import pytest
from bus1_bridge import policy as policy_module
from bus1_bridge.policy import OPEN, PICKED_MAX, ClientPolicy, Fields, Names
from policy_texts import ALICE, BOB, BUS_UID, CALL, ERROR, RETURN, ROOT, SIGNAL, call, named, policy_of

BUS = Names("org.freedesktop.DBus")


def client(*policies: str, uid: int = ALICE, groups: tuple[int, ...] = ()) -> ClientPolicy:
    return policy_of(*policies).of_client(uid, groups)


def sends(rules: str, message: Fields, receiver: Names = BUS, **more: Any) -> bool:
    return client(rules).may_send(message, receiver, **more).allowed


def receives(rules: str, message: Fields, sender: Names = BUS, **more: Any) -> bool:
    return client(rules).may_receive(message, sender, **more).allowed


# ---- the order of rules --------------------------------------------------------------------------


def test_without_a_rule_nothing_is_allowed() -> None:
    nobody = client("")
    assert not nobody.may_send(call(), BUS).allowed
    assert not nobody.may_receive(call(), BUS).allowed
    assert not nobody.may_own("a.b").allowed
    assert nobody.may_send(call(), BUS).rule is None


def test_the_last_rule_that_matches_decides_and_is_named() -> None:
    verdict = client(
        '\n<allow send_type="method_call"/>\n<deny send_path="/a"/>\n<allow send_path="/b"/>\n'
    ).may_send(call(), BUS)
    assert not verdict.allowed
    assert verdict.rule is not None
    assert str(verdict.rule) == '<deny send_path="/a"/> (/etc/bus.conf:3)'
    assert verdict.n_matched == 2


CONTEXTS = {
    "default": 'context="default"', "group": 'group="wheel"', "user": 'user="alice"',
    "console": 'at_console="true"', "mandatory": 'context="mandatory"',
}
"""From the weakest to the strongest."""


@pytest.mark.parametrize("weaker, stronger", list(combinations(CONTEXTS, 2)))
def test_a_stronger_context_decides_wherever_it_stands(weaker: str, stronger: str) -> None:
    for tag, other in (("allow", "deny"), ("deny", "allow")):
        policy = policy_of(
            f'<policy {CONTEXTS[stronger]}><{tag} own="a.b"/></policy>',
            f'<policy {CONTEXTS[weaker]}><{other} own="a.b"/></policy>', console=[ALICE],
        )
        assert policy.of_client(ALICE, [10]).may_own("a.b").allowed == (tag == "allow")


def test_a_context_is_about_its_own_clients_alone() -> None:
    policy = policy_of(
        '<policy group="wheel"><allow own="group"/></policy>',
        '<policy user="bob"><allow own="user"/></policy>',
        '<policy at_console="true"><allow own="here"/></policy>',
        '<policy at_console="false"><allow own="there"/></policy>', console=[BOB],
    )
    names = ("group", "user", "here", "there")
    owned = {
        who: {name for name in names if policy.of_client(*who).may_own(name).allowed}
        for who in ((ALICE, ()), (BOB, ()), (ALICE, (10, 20)), (None, ()))
    }
    assert owned == {
        (ALICE, ()): {"there"}, (BOB, ()): {"user", "here"}, (ALICE, (10, 20)): {"group", "there"},
        (None, ()): {"there"},
    }


def test_groups_come_in_the_order_of_their_numbers() -> None:
    policy = policy_of(
        '<policy group="audio"><allow own="a.b"/></policy>',
        '<policy group="wheel"><deny own="a.b"/></policy>',
    )
    assert policy.of_client(ALICE, [20, 10]).may_own("a.b").allowed


# ---- conditions ----------------------------------------------------------------------------------


def test_a_message_without_interface_is_denied_by_the_rule_that_denies_one_and_allowed_by_none() -> None:
    nameless = call(None)
    assert not sends('<allow send_interface="com.example.I"/>', nameless)
    assert not sends('<allow send_type="method_call"/><deny send_interface="com.example.I"/>', nameless)
    assert not receives('<allow receive_interface="com.example.I"/>', nameless)
    assert not receives('<allow receive_type="method_call"/><deny receive_interface="a.b"/>', nameless)


def test_a_path_a_member_and_an_error_that_are_missing_match() -> None:
    answer = Fields(RETURN, reply_serial=1)
    assert sends('<allow send_path="/z"/>', answer, requested_reply=True)
    assert sends('<allow send_path="/z" send_member="Z"/>', answer, requested_reply=True)
    assert sends('<allow send_error="z.z"/>', call())


@pytest.mark.parametrize("condition, fits, fails", [
    ('{}_interface="a.b"', {"interface": "a.b"}, {"interface": "a.c"}),
    ('{}_path="/a"', {"path": "/a"}, {"path": "/a/b"}),
    ('{}_path="/a" {}_member="M"', {"member": "M", "path": "/a"}, {"member": "N", "path": "/a"}),
    ('{}_error="a.e"', {"error_name": "a.e"}, {"error_name": "a.f"}),
    ('{}_type="signal"', {"type": SIGNAL}, {"type": CALL}),
    ('{}_type="method_call"', {"type": CALL}, {"type": SIGNAL}),
    ('{}_type="error"', {"type": ERROR}, {"type": RETURN}),
    ('{}_path="/a" min_fds="1"', {"path": "/a", "unix_fds": 1}, {"path": "/a", "unix_fds": 0}),
    ('{}_path="/a" max_fds="1"', {"path": "/a", "unix_fds": 1}, {"path": "/a", "unix_fds": 2}),
])
@pytest.mark.parametrize("direction", ["send", "receive"])
def test_a_condition_fits_or_fails(
    direction: str, condition: str, fits: dict[str, Any], fails: dict[str, Any]
) -> None:
    asks = sends if direction == "send" else receives
    rule = f"<allow {condition.format(*[direction] * 2)}/>"
    assert asks(rule, Fields(**{"type": CALL, "path": "/z", "interface": "z.z", **fits}))
    assert not asks(rule, Fields(**{"type": CALL, "path": "/z", "interface": "z.z", **fails}))


def test_a_destination_is_any_name_that_the_receiver_holds() -> None:
    rule = '<allow send_destination="com.example.A"/>'
    assert sends(rule, call(), named("com.example.Z", "com.example.A"))
    assert not sends(rule, call(destination="com.example.A"), named("com.example.Z"))
    assert sends('<allow send_destination=":1.7"/>', call(), named())
    assert sends('<allow send_destination="org.freedesktop.DBus"/>', call(), BUS)
    assert not sends(rule, call(), BUS)
    assert receives('<allow receive_sender="com.example.A"/>', call(), named("com.example.A"))
    assert not receives('<allow receive_sender="com.example.A"/>', call(), named("com.example.A.B"))


@pytest.mark.parametrize("name, is_in", [
    ("a.b", True), ("a.b.c", True), ("a.b.c.d", True), ("a.bc", False), ("a", False), ("b.a.b", False),
])
def test_a_prefix_ends_at_a_dot(name: str, is_in: bool) -> None:
    rule = '<allow send_destination_prefix="a.b"/>'
    assert sends(rule, call(), named("z.z", name)) == is_in
    assert sends(rule, call(), Names(name)) == is_in
    assert client('<allow own_prefix="a.b"/>').may_own(name).allowed == is_in


def test_an_owned_name_is_the_whole_name_or_any() -> None:
    assert client('<allow own="a.b"/>').may_own("a.b").allowed
    assert not client('<allow own="a.b"/>').may_own("a.b.c").allowed
    assert client('<allow own="*"/>').may_own("a.b").allowed
    assert not client('<allow own="*"/><deny own="a.b"/>').may_own("a.b").allowed


@pytest.mark.parametrize("tag, wanted, awaited, allowed", [
    # an allow rule for requested replies leaves others alone, one for others covers both
    ("allow", "true", True, True), ("allow", "true", False, False),
    ("allow", "false", True, True), ("allow", "false", False, True),
    # a deny rule for replies that nobody awaits leaves the others alone, one for requested ones covers both
    ("deny", "false", True, True), ("deny", "false", False, False),
    ("deny", "true", True, False), ("deny", "true", False, False),
])
@pytest.mark.parametrize("kind", [RETURN, ERROR, SIGNAL])
@pytest.mark.parametrize("direction", ["send", "receive"])
def test_replies_that_somebody_awaits(
    direction: str, kind: int, tag: str, wanted: str, awaited: bool, allowed: bool
) -> None:
    asks = sends if direction == "send" else receives
    rules = f'<{tag} {direction}_path="/a" {direction}_requested_reply="{wanted}"/>'
    if tag == "deny":
        rules = f'<allow {direction}_path="/a" {direction}_requested_reply="false"/>{rules}'
    assert asks(rules, Fields(kind, "/a", reply_serial=3), requested_reply=awaited) == allowed


def test_by_default_an_allow_rule_is_about_replies_that_somebody_awaits() -> None:
    answer = Fields(RETURN, reply_serial=3)
    assert sends('<allow send_type="method_return"/>', answer, requested_reply=True)
    assert not sends('<allow send_type="method_return"/>', answer)
    assert sends('<allow send_type="method_return" eavesdrop="true"/>', answer)


@pytest.mark.parametrize("rules, copy, allowed", [
    ('<allow receive_path="/a"/>', True, False), ('<allow receive_path="/a"/>', False, True),
    ('<allow receive_path="/a" eavesdrop="true"/>', True, True),
    ('<allow receive_path="/a" eavesdrop="true"/>', False, True),
    ('<allow eavesdrop="true"/><deny receive_path="/a"/>', True, False),
    ('<allow eavesdrop="true"/><deny receive_path="/a"/>', False, False),
    ('<allow eavesdrop="true"/><deny receive_path="/a" eavesdrop="true"/>', True, False),
    ('<allow eavesdrop="true"/><deny receive_path="/a" eavesdrop="true"/>', False, True),
])
def test_copies_for_those_who_eavesdrop(rules: str, copy: bool, allowed: bool) -> None:
    assert receives(rules, call(), eavesdropping=copy) == allowed


@pytest.mark.parametrize("wanted, kind, destination, fits", [
    ("true", SIGNAL, None, True), ("true", SIGNAL, "a.b", False), ("true", CALL, None, False),
    ("false", SIGNAL, None, False), ("false", SIGNAL, "a.b", True), ("false", CALL, "a.b", True),
])
def test_a_broadcast_is_a_signal_without_destination(
    wanted: str, kind: int, destination: str | None, fits: bool
) -> None:
    message = Fields(kind, "/a", destination=destination)
    assert sends(f'<allow send_path="/a" send_broadcast="{wanted}"/>', message, named()) == fits


def test_a_rule_may_ask_for_a_line_without_changing_the_verdict() -> None:
    verdict = client('<allow send_path="/a"/><allow send_path="/a" log="true"/>').may_send(call(), BUS)
    assert verdict.allowed
    assert verdict.log
    assert verdict.n_matched == 2
    assert not client('<allow send_path="/a"/>').may_send(call(), BUS).log


# ---- connecting ----------------------------------------------------------------------------------


def test_without_a_rule_only_the_user_of_the_bus_connects() -> None:
    policy = policy_of()
    assert policy.may_connect(BUS_UID, [], BUS_UID).allowed
    for uid in (ROOT, ALICE, None):
        assert not policy.may_connect(uid, [], BUS_UID).allowed


def test_who_may_connect_is_said_by_default_and_mandatory_rules_alone() -> None:
    policy = policy_of(
        '<allow user="*"/><deny group="audio"/><allow user="bob"/>',
        '<policy context="mandatory"><deny group="wheel"/></policy>',
    )
    may = {
        (uid, groups): policy.may_connect(uid, groups, BUS_UID).allowed
        for uid in (ALICE, BOB) for groups in ((), (20,), (10,))
    }
    assert may == {
        (ALICE, ()): True, (ALICE, (20,)): False, (ALICE, (10,)): False,
        (BOB, ()): True, (BOB, (20,)): True, (BOB, (10,)): False,
    }
    verdict = policy.may_connect(ALICE, [20], BUS_UID)
    assert verdict.rule is not None
    assert verdict.rule.text == '<deny group="audio"/>'
    assert verdict.n_matched == 2


@pytest.mark.parametrize("kind", ["user", "group"])
def test_a_rule_about_somebody_unknown_lets_nobody_in(kind: str) -> None:
    allows = policy_of(f'<allow {kind}="nobody-knows"/>')
    assert not allows.may_connect(ALICE, [1000], BUS_UID).allowed
    denies = policy_of(f'<allow user="*"/><deny {kind}="nobody-knows"/>')
    assert not denies.may_connect(ALICE, [1000], BUS_UID).allowed
    # who runs the machine and the bus is not shut out by a name that is gone
    assert denies.may_connect(ROOT, [], BUS_UID).allowed
    assert denies.may_connect(BUS_UID, [], BUS_UID).allowed


def test_a_policy_of_somebody_unknown_is_ignored() -> None:
    policy = policy_of('<policy user="nobody-knows"><allow own="*"/></policy>')
    assert not policy.of_client(ALICE, []).may_own("a.b").allowed


# ---- cost ----------------------------------------------------------------------------------------


def test_who_may_do_everything_is_known_beforehand() -> None:
    for rules, is_open in (
        ('<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>', True),
        ('<deny send_path="/a"/><allow send_type="*" send_requested_reply="false"/>'
         '<deny receive_path="/a"/><allow receive_type="*" eavesdrop="true"/>', True),
        ('<allow send_destination="*"/><allow receive_sender="*"/>', False),
        ('<allow send_destination="*" eavesdrop="true"/><deny send_path="/a"/>'
         '<allow eavesdrop="true"/><deny receive_path="/a"/>', False),
        ('<allow send_destination="*" eavesdrop="true"/><allow send_path="/a" log="true"/>'
         '<allow receive_sender="*"/>', False),
    ):
        assert (client(rules).sends_all, client(rules).receives_all) == (is_open, is_open), rules
    everybody = OPEN.of_client(ALICE, [])
    assert everybody.sends_all
    assert everybody.receives_all
    assert everybody.may_own("a.b").allowed


def test_rules_for_others_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = 0
    applies = policy_module._applies

    def counting(*arguments: Any) -> bool:
        nonlocal looked_at
        looked_at += 1
        return applies(*arguments)

    monkeypatch.setattr(policy_module, "_applies", counting)
    filed = client(
        '<allow send_type="method_call"/>'
        + "".join(f'<deny send_destination="com.example.D{n}"/>' for n in range(3000))
        + "".join(f'<deny send_interface="com.example.I{n}"/>' for n in range(3000))
        + "".join(f'<deny send_destination="com.example.A" send_interface="a.I{n}"/>' for n in range(3000))
    )
    for _ in range(10):
        assert filed.may_send(call(), named("com.example.A", "com.example.D3000")).allowed
    assert looked_at == 10


def test_what_is_kept_about_messages_is_bounded() -> None:
    rules = "".join(f'<allow send_destination="a.n{n}" send_interface="b.i{n}"/>' for n in range(80))
    filed = client(rules)
    for n, i in product(range(80), range(80)):
        assert filed.may_send(call(f"b.i{i}"), named(f"a.n{n}")).allowed == (n == i)
    assert len(filed._sent._picked) <= PICKED_MAX
    few = client('<allow send_interface="b.i"/>')
    for n in range(1000):
        few.may_send(call(f"b.i{n}"), named(f"a.n{n}"))
    assert len(few._sent._picked) == 1


def test_clients_of_one_kind_share_their_rules() -> None:
    policy = policy_of('<policy user="alice"><allow own="a.b"/></policy>')
    assert policy.of_client(1234, [5]) is policy.of_client(4321, [6, 7])
    assert policy.of_client(ALICE, []) is not policy.of_client(BOB, [])


# ---- reaching ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules, reachable", [
    ("", False),
    ('<allow send_destination="a.b" send_interface="i.i"/>', True),
    ('<allow send_destination="a.c"/>', False),
    ('<allow send_destination="a.b"/><deny send_type="method_call"/>', False),
    ('<allow send_type="method_call"/><deny send_destination="a.b"/>', False),
    ('<allow send_type="method_call"/><deny send_destination="a.b" send_interface="i.i"/>', True),
    ('<allow send_type="signal"/>', False),
    ('<deny send_type="method_call"/><allow send_destination_prefix="a"/>', True),
])
def test_a_peer_is_within_reach_if_some_call_could_pass(rules: str, reachable: bool) -> None:
    assert client(rules).may_reach(named("a.b")) == reachable
