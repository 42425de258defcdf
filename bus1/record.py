"""record: classes that are mostly their fields, at a tenth of what a dataclass takes to define.

Theory. A bus defines some thirty such classes before it can answer. ``dataclasses`` compiles three methods
for each of them, and loads ``inspect`` first: a quarter of the time from its start to its first answer. Here
``__init__`` is compiled when the first object is made, and comparing, hashing and showing are shared. Type
checkers see a dataclass.

A record has ``__slots__``. Its fields are its annotations, after those of the record that it extends; a value
in the class is the default, and ``field`` makes a new one for each object. Positional patterns work, and
copies, pickled ones too. A frozen record can't be changed, and is hashed by its fields; one with ``eq=False``
is equal to itself alone.

Invariants. 1. A field that has no default comes before those that have one.

Not here: anything else that dataclasses can do; their own functions don't take a record for one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Never, TypeVar, dataclass_transform

_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")
_NONE: Any = object()
"""No default; as an argument: none was given."""
_ROWS = "__record_fields__"


EMPTY: Any = MappingProxyType({})
"""What a field has in the place of a table that most objects of its kind never need."""


def owned(table: dict[_K, _V]) -> dict[_K, _V]:
    """The table, to put something there, which is assigned again: a new one in the place of ``EMPTY``."""
    return {} if table is EMPTY else table


class _Made:
    """The default is made for each object."""

    __slots__ = ("factory",)

    def __init__(self, factory: Callable[[], Any]) -> None:
        self.factory = factory


def field(*, default_factory: Callable[[], _T]) -> _T:
    """A field whose default is made anew for each object."""
    made: Any = _Made(default_factory)
    return made  # type: ignore[no-any-return]


@dataclass_transform(field_specifiers=(field,))
def record(*, frozen: bool = False, eq: bool = True) -> Callable[[type[_T]], type[_T]]:
    """The class becomes a record of its annotations."""
    return lambda cls: _made_of(cls, frozen=frozen, eq=eq)


def fields(of: Any) -> tuple[str, ...]:
    """The names of the fields of a record, or of its class."""
    return tuple(getattr(of, _ROWS))


def values(of: Any) -> dict[str, Any]:
    """What a record consists of, by name."""
    return {name: getattr(of, name) for name in getattr(of, _ROWS)}


def replace(of: _T, /, **changes: Any) -> _T:
    """The same record, some fields apart."""
    kind: Callable[..., _T] = type(of)
    return kind(**(values(of) | changes))


def _made_of(cls: Any, *, frozen: bool, eq: bool) -> Any:
    inherited: Mapping[str, Any] = getattr(cls, _ROWS, {})
    own = {name: cls.__dict__.get(name, _NONE) for name in cls.__annotations__}
    rows = {**inherited, **own}
    namespace = {
        name: value for name, value in cls.__dict__.items()
        if name not in own and name not in ("__dict__", "__weakref__")
    }
    namespace["__slots__"] = tuple(name for name in own if name not in inherited)
    namespace[_ROWS], namespace["__match_args__"] = rows, tuple(rows)
    namespace.setdefault("__repr__", _show)
    if frozen:
        namespace["__setattr__"] = namespace["__delattr__"] = _refuse
        # a copy is made by its fields, as nothing can be set in it
        namespace.setdefault("__reduce__", _made_again)
    if eq:
        _compare(namespace, attrgetter(*rows), is_hashed=frozen)

    def first(self: Any, *args: Any, **kwargs: Any) -> None:
        made.__init__ = _initializer(made, rows, frozen=frozen)
        made.__init__(self, *args, **kwargs)

    namespace["__init__"] = first
    made = type(cls)(cls.__name__, cls.__bases__, namespace)
    return made


def _initializer(cls: type, rows: Mapping[str, Any], *, frozen: bool) -> Callable[..., None]:
    """``__init__``, written out and compiled."""
    known: dict[str, Any] = {"_none": _NONE}
    head, body = ["self"], []
    for name, default in rows.items():
        value = name
        if isinstance(default, _Made):
            known[f"_new_{name}"] = default.factory
            head.append(f"{name}=_none")
            value = f"_new_{name}() if {name} is _none else {name}"
        elif default is _NONE:
            head.append(name)
        else:
            known[f"_default_{name}"] = default
            head.append(f"{name}=_default_{name}")
        if frozen:
            # the slot's own: the record refuses
            known[f"_set_{name}"] = getattr(cls, name).__set__
            body.append(f"    _set_{name}(self, {value})\n")
        else:
            body.append(f"    self.{name} = {value}\n")
    exec(f"def __init__({', '.join(head)}):\n{''.join(body)}", known)
    init: Callable[..., None] = known["__init__"]
    init.__qualname__ = f"{cls.__qualname__}.__init__"
    return init


def _compare(namespace: dict[str, Any], key: Callable[[Any], Any], *, is_hashed: bool) -> None:
    def is_equal(self: Any, other: Any) -> Any:
        return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

    namespace["__eq__"] = is_equal
    namespace["__hash__"] = (lambda self: hash(key(self))) if is_hashed else None


def _show(self: Any) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in values(self).items())
    return f"{type(self).__qualname__}({shown})"


def _made_again(self: Any) -> tuple[type, tuple[Any, ...]]:
    return type(self), tuple(values(self).values())


def _refuse(self: Any, name: str, value: Any = None) -> Never:
    raise AttributeError(f"{type(self).__qualname__}.{name} can't be changed")
