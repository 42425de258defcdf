"""The reactor: sources, stations, timers, and the effects of commands."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from bus1.reactor import Reactor


class Effects:
    """Stands for a hub with its Core: only the effect lists matter here."""

    def __init__(self) -> None:
        self.woken: list[int] = []
        self.retired: list[tuple[int, int]] = []
        self.freed: list[int] = []
        self.late: list[int] = []
        self.on_settle: Callable[[], None] = lambda: None
        self.core: Any = SimpleNamespace(
            take_woken=lambda: self._take("woken"), take_retired=lambda: self._take("retired"),
            take_freed_fds=lambda: self._take("freed"),
            has_effects=lambda: bool(self.woken or self.retired or self.freed),
        )

    def _take(self, name: str) -> list[Any]:
        taken: list[Any] = getattr(self, name)
        setattr(self, name, [])
        return taken

    def settle(self) -> None:
        self.on_settle()


class PipeEnd:
    def __init__(self, fd: int, ready: Callable[[], None]) -> None:
        self.fd, self.act, self.seen = fd, ready, 0

    def fileno(self) -> int:
        return self.fd

    def ready(self, events: int, now: float) -> None:
        self.seen += 1
        self.act()


class Recorder:
    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self.act = act
        self.told: list[object] = []

    def woken(self) -> None:
        self.told.append("woken")
        self.act()

    def retired(self, generation: int) -> None:
        self.told.append(generation)


@pytest.fixture
def hub() -> Effects:
    return Effects()


@pytest.fixture
def clock() -> SimpleNamespace:
    return SimpleNamespace(now=100.0)


@pytest.fixture
def reactor(hub: Effects, clock: SimpleNamespace) -> Iterator[Reactor]:
    reactor = Reactor(hub, lambda: float(clock.now))
    yield reactor
    reactor.close()


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    pairs = [os.pipe(), os.pipe()]
    for _, write in pairs:
        os.write(write, b"x")
    yield pairs
    for pair in pairs:
        for fd in pair:
            try:
                os.close(fd)
            except OSError:
                continue


def test_a_ready_source_is_told_once_per_turn(reactor: Reactor, pipes: list[tuple[int, int]]) -> None:
    source = PipeEnd(pipes[0][0], lambda: None)
    reactor.add(source, select.EPOLLIN)
    reactor.run_once(None)
    assert source.seen == 1
    reactor.run_once(None)
    assert source.seen == 2
    reactor.modify(source, 0)
    reactor.run_once(100.0)
    assert source.seen == 2


def test_an_event_of_a_removed_source_reaches_nobody_even_when_its_number_is_used_again(
    reactor: Reactor, pipes: list[tuple[int, int]]
) -> None:
    (first, _), (second, _) = pipes
    late: list[PipeEnd] = []

    def replace(own: int, other: int) -> None:
        if late:
            return
        for end in ends:
            if end.fd == other:
                reactor.remove(end)
        os.dup2(own, other)
        newcomer = PipeEnd(other, lambda: None)
        reactor.add(newcomer, select.EPOLLIN)
        late.append(newcomer)

    ends = [PipeEnd(first, lambda: replace(first, second)), PipeEnd(second, lambda: replace(second, first))]
    for end in ends:
        reactor.add(end, select.EPOLLIN)
    reactor.run_once(None)
    assert sorted(end.seen for end in ends) == [0, 1]
    assert late[0].seen == 0
    reactor.run_once(None)
    assert late[0].seen == 1


def test_an_event_of_a_source_that_another_thread_removes_meanwhile_reaches_nobody(
    reactor: Reactor, pipes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), (second, _) = pipes
    source, newcomer = PipeEnd(first, lambda: None), PipeEnd(first, lambda: None)
    reactor.add(source, select.EPOLLIN)
    carry_out = reactor._carry_out

    def replace() -> None:
        reactor.remove(source)
        os.dup2(second, first)
        reactor.add(newcomer, select.EPOLLIN)
        # its own turn is over before that of the first thread goes on
        monkeypatch.setattr(reactor, "_carry_out", carry_out)
        reactor.run_once(0.0)

    def late(events: Sequence[tuple[int, int]], n_removed: int) -> None:
        replace()
        seen = newcomer.seen
        carry_out(events, n_removed)
        assert (source.seen, newcomer.seen) == (0, seen)

    monkeypatch.setattr(reactor, "_carry_out", late)
    assert reactor.run_once(None) == 1
    reactor.run_once(None)
    assert newcomer.seen == 2


def test_settle_goes_on_until_nothing_is_left(reactor: Reactor, hub: Effects) -> None:
    second = Recorder()
    first = Recorder(lambda: hub.woken.append(2))
    reactor.station(1, first)
    reactor.station(2, second)
    hub.woken, hub.retired = [1], [(2, 7), (9, 1)]
    read, write = os.pipe()
    os.close(write)
    hub.freed = [read]
    reactor.settle()
    assert first.told == ["woken"] and second.told == [7, "woken"]
    with pytest.raises(OSError):
        os.fstat(read)
    assert not (hub.woken or hub.retired or hub.freed)


def test_a_station_may_settle_while_it_is_told(reactor: Reactor, hub: Effects) -> None:
    order: list[str] = []

    def act() -> None:
        order.append("in")
        reactor.settle()
        order.append("out")

    reactor.station(1, Recorder(act))
    hub.woken = [1]
    reactor.settle()
    assert order == ["in", "out"]


def test_a_peer_without_a_station_is_ignored(reactor: Reactor, hub: Effects) -> None:
    station = Recorder()
    reactor.station(1, station)
    reactor.station(1, None)
    hub.woken = [1]
    reactor.settle()
    assert station.told == []


def test_timers_run_in_order_of_time_when_they_are_due(reactor: Reactor, clock: SimpleNamespace) -> None:
    ran: list[str] = []
    reactor.call_at(103.0, "late", lambda now: ran.append("late"))
    reactor.call_at(101.0, "early", lambda now: ran.append("early"))
    reactor.call_at(102.0, "gone", lambda now: ran.append("gone"))
    reactor.cancel("gone")
    reactor.run_once(100.0)
    assert ran == []
    clock.now = 104.0
    reactor.run_once(None)
    assert ran == ["early", "late"]


def test_one_timer_per_key_the_last_one_counts(reactor: Reactor, clock: SimpleNamespace) -> None:
    ran: list[int] = []
    for number in range(1000):
        reactor.call_at(200.0 - number / 100, "key", lambda now, n=number: ran.append(n))  # type: ignore[misc]
    assert len(reactor._due) < 100
    clock.now = 300.0
    reactor.run_once(None)
    assert ran == [999]


def test_a_timer_set_during_a_turn_runs_in_the_next(reactor: Reactor, clock: SimpleNamespace) -> None:
    ran: list[float] = []

    def again(now: float) -> None:
        ran.append(now)
        reactor.call_at(now, "key", again)

    reactor.call_at(100.0, "key", again)
    reactor.run_once(None)
    assert len(ran) == 1
    reactor.run_once(None)
    assert len(ran) == 2


def test_a_timer_that_a_source_sets_lets_the_turn_pass(
    reactor: Reactor, pipes: list[tuple[int, int]]
) -> None:
    reading = pipes[0][0]
    ran: list[float] = []
    source = PipeEnd(reading, lambda: reactor.call_at(99.0, "key", ran.append))
    reactor.add(source, select.EPOLLIN)
    reactor.run_once(None)
    assert (source.seen, ran) == (1, [])
    os.read(reading, 1)
    reactor.run_once(None)
    assert len(ran) == 1


def test_effects_of_a_timer_are_settled(reactor: Reactor, hub: Effects) -> None:
    station = Recorder()
    reactor.station(1, station)
    reactor.call_at(100.0, "key", lambda now: hub.woken.append(1))
    reactor.run_once(None)
    assert station.told == ["woken"]


def test_hosted_objects_answer_before_wake_ups_are_delivered(reactor: Reactor, hub: Effects) -> None:
    station = Recorder()
    reactor.station(5, station)
    pending = [5]
    hub.late, hub.on_settle = pending, lambda: hub.woken.append(pending.pop()) if pending else None
    reactor.settle()
    assert station.told == ["woken"]
