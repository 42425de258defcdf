"""What the lane of D-Bus connections does with sockets that are slow, or of no use.

Theory. The bus is a process of its own where its memory counts; where the kernel has to refuse something, a
descriptor that is closed stands for one that cannot be watched.

Invariants. 1. Nothing here depends on how fast anything is.

Not here: what messages do (conformance), channels of native clients (test_lane).
"""

from __future__ import annotations

import os
import select
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from buses import Bus, eventually
from dbus_client import BUS, BUS_PATH, CALL, DESTINATION, INTERFACE, MEMBER, PATH, message

from bus1 import acceleration
from bus1.core.api import Credentials

if TYPE_CHECKING:
    from bus1._native import DBusLane, Poller

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
N_CLIENTS = 100
MUCH = N_CLIENTS * (64 << 10)
WHO = Credentials(0, 0, 0)
STANDING = (True, True, True, 1 << 20, (16, 64, 64), 1 << 20, 1 << 20, 9, 9, None)


def resident(pid: int) -> int:
    """Bytes of a process that lie in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_parts_of_messages_take_little_more_memory_than_their_bytes(bus1_bus: Bus) -> None:
    clients = [bus1_bus.connect() for _ in range(N_CLIENTS)]
    fields = [(PATH, "o", "/x"), (MEMBER, "s", "M"), (DESTINATION, "s", clients[0].name)]
    call = message(CALL, 99, fields)
    probe = bus1_bus.connect()
    before = resident(bus1_bus.pid)
    for start in range(0, 60, 10):
        for client in clients:
            client.write(call[start : start + 10])
        # it comes after all that
        probe.sync()
    assert resident(bus1_bus.pid) - before < MUCH
    for client in clients:
        client.write(call[60:])
    probe.sync()
    assert [got.serial for got in clients[0].drain() if got.type == CALL] == [99] * N_CLIENTS


def test_who_leaves_too_many_answers_unread_is_not_watched(bus1_bus: Bus) -> None:
    client = bus1_bus.connect()
    # Hello is answered before the lane watches who has said it; this is answered by the lane
    client.sync()
    before = len(watched(bus1_bus.pid))
    fields = [(PATH, "o", BUS_PATH), (INTERFACE, "s", BUS), (MEMBER, "s", "GetId"), (DESTINATION, "s", BUS)]
    n_calls = 40_000
    calls = message(CALL, 9, fields) * n_calls
    writer = threading.Thread(target=client.socket.sendall, args=(calls,))
    writer.start()
    eventually(lambda: len(watched(bus1_bus.pid)) == before - 1, lambda: watched(bus1_bus.pid))
    first = client.receive()
    client.take(len(first.raw) * (n_calls - 1))
    writer.join()
    client.sync()


def fresh_lane() -> tuple[Poller, DBusLane]:
    """A lane that nobody has joined."""
    native = acceleration.native
    assert native is not None
    poller = native.Poller()
    tables = (native.Core(), native.MatchIndex(), native.ReplyTable())
    return poller, native.DBusLane(poller, *tables, (1, "", WHO))


def watched(pid: int) -> list[int]:
    """Sockets whose input epoll instances of a process are asked about, by descriptor.

    What else a bus watches, such as directories, comes some time after its start."""
    found = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            lines = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()
            words = [line.split() for line in lines if line.startswith("tfd:")]
            found += [
                int(word[1]) for word in words
                if int(word[3], 16) & select.EPOLLIN
                and os.readlink(f"/proc/{pid}/fd/{word[1]}").startswith("socket:")
            ]
    return found


def test_what_is_handed_over_and_not_wanted_is_not_watched() -> None:
    poller, lane = fresh_lane()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        lane.join(ours.fileno(), 2, ":1.2", WHO, STANDING, ([], []), 0, False, 0, (1, False))
        theirs.sendall(b"?" * 20)
        assert poller.poll(1)[0] == [(ours.fileno(), select.EPOLLIN)]
        assert lane.take(2) == (b"?" * 20, [], "")
        theirs.sendall(b"!")
        assert ours.fileno() in watched(os.getpid())
        lane.want(2, 0)
        assert poller.poll(0)[0] == []
        assert ours.fileno() not in watched(os.getpid())
        lane.leave(2)
