"""declaring: an interface class out of introspection XML, for an object that a test only calls or fakes.

Not here: packages with types for people to go on with (``bus1 migrate``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..decorators import method as a_method
from ..decorators import prop as a_property
from ..decorators import signal as a_signal
from ..interface import Interface, Method, Prop, Signal
from ..migrate import description
from ..migrate.naming import Names
from ..migrate.reading import read


def declared(xml: str | bytes) -> type[Interface]:
    """A class with the interfaces of an XML document, standard ones apart; SourceError says in which line.

    Members have the names that ``bus1 migrate`` gives them: ``GetAll`` is ``get_all``."""
    names = Names(*dir(Interface))
    found = read("introspection", xml.encode() if isinstance(xml, str) else xml)
    classes = [_class(each, names) for each in found]
    return classes[0] if len(classes) == 1 else type("Declared", tuple(classes), {})


def _class(described: description.Described, names: Names) -> type[Interface]:
    namespace: dict[str, Any] = {}
    for member in described.members:
        attribute = names.member(member.name)
        namespace[attribute] = _member(member)
    last = described.name.rpartition(".")[2]
    return type(last, (Interface,), namespace, name=described.name, annotations=described.annotations)


def _member(
    member: description.Method | description.Signal | description.Property
) -> Method[..., Any] | Signal[*tuple[Any, ...]] | Prop[Any]:
    common: dict[str, Any] = {
        "name": member.name, "deprecated": member.deprecated, "annotations": member.annotations
    }
    match member:
        case description.Method():
            return a_method(
                takes=description.joined(member.inputs), gives=description.joined(member.outputs),
                no_reply=member.no_reply, **common,
            )(_function(len(member.inputs)))
        case description.Signal():
            takes = description.joined(member.arguments)
            return a_signal(takes=takes, **common)(_function(len(member.arguments)))
    prop: Prop[Any] = a_property(
        gives=member.signature, emits=member.emits, readable=member.readable, **common
    )(_function(0))
    if member.writable:
        prop.setter(_function(1))
    return prop


def _function(n_arguments: int) -> Callable[..., Any]:
    """A function of so many arguments that does nothing."""

    def nothing(self: object, *args: Any) -> None:
        """Not said."""

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    names = ["self", *(f"arg{number}" for number in range(n_arguments))]
    nothing.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    nothing.__doc__ = None
    return nothing
