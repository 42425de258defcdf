"""Quotas and accounts: the numbers of §8, and that everything comes back."""

from __future__ import annotations

from typing import Any

import pytest
from core_bus import MIB, CoreBus, FlatMemory, Unchanged
from hypothesis import given
from hypothesis import strategies as st

from bus1.core.account import exceeds_peer_quota, exceeds_user_quota
from bus1.core.api import Limits, PeerState, RecvFlag, ResetFlag, SendFlag, Usage
from bus1.errors import InvalidArgument, QuotaExceeded

ALICE, CAROL, DAVE, BOB = 1, 2, 3, 1000


class Level1:
    """One resource of one receiving user, under the user quota alone."""

    def __init__(self, maximum: int) -> None:
        self.left = maximum
        self.shares = {ALICE: 0, CAROL: 0, DAVE: 0}

    def charge(self, user: int, amount: int) -> bool:
        if exceeds_user_quota(self.left, self.shares[user], amount):
            return False
        self.left -= amount
        self.shares[user] += amount
        return True

    def dequeue(self, user: int, amount: int) -> None:
        self.shares[user] -= amount

    def largest(self, user: int) -> int:
        return (self.left - self.shares[user]) // 2


def saturated() -> Level1:
    """Bob after Q-20 and Q-21."""
    level = Level1(16 * MIB)
    assert level.charge(ALICE, 4 * MIB) and level.charge(ALICE, 4 * MIB)
    assert level.charge(CAROL, 4 * MIB)
    assert level.charge(DAVE, 2 * MIB)
    return level


def test_q_20_q_21_saturating_users_get_a_half_a_quarter_an_eighth() -> None:
    """Q-21."""
    level = saturated()
    assert level.left == 2 * MIB
    assert not any(level.charge(user, 8) for user in (ALICE, CAROL, DAVE))
    assert level.shares == {ALICE: 8 * MIB, CAROL: 4 * MIB, DAVE: 2 * MIB}


def test_q_22_bytes_return_at_slice_release_only() -> None:
    level = saturated()
    level.dequeue(ALICE, 4 * MIB)
    assert not level.charge(ALICE, 8)
    level.left += 4 * MIB
    assert not exceeds_user_quota(level.left, level.shares[ALICE], MIB)
    assert exceeds_user_quota(level.left, level.shares[ALICE], MIB + 8)


def test_q_23_half_of_everything_to_an_idle_user() -> None:
    limits = Limits()
    for maximum, half in (
        (limits.inflight_bytes, 8 * MIB), (limits.slices, 8192), (limits.handles, 32768),
        (limits.inflight_fds, 2048),
    ):
        assert not exceeds_user_quota(maximum, 0, half)
        assert exceeds_user_quota(maximum, 0, half + 1)


def test_q_25_the_numeric_test_of_the_reference() -> None:
    maximum = 4096
    quarter = maximum // 4
    level = Level1(maximum)
    assert level.charge(ALICE, quarter)
    assert not level.charge(ALICE, quarter + 1)
    assert level.charge(CAROL, quarter + 1)
    assert not level.charge(ALICE, quarter)
    level.dequeue(CAROL, quarter + 1)
    level.left += quarter + 1
    assert level.charge(ALICE, quarter)
    assert (level.shares[ALICE], level.left) == (maximum // 2, maximum // 2)
    assert not level.charge(ALICE, quarter)
    assert not level.charge(CAROL, quarter + 1)
    assert level.charge(CAROL, quarter)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 10**6))
def test_the_peer_quota_implies_the_user_quota(left: int, here: int, elsewhere: int, amount: int) -> None:
    share = here + elsewhere
    literal = here + amount <= ((left + share) / 2 - elsewhere) / 2
    assert exceeds_peer_quota(left, share, here, amount) is not literal
    if literal:
        assert not exceeds_user_quota(left, share, amount)


def test_q_24_every_further_peer_of_a_user_gets_half_of_the_rest() -> None:
    bus = CoreBus()
    alice = bus.peer(ALICE)
    for allowed in (4, 2, 1):
        to_peer = bus.peer(BOB).transfer(0x10, alice)
        with Unchanged(bus, QuotaExceeded, "peer quota"):
            alice.send([to_peer], bytes(allowed * MIB + 1))
        alice.send([to_peer], bytes(allowed * MIB))
        with Unchanged(bus, QuotaExceeded):
            alice.send([to_peer])


