"""Every limit of busconfig(5), set low, on both daemons: what happens, to whom, and that nobody else notices.

The yardstick is spec/dbus-bus.md §9. Of ours also what it says: which limit, how much is in use, and whose.
Others are tested where their subject is: max_incomplete_connections and auth_timeout with connecting
(test_daemon_config), max_pending_service_starts and service_start_timeout with starting."""

from __future__ import annotations

import fcntl
import os
import struct
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest
from bus1_bridge import configfiles
from buses import eventually, open_fds
from daemons import Daemon, path_of
from dbus_client import (
    BUS,
    BUS_PATH,
    CALL,
    DESTINATION,
    FAULT,
    MEMBER,
    NO_REPLY,
    PATH,
    PATIENCE,
    SIGNATURE,
    UNIX_FDS,
    CallFailed,
    Client,
    marshal,
    message,
)

LIMITS_EXCEEDED = FAULT + "LimitsExceeded"
MOST = 5000
"""So many messages fill every queue of these tests, that of the kernel included."""


class Limited:
    """A bus with low limits, a bystander on it, and whoever else the test wants."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self.clients = ExitStack()
        self.values: dict[str, int] = {}

    def start(self, limits: dict[str, int], content: str = "") -> None:
        elements = "".join(f'<limit name="{name}">{value}</limit>' for name, value in limits.items())
        config = self.daemon.configure(content + elements)
        self.values = limits
        # a pipe that nobody reads would stop the reference
        self.log = self.daemon.folder / "log"
        with self.log.open("wb") as log:
            self.process, address = self.daemon.serve("--config-file", config, stderr=log)
        self.path = path_of(address)
        with Client(self.path):
            self.fds = open_fds(self.process.pid) - 1

    def connect(self, **options: bool) -> Client:
        return self.clients.enter_context(Client(self.path, **options))

    @property
    def is_reference(self) -> bool:
        return self.daemon.is_reference

    def end(self) -> str:
        """All clients go, and nothing of them is left; returns what the bus has said."""
        self.clients.close()
        with Client(self.path) as probe:
            eventually(lambda: len(probe.ask("ListNames")[0]) == 2, lambda: probe.ask("ListNames"))
        eventually(lambda: open_fds(self.process.pid) <= self.fds, lambda: open_fds(self.process.pid))
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0
        said = self.log.read_text()
        assert "Traceback" not in said
        return said

    def blames(self, said: str, client: Client, limit: str) -> bool:
        """A line names the limit, its value, and whose connection it was; the reference says less."""
        who = f"{client.name} (uid={os.getuid()} pid={os.getpid()} comm="
        return self.is_reference or any(
            f"({limit}={self.values[limit]}" in line
            and (who in line or f'"{client.name}" ({who.partition("(")[2]}' in line)
            for line in said.splitlines()
        )


@pytest.fixture
def bus(daemon: Daemon) -> Iterator[Limited]:
    bus = Limited(daemon)
    with bus.clients:
        yield bus


def refused(bus: Limited, client: Client, limit: str, member: str, signature: str = "", *args: object) -> str:
    """The text with which the driver refuses this call, as the limit is reached."""
    with pytest.raises(CallFailed) as caught:
        client.ask(member, signature, *args)
    assert caught.value.name == "LimitsExceeded"
    text = str(caught.value.answer.args[0])
    assert bus.is_reference or f"({limit}={bus.values[limit]}, in use: " in text
    return text


# ---- connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["max_completed_connections", "max_connections_per_user"])
def test_hello_is_refused_while_there_are_too_many_and_may_be_said_again(bus: Limited, limit: str) -> None:
    bus.start({limit: 2})
    first, second = bus.connect(), bus.connect()
    third = bus.connect(hello=False)
    refused(bus, third, limit, "Hello")
    first.close()
    second.sync()

    def is_let_in() -> bool:
        with suppress(CallFailed):
            third.name = str(third.ask("Hello")[0])
        return bool(third.name)

    eventually(is_let_in, lambda: limit)
    second.sync()
    said = bus.end()
    assert bus.is_reference or f"({limit}=2, in use: 2)" in said


# ---- what one connection has ---------------------------------------------------------------------


def test_names_count_with_the_unique_one_and_those_waited_for(bus: Limited) -> None:
    bus.start({"max_names_per_connection": 3})
    owner, client = bus.connect(), bus.connect()
    assert [owner.own("a.taken"), client.own("a.one"), client.own("a.taken")] == [1, 1, 2]
    refused(bus, client, "max_names_per_connection", "RequestName", "su", "a.three", 0)
    assert client.ask("ReleaseName", "s", "a.taken") == [1]
    assert [client.own("a.three"), owner.own("a.other")] == [1, 1]
    assert bus.blames(bus.end(), client, "max_names_per_connection")


def test_match_rules_count_each(bus: Limited) -> None:
    bus.start({"max_match_rules_per_connection": 2})
    client, other = bus.connect(), bus.connect()
    for _ in range(2):
        client.match("member='M'")
    refused(bus, client, "max_match_rules_per_connection", "AddMatch", "s", "member='N'")
    other.match("member='N'")
    client.ask("RemoveMatch", "s", "member='M'")
    client.match("member='N'")
    assert bus.blames(bus.end(), client, "max_match_rules_per_connection")


def test_answers_that_are_waited_for_count(bus: Limited) -> None:
    bus.start({"max_replies_per_connection": 2})
    caller, other, callee = bus.connect(), bus.connect(), bus.connect()
    serials = [caller.call(callee.name, f"M{i}") for i in range(3)]
    got = caller.reply(serials[2])
    assert got.error_name == LIMITS_EXCEEDED
    assert bus.is_reference or "(max_replies_per_connection=2, in use: 2)" in got.args[0]
    caller.call(callee.name, "Unanswered", flags=NO_REPLY)
    other_serial = other.call(callee.name, "Other")
    calls = [callee.receive() for _ in range(4)]
    assert [call.member for call in calls] == ["M0", "M1", "Unanswered", "Other"]
    callee.answer(calls[0])
    assert caller.reply(serials[0]).what == ()
    callee.answer(calls[3])
    assert other.reply(other_serial).what == ()
    last = caller.call(callee.name, "M3")
    callee.answer(callee.receive())
    assert caller.reply(last).what == ()
    assert bus.blames(bus.end(), caller, "max_replies_per_connection")


# ---- one message ---------------------------------------------------------------------------------


def of_size(size: int, to: Client) -> bytes:
    """A call with no answer that has exactly this many bytes."""
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", to.name), (SIGNATURE, "g", "ay")]
    empty = len(message(CALL, 9, fields, marshal("ay", b"")))
    return message(CALL, 9, fields, marshal("ay", bytes(size - empty)), flags=NO_REPLY)


def test_a_message_that_is_too_large_ends_its_sender_alone(bus: Limited) -> None:
    bus.start({"max_message_size": 4096})
    sender, receiver = bus.connect(), bus.connect()
    sender.write(of_size(4096, receiver))
    assert receiver.receive().member == "M"
    sender.write(of_size(4097, receiver))
    assert sender.rest() == b""
    assert receiver.drain() == []
    assert bus.blames(bus.end(), sender, "max_message_size")


def test_a_message_with_too_many_descriptors_ends_its_sender_alone(bus: Limited) -> None:
    bus.start({"max_message_unix_fds": 2})
    sender, receiver = bus.connect(), bus.connect()
    with open(os.devnull, "rb") as file:
        sender.emit("M", "hh", 0, 1, to=receiver.name, fds=[file.fileno()] * 2)
        got = receiver.receive()
        assert len(got.fds) == 2
        receiver.fds += got.fds
        sender.emit("M", "hhh", 0, 1, 2, to=receiver.name, fds=[file.fileno()] * 3)
        assert sender.rest() == b""
    assert receiver.drain() == []
    assert bus.blames(bus.end(), sender, "max_message_unix_fds")


def test_descriptors_whose_message_does_not_come_end_their_sender_alone(bus: Limited) -> None:
    bus.start({"pending_fd_timeout": 300})
    sender, receiver = bus.connect(), bus.connect()
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", receiver.name), (UNIX_FDS, "u", 1)]
    with open(os.devnull, "rb") as file:
        sender.write(message(CALL, 9, fields)[:40], [file.fileno()])
        assert sender.rest() == b""
    assert receiver.drain() == []
    said = bus.end()
    assert bus.is_reference or "(pending_fd_timeout=300ms)" in said


def test_a_call_that_nobody_answers_ends_in_time(bus: Limited) -> None:
    bus.start({"reply_timeout": 300})
    caller, callee = bus.connect(), bus.connect()
    serial = caller.call(callee.name, "M")
    assert caller.reply(serial).error_name == FAULT + "NoReply"
    caller.sync()
    bus.end()


# ---- what waits ----------------------------------------------------------------------------------

SERVICE = "com.example.Sleeper"


def has_been_read(client: Client) -> bool:
    """The bus has taken everything that this client has sent."""
    unread = fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4))
    return struct.unpack("i", unread) == (0,)


@pytest.mark.parametrize("limit", ["max_incoming_bytes", "max_incoming_unix_fds"])
def test_who_has_too_much_waiting_is_not_read_until_it_is_gone(bus: Limited, limit: str) -> None:
    """What waits for a service that is being started is its sender's."""
    folder = bus.daemon.folder / "services"
    folder.mkdir()
    (folder / f"{SERVICE}.service").write_text(f"[D-BUS Service]\nName={SERVICE}\nExec=/bin/sleep 1000\n")
    value = 1000 if limit == "max_incoming_bytes" else 2
    bus.start({"service_start_timeout": 1500, limit: value}, f"<servicedir>{folder}</servicedir>")
    client, other = bus.connect(), bus.connect()
    with open(os.devnull, "rb") as file:
        n_fds = 0 if limit == "max_incoming_bytes" else 2
        waiting = client.call(
            SERVICE, "M", "ay" + "h" * n_fds, bytes(2000 if not n_fds else 1), *range(n_fds),
            fds=[file.fileno()] * n_fds,
        )
    eventually(lambda: has_been_read(client), lambda: "the call is not read")
    asked = client.call(BUS, "GetId", path=BUS_PATH, interface=None)
    for _ in range(10):
        other.sync()
    assert not has_been_read(client)
    answers = [client.receive() for _ in range(2)]
    assert [got.reply_serial for got in answers] == [waiting, asked]
    assert answers[0].error_name == FAULT + "TimedOut"
    other.sync()
    bus.end()


