"""capabilities: object paths that only those clients may use to whom they were granted.

Theory. An object that a native service made for one client has an unguessable path from its creation,
``/org/bus1/cap/<32 hex digits>``. A legacy client holds a capability if its hosted peer holds a handle
under that path: ``LegacyParty.grants``. The path itself is worth nothing, so telling it to somebody
gives nothing, and it stands for one object on the whole bus (``bindings``), so granting it for another one
fails. Grants are counted by reference: a path that came twice is given back twice, as every handle of bus1.

Invariants. 1. Only paths of the reserved form are ever granted: no grant can shadow an object of
another name. 2. A granted handle leads to a node of a native peer: nothing but finished D-Bus
messages can come into a hosted queue. 3. ``party.granted`` counts every reference that is granted or
on its way, and never passes ``GRANTS_MAX``.

Not here: the answer for paths that are not granted (``gateway``: one routine for all of them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from bus1.core.api import HANDLE_INVALID, MANAGED, REMOTE, CoreApi, NodeRef
from bus1.errors import InvalidArgument, QuotaExceeded
from bus1.record import owned

from . import hosted
from .switch.tables import LegacyParty, NativeParty, Tables
from .translate import NativeMessage

PREFIX = "/org/bus1/cap"
GRANTS_MAX = 16384
"""References per legacy client; far beyond what a session's programs hold, far below Core's handles."""
ARGUMENTS_MAX = 4096
"""Granted paths in one message of a legacy client."""
INTERFACE = "org.bus1.Capability1"

_PATH = re.compile(rf"{PREFIX}/[0-9a-f]{{32}}")


def is_capability(path: str) -> bool:
    """A path of the reserved form."""
    return path.startswith(PREFIX) and _PATH.fullmatch(path) is not None


def is_reserved(path: str) -> bool:
    """A path at or below the prefix: nobody publishes there."""
    return path == PREFIX or path.startswith(PREFIX + "/")


def granting(
    tables: Tables, sender: int, reader: LegacyParty, message: NativeMessage, handles: Sequence[int]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The paths that this message grants to ``reader``, and their handles (ids of ``sender``).

    Raises InvalidArgument for entries that point nowhere and for paths of other objects, QuotaExceeded at
    the limit. An entry whose path is an ordinary one grants nothing: such objects are reached by name."""
    caps = message.envelope.caps
    if not caps:
        return (), ()
    granted: dict[str, int] = {}
    for ordinal, index in caps:
        path = message.paths.get(ordinal)
        if path is None or index >= len(handles):
            raise InvalidArgument(f"no object path {ordinal} or no handle {index} in the message")
        if is_capability(path) and granted.setdefault(path, handles[index]) != handles[index]:
            raise InvalidArgument(f"{path} stands for two objects in one message")
    _check_targets(tables, sender, granted)
    if reader.granted + len(granted) > GRANTS_MAX:
        raise QuotaExceeded(f"{reader.unique} holds {GRANTS_MAX} capabilities")
    return tuple(granted), tuple(granted.values())


def _check_targets(tables: Tables, sender: int, granted: Mapping[str, int]) -> None:
    fresh: set[NodeRef] = set()
    for path, handle in granted.items():
        node = tables.core.node_of(sender, handle)
        if node is None:
            if handle & (MANAGED | REMOTE):
                continue  # dead: it will arrive as HANDLE_INVALID
            node = (sender, handle)  # new with this message
        elif not isinstance(tables.parties.get(node[0]), NativeParty):
            raise InvalidArgument("a capability for a D-Bus client must be an object of a native peer")
        if tables.bindings.check(sender, path, node, len(fresh)):
            if node in fresh and node[0] != sender:
                raise InvalidArgument("only its owner gives an object another path")
            fresh.add(node)


def bind(tables: Tables, sender: int, paths: Iterable[str], handles: Iterable[int]) -> None:
    """A message with these grants of ``granting`` was queued: its paths stand for their objects."""
    for path, handle in zip(paths, handles, strict=True):
        node = tables.core.node_of(sender, handle)
        if node is not None:
            tables.bindings.bind(path, node)


def grant(core: CoreApi, party: LegacyParty, path: str, handle: int) -> None:
    """The message that carries ``path`` has been written: the client may use it from now on."""
    if handle == HANDLE_INVALID:
        party.granted -= 1
        return
    # the loss of an object that had the path before stood earlier in the client's queue
    assert party.grants.get(path, handle) == handle
    party.grants = owned(party.grants)
    party.grants[path] = handle
    hosted.hold(party, handle, path)


def give_back(core: CoreApi, party: LegacyParty, path: str) -> None:
    """The client gives back one reference to a granted path."""
    if hosted.let_go(core, party, party.grants[path], path) == 0:
        del party.grants[path]
    party.granted -= 1


def lost(party: LegacyParty, path: str, count: int) -> None:
    """The object behind ``path`` is gone, and its handle is released: nothing is granted any more."""
    del party.grants[path]
    party.granted -= count


class GrantedPaths:
    """Keeps of a body's object paths those that are granted: ordinal and path.

    It stops at one more than ``ARGUMENTS_MAX``: a hostile body has millions."""

    def __init__(self, party: LegacyParty) -> None:
        self._grants = party.grants
        self._count = 0
        self.found: list[tuple[int, str]] = []

    def append(self, path: str, /) -> None:
        """The body's next path."""
        if path in self._grants and len(self.found) <= ARGUMENTS_MAX:
            self.found.append((self._count, path))
        self._count += 1


def arguments(
    party: LegacyParty, granted: GrantedPaths | None, first: int
) -> tuple[tuple[tuple[int, int], ...], tuple[int, ...]]:
    """Of a body's granted paths those that still are: caps entries and handles, numbered from ``first``.

    Raises QuotaExceeded for more than ``ARGUMENTS_MAX``."""
    if granted is None:
        return (), ()
    if len(granted.found) > ARGUMENTS_MAX:
        raise QuotaExceeded(f"more than {ARGUMENTS_MAX} capabilities in one message")
    index: dict[int, int] = {}
    caps: list[tuple[int, int]] = []
    for ordinal, path in granted.found:
        handle = party.grants.get(path)
        if handle is not None:
            caps.append((ordinal, index.setdefault(handle, first + len(index))))
    return tuple(caps), tuple(index)
