"""Clauses of sending (T): order of checks, payload, handles, descriptors, destinations, all or none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from errno import EDQUOT, EHOSTUNREACH, ENOMEM, EXFULL
from pathlib import Path
from typing import Any

import pytest
from core_bus import BusPeer, CoreBus, FlatMemory, Unchanged
from native_bus import InProcessBus, NativeBus
from test_core_api import drain

from bus1.core.api import (
    FD_MAX,
    HANDLE_INVALID,
    VEC_MAX,
    Buffer,
    Limits,
    MessageFlag,
    RecvFlag,
    ResetFlag,
    SendFlag,
)
from bus1.errors import (
    BadDescriptor,
    Bus1Error,
    InvalidArgument,
    NodeDestroyed,
    NoSuchHandle,
    NotUnique,
    OutOfMemory,
    PeerShutdown,
    PoolFull,
    QuotaExceeded,
    TooLarge,
    WouldBlock,
)
from bus1.memory import HeapMemory
from bus1.peer import Peer

CONTINUE, SEED = SendFlag.CONTINUE, SendFlag.SEED
WIDE = Limits(10**6, 10**6, 1 << 40, 10**6)


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


@pytest.fixture
def p(bus: CoreBus) -> BusPeer:
    return bus.peer(1)


@pytest.fixture
def q(bus: CoreBus) -> BusPeer:
    return bus.peer(2)


@pytest.fixture
def r(bus: CoreBus) -> BusPeer:
    return bus.peer(3)


@pytest.fixture
def to_q(p: BusPeer, q: BusPeer) -> int:
    """p's handle to a node of q."""
    return q.transfer(0x10, p)


@pytest.fixture
def to_r(p: BusPeer, r: BusPeer) -> int:
    """p's handle to a node of r."""
    return r.transfer(0x10, p)


@pytest.fixture
def dead(bus: CoreBus, p: BusPeer) -> int:
    """p's handle to a node that is destroyed."""
    other = bus.peer(9)
    handle = other.transfer(0x10, p)
    other.destroy(0x10)
    p.recv()
    return handle


@pytest.fixture(params=["in-process", "socket"])
def peers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Peer]]:
    """Makes peers, over each link."""
    bus = InProcessBus() if request.param == "in-process" else NativeBus(tmp_path)
    made: list[Peer] = []

    def new() -> Peer:
        made.append(bus.peer())
        return made[-1]

    yield new
    for peer in made:
        peer.close()
    bus.close()


# ---- shape and order of checks ---------------------------------------------------------------------


def test_t_1_a_send_is_one_transaction(p: BusPeer, q: BusPeer, r: BusPeer, to_q: int, to_r: int) -> None:
    """T-56: for all or for nobody, with one stamp everywhere."""
    r.reset(max_slices=0)
    with pytest.raises(QuotaExceeded):
        p.send([to_q, to_r, 0x500], b"m")
    assert not q.is_readable()
    r.reset(max_slices=1)
    p.send([to_q, to_r, 0x500], b"m")
    assert len({peer.state()["queue"][0]["stamp"] for peer in (p, q, r)}) == 1
    assert [drain(peer) for peer in (p, q, r)] == [[("DATA", 0, 0x500)], *[[("DATA", 0, 0x10)]] * 2]


PIECE = bytes(4 << 20)
BAD: list[tuple[str, dict[str, Any], type[Bus1Error]]] = [
    ("flags", {"flags": 4}, InvalidArgument),
    ("number of parts", {"parts": [b""] * (VEC_MAX + 1)}, TooLarge),
    ("number of destinations", {"destinations": [0xFFB] * 9}, InvalidArgument),
    ("size of the payload", {"parts": [PIECE] * 512}, TooLarge),
    ("handles", {"handles": [0xFFB]}, NoSuchHandle),
    ("destinations", {"destinations": [0x300, 0x300]}, NotUnique),
]
"""Faults of a request in the order in which they are told."""


