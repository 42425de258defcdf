"""The older upstream selftests (A-OLD, A-XF over each link, A-QUO at the account), with our error codes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from native_bus import InProcessBus, NativeBus

from bus1.core import account
from bus1.core.account import Account, Charge, Ledger
from bus1.core.api import HANDLE_INVALID, Limits, MessageType, RecvFlag
from bus1.errors import AlreadyDestroyed, Busy, ForeignNode, NoSuchHandle, QuotaExceeded, WouldBlock
from bus1.peer import Peer

DATA, DESTROY, RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE
ALICE, CAROL, BOB = 1, 2, 1000


@pytest.fixture(scope="module", params=["in-process", "socket"])
def bus(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InProcessBus | NativeBus]:
    bus = InProcessBus() if request.param == "in-process" else NativeBus(tmp_path_factory.mktemp("bus"))
    yield bus
    bus.close()


@pytest.fixture
def three(bus: InProcessBus | NativeBus) -> Iterator[tuple[Peer, Peer, Peer]]:
    with bus.peer() as one, bus.peer() as two, bus.peer() as other:
        yield one, two, other


@pytest.fixture
def one(three: tuple[Peer, Peer, Peer]) -> Peer:
    return three[0]


@pytest.fixture
def two(three: tuple[Peer, Peer, Peer]) -> Peer:
    return three[1]


def assert_empty(*peers: Peer) -> None:
    for peer in peers:
        with pytest.raises(WouldBlock):
            peer.recv()


def assert_told(peer: Peer, kind: MessageType, destination: int) -> None:
    """The next message is this notification, and the last one."""
    with peer.recv() as message:
        assert (message.type, message.destination, message.flags) == (kind, destination, 0)
    assert_empty(peer)


def releases(peer: Peer, handle: int) -> int:
    """How often a foreign handle can be released before it is ENXIO."""
    for count in range(100):
        try:
            peer.release(handle)
        except NoSuchHandle:
            return count
    raise AssertionError("no end")


# ---- A-OLD -----------------------------------------------------------------------------------------


def test_a_transfer_queues_nothing_and_only_the_owner_destroys(one: Peer, two: Peer) -> None:
    """A-OLD-1, A-OLD-2: EREMOTE."""
    handle = one.transfer(0x100, two)
    assert_empty(one, two)
    with pytest.raises(ForeignNode):
        two.destroy([handle])
    assert_empty(one, two)


def test_a_foreign_handle_is_released_once(one: Peer, two: Peer) -> None:
    """A-OLD-3: then ENXIO, and NODE_RELEASE with the node's id at the owner."""
    handle = one.transfer(0x100, two)
    two.release(handle)
    with pytest.raises(NoSuchHandle):
        two.release(handle)
    assert_told(one, RELEASE, 0x100)
    assert_empty(two)


def test_an_owner_cannot_release_its_only_reference(one: Peer, two: Peer) -> None:
    """A-OLD-4: EBUSY, while others hold the node and afterwards."""
    handle = one.transfer(0x100, two)
    with pytest.raises(Busy):
        one.release(0x100)
    two.release(handle)
    assert_told(one, RELEASE, 0x100)
    with pytest.raises(Busy):
        one.release(0x100)
    assert_empty(one, two)


def test_a_node_is_destroyed_once(one: Peer, two: Peer) -> None:
    """A-OLD-5: then ESTALE; the owner alone is told, as nobody else holds it any more."""
    two.release(one.transfer(0x100, two))
    assert_told(one, RELEASE, 0x100)
    one.destroy([0x100])
    with pytest.raises(AlreadyDestroyed):
        one.destroy([0x100])
    assert_told(one, DESTROY, 0x100)
    assert_empty(one, two)


