"""While somebody doesn't read, Core's snapshot shows what waits for it: nothing routes beside Core.

The Switch is the one that the daemon runs, on real sockets; the test turns its crank, so that it can look
at Core in between.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bus1_bridge.daemon import new_tables
from bus1_bridge.gateway import Gateway
from bus1_bridge.sasl import EXTERNAL_ONLY, AuthRules
from bus1_bridge.switch.api import Listen, Shutdown
from bus1_bridge.switch.delivery import Delivery
from bus1_bridge.switch.limits import BusLimits
from bus1_bridge.switch.loop import PythonSwitch
from bus1_bridge.switch.router import Router
from core_bus import Core
from dbus_client import BUS, BUS_PATH, PATIENCE, Client

from bus1.descriptors import refuse_unix_sockets
from bus1.peer import Peer

CALLS, SIZE = 40, 64 << 10


class Crank:
    """A bus that lives only while it is turned."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.monotonic, limits: BusLimits | None = None,
        auth: AuthRules = EXTERNAL_ONLY,
    ) -> None:
        self.path = str(folder / "bus")
        limits = limits or BusLimits()
        tables = new_tables(Core(), limits, guid="0" * 32, bus_id="1" * 32)
        tables.auth = auth
        delivery = Delivery(tables, limits)
        gateway = Gateway(delivery, refuse_unix_sockets)
        self.switch = PythonSwitch(Router(delivery, gateway), gateway, clock)
        self._clock = clock
        for path, native in ((self.path, False), (self.path + "1", True)):
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path)
            listening.listen()
            self.switch.apply([Listen(listening.detach(), native)])

    def turn(self) -> None:
        """One turn of the bus."""
        self.switch.poll(self._clock() + 0.01)

    def during(self, action: Callable[[], Any]) -> Any:
        """Do something as a client, with the bus running until it is done."""
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(action)
            deadline = time.monotonic() + PATIENCE
            while not future.done():
                assert time.monotonic() < deadline
                self.turn()
            return future.result()

    def turn_until(self, claim: Callable[[], bool]) -> None:
        """Run the bus until something holds."""
        deadline = time.monotonic() + PATIENCE
        while not claim():
            assert time.monotonic() < deadline
            self.turn()

    def peer(self, number: int) -> dict[str, Any]:
        """One peer in Core's snapshot."""
        found: dict[str, Any] = self.switch.router.tables.core.snapshot()["peers"][number]
        return found

    def number(self, unique: str) -> int:
        """The Core peer of a unique name."""
        return self.switch.router.tables.unique[unique].peer


@pytest.fixture
def crank(tmp_path: Path) -> Iterator[Crank]:
    before = threading.active_count()
    crank = Crank(tmp_path)
    yield crank
    crank.switch.apply([Shutdown()])
    assert threading.active_count() == before, "the daemon starts no threads"


def test_a_callee_that_does_not_read_has_its_calls_and_charges_in_core(crank: Crank) -> None:
    callee = crank.during(lambda: Client(crank.path))
    caller = crank.during(lambda: Client(crank.path))
    reader, sender = crank.number(callee.name), crank.number(caller.name)
    before = crank.peer(reader)["account"]["used"]

    def flood() -> None:
        for _ in range(CALLS):
            caller.call(callee.name, "Work", "ay", bytes(SIZE))
        caller.sync()

    crank.during(flood)
    waiting = crank.peer(reader)
    queue = waiting["queue"]
    assert 0 < len(queue) < CALLS, "some are in the socket, the others in Core"
    assert all(entry["sender"] == sender and entry["n_bytes"] > SIZE for entry in queue)
    used = waiting["account"]["used"]
    assert used["bytes"] - before["bytes"] == sum(entry["charged"] for entry in queue) > len(queue) * SIZE
    assert used["slices"] - before["slices"] == len(queue)
    assert waiting["account"]["queued"][sender][1] == len(queue)

    got = crank.during(lambda: [callee.receive() for _ in range(CALLS)])
    assert [call.serial for call in got] == sorted(call.serial for call in got)
    crank.turn_until(lambda: not crank.peer(reader)["queue"])
    assert crank.peer(reader)["account"]["used"] == before
    callee.close()
    caller.close()


def test_charges_return_when_the_callee_dies_without_reading(crank: Crank) -> None:
    with crank.during(lambda: Peer.connect(crank.path + "1")):
        callee = crank.during(lambda: Client(crank.path))
        caller = crank.during(lambda: Client(crank.path))
        core = crank.switch.router.tables.core
        name = callee.name

        def flood() -> None:
            for _ in range(CALLS):
                caller.call(name, "Work", "ay", bytes(SIZE))
            caller.sync()

        users = core.snapshot()["users"]
        crank.during(flood)
        assert core.snapshot()["users"] != users
        callee.close()
        crank.turn_until(lambda: name not in crank.switch.router.tables.unique)
        answers = crank.during(lambda: [caller.receive() for _ in range(CALLS)])
        assert {answer.error_name for answer in answers} == {"org.freedesktop.DBus.Error.NoReply"}
        caller.close()
        crank.turn_until(lambda: len(core.snapshot()["peers"]) == 2)



def test_a_sender_whose_broadcasts_are_dropped_is_read_when_others_are_idle(tmp_path: Path) -> None:
    """docs/design.md §7; the clock stands still unless the test moves it."""
    now = [1000.0]
    crank = Crank(tmp_path, lambda: now[0])
    stuck, waster, other = (crank.during(lambda: Client(crank.path)) for _ in range(3))
    crank.during(lambda: stuck.match("member='Flood'"))
    flow = crank.switch.router.delivery.flow
    numbers = {client: crank.number(client.name) for client in (waster, other)}

    def flood() -> None:
        waster.emit("Flood", "ay", bytes(1 << 20))
        waster.sync()

    while not flow.comes_last(numbers[waster], now[0]):
        now[0] += 0.05
        crank.during(flood)
    serials = {}
    for client in (waster, other):
        serials[client] = client.call(BUS, "ListNames", path=BUS_PATH, interface=BUS)
    crank.turn()
    assert answered(other) and not answered(waster), "one turn: the others come first"
    crank.turn()
    assert answered(waster), "nobody else had anything"
    for client in (waster, other):
        assert client.reply(serials[client]).serial
    now[0] += 0.2
    assert not flow.comes_last(numbers[waster], now[0]), "it is forgiven after a while"
    for client in (stuck, waster, other):
        client.close()
    crank.switch.apply([Shutdown()])


def answered(client: Client) -> bool:
    """Something for the client is in its socket."""
    return bool(select.select([client.socket], [], [], 0)[0])