@pytest.mark.parametrize("first", range(len(BAD)), ids=lambda n: BAD[n][0])
def test_t_2_of_several_faults_the_first_in_order_is_told(first: int) -> None:
    bus = CoreBus()
    bus.core.set_user_limits(1, Limits(handles=8))
    p = bus.peer(1)
    request: dict[str, Any] = {}
    for _, fault, _ in reversed(BAD[first:]):
        request |= fault
    with Unchanged(bus, BAD[first][2]):
        bus.core.send(p.number, **{"destinations": [0x300], **request}, credentials=p.credentials)


def test_t_2_over_a_link_descriptors_are_looked_at_first(peers: Callable[[], Peer]) -> None:
    p = peers()
    with pytest.raises(BadDescriptor):
        p.send([0xFFB], [], [0xFFB], [-1], flags=4)


@pytest.mark.parametrize("flags", [3, 4, 5, 1 << 31])
def test_t_3_two_flags_or_unknown_ones_are_refused(bus: CoreBus, p: BusPeer, flags: int) -> None:
    assert (CONTINUE, SEED) == (1, 2)
    with Unchanged(bus, InvalidArgument):
        p.send([], flags=flags)


@pytest.mark.parametrize(("destinations", "optional"), [([0x100], []), ([], [0x100])])
def test_t_4_a_seed_has_no_destination(
    bus: CoreBus, p: BusPeer, destinations: list[int], optional: list[int]
) -> None:
    with Unchanged(bus, InvalidArgument):
        p.send(destinations, optional=optional, flags=SEED)
    with Unchanged(bus, InvalidArgument):
        p.send([], flags=SEED | CONTINUE)


@pytest.mark.parametrize("flags", [0, CONTINUE])
def test_t_6_a_send_to_nobody_makes_nodes_and_delivers_nothing(bus: CoreBus, p: BusPeer, flags: int) -> None:
    assert p.send([], b"m", [0x100, 0x200, 0x100], [7], flags=flags) == []
    assert (p.references(0x100), p.references(0x200), p.used("handles")) == (1, 1, 2)
    assert p.used("slices") == 0 and not p.is_readable()
    assert bus.core.take_freed_fds() == [7]
    with Unchanged(bus, NoSuchHandle):
        p.send([], handles=[0xFFB], flags=flags)
    with Unchanged(bus, TooLarge):
        bus.core.send(p.number, [], [b""] * (VEC_MAX + 1), flags=flags, credentials=p.credentials)


def test_t_7_destinations_are_limited_by_the_users_maximum() -> None:
    bus = CoreBus(Limits(handles=4))
    p = bus.peer(1, limits=Limits(handles=3))
    q = bus.peer(2, limits=Limits(handles=99))
    with Unchanged(bus, InvalidArgument):
        q.send([0x10, 0x20, 0x30, 0x40, 0x50])
    with Unchanged(bus, InvalidArgument):
        q.send([0x10, 0x20], optional=[0x30, 0x40, 0x50])
    assert q.send([0x10, 0x20, 0x30, 0x40]) == [0] * 4
    with Unchanged(bus, QuotaExceeded):
        p.send([0x10, 0x20, 0x30, 0x40])


# ---- payload ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [], [b""], [b"", b"", b""], [b"one"], [b"", b"a", b"", b"bc", b""],
        [bytearray(b"abc"), memoryview(b"defghi")[2:4], b"j"], [bytes([n % 256]) for n in range(VEC_MAX)],
    ],
)
def test_the_payload_is_the_concatenation_of_its_parts(
    bus: CoreBus, p: BusPeer, parts: list[Buffer]
) -> None:
    """T-10, T-13, T-11."""
    memory = FlatMemory()
    q = bus.peer(2, memory)
    bus.core.send(p.number, [q.transfer(0x10, p)], parts, credentials=p.credentials)
    message = q.recv()
    assert memory.at(message.offset, message.n_bytes) == b"".join(bytes(part) for part in parts)


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ([b""] * (VEC_MAX + 1), TooLarge),
        ([*[PIECE] * 511, PIECE[4096:]], QuotaExceeded),
        ([*[PIECE] * 511, PIECE[4095:]], TooLarge),
        ([*[PIECE] * 511, PIECE[4096:], b"", b"x"], TooLarge),
    ],
)
def test_t_11_parts_and_bytes_are_bounded(
    bus: CoreBus, p: BusPeer, parts: list[Buffer], error: type[Bus1Error]
) -> None:
    with Unchanged(bus, error):
        bus.core.send(p.number, [0x100], parts, credentials=p.credentials)


