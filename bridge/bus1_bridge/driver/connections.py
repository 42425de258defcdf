"""connections: Hello, and who is behind a name.

Theory. Credentials are those that the kernel gave at accept; nothing is read again later. What is not
known is left out. Of a client behind an endpoint that somebody opened for it, the bus adds which that is.

Not here: names and who owns them (``names``).
"""

from __future__ import annotations

from bus1.context import label_of
from bus1.core.api import Credentials

from ..switch.delivery import Delivery
from ..switch.tables import UNKNOWN_ID, LegacyParty, Party
from ..wire import Variant
from .errors import DriverError
from .method import Call, Values

_HELLO = "no room for one more connection"


def hello(call: Call) -> Values:
    """Hello: the connection gets its unique name."""
    delivery, caller = call.delivery, call.caller
    tables = delivery.tables
    if caller.unique:
        raise DriverError("Failed", "Already handled an Hello message")
    _check_number(delivery, caller)
    if not delivery.pace.admits(caller.uid, delivery.limits_of(caller), delivery.now):
        text = delivery.limited(caller, "new_connections_per_second", delivery.pace.count(caller.uid), _HELLO)
        raise DriverError("LimitsExceeded", text)
    caller.unique = f":1.{tables.next_unique}"
    tables.next_unique += 1
    tables.enter(caller)
    call.afterwards.append(lambda: call.delivery.announce(caller))
    return (caller.unique,)


def _check_number(delivery: Delivery, caller: LegacyParty) -> None:
    tables, limits = delivery.tables, delivery.limits
    named = len(tables.unique) + len(tables.monitors)
    if named >= limits.max_completed_connections:
        raise DriverError(
            "LimitsExceeded", delivery.limited(caller, "max_completed_connections", named, _HELLO)
        )
    if named >= delivery.limits_of(caller).max_connections_per_user:
        uid = caller.credentials.uid
        of_user = tables.n_named_of(uid)
        if of_user >= delivery.limits_of(caller).max_connections_per_user:
            raise DriverError(
                "LimitsExceeded", delivery.limited(caller, "max_connections_per_user", of_user, _HELLO)
            )


def unix_user(call: Call, name: str) -> Values:
    """GetConnectionUnixUser."""
    target = call.target(name, "UID")
    uid = target.uid if target else call.delivery.tables.bus_credentials.uid
    if uid is None:
        raise DriverError("Failed", f"Could not determine UID for '{name}'")
    return (uid,)


def process_id(call: Call, name: str) -> Values:
    """GetConnectionUnixProcessID."""
    target = call.target(name, "PID")
    pid = (target.credentials if target else call.delivery.tables.bus_credentials).pid
    if not pid:
        raise DriverError("UnixProcessIdUnknown", f"Could not determine PID for '{name}'")
    return (pid,)


def credentials(call: Call, name: str) -> Values:
    """GetConnectionCredentials: what is known, under the keys of the specification."""
    target = call.target(name, "credentials")
    known = known_credentials(target, call.delivery.tables.bus_credentials)
    if isinstance(target, LegacyParty) and call.caller.takes_fds:
        pidfd = call.delivery.tables.open_pidfd(target.peer, call.caller.peer)
        if pidfd is not None:
            known["ProcessFD"] = Variant("h", len(call.fds))
            call.fds.append(pidfd)
    return (known,)


def known_credentials(target: Party | None, own: Credentials) -> dict[str, Variant]:
    """What the kernel said of a client, or is our ``own``, under the keys of the specification."""
    credentials = target.credentials if target else own
    known: dict[str, Variant] = {}
    if credentials.uid != UNKNOWN_ID:
        known["UnixUserID"] = Variant("u", credentials.uid)
    if credentials.pid:
        known["ProcessID"] = Variant("u", credentials.pid)
    if isinstance(target, LegacyParty):
        groups = sorted({credentials.gid, *credentials.groups} - {UNKNOWN_ID})
        if groups:
            known["UnixGroupIDs"] = Variant("au", groups)
    if label := label_of(credentials.secctx):
        known["LinuxSecurityLabel"] = Variant("ay", label + b"\0")
    if target and target.entrance:
        known["org.bus1.Endpoint"] = Variant("s", target.entrance.name)
        known["org.bus1.Endpoint.Metadata"] = Variant("a{ss}", target.entrance.metadata)
    return known


def audit_data(call: Call, name: str) -> Values:
    """GetAdtAuditSessionData: nobody has any."""
    call.target(name, "audit session data")
    raise DriverError("AdtAuditDataUnknown", f"Could not determine audit session data for '{name}'")


def selinux_context(call: Call, name: str) -> Values:
    """GetConnectionSELinuxSecurityContext."""
    call.target(name, "security context")
    raise DriverError(
        "SELinuxSecurityContextUnknown", f"Could not determine security context for '{name}'"
    )
