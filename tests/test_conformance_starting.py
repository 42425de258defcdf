"""Starting services as a configuration says, on both daemons: time-outs, limits, helper, systemd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from buses import COMMANDS, eventually, fresh_bus
from dbus_client import BUS, BUS_PATH, CALL, NO_REPLY, SIGNAL, CallFailed, Client
from startable import Startable

SYSTEMD = "org.freedesktop.systemd1"
ACTIVATOR = "org.freedesktop.systemd1.Activator"
CONFIG = """<busconfig>
  <type>session</type>
  <listen>unix:tmpdir=/tmp</listen>
  <servicedir>{folder}/dbus-1/services</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
  </policy>
  {more}
</busconfig>
"""
Starting = Callable[..., Startable]


@pytest.fixture(params=list(COMMANDS))
def starting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Starting]:
    """Starts each of the two with more in its configuration, and with more flags."""
    with ExitStack() as cleanup:
        def start(more: str = "", *flags: str) -> Startable:
            config = tmp_path / "config"
            config.write_text(CONFIG.format(folder=tmp_path, more=more))
            bus = contextmanager(fresh_bus)(request.param, tmp_path, [f"--config-file={config}", *flags])
            return Startable(cleanup.enter_context(bus))

        yield start


def is_running(pid: int) -> bool:
    """The process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# ---- time-outs and limits ------------------------------------------------------------------------


def test_a_start_that_takes_too_long_fails_for_all_and_can_be_tried_again(starting: Starting) -> None:
    startable = starting('<limit name="service_start_timeout">2500</limit>')
    name, program = startable.add()
    caller, asker, service = (startable.bus.connect() for _ in range(3))
    serial = caller.call(name, "Do")
    with pytest.raises(CallFailed) as failure:
        asker.ask("StartServiceByName", "su", name, 0)
    assert failure.value.name == "TimedOut"
    told = caller.reply(serial)
    assert told.what == ("org.freedesktop.DBus.Error.TimedOut",)
    assert name in told.args[0]
    assert "2500" in told.args[0]
    first = program.pids[0]
    eventually(lambda: not is_running(first), lambda: first)
    serial = caller.call(name, "Again")
    program.wait(2)
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Again"]
    assert caller.drain() == [], "news of the first attempt are no news of the second"


def test_requests_that_wait_are_limited(starting: Starting) -> None:
    startable = starting('<limit name="max_pending_service_starts">3</limit>')
    name, _ = startable.add()
    other, program = startable.add()
    caller, service = startable.bus.connect(), startable.bus.connect()
    serials = [caller.call(name, "Do") for _ in range(4)]
    assert caller.reply(serials[3]).what == ("org.freedesktop.DBus.Error.LimitsExceeded",)
    assert caller.fault("StartServiceByName", "su", other, 0) == "LimitsExceeded"
    assert program.pids == []
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Do", "Do", "Do"]
    caller.call(other, "Do")
    caller.sync()
    program.wait()


# ---- directories ---------------------------------------------------------------------------------


def test_the_first_directory_wins_and_may_come_after_the_bus(starting: Starting, tmp_path: Path) -> None:
    late = tmp_path / "late" / "services"
    startable = starting(f"<servicedir>{late}</servicedir><servicedir>{late}2</servicedir>")
    name = startable.name()
    caller = startable.bus.connect()
    assert caller.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"
    first, second = startable.program("exit 1"), startable.program("exit 2")
    startable.file(name, second.path, folder=Path(f"{late}2"))
    startable.file(name, first.path, folder=late)
    assert caller.fault("StartServiceByName", "su", name, 0) == "Spawn.ChildExited"
    assert (len(first.pids), len(second.pids)) == (1, 0)


def test_a_session_bus_makes_the_users_own_directory(starting: Starting) -> None:
    startable = starting("<standard_session_servicedirs/>")
    with startable.bus.connect():
        assert (startable.bus.folder / "dbus-1" / "services").stat().st_mode & 0o777 == 0o700


