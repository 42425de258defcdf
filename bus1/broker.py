"""broker: the native side of a bus process.

Theory. A ``Broker`` listens, keeps the channels and the peers' stations, and stands between them and a
``Hub``: Core with whatever the process adds to it. Peers are recognised by the socket cookie of their
descriptor, which the kernel never gives to another socket.

Invariants. 1. Per user, channels, peers, descriptors, bytes of arenas, and what waits to be executed or to be
read are bounded; what is closed is given back.
2. When a peer's descriptor hangs up, its complete requests are executed before it is disconnected, unless
they take too long (``drained_requests``, ``drained_turns``).
3. A defect that shows while a channel is served costs that channel, and is reported to whoever wants to
know; without anybody it ends the loop. A broken invariant of Core always does.

Not here: frames (channel, requests), what is served (hub), D-Bus (the bridge).
"""

from __future__ import annotations

import socket
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from .allowance import Allowance
from .channel import Channel
from .context import context_of
from .core.choice import SealedMemory
from .defects import account
from .descriptors import Fds, unix_socket_cookie
from .errors import (
    BadDescriptor,
    Denied,
    InternalError,
    NotSupported,
    OutOfMemory,
    PeerShutdown,
    QuotaExceeded,
)
from .holdings import Holdings
from .hub import Hub
from .lane import lane_for
from .listener import SHORTAGE_PAUSE, Listener
from .namespaces import view_of
from .reactor import Reactor
from .record import record, replace
from .sending import REFERENCES_PER_REQUEST
from .station import PeerStation
from .straight import straight_for

_FDS_OF_PEER = 2
"""Its end of the pair, and a segment."""


@record(frozen=True)
class BrokerLimits:
    """Bounds of the native side; times in seconds."""

    channels_per_user: int = 1024
    peers_per_user: int = 1024
    arena_bytes: int = 1 << 28
    """One arena, hence the largest payload."""
    arena_bytes_per_user: int = 1 << 31
    stray_fds_per_user: int = 1024
    """Descriptors of requests that have not arrived completely, or go on in the next turn."""
    incomplete_bytes_per_user: int = 1 << 25
    """Bytes of such requests, beyond one read of each channel."""
    unsent_bytes: int = 1 << 20
    """While more answers than this wait for a client to read, its requests wait, too."""
    unsent_bytes_per_user: int = 1 << 25
    """Each channel may have half of what the others of its user have left."""
    requests_per_turn: int = 64
    """Of all channels of a user; a large request counts as several."""
    drained_bytes: int = 1 << 22
    """What is still read from each channel of a peer whose descriptor has been closed."""
    drained_requests: int = 4096
    """How many of them are executed there, counted likewise."""
    drained_turns: int = 16
    """How often a request that is not finished still goes on there; after that it fails with its peer."""
    handshake_timeout: float = 30.0
    accept_pause: float = SHORTAGE_PAUSE
    """After a shortage of descriptors."""
    remembered_peers: int = 4096
    """Disconnected peers whose descriptors are still recognised (ESHUTDOWN instead of EOPNOTSUPP)."""


class Entrance(Protocol):
    """An endpoint beside the bus's own: the hub knows what it grants."""

    @property
    def name(self) -> str:
        """What receivers are told of those who come in there."""