@pytest.mark.parametrize("limit", ["max_outgoing_bytes", "max_outgoing_unix_fds"])
def test_a_caller_is_told_that_its_callee_does_not_read_and_others_are_served(
    bus: Limited, limit: str
) -> None:
    value = 100_000 if limit == "max_outgoing_bytes" else 10
    bus.start({limit: value})
    caller, stuck, other = bus.connect(), bus.connect(), bus.connect()
    sent: list[int] = []
    refusal = None
    with open(os.devnull, "rb") as file:
        fds = [file.fileno()] * (2 if limit == "max_outgoing_unix_fds" else 0)
        body = bytes(20_000 if not fds else 1000)
        while refusal is None and len(sent) < MOST:
            sent.append(caller.call(stuck.name, "M", "ay" + "h" * len(fds), body, *range(len(fds)), fds=fds))
            caller.sync()
            other.sync()
            refusal = next((got for got in caller.inbox if got.error_name), None)
    assert refusal is not None
    assert refusal.error_name == LIMITS_EXCEEDED
    assert refusal.reply_serial == sent[-1], "all before were taken"
    if not bus.is_reference:
        assert f"({limit}={value}, in use: " in refusal.args[0]
        assert f'destination="{stuck.name}" (uid={os.getuid()} pid={os.getpid()} comm="' in refusal.args[0]
        assert f'sender="{caller.name}" (uid=' in refusal.args[0] and 'member="M"' in refusal.args[0]
    for serial in sent[:-1]:
        got = stuck.receive()
        assert got.serial == serial
        stuck.fds += got.fds
        stuck.answer(got)
        while stuck.fds:
            os.close(stuck.fds.pop())
    assert caller.reply(sent[-2]).what == ()
    said = bus.end()
    assert bus.blames(said, caller, limit)


