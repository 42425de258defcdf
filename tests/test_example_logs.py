"""The log service of the examples: many readers, native and of D-Bus, each at its own speed."""

from __future__ import annotations

import signal
import subprocess
import sys
from typing import Any

import pytest
from buses import Bus
from dbus_client import CallFailed, Client
from test_services_bus import EXAMPLES, example

LOGS = ("org.example.Logs", "/org/example/Logs", "org.example.Logs1")
STREAM = "org.bus1.Stream1"


def logs(bus: Bus, *arguments: str) -> subprocess.CompletedProcess[str]:
    return bus.run(sys.executable, str(EXAMPLES / "logs.py"), *arguments)


def append(client: Client, level: int, unit: str, text: str) -> None:
    client.request(LOGS[0], "Append", "iss", level, unit, text, path=LOGS[1], interface=LOGS[2])


def opened(client: Client, least: int, unit: str, follow: bool) -> str:
    """A stream for a D-Bus client: its path."""
    reply = client.request(LOGS[0], "Read", "isb", least, unit, follow, path=LOGS[1], interface=LOGS[2])
    (path,) = reply.args
    return str(path)


def taken(client: Client, path: str, n: int) -> tuple[list[Any], bool]:
    items, done = client.request(LOGS[0], "Next", "u", n, path=path, interface=STREAM).args
    return [value for _, value in items], done


def test_what_is_appended_is_read_and_followed(bus1_bus: Bus) -> None:
    service = example(bus1_bus, "logs.py", "serve")
    for number, (level, unit, text) in enumerate([
        ("info", "ssh", "hello"), ("error", "disk", "full"), ("debug", "ssh", "noise"),
    ]):
        assert logs(bus1_bus, "append", level, unit, text).stdout == f"{number}\n"
    assert logs(bus1_bus, "read").stdout == "0 info ssh: hello\n1 error disk: full\n2 debug ssh: noise\n"
    assert logs(bus1_bus, "read", "info", "ssh").stdout == "0 info ssh: hello\n"
    follower = bus1_bus.start(sys.executable, str(EXAMPLES / "logs.py"), "follow", "error")
    assert follower.stdout is not None
    assert follower.stdout.readline() == "1 error disk: full\n"
    logs(bus1_bus, "append", "info", "ssh", "unheard")
    logs(bus1_bus, "append", "error", "disk", "worse")
    assert follower.stdout.readline() == "4 error disk: worse\n"
    service.send_signal(signal.SIGTERM)
    assert service.wait(10) == 0
    assert follower.wait(10) == 1
    assert logs(bus1_bus, "append", "loud", "ssh", "x").stderr == "logs.py: there is no level 'loud'\n"


def test_a_reader_that_stands_still_holds_up_nobody_and_learns_what_it_missed(bus1_bus: Bus) -> None:
    """D-Bus clients pull; a generator waits in the service, and the log goes on."""
    example(bus1_bus, "logs.py", "serve")
    with bus1_bus.connect() as writer, bus1_bus.connect() as slow, bus1_bus.connect() as quick:
        append(writer, 1, "ssh", "0")
        standing, going = opened(slow, 0, "", True), opened(quick, 0, "", True)
        assert taken(slow, standing, 1) == ([(0, 1, "ssh", "0")], False)
        for number in range(1, 50):
            append(writer, 1, "ssh", str(number))
            assert taken(quick, going, 2)[0][0][3] in {str(number - 1), str(number)}
        entries, _ = taken(slow, standing, 100)
        assert [entry[3] for entry in entries] == [str(number) for number in range(1, 50)]
        ended = opened(slow, 0, "ssh", False)
        assert taken(slow, ended, 50)[1] is False
        assert taken(slow, ended, 50) == ([], True)


def test_a_stream_belongs_to_the_client_that_it_was_given_to(bus1_bus: Bus) -> None:
    example(bus1_bus, "logs.py", "serve")
    with bus1_bus.connect() as owner, bus1_bus.connect() as thief:
        append(owner, 1, "ssh", "mine")
        path = opened(owner, 0, "", False)
        with pytest.raises(CallFailed, match="UnknownObject"):
            taken(thief, path, 1)
        assert taken(owner, path, 1)[0] == [(0, 1, "ssh", "mine")]
        owner.request(LOGS[0], "Close", path=path, interface=STREAM)
        with pytest.raises(CallFailed, match="UnknownObject"):
            taken(owner, path, 1)