@pytest.mark.parametrize("payload", [5, [b"a", None], ["text"]])
def test_t_11_what_is_no_buffer_is_never_sent(peers: Callable[[], Peer], payload: Any) -> None:
    p = peers()
    with pytest.raises(TypeError):
        p.send([0x10], payload)
    with pytest.raises(WouldBlock):
        p.recv()


def test_t_14_all_destinations_get_the_bytes_of_the_call(peers: Callable[[], Peer]) -> None:
    """However small or large, and whatever becomes of the buffer."""
    p, q, r = peers(), peers(), peers()
    to = [q.transfer(0x10, p), r.transfer(0x10, p)]
    for size in (6, 100_000):
        buffer = bytearray(b"b" * size)
        p.send(to, buffer)
        buffer[:] = b"a" * size
        for peer in (q, r):
            with peer.recv() as message:
                assert bytes(message.payload) == b"b" * size


# ---- handles ---------------------------------------------------------------------------------------


def test_t_20_handles_are_ids_of_the_sender_installed_at_each_receiver(
    p: BusPeer, q: BusPeer, r: BusPeer, to_q: int, to_r: int
) -> None:
    """T-27: when it receives, not before."""
    q.transfer(0x20, r)
    p.send([to_q, to_r], handles=[0x100])
    assert q.references(0xB) == r.references(0x13) == 0
    assert (q.recv().handles, r.recv().handles) == ((0xB,), (0x13,))


@pytest.mark.parametrize("number", [1, 2, 0xFFB, HANDLE_INVALID])
@pytest.mark.parametrize("flags", [0, CONTINUE, SEED])
def test_t_21_an_unknown_assigned_handle_fails_the_send(
    bus: CoreBus, p: BusPeer, to_q: int, number: int, flags: int
) -> None:
    """T-51: with CONTINUE as well."""
    with Unchanged(bus, NoSuchHandle):
        p.send([to_q] if flags != SEED else [], handles=[0x100, number], flags=flags)


def test_t_22_each_entry_is_a_reference_and_a_new_id_is_one_node(p: BusPeer, q: BusPeer, to_q: int) -> None:
    p.send([to_q], handles=[0x100, 0x100, to_q, 0x100])
    assert (p.references(0x100), p.used("handles"), q.used("handles")) == (1, 2, 5)
    assert q.recv().handles == (0xB, 0xB, 0x10, 0xB)
    assert (q.references(0xB), q.references(0x10)) == (3, 2)


@pytest.mark.parametrize("is_new", [True, False])
def test_t_23_an_id_may_be_destination_and_payload(p: BusPeer, is_new: bool) -> None:
    if not is_new:
        p.transfer(0x100)
        p.release(0x100)
        drain(p)
    p.send([0x100], handles=[0x100, 0x100])
    message = p.recv()
    assert (message.destination, message.handles) == (0x100, (0x100, 0x100))
    assert p.references(0x100) == 3


def test_t_24_handles_are_bounded_by_the_receiver_alone(
    bus: CoreBus, p: BusPeer, q: BusPeer, to_q: int
) -> None:
    handles = [0x100] * 5000
    q.reset(max_handles=5000)
    with Unchanged(bus, QuotaExceeded):
        p.send([to_q], handles=handles)
    q.reset(max_handles=5001)
    p.send([to_q], handles=handles)
    assert q.recv().handles == (0xB,) * 5000


