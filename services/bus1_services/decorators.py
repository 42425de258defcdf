"""decorators: what makes a function in a class a member of its interface: method, signal, prop.

Theory. Each leaves a ``Member`` with its options in the class, and may be used with or without parentheses.
The overloads tell a type checker what that is: parameters and results stay those of the function, async or
not.

Not here: what members do (``interface``), how their hints are read (``members``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, TypeVarTuple, overload

from .interface import Method, Prop, Signal
from .members import Options

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class _AnyProp(Protocol):
    @overload
    def __call__(self, function: Callable[[Any], Awaitable[T]], /) -> Prop[T]: ...
    @overload
    def __call__(self, function: Callable[[Any], T], /) -> Prop[T]: ...


class _AnyMethod(Protocol):
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Awaitable[R]], /) -> Method[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...


@overload
def method(function: Callable[Concatenate[Any, P], Awaitable[R]], /) -> Method[P, R]: ...
@overload
def method(function: Callable[Concatenate[Any, P], R], /) -> Method[P, R]: ...
@overload
def method(
    *, name: str | None = None, takes: str | None = None, gives: str | None = None, no_reply: bool = False,
    deprecated: bool = False, annotations: Mapping[str, str] | None = None, deadline: float | None = None,
    limit: int | None = None, shielded: bool = False,
) -> _AnyMethod: ...
def method(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, takes: str | None = None,
    gives: str | None = None, no_reply: bool = False, deprecated: bool = False,
    annotations: Mapping[str, str] | None = None, deadline: float | None = None, limit: int | None = None,
    shielded: bool = False,
) -> Any:
    """Decorator: a method. ``takes`` and ``gives`` are signatures, instead of hints.

    At the service a call is cancelled ``deadline`` seconds after it began, and its caller gets ``Timeout``;
    ``limit`` calls of one object run at a time, and others wait for their turn; a call whose caller is gone
    or waits no more is cancelled, unless it is ``shielded``. An override without decorator keeps all that.
    What cannot be read is a TypeError when the class is first used."""
    options = Options(
        name, takes, gives, no_reply, deprecated, annotations=annotations, deadline=deadline, limit=limit,
        shielded=shielded,
    )
    return Method(function, options) if function else lambda function: Method(function, options)


@overload
def signal(function: Callable[[Any, *Ts], Any], /) -> Signal[*Ts]: ...
@overload
def signal(
    *, name: str | None = None, takes: str | None = None, deprecated: bool = False,
    annotations: Mapping[str, str] | None = None,
) -> Callable[[Callable[[Any, *Ts], Any]], Signal[*Ts]]: ...
def signal(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, takes: str | None = None,
    deprecated: bool = False, annotations: Mapping[str, str] | None = None,
) -> Any:
    """Decorator: a signal; the function's parameters are its arguments, its body is never run.

    What cannot be read is a TypeError when the class is first used."""
    options = Options(name, takes, None, False, deprecated, annotations=annotations)
    return Signal(function, options) if function else lambda function: Signal(function, options)


@overload
def prop(function: Callable[[Any], Awaitable[T]], /) -> Prop[T]: ...
@overload
def prop(function: Callable[[Any], T], /) -> Prop[T]: ...
@overload
def prop(
    *, name: str | None = None, gives: str | None = None, emits: str = "true", deprecated: bool = False,
    annotations: Mapping[str, str] | None = None, readable: bool = True,
) -> _AnyProp: ...
def prop(
    function: Callable[..., Any] | None = None, /, *, name: str | None = None, gives: str | None = None,
    emits: str = "true", deprecated: bool = False, annotations: Mapping[str, str] | None = None,
    readable: bool = True,
) -> Any:
    """Decorator: a property; ``emits`` is EmitsChangedSignal: true, invalidates, const, or false.

    Getter and setter may be async. One that is not ``readable`` is for setting alone: nobody is told its
    value. What cannot be read is a TypeError when the class is first used."""
    options = Options(name, None, gives, False, deprecated, emits, annotations, readable)
    return Prop(function, options) if function else lambda function: Prop(function, options)
