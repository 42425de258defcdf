"""texts: the files that tell a machine of a service: unit, activation, policy, account, interfaces.

Theory. All of them follow from the service itself and from how it is started, so that they cannot say
anything else than the program does. D-Bus starts a service through its unit where there is a systemd, and by
itself elsewhere. The unit grants what every service of this library needs, and nothing else: a service gets
what it works with by handles, so the rest of the machine can be taken away.

Invariants. 1. Every text says in its first lines from where it was written. 2. Nothing gets into a text that
would be read as more than a value.

Not here: where files go (``places``), writing them (``installation``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from ..app import Service
from ..interface import interfaces_of
from ..introspection import node_xml
from ..members import InterfaceSpec

MARK = "Written by bus1 install from"
_PLAIN = re.compile(r"[-A-Za-z0-9_./+,:@=~]+")
_ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

_ANYWHERE = """\
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
UMask=0077
"""
"""What a manager without privileges can do, too."""
_SYSTEM = """\
CapabilityBoundingSet=
DevicePolicy=closed
IPAddressDeny=any
KeyringMode=private
PrivateDevices=yes
PrivateTmp=yes
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectSystem=strict
RemoveIPC=yes
"""


class Unfit(Exception):
    """The service cannot be installed like this; the text says why."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A service, how it is started, and as whom: an account of the system, or empty for the user's own.

    Unfit for what cannot be installed."""

    source: str
    """``MODULE:ATTRIBUTE``, where the service comes from."""
    service: Service
    program: tuple[str, ...]
    account: str = ""

    def __post_init__(self) -> None:
        if not self.service.names:
            raise Unfit(f"{self.source} owns no name: nobody could start it by one")
        for word in self.program:
            if not _PLAIN.fullmatch(word):
                raise Unfit(f"{word!r} can't stand in a unit: plain characters without spaces can")
        if not self.program or not self.program[0].startswith("/"):
            raise Unfit(f"{' '.join(self.program)!r} does not begin with the absolute path of a program")
        if self.account and not _ACCOUNT.fullmatch(self.account):
            raise Unfit(f"{self.account!r} is no name of an account")

    @property
    def names(self) -> tuple[str, ...]:
        """The bus names."""
        return self.service.names

    @property
    def unit(self) -> str:
        """The name of the unit."""
        return f"{self.names[0]}.service"

    @property
    def interfaces(self) -> tuple[InterfaceSpec, ...]:
        """Those of all objects, each once."""
        classes = map(type, self.service.objects.values())
        return tuple({spec.name: spec for each in classes for spec in interfaces_of(each)}.values())


def account_for(name: str) -> str:
    """The account of a service of the system that owns ``name``."""
    last = name.rpartition(".")[2].lower().replace("_", "-").strip("-")
    return f"_{last}"[:31]


def unit_text(finished: Finished) -> str:
    """The unit for systemd."""
    user = f"User={finished.account}\n" if finished.account else ""
    target = "multi-user.target" if finished.account else "default.target"
    return (
        f"# {MARK} {finished.source}\n"
        f"[Unit]\nDescription={_title(finished)}\n\n"
        f"[Service]\nType=notify\nBusName={finished.names[0]}\nExecStart={' '.join(finished.program)}\n{user}"
        "Restart=on-failure\n"
        "# Nothing but the bus: what the service works with, it is given. A drop-in grants more.\n"
        f"{_ANYWHERE}{_SYSTEM if finished.account else ''}\n"
        f"[Install]\nWantedBy={target}\n"
    )


def activation_text(finished: Finished, name: str) -> str:
    """The activation file of one of its names."""
    user = f"User={finished.account}\n" if finished.account else ""
    return (
        f"# {MARK} {finished.source}\n[D-BUS Service]\nName={name}\nExec={' '.join(finished.program)}\n{user}"
        f"SystemdService={finished.unit}\n"
    )


def policy_text(finished: Finished) -> str:
    """Policy for the bus of the system: its account owns the names, everybody may talk to it."""
    own = "".join(f"    <allow own={quoteattr(name)}/>\n" for name in finished.names)
    send = "".join(f"    <allow send_destination={quoteattr(name)}/>\n" for name in finished.names)
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- {MARK} {finished.source} -->\n'
        '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"\n'
        ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n<busconfig>\n'
        f"  <policy user={quoteattr(finished.account)}>\n{own}  </policy>\n"
        f'  <policy context="default">\n{send}  </policy>\n</busconfig>\n'
    )


def account_text(finished: Finished) -> str:
    """The account, for systemd-sysusers."""
    title = _title(finished).replace('"', "'")
    return f'# {MARK} {finished.source}\nu {finished.account} - "{title}"\n'


def interface_text(finished: Finished, spec: InterfaceSpec) -> str:
    """The introspection XML of an interface."""
    return f"<!-- {MARK} {finished.source} -->\n{node_xml([spec])}"


def is_ours(text: str, source: str | None = None) -> bool:
    """Whether a text was written here: for this source, or for any."""
    found = re.search(rf"^(?:# |<!-- ){MARK} (\S+)", "\n".join(_head(text)), re.M)
    return found is not None and source in {None, found[1]}


def _head(text: str) -> Sequence[str]:
    return text[:4096].splitlines()[:2]


def _title(finished: Finished) -> str:
    words = " ".join(finished.service.title.split()) or finished.names[0]
    printable = "".join(char for char in words if char.isprintable())[:120]
    return printable.replace("\\", "/").replace("%", "%%")
