"""account: who uses how much of what, and who may use more.

Theory. A closed world of counters; it knows nothing of messages. Four resources are counted: slices,
handles (references, Q-13), bytes and descriptors. A ``User`` is a uid; an ``Account`` is one peer of
it. Both have maxima and current use. Everything in flight is charged to the *receiver* (Q-1).

A message is also booked as a *share*, under the uid of its sender, at the receiving user and at the
receiving peer. With R what the receiving user has left, s and p the sender's shares there, a charge
c passes the user quota iff s + c <= (R + s) / 2 (Q-4), and the peer quota iff, with H = (R + s) / 2
and o = s - p, p + c <= (H - o) / 2 (Q-6). The second reduces to

    s + 2p + 4c <= R

and implies the first, so that one inequality is all that is tested. It leaves every further sender
half of what is left, however greedy the earlier ones, and every further peer of the receiver
likewise. The sender's own user enjoys no exemption (Q-5).

A ``Charge`` is given back exactly once: when its message leaves the queue. What survives it are the
handles that became references, and the slice with its bytes, which the pool gives back when the
slice is free (Q-16).

A ``Flow`` is the pair (sending peer, receiving account): what the one has undelivered at the other.
The seed's flow has sender 0 and does not count as queued.

Invariants. 1. Shares and flows without a message do not exist. 2. Use and shares never go below
zero. 3. A refused charge changes nothing. 4. An account is closed with zero use.

Not here: which command charges what when.
"""

from __future__ import annotations

from ..errors import InternalError, QuotaExceeded
from .api import Limits, Usage

SLICES, HANDLES, BYTES, FDS = range(4)
RESOURCES = ("slices", "handles", "bytes", "fds")
_NOTHING = [0, 0, 0, 0]
SEED_SENDER = 0
"""The sender of a seed's flow: no peer has this number."""


class User:
    """One uid: its maxima, its use, and the shares of other users in it."""

    __slots__ = ("accounts", "limits", "shares", "uid", "used")

    def __init__(self, uid: int, limits: Limits) -> None:
        self.uid = uid
        self.limits = ceilings(limits)
        self.used = [0, 0, 0, 0]
        self.shares: dict[int, list[int]] = {}
        self.accounts = 0


class Account:
    """One peer's maxima and use."""

    __slots__ = ("flows", "limits", "overhead", "shares", "undelivered", "used", "user")

    def __init__(self, user: User, limits: list[int], overhead: int) -> None:
        self.user = user
        self.limits = limits
        self.overhead = overhead
        self.used = [0, 0, 0, 0]
        self.shares: dict[int, list[int]] = {}
        self.flows: dict[int, Flow] = {}
        self.undelivered = [0, 0, 0]

    def take(self, resource: int, amount: int) -> None:
        """Charge ``amount`` outside any share; QuotaExceeded beyond a maximum."""
        user = self.user
        if amount <= 0:
            return
        if self.used[resource] + amount > self.limits[resource]:
            raise QuotaExceeded(f"{RESOURCES[resource]} of the peer: {self._state(resource, amount)}")
        if user.used[resource] + amount > user.limits[resource]:
            raise QuotaExceeded(f"{RESOURCES[resource]} of uid {user.uid}: {user.used[resource]} used")
        self.used[resource] += amount
        user.used[resource] += amount

    def give(self, resource: int, amount: int) -> None:
        """Give ``amount`` back."""
        self.used[resource] -= amount
        self.user.used[resource] -= amount
        if self.used[resource] < 0:
            raise InternalError(f"{RESOURCES[resource]} given back twice")

    def charge(self, sender: int, uid: int, handles: int, size: int, fds: int) -> Charge:
        """Charge a message of peer ``sender``, user ``uid``; QuotaExceeded names what is exceeded."""
        flow = self.flows.get(sender)
        if flow is None:
            flow = Flow(self, sender, uid)
        size += self.overhead
        flow.admit(SLICES, 1)
        if handles:
            flow.admit(HANDLES, handles)
        flow.admit(BYTES, size)
        if fds:
            flow.admit(FDS, fds)
        return Charge(flow, handles, size, fds)

    def would_pass(self, uid: int, handles: int, size: int) -> bool:
        """Whether ``charge`` would take a message without descriptors."""
        user = self.user
        shares, here = user.shares.get(uid) or _NOTHING, self.shares.get(uid) or _NOTHING
        for resource, amount in ((SLICES, 1), (HANDLES, handles), (BYTES, size + self.overhead)):
            left = user.limits[resource] - user.used[resource]
            if amount and (
                self.used[resource] + amount > self.limits[resource]
                or exceeds_peer_quota(left, shares[resource], here[resource], amount)
            ):
                return False
        return True

    def queued(self, sender: int) -> Usage:
        """What ``sender`` has undelivered here."""
        flow = self.flows.get(sender)
        return Usage(*flow.undelivered) if flow else Usage()

    def waiting(self) -> Usage:
        """What everybody has undelivered here, the seed apart."""
        size, messages, fds = self.undelivered
        seed = self.flows.get(SEED_SENDER)
        if seed:
            size, messages, fds = size - seed.undelivered[0], messages - 1, fds - seed.undelivered[2]
        return Usage(size, messages, fds)

    def _state(self, resource: int, amount: int) -> str:
        return f"{self.used[resource]} used, {amount} wanted, {self.limits[resource]} allowed"


