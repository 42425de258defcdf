"""Quotas, clause by clause (Q): the numbers of the semantics in a real Core, with real messages.

Q-20 … Q-23 and Q-25 are about the user quota alone. The peer quota implies it, so those tests run with the
user quota in the peer quota's place (``level_one``), which only the Core in Python can have.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import core_bus
import pytest
from core_bus import MIB, BusPeer, CoreBus, FlatMemory, Unchanged
from hypothesis import given
from hypothesis import strategies as st

from bus1.core import account, bus
from bus1.core.api import Limits, RecvFlag, ResetFlag, SendFlag
from bus1.errors import OutOfMemory, QuotaExceeded

ALICE, CAROL, DAVE, BOB = 1, 2, 3, 1000
RESOURCES = ("slices", "handles", "bytes", "fds")


@pytest.fixture
def level_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user quota alone."""

    def user_quota(left: int, share: int, here: int, amount: int) -> bool:
        return account.exceeds_user_quota(left, share, amount)

    monkeypatch.setattr(account, "exceeds_peer_quota", user_quota)
    monkeypatch.setattr(core_bus, "Core", bus.Core)


class Town:
    """Bob, who receives, and three who send to him."""

    def __init__(self, limits: Limits | None = None, memory: FlatMemory | None = None) -> None:
        self.bus = CoreBus(limits)
        self.bob = self.bus.peer(BOB, memory)
        self.senders = {uid: self.bus.peer(uid) for uid in (ALICE, CAROL, DAVE)}
        self.to_bob = {uid: self.bob.transfer(0x10, sender) for uid, sender in self.senders.items()}

    def send(self, uid: int, n_bytes: int = 0, n_handles: int = 0, n_fds: int = 0) -> None:
        self.senders[uid].send(
            [self.to_bob[uid]], bytes(n_bytes), [self.to_bob[uid]] * n_handles, list(range(n_fds))
        )

    def refuses(self, uid: int, n_bytes: int = 0, n_handles: int = 0, n_fds: int = 0) -> None:
        with Unchanged(self.bus, QuotaExceeded):
            self.send(uid, n_bytes, n_handles, n_fds)

    def user(self, uid: int = BOB) -> dict[str, Any]:
        found: dict[str, Any] = self.bus.snapshot()["users"][uid]
        return found

    def left(self, resource: str = "bytes") -> int:
        """R."""
        user = self.user()
        return int(user["limits"][resource] - user["used"][resource])

    def share(self, uid: int, resource: str = "bytes") -> int:
        """s."""
        shares = self.user()["shares"]
        return int(shares[uid][resource]) if uid in shares else 0


@pytest.fixture
def town() -> Town:
    return Town()


# ---- what is charged to whom, and for how long -----------------------------------------------------


def test_what_is_in_flight_is_charged_to_the_receiver(town: Town) -> None:
    """Q-1: to peer and user, in all four resources; the sender pays for the nodes that it creates."""
    alice = town.senders[ALICE]
    alice.send([town.to_bob[ALICE]], bytes(20), [0x100, 0x200], [7, 8, 9])
    assert town.user()["used"] == {"slices": 1, "handles": 1 + 2, "bytes": 24 + 16 + 16, "fds": 3}
    assert town.bob.state()["account"]["used"] == town.user()["used"]
    assert town.user(ALICE)["used"] == {"slices": 0, "handles": 1 + 2, "bytes": 0, "fds": 0}


def test_a_users_maxima_have_defaults_and_can_be_set() -> None:
    """Q-2, P-22."""
    bus = CoreBus()
    assert bus.core.peer_query(bus.peer(ALICE).number).limits == Limits(16384, 65536, 16777216, 4096)
    bus.core.set_user_limits(BOB, Limits(1, 2, 3, 4))
    assert bus.core.peer_query(bus.peer(BOB).number).limits == Limits(1, 2, 3, 4)
    assert bus.core.peer_query(bus.peer(ALICE).number).limits == Limits()
    other = CoreBus(Limits(inflight_bytes=1000))
    assert other.core.peer_query(other.peer(ALICE).number).limits == Limits(inflight_bytes=1000)


