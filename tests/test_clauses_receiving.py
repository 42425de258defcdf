"""Receiving, clause by clause (R): PEEK, CONTINUE, descriptors, and the layout of a slice."""

from __future__ import annotations

from itertools import product
from struct import pack

import pytest
from core_bus import BusPeer, CoreBus, FlatMemory, Unchanged

from bus1.core.api import (
    HANDLE_INVALID,
    OFFSET_INVALID,
    DestroyFlag,
    Message,
    MessageFlag,
    MessageType,
    PeerFlag,
    RecvFlag,
    SendFlag,
)
from bus1.errors import InvalidArgument, OutOfRange, QuotaExceeded, WouldBlock

PEEK, SEED, INSTALL_FDS = RecvFlag.PEEK, RecvFlag.SEED, RecvFlag.INSTALL_FDS
SCRIBBLED = 8192
"""So many bytes of the reader's pool have been used before."""


@pytest.fixture
def bus() -> CoreBus:
    return CoreBus()


@pytest.fixture
def sender(bus: CoreBus) -> BusPeer:
    return bus.peer(1)


@pytest.fixture
def memory() -> FlatMemory:
    return FlatMemory()


@pytest.fixture
def reader(bus: CoreBus, memory: FlatMemory) -> BusPeer:
    return bus.peer(2, memory)


@pytest.fixture
def to(sender: BusPeer, reader: BusPeer) -> int:
    """The sender's handle to node 0x10 of the reader, whose pool has been written all over."""
    handle = reader.transfer(0x10, sender)
    sender.send([handle], b"\xff" * SCRIBBLED)
    reader.free(reader.recv().offset)
    return handle


def drain(peer: BusPeer) -> list[Message]:
    seen = []
    while peer.is_readable():
        seen.append(peer.recv())
    return seen


# ---- what comes, and what does not -----------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, PEEK, SEED, INSTALL_FDS, PEEK | SEED | INSTALL_FDS])
def test_an_empty_queue_is_told_at_once(bus: CoreBus, reader: BusPeer, flags: int) -> None:
    """R-1, S-6."""
    with Unchanged(bus, WouldBlock):
        reader.recv(flags)


@pytest.mark.parametrize("flags", [8, 8 | PEEK, 1 << 32, 1 << 63])
def test_unknown_flags_are_refused_though_something_is_queued(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int, flags: int
) -> None:
    """R-1."""
    sender.send([to])
    with Unchanged(bus, InvalidArgument):
        reader.recv(flags)


def test_the_flags_have_the_pages_numbers(bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int) -> None:
    """R-2: by what each of them does."""
    sender.send([to], b"message", fds=[7])
    reader.send([], b"seed", flags=SendFlag.SEED)
    assert (reader.recv(1).n_bytes, reader.recv(1).n_bytes) == (7, 7)
    assert reader.recv(2).n_bytes == 4
    assert reader.recv(4).fds == (7,)
    assert not reader.is_readable()


def test_what_must_not_be_seen_any_more_is_skipped_and_freed(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int
) -> None:
    """R-3: a message to a node that was let go, and the notification of its death, between two others."""
    other = reader.transfer(0x20, sender)
    for destination, payload, fds in ((to, b"1", [5]), (other, b"22", [6]), (to, b"333", [])):
        sender.send([destination], payload, fds=fds)
    used = reader.used("slices")
    reader.destroy(0x20)
    reader.release(0x20)
    assert reader.used("slices") == used - 1 and bus.core.take_freed_fds() == [6]
    assert [(m.type, m.n_bytes) for m in drain(reader)] == [(MessageType.DATA, 1), (MessageType.DATA, 3)]


@pytest.mark.parametrize(("in_front", "n_bytes", "end"), [(0, 5, 8), (16, 5, 24), (16, 0, 24), (8, 24, 32)])
def test_a_slice_that_ends_beyond_max_offset_stays_queued(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int, in_front: int, n_bytes: int, end: int
) -> None:
    """R-4, R-5: its padded end counts, wherever it lies; equal is fine."""
    if in_front:
        sender.send([to], bytes(in_front))
        reader.recv()
    sender.send([to], bytes(n_bytes))
    for limit in (0, end - 1):
        with Unchanged(bus, OutOfRange):
            reader.recv(0, limit)
        with Unchanged(bus, OutOfRange):
            reader.recv(PEEK, limit)
    assert reader.recv(0, end).offset == in_front


