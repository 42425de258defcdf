"""Limits of single users: the file that says them, and what it means for real users."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from bus1_bridge.busconfig import ConfigError
from bus1_bridge.sasl import EXTERNAL_ONLY, ServerAuth
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.pace import USERS, Pace
from bus1_bridge.userlimits import KEYS, UserLimits, parse
from buses import eventually
from daemons import OPEN, Daemon, path_of
from dbus_client import BUS, CallFailed, Client, Wire
from pure_switch import CALL, GUID, NO_REPLY_EXPECTED, PureSwitch, message

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
NUMBERS = {"alice": 1001, "bob": 1002, "1003": 1003}
ALICE, BOB = 61001, 61002


def read(text: str) -> UserLimits:
    return parse(text, "/etc/limits.toml", NUMBERS.get)


# ---- the file ------------------------------------------------------------------------------------


def test_tables_say_what_holds_for_all_and_for_some() -> None:
    found = read("""
# everybody
[default]
max_names_per_connection = 100   # enough
max_message_size = 1_000_000

[user.alice]
max_names_per_connection = 7
  [ user . "bob" ]
new_connections_per_second=20
[user.1003]
""")
    assert not found.warnings
    limits = found.applied_to(BusLimits(max_names_per_connection=5, max_replies_per_connection=9))
    expected = {None: (100, None), 1: (100, None), 1001: (7, None), 1002: (100, 20), 1003: (100, None)}
    for uid, (names, rate) in expected.items():
        of_user = limits.of_user(uid)
        assert (of_user.max_names_per_connection, of_user.new_connections_per_second) == (names, rate)
        assert (of_user.max_message_size, of_user.max_replies_per_connection) == (1_000_000, 9)
    assert limits.max_names_per_connection == 5, "that of the bus is as it was"


def test_without_a_default_others_have_what_the_configuration_says() -> None:
    limits = read("[user.alice]\nmax_message_size = 2000000000\n").applied_to(BusLimits(max_message_size=5))
    assert limits.of_user(1).max_message_size == 5
    assert limits.of_user(1001).max_message_size == 134_217_728, "more than the protocol allows is that"


def test_a_user_that_does_not_exist_is_a_warning() -> None:
    found = read("[default]\n[user.carol]\nmax_message_size = 1\n")
    assert found.warnings == ("/etc/limits.toml:2: there is no user carol: the table is ignored",)
    assert not found.users


@pytest.mark.parametrize(("text", "line", "words"), [
    ("max_message_size = 1", 1, "a table has to come first"),
    ("[default]\nmax_bus1 = 1", 2, "no limit of users is called max_bus1: there are max_conn"),
    ("[default]\nauth_timeout = 1", 2, "no limit of users is called auth_timeout"),
    ("[default]\nmax_message_size = 1\nmax_message_size = 1", 3, "max_message_size is there twice"),
    ("[default]\n\n[default]", 3, "the table of default is there already"),
    ("[user.alice]\n[user.alice]", 2, "the table of user alice is there already"),
    ("[user.x]\n[user.alice]\nmax_message_size = -1", 3, "is a whole number from 0 to 2147483647, not -1"),
    ("[default]\nnew_connections_per_second = 0", 2, "from 1 to 2147483647, not 0"),
    ("[default]\nmax_message_size = 2147483648", 2, "not 2147483648"),
    ("[default]\nmax_message_size = '1'", 2, "not '1'"),
    ("[default]\nmax_message_size = 1__0", 2, "not 1__0"),
    ("[default]\nmax_message_size", 2, "expected NAME = NUMBER, not max_message_size"),
    ("[group.alice]", 1, "[group.alice] is no table: there are [default] and [user.NAME]"),
    ("[user]", 1, "[user] is no table"),
    ("[default", 1, "[default is no table"),
    ("[default] x = 1", 1, "is no table"),
])
def test_what_is_not_understood_is_an_error_with_its_line(text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert str(caught.value).startswith(f"/etc/limits.toml:{line}: ")
    assert words in str(caught.value)


def test_a_user_under_two_names_is_an_error() -> None:
    with pytest.raises(ConfigError, match="uid 7 has a table already, under another name"):
        parse("[user.a]\n[user.b]", "x", lambda name: 7)


def test_every_key_is_a_limit() -> None:
    assert all(hasattr(BusLimits(), key) for key in KEYS)


# ---- the rate ------------------------------------------------------------------------------------


def test_as_many_at_once_as_in_a_second_and_then_at_that_rate() -> None:
    pace, limits = Pace(), BusLimits(new_connections_per_second=4)
    assert [pace.admits(1, limits, 10.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert pace.count(1) == 4
    assert [pace.admits(1, limits, 10.25) for _ in range(2)] == [True, False]
    assert [pace.admits(1, limits, 99.0) for _ in range(6)] == [True] * 4 + [False] * 2
    assert pace.admits(2, limits, 99.0), "users don't share"


def test_a_rate_of_one_lets_one_in() -> None:
    pace, limits = Pace(), BusLimits(new_connections_per_second=1)
    assert [pace.admits(1, limits, 5.0 + i / 2) for i in range(4)] == [True, False, True, False]


def test_without_a_rate_nothing_is_kept_and_with_one_little() -> None:
    pace = Pace()
    for uid in range(3 * USERS):
        assert pace.admits(uid, BusLimits(), 0.0)
    assert not pace._buckets
    for uid in range(3 * USERS):
        assert pace.admits(uid, BusLimits(new_connections_per_second=1), uid * 10.0)
    assert len(pace._buckets) <= USERS + 1


def test_who_opens_too_many_connections_is_told_at_hello_and_may_try_again() -> None:
    bus = PureSwitch(BusLimits(new_connections_per_second=2))
    clients = [bus.client(hello=False) for _ in range(3)]
    for client in clients[:2]:
        client.name = client.call("Hello").args[0]
    got = clients[2].call("Hello")
    assert got.error == "org.freedesktop.DBus.Error.LimitsExceeded"
    assert got.args == (
        "User 1000 opens too many connections in a short time (new_connections_per_second=2, in use: 2); no "
        'room for one more connection; asked for by a client without a name (uid=1000 pid=77 comm="")',
    )
    bus.pass_time(0.5)
    assert clients[2].call("Hello").args == (":1.2",)
    bus.end()


# ---- what waits ----------------------------------------------------------------------------------


def test_what_came_behind_a_message_that_waits_goes_on_when_it_waits_no_more() -> None:
    bus = PureSwitch(BusLimits(max_incoming_bytes=100))
    bus.services["a.b.Sleeper"] = "sleep"
    client, other = bus.client(), bus.client()
    waiting = message(
        CALL, 100, "s", "x" * 100, path="/x", member="M", destination="a.b.Sleeper", flags=NO_REPLY_EXPECTED
    )
    behind = message(CALL, 101, path="/x", member="N", destination=other.name)
    client.say(waiting + behind)
    bus.turns()
    assert not bus.router.wants_input(client.connection)
    assert not other.take_all()
    other.call("RequestName", "su", "a.b.Sleeper", 0)
    bus.turns()
    assert [got.member for got in other.take_all()][-2:] == ["M", "N"]
    assert bus.router.wants_input(client.connection)
    bus.end()


def test_who_shows_who_it_is_has_the_limits_of_that_user() -> None:
    limits = read("[default]\nmax_message_size = 4096\n[user.1003]\nmax_message_size = 300\n")
    bus = PureSwitch(limits.applied_to(BusLimits()))
    connection = bus.connect()
    client = bus.router._connections[connection]
    assert client.limits.max_message_size == 4096
    client.auth = ServerAuth(1003, GUID, EXTERNAL_ONLY, can_pass_fds=False)
    external = b"\0AUTH EXTERNAL " + b"1003".hex().encode() + b"\r\nBEGIN\r\n"
    bus.router.receive(connection, external, (), bus.now)
    assert client.auth is None
    assert client.party.uid == 1003
    assert client.limits.max_message_size == 300
    bus.end()


# ---- real users ----------------------------------------------------------------------------------


class Users:
    """A bus with a file of limits, and clients of other users."""

    def __init__(self, daemon: Daemon, limits: str) -> None:
        self.daemon = daemon
        self.file = daemon.folder / "limits.toml"
        self.file.write_text(limits)
        where = f"limits-test-{os.getpid()}"
        config = daemon.configure(listen=[f"unix:abstract={where}"], policy=OPEN)
        self.process, address = daemon.serve("--config-file", config, f"--limits-file={self.file}")
        self.path = path_of(address)
        self.stack = ExitStack()

    def stop(self) -> str:
        self.stack.close()
        return self.daemon.stop(self.process)

    def wire_of(self, uid: int) -> Wire:
        """A connection of somebody else that has said nothing."""
        before = os.geteuid()
        os.seteuid(uid)
        try:
            return self.stack.enter_context(Wire(self.path))
        finally:
            os.seteuid(before)

    def client_of(self, uid: int) -> Client:
        """A client of somebody else; CallFailed if it gets no name."""
        before = os.geteuid()
        os.seteuid(uid)
        try:
            client = self.stack.enter_context(Client(self.path, hello=False))
        finally:
            os.seteuid(before)
        client.name = str(client.ask("Hello")[0])
        assert client.receive().what == ("NameAcquired", client.name)
        return client


@pytest.fixture
def users(bridge: Daemon) -> Iterator[Callable[[str], Users]]:
    with ExitStack() as stack:
        def start(limits: str) -> Users:
            users = Users(bridge, limits)
            stack.callback(users.stack.close)
            return users

        yield start


def owns(client: Client, name: str) -> bool:
    try:
        return client.own(name) in (1, 4)
    except CallFailed:
        return False


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(CallFailed) as caught:
        act()
    assert caught.value.name == "LimitsExceeded"
    return str(caught.value.answer.args[0])


@needs_root
def test_a_user_is_held_to_its_own_limits_and_nobody_else_is(users: Callable[[str], Users]) -> None:
    bus = users(f"[user.{ALICE}]\nmax_names_per_connection = 2\nmax_connections_per_user = 2\n")
    alice, bob = bus.client_of(ALICE), bus.client_of(BOB)
    assert [alice.own("a.one"), bob.own("b.one"), bob.own("b.two")] == [1, 1, 1]
    text = refusal(lambda: alice.own("a.two"))
    assert text.startswith(
        f'Connection "{alice.name}" is not allowed to own more services (max_names_per_connection=2, in use: '
        f'2); no room for "a.two"; asked for by {alice.name} (uid={ALICE} pid={os.getpid()} comm="'
    )
    second = bus.client_of(ALICE)
    text = refusal(lambda: bus.client_of(ALICE))
    assert f"for UID {ALICE} has been reached (max_connections_per_user=2, in use: 2)" in text
    assert bus.client_of(BOB).name
    second.close()
    eventually(lambda: not alice.ask("NameHasOwner", "s", second.name)[0], lambda: second.name)
    assert bus.client_of(ALICE).name
    said = bus.stop()
    assert "(max_names_per_connection=2, in use: 2)" in said
    assert "(max_connections_per_user=2, in use: 2)" in said


@needs_root
def test_messages_of_a_user_may_be_smaller_than_those_of_others(users: Callable[[str], Users]) -> None:
    bus = users(f"[user.{ALICE}]\nmax_message_size = 4096\n")
    alice, bob = bus.client_of(ALICE), bus.client_of(BOB)
    bob.emit("M", "ay", bytes(10_000))
    bob.sync()
    alice.emit("M", "ay", bytes(10_000))
    assert alice.rest() == b""
    bob.sync()
    said = bus.stop()
    assert f"closed the connection of {alice.name} (uid={ALICE} pid={os.getpid()} comm=" in said
    assert "(max_message_size=4096)" in said


@needs_root
def test_a_reload_reads_the_limits_of_users_again(users: Callable[[str], Users]) -> None:
    bus = users("[default]\nmax_names_per_connection = 2\n")
    client = bus.client_of(ALICE)
    assert client.own("a.one") == 1
    refusal(lambda: client.own("a.two"))
    bus.file.write_text(f"[user.{ALICE}]\nmax_names_per_connection = 3\n")
    bus.process.send_signal(signal.SIGHUP)
    eventually(lambda: owns(client, "a.two"), client.drain)
    refusal(lambda: client.own("a.three"))
    bus.file.write_text("[default]\nmax_bus1 = 3\n")
    bus.process.send_signal(signal.SIGHUP)
    client.sync()
    refusal(lambda: client.own("a.three"))
    assert f"Unable to reload configuration: {bus.file}:2: no limit of users is called max_bus1" in bus.stop()


@needs_root
def test_connections_of_one_user_are_not_opened_faster_than_its_rate(users: Callable[[str], Users]) -> None:
    bus = users(f"[user.{ALICE}]\nnew_connections_per_second = 3\n")
    named, refused = 0, ""
    for _ in range(200):
        try:
            bus.client_of(ALICE)
            named += 1
        except CallFailed as error:
            refused = str(error.answer.args[0])
            break
    assert named >= 3
    assert refused.startswith(
        f"User {ALICE} opens too many connections in a short time (new_connections_per_second=3, in use: 3)"
    )
    assert bus.client_of(BOB).ask("NameHasOwner", "s", BUS) == [True]
    assert refused[:60] in bus.stop()


@needs_root
def test_connections_without_a_name_of_one_user_leave_room_for_others(users: Callable[[str], Users]) -> None:
    bus = users(f"[user.{ALICE}]\nmax_incomplete_connections = 3\n")
    silent = [bus.wire_of(ALICE) for _ in range(3)]
    for wire in silent:
        wire.write(b"\0AUTH\r\n")
        assert wire.line().startswith("REJECTED")
    assert bus.wire_of(ALICE).rest() == b""
    assert bus.client_of(BOB).name
    silent[0].close()
    bus.client_of(BOB).sync()
    client = bus.client_of(ALICE)
    assert bus.client_of(ALICE).name, "who has a name doesn't count"
    client.sync()
    who = f"closed the connection of a client without a name (uid={ALICE} pid={os.getpid()} comm="
    why = f"Too many connections of user {ALICE} have no name yet (max_incomplete_connections=3, in use: 3)"
    assert any(who in line and why in line for line in bus.stop().splitlines())


def test_a_file_that_is_named_has_to_be_there(bridge: Daemon) -> None:
    said = bridge.fails("--config-file", bridge.configure(), "--limits-file=/nonexistent/limits.toml")
    assert 'Failed to open "/nonexistent/limits.toml": No such file or directory' in said


def test_a_file_that_is_wrong_ends_the_start_in_words(bridge: Daemon) -> None:
    file = bridge.folder / "limits.toml"
    file.write_bytes(b"[default]\nmax_messages = 3\n")
    said = bridge.fails("--config-file", bridge.configure(), f"--limits-file={file}")
    assert f"Failed to start message bus: {file}:2: no limit of users is called max_messages" in said
    file.write_bytes(b"\xff")
    assert "can't decode byte" in bridge.fails("--config-file", bridge.configure(), f"--limits-file={file}")