def test_a_user_lives_from_its_first_peer_to_its_last(town: Town) -> None:
    """Q-3: with the maxima of the moment of its coming."""
    bus, bob = town.bus, town.bob
    bus.core.set_user_limits(BOB, Limits(slices=5))
    second = bus.peer(BOB)
    assert [bus.core.peer_query(peer.number).limits.slices for peer in (bob, second)] == [16384, 5]
    bob.disconnect()
    assert BOB in bus.snapshot()["users"]
    second.disconnect()
    assert BOB not in bus.snapshot()["users"]


def test_the_messages_of_a_user_that_is_gone_count_when_it_comes_back(town: Town) -> None:
    """Q-3, Q-4: its share lives as long as they do."""
    alice = town.senders[ALICE]
    town.send(ALICE, 4 * MIB)
    alice.disconnect()
    assert ALICE not in town.bus.snapshot()["users"] and town.share(ALICE) == 4 * MIB
    again = town.bus.peer(ALICE)
    to_bob = town.bob.transfer(0x10, again)
    with Unchanged(town.bus, QuotaExceeded, "uid 1 has 4194304"):
        again.send([to_bob], bytes(MIB))
    town.bob.recv()
    assert town.share(ALICE) == 0


def drop_by_flush(bob: BusPeer) -> None:
    bob.reset(ResetFlag.FLUSH)


def drop_by_death(bob: BusPeer) -> None:
    bob.destroy(0x10)
    while bob.references(0x10):
        bob.release(0x10)


@pytest.mark.parametrize(
    ("leave", "left"), [(BusPeer.recv, [1, 0, 8, 0]), (drop_by_flush, [0] * 4), (drop_by_death, [0] * 4)]
)
def test_a_message_that_leaves_the_queue_leaves_the_share(
    town: Town, leave: Callable[[BusPeer], object], left: list[int]
) -> None:
    """Q-8: in all resources; PEEK takes nothing out."""
    town.send(ALICE, 100, 3, 2)
    town.bob.recv(RecvFlag.PEEK)
    assert [town.share(ALICE, resource) for resource in RESOURCES] == [1, 3, 104 + 24 + 8, 2]
    town.send(CAROL, 8)
    town.send(ALICE, 8)
    leave(town.bob)
    assert [town.share(ALICE, resource) for resource in RESOURCES] == left


@pytest.mark.parametrize("drop", [drop_by_flush, drop_by_death])
def test_a_message_that_is_dropped_returns_all_that_it_cost(
    town: Town, drop: Callable[[BusPeer], object]
) -> None:
    """Q-13, Q-16: nobody has seen its slice, so nothing stays charged."""
    town.send(ALICE, 100, 3, 2)
    drop(town.bob)
    assert town.user()["used"] == {"slices": 0, "handles": 0, "bytes": 0, "fds": 0}


def test_each_way_to_a_reference_costs_one_handle(town: Town) -> None:
    """Q-13: pinned, transferred, in flight, received, peeked; RELEASE gives one back, INVALID entries too."""
    bob, alice = town.bob, town.senders[ALICE]
    held = [bob.used("handles")]

    def step(change: int) -> None:
        held.append(bob.used("handles"))
        assert held[-1] - held[-2] == change

    bob.transfer(0x20)
    step(2)
    alice.transfer(0x100, bob)
    step(1)
    alice.destroy(0x300)
    alice.send([town.to_bob[ALICE]], b"", [0x100, 0x200, 0x300, 0x100])
    step(4)
    handle = bob.recv(RecvFlag.PEEK).handles[0]
    step(3)
    bob.recv()
    step(-1)
    for _ in range(7):
        bob.release(handle if bob.references(handle) else handle + 8)
        step(-1)