def test_a_reader_that_does_not_read_loses_signals_and_nobody_else_does(bus: Limited) -> None:
    bus.start({"max_outgoing_bytes": 100_000})
    sender, stuck, reader = bus.connect(), bus.connect(), bus.connect()
    stuck.match("interface='x.Y'")
    reader.match("member='M'")
    n = 200
    for number in range(n):
        sender.emit("M", "uay", number, bytes(20_000))
        assert reader.receive().args[0] == number
    got: list[int] = []
    while not got or got[-1] != n:
        # there may be no room for this one, either
        sender.emit("End", "uay", n, b"")
        sender.sync()
        got.append(stuck.receive().args[0])
    assert 1 < len(got) <= n
    assert got == sorted(set(got))
    said = bus.end()
    assert bus.blames(said, sender, "max_outgoing_bytes")
    assert bus.is_reference or said.count("max_outgoing_bytes") < n / 4, "a flood is a line now and then"


def test_what_one_sender_keeps_at_a_reader_is_its_own_affair(bus: Limited) -> None:
    """The reference stops reading the sender until the reader reads; ours tells the sender (design.md)."""
    bus.start({"max_incoming_bytes": 100_000})
    sender, stuck, other = bus.connect(), bus.connect(), bus.connect()
    calls = of_size(20_000, stuck) * 40
    fields = [(PATH, "o", BUS_PATH), (MEMBER, "s", "GetId"), (DESTINATION, "s", BUS)]
    asked = sender.next_serial()
    writing = threading.Thread(target=sender.write, args=(calls + message(CALL, asked, fields),))
    writing.start()
    serial = other.call(stuck.name, "Other")
    other.sync()
    if bus.is_reference:
        assert writing.is_alive()
    else:
        errors = []
        while (got := sender.receive()).reply_serial != asked:
            errors.append(got)
        assert {got.error_name for got in errors} == {LIMITS_EXCEEDED}
        assert "(max_incoming_bytes=100000, in use: " in errors[0].args[0]
    while (got := stuck.receive()).member != "Other":
        continue
    stuck.answer(got)
    assert other.reply(serial).what == ()
    if bus.is_reference:
        while stuck.receive().member == "M" and writing.is_alive():
            continue
    writing.join()
    if bus.is_reference:
        stuck.close()
        assert sender.reply(asked).what
    said = bus.end()
    assert bus.blames(said, sender, "max_incoming_bytes")


