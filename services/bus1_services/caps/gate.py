"""gate: an object that forwards to another one, and can stop.

Theory. A view looks like the object behind it: an instance of the same class, whose members go to a
``Gate``. The gate asks, each time, whether it still stands and whether the member is granted, forwards,
and asks again before it gives the result. Exported, a view has a node, and a path, of its own: what it
does not grant is in none of its tables, so that calls, properties, introspection and signals all look as
if it did not exist. The object behind may be the service's own, a proxy, or another view.

Invariants. 1. Nothing that arrives at a gate that has ended reaches the object, and no result leaves it. 2. A
gate whose view is exported nowhere is not kept by the object behind it.

Not here: what is granted (``attenuation``), when it ends (``revocation``, ``expiry``), what else is wrapped
(``membrane``), signals from elsewhere (``relay``).
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Generic, Protocol, TypeVar, cast

from bus1.errors import Disconnected, Overloaded

from ..caller import NOBODY, Caller
from ..ends import Near
from ..errors import AccessDenied, DBusError, LimitsExceeded, NoReply, PropertyReadOnly
from ..interface import Interface, interfaces_of
from ..members import InterfaceSpec, MethodSpec, PropertySpec, SignalSpec
from ..proxy import Remote
from .relay import Relay

I = TypeVar("I", bound=Interface)  # noqa: E741
Spec = MethodSpec | PropertySpec | SignalSpec

log = logging.getLogger("bus1.services")


class Revoked(DBusError, name="org.bus1.Error.Revoked"):
    """The capability has been taken back, or its time is over."""


class Place(Protocol):
    """Where a view is exported (``export.Export``)."""

    @property
    def connection(self) -> Any:
        """Of which peer."""

    @property
    def node(self) -> int:
        """What stands for it there."""

    def withdraw(self) -> None:
        """Destroy its node."""


class Gate(Generic[I]):
    """What stands between ``view`` and ``inner``; subclasses say what passes."""

    def __init__(self, inner: I, specs: Iterable[InterfaceSpec] | None = None) -> None:
        self.inner = inner
        self.specs = tuple(specs_of(inner) if specs is None else specs)
        """The interfaces that the view has, with the members that are granted."""
        self._granted = {spec.attribute: spec for table in self.specs for spec in table.members.values()}
        self._has_ended = False
        self._relay: Relay | None = None
        self.view = object.__new__(type(inner))
        """What may be called, returned, sent and published in place of ``inner``."""
        self.view.__far__ = self
        self.view.__dict__["unreferenced"] = self._unreferenced

    # ---- what passes -------------------------------------------------------------------------

    def check(self) -> None:
        """Revoked, if nothing passes any more, here or at a gate behind this one."""
        if self._has_ended:
            raise Revoked("this capability has been revoked")
        if isinstance(self.inner.__far__, Gate):
            self.inner.__far__.check()

    def admit(self, spec: MethodSpec | PropertySpec, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """The arguments, or the value to set, on their way to the object; DBusError."""
        return args

    def emerge(self, spec: Spec, values: Any) -> Any:
        """A result, a value, or a signal's arguments, on their way out; DBusError."""
        return values

    def identify(self, caller: Caller) -> Caller:
        """The caller as the object sees it."""
        return caller

    def end(self) -> None:
        """Let nothing pass from now on, and destroy the view's nodes; a second time does nothing."""
        self._has_ended = True
        for place in tuple(self.view.__near__):
            cast(Place, place).withdraw()

    # ---- what the export of the view tells ---------------------------------------------------

    def opened(self, place: Place) -> None:
        """The view is exported there, or one that stands on it; Revoked."""
        self.check()
        inner = self.inner
        if isinstance(inner.__far__, Gate):
            inner.__far__.opened(place)
        if self._is_beside and self not in inner.__near__:
            inner.__near__.append(self)
        far = inner.__far__
        if isinstance(far, Remote) and self._relay is None and any(map(_tells, self._granted.values())):
            self._relay = Relay(self, far)
            self._relay.start()

    def closed(self) -> None:
        """The view is exported at one place less."""
        inner = self.inner
        if self.view.__near__:
            return
        if self._relay is not None:
            self._relay.stop()
            self._relay = None
        if self in inner.__near__:
            inner.__near__.remove(self)
            if isinstance(inner.__far__, Gate):
                inner.__far__.closed()

    def used(self, caller: Caller, refused: bool) -> None:
        """A call of the view, or of one that stands on it, has arrived."""
        if isinstance(self.inner.__far__, Gate):
            self.inner.__far__.used(caller, refused)

    def nodes(self) -> list[int]:
        """The nodes that lead here: of the view, and of those that stand on it."""
        found: list[int] = []
        for near in self.view.__near__:
            found += near.nodes() if isinstance(near, Gate) else [cast(Place, near).node]
        return found

    def withdraw(self) -> None:
        """The view below has ended: so does this one, which stands on it."""
        self.end()

    def _unreferenced(self) -> None:
        """Nobody holds the view any more; perhaps nobody holds the object either."""
        inner = self.inner
        if self._is_beside and not inner.__near__:
            inner.unreferenced()

    @property
    def _is_beside(self) -> bool:
        """The object is the service's own, or a view, and tells what happens to it."""
        return self.inner.__far__ is None or isinstance(self.inner.__far__, Gate)

    # ---- what the view asks (interface.Far) --------------------------------------------------

    async def perform(self, attribute: str, args: tuple[Any, ...], caller: Caller) -> Any:
        """Call a method of the object for ``caller``; DBusError."""
        spec = self._spec(attribute, MethodSpec)
        args = self.admit(spec, args)
        far = self.inner.__far__
        if isinstance(far, Gate):
            result = far.perform(attribute, args, self.identify(caller))
        else:
            extra = {spec.caller: self.identify(caller)} if far is None and spec.caller else {}
            result = getattr(self.inner, attribute)(*args, **extra)
        return self.emerge(spec, await self._passed(result))

    async def invoke(self, interface: str, spec: MethodSpec, args: tuple[Any, ...]) -> Any:
        """A call from within this process."""
        return await self.perform(spec.attribute, args, NOBODY)

    async def get(self, interface: str, spec: PropertySpec) -> Any:
        """Read a property."""
        granted = self._spec(spec.attribute, PropertySpec)
        return self.emerge(granted, await self._passed(getattr(self.inner, spec.attribute).get()))

    async def set(self, interface: str, spec: PropertySpec, value: Any) -> None:
        """Set a property; PropertyReadOnly, if only reading is granted."""
        granted = self._spec(spec.attribute, PropertySpec)
        if not granted.is_writable:
            raise PropertyReadOnly(f"{granted.name} cannot be set")
        (value,) = self.admit(granted, (value,))
        await self._passed(getattr(self.inner, spec.attribute).set(value))

    def subscribe(self, interface: str, spec: SignalSpec) -> AbstractAsyncContextManager[Any]:
        """Not in this process: TypeError."""
        raise TypeError(f"{spec.name} is received by whom the view was given to")

    def _spec(self, attribute: str, kind: type[S]) -> S:
        self.check()
        spec = self._granted.get(attribute)
        if not isinstance(spec, kind):
            raise AccessDenied(f"{attribute} is not granted")
        return spec

    async def _passed(self, result: Any) -> Any:
        """What the object gives, if the gate still stands by then."""
        try:
            result = await result if inspect.isawaitable(result) else result
        except Exception as error:
            self.check()
            if isinstance(error, Disconnected):
                raise NoReply(f"the object behind this capability is gone: {error}") from error
            if isinstance(error, Overloaded):
                raise LimitsExceeded(f"the object behind this capability is not reached: {error}") from error
            raise
        self.check()
        return result

    # ---- what the object tells (interface.Near) ----------------------------------------------

    async def emit(self, interface: str, spec: SignalSpec, args: tuple[Any, ...]) -> None:
        """Pass a signal on to the holders of the view."""
        if spec.attribute in self._granted and (passed := self._outward(spec, args)) is not None:
            for near in self._near():
                await near.emit(interface, spec, passed[0])

    async def changed(self, interface: str, changes: Sequence[tuple[PropertySpec, Any]]) -> None:
        """Tell the holders of the view about properties."""
        passed: list[tuple[PropertySpec, Any]] = []
        for spec, value in changes:
            granted = self._granted.get(spec.attribute)
            if isinstance(granted, PropertySpec) and (outside := self._outward(granted, value)) is not None:
                passed.append((granted, outside[0]))
        if passed:
            for near in self._near():
                await near.changed(interface, passed)

    def start(self, function: Callable[[], Awaitable[object]]) -> object:
        """Run a task of the object as long as a connection of the view lasts."""
        return self.view.__near__[0].start(function)

    def _near(self) -> Iterator[Near]:
        """Where the view is exported, and still is when its turn comes."""
        return (near for near in tuple(self.view.__near__) if near in self.view.__near__)

    def _outward(self, spec: Spec, values: Any) -> tuple[Any] | None:
        """The values in a tuple; None, if they do not pass: the emitter is not to blame for that."""
        try:
            self.check()
            return (self.emerge(spec, values),)
        except DBusError as error:
            log.warning("a view of %s keeps back %s: %s", type(self.inner).__qualname__, spec.name, error)
            return None


S = TypeVar("S", MethodSpec, PropertySpec)


def specs_of(target: Interface) -> tuple[InterfaceSpec, ...]:
    """The interfaces that a view of ``target`` can have."""
    far = target.__far__
    if isinstance(far, Gate):
        return far.specs
    return interfaces_of(type(target))


def _tells(spec: Spec) -> bool:
    """Whether signals say something of it."""
    if isinstance(spec, PropertySpec):
        return spec.emits in {"true", "invalidates"}
    return isinstance(spec, SignalSpec)
