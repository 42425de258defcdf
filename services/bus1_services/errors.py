"""errors: D-Bus errors as exceptions, by name in both directions.

Theory. An ERROR answer is a name and a text. ``DBusError`` carries both. A subclass that is declared with
``name=`` stands for that name: raising it in a method answers with the name, and a proxy raises it when
the name comes back. A method that raises anything else has a bug: its caller gets ``Failed``, and the
traceback is logged by ``calls``. One error that a task group has wrapped counts as that error.

Invariants. 1. One class per name. 2. ``from_name(name, text).name == name``.

Not here: errors of the bus itself (``bus1.errors``): they are raised by the operation that failed and
never travel as answers.
"""

from __future__ import annotations

from typing import ClassVar

_PREFIX = "org.freedesktop.DBus.Error."
_by_name: dict[str, type[DBusError]] = {}


class DBusError(Exception):
    """An answer that is an error; ``name`` is its D-Bus name, ``text`` is for people."""

    default_name: ClassVar[str] = _PREFIX + "Failed"

    def __init__(self, text: str = "", *, name: str | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.name = self.default_name if name is None else name

    def __init_subclass__(cls, *, name: str | None = None) -> None:
        """The class stands for this name; TypeError, if another one does already."""
        super().__init_subclass__()
        if name is None:
            return
        if name in _by_name:
            raise TypeError(f"{_by_name[name].__qualname__} stands for {name} already")
        cls.default_name = name
        _by_name[name] = cls

    def __str__(self) -> str:
        return f"{self.name}: {self.text}" if self.text else self.name


def alone(error: BaseException) -> BaseException:
    """What was raised in a task group, if that is one error; else the error itself."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        (error,) = error.exceptions
    return error


def from_name(name: str, text: str) -> DBusError:
    """The exception for an answer: of the class that stands for ``name``, if there is one."""
    return _by_name.get(name, DBusError)(text, name=name)


class UnknownMethod(DBusError, name=_PREFIX + "UnknownMethod"):
    """The interface has no such method."""


class UnknownInterface(DBusError, name=_PREFIX + "UnknownInterface"):
    """The object has no such interface."""


class UnknownObject(DBusError, name=_PREFIX + "UnknownObject"):
    """There is no such object, or not for this caller."""


class UnknownProperty(DBusError, name=_PREFIX + "UnknownProperty"):
    """The interface has no such property."""


class PropertyReadOnly(DBusError, name=_PREFIX + "PropertyReadOnly"):
    """The property cannot be set."""


class InvalidArgs(DBusError, name=_PREFIX + "InvalidArgs"):
    """The arguments are not those of the method, or make no sense to it."""


class AccessDenied(DBusError, name=_PREFIX + "AccessDenied"):
    """The caller may not do this."""


class LimitsExceeded(DBusError, name=_PREFIX + "LimitsExceeded"):
    """Some limit is reached: try later, or less."""


class Timeout(DBusError, name=_PREFIX + "Timeout"):
    """It took longer than the service, or the caller, allows."""


class NoReply(DBusError, name=_PREFIX + "NoReply"):
    """The callee is gone, or dropped the call without an answer."""


class NameHasNoOwner(DBusError, name=_PREFIX + "NameHasNoOwner"):
    """Nobody owns this name."""
