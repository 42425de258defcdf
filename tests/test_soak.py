"""A bus that has carried millions of messages is as large as before; how large is printed (``pytest -s``)."""

from __future__ import annotations

import threading

import pytest
from buses import Bus
from dbus_client import BUS, BUS_PATH, CALL, RETURN, SIGNAL, Client, marshal, message
from test_torture import rss

BATCH = 250
"""Calls without an answer, and as many signals, that a round has; a fifth of it are calls with one."""
READERS = 3
GROWTH = 4 << 10
"""KiB that a bus may be larger after all of it than after a tenth of it."""


class Round:
    """What is said in one round, made once: one go for each client."""

    def __init__(self, caller: Client, friend: Client) -> None:
        body, n_asked = marshal("s", "hello"), BATCH // 5
        fields = [(1, "o", "/x"), (2, "s", "x.Y"), (3, "s", "M"), (8, "g", "s")]
        to = [*fields, (6, "s", friend.name)]
        ask = [(1, "o", BUS_PATH), (2, "s", BUS), (3, "s", "GetId"), (6, "s", BUS)]
        self.said = b"".join([
            message(CALL, 1, to, body, flags=1) * BATCH, message(SIGNAL, 1, fields, body) * BATCH,
            *(message(CALL, 2 + n, to, body) for n in range(n_asked)), message(CALL, 1, ask),
        ])
        back = [(6, "s", caller.name), (8, "g", "s")]
        self.answered = b"".join(
            message(RETURN, 1, [(5, "u", 2 + n), *back], body) for n in range(n_asked)
        )
        self.n_messages = BATCH * (1 + READERS) + 2 * n_asked + 2


def read(client: Client, n_messages: int) -> None:
    """So many messages, whatever they are."""
    for _ in range(n_messages):
        start = client.take(16)
        client.take(int.from_bytes(start[12:16], "little") + 7 & ~7)
        client.take(int.from_bytes(start[4:8], "little"))


def soak(bus: Bus, n_messages: int) -> None:
    """Play rounds until so many messages have been delivered, with somebody who comes and goes."""
    caller, *readers = (bus.connect() for _ in range(1 + READERS))
    for reader in readers:
        reader.match("interface='x.Y'")
    now = Round(caller, readers[0])
    resident = {0: rss(bus.pid)}
    marks = [n_messages // 10, n_messages // 2, n_messages]
    for n in range(n_messages // now.n_messages + 1):
        writing = threading.Thread(target=caller.write, args=(now.said,))
        writing.start()
        read(readers[0], 2 * BATCH + BATCH // 5)
        for reader in readers[1:]:
            read(reader, BATCH)
        writing.join()
        readers[0].write(now.answered)
        read(caller, 1 + BATCH // 5)
        if n % 50 == 0:
            with Client(bus.path) as guest:
                guest.own(f"t.Guest{n}")
                guest.match(f"arg0='{n}'")
        if (n + 1) * now.n_messages >= marks[0]:
            resident[marks.pop(0)] = rss(bus.pid)
    print(f"\n{bus.kind}: resident KiB after so many messages: {resident}")
    assert 0 < resident[n_messages] <= resident[n_messages // 10] + GROWTH


def test_a_hundred_thousand_messages_leave_memory_as_it_was(bus1_bus: Bus) -> None:
    soak(bus1_bus, 100_000)


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_ten_million_messages_leave_memory_as_it_was(bus1_bus: Bus) -> None:
    soak(bus1_bus, 10_000_000)
