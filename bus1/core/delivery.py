"""delivery: from the front of a queue to the peer.

Theory. Taking a message turns its in-flight references into user references, in one step so that U
never dips (N-11), publishes its slice, lowers the sender's shares (Q-8) and hands the descriptors
out or drops them (R-32). PEEK has the same effects, but counts and charges anew and leaves the
message (R-11, R-12). The seed is received by the same code from its own place (S-6 … S-10).

Where the peer reads the pool itself, what follows the payload is written at each receive: handle ids,
zeros for descriptor numbers that only the receiver can know, the security context behind what is
*reported* (R-40 … R-44), and zeros up to the end.

Invariants. 1. What may fail (ERANGE, EDQUOT of PEEK) comes before any effect (R-5).

Not here: the layout's size (``transaction``).
"""

from __future__ import annotations

from struct import pack

from ..errors import InvalidArgument, OutOfRange, WouldBlock
from .account import HANDLES
from .api import HANDLE_INVALID, OFFSET_INVALID, Ahead, Message, MessageFlag, MessageType, RecvFlag
from .objects import NEVER, Peer
from .queue import Entry, Instance, Notice

PEEK, SEED, INSTALL_FDS = int(RecvFlag.PEEK), int(RecvFlag.SEED), int(RecvFlag.INSTALL_FDS)
FLAGS = tuple(MessageFlag(bits) for bits in range(4))
HAS_SECCTX, CONTINUE = int(MessageFlag.HAS_SECCTX), int(MessageFlag.CONTINUE)
NOBODY = 0xFFFF_FFFF


def receive(peer: Peer, flags: int, max_offset: int) -> Message:
    """The next message, or the seed; WouldBlock if there is none (§5)."""
    flags = int(flags)
    if flags & ~(PEEK | SEED | INSTALL_FDS):
        raise InvalidArgument(f"receive flags {flags:#x}")
    entry = peer.seed if flags & SEED else peer.queue.front()
    if entry is None:
        raise WouldBlock("no seed" if flags & SEED else "nothing queued")
    bits = 0
    if not flags & SEED:
        following = peer.queue.second()
        if following is not None and following.stamp == entry.stamp:
            bits = CONTINUE
    if isinstance(entry, Notice):
        return _take_notice(peer, entry, flags, bits)
    slice_ = entry.slice
    if slice_.offset + slice_.size > max_offset:
        raise OutOfRange(f"the message ends at {slice_.offset + slice_.size}")
    handles = _install_handles(peer, entry, flags) if entry.nodes else ()
    fds = entry.fds.numbers if entry.fds is not None and flags & INSTALL_FDS else ()
    peer.pool.publish(slice_)
    if not peer.pool.memory.shares_buffers:
        _write_tail(peer, entry, handles, len(fds))
    node, secctx = entry.node, entry.secctx
    credentials = entry.credentials if peer.view is None else peer.view.of(entry.credentials)
    if secctx is not None:
        bits |= HAS_SECCTX
    if not flags & PEEK:
        _take(peer, entry, len(handles) - handles.count(HANDLE_INVALID))
    return Message(
        MessageType.DATA, FLAGS[bits], HANDLE_INVALID if node is None else peer.ids.ids[node],
        credentials.uid, credentials.gid, credentials.pid, credentials.tid,
        slice_.offset, entry.n_bytes, handles, fds, secctx, slice_.size, slice_.serial,
    )


def look(peer: Peer, entry: Entry) -> Ahead:
    """What ``entry`` is, without any effect."""
    # what announces the end of a node may be queued behind the message that brings the handle to it
    destination = peer.ids.ids.get(entry.node, HANDLE_INVALID) if entry.node is not None else HANDLE_INVALID
    if isinstance(entry, Notice):
        return Ahead(entry.type, destination, 0, OFFSET_INVALID, 0, 0, 0, (), (), 0, entry.stamp)
    slice_ = entry.slice
    return Ahead(
        entry.type, destination, entry.sender, slice_.offset, entry.n_bytes, slice_.size, len(entry.nodes),
        entry.fds.numbers if entry.fds is not None else (),
        peer.pool.memory.read(slice_.offset) if peer.pool.memory.shares_buffers else (), entry.note,
        entry.stamp,
    )


def _take_notice(peer: Peer, notice: Notice, flags: int, bits: int) -> Message:
    node = notice.node
    if not flags & PEEK:
        peer.queue.remove(notice)
        if notice.type is MessageType.NODE_DESTROY:
            del node.notices[peer]
        else:
            node.release = None
    return Message(
        notice.type, FLAGS[bits], peer.ids.ids[node], NOBODY, NOBODY, 0, 0, OFFSET_INVALID, 0, (), (), None, 0
    )


def _take(peer: Peer, instance: Instance, kept: int) -> None:
    if instance.node is None:
        peer.seed = None
    else:
        peer.queue.remove(instance)
        del instance.node.addressed[instance]
    instance.charge.settle(kept)
    peer.pool.unpin(instance.slice)
    if instance.fds is not None:
        instance.fds.drop()


def _install_handles(peer: Peer, instance: Instance, flags: int) -> tuple[int, ...]:
    """Ids for the handle array, each with one more user reference; QuotaExceeded for PEEK alone."""
    seed = instance.node is None
    peer.sequencer.effort += len(instance.nodes)
    valid = [
        node.died == NEVER if seed
        else instance.stamp < node.died and (node.owner is not peer or peer in node.holders)
        for node in instance.nodes
    ]
    if flags & PEEK:
        peer.account.take(HANDLES, sum(valid))
    ids = []
    for node, is_valid in zip(instance.nodes, valid, strict=True):
        if flags & PEEK:
            if is_valid:
                node.rise()
        elif instance.stamp < node.died:
            if not seed:
                node.arrive(peer)
            if not is_valid:
                node.fall()
        ids.append(peer.hold(node) if is_valid else HANDLE_INVALID)
    return tuple(ids)


def _write_tail(peer: Peer, instance: Instance, handles: tuple[int, ...], n_fds: int) -> None:
    start = instance.n_bytes + 7 & -8
    room = instance.slice.size - start
    if room and (start or room > 8 or handles or instance.secctx):
        tail = pack(f"<{len(handles)}Q", *handles) + bytes(4 * n_fds + 7 & -8) + (instance.secctx or b"")
        peer.pool.write(instance.slice, start, tail.ljust(room, b"\0"))
