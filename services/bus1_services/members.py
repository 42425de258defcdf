"""members: the table of an interface, what its methods, signals and properties look like on the wire.

Theory. Specs are plain frozen data, read once from a declaration: names from the function's, types
from hints or from signature strings. Several results are declared as ``tuple[A, B]``; one result that
is a struct is ``Annotated[tuple[A, B], Signature("(..)")]``.

Invariants. 1. The signature of a spec is that of its arguments, joined. 2. A declaration without readable
types is a TypeError that names the function.

Not here: the decorators (``interface``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from .caller import Caller
from .hints import interface_in, named, signature_of
from .types import is_member_name, is_property_name, split_signature

EMITS = ("true", "invalidates", "const", "false")


@dataclass(frozen=True, slots=True)
class Arg:
    """An argument; ``interface`` is the class of a capability, if the hint says one."""

    name: str
    signature: str
    interface: type | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method. ``caller`` is the parameter that takes the Caller."""

    name: str
    attribute: str
    inputs: tuple[Arg, ...]
    outputs: tuple[Arg, ...]
    caller: str | None = None
    no_reply: bool = False
    deprecated: bool = False
    doc: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    parameters: inspect.Signature = field(default_factory=inspect.Signature, repr=False, compare=False)

    @property
    def signature(self) -> str:
        """Of the arguments."""
        return joined(self.inputs)

    @property
    def result(self) -> str:
        """Of the results."""
        return joined(self.outputs)

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of the arguments in order; TypeError as for any call."""
        bound = self.parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        return tuple(bound.arguments.values())


@dataclass(frozen=True, slots=True)
class SignalSpec:
    """A signal."""

    name: str
    attribute: str
    args: tuple[Arg, ...]
    deprecated: bool = False
    doc: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def signature(self) -> str:
        """Of the arguments."""
        return joined(self.args)


@dataclass(frozen=True, slots=True)
class PropertySpec:
    """A property; ``emits`` is D-Bus's EmitsChangedSignal."""

    name: str
    attribute: str
    signature: str
    is_writable: bool = False
    emits: str = "true"
    deprecated: bool = False
    doc: str = ""
    interface: type | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    is_readable: bool = True


@dataclass(frozen=True, slots=True)
class InterfaceSpec:
    """An interface: its name and its members by D-Bus name, in the order of declaration.

    A further member of the same name is found under ``name.attribute``."""

    name: str
    members: Mapping[str, MethodSpec | SignalSpec | PropertySpec]
    doc: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    def method(self, name: str, signature: str) -> MethodSpec | None:
        """The method of this name; of several, the one that takes this signature."""
        first = self.members.get(name)
        if isinstance(first, MethodSpec) and first.signature == signature:
            return first
        if first is None:
            return None
        named = [spec for spec in self.members.values() if isinstance(spec, MethodSpec) and spec.name == name]
        return next((spec for spec in named if spec.signature == signature), named[0] if named else None)


@dataclass(frozen=True, slots=True)
class Options:
    """What a decorator was told."""

    name: str | None = None
    takes: str | None = None
    gives: str | None = None
    no_reply: bool = False
    deprecated: bool = False
    emits: str = "true"
    annotations: Mapping[str, str] | None = None
    is_readable: bool = True
    deadline: float | None = None
    limit: int | None = None
    shielded: bool = False


def joined(args: tuple[Arg, ...]) -> str:
    """The signature of several arguments."""
    return "".join(arg.signature for arg in args)


def camel_case(attribute: str) -> str:
    """The D-Bus name of a Python name: ``get_machine_id`` is ``GetMachineId``."""
    return "".join(word[:1].upper() + word[1:] for word in attribute.split("_"))


