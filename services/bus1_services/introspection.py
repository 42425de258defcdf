"""introspection: XML out of the specs of interfaces.

Theory. The seed document carries the ``<interface>`` elements of an object alone; whoever answers Introspect
adds the standard interfaces and the child nodes. Docstrings go along as GDBus's annotation, deprecation and
change notification as D-Bus's own.

Not here: reading XML; a native client never introspects.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from xml.sax.saxutils import quoteattr

from .members import Arg, InterfaceSpec, MethodSpec, PropertySpec, SignalSpec

_DOC_STRING = "org.gtk.GDBus.DocString"
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
    notes = _notes(spec.doc, spec.annotations)
    return f" <interface name={quoteattr(spec.name)}>\n{notes}{members} </interface>\n"


def _member(member: MethodSpec | SignalSpec | PropertySpec) -> str:
    notes = _notes(member.doc, member.annotations)
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
    access = ("read" if member.is_readable else "") + ("write" if member.is_writable else "")
    head = f'name={quoteattr(member.name)} type={quoteattr(member.signature)} access="{access}"'
    return _element("property", head, notes)


def _args(args: Iterable[Arg], direction: str) -> str:
    return "".join(_arg(arg, direction) for arg in args)


def _arg(arg: Arg, direction: str) -> str:
    name = f" name={quoteattr(arg.name)}" if arg.name else ""
    head = f"   <arg{name} type={quoteattr(arg.signature)}{direction}"
    notes = _notes("", arg.annotations)
    return f"{head}>\n{notes}   </arg>\n" if notes else f"{head}/>\n"


def _notes(doc: str, annotations: Mapping[str, str]) -> str:
    notes = {_DOC_STRING: doc, **annotations} if doc else annotations
    return "".join(_annotation(name, value) for name, value in notes.items())


def _annotation(name: str, value: str) -> str:
    return f"   <annotation name={quoteattr(name)} value={quoteattr(value)}/>\n"


def _element(kind: str, head: str, inside: str) -> str:
    return f"  <{kind} {head}>\n{inside}  </{kind}>\n" if inside else f"  <{kind} {head}/>\n"
