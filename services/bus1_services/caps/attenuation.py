"""attenuation: a view that grants some members of an object, and fixes arguments.

Theory. What is granted is listed; nothing else is there. A property is granted for reading, unless it
is listed as ``writable``. A fixed argument stays part of the method, so that the same class is the proxy
for it, but only the one value is accepted.

    clock = attenuate(clock, Clock.format, Clock.zone, fixed={Clock.format: {"template": "%H:%M"}})

Not here: forwarding (``gate``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar

from ..errors import AccessDenied
from ..interface import Interface, Member, spec_of
from ..members import InterfaceSpec, MethodSpec, PropertySpec
from .gate import Gate, Spec, specs_of

I = TypeVar("I", bound=Interface)  # noqa: E741


def attenuate(
    target: I, *members: Member, writable: Collection[Member] = (),
    fixed: Mapping[Member, Mapping[str, Any]] | None = None,
) -> I:
    """A view of ``target`` with these members alone; ``writable`` and ``fixed`` are granted, too.

    TypeError for a member that ``target`` does not have, a property that cannot be set, an argument of no
    method."""
    fixed = {} if fixed is None else fixed
    wanted = {_key(member) for member in (*members, *writable, *fixed)}
    settable = {_key(member) for member in writable}
    specs = [
        replace(table, members=MappingProxyType({
            name: _limited(spec, (table.name, spec.attribute) in settable)
            for name, spec in table.members.items() if (table.name, spec.attribute) in wanted
        }))
        for table in specs_of(target)
    ]
    _check(wanted, settable, specs)
    for member, values in fixed.items():
        spec = member.spec()
        if not isinstance(spec, MethodSpec) or not values.keys() <= {arg.name for arg in spec.inputs}:
            raise TypeError(f"{spec.name} does not have the arguments {sorted(values)}")
    by_attribute = {member.spec().attribute: dict(values) for member, values in fixed.items()}
    return Attenuated(target, [table for table in specs if table.members], by_attribute).view


class Attenuated(Gate[I]):
    """A gate that compares fixed arguments; ``fixed`` is by attribute and parameter."""

    def __init__(
        self, inner: I, specs: Collection[InterfaceSpec], fixed: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__(inner, specs)
        self._fixed = fixed

    def admit(self, spec: MethodSpec | PropertySpec, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """AccessDenied, if a fixed argument has another value."""
        fixed = self._fixed.get(spec.attribute)
        if fixed is None or not isinstance(spec, MethodSpec):
            return args
        for arg, value in zip(spec.inputs, args, strict=True):
            if fixed.get(arg.name, value) != value:
                raise AccessDenied(f"{arg.name} of {spec.name} is fixed to another value")
        # The values themselves: a path that equals a fixed one may have come with a capability.
        return tuple(fixed.get(arg.name, value) for arg, value in zip(spec.inputs, args, strict=True))


def _key(member: Member) -> tuple[str, str]:
    """Its interface and what it is called in Python: on the bus, several may have one name."""
    return spec_of(member.interface).name, member.spec().attribute


def _limited(spec: Spec, is_settable: bool) -> Spec:
    if isinstance(spec, PropertySpec):
        return replace(spec, is_writable=spec.is_writable and is_settable)
    return spec


def _check(wanted: set[tuple[str, str]], settable: set[tuple[str, str]], specs: list[InterfaceSpec]) -> None:
    there = {(table.name, spec.attribute): spec for table in specs for spec in table.members.values()}
    for interface, attribute in sorted(wanted - there.keys()):
        raise TypeError(f"the object has no {attribute} of {interface} to grant")
    for key in sorted(settable):
        spec = there[key]
        if not isinstance(spec, PropertySpec) or not spec.is_writable:
            raise TypeError(f"{key[0]}.{spec.name} cannot be set, so that cannot be granted")
