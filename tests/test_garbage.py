"""The garbage collector has nothing to do in a running bus: it would stop it while clients wait."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

import pytest
from daemons import Daemon, path_of
from dbus_client import BUS, Client, marshal

WATCHED = """
import gc, json, sys
from collections import Counter
from bus1_bridge import daemon
from bus1_bridge.cli import main

def run(self, run=daemon.Daemon.run, report=sys.argv[1]):
    gc.collect()
    gc.disable()
    run(self)
    n_frozen = gc.get_freeze_count()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    garbage = Counter(type(each).__qualname__ for each in gc.garbage)
    with open(report, "w") as file:
        json.dump([n_frozen, garbage], file)

daemon.Daemon.run = run
sys.exit(main(sys.argv[3:]))
"""
"""The bus, which in the end writes into a file how much was frozen, and what was garbage."""
MANY = 10
"""Times; what happens once may leave what a cache keeps."""


def left(bridge: Daemon, deed: Callable[[Client, str], None]) -> tuple[int, dict[str, int]]:
    """What a bus has frozen, and what is garbage after clients have done this."""
    report = bridge.folder / "report"
    process, address = bridge.serve(
        f"--config-file={bridge.configure()}", program=[sys.executable, "-c", WATCHED, str(report)]
    )
    path = path_of(address)
    with Client(path) as friend:
        for _ in range(MANY):
            with Client(path) as client:
                deed(client, friend.name)
            friend.drain()
    bridge.stop(process)
    n_frozen, garbage = json.loads(report.read_text())
    return n_frozen, garbage


def talks(client: Client, friend: str) -> None:
    """What everybody does."""
    client.own("t.Name")
    client.match("type='signal'")
    client.call(friend, "M")
    client.emit("S")
    client.ask("ListNames")
    client.ask("GetConnectionCredentials", "s", friend)


def is_refused(client: Client, friend: str) -> None:
    """Errors of all kinds."""
    for name in ("bad", ":1.0"):
        client.fault("RequestName", "su", name, 0)
    client.fault("AddMatch", "s", "not a rule")
    client.fault("Nothing")
    client.fault("Hello")
    client.call("t.Nobody", "M")
    client.answer(client.reply(client.call("t.Nobody", "M")), to=friend)
    client.sync()


def talks_nonsense(client: Client, friend: str) -> None:
    """For which it is disconnected."""
    client.call(friend, "M")
    client.send(1, path="no path", member="M", to=friend)
    with pytest.raises(EOFError):
        client.sync()


def stops_in_the_middle(client: Client, friend: str) -> None:
    """Half a message."""
    client.write(b"l\1\0\1" + marshal("uu", 10, 1))


def watches(client: Client, friend: str) -> None:
    """A monitor."""
    client.ask("BecomeMonitor", "asu", [], 0, interface=f"{BUS}.Monitoring")


@pytest.mark.parametrize("deed", [talks, is_refused, talks_nonsense, stops_in_the_middle, watches])
def test_clients_leave_nothing_that_only_a_collector_would_find(
    bridge: Daemon, deed: Callable[[Client, str], None]
) -> None:
    n_frozen, garbage = left(bridge, deed)
    assert garbage == {}
    assert n_frozen > 10_000  # all that was loaded
