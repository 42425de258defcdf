"""What the lane of D-Bus connections does with sockets that are slow, or of no use.

Theory. The bus is a process of its own where its memory counts; where the kernel has to refuse something, a
descriptor that is closed stands for one that cannot be watched.

Invariants. 1. Nothing here depends on how fast anything is.

Not here: what messages do (conformance), channels of native clients (test_lane).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from buses import Bus
from dbus_client import CALL, DESTINATION, MEMBER, PATH, message

from bus1 import acceleration

pytestmark = pytest.mark.skipif(acceleration.native is None, reason="there is no native body")
N_CLIENTS = 100
MUCH = N_CLIENTS * (64 << 10)


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
