"""transaction: messages on their way into queues, all or none.

Theory. Collecting may fail: ids are resolved, new nodes made up, and for every destination the
charge is taken and the slice allocated, one after the other. ``cancel`` undoes that in reverse
order. ``commit`` cannot fail: one stamp for all (T-56, G-6), new nodes come into being (H-22),
payloads are written, handles counted, entries queued.

Invariants. 1. After ``cancel`` nothing is left (E-3, T-50). 2. Descriptors that no message took are
freed by ``commit`` (the call owns them), and untouched by ``cancel``.

Not here: which failure is tolerated (``bus``).
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import NodeDestroyed, NoSuchHandle, TooLarge
from .account import HANDLES, SEED_SENDER
from .api import FD_MAX, VEC_MAX, Buffer, Credentials, PeerFlag
from .ids import may_name_node
from .objects import NEVER, Node, Peer
from .queue import Descriptors, Instance

PAYLOAD_MAX = 0x7FFF_F000
WANT_SECCTX = int(PeerFlag.WANT_SECCTX)


class Transaction:
    """One event with any number of messages, collected on behalf of ``sender``."""

    __slots__ = ("_context", "_credentials", "_descriptors", "_fds_room", "_sender", "_staged", "fresh")

    def __init__(self, sender: Peer, fds: Sequence[int], credentials: Credentials) -> None:
        self._sender = sender
        self._credentials = credentials
        self._context = 0 if credentials.secctx is None else len(credentials.secctx) + 7 & -8
        self._descriptors = Descriptors(tuple(fds), sender.sequencer) if fds else None
        self._fds_room = 4 * len(fds) + 7 & -8
        self._staged: list[tuple[Peer, Instance, Sequence[Buffer]]] = []
        self.fresh: dict[int, Node] = {}

    def resolve(self, number: int) -> Node:
        """The node that the sender names ``number``, made up if need be; see ``resolve``."""
        handle = self._sender.ids.handles.get(number)
        return handle.node if handle is not None else resolve(self._sender, number, self.fresh)

    def stage(
        self, node: Node, parts: Sequence[Buffer], n_bytes: int, nodes: tuple[Node, ...],
        with_fds: bool = True, note: int = 0,
    ) -> None:
        """Charge and allocate a message to ``node``; an error leaves the other ones staged."""
        if node.died != NEVER:
            raise NodeDestroyed("the destination is destroyed")
        number = self._sender.number
        instance = self._place(node.owner, node, number, parts, n_bytes, nodes, with_fds, note)
        node.addressed[instance] = None

    def stage_seed(self, parts: Sequence[Buffer], n_bytes: int, nodes: tuple[Node, ...]) -> Instance:
        """Charge and allocate the sender's seed (S-3)."""
        return self._place(self._sender, None, SEED_SENDER, parts, n_bytes, nodes, True, 0)

    def charge_fresh(self) -> None:
        """Charge the sender for the nodes that it creates: the last step that may fail (T-2)."""
        if self.fresh:
            self._sender.account.take(HANDLES, len(self.fresh))

    def cancel(self) -> None:
        """Undo everything that was staged."""
        for reader, instance, _ in reversed(self._staged):
            if instance.node is not None:
                del instance.node.addressed[instance]
            reader.pool.cancel(instance.slice)
            instance.charge.cancel()

    def commit(self) -> None:
        """Apply; cannot fail."""
        stamp = self._sender.sequencer.draw()
        for number, node in self.fresh.items():
            self._sender.own(node, number)
        for reader, instance, parts in self._staged:
            instance.stamp = stamp
            reader.pool.fill(instance.slice, parts, instance.n_bytes)
            if instance.node is None:
                for node in instance.nodes:
                    if node.died == NEVER:
                        node.rise()
            else:
                for node in instance.nodes:
                    if node.died == NEVER:
                        node.carry(reader)
                reader.queue.append(instance)
        if self._descriptors is not None and not self._descriptors.carriers:
            self._descriptors.drop()

    def _place(
        self, reader: Peer, node: Node | None, sender: int, parts: Sequence[Buffer], n_bytes: int,
        nodes: tuple[Node, ...], with_fds: bool, note: int,
    ) -> Instance:
        fds = self._descriptors if with_fds else None
        size = (n_bytes + 7 & -8) + 8 * len(nodes) + self._context
        if fds is not None:
            size += self._fds_room
        charge = reader.account.charge(
            sender, self._sender.account.user.uid, len(nodes), size or 8, len(fds.numbers) if fds else 0
        )
        try:
            slice_ = reader.pool.allocate(size or 8, charge.size)
        except BaseException:
            charge.cancel()
            raise
        if fds is not None:
            fds.carriers += 1
        secctx = self._credentials.secctx if reader.flags & WANT_SECCTX else None
        instance = Instance(
            node, sender, self._credentials, secctx, n_bytes, nodes, fds, charge, slice_, note
        )
        self._staged.append((reader, instance, parts))
        return instance


def resolve(peer: Peer, number: int, fresh: dict[int, Node]) -> Node:
    """The node that ``peer`` names ``number``; an unused legal id is a new node in ``fresh`` (H-21)."""
    handle = peer.ids.handles.get(number)
    if handle is not None:
        return handle.node
    node = fresh.get(number)
    if node is None:
        if not may_name_node(number):
            raise NoSuchHandle(f"no handle {number:#x}")
        node = fresh[number] = Node(peer)
    return node


def check_counts(parts: Sequence[Buffer], fds: Sequence[int]) -> None:
    """TooLarge beyond VEC_MAX parts or FD_MAX descriptors (T-11, T-31)."""
    if len(parts) > VEC_MAX or len(fds) > FD_MAX:
        raise TooLarge(f"{len(parts)} parts, {len(fds)} descriptors")


def payload_size(parts: Sequence[Buffer]) -> int:
    """The bytes of a payload; TooLarge beyond 2 GiB - 4 KiB (T-11)."""
    size = 0
    for part in parts:
        size += len(part) if type(part) is bytes else memoryview(part).nbytes
    if size > PAYLOAD_MAX:
        raise TooLarge(f"{size} bytes")
    return size
