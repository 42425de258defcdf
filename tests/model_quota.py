"""model_quota: who uses how much, and who may use more, counted anew each time it is asked.

Theory. Four resources in this order: slices, handles, bytes, descriptors. Use and shares are sums over what
lies around: references, slices, messages that nobody has received. ``staged`` are the messages of the
command that is running; they count like queued ones, so that its later charges see its earlier ones.

Not here: when something is charged (``model``).
"""

from __future__ import annotations

from collections.abc import Iterable

from model_objects import Data, Peer, Slice

from bus1.errors import QuotaExceeded

HANDLES = 1
PEER_MAXIMUM, USER_MAXIMUM = "maximum of the peer", "maximum of the user"
USER_QUOTA, PEER_QUOTA = "user quota", "peer quota"


class Accounts:
    """The peers of a bus, and the maxima of their users."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}
        self.users: dict[int, list[int]] = {}
        self.staged: list[Data] = []

    def peers_of(self, uid: int) -> list[Peer]:
        """All peers that are accounted to ``uid`` (P-7)."""
        return [peer for peer in self.peers.values() if peer.uid == uid]

    def undelivered(self, peer: Peer) -> list[Data]:
        """What is charged to ``peer`` and not received: queue, seed, and what is being sent."""
        return [*peer.messages(), *peer.seeds, *(data for data in self.staged if data.reader is peer)]

    def slices(self, peer: Peer) -> list[Slice]:
        """L-9: a slice is held by its message, by the peer that received it, or by both."""
        held = [data.slice for data in self.undelivered(peer) if data.slice not in peer.published]
        return peer.published + held

    def used(self, peer: Peer) -> list[int]:
        """What is charged to ``peer``."""
        slices, undelivered = self.slices(peer), self.undelivered(peer)
        return [
            len(slices),  # L-10, Q-16: until it is released
            sum(handle.references for handle in peer.handles)  # each reference,
            + sum(len(data.nodes) for data in undelivered),  # and each entry on its way, a dead one too
            sum(slice_.charged for slice_ in slices),
            sum(len(data.fds) for data in undelivered),
        ]

    def used_by(self, uid: int) -> list[int]:
        """What is charged to a user."""
        return total(self.used(peer) for peer in self.peers_of(uid))

    def share(self, peer: Peer, uid: int) -> list[int]:
        """What messages that ``uid`` sent and ``peer`` has not received use there (Q-8: until dequeued)."""
        return total(cost(data) for data in self.undelivered(peer) if data.uid == uid)

    def admit(self, peer: Peer, uid: int, wanted: list[int]) -> None:
        """One message more of ``uid`` at ``peer``, all or none (Q-5)."""
        used, used_by, limits = self.used(peer), self.used_by(peer.uid), self.users[peer.uid]
        here = self.share(peer, uid)
        shares = total(self.share(other, uid) for other in self.peers_of(peer.uid))
        for resource, c in enumerate(wanted):
            if c == 0:  # A-QUO-1: nothing is asked of this resource
                continue
            if used[resource] + c > peer.limits[resource]:  # Q-3, P-33
                raise QuotaExceeded(PEER_MAXIMUM)
            remaining, s, s_peer = limits[resource] - used_by[resource], shares[resource], here[resource]
            if 2 * (s + c) > remaining + s:  # s + c <= (R + s) / 2
                raise QuotaExceeded(USER_QUOTA)
            o = s - s_peer
            if 4 * (s_peer + c) > (remaining + s) - 2 * o:  # s_peer + c <= (H - o) / 2, H = (R + s) / 2
                raise QuotaExceeded(PEER_QUOTA)

    def take_handles(self, *peers: Peer) -> None:
        """One reference more for each of ``peers``, in no one's share: only the maxima count (Q-13)."""
        for i, peer in enumerate(peers):
            earlier = peers[: i + 1]
            if self.used(peer)[HANDLES] + earlier.count(peer) > peer.limits[HANDLES]:
                raise QuotaExceeded(PEER_MAXIMUM)
            of_user = sum(other.uid == peer.uid for other in earlier)
            if self.used_by(peer.uid)[HANDLES] + of_user > self.users[peer.uid][HANDLES]:
                raise QuotaExceeded(USER_MAXIMUM)


def cost(data: Data) -> list[int]:
    """§8.3: what one message costs its receiver."""
    return [1, len(data.nodes), data.slice.charged, len(data.fds)]


def total(counts: Iterable[list[int]]) -> list[int]:
    """The sums."""
    return [sum(column) for column in zip([0, 0, 0, 0], *counts, strict=True)]
