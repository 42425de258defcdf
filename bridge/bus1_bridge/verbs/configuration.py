"""configuration: which configuration a verb is about, and the users of this machine.

Not here: the verbs, the reading of files (configfiles).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bus1.verbs.verb import UsageError

from ..policyrules import USER

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from ..busconfig import BusConfig
    from ..explanation import Identity


def add_configuration_arguments(parser: ArgumentParser) -> None:
    """Which bus is meant."""
    bus = parser.add_mutually_exclusive_group()
    bus.add_argument("--user", action="store_true", help="the usual configuration of a session bus [default]")
    bus.add_argument("--system", action="store_true", help="the usual configuration of the system bus")
    bus.add_argument("--config-file", metavar="FILE", help="the configuration that starts with this file")


def configuration_of(arguments: Namespace) -> BusConfig:
    """The configuration that is meant; UsageError if it can't be read."""
    from ..busconfig import ConfigError
    from ..configfiles import load, standard

    try:
        if arguments.config_file:
            return load(arguments.config_file, needs_listen=False)
        return standard("system" if arguments.system else "session", needs_listen=False)
    except ConfigError as error:
        raise UsageError(str(error)) from error


def bus_user(config: BusConfig) -> Identity:
    """Who such a bus runs as: its user if it has one, otherwise you, and root for a system bus."""
    if config.user is not None:
        return identity(config.user)
    return identity("0" if config.type == "system" else str(os.getuid()))


def identity(text: str) -> Identity:
    """The user of this name or number, with all groups; UsageError. A number needs no account."""
    import pwd

    from ..explanation import Identity

    try:
        account = pwd.getpwnam(text)
    except KeyError:
        if not (text.isascii() and text.isdigit()) or len(text) > 10:
            raise UsageError(f"there is no user {text!r} on this machine") from None
        try:
            account = pwd.getpwuid(int(text))
        except (KeyError, OverflowError):
            return Identity(text, int(text), (int(text),))
    groups = tuple(os.getgrouplist(account.pw_name, account.pw_gid))
    return Identity(account.pw_name, account.pw_uid, groups)


def name_of(kind: str, number: int) -> str:
    """The name of a user or group, or its number."""
    import grp
    import pwd

    try:
        return pwd.getpwuid(number).pw_name if kind == USER else grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
