"""names: well-known names, from RequestName to ListQueuedOwners.

Theory. The table of names decides (``bus1_bridge.names``); here are the checks of the reference, in its
order, and the signals that a change causes.

Not here: who is behind a name (``connections``), names that can be started.
"""

from __future__ import annotations

from bus1_services.types import is_bus_name

from bus1.errors import Denied, InvalidArgument

from ..wire import DRIVER_NAME
from .errors import DriverError
from .method import Call, Values


def _check_name(name: str, adjective: str, verb: str, reserved: str) -> None:
    if not is_bus_name(name):
        raise InvalidArgument(f'{adjective} bus name "{name}" is not valid')
    if name.startswith(":"):
        raise InvalidArgument(f"Cannot {verb} a service starting with ':' such as \"{name}\"")
    if name == DRIVER_NAME:
        raise InvalidArgument(reserved)


def _check_owns(call: Call, name: str, what: str) -> None:
    """Denied to those whose endpoint does not let them own the name."""
    sight = call.caller.sight
    if sight is not None and not sight.owns(name):
        raise Denied(call.delivery.guard.refusal_by_entrance(call.caller, what))


def request_name(call: Call, name: str, flags: int) -> Values:
    """RequestName."""
    caller, delivery = call.caller, call.delivery
    _check_name(
        name, "Requested", "acquire",
        f'Connection "{caller.unique}" is not allowed to own the service "{name}" because it is reserved '
        "for D-Bus' use only",
    )
    refusal = delivery.guard.refusal_to_own(caller, name)
    if refusal is not None:
        raise Denied(refusal)
    names = delivery.tables.names
    owned = names.count(caller.peer) + 1
    if owned >= delivery.limits_of(caller).max_names_per_connection:
        text = delivery.limited(caller, "max_names_per_connection", owned, f'no room for "{name}"')
        raise DriverError("LimitsExceeded", text)
    code, changes = names.request(caller.peer, name, flags)
    delivery.name_changes(changes)
    return (int(code),)


def release_name(call: Call, name: str) -> Values:
    """ReleaseName."""
    _check_name(
        name, "Given", "release", f"Cannot release the {name} service because it is owned by the bus"
    )
    _check_owns(call, name, f'release the service "{name}"')
    code, changes = call.delivery.tables.names.release(call.caller.peer, name)
    call.delivery.name_changes(changes)
    return (int(code),)


def name_owner(call: Call, name: str) -> Values:
    """GetNameOwner."""
    target = call.target(name, "owner")
    return (target.unique if target else DRIVER_NAME,)


def name_has_owner(call: Call, name: str) -> Values:
    """NameHasOwner: no error for what is no name."""
    return (name == DRIVER_NAME or call.delivery.tables.party_for(call.caller, name) is not None,)


def list_names(call: Call) -> Values:
    """ListNames: the bus first."""
    tables, sight = call.delivery.tables, call.caller.sight
    names = [*tables.unique_names(call.caller), *tables.names.names()]
    return ([DRIVER_NAME, *(names if sight is None else filter(sight.sees, names))],)


def list_queued_owners(call: Call, name: str) -> Values:
    """ListQueuedOwners: the owner first."""
    sight = call.caller.sight
    if sight is not None and sight.sees(name):
        _check_owns(call, name, f'list who waits for the service "{name}"')
    target = call.target(name, "owners")
    if target is None:
        return ([DRIVER_NAME],)
    if name.startswith(":"):
        return ([target.unique],)
    tables = call.delivery.tables
    return ([tables.parties[peer].unique for peer in tables.names.queue(name)],)
