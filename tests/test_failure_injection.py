"""Whatever step of a command fails, nothing has happened; and the same command then does what it should.

``Faults`` stands before each step of Core that can fail and lets one of them fail, the first, the second …
until the command gets through. What is fallible: ids that name nothing, destinations that are dead, charges,
quotas, places in a pool, segments and pages of its memory. Each fails with every error it knows, and with
one that nobody expects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from core_bus import BusPeer, CoreBus, FlatMemory

from bus1.core import bus as commands
from bus1.core.account import Account, Flow, Ledger
from bus1.core.api import Parcel
from bus1.core.pool import Pool
from bus1.core.transaction import Transaction
from bus1.errors import (
    Bus1Error,
    NodeDestroyed,
    NoSuchHandle,
    OutOfMemory,
    PoolFull,
    QuotaExceeded,
    TooLarge,
)

Errors = tuple[type[BaseException], ...]
STEPS: tuple[tuple[Any, str, Errors], ...] = (
    (commands, "payload_size", (TooLarge,)),
    (commands, "resolve", (NoSuchHandle,)),
    (Transaction, "resolve", (NoSuchHandle,)),
    (Transaction, "stage", (NodeDestroyed,)),
    (Account, "take", (QuotaExceeded,)),
    (Flow, "admit", (QuotaExceeded,)),
    (Pool, "allocate", (PoolFull, TooLarge, OutOfMemory)),
    (FlatMemory, "open_segment", (OutOfMemory,)),
    (FlatMemory, "reserve", (OutOfMemory,)),
    (Ledger, "open", (OutOfMemory,)),
    (Pool, "__init__", (OutOfMemory,)),
)
"""Every step of a command that can fail, and how."""
AT_A_DESTINATION = {"stage", "admit", "allocate", "open_segment", "reserve"}
"""What fails for one receiver alone."""
KINDS = max(len(errors) for _, _, errors in STEPS)
BIG = 1 << 20


class Faults:
    """Lets the n-th fallible step fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.seen: list[str] = []
        self.unexpected: type[BaseException] | None = None
        self.kind = 0
        for place, name, errors in STEPS:
            monkeypatch.setattr(place, name, self.guarded(name, getattr(place, name), errors))

    def guarded(self, name: str, step: Callable[..., Any], errors: Errors) -> Callable[..., Any]:
        """``step``, which fails if it is its turn."""

        def run(*arguments: Any, **options: Any) -> Any:
            if name != "take" or arguments[2]:
                self.seen.append(name)
                self.left -= 1
                if self.left == 0:
                    raise (self.unexpected or errors[self.kind % len(errors)])(name)
            return step(*arguments, **options)

        return run

    @contextmanager
    def at(self, turn: int) -> Iterator[None]:
        """Inside, the step number ``turn`` fails; 0: none."""
        self.left, self.seen = turn, []
        yield
        self.left = 0

    def has_struck(self, turn: int) -> bool:
        """Whether there was a step number ``turn``."""
        return len(self.seen) >= turn


class Scene:
    """Four peers of three users who know each other; things are queued, published, and kept as seeds."""

    def __init__(self) -> None:
        self.bus = CoreBus(body=commands.Core)  # only in Python there are steps to stand before
        self.p, self.q, self.r = (self.bus.peer(uid, FlatMemory()) for uid in (1, 2, 3))
        self.s = self.bus.peer(1)
        self.peers = [self.p, self.q, self.r, self.s]
        self.to_q, self.to_r, self.to_s = (peer.transfer(0x20, self.p) for peer in self.peers[1:])
        self.p.transfer(0x10, self.q)
        self.q.reset(peer_flags=1)
        self.p.send([self.to_q], b"published", [0x10])
        self.q.recv()
        self.p.send([self.to_q], b"on its way", [0x10, self.to_r, 0x18], [60, 61], secctx=b"label")
        self.p.send([], b"old seed", [0x10, self.to_s], [62], flags=2)
        self.bus.core.take_woken()

    def everything(self) -> dict[str, Any]:
        """The snapshot, and the bytes that peers may read."""
        state = self.bus.snapshot()
        state["memory"] = [self.contents(peer, state) for peer in self.peers]
        return state

    def contents(self, peer: BusPeer, state: dict[str, Any]) -> Any:
        """The segments of a peer's memory, and what lies in them."""
        known, memory = state["peers"][peer.number], peer.memory
        entries = [e for e in [*known["queue"], known["seed"]] if e is not None and e["type"] == "DATA"]
        if not isinstance(memory, FlatMemory):
            heap = self.bus.core._peers[peer.number].pool.memory
            return [heap.read(entry["slice"][0]) for entry in entries]
        return (
            {generation: base for generation, (base, _) in memory.segments.items()},
            [memory.at(offset, size) for offset, size, *_ in known["pool"]["published"]],
            [memory.at(entry["slice"][0], entry["n_bytes"]) for entry in entries],
        )

    def aftermath(self) -> list[Any]:
        """What comes next: everybody sends, receives everything, gives it back and leaves."""
        told: list[Any] = []
        for size in (8, 3000, BIG, 100):
            told.append(self.p.send([self.to_q, self.to_r, self.to_s], bytes(size), [0x10, 0x60]))
        for peer in self.peers:
            while peer.is_readable():
                told.append(peer.recv(4))
            for offset, *_ in peer.state()["pool"]["published"]:
                peer.free(offset)
        told.append(self.everything())
        for number in self.bus.snapshot()["peers"]:
            self.bus.core.peer_disconnect(number)
        assert self.bus.snapshot()["users"] == {}
        freed = self.bus.core.take_freed_fds()
        assert {60, 61, 62} <= set(freed) and len(freed) == len(set(freed))
        return [*told, freed]


