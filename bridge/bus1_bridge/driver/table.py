"""table: every method of the driver.

Theory. The order is that of the reference's introspection data, and with an omitted interface the first
row that fits counts.

Not here: what the functions do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..wire import DRIVER_NAME
from . import connections, endpoints, itself, matches, monitoring, names, services
from .method import (
    ENDPOINTS_INTERFACE,
    INTROSPECTABLE_INTERFACE,
    MONITORING_INTERFACE,
    PEER_INTERFACE,
    PROPERTIES_INTERFACE,
    STATS_INTERFACE,
    Call,
    Method,
    Values,
)


def _statistics(name: str) -> Callable[..., Values]:
    """A function of ``statistics``, which is loaded when somebody asks: few ever do."""

    def answer(call: Call, *arguments: Any) -> Values:
        from . import statistics

        values: Values = getattr(statistics, name)(call, *arguments)
        return values

    return answer


METHODS: tuple[Method, ...] = (
    Method(DRIVER_NAME, "Hello", "", "s", connections.hello),
    Method(DRIVER_NAME, "RequestName", "su", "u", names.request_name),
    Method(DRIVER_NAME, "ReleaseName", "s", "u", names.release_name),
    Method(DRIVER_NAME, "StartServiceByName", "su", "u", services.start_service),
    Method(
        DRIVER_NAME, "UpdateActivationEnvironment", "a{ss}", "", services.update_environment,
        on_every_path=False, is_privileged=True,
    ),
    Method(DRIVER_NAME, "NameHasOwner", "s", "b", names.name_has_owner),
    Method(DRIVER_NAME, "ListNames", "", "as", names.list_names),
    Method(DRIVER_NAME, "ListActivatableNames", "", "as", services.list_activatable_names),
    Method(DRIVER_NAME, "AddMatch", "s", "", matches.add_match),
    Method(DRIVER_NAME, "RemoveMatch", "s", "", matches.remove_match),
    Method(DRIVER_NAME, "GetNameOwner", "s", "s", names.name_owner),
    Method(DRIVER_NAME, "ListQueuedOwners", "s", "as", names.list_queued_owners),
    Method(DRIVER_NAME, "GetConnectionUnixUser", "s", "u", connections.unix_user),
    Method(DRIVER_NAME, "GetConnectionUnixProcessID", "s", "u", connections.process_id),
    Method(DRIVER_NAME, "GetAdtAuditSessionData", "s", "ay", connections.audit_data),
    Method(DRIVER_NAME, "GetConnectionSELinuxSecurityContext", "s", "ay", connections.selinux_context),
    Method(DRIVER_NAME, "ReloadConfig", "", "", services.reload_config, shows_all=True),
    Method(DRIVER_NAME, "GetId", "", "s", itself.get_id),
    Method(DRIVER_NAME, "GetConnectionCredentials", "s", "a{sv}", connections.credentials),
    Method(PROPERTIES_INTERFACE, "Get", "ss", "v", itself.get, on_every_path=False),
    Method(PROPERTIES_INTERFACE, "GetAll", "s", "a{sv}", itself.get_all, on_every_path=False),
    # the value may be anything of any size, and nothing can be set
    Method(PROPERTIES_INTERFACE, "Set", "ssv", "", itself.set_, on_every_path=False, reads="ss"),
    Method(INTROSPECTABLE_INTERFACE, "Introspect", "", "s", itself.introspect),
    Method(
        MONITORING_INTERFACE, "BecomeMonitor", "asu", "", monitoring.become_monitor,
        on_every_path=False, is_privileged=True,
    ),
    Method(
        STATS_INTERFACE, "GetStats", "", "a{sv}", _statistics("get_stats"), on_every_path=False,
        shows_all=True,
    ),
    Method(
        STATS_INTERFACE, "GetConnectionStats", "s", "a{sv}", _statistics("get_connection_stats"),
        on_every_path=False, shows_all=True,
    ),
    Method(
        STATS_INTERFACE, "GetAllMatchRules", "", "a{sas}", _statistics("get_all_match_rules"),
        on_every_path=False, shows_all=True,
    ),
    Method(
        ENDPOINTS_INTERFACE, "OpenDBus", "ssasa{ss}", "s", endpoints.open_dbus, on_every_path=False,
        is_privileged=True,
    ),
    Method(
        ENDPOINTS_INTERFACE, "Close", "s", "", endpoints.close, on_every_path=False, is_privileged=True,
    ),
    Method(PEER_INTERFACE, "GetMachineId", "", "s", itself.machine_id),
    Method(PEER_INTERFACE, "Ping", "", "", itself.ping),
)
