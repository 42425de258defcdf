"""Clients that come while the bus waits: served without Python, known to it whenever it runs."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import bus1_services
import pytest
from bus1_bridge.private import ThreadedBus
from bus1_bridge.sasl import COOKIE, AuthRules
from bus1_bridge.switch import express
from bus1_bridge.switch.api import Closed, Shutdown
from bus1_bridge.switch.loop import PythonSwitch
from bus1_bridge.switch.router import Router
from bus1_bridge.switch.tables import LegacyParty
from dbus_client import BUS, CALL, PATIENCE, Client, Wire
from test_sasl_mechanisms import CHALLENGE, Cookies
from test_shortages import Clock
from test_window import Crank
from twin_strangers import WORDS

from bus1 import acceleration

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
STATISTICS = f"{BUS}.Debug.Stats"


class Calls(Counter[str]):
    """How often what was called."""

    def __init__(self) -> None:
        self.is_met = threading.Event()


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """How often Python has accepted a client, met one that had come, and seen one off."""
    done = Calls()

    def count(owner: type, name: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        def counted(*args: Any, **more: Any) -> Any:
            done[name] += 1
            if name == "meet":
                done.is_met.set()
            return original(*args, **more)

        monkeypatch.setattr(owner, name, counted)

    count(PythonSwitch, "accept")
    count(Router, "meet")
    count(Router, "disconnect")
    return done


@pytest.fixture
def path(tmp_path: Path, python: Calls) -> Iterator[str]:
    before = os.listdir("/proc/self/fd")
    bus = ThreadedBus(str(tmp_path))
    yield str(tmp_path / "bus")
    bus.close()
    assert not bus.log
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.fixture
def first(path: str) -> Iterator[Client]:
    """A client that the bus has got to know its user by, and which hears of names."""
    with Client(path) as first:
        first.match(f"type='signal',sender='{BUS}',member='NameOwnerChanged'")
        yield first


def next_change(first: Client) -> list[Any]:
    while (got := first.receive()).member != "NameOwnerChanged":
        pass
    return got.args


def names(first: Client) -> list[str]:
    """The unique names of all others."""
    return [name for name in first.ask("ListNames")[0] if name not in (BUS, first.name)]


def test_who_comes_and_leaves_costs_python_nothing(path: str, first: Client, python: Calls) -> None:
    for n in range(1, 30):
        with Client(path) as guest:
            assert guest.name == f":1.{n}"
            assert guest.ask("GetId") == first.ask("GetId")
            assert next_change(first) == [guest.name, "", guest.name]
        assert next_change(first) == [guest.name, guest.name, ""]
    assert python == {"accept": 1}
    assert names(first) == []
    with Client(path) as guest:
        assert guest.name == ":1.30"
    statistics = first.ask("GetStats", interface=STATISTICS)[0]
    assert statistics["PeakBusNames"][1] == 2


def test_python_knows_who_is_there_whenever_it_is_asked(
    path: str, first: Client, python: Calls
) -> None:
    with Client(path) as one, Client(path) as two, Wire(path) as silent:
        assert python == {"accept": 1}
        assert names(first) == [one.name, two.name]
        assert python["meet"] <= 1, "the silent one may have been there when the wait was over"
        before = python["meet"]
        assert first.ask("ListQueuedOwners", "s", two.name) == [[two.name]]
        assert python == {"accept": 1, "meet": before + 1}
        assert first.ask("GetConnectionUnixProcessID", "s", two.name) == [os.getpid()]
        assert python["meet"] == before + 1
        # they go on where they were
        assert one.own("t.Name") == 1
        asked = two.call("t.Name", "M", "s", "hello")
        while (got := one.receive()).type != CALL:
            pass
        one.answer(got, "s", "there")
        assert two.reply(asked).args == ["there"]
        silent.write(b"\0")
        assert silent.say("AUTH EXTERNAL").startswith("DATA")
    assert python["accept"] == 1


def test_who_authenticates_line_by_line_is_a_guest_until_it_says_something_unusual(
    path: str, first: Client, python: Calls
) -> None:
    uid = WORDS["{uid}"]
    with Wire(path) as wire:
        wire.write(b"\0")
        assert wire.say("AUTH").startswith("REJECTED EXTERNAL")
        assert wire.say("AUTH EXTERNAL") == "DATA"
        assert (welcome := wire.say(f"DATA {uid}")).startswith("OK ")
        assert wire.say("NEGOTIATE_UNIX_FD") == "AGREE_UNIX_FD"
        assert python["accept"] == 1
        # Python goes on in the middle of the conversation
        assert wire.say("AUTH") == 'ERROR "Sent AUTH while expecting BEGIN"'
        assert python["meet"] == 1
        assert wire.say("CANCEL").startswith("REJECTED")
        assert wire.say(f"AUTH EXTERNAL {uid}") == welcome
        wire.write(b"BEGIN\r\n" + WORDS["{hello}"].encode("latin-1"))
        assert next_change(first) == [":1.1", "", ":1.1"]
    assert next_change(first) == [":1.1", ":1.1", ""]


def test_a_user_of_very_many_groups_is_let_in_by_python(
    path: str, python: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(express, "_GROUPS_MAX", len(os.getgroups()) - 1)
    for _ in range(2):
        Client(path).close()
    assert python["accept"] == 2


def test_who_takes_its_time_becomes_known(path: str, first: Client, python: Calls) -> None:
    with Wire(path) as wire:
        wire.write(b"\0")
        assert python.is_met.wait(PATIENCE)
        assert wire.say("AUTH EXTERNAL") == "DATA"


def test_whatever_a_client_has_said_when_it_leaves_nothing_of_it_remains(path: str, first: Client) -> None:
    said = "\0AUTH EXTERNAL\r\nDATA\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n{hello}{id}"
    for word, text in WORDS.items():
        said = said.replace(word, text)
    for n in range(len(said) + 1):
        stranger = socket.socket(socket.AF_UNIX)
        stranger.connect(path)
        stranger.send(said[:n].encode("latin-1"))
        stranger.close()
    while names(first):
        pass
    statistics = first.ask("GetStats", interface=STATISTICS)[0]
    assert statistics["IncompleteConnections"][1] == 0


def test_a_crowd_gets_its_names_while_others_are_served(path: str, first: Client, python: Calls) -> None:
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    greeting = f"\0AUTH EXTERNAL {WORDS['{uid}']}\r\nBEGIN\r\n{WORDS['{hello}']}".encode("latin-1")
    for each in crowd:
        each.connect(path)
        each.send(greeting)
    changes = [next_change(first)[0] for _ in crowd]
    assert changes == [f":1.{n + 1}" for n in range(len(crowd))]
    assert names(first) == changes
    assert first.own("t.Name") == 1
    assert next_change(first) == ["t.Name", "", first.name]
    assert first.ask("NameHasOwner", "s", ":1.1000") == [False]
    assert python == {"accept": 1}
    for each in crowd:
        each.close()
    gone = {next_change(first)[0] for _ in crowd}
    assert gone == set(changes)


def test_time_begins_for_a_client_when_it_comes(tmp_path: Path) -> None:
    clock = Clock()
    crank = Crank(tmp_path, clock)
    timeout = crank.switch.router.limits.auth_timeout
    returned = crank.switch.reactor.returned

    def late() -> None:
        clock.now += 2 * timeout
        returned()

    for _ in range(2):  # the first is a stranger, the second a guest
        with Wire(crank.path) as wire:
            wire.write(f"\0AUTH EXTERNAL {WORDS['{uid}']}\r\nBEGIN\r\n".encode())
            crank.switch.reactor.returned = late
            assert not crank.switch.poll(clock.now)
            crank.switch.reactor.returned = returned
            clock.now += timeout - 1
            assert not crank.switch.poll(clock.now)
            wire.write(WORDS["{hello}"].encode("latin-1"))
            crank.turn_until(lambda: bool(crank.switch.router.tables.unique))
            clock.now += 2
            assert not crank.switch.poll(clock.now)
        crank.turn_until(lambda: not crank.switch.router.tables.unique)
    with Wire(crank.path):
        assert not crank.switch.poll(clock.now)
        clock.now += timeout + 1
        assert any(isinstance(punt, Closed) for punt in crank.switch.poll(clock.now))
    crank.switch.apply([Shutdown()])


def test_descriptors_of_a_guest_that_nobody_looks_at_any_more_are_closed(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    crank = Crank(tmp_path)
    with crank.during(lambda: Client(crank.path)), Wire(crank.path) as wire, open(os.devnull) as null:
        wire.write(b"\0AUTH EXTERNAL\r\n", [null.fileno()])
        express, reception = crank.switch.express, crank.switch._reception
        assert express is not None and reception is not None
        express.before_wait()
        reception.before_wait()
        crank.switch.reactor.run_once(0.0)
        assert [e for e in crank.switch._endpoints.values() if e.brought]
        crank.switch.apply([Shutdown()])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_native_peer_that_watches_names_hears_of_everybody(path: str, first: Client) -> None:
    async def follow() -> list[str]:
        async with (
            bus1_services.connect(f"{path}1") as connection, connection.registry.watch() as changes
        ):
            with Client(path) as one, Client(path) as two:
                heard = [(await anext(changes)).name for _ in range(2)]
                assert heard == [one.name, two.name]
            return heard + [(await anext(changes)).name for _ in range(2)]

    heard = anyio.run(follow)
    assert set(heard[:2]) == set(heard[2:])


def test_who_asks_about_a_native_owner_hears_of_it(path: str, first: Client) -> None:
    async def own() -> None:
        async with bus1_services.connect(f"{path}1") as connection:
            published = await connection.registry.publish("Native", {"t.Native": 0}, {})
            for name in ("t.Native", published.unique):
                assert first.ask("NameHasOwner", "s", name) == [True]
                assert first.ask("GetNameOwner", "s", name) == [published.unique]
                assert first.ask("GetConnectionUnixProcessID", "s", name) == [os.getpid()]
        while next_change(first) != ["t.Native", published.unique, ""]:
            pass
        assert first.ask("NameHasOwner", "s", "t.Native") == [False]

    anyio.run(own)


def test_nobody_is_let_in_by_a_mechanism_that_the_bus_does_not_have(tmp_path: Path) -> None:
    crank = Crank(tmp_path, auth=AuthRules((COOKIE,), keyring=Cookies()))
    uid, digest = WORDS["{uid}"], hashlib.sha1(CHALLENGE + b":c:" + b"c0" * 24).hexdigest()

    def first() -> str:
        with Wire(crank.path) as wire:
            wire.write(b"\0")
            assert wire.say(f"AUTH DBUS_COOKIE_SHA1 {uid}").startswith("DATA ")
            welcome = wire.say(f"DATA {f'c {digest}'.encode().hex()}")
            wire.write(b"BEGIN\r\n" + WORDS["{hello}"].encode("latin-1"))
            assert wire.take(1) == b"l"
            return welcome

    def second() -> str:
        with Wire(crank.path) as wire:
            wire.write(b"\0")
            return wire.say(f"AUTH EXTERNAL {uid}")

    assert crank.during(first).startswith("OK ")
    assert crank.during(second) == "REJECTED DBUS_COOKIE_SHA1"
    crank.switch.apply([Shutdown()])


def test_who_waits_for_a_guest_that_leaves_is_told(path: str, first: Client, python: Calls) -> None:
    with Client(path) as guest:
        asked = first.call(guest.name, "M")
        while guest.receive().type != CALL:
            pass
        guest.call(first.name, "M")
        while first.receive().type != CALL:
            pass
        assert python == {"accept": 1}
    assert first.reply(asked).error_name == "org.freedesktop.DBus.Error.NoReply"
    (statistics,) = first.ask("GetConnectionStats", "s", first.name, interface=STATISTICS)
    assert statistics["org.bus1.DBus.Debug.Stats.AwaitedReplies"][1] == 0


def test_calls_and_rules_of_others_go_with_a_guest(path: str, first: Client, python: Calls) -> None:
    first.match("type='signal',sender=':1.1'")
    with Client(path) as guest:
        assert guest.name == ":1.1"
        guest.call(first.name, "M")
        while first.receive().type != CALL:
            pass
    assert next_change(first) == [guest.name, guest.name, ""]
    assert python == {"accept": 1}
    (statistics,) = first.ask("GetConnectionStats", "s", first.name, interface=STATISTICS)
    assert statistics["MatchRules"][1] == 1
    assert statistics["org.bus1.DBus.Debug.Stats.AwaitedReplies"][1] == 0


@pytest.mark.parametrize("asks", [0, 3])
def test_the_bus_numbers_its_messages_on_to_a_guest_that_it_cannot_answer(
    tmp_path: Path, python: Calls, asks: int
) -> None:
    """Python accepts the first, the lane the second: the bus has said as much to both."""
    said = f"\0AUTH EXTERNAL {WORDS['{uid}']}\r\nBEGIN\r\n{WORDS['{hello}']}{WORDS['{id}'] * asks}"
    crank = Crank(tmp_path)
    unique = crank.switch.router.tables.unique

    def deaf(name: str) -> int:
        """The bus's number for its next message to such a client."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(crank.path)
            # whatever is written to it fails
            sock.shutdown(socket.SHUT_RD)
            sock.send(said.encode("latin-1"))
            crank.turn_until(lambda: name in unique)
            crank.turn()
            crank.turn()
            party = unique[name]
            assert isinstance(party, LegacyParty)
            return party.next_serial

    first = deaf(":1.0")
    with crank.during(lambda: Client(crank.path)):
        python.clear()
        second = deaf(":1.2")
        assert (python["accept"], python["meet"]) == (0, 1)
    assert (first, second) == (3 + asks, 3 + asks)
    crank.switch.apply([Shutdown()])


