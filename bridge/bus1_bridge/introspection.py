"""introspection: the driver's own description in XML.

Theory. The text is generated from plain rows, in the layout that the reference uses. All names come
from this repository's tables, so nothing needs escaping.

Not here: which interfaces and methods there are (driver), descriptions of native objects.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bus1_services.types import split_signature

DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    '"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)
_CONSTANT = '<annotation name="org.freedesktop.DBus.Property.EmitsChangedSignal" value="const"/>'


class DriverInterface(NamedTuple):
    """What one interface of the driver has; signatures as D-Bus writes them."""

    name: str
    methods: tuple[tuple[str, str, str], ...] = ()
    """Name, arguments, results."""
    properties: tuple[tuple[str, str], ...] = ()
    """Name and type; all are constant."""
    signals: tuple[tuple[str, str], ...] = ()


def describe(interfaces: Sequence[DriverInterface], children: Sequence[str] = ()) -> str:
    """The XML of one path."""
    lines = ["<node>"]
    for interface in interfaces:
        lines.append(f'  <interface name="{interface.name}">')
        for name, takes, returns in interface.methods:
            lines.append(f'    <method name="{name}">')
            lines += _arguments(takes, ' direction="in"')
            lines += _arguments(returns, ' direction="out"')
            lines.append("    </method>")
        for name, type_ in interface.properties:
            lines.append(f'    <property name="{name}" type="{type_}" access="read">')
            lines.append(f"      {_CONSTANT}")
            lines.append("    </property>")
        for name, carries in interface.signals:
            lines.append(f'    <signal name="{name}">')
            lines += _arguments(carries, "")
            lines.append("    </signal>")
        lines.append("  </interface>")
    lines += [f'  <node name="{child}"/>' for child in children]
    return DOCTYPE + "\n".join([*lines, "</node>", ""])


def _arguments(signature: str, direction: str) -> Iterable[str]:
    return [f'      <arg{direction} type="{type_}"/>' for type_ in split_signature(signature)]