def test_the_user_quota_spans_all_peers_of_the_receiver() -> None:
    """Q-5: a sender that spreads over many peers stays below half in total."""
    bus = CoreBus()
    alice = bus.peer(ALICE)
    for _ in range(30):
        to_peer = bus.peer(BOB).transfer(0x10, alice)
        size = 4 * MIB
        while size >= 8:
            try:
                alice.send([to_peer], bytes(size))
            except QuotaExceeded:
                size //= 2
    share = bus.snapshot()["users"][BOB]["shares"][ALICE]
    assert 7 * MIB < share["bytes"] <= 8 * MIB


def test_own_user_enjoys_no_exemption() -> None:
    """Q-5."""
    bus = CoreBus()
    bob = bus.peer(BOB)
    to_other = bus.peer(BOB).transfer(0x10, bob)
    for destination in (0x100, to_other):
        with Unchanged(bus, QuotaExceeded):
            bob.send([destination], bytes(4 * MIB + 8))


def test_q_16_the_share_falls_at_dequeue_and_use_at_slice_release() -> None:
    bus = CoreBus()
    alice, bob = bus.peer(ALICE), bus.peer(BOB)
    to_bob = bob.transfer(0x10, alice)
    alice.send([to_bob], bytes(1000), handles=[0x100, 0x200], fds=[7])
    user = bus.snapshot()["users"][BOB]
    assert user["shares"][ALICE] == {"slices": 1, "handles": 2, "bytes": 1024, "fds": 1}
    assert user["used"] == {"slices": 1, "handles": 3, "bytes": 1024, "fds": 1}
    message = bob.recv()
    user = bus.snapshot()["users"][BOB]
    assert user["shares"] == {}
    assert user["used"] == {"slices": 1, "handles": 3, "bytes": 1024, "fds": 0}
    bob.free(message.offset)
    assert bus.snapshot()["users"][BOB]["used"] == {"slices": 0, "handles": 3, "bytes": 0, "fds": 0}


def test_every_resource_of_a_peer_is_bounded_by_its_own_maximum() -> None:
    """P-22, P-33: lowering revokes nothing, it fails what comes."""
    bus = CoreBus()
    alice, bob = bus.peer(ALICE), bus.peer(BOB)
    to_bob = bob.transfer(0x10, alice)
    alice.send([to_bob], bytes(16))
    cases: list[tuple[dict[str, int], dict[str, Any]]] = [
        ({"max_slices": 1}, {}),
        ({"max_handles": 0}, {"handles": [0x100]}),
        ({"max_inflight_bytes": 20}, {}),
        ({"max_inflight_fds": 0}, {"fds": [7]}),
    ]
    for maxima, extra in cases:
        bob.reset(**maxima)
        with Unchanged(bus, QuotaExceeded, "receiving peer"):
            alice.send([to_bob], b"", **extra)
        bob.reset(max_slices=100, max_handles=100, max_inflight_bytes=100, max_inflight_fds=100)
        alice.send([to_bob], b"", **extra)
    assert len(bob.state()["queue"]) == 5


def test_references_are_charged() -> None:
    """Q-13: each of creation, TRANSFER, delivery and PEEK costs one handle, and gives it back."""
    bus = CoreBus()
    alice, bob = bus.peer(ALICE), bus.peer(BOB)
    to_bob = bob.transfer(0x10, alice)
    assert (bob.used("handles"), alice.used("handles")) == (1, 1)
    alice.send([to_bob], handles=[0x100, 0x100])
    assert (bob.used("handles"), alice.used("handles")) == (3, 2)
    handle = bob.recv(RecvFlag.PEEK).handles[0]
    assert bob.used("handles") == 5
    bob.recv()
    assert bob.used("handles") == 5
    for _ in range(4):
        bob.release(handle)
    assert bob.used("handles") == 1


