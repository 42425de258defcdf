"""placing: which classes interfaces become, and at which paths objects of them are served.

Theory. An object is served where one was described, with all the interfaces that it had there. Two
interfaces whose members have the same name in Python cannot be one object: then the second is served at a
path that follows from its name. So is an interface whose path is not known.

Invariants. 1. Every interface has a class, and an object. 2. Objects at one path have no member in common.

Not here: what the classes say (``writing``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .description import Described
from .naming import Names


@dataclass(frozen=True, slots=True)
class Placed:
    """An interface, the class that it becomes, and the path where an object of it is served."""

    described: Described
    class_: str
    path: str


@dataclass(slots=True)
class Places:
    """All interfaces, and the classes of the object at each path."""

    placed: list[Placed] = field(default_factory=list)
    objects: dict[str, list[str]] = field(default_factory=dict)


def find_places(
    interfaces: Sequence[Described], taken: Sequence[str], paths: Mapping[str, Sequence[str]]
) -> Places:
    """Classes for interfaces, with names that are not ``taken``; ``paths`` are by name of interface."""
    places, classes = Places(), Names(*taken)
    members: dict[str, set[str]] = {}
    for described in interfaces:
        class_, own = classes.class_(described.name), attributes(described)
        fit = [
            path for path in paths.get(described.name) or [described.path]
            if path and not own & members.get(path, set())
        ]
        for path in fit or ["/" + described.name.replace(".", "/")]:
            places.objects.setdefault(path, []).append(class_)
            members.setdefault(path, set()).update(own)
        first = next(path for path, there in places.objects.items() if class_ in there)
        places.placed.append(Placed(described, class_, first))
    return places


def attributes(described: Described) -> set[str]:
    """The names that the members of an interface get in Python."""
    names = Names()
    return {names.member(member.name) for member in described.members}