def peer_new(scene: Scene) -> int:
    return scene.bus.core.peer_new(9, FlatMemory())


def another_peer_new(scene: Scene) -> int:
    return scene.bus.core.peer_new(1)


def transfer(scene: Scene) -> int:
    return scene.p.transfer(0x10, scene.r)


def transfer_of_a_new_node(scene: Scene) -> int:
    return scene.p.transfer(0x50, scene.q)


def transfer_of_a_new_node_to_its_owner(scene: Scene) -> int:
    return scene.p.transfer(0x50)


def destroy_of_old_and_new_nodes(scene: Scene) -> None:
    scene.p.destroy(0x10, 0x50, 0x58)


def destroy_and_release(scene: Scene) -> None:
    scene.p.destroy(0x50, 0x10, flags=1)


def send_to_one(scene: Scene) -> list[int]:
    carried = [0x10, scene.to_r, 0x50, 0x50, scene.to_q]
    return scene.p.send([scene.to_q], b"a payload", carried, [71, 72], secctx=b"label")


def send_to_many(scene: Scene) -> list[int]:
    carried = [0x10, scene.to_q, 0x50]
    return scene.p.send([scene.to_q, scene.to_r, scene.to_s], b"for all", carried, [71], secctx=b"")


def send_of_much(scene: Scene) -> list[int]:
    return scene.p.send([scene.to_r, scene.to_q, scene.to_s], bytes(BIG), [0x50], [71])


def send_to_a_new_node(scene: Scene) -> list[int]:
    return scene.p.send([0x50, scene.to_q, 0x58], b"home", [0x50])


def send_to_nobody(scene: Scene) -> list[int]:
    return scene.p.send([], b"nobody", [0x50, 0x58], [71])


def send_of_a_first_seed(scene: Scene) -> list[int]:
    return scene.r.send([], b"a seed", [0x20, 0x50], [71], flags=2)


def send_of_another_seed(scene: Scene) -> list[int]:
    return scene.p.send([], bytes(BIG), [0x10, scene.to_q, 0x50], [71], flags=2)


def peek(scene: Scene) -> Any:
    return scene.q.recv(1 | 4)


def peek_at_the_seed(scene: Scene) -> Any:
    return scene.p.recv(1 | 2 | 4)


def route(scene: Scene) -> list[int]:
    parcels = [
        Parcel((scene.q.number, 0x20), (b"to q",), (0x10, 0x50), with_fds=True),
        Parcel((scene.r.number, 0x20), (bytes(BIG),), (0x58,)),
        Parcel((scene.q.number, 0x20), (b"to q again",), with_fds=True, note=7),
    ]
    return scene.bus.core.route(scene.p.number, parcels, [71, 72], credentials=scene.p.credentials)


FALLIBLE = [
    peer_new, another_peer_new, transfer, transfer_of_a_new_node, transfer_of_a_new_node_to_its_owner,
    destroy_of_old_and_new_nodes, destroy_and_release, send_to_one, send_to_many, send_of_much,
    send_to_a_new_node, send_to_nobody, send_of_a_first_seed, send_of_another_seed, peek, peek_at_the_seed,
    route,
]


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    return Faults(monkeypatch)


