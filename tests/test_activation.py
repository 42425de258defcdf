"""What waits for names that are being started, without programs, sockets or a clock."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import pytest
from bus1_bridge import activation
from bus1_bridge.switch import flow
from bus1_bridge.switch.api import ConfigureActivation, ServicesChanged, StartFailed
from bus1_bridge.switch.effects import (
    Abandoned,
    Effect,
    Line,
    ListServices,
    LookUp,
    SetEnvironment,
    Start,
)
from bus1_bridge.switch.flow import FD_WEIGHT
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.questions import Questions, Unanswered
from bus1_services import seed
from bus1_services.call import Kind
from bus1_services.seed import SeedDocument
from mixed_bus import REGISTRY, MixedBus, Native
from pure_switch import DRIVER, DRIVER_PATH, ERROR, FAULT, NO_REPLY_EXPECTED, SIGNAL, Client, PureSwitch

from bus1.core.api import Credentials, MessageType
from bus1.record import replace

NAME, OTHER = "com.example.Service", "com.example.Other"
SYSTEMD = "org.freedesktop.systemd1"
ACTIVATOR = "org.freedesktop.systemd1.Activator"


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    bus = PureSwitch(BusLimits(service_start_timeout=10.0))
    bus.services = {NAME: "/bin/service", OTHER: "/bin/service"}
    yield bus
    bus.is_asleep = False
    bus.pass_time(100)
    bus.end()
    assert bus.router.activation.next_deadline() is None


def starts(bus: PureSwitch) -> list[Start]:
    return [effect for effect in bus.effects if isinstance(effect, Start)]


def fail(bus: PureSwitch, number: int, name: str = NAME, *, with_its_kin: bool = False) -> None:
    bus.router.activation.carry_out(
        StartFailed(name, number, ERROR + "Spawn.ChildExited", "it ended", with_its_kin)
    )
    bus.settle()


def own(client: Client, name: str = NAME) -> int:
    return int(client.call("RequestName", "su", name, 0).args[0])


def start(client: Client, name: str = NAME) -> int:
    return client.send(
        1, "su", name, 0, path=DRIVER_PATH, interface=DRIVER, member="StartServiceByName", destination=DRIVER
    )


# ---- attempts ------------------------------------------------------------------------------------


def test_a_start_is_asked_for_once_and_a_failure_ends_it_for_all_who_wait(bus: PureSwitch) -> None:
    first, second = bus.client(), bus.client()
    asked = [first.ask(NAME), start(second), second.ask(NAME)]
    (begun,) = starts(bus)
    assert begun.name == NAME
    assert f"'{first.name}' (uid=1000 pid=77 " in begun.requester
    fail(bus, begun.attempt)
    answers = [*first.take_all(), *second.take_all()]
    assert [(got.type, got.reply_serial, got.args) for got in answers] == [
        (FAULT, serial, ("it ended",)) for serial in asked
    ]


def test_news_of_an_old_attempt_do_not_touch_a_new_one(bus: PureSwitch) -> None:
    client = bus.client()
    client.ask(NAME)
    client.ask(OTHER)
    fail(bus, starts(bus)[0].attempt)
    client.take_all()
    client.ask(NAME)
    again = starts(bus)[-1]
    fail(bus, starts(bus)[0].attempt, with_its_kin=True)
    fail(bus, 4711, "com.example.Never")
    assert client.take_all() == []
    fail(bus, again.attempt)
    assert [got.type for got in client.take_all()] == [FAULT]


def test_services_with_one_command_fail_together_if_the_program_did(bus: PureSwitch) -> None:
    client = bus.client()
    client.ask(NAME)
    serial = client.ask(OTHER)
    fail(bus, starts(bus)[0].attempt)
    assert len(client.take_all()) == 1
    client.ask(NAME)
    fail(bus, starts(bus)[-1].attempt, with_its_kin=True)
    assert {got.reply_serial for got in client.take_all()} == {serial, client.serial}


def test_what_takes_too_long_is_abandoned_after_its_own_time(bus: PureSwitch) -> None:
    client = bus.client()
    client.ask(NAME)
    bus.pass_time(6)
    client.ask(OTHER)
    assert bus.router.next_deadline() == bus.now + 4
    bus.pass_time(3.9)
    assert client.take_all() == []
    bus.pass_time(0.1)
    (answer,) = client.take_all()
    assert answer.error == ERROR + "TimedOut"
    assert all(word in answer.args[0] for word in (NAME, "10000ms"))
    assert Abandoned(NAME, starts(bus)[0].attempt) in bus.effects
    bus.pass_time(6)
    assert [got.error for got in client.take_all()] == [ERROR + "TimedOut"]


def test_another_time_that_starts_may_take_holds_for_those_under_way(bus: PureSwitch) -> None:
    client = bus.client()
    client.ask(NAME)
    bus.pass_time(3)
    bus.router.configure(replace(bus.limits, service_start_timeout=5.0), bus.tables.policy)
    client.ask(OTHER)
    bus.pass_time(2)
    (answer,) = client.take_all()
    assert answer.reply_serial == client.serial - 1 and "5000ms" in answer.args[0]
    bus.pass_time(3)
    assert [got.error for got in client.take_all()] == [ERROR + "TimedOut"]


def test_a_name_that_is_owned_at_last_ends_the_attempt_whoever_owns_it(bus: PureSwitch) -> None:
    caller, owner = bus.client(), bus.client()
    caller.ask(NAME, "Do", "s", "it")
    assert own(owner) == 1
    got = [message for message in owner.take_all() if message.member == "Do"]
    assert [(message.sender, message.args) for message in got] == [(caller.name, ("it",))]
    fail(bus, starts(bus)[0].attempt)
    bus.pass_time(20)
    assert caller.take_all() == []


# ---- those who wait ------------------------------------------------------------------------------


def test_what_a_client_that_is_gone_had_waiting_is_gone_too(bus: PureSwitch) -> None:
    gone, stays, owner = bus.client(), bus.client(), bus.client()
    gone.ask(NAME, "Gone", "h", 0, fds=[40])
    start(gone)
    stays.ask(NAME, "Stays")
    assert bus.closed_fds == []
    gone.leave()
    assert bus.closed_fds == [40]
    own(owner)
    assert [got.member for got in owner.take_all()] == ["NameAcquired", "Stays"]


def test_an_attempt_goes_on_when_nobody_waits_any_more(bus: PureSwitch) -> None:
    gone, comes = bus.client(), bus.client()
    gone.ask(NAME)
    gone.leave()
    comes.ask(NAME)
    assert len(starts(bus)) == 1
    assert bus.router.next_deadline() is not None


@pytest.mark.parametrize("ending", ["owner", "failure", "time", "leaving"])
def test_who_waits_is_counted_until_the_end(ending: str) -> None:
    bus = PureSwitch(BusLimits(service_start_timeout=10.0, max_pending_service_starts=2))
    bus.services = {NAME: "a", OTHER: "b"}
    client, other, owner = bus.client(), bus.client(), bus.client()
    client.ask(NAME)
    start(client)
    serial = other.ask(OTHER)
    (refusal,) = other.take_all()
    assert (refusal.error, refusal.reply_serial) == (ERROR + "LimitsExceeded", serial)
    assert all(word in refusal.args[0] for word in (OTHER, "max_pending_service_starts=2"))
    assert other.fault("StartServiceByName", "su", NAME, 0) == "LimitsExceeded"
    if ending == "owner":
        own(owner)
    elif ending == "failure":
        fail(bus, starts(bus)[0].attempt)
    elif ending == "time":
        bus.pass_time(10)
    else:
        client.leave()
    other.ask(OTHER)
    start(other, OTHER)
    assert other.take_all() == []
    bus.pass_time(10)
    bus.end()


def test_a_sender_keeps_no_more_waiting_than_at_one_reader(
    bus: PureSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "PAIR_MARK", 40_000)
    monkeypatch.setattr(activation, "READER_MARK", 60_000)
    first, second, owner = bus.client(), bus.client(), bus.client()
    first.ask(NAME, "Large", "ay", bytes(50_000))
    assert first.take_all() == [], "one message may be larger than the mark"
    serial = first.ask(OTHER, "Small")
    (refusal,) = first.take_all()
    assert (refusal.error, refusal.reply_serial) == (ERROR + "LimitsExceeded", serial)
    assert all(word in refusal.args[0] for word in (first.name, "40000", OTHER))
    second.ask(NAME, "Medium", "ay", bytes(8_000))
    assert second.take_all() == []
    second.ask(NAME, "Medium", "ay", bytes(8_000))
    (refusal,) = second.take_all()
    assert "user 1000" in refusal.args[0]
    own(owner)
    assert [got.member for got in owner.take_all()] == ["NameAcquired", "Large", "Medium"]
    first.ask(OTHER, "Large", "ay", bytes(30_000))
    second.ask(OTHER, "Large", "ay", bytes(25_000))
    assert first.take_all() == second.take_all() == [], "nothing waits any more"


def test_descriptors_that_wait_weigh_on_their_sender(
    bus: PureSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(activation, "PAIR_MARK", 3 * FD_WEIGHT)
    client = bus.client()
    client.ask(NAME, "Take", "h", 0, fds=[40, 41])
    client.ask(NAME, "Take", "h", 0, fds=[42])
    assert [got.error for got in client.take_all()] == [ERROR + "LimitsExceeded"]
    assert bus.closed_fds == [42]
    bus.pass_time(10)
    assert bus.closed_fds == [42, 40, 41]


def test_a_held_message_is_delivered_or_refused_but_never_waits_again(
    bus: PureSwitch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "READER_MARK", 20_000)
    caller, flood, owner = bus.client(), bus.client(), bus.client()
    serial = caller.ask(NAME, "Held")
    flood.emit("Fill", "ay", bytes(19_000), destination=owner.name)
    bus.pass_time(0.5)
    owner.send(
        1, "su", NAME, 0, path=DRIVER_PATH, interface=DRIVER, member="RequestName", destination=DRIVER
    )
    assert not bus.delivery.flow.pauses
    (refusal,) = caller.take_all()
    assert (refusal.error, refusal.reply_serial) == (ERROR + "LimitsExceeded", serial)
    assert [got.member for got in owner.take_all()] == ["Fill", "NameAcquired", None]


# ---- questions -----------------------------------------------------------------------------------


def test_the_answers_of_a_client_keep_their_order_while_the_bus_looks(bus: PureSwitch) -> None:
    bus.is_asleep = True
    client, other = bus.client(), bus.client()
    asked = client.ask("com.example.Nobody")
    later = client.send(1, path=DRIVER_PATH, interface=DRIVER, member="GetId", destination=DRIVER)
    bus.turns()
    assert client.take_all() == []
    assert other.call("GetId").args, "nobody else waits"
    (question,) = [effect for effect in bus.effects if isinstance(effect, LookUp)]
    assert question == LookUp(client.connection, "com.example.Nobody")
    bus.answer(question)
    bus.turns()
    assert [(got.reply_serial, got.error) for got in client.take_all()] == [
        (asked, ERROR + "ServiceUnknown"), (later, None)
    ]


def test_an_answer_for_a_client_that_is_gone_goes_nowhere(bus: PureSwitch) -> None:
    bus.is_asleep = True
    client = bus.client()
    client.ask(NAME, "Take", "h", 0, fds=[40])
    (question,) = [effect for effect in bus.effects if isinstance(effect, LookUp)]
    client.leave()
    assert bus.closed_fds == [40]
    bus.answer(question)
    assert starts(bus) == []


def test_an_answer_that_nobody_waits_for_is_no_answer_to_a_later_question() -> None:
    effects: list[Effect] = []
    questions = Questions(effects)
    assert not questions.answer(5, "early")
    with pytest.raises(Unanswered):
        questions.ask(5, ListServices)
    with pytest.raises(Unanswered):
        questions.ask(5, ListServices)
    assert effects == [ListServices(5)], "it is asked once"
    assert questions.answer(5, "late")
    assert not questions.answer(5, "again")
    assert questions.ask(5, ListServices) == "late"
    with pytest.raises(Unanswered):
        questions.ask(5, ListServices)
    questions.forget(5)
    assert not questions.answer(5, "gone")


def test_an_answer_that_has_become_needless_is_none_to_another_question() -> None:
    effects: list[Effect] = []
    questions = Questions(effects)
    for name in ("a.a", "b.b"):
        with pytest.raises(Unanswered):
            questions.ask(7, partial(LookUp, name=name))
    assert effects == [LookUp(7, "a.a")], "one at a time"
    assert questions.answer(7, "of a")
    with pytest.raises(Unanswered):
        questions.ask(7, partial(LookUp, name="b.b"))
    assert effects[1:] == [LookUp(7, "b.b")]
    assert questions.answer(7, "of b")
    with pytest.raises(Unanswered):
        questions.ask(7, ListServices)
    assert questions.answer(7, "all")
    assert questions.ask(7, ListServices) == "all"


def test_what_was_sent_before_the_end_of_the_input_is_still_looked_up(bus: PureSwitch) -> None:
    bus.is_asleep = True
    client, owner = bus.client(), bus.client()
    client.ask(NAME, "Last", flags=NO_REPLY_EXPECTED)
    bus.router.end_of_input(client.connection, bus.now)
    bus.settle()
    assert bus.close_reason(client.connection) is None
    (question,) = [effect for effect in bus.effects if isinstance(effect, LookUp)]
    bus.answer(question)
    assert [begun.name for begun in starts(bus)] == [NAME]
    assert own(owner) == 1


def test_a_name_that_is_being_started_is_not_looked_up_again(bus: PureSwitch) -> None:
    client = bus.client()
    client.ask(NAME)
    bus.is_asleep = True
    client.ask(NAME)
    start(client)
    assert not [effect for effect in bus.effects if isinstance(effect, LookUp)]
    assert client.take_all() == []


@pytest.mark.parametrize("name", ["", "x" * 5000, ":1.7", DRIVER, "no name"])
def test_what_can_be_no_service_is_not_looked_up(bus: PureSwitch, name: str) -> None:
    bus.is_asleep = True
    client = bus.client()
    answer = client.call("StartServiceByName", "su", name, 0)
    assert answer.error == ERROR + "ServiceUnknown"
    assert len(answer.args[0]) < 400


def test_names_and_the_configuration_are_asked_of_the_control_plane(bus: PureSwitch) -> None:
    client = bus.client()
    client.call("AddMatch", "s", "member='ActivatableServicesChanged'")
    assert client.call("ListActivatableNames").args == ([DRIVER, NAME, OTHER],)
    assert client.call("ReloadConfig").args == ()
    bus.complaint = "line 3: nonsense"
    refusal = client.call("ReloadConfig")
    assert (refusal.error, refusal.args) == (ERROR + "Failed", ("line 3: nonsense",))
    bus.router.activation.carry_out(ServicesChanged())
    assert [(got.type, got.member, got.args) for got in client.take_all()] == [
        (SIGNAL, "ActivatableServicesChanged", ())
    ]


# ---- systemd and the environment -----------------------------------------------------------------


def test_variables_go_to_who_starts_programs_and_nonsense_to_nobody(bus: PureSwitch) -> None:
    client = bus.client()
    client.call("UpdateActivationEnvironment", "a{ss}", {"A": "b"})
    for name in ("", "A=B"):
        assert client.fault("UpdateActivationEnvironment", "a{ss}", {name: "c"}) == "InvalidArgs"
    bus.router.activation.carry_out(ConfigureActivation(has_helper=True))
    assert client.fault("UpdateActivationEnvironment", "a{ss}", {"A": "c"}) == "AccessDenied"
    assert [effect for effect in bus.effects if isinstance(effect, SetEnvironment)] == [
        SetEnvironment({"A": "b"})
    ]


def test_an_error_of_systemd_that_has_no_name_is_told_all_the_same(bus: PureSwitch) -> None:
    bus.router.activation.carry_out(ConfigureActivation(uses_systemd=True))
    systemd, caller = bus.client(), bus.client()
    own(systemd, SYSTEMD)
    bus.units = {NAME: "a.service"}
    caller.ask(NAME)
    systemd.emit(
        "ActivationFailure", "sss", "a.service", "no name", "why", path=DRIVER_PATH, interface=ACTIVATOR,
        destination=DRIVER,
    )
    (failure,) = caller.take_all()
    assert (failure.error, failure.args) == (ERROR + "Failed", ("why",))


def test_a_forged_failure_is_noted_with_its_sender(bus: PureSwitch) -> None:
    bus.router.activation.carry_out(ConfigureActivation(uses_systemd=True))
    forger = bus.client()
    forger.emit(
        "ActivationFailure", "sss", "a.service", "a.b", "why", path=DRIVER_PATH, interface=ACTIVATOR,
        destination=DRIVER,
    )
    (note,) = [effect for effect in bus.effects if isinstance(effect, Line)]
    assert f"{forger.name} (uid=1000 pid=77 " in note.text
    assert "forged" in note.text


def test_a_systemd_without_rights_is_not_believed(bus: PureSwitch) -> None:
    bus.router.activation.carry_out(ConfigureActivation(uses_systemd=True))
    systemd, caller = bus.client(), bus.client()
    own(systemd, SYSTEMD)
    bus.units = {NAME: "a.service"}
    caller.ask(NAME)
    party = bus.tables.parties[systemd.connection]
    trusted, party.credentials = party.credentials, Credentials(4711, 4711, 5)
    failure = ("ActivationFailure", "sss", "a.service", "a.b", "why")
    systemd.emit(*failure, path=DRIVER_PATH, interface=ACTIVATOR, destination=DRIVER)
    assert caller.take_all() == []
    party.credentials = trusted
    systemd.emit(*failure, path=DRIVER_PATH, interface=ACTIVATOR, destination=DRIVER)
    assert [got.error for got in caller.take_all()] == ["a.b"]


def test_what_waits_for_systemd_is_counted_and_given_up_in_time() -> None:
    bus = PureSwitch(BusLimits(service_start_timeout=10.0, max_pending_service_starts=2))
    bus.router.activation.carry_out(ConfigureActivation(uses_systemd=True))
    client, systemd = bus.client(), bus.client()
    for name in "AB":
        client.call("UpdateActivationEnvironment", "a{ss}", {name: "x"})
    assert client.fault("UpdateActivationEnvironment", "a{ss}", {"C": "x"}) == "LimitsExceeded"
    assert starts(bus) == [], "systemd comes by itself"
    bus.pass_time(10)
    client.call("UpdateActivationEnvironment", "a{ss}", {"D": "x"})
    own(systemd, SYSTEMD)
    assert [got.args for got in systemd.take_all() if got.member == "SetEnvironment"] == [(["D=x"],)]
    bus.end()


# ---- native services -----------------------------------------------------------------------------


def test_what_waits_for_a_native_service_reaches_its_object() -> None:
    bus = PureSwitch()
    bus.services = {NAME: "a"}
    caller = bus.client()
    caller.ask(NAME, "Held", "s", "it", path="/thing", flags=NO_REPLY_EXPECTED)
    service = Native(cast(MixedBus, bus), 1000, 5)
    document = seed.encode(SeedDocument("test", ((NAME, 0),), (("/thing", ""),)))
    service.start_call(service.registry, REGISTRY, "Publish", seed.SIGNATURE, body=document, handles=(0, 4))
    held, reply = [message for message in service.receive() if message.type is MessageType.DATA]
    assert (held.node, held.values) == (4, ("it",)), "it is there before Publish is answered"
    assert reply.envelope
    assert reply.envelope.kind is Kind.RETURN
