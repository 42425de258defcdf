"""members: the table of an interface, what its methods, signals and properties look like on the wire.

Theory. Specs are plain frozen data, read once from a declaration: names from the function's, types
from hints, or from signature strings and hints. Several results are declared as ``tuple[A, B]``, or as a
NamedTuple, which gives them names; one result that is a struct is a dataclass, or is said to be one:
``Annotated[tuple[A, B], Signature("(..)")]``. What is done with the values, a spec's rows know.

Invariants. 1. The signature of a spec is that of its arguments, joined. 2. A declaration without readable
types is a TypeError that names the function.

Not here: the decorators (``interface``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from .body import Variant
from .caller import Caller
from .conversion import Adopt, Conversion
from .hints import conversion_of, fields_of, named
from .row import Row
from .types import is_member_name, is_property_name, split_signature

EMITS = ("true", "invalidates", "const", "false")


@dataclass(frozen=True, slots=True)
class Arg:
    """An argument or a result: what it is called, its type, and what is done with its values."""

    name: str
    conversion: Conversion
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def signature(self) -> str:
        """Its type."""
        return self.conversion.signature


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """A method. ``caller`` is the parameter that takes the Caller; ``gather`` makes one of its results."""

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
    gather: Callable[[Iterable[Any]], Any] | None = None
    takes: Row = field(init=False, repr=False, compare=False)
    gives: Row = field(init=False, repr=False, compare=False)
    signature: str = field(init=False, repr=False, compare=False)
    """Of the arguments."""
    result: str = field(init=False, repr=False, compare=False)
    """Of the results."""

    def __post_init__(self) -> None:
        takes, gives = row_of(self.inputs), row_of(self.outputs)
        for name, value in (
            ("takes", takes), ("gives", gives), ("signature", takes.signature), ("result", gives.signature),
        ):
            object.__setattr__(self, name, value)

    def gathered(self, values: Sequence[Any], adopt: Adopt) -> Any:
        """What a call gives, of the values of its answer; InvalidArgs."""
        if self.gives.is_read:
            values = self.gives.read(values, adopt)
        if self.gather is not None:
            return self.gather(values)
        return values[0] if values else None

    def spread(self, result: Any) -> Sequence[Any]:
        """The values of an answer, of what the method gave; InvalidArgument, or what ``tuple`` raises."""
        if not self.outputs:
            return ()
        values = (result,) if self.gather is None else tuple(result)
        return self.gives.write(values) if self.gives.is_written else values

    def bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of the arguments in order; TypeError as for any call."""
        if not kwargs and len(args) == len(self.inputs):
            return args
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
    row: Row = field(init=False, repr=False, compare=False)
    signature: str = field(init=False, repr=False, compare=False)
    """Of the arguments."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", row_of(self.args))
        object.__setattr__(self, "signature", self.row.signature)


@dataclass(frozen=True, slots=True)
class PropertySpec:
    """A property; ``emits`` is D-Bus's EmitsChangedSignal."""

    name: str
    attribute: str
    conversion: Conversion
    is_writable: bool = False
    emits: str = "true"
    deprecated: bool = False
    doc: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)
    is_readable: bool = True
    row: Row = field(init=False, repr=False, compare=False)
    signature: str = field(init=False, repr=False, compare=False)
    """Of its value."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "row", Row([(self.name, self.conversion)]))
        object.__setattr__(self, "signature", self.conversion.signature)

    def read(self, value: Any, adopt: Adopt) -> Any:
        """Python's value; InvalidArgs."""
        return self.row.read((value,), adopt)[0]

    def variant(self, value: Any) -> Variant:
        """What is sent for Python's value; InvalidArgument."""
        return Variant(self.signature, self.row.write((value,))[0])


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


def row_of(args: Iterable[Arg]) -> Row:
    """The values of these arguments."""
    return Row((arg.name or "the result", arg.conversion) for arg in args)


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
    outputs, gather = _results(function, hints.get("return"), options.gives)
    if any(bound is not None and not bound > 0 for bound in (options.deadline, options.limit)):
        raise TypeError(f"{function.__qualname__}: deadline and limit must be above 0")
    if options.no_reply and outputs:
        raise TypeError(f"{function.__qualname__} has results, but nobody expects a reply")
    return MethodSpec(
        _wire_name(function, attribute, options), attribute, inputs, outputs, caller, options.no_reply,
        options.deprecated, inspect.getdoc(function) or "", options.annotations or {},
        signature.replace(parameters=parameters), gather,
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
    (output,) = _args_of(getter, [("", _hints(getter).get("return"), options.gives)])
    if options.emits not in EMITS:
        raise TypeError(f"{getter.__qualname__} emits one of {EMITS}, not {options.emits!r}")
    return PropertySpec(
        _wire_name(getter, attribute, options, is_property_name), attribute, output.conversion, is_writable,
        options.emits, options.deprecated, inspect.getdoc(getter) or "", options.annotations or {},
        options.is_readable,
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
    signatures: Sequence[str | None] = [None] * len(parameters) if takes is None else split_signature(takes)
    if len(signatures) != len(parameters):
        raise TypeError(f"{function.__qualname__} takes {len(parameters)} arguments, not {takes!r}")
    return _args_of(function, [
        (p.name, hints.get(p.name), part) for p, part in zip(parameters, signatures, strict=True)
    ])


def _results(
    function: Callable[..., Any], hint: Any, gives: str | None
) -> tuple[tuple[Arg, ...], Callable[[Iterable[Any]], Any] | None]:
    """The results, and what makes one value of several."""
    parts = None if gives is None else split_signature(gives)
    if parts == [] or (parts is None and hint in {None, NoneType}):
        return (), None
    several = _several(hint)
    if parts is not None and several is not None and len(parts) == 1 and parts[0][0] == "(":
        several = None  # one struct
    if several is None and parts is not None and len(parts) > 1:
        several = [("", Any)] * len(parts)
    if several is None:
        return _args_of(function, [("", hint, gives)]), None
    if parts is not None and len(parts) != len(several):
        raise TypeError(f"{function.__qualname__} gives {len(several)} results, not {gives!r}")
    signatures: Sequence[str | None] = parts or [None] * len(several)
    outputs = _args_of(function, [(*one, part) for one, part in zip(several, signatures, strict=True)])
    return outputs, getattr(hint, "_make", tuple)


def _several(hint: Any) -> list[tuple[str, Any]] | None:
    """Names and hints of several results; None for one."""
    if get_origin(hint) is tuple and Ellipsis not in get_args(hint):
        return [("", part) for part in get_args(hint)] or None
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return list(fields_of(hint).items())
    return None


def _args_of(
    function: Callable[..., Any], hinted: Iterable[tuple[str, Any, str | None]]
) -> tuple[Arg, ...]:
    """For names, hints, and the signatures that are said."""
    try:
        return tuple(_arg(*one) for one in hinted)
    except TypeError as error:
        raise TypeError(f"{function.__qualname__}: {error}") from error


def _arg(name: str, hint: Any, signature: str | None) -> Arg:
    called = named(hint)
    conversion = conversion_of(Any if hint is None and signature is not None else hint, signature)
    if called is None:
        return Arg(name, conversion, conversion.annotations)
    return Arg(called.text, conversion, {**conversion.annotations, **called.annotations})