def test_a_file_may_be_called_other_than_its_name(starting: Starting) -> None:
    startable = starting()
    name = startable.name()
    startable.file(name, "/bin/false", file="other.service")
    caller = startable.bus.connect()
    assert caller.fault("StartServiceByName", "su", name, 0) == "Spawn.ChildExited"


@pytest.mark.parametrize(("kind", "variable"), [("session", "SESSION"), ("system", "SYSTEM"), ("", "")])
def test_only_services_of_a_session_or_system_bus_find_it_as_such(
    starting: Starting, kind: str, variable: str
) -> None:
    startable = starting(f"<type>{kind}</type>" if kind else "<type>other</type>")
    name, program = startable.add("exit 1")
    startable.bus.connect().fault("StartServiceByName", "su", name, 0)
    found = dict(line.partition("=")[::2] for line in program.trace("environment").splitlines())
    assert found["DBUS_STARTER_BUS_TYPE"] == kind or "other"
    addresses = {key for key, value in found.items() if value == startable.bus.address}
    usual = {f"DBUS_{variable}_BUS_ADDRESS"} if variable else set()
    assert addresses == {"DBUS_STARTER_ADDRESS"} | usual


def test_what_is_meant_for_the_bus_alone_is_not_passed_on(
    starting: Starting, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "INVOCATION_ID"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("STARTABLE_FLAVOUR", "sweet")
    startable = starting()
    name, program = startable.add("exit 1")
    startable.bus.connect().fault("StartServiceByName", "su", name, 0)
    found = {line.partition("=")[0] for line in program.trace("environment").splitlines()}
    assert "STARTABLE_FLAVOUR" in found
    own = {"JOURNAL_STREAM", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "INVOCATION_ID", "NOTIFY_SOCKET"}
    assert not own & found


# ---- the helper of a system bus ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [(1, "Spawn.ChildExited"), (2, "NoMemory"), (3, "Spawn.ConfigInvalid"), (4, "Spawn.FailedToSetup"),
     (5, "Spawn.ServiceNotValid"), (6, "Spawn.ServiceNotFound"), (7, "Spawn.PermissionsInvalid"),
     (8, "Spawn.PermissionsInvalid"), (9, "Spawn.ExecFailed"), (10, "InvalidArgs"),
     (11, "Spawn.ChildSignaled"), (12, "Spawn.ChildExited")],
)
def test_the_status_of_the_helper_is_told_as_an_error(
    starting: Starting, tmp_path: Path, status: int, error: str
) -> None:
    startable = starting(f"<servicehelper>{tmp_path}/helper</servicehelper>")
    helper = tmp_path / "helper"
    helper.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/helped\nexit {status}\n')
    helper.chmod(0o755)
    name = startable.name()
    startable.file(name, "/bin/true", keys={"User": "root"})
    caller = startable.bus.connect()
    assert caller.fault("StartServiceByName", "su", name, 0) == error
    assert (tmp_path / "helped").read_text() == f"{name}\n"


def test_a_helper_needs_a_user_and_keeps_the_environment(starting: Starting) -> None:
    startable = starting("<servicehelper>/bin/false</servicehelper>")
    name = startable.name()
    startable.file(name, "/bin/true")
    caller = startable.bus.connect()
    assert caller.fault("StartServiceByName", "su", name, 0) == "Spawn.FileInvalid"
    assert caller.fault("UpdateActivationEnvironment", "a{ss}", {"A": "b"}) == "AccessDenied"


# ---- systemd -------------------------------------------------------------------------------------


def unit_failed(client: Client, unit: str) -> None:
    """ActivationFailure, as systemd says it."""
    client.send(
        SIGNAL, path=BUS_PATH, interface=ACTIVATOR, member="ActivationFailure", to=BUS, signature="sss",
        args=(unit, "com.example.Error.Masked", "the unit is masked"),
    )
    client.sync()


@pytest.fixture
def with_systemd(starting: Starting) -> Startable:
    return starting("", "--systemd-activation")


