"""Queues of owners: RequestName and ReleaseName as the reference decides them (dbus-bus §4.1)."""

from __future__ import annotations

import random

import pytest
from bus1_bridge.names import Change, NameFlag, NameTable, ReleaseResult, RequestResult
from buses import Bus
from dbus_client import BUS, CallFailed, Client
from hypothesis import given
from hypothesis import strategies as st

ALLOW, REPLACE, DO_NOT_QUEUE = NameFlag.ALLOW_REPLACEMENT, NameFlag.REPLACE_EXISTING, NameFlag.DO_NOT_QUEUE
OWNER, IN_QUEUE, EXISTS, ALREADY = RequestResult
N = "org.example.N"


@pytest.fixture
def table() -> NameTable:
    """Nobody owns anything."""
    return NameTable()


def test_the_first_to_ask_owns_the_name(table: NameTable) -> None:
    assert table.request(1, N, 0) == (OWNER, [Change(N, None, 1)])
    assert (table.owner(N), table.queue(N), table.names()) == (1, [1], [N])
    assert table.request(1, N, 0) == (ALREADY, [])


def test_those_who_come_later_wait_in_order(table: NameTable) -> None:
    table.request(1, N, 0)
    assert table.request(2, N, 0) == table.request(3, N, ALLOW) == (IN_QUEUE, [])
    assert table.queue(N) == [1, 2, 3]
    assert table.release(1, N) == (ReleaseResult.RELEASED, [Change(N, 1, 2)])


def test_who_does_not_queue_is_told_that_the_name_exists(table: NameTable) -> None:
    table.request(1, N, 0)
    assert table.request(2, N, DO_NOT_QUEUE) == (EXISTS, [])
    assert table.request(2, N, DO_NOT_QUEUE | REPLACE) == (EXISTS, [])
    assert table.queue(N) == [1]


def test_who_waits_and_then_does_not_queue_leaves_the_queue(table: NameTable) -> None:
    table.request(1, N, 0)
    table.request(2, N, 0)
    assert table.request(2, N, DO_NOT_QUEUE) == (EXISTS, [])
    assert table.queue(N) == [1] and table.held(2) == []


def test_a_replaced_owner_stands_second(table: NameTable) -> None:
    table.request(1, N, ALLOW)
    table.request(2, N, 0)
    assert table.request(3, N, REPLACE) == (OWNER, [Change(N, 1, 3)])
    assert table.queue(N) == [3, 1, 2]


def test_a_replaced_owner_that_does_not_queue_is_dropped(table: NameTable) -> None:
    table.request(1, N, ALLOW | DO_NOT_QUEUE)
    assert table.request(2, N, REPLACE) == (OWNER, [Change(N, 1, 2)])
    assert table.queue(N) == [2] and table.held(1) == []


def test_an_owner_who_does_not_allow_it_is_waited_for_in_second_place(table: NameTable) -> None:
    table.request(1, N, 0)
    table.request(2, N, 0)
    assert table.request(3, N, REPLACE) == (IN_QUEUE, [])
    assert table.queue(N) == [1, 3, 2]


def test_asking_again_updates_the_flags_of_the_owner(table: NameTable) -> None:
    table.request(1, N, ALLOW)
    table.request(1, N, 0)
    assert table.request(2, N, REPLACE) == (IN_QUEUE, [])
    table.request(1, N, ALLOW | DO_NOT_QUEUE)
    assert table.request(2, N, REPLACE) == (OWNER, [Change(N, 1, 2)])
    assert table.queue(N) == [2]


def test_asking_again_while_waiting_keeps_the_place_or_takes_the_second(table: NameTable) -> None:
    for peer in (1, 2, 3):
        table.request(peer, N, 0)
    assert table.request(2, N, ALLOW) == (IN_QUEUE, []) and table.queue(N) == [1, 2, 3]
    assert table.request(3, N, REPLACE) == (IN_QUEUE, []) and table.queue(N) == [1, 3, 2]
    table.release(1, N)
    table.release(3, N)
    assert table.request(4, N, REPLACE) == (OWNER, [Change(N, 2, 4)])


def test_who_waits_may_release(table: NameTable) -> None:
    table.request(1, N, 0)
    table.request(2, N, 0)
    assert table.release(2, N) == (ReleaseResult.RELEASED, [])
    assert table.release(2, N) == (ReleaseResult.NOT_OWNER, [])
    assert table.release(1, N) == (ReleaseResult.RELEASED, [Change(N, 1, None)])
    assert table.release(1, N) == (ReleaseResult.NON_EXISTENT, [])