def test_a_slice_is_charged_until_it_is_released(town: Town) -> None:
    """Q-16: bytes and slice; the share, descriptors and dead entries end at dequeue."""
    town.senders[ALICE].destroy(0x300)
    town.senders[ALICE].send([town.to_bob[ALICE]], bytes(1000), [0x300, 0x400], [7])
    assert town.user()["used"] == {"slices": 1, "handles": 3, "bytes": 1024, "fds": 1}
    message = town.bob.recv()
    assert town.user()["shares"] == {}
    assert town.user()["used"] == {"slices": 1, "handles": 2, "bytes": 1024, "fds": 0}
    town.bob.free(message.offset)
    assert town.user()["used"] == {"slices": 0, "handles": 2, "bytes": 0, "fds": 0}


# ---- the two quotas --------------------------------------------------------------------------------


@given(st.integers(0, 1 << 20), st.integers(1, 1 << 20), st.integers(-3, 3))
def test_the_user_quota_is_the_inequality_of_the_page(share: int, amount: int, slack: int) -> None:
    """Q-4: s + c <= (R + s) / 2; the largest extra charge is floor((R - s) / 2)."""
    left = max(0, share + 2 * amount + slack)
    exceeds = account.exceeds_user_quota(left, share, amount)
    assert exceeds is not (share + amount <= Fraction(left + share, 2))
    assert exceeds is (amount > (left - share) // 2)


def test_over_many_peers_a_user_gets_half_in_all(town: Town) -> None:
    """Q-4, Q-5: the share is that of the receiving user, not of one of its peers."""
    alice = town.senders[ALICE]
    for _ in range(40):
        to_peer = town.bus.peer(BOB).transfer(0x10, alice)
        with Unchanged(town.bus, QuotaExceeded, "user quota"):
            alice.send([to_peer], bytes((town.left() - town.share(ALICE)) // 2 + 8))
        allowed = (town.left() - town.share(ALICE)) // 4 & -8
        if allowed:
            alice.send([to_peer], bytes(allowed))
    assert 8 * MIB - 64 <= town.share(ALICE) <= 8 * MIB


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("resource", "unit"), [("slices", 1), ("handles", 1), ("bytes", 8), ("fds", 1)])
def test_both_quotas_hold_for_each_resource_and_for_ones_own_user(
    resource: str, unit: int, own: bool
) -> None:
    """Q-5, Q-6, Q-1: an idle peer takes a quarter of its user and not one more; nobody is exempt."""
    counts = [800 if resource == other else 10**6 for other in RESOURCES]
    bus = CoreBus(Limits(*counts))
    sender, bob = bus.peer(BOB if own else ALICE), bus.peer(BOB)
    to_bob = bob.transfer(0x10, sender)
    used = bus.snapshot()["users"][BOB]["used"][resource]

    def send(amount: int) -> None:
        sender.send(
            [to_bob], bytes(amount if resource == "bytes" else 0),
            [to_bob] * (amount if resource == "handles" else 0),
            range(amount if resource == "fds" else 0),
        )

    most = (800 - used) // 4
    if resource == "slices":
        for _ in range(most - 1):
            send(1)
        most = 1
    else:
        with Unchanged(bus, QuotaExceeded, f"{resource}, peer quota"):
            send(most + unit)
    send(most)
    with Unchanged(bus, QuotaExceeded, f"{resource}, "):
        send(unit)


@pytest.mark.parametrize("first", RESOURCES)
def test_a_charge_is_tried_in_order_and_taken_wholly_or_not(town: Town, first: str) -> None:
    """Q-5, Q-14: slice, handles, bytes, descriptors; of what a later one refuses the earlier keep nothing."""
    room = [1000 if RESOURCES.index(other) < RESOURCES.index(first) else 0 for other in RESOURCES]
    names = ("max_slices", "max_handles", "max_inflight_bytes", "max_inflight_fds")
    town.bob.reset(**dict(zip(names, room, strict=True)))
    with Unchanged(town.bus, QuotaExceeded, f"{first} of the receiving peer"):
        town.send(ALICE, 100, 3, 2)
    assert town.user()["shares"] == {}


Act = tuple[int, int, int, int]


ACTS = st.tuples(st.integers(0, 5), st.integers(0, 1), st.integers(0, 2), st.integers(1, 300))


@given(st.lists(ACTS, max_size=40))
def test_what_a_peer_takes_is_the_literal_inequality_of_the_page(acts: list[Act]) -> None:
    """Q-6, Q-4, Q-8, Q-16: p + c <= (H - o) / 2 with H = (R + s) / 2; bytes, over all that may happen."""
    bus = CoreBus(Limits(10**6, 10**6, 8000, 10**6))
    readers = [bus.peer(BOB) for _ in range(3)]
    senders = [bus.peer(ALICE), bus.peer(BOB)]
    to = [[reader.transfer(0x10, sender) for reader in readers] for sender in senders]
    left = 8000
    queued: list[list[tuple[int, int]]] = [[], [], []]
    unreleased: list[list[tuple[int, int]]] = [[], [], []]
    for kind, by, at, amount in acts:
        if kind == 0 and queued[at]:
            offset = readers[at].recv().offset
            unreleased[at].append((offset, queued[at].pop(0)[1]))
        elif kind == 1 and unreleased[at]:
            offset, size = unreleased[at].pop()
            readers[at].free(offset)
            left += size
        elif kind > 1:
            size = 8 * amount
            shares = [sum(size for who, size in entries if who == by) for entries in queued]
            available = Fraction(left + sum(shares), 2)
            elsewhere = sum(shares) - shares[at]
            if shares[at] + size <= (available - elsewhere) / 2:
                senders[by].send([to[by][at]], bytes(size))
                queued[at].append((by, size))
                left -= size
            else:
                with Unchanged(bus, QuotaExceeded):
                    senders[by].send([to[by][at]], bytes(size))
    assert bus.snapshot()["users"][BOB]["used"]["bytes"] == 8000 - left


# ---- refusals --------------------------------------------------------------------------------------


REFUSALS: dict[str, tuple[dict[str, int], Callable[[Town], object]]] = {
    "slices of the peer": ({"max_slices": 0}, lambda town: town.send(ALICE)),
    "handles of the peer, in flight": ({"max_handles": 1}, lambda town: town.send(ALICE, 0, 1)),
    "bytes of the peer": ({"max_inflight_bytes": 7}, lambda town: town.send(ALICE)),
    "descriptors of the peer": ({"max_inflight_fds": 0}, lambda town: town.send(ALICE, 0, 0, 1)),
    "transferred": ({"max_handles": 1}, lambda town: town.senders[ALICE].transfer(0x100, town.bob)),
    "a new node": ({"max_handles": 1}, lambda town: town.bob.transfer(0x20, town.senders[ALICE])),
    "a new node in a send": ({"max_handles": 1}, lambda town: town.bob.send([0x20])),
    "a new node to destroy": ({"max_handles": 1}, lambda town: town.bob.destroy(0x20)),
    "peeked": ({"max_handles": 2}, lambda town: town.bob.recv(RecvFlag.PEEK)),
    "a seed": ({"max_slices": 1}, lambda town: town.bob.send([], flags=SendFlag.SEED)),
    "the peer quota": ({}, lambda town: town.send(ALICE, 4 * MIB + 8)),
    "the user quota": ({}, lambda town: town.send(ALICE, 8 * MIB + 8)),
}


@pytest.mark.parametrize("which", list(REFUSALS))
def test_every_refusal_is_edquot(which: str) -> None:
    """Q-9, E-3."""
    town = Town()
    maxima, act = REFUSALS[which]
    if which in ("peeked", "a seed"):
        town.send(ALICE, 0, 1)
    town.bob.reset(**maxima)
    with Unchanged(town.bus, QuotaExceeded):
        act(town)
    assert QuotaExceeded.errno == 122


@pytest.mark.parametrize("which", ["received", "transferred", "created"])
def test_the_users_maximum_bounds_all_its_peers_together(town: Town, which: str) -> None:
    """Q-1, Q-9: though each of them may have as much."""
    alice, second = town.senders[ALICE], town.bus.peer(BOB)
    alice.transfer(0x100, second)
    town.bus.core.set_user_limits(BOB, Limits(handles=town.user()["used"]["handles"]))
    assert town.bob.used("handles") == second.used("handles") == 1
    with Unchanged(town.bus, QuotaExceeded):
        if which == "received":
            alice.send([town.to_bob[ALICE]], handles=[0x100])
        elif which == "transferred":
            alice.transfer(0x100, town.bob)
        else:
            town.bob.destroy(0x20)


@pytest.mark.parametrize("handles", [False, True])
def test_nothing_is_accepted_without_being_booked(handles: bool) -> None:
    """Q-14: between the charge and the reserve it is refused; what is accepted is all there in the books."""
    town = Town(Limits(handles=1 + 40, inflight_bytes=320))
    for amount, passes in ((11, False), (10, True), (1, False)):
        size, entries = (0, amount) if handles else (8 * amount, 0)
        if passes:
            town.send(ALICE, size, entries)
        else:
            town.refuses(ALICE, size, entries)
    resource, unit = ("handles", 1) if handles else ("bytes", 8)
    assert (town.left(resource), town.share(ALICE, resource)) == (30 * unit, 10 * unit)


def test_a_destination_that_fails_costs_the_others_nothing(town: Town) -> None:
    """Q-14, Q-17: nor does the failed send cost anybody; the next one that fits passes."""
    memory = FlatMemory()
    alice, bob, dave = town.senders[ALICE], town.bus.peer(BOB, memory), town.bus.peer(DAVE)
    to = [town.to_bob[ALICE], bob.transfer(0x10, alice), dave.transfer(0x10, alice)]
    dave.reset(max_inflight_fds=0)
    with Unchanged(town.bus, QuotaExceeded):
        alice.send(to, bytes(2 * MIB), [0x100], [7])
    dave.reset(max_inflight_fds=10)
    memory.is_short = True
    with Unchanged(town.bus, OutOfMemory):
        alice.send(to, bytes(2 * MIB), [0x100], [7])
    memory.is_short = False
    assert alice.send(to, bytes(2 * MIB), [0x100], [7]) == [0, 0, 0]


def test_a_refused_charge_takes_nothing_from_one_that_fits(town: Town) -> None:
    """Q-17: exact to the last unit, whatever was refused before."""
    for _ in range(3):
        town.refuses(ALICE, 4 * MIB + 8)
        town.refuses(CAROL, 16 * MIB)
    town.send(ALICE, 4 * MIB)
    town.refuses(CAROL, 3 * MIB + 8)
    town.send(CAROL, 3 * MIB)


# ---- the worked examples ---------------------------------------------------------------------------


def after_q_20_and_q_21() -> Town:
    """Bob has 2 MiB left: Alice has 8 of his, Carol 4, Dave 2."""
    town = Town()
    for uid, left in ((ALICE, 12), (ALICE, 8), (CAROL, 4)):
        town.send(uid, 4 * MIB)
        assert town.left() == left * MIB
    town.send(DAVE, 2 * MIB)
    return town


def test_alice_gets_half(level_one: None, town: Town) -> None:
    """Q-20: 4 MiB and 4 MiB of Bob's 16, then not one slice more."""
    town.send(ALICE, 4 * MIB)
    assert (town.left(), town.share(ALICE)) == (12 * MIB, 4 * MIB)
    town.send(ALICE, 4 * MIB)
    assert (town.left(), town.share(ALICE)) == (8 * MIB, 8 * MIB)
    town.refuses(ALICE, 8)


def test_saturating_users_get_a_half_a_quarter_an_eighth(level_one: None) -> None:
    """Q-21: Carol 4 MiB, then nothing; Dave 2 MiB."""
    town = Town()
    for _ in range(2):
        town.send(ALICE, 4 * MIB)
    town.send(CAROL, 4 * MIB)
    assert (town.left(), town.share(CAROL)) == (4 * MIB, 4 * MIB)
    town.refuses(CAROL, 8)
    town.refuses(DAVE, 2 * MIB + 8)
    town.send(DAVE, 2 * MIB)
    assert (town.left(), town.share(DAVE)) == (2 * MIB, 2 * MIB)


def test_bytes_return_at_slice_release_not_at_dequeue(level_one: None) -> None:
    """Q-22, Q-16: after dequeue R = 2 and Alice may add 0; after the release R = 6 and she may add 1 MiB."""
    town = after_q_20_and_q_21()
    message = town.bob.recv()
    assert (town.left(), town.share(ALICE)) == (2 * MIB, 4 * MIB)
    town.refuses(ALICE, 8)
    town.bob.free(message.offset)
    assert (town.left(), town.share(ALICE)) == (6 * MIB, 4 * MIB)
    town.refuses(ALICE, MIB + 8)
    town.send(ALICE, MIB)


@pytest.mark.parametrize(
    ("messages", "one"),
    [
        (1, {"n_bytes": 8 * MIB}), (8192, {"n_bytes": 8}), (1, {"n_handles": 32768}), (8, {"n_fds": 256}),
    ],
    ids=["bytes", "slices", "handles", "fds"],
)
def test_an_idle_user_takes_half_of_everything(level_one: None, messages: int, one: dict[str, int]) -> None:
    """Q-23: 8 MiB, 8192 slices, 32768 handles, 2048 descriptors at most; Bob's node comes on top."""
    town = Town(Limits(handles=65536 + 1))
    if messages == 1:
        town.refuses(ALICE, **{name: amount + 1 for name, amount in one.items()})
    for _ in range(messages):
        town.send(ALICE, **one)
    town.refuses(ALICE, **dict.fromkeys(one, 1))


def test_every_further_peer_gets_half_of_what_is_left(town: Town) -> None:
    """Q-24, Q-6: to Bob's first peer 4 MiB at most, to the second 2, to the third 1; in all below 8."""
    alice = town.senders[ALICE]
    for allowed in (4, 2, 1):
        to_peer = town.bus.peer(BOB).transfer(0x10, alice)
        with Unchanged(town.bus, QuotaExceeded, "peer quota"):
            alice.send([to_peer], bytes(allowed * MIB + 8))
        alice.send([to_peer], bytes(allowed * MIB))
        with Unchanged(town.bus, QuotaExceeded):
            alice.send([to_peer], bytes(8))
    assert town.share(ALICE) == 7 * MIB


def test_the_selftests_sequence(level_one: None, town: Town) -> None:
    """Q-25: M is 16 MiB, one more is a slice of 8 bytes more; Carol sends to another peer of Bob's."""
    quarter, more = 4 * MIB, 4 * MIB + 8
    second = town.bus.peer(BOB)
    town.to_bob[CAROL] = second.transfer(0x10, town.senders[CAROL])
    town.send(ALICE, quarter)
    town.refuses(ALICE, more)
    town.send(CAROL, more)
    town.refuses(ALICE, quarter)
    second.free(second.recv().offset)
    town.send(ALICE, quarter)
    assert (town.share(ALICE), town.left()) == (8 * MIB, 8 * MIB)
    town.refuses(ALICE, quarter)
    town.refuses(CAROL, more)
    town.send(CAROL, quarter)
