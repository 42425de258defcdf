"""driver: the bus itself as an object, ``org.freedesktop.DBus``.

Theory. ``METHODS`` is the driver: one row per method with its interface, its signatures and the
function that answers. Dispatch, argument checks and introspection read that table. A function gets the
caller and the arguments, and returns the values of the reply; it raises ``DriverError``, or an error
of the contract, whose D-Bus name is looked up in ``ERROR_NAMES``.

Methods of the interfaces that older clients know work on every path; Properties only on the
driver's own. A reply is left out only if the caller wants none and the method returns nothing.

Invariants. 1. The signals that a call causes are queued before its reply (Hello: after it). 2. Before
Hello no other call to the driver is answered.

Not here: activation, monitoring, statistics, reloading: not methods of this bus yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bus1_services.types import is_bus_name

from bus1.errors import (
    Bus1Error,
    Denied,
    Disconnected,
    InvalidArgument,
    NotSupported,
    OutOfMemory,
    Overloaded,
    Rejected,
    TooLarge,
)

from . import match, wire
from .introspection import DriverInterface, describe
from .match import MatchRuleInvalid
from .switch.connection import Incoming
from .switch.delivery import DRIVER_NAME, DRIVER_PATH, Delivery
from .switch.tables import LegacyParty, Party
from .wire import CALL, ERROR_PREFIX, NO_REPLY_EXPECTED, RETURN, Variant

PEER_INTERFACE = "org.freedesktop.DBus.Peer"
PROPERTIES_INTERFACE = "org.freedesktop.DBus.Properties"
INTROSPECTABLE_INTERFACE = "org.freedesktop.DBus.Introspectable"

ERROR_NAMES: dict[type[Bus1Error], str] = {
    MatchRuleInvalid: ERROR_PREFIX + "MatchRuleInvalid",
    Denied: ERROR_PREFIX + "AccessDenied",
    InvalidArgument: ERROR_PREFIX + "InvalidArgs",
    NotSupported: ERROR_PREFIX + "NotSupported",
    TooLarge: ERROR_PREFIX + "LimitsExceeded",
    OutOfMemory: ERROR_PREFIX + "NoMemory",
    Overloaded: ERROR_PREFIX + "LimitsExceeded",
    Disconnected: ERROR_PREFIX + "NoReply",
    Bus1Error: ERROR_PREFIX + "Failed",
}
"""The one table between errors of the contract and D-Bus's names; the nearest class counts."""


def error_name(error: Bus1Error) -> str:
    """D-Bus's name for an error of the contract."""
    if isinstance(error, DriverError):
        return error.name
    return next(ERROR_NAMES[kind] for kind in type(error).__mro__ if kind in ERROR_NAMES)


class DriverError(Rejected):
    """An error that only D-Bus has a name for."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = ERROR_PREFIX + name


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the driver."""

    delivery: Delivery
    caller: LegacyParty
    path: str


@dataclass(frozen=True, slots=True)
class Method:
    """A row of the table."""

    interface: str
    name: str
    takes: str
    returns: str
    answer: Callable[..., tuple[Any, ...]]
    on_every_path: bool = True
    reads: str | None = None
    """Signature of the first arguments, which are all that ``answer`` gets; None for all of them."""


class Driver:
    """Answers what is addressed to the bus."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery

    def handle(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A message to the driver; all but calls are ignored."""
        header = incoming.header
        if header.type != CALL:
            return
        try:
            if not sender.unique and (header.interface, header.member) != (DRIVER_NAME, "Hello"):
                raise Denied("Client tried to send a message other than Hello without being registered")
            self._answer(sender, incoming, _look_up(header))
        except Bus1Error as error:
            self._delivery.send_error(sender, header, error_name(error), str(error))

    def handle_as_peer(self, sender: LegacyParty, incoming: Incoming) -> None:
        """A call without destination: the bus as any other peer; the answer carries no sender."""
        header = incoming.header
        method = _PEER.get(header.member or "")
        wanted = header.interface in {None, PEER_INTERFACE} and header.signature == ""
        if method is None or not wanted:
            self._delivery.send_error(
                sender, header, ERROR_PREFIX + "UnknownMethod",
                f'Method "{header.member}" with signature "{header.signature}" '
                f'on interface "{header.interface or "(null)"}" doesn\'t exist\n',
                anonymous=True,
            )
        else:
            self._answer(sender, incoming, method, anonymous=True)

    def _answer(
        self, sender: LegacyParty, incoming: Incoming, method: Method, *, anonymous: bool = False
    ) -> None:
        header, delivery = incoming.header, self._delivery
        reads = method.takes if method.reads is None else method.reads
        arguments = wire.unmarshal(reads, incoming.body, header.endian)
        values = method.answer(Call(delivery, sender, header.path or ""), *arguments)
        if header.flags & NO_REPLY_EXPECTED and not method.returns:
            return
        delivery.send_from_bus(
            sender, RETURN, reply_serial=header.serial, signature=method.returns,
            body=wire.marshal(method.returns, *values), anonymous=anonymous,
        )
        if method.answer is _hello:
            delivery.announce(sender)


