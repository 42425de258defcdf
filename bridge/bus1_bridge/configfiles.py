"""configfiles: configuration files as they lie on this machine.

Theory. ``Machine`` is what reading a configuration asks of the machine: files, directories, the numbers of
users and groups, and where .service files usually are. Names are looked up when a file is read and never
again: the name service can be slow, and a running bus must not wait for it.

Not here: what the files say (configxml, busconfig), when they are read again (daemon).
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .busconfig import BusConfig, ConfigError, ServiceDir, Sources
from .configxml import FILE_MAX, read
from .policyrules import USER

_STANDARD = "/usr/share/dbus-1/{}.conf"
_USER_LIMITS = "/etc/bus1/{}-limits.toml"
"""Limits of single users, by the type of the bus."""
_CONSOLE = "/run/console"
"""Has a file for each user who sits at the machine, where there is somebody to put it there."""

_SYSTEM_DIRS = (
    ServiceDir("/etc/dbus-1/system-services", is_strict=True),
    ServiceDir("/run/dbus-1/system-services", is_strict=True),
    ServiceDir("/usr/local/share/dbus-1/system-services"),
    ServiceDir("/usr/share/dbus-1/system-services"),
    ServiceDir("/lib/dbus-1/system-services"),
)


class Machine(Sources):
    """This machine."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, str], int | None] = {}

    def content(self, path: str) -> bytes:
        """The content of a file, or a little more than may be; OSError."""
        with open(path, "rb") as file:
            return file.read(FILE_MAX + 1)

    def entries(self, path: str) -> list[str]:
        """The names in a directory; OSError."""
        return os.listdir(path)

    def number_of(self, kind: str, name: str) -> int | None:
        """The number of a user or group, who may be given by number; None if there is none."""
        key = (kind, name)
        if key not in self._numbers:
            self._numbers[key] = _user(name) if kind == USER else _group(name)
        return self._numbers[key]

    def uid_of(self, name: str) -> int | None:
        """The number of a user by name; a number is a user, whether there is one or not."""
        return int(name) if name.isascii() and name.isdigit() else self.number_of(USER, name)

    def service_dirs(self, kind: str) -> Iterable[ServiceDir]:
        """The standard directories, each once."""
        return _SYSTEM_DIRS if kind == "system" else tuple(dict.fromkeys(_session_dirs()))


def load(path: str, *, needs_listen: bool = True) -> BusConfig:
    """The configuration that starts with this file; ConfigError, also if it listens nowhere."""
    return _finished(read(os.path.abspath(path), Machine()), needs_listen)


def standard(kind: str, *, needs_listen: bool = True) -> BusConfig:
    """The usual configuration of a ``session`` or ``system`` bus; ConfigError."""
    path = _STANDARD.format(kind)
    machine = Machine()
    try:
        content = machine.content(path)
    except FileNotFoundError:
        from .standardfiles import CONTENTS

        content = CONTENTS[kind]
    except OSError as error:
        raise ConfigError(f'Failed to open "{path}": {error.strerror}') from error
    return _finished(read(path, machine, content), needs_listen)


def add_user_limits(config: BusConfig, path: str | None) -> BusConfig:
    """The same configuration with the limits of single users; ConfigError.

    Without a path they are in the usual file, if there is one."""
    where = path or (_USER_LIMITS.format(config.type) if config.type in {"session", "system"} else "")
    machine = Machine()
    try:
        content = machine.content(where) if where else b""
    except OSError as error:
        if path is None and isinstance(error, FileNotFoundError):
            return config
        raise ConfigError(f'Failed to open "{where}": {error.strerror}') from error
    if content:
        # rarely there
        from .userlimits import parse

        if len(content) > FILE_MAX:
            raise ConfigError(f"{where}: more than {FILE_MAX} bytes")
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{where}: {error}") from error
        config.user_limits = parse(text, where, machine.uid_of)
        config.warnings += config.user_limits.warnings
    if where:
        config.files += (where,)
    return config


def _finished(config: BusConfig, needs_listen: bool) -> BusConfig:
    if needs_listen and not config.listen:
        raise ConfigError(
            f"{config.files[0]}: Configuration file needs one or more <listen> elements giving addresses"
        )
    if config.contexts.console or config.contexts.no_console:
        config.console_uids = _at_console()
    return config


def _session_dirs() -> Iterable[ServiceDir]:
    environment = os.environ
    runtime = environment.get("XDG_RUNTIME_DIR")
    if runtime:
        yield ServiceDir(f"{runtime}/dbus-1/services", is_strict=True, is_watched=False)
    home = environment.get("XDG_DATA_HOME")
    if not home and environment.get("HOME"):
        home = f"{environment['HOME']}/.local/share"
    shared = environment.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    for folder in (home, *shared.split(":"), "/usr/share"):
        # a path that is not absolute is not valid (XDG Base Directory Specification)
        if folder and folder.startswith("/"):
            yield ServiceDir(f"{folder.rstrip('/')}/dbus-1/services")


def _user(name: str) -> int | None:
    import pwd

    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        pass
    try:
        return pwd.getpwuid(int(name)).pw_uid if name.isascii() and name.isdigit() else None
    except (KeyError, OverflowError):
        return None


def _group(name: str) -> int | None:
    import grp

    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        pass
    try:
        return grp.getgrgid(int(name)).gr_gid if name.isascii() and name.isdigit() else None
    except (KeyError, OverflowError):
        return None


def _at_console() -> frozenset[int]:
    try:
        names = os.listdir(_CONSOLE)
    except OSError:
        return frozenset()
    return frozenset(uid for name in names if (uid := _user(name)) is not None)
