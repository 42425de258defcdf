"""The upstream selftest of the API (A-API), over each link, in its order and with its ids."""

from __future__ import annotations

import mmap
import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from native_bus import InProcessBus, NativeBus

from bus1.addresses import socket_name
from bus1.core.api import HANDLE_INVALID, MANAGED, REMOTE, MessageFlag, MessageType
from bus1.errors import PeerShutdown, WouldBlock
from bus1.peer import Peer

DATA, DESTROY, RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE


@pytest.fixture
def native(tmp_path: Path) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path)
    yield bus
    bus.close()


@pytest.fixture(params=["in-process", "socket"])
def new(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Peer]]:
    """Makes peers."""
    bus = InProcessBus() if request.param == "in-process" else NativeBus(tmp_path)
    made: list[Peer] = []

    def peer() -> Peer:
        made.append(bus.peer())
        return made[-1]

    yield peer
    for peer_ in made:
        peer_.close()
    bus.close()


@pytest.fixture
def one(new: Callable[[], Peer]) -> Peer:
    return new()


@pytest.fixture
def two(new: Callable[[], Peer]) -> Peer:
    return new()


def assert_empty(*peers: Peer) -> None:
    for peer in peers:
        with pytest.raises(WouldBlock):
            peer.recv()


def assert_told(peer: Peer, kind: MessageType, destination: int) -> None:
    """One message of ``kind``, without flags, and nothing behind it."""
    message = peer.recv()
    assert (message.type, message.flags, message.destination) == (kind, 0, destination)
    message.release()
    assert_empty(peer)


def test_the_socket_of_a_bus_can_be_seen_and_connected_to(native: NativeBus) -> None:
    """A-API-1, A-API-2, A-API-3, A-API-4, P-1: connecting makes a peer that is live at once."""
    assert os.path.exists(native.address)
    assert stat.S_ISSOCK(os.stat(native.address).st_mode)
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(socket_name(native.address))
    assert native.snapshot()["peers"] == {}
    with Peer.connect(native.address) as peer:
        assert len(native.snapshot()["peers"]) == 1
        assert peer.send([0x10]) == [0]


def test_a_pool_can_be_mapped_shared_and_read_only(native: NativeBus) -> None:
    """A-API-5, L-1."""
    with native.peer() as peer:
        peer.send([0x10], b"\x5a" * 10_000)
        with peer.recv() as message:
            pools = [fd for fd in os.listdir("/proc/self/fd") if "bus1-pool" in linked(fd)]
            with mmap.mmap(int(pools[0]), 16384, mmap.MAP_SHARED, mmap.PROT_READ) as pool:
                assert pool[message.offset : message.offset + 10_000] == b"\x5a" * 10_000


def linked(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


def test_reset_and_disconnect(one: Peer) -> None:
    """A-API-6, A-API-7, A-API-8, A-API-9."""
    before = one.query()
    one.reset(0)
    assert one.query() == before
    one.disconnect()
    with pytest.raises(PeerShutdown):
        one.disconnect()
    with pytest.raises(PeerShutdown):
        one.reset(0)


def test_a_transfer_returns_a_managed_remote_id(one: Peer, two: Peer) -> None:
    """A-API-10, A-API-11, A-API-12, A-API-13."""
    theirs = one.transfer(0x100, two)
    assert theirs != HANDLE_INVALID
    assert theirs & MANAGED and theirs & REMOTE


def test_a_released_node_is_told_to_its_owner_again_and_again(one: Peer) -> None:
    """A-API-20, A-API-21, A-API-22, A-API-23, A-API-24, A-API-25, A-API-26, A-API-27, A-API-28; then once
    more: A-API-29, A-API-30, A-API-31, A-API-32."""
    for _ in range(2):
        assert one.transfer(0x100) == 0x100
        assert_empty(one)
        one.release(0x100)
        assert_told(one, RELEASE, 0x100)


def test_a_destroyed_node_is_told_to_owner_and_holder(one: Peer, two: Peer) -> None:
    """A-API-40, A-API-41, A-API-42, A-API-43, A-API-44."""
    theirs = one.transfer(0x100, two)
    assert_empty(one, two)
    one.destroy([0x100])
    assert_told(one, DESTROY, 0x100)
    assert_told(two, DESTROY, theirs)


def test_a_message_to_an_unused_id_comes_back(one: Peer) -> None:
    """A-API-50, A-API-51, A-API-52."""
    assert one.send([0x100]) == [0]
    assert_told(one, DATA, 0x100)


def test_a_holder_sends_to_the_owner(one: Peer, two: Peer) -> None:
    """A-API-60, A-API-61: who sees its own id."""
    theirs = one.transfer(0x100, two)
    assert theirs != 0x100
    assert two.send([theirs]) == [0]
    assert_told(one, DATA, 0x100)


def test_a_multicast_to_two_new_own_nodes(one: Peer) -> None:
    """A-API-70, A-API-71, A-API-72, A-API-73, A-API-74, A-API-75: the first slice stays meanwhile."""
    payload = bytes(range(104))
    assert one.send([0x100, 0x200], payload) == [0, 0]
    first, second = one.recv(), one.recv()
    assert (first.type, first.flags) == (DATA, MessageFlag.CONTINUE)
    assert (second.type, second.flags) == (DATA, 0)
    assert {first.destination, second.destination} == {0x100, 0x200}
    for message in (first, second):
        assert message.n_bytes == 104 and bytes(message.payload) == payload
    assert_empty(one)
    first.release()
    second.release()


def test_a_message_that_carries_its_own_destination(one: Peer) -> None:
    """A-API-80, A-API-81, A-API-82, A-API-83, A-API-84, A-API-85."""
    assert one.send([0x100], handles=[0x100]) == [0]
    with one.recv() as message:
        assert (message.type, message.flags, message.destination) == (DATA, 0, 0x100)
        assert len(message.handles) == 1
    assert_empty(one)
    one.release(0x100)
    assert_told(one, RELEASE, 0x100)