class Broker:
    """Listeners, channels and stations of one bus process."""

    def __init__(
        self, reactor: Reactor, hub: Hub, limits: BrokerLimits | None = None,
        report: Callable[[int, str], None] | None = None,
    ) -> None:
        """``report`` is told of defects: the pid of the client, and the traceback."""
        self.reactor = reactor
        self.hub = hub
        self.limits = limits or BrokerLimits()
        self.lane = lane_for(reactor, hub, self.limits)
        """Serves what is everyday without Python, where the native body is in use."""
        self.straight = straight_for(hub)
        """How everyday messages go where it is not."""
        self._report = report
        self._listeners: list[Listener] = []
        self._channels: dict[Channel, None] = {}
        self._stations: dict[int, PeerStation] = {}
        self._gone: set[int] = set()
        self._gone_order: deque[int] = deque()
        self._foreign: dict[PeerStation, Fds] = {}
        """Peers that see ids in their own way, each with what pins its pid namespace."""
        self._entered_at: dict[Channel, Entrance] = {}
        self._opened_at: dict[PeerStation, Entrance] = {}
        """Where channels and peers came in, if that is not a socket of the bus's own."""
        self._n_channels: Counter[int] = Counter()
        self._allowances: dict[int, Allowance] = {}
        self._n_peers: Counter[int] = Counter()
        self._arena_bytes: Counter[int] = Counter()
        self._stray_fds: Counter[int] = Counter()
        self._incomplete: Counter[int] = Counter()
        self.unsent: Counter[int] = Counter()
        """Bytes that wait until the clients of a user read."""
        self.holdings = Holdings(reactor, self.is_peer_descriptor)
        """The descriptors of each user."""

    # ---- listening -------------------------------------------------------------------------------

    def listen(self, sock: socket.socket, entrance: Entrance | None = None) -> Listener:
        """Accept native clients on a listening unix socket; the broker closes it.

        Those of an ``entrance`` get what the hub grants there, and are known by its name. See ``shut``."""
        # What a client writes before it is accepted shall carry its credentials, too.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        accept = self.accept if entrance is None else partial(self.accept, entrance=entrance)
        listener = Listener(self.reactor, sock, accept, self.limits.accept_pause)
        self._listeners.append(listener)
        return listener

    def shut(self, listener: Listener, entrance: Entrance) -> None:
        """Listen there no more; the peers that were opened there end, and the channels too."""
        self._listeners.remove(listener)
        listener.close()
        for station in [station for station, origin in self._opened_at.items() if origin is entrance]:
            self.disconnect(station)
        for channel in [channel for channel, origin in self._entered_at.items() if origin is entrance]:
            channel.close()

    def accept(self, connection: socket.socket, entrance: Entrance | None = None) -> None:
        """A new client; a stranger, and one channel too many of a user, are closed in words."""
        try:
            channel = Channel(self, connection)
        except (OSError, MemoryError):  # nothing left to watch it with
            connection.close()
            return
        except Exception:
            connection.close()
            self._tell(0)
            return
        self._channels[channel] = None
        self._n_channels[channel.accepted.uid] += 1
        try:
            self._admit(channel, entrance)
        except Exception:
            self.broke(channel)

    def _admit(self, channel: Channel, entrance: Entrance | None) -> None:
        uid = channel.accepted.uid
        if entrance is not None:
            known = channel.accepted
            channel.accepted = channel.credentials = replace(
                known, secctx=context_of(known.secctx, entrance.name)
            )
            self._entered_at[channel] = entrance
        if not self.hub.may_connect(channel.accepted):
            channel.refuse(Denied(f"user {uid} may not connect to this bus"))
        elif self._n_channels[uid] > self.limits.channels_per_user:
            channel.refuse(QuotaExceeded(
                f"user {uid} has too many channels: at most {self.limits.channels_per_user}"
            ))
        else:
            try:
                self.holdings.check(uid, 0)
            except QuotaExceeded as error:
                channel.refuse(error)

    def channel_gone(self, channel: Channel) -> None:
        """A channel has been closed."""
        del self._channels[channel]
        self._entered_at.pop(channel, None)
        uid = channel.accepted.uid
        _decrease(self._n_channels, uid, 1)
        if uid not in self._n_channels:
            self.unsent.pop(uid, None)
        self._forget_allowance(uid)

    def broke(self, channel: Channel) -> None:
        """A defect showed while this channel was served: it pays for it; called within the handler."""
        channel.close()
        self._tell(channel.accepted.pid)

    def _tell(self, pid: int) -> None:
        """What has just been raised is told, or raised again if nobody is there to hear it."""
        if self._report is None or isinstance(sys.exc_info()[1], InternalError):
            raise
        self._report(pid, account())

    def allowance_of(self, uid: int) -> Allowance:
        """What all channels of a user draw on."""
        allowance = self._allowances.get(uid)
        if allowance is None:
            spent = None if self.lane is None else partial(self.lane.spent, uid)
            allowance = Allowance(self.reactor, self.limits.requests_per_turn, spent)
            self._allowances[uid] = allowance
        return allowance

    def _forget_allowance(self, uid: int) -> None:
        if uid not in self._n_channels and uid not in self._n_peers:
            self._allowances.pop(uid, None)

    def charge_arena(self, uid: int, size: int) -> None:
        """Charge or give back bytes of arenas; QuotaExceeded changes nothing."""
        _charge(self._arena_bytes, uid, size, self.limits.arena_bytes_per_user, "bytes of arenas")

    def charge_stray_fds(self, uid: int, n: int) -> None:
        """Charge or give back descriptors of incomplete requests; QuotaExceeded changes nothing."""
        if n > 0:
            self.holdings.check(uid, n)
        what = "descriptors in incomplete requests"
        _charge(self._stray_fds, uid, n, self.limits.stray_fds_per_user, what)
        self.holdings.book(uid, n)

    def charge_incomplete(self, uid: int, n: int) -> None:
        """Charge or give back bytes of incomplete requests; QuotaExceeded changes nothing."""
        what = "bytes of incomplete requests"
        _charge(self._incomplete, uid, n, self.limits.incomplete_bytes_per_user, what)

    # ---- peers -----------------------------------------------------------------------------------

    def open_peer(self, channel: Channel) -> tuple[PeerStation, tuple[int, ...]]:
        """A new peer, charged to the real user of who asks for it (P-7), with what the endpoint grants."""
        opener, core = channel.credentials, self.hub.core
        uid = opener.uid
        if self._n_peers[uid] >= self.limits.peers_per_user:
            raise QuotaExceeded(f"user {uid} has too many peers: at most {self.limits.peers_per_user}")
        self.holdings.check(uid, _FDS_OF_PEER)
        memory = SealedMemory()
        try:
            with channel.process() as pidfd:
                view, namespace = view_of(opener.pid, pidfd)
        except OSError as error:
            raise OutOfMemory(f"no descriptors for one more peer: {error.strerror}") from error
        peer = core.peer_new(uid, memory, view=view)
        try:
            station = PeerStation(self, peer, opener, memory)
        except OSError as error:
            core.peer_disconnect(peer)
            namespace.close()
            raise OutOfMemory(f"no descriptors for one more peer: {error.strerror}") from error
        self._stations[station.cookie] = station
        if self.straight is not None:
            self.straight.stations[peer] = station
        self._n_peers[uid] += 1
        self.holdings.book(uid, _FDS_OF_PEER)
        if view is not None:
            self._foreign[station] = namespace
            self.holdings.book(uid, 1)
            self._mind_lane()
        try:
            entrance = self._entered_at.get(channel)
            if entrance is not None:
                self._opened_at[station] = entrance
            granted = self.hub.peer_opened(peer, channel.accepted, entrance)
        except BaseException:
            core.peer_disconnect(peer)
            self._forget(station)
            raise
        return station, granted

    @property
    def has_foreign_peers(self) -> bool:
        """Some peer sees ids in its own way: senders must be known in all their namespaces (P-51)."""
        return bool(self._foreign)

    def _mind_lane(self) -> None:
        if self.lane is not None:
            self.lane.suspend(self.has_foreign_peers)  # it does not look senders up

    def stations(self) -> Iterable[PeerStation]:
        """Every native peer."""
        return self._stations.values()

    def is_peer_descriptor(self, fd: int) -> bool:
        """``fd`` is a descriptor of a peer of this bus."""
        cookie = unix_socket_cookie(fd)
        return cookie in self._stations or cookie in self._gone

    def station_behind(self, fd: int) -> PeerStation:
        """The peer that a presented descriptor stands for (H-52)."""
        try:
            cookie = unix_socket_cookie(fd)
        except BadDescriptor as error:
            raise NotSupported("the descriptor is not a peer's") from error
        if cookie in self._gone:
            raise PeerShutdown("the peer has been disconnected")
        if cookie is None or cookie not in self._stations:
            raise NotSupported("the descriptor is not a peer's")
        return self._stations[cookie]

    def hang_up(self, station: PeerStation) -> None:
        """The last copy of a peer's descriptor has been closed.

        If its user has had more than the allowance, the kernel tells again in the next turn."""
        allowance = self.allowance_of(station.uid)
        allowance.begin_turn()
        if allowance.left < 0:
            return
        now, effort = self.reactor.clock(), self.hub.core.effort()
        for channel in list(station.channels):
            channel.drain(now)
        if station.is_live:
            self.disconnect(station)
        allowance.left -= 1 + (self.hub.core.effort() - effort) // REFERENCES_PER_REQUEST

    def disconnect(self, station: PeerStation) -> None:
        """The peer ends, for all its holders."""
        self.hub.peer_disconnect(station.peer)
        self._forget(station)

    def _forget(self, station: PeerStation) -> None:
        del self._stations[station.cookie]
        if self.straight is not None:
            del self.straight.stations[station.peer]
        self._opened_at.pop(station, None)
        if station in self._foreign:
            self._foreign.pop(station).close()
            self.holdings.book(station.uid, -1)
            self._mind_lane()
        _decrease(self._n_peers, station.uid, 1)
        self.holdings.book(station.uid, -_FDS_OF_PEER)
        self._forget_allowance(station.uid)
        self._gone.add(station.cookie)
        self._gone_order.append(station.cookie)
        if len(self._gone_order) > self.limits.remembered_peers:
            self._gone.discard(self._gone_order.popleft())
        station.end()

    def close(self) -> None:
        """Stop listening, disconnect every peer, close every channel."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()
        for station in list(self._stations.values()):
            self.disconnect(station)
        self.reactor.settle()
        for channel in list(self._channels):
            channel.close()
        self.holdings.close()


def _charge(counter: Counter[int], uid: int, n: int, most: int, what: str) -> None:
    if n > 0 and counter[uid] + n > most:
        raise QuotaExceeded(f"user {uid} has {counter[uid]} {what}, {n} more are too many: at most {most}")
    _decrease(counter, uid, -n)


def _decrease(counter: Counter[int], key: int, by: int) -> None:
    counter[key] -= by
    if not counter[key]:
        del counter[key]
