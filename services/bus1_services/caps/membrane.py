"""membrane: a view of an object and of every object that comes through it, taken back together.

Theory. An object that goes out is wrapped, one that comes in is wrapped the other way round, and one that
goes back to where it came from is unwrapped. So whoever got anything through the membrane, at whatever
remove, holds views alone, and ``revoke`` ends them all, in both directions.

    membrane = Membrane()
    outside = membrane.wrap(library)
    membrane.revoke()

What cannot be wrapped does not pass: descriptors, which nobody can take back, and capabilities without a
type.

Invariants. 1. No object, handle or descriptor is in what passes, but views of this membrane and objects on
their way home. 2. While a view lives, wrapping its object again gives the same view.

Not here: forwarding (``gate``). Errors pass as name and text.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from typing import Any, TypeVar, cast

from ..body import Reference, Variant
from ..caller import Caller
from ..errors import AccessDenied
from ..interface import Interface
from ..members import MethodSpec, PropertySpec
from .gate import Gate, Revoked, Spec

I = TypeVar("I", bound=Interface)  # noqa: E741
_PLAIN = (str, bytes, bytearray, memoryview, int, float, Enum, type(None))


class Membrane:
    """One boundary; ``wrap`` what goes out, ``revoke`` all of it."""

    def __init__(self) -> None:
        self._views: weakref.WeakValueDictionary[tuple[int, bool], Interface] = weakref.WeakValueDictionary()
        self._is_revoked = False

    def wrap(self, target: I) -> I:
        """The view of ``target`` for the outside; Revoked."""
        return cast(I, self._object(target, True))

    def revoke(self) -> None:
        """End every view, now and for good."""
        self._is_revoked = True
        for view in list(self._views.values()):
            cast(Crossing[Any], view.__far__).end()

    def passed(self, value: Any, outward: bool) -> Any:
        """``value`` on the other side; AccessDenied for what cannot be wrapped."""
        if isinstance(value, Interface):
            return self._object(value, outward)
        if isinstance(value, Reference) and value.handle is not None:
            raise AccessDenied("a capability without a type does not pass a membrane")
        if isinstance(value, _PLAIN):
            return value
        if isinstance(value, Variant):
            _refuse_descriptors(value.signature)
            return Variant(value.signature, self.passed(value.value, outward))
        if is_dataclass(value) and not isinstance(value, type):
            parts = [part.name for part in fields(value) if part.init]
            return replace(value, **{part: self.passed(getattr(value, part), outward) for part in parts})
        if isinstance(value, Mapping):
            items = value.items()
            return {self.passed(key, outward): self.passed(inside, outward) for key, inside in items}
        if isinstance(value, Iterable):
            inside = (self.passed(part, outward) for part in value)
            return getattr(type(value), "_make", tuple)(inside) if isinstance(value, tuple) else list(inside)
        raise AccessDenied(f"a {type(value).__name__} does not pass a membrane")

    def _object(self, target: Interface, outward: bool) -> Interface:
        if self._is_revoked:
            raise Revoked("this capability has been revoked")
        far = target.__far__
        if isinstance(far, Crossing) and far.membrane is self:
            return target if far.outward == outward else cast(Interface, far.inner)
        view = self._views.get((id(target), outward))
        if view is None:
            view = self._views[id(target), outward] = Crossing(target, self, outward).view
        return view


class Crossing(Gate[I]):
    """A gate of a membrane; ``outward``: the object is inside."""

    def __init__(self, inner: I, membrane: Membrane, outward: bool) -> None:
        super().__init__(inner)
        self.membrane = membrane
        self.outward = outward

    def admit(self, spec: MethodSpec | PropertySpec, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments on the object's side."""
        _refuse_descriptors(spec.signature)
        return tuple(self.membrane.passed(value, not self.outward) for value in args)

    def emerge(self, spec: Spec, values: Any) -> Any:
        """The results on the other side."""
        _refuse_descriptors(spec.result if isinstance(spec, MethodSpec) else spec.signature)
        return self.membrane.passed(values, self.outward)

    def identify(self, caller: Caller) -> Caller:
        """The caller without the handles that came along."""
        return replace(caller, handles=(), reply=None, connection=None)


def _refuse_descriptors(signature: str) -> None:
    if "h" in signature:
        raise AccessDenied("a descriptor does not pass a membrane: nobody could take it back")