def test_max_offset_does_not_matter_to_notifications(bus: CoreBus, reader: BusPeer) -> None:
    """R-4."""
    reader.destroy(0x10)
    assert reader.recv(0, 0).type is MessageType.NODE_DESTROY


def test_a_recv_that_fails_moves_nothing(bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int) -> None:
    """R-5, R-12: with handles known and unknown, descriptors, and room for all references but one."""
    known = sender.transfer(0x100, reader)
    sender.send([to], b"m", handles=[0x100, 0x200, 0x300], fds=[7])
    reader.reset(max_handles=reader.used("handles") + 2)
    with Unchanged(bus, QuotaExceeded):
        reader.recv(PEEK | INSTALL_FDS)
    with Unchanged(bus, OutOfRange):
        reader.recv(INSTALL_FDS, 8)
    message = reader.recv(INSTALL_FDS)
    assert message.handles == (known, known + 8, known + 16) and message.fds == (7,)


def test_there_are_three_types(bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int) -> None:
    """R-7: DATA 1, NODE_DESTROY 2, NODE_RELEASE 3."""
    reader.transfer(0x20, sender)
    sender.send([to])
    reader.destroy(0x20)
    sender.release(to)
    assert [int(m.type) for m in drain(reader)] == [1, 2, 3]


def test_the_destination_is_the_receivers_own_id(bus: CoreBus, sender: BusPeer) -> None:
    """R-8: of a multicast each receiver sees the node that it owns."""
    readers = [bus.peer() for _ in range(3)]
    nodes = (0x100, 0x40, 0)
    for reader in readers:
        reader.transfer(0x1000)
    to = [reader.transfer(node, sender) for reader, node in zip(readers, nodes, strict=True)]
    sender.send(to[::-1])
    assert [reader.recv().destination for reader in readers] == list(nodes)


def test_offset_and_length_are_those_of_the_payload(
    sender: BusPeer, reader: BusPeer, memory: FlatMemory, to: int
) -> None:
    """R-9, L-3: one slice behind the other, each padded to 8; at least 8."""
    lengths = (0, 1, 7, 8, 9, 16, 4093)
    for number, length in enumerate(lengths):
        sender.send([to], bytes([number]) * length)
    seen = [reader.recv() for _ in lengths]
    assert [m.n_bytes for m in seen] == list(lengths)
    assert [m.offset for m in seen] == [0, 8, 16, 24, 32, 48, 64]
    for number, m in enumerate(seen):
        assert memory.at(m.offset, m.n_bytes) == bytes([number]) * m.n_bytes


# ---- PEEK ------------------------------------------------------------------------------------------


def test_peek_leaves_the_message(bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int) -> None:
    """R-10: the next call sees the same one, and only RECV comes to the one behind it."""
    sender.send([to], b"1")
    sender.send([to], b"22")
    seen = [reader.recv(PEEK), reader.recv(PEEK), reader.recv(), reader.recv(PEEK), reader.recv()]
    assert [m.n_bytes for m in seen] == [1, 1, 1, 2, 2]
    assert not reader.is_readable()


def test_peek_has_all_effects_each_time(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, memory: FlatMemory, to: int
) -> None:
    """R-11, R-14: references, descriptors, and the array in the slice, which is not released in between."""
    sender.send([to], b"payload", handles=[0x100, 0x200, 0x100], fds=[70, 71])
    for count in (1, 2):
        peeked = reader.recv(PEEK | INSTALL_FDS)
        assert peeked.fds == (70, 71) and bus.core.take_freed_fds() == []
        first, second, _ = peeked.handles
        assert (reader.references(first), reader.references(second)) == (2 * count, count)
    for _ in range(4):
        reader.release(first)
    assert not sender.is_readable()
    last = reader.recv(INSTALL_FDS)
    assert last.offset == peeked.offset and last.fds == (70, 71)
    assert last.handles == (second + 8, second, second + 8)
    assert memory.at(last.offset, 32) == b"payload\0" + pack("<3Q", *last.handles)
    assert bus.core.take_freed_fds() == [70, 71]
    for _ in range(3):
        assert not sender.is_readable()
        reader.release(second)
    assert sender.recv().destination == 0x200


