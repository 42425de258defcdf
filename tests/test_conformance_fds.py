"""Descriptors travel with their message, only by agreement, and none is left behind (dbus-bus §3, §6)."""

from __future__ import annotations

import fcntl
import os
import sys
import termios
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from buses import Bus, eventually, open_fds, stopped
from dbus_client import (
    CALL,
    DESTINATION,
    FAULT,
    INTERFACE,
    MEMBER,
    PATH,
    RETURN,
    SIGNAL,
    SIGNATURE,
    UNIX_FDS,
    Client,
    Message,
    marshal,
    message,
)


class Pipes:
    """Pipes whose reading ends are given away; ``says`` proves that a received one is the same."""

    def __init__(self, cleanup: ExitStack) -> None:
        self.cleanup = cleanup
        self.writers: list[int] = []

    def readers(self, count: int) -> list[int]:
        readers = []
        for _ in range(count):
            reader, writer = os.pipe()
            self.cleanup.callback(os.close, reader)
            self.cleanup.callback(os.close, writer)
            readers.append(reader)
            self.writers.append(writer)
        return readers

    def arrived(self, got: Message, first: int = 0) -> bool:
        """The descriptors of ``got`` are the readers from ``first`` on, in order; they are closed here."""
        for index in range(len(got.fds)):
            os.write(self.writers[first + index], bytes([index + 1]))
        texts = [os.read(fd, 10) for fd in got.fds]
        for fd in got.fds:
            os.close(fd)
        got.fds.clear()
        return texts == [bytes([index + 1]) for index in range(len(texts))] and bool(texts)


@pytest.fixture
def pipes() -> Iterator[Pipes]:
    with ExitStack() as cleanup:
        yield Pipes(cleanup)


@pytest.mark.parametrize("count", [1, 2, 16])
def test_descriptors_arrive_in_order_with_their_message(bus: Bus, pipes: Pipes, count: int) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", "h" * count, *range(count), fds=pipes.readers(count))
    got = receiver.receive()
    assert (got.unix_fds, got.args) == (count, list(range(count)))
    assert pipes.arrived(got)


def test_descriptors_travel_in_returns_too(bus: Bus, pipes: Pipes) -> None:
    caller, callee = bus.connect(), bus.connect()
    serial = caller.call(callee.name, "M")
    call = callee.receive()
    callee.send(RETURN, to=call.sender, reply_to=serial, signature="h", args=(0,), fds=pipes.readers(1))
    assert pipes.arrived(caller.reply(serial))


def test_each_message_of_a_burst_gets_its_own_descriptors(bus: Bus, pipes: Pipes) -> None:
    sender, receiver = bus.connect(), bus.connect()
    for count in (1, 0, 3, 2, 0):
        sender.call(receiver.name, "M", "h" * count, *range(count), fds=pipes.readers(count))
    sender.sync()
    first = 0
    for count in (1, 0, 3, 2, 0):
        got = receiver.receive()
        assert len(got.fds) == count
        assert not count or pipes.arrived(got, first)
        first += count


@pytest.mark.parametrize("cut", [8, 40, 200])
def test_what_comes_behind_a_message_that_is_read_in_two_parts_counts_by_itself(
    bus: Bus, pipes: Pipes, cut: int
) -> None:
    """The two together have twice as many descriptors as one may have."""
    sender, receiver = bus.connect(), bus.connect()
    fields = [
        (PATH, "o", "/x"), (INTERFACE, "s", "x.Y"), (MEMBER, "s", "M"), (DESTINATION, "s", receiver.name),
        (SIGNATURE, "g", "ay"), (UNIX_FDS, "u", 16),
    ]
    given = message(SIGNAL, 7, fields, marshal("ay", bytes(500)))
    sender.write(given[:cut], pipes.readers(16))
    eventually(lambda: not unread_by_other_end(sender), lambda: "the first part is not read")
    with stopped(bus.pid):
        sender.write(given[cut:])
        sender.write(given, pipes.readers(16))
    first, second = receiver.receive(), receiver.receive()
    assert pipes.arrived(first) and pipes.arrived(second, 16)


def test_small_and_large_messages_with_and_without_descriptors_in_turn_all_arrive(
    bus: Bus, pipes: Pipes
) -> None:
    sender, receiver = bus.connect(), bus.connect()
    for n_bytes in (20_000, 16_400, 300, 70_000):
        for counts in [(0, 16, 0, 16), (16, 0, 16, 0)] * 2:
            first = len(pipes.writers)
            for count in counts:
                given = pipes.readers(count)
                sender.emit("M", "ay", bytes(n_bytes), to=receiver.name, fds=given)
            for count in counts:
                got = receiver.receive()
                assert len(got.fds) == count
                assert not count or pipes.arrived(got, first)
                first += count


