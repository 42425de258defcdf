"""Clients behind a view: what they may do, what they hear, and that they cannot tell what is hidden."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from bus1_bridge.arrival import come_in
from bus1_bridge.entrance import Entrance
from bus1_bridge.switch.effects import LookUp, Refusal
from bus1_bridge.view import View
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_texts import policy_of
from pure_switch import (
    CALL,
    DRIVER,
    DRIVER_PATH,
    FAULT,
    NO_AUTO_START,
    RETURN,
    SIGN_IN,
    SIGNAL,
    UID,
    Client,
    PureSwitch,
)

RULES = (
    "see=a.See", "talk=a.Talk", "own=a.Own.*", "call=a.Call=x.Y.M@/ok/*", "broadcast=a.Cast=x.Y.*@/ok",
    "talk=a.Started", "call=a.CallStarted=x.Y.M", "see=a.SeeStarted",
)


def behind(bus: PureSwitch, *rules: str, hello: bool = True) -> Client:
    """A client that came in by an endpoint with these rules."""
    connection = bus.connect()
    entrance = Entrance("app", {"instance": "7"}, UID, View.of(rules))
    come_in(bus.delivery, bus.router.party(connection), entrance)
    client = Client(bus, connection)
    client.say(SIGN_IN)
    assert client.raw().startswith(b"OK ")
    if hello:
        client.name = client.call("Hello").args[0]
        assert client.take().member == "NameAcquired"
    return client


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    bus = PureSwitch()
    yield bus
    bus.router.configure(bus.limits, policy_of(
        '<allow send_destination="*" eavesdrop="true"/>', '<allow eavesdrop="true"/>', '<allow own="*"/>'
    ))
    bus.end()
    assert not bus.tables.sights


def owner(bus: PureSwitch, *names: str) -> Client:
    client = bus.client()
    for name in names:
        assert client.call("RequestName", "su", name, 0).args == (1,)
        assert client.take().member == "NameAcquired"
    return client


def error_of(client: Client, serial: int) -> str | None:
    """The error that answers this message of the client, shortened; None if nothing does."""
    found = [got for got in client.take_all() if got.reply_serial == serial and got.type == FAULT]
    return found[0].error.rpartition(".")[2] if found and found[0].error else None


def members(client: Client) -> list[str | None]:
    return [got.member for got in client.take_all()]


# ---- whom it may call ----------------------------------------------------------------------------


@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize(("name", "path", "interface", "member", "outcome"), [
    ("a.Talk", "/x", "p.Q", "Do", None),
    ("a.See", "/x", "p.Q", "Do", "AccessDenied"),
    ("a.See", "/x", "org.freedesktop.DBus.Peer", "Ping", "AccessDenied"),
    ("a.Call", "/ok", "x.Y", "M", None),
    ("a.Call", "/ok/further", "x.Y", "M", None),
    ("a.Call", "/okay", "x.Y", "M", "AccessDenied"),
    ("a.Call", "/ok", "x.Y", "N", "AccessDenied"),
    ("a.Call", "/ok", None, "M", "AccessDenied"),
    ("a.Call", "/ok", "org.freedesktop.DBus.Introspectable", "Introspect", "AccessDenied"),
    ("a.Cast", "/ok", "x.Y", "M", "AccessDenied"),
    ("a.Hidden", "/ok", "x.Y", "M", "ServiceUnknown"),
    ("a.Own.x", "/x", "p.Q", "Do", None),
])
def test_a_call_passes_if_a_rule_grants_it_to_the_name_or_its_owner(
    bus: PureSwitch, name: str, path: str, interface: str | None, member: str, outcome: str | None,
    by_name: bool,
) -> None:
    service, client = owner(bus, name), behind(bus, *RULES)
    to = name if by_name else service.name
    serial = client.ask(to, member, path=path, interface=interface)
    assert error_of(client, serial) == outcome
    assert members(service) == ([] if outcome else [member])


def test_a_refused_call_says_which_endpoint_does_not_grant_it(bus: PureSwitch) -> None:
    owner(bus, "a.See")
    client = behind(bus, *RULES)
    client.ask("a.See")
    text = str(client.take().args[0])
    assert text.startswith("Rejected send message") and 'member="Do"' in text
    assert 'destination="a.See"' in text
    assert text.endswith('; the endpoint "app" does not grant it')
    bus.settle()
    (record,) = [effect for effect in bus.effects if isinstance(effect, Refusal)]
    assert record.sender == client.name and record.text == text


def test_signals_to_somebody_need_more_than_leave_to_call(bus: PureSwitch) -> None:
    services = {name: owner(bus, name) for name in ("a.Talk", "a.Call", "a.See", "a.Hidden")}
    client = behind(bus, *RULES)
    outcomes = {}
    for name in services:
        serial = client.emit("M", path="/ok", interface="x.Y", destination=name)
        outcomes[name] = error_of(client, serial)
    assert outcomes == {
        "a.Talk": None, "a.Call": "AccessDenied", "a.See": "AccessDenied", "a.Hidden": "ServiceUnknown",
    }
    assert {name: members(service) for name, service in services.items()} == {
        "a.Talk": ["M"], "a.Call": [], "a.See": [], "a.Hidden": [],
    }


def test_its_own_broadcasts_reach_whoever_listens(bus: PureSwitch) -> None:
    other, client = bus.client(), behind(bus, *RULES)
    other.call("AddMatch", "s", "interface='x.Y'")
    client.emit("Said", interface="x.Y")
    assert members(other) == ["Said"]


def test_the_configuration_still_counts(bus: PureSwitch) -> None:
    service, client = owner(bus, "a.Talk"), behind(bus, *RULES)
    bus.router.configure(bus.limits, policy_of(
        '<allow send_destination="*"/>', '<allow receive_type="error"/>', '<deny send_interface="no.No"/>',
        '<allow own="*"/>', '<allow receive_sender="*"/>',
    ))
    assert error_of(client, client.ask("a.Talk", interface="no.No")) == "AccessDenied"
    assert error_of(client, client.ask("a.Talk", interface="p.Q")) is None
    assert members(service) == ["Do"]
    assert error_of(client, client.ask("a.See", interface="p.Q")) == "ServiceUnknown", "nobody owns it"


# ---- answers -------------------------------------------------------------------------------------


def test_whoever_calls_it_is_answered_once_and_seen_but_not_called(bus: PureSwitch) -> None:
    stranger, client = owner(bus, "a.Hidden"), behind(bus, *RULES)
    assert client.call("NameHasOwner", "s", stranger.name).args == (False,)
    stranger.ask(client.name)
    call = client.take()
    assert call.sender == stranger.name
    assert client.call("NameHasOwner", "s", stranger.name).args == (True,)
    assert client.call("NameHasOwner", "s", "a.Hidden").args == (False,)
    assert error_of(client, client.ask(stranger.name)) == "AccessDenied"
    client.answer(call)
    assert [got.type for got in stranger.take_all()] == [RETURN]
    assert error_of(client, client.answer(call)) == "AccessDenied"
    assert not stranger.take_all()


def test_answers_that_nobody_waits_for_do_not_get_through(bus: PureSwitch) -> None:
    service, client = owner(bus, "a.Talk"), behind(bus, *RULES)
    for kind, error in ((RETURN, None), (FAULT, "x.Y.E"), (SIGNAL, None), (CALL, None)):
        client.send(
            kind, destination=service.name, reply_serial=7, error_name=error, path="/x", interface="x.Y",
            member="M",
        )
    assert not service.take_all()


# ---- what it hears -------------------------------------------------------------------------------


def test_broadcasts_come_from_those_alone_whom_a_rule_names(bus: PureSwitch) -> None:
    client = behind(bus, *RULES)
    client.call("AddMatch", "s", "type='signal'")
    heard = {}
    for name in ("a.Talk", "a.See", "a.Cast", "a.Call", "a.Hidden", "a.Own.x"):
        service = owner(bus, name)
        client.take_all()
        for path, interface in (("/ok", "x.Y"), ("/no", "x.Y"), ("/ok", "x.Z")):
            service.emit("S", path=path, interface=interface)
        heard[name] = [(got.path, got.interface) for got in client.take_all()]
    everything = [("/ok", "x.Y"), ("/no", "x.Y"), ("/ok", "x.Z")]
    assert heard == {
        "a.Talk": everything, "a.See": [], "a.Cast": [("/ok", "x.Y")], "a.Call": [], "a.Hidden": [],
        "a.Own.x": everything,
    }


def test_it_hears_of_owners_of_the_names_that_it_sees_up_to_their_end(bus: PureSwitch) -> None:
    client = behind(bus, *RULES)
    client.call("AddMatch", "s", "member='NameOwnerChanged'")
    service = owner(bus, "a.Hidden", "a.See", "a.Hidden2")
    assert [got.args for got in client.take_all()] == [("a.See", "", service.name)]
    service.call("ReleaseName", "s", "a.See")
    assert [got.args for got in client.take_all()] == [("a.See", service.name, "")]
    assert client.call("ListNames").args == ([DRIVER, client.name, service.name],)
    assert client.call("NameHasOwner", "s", service.name).args == (True,), "what was seen stays seen"
    service.leave()
    assert [got.args for got in client.take_all()] == [(service.name, service.name, "")]
    unknown = owner(bus, "a.Hidden")
    unknown.leave()
    assert not client.take_all()


def test_whose_name_it_could_see_stays_seen_when_that_is_given_up(bus: PureSwitch) -> None:
    service, client = owner(bus, "a.See"), behind(bus, *RULES)
    service.call("ReleaseName", "s", "a.See")
    assert client.call("NameHasOwner", "s", service.name).args == (True,)
    assert client.call("NameHasOwner", "s", "a.See").args == (False,)


def test_its_rules_about_those_whom_it_does_not_see_outlive_them_unnoticed(bus: PureSwitch) -> None:
    seen, hidden, client = owner(bus, "a.See"), bus.client(), behind(bus, *RULES)
    for name in (seen.name, hidden.name):
        client.call("AddMatch", "s", f"sender='{name}'")
    seen.leave()
    hidden.leave()
    assert client.fault("RemoveMatch", "s", f"sender='{seen.name}'") == "MatchRuleNotFound"
    assert client.call("RemoveMatch", "s", f"sender='{hidden.name}'").args == ()


def test_it_cannot_eavesdrop_nor_become_a_monitor_nor_look_at_everybody(bus: PureSwitch) -> None:
    client = behind(bus, *RULES)
    stats, monitoring = f"{DRIVER}.Debug.Stats", f"{DRIVER}.Monitoring"
    assert client.fault("AddMatch", "s", "eavesdrop='true'") == "AccessDenied"
    assert client.fault("BecomeMonitor", "asu", [], 0, interface=monitoring) == "AccessDenied"
    for method, signature, values in (
        ("GetStats", "", ()), ("GetAllMatchRules", "", ()), ("GetConnectionStats", "s", (client.name,)),
    ):
        assert client.fault(method, signature, *values, interface=stats) == "AccessDenied"
    assert client.fault("ReloadConfig") == "AccessDenied"
    assert client.fault("UpdateActivationEnvironment", "a{ss}", {"A": "b"}) == "AccessDenied"
    assert "ReloadConfig" in client.call("Introspect", interface=f"{DRIVER}.Introspectable").args[0]


def test_eavesdroppers_and_monitors_outside_see_all_that_it_says(bus: PureSwitch) -> None:
    service, eavesdropper, monitor = owner(bus, "a.Talk"), bus.client(), bus.client()
    eavesdropper.call("AddMatch", "s", "eavesdrop='true',interface='x.Y'")
    monitor.call("BecomeMonitor", "asu", ["interface='x.Y'"], 0, interface=f"{DRIVER}.Monitoring")
    monitor.take_all()
    client = behind(bus, *RULES)
    client.ask("a.Talk", "M", interface="x.Y")
    client.emit("S", interface="x.Y")
    assert members(service) == ["M"]
    assert members(eavesdropper) == members(monitor) == ["M", "S"]
    eavesdropper.call("AddMatch", "s", "eavesdrop='true',type='method_return'")
    service.ask(client.name, "Back", interface="p.Q")
    client.answer(client.take(), "s", "yes")
    assert [got.args for got in eavesdropper.take_all()] == [got.args for got in service.take_all()] == [
        ("yes",)
    ]


# ---- names ---------------------------------------------------------------------------------------


def test_it_owns_what_it_may_and_nothing_else(bus: PureSwitch) -> None:
    client = behind(bus, *RULES)
    for name in ("a.Talk", "a.See", "a.Hidden", "b.Nothing"):
        for method, signature, values in (
            ("RequestName", "su", (name, 0)), ("ReleaseName", "s", (name,)),
        ):
            got = client.call(method, signature, *values)
            assert got.type == FAULT and 'the endpoint "app"' in got.args[0]
    assert client.call("RequestName", "su", "a.Own.it", 0).args == (1,)
    assert client.call("ListQueuedOwners", "s", "a.Own.it").args == ([client.name],)
    assert client.call("ReleaseName", "s", "a.Own.it").args == (1,)
    assert client.fault("ListQueuedOwners", "s", "a.Own.it") == "NameHasNoOwner"
    assert client.fault("ListQueuedOwners", "s", "a.Talk") == "AccessDenied"
    owner(bus, "a.Talk", "a.Hidden")
    assert client.fault("ListQueuedOwners", "s", "a.Talk") == "AccessDenied"
    assert client.fault("ListQueuedOwners", "s", "a.Hidden") == "NameHasNoOwner"


def test_it_starts_what_it_may_call(bus: PureSwitch) -> None:
    names = ("a.Started", "a.CallStarted", "a.SeeStarted", "a.Hidden")
    bus.services = {name: f"/bin/{name}" for name in names}
    client = behind(bus, *RULES)
    (listed,) = client.call("ListActivatableNames").args
    assert listed == [DRIVER, "a.Started", "a.CallStarted", "a.SeeStarted"]
    assert client.fault("StartServiceByName", "su", "a.SeeStarted", 0) == "AccessDenied"
    assert client.fault("StartServiceByName", "su", "a.Hidden", 0) == "ServiceUnknown"
    assert error_of(client, client.ask("a.SeeStarted")) == "AccessDenied"
    assert error_of(client, client.ask("a.CallStarted", "N", interface="x.Y")) == "AccessDenied"
    serials = [client.ask("a.Started"), client.ask("a.CallStarted", "M", interface="x.Y")]
    assert not client.take_all()
    first, second = owner(bus, "a.Started"), owner(bus, "a.CallStarted")
    assert [got.serial for service in (first, second) for got in service.take_all()] == serials


def test_nobody_is_asked_about_what_is_hidden(bus: PureSwitch) -> None:
    """A question would take time, and more for some names than for others."""
    bus.services["a.Hidden"] = "/bin/a"
    bus.is_asleep = True
    client = behind(bus, *RULES)
    for name in ("a.Hidden", "b.Nothing"):
        assert error_of(client, client.ask(name)) == "ServiceUnknown"
        assert client.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"
    assert not [effect for effect in bus.effects if isinstance(effect, LookUp)]
    client.ask("a.Started")
    (question,) = [effect for effect in bus.effects if isinstance(effect, LookUp)]
    assert question.name == "a.Started"
    bus.answer(question)


def test_who_asks_for_what_is_hidden_is_in_the_log(bus: PureSwitch) -> None:
    client = behind(bus, "see=a.See")
    client.ask("a.Wanted")
    bus.settle()
    (record,) = [effect for effect in bus.effects if isinstance(effect, Refusal)]
    assert record.kind == "hidden" and 'a.Wanted, which the endpoint "app" hides' in record.text


def test_others_are_told_by_which_endpoint_it_came_in(bus: PureSwitch) -> None:
    other, client = bus.client(), behind(bus, *RULES)
    (known,) = other.call("GetConnectionCredentials", "s", client.name).args
    assert known["org.bus1.Endpoint"].value == "app"
    assert known["org.bus1.Endpoint.Metadata"].value == {"instance": "7"}
    assert "org.bus1.Endpoint" not in other.call("GetConnectionCredentials", "s", other.name).args[0]


def test_two_clients_of_an_endpoint_do_not_see_each_other_without_a_rule(bus: PureSwitch) -> None:
    first, second = behind(bus, *RULES), behind(bus, *RULES)
    assert second.call("NameHasOwner", "s", first.name).args == (False,)
    first.call("RequestName", "su", "a.Own.first", 0)
    assert second.call("NameHasOwner", "s", first.name).args == (True,)


def test_nothing_is_kept_of_parties_that_have_left(bus: PureSwitch) -> None:
    client = behind(bus, *RULES)
    sight = bus.tables.sights[client.connection]
    for _ in range(20):
        visitor = owner(bus, "a.Talk")
        visitor.ask(client.name)
        client.call("NameHasOwner", "s", visitor.name)
        visitor.leave()
    for number in range(20):
        client.call("NameHasOwner", "s", f":9.{number}")
    assert len(sight._parties) <= 1


# ---- what is hidden is as if it were not there -----------------------------------------------------

HIDDEN = ("b.Hidden", "a.Seen.not", "b.Startable")
VISIBLE = ("a.See", "a.Talk", "a.Call", "a.Cast", "a.Own.x")


class Twins:
    """One script in two worlds: in one of them what is hidden does not exist; only numbers go by."""

    def __init__(self) -> None:
        self.buses = [PureSwitch(), PureSwitch()]
        self.full, self.bare = self.buses
        self.full.services = {"b.Startable": "/bin/b", "a.Started": "/bin/a"}
        self.bare.services = {"a.Started": "/bin/a"}
        self.hidden: list[Client] = []
        self.hidden_names: list[str] = []
        self.services = [{name: owner(bus, name) for name in VISIBLE[:4]} for bus in self.buses]
        self.clients = [behind(bus, *RULES) for bus in self.buses]
        for client in self.clients:
            client.call("AddMatch", "s", "")

    def come(self) -> None:
        """Somebody hidden comes."""
        client = self.full.client()
        self.bare.tables.next_unique += 1
        self.hidden.append(client)
        self.hidden_names.append(client.name)

    def act(self, what: Callable[[Client], object]) -> None:
        """Somebody hidden does something, if there is anybody."""
        if self.hidden:
            what(self.hidden[-1])

    def leave(self) -> None:
        """Somebody hidden goes."""
        if self.hidden:
            self.hidden.pop(0).leave()

    def look(self, what: Callable[[Client], object]) -> None:
        """Both clients behind the view do the same, and must get the same, byte for byte."""
        answers = []
        for client in self.clients:
            what(client)
            answers.append(client.raw())
        assert answers[0] == answers[1]

    def serve(self, what: Callable[[Client], object], name: str) -> None:
        """A service that is seen does something in both worlds."""
        for services in self.services:
            services[name].take_all()
            what(services[name])
        self.look(lambda client: None)


def ask_driver(client: Client, member: str, signature: str, *values: Any) -> None:
    client.send(
        CALL, signature, *values, path=DRIVER_PATH, interface=DRIVER, destination=DRIVER, member=member
    )


QUESTIONS = (
    "NameHasOwner", "GetNameOwner", "ListQueuedOwners", "GetConnectionUnixUser", "GetConnectionCredentials",
    "GetConnectionUnixProcessID", "GetAdtAuditSessionData", "GetConnectionSELinuxSecurityContext",
    "ReleaseName",
)
targets = st.one_of(st.sampled_from([*HIDDEN, *VISIBLE, "b.Nothing", ":1.999", DRIVER]), st.integers(0, 3))
steps = st.one_of(
    st.just(("come",)), st.just(("leave",)),
    st.tuples(st.just("own"), st.sampled_from(HIDDEN)),
    st.tuples(st.just("release"), st.sampled_from(HIDDEN)),
    st.just(("broadcast",)), st.just(("eavesdrop",)),
    st.tuples(st.just("question"), st.sampled_from(QUESTIONS), targets),
    st.tuples(st.just("call"), targets, st.sampled_from([0, NO_AUTO_START])),
    st.tuples(st.just("signal"), targets), st.tuples(st.just("answer"), targets),
    st.tuples(st.just("start"), targets), st.just(("list",)),
    st.tuples(st.just("request"), targets), st.tuples(st.just("match"), targets),
    st.tuples(st.just("unmatch"), targets), st.just(("emit",)), st.tuples(st.just("capability"), targets),
)


def carry_out(twins: Twins, step: Sequence[Any]) -> None:
    def name(target: str | int) -> str:
        if isinstance(target, str):
            return target
        known = twins.hidden_names
        return known[target % len(known)] if known else ":1.998"

    match step:
        case ("come",):
            twins.come()
        case ("leave",):
            twins.leave()
        case ("own", of):
            twins.act(lambda hidden: hidden.call("RequestName", "su", of, 0))
        case ("release", of):
            twins.act(lambda hidden: hidden.call("ReleaseName", "s", of))
        case ("broadcast",):
            twins.act(lambda hidden: hidden.emit("Secret", "s", "a.See", interface="x.Y", path="/ok"))
        case ("eavesdrop",):
            twins.act(lambda hidden: hidden.call("AddMatch", "s", "eavesdrop='true'"))
        case ("question", member, of):
            twins.look(lambda client: ask_driver(client, member, "s", name(of)))
        case ("call", of, flags):
            twins.look(lambda client: client.ask(name(of), "M", path="/ok", interface="x.Y", flags=flags))
        case ("signal", of):
            twins.look(lambda client: client.emit("S", destination=name(of)))
        case ("answer", of):
            twins.look(lambda client: client.send(RETURN, destination=name(of), reply_serial=3))
        case ("start", of):
            twins.look(lambda client: ask_driver(client, "StartServiceByName", "su", name(of), 0))
        case ("list",):
            twins.look(lambda client: ask_driver(client, "ListNames", ""))
            twins.look(lambda client: ask_driver(client, "ListActivatableNames", ""))
        case ("request", of):
            twins.look(lambda client: ask_driver(client, "RequestName", "su", name(of), 0))
        case ("match", of):
            twins.look(lambda client: ask_driver(client, "AddMatch", "s", f"sender='{name(of)}'"))
        case ("unmatch", of):
            twins.look(lambda client: ask_driver(client, "RemoveMatch", "s", f"sender='{name(of)}'"))
        case ("emit",):
            for service in VISIBLE[:4]:
                twins.serve(lambda client: client.emit("Changed", interface="x.Y", path="/ok"), service)
        case ("capability", of):
            path = "/org/bus1/cap/" + "0" * 32
            twins.look(lambda client: client.ask(name(of), "M", path=path))
        case _:
            raise AssertionError(step)
    twins.look(lambda client: None)


@given(script=st.lists(steps, max_size=30))
@settings(max_examples=150)
def test_what_is_hidden_cannot_be_told_from_what_does_not_exist(script: list[Sequence[Any]]) -> None:
    twins = Twins()
    for step in script:
        carry_out(twins, step)
    for bus in twins.buses:
        bus.end()


@pytest.mark.deep
@pytest.mark.timeout(900)
@given(script=st.lists(steps, max_size=60))
@settings(max_examples=5000)
def test_what_is_hidden_cannot_be_told_from_what_does_not_exist_in_long_runs(
    script: list[Sequence[Any]]
) -> None:
    twins = Twins()
    for step in script:
        carry_out(twins, step)
    for bus in twins.buses:
        bus.end()


def test_the_twins_notice_what_is_seen() -> None:
    """Were a hidden name visible, the comparison would say so."""
    twins = Twins()
    twins.come()
    twins.hidden[0].ask(twins.clients[0].name)
    with pytest.raises(AssertionError):
        twins.look(lambda client: None)
