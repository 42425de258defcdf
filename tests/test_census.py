"""Clients that nobody in Python has asked for: everybody finds them as if they were known.

Theory. A guest comes with one write, so that a single wait of the bus lets it in and gives it its name.
``known`` is whom Python has met.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.names import Change
from bus1_bridge.switch import reception
from bus1_bridge.switch.api import Closed, Configure, Shutdown
from bus1_bridge.switch.endpoint import Endpoint
from bus1_bridge.switch.flow import Flow
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.loop import PythonSwitch
from bus1_bridge.switch.router import Router
from dbus_client import BUS, BUS_PATH, CALL, ERROR, FAULT, Client, Message, Wire
from policy_texts import policy_of
from test_window import Crank
from twin_strangers import WORDS

from bus1 import acceleration

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
GREETING = (
    f"\0AUTH EXTERNAL {WORDS['{uid}']}\r\nNEGOTIATE_UNIX_FD\r\nBEGIN\r\n{WORDS['{hello}']}".encode("latin-1")
)
STATISTICS = f"{BUS}.Debug.Stats"
NO_MEMORY = "there is no memory for what it wants"
OPEN = '<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>'


class Guest(Client):
    """One that says all in one go."""

    def __init__(self, crank: Crank) -> None:
        Wire.__init__(self, crank.path)
        self.serial, self.inbox = 1, []
        self.write(GREETING)
        crank.turn()
        self.guid = self.line()[3:]
        assert self.line() == "AGREE_UNIX_FD"
        self.name = str(self.reply(1).args[0])
        assert self.receive().what == ("NameAcquired", self.name)


class Scene:
    """A bus that knows one client, and whom of its guests it has met."""

    def __init__(self, folder: Path, limits: BusLimits | None = None) -> None:
        self.crank = Crank(folder, limits=limits)
        self.router = self.crank.switch.router
        self.cleanup = ExitStack()
        self.first: Client = self.cleanup.enter_context(self.during(lambda: Client(self.crank.path)))

    def guest(self) -> Guest:
        """One more."""
        return self.cleanup.enter_context(Guest(self.crank))

    def during(self, action: Callable[[], Any]) -> Any:
        """The bus runs while a client does something."""
        return self.crank.during(action)

    @property
    def known(self) -> list[str]:
        """The unique names of those whom Python has met."""
        return [party.unique for party in dict.values(self.router.tables.unique)]

    def next(self, client: Client, member: str) -> Message:
        """The next message of this kind that a client gets."""

        def look() -> Message:
            while (got := client.receive()).member != member:
                pass
            return got

        found: Message = self.during(look)
        return found


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    before = len(os.listdir("/proc/self/fd"))
    scene = Scene(tmp_path)
    yield scene
    scene.cleanup.close()
    scene.crank.switch.apply([Shutdown()])
    assert len(os.listdir("/proc/self/fd")) == before


def test_who_is_looked_up_is_met_and_nobody_else(scene: Scene) -> None:
    guests = [scene.guest() for _ in range(4)]
    names = [guest.name for guest in guests]
    tables = scene.router.tables
    assert scene.known == [":1.0"] and len(tables.unique) == 5 and not tables.unique.get(":1.9")
    assert tables.unique_names() == [":1.0", *names]
    assert tables.n_named_of(os.getuid()) == 5 and tables.n_named_of(os.getuid() + 1) == 0
    assert scene.known == [":1.0"]
    assert scene.during(lambda: scene.first.ask("ListQueuedOwners", "s", names[2])) == [[names[2]]]
    assert scene.known == [":1.0", names[2]]
    peer = tables.unique[names[2]].peer
    assert tables.parties[peer + 1].unique == names[3] and peer + 2 not in tables.parties
    assert scene.known == [":1.0", names[2], names[3]]
    assert {party.unique for party in tables.parties.values()} == {":1.0", *names}
    assert set(scene.known) == {":1.0", *names} == set(tables.unique)
    assert scene.during(lambda: [guest.ask("GetId") for guest in guests]) == [["1" * 32]] * 4


def test_what_a_guest_says_that_python_has_to_decide_makes_it_known(scene: Scene) -> None:
    one, two = scene.guest(), scene.guest()
    assert scene.during(lambda: one.own("t.Name")) == 1
    assert scene.known == [":1.0", one.name]
    serial = two.call("t.Name", "M", "s", "hello")
    call = scene.next(one, "M")
    one.answer(call, "s", "there")
    assert scene.during(lambda: two.reply(serial)).args == ["there"]
    assert scene.known == [":1.0", one.name]
    two.close()
    scene.crank.turn_until(lambda: len(scene.router.tables.unique) == 2)
    assert scene.known == [":1.0", one.name]


@pytest.mark.parametrize("limit", ["max_completed_connections", "max_connections_per_user"])
def test_guests_count_for_the_limits(tmp_path: Path, limit: str) -> None:
    most: dict[str, Any] = {limit: 3}
    scene = Scene(tmp_path, BusLimits(**most))
    with scene.cleanup:
        leaver = scene.guest()
        scene.guest()

        def refused() -> list[Any]:
            with Client(scene.crank.path, hello=False) as late:
                answer = late.reply(late.call(BUS, "Hello", path="/org/freedesktop/DBus", interface=BUS))
                assert answer.type == ERROR
                return answer.args

        assert f"{limit}=3, in use: 3" in scene.during(refused)[0]
        assert scene.known == [":1.0"]
        leaver.close()
        scene.crank.turn_until(lambda: len(scene.router.tables.unique) == 2)
        assert scene.guest().name == ":1.3"
    scene.crank.switch.apply([Shutdown()])


def test_rights_of_guests_change_with_those_of_all(scene: Scene) -> None:
    guest = scene.guest()
    assert scene.known == [":1.0"]
    policy = policy_of(OPEN, '<deny send_interface="x.Y" send_type="method_call"/>')
    scene.crank.switch.apply([Configure(scene.router.limits, policy)])
    answer = scene.during(lambda: guest.reply(guest.call(scene.first.name, "M")))
    assert answer.error_name == f"{FAULT}AccessDenied"
    scene.crank.switch.apply([Configure(scene.router.limits, policy_of(OPEN))])
    guest.call(scene.first.name, "M")
    assert scene.next(scene.first, "M").sender == guest.name


def test_who_is_there_stays_when_nobody_else_may_come(scene: Scene) -> None:
    guest = scene.guest()
    policy = policy_of(OPEN, '<deny user="*"/>')
    scene.crank.switch.apply([Configure(scene.router.limits, policy)])
    assert scene.during(lambda: guest.own("t.Name")) == 1


def test_a_monitor_sees_what_guests_say_and_that_they_go(scene: Scene) -> None:
    guest, monitor = scene.guest(), scene.guest()
    scene.during(lambda: monitor.ask(
        "BecomeMonitor", "asu", [], 0, interface=f"{BUS}.Monitoring", path="/org/freedesktop/DBus"
    ))
    guest.emit("Rang")
    assert scene.next(monitor, "Rang").sender == guest.name
    other = scene.during(lambda: Client(scene.crank.path))
    guest.close()
    while scene.next(monitor, "NameOwnerChanged").args != [guest.name, guest.name, ""]:
        pass
    other.close()


def test_who_watches_names_hears_of_guests_that_go(scene: Scene) -> None:
    guest, other = scene.guest(), scene.guest()
    heard: list[str] = []

    class Watchers:
        def names_changed(self, changes: Sequence[Change]) -> None:
            heard.extend(change.name for change in changes)

    scene.router.delivery.watchers = Watchers()
    other.close()
    scene.crank.turn_until(lambda: len(scene.router.tables.unique) == 2)
    assert not heard, "nobody watches"
    scene.router.tables.watchers[99] = ""
    guest.close()
    scene.crank.turn_until(lambda: heard == [guest.name])
    del scene.router.tables.watchers[99]


def test_statistics_count_guests(scene: Scene) -> None:
    guests = [scene.guest() for _ in range(3)]
    tally = scene.router.tables.names.tally
    assert (tally.total, tally.peak, tally.owner_peak) == (4, 4, 1)
    scene.during(lambda: scene.first.own("t.Name"))
    scene.during(lambda: scene.first.ask("ReleaseName", "s", "t.Name"))
    assert (tally.total, tally.peak, tally.owner_peak) == (4, 5, 2)
    guests.pop().close()
    scene.crank.turn_until(lambda: tally.total == 3)
    assert scene.known == [":1.0"]
    (found,) = scene.during(lambda: scene.first.ask("GetStats", interface=STATISTICS))
    assert [found[key][1] for key in ("ActiveConnections", "BusNames", "PeakBusNames")] == [3, 3, 5]
    accounts = found["org.bus1.DBus.Debug.Stats.PeerAccounting"][1]
    assert [account[0] for account in accounts] == [":1.0", *(guest.name for guest in guests)]
    assert len(scene.known) == 3 and (tally.total, tally.peak) == (3, 5)


def test_it_is_known_since_when_the_queue_of_a_guest_stands_still(scene: Scene) -> None:
    guest, flow = scene.guest(), scene.router.delivery.flow
    for _ in range(40):
        scene.first.emit("Rang", "ay", bytes(64 << 10), to=guest.name)
        scene.crank.turn()
    assert scene.known == [":1.0"] and len(flow._readers) == 1, "of whom nobody here knows nothing is kept"
    peer = scene.crank.number(guest.name)
    assert scene.router.tables.core.waiting(peer).messages
    assert 0 < flow._readers[peer].moved <= scene.router.delivery.now
    assert scene.during(lambda: [guest.receive().member for _ in range(40)]) == ["Rang"] * 40


def test_a_guest_that_hangs_up_while_something_waits_for_it_leaves_nothing(scene: Scene) -> None:
    guest = scene.guest()
    with open(os.devnull) as null:
        for _ in range(40):
            scene.first.emit("Rang", "ay", bytes(64 << 10), to=guest.name)
            scene.crank.turn()
        serial = scene.first.call(guest.name, "M", "h", 0, fds=[null.fileno()])
    guest.close()
    assert scene.during(lambda: scene.first.reply(serial)).type == ERROR
    assert scene.known == [":1.0"] and len(scene.router.tables.unique) == 1


def test_the_end_of_the_bus_is_the_end_of_its_guests(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    scene = Scene(tmp_path)
    guests = [scene.guest() for _ in range(3)]
    scene.first.emit("Rang", to=guests[0].name)
    scene.crank.switch.apply([Shutdown()])
    for guest in guests:
        guest.rest()
    scene.cleanup.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_calls_of_a_guest_are_told_of_one_that_leaves(scene: Scene) -> None:
    caller, callee = scene.guest(), scene.guest()
    serial = caller.call(callee.name, "M")
    assert scene.next(callee, "M").type == CALL
    assert scene.known == [":1.0"]
    callee.close()
    assert scene.during(lambda: caller.reply(serial)).error_name == f"{FAULT}NoReply"


STEPS = [
    (Router, "_enter"), (Router, "_admit"), (reception, "Endpoint"), (PythonSwitch, "enter"), (Flow, "meet"),
    (Endpoint, "stays_in"),
]


@pytest.mark.parametrize("step", STEPS)
def test_a_guest_that_cannot_be_met_ends_and_nobody_else(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    guests = [scene.guest() for _ in range(2)]
    scene.during(lambda: scene.first.match(f"type='signal',sender='{BUS}',member='NameOwnerChanged'"))
    original, lacks = getattr(*step), True

    def failing(*args: Any, **more: Any) -> Any:
        if lacks:
            raise MemoryError
        return original(*args, **more)

    monkeypatch.setattr(*step, failing)
    guests[0].call(BUS, "ListQueuedOwners", "s", "t.Name", path=BUS_PATH, interface=BUS)
    punts = scene.crank.switch.poll(scene.crank._clock() + 1)
    assert [punt.reason for punt in punts if isinstance(punt, Closed)] == [NO_MEMORY]
    lacks = False
    scene.crank.turn_until(lambda: len(scene.router.tables.unique) == 2)
    assert scene.next(scene.first, "NameOwnerChanged").args == [guests[0].name, guests[0].name, ""]
    assert scene.during(lambda: guests[1].own("t.Name")) == 1
    assert set(scene.known) == {":1.0", guests[1].name}
    assert scene.router.tables.names.tally.total == 3


@pytest.mark.parametrize("n_fails", [1, 2, 3])
def test_memory_that_is_lacking_for_a_while_keeps_no_guest_for_ever(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, n_fails: int
) -> None:
    guest = scene.guest()
    original, tries = Router._enter, 0

    def failing(*args: Any, **more: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries <= n_fails:
            raise MemoryError
        return original(*args, **more)

    monkeypatch.setattr(Router, "_enter", failing)
    guest.call(BUS, "ListQueuedOwners", "s", "t.Name", path=BUS_PATH, interface=BUS)
    told: list[str] = []
    for _ in range(n_fails + 4):
        punts = scene.crank.switch.poll(scene.crank._clock())
        told += [punt.reason for punt in punts if isinstance(punt, Closed)]
    assert told == [NO_MEMORY] and len(scene.router.tables.unique) == 1
    assert guest.rest() == b""


def test_who_makes_the_bus_look_for_a_guest_does_not_pay_for_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower = scene.guest()
    scene.during(lambda: follower.match(f"type='signal',sender='{BUS}',member='NameOwnerChanged'"))

    def failing(*args: Any, **more: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(reception, "Endpoint", failing)
        assert scene.during(lambda: scene.first.own("t.Name")) == 1
        assert follower.rest() == b""
    scene.crank.turn_until(lambda: len(scene.router.tables.unique) == 1)
    assert scene.during(lambda: scene.first.ask("GetNameOwner", "s", "t.Name")) == [":1.0"]


def test_a_bus_ends_although_guests_cannot_be_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    scene = Scene(tmp_path)
    guest = scene.guest()

    def failing(*args: Any, **more: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(reception, "Endpoint", failing)
    scene.crank.switch.apply([Shutdown()])
    assert guest.rest() == b""
    scene.cleanup.close()
    del scene
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("step", [step for step in STEPS if step[1] not in ("_admit", "stays_in")])
def test_one_without_a_name_that_cannot_be_met_is_gone(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: tuple[Any, str]
) -> None:
    def failing(*args: Any, **more: Any) -> Any:
        raise MemoryError

    with Wire(scene.crank.path) as wire, open(os.devnull) as null, monkeypatch.context() as patch:
        wire.write(b"\0AUTH EXTERNAL\r\n", [null.fileno()])
        patch.setattr(*step, failing)
        punts = scene.crank.switch.poll(scene.crank._clock())
        assert [punt.reason for punt in punts if isinstance(punt, Closed)] == [NO_MEMORY]
        assert wire.rest() == b""
    assert not scene.router.incomplete and len(scene.router.tables.parties) == 1


def test_what_python_tells_by_rules_reaches_the_guests_that_have_them(scene: Scene) -> None:
    one, two = scene.guest(), scene.guest()
    for guest, name in ((one, "t.Name"), (two, "t.Other")):
        rule = f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{name}'"
        scene.during(partial(guest.match, rule))
    assert scene.known == [":1.0"] and scene.router.tables.matches.tally.total == 2
    scene.during(lambda: scene.first.own("t.Name"))
    assert scene.next(one, "NameOwnerChanged").args == ["t.Name", "", ":1.0"]
    assert scene.known == [":1.0", one.name]
    two.close()
    scene.crank.turn_until(lambda: len(scene.router.tables.unique) == 2)
    assert scene.router.tables.matches.tally.total == 1
