"""scopes: whose bus is meant, and where the service manager keeps what decides about it.

Theory. systemd starts the unit ``dbus.service`` when somebody connects to the socket unit's address. Which
program that is, is decided by the first file or link of that name in a list of directories: a link
``dbus.service`` in a directory of the administrator, or the user, outranks the vendor's file. A scope is
one such directory, the list it heads, and when a change of it shows.

Not here: changing anything (installation).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

UNIT = "bus1-bridge.service"
ALIAS = "dbus.service"
_VENDOR = ("/usr/local/lib/systemd", "/usr/lib/systemd", "/lib/systemd")


@dataclass(frozen=True, slots=True)
class Scope:
    """One of ``user``, ``global`` and ``system``; paths are those below ``root``."""

    name: str
    kind: str
    """``session`` or ``system``: what the bus is told to be."""
    directories: tuple[str, ...]
    """Where units are looked up, the first of them is the one that this scope writes."""
    state: str
    """The file that remembers what was there before."""
    binaries: str
    """Where a ``dbus-daemon`` of this scope is found before the vendor's."""
    flags: tuple[str, ...]
    """What systemctl needs to be told."""
    takes_effect: str
    socket: str
    """Where the bus of this scope listens, if it runs."""

    @property
    def unit(self) -> str:
        """The unit's file."""
        return os.path.join(self.directories[0], UNIT)

    @property
    def alias(self) -> str:
        """The link that decides."""
        return os.path.join(self.directories[0], ALIAS)


def scope_named(name: str, environment: Mapping[str, str] = os.environ) -> Scope:
    """The scope of this name, for the user of this environment; KeyError."""
    return _SCOPES[name](environment)


def _user(environment: Mapping[str, str]) -> Scope:
    home = environment.get("HOME") or os.path.expanduser("~")
    config = environment.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    state = environment.get("XDG_STATE_HOME") or os.path.join(home, ".local/state")
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return Scope(
        "user", "session",
        (os.path.join(config, "systemd/user"), *_unit_directories("user")),
        os.path.join(state, "bus1/install.json"), os.path.join(home, ".local/bin"), ("--user",),
        "at your next login", os.path.join(runtime, "bus"),
    )


def _global(environment: Mapping[str, str]) -> Scope:
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return Scope(
        "global", "session", _unit_directories("user"), "/var/lib/bus1/install-global.json",
        "/usr/local/bin", ("--global",), "at the next login of each user", os.path.join(runtime, "bus"),
    )


def _system(environment: Mapping[str, str]) -> Scope:
    return Scope(
        "system", "system", _unit_directories("system"), "/var/lib/bus1/install-system.json",
        "/usr/local/bin", (), "when the machine starts again", "/run/dbus/system_bus_socket",
    )


def _unit_directories(kind: str) -> tuple[str, ...]:
    return tuple(f"{parent}/{kind}" for parent in ("/etc/systemd", "/run/systemd", *_VENDOR))


_SCOPES = {"user": _user, "global": _global, "system": _system}
