"""interface: a D-Bus interface, declared once as a class, for the service and for its clients.

Theory. ``class Clock(Interface, name="org.example.Clock1")`` lists methods, signals and properties with
decorators. The class is the declaration for both sides: an instance (of it, or of a subclass that
overrides members) is exported by a service; a client gets an instance that was made by ``proxy``, and
whose members travel. Members look the same on both: ``await clock.now()`` calls, ``await clock.title``
reads a property, ``await clock.title.set("x")`` sets it, ``await clock.ticked(now)`` emits (service only),
``clock.ticked.subscribe()`` receives (client only). Names on the wire are CamelCase, in Python snake_case.

A service is a table: ``interfaces_of(Clock)`` gives the specs with their ``members``, read from hints on
first use. Dispatch, proxies and introspection all read these specs.

Invariants. 1. A spec never changes. 2. An override in a subclass keeps name and signatures of the member
that it overrides. 3. A mistake in a declaration is a TypeError, at the latest on first use of the class.

Not here: what travels (``export``, ``proxy``), signatures of hints (``hints``), XML (``introspection``).
"""

from __future__ import annotations

import inspect
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Mapping,
)
from contextlib import AbstractAsyncContextManager
from types import MappingProxyType
from typing import (
    Any,
    ClassVar,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    TypeVarTuple,
    cast,
    overload,
)

from .ends import Far, Near
from .members import (
    InterfaceSpec,
    MethodSpec,
    Options,
    PropertySpec,
    SignalSpec,
    method_spec,
    property_spec,
    signal_spec,
)
from .types import is_interface_name

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
I = TypeVar("I", bound="Interface")  # noqa: E741


class Member:
    """What the decorators leave in a class; ``interface`` is the class that declared it first."""

    attribute: str = ""
    interface: type[Interface]
    _spec: MethodSpec | SignalSpec | PropertySpec | None = None

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        self.function = function
        self.options = options
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.attribute = name

    def spec(self) -> MethodSpec | SignalSpec | PropertySpec:
        """This member of the interface that declared it."""
        if self._spec is None:
            members = spec_of(self.interface).members.values()
            self._spec = next(spec for spec in members if spec.attribute == self.attribute)
        return self._spec

    def read(self) -> MethodSpec | SignalSpec | PropertySpec:
        """The spec, from the declaration; TypeError."""
        raise TypeError(f"{self.attribute} is neither method nor signal nor property")


class Method(Member, Generic[P, R]):
    """A method, made by ``@method``: awaiting a call of it gives the result, here or there.

    There it raises the answer if that is a DBusError, InvalidArgument for arguments that do not fit (nothing
    is sent then), InvalidArgs for a result that does not, and Disconnected if the object is gone."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        super().__init__(function, options)
        self.is_plain = not (inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function))
        """Calling the function runs all of it."""

    def read(self) -> MethodSpec:
        """The spec, from the declaration; TypeError."""
        return method_spec(self.function, self.attribute, self.options)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Interface, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...
    def __get__(self, instance: Interface | None, owner: type) -> Self | Callable[P, Coroutine[Any, Any, R]]:
        if instance is None:
            return self

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            result: Any
            if (far := instance.__far__) is None:
                result = self.function(instance, *args, **kwargs)
                result = await result if inspect.isawaitable(result) else result
            else:
                spec = self._spec or self.spec()
                assert isinstance(spec, MethodSpec)
                interface = self.interface.__interface__
                values = args if not kwargs and len(args) == len(spec.inputs) else spec.bind(args, kwargs)
                result = await far.invoke(interface, spec, values)
            return result  # type: ignore[no-any-return]

        return call


class Signal(Member, Generic[*Ts]):
    """A signal, made by ``@signal``; of the types of its arguments."""

    def read(self) -> SignalSpec:
        """The spec, from the declaration; TypeError."""
        return signal_spec(self.function, self.attribute, self.options)

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Interface, owner: type) -> BoundSignal[*Ts]: ...
    def __get__(self, instance: Interface | None, owner: type) -> Self | BoundSignal[*Ts]:
        return self if instance is None else BoundSignal(self, instance)


class BoundSignal(Generic[*Ts]):
    """A signal of one object: call it to emit (service), subscribe to receive (client)."""

    def __init__(self, member: Signal[*Ts], instance: Interface) -> None:
        self._spec = cast(SignalSpec, member.spec())
        self._interface = spec_of(member.interface).name
        self._instance = instance

    async def __call__(self, *args: *Ts) -> None:
        """Send the signal from every place where the object is exported; from none, do nothing.

        InvalidArgument for values that do not fit, TypeError for another number of them or at a proxy."""
        if self._instance.__far__ is not None:
            raise TypeError(f"{self._spec.name} is emitted by its object, not by a proxy")
        if len(args) != len(self._spec.args):
            raise TypeError(f"{self._spec.name} takes {len(self._spec.args)} positional arguments")
        for near in tuple(self._instance.__near__):
            await near.emit(self._interface, self._spec, args)

    @overload
    def subscribe(self: BoundSignal[T]) -> AbstractAsyncContextManager[AsyncIterator[T]]: ...
    @overload
    def subscribe(  # type: ignore[overload-cannot-match]
        self,
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[*Ts]]]: ...
    def subscribe(self) -> AbstractAsyncContextManager[Any]:
        """``async with`` it for a stream of the arguments: the value of one, a tuple of several.

        TypeError for an object of the own. The stream raises InvalidArgs for a signal whose values do not
        fit, and goes on when it is asked again."""
        if (far := self._instance.__far__) is None:
            raise TypeError(f"{self._spec.name} is received through a proxy")
        return far.subscribe(self._interface, self._spec)


class Prop(Member, Generic[T]):
    """A property, made by ``@prop``; ``@name.setter`` makes it writable."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        super().__init__(function, options)
        self.assign: Callable[[Any, T], Any] | None = None

    def setter(self, function: Callable[[Any, T], Any]) -> Callable[[Any, T], Any]:
        """Decorator: what ``set`` does; give the function a name of its own."""
        self.assign = function
        return function

    def read(self) -> PropertySpec:
        """The spec, from the declaration; TypeError."""
        return property_spec(
            self.function, self.attribute, self.options, is_writable=self.assign is not None
        )

    @overload
    def __get__(self, instance: None, owner: type) -> Self: ...
    @overload
    def __get__(self, instance: Interface, owner: type) -> BoundProperty[T]: ...
    def __get__(self, instance: Interface | None, owner: type) -> Self | BoundProperty[T]:
        return self if instance is None else BoundProperty(self, instance)


