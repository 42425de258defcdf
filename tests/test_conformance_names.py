"""Hello, unique names, and well-known names with queueing and replacement (dbus-bus §4, §4.1)."""

from __future__ import annotations

import pytest
from buses import Bus
from dbus_client import BUS, BUS_PATH, CALL, ERROR, FAULT, RETURN, SIGNAL, Client, Message

ALLOW, REPLACE, NO_QUEUE = 1, 2, 4
OWNER, QUEUED, EXISTS, ALREADY = 1, 2, 3, 4
NAME = "org.bus1.Test"
OWNER_CHANGES = "type='signal',member='NameOwnerChanged'"


def sequence(client: Client, serial: int) -> list[tuple[object, ...]]:
    """What arrives up to and including the answer to ``serial``."""
    seen: list[tuple[object, ...]] = []
    while True:
        got = client.receive()
        seen.append(got.what)
        if got.reply_serial == serial:
            return seen


def hello(client: Client) -> int:
    return client.call(BUS, "Hello", path=BUS_PATH, interface=BUS)


def request(client: Client, name: str, flags: int = 0) -> int:
    return client.call(BUS, "RequestName", "su", name, flags, path=BUS_PATH, interface=BUS)


def queue(client: Client, name: str = NAME) -> list[str]:
    return list(client.ask("ListQueuedOwners", "s", name)[0])


def test_hello_is_answered_then_announced_then_acquired(bus: Bus) -> None:
    watcher = bus.connect()
    watcher.match(OWNER_CHANGES)
    client = bus.connect(hello=False)
    serial = hello(client)
    answer, acquired = client.receive(), client.receive()
    name = answer.args[0]
    assert (answer.type, answer.reply_serial, answer.destination) == (RETURN, serial, name)
    assert acquired.what == ("NameAcquired", name)
    assert watcher.heard() == [("NameOwnerChanged", name, "", name)]


def test_unique_names_count_up_from_zero_at_hello(new_bus: Bus) -> None:
    silent = new_bus.connect(hello=False)
    first = new_bus.connect()
    new_bus.wire()
    second = new_bus.connect()
    hello(silent)
    numbers = [int(name.removeprefix(":1.")) for name in (first.name, second.name, silent.receive().args[0])]
    assert numbers == [1, 2, 3], "number 0 was the fixture's own probe"


def test_a_unique_name_is_never_used_again(bus: Bus) -> None:
    gone = bus.connect()
    watcher = bus.connect()
    watcher.match(OWNER_CHANGES)
    gone.close()
    assert watcher.receive().what == ("NameOwnerChanged", gone.name, gone.name, "")
    assert bus.connect().name != gone.name


def test_a_second_hello_fails_and_changes_nothing(bus: Bus) -> None:
    client = bus.connect()
    assert client.fault("Hello") == "Failed"
    assert client.ask("GetNameOwner", "s", client.name) == [client.name]


@pytest.mark.parametrize("member", ["GetId", "ListNames", "AddMatch", "NoSuchThing"])
def test_before_hello_the_driver_refuses_other_calls_and_stays(bus: Bus, member: str) -> None:
    client = bus.connect(hello=False)
    assert client.fault(member) == "AccessDenied"
    hello(client)
    assert client.receive().args[0].startswith(":1.")


def test_before_hello_a_message_to_somebody_ends_the_connection(bus: Bus) -> None:
    other = bus.connect()
    client = bus.connect(hello=False)
    client.call(other.name, "Anything")
    client.rest()
    assert other.heard() == []


def test_before_hello_a_broadcast_ends_the_connection(bus: Bus) -> None:
    other = bus.connect()
    other.match("type='signal'")
    other.drain()
    client = bus.connect(hello=False)
    client.emit("Early")
    client.rest()
    assert other.heard() == []


def test_before_hello_the_bus_as_a_peer_can_be_pinged(bus: Bus) -> None:
    client = bus.connect(hello=False)
    serial = client.call(None, "Ping", path="/", interface="org.freedesktop.DBus.Peer")
    answer = client.receive()
    assert (answer.type, answer.reply_serial) == (RETURN, serial)


def test_a_name_is_announced_and_acquired_before_the_request_is_answered(bus: Bus) -> None:
    client = bus.connect()
    client.match(OWNER_CHANGES)
    assert sequence(client, request(client, NAME)) == [
        ("NameOwnerChanged", NAME, "", client.name),
        ("NameAcquired", NAME),
        (OWNER,),
    ]


def test_a_replaced_owner_loses_before_the_new_one_acquires(bus: Bus) -> None:
    old, new = bus.connect(), bus.connect()
    old.own(NAME, ALLOW)
    for client in (old, new):
        client.match(OWNER_CHANGES)
        client.drain()
    changed = ("NameOwnerChanged", NAME, old.name, new.name)
    assert sequence(new, request(new, NAME, REPLACE)) == [changed, ("NameAcquired", NAME), (OWNER,)]
    assert old.heard() == [("NameLost", NAME), changed]
    assert queue(new) == [new.name, old.name]