def test_t_25_handles_keep_their_order(p: BusPeer, q: BusPeer, r: BusPeer, to_q: int) -> None:
    """T-27: new, known, own, foreign and dead ones mixed."""
    foreign = r.transfer(0x20, p)
    known = p.transfer(0x200, q)
    p.destroy(0x300)
    p.send([to_q], handles=[foreign, 0x100, 0x300, to_q, 0x200, foreign])
    got = q.recv().handles
    assert got == (known + 8, known + 16, HANDLE_INVALID, 0x10, known, known + 8)
    assert q.state()["handles"][known + 8][0] == [r.number, 0x20]
    assert q.state()["handles"][known + 16][0] == [p.number, 0x100]


def test_t_26_dead_nodes_arrive_as_invalid_entry_by_entry(
    p: BusPeer, q: BusPeer, to_q: int, dead: int
) -> None:
    p.transfer(0x100)
    p.destroy(0x100)
    assert p.send([to_q], handles=[dead, 0x200, 0x100, 0x200]) == [0]
    assert q.recv().handles == (HANDLE_INVALID, 0xB, HANDLE_INVALID, 0xB)
    assert q.used("handles") == 3 and drain(q) == []


# ---- descriptors -----------------------------------------------------------------------------------


def test_t_31_at_most_256_descriptors_travel(bus: CoreBus, p: BusPeer, q: BusPeer, to_q: int) -> None:
    with Unchanged(bus, TooLarge):
        p.send([to_q], fds=range(FD_MAX + 1))
    p.send([to_q], fds=range(FD_MAX))
    assert FD_MAX == 256 and q.recv(RecvFlag.INSTALL_FDS).fds == tuple(range(256))


def test_t_32_what_is_sent_outlives_the_senders_descriptor(peers: Callable[[], Peer]) -> None:
    p, q = peers(), peers()
    read, write = os.pipe()
    p.send([q.transfer(0x10, p)], fds=[read, read])
    os.close(read)
    os.write(write, b"x")
    with q.recv() as message:
        assert len(message.fds) == 2
        assert os.read(message.fds[1], 1) == b"x"
    os.close(write)


@pytest.mark.parametrize(("n_fds", "size"), [(1, 8), (2, 8), (3, 16), (4, 16), (5, 24), (255, 1024)])
def test_t_33_a_descriptor_takes_four_bytes_of_the_slice(
    p: BusPeer, q: BusPeer, to_q: int, n_fds: int, size: int
) -> None:
    p.send([to_q], fds=range(n_fds))
    assert q.recv().size == size


# ---- destinations ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["destroyed", "destroyed and released", "flushed", "owner gone"])
def test_t_40_a_dead_node_is_unreachable(bus: CoreBus, p: BusPeer, q: BusPeer, to_q: int, end: str) -> None:
    """Whether p was told or not; shut down is only who is gone itself."""
    if end == "flushed":
        q.reset(ResetFlag.FLUSH)
    elif end == "owner gone":
        q.disconnect()
    else:
        q.destroy(0x10, flags=end == "destroyed and released")
    for _ in range(2):
        with Unchanged(bus, NodeDestroyed):
            p.send([to_q])
        drain(p)
    assert (NodeDestroyed.errno, PeerShutdown.errno) == (EHOSTUNREACH, 108)
    p.disconnect()
    with Unchanged(bus, PeerShutdown):
        p.send([to_q])


def test_t_41_an_unused_destination_is_a_new_node_and_loops_back(bus: CoreBus, p: BusPeer) -> None:
    for number in (0x101, 0x102, 0xFFB, HANDLE_INVALID):
        with Unchanged(bus, NoSuchHandle):
            p.send([0x100, number])
    assert p.send([0x100]) == [0]
    assert p.references(0x100) == 1 and drain(p) == [("DATA", 0, 0x100)]


