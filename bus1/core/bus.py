"""bus: the Core waist, command by command.

Theory. See ``api`` for the contract. Each command here resolves, checks and charges first, then
applies what cannot fail. The nouns do the work: ``objects`` (peers, nodes, handles), ``transaction``
(messages on their way), ``delivery`` (receiving), ``pool``, ``account``, ``queue``, ``ids``.

Invariants. Those of ``api``.

Not here: anything that a peer could not observe.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

from ..errors import (
    AlreadyDestroyed,
    Bus1Error,
    Busy,
    ForeignNode,
    InvalidArgument,
    NodeDestroyed,
    NoSuchHandle,
    NotUnique,
    OutOfMemory,
    PeerShutdown,
    PoolFull,
    QuotaExceeded,
    TooLarge,
)
from ..memory import HeapMemory
from . import snapshot
from .account import HANDLES, Ledger
from .api import (
    HANDLE_INVALID,
    KEEP,
    NO_LIMIT,
    Ahead,
    Buffer,
    Credentials,
    DestroyFlag,
    Limits,
    Memory,
    Message,
    NodeRef,
    Parcel,
    PeerFlag,
    PeerState,
    ResetFlag,
    SendFlag,
    Usage,
    UserUsage,
)
from .delivery import look, receive
from .ids import may_name_node
from .objects import NEVER, Node, Peer, destroy
from .pool import Pool
from .queue import Instance
from .sequencer import Sequencer
from .straight import HandedOver, hand_over
from .transaction import Transaction, check_counts, payload_size, resolve
from .view import View

LIMIT_MAX = 0x7FFF_FFFF
REMOTE_ERRORS: tuple[type[Bus1Error], ...] = (NodeDestroyed, QuotaExceeded, PoolFull, TooLarge, OutOfMemory)
"""What may befall a single destination (T-55)."""
OPTIONAL_ERRORS = (*REMOTE_ERRORS, NoSuchHandle, NotUnique)
RELEASE_HANDLES = int(DestroyFlag.RELEASE_HANDLES)
CONTINUE, SEED = int(SendFlag.CONTINUE), int(SendFlag.SEED)
FLUSH, FLUSH_SEED = int(ResetFlag.FLUSH), int(ResetFlag.FLUSH_SEED)


class Core:
    """The bus1 state machine; see ``api.CoreApi``."""

    __slots__ = ("_ledger", "_numbers", "_peers", "_sequencer")

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008  (frozen)
        self._ledger = Ledger(limits)
        self._sequencer = Sequencer()
        self._peers: dict[int, Peer] = {}
        self._numbers = 0

    # ---- peers -----------------------------------------------------------------------------------

    def peer_new(
        self, uid: int, memory: Memory | None = None, *, limits: Limits | None = None, overhead: int = 0,
        view: View | None = None,
    ) -> int:
        """A new peer accounted to ``uid`` (P-1, P-7)."""
        number = self._numbers + 1
        account = self._ledger.open(uid, limits, overhead)
        try:
            pool = Pool(number, account, HeapMemory() if memory is None else memory, self._sequencer)
            self._peers[number] = Peer(number, account, pool, self._sequencer, view)
        except BaseException:
            self._ledger.close(account)
            raise
        self._numbers = number
        return number

    def peer_disconnect(self, peer: int) -> None:
        """P-10 … P-17."""
        gone = self._peer(peer)
        gone.flush(frozenset())
        gone.discard_seed()
        gone.pool.close()
        self._ledger.close(gone.account)
        del self._peers[peer]
        self._sequencer.retired = [entry for entry in self._sequencer.retired if entry[0] != peer]

    def peer_query(self, peer: int) -> PeerState:
        """P-20 … P-22."""
        found = self._peer(peer)
        return PeerState(found.flags, Limits(*found.account.limits))

    def peer_reset(
        self, peer: int, flags: int = 0, peer_flags: int = KEEP, *, max_slices: int = KEEP,
        max_handles: int = KEEP, max_inflight_bytes: int = KEEP, max_inflight_fds: int = KEEP,
    ) -> None:
        """P-30 … P-37."""
        found = self._peer(peer)
        flags = int(flags)
        if flags & ~(FLUSH | FLUSH_SEED):
            raise InvalidArgument(f"reset flags {flags:#x}")
        if peer_flags not in (KEEP, 0, PeerFlag.WANT_SECCTX):
            raise InvalidArgument(f"peer flags {peer_flags:#x}")
        maxima = (max_slices, max_handles, max_inflight_bytes, max_inflight_fds)
        if not all(limit == KEEP or 0 <= limit <= LIMIT_MAX for limit in maxima):
            raise InvalidArgument(f"limits {maxima}")
        if peer_flags != KEEP:
            found.flags = int(peer_flags)
        limits = found.account.limits
        limits[:] = [old if new == KEEP else new for old, new in zip(limits, maxima, strict=True)]
        if flags & FLUSH:
            pinned = () if flags & FLUSH_SEED or found.seed is None else found.seed.nodes
            found.flush(frozenset(node for node in pinned if node.owner is found))
        if flags & FLUSH_SEED:
            found.discard_seed()

    # ---- handles and nodes -----------------------------------------------------------------------

    def handle_transfer(self, source: int, handle: int, destination: int) -> int:
        """H-50 … H-58."""
        giver = self._peer(source)
        taker = self._peer(destination)
        fresh: dict[int, Node] = {}
        node = resolve(giver, handle, fresh)
        if node.died != NEVER:
            return HANDLE_INVALID
        taker.account.take(HANDLES, 1)
        if fresh:
            try:
                giver.account.take(HANDLES, 1)
            except BaseException:
                taker.account.give(HANDLES, 1)
                raise
            giver.own(node, handle)
        node.rise()
        return taker.hold(node)

    def handle_release(self, peer: int, handle: int) -> None:
        """H-40 … H-45."""
        holder = self._peer(peer)
        found = holder.ids.handles.get(handle)
        if found is None:
            if may_name_node(handle):
                raise Busy(f"{handle:#x} would be an own live node")
            raise NoSuchHandle(f"no handle {handle:#x}")
        node = found.node
        if node.owner is holder and node.died == NEVER and found.references == 1:
            raise Busy(f"the pinned reference of node {handle:#x}")
        holder.release(found)
        if node.owner is holder and not found.references:
            holder.forsake((node,))

    def node_destroy(self, peer: int, nodes: Sequence[int], flags: int = 0) -> None:
        """H-60 … H-68."""
        owner = self._peer(peer)
        flags = int(flags)
        if flags & ~RELEASE_HANDLES:
            raise InvalidArgument(f"destroy flags {flags:#x}")
        if len(nodes) > owner.account.user.limits[HANDLES]:
            raise InvalidArgument(f"{len(nodes)} nodes")
        fresh: dict[int, Node] = {}
        doomed: dict[Node, None] = {}
        for number in nodes:
            node = resolve(owner, number, fresh)
            if node in doomed:
                raise NotUnique(f"node {number:#x} twice")
            if node.owner is not owner:
                raise ForeignNode(f"{number:#x} is not an own node")
            if node.died != NEVER:
                raise AlreadyDestroyed(f"node {number:#x}")
            doomed[node] = None
        owner.account.take(HANDLES, len(fresh))
        for number, node in fresh.items():
            owner.own(node, number)
        destroy(doomed.keys(), self._sequencer.draw())
        if flags:
            for node in doomed:
                owner.release(node.holders[owner])
            owner.forsake([node for node in doomed if owner not in node.holders])

    # ---- messages --------------------------------------------------------------------------------

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer] = (),
        handles: Sequence[int] = (), fds: Sequence[int] = (), *, flags: int = 0,
        optional: Sequence[int] = (), credentials: Credentials,
    ) -> list[int]:
        """One transaction (§4)."""
        sender = self._peer(peer)
        transaction, seed, slots = self._collect(
            sender, destinations, tuple(parts), 0, handles, fds, int(flags), optional, credentials
        )
        transaction.commit()
        if seed is not None:
            sender.discard_seed()
            sender.seed = seed
        return slots

    def rehearse(
        self, peer: int, destinations: Sequence[int], n_bytes: int, handles: Sequence[int] = (),
        fds: Sequence[int] = (), *, flags: int = 0, optional: Sequence[int] = (), credentials: Credentials,
    ) -> bool:
        """What ``send`` would do with so many bytes."""
        sender = self._peer(peer)
        transaction, seed, slots = self._collect(
            sender, destinations, (), n_bytes, handles, fds, int(flags), optional, credentials
        )
        transaction.cancel()
        sender.account.give(HANDLES, len(transaction.fresh))
        return seed is not None or 0 in slots

    def _collect(
        self, sender: Peer, destinations: Sequence[int], parts: Sequence[Buffer], blank: int,
        handles: Sequence[int], fds: Sequence[int], flags: int, optional: Sequence[int],
        credentials: Credentials,
    ) -> tuple[Transaction, Instance | None, list[int]]:
        """All of ``send`` that may fail; ``blank`` bytes of the payload are not there."""
        if flags not in (0, CONTINUE, SEED) or (flags == SEED and (destinations or optional)):
            raise InvalidArgument(f"send flags {flags:#x}")
        check_counts(parts, fds)
        mandatory = len(destinations)
        if mandatory + len(optional) > sender.account.user.limits[HANDLES]:
            raise InvalidArgument(f"{mandatory + len(optional)} destinations")
        n_bytes = payload_size(parts) + blank
        transaction = Transaction(sender, fds, credentials)
        tolerated = REMOTE_ERRORS if flags == CONTINUE else ()
        seed: Instance | None = None
        slots: list[int] = []
        seen: set[Node] = set()
        try:
            nodes = tuple(map(transaction.resolve, handles)) if handles else ()
            if flags == SEED:
                seed = transaction.stage_seed(parts, n_bytes, nodes)
            for number in (*destinations, *optional):
                if len(slots) == mandatory:
                    tolerated = OPTIONAL_ERRORS
                try:
                    node = transaction.resolve(number)
                    if node in seen:
                        raise NotUnique(f"destination {number:#x} twice")
                    seen.add(node)
                    transaction.stage(node, parts, n_bytes, nodes)
                    slots.append(0)
                except tolerated as error:
                    slots.append(-error.errno)
            transaction.charge_fresh()
        except BaseException:
            transaction.cancel()
            raise
        return transaction, seed, slots

    def route(
        self, sender: int, parcels: Sequence[Parcel], fds: Sequence[int] = (), *, credentials: Credentials
    ) -> list[int]:
        """One transaction to nodes (privileged)."""
        check_counts((), fds)
        transaction = Transaction(self._peer(sender), fds, credentials)
        slots: list[int] = []
        measured: Sequence[Buffer] = ()
        n_bytes = 0
        try:
            for parcel in parcels:
                if parcel.parts is not measured:
                    measured = parcel.parts
                    check_counts(measured, ())
                    n_bytes = payload_size(measured)
                nodes = tuple(map(transaction.resolve, parcel.handles)) if parcel.handles else ()
                try:
                    node = self._node(parcel.node)
                    if node is None:
                        raise NodeDestroyed(f"no node {parcel.node}")
                    transaction.stage(node, measured, n_bytes, nodes, parcel.with_fds, parcel.note)
                    slots.append(0)
                except REMOTE_ERRORS as error:
                    if parcel.mandatory:
                        raise
                    slots.append(-error.errno)
            transaction.charge_fresh()
        except BaseException:
            transaction.cancel()
            raise
        transaction.commit()
        return slots

    def hand_over(
        self, peer: int, number: int, payload: bytes, handles: tuple[int, ...], credentials: Credentials,
        max_offset: int, max_size: int, *, is_answer: bool,
    ) -> HandedOver | None:
        """``send``, its receiver's ``recv`` and ``slice_release`` in one step; None: not in this way."""
        return hand_over(
            self._peer(peer), number, payload, handles, credentials, max_offset, max_size, is_answer=is_answer
        )

    def recv(self, peer: int, flags: int = 0, max_offset: int = NO_LIMIT) -> Message:
        """The next message, or the seed (§5)."""
        return receive(self._peer(peer), flags, max_offset)

    def slice_release(self, peer: int, offset: int, *, serial: int = 0, unmapped: bool = True) -> None:
        """L-7 … L-10."""
        self._peer(peer).pool.release(offset, serial, unmapped)

    def segment_unmapped(self, peer: int, generation: int) -> None:
        """The charge of a retired segment returns."""
        self._peer(peer).pool.unmapped(generation)

    # ---- look-ups --------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """The whole state as plain data."""
        return snapshot.of_bus(self._numbers, self._sequencer, self._ledger, self._peers)

    def ahead(self, peer: int, limit: int = 1) -> list[Ahead]:
        """Up to ``limit`` entries from the front, in order."""
        found = self._peer(peer)
        if not found.queue.entries:
            return []
        return [look(found, entry) for entry in islice(found.queue.entries, limit)]

    def seed_ahead(self, peer: int) -> Ahead | None:
        """What the seed is."""
        found = self._peer(peer)
        return None if found.seed is None else look(found, found.seed)

    def is_readable(self, peer: int) -> bool:
        """Something is queued (P-41); exact, as nothing undeliverable stays queued."""
        found = self._peers.get(peer) or self._peer(peer)
        return bool(found.queue.entries)

    def node_of(self, peer: int, handle: int) -> NodeRef | None:
        """The live node behind a handle."""
        found = self._peer(peer).ids.handles.get(handle)
        if found is None or found.node.died != NEVER:
            return None
        owner = found.node.owner
        return owner.number, owner.ids.ids[found.node]

    def queued(self, sender: int, reader: int) -> Usage:
        """What ``sender`` has undelivered at ``reader``; the sender may be gone."""
        return self._peer(reader).account.queued(sender)

    def waiting(self, reader: int) -> Usage:
        """What everybody has undelivered at ``reader``."""
        return self._peer(reader).account.waiting()

    def users(self) -> dict[int, UserUsage]:
        """Every user that has peers."""
        return {
            uid: UserUsage(
                tuple(user.used), tuple(user.limits),
                {other: tuple(share) for other, share in user.shares.items()},
            )
            for uid, user in self._ledger.users.items()
        }

    def effort(self) -> int:
        """Handles and queue entries touched so far."""
        return self._sequencer.effort

    def set_user_limits(self, uid: int, limits: Limits) -> None:
        """Replace the maxima of a user, present or future."""
        self._ledger.configure(uid, limits)

    # ---- effects ---------------------------------------------------------------------------------

    def has_effects(self) -> bool:
        """Something is to be taken."""
        sequencer = self._sequencer
        return bool(sequencer.woken or sequencer.freed or sequencer.retired)

    def take_woken(self) -> list[int]:
        """Peers that turned readable."""
        woken = list(self._sequencer.woken)
        self._sequencer.woken.clear()
        return woken

    def take_freed_fds(self) -> list[int]:
        """Descriptors to close."""
        freed, self._sequencer.freed = self._sequencer.freed, []
        return freed

    def take_retired(self) -> list[tuple[int, int]]:
        """Segments to unmap."""
        retired, self._sequencer.retired = self._sequencer.retired, []
        return retired

    def _peer(self, number: int) -> Peer:
        peer = self._peers.get(number)
        if peer is None:
            raise PeerShutdown(f"peer {number} is gone")
        return peer

    def _node(self, reference: NodeRef) -> Node | None:
        owner = self._peers.get(reference[0])
        handle = owner.ids.handles.get(reference[1]) if owner else None
        return handle.node if handle is not None and handle.node.owner is owner else None
