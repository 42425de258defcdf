"""placing: which classes interfaces become, and at which paths objects of them are served.

Theory. An object is served where one was described, with all the interfaces that it had there. As one
object, these have all their members in Python: one whose name is that of a member before it gets another.
An interface whose path is not known is served at one that follows from its name.

Invariants. 1. Every interface has a class, and an object at each of its paths. 2. Objects at one path have no
Python name of a member in common.

Not here: what the classes say (``writing``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .description import Described
from .naming import Names


@dataclass(frozen=True, slots=True)
class Placed:
    """An interface, the class that it becomes, and the path where an object of it is served.

    ``attributes`` are the Python names of its members, in their order."""

    described: Described
    class_: str
    path: str
    attributes: tuple[str, ...] = ()


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
        class_ = classes.class_(described.name)
        known = [path for path in paths.get(described.name) or [described.path] if path]
        there = known or ["/" + described.name.replace(".", "/")]
        names = Names(*(name for path in there for name in members.get(path, ())))
        attributes = tuple(names.member(member.name) for member in described.members)
        for path in there:
            places.objects.setdefault(path, []).append(class_)
            members.setdefault(path, set()).update(attributes)
        first = next(path for path, classes_there in places.objects.items() if class_ in classes_there)
        places.placed.append(Placed(described, class_, first, attributes))
    return places