def unread_by_other_end(client: Client) -> int:
    return int.from_bytes(fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def test_a_broadcast_brings_each_receiver_a_descriptor_of_its_own(bus: Bus, pipes: Pipes) -> None:
    sender, receivers = bus.connect(), [bus.connect() for _ in range(3)]
    for receiver in receivers:
        receiver.match("member='M'")
    sender.emit("M", "h", 0, fds=pipes.readers(1))
    for receiver in receivers:
        assert pipes.arrived(receiver.receive())


def test_a_client_may_send_a_descriptor_to_itself(bus: Bus, pipes: Pipes) -> None:
    client = bus.connect()
    client.call(client.name, "M", "h", 0, fds=pipes.readers(1))
    assert pipes.arrived(client.receive())


def test_a_call_with_descriptors_to_one_that_takes_none_is_not_supported(bus: Bus, pipes: Pipes) -> None:
    sender, plain = bus.connect(), bus.connect(takes_fds=False)
    serial = sender.call(plain.name, "M", "h", 0, fds=pipes.readers(1))
    assert sender.reply(serial).what == (FAULT + "NotSupported",)
    assert plain.heard() == []


def test_an_answer_with_descriptors_is_refused_and_may_be_given_again(bus: Bus, pipes: Pipes) -> None:
    caller, callee = bus.connect(takes_fds=False), bus.connect()
    caller.call(callee.name, "Ask")
    call = callee.receive()
    refused = callee.answer(call, "h", 0, fds=pipes.readers(1))
    assert callee.reply(refused).what == (FAULT + "NotSupported",)
    callee.answer(call, "s", "without")
    assert caller.receive().args == ["without"]


def test_a_signal_with_descriptors_to_one_that_takes_none_is_not_supported(bus: Bus, pipes: Pipes) -> None:
    sender, receiver = bus.connect(), bus.connect(takes_fds=False)
    serial = sender.emit("Given", "h", 0, to=receiver.name, fds=pipes.readers(1))
    assert sender.reply(serial).what == (FAULT + "NotSupported",)
    assert receiver.heard() == []


def test_a_broadcast_with_descriptors_passes_over_one_that_takes_none(bus: Bus, pipes: Pipes) -> None:
    sender, plain, able = bus.connect(), bus.connect(takes_fds=False), bus.connect()
    for receiver in (plain, able):
        receiver.match("type='signal',interface='x.Y'")
    sender.emit("M", "h", 0, fds=pipes.readers(1))
    sender.emit("N")
    sender.sync()
    assert pipes.arrived(able.receive())
    assert [got.member for got in plain.drain()] == ["N"]


def test_one_that_never_agreed_and_sends_descriptors_is_disconnected(bus: Bus, pipes: Pipes) -> None:
    sender, receiver = bus.connect(takes_fds=False), bus.connect()
    sender.call(receiver.name, "M", "h", 0, fds=pipes.readers(1))
    sender.rest()
    assert receiver.heard() == []


def with_fds(to: Client, signature: str, *args: int, count: int) -> bytes:
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", to.name), (UNIX_FDS, "u", count)]
    return message(CALL, 9, [*fields, (SIGNATURE, "g", signature)], marshal(signature, *args))


@pytest.mark.parametrize(("declared", "attached"), [(1, 0), (2, 1), (17, 17), (4294967295, 1)])
def test_a_message_that_counts_more_than_it_brings_or_may_is_the_last(
    bus: Bus, pipes: Pipes, declared: int, attached: int
) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.write(with_fds(receiver, "h", 0, count=declared), pipes.readers(attached))
    sender.rest()
    assert receiver.heard() == []


def test_an_index_beyond_the_descriptors_is_the_receivers_business(bus: Bus, pipes: Pipes) -> None:
    sender, receiver = bus.connect(), bus.connect()
    sender.call(receiver.name, "M", "h", 0)
    sender.call(receiver.name, "M", "h", 7, fds=pipes.readers(1))
    assert receiver.receive().args == [0]
    got = receiver.receive()
    assert got.args == [7]
    assert pipes.arrived(got)


def test_descriptors_that_nobody_counts_are_never_delivered(bus: Bus, pipes: Pipes) -> None:
    sender, receiver = bus.connect(), bus.connect()
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", receiver.name)]
    sender.write(message(CALL, 9, fields), pipes.readers(1))
    sender.sync()
    got = receiver.receive()
    assert (got.unix_fds, got.fds, receiver.fds) == (None, [], [])


def test_descriptors_wait_for_a_message_that_comes_in_pieces(bus: Bus, pipes: Pipes) -> None:
    sender, receiver = bus.connect(), bus.connect()
    data = with_fds(receiver, "h", 0, count=1)
    sender.write(data[:20], pipes.readers(1))
    receiver.sync()
    sender.write(data[20:])
    assert pipes.arrived(receiver.receive())


def test_the_bus_keeps_no_descriptor_of_messages_that_were_refused(bus: Bus, pipes: Pipes) -> None:
    sender, plain = bus.connect(), bus.connect(takes_fds=False)
    sender.sync()
    before = open_fds(bus.pid)
    for to in (plain.name, "no.such.Name", "org.freedesktop.DBus"):
        for _ in range(5):
            sender.reply(sender.call(to, "M", "hh", 0, 1, fds=pipes.readers(2)))
    sender.emit("NobodyHears", "h", 0, fds=pipes.readers(1))
    sender.sync()
    assert open_fds(bus.pid) == before


def test_one_that_leaves_with_descriptors_unread_leaves_none_in_the_bus(bus: Bus, pipes: Pipes) -> None:
    """Asserted by the fixture: the count returns to where it was."""
    sender, reader = bus.connect(), bus.connect()
    for _ in range(100):
        sender.call(reader.name, "M", "s" + "h" * 4, "x" * 5000, 0, 1, 2, 3, fds=pipes.readers(4), flags=1)
    sender.sync()
    reader.close()
    sender.sync()