def test_rules_of_a_guest_count_and_go_with_it(path: str, first: Client, python: Calls) -> None:
    with Client(path) as guest:
        for rule in ("type='signal'", "interface='t.I'", "interface='t.I'", "sender=':1.0',arg0='x'"):
            guest.match(rule)
        guest.ask("RemoveMatch", "s", "interface='t.I'")
        first.emit("S", interface="t.I")
        while guest.receive().member != "S":
            pass
        assert next_change(first) == [guest.name, "", guest.name]
    assert next_change(first) == [guest.name, guest.name, ""]
    assert python == {"accept": 1}
    statistics = first.ask("GetStats", interface=STATISTICS)[0]
    assert statistics["MatchRules"][1] == 1
    with Client(path) as guest:
        guest.match("type='signal'")
        (rules,) = first.ask("GetAllMatchRules", interface=STATISTICS)
        assert rules[guest.name] == ["type='signal'"]
        first.own("t.Name")
        while guest.receive().member != "NameOwnerChanged":
            pass


def test_a_guest_that_ends_what_it_says_does_not_hear_of_its_own_end(
    path: str, first: Client, python: Calls
) -> None:
    with Client(path) as guest:
        guest.match("type='signal'")
        guest.socket.shutdown(socket.SHUT_WR)
        assert guest.socket.recv(1 << 16) == b""
    for new in (guest.name, ""):
        assert next_change(first)[2] == new
    assert python == {"accept": 1}