class Flow:
    """What one sending peer has undelivered at one receiving account."""

    __slots__ = ("account", "peer_share", "sender", "uid", "undelivered", "user_share")

    def __init__(self, account: Account, sender: int, uid: int) -> None:
        self.account = account
        self.sender = sender
        self.uid = uid
        self.user_share = account.user.shares.get(uid) or [0, 0, 0, 0]
        self.peer_share = account.shares.get(uid) or [0, 0, 0, 0]
        self.undelivered = [0, 0, 0]

    def admit(self, resource: int, amount: int) -> None:
        """Raise QuotaExceeded unless ``amount`` more passes the maxima and both quotas."""
        account = self.account
        if account.used[resource] + amount > account.limits[resource]:
            raise QuotaExceeded(f"{RESOURCES[resource]} of the receiving peer: {amount} more")
        user = account.user
        left = user.limits[resource] - user.used[resource]
        share = self.user_share[resource]
        if exceeds_peer_quota(left, share, self.peer_share[resource], amount):
            which = "user" if exceeds_user_quota(left, share, amount) else "peer"
            raise QuotaExceeded(
                f"{RESOURCES[resource]}, {which} quota: uid {self.uid} has {share} of uid {user.uid}'s, "
                f"{left} are left, {amount} wanted"
            )

    def book(self, handles: int, size: int, fds: int) -> None:
        """One message more."""
        account = self.account
        user = account.user
        undelivered = self.undelivered
        if not undelivered[1]:
            account.flows[self.sender] = self
            user.shares[self.uid] = self.user_share
            account.shares[self.uid] = self.peer_share
        for counts in (account.used, user.used, self.user_share, self.peer_share):
            counts[SLICES] += 1
            counts[BYTES] += size
            if handles or fds:
                counts[HANDLES] += handles
                counts[FDS] += fds
        for totals in (undelivered, account.undelivered):
            totals[0] += size
            totals[1] += 1
            totals[2] += fds

    def settle(self, handles: int, size: int, fds: int) -> None:
        """One message less in the shares; use is untouched."""
        account = self.account
        undelivered = self.undelivered
        for counts in (self.user_share, self.peer_share):
            counts[SLICES] -= 1
            counts[BYTES] -= size
            if handles or fds:
                counts[HANDLES] -= handles
                counts[FDS] -= fds
        for totals in (undelivered, account.undelivered):
            totals[0] -= size
            totals[1] -= 1
            totals[2] -= fds
        if not undelivered[1]:
            del account.flows[self.sender]
            if not self.peer_share[SLICES]:
                del account.shares[self.uid]
                if not self.user_share[SLICES]:
                    del account.user.shares[self.uid]


class Charge:
    """What one undelivered message costs its receiver."""

    __slots__ = ("fds", "flow", "handles", "open", "size")

    def __init__(self, flow: Flow, handles: int, size: int, fds: int) -> None:
        self.flow = flow
        self.handles = handles
        self.size = size
        self.fds = fds
        self.open = True
        flow.book(handles, size, fds)

    def settle(self, kept_handles: int) -> None:
        """The message has left the queue: ``kept_handles`` stay, and the slice with its bytes."""
        if not self.open:
            raise InternalError("a charge was given back twice")
        self.open = False
        account = self.flow.account
        self.flow.settle(self.handles, self.size, self.fds)
        if self.handles != kept_handles:
            account.give(HANDLES, self.handles - kept_handles)
        if self.fds:
            account.give(FDS, self.fds)

    def cancel(self) -> None:
        """The message never was: give everything back, the slice's part too."""
        self.settle(0)
        self.flow.account.give(SLICES, 1)
        self.flow.account.give(BYTES, self.size)


class Ledger:
    """All users of a bus."""

    __slots__ = ("configured", "defaults", "users")

    def __init__(self, defaults: Limits) -> None:
        self.defaults = defaults
        self.configured: dict[int, Limits] = {}
        self.users: dict[int, User] = {}

    def open(self, uid: int, limits: Limits | None, overhead: int) -> Account:
        """An account for a new peer of ``uid``; its maxima default to the user's (P-22, Q-3)."""
        user = self.users.get(uid)
        if user is None:
            user = self.users[uid] = User(uid, self.configured.get(uid, self.defaults))
        user.accounts += 1
        return Account(user, ceilings(limits) if limits else user.limits.copy(), overhead)

    def close(self, account: Account) -> None:
        """The peer is gone, and with the last one its user."""
        user = account.user
        if any(account.used) or account.flows or account.shares:
            raise InternalError(f"an account of uid {user.uid} was closed in use: {account.used}")
        user.accounts -= 1
        if not user.accounts:
            if any(user.used) or user.shares:
                raise InternalError(f"uid {user.uid} left in use: {user.used}")
            del self.users[user.uid]

    def configure(self, uid: int, limits: Limits) -> None:
        """Replace the maxima of ``uid``, now and whenever it comes back."""
        self.configured[uid] = limits
        if uid in self.users:
            self.users[uid].limits = ceilings(limits)


def exceeds_user_quota(left: int, share: int, amount: int) -> bool:
    """Q-4: the sending user would pass half of what no other user consumes of the receiving user."""
    return share + 2 * amount > left


def exceeds_peer_quota(left: int, share: int, here: int, amount: int) -> bool:
    """Q-6: the same for the receiving peer; ``here`` is the part of ``share`` that lies at this peer."""
    return share + 2 * here + 4 * amount > left


def ceilings(limits: Limits) -> list[int]:
    """The maxima in the order of RESOURCES."""
    return [limits.slices, limits.handles, limits.inflight_bytes, limits.inflight_fds]