@pytest.mark.parametrize("unexpected", [None, MemoryError], ids=["refused", "crashed"])
@pytest.mark.parametrize("command", FALLIBLE)
def test_a_command_that_fails_at_any_step_has_done_nothing(
    faults: Faults, command: Callable[[Scene], Any], unexpected: type[BaseException] | None
) -> None:
    """E-3, T-46, T-50, T-2, R-5, H-22, H-52, H-61, S-3: after each failure all is as before, descriptors
    are still the caller's, and the command that gets through finds the bus that it would have found."""
    twin = Scene()
    expected, expected_state = command(twin), twin.everything()
    faults.unexpected = unexpected
    for faults.kind in range(1 if unexpected else KINDS):
        scene = Scene()
        before = scene.everything()
        turn = 1
        while True:
            try:
                with faults.at(turn):
                    result = command(scene)
                break
            except (Bus1Error, MemoryError):
                assert faults.has_struck(turn)
            assert scene.everything() == before, f"after a failure of {faults.seen[-1]}"
            turn += 1
        assert turn > 1, "there was no step that can fail"
        assert not faults.has_struck(turn)
        assert result == expected
        assert scene.everything() == expected_state
    assert scene.aftermath() == twin.aftermath()


def continued(scene: Scene, destinations: list[int]) -> list[int]:
    """All destinations may fail."""
    return scene.p.send(destinations, b"to whom it may concern", [0x10, 0x50], [71], flags=1)


def optional(scene: Scene, destinations: list[int]) -> list[int]:
    """The same, by being optional."""
    return scene.p.send([], b"for your information", [0x10, 0x50], [71], optional=destinations)


def mixed(scene: Scene, destinations: list[int]) -> list[int]:
    """The last one is optional."""
    last = scene.to_s
    mandatory = [number for number in destinations if number != last]
    return scene.p.send(mandatory, bytes(BIG), [0x50], [71], optional=[n for n in destinations if n == last])


@pytest.mark.parametrize("send", [continued, optional, mixed])
def test_a_failure_at_a_destination_that_may_fail_is_its_slot_alone(
    faults: Faults, send: Callable[[Scene, list[int]], list[int]]
) -> None:
    """T-50, T-51, T-53, T-55, T-56: it is as if that destination had not been named; any other failure
    fails the call."""
    outcomes = set()
    for faults.kind in range(KINDS):
        turn = 0
        while turn == 0 or faults.has_struck(turn):
            turn += 1
            scene, twin = Scene(), Scene()
            before = scene.everything()
            destinations = [scene.to_q, scene.to_r, scene.to_s]
            try:
                with faults.at(turn):
                    slots = send(scene, destinations)
            except Bus1Error:
                assert scene.everything() == before
                assert send is mixed or faults.seen[-1] not in AT_A_DESTINATION
                outcomes.add("refused")
                continue
            assert sum(slot != 0 for slot in slots) == faults.has_struck(turn)
            seen = faults.seen
            reached = [number for number, slot in zip(destinations, slots, strict=True) if slot == 0]
            assert send(twin, reached) == [0] * len(reached)
            faults.seen = seen
            assert scene.everything() == twin.everything()
            outcomes.add("delivered to all" if len(reached) == 3 else "delivered to others")
    assert outcomes == {"refused", "delivered to others", "delivered to all"}


@pytest.mark.parametrize("send", [continued, optional, mixed])
def test_what_nobody_expects_is_not_tolerated_at_any_destination(
    faults: Faults, send: Callable[[Scene, list[int]], list[int]]
) -> None:
    """E-3, T-50: an error that is none of the contract fails the whole call, and nothing has happened."""
    faults.unexpected = MemoryError
    scene = Scene()
    before = scene.everything()
    destinations = [scene.to_q, scene.to_r, scene.to_s]
    turn = 1
    while True:
        try:
            with faults.at(turn):
                assert send(scene, destinations) == [0, 0, 0]
            break
        except MemoryError:
            assert scene.everything() == before
        turn += 1
    assert turn > 10


def receive_everything(scene: Scene) -> None:
    while scene.q.is_readable():
        scene.q.recv(4)
    scene.p.recv(2)


def release_everything(scene: Scene) -> None:
    for number, (_, references) in scene.q.state()["handles"].items():
        for _ in range(references - (number == 0x20)):
            scene.q.release(number)
    for offset, *_ in scene.q.state()["pool"]["published"]:
        scene.q.free(offset)


def destroy_a_node(scene: Scene) -> None:
    scene.p.destroy(0x10, flags=1)


def reset(scene: Scene) -> None:
    scene.p.reset(1)
    scene.q.reset(3, max_handles=0)


def disconnect(scene: Scene) -> None:
    for peer in scene.peers:
        peer.disconnect()


@pytest.mark.parametrize("command", [receive_everything, release_everything, reset, disconnect])
def test_a_command_that_only_gives_back_has_no_step_that_can_fail(
    faults: Faults, command: Callable[[Scene], None]
) -> None:
    """E-3, R-5, P-34, P-10, L-10, H-42: what frees resources works on a bus that has none left."""
    scene = Scene()
    with faults.at(1):
        command(scene)
    assert faults.seen == []
