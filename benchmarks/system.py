"""system: a policy like that of a system's bus, for those who read dbus-daemon's files, and for dbus-broker.

Theory. It has the rules that Debian's system.conf has, and those of a handful of installed services: one
may own a name if its file says so; calls go where a file lets them, some of them method by method; signals
and answers go everywhere. The load's own service is one of these. Broker's controller hands over the same
rules in another form: the latest has the highest priority, what holds for a user contains what holds for
everybody, and answers are nobody's to forbid.

Not here: how a bus gets it (buses, broker).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .messages import SPOKEN

SERVICE = "org.bus1.Benchmark.Service"
"""The name of the load's service."""
SERVICES = {"Login": 45, "Manager": 50, "Hostname": 8, "Clock": 6, "Disks": 0, "Authority": 0}
"""Others that are installed, and how many methods everybody may call; 0: all."""
TYPES = ("", "method_call", "method_return", "error", "signal")
ROOT = 0
ANY_COUNT = 0xFFFF_FFFF_FFFF_FFFF


class Rule(NamedTuple):
    """One ``<allow>`` or ``<deny>``; what is empty is any."""

    allow: bool
    kind: str
    """``own``, ``send`` or ``receive``."""
    name: str = ""
    interface: str = ""
    member: str = ""
    type: int = 0

    @property
    def element(self) -> str:
        """As dbus-daemon reads it."""
        tag = "allow" if self.allow else "deny"
        if self.kind == "own":
            return f'<{tag} own="{self.name or "*"}"/>'
        peer = "destination" if self.kind == "send" else "sender"
        given = {peer: self.name, "interface": self.interface, "member": self.member}
        given["type"] = TYPES[self.type]
        words = [f'{self.kind}_{key}="{value}"' for key, value in given.items() if value]
        return f"<{tag} {' '.join(words)}/>"


def everybody() -> Iterator[Rule]:
    """The rules of the default context."""
    bus = "org.freedesktop.DBus"
    yield Rule(False, "own")
    yield Rule(False, "send", type=1)
    for kind in (4, 2, 3):
        yield Rule(True, "send", type=kind)
    for kind in (1, 2, 3, 4):
        yield Rule(True, "receive", type=kind)
    for part in ("", ".Introspectable", ".Properties", ".Containers1"):
        yield Rule(True, "send", bus, bus + part)
    yield Rule(False, "send", bus, bus, "UpdateActivationEnvironment")
    yield Rule(False, "send", bus, f"{bus}.Debug.Stats")
    for title, n_methods in SERVICES.items():
        name = f"org.example.{title}1"
        yield Rule(not n_methods, "send", name)
        for part in ("Introspectable", "Peer", "Properties") if n_methods else ():
            yield Rule(True, "send", name, f"{bus}.{part}")
        for number in range(n_methods):
            yield Rule(True, "send", name, f"{name}.Manager", f"Method{number}")
    yield Rule(True, "own", SERVICE)
    yield Rule(False, "send", SERVICE)
    yield Rule(True, "send", SERVICE, f"{bus}.Properties")
    yield Rule(True, "send", SERVICE, SPOKEN)


def root() -> Iterator[Rule]:
    """Those of the one user who has more rights."""
    for title in SERVICES:
        name = f"org.example.{title}1"
        yield Rule(True, "own", name)
        yield Rule(True, "send", name)


def elements() -> str:
    """The policy as a configuration file has it."""
    contexts = {
        'context="default"': ['<allow user="*"/>', *(rule.element for rule in everybody())],
        'user="root"': [rule.element for rule in root()],
    }
    return "\n".join(f"<policy {who}>{' '.join(rules)}</policy>" for who, rules in contexts.items())


def batch(*rules: Rule) -> object:
    """Rules as dbus-broker's controller gives them."""
    found: dict[str, list[tuple[object, ...]]] = {"own": [], "send": [], "receive": []}
    for place, (allow, kind, name, interface, member, type_) in enumerate(rules, 1):
        if kind == "own":
            found[kind].append((allow, place, not name, name))
        else:
            found[kind].append((allow, place, name, "", interface, member, type_, 0, 0, ANY_COUNT))
    return (True, 1, found["own"], found["send"], found["receive"])


def batches() -> tuple[object, list[tuple[int, object]]]:
    """What holds for everybody, and for some by their number."""
    return batch(*everybody()), [(ROOT, batch(*everybody(), *root()))]
