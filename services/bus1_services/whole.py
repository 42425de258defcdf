"""whole: several objects in one place: one object with the interfaces of them all.

Theory. D-Bus serves several interfaces at one path. Where each is an object of its own, ``together`` makes
one that answers for all: calls and properties go to the part that has them, and what a part emits comes from
the whole. Classes that are written for it are bases of one class instead.

Not here: views of one object (``caps``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from .interface import Interface, Prop, interfaces_of
from .members import MethodSpec, PropertySpec, SignalSpec


def together(*parts: Interface) -> Interface:
    """One object with the interfaces of its parts, to be published or handed out in their place.

    The parts are no longer exported by themselves. TypeError if there are none, or if two have an interface,
    or the Python name of a member, in common."""
    def unreferenced(whole: Interface) -> None:
        for part in parts:
            part.unreferenced()

    namespace: dict[str, Any] = {"unreferenced": unreferenced}
    taken: dict[str, Interface] = {}
    for part in parts:
        for member in _members(part):
            if member.attribute in taken:
                both = f"{type(taken[member.attribute]).__qualname__} and {type(part).__qualname__}"
                raise TypeError(f"{both} have a member {member.attribute}: they cannot be one object")
            taken[member.attribute] = part
            if not isinstance(member, SignalSpec):
                namespace[member.attribute] = _forward(part, member)
    kind = type("Together", tuple(type(part) for part in parts), namespace)
    for part in parts:
        for member in _members(part):
            if isinstance(member, PropertySpec) and member.is_writable:
                getattr(kind, member.attribute).assign = _assign(part, member.attribute)
    whole: Interface = object.__new__(kind)
    for part in parts:
        part.__dict__["__near__"] = whole.__near__
    return whole


def _members(part: Interface) -> list[MethodSpec | SignalSpec | PropertySpec]:
    return [member for spec in interfaces_of(type(part)) for member in spec.members.values()]


def _forward(part: Interface, member: MethodSpec | PropertySpec) -> Callable[..., Any]:
    """What the whole does for a member of a part."""
    if isinstance(member, MethodSpec):
        async def perform(whole: Interface, *args: Any, **kwargs: Any) -> Any:
            return await getattr(part, member.attribute)(*args, **kwargs)

        return perform

    async def read(whole: Interface) -> Any:
        return await getattr(part, member.attribute)

    return read


def _assign(part: Interface, attribute: str) -> Callable[[Any, Any], Any]:
    assign = cast("Prop[Any]", getattr(type(part), attribute)).assign
    assert assign is not None
    return lambda whole, value: assign(part, value)
