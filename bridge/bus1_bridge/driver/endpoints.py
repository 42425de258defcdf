"""endpoints: sockets that show a part of the bus, for service managers that speak D-Bus.

Theory. As ``org.bus1.Endpoints1`` natively, but a D-Bus client holds no capability of what it opens: its
endpoint is open until it says ``Close`` or leaves the bus.

Not here: what an endpoint is, and opening it (``entrances``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import DriverError
from .method import Call, Values

if TYPE_CHECKING:
    from ..entrances import Entrances


def open_dbus(call: Call, name: str, path: str, rules: list[str], metadata: dict[str, str]) -> Values:
    """OpenDBus: the address for clients."""
    return (_entrances(call).open_for(call.caller, name, path, rules, metadata),)


def close(call: Call, address: str) -> Values:
    """Close: one of the caller's own, by its address."""
    if not _entrances(call).close_for(call.caller, address):
        raise DriverError("UnknownObject", f"{call.caller.unique} has opened no endpoint at '{address}'")
    return ()


def _entrances(call: Call) -> Entrances:
    assert call.delivery.entrances is not None
    return call.delivery.entrances
