"""Activation, on both daemons: what waits for a name, in which order it comes, and how a start fails."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import closing

import pytest
from buses import Bus, eventually
from dbus_client import BUS, ERROR, NO_AUTO_START, NO_REPLY, RETURN, SIGNAL, Client
from startable import Startable

CHANGES = f"type='signal',sender='{BUS}',member='NameOwnerChanged'"


@pytest.fixture
def startable(bus: Bus) -> Startable:
    return Startable(bus)


def start(client: Client, name: str) -> int:
    """StartServiceByName, sent; the serial."""
    return client.call(BUS, "StartServiceByName", "su", name, 0, path="/org/freedesktop/DBus", interface=BUS)


# ---- success -------------------------------------------------------------------------------------


def test_a_call_to_a_name_that_can_be_started_reaches_the_started_program(
    bus: Bus, startable: Startable
) -> None:
    name = startable.name()
    startable.file(name, f"/usr/bin/dbus-test-tool echo --name={name}")
    caller = bus.connect()
    assert caller.request(name, "Anything", interface="com.example.Any").type == RETURN
    pid = caller.ask("GetConnectionUnixProcessID", "s", name)[0]
    os.kill(pid, 15)


def test_the_new_owner_hears_of_its_name_then_gets_what_waited_then_its_reply(
    bus: Bus, startable: Startable
) -> None:
    name, program = startable.add()
    caller, service = bus.connect(), bus.connect()
    service.match(f"{CHANGES},arg0='{name}'")
    caller.call(name, "First", "s", "one")
    caller.emit("Second", to=name)
    start(caller, name)
    caller.call(name, "Third", flags=NO_REPLY)
    caller.sync()
    program.wait()
    assert service.heard() == []
    serial = service.call(
        BUS, "RequestName", "su", name, 0, path="/org/freedesktop/DBus", interface=BUS
    )
    assert service.reply(serial).args == [1]
    assert [(got.sender == caller.name, got.member, *got.args) for got in service.inbox] == [
        (False, "NameOwnerChanged", name, "", service.name), (False, "NameAcquired", name),
        (True, "First", "one"), (True, "Second"), (True, "Third"),
    ]


def test_who_asked_for_a_start_is_answered_right_after_the_change_of_the_owner(
    bus: Bus, startable: Startable
) -> None:
    name, program = startable.add()
    asker, service = bus.connect(), bus.connect()
    asker.match(f"{CHANGES},arg0='{name}'")
    serial = start(asker, name)
    asker.sync()
    program.wait()
    assert asker.inbox == []
    service.own(name)
    assert [got.what for got in asker.drain()] == [("NameOwnerChanged", name, "", service.name), (1,)]
    assert serial


def test_many_calls_start_one_program(bus: Bus, startable: Startable) -> None:
    name, program = startable.add()
    callers = [bus.connect() for _ in range(5)]
    for caller in callers:
        caller.call(name, "Do")
        start(caller, name)
        caller.sync()
    program.wait()
    service = bus.connect()
    service.own(name)
    calls = [got.sender for got in service.drain() if got.member == "Do"]
    assert calls == [caller.name for caller in callers]
    assert all(caller.drain()[-1].what == (1,) for caller in callers)
    assert len(program.pids) == 1


def test_what_waited_can_be_answered(bus: Bus, startable: Startable) -> None:
    name, _ = startable.add()
    caller, service = bus.connect(), bus.connect()
    serial = caller.call(name, "Question")
    caller.sync()
    service.own(name)
    service.answer(next(got for got in service.drain() if got.member == "Question"), "s", "answer")
    assert caller.reply(serial).args == ["answer"]


def test_descriptors_wait_with_their_message(bus: Bus, startable: Startable) -> None:
    name, _ = startable.add()
    caller, service = bus.connect(), bus.connect()
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        caller.call(name, "Take", "h", 0, fds=[theirs.fileno()])
        caller.sync()
    service.own(name)
    got = next(got for got in service.drain() if got.member == "Take")
    assert len(got.fds) == 1
    service.fds += got.fds
    assert os.fstat(got.fds[0]).st_ino


def test_a_service_that_takes_no_descriptors_costs_only_the_sender_an_error(
    bus: Bus, startable: Startable
) -> None:
    name, _ = startable.add()
    caller, service = bus.connect(), bus.connect(takes_fds=False)
    with open(os.devnull, "rb") as null:
        serial = caller.call(name, "Take", "h", 0, fds=[null.fileno()])
        caller.call(name, "Plain")
        caller.sync()
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Plain"]
    assert caller.reply(serial).what == ("org.freedesktop.DBus.Error.NotSupported",)


def test_what_a_client_sent_before_it_left_is_dropped_and_the_start_goes_on(
    bus: Bus, startable: Startable
) -> None:
    name, program = startable.add()
    gone, stays, service = bus.connect(), bus.connect(), bus.connect()
    with open(os.devnull, "rb") as null:
        gone.call(name, "Gone", "h", 0, fds=[null.fileno()])
    start(gone, name)
    gone.sync()
    stays.call(name, "Stays")
    stays.sync()
    gone.close()
    eventually(
        lambda: not stays.ask("NameHasOwner", "s", gone.name)[0], lambda: stays.ask("ListNames")
    )
    program.wait()
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Stays"]
    assert len(program.pids) == 1


def test_a_flood_that_waits_disturbs_nobody_and_comes_whole_and_in_order(
    bus: Bus, startable: Startable
) -> None:
    name, _ = startable.add()
    flood, other, service = bus.connect(), bus.connect(), bus.connect()
    for number in range(3000):
        flood.call(name, "Do", "u", number, flags=NO_REPLY)
        if number % 500 == 0:
            other.sync()
    flood.sync()
    service.own(name)
    numbers = [got.args[0] for got in service.drain() if got.member == "Do"]
    assert numbers == list(range(3000))


def test_a_program_that_ends_with_status_0_may_own_its_name_later(bus: Bus, startable: Startable) -> None:
    name, program = startable.add("exit 0")
    caller, service = bus.connect(), bus.connect()
    caller.call(name, "Do")
    caller.sync()
    program.wait()
    eventually(lambda: not os.path.exists(f"/proc/{program.pids[0]}"), lambda: program.pids)
    assert caller.heard() == []
    service.own(name)
    assert [got.member for got in service.drain()] == ["NameAcquired", "Do"]


# ---- what does not start -------------------------------------------------------------------------


def test_a_message_that_must_not_start_anything_does_not(bus: Bus, startable: Startable) -> None:
    name, program = startable.add()
    caller = bus.connect()
    serial = caller.call(name, "Do", flags=NO_AUTO_START)
    assert caller.reply(serial).what == ("org.freedesktop.DBus.Error.NameHasNoOwner",)
    assert program.pids == []


def test_starting_an_owned_name_says_that_it_runs(bus: Bus, startable: Startable) -> None:
    name, program = startable.add()
    client = bus.connect()
    client.own(name)
    assert client.ask("StartServiceByName", "su", name, 0) == [2]
    assert program.pids == []


@pytest.mark.parametrize(
    "name", [BUS, "com.example.NobodyKnows", "no name", "", ":1.0", "com.example.owned-without-file"]
)
def test_what_no_file_provides_is_unknown_even_if_it_is_owned(bus: Bus, name: str) -> None:
    client = bus.connect()
    if name.endswith("file"):
        client.own(name)
    assert client.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"


@pytest.mark.parametrize(
    ("ending", "error"),
    [("exit 3", "Spawn.ChildExited"), ("kill -SEGV $$", "Spawn.ChildSignaled")],
)
def test_all_who_wait_are_told_how_the_program_ended(
    bus: Bus, startable: Startable, ending: str, error: str
) -> None:
    name, program = startable.add(ending)
    caller, asker = bus.connect(), bus.connect()
    serial = caller.call(name, "Do")
    assert asker.fault("StartServiceByName", "su", name, 0) == error
    failure = caller.reply(serial)
    assert failure.what == (f"org.freedesktop.DBus.Error.{error}",)
    assert name in failure.args[0]
    assert caller.fault("StartServiceByName", "su", name, 0) == error, "it can be tried again"
    assert len(program.pids) in {2, 3}


@pytest.mark.parametrize("command", ["/nowhere/program", "/dev/null", "/"])
def test_a_program_that_cannot_be_executed_is_told_as_such(
    bus: Bus, startable: Startable, command: str
) -> None:
    name = startable.name()
    startable.file(name, command)
    caller = bus.connect()
    failure = caller.reply(caller.call(name, "Do"))
    assert failure.what == ("org.freedesktop.DBus.Error.Spawn.ExecFailed",)
    assert name in failure.args[0]


@pytest.mark.parametrize("command", ["/bin/true 'unterminated", '/bin/true "', "/bin/true \\\\"])
def test_a_command_that_cannot_be_split_fails_at_the_start(
    bus: Bus, startable: Startable, command: str
) -> None:
    name = startable.name()
    startable.file(name, command)
    caller = bus.connect()
    assert name in caller.ask("ListActivatableNames")[0]
    assert caller.fault("StartServiceByName", "su", name, 0) == "InvalidArgs"


def test_services_with_the_same_command_fail_together(bus: Bus, startable: Startable) -> None:
    program = startable.program("test -e $0.go || exec sleep 1000; exit 1")
    first, second = startable.name(), startable.name()
    for name in (first, second):
        startable.file(name, program.path)
    caller = bus.connect()
    serials = [caller.call(first, "Do"), caller.call(second, "Do")]
    caller.sync()
    program.wait(2)
    os.kill(program.pids[0], 9)
    for serial in serials:
        assert caller.reply(serial).what == ("org.freedesktop.DBus.Error.Spawn.ChildSignaled",)


def test_signals_start_a_service_too_and_are_told_if_that_fails(bus: Bus, startable: Startable) -> None:
    name, _ = startable.add("exit 1")
    caller = bus.connect()
    serial = caller.emit("News", to=name)
    failure = caller.reply(serial)
    assert (failure.type, failure.error_name) == (ERROR, "org.freedesktop.DBus.Error.Spawn.ChildExited")
    assert SIGNAL


# ---- files ---------------------------------------------------------------------------------------


def test_a_file_that_was_written_a_moment_ago_counts_and_one_that_is_gone_does_not(
    bus: Bus, startable: Startable
) -> None:
    name = startable.name()
    caller = bus.connect()
    assert caller.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"
    program = startable.program("exit 1")
    path = startable.file(name, program.path)
    assert caller.fault("StartServiceByName", "su", name, 0) == "Spawn.ChildExited"
    assert name in caller.ask("ListActivatableNames")[0]
    path.unlink()
    assert caller.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"


def test_a_file_that_has_changed_is_read_again(bus: Bus, startable: Startable) -> None:
    name = startable.name()
    before, after = startable.program("exit 1"), startable.program("exit 2; # longer")
    caller = bus.connect()
    startable.file(name, before.path)
    caller.fault("StartServiceByName", "su", name, 0)
    path = startable.file(name, after.path, keys={"TryExec": "something"})
    os.utime(path, (2e9, 2e9))
    caller.fault("StartServiceByName", "su", name, 0)
    assert (len(before.pids), len(after.pids)) == (1, 1)


def test_a_file_may_be_a_link_and_one_that_is_no_file_is_passed_over(bus: Bus, startable: Startable) -> None:
    linked, broken = startable.name(), startable.name()
    program = startable.program("exit 1")
    target = startable.file(linked, program.path, folder=bus.folder / "elsewhere")
    (startable.folder / target.name).symlink_to(target)
    (startable.folder / f"{broken}.service").mkdir()
    caller = bus.connect()
    assert caller.fault("StartServiceByName", "su", linked, 0) == "Spawn.ChildExited"
    assert caller.fault("StartServiceByName", "su", broken, 0) == "ServiceUnknown"
    (startable.folder / target.name).unlink()
    (startable.folder / f"{broken}.service").rmdir()


@pytest.mark.parametrize(
    "content",
    [b"[D-BUS Service]\nName=NAME\n", b"Name=NAME\nExec=/bin/true\n", b"[Other]\nName=NAME\nExec=/bin/true\n",
     b"[D-BUS Service]\nName=NAME\nExec=/bin/true\nrubbish\n", b"\xff\xfe", b""],
)
def test_a_file_that_makes_no_sense_is_passed_over(bus: Bus, startable: Startable, content: bytes) -> None:
    name = startable.name()
    path = startable.file(name, "/bin/true")
    path.write_bytes(content.replace(b"NAME", name.encode()))
    caller = bus.connect()
    assert caller.fault("StartServiceByName", "su", name, 0) == "ServiceUnknown"
    assert name not in caller.ask("ListActivatableNames")[0]


# ---- what a program is given ---------------------------------------------------------------------


def test_a_program_gets_its_arguments_as_a_shell_would_give_them(bus: Bus, startable: Startable) -> None:
    name, program = startable.name(), startable.program("exit 1")
    startable.file(name, f"""{program.path} -test "that" 'we  get' ba"ck"' 'x\\\\ y "$HOME" last""")
    bus.connect().fault("StartServiceByName", "su", name, 0)
    expected = ["-test", "that", "we  get", "back x y", "$HOME", "last"]
    assert program.trace("arguments").splitlines() == expected


def test_a_program_finds_the_bus_that_started_it(bus: Bus, startable: Startable) -> None:
    name, program = startable.add("exit 1")
    bus.connect().fault("StartServiceByName", "su", name, 0)
    found = dict(line.partition("=")[::2] for line in program.trace("environment").splitlines())
    assert found["DBUS_STARTER_BUS_TYPE"] == "session"
    assert found["DBUS_STARTER_ADDRESS"] == found["DBUS_SESSION_BUS_ADDRESS"] == bus.address
    assert "DBUS_SYSTEM_BUS_ADDRESS" not in found
    assert found["PATH"] == os.environ["PATH"]


def test_a_program_inherits_nothing_but_the_output(bus: Bus, startable: Startable) -> None:
    name, program = startable.add("exit 1")
    bus.connect().fault("StartServiceByName", "su", name, 0)
    lines = [line for line in program.trace("descriptors").splitlines() if " -> " in line]
    opened = {line.split()[-1] for line in lines}
    its_own = {str(program.path), f"{program.path}.descriptors"}
    assert opened - its_own == {
        "/dev/null", str(bus.folder / "log"), os.readlink(f"/proc/{bus.pid}/fd/1")
    }


_OF_THE_C_LIBRARY = 0b11 << 31
"""Signals 32 and 33, which no program can set: what this run has inherited for them stays."""


def test_only_ours_gives_a_program_a_session_of_its_own_and_no_ignored_signal(
    bus: Bus, startable: Startable
) -> None:
    name, program = startable.add("exit 1")
    bus.connect().fault("StartServiceByName", "su", name, 0)
    session = int(program.trace("stat").rpartition(")")[2].split()[3])
    status = dict(line.split(":")[:2] for line in program.trace("status").splitlines() if ":" in line)
    blocked, ignored = (int(status[key], 16) for key in ("SigBlk", "SigIgn"))
    assert blocked == 0
    ignored &= ~_OF_THE_C_LIBRARY
    if bus.is_reference:
        assert (session, ignored) == (os.getsid(bus.pid), 1 << signal.SIGPIPE - 1)
    else:
        assert (session, ignored) == (program.pids[0], 0)


def test_the_environment_of_later_starts_can_be_set(bus: Bus, startable: Startable) -> None:
    name, program = startable.add("exit 1")
    client = bus.connect()
    client.ask("UpdateActivationEnvironment", "a{ss}", {"STARTABLE_COLOUR": "green", "STARTABLE_NOTHING": ""})
    client.fault("StartServiceByName", "su", name, 0)
    lines = program.trace("environment").splitlines()
    assert "STARTABLE_COLOUR=green" in lines
    assert "STARTABLE_NOTHING=" in lines


def test_the_environment_is_set_at_the_drivers_own_path_alone(bus: Bus) -> None:
    client = bus.connect()
    assert client.fault("UpdateActivationEnvironment", "a{ss}", {}, path="/elsewhere") == "AccessDenied"


def test_a_bus_that_reads_its_configuration_again_says_so(bus: Bus, startable: Startable) -> None:
    client = bus.connect()
    client.match(f"type='signal',sender='{BUS}',member='ActivatableServicesChanged'")
    name = startable.name()
    startable.file(name, "/bin/true")
    client.ask("ReloadConfig")
    assert ("ActivatableServicesChanged",) in client.heard()
    assert name in client.ask("ListActivatableNames")[0]


# ---- monitors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["exec sleep 1000", "exit 1"])
def test_a_monitor_sees_what_waits_when_it_comes_and_not_again(
    bus: Bus, startable: Startable, ending: str
) -> None:
    name, program = startable.add(ending)
    caller, service, monitor = bus.connect(), bus.connect(), bus.connect()
    monitor.ask(
        "BecomeMonitor", "asu", ["interface='com.example.Seen'"], 0, interface=f"{BUS}.Monitoring"
    )
    serial = caller.call(name, "Do", interface="com.example.Seen")
    if ending == "exit 1":
        assert caller.reply(serial).error_name == "org.freedesktop.DBus.Error.Spawn.ChildExited"
    else:
        program.wait()
        held = monitor.receive()
        while held.member != "Do":
            held = monitor.receive()
        monitor.inbox.append(held)
        service.own(name)
        assert [got.member for got in service.drain()] == ["NameAcquired", "Do"]
    caller.call(service.name, "Last", interface="com.example.Seen")
    seen = []
    while "Last" not in seen:
        got = monitor.receive()
        if got.interface == "com.example.Seen":
            seen.append(got.member)
    assert seen == ["Do", "Last"]