class BoundProperty(Generic[T]):
    """A property of one object: await it for its value."""

    def __init__(self, member: Prop[T], instance: Interface) -> None:
        self._member = member
        self._spec = cast(PropertySpec, member.spec())
        self._interface = spec_of(member.interface).name
        self._instance = instance

    def __await__(self) -> Generator[Any, Any, T]:
        return self.get().__await__()

    async def get(self) -> T:
        """The value; from there, DBusError, InvalidArgs for one that does not fit, Disconnected."""
        if (far := self._instance.__far__) is not None:
            return cast(T, await far.get(self._interface, self._spec))
        return cast(T, await _result(self._member.function(self._instance)))

    async def set(self, value: T) -> None:
        """Give it a value, and tell subscribers; errors as for a method, AttributeError without a setter."""
        if (far := self._instance.__far__) is not None:
            await far.set(self._interface, self._spec, value)
            return
        if self._member.assign is None:
            raise AttributeError(f"{self._spec.name} cannot be set")
        await _result(self._member.assign(self._instance, value))
        await self.changed()

    async def changed(self) -> None:
        """Tell subscribers that the service changed it, as its ``emits`` says; what reading it raises."""
        if not self._spec.is_readable:
            return
        gathered = vars(self._instance).get("__gathered__")
        if gathered is not None:
            gathered[self._interface, self._spec.name] = self
            return
        await tell(self._instance, self._interface, (self,))


class Interface:
    """An object with D-Bus interfaces: exported by a service, or a proxy for one.

    A class says ``name=`` for the interface that it declares, ``annotations=`` of it, and ``max_calls=``, how
    many calls of one object the service takes at a time, the waiting ones included. TypeError for a name
    that is none, for no calls, for new members of a class that names no interface for them, and for classes
    above of which two have an interface, or the Python name of a member, in common."""

    __interface__: ClassVar[str] = ""
    __annotations_of__: ClassVar[Mapping[str, str]] = {}
    __max_calls__: ClassVar[int] = 4096
    __exporter__: ClassVar[Any] = None
    """Makes the place where objects of the class answer, given connection and object; None for ``Export``."""
    __far__: Far | None = None

    def __init_subclass__(
        cls, *, name: str | None = None, annotations: Mapping[str, str] | None = None,
        max_calls: int | None = None,
    ) -> None:
        super().__init_subclass__()
        if max_calls is not None:
            if max_calls < 1:
                raise TypeError(f"{cls.__qualname__} takes {max_calls} calls at a time")
            cls.__max_calls__ = max_calls
        cls.__annotations_of__ = annotations or {}
        if name is not None:
            if not is_interface_name(name):
                raise TypeError(f"{name!r} is no D-Bus interface name")
            cls.__interface__ = name
        for attribute, value in list(vars(cls).items()):
            inherited = _inherited(cls, attribute)
            if inherited is not None and inspect.isfunction(value) and not isinstance(inherited, Signal):
                value = type(inherited)(value, inherited.options)
                value.__set_name__(cls, attribute)
                setattr(cls, attribute, value)
            if isinstance(value, Member):
                _place(cls, value, inherited)
        _tell_apart(cls)

    @property
    def __near__(self) -> list[Near]:
        """Where this object is exported."""
        near: list[Near] = self.__dict__.setdefault("__near__", [])
        return near

    def unreferenced(self) -> None:
        """Called when nobody but the service holds this object any more; nothing by default."""