def _look_up(header: wire.Header) -> Method:
    at_home = header.path == DRIVER_PATH
    interface_is_known = header.interface is None
    for method in METHODS:
        if header.interface not in {None, method.interface} or not (at_home or method.on_every_path):
            continue
        interface_is_known = True
        if method.name != header.member:
            continue
        if method.takes != header.signature:
            raise InvalidArgument(
                f"Call to {method.name} has wrong args ({header.signature}, expected {method.takes})"
            )
        return method
    raise DriverError(
        "UnknownMethod" if interface_is_known else "UnknownInterface",
        f"{DRIVER_NAME} does not understand message {header.member}",
    )


# ---- connections ---------------------------------------------------------------------------------


def _hello(call: Call) -> tuple[Any, ...]:
    tables, limits, caller = call.delivery.tables, call.delivery.limits, call.caller
    if caller.unique:
        raise DriverError("Failed", "Already handled an Hello message")
    named = len(tables.unique)
    if named >= limits.max_completed_connections:
        raise DriverError(
            "LimitsExceeded", f"The maximum number of active connections, {named}, has been reached"
        )
    if named >= limits.max_connections_per_user:
        uid = caller.credentials.uid
        of_user = sum(party.credentials.uid == uid for party in tables.unique.values())
        if of_user >= limits.max_connections_per_user:
            raise DriverError(
                "LimitsExceeded", f"The maximum number of active connections for UID {uid} has been reached"
            )
    caller.unique = f":1.{tables.next_unique}"
    tables.next_unique += 1
    tables.unique[caller.unique] = caller
    return (caller.unique,)


def _target(call: Call, name: str, what: str) -> Party | None:
    """The party behind a name, None for the bus; NameHasNoOwner."""
    if name == DRIVER_NAME:
        return None
    party = call.delivery.tables.party_of(name)
    if party is None:
        raise DriverError("NameHasNoOwner", f"Could not get {what} of name '{name}': no such name")
    return party


def _unix_user(call: Call, name: str) -> tuple[Any, ...]:
    target = _target(call, name, "UID")
    return ((target.credentials if target else call.delivery.tables.bus_credentials).uid,)


def _process_id(call: Call, name: str) -> tuple[Any, ...]:
    target = _target(call, name, "PID")
    pid = (target.credentials if target else call.delivery.tables.bus_credentials).pid
    if not pid:
        raise DriverError("UnixProcessIdUnknown", f"Could not determine PID for '{name}'")
    return (pid,)


def _credentials(call: Call, name: str) -> tuple[Any, ...]:
    target = _target(call, name, "credentials")
    credentials = target.credentials if target else call.delivery.tables.bus_credentials
    known = {"UnixUserID": Variant("u", credentials.uid)}
    if credentials.pid:
        known["ProcessID"] = Variant("u", credentials.pid)
    label = credentials.secctx
    if isinstance(target, LegacyParty):
        groups = sorted({credentials.gid, *target.groups})
        known["UnixGroupIDs"] = Variant("au", groups)
        label = target.label
    if label:
        known["LinuxSecurityLabel"] = Variant("ay", label.rstrip(b"\0") + b"\0")
    return (known,)


def _audit_data(call: Call, name: str) -> tuple[Any, ...]:
    _target(call, name, "audit session data")
    raise DriverError("AdtAuditDataUnknown", f"Could not determine audit session data for '{name}'")


def _selinux_context(call: Call, name: str) -> tuple[Any, ...]:
    _target(call, name, "security context")
    raise DriverError(
        "SELinuxSecurityContextUnknown", f"Could not determine security context for '{name}'"
    )


# ---- names ---------------------------------------------------------------------------------------


