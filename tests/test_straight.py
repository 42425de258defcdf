"""What is handed over in one step leaves Core as the three commands do, whatever state it is in."""

from __future__ import annotations

import random

import pytest
from core_bus import FlatMemory

from bus1.core.api import (
    HANDLE_INVALID,
    KEEP,
    NO_LIMIT,
    Credentials,
    Limits,
    Message,
    MessageType,
    PeerFlag,
    ResetFlag,
)
from bus1.core.bus import Core
from bus1.core.view import View
from bus1.errors import Bus1Error
from bus1.record import replace

UIDS = (1000, 1000, 1001, 1002)
TIGHT = Limits(slices=12, handles=40, inflight_bytes=4096, inflight_fds=4)
HandedOver = tuple[Message, bytes, bool]


class World:
    """Peers of one Core, each with a handle to node 0x10 of every other: 11, 19, and 27."""

    def __init__(self, limits: Limits, view: View | None) -> None:
        self.core = Core(limits)
        self.memories = [FlatMemory() for _ in UIDS]
        self.peers = [
            self.core.peer_new(uid, memory, view=view if number == 3 else None, overhead=16 * (number == 2))
            for number, (uid, memory) in enumerate(zip(UIDS, self.memories, strict=True))
        ]
        for giver in self.peers:
            for taker in self.peers:
                if giver is not taker:
                    self.core.handle_transfer(giver, 0x10, taker)
        for giver in self.peers:
            # a pool as it usually is: with a segment
            self.core.send(self.peers[giver % 4], (11 + 8 * chosen(giver),), (), credentials=by(giver % 4))
        self.drain()

    def drain(self) -> None:
        """Everybody receives what there is, and gives it back."""
        for peer in self.peers:
            while self.core.is_readable(peer):
                message = self.core.recv(peer)
                if message.size:
                    self.core.slice_release(peer, message.offset)

    def effects(self) -> object:
        return self.core.take_woken(), self.core.take_freed_fds(), self.core.take_retired()


def chosen(giver: int) -> int:
    """Which handle leads from the peer behind ``giver`` in the circle to the next one."""
    return (giver + 1) % 4 if (giver + 1) % 4 < giver % 4 else giver % 4


def by(number: int, secctx: bytes | None = None) -> Credentials:
    return Credentials(UIDS[number], 50, 4000 + number, 7, secctx)


def the_long_way(
    world: World, peer: int, number: int, payload: bytes, handles: tuple[int, ...], who: Credentials,
    is_answer: bool,
) -> HandedOver:
    """The three commands, and what an answer adds."""
    core = world.core
    node = core.node_of(peer, number)
    assert node is not None
    reader = node[0]
    assert core.send(peer, (number,), (payload,), handles, credentials=who) == [0]
    if is_answer:
        core.handle_release(peer, number)
    message = core.recv(reader)
    contents = world.memories[world.peers.index(reader)].at(message.offset, message.size)
    released = False
    for entry in core.ahead(reader) if is_answer else ():
        if entry.type is MessageType.NODE_RELEASE and entry.destination == message.destination:
            core.recv(reader)
            released = True
    core.slice_release(reader, message.offset, serial=message.serial)
    return message, contents, released


def anything(chance: random.Random, core: Core, peers: list[int]) -> object:
    """Some other command; its error is its outcome."""
    number = chance.randrange(4)
    peer = peers[number]
    handle = chance.choice((0x10, 0x20, 0x24, 0x28, *range(3, 99, 8)))
    try:
        match chance.randrange(11):
            case 0 | 1:
                size, handles = chance.choice((0, 8, 100, 900)), chance.choice(((), (0x20,), (handle,)))
                return core.send(peer, (handle,), (bytes(size),), handles, credentials=by(number))
            case 2 | 3 | 4:
                while core.is_readable(peer):
                    message = core.recv(peer)
                    if message.size and chance.random() < 0.9:
                        core.slice_release(peer, message.offset)
            case 5:
                core.node_destroy(peer, (chance.choice((0x20, 0x24, 0x28)),), chance.randrange(2))
            case 6:
                core.handle_release(peer, handle)
            case 7:
                return core.handle_transfer(peer, handle, peers[chance.randrange(4)])
            case 8:
                flags = chance.choice((0, 0, ResetFlag.FLUSH)) if chance.random() < 0.1 else 0
                wants = chance.choice((KEEP, 0, PeerFlag.WANT_SECCTX))
                core.peer_reset(peer, flags, wants, max_handles=chance.choice((KEEP, KEEP, 6, 40)))
            case 9:
                limits = replace(TIGHT, slices=chance.choice((4, 6, 12)), handles=chance.choice((20, 40)))
                if chance.random() < 0.2:
                    core.set_user_limits(UIDS[number], limits)
            case _:
                return core.send(
                    peer, (), (b"seed",), chance.choice(((), (0x20,))), flags=2, credentials=by(number)
                )
    except Bus1Error as error:
        return type(error), str(error)
    return None