def test_a_seed_is_set_replaced_and_fetched(one: Peer) -> None:
    """A-OLD-6: its handle is neither 0 nor INVALID."""
    one.set_seed(b"the first", [0x100])
    one.set_seed(b"a second one", [0x200])
    for flags in (RecvFlag.PEEK, RecvFlag(0)):
        with one.seed(flags) as seed:
            assert (seed.type, seed.n_bytes, bytes(seed.payload)) == (DATA, 12, b"a second one")
            assert seed.handles == (0x200,) and seed.handles[0] not in (0, HANDLE_INVALID)
    with pytest.raises(WouldBlock):
        one.seed()


# ---- A-XF ------------------------------------------------------------------------------------------


def test_a_node_that_is_sent_arrives_under_a_managed_id(one: Peer, two: Peer) -> None:
    """A-XF-1: one handle, no descriptors."""
    one.send([two.transfer(0x10, one)], b"", [0x100])
    with two.recv() as message:
        assert len(message.handles) == 1 and len(message.fds) == 0
        assert message.handles[0] & 3 == 3 and message.handles[0] != HANDLE_INVALID


class Sixfold:
    """A multicast of six handles: two foreign, two own old and two own new ones; all are received."""

    def __init__(self, sender: Peer, readers: tuple[Peer, Peer]) -> None:
        self.sender, self.readers = sender, readers
        self.foreign = [reader.transfer(0x10, sender) for reader in readers]
        self.known = [[sender.transfer(node, reader) for node in (0x100, 0x200)] for reader in readers]
        sender.send(self.foreign, b"six", [*self.foreign, 0x100, 0x200, 0x300, 0x400])
        self.received: list[tuple[int, ...]] = []
        for reader in readers:
            with reader.recv() as message:
                assert (message.type, message.destination, message.flags) == (DATA, 0x10, 0)
                self.received.append(message.handles)


@pytest.fixture
def six(three: tuple[Peer, Peer, Peer]) -> Sixfold:
    return Sixfold(three[0], three[1:])


def test_six_handles_arrive_in_order_at_two_peers(six: Sixfold) -> None:
    """A-XF-2, A-XF-3: the own node as such, known ones under their ids, the rest managed; then nothing."""
    for own, handles in enumerate(six.received):
        assert len(handles) == 6 and len(set(handles)) == 6
        assert handles[own] == 0x10 and list(handles[2:4]) == six.known[own]
        new = [handles[1 - own], *handles[4:]]
        assert all(handle & 3 == 3 for handle in new) and HANDLE_INVALID not in new
    assert_empty(six.sender, *six.readers)


def test_the_sender_destroys_both_its_nodes_in_one_call(six: Sixfold) -> None:
    """A-XF-4: again is ESTALE; released once each, then EBUSY, as the ids may name new nodes."""
    six.sender.destroy([0x100, 0x200])
    with pytest.raises(AlreadyDestroyed):
        six.sender.destroy([0x100, 0x200])
    for node in (0x100, 0x200):
        six.sender.release(node)
        with pytest.raises(Busy):
            six.sender.release(node)


def test_the_sender_can_only_release_foreign_handles(six: Sixfold) -> None:
    """A-XF-5: destroying is EREMOTE; each is released exactly once."""
    for handle in six.foreign:
        with pytest.raises(ForeignNode):
            six.sender.destroy([handle])
        assert releases(six.sender, handle) == 1


def test_what_was_got_by_transfer_and_by_multicast_is_released_twice(six: Sixfold) -> None:
    """A-XF-6: and what was got by multicast alone, once."""
    for own, reader in enumerate(six.readers):
        assert [releases(reader, handle) for handle in six.known[own]] == [2, 2]
        assert [releases(reader, handle) for handle in six.received[own][4:]] == [1, 1]


def test_who_got_its_own_node_back_destroys_it_once(six: Sixfold) -> None:
    """A-XF-7: then it releases the received reference and the pinned one, and no more."""
    for reader in six.readers:
        reader.destroy([0x10])
        with pytest.raises(AlreadyDestroyed):
            reader.destroy([0x10])
        reader.release(0x10)
        reader.release(0x10)
        with pytest.raises(Busy):
            reader.release(0x10)