def test_each_peek_charges_the_handles_that_it_delivers(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int
) -> None:
    """R-12, Q-13: dead ones cost nothing; RECV takes over what the send charged, and returns theirs."""
    sender.destroy(0x200)
    held = reader.used("handles")
    sender.send([to], handles=[0x100, 0x200, 0x300])
    assert reader.used("handles") == held + 3
    reader.recv(PEEK)
    assert reader.used("handles") == held + 5
    reader.reset(max_handles=held + 6)
    with Unchanged(bus, QuotaExceeded):
        reader.recv(PEEK)
    reader.reset(max_handles=held + 7)
    reader.recv(PEEK)
    assert reader.used("handles") == held + 7
    reader.recv()
    assert reader.used("handles") == held + 6


@pytest.mark.parametrize("peeks", [1, 3])
def test_peek_and_recv_leave_one_slice(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, memory: FlatMemory, to: int, peeks: int
) -> None:
    """R-13, R-14: released in between, the slice is published again at its place."""
    sender.send([to], b"payload", handles=[0x100], fds=[7])
    offsets = {reader.recv(PEEK | INSTALL_FDS).offset for _ in range(peeks)}
    (offset,) = offsets
    reader.free(offset)
    sender.send([to], b"another")
    message = reader.recv(INSTALL_FDS)
    assert message.offset == offset and memory.at(offset, 8) == b"payload\0"
    reader.free(reader.recv().offset)
    assert reader.used("slices") == 1
    reader.free(offset)
    assert (reader.used("slices"), reader.used("bytes")) == (0, 0)


def test_a_peeked_notification_is_whole_and_stays(bus: CoreBus, sender: BusPeer, reader: BusPeer) -> None:
    """R-15, N-12: NODE_DESTROY is seen again; NODE_RELEASE may still be withdrawn."""
    reader.destroy(0x20)
    peeked = reader.recv(PEEK)
    assert peeked == reader.recv(PEEK) == reader.recv() and not reader.is_readable()
    assert peeked[:8] == (
        MessageType.NODE_DESTROY, MessageFlag(0), 0x20, 0xFFFF_FFFF, 0xFFFF_FFFF, 0, 0, OFFSET_INVALID,
    )
    sender.release(reader.transfer(0x10, sender))
    assert reader.recv(PEEK).type is MessageType.NODE_RELEASE
    reader.transfer(0x10, sender)
    with Unchanged(bus, WouldBlock):
        reader.recv()


# ---- CONTINUE --------------------------------------------------------------------------------------


def test_continue_says_that_more_of_the_transaction_follows(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int
) -> None:
    """R-20, R-22: value 2, on all but the last; for PEEK as well; another transaction is another one."""
    nodes = [to, *(reader.transfer(node, sender) for node in (0x20, 0x30))]
    sender.send([to], b"1")
    sender.send(nodes, b"22")
    sender.send(nodes[:2], b"333")
    seen = []
    while reader.is_readable():
        peeked, received = reader.recv(PEEK), reader.recv()
        assert peeked.flags == received.flags
        seen.append((received.n_bytes, int(received.flags)))
    assert seen == [(1, 0), (2, 2), (2, 2), (2, 0), (3, 2), (3, 0)]


def test_continue_is_decided_by_what_stands_behind_at_dequeue(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int
) -> None:
    """R-21, R-23: not by what was sent. The middle one is gone, then the last one."""
    nodes = [to, *(reader.transfer(node, sender) for node in (0x20, 0x30))]
    sender.send(nodes)
    reader.destroy(0x20, flags=DestroyFlag.RELEASE_HANDLES)
    assert reader.recv(PEEK).flags == MessageFlag.CONTINUE
    reader.destroy(0x30, flags=DestroyFlag.RELEASE_HANDLES)
    assert reader.recv().flags == 0
    assert not reader.is_readable()