def live(core: Core, peer: int) -> list[int]:
    """Handles of the peer that lead to others."""
    found = [number for number in core.snapshot()["peers"][peer]["handles"] if number & 2]
    return [number for number in found if core.node_of(peer, number) is not None]


@pytest.mark.parametrize("limits", [Limits(), TIGHT], ids=["roomy", "tight"])
@pytest.mark.parametrize("seed", range(12))
def test_one_step_or_three_commands_make_no_difference(seed: int, limits: Limits) -> None:
    chance = random.Random(seed)
    view = chance.choice((None, View()))
    ours, other = World(limits, view), World(limits, view)
    n_straight = 0
    for step in range(300):
        if chance.random() < 0.5:
            state = chance.getstate()
            outcomes = []
            for world in (ours, other):
                chance.setstate(state)
                outcomes.append(anything(chance, world.core, world.peers))
            assert outcomes[0] == outcomes[1]
        else:
            number = chance.randrange(4)
            peer = ours.peers[number]
            handle = chance.choice(live(ours.core, peer) or [HANDLE_INVALID])
            carried = chance.choice(
                ((), (0x20,), (0x24,), (0x28,), (0x10,), (handle,), (chance.choice((11, 19)),))
            )
            payload = bytes([step & 255]) * chance.choice((0, 1, 7, 8, 8, 100, 100, 4072, 4080, 4088, 4096))
            who = by(number, chance.choice((None, b"", b"a label")))
            is_answer = chance.random() < 0.3
            if chance.random() < 0.8:
                ours.drain()
                other.drain()
            before = ours.core.snapshot()
            limit = chance.choice((NO_LIMIT, 4096))
            found = ours.core.hand_over(
                peer, handle, payload, carried, who, limit, 4096, is_answer=is_answer
            )
            if found is None:
                assert ours.core.snapshot() == before
            else:
                n_straight += 1
                assert found == the_long_way(other, peer, handle, payload, carried, who, is_answer)
        assert ours.core.snapshot() == other.core.snapshot()
        assert ours.effects() == other.effects()
        assert ours.core.effort() == other.core.effort()
    assert n_straight > 5


def both(limits: Limits | None = None) -> tuple[World, World]:
    return World(limits or Limits(), None), World(limits or Limits(), None)


def compare(ours: World, other: World, handle: int, carried: tuple[int, ...] = ()) -> bool:
    """The first peer sends; whether that went straight."""
    found = ours.core.hand_over(
        ours.peers[0], handle, b"text", carried, by(0), NO_LIMIT, 4096, is_answer=False
    )
    if found is not None:
        assert found == the_long_way(other, other.peers[0], handle, b"text", carried, by(0), False)
    assert ours.core.snapshot() == other.core.snapshot()
    return found is not None


def test_handing_a_node_out_again_withdraws_what_was_told_of_its_end() -> None:
    ours, other = both()
    for world in (ours, other):
        assert world.core.send(world.peers[0], (11,), (), (0x20,), credentials=by(0)) == [0]
        (handle,) = world.core.recv(world.peers[1]).handles
        world.core.handle_release(world.peers[1], handle)
        assert world.core.is_readable(world.peers[0])
    assert compare(ours, other, 11, (0x20,))
    assert not ours.core.is_readable(ours.peers[0])


@pytest.mark.parametrize("of", ["the peer", "the user"])
def test_who_has_no_handle_left_is_told_so_on_the_long_way(of: str) -> None:
    ours, other = both()
    for world in (ours, other):
        used = world.core.users()[1000].used[1]
        if of == "the user":
            world.core.set_user_limits(1000, Limits(handles=used))
        else:
            world.core.peer_reset(world.peers[0], max_handles=0)
    assert not compare(ours, other, 19, (0x20,))
    assert compare(ours, other, 19)


def test_a_pool_of_several_segments_is_left_to_the_long_way() -> None:
    ours, other = both()
    for world in (ours, other):
        for _ in range(6):
            world.core.send(world.peers[0], (11,), (bytes(900_000),), credentials=by(0))
            world.core.recv(world.peers[1])
    assert not compare(ours, other, 11)
