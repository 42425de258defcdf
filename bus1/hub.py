"""hub: what a broker serves: Core, and what the process adds to it.

Theory. Most operations go straight to Core. Those that the process may want to see first go through its
``Hub``. ``PlainHub`` adds nothing, which makes a bus of native peers alone; the bridge's gateway is one that
knows D-Bus connections, too.

Not here: connections and their requests (broker, channel), sends that take several turns (unfinished), names
for people (label).
"""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Any, Protocol

from .core.api import Buffer, CoreApi, Credentials
from .descriptors import refuse_unix_sockets
from .label import Label


class Hub(Protocol):
    """What a broker serves: Core, and what this process adds to it."""

    @property
    def core(self) -> CoreApi:
        """The state machine; every operation not named here goes straight to it."""

    @property
    def is_plain(self) -> bool:
        """What native peers send to each other goes to Core as it is, and nothing else is done with it."""

    @property
    def late(self) -> Sized:
        """What hosted objects have to say though nothing has come for them: ``settle`` says it."""

    def may_connect(self, credentials: Credentials) -> bool:
        """Whether this client is served at all; asked when it connects, before a byte of it is read."""

    def peer_opened(
        self, peer: int, credentials: Credentials, entrance: Any = None
    ) -> tuple[int, ...]:
        """Handles that the endpoint grants to a new peer (ids of that peer); Denied ends the peer.

        ``entrance`` is what the endpoint was opened with (``Broker.listen``)."""

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
        progress: object = None,
    ) -> list[int]:
        """As ``Core.send``; also decides whether unix sockets may travel (T-30).

        May raise Unfinished, with the ``progress`` for the same call in the next turn."""

    def rehearse(
        self, peer: int, destinations: Sequence[int], n_bytes: int, handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
    ) -> bool:
        """Whether ``send`` needs the payload, asked before a large one is copied; raises what ``send`` would,
        as far as that can be known without it."""

    def peer_disconnect(self, peer: int) -> None:
        """As ``Core.peer_disconnect``, with whatever depends on the peer."""

    def settle(self) -> None:
        """Called after every command that had effects, before anything else runs, and while something is
        ``late``: hosted objects answer now."""

    def labels(self) -> dict[int, Label]:
        """What people may know of its peers, where that is more than who opened them."""


class PlainHub:
    """A bus of native peers alone: grants nothing, passes everything on."""

    def __init__(self, core: CoreApi) -> None:
        self.core = core
        self.late: Sized = ()

    @property
    def is_plain(self) -> bool:
        """Unless somebody has made a different hub of it."""
        return type(self).send is PlainHub.send

    def may_connect(self, credentials: Credentials) -> bool:
        """Everybody may."""
        return True

    def peer_opened(
        self, peer: int, credentials: Credentials, entrance: Any = None
    ) -> tuple[int, ...]:
        """Nothing is granted."""
        return ()

    def send(
        self, peer: int, destinations: Sequence[int], parts: Sequence[Buffer], handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
        progress: object = None,
    ) -> list[int]:
        """``Core.send``, without unix sockets; always finished at once."""
        refuse_unix_sockets(fds)
        return self.core.send(
            peer, destinations, parts, handles, fds, flags=flags, optional=optional, credentials=credentials
        )

    def rehearse(
        self, peer: int, destinations: Sequence[int], n_bytes: int, handles: Sequence[int],
        fds: Sequence[int], *, flags: int, optional: Sequence[int], credentials: Credentials,
    ) -> bool:
        """``Core.rehearse``."""
        refuse_unix_sockets(fds)
        return self.core.rehearse(
            peer, destinations, n_bytes, handles, fds, flags=flags, optional=optional, credentials=credentials
        )

    def peer_disconnect(self, peer: int) -> None:
        """``Core.peer_disconnect``."""
        self.core.peer_disconnect(peer)

    def settle(self) -> None:
        """Nothing is hosted."""

    def labels(self) -> dict[int, Label]:
        """Nobody has a name."""
        return {}
