"""What RECV hands out: looked at, taken, or left for want of room."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import two_peers
from child import Child
from native_bus import InProcessBus, NativeBus
from polls import BOTH, with_poll
from shortage import n_descriptors, room_for
from two_peers import PATIENCE, drained, only_socket, text

from bus1.core.api import OFFSET_INVALID, MessageFlag, MessageType, RecvFlag
from bus1.errors import NoSuchHandle, OutOfRange, QuotaExceeded, TooManyDescriptors, WouldBlock
from bus1.peer import Peer

native_bus, bus, untouched = two_peers.native_bus, two_peers.bus, two_peers.untouched
p, q, to_q, pipe = two_peers.p, two_peers.q, two_peers.to_q, two_peers.pipe

PEEK, INSTALL_FDS, CONTINUE = RecvFlag.PEEK, RecvFlag.INSTALL_FDS, MessageFlag.CONTINUE


@pytest.mark.parametrize("size", [5, 100_000])
def test_a_look_has_every_effect_and_leaves_the_message(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int], size: int
) -> None:
    """R-10, R-11, R-13: references and descriptors each time, the slice once."""
    p.send([to_q], b"m" * size, [0x100, 0x200, 0x100], [pipe[0], pipe[1]])
    looks = [q.recv(PEEK | INSTALL_FDS), q.recv(PEEK), q.recv(PEEK | INSTALL_FDS), q.recv()]
    assert [len(message.fds) for message in looks] == [2, 0, 2, 2]
    numbers = [fd for message in looks for fd in message.fds]
    assert len(set(numbers)) == 6
    for message in looks:
        assert (message.offset, message.n_bytes, message.size) == (
            looks[0].offset, size, (size + 7 & -8) + 24 + 8
        )
        assert bytes(message.payload) == b"m" * size
        assert message.handles == looks[0].handles
        for fd, end in zip(message.fds, pipe, strict=False):
            assert os.fstat(fd) == os.fstat(end)
    first, second, third = looks[0].handles
    assert first == third != second
    for handle, references in ((first, 8), (second, 4)):
        for _ in range(references):
            q.release(handle)
        with pytest.raises(NoSuchHandle):
            q.release(handle)
    with pytest.raises(WouldBlock):
        q.recv()
    looks[0].release()
    with pytest.raises(NoSuchHandle):
        q.release_slice(looks[0].offset)
    for message in looks:
        message.release()


def test_look_first_and_install_later(p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]) -> None:
    """R-30, R-31, R-32, R-13: without INSTALL_FDS a look costs no descriptor; the slice may go in between."""
    p.send([to_q], b"m", fds=[pipe[0]])
    with q.recv(PEEK) as look:
        offset = look.offset
        assert len(look.fds) == 0
    with pytest.raises(NoSuchHandle):
        q.release_slice(offset)
    with q.recv() as message:
        assert (message.offset, bytes(message.payload)) == (offset, b"m")
        assert os.fstat(message.fds[0]) == os.fstat(pipe[0])
        assert not os.get_inheritable(message.fds[0])


def test_a_look_charges_the_handles_anew(p: Peer, q: Peer, to_q: int) -> None:
    """R-12, R-5: there may be no room for a look, but there is for the message."""
    p.send([to_q], b"m", [0x100])
    q.reset(max_handles=0)
    with pytest.raises(QuotaExceeded):
        q.recv(PEEK)
    assert with_poll(q) == BOTH
    with q.recv() as message:
        q.release(message.handles[0])
        with pytest.raises(NoSuchHandle):
            q.release(message.handles[0])


def test_a_look_at_a_notification_leaves_it(p: Peer, q: Peer) -> None:
    """R-15, N-12: and it may be cancelled yet."""
    handle = p.transfer(0x100, q)
    q.release(handle)
    for _ in range(2):
        look = p.recv(PEEK)
        assert (look.type, look.destination, look.offset) == (MessageType.NODE_RELEASE, 0x100, OFFSET_INVALID)
    p.transfer(0x100, q)
    with pytest.raises(WouldBlock):
        p.recv(PEEK)


def test_a_look_at_one_of_several_says_that_more_follow(p: Peer, q: Peer, to_q: int) -> None:
    """R-20, R-21, R-22, R-10."""
    p.send([to_q, q.transfer(0x20, p)], b"both")
    p.send([to_q], b"other")
    seen = [q.recv(flags) for flags in (PEEK, 0, PEEK, 0, PEEK, 0)]
    assert [message.flags & CONTINUE for message in seen] == [CONTINUE, CONTINUE, 0, 0, 0, 0]
    assert {message.destination for message in seen[:4]} == {0x10, 0x20}
    for message in seen[1::2]:
        message.release()


def test_a_message_beyond_max_offset_stays(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-4, R-5, R-42: equal is enough; nothing has changed before; notifications lie nowhere."""
    for fds in ([], [pipe[0]]):
        p.send([to_q], b"12345", [0x100], fds)
        end = 16 + (8 if fds else 0)
        before = bus.snapshot()
        for flags in (0, PEEK, INSTALL_FDS, PEEK | INSTALL_FDS):
            with pytest.raises(OutOfRange):
                q.recv(flags, end - 1)
        with pytest.raises(OutOfRange):
            q.recv(max_offset=0)
        assert bus.snapshot() == before
        with q.recv(max_offset=end) as message:
            assert (message.offset, message.size, len(message.fds)) == (0, end, len(fds))
    q.release(p.transfer(0x300, q))
    assert p.recv(max_offset=0).type is MessageType.NODE_RELEASE