def test_release_then_destroy_tells_the_owner_alone(one: Peer, two: Peer) -> None:
    """A-XF-8: NODE_RELEASE, then NODE_DESTROY, then nothing."""
    two.release(one.transfer(0x100, two))
    assert_told(one, RELEASE, 0x100)
    one.destroy([0x100])
    assert_told(one, DESTROY, 0x100)
    assert_empty(two)


def test_destroy_tells_holder_and_owner_once_each(one: Peer, two: Peer) -> None:
    """A-XF-9: under the id of each."""
    handle = one.transfer(0x100, two)
    one.destroy([0x100])
    assert_told(two, DESTROY, handle)
    assert_told(one, DESTROY, 0x100)


# ---- A-QUO -----------------------------------------------------------------------------------------


@pytest.fixture
def bob() -> Account:
    """The only peer of a user with the default maxima."""
    return Ledger(Limits()).open(BOB, None, 0)


def test_a_charge_of_nothing_takes_one_slice(bob: Account) -> None:
    """A-QUO-1: and giving it back restores all."""
    charge = bob.charge(1, ALICE, 0, 0, 0)
    assert bob.used == bob.user.used == [1, 0, 0, 0]
    charge.cancel()
    assert bob.used == bob.user.used == [0, 0, 0, 0] and bob.shares == bob.user.shares == {}


@pytest.mark.parametrize("resource", range(3))
def test_a_charge_beyond_all_bounds_changes_nothing(bob: Account, resource: int) -> None:
    """A-QUO-2: of handles, bytes or descriptors."""
    amounts = [0, 0, 0]
    amounts[resource] = (1 << 64) - 1
    with pytest.raises(QuotaExceeded):
        bob.charge(1, ALICE, *amounts)
    assert bob.used == bob.user.used == [0, 0, 0, 0]
    assert not bob.shares and not bob.user.shares and not bob.flows


def test_the_selftests_sequence_with_its_counters(bob: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    """A-QUO-3, Q-25: the user quota alone; slices go 1, 2, 1, 2, 3 and back to 0."""

    def user_quota(left: int, share: int, here: int, amount: int) -> bool:
        return account.exceeds_user_quota(left, share, amount)

    monkeypatch.setattr(account, "exceeds_peer_quota", user_quota)
    maximum = bob.user.limits[account.BYTES]
    quarter = maximum // 4

    def take(uid: int, size: int) -> Charge:
        return bob.charge(uid, uid, 0, size, 0)

    def refuse(uid: int, size: int) -> None:
        before = [*bob.user.used]
        with pytest.raises(QuotaExceeded):
            take(uid, size)
        assert bob.user.used == before

    def books(slices: int, size: int, **shares: int) -> None:
        assert (bob.user.used[account.SLICES], bob.user.used[account.BYTES]) == (slices, size)
        found = {uid: share[account.BYTES] for uid, share in bob.user.shares.items()}
        assert found == {{"alice": ALICE, "carol": CAROL}[name]: share for name, share in shares.items()}

    charges: list[Charge] = [take(ALICE, quarter)]
    books(1, quarter, alice=quarter)
    refuse(ALICE, quarter + 1)
    carols = take(CAROL, quarter + 1)
    books(2, 2 * quarter + 1, alice=quarter, carol=quarter + 1)
    refuse(ALICE, quarter)
    carols.cancel()
    books(1, quarter, alice=quarter)
    charges.append(take(ALICE, quarter))
    books(2, 2 * quarter, alice=maximum // 2)
    refuse(ALICE, quarter)
    refuse(CAROL, quarter + 1)
    charges.append(take(CAROL, quarter))
    books(3, 3 * quarter, alice=maximum // 2, carol=quarter)
    for charge in charges:
        charge.cancel()
    books(0, 0)