def test_a_released_name_is_lost_before_the_release_is_answered(bus: Bus) -> None:
    client, heir = bus.connect(), bus.connect()
    client.own(NAME)
    heir.own(NAME)
    for each in (client, heir):
        each.match(OWNER_CHANGES)
        each.drain()
    serial = client.call(BUS, "ReleaseName", "s", NAME, path=BUS_PATH, interface=BUS)
    changed = ("NameOwnerChanged", NAME, client.name, heir.name)
    assert sequence(client, serial) == [("NameLost", NAME), changed, (1,)]
    assert heir.heard() == [changed, ("NameAcquired", NAME)]


def test_acquired_and_lost_are_heard_by_nobody_else(bus: Bus) -> None:
    watcher = bus.connect()
    watcher.match("type='signal',member='NameAcquired'")
    watcher.match("type='signal',member='NameLost'")
    client = bus.connect()
    client.own(NAME)
    client.ask("ReleaseName", "s", NAME)
    assert watcher.heard() == []


@pytest.mark.parametrize(
    ("first", "second", "code", "order"),
    [
        (0, 0, QUEUED, "ab"),
        (0, NO_QUEUE, EXISTS, "a"),
        (0, REPLACE, QUEUED, "ab"),
        (0, REPLACE | NO_QUEUE, EXISTS, "a"),
        (ALLOW, 0, QUEUED, "ab"),
        (ALLOW, NO_QUEUE, EXISTS, "a"),
        (ALLOW, REPLACE, OWNER, "ba"),
        (ALLOW, REPLACE | NO_QUEUE, OWNER, "ba"),
        (ALLOW | NO_QUEUE, REPLACE, OWNER, "b"),
        (NO_QUEUE, 0, QUEUED, "ab"),
        (0xFFFFFFF8, 0xFFFFFFF8, QUEUED, "ab"),
    ],
)
def test_two_requests_give_this_code_and_this_queue(
    bus: Bus, first: int, second: int, code: int, order: str
) -> None:
    a, b = bus.connect(), bus.connect()
    assert a.own(NAME, first) == OWNER
    assert b.own(NAME, second) == code
    assert queue(a) == [{"a": a.name, "b": b.name}[who] for who in order]


def test_the_third_waits_behind_the_second_unless_it_wants_to_replace(bus: Bus) -> None:
    a, b, c, d = (bus.connect() for _ in range(4))
    assert [a.own(NAME), b.own(NAME), c.own(NAME, REPLACE), d.own(NAME)] == [OWNER, QUEUED, QUEUED, QUEUED]
    assert queue(a) == [a.name, c.name, b.name, d.name]


def test_an_owner_that_asks_again_owns_already_and_changes_its_flags(bus: Bus) -> None:
    a, b = bus.connect(), bus.connect()
    assert [a.own(NAME), b.own(NAME, REPLACE | NO_QUEUE)] == [OWNER, EXISTS]
    assert a.own(NAME, ALLOW) == ALREADY
    assert b.own(NAME, REPLACE) == OWNER
    assert queue(a) == [b.name, a.name]


def test_one_that_waits_and_asks_again_without_queueing_leaves_the_queue(bus: Bus) -> None:
    a, b, c = (bus.connect() for _ in range(3))
    assert [a.own(NAME), b.own(NAME), c.own(NAME)] == [OWNER, QUEUED, QUEUED]
    assert b.own(NAME, NO_QUEUE) == EXISTS
    assert queue(a) == [a.name, c.name]


def test_one_that_waits_and_asks_again_to_replace_moves_up(bus: Bus) -> None:
    a, b, c = (bus.connect() for _ in range(3))
    assert [a.own(NAME), b.own(NAME), c.own(NAME)] == [OWNER, QUEUED, QUEUED]
    assert c.own(NAME, REPLACE) == QUEUED
    assert queue(a) == [a.name, c.name, b.name]


def test_release_tells_apart_owner_waiting_stranger_and_nobody(bus: Bus) -> None:
    a, b, c = (bus.connect() for _ in range(3))
    a.own(NAME)
    b.own(NAME)
    assert c.ask("ReleaseName", "s", NAME) == [3]
    assert b.ask("ReleaseName", "s", NAME) == [1]
    assert a.ask("ReleaseName", "s", NAME) == [1]
    assert a.ask("ReleaseName", "s", NAME) == [2]


@pytest.mark.parametrize("method", ["RequestName", "ReleaseName"])
@pytest.mark.parametrize(
    "name",
    ["", "org", ":1.1", ":x.y", BUS, "org..x", ".org.x", "org.x.", "org.1x", "org.x/y", "a." + "b" * 254],
)
def test_a_name_that_cannot_be_owned_is_an_invalid_argument(bus: Bus, method: str, name: str) -> None:
    client = bus.connect()
    arguments = ("su", name, 0) if method == "RequestName" else ("s", name)
    assert client.fault(method, *arguments) == "InvalidArgs"