def test_a_peer_that_is_gone_gives_up_the_name_it_asked_for_last_first(table: NameTable) -> None:
    table.request(1, "a.A", 0)
    table.request(2, "a.A", 0)
    for name in ("a.B", "a.C"):
        table.request(2, name, 0)
    table.request(3, "a.B", 0)
    table.request(1, "a.D", 0)
    table.request(2, "a.D", 0)
    table.release(1, "a.A")
    assert list(table.primary(2)) == ["a.B", "a.C", "a.A"] and table.held(2) == ["a.A", "a.B", "a.C", "a.D"]
    assert table.drop(2) == [Change("a.C", 2, None), Change("a.B", 2, 3), Change("a.A", 2, None)]
    assert table.held(2) == list(table.primary(2)) == [] and table.count(2) == 0
    assert table.queue("a.D") == [1] and table.drop(2) == []


def test_a_peer_claims_in_a_namespace_what_it_has_not_given_up(table: NameTable) -> None:
    for name in ("a.A.B", "a.A-B", "a.A.C"):
        table.request(1, name, 0)
    assert table.claims_in(1, "a.A")
    table.release(1, "a.A.B")
    table.release(1, "a.A.C")
    assert not table.claims_in(1, "a.A")
    table.request(1, "a.A.D", 0)
    assert table.claims_in(1, "a.A") and table.claims_in(1, "a.A-B") and not table.claims_in(2, "a")
    table.drop(1)
    assert not table.claims_in(1, "a")


NAMES = ["a.A", "a.A.B", "a.A-B"]
SPACES = [*NAMES, "a", "a.A.", "b"]
operations = st.lists(
    st.tuples(st.sampled_from("qqqrd"), st.integers(1, 4), st.sampled_from(NAMES), st.integers(0, 7)),
    max_size=40,
)


@given(operations)
def test_the_table_agrees_with_itself_and_its_changes(steps: list[tuple[str, int, str, int]]) -> None:
    table, owners = NameTable(), dict[str, int]()
    for kind, peer, name, flags in steps:
        if kind == "q":
            changes = table.request(peer, name, flags)[1]
        elif kind == "r":
            changes = table.release(peer, name)[1]
        else:
            changes = table.drop(peer)
        for change in changes:
            assert owners.pop(change.name, None) == change.old != change.new
            if change.new is not None:
                owners[change.name] = change.new
        assert {name: table.owner(name) for name in table.names()} == owners
        for one in NAMES:
            queue = table.queue(one)
            assert len(set(queue)) == len(queue)
            for each in range(1, 5):
                assert (one in table.held(each)) == (each in queue)
                assert (one in table.primary(each)) == (queue[:1] == [each])
        for each in range(1, 5):
            held = table.held(each)
            assert table.count(each) == len(held)
            assert list(table.claims(each)) == held
            for space in SPACES:
                within = any(f"{one}.".startswith(f"{space}.") for one in held)
                assert table.claims_in(each, space) == within


def reference_queue(watcher: Client, name: str) -> list[str]:
    """ListQueuedOwners of the reference."""
    try:
        return list(watcher.ask("ListQueuedOwners", "s", name)[0])
    except CallFailed:
        return []


def test_a_bus_decides_random_histories_as_the_table_does(bus: Bus) -> None:
    chance = random.Random(7)
    watcher = bus.connect()
    watcher.match("member='NameOwnerChanged',arg0namespace='a'")
    table, clients = NameTable(), dict[int, Client]()
    for step in range(400):
        peer, name, flags = chance.randrange(4), chance.choice(NAMES), chance.randrange(8)
        client = clients.get(peer) or clients.setdefault(peer, bus.connect())
        kind = chance.choices("qrd", (8, 3, 1))[0]
        if kind == "q":
            result, changes = table.request(peer, name, flags)
            assert client.ask("RequestName", "su", name, flags) == [result], step
        elif kind == "r":
            released, changes = table.release(peer, name)
            assert client.ask("ReleaseName", "s", name) == [released], step
        else:
            changes = table.drop(peer)
            gone = clients.pop(peer).name
            client.close()
            while gone in watcher.ask("ListNames")[0]:
                pass
        watcher.sync()
        names: dict[int | None, str] = {None: "", peer: client.name}
        names.update({number: one.name for number, one in clients.items()})
        seen = [tuple(signal.args) for signal in watcher.inbox if signal.sender == BUS]
        watcher.inbox.clear()
        assert seen == [(c.name, names[c.old], names[c.new]) for c in changes], step
        assert reference_queue(watcher, name) == [clients[number].name for number in table.queue(name)], step
