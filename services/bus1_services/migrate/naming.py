"""naming: Python names for the names of D-Bus.

Theory. A member ``GetAll`` is ``get_all`` in Python. Where that would be a keyword, hide a name that the
generated text uses, or be there already, an underscore or a number follows. Nothing is lost: the name on
the bus stands beside a Python name from which it does not follow.

Invariants. 1. Names of one ``Names`` differ, are identifiers, no keywords, and at most ``NAME_MAX`` long.
2. None begins with an underscore: those are left to whoever goes on writing.

Not here: which name is written beside which (``writing``).
"""

from __future__ import annotations

import re
from keyword import iskeyword

NAME_MAX = 48
_HIDING = frozenset({
    "dict", "list", "tuple", "method", "prop", "signal", "unreferenced", "setter", "property", "mro",
})
"""Used in the body of an interface class, or an attribute of every one of them."""
_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z0-9]+|[A-Z0-9]+")


class Names:
    """The names of one scope."""

    def __init__(self, *taken: str) -> None:
        self._taken = set(taken)

    def member(self, name: str) -> str:
        """For a member."""
        return self._free("_".join(word.lower() for word in _WORD.findall(name)) or "member", _HIDING)

    def argument(self, name: str) -> str:
        """For an argument, whose name may be any text."""
        plain = re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")
        return self._free(plain or "argument", frozenset())

    def class_(self, name: str) -> str:
        """For the class of an interface: its last element, the version included."""
        last = name.rpartition(".")[2].replace("_", "") or "Interface"
        return self._free(last[0].upper() + last[1:], frozenset())

    def _free(self, wanted: str, hiding: frozenset[str]) -> str:
        wanted = wanted[:NAME_MAX].rstrip("_") or "name"
        if wanted[0].isdigit():
            wanted = f"n{wanted}"
        if iskeyword(wanted) or wanted in hiding:
            wanted += "_"
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted.rstrip('_')}_{number}"
        self._taken.add(name)
        return name
