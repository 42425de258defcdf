"""names: who owns which well-known name, and who waits for it.

Theory. Each owned name has a queue of claims; the first is the primary owner. A claim keeps two of
the three flags of its last RequestName: whether its holder lets itself be replaced, and whether it
would rather lose the name than wait for it. Owners are integers (Core peers). Every operation
returns the change of primary owner that it caused, and the router turns changes into NameLost,
NameOwnerChanged and NameAcquired, in that order.

Invariants. 1. No queue is empty, and no owner stands in a queue twice.
2. A name is in ``held(peer)`` and ``claims(peer)`` if and only if the peer stands in its queue, and in
``primary(peer)`` if and only if the peer is the first there.
3. A ``Change`` names two different owners, and ``owner(name)`` is its ``new`` right after.

Not here: which names may be requested (the driver checks syntax, limits and policy); unique names.
"""

from __future__ import annotations

from collections.abc import Callable, KeysView
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, NamedTuple

from bus1.record import record

from .tally import Tally

if TYPE_CHECKING:
    from sortedcontainers import SortedList


class NameFlag(IntFlag):
    """Flags of RequestName; other bits are ignored."""

    ALLOW_REPLACEMENT = 1
    REPLACE_EXISTING = 2
    DO_NOT_QUEUE = 4


class RequestResult(IntEnum):
    """What RequestName answers."""

    PRIMARY_OWNER = 1
    IN_QUEUE = 2
    EXISTS = 3
    ALREADY_OWNER = 4


class ReleaseResult(IntEnum):
    """What ReleaseName answers."""

    RELEASED = 1
    NON_EXISTENT = 2
    NOT_OWNER = 3


class Change(NamedTuple):
    """The primary owner of a name changed; None stands for nobody."""

    name: str
    old: int | None
    new: int | None


@record()
class _Claim:
    owner: int
    may_be_replaced: bool
    does_not_queue: bool


