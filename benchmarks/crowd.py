"""crowd: a process that fills a bus (``python -m benchmarks.crowd ADDRESS KIND COUNT``).

Theory. What it brings is of one kind: rules that differ from the one that will match in a single key, or
connections with the one rule that every program of a desktop has, or names. Rules and names belong to one
connection, so that nothing but their number grows. It prints ``ready`` when all is there, and stays.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import islice

from . import messages
from .connection import Connection

MEMBER = "Tick"
SUBSCRIPTION = f"type='signal',interface='{messages.SPOKEN}',member='{MEMBER}'"
"""The rule that matches."""
ARGUMENTS = 4
"""Of the signal that is sent."""
BATCH = 100
"""Calls that are under way at once."""

RULES: dict[str, Callable[[int], str]] = {
    "path": lambda number: f"{SUBSCRIPTION},path='/org/bus1/Elsewhere/{number}'",
    "interface": lambda number: f"type='signal',interface='org.bus1.Elsewhere.i{number}',member='{MEMBER}'",
    "arg0": lambda number: f"{SUBSCRIPTION},arg0='elsewhere {number}'",
    "argN": lambda number: f"{SUBSCRIPTION},arg{1 + number % (ARGUMENTS - 1)}='elsewhere {number}'",
}
"""By the key that keeps them from matching."""


ADD = messages.driver_call("AddMatch", "s", "")


def add(rule: str) -> bytes:
    """The call that adds a rule; the header of all is the same but for the length of the body."""
    text = rule.encode()
    length = len(text).to_bytes(4, "little")
    return ADD[:4] + (len(text) + 5).to_bytes(4, "little") + ADD[8:-5] + length + text + b"\0"


def rules(kind: str) -> Callable[[str, int], list[Connection]]:
    """Who adds rules that one key keeps from matching."""

    def bring(address: str, count: int) -> list[Connection]:
        return [ask(Connection.open(address), map(add, map(RULES[kind], range(count))))]

    return bring


def mixed(address: str, count: int) -> list[Connection]:
    """Rules of all kinds, taking turns."""
    kinds = list(RULES.values())
    texts = (kinds[number % len(kinds)](number) for number in range(count))
    return [ask(Connection.open(address), map(add, texts))]


def names(address: str, count: int) -> list[Connection]:
    """One connection that owns them all."""
    calls = (
        messages.driver_call("RequestName", "su", f"org.bus1.Crowd.n{number}", 0) for number in range(count)
    )
    return [ask(Connection.open(address), calls)]


def connections(address: str, count: int) -> list[Connection]:
    """Each waits for a name of its own to appear."""
    rule = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='org.bus1.Nobody{}'"
    return [
        Connection.open(address, messages.driver_call("AddMatch", "s", rule.format(number)))
        for number in range(count)
    ]


def ask(connection: Connection, calls: Iterator[bytes]) -> Connection:
    """Make these calls and wait for their answers."""
    while batch := list(islice(calls, BATCH)):
        connection.socket.sendall(b"".join(batch))
        connection.take_replies(len(batch))
    return connection


KINDS: dict[str, Callable[[str, int], list[Connection]]] = {
    **{f"rules, by {key}": rules(key) for key in RULES}, "connections": connections, "names": names,
}
"""What a crowd can be of."""


def main(address: str, kind: str, count: str) -> None:
    """Fill the bus, say so, stay."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    held = {**KINDS, "rules": mixed}[kind](address, int(count))
    print("ready", len(held), flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
