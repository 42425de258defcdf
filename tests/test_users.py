"""Users against each other: whatever one of them does, two others go on talking, and the numbers of §8 hold.

The users are processes that have really taken other ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from native_bus import NativeBus
from user_parties import MIB, NODE, User

from bus1.core.api import Limits

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may become three other users")
ALICE, CAROL, DAVE, BOB, MALLORY, BUS = 61001, 61002, 61003, 61004, 61005, 61006
CALLS = 10


def new_bus(limits: Limits | None = None, *, uid: int = 0, n_descriptors: int = 0) -> NativeBus:
    """A bus process that all users can reach."""
    address = Path(f"@bus1-users-{os.urandom(8).hex()}")
    return NativeBus(address, limits, uid=uid, n_descriptors=n_descriptors)


SOME = 4096
BUSES: dict[str, dict[str, Any]] = {
    "root": {"n_descriptors": SOME}, "another": {"uid": BUS, "n_descriptors": SOME},
}
"""Each may have so many descriptors open, whatever the machine allows; in flight root has what it wants."""


@pytest.fixture(scope="module", params=list(BUSES))
def module_bus(request: pytest.FixtureRequest) -> Iterator[NativeBus]:
    """The bus of root, and of another user."""
    bus = new_bus(**BUSES[request.param])
    yield bus
    bus.close()


@pytest.fixture
def bus(module_bus: NativeBus) -> Iterator[NativeBus]:
    """Afterwards it is as it was before."""
    n_fds = module_bus.n_fds()
    yield module_bus
    module_bus.wait_until_idle(n_fds)


# ---- a hostile user --------------------------------------------------------------------------------


@dataclass
class Talk:
    """Carol calls Dave, who answers."""

    carol: User
    dave: User
    to_dave: int

    def goes_on(self, calls: int = CALLS) -> bool:
        return bool(self.carol.ask(do="call", handle=self.to_dave, times=calls) == calls)


@pytest.fixture
def talk(bus: NativeBus) -> Iterator[Talk]:
    with User(CAROL, bus.address) as carol, User(DAVE, bus.address) as dave:
        yield start_talk(carol, dave)


def start_talk(carol: User, dave: User) -> Talk:
    to_dave = dave.peer.transfer(NODE, carol.peer)
    dave.tell(do="serve", reply_to=carol.peer.transfer(NODE, dave.peer), caller=CAROL)
    return Talk(carol, dave, to_dave)


class Attack:
    """Mallory, doing something without end."""

    def __init__(self, mallory: User, victim: int, ways: dict[str, str]) -> None:
        self.mallory = mallory
        self._allowed = {f"{way} {word}" for way in ways for word in ("served", "refused")}
        self._expected = {f"{way} {word}" for way, word in ways.items()}
        mallory.tell(do="misbehave", victim=victim, ways=list(ways))

    def wait_until_at_work(self) -> None:
        """Each way has got as far as it can: to EDQUOT, where there is a limit."""
        while self._expected:
            said = self.mallory.answer()
            assert said in self._allowed
            self._expected.discard(said)

    def end(self, bus: NativeBus) -> None:
        """Mallory is killed; up to then nothing but EDQUOT has been met, and then nothing of it is left."""
        assert self.mallory.process.poll() is None
        self.mallory.kill()
        assert set(self.mallory.remarks) <= self._allowed
        while str(MALLORY) in bus.snapshot()["users"]:
            continue


LIMITED = [
    "floods", "floods_itself", "opens_peers", "opens_channels", "passes_descriptors", "abandons_descriptors",
    "holds_slices", "sends_the_largest", "fills_pools", "creates_nodes", "multicasts", "makes_arenas",
    "leaves_offers_unread", "leaves_arenas_unread", "leaves_segments_unread",
]
UNLIMITED = ["never_reads", "creates_and_destroys"]
"""What costs time alone."""
WAYS = dict.fromkeys(LIMITED, "refused") | dict.fromkeys(UNLIMITED, "served")
TOGETHER: list[tuple[str, ...]] = [
    ("opens_peers", "opens_channels", "abandons_descriptors", "passes_descriptors"),
    ("floods", "floods_itself", "holds_slices", "fills_pools"),
    ("creates_nodes", "multicasts"),
    ("creates_and_destroys", "sends_the_largest"),
    ("leaves_offers_unread", "leaves_arenas_unread", "leaves_segments_unread"),
]


@pytest.mark.parametrize(("module_bus", "ways"), [
    *(pytest.param("another", ways, id="+".join(("another", *ways))) for ways in [*zip(WAYS), *TOGETHER]),
    *(pytest.param("root", ways, id="+".join(("root", *ways))) for ways in TOGETHER),
], indirect=["module_bus"])
def test_whatever_one_user_does_two_others_go_on_talking(
    bus: NativeBus, talk: Talk, ways: tuple[str, ...]
) -> None:
    """Q-1, Q-4, Q-6, Q-9: it meets EDQUOT, and when it is killed everything is given back.

    What it may send to is another peer of the very user that is called."""
    assert talk.goes_on()
    with bus_peer_of(talk.dave, bus) as other, User(MALLORY, bus.address) as mallory:
        attack = Attack(mallory, other.peer.transfer(NODE, mallory.peer), {way: WAYS[way] for way in ways})
        attack.wait_until_at_work()
        assert talk.goes_on(CALLS // len(ways))
        attack.end(bus)
        assert talk.goes_on()
    with User(MALLORY, bus.address) as again:
        everything = {"size": 3 * MIB, "n_handles": 1000, "n_fds": 256}
        assert again.ask(do="send", handle=NODE, **everything) == 1, "it may have as much as before"


def test_a_bus_with_few_descriptors_lives_through_it_too() -> None:
    """Q-9: one user takes all that it can get of them, in every way at once."""
    bus = new_bus(uid=BUS, n_descriptors=1024)
    with User(CAROL, bus.address) as carol, User(DAVE, bus.address) as dave:
        talk = start_talk(carol, dave)
        with bus_peer_of(dave, bus) as other, User(MALLORY, bus.address) as mallory:
            victim = other.peer.transfer(NODE, mallory.peer)
            attack = Attack(mallory, victim, dict.fromkeys([*TOGETHER[0], *TOGETHER[-1]], "refused"))
            attack.wait_until_at_work()
            assert talk.goes_on(3)
            with User(ALICE, bus.address) as alice:
                assert alice.ask(do="send", handle=NODE, size=MIB, n_handles=9, n_fds=99) == 1
            attack.end(bus)
        assert talk.goes_on()
    bus.close()


def bus_peer_of(user: User, bus: NativeBus) -> User:
    """One more peer of the same user, that receives nothing."""
    return User(user.uid, bus.address)


def test_a_server_that_is_flooded_still_answers_others() -> None:
    """Q-4, Q-6: what floods it is the caller's own queue, too."""
    bus = new_bus(Limits(slices=200))
    with User(CAROL, bus.address) as carol, User(DAVE, bus.address) as dave:
        talk = start_talk(carol, dave)
        with User(MALLORY, bus.address) as mallory:
            attack = Attack(mallory, dave.peer.transfer(0x20, mallory.peer), {"floods": "refused"})
            attack.wait_until_at_work()
            assert talk.goes_on(3)
            attack.end(bus)
        assert talk.goes_on()
    bus.close()


