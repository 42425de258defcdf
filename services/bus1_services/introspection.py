"""introspection: XML out of the specs of interfaces.

Theory. The seed document carries the ``<interface>`` elements of an object alone; whoever answers Introspect
adds the standard interfaces and the child nodes. Docstrings go along as GDBus's annotation, deprecation and
change notification as D-Bus's own.

Not here: reading XML; a native client never introspects.
"""

from __future__ import annotations

from collections.abc import Iterable
from xml.sax.saxutils import quoteattr

from .members import Arg, InterfaceSpec, MethodSpec, PropertySpec, SignalSpec

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


def node_xml(specs: Iterable[InterfaceSpec]) -> str:
    """A whole answer of Introspect, without children."""
    return f"{_DOCTYPE}<node>\n{interfaces_xml(specs)}</node>\n"


def interfaces_xml(specs: Iterable[InterfaceSpec]) -> str:
    """The ``<interface>`` elements alone."""
    return "".join(_interface(spec) for spec in specs)


def _interface(spec: InterfaceSpec) -> str:
    members = "".join(_member(member) for member in spec.members.values())
    return f" <interface name={quoteattr(spec.name)}>\n{_doc(spec.doc)}{members} </interface>\n"


def _member(member: MethodSpec | SignalSpec | PropertySpec) -> str:
    notes = _doc(member.doc)
    if member.deprecated:
        notes += _annotation("org.freedesktop.DBus.Deprecated", "true")
    match member:
        case MethodSpec():
            if member.no_reply:
                notes += _annotation("org.freedesktop.DBus.Method.NoReply", "true")
            args = _args(member.inputs, ' direction="in"') + _args(member.outputs, ' direction="out"')
            return _element("method", f"name={quoteattr(member.name)}", args + notes)
        case SignalSpec():
            return _element("signal", f"name={quoteattr(member.name)}", _args(member.args, "") + notes)
    if member.emits != "true":
        notes += _annotation("org.freedesktop.DBus.Property.EmitsChangedSignal", member.emits)
    access = "readwrite" if member.is_writable else "read"
    head = f'name={quoteattr(member.name)} type={quoteattr(member.signature)} access="{access}"'
    return _element("property", head, notes)


def _args(args: Iterable[Arg], direction: str) -> str:
    names = ((arg, f" name={quoteattr(arg.name)}" if arg.name else "") for arg in args)
    return "".join(f"   <arg{name} type={quoteattr(arg.signature)}{direction}/>\n" for arg, name in names)


def _doc(text: str) -> str:
    return _annotation("org.gtk.GDBus.DocString", text) if text else ""


def _annotation(name: str, value: str) -> str:
    return f'   <annotation name="{name}" value={quoteattr(value)}/>\n'


def _element(kind: str, head: str, inside: str) -> str:
    return f"  <{kind} {head}>\n{inside}  </{kind}>\n" if inside else f"  <{kind} {head}/>\n"
