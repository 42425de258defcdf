"""entrances: how endpoints with less authority are opened and closed: ``org.bus1.Endpoints1``.

Theory. Opening is a method of the object that the default endpoint grants. The opener says where the socket
lies, under which name its clients are known, and what they get: capabilities, which come along as handles, or
the rules of a view. It gets a capability in return, a node of the bus peer that stands for the endpoint:
when nobody holds that any more, or on ``Close``, the socket is gone, and so is everybody who came in by it.
So an endpoint never outlives those who answer for it. A D-Bus client holds no capability: what it has opened
ends with it (``driver.endpoints``).

Who may open is who the bus trusts (root, and the user that it runs as), as far as the policy lets it call the
bus with this interface. Who came in by such an endpoint is not trusted, whatever its user.

Invariants. 1. A method that fails has opened nothing, and holds nothing. 2. The bus peer holds one
reference per granted handle of an open entrance. 3. ``ENTRANCES_MAX`` bounds the entrances of a user.

Not here: sockets (``switch.doors``), what a view shows (``view``, ``switch.sight``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from bus1.context import ENDPOINT_MAX
from bus1.core.api import DestroyFlag
from bus1.errors import InvalidArgument, NodeDestroyed

from . import wire
from .busobject import Answer, Call, Failure, Method, Methods
from .driver.errors import DriverError
from .entrance import Entrance
from .policy import Fields
from .switch.delivery import Delivery
from .switch.tables import LegacyParty
from .view import View

INTERFACE = "org.bus1.Endpoints1"
"""What opens endpoints; the registry's object has it."""
ENDPOINT_INTERFACE = "org.bus1.Endpoint1"
"""What an opened endpoint has."""
ENTRANCES_MAX = 256
"""Of one user."""
GRANTS_MAX = 64
"""Capabilities of one native endpoint."""
METADATA_MAX = 4096
"""Bytes of all keys and values, as dbus-daemon's max_container_metadata_bytes."""


class Doors(Protocol):
    """What has the sockets."""

    def open(self, entrance: Entrance) -> str:
        """Listen at its path; the address that clients connect to. InvalidArgument says why not."""

    def close(self, entrance: Entrance) -> None:
        """Listen no more, and end all connections that came in there."""


