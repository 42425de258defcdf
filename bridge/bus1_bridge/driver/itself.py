"""itself: what the bus says about itself: identity, properties, its description, and that it is alive.

Theory. Properties are constant as long as the bus lives. The description is made from the driver's table,
so that it never lies.

Not here: the XML's form (``introspection``), statistics.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..introspection import DriverInterface, describe
from ..wire import DRIVER_NAME, DRIVER_PATH, Variant
from .errors import DriverError
from .method import MONITORING_INTERFACE, PROPERTIES_INTERFACE, STATS_INTERFACE, Call, Method, Values

_OPTIONAL_INTERFACES = (MONITORING_INTERFACE, STATS_INTERFACE)
"""Of the reference, those that a bus may lack."""
_PROPERTIES = (("Features", "as"), ("Interfaces", "as"))
_SIGNALS = {
    DRIVER_NAME: (
        ("NameOwnerChanged", "sss"), ("NameLost", "s"), ("NameAcquired", "s"),
        ("ActivatableServicesChanged", ""),
    ),
    # declared as the specification wants it; what is constant never changes
    PROPERTIES_INTERFACE: (("PropertiesChanged", "sa{sv}as"),),
}


def get_id(call: Call) -> Values:
    """GetId."""
    return (call.delivery.tables.bus_id,)


def ping(call: Call) -> Values:
    """Peer.Ping."""
    return ()


def machine_id(call: Call) -> Values:
    """Peer.GetMachineId."""
    known = call.delivery.tables.machine_id
    if not known:
        raise DriverError("FileNotFound", "This machine has no machine id")
    return (known,)


# ---- properties ----------------------------------------------------------------------------------


def get(call: Call, interface: str, name: str) -> Values:
    """Properties.Get."""
    properties = _properties_of(call, interface)
    if name not in properties:
        raise DriverError("UnknownProperty", f'Property "{interface}.{name}" not found')
    return (properties[name],)


def get_all(call: Call, interface: str) -> Values:
    """Properties.GetAll: empty for interfaces without properties."""
    return (_properties_of(call, interface),)


def set_(call: Call, interface: str, name: str) -> Values:
    """Properties.Set: nothing can be set."""
    get(call, interface, name)
    raise DriverError("PropertyReadOnly", f"Property '{interface}.{name}' cannot be set")


def _properties_of(call: Call, interface: str) -> dict[str, Variant]:
    if all(method.interface != interface for method in call.methods):
        raise DriverError("UnknownInterface", f'Interface "{interface}" not found')
    return _own_properties(call) if interface == DRIVER_NAME else {}


def _own_properties(call: Call) -> dict[str, Variant]:
    activation, has = call.delivery.activation, {method.interface for method in call.methods}
    features = ["ActivatableServicesChanged", "HeaderFiltering"]
    if activation is not None and activation.settings.uses_systemd:
        features.append("SystemdActivation")
    interfaces = [interface for interface in _OPTIONAL_INTERFACES if interface in has]
    return {"Features": Variant("as", features), "Interfaces": Variant("as", interfaces)}


# ---- introspection -------------------------------------------------------------------------------


def introspect(call: Call) -> Values:
    """Introspectable.Introspect: of every path, with the way down to the driver's own."""
    path = (call.header.path or "").rstrip("/") + "/"
    children: tuple[str, ...] = ()
    if not call.is_at_home and DRIVER_PATH.startswith(path):
        children = (DRIVER_PATH[len(path) :],)
    there = dict.fromkeys(m.interface for m in call.methods if call.is_at_home or m.on_every_path)
    return (describe([_described(name, call.methods) for name in there], children),)


def describe_driver(methods: Sequence[Method]) -> str:
    """The driver's own description in XML, as everybody finds it at its path."""
    return describe([_described(name, methods) for name in dict.fromkeys(m.interface for m in methods)])


def _described(interface: str, methods: Sequence[Method]) -> DriverInterface:
    is_driver = interface == DRIVER_NAME
    return DriverInterface(
        interface,
        methods=tuple((m.name, m.takes, m.returns) for m in methods if m.interface == interface),
        properties=_PROPERTIES if is_driver else (),
        signals=_SIGNALS.get(interface, ()),
    )
