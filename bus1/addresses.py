"""addresses: where a bus listens.

Theory. A native address is the path of a unix socket; a leading ``@`` means an abstract one. A bus that also
speaks D-Bus listens for native peers beside its D-Bus socket, under the same name with ``1`` appended, so one
environment variable leads to both.

Not here: connecting (links, aio), listening (the commands).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

SYSTEM_ADDRESS = "/run/bus1/bus"


def native_address(dbus_address: str) -> str | None:
    """The native socket beside the first entry of a D-Bus address; None if that is not a unix socket."""
    transport, _, rest = dbus_address.split(";", 1)[0].partition(":")
    if transport != "unix":
        return None
    values = dict(pair.partition("=")[::2] for pair in rest.split(","))
    for key, prefix in (("path", ""), ("abstract", "@")):
        if values.get(key):
            return prefix + os.fsdecode(unquote_to_bytes(values[key])) + "1"
    return None


def default_address(environment: Mapping[str, str] = os.environ) -> str:
    """The bus of this session: $BUS1_ADDRESS, else beside the D-Bus session bus, else the usual places."""
    if address := environment.get("BUS1_ADDRESS"):
        return address
    if address := native_address(environment.get("DBUS_SESSION_BUS_ADDRESS", "")):
        return address
    if directory := environment.get("XDG_RUNTIME_DIR"):
        return os.path.join(directory, "bus1")
    return SYSTEM_ADDRESS


def socket_name(address: str) -> str:
    """What bind and connect take for a native address."""
    return "\0" + address[1:] if address.startswith("@") else address