class Entrances:
    """All endpoints that somebody has opened."""

    def __init__(self, delivery: Delivery, next_node: Callable[[], int]) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._core = delivery.tables.core
        self._bus = delivery.tables.bus_peer
        self._next_node = next_node
        self._open: dict[int, Entrance] = {}
        """By node."""
        self.doors: Doors | None = None
        """The edge's; without one nothing can be opened."""
        self.methods: Methods = {
            #                                in            out  handles
            (INTERFACE, "OpenNative"): Method("ssa{ss}", "s", None, self._open_native),
            (INTERFACE, "OpenDBus"): Method("ssasa{ss}", "s", 0, self._open_dbus),
        }

    # ---- for the registry ------------------------------------------------------------------------

    def methods_of(self, node: int) -> Methods | None:
        """Those of the endpoint that this node stands for; None if it is none."""
        entrance = self._open.get(node)
        if entrance is None:
            return None
        return {(ENDPOINT_INTERFACE, "Close"): Method("", "", 0, partial(self._on_close, entrance))}

    def released(self, node: int) -> None:
        """Nobody holds this node any more: if it stands for an endpoint, that is over."""
        if (entrance := self._open.get(node)) is not None:
            self.close(entrance)

    # ---- for D-Bus clients -----------------------------------------------------------------------

    def open_for(
        self, party: LegacyParty, name: str, path: str, rules: Sequence[str], metadata: Mapping[str, str]
    ) -> str:
        """An endpoint for D-Bus programs, open as long as the party is there; its address. DriverError."""
        uid, view = party.credentials.uid, View.of(rules)
        entrance = Entrance(name, metadata, uid, view, path=path, opener=party.peer)
        failure = self._listen(entrance)
        if failure is not None:
            raise DriverError(failure.name, failure.text)
        return entrance.address

    def close_for(self, party: LegacyParty, address: str) -> bool:
        """Close what the party has opened there; False if that is nothing."""
        mine = [each for each in self._open.values() if (each.opener, each.address) == (party.peer, address)]
        for entrance in mine:
            self.close(entrance)
        return bool(mine)

    def left(self, peer: int) -> None:
        """This party is gone, and so is what it answered for."""
        for entrance in [each for each in self._open.values() if each.opener == peer]:
            self.close(entrance)

    # ---- for those who come in -------------------------------------------------------------------

    def grant(self, entrance: Entrance, peer: int) -> tuple[int, ...]:
        """What the entrance grants, as handles of a new native peer; NodeDestroyed if any of it is gone."""
        if any(self._core.node_of(self._bus, handle) is None for handle in entrance.grants):
            raise NodeDestroyed(f'what the endpoint "{entrance.name}" grants is gone')
        return tuple(self._core.handle_transfer(self._bus, handle, peer) for handle in entrance.grants)

    def close(self, entrance: Entrance) -> None:
        """The entrance, and all that came in by it, is over; nothing if it is already."""
        if self._open.pop(entrance.node, None) is None:
            return
        if self.doors is not None:
            self.doors.close(entrance)
        self._core.node_destroy(self._bus, [entrance.node], DestroyFlag.RELEASE_HANDLES)
        for handle in entrance.grants:
            self._core.handle_release(self._bus, handle)

    def close_all(self) -> None:
        """The bus ends."""
        for entrance in list(self._open.values()):
            self.close(entrance)

    # ---- methods ---------------------------------------------------------------------------------

    def _open_native(self, call: Call) -> Answer | Failure:
        name, path, metadata = call.values
        if len(call.handles) > GRANTS_MAX:
            text = f"{len(call.handles)} capabilities, an endpoint grants at most {GRANTS_MAX}"
            return Failure("LimitsExceeded", text)
        if any(self._core.node_of(self._bus, handle) is None for handle in call.handles):
            return Failure("InvalidArgs", "A capability that is to be granted is gone")
        entrance = Entrance(name, metadata, call.caller.credentials.uid, None, call.handles, path)
        return self._enter(call, entrance)

    def _open_dbus(self, call: Call) -> Answer | Failure:
        name, path, rules, metadata = call.values
        try:
            view = View.of(rules)
        except InvalidArgument as error:
            return Failure("InvalidArgs", str(error))
        return self._enter(call, Entrance(name, metadata, call.caller.credentials.uid, view, (), path))

    def _enter(self, call: Call, entrance: Entrance) -> Answer | Failure:
        failure = self._complaint_of_rights(call) or self._listen(entrance)
        if failure is not None:
            return failure
        self._core.handle_transfer(self._bus, entrance.node, self._bus)
        return Answer((entrance.address,), (entrance.node,), call.handles)

    def _listen(self, entrance: Entrance) -> Failure | None:
        """Open it, under the number of a new node; or why not."""
        failure = self._complaint(entrance)
        if failure is not None:
            return failure
        assert self.doors is not None
        try:
            entrance.address = self.doors.open(entrance)
        except InvalidArgument as error:
            return Failure("InvalidArgs", str(error))
        entrance.node = self._next_node()
        self._open[entrance.node] = entrance
        return None

    def _complaint_of_rights(self, call: Call) -> Failure | None:
        party, delivery = call.caller, self._delivery
        what = f"{INTERFACE}.{call.envelope.member}"
        if not self._tables.trusts(party):
            text = f"{party.unique} may not call {what}: that is for root and the user of the bus"
            return Failure("AccessDenied", delivery.refusals.denied(party, text, what))
        fields = Fields(
            wire.CALL, wire.DRIVER_PATH, INTERFACE, call.envelope.member, destination=wire.DRIVER_NAME
        )
        refusal = delivery.guard.refusal(party, None, fields)
        return None if refusal is None else Failure("AccessDenied", refusal)

    def _complaint(self, entrance: Entrance) -> Failure | None:
        name, metadata = entrance.name, entrance.metadata
        size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
        if not name or not name.isprintable() or len(name.encode()) > ENDPOINT_MAX:
            text = f"An endpoint's name is 1 to {ENDPOINT_MAX} bytes that can be printed, not {name[:99]!r}"
            return Failure("InvalidArgs", text)
        if size > METADATA_MAX:
            return Failure("LimitsExceeded", f"{size} bytes of metadata, at most {METADATA_MAX}")
        used = sum(other.uid == entrance.uid for other in self._open.values())
        if used >= ENTRANCES_MAX:
            text = f"User {entrance.uid} has {used} endpoints open, at most {ENTRANCES_MAX}"
            return Failure("LimitsExceeded", text)
        if self.doors is None:
            return Failure("NotSupported", "This bus opens no endpoints")
        return None

    def _on_close(self, entrance: Entrance, call: Call) -> Answer | Failure:
        self.close(entrance)
        return Answer()