@pytest.mark.parametrize("flags", [0, CONTINUE])
@pytest.mark.parametrize("twice", ["foreign", "own", "new"])
def test_t_42_the_same_destination_twice_is_not_unique(
    bus: CoreBus, p: BusPeer, to_q: int, flags: int, twice: str
) -> None:
    p.transfer(0x100)
    number = {"foreign": to_q, "own": 0x100, "new": 0x300}[twice]
    with Unchanged(bus, NotUnique):
        p.send([number, 0x400, number], flags=flags)


def test_t_43_death_before_the_commit_is_an_error_and_after_it_is_not(
    bus: CoreBus, p: BusPeer, q: BusPeer, to_q: int
) -> None:
    p.send([to_q], b"before")
    q.destroy(0x10)
    with Unchanged(bus, NodeDestroyed):
        p.send([to_q], b"after")
    assert drain(q) == [("DATA", 0, 0x10), ("NODE_DESTROY", 0, 0x10)]


def test_t_44_two_nodes_of_one_peer_get_two_adjacent_messages(
    p: BusPeer, q: BusPeer, r: BusPeer, to_q: int, to_r: int
) -> None:
    nodes = [to_q, to_r, *(q.transfer(node, p) for node in (0x20, 0x30))]
    p.send([to_q])
    p.send(nodes)
    p.send([to_q])
    assert [flags for _, flags, _ in drain(q)] == [0, 2, 2, 0, 0]
    assert drain(r) == [("DATA", 0, 0x10)]


def test_t_45_a_message_to_oneself_is_charged_and_stored_like_any(bus: CoreBus, p: BusPeer) -> None:
    p.send([0x100], b"x" * 100, fds=[5])
    assert [p.used(resource) for resource in ("slices", "handles", "bytes", "fds")] == [1, 1, 112, 1]
    assert bus.snapshot()["users"][1]["shares"] == {1: {"slices": 1, "handles": 0, "bytes": 112, "fds": 1}}
    with Unchanged(bus, QuotaExceeded):
        p.send([0x100], bytes(9 << 20))
    assert p.recv().n_bytes == 100


class Vast(HeapMemory):
    """Holds any segment, as it stores nothing."""

    def write(self, generation: int, offset: int, parts: object) -> None:
        pass


def receivers(bus: CoreBus) -> dict[str, BusPeer]:
    """Peers each of which cannot take a message of 1 MiB for a reason of its own."""
    short = FlatMemory()
    found = {
        "quota": bus.peer(5, limits=Limits(inflight_bytes=1000)), "memory": bus.peer(5, short),
        "gap": bus.peer(5, Vast(), limits=WIDE),
    }
    filler = bus.peer(6)
    to_gap = found["gap"].transfer(0x10, filler)
    gibibyte = [PIECE] * 256
    for parts in (gibibyte, gibibyte, gibibyte, [*gibibyte[:-1], PIECE[8192:]]):
        bus.core.send(filler.number, [to_gap], parts, credentials=filler.credentials)
    short.is_short = True
    return found


CAUSES = {"quota": QuotaExceeded, "memory": OutOfMemory, "gap": PoolFull}


@pytest.mark.parametrize("cause", CAUSES)
def test_t_46_one_destination_without_room_undoes_all(cause: str) -> None:
    """T-50, T-47: an error, not a wait; handles, new nodes, descriptors, charges and slices."""
    bus = CoreBus(WIDE)
    p, q, r = bus.peer(1), bus.peer(2, FlatMemory()), bus.peer(3)
    full = receivers(bus)[cause]
    to = [peer.transfer(0x10, p) for peer in (q, full, r)]
    for order in (to, to[::-1], to[1:]):
        with Unchanged(bus, CAUSES[cause]):
            p.send(order, bytes(1 << 20), [0x300, 0x300], [4])
    assert bus.core.take_freed_fds() == []
    assert p.send([to[0], to[2]], bytes(1 << 20), [0x300]) == [0, 0]


