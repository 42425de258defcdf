"""model: the whole of bus1 as the clauses say it, in lists and loops.

Theory. One class has the commands of ``bus1.core.api`` by the same names. It keeps what there is
(``model_objects``) and works out the rest by looking at all of it: U(node) (N-11), charges and shares
(``model_quota``), where a slice fits (L-4), what must not be seen any more (``tidy``). A command checks
everything first and then changes something, so one that raises has changed nothing (E-3). It is slow, and
meant to be believed by reading it beside the reference.

All slices of a peer must fit into one segment: no message of 1 MiB or more, and little of anything.

Not here: descriptors of the kernel, memory that can run out, ``route``, ids of other namespaces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model_objects import NEVER, Data, Node, Peer, Slice, maxima, padded
from model_quota import HANDLES
from model_rules import Rules

from bus1.core.api import (
    FD_MAX,
    HANDLE_INVALID,
    KEEP,
    NO_LIMIT,
    OFFSET_INVALID,
    VEC_MAX,
    Credentials,
    Limits,
    Memory,
    Message,
    MessageFlag,
    MessageType,
    PeerState,
)
from bus1.errors import (
    AlreadyDestroyed,
    Bus1Error,
    Busy,
    ForeignNode,
    InvalidArgument,
    NodeDestroyed,
    NoSuchHandle,
    NotUnique,
    OutOfRange,
    QuotaExceeded,
    TooLarge,
    WouldBlock,
)

DATA, NODE_DESTROY, NODE_RELEASE = MessageType.DATA, MessageType.NODE_DESTROY, MessageType.NODE_RELEASE
FLUSH, FLUSH_SEED, RELEASE_HANDLES, CONTINUE, SEND_SEED, PEEK, SEED, INSTALL_FDS = 1, 2, 1, 1, 2, 1, 2, 4
WANT_SECCTX = 1
NOBODY = 0xFFFF_FFFF


class Model(Rules):
    """A bus."""

    # ---- peers -----------------------------------------------------------------------------------

    def peer_new(
        self, uid: int, memory: Memory | None = None, *, limits: Limits | None = None, overhead: int = 0
    ) -> int:
        """P-1, P-7."""
        if not self.peers_of(uid):  # a user comes with its first peer, and takes the maxima of then
            self.users[uid] = maxima(self.configured.get(uid, self.defaults))
        self.last_peer += 1
        own = maxima(limits) if limits else list(self.users[uid])  # P-22
        shares_buffers = memory is None or memory.shares_buffers
        self.peers[self.last_peer] = Peer(self.last_peer, uid, shares_buffers, overhead, own)
        return self.last_peer

    def peer_disconnect(self, peer: int) -> None:
        """P-10, P-15: all is flushed, and later operations fail (``peer``)."""
        gone = self.peer(peer)
        self.flush(gone, ())
        self.drop_all(gone.seeds)
        del self.peers[peer]
        if not self.peers_of(gone.uid):
            del self.users[gone.uid]
        self.tidy()

    def peer_query(self, peer: int) -> PeerState:
        """P-20, P-21."""
        asked = self.peer(peer)
        return PeerState(asked.flags, Limits(*asked.limits))

    def peer_reset(
        self, peer: int, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP,
        max_handles: int = KEEP, max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """P-30 … P-37."""
        found = self.peer(peer)
        wanted = [max_slices, max_handles, max_inflight_bytes, max_inflight_fds]
        if flags not in (0, FLUSH, FLUSH_SEED, FLUSH | FLUSH_SEED):  # P-30
            raise InvalidArgument
        if peer_flags not in (KEEP, 0, WANT_SECCTX):  # P-31
            raise InvalidArgument
        for limit in wanted:
            if limit != KEEP and limit > 2147483647:  # P-32
                raise InvalidArgument
        for i, limit in enumerate(wanted):
            if limit != KEEP:
                found.limits[i] = limit
        if peer_flags != KEEP:
            found.flags = peer_flags
        if flags & FLUSH:
            pinned = [node for seed in found.seeds for node in seed.nodes if node.owner is found]  # S-12
            self.flush(found, () if flags & FLUSH_SEED else pinned)  # P-37
        if flags & FLUSH_SEED:
            self.drop_all(found.seeds)  # S-11
        self.tidy()

    def set_user_limits(self, uid: int, limits: Limits) -> None:
        """Q-1: the maxima of a user are a parameter of the bus."""
        self.configured[uid] = limits
        if uid in self.users:
            self.users[uid] = maxima(limits)

    # ---- handles and nodes -----------------------------------------------------------------------

    def handle_transfer(self, source: int, handle: int, destination: int) -> int:
        """H-50 … H-58, in the order of H-52."""
        giver, taker = self.peer(source), self.peer(destination)
        fresh: dict[int, Node] = {}
        node = self.resolve(giver, handle, fresh)
        if node.died != NEVER:
            return HANDLE_INVALID  # H-56
        self.take_handles(taker, *[giver for _ in fresh])  # H-57, H-24
        self.create(giver, fresh)
        number = self.add_reference(taker, node)
        self.tidy()
        return number

    def handle_release(self, peer: int, handle: int) -> None:
        """H-40 … H-45."""
        holder = self.peer(peer)
        found = holder.handle(handle)
        if found is None:
            raise NoSuchHandle if handle & 3 else Busy  # H-41, H-44
        if found.node.owner is holder and found.node.died == NEVER and found.references == 1:
            raise Busy  # H-43
        self.drop_references(holder, found, 1)
        self.tidy()

    def node_destroy(self, peer: int, nodes: Sequence[int], flags: int = 0) -> None:
        """H-60 … H-68."""
        owner = self.peer(peer)
        if flags not in (0, RELEASE_HANDLES):  # H-60, H-66
            raise InvalidArgument
        if len(nodes) > self.users[owner.uid][HANDLES]:  # H-61
            raise InvalidArgument
        fresh: dict[int, Node] = {}
        doomed: list[Node] = []
        for number in nodes:  # H-61: in the order of the list
            node = self.resolve(owner, number, fresh)
            if node in doomed:
                raise NotUnique
            if node.owner is not owner:
                raise ForeignNode
            if node.died != NEVER:
                raise AlreadyDestroyed
            doomed.append(node)
        self.take_handles(*[owner for _ in fresh])
        self.create(owner, fresh)  # H-62
        self.destroy(doomed)
        for node in doomed if flags else []:  # H-66
            handle = owner.handle_to(node)
            assert handle is not None
            self.drop_references(owner, handle, 1)
        self.tidy()

    def slice_release(self, peer: int, offset: int, *, serial: int = 0, unmapped: bool = True) -> None:
        """L-7, L-8; a serial that is not 0 must be that of the publication."""
        reader = self.peer(peer)
        meant = [slice_ for slice_ in reader.published if serial in (0, slice_.serial)]
        if offset not in [slice_.offset for slice_ in meant]:
            raise NoSuchHandle
        reader.published = [slice_ for slice_ in reader.published if slice_.offset != offset]

    # ---- messages --------------------------------------------------------------------------------

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[bytes] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (), credentials: Credentials,
    ) -> list[int]:
        """§4, in the order of T-2; ``optional`` destinations never fail the call."""
        sender = self.peer(peer)
        if flags not in (0, CONTINUE, SEND_SEED) or (flags == SEND_SEED and (destinations or optional)):
            raise InvalidArgument  # T-3, T-4
        if len(parts) > VEC_MAX or len(fds) > FD_MAX:
            raise TooLarge  # T-11, T-31
        if len(destinations) + len(optional) > self.users[sender.uid][HANDLES]:
            raise InvalidArgument  # T-2, T-7
        fresh: dict[int, Node] = {}
        nodes = [self.resolve(sender, number, fresh) for number in handles]  # T-21, T-22
        errors: list[int] = []

        def stage(node: Node | None) -> None:
            self.stage(sender, node, b"".join(parts), nodes, tuple(fds), credentials)

        try:
            if flags == SEND_SEED:
                stage(None)  # S-3
            seen: list[Node] = []
            for i, number in enumerate([*destinations, *optional]):
                try:
                    node = self.resolve(sender, number, fresh)  # T-41
                    if node in seen:
                        raise NotUnique  # T-42
                    seen.append(node)
                    stage(node)
                    errors.append(0)
                except Bus1Error as error:
                    is_remote = isinstance(error, NodeDestroyed | QuotaExceeded)  # T-55
                    if i < len(destinations) and not (flags == CONTINUE and is_remote):
                        raise  # T-50, T-51
                    errors.append(-error.errno)  # T-53
            self.take_handles(*[sender for _ in fresh])  # H-24
            staged = self.staged
        finally:
            self.staged = []
        self.commit(sender, fresh, staged)
        self.fds += fds
        self.tidy()
        return errors

    def stage(
        self, sender: Peer, node: Node | None, payload: bytes, nodes: list[Node], fds: tuple[int, ...],
        credentials: Credentials,
    ) -> None:
        """T-46: charge a message to its receiver and place it; without ``node`` it is a seed (S-3)."""
        if node is not None and node.died != NEVER:
            raise NodeDestroyed  # T-40
        reader = node.owner if node is not None else sender
        room = padded(len(credentials.secctx or b""))  # wanted or not
        size = max(8, padded(len(payload)) + 8 * len(nodes) + padded(4 * len(fds)) + room)
        charged = size + reader.overhead
        self.admit(reader, sender.uid, [1, len(nodes), charged, len(fds)])
        slice_ = Slice(self.place(reader, size), size, charged, payload)
        secctx = credentials.secctx if reader.flags & WANT_SECCTX else None  # P-52
        number = sender.number if node is not None else 0
        self.staged.append(
            Data(
                DATA, reader, node, 0, number, sender.uid, credentials, secctx, payload, list(nodes), fds,
                slice_,
            )
        )

    def commit(self, sender: Peer, fresh: dict[int, Node], staged: list[Data]) -> None:
        """T-56, G-6: one event; new nodes come into being with it (H-22)."""
        self.event += 1
        self.create(sender, fresh)
        for data in staged:
            data.stamp = self.event
            data.reader.has_segment = True
            if data.node is not None:
                data.reader.queue.append(data)
            else:
                old = list(sender.seeds)
                sender.seeds.append(data)
                for seed in old:
                    self.drop(sender.seeds, seed)  # S-2, S-11

    def recv(self, peer: int, flags: int = 0, max_offset: int = NO_LIMIT) -> Message:
        """§5."""
        reader = self.peer(peer)
        if flags & ~(PEEK | SEED | INSTALL_FDS):
            raise InvalidArgument
        queue: list[Any] = reader.seeds if flags & SEED else reader.queue
        if not queue:
            raise WouldBlock  # R-1, S-6
        entry = queue[0]
        more = len(queue) > 1 and queue[1].stamp == entry.stamp
        bits = MessageFlag.CONTINUE if more else MessageFlag(0)
        if isinstance(entry, Data):
            return self.recv_data(queue, entry, flags, bits, max_offset)
        destination = self.number_of(entry)
        if not flags & PEEK:
            del queue[0]
        return Message(
            entry.type, bits, destination, NOBODY, NOBODY, 0, 0, OFFSET_INVALID, 0, (), (), None, 0
        )  # N-2

    def recv_data(
        self, queue: list[Any], data: Data, flags: int, bits: MessageFlag, max_offset: int
    ) -> Message:
        """R-4, R-8 … R-13, R-30, R-31, R-40 … R-45."""
        reader, slice_ = data.reader, data.slice
        if slice_.offset + slice_.size > max_offset:
            raise OutOfRange
        valid = [self.is_valid(data, node) for node in data.nodes]
        if flags & PEEK:
            self.take_handles(*[reader for ok in valid if ok])
        destination = self.number_of(data)

        def deliver() -> tuple[int, ...]:
            if not flags & PEEK:
                queue.remove(data)  # R-10, S-7
            pairs = zip(data.nodes, valid, strict=True)
            return tuple(self.add_reference(reader, node) if ok else HANDLE_INVALID for node, ok in pairs)

        handles = self.changing(deliver)  # H-31, R-45
        fds = data.fds if flags & INSTALL_FDS else ()
        secctx, who = data.secctx, data.credentials
        if secctx is not None:
            bits |= MessageFlag.HAS_SECCTX  # P-53
        array = b"".join(number.to_bytes(8, "little") for number in handles)
        contents = data.payload.ljust(padded(len(data.payload)), b"\0") + array
        contents += bytes(padded(4 * len(fds))) + (secctx or b"")
        slice_.contents = contents.ljust(slice_.size, b"\0")
        if slice_ not in reader.published:
            reader.published.append(slice_)
            reader.last_serial += 1
            slice_.serial = reader.last_serial
        reader.is_exposed = True
        self.tidy()
        return Message(
            DATA, bits, destination, who.uid, who.gid, who.pid, who.tid, slice_.offset, len(data.payload),
            handles, fds, secctx, slice_.size, slice_.serial,
        )