def test_messages_of_a_transaction_become_visible_together_and_stay_adjacent(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int
) -> None:
    """R-22: for the notifications of one call too, at owner and holder."""
    nodes = [to, *(reader.transfer(node, sender) for node in (0x20, 0x30))]
    bus.core.take_woken()
    sender.send(nodes, b"1")
    assert bus.core.take_woken() == [reader.number] and len(reader.state()["queue"]) == 3
    reader.send([0x40], b"22")
    reader.destroy(0x20, 0x30)
    reader.send([0x40], b"333")
    kinds = [(int(m.type), m.n_bytes, int(m.flags)) for m in drain(reader)]
    assert kinds == [(1, 1, 2), (1, 1, 2), (1, 1, 0), (1, 2, 0), (2, 0, 2), (2, 0, 0), (1, 3, 0)]
    assert [(int(m.type), int(m.flags)) for m in drain(sender)] == [(2, 2), (2, 0)]


# ---- descriptors -----------------------------------------------------------------------------------


def test_without_install_fds_none_is_told_and_none_is_left(
    bus: CoreBus, sender: BusPeer, reader: BusPeer, to: int
) -> None:
    """R-31, R-32: a PEEK without it loses nothing, a RECV without it all."""
    sender.send([to], fds=[70, 71])
    assert reader.recv(PEEK).fds == () and bus.core.take_freed_fds() == []
    assert reader.recv(PEEK | INSTALL_FDS).fds == (70, 71) and bus.core.take_freed_fds() == []
    assert reader.recv().fds == () and bus.core.take_freed_fds() == [70, 71]


# ---- the slice -------------------------------------------------------------------------------------


def up(n: int) -> int:
    return (n + 7) // 8 * 8


@pytest.mark.parametrize(
    ("n_bytes", "n_handles", "n_fds", "context"), [*product((0, 5, 8), (0, 2), (0, 3), (None, b"", b"label"))]
)
@pytest.mark.parametrize("install", [True, False])
def test_the_slice_is_laid_out_as_the_page_says(
    sender: BusPeer, reader: BusPeer, memory: FlatMemory, to: int, n_bytes: int, n_handles: int,
    n_fds: int, context: bytes | None, install: bool,
) -> None:
    """R-30, R-40, R-41, R-42, R-43, R-44: each part at a multiple of 8, the rest zero, in a used pool."""
    reader.reset(peer_flags=PeerFlag.WANT_SECCTX)
    payload = bytes(range(1, n_bytes + 1))
    sender.send(
        [to], payload, handles=[0x100 + 8 * i for i in range(n_handles)],
        fds=[70 + i for i in range(n_fds)], secctx=context,
    )
    message = reader.recv(INSTALL_FDS if install else 0)
    assert message.size == max(8, up(n_bytes) + 8 * n_handles + up(4 * n_fds) + up(len(context or b"")))
    expected = bytearray(message.size)
    expected[:n_bytes] = payload
    start = up(n_bytes)
    expected[start : start + 8 * n_handles] = pack(f"<{n_handles}Q", *message.handles)
    start += 8 * n_handles + up(4 * len(message.fds))
    expected[start : start + len(context or b"")] = context or b""
    assert len(message.fds) == (n_fds if install else 0)
    assert memory.at(message.offset, message.size) == bytes(expected)


def test_room_for_the_label_is_taken_whether_it_is_wanted_or_not(
    sender: BusPeer, reader: BusPeer, memory: FlatMemory, to: int
) -> None:
    """R-42, R-43: and shows nothing."""
    sender.send([to], b"payload", secctx=b"0123456789")
    message = reader.recv()
    assert (message.secctx, message.size) == (None, 24)
    assert memory.at(message.offset, 24) == b"payload\0" + bytes(16)


def test_dead_nodes_are_invalid_entries_that_count(
    sender: BusPeer, reader: BusPeer, memory: FlatMemory, to: int
) -> None:
    """R-45: in the answer and in the slice."""
    sender.destroy(0x200)
    sender.send([to], handles=[0x200, 0x100, 0x200])
    message = reader.recv()
    assert message.handles == (HANDLE_INVALID, 0xB, HANDLE_INVALID)
    assert memory.at(message.offset, 24) == pack("<3Q", *message.handles)