def test_t_47_a_full_receiver_is_an_error_for_its_sender_alone(
    bus: CoreBus, p: BusPeer, q: BusPeer, r: BusPeer, to_q: int
) -> None:
    q.reset(max_slices=1)
    p.send([to_q])
    with Unchanged(bus, QuotaExceeded):
        p.send([to_q])
    assert r.send([0x100]) == [0]
    q.free(q.recv().offset)
    assert p.send([to_q]) == [0]


# ---- all or nothing --------------------------------------------------------------------------------


@pytest.mark.parametrize("position", range(3))
def test_t_50_without_continue_one_failure_leaves_nothing(
    bus: CoreBus, p: BusPeer, to_q: int, to_r: int, dead: int, position: int
) -> None:
    to = [to_q, to_r, 0x400]
    to.insert(position, dead)
    with Unchanged(bus, NodeDestroyed):
        p.send(to, b"m", [0x300, to_r], [7])
    assert bus.core.take_freed_fds() == []


def test_remote_errors_have_their_slots_and_the_rest_is_one_transaction() -> None:
    """T-51, T-53, T-55, T-56: all kinds of failure in one call."""
    bus = CoreBus(WIDE)
    p, q, r = bus.peer(1), bus.peer(2), bus.peer(3)
    found = receivers(bus)
    gone, dying = bus.peer(4), bus.peer(4)
    order = [q, found["quota"], found["gap"], gone, r, found["memory"], dying]
    to = [peer.transfer(0x10, p) for peer in order]
    gone.disconnect()
    dying.destroy(0x10)
    slots = p.send(to, bytes(1 << 20), [0x300], flags=CONTINUE)
    assert slots == [0, -EDQUOT, -EXFULL, -EHOSTUNREACH, 0, -ENOMEM, -EHOSTUNREACH]
    assert q.state()["queue"][0]["stamp"] == r.state()["queue"][0]["stamp"]
    assert (q.recv().handles, r.recv().handles) == ((0xB,), (0xB,))
    assert found["quota"].used("slices") == found["memory"].used("slices") == 0


@pytest.mark.parametrize("local", ["handle", "destination", "twice", "own quota"])
def test_t_51_local_errors_fail_the_call_with_continue_too(
    bus: CoreBus, p: BusPeer, to_q: int, dead: int, local: str
) -> None:
    if local == "own quota":
        p.reset(max_handles=p.used("handles"))
    destinations = {"destination": [to_q, 0xFFB], "twice": [to_q, dead, to_q]}.get(local, [to_q, dead])
    handles = {"handle": [0xFFB], "own quota": [0x300]}.get(local, [])
    error = {"twice": NotUnique, "own quota": QuotaExceeded}.get(local, NoSuchHandle)
    with Unchanged(bus, error):
        p.send(destinations, b"m", handles, flags=CONTINUE)


def test_t_54_a_send_that_nobody_gets_succeeds_with_continue(bus: CoreBus, p: BusPeer, dead: int) -> None:
    """T-53: new nodes are made, descriptors are done with."""
    assert p.send([dead], b"m", [0x300], [7], flags=CONTINUE) == [-EHOSTUNREACH]
    assert p.references(0x300) == 1
    assert bus.core.take_freed_fds() == [7]


def test_t_53_a_slot_is_a_signed_number_for_each_destination(peers: Callable[[], Peer]) -> None:
    p, q, gone = peers(), peers(), peers()
    to = [q.transfer(0x10, p), gone.transfer(0x10, p), q.transfer(0x20, p)]
    gone.disconnect()
    assert p.send(to, flags=CONTINUE) == [0, -EHOSTUNREACH, 0]
    assert p.send([to[0], to[2]]) == [0, 0]
    for flags in (MessageFlag.CONTINUE, 0, MessageFlag.CONTINUE, 0):
        with q.recv() as message:
            assert message.flags == flags
