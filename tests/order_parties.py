"""order_parties: processes that use one peer each, and record what they do and see, for order_checker.

``order_parties.py`` reads a plan (a line of JSON) from stdin, says ``ready``, waits for a line, plays its
role, and prints the events. ``play`` hands out peers and handles, starts the processes, and collects what
they recorded.

Nodes are called ``OWNER:ID`` by everybody, whatever their handles are. ``OWNER:10`` is a mailbox; everybody
holds it.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from random import Random
from time import monotonic_ns
from typing import Any

from order_checker import Copy, Event

from bus1.core.api import HANDLE_INVALID, MessageType
from bus1.errors import WouldBlock
from bus1.peer import Peer

MAILBOX = 0x10
SLICE = 0.2
"""Seconds of one wait; a process that waits longer shows that it is there."""
N_SLICES = 150
"""So often nothing comes before a party gives up: what it has not seen is lost."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a process needs; ``descriptor`` and ``memory`` are inherited, as are those of ``pipes``."""

    name: str
    role: str
    arguments: list[Any]
    address: str
    descriptor: int
    everybody: list[str]
    handles: dict[str, int]
    holders: dict[str, list[str]]
    """Of each own node: who hears of its end, its owner too."""
    pipes: dict[str, tuple[int, int]]
    memory: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a RECV returned: a kind of message, or ``death`` or ``release``, and of which node."""

    kind: str
    label: str
    node: str


def owner_of(node: str) -> str:
    return node.partition(":")[0]


def mailbox(name: str) -> str:
    return f"{name}:{MAILBOX:x}"


class Party:
    """One peer, and the record of its commands."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.name = plan.name
        self.peer = Peer.from_descriptor(plan.descriptor, plan.address)
        os.close(plan.descriptor)
        self.handles = dict(plan.handles)
        self.nodes = {handle: node for node, handle in plan.handles.items()}
        self.everybody = [mailbox(name) for name in plan.everybody]
        self.events: list[Event] = []
        self.ended: set[str] = set()
        self._count = 0

    def _record(self, start: int, what: str, **fields: Any) -> None:
        self.events.append(Event(self.name, start, monotonic_ns(), what, **fields))

    def send(self, nodes: Sequence[str], kind: str = "data", carried: Sequence[str] = ()) -> set[str]:
        """One multicast; those nodes that were alive."""
        label, self._count = f"{self.name}{self._count}", self._count + 1
        payload = json.dumps([label, kind, carried]).encode()
        to, handles = [self.handles[node] for node in nodes], [self.handles[node] for node in carried]
        start = monotonic_ns()
        slots = dict(zip(nodes, self.peer.send((), payload, handles, optional=to), strict=True))
        alive = tuple(node for node, slot in slots.items() if not slot)
        dead = tuple(node for node, slot in slots.items() if slot == -errno.EHOSTUNREACH)
        assert len(alive) + len(dead) == len(slots), slots
        puts = tuple((owner_of(node), f"{label} to {node}") for node in alive)
        what = f"sends {label} ({kind}) to {', '.join(nodes)}"
        self._record(start, what, puts=puts, alive=alive, dead=dead)
        return set(alive)

    def destroy(self, nodes: Sequence[str]) -> None:
        """Own nodes, together."""
        puts = tuple((holder, f"death of {node}") for node in nodes for holder in self.plan.holders[node])
        start = monotonic_ns()
        self.peer.destroy([self.handles[node] for node in nodes])
        self._record(start, f"destroys {', '.join(nodes)}", puts=puts, kills=tuple(nodes))

    def release(self, node: str) -> None:
        """The last handle to somebody's node."""
        start = monotonic_ns()
        self.peer.release(self.handles.pop(node))
        self._record(start, f"releases {node}", puts=((owner_of(node), f"release of {node}"),))

    def recv(self, timeout: float = 0.0) -> Seen | None:
        """The next message, whatever it is; None if there is none."""
        start = monotonic_ns()
        try:
            message = self.peer.recv(timeout=timeout)
        except WouldBlock:
            self._record(start, "finds nothing", finds_empty=self.name)
            return None
        with message:
            node = self.nodes[message.destination]
            if message.type is not MessageType.DATA:
                kind = "death" if message.type is MessageType.NODE_DESTROY else "release"
                self._took(start, f"{kind} of {node}")
                return Seen(kind, "", node)
            label, kind, carried = json.loads(bytes(message.payload))
            found = dict(zip(carried, message.handles, strict=True))
        self.nodes |= {handle: name for name, handle in found.items() if handle != HANDLE_INVALID}
        self._took(
            start, f"{label} to {node}",
            alive=tuple(name for name, handle in found.items() if handle != HANDLE_INVALID),
            dead=tuple(name for name, handle in found.items() if handle == HANDLE_INVALID),
        )
        if kind == "end":
            self.ended.add(label.rstrip("0123456789"))
        return Seen(kind, label, node)

    def _took(self, start: int, name: str, **found: tuple[str, ...]) -> None:
        self._record(start, f"takes {name}", takes=(self.name, name), **found)

    def wait(self) -> Seen:
        """The next message, in patience; TimeoutError if none comes."""
        for _ in range(N_SLICES):
            if (seen := self.recv(SLICE)) is not None:
                return seen
        raise TimeoutError

    def end(self) -> None:
        """Say so to everybody, and listen until everybody has."""
        self.send(self.everybody, "end")
        while len(self.ended) < len(self.everybody):
            self.wait()
        self.recv()


