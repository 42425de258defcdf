"""Overload: one user, 200 clients, some of which do not read (docs/design.md §7, architecture §6).

The simulator is the pure Switch on the pure Core; time passes in steps. A client sends only while the bus
reads from it, as a socket would have it. What must hold: no message between two clients that read is refused
or lost; every flood ends in the documented refusals; what Core has charged stays below its bound.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from bus1_bridge.switch.flow import BUS_MARK, OVERHEAD, PAIR_MARK, PATIENCE, READER_MARK
from bus1_bridge.switch.limits import MESSAGE_SIZE_CEILING, BusLimits
from pure_switch import (
    CALL,
    ERROR,
    FAULT,
    NO_REPLY_EXPECTED,
    RETURN,
    SIGNAL,
    Client,
    Got,
    PureSwitch,
    message,
)

CLIENTS = 200
STEP = 0.005
LARGE = 256 << 10
"""Bytes of a message of a flood."""
LARGE_BODY = (LARGE - 4).to_bytes(4, "little") + bytes(LARGE - 4)


@pytest.fixture
def bus() -> Iterator[PureSwitch]:
    switch = PureSwitch()
    yield switch
    switch.end()


def flood(to: str, type: int = CALL) -> bytes:
    """One large message that wants no answer; the same bytes serve any number of sends."""
    return message(
        type, 1 << 20, "ay", body=LARGE_BODY, path="/x", interface="a.b.C", member="Flood",
        destination=to or None, flags=NO_REPLY_EXPECTED,
    )


def say_if_read(client: Client, data: bytes) -> bool:
    """Send, if the bus reads from this client once it has done what it can do at once."""
    if not client.bus.router.wants_input(client.connection):
        client.bus.turns()
        if not client.bus.router.wants_input(client.connection):
            return False
    client.say(data)
    return True


def waiting(bus: PureSwitch, reader: Client, *, of_clients: bool = False) -> int:
    total = bus.core.waiting(reader.connection).bytes
    return total - bus.core.queued(bus.tables.bus_peer, reader.connection).bytes if of_clients else total


class Crowd:
    """Everybody calls, answers, signals and floods everybody; ``stuck`` of them read nothing."""

    def __init__(self, bus: PureSwitch, stuck: int, seed: int) -> None:
        self.bus = bus
        self.random = random.Random(seed)
        clients = [bus.client() for _ in range(CLIENTS)]
        self.readers, self.stuck = clients[stuck:], clients[:stuck]
        self.by_name = {client.name: client for client in clients}
        self.floods = {client.name: flood(client.name) for client in self.stuck}
        self.subscribers = [*self.readers[:10], *self.stuck]
        for client in self.subscribers:
            client.call("AddMatch", "s", "type='signal',interface='a.b.C',member='Changed'")
        self.backlog: dict[str, list[bytes]] = {client.name: [] for client in self.readers}
        self.asked: dict[tuple[str, int], str] = {}
        """Calls by (caller, serial): the name that was called."""
        self.arrived: Counter[tuple[str, int]] = Counter()
        self.answered: dict[tuple[str, int], str] = {}
        self.emitted: dict[str, list[int]] = {client.name: [] for client in self.readers}
        self.seen: dict[str, dict[str, list[int]]] = {client.name: {} for client in self.subscribers}
        self.refusals: list[Got] = []
        self.when_still: dict[str, int] = {}
        """What waited at each stuck client when it counted as standing still for the first time."""

    def run(self, steps: int) -> None:
        for _ in range(steps):
            for client in self.readers:
                self._act(client)
            self._read_and_answer()
            self.bus.pass_time(STEP)
            for client in self.stuck:
                if not self.bus.delivery.flow.makes_progress(client.connection, self.bus.now):
                    self.when_still.setdefault(client.name, waiting(self.bus, client, of_clients=True))
        while any(self.backlog.values()) or self._is_anything_waiting():
            self._read_and_answer()
            self.bus.pass_time(STEP)

    def _is_anything_waiting(self) -> bool:
        return any(self.bus.router.has_output(client.connection) for client in self.readers)

    def _act(self, client: Client) -> None:
        chance = self.random.random()
        serial = client.next_serial()
        if chance < 0.02:
            self.emitted[client.name].append(serial)
            self._queue(client, message(
                SIGNAL, serial, path="/x", interface="a.b.C", member="Changed",
            ))
            return
        if self.stuck and chance < 0.25:
            to = self.random.choice(self.stuck).name
            if chance < 0.15:
                self._queue(client, self.floods[to])
                return
        else:
            to = self.random.choice(self.readers).name
        self.asked[client.name, serial] = to
        self._queue(client, message(CALL, serial, path="/x", interface="a.b.C", member="Do", destination=to))

    def _queue(self, client: Client, data: bytes) -> None:
        self.backlog[client.name].append(data)
        self._say(client)

    def _say(self, client: Client) -> None:
        backlog = self.backlog[client.name]
        while backlog and say_if_read(client, backlog[0]):
            del backlog[0]

    def _read_and_answer(self) -> None:
        for client in self.readers:
            self._say(client)
            for got in client.take_all():
                self._note(client, got)

    def _note(self, client: Client, got: Got) -> None:
        if got.type == CALL and got.sender and got.member == "Do":
            self.arrived[got.sender, got.serial] += 1
            self.backlog[client.name].insert(0, message(
                RETURN, client.next_serial(), destination=got.sender, reply_serial=got.serial,
            ))
        elif got.type == SIGNAL and got.sender:
            self.seen[client.name].setdefault(got.sender, []).append(got.serial)
        elif got.type == RETURN:
            self.answered[client.name, got.reply_serial] = "return"
        elif got.type == FAULT and got.reply_serial != 1 << 20:
            self.answered[client.name, got.reply_serial] = str(got.error)
            self.refusals.append(got)
        elif got.type == FAULT:
            self.refusals.append(got)


@pytest.mark.parametrize("stuck", [0, 1, 5, 20])
def test_readers_lose_nothing_whatever_others_do_not_read(bus: PureSwitch, stuck: int) -> None:
    crowd = Crowd(bus, stuck, seed=stuck)
    crowd.run(steps=60)
    stuck_names = {client.name for client in crowd.stuck}
    for (caller, serial), to in crowd.asked.items():
        if to in stuck_names:
            # waits there, or was refused in words
            assert crowd.answered.get((caller, serial), ERROR + "LimitsExceeded") == ERROR + "LimitsExceeded"
        else:
            assert crowd.arrived[caller, serial] == 1
            assert crowd.answered[caller, serial] == "return"
    for client in crowd.subscribers:
        if client.name not in stuck_names:
            everything = {name: serials for name, serials in crowd.emitted.items() if serials}
            assert crowd.seen[client.name] == everything
    assert {got.error for got in crowd.refusals} <= {ERROR + "LimitsExceeded"}
    assert {reader for _, reader, _ in bus.refused()} <= stuck_names
    assert len(crowd.when_still) == stuck
    bounds = [max(READER_MARK, size) for size in crowd.when_still.values()]
    for client, bound in zip(crowd.stuck, bounds, strict=True):
        assert waiting(bus, client, of_clients=True) <= bound
    assert bus.charges()["bytes"] <= sum(bounds) + stuck * BUS_MARK


def test_a_flood_of_calls_pauses_the_sender_then_ends_in_limits_exceeded(bus: PureSwitch) -> None:
    sender, reader, third = bus.client(), bus.client(), bus.client()
    data = flood(reader.name)
    while say_if_read(sender, data):
        assert waiting(bus, reader) <= PAIR_MARK
    assert waiting(bus, reader) + LARGE + OVERHEAD > PAIR_MARK
    assert sender.take_all() == []
    # others are not concerned
    third.ask(sender.name)
    assert [got.member for got in sender.take_all()] == ["Do"]
    bus.pass_time(PATIENCE + 0.01)
    assert [got.error for got in sender.take_all()] == [ERROR + "LimitsExceeded"]
    # the reader still stands still: no second wait for the same reader
    assert say_if_read(third, data), "another sender has its own mark"
    for _ in range(10):
        assert say_if_read(sender, data)
    assert [got.error for got in sender.take_all()] == [ERROR + "LimitsExceeded"] * 10
    assert bus.refused()[sender.name, reader.name, "call"] == 11
    # and once it moves, all is well again
    before = waiting(bus, reader)
    reader.read(1)
    assert waiting(bus, reader) < before
    assert say_if_read(sender, data)
    assert sender.take_all() == []


def test_a_paused_sender_goes_on_when_the_reader_reads(bus: PureSwitch) -> None:
    sender, reader = bus.client(), bus.client()
    data = flood(reader.name)
    sent = received = 0
    while sent < 500:
        while sent < 500 and say_if_read(sender, data):
            sent += 1
        received += reader.read(1)
        assert waiting(bus, reader) <= PAIR_MARK
        bus.pass_time(0.09)
    while count := reader.read():
        received += count
        bus.turn()
    assert received == sent == 500
    assert bus.refused() == {}


def test_a_sender_that_owes_a_reply_is_never_paused(bus: PureSwitch) -> None:
    sender, reader, caller = bus.client(), bus.client(), bus.client()
    caller.ask(sender.name)
    data = flood(reader.name)
    for _ in range(100):
        assert say_if_read(sender, data)
    bus.pass_time(PATIENCE + 0.01)
    for _ in range(5):
        assert say_if_read(sender, data)
    got = sender.take_all()
    assert [g.error for g in got] == [None] + [ERROR + "LimitsExceeded"] * 5
    sender.answer(got[0])
    assert caller.take().type == RETURN


def test_two_clients_that_flood_each_other_and_do_not_read_get_refusals(bus: PureSwitch) -> None:
    one, other = bus.client(), bus.client()
    to_other, to_one = flood(other.name), flood(one.name)
    for _ in range(400):
        say_if_read(one, to_other)
        say_if_read(other, to_one)
        bus.pass_time(0.001)
    # beyond the pair's mark while the queues were new: nobody waits for one who waits
    assert waiting(bus, one, of_clients=True) <= READER_MARK
    assert waiting(bus, other, of_clients=True) <= READER_MARK
    assert bus.refused()
    # both read again: everything that was not refused arrives, and each refusal is told
    for client in (one, other):
        kinds = Counter(got.error or got.member for got in client.take_all())
        assert kinds["Flood"] > 0
        assert set(kinds) <= {"Flood", ERROR + "LimitsExceeded"}


@pytest.mark.parametrize("stuck", [0, 20])
def test_a_flood_of_broadcasts_is_dropped_for_those_who_do_not_read(bus: PureSwitch, stuck: int) -> None:
    clients = [bus.client() for _ in range(CLIENTS)]
    sender, idle, readers = clients[0], clients[1 : stuck + 1], clients[stuck + 1 :]
    for client in (*idle, *readers):
        client.call("AddMatch", "s", "type='signal',member='Flood'")
    data = flood("", SIGNAL)
    signals = 80
    received: Counter[str] = Counter()
    for _ in range(signals):
        assert say_if_read(sender, data), "a broadcast pauses nobody"
        for client in readers:
            received[client.name] += client.read(keep=lambda got: False)
        bus.pass_time(STEP)
    assert set(received.values()) == {signals}
    dropped = bus.refused()
    for client in idle:
        queued = bus.core.waiting(client.connection).messages
        assert queued + dropped[sender.name, client.name, "broadcast"] == signals
        assert waiting(bus, client) <= PAIR_MARK
    assert len(dropped) == stuck


def test_replies_that_do_not_fit_become_no_reply(bus: PureSwitch) -> None:
    service, caller = bus.client(), bus.client()
    calls = [caller.ask(service.name) for _ in range(200)]
    for got in service.take_all():
        assert bus.router.wants_input(service.connection), "nobody is paused for a reply"
        service.say(message(
            RETURN, service.next_serial(), "ay", body=LARGE_BODY, destination=got.sender,
            reply_serial=got.serial,
        ))
        bus.pass_time(STEP)
    assert service.take_all() == []
    assert waiting(bus, caller, of_clients=True) <= PAIR_MARK
    answers = caller.take_all()
    assert [answer.reply_serial for answer in answers] == calls
    outcomes = Counter(answer.error or "return" for answer in answers)
    assert outcomes["return"] > 0
    assert outcomes == {"return": outcomes["return"], ERROR + "NoReply": 200 - outcomes["return"]}
    assert outcomes[ERROR + "NoReply"] > 0
    assert bus.refused() == {(service.name, caller.name, "reply"): outcomes[ERROR + "NoReply"]}


def test_messages_of_128_mib_pass_and_pile_up_nowhere(bus: PureSwitch) -> None:
    clients = [bus.client() for _ in range(CLIENTS)]
    stuck, readers = clients[:20], clients[20:]
    shared = _largest(stuck[0].name)
    for sender in readers[:3]:
        say_if_read(sender, shared)
        bus.pass_time(0.2)
    one = waiting(bus, stuck[0], of_clients=True)
    assert MESSAGE_SIZE_CEILING - 4096 <= one <= MESSAGE_SIZE_CEILING + 4096, "one message, and no second"
    # between two that read, one after the other arrives
    to, sender = readers[0], readers[1]
    again = _largest(to.name)
    received = 0
    for _ in range(8):
        assert say_if_read(sender, again)
        bus.turns()
        received += to.read(keep=lambda got: got.size > MESSAGE_SIZE_CEILING - 4096)
        bus.pass_time(STEP)
    assert received == len(to.inbox) == 8
    assert bus.charges()["bytes"] <= one + (1 << 20)


def _largest(to: str) -> bytes:
    """A message of nearly 128 MiB: two arrays of bytes, each as long as an array may be."""
    array = (1 << 26) - 512
    body = b"".join((array.to_bytes(4, "little"), bytes(array)) * 2)
    return message(
        CALL, 9, "ayay", body=body, path="/x", interface="a.b.C", member="Largest", destination=to,
        flags=NO_REPLY_EXPECTED,
    )


def test_fifty_thousand_calls_may_be_outstanding_and_each_gets_its_no_reply(bus: PureSwitch) -> None:
    caller, service = bus.client(), bus.client()
    limit = bus.limits.max_replies_per_connection
    assert limit == 50_000
    for start in range(0, limit, 64):
        caller.say(b"".join(
            message(
                CALL, serial, path="/x", interface="a.b.C", member="Do", destination=service.name,
            )
            for serial in range(100 + start, 100 + min(start + 64, limit))
        ))
        bus.turns()
        service.read(keep=lambda got: False)
    caller.serial = 100 + limit
    one_more = caller.ask(service.name)
    got = caller.take()
    assert (got.reply_serial, got.error) == (one_more, ERROR + "LimitsExceeded")
    service.leave()
    serials: list[int] = []

    def note(got: Got) -> bool:
        assert got.error == ERROR + "NoReply"
        serials.append(got.reply_serial)
        return False

    caller.read(keep=note)
    assert serials == list(reversed(range(100, 100 + limit))), "the last call first, as the reference does"
    assert bus.refused() == {}


def test_the_hard_bound_holds_even_for_a_reader_that_makes_progress() -> None:
    bus = PureSwitch(BusLimits(max_outgoing_bytes=4 << 20))
    sender, reader = bus.client(), bus.client()
    data = flood(reader.name)
    for _ in range(50):
        say_if_read(sender, data)
        assert waiting(bus, reader, of_clients=True) <= 4 << 20
    bus.end()