def test_a_unit_is_asked_of_systemd_and_the_name_counts(with_systemd: Startable) -> None:
    name, program = with_systemd.add(keys={"SystemdService": "some.service"})
    systemd, caller, service = (with_systemd.bus.connect() for _ in range(3))
    systemd.own(SYSTEMD)
    systemd.drain()
    caller.call(name, "Do")
    caller.call(name, "More")
    caller.sync()
    (request,) = systemd.drain()
    assert (request.type, request.path, request.interface, request.what) == (
        SIGNAL, BUS_PATH, ACTIVATOR, ("ActivationRequest", "some.service")
    )
    assert (request.sender, request.destination, request.flags & NO_REPLY) == (BUS, SYSTEMD, NO_REPLY)
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Do", "More"]
    assert program.pids == []


def test_what_is_asked_of_systemd_waits_until_it_is_there(with_systemd: Startable) -> None:
    name, program = with_systemd.add(keys={"SystemdService": "some.service"})
    caller, systemd = with_systemd.bus.connect(), with_systemd.bus.connect()
    caller.ask("UpdateActivationEnvironment", "a{ss}", {"COLOUR": "green"})
    serial = caller.call(BUS, "StartServiceByName", "su", name, 0, path=BUS_PATH, interface=BUS)
    caller.call(SYSTEMD, "Hear")
    caller.sync()
    systemd.own(SYSTEMD)
    heard = systemd.drain()
    assert [got.member for got in heard] == ["NameAcquired", "SetEnvironment", "ActivationRequest", "Hear"]
    setting = heard[1]
    assert (setting.type, setting.path, setting.interface, setting.args) == (
        CALL, "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager", [["COLOUR=green"]]
    )
    assert (setting.destination, setting.flags & NO_REPLY) == (SYSTEMD, NO_REPLY)
    caller.ask("UpdateActivationEnvironment", "a{ss}", {})
    assert [(got.destination, got.args) for got in systemd.drain()] == [(systemd.name, [[]])]
    caller.own(name)
    assert caller.reply(serial).args == [1]
    assert program.pids == []


def test_what_systemd_says_of_a_unit_is_told_to_all_who_wait(with_systemd: Startable) -> None:
    name, _ = with_systemd.add(keys={"SystemdService": "some.service"})
    other, _ = with_systemd.add(keys={"SystemdService": "other.service"})
    systemd, caller = with_systemd.bus.connect(), with_systemd.bus.connect()
    systemd.own(SYSTEMD)
    serial = caller.call(name, "Do")
    caller.call(other, "Do")
    caller.sync()
    unit_failed(systemd, "some.service")
    failure = caller.reply(serial)
    assert (failure.error_name, failure.args) == ("com.example.Error.Masked", ["the unit is masked"])
    assert caller.drain() == []
    caller.call(name, "Again")
    caller.sync()
    assert [got.args for got in systemd.drain()][-1] == ["some.service"], "it can be tried again"


def test_nobody_but_systemd_says_that_a_unit_failed(with_systemd: Startable) -> None:
    name, _ = with_systemd.add(keys={"SystemdService": "some.service"})
    systemd, caller, forger, service = (with_systemd.bus.connect() for _ in range(4))
    systemd.own(SYSTEMD)
    forger.own(SYSTEMD)
    caller.call(name, "Do")
    caller.sync()
    unit_failed(forger, "some.service")
    assert caller.drain() == []
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Do"]


def test_a_service_without_unit_is_executed_although_systemd_is_used(with_systemd: Startable) -> None:
    name, program = with_systemd.add("exit 1")
    assert with_systemd.bus.connect().fault("StartServiceByName", "su", name, 0) == "Spawn.ChildExited"
    assert len(program.pids) == 1


def test_a_service_with_a_unit_is_executed_where_systemd_is_not_used(starting: Starting) -> None:
    startable = starting()
    name, program = startable.add("exit 1", keys={"SystemdService": "some.service"})
    systemd, caller = startable.bus.connect(), startable.bus.connect()
    systemd.own(SYSTEMD)
    assert caller.fault("StartServiceByName", "su", name, 0) == "Spawn.ChildExited"
    assert len(program.pids) == 1
    unit_failed(systemd, "some.service")
    caller.ask("UpdateActivationEnvironment", "a{ss}", {"A": "b"})
    assert [got.member for got in systemd.drain()] == ["NameAcquired"]
