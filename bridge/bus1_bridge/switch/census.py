"""census: everybody on the bus, those among them who are not known here yet.

Theory. Where the native body is in use there may be *guests*: clients that only the express lane knows.
Whoever looks one up, by peer or by unique name, finds a party like all others, as it is *met* at that moment;
whoever goes through all parties meets everybody first. To count, and to list names, nobody has to be met. So
a ``Census`` is a dict of parties that asks once more before it says that somebody is not there. Who wants
those alone who are known says ``dict.values(table)``, which is right for what no guest can have. Entering and
taking out (``table[key] = …``, ``pop``, ``del``) are for those who are known, too.

Without a lane the tables are plain dicts, and nobody is a guest (``NOBODY``).

Not here: how a guest is met (``reception``), what becomes of it in the lane (the native module).
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterator, KeysView, Mapping, Sequence, ValuesView
from typing import Any, Protocol, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Guests(Protocol):
    """Clients that have their names, and are served without anybody here knowing of them."""

    def __len__(self) -> int:
        """How many there are."""

    def names(self) -> Sequence[str]:
        """Their unique names, in no order."""

    def of_user(self, uid: int) -> int:
        """How many of them are clients of this user."""

    def meet_all(self) -> None:
        """From now on they are all known."""


class NoGuests:
    """Whoever is there is known."""

    def __len__(self) -> int:
        return 0

    def names(self) -> Sequence[str]:
        """None."""
        return ()

    def of_user(self, uid: int) -> int:
        """None."""
        return 0

    def meet_all(self) -> None:
        """There is nobody to meet."""


NOBODY: Guests = NoGuests()


class Census(dict[K, V]):
    """Parties by a key, where there may be guests; ``meet`` says whether it has entered one with that key."""

    __slots__ = ("_guests", "_meet")

    def __init__(self, known: Mapping[K, V], guests: Guests, meet: Callable[[K], bool]) -> None:
        super().__init__(known)
        self._guests = guests
        self._meet = meet

    def __missing__(self, key: K) -> V:
        if self._meet(key):
            return dict.__getitem__(self, key)
        raise KeyError(key)

    def get(self, key: K, default: Any = None) -> Any:
        """The party, or ``default`` if there is none, not even among the guests."""
        if dict.__contains__(self, key) or self._meet(key):
            return dict.__getitem__(self, key)
        return default

    def __contains__(self, key: object) -> bool:
        return dict.__contains__(self, key) or self._meet(key)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return dict.__len__(self) + len(self._guests)

    def __iter__(self) -> Iterator[K]:
        self._guests.meet_all()
        return dict.__iter__(self)

    def keys(self) -> KeysView[K]:  # type: ignore[override]
        """Of everybody."""
        self._guests.meet_all()
        return dict.keys(self)

    def values(self) -> ValuesView[V]:  # type: ignore[override]
        """Everybody."""
        self._guests.meet_all()
        return dict.values(self)

    def items(self) -> ItemsView[K, V]:  # type: ignore[override]
        """Everybody."""
        self._guests.meet_all()
        return dict.items(self)