# ---- the numbers -----------------------------------------------------------------------------------
# Both quotas hold at once: of what is left of a user, one peer may hold a quarter per sending user.


class Mailbox:
    """Bob's peers, and who sends to them."""

    def __init__(self, bus: NativeBus, *senders: int) -> None:
        self._bus = bus
        self._to: dict[tuple[int, int], int] = {}
        self.peers: list[User] = [User(BOB, bus.address)]
        self.senders = {uid: User(uid, bus.address) for uid in senders}

    def add_peer(self) -> int:
        """One more peer of Bob's; its place."""
        self.peers.append(User(BOB, self._bus.address))
        return len(self.peers) - 1

    def takes(
        self, uid: int, size: int = 0, *, n_handles: int = 0, n_fds: int = 0, times: int = 1, peer: int = 0
    ) -> int:
        """How many of so many messages to one of Bob's peers are not refused."""
        sender = self.senders[uid]
        if (uid, peer) not in self._to:
            self._to[uid, peer] = self.peers[peer].peer.transfer(0x20, sender.peer)
        to = self._to[uid, peer]
        return int(sender.ask(do="send", handle=to, size=size, n_handles=n_handles, n_fds=n_fds, times=times))

    def bob(self) -> dict[str, Any]:
        """What the bus has booked for him."""
        booked: dict[str, Any] = self._bus.snapshot()["users"][str(BOB)]
        return booked

    def close(self) -> None:
        for user in [*self.peers, *self.senders.values()]:
            user.kill()


@pytest.fixture
def mailbox(bus: NativeBus) -> Iterator[Mailbox]:
    mailbox = Mailbox(bus, ALICE, CAROL, DAVE)
    yield mailbox
    mailbox.close()


