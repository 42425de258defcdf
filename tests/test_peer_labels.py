"""The security label of a sender, as a bus tells it that has labels."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import two_peers
from native_bus import NativeBus

from bus1.core.api import MessageFlag, PeerFlag, RecvFlag
from bus1.frames import ANSWER_PREFIX, REQUESTS, RESULTS, Event, Operation, encode
from bus1.peer import Peer

native_bus, bus, untouched = two_peers.native_bus, two_peers.bus, two_peers.untouched
p, q, to_q, pipe = two_peers.p, two_peers.q, two_peers.to_q, two_peers.pipe

PEEK, INSTALL_FDS, HAS_SECCTX = RecvFlag.PEEK, RecvFlag.INSTALL_FDS, MessageFlag.HAS_SECCTX
LABEL = b"system_u:system_r:some_t:s0"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeBus]:
    bus = NativeBus(tmp_path_factory.mktemp("labelled"), label=LABEL.decode())
    yield bus
    bus.close()


@pytest.mark.parametrize("size", [0, 5, 100_000])
@pytest.mark.parametrize("flags", [0, INSTALL_FDS])
def test_the_label_comes_to_who_wants_it_behind_handles_and_descriptors(
    labelled: NativeBus, pipe: tuple[int, int], size: int, flags: int
) -> None:
    """P-52, R-40, R-41, R-42, R-44: room for it is in every slice."""
    padded, room = size + 7 & -8, len(LABEL) + 7 & -8
    with labelled.peer() as p, labelled.peer() as q, labelled.peer() as r:
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        assert (q.query().peer_flags, r.query().peer_flags) == (PeerFlag.WANT_SECCTX, 0)
        to = [q.transfer(0x10, p), r.transfer(0x10, p)]
        p.send(to, b"m" * size, [0x100, 0x200], [pipe[0]] * 3)
        with q.recv(flags | PEEK) as look, q.recv(flags) as message, r.recv(flags) as plain:
            for wanted in (look, message):
                assert (wanted.flags, wanted.secctx) == (HAS_SECCTX, LABEL)
                assert wanted.handles == look.handles and len(wanted.handles) == 2
                assert bytes(wanted.payload) == b"m" * size
                assert wanted.size == padded + 16 + 16 + room
            assert (plain.flags, plain.secctx, plain.size) == (0, None, message.size)
            assert len(message.fds) == len(plain.fds) == (3 if flags else 0)


@pytest.mark.parametrize("flags", [0, INSTALL_FDS])
def test_the_label_lies_behind_the_descriptors_that_are_reported(
    labelled: NativeBus, pipe: tuple[int, int], flags: int
) -> None:
    """R-31, R-40, R-43, R-44, W-14: as the bytes of the slice; what is not used is zero."""
    with labelled.peer() as p, labelled.channel().open() as channel:
        with Peer.from_descriptor(channel.descriptor, labelled.address) as q:
            q.reset(peer_flags=PeerFlag.WANT_SECCTX)
            to_q = q.transfer(0x10, p)
        p.send([to_q], b"12345", [0x100, 0x200], [pipe[0]] * 3)
        channel.write(encode(Operation.RECV, 3, REQUESTS[Operation.RECV].pack(flags, 1 << 40, 0)))
        if flags:
            offer = channel.frame()
            assert (offer.operation, offer.tag, len(offer.fds)) == (Event.OFFER, 3, 3)
            offer.fds.close()
            channel.write(encode(Operation.INSTALLED, 3, REQUESTS[Operation.INSTALLED].pack(1)))
        answer = channel.frame()
        answer.fds.close()
        fixed = RESULTS[Operation.RECV]
        body = answer.body[ANSWER_PREFIX.size :]
        n_bytes, n_handles, n_fds, n_secctx, size = fixed.unpack_from(body)[8:13]
        slice_ = body[fixed.size :]
        assert (n_bytes, n_handles, n_fds, n_secctx) == (5, 2, 3 if flags else 0, len(LABEL))
        assert len(slice_) == size == 8 + 16 + 16 + (len(LABEL) + 7 & -8)
        at = 40 if flags else 24
        assert slice_[:8] == b"12345\0\0\0"
        assert slice_[24:at] == bytes(at - 24)
        assert slice_[at:] == LABEL.ljust(size - at, b"\0")


def test_whether_the_label_is_wanted_is_asked_when_the_message_is_sent(labelled: NativeBus) -> None:
    """P-52, P-50."""
    with labelled.peer() as p, labelled.peer() as q:
        to_q = q.transfer(0x10, p)
        p.send([to_q], b"before")
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        p.send([to_q], b"while")
        q.reset(peer_flags=0)
        p.send([to_q], b"after")
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        seen = [q.recv() for _ in range(3)]
        assert [message.secctx for message in seen] == [None, LABEL, None]
        assert [message.flags for message in seen] == [0, HAS_SECCTX, 0]
        assert {message.size for message in seen} == {8 + (len(LABEL) + 7 & -8)}


def test_an_empty_label_is_a_label(tmp_path_factory: pytest.TempPathFactory) -> None:
    """P-53: HAS_SECCTX is set, n_secctx is 0."""
    bus = NativeBus(tmp_path_factory.mktemp("empty"), label="")
    with bus.peer() as p, bus.peer() as q:
        q.reset(peer_flags=PeerFlag.WANT_SECCTX)
        p.send([q.transfer(0x10, p)], b"m", [0x100])
        with q.recv() as message:
            assert (message.flags, message.secctx, message.size) == (HAS_SECCTX, b"", 16)
    bus.close()


def test_without_a_label_in_the_kernel_nothing_is_attached(p: Peer, q: Peer, to_q: int) -> None:
    """P-53: no error."""
    q.reset(peer_flags=PeerFlag.WANT_SECCTX)
    p.send([to_q], b"m")
    with q.recv() as message:
        assert (message.flags, message.secctx, message.size) == (0, None, 8)