def _check_name(name: str, adjective: str, verb: str, reserved: str) -> None:
    if not is_bus_name(name):
        raise InvalidArgument(f'{adjective} bus name "{name}" is not valid')
    if name.startswith(":"):
        raise InvalidArgument(f"Cannot {verb} a service starting with ':' such as \"{name}\"")
    if name == DRIVER_NAME:
        raise InvalidArgument(reserved)


def _request_name(call: Call, name: str, flags: int) -> tuple[Any, ...]:
    caller, delivery = call.caller, call.delivery
    _check_name(
        name, "Requested", "acquire",
        f'Connection "{caller.unique}" is not allowed to own the service "{name}" because it is reserved '
        "for D-Bus' use only",
    )
    names, limit = delivery.tables.names, delivery.limits.max_names_per_connection
    if names.count(caller.peer) + 1 >= limit:
        raise DriverError(
            "LimitsExceeded",
            f'Connection "{caller.unique}" is not allowed to own more services (limit: {limit})',
        )
    code, changes = names.request(caller.peer, name, flags)
    delivery.name_changes(changes)
    return (int(code),)


def _release_name(call: Call, name: str) -> tuple[Any, ...]:
    _check_name(
        name, "Given", "release", f"Cannot release the {name} service because it is owned by the bus"
    )
    code, changes = call.delivery.tables.names.release(call.caller.peer, name)
    call.delivery.name_changes(changes)
    return (int(code),)


def _name_owner(call: Call, name: str) -> tuple[Any, ...]:
    target = _target(call, name, "owner")
    return (target.unique if target else DRIVER_NAME,)


def _name_has_owner(call: Call, name: str) -> tuple[Any, ...]:
    return (name == DRIVER_NAME or call.delivery.tables.party_of(name) is not None,)


def _list_names(call: Call) -> tuple[Any, ...]:
    tables = call.delivery.tables
    unique = [name for name, party in tables.unique.items() if party.announced or party is call.caller]
    return ([DRIVER_NAME, *unique, *tables.names.names()],)


def _list_activatable_names(call: Call) -> tuple[Any, ...]:
    return ([DRIVER_NAME],)


def _list_queued_owners(call: Call, name: str) -> tuple[Any, ...]:
    target = _target(call, name, "owners")
    if target is None:
        return ([DRIVER_NAME],)
    if name.startswith(":"):
        return ([target.unique],)
    tables = call.delivery.tables
    return ([tables.parties[peer].unique for peer in tables.names.queue(name)],)


def _start_service(call: Call, name: str, flags: int) -> tuple[Any, ...]:
    raise DriverError("ServiceUnknown", f"The name {name} was not provided by any .service files")


# ---- match rules ---------------------------------------------------------------------------------


def _add_match(call: Call, text: str) -> tuple[Any, ...]:
    caller, delivery = call.caller, call.delivery
    matches, limit = delivery.tables.matches, delivery.limits.max_match_rules_per_connection
    if matches.count(caller.peer) >= limit:
        raise DriverError(
            "LimitsExceeded",
            f'Connection "{caller.unique}" is not allowed to add more match rules (limit: {limit})',
        )
    rule = match.parse(text)
    if rule.eavesdrop:
        if caller.credentials.uid not in {0, delivery.tables.bus_credentials.uid}:
            raise Denied(f'Connection "{caller.unique}" is not allowed to eavesdrop')
        delivery.eavesdroppers[caller.peer] += 1
    matches.add(caller.peer, rule)
    return ()


def _remove_match(call: Call, text: str) -> tuple[Any, ...]:
    rule, peer, eavesdroppers = match.parse(text), call.caller.peer, call.delivery.eavesdroppers
    if not call.delivery.tables.matches.remove(peer, rule):
        raise DriverError("MatchRuleNotFound", "The given match rule wasn't found and can't be removed")
    if rule.eavesdrop:
        eavesdroppers[peer] -= 1
        if not eavesdroppers[peer]:
            del eavesdroppers[peer]
    return ()


# ---- the bus itself ------------------------------------------------------------------------------

_PROPERTIES: dict[str, Variant] = {
    "Features": Variant("as", ["HeaderFiltering"]),
    "Interfaces": Variant("as", []),
}


def _get_id(call: Call) -> tuple[Any, ...]:
    return (call.delivery.tables.bus_id,)


