"""audit: who was given what, through whom it came, and who uses it.

Theory. A bus knows who holds a handle now, not how it came there. So a service gives each one to whom it
hands something a view of its own, with a name; a view of such a view came through it. Every call of a view
is counted by the process that made it, as the kernel attested it, refused ones too: more than one process
at a view means that it was passed on.

    audit = Audit()
    view = audit.hand(file, "the editor")
    plugin = audit.hand(attenuate(view, File.read), "its plugin")
    audit.holdings()

Who holds the node of a view without having used it, the bus's own user and root see with ``bus1 tree``.

Invariants. 1. A holding that has a node is listed. 2. At most ``MAX_USERS`` processes are counted
for each; the rest is one entry, ``NOBODY``'s.

Not here: forwarding (``gate``). What an audited object returns is as it is; ``hand`` it, too.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import TypeVar

from ..caller import NOBODY, Caller
from ..interface import Interface
from .gate import Gate, Revoked

I = TypeVar("I", bound=Interface)  # noqa: E741
MAX_USERS = 256


@dataclass(frozen=True, slots=True)
class Use:
    """What one process did with a view; ``calls`` contains ``refused``."""

    uid: int
    pid: int
    calls: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Holding:
    """One view; ``through`` are the names of those through whom it came, the first one first."""

    to: str
    what: str
    """The class of the object."""
    through: tuple[str, ...]
    nodes: tuple[int, ...]
    """Of this peer, that stand for the view; none: nobody holds it, yet or any more."""
    has_ended: bool
    uses: tuple[Use, ...]
    """In the order of first use."""


class Audit:
    """The book of one service."""

    def __init__(self) -> None:
        self._views: weakref.WeakValueDictionary[int, Interface] = weakref.WeakValueDictionary()
        self._serials = count()

    def hand(self, target: I, to: str) -> I:
        """A view of ``target`` for whom ``to`` names."""
        view = Audited(target, to).view
        self._views[next(self._serials)] = view
        return view

    def holdings(self) -> list[Holding]:
        """All views that exist, in the order in which they were made."""
        views = sorted(self._views.items())
        return [view.__far__.holding() for _, view in views if isinstance(view.__far__, Audited)]


class Audited(Gate[I]):
    """A gate with a name, that counts."""

    def __init__(self, inner: I, to: str) -> None:
        super().__init__(inner)
        self.to = to
        self._uses: dict[tuple[int, int], Use] = {}

    def used(self, caller: Caller, refused: bool) -> None:
        """A call has arrived here, or at a view that stands on this one."""
        who = caller.uid, caller.pid
        if who not in self._uses and len(self._uses) >= MAX_USERS:
            who = NOBODY.uid, NOBODY.pid
        use = self._uses.get(who, Use(*who))
        self._uses[who] = replace(use, calls=use.calls + 1, refused=use.refused + refused)
        super().used(caller, refused)

    def holding(self) -> Holding:
        """What the book says of it."""
        through = [gate.to for gate in self._beneath() if isinstance(gate, Audited)]
        return Holding(
            self.to, type(self.inner).__qualname__, tuple(reversed(through)), tuple(self.nodes()),
            self._is_over(), tuple(self._uses.values()),
        )

    def _beneath(self) -> Iterator[Gate[Interface]]:
        far = self.inner.__far__
        while isinstance(far, Gate):
            yield far
            far = far.inner.__far__

    def _is_over(self) -> bool:
        try:
            self.check()
        except Revoked:
            return True
        return False