def test_dead_entries_return_their_charge_at_dequeue() -> None:
    """Q-13."""
    bus = CoreBus()
    alice, bob = bus.peer(ALICE), bus.peer(BOB)
    to_bob = bob.transfer(0x10, alice)
    alice.destroy(0x100)
    alice.send([to_bob], handles=[0x100, 0x100, 0x200])
    assert bob.used("handles") == 4
    bob.recv()
    assert bob.used("handles") == 2


def test_peek_needs_room_for_its_references() -> None:
    """R-12, R-5."""
    bus = CoreBus()
    alice, bob = bus.peer(ALICE), bus.peer(BOB)
    alice.send([bob.transfer(0x10, alice)], handles=[0x100])
    bob.reset(max_handles=2)
    with Unchanged(bus, QuotaExceeded):
        bob.recv(RecvFlag.PEEK)
    assert bob.recv().handles == (0xB,)


def test_a_new_user_takes_the_limits_of_that_moment() -> None:
    """Q-3; and replaced maxima hold for present and future."""
    bus = CoreBus(Limits(slices=10))
    first = bus.peer(BOB)
    assert bus.core.peer_query(first.number) == PeerState(0, Limits(slices=10))
    bus.core.set_user_limits(BOB, Limits(slices=5))
    assert bus.core.peer_query(first.number).limits.slices == 10
    assert bus.core.peer_query(bus.peer(BOB).number).limits.slices == 5
    own = Limits(1, 2, 3, 4)
    assert bus.core.peer_query(bus.peer(BOB, limits=own).number).limits == own
    assert bus.snapshot()["users"][BOB]["peers"] == 3


def test_overhead_is_charged_and_returned_with_the_slice() -> None:
    bus = CoreBus()
    alice = bus.peer(ALICE)
    bob = bus.peer(BOB, overhead=500)
    alice.send([bob.transfer(0x10, alice)], bytes(16))
    assert bob.used("bytes") == 516
    assert bus.core.queued(alice.number, bob.number) == Usage(516, 1, 0)
    bob.free(bob.recv().offset)
    assert bob.used("bytes") == 0


def test_queued_and_waiting_follow_each_pair() -> None:
    bus = CoreBus()
    alice, carol, bob = bus.peer(ALICE), bus.peer(CAROL), bus.peer(BOB)
    for sender, count in ((alice, 2), (carol, 1)):
        to_bob = bob.transfer(0x10, sender)
        for n in range(count):
            sender.send([to_bob], bytes(8), fds=[10 * sender.number + n])
    bob.send([], b"seed", flags=SendFlag.SEED)
    core = bus.core
    assert core.queued(alice.number, bob.number) == Usage(32, 2, 2)
    assert core.queued(carol.number, bob.number) == Usage(16, 1, 1)
    assert core.waiting(bob.number) == Usage(48, 3, 3)
    alice.disconnect()
    bob.recv()
    assert core.queued(alice.number, bob.number) == Usage(16, 1, 1)
    bob.recv()
    assert core.queued(alice.number, bob.number) == Usage()
    assert core.waiting(bob.number) == Usage(16, 1, 1)
    bob.recv()
    assert core.waiting(bob.number) == Usage()


@pytest.mark.parametrize(
    "bad", [{"flags": 4}, {"peer_flags": 2}, {"max_slices": 1 << 31}, {"max_handles": -1}]
)
def test_a_bad_reset_changes_nothing(bad: dict[str, int]) -> None:
    """P-30 … P-33: everything is validated first."""
    bus = CoreBus()
    bob = bus.peer(BOB)
    with Unchanged(bus, InvalidArgument):
        bob.reset(**{"flags": ResetFlag.FLUSH, "max_inflight_fds": 7, **bad})


def test_a_refused_reservation_is_enomem_for_that_destination_alone() -> None:
    """T-55."""
    bus = CoreBus()
    memory = FlatMemory()
    alice, bob, carol = bus.peer(ALICE), bus.peer(BOB, memory), bus.peer(CAROL)
    to = [carol.transfer(0x10, alice), bob.transfer(0x10, alice)]
    memory.is_short = True
    assert alice.send(to, b"m", flags=SendFlag.CONTINUE) == [0, -12]
    assert (bob.used("bytes"), bob.used("slices"), bob.state()["pool"]["segments"]) == (0, 0, {})
    memory.is_short = False
    assert alice.send(to, b"m") == [0, 0]