@pytest.mark.parametrize("name", ["a.b", "_a._b", "a-b.c-d", "A.B9", "a." + "b" * 253])
def test_a_name_of_allowed_letters_can_be_owned(bus: Bus, name: str) -> None:
    client = bus.connect()
    assert client.own(name) == OWNER
    assert client.ask("GetNameOwner", "s", name) == [client.name]


def test_a_leaver_frees_its_names_last_taken_first_and_its_unique_name_last(bus: Bus) -> None:
    watcher, leaver, heir = bus.connect(), bus.connect(), bus.connect()
    for name in ("t.One", "t.Two", "t.Three"):
        leaver.own(name)
    heir.own("t.Two")
    watcher.match(OWNER_CHANGES)
    leaver.close()
    assert [watcher.receive().what for _ in range(4)] == [
        ("NameOwnerChanged", "t.Three", leaver.name, ""),
        ("NameOwnerChanged", "t.Two", leaver.name, heir.name),
        ("NameOwnerChanged", "t.One", leaver.name, ""),
        ("NameOwnerChanged", leaver.name, leaver.name, ""),
    ]
    assert heir.heard() == [("NameAcquired", "t.Two")]


def test_one_that_waits_and_leaves_is_no_longer_in_the_queue(bus: Bus) -> None:
    a, b, watcher = bus.connect(), bus.connect(), bus.connect()
    a.own(NAME)
    b.own(NAME)
    watcher.match(OWNER_CHANGES)
    b.close()
    assert watcher.receive().what == ("NameOwnerChanged", b.name, b.name, "")
    assert queue(a) == [a.name]


def test_names_are_listed_with_the_bus_first(bus: Bus) -> None:
    a, b = bus.connect(), bus.connect()
    a.own(NAME)
    b.own(NAME)
    bus.connect(hello=False)
    names = a.ask("ListNames")[0]
    assert names[0] == BUS
    assert sorted(names) == sorted([BUS, NAME, a.name, b.name])


def test_owners_are_asked_for(bus: Bus) -> None:
    a, b = bus.connect(), bus.connect()
    a.own(NAME)
    for name, owner in ((NAME, a.name), (BUS, BUS), (b.name, b.name)):
        assert a.ask("GetNameOwner", "s", name) == [owner]
        assert a.ask("NameHasOwner", "s", name) == [True]
        assert queue(a, name) == [owner]


@pytest.mark.parametrize("name", ["no.such", ":1.999", "not valid", "", "x"])
def test_nobody_owns_what_is_not_there_or_not_a_name(bus: Bus, name: str) -> None:
    client = bus.connect()
    assert client.fault("GetNameOwner", "s", name) == "NameHasNoOwner"
    assert client.fault("ListQueuedOwners", "s", name) == "NameHasNoOwner"
    assert client.ask("NameHasOwner", "s", name) == [False]


def test_the_bus_says_its_own_with_the_same_fields_in_the_same_order(bus: Bus) -> None:
    client = bus.connect(hello=False)
    client.serial = 40
    hello(client)
    answer, acquired = client.receive(), client.receive()
    client.match(OWNER_CHANGES)
    client.drain()
    client.own(NAME)
    changed = client.receive()
    assert client.fault("GetNameOwner", "s", "no.such") == "NameHasNoOwner"

    def shape(got: Message) -> tuple[object, ...]:
        return (got.type, got.endian, got.flags, got.codes, got.sender, got.destination)

    name = answer.args[0]
    assert shape(answer) == (RETURN, "l", 1, [6, 5, 8, 7], BUS, name)
    assert shape(acquired) == (SIGNAL, "l", 1, [1, 2, 3, 6, 8, 7], BUS, name)
    assert shape(changed) == (SIGNAL, "l", 1, [1, 2, 3, 7, 8], BUS, None)
    assert [answer.serial, acquired.serial] == [1, 2]
    refusal = client.reply(
        client.call(BUS, "GetNameOwner", "s", "no.such", path=BUS_PATH, interface=BUS)
    )
    assert shape(refusal) == (ERROR, "l", 1, [6, 4, 5, 8, 7], BUS, name)
    assert refusal.error_name == FAULT + "NameHasNoOwner"
    assert len(refusal.args) == 1


def test_what_the_bus_says_is_numbered_for_each_client(bus: Bus) -> None:
    client, other = bus.connect(), bus.connect()
    client.sync()
    serials = []
    for _ in range(3):
        other.sync()
        serial = client.send(CALL, to=BUS, path=BUS_PATH, interface=BUS, member="GetId")
        serials.append(client.reply(serial).serial)
    assert serials == [4, 5, 6], "1 to 3: Hello, NameAcquired, GetId"
