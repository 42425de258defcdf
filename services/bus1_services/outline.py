"""outline: an interface in lines that people, and tests, compare.

Not here: XML (``introspection``).
"""

from __future__ import annotations

from .interface import Interface, interfaces_of
from .members import MethodSpec, PropertySpec, SignalSpec


def outline(cls: type[Interface]) -> list[str]:
    """A line for each member of the interfaces of ``cls``, sorted: its kind, its name, its types."""
    return sorted(_line(member) for spec in interfaces_of(cls) for member in spec.members.values())


def _line(member: MethodSpec | SignalSpec | PropertySpec) -> str:
    match member:
        case MethodSpec():
            return f"method {member.name}({member.signature}) -> ({member.result})"
        case SignalSpec():
            return f"signal {member.name}({member.signature})"
        case PropertySpec():
            access = ("read" if member.is_readable else "") + ("write" if member.is_writable else "")
            return f"property {member.name}: {member.signature} {access} {member.emits}"