# ---- what holds usually --------------------------------------------------------------------------

USUAL = {
    "system": {
        "max_incoming_bytes": 127 << 20, "max_incoming_unix_fds": 64, "max_outgoing_bytes": 127 << 20,
        "max_outgoing_unix_fds": 64, "max_message_size": 32 << 20, "max_message_unix_fds": 16,
        "service_start_timeout": 25.0, "auth_timeout": 30.0, "pending_fd_timeout": 150.0,
        "max_completed_connections": 2048, "max_incomplete_connections": 64, "max_connections_per_user": 256,
        "max_pending_service_starts": 512, "max_names_per_connection": 512,
        "max_match_rules_per_connection": 512, "max_replies_per_connection": 128,
    },
    "session": {
        "max_incoming_bytes": 10**9, "max_incoming_unix_fds": 250_000_000, "max_outgoing_bytes": 10**9,
        "max_outgoing_unix_fds": 250_000_000, "max_message_size": 128 << 20, "max_message_unix_fds": 16,
        "service_start_timeout": 120.0, "auth_timeout": 240.0, "pending_fd_timeout": 150.0,
        "max_completed_connections": 100_000, "max_incomplete_connections": 10_000,
        "max_connections_per_user": 100_000, "max_pending_service_starts": 10_000,
        "max_names_per_connection": 50_000, "max_match_rules_per_connection": 50_000,
        "max_replies_per_connection": 50_000,
    },
}


@pytest.mark.parametrize("kind", USUAL)
def test_the_usual_limits_are_those_of_the_reference(kind: str) -> None:
    """From the files of this machine, or built in: dbus-bus.md §9."""
    limits = configfiles.standard(kind).limits
    assert {name: getattr(limits, name) for name in USUAL[kind]} == USUAL[kind]
    assert limits.reply_timeout is None
