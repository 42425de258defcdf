"""entrance: an endpoint with less authority than the bus's own sockets, as data.

Theory. Whoever connects to a socket of the bus gets what that socket grants. The bus's own sockets grant the
registry, and every name; an ``Entrance`` grants what its opener chose: to native clients the capabilities
that it passed, to D-Bus clients a view. Its name is what everybody is told who receives something from one of
its clients; the bus says it, not the client.

Not here: opening and closing (``entrances``), sockets (``switch.doors``), what a view shows (``view``).
"""

from __future__ import annotations

from collections.abc import Mapping

from bus1.record import field, record

from .view import View

CONNECTIONS_MAX = 256
"""Clients of one entrance at a time."""


@record(eq=False)
class Entrance:
    """One endpoint that somebody has opened."""

    name: str
    """The identity of whoever is behind it."""
    metadata: Mapping[str, str]
    """What else its opener says about it."""
    uid: int
    """Who has opened it."""
    view: View | None = None
    """What its D-Bus clients may see; None: its clients are native."""
    grants: tuple[int, ...] = ()
    """What its native clients are given: handles of the bus peer."""
    path: str = ""
    """Where its socket lies."""
    address: str = ""
    """What its clients connect to."""
    opener: int | None = None
    """The D-Bus client with which it ends; None if it ends with its last holder."""
    node: int = 0
    """Its number: that of the bus peer's node which stands for it, unless it ends with its ``opener``."""
    clients: set[int] = field(default_factory=set)
    """Its D-Bus clients that are connected, as Core peers."""

    @property
    def is_native(self) -> bool:
        """Its clients speak bus1."""
        return self.view is None