class NameTable:
    """All owned names with their queues."""

    def __init__(self) -> None:
        self.tally = Tally()
        """Claims, and the unique names of those who have one."""
        self.follower: Callable[[int, str, bool], None] | None = None
        """Is told at once which peer owns or waits for which name, or does no longer."""
        self._queues: dict[str, list[_Claim]] = {}
        self._held: dict[int, dict[str, None]] = {}
        self._primary: dict[int, dict[str, None]] = {}
        self._ordered: dict[int, SortedList[str]] = {}
        """The names of ``_held`` in the order of their letters, for peers about whom that was asked."""

    def owner(self, name: str) -> int | None:
        """The primary owner."""
        queue = self._queues.get(name)
        return queue[0].owner if queue else None

    def queue(self, name: str) -> list[int]:
        """The primary owner, then those who wait, in order."""
        return [claim.owner for claim in self._queues.get(name, ())]

    def names(self) -> list[str]:
        """All owned names."""
        return list(self._queues)

    def held(self, peer: int) -> list[str]:
        """Names that the peer owns or waits for, in the order in which it asked for them."""
        return list(self._held.get(peer, ()))

    def claims(self, peer: int) -> KeysView[str]:
        """Names that the peer owns or waits for; a view of the table."""
        return self._held.get(peer, _NO_NAMES).keys()

    def claims_in(self, peer: int, space: str) -> bool:
        """Whether the peer owns or waits for this name, or one that continues it after a dot."""
        held = self._held.get(peer)
        if held is None or space in held:
            return held is not None
        ordered = self._ordered.get(peer)
        if ordered is None:
            # rarely needed, and dear to import
            from sortedcontainers import SortedList

            ordered = self._ordered[peer] = SortedList(held)
        at = ordered.bisect_left(f"{space}.")
        return at < len(ordered) and str(ordered[at]).startswith(f"{space}.")

    def count(self, peer: int) -> int:
        """How many names the peer owns or waits for."""
        return len(self._held.get(peer, ()))

    def primary(self, peer: int) -> KeysView[str]:
        """Names that the peer is primary owner of, in order of acquisition; a view of the table."""
        return self._primary.get(peer, _NO_NAMES).keys()

    def request(self, peer: int, name: str, flags: int) -> tuple[RequestResult, list[Change]]:
        """RequestName."""
        claim = _Claim(peer, bool(flags & NameFlag.ALLOW_REPLACEMENT), bool(flags & NameFlag.DO_NOT_QUEUE))
        queue = self._queues.get(name)
        if queue is None:
            self._queues[name] = [claim]
            self._hold(peer, name)
            return RequestResult.PRIMARY_OWNER, [self._change(name, None, peer)]
        first = queue[0]
        if first.owner == peer:
            queue[0] = claim
            return RequestResult.ALREADY_OWNER, []
        replaces = bool(flags & NameFlag.REPLACE_EXISTING)
        if replaces and first.may_be_replaced:
            self._place(queue, claim, 0, name)
            if first.does_not_queue:
                self._leave(queue, first.owner, name)
            return RequestResult.PRIMARY_OWNER, [self._change(name, first.owner, peer)]
        if claim.does_not_queue:
            self._leave(queue, peer, name)
            return RequestResult.EXISTS, []
        self._place(queue, claim, 1 if replaces else None, name)
        return RequestResult.IN_QUEUE, []

    def release(self, peer: int, name: str) -> tuple[ReleaseResult, list[Change]]:
        """ReleaseName; those who wait may release, too."""
        if name not in self._queues:
            return ReleaseResult.NON_EXISTENT, []
        if name not in self._held.get(peer, ()):
            return ReleaseResult.NOT_OWNER, []
        return ReleaseResult.RELEASED, self._give_up(peer, name)

    def drop(self, peer: int) -> list[Change]:
        """The peer is gone: it gives up all names, the one it asked for last first."""
        if peer not in self._held:
            self.tally.forget(peer)
            return []
        changes = [change for name in reversed(self.held(peer)) for change in self._give_up(peer, name)]
        self.tally.forget(peer)
        return changes

    def _give_up(self, peer: int, name: str) -> list[Change]:
        queue = self._queues[name]
        was_primary = queue[0].owner == peer
        self._leave(queue, peer, name)
        if not queue:
            del self._queues[name]
        return [self._change(name, peer, queue[0].owner if queue else None)] if was_primary else []

    def _change(self, name: str, old: int | None, new: int | None) -> Change:
        if old is not None:
            _remove(self._primary, old, name)
        if new is not None:
            self._primary.setdefault(new, {})[name] = None
        return Change(name, old, new)

    def _place(self, queue: list[_Claim], claim: _Claim, position: int | None, name: str) -> None:
        # None: keep the place, or stand at the end
        place = next((i for i, other in enumerate(queue) if other.owner == claim.owner), None)
        if place is not None:
            del queue[place]
        else:
            self._hold(claim.owner, name)
        if position is None:
            position = len(queue) if place is None else place
        queue.insert(position, claim)

    def _leave(self, queue: list[_Claim], peer: int, name: str) -> None:
        queue[:] = [claim for claim in queue if claim.owner != peer]
        if name in self._held.get(peer, _NO_NAMES):
            _remove(self._held, peer, name)
            self.tally.remove(peer)
            if self.follower is not None:
                self.follower(peer, name, False)
            if peer not in self._held:
                self._ordered.pop(peer, None)
            elif peer in self._ordered:
                self._ordered[peer].remove(name)

    def _hold(self, peer: int, name: str) -> None:
        self._held.setdefault(peer, {})[name] = None
        self.tally.add(peer)
        if self.follower is not None:
            self.follower(peer, name, True)
        if peer in self._ordered:
            self._ordered[peer].add(name)


_NO_NAMES: dict[str, None] = {}


def _remove(names: dict[int, dict[str, None]], peer: int, name: str) -> None:
    del names[peer][name]
    if not names[peer]:
        del names[peer]
