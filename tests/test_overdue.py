"""reply_timeout: a call that nobody answers in time ends with NoReply, on both daemons and inside ours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from bus1_bridge.switch.limits import BusLimits
from buses import COMMANDS, Bus, fresh_bus
from dbus_client import FAULT
from mixed_bus import ERROR, MixedBus
from pure_switch import RETURN, PureSwitch

TIMED_OUT = "Message did not receive a reply (timeout by message bus)"


@pytest.fixture(params=list(COMMANDS))
def impatient_bus(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bus]:
    """Each of the two with a short reply_timeout."""
    config = tmp_path / "bus.conf"
    config.write_text("""<busconfig>
      <include>/usr/share/dbus-1/session.conf</include><limit name="reply_timeout">50</limit>
    </busconfig>""")
    yield from fresh_bus(request.param, tmp_path, [f"--config-file={config}"])


def test_a_call_that_nobody_answers_ends_with_no_reply(impatient_bus: Bus) -> None:
    caller, callee = impatient_bus.connect(), impatient_bus.connect()
    serials = [caller.call(callee.name, "Do") for _ in range(3)]
    answers = {answer.reply_serial: answer for answer in (caller.receive() for _ in serials)}
    assert sorted(answers) == serials
    for answer in answers.values():
        assert (answer.what, *answer.args) == ((FAULT + "NoReply",), TIMED_OUT)
    assert [got.member for got in callee.drain()] == ["Do"] * 3
    caller.call(callee.name, "Do", serial=serials[0])
    caller.sync()


@pytest.fixture
def switch() -> Iterator[PureSwitch]:
    switch = PureSwitch(BusLimits(reply_timeout=10.0))
    yield switch
    switch.end()


def test_each_call_has_its_own_time(switch: PureSwitch) -> None:
    caller, callee = switch.client(), switch.client()
    first = caller.ask(callee.name)
    switch.pass_time(6.0)
    second = caller.ask(callee.name)
    assert switch.router.next_deadline() == 10.0
    switch.pass_time(4.0)
    got = caller.take()
    assert (got.reply_serial, got.error, got.args) == (first, ERROR + "NoReply", (TIMED_OUT,))
    assert switch.router.next_deadline() == 16.0
    switch.pass_time(5.0)
    assert caller.take_all() == []
    switch.pass_time(1.0)
    assert caller.take().reply_serial == second
    assert switch.tables.replies.outstanding(caller.connection) == 0


def test_an_overdue_call_is_over_for_its_callee_too(switch: PureSwitch) -> None:
    caller, callee = switch.client(), switch.client()
    caller.ask(callee.name)
    switch.pass_time(10.0)
    assert caller.take().error == ERROR + "NoReply"
    assert switch.tables.replies.awaited_from(callee.connection) == 0
    callee.leave()
    assert caller.take_all() == []


def test_calls_that_are_answered_leave_no_deadline(switch: PureSwitch) -> None:
    caller, callee = switch.client(), switch.client()
    caller.ask(callee.name)
    callee.answer(callee.take())
    switch.pass_time(10.0)
    assert switch.delivery.overdue.next_deadline() is None
    assert [got.type for got in caller.take_all()] == [RETURN]


def test_without_the_limit_calls_wait_for_ever() -> None:
    switch = PureSwitch()
    caller, callee = switch.client(), switch.client()
    caller.ask(callee.name)
    assert switch.delivery.overdue.next_deadline() is None
    switch.pass_time(1e9)
    assert caller.take_all() == []
    switch.end()


def test_a_shorter_time_holds_from_the_next_call_on(switch: PureSwitch) -> None:
    caller, callee = switch.client(), switch.client()
    first = caller.ask(callee.name)
    switch.router.configure(BusLimits(reply_timeout=1.0), switch.tables.policy)
    switch.pass_time(5.0)
    assert caller.take_all() == []
    second = caller.ask(callee.name)
    switch.pass_time(1.0)
    assert [got.reply_serial for got in caller.take_all()] == [first, second]


def test_a_native_service_has_no_more_time_than_others() -> None:
    bus = MixedBus(BusLimits(reply_timeout=10.0, max_completed_connections=100))
    service, client = bus.native(), bus.legacy()
    service.publish("a.name")
    first = client.call("a.name", "/obj", "a.b.C", "Do")
    bus.delivery.now = 4.0
    second = client.call("a.name", "/obj", "a.b.C", "Do")
    call, _ = service.receive()
    bus.delivery.now = 10.0
    bus.delivery.overdue.expire(10.0)
    (answer,) = client.receive()
    assert (answer.header.reply_serial, answer.header.error_name) == (first, ERROR + "NoReply")
    assert answer.values == (TIMED_OUT,)
    assert bus.delivery.overdue.next_deadline() == 14.0
    assert [reply.serial for reply in client.party.nodes.values()] == [second]  # type: ignore[union-attr]
    service.release(*call.handles)
    assert client.receive() == []
    bus.end()