def test_each_further_user_gets_its_part_of_what_the_others_left(mailbox: Mailbox) -> None:
    """Q-1, Q-4, Q-6, Q-9, to the byte: 4 of 16 MiB, 3 of 12, 9/4 of 9."""
    left = 16 * MIB
    for uid in (ALICE, CAROL, DAVE):
        part = left // 4
        assert not mailbox.takes(uid, part + 8)
        assert mailbox.takes(uid, part)
        assert not mailbox.takes(uid)
        left -= part
    assert {int(uid): share["bytes"] for uid, share in mailbox.bob()["shares"].items()} == {
        ALICE: 4 * MIB, CAROL: 3 * MIB, DAVE: 9 * MIB // 4
    }
    assert mailbox.bob()["used"]["bytes"] == 16 * MIB - left


def test_each_further_peer_of_a_user_gets_half_of_the_rest(mailbox: Mailbox) -> None:
    """Q-6, Q-24: 4, 2, 1 and 1/2 MiB, less than the half of Q-4 in total; the rest is for others."""
    place, part = 0, 4 * MIB
    while part >= MIB // 2:
        assert not mailbox.takes(ALICE, part + 8, peer=place)
        assert mailbox.takes(ALICE, part, peer=place)
        assert not mailbox.takes(ALICE, peer=place)
        place, part = mailbox.add_peer(), part // 2
    assert mailbox.bob()["shares"][str(ALICE)]["bytes"] == 15 * MIB // 2
    assert not mailbox.takes(CAROL, 17 * MIB // 8 + 8)
    assert mailbox.takes(CAROL, 17 * MIB // 8)


def test_the_share_returns_at_dequeue_and_the_rest_with_the_slice(mailbox: Mailbox) -> None:
    """Q-8, Q-16: with 2 MiB queued Alice may add a quarter of what is left beyond three times that."""
    assert mailbox.takes(ALICE, 2 * MIB, times=3) == 2
    assert mailbox.peers[0].ask(do="recv") == 2 * MIB
    assert mailbox.bob()["shares"][str(ALICE)]["bytes"] == 2 * MIB
    assert not mailbox.takes(ALICE, 3 * MIB // 2 + 8), "12 are left"
    assert mailbox.peers[0].ask(do="release") == 1
    assert not mailbox.takes(ALICE, 2 * MIB + 8), "14 are left"
    assert mailbox.takes(ALICE, 2 * MIB)


def test_messages_are_parted_alike(mailbox: Mailbox) -> None:
    """Q-1, Q-4, Q-6: of 16384 a quarter for Alice, of the rest a quarter for Carol."""
    assert mailbox.takes(ALICE, times=5000) == 4096
    assert mailbox.takes(CAROL, times=5000) == 3072


def test_descriptors_are_parted_alike(mailbox: Mailbox) -> None:
    """Q-1, Q-4, Q-6: of 4096 a quarter for Alice, of the rest a quarter for Carol."""
    assert mailbox.takes(ALICE, n_fds=256, times=5) == 4
    assert not mailbox.takes(ALICE, n_fds=1)
    assert mailbox.takes(ALICE), "without descriptors she may"
    assert mailbox.takes(CAROL, n_fds=256, times=5) == 3
    assert not mailbox.takes(CAROL, n_fds=1)


def test_handles_are_parted_alike(mailbox: Mailbox) -> None:
    """Q-1, Q-4, Q-6, Q-13: of 65536, less the one of Bob's own node, a quarter for Alice, and so on."""
    assert mailbox.takes(ALICE, n_handles=16383)
    assert not mailbox.takes(ALICE, n_handles=1)
    assert not mailbox.takes(CAROL, n_handles=12289)
    assert mailbox.takes(CAROL, n_handles=12288)


@pytest.mark.parametrize("way", [
    {"size": MIB, "times": 9}, {"times": 5000}, {"n_fds": 200, "times": 9}, {"n_handles": 3000, "times": 9},
])
def test_a_victim_is_still_there_for_others(mailbox: Mailbox, way: dict[str, int]) -> None:
    """Q-4, Q-6: who fills one peer, and then others of the same user, leaves room at each of them."""
    places = [0, mailbox.add_peer(), mailbox.add_peer()]
    for place in places:
        assert mailbox.takes(ALICE, **way, peer=place) < way["times"]
    for place in places:
        for uid in (CAROL, DAVE):
            assert mailbox.takes(uid, 100_000, n_handles=100, n_fds=10, peer=place)
