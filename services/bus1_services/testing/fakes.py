"""fakes: objects of any interface that answer what a test says, and remember how they were called.

Theory. A fake's object is an instance of a subclass of the interface, which overrides its methods and
properties. So it is served, called and typed as every other object; its signals are emitted as usual.

An answer is a value, an exception to be raised, a function that is called with the arguments (it may be
async), or an iterator that has one of these for each call. What was given no answer: a method without results
does nothing, one with results raises NotSupported; a property has the empty value of its type.

Invariants. 1. A call is in ``calls`` before it is answered. 2. Answers for what the interface does not have
are TypeErrors at once.

Not here: where the object is published (``bus``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, cast

from ..body import Variant
from ..errors import DBusError, InvalidArgs
from ..interface import Interface, Method, Prop, Signal
from ..members import MethodSpec, PropertySpec
from ..types import Type, single
from .history import PATIENCE, History

I = TypeVar("I", bound=Interface)  # noqa: E741

NOT_SUPPORTED = "org.freedesktop.DBus.Error.NotSupported"


class Call(NamedTuple):
    """A call of a method, or of a property's setter: its name in Python, and the arguments."""

    member: str
    args: tuple[Any, ...]


class Fake(Generic[I]):
    """A stand-in for an object of ``interface``: publish ``object``. TypeError for no such member.

    ``answers`` are for methods and properties, by their names in Python."""

    def __init__(self, interface: type[I], **answers: Any) -> None:
        self.interface = interface
        self._members = _members(interface)
        self._answers: dict[str, Any] = {}
        self._calls: History[Call] = History(f"calls of {interface.__name__}")
        self.answer(**answers)
        namespace = {name: self._stand_in(name, member) for name, member in self._members.items()}
        cls = cast("type[I]", type(f"Fake{interface.__name__}", (interface,), namespace))
        self.object: I = object.__new__(cls)

    @property
    def calls(self) -> list[Call]:
        """All so far, in order."""
        return self._calls.so_far()

    def answer(self, **answers: Any) -> None:
        """Answer this from now on; TypeError for no such member.

        Nothing is emitted: ``await fake.object.NAME.changed()`` tells of a property's new value."""
        if unknown := sorted(answers.keys() - self._members.keys()):
            raise TypeError(
                f"{self.interface.__name__} has no method or property {', '.join(unknown)}: "
                f"there are {', '.join(sorted(self._members)) or 'none'}"
            )
        self._answers |= answers

    async def wait_for(self, count: int, within: float = PATIENCE) -> list[Call]:
        """The first ``count`` calls, as soon as they are there; TimeoutError tells what came instead."""
        return await self._calls.wait_for(count, within)

    def _stand_in(self, name: str, member: Method[..., Any] | Prop[Any]) -> Any:
        spec = member.spec()
        if isinstance(member, Method):
            return Method(self._method(cast(MethodSpec, spec)), member.options)
        prop: Prop[Any] = Prop(self._getter(cast(PropertySpec, spec)), member.options)
        if cast(PropertySpec, spec).is_writable:
            prop.setter(self._setter(name))
        return prop

    def _method(self, spec: MethodSpec) -> Callable[..., Any]:
        async def method(_: Any, *args: Any, **kwargs: Any) -> Any:
            args += tuple(value for name, value in kwargs.items() if name != spec.caller)
            self._calls.add(Call(spec.attribute, args))
            if spec.attribute in self._answers:
                return await _given(self._answers[spec.attribute], args, spec.name)
            if spec.outputs:
                raise DBusError(f"the fake has no answer for {spec.name}", name=NOT_SUPPORTED)
            return None

        return method

    def _getter(self, spec: PropertySpec) -> Callable[[Any], Any]:
        async def getter(_: Any) -> Any:
            if spec.attribute in self._answers:
                return await _given(self._answers[spec.attribute], (), spec.name)
            try:
                return spec.read(_empty(single(spec.signature)), lambda _, value: value)
            except InvalidArgs as error:
                text = f"the fake has no value that fits: {error.text}"
                raise DBusError(text, name=NOT_SUPPORTED) from error

        return getter

    def _setter(self, name: str) -> Callable[[Any, Any], None]:
        def setter(_: Any, value: Any) -> None:
            self._calls.add(Call(name, (value,)))
            self._answers[name] = value

        return setter


def _members(interface: type[Interface]) -> dict[str, Method[..., Any] | Prop[Any]]:
    members: dict[str, Method[..., Any] | Prop[Any]] = {}
    for cls in reversed(interface.__mro__):
        for name, member in vars(cls).items():
            if isinstance(member, Method | Prop):
                members[name] = member
            elif isinstance(member, Signal):
                members.pop(name, None)
    return members


async def _given(answer: Any, args: Sequence[Any], name: str) -> Any:
    if isinstance(answer, Iterator):
        try:
            answer = next(answer)
        except StopIteration:
            raise DBusError(f"the fake has no more answers for {name}", name=NOT_SUPPORTED) from None
    if isinstance(answer, BaseException):
        raise answer
    if isinstance(answer, type) and issubclass(answer, BaseException):
        raise answer()
    if callable(answer) and not isinstance(answer, Interface):
        answer = answer(*args)
    return await answer if inspect.isawaitable(answer) else answer


def _empty(type_: Type) -> Any:
    """The value of a type that says least."""
    match type_.code:
        case "s" | "g":
            return ""
        case "o":
            return "/"
        case "b":
            return False
        case "d":
            return 0.0
        case "v":
            return Variant("s", "")
        case "(":
            return tuple(map(_empty, type_.inside))
        case "a" if type_.inside[0].code == "{":
            return {}
        case "a":
            return b"" if type_.inside[0].code == "y" else []
        case "h":
            raise DBusError("the fake has no descriptor", name=NOT_SUPPORTED)
    return 0