# ---- roles -----------------------------------------------------------------------------------------


def recite(party: Party, script: Sequence[Sequence[Any]]) -> None:
    """Do as written: commands, and what other channels than the bus are for."""
    memory = mmap.mmap(party.plan.memory, mmap.PAGESIZE)
    for verb, *words in script:
        if verb == "send":
            party.send(words)
        elif verb == "destroy":
            party.destroy(words)
        elif verb == "release":
            party.release(words[0])
        elif verb == "recv":
            while party.wait().kind != words[0]:
                pass
        elif verb == "read":
            assert os.read(party.plan.pipes[words[0]][0], 1)
        elif verb == "write":
            os.write(party.plan.pipes[words[0]][1], b"x")
        elif verb == "see":
            while int.from_bytes(memory[:8], sys.byteorder) != words[0]:
                os.sched_yield()
        elif verb == "show":
            memory[:8] = int.to_bytes(words[0], 8, sys.byteorder)


def answer(party: Party, count: int, to: Sequence[str]) -> None:
    """Multicast something for each of ``count`` messages of the kind ``data``, as soon as it is there."""
    while count:
        if party.wait().kind == "data":
            party.send(to, "answer")
            count -= 1


def storm(
    party: Party, count: int, seed: int, mortal: list[str], leased: list[str], carriable: list[str]
) -> None:
    """``count`` random commands: multicasts, destructions, releases; some messages are answered."""
    random = Random(seed)
    for _ in range(count):
        luck = random.random()
        if luck < 0.1 and mortal:
            party.destroy([mortal.pop() for _ in range(min(len(mortal), random.randint(1, 3)))])
        elif luck < 0.2 and leased:
            party.release(leased.pop())
        else:
            to = random.sample(list(party.handles), random.choice([1, 1, 2, 4, 8]))
            party.send(to, carried=random.sample(carriable, random.randrange(3)))
        for _ in range(random.randrange(9)):
            seen = party.recv()
            if seen is None:
                break
            if seen.kind == "data" and random.random() < 0.2:
                party.send(random.sample(party.everybody, 3), "answer")


def mourn(party: Party, nodes: Sequence[str], others: Sequence[str]) -> None:
    """Use each node until it is dead; who hears of a death tells the others, who look at once."""
    for node in nodes:
        os.write(party.plan.pipes["used"][1], b"x")
        while party.send([node]):
            if (seen := party.recv()) is not None and seen.kind == "death":
                party.send(others, "news")


def reap(party: Party, rounds: Sequence[Sequence[str]]) -> None:
    """Destroy the nodes of each round together, when all of them are in use."""
    for nodes in rounds:
        for _ in nodes:
            assert os.read(party.plan.pipes["used"][0], 1)
        party.destroy(nodes)