async def tell(target: Interface, interface: str, properties: Iterable[BoundProperty[Any]]) -> None:
    """Tell subscribers of ``target`` that these properties of one interface have new values."""
    changes = [(one._spec, await one.get() if one._spec.emits == "true" else None) for one in properties]
    for near in tuple(target.__near__):
        await near.changed(interface, changes)


def _inherited(cls: type, attribute: str) -> Member | None:
    above = (vars(base).get(attribute) for base in cls.__mro__[1:])
    found = next((value for value in above if value is not None), None)
    return found if isinstance(found, Member) else None


def _place(cls: type[Interface], member: Member, inherited: Member | None) -> None:
    """A new member belongs to the interface that ``cls`` names, an override to the one it had."""
    if hasattr(Interface, member.attribute):
        raise TypeError(f"{cls.__qualname__} needs {member.attribute} for something else; say name=")
    if inherited is not None:
        if type(member) is not type(inherited):
            raise TypeError(f"{cls.__qualname__}: {member.attribute} is declared as something else above")
        member.interface = inherited.interface
        if isinstance(member, Prop) and isinstance(inherited, Prop) and member.assign is None:
            member.assign = inherited.assign
        return
    if "__interface__" not in vars(cls):
        raise TypeError(f"{cls.__qualname__} adds {member.attribute}, but names no interface for it")
    member.interface = cls


def _tell_apart(cls: type[Interface]) -> None:
    """Each interface is of one class, and each member is found under its Python name; TypeError."""
    names = [name for base in cls.__mro__ if (name := vars(base).get("__interface__"))]
    if len(set(names)) < len(names):
        raise TypeError(f"{cls.__qualname__}: two of its classes have one interface: {', '.join(names)}")
    for base in cls.__mro__:
        for attribute, member in vars(base).items():
            if not isinstance(member, Member):
                continue
            found = getattr(cls, attribute)
            if isinstance(found, Member) and found.interface is not member.interface:
                both = f"{found.interface.__qualname__} and {member.interface.__qualname__}"
                raise TypeError(f"{cls.__qualname__}: {both} have {attribute}; rename one, and say name=")


def spec_of(cls: type[Interface]) -> InterfaceSpec:
    """The interface that ``cls`` itself names; TypeError if a declaration cannot be read."""
    spec = vars(cls).get("__spec__")
    if spec is None:
        members: dict[str, MethodSpec | SignalSpec | PropertySpec] = {}
        for member in vars(cls).values():
            if isinstance(member, Member) and member.interface is cls:
                read = member.read()
                if any(_same(read, other) for other in members.values()):
                    raise TypeError(f"{cls.__qualname__} has two members {read.name}")
                members[f"{read.name}.{read.attribute}" if read.name in members else read.name] = read
        doc = inspect.cleandoc(cls.__doc__ or "")
        spec = InterfaceSpec(cls.__interface__, MappingProxyType(members), doc, cls.__annotations_of__)
        cls.__spec__ = spec  # type: ignore[attr-defined]
    return cast(InterfaceSpec, spec)


def _same(one: MethodSpec | SignalSpec | PropertySpec, other: MethodSpec | SignalSpec | PropertySpec) -> bool:
    """They cannot be told apart on the bus: properties go by name, the others by signature, too."""
    if one.name != other.name or type(one) is not type(other):
        return False
    return isinstance(one, PropertySpec) or one.signature == other.signature


def interfaces_of(cls: type[Interface]) -> tuple[InterfaceSpec, ...]:
    """Every interface of the objects of ``cls``, the most derived first; TypeError if one cannot be read."""
    bases = (base for base in cls.__mro__ if issubclass(base, Interface))
    return tuple(spec_of(base) for base in bases if vars(base).get("__interface__"))


async def _result(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