@pytest.mark.parametrize("size", [5, 100_000])
@pytest.mark.parametrize("flags", [INSTALL_FDS, INSTALL_FDS | PEEK])
def test_a_full_table_changes_nothing_and_the_same_message_comes_whole(
    bus: InProcessBus | NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int], size: int,
    flags: RecvFlag,
) -> None:
    """R-5, R-33, T-31: 256 descriptors, all or none."""
    p.send([to_q], bytes(size), [0x100], [pipe[0]] * 255 + [pipe[1]])
    p.send([to_q], b"next")
    before, own = bus.snapshot(), n_descriptors()
    for n in (0, 1, 100, 200):
        with room_for(n), pytest.raises(TooManyDescriptors) as caught:
            q.recv(flags)
        assert caught.value.errno in (errno.EMFILE, errno.ENFILE)
    assert n_descriptors() <= own
    assert bus.snapshot() == before
    assert with_poll(q) == BOTH
    with q.recv() as message:
        assert (message.n_bytes, len(message.handles), len(message.fds)) == (size, 1, 256)
        assert os.fstat(message.fds[0]) == os.fstat(message.fds[254]) == os.fstat(pipe[0])
        assert os.fstat(message.fds[255]) == os.fstat(pipe[1])
    assert drained(q) == [b"next"]


def test_a_full_table_does_not_matter_to_who_wants_no_descriptors(
    p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-30, R-32."""
    p.send([to_q], b"m", fds=[pipe[0]] * 30)
    with room_for(10):
        assert text(q.recv(0)) == b"m"


@only_socket
def test_what_one_holder_has_no_room_for_another_takes(
    bus: NativeBus, p: Peer, q: Peer, to_q: int, pipe: tuple[int, int]
) -> None:
    """R-33, P-2, R-30: descriptors go into the process that calls."""

    def work(sock: socket.socket) -> None:
        with q.recv(timeout=PATIENCE) as message:
            assert len(message.fds) == 100 and os.fstat(message.fds[99]) == os.fstat(pipe[0])
            os.write(message.fds[0], b"taken")

    p.send([to_q], b"m", fds=[pipe[1]] + [pipe[0]] * 99)
    with room_for(20), pytest.raises(TooManyDescriptors):
        q.recv()
    assert Child(work).end() == 0
    assert os.read(pipe[0], 9) == b"taken"
    with pytest.raises(WouldBlock):
        q.recv()