def smuggle(party: Party, nodes: Sequence[str], to: Sequence[str]) -> None:
    """Pass each node on: before its owner may destroy it, while it does, and when it is dead."""
    for node in nodes:
        party.send(to, carried=[node])
        party.send([mailbox(owner_of(node)), node], "data")
        for _ in range(4):
            party.send([*to, node], carried=[node])
        while party.wait() != Seen("death", "", node):
            pass
        party.send([*to, node], carried=[node])


def obey(party: Party, nodes: Sequence[str]) -> None:
    """Destroy one node after the other, each as soon as a message comes to the mailbox."""
    for node in nodes:
        while (seen := party.wait()).kind != "data" or seen.node != mailbox(party.name):
            pass
        party.destroy([node])


ROLES: dict[str, Callable[..., None]] = {
    role.__name__: role for role in (recite, answer, storm, mourn, reap, smuggle, obey)
}


def main() -> None:
    party = Party(Plan(**json.loads(sys.stdin.readline())))
    print("ready", flush=True)
    assert sys.stdin.readline() == "go\n"
    try:
        ROLES[party.plan.role](party, *party.plan.arguments)
        party.end()
    except TimeoutError:
        pass  # others find out what was lost
    print(json.dumps([asdict(event) for event in party.events]), flush=True)
    sys.stdin.readline()


# ---- the company -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Part:
    """What one party does; ``nodes`` are its nodes besides the mailbox, and who holds them."""

    role: str = "recite"
    arguments: list[Any] = field(default_factory=lambda: [[]])
    nodes: dict[int, Sequence[str]] = field(default_factory=dict)


def play(
    address: str, parts: dict[str, Part], pipes: Iterable[str] = ()
) -> list[Event]:
    """Start a process for every part, let them play at once, and return what they recorded."""
    with ExitStack() as stack:
        peers = {name: stack.enter_context(Peer.connect(address)) for name in parts}
        handles: dict[str, dict[str, int]] = {name: {} for name in parts}
        holders: dict[str, dict[str, list[str]]] = {name: {} for name in parts}
        for owner, part in parts.items():
            for number, names in {MAILBOX: list(parts), **part.nodes}.items():
                node = f"{owner}:{number:x}"
                handles[owner][node] = number
                holders[owner][node] = list({owner: None, **dict.fromkeys(names)})
                for name in holders[owner][node][1:]:
                    handles[name][node] = peers[owner].transfer(number, peers[name])
        ends = {name: os.pipe() for name in pipes}
        memory = os.memfd_create("order")
        os.truncate(memory, mmap.PAGESIZE)
        ours = [memory, *(fd for pair in ends.values() for fd in pair)]
        for fd in ours:
            stack.callback(os.close, fd)
        processes = {}
        for name, part in parts.items():
            plan = Plan(
                name, part.role, part.arguments, address, peers[name].fileno(), list(parts), handles[name],
                holders[name], ends, memory,
            )
            processes[name] = _start(plan, [*ours, peers[name].fileno()])
            stack.callback(_stop, processes[name])
        for process in processes.values():
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for peer in peers.values():
            peer.close()
        return _recorded(list(processes.values()))


def _start(plan: Plan, fds: Sequence[int]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=fds
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(plan)) + "\n")
    process.stdin.flush()
    return process


def _recorded(processes: Sequence[subprocess.Popen[str]]) -> list[Event]:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    events = []
    for process in processes:
        assert process.stdout is not None
        events += [_event(fields) for fields in json.loads(process.stdout.readline())]
    return events


def _event(fields: dict[str, Any]) -> Event:
    takes: Copy | None = None if fields["takes"] is None else (fields["takes"][0], fields["takes"][1])
    lists = {name: tuple(fields[name]) for name in ("kills", "alive", "dead")}
    puts = tuple((queue, copy) for queue, copy in fields["puts"])
    return Event(**{**fields, **lists, "takes": takes, "puts": puts})


def _stop(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    process.stdout.close()
    process.kill()
    process.wait()


if __name__ == "__main__":
    main()