def _properties_of(interface: str) -> dict[str, Variant]:
    if all(method.interface != interface for method in METHODS):
        raise DriverError("UnknownInterface", f'Interface "{interface}" not found')
    return _PROPERTIES if interface == DRIVER_NAME else {}


def _get(call: Call, interface: str, name: str) -> tuple[Any, ...]:
    properties = _properties_of(interface)
    if name not in properties:
        raise DriverError("UnknownProperty", f'Property "{interface}.{name}" not found')
    return (properties[name],)


def _get_all(call: Call, interface: str) -> tuple[Any, ...]:
    return (_properties_of(interface),)


def _set(call: Call, interface: str, name: str) -> tuple[Any, ...]:
    _get(call, interface, name)
    raise DriverError("PropertyReadOnly", f"Property '{interface}.{name}' cannot be set")


def _introspect(call: Call) -> tuple[Any, ...]:
    at_home = call.path == DRIVER_PATH
    children: tuple[str, ...] = ()
    if not at_home and DRIVER_PATH.startswith(call.path.rstrip("/") + "/"):
        children = (DRIVER_PATH[len(call.path.rstrip("/")) + 1 :],)
    interfaces = dict.fromkeys(m.interface for m in METHODS if at_home or m.on_every_path)
    return (describe([_described(name) for name in interfaces], children),)


def _described(interface: str) -> DriverInterface:
    is_driver = interface == DRIVER_NAME
    return DriverInterface(
        interface,
        methods=tuple((m.name, m.takes, m.returns) for m in METHODS if m.interface == interface),
        properties=tuple((name, value.signature) for name, value in _PROPERTIES.items() if is_driver),
        signals=(("NameOwnerChanged", "sss"), ("NameLost", "s"), ("NameAcquired", "s")) if is_driver else (),
    )


def _ping(call: Call) -> tuple[Any, ...]:
    return ()


def _machine_id(call: Call) -> tuple[Any, ...]:
    machine_id = call.delivery.tables.machine_id
    if not machine_id:
        raise DriverError("FileNotFound", "This machine has no machine id")
    return (machine_id,)


METHODS: tuple[Method, ...] = (
    Method(DRIVER_NAME, "Hello", "", "s", _hello),
    Method(DRIVER_NAME, "RequestName", "su", "u", _request_name),
    Method(DRIVER_NAME, "ReleaseName", "s", "u", _release_name),
    Method(DRIVER_NAME, "StartServiceByName", "su", "u", _start_service),
    Method(DRIVER_NAME, "NameHasOwner", "s", "b", _name_has_owner),
    Method(DRIVER_NAME, "ListNames", "", "as", _list_names),
    Method(DRIVER_NAME, "ListActivatableNames", "", "as", _list_activatable_names),
    Method(DRIVER_NAME, "AddMatch", "s", "", _add_match),
    Method(DRIVER_NAME, "RemoveMatch", "s", "", _remove_match),
    Method(DRIVER_NAME, "GetNameOwner", "s", "s", _name_owner),
    Method(DRIVER_NAME, "ListQueuedOwners", "s", "as", _list_queued_owners),
    Method(DRIVER_NAME, "GetConnectionUnixUser", "s", "u", _unix_user),
    Method(DRIVER_NAME, "GetConnectionUnixProcessID", "s", "u", _process_id),
    Method(DRIVER_NAME, "GetAdtAuditSessionData", "s", "ay", _audit_data),
    Method(DRIVER_NAME, "GetConnectionSELinuxSecurityContext", "s", "ay", _selinux_context),
    Method(DRIVER_NAME, "GetId", "", "s", _get_id),
    Method(DRIVER_NAME, "GetConnectionCredentials", "s", "a{sv}", _credentials),
    Method(PROPERTIES_INTERFACE, "Get", "ss", "v", _get, on_every_path=False),
    Method(PROPERTIES_INTERFACE, "GetAll", "s", "a{sv}", _get_all, on_every_path=False),
    # the value may be anything of any size, and nothing can be set
    Method(PROPERTIES_INTERFACE, "Set", "ssv", "", _set, on_every_path=False, reads="ss"),
    Method(INTROSPECTABLE_INTERFACE, "Introspect", "", "s", _introspect),
    Method(PEER_INTERFACE, "GetMachineId", "", "s", _machine_id),
    Method(PEER_INTERFACE, "Ping", "", "", _ping),
)
_PEER = {method.name: method for method in METHODS if method.interface == PEER_INTERFACE}
