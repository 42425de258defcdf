"""published: what D-Bus clients see of a native service when they look around.

Theory. A native service publishes nodes under object paths, with the introspection of each. D-Bus
clients expect a tree: every path between the root and a published one answers Introspect with its
children. The bus knows all that from the seed document, so it answers itself, the same way for all
services.

Invariants. 1. A path that is neither published, nor above a published one, nor ``/``, has no
introspection. 2. The text is a function of the published objects alone.

Not here: capability paths (they are nowhere in the tree), calls (``gateway``).
"""

from __future__ import annotations

from collections.abc import Mapping

from .introspection import DOCTYPE
from .switch.tables import PublishedObject

INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
PEER = "org.freedesktop.DBus.Peer"
PROPERTIES = "org.freedesktop.DBus.Properties"

_STANDARD = {
    INTROSPECTABLE: """\
  <interface name="org.freedesktop.DBus.Introspectable">
    <method name="Introspect"><arg name="xml_data" type="s" direction="out"/></method>
  </interface>
""",
    PEER: """\
  <interface name="org.freedesktop.DBus.Peer">
    <method name="Ping"/>
    <method name="GetMachineId"><arg name="machine_uuid" type="s" direction="out"/></method>
  </interface>
""",
    PROPERTIES: """\
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="out"/>
    </method>
    <method name="GetAll">
      <arg name="interface" type="s" direction="in"/>
      <arg name="properties" type="a{sv}" direction="out"/>
    </method>
    <method name="Set">
      <arg name="interface" type="s" direction="in"/>
      <arg name="property" type="s" direction="in"/>
      <arg name="value" type="v" direction="in"/>
    </method>
    <signal name="PropertiesChanged">
      <arg name="interface" type="s"/>
      <arg name="changed" type="a{sv}"/>
      <arg name="invalidated" type="as"/>
    </signal>
  </interface>
""",
}


def children(objects: Mapping[str, PublishedObject], path: str) -> list[str]:
    """The next path elements below ``path``, sorted."""
    prefix = path if path.endswith("/") else path + "/"
    below = {
        published[len(prefix) :].split("/", 1)[0] for published in objects if published.startswith(prefix)
    }
    return sorted(below - {""})


def introspect(objects: Mapping[str, PublishedObject], path: str) -> str | None:
    """The introspection document of ``path``; None where nothing is."""
    published = objects.get(path)
    names = children(objects, path)
    if published is None and not names and path != "/":
        return None
    own = "" if published is None else published.xml
    standard = (INTROSPECTABLE, PEER) if published is None else tuple(_STANDARD)
    interfaces = [_STANDARD[name] for name in standard if f'name="{name}"' not in own]
    nodes = [f'  <node name="{name}"/>\n' for name in names]
    separator = "\n" if own and not own.endswith("\n") else ""
    return "".join((DOCTYPE, "<node>\n", *interfaces, own, separator, *nodes, "</node>\n"))
