"""places: where the files of a service belong, for a user and for the system.

Theory. A user's own are below the directories that the XDG base directory specification names. Those of a
machine are below a prefix: /usr/local for what its administrator installs, /usr for what a package brings.
The bus of the system looks for policy in /etc, and not below /usr/local.

Not here: what is in them (``texts``).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from .texts import (
    Finished,
    account_text,
    activation_text,
    interface_text,
    policy_text,
    unit_text,
)


@dataclass(frozen=True, slots=True)
class Places:
    """Directories; those that are empty are not used."""

    units: str
    activation: str
    interfaces: str
    policy: str = ""
    accounts: str = ""

    @property
    def directories(self) -> tuple[str, ...]:
        """All of them."""
        everywhere = (self.units, self.activation, self.interfaces, self.policy, self.accounts)
        return tuple(filter(None, everywhere))

    def files(self, finished: Finished) -> dict[str, str]:
        """Every file of a service, by path."""
        texts = {f"{self.units}/{finished.unit}": unit_text(finished)}
        for name in finished.names:
            texts[f"{self.activation}/{name}.service"] = activation_text(finished, name)
        for spec in finished.interfaces:
            texts[f"{self.interfaces}/{spec.name}.xml"] = interface_text(finished, spec)
        if self.policy:
            texts[f"{self.policy}/{finished.names[0]}.conf"] = policy_text(finished)
        if self.accounts:
            texts[f"{self.accounts}/{finished.names[0]}.conf"] = account_text(finished)
        return texts


def of_user(environment: Mapping[str, str] = os.environ) -> Places:
    """For the user of this environment alone."""
    home = environment.get("HOME") or os.path.expanduser("~")
    data = environment.get("XDG_DATA_HOME") or f"{home}/.local/share"
    return Places(f"{data}/systemd/user", f"{data}/dbus-1/services", f"{data}/dbus-1/interfaces")


def of_users(prefix: str) -> Places:
    """For the session of each user of this machine."""
    share = f"{prefix}/share/dbus-1"
    return Places(f"{prefix}/lib/systemd/user", f"{share}/services", f"{share}/interfaces")


def of_system(prefix: str) -> Places:
    """For the system."""
    share = f"{prefix}/share/dbus-1"
    policy = "/etc/dbus-1/system.d" if prefix == "/usr/local" else f"{share}/system.d"
    return Places(
        f"{prefix}/lib/systemd/system", f"{share}/system-services", f"{share}/interfaces", policy,
        f"{prefix}/lib/sysusers.d",
    )