def method_spec(function: Callable[..., Any], attribute: str, options: Options) -> MethodSpec:
    """Read a method; TypeError."""
    hints = _hints(function)
    signature = inspect.signature(function)
    caller = next((name for name, hint in hints.items() if hint is Caller and name != "return"), None)
    parameters = [p for p in list(signature.parameters.values())[1:] if p.name != caller]
    inputs = _args(function, parameters, hints, options.takes)
    outputs = _results(function, hints, options.gives)
    if any(bound is not None and not bound > 0 for bound in (options.deadline, options.limit)):
        raise TypeError(f"{function.__qualname__}: deadline and limit must be above 0")
    if options.no_reply and outputs:
        raise TypeError(f"{function.__qualname__} has results, but nobody expects a reply")
    return MethodSpec(
        _wire_name(function, attribute, options), attribute, inputs, outputs, caller, options.no_reply,
        options.deprecated, inspect.getdoc(function) or "", options.annotations or {},
        signature.replace(parameters=parameters),
    )


def signal_spec(function: Callable[..., Any], attribute: str, options: Options) -> SignalSpec:
    """Read a signal; TypeError."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    args = _args(function, parameters, _hints(function), options.takes)
    name = _wire_name(function, attribute, options)
    doc = inspect.getdoc(function) or ""
    return SignalSpec(name, attribute, args, options.deprecated, doc, options.annotations or {})


def property_spec(
    getter: Callable[..., Any], attribute: str, options: Options, *, is_writable: bool
) -> PropertySpec:
    """Read a property; TypeError."""
    outputs = _args_of(getter, [("", _hints(getter).get("return"))]) if options.gives is None else (
        tuple(Arg("", part) for part in split_signature(options.gives))
    )
    if len(outputs) != 1 or options.emits not in EMITS:
        raise TypeError(f"{getter.__qualname__} is not a property of one type that emits one of {EMITS}")
    return PropertySpec(
        _wire_name(getter, attribute, options, is_property_name), attribute, outputs[0].signature,
        is_writable, options.emits, options.deprecated, inspect.getdoc(getter) or "", outputs[0].interface,
        options.annotations or {}, options.is_readable,
    )


def _wire_name(
    function: Callable[..., Any], attribute: str, options: Options,
    is_valid: Callable[[str], bool] = is_member_name,
) -> str:
    name = options.name or camel_case(attribute)
    if not is_valid(name):
        raise TypeError(f"{function.__qualname__}: {name!r} is no D-Bus member name")
    return name


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(f"a hint of {function.__qualname__} cannot be read: {error}") from error


def _args(
    function: Callable[..., Any], parameters: list[inspect.Parameter], hints: dict[str, Any],
    takes: str | None,
) -> tuple[Arg, ...]:
    if any(p.kind in {p.VAR_POSITIONAL, p.VAR_KEYWORD, p.KEYWORD_ONLY} for p in parameters):
        raise TypeError(f"{function.__qualname__}: arguments on the bus are positional")
    if takes is None:
        return _args_of(function, [(p.name, hints.get(p.name)) for p in parameters])
    signatures = split_signature(takes)
    if len(signatures) != len(parameters):
        raise TypeError(f"{function.__qualname__} takes {len(parameters)} arguments, not {takes!r}")
    return tuple(Arg(p.name, part) for p, part in zip(parameters, signatures, strict=True))


def _results(function: Callable[..., Any], hints: dict[str, Any], gives: str | None) -> tuple[Arg, ...]:
    if gives is not None:
        return tuple(Arg("", part) for part in split_signature(gives))
    hint = hints.get("return")
    if hint in {None, NoneType}:
        return ()
    if get_origin(hint) is tuple:
        return _args_of(function, [("", part) for part in get_args(hint)])
    return _args_of(function, [("", hint)])


def _arg(name: str, hint: Any) -> Arg:
    called = named(hint)
    if called is None:
        return Arg(name, signature_of(hint), interface_in(hint))
    return Arg(called.text, signature_of(hint), interface_in(hint), called.annotations)


def _args_of(function: Callable[..., Any], hinted: list[tuple[str, Any]]) -> tuple[Arg, ...]:
    try:
        return tuple(_arg(name, hint) for name, hint in hinted)
    except TypeError as error:
        raise TypeError(f"{function.__qualname__}: {error}") from error
