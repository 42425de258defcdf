"""row: the values of a member, one after the other, on their way between Python and the bus.

Theory. The arguments of a method, its results, and the arguments of a signal are rows; a property is a row of
one. A row in which every value passes as it is costs nothing.

Invariants. 1. ``read`` raises DBusError and nothing else, ``write`` InvalidArgument.

Not here: bytes (``body``), one value (``conversion``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from bus1.errors import InvalidArgument

from .conversion import Adopt, Conversion, Misfit, read_part, write_part
from .errors import DBusError, InvalidArgs

REASON_MAX = 500
"""Characters of a reason that the other side is told."""


class Row:
    """Named values; ``signature`` is that of all of them, joined."""

    __slots__ = ("_parts", "is_read", "is_written", "signature")

    def __init__(self, parts: Iterable[tuple[str, Conversion]]) -> None:
        self._parts = tuple(parts)
        self.signature = "".join(part.signature for _, part in self._parts)
        self.is_read = any(part.read for _, part in self._parts)
        self.is_written = any(part.write for _, part in self._parts)

    def read(self, values: Sequence[Any], adopt: Adopt) -> Sequence[Any]:
        """Python's values of those that arrived; InvalidArgs, or what a class of the program raises."""
        if not self.is_read:
            return values
        pairs = zip(self._parts, values, strict=True)
        try:
            return [read_part(name, part, value, adopt) for (name, part), value in pairs]
        except DBusError:
            raise
        except Exception as error:
            # Beside Misfit: code of the program's own classes, which may find fault with what came.
            raise InvalidArgs(_reason(error)) from error

    def write(self, values: Sequence[Any]) -> Sequence[Any]:
        """What is sent for Python's values; InvalidArgument."""
        if not self.is_written:
            return values
        try:
            pairs = zip(self._parts, values, strict=True)
            return [write_part(name, part, value) for (name, part), value in pairs]
        except Exception as error:
            # Values of wrong types raise whatever a walk over them raises.
            raise InvalidArgument(f"values do not fit {self.signature!r}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    try:
        text = f"{error}" if isinstance(error, (Misfit, ValueError)) else f"{type(error).__name__}: {error}"
        return text[:REASON_MAX].replace("\0", "?").encode("utf-8", "replace").decode()
    except Exception:
        # The text of an exception is code of its class.
        return type(error).__name__
