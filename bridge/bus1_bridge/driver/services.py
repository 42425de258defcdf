"""services: names that can be started, and how the bus starts them.

Theory. What can be started lies in files, and what a configuration says in others: the control plane looks,
and these methods ask it (``switch.questions``). What waits for a start is ``activation``'s.

Not here: service files, starting (the control plane).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bus1.errors import Denied, InvalidArgument

from .. import wire
from ..switch.connection import Incoming
from ..switch.delivery import Delivery
from ..switch.effects import ListServices, Reload
from ..switch.tables import LegacyParty
from ..wire import DRIVER_NAME, SIGNAL
from .errors import DriverError
from .method import LATER, Call, Values

if TYPE_CHECKING:
    from ..activation import Activation

_ALREADY_RUNNING = 2
ACTIVATOR = "org.freedesktop.systemd1.Activator"
"""What the bus and systemd say to each other about units."""


def start_service(call: Call, name: str, flags: int) -> Values | None:
    """StartServiceByName: answered when the name has an owner; the flags mean nothing."""
    sight = call.caller.sight
    if sight is not None and sight.sees(name) and not sight.grant(name).may_start:
        raise Denied(call.delivery.guard.refusal_by_entrance(call.caller, f'start the service "{name}"'))
    return LATER if _activation(call.delivery).start(call.ticket(), name) else (_ALREADY_RUNNING,)


def list_activatable_names(call: Call) -> Values:
    """ListActivatableNames: the bus first."""
    names = call.delivery.questions.ask(call.caller.peer, ListServices)
    assert isinstance(names, tuple)
    sight = call.caller.sight
    return ([DRIVER_NAME, *(names if sight is None else filter(sight.sees, names))],)


def update_environment(call: Call, variables: dict[str, str]) -> Values:
    """UpdateActivationEnvironment: for services that are started from now on, and for systemd."""
    activation = _activation(call.delivery)
    if activation.settings.has_helper:
        raise Denied("Cannot change activation environment on a system bus.")
    for name in variables:
        if not name or "=" in name:
            raise InvalidArgument(f"'{name}' is not the name of an environment variable")
    activation.set_environment(variables)
    return ()


def reload_config(call: Call) -> Values:
    """ReloadConfig: answered when the new configuration holds."""
    complaint = call.delivery.questions.ask(call.caller.peer, Reload)
    if complaint is not None:
        raise DriverError("Failed", str(complaint))
    return ()


def hear(delivery: Delivery, sender: LegacyParty, incoming: Incoming) -> None:
    """A message to the bus that is no call: systemd may say that a unit could not be started."""
    header = incoming.header
    if (header.type, header.interface, header.member) != (SIGNAL, ACTIVATOR, "ActivationFailure"):
        return
    if header.signature.startswith("sss"):
        unit, error, text = wire.unmarshal("sss", incoming.body, header.endian)
        _activation(delivery).unit_failed(sender, unit, error, text)


def _activation(delivery: Delivery) -> Activation:
    assert delivery.activation is not None
    return delivery.activation
