"""errors: what D-Bus calls the errors of the contract, and those that only D-Bus has.

Theory. Code below the driver raises errors of ``bus1.errors``; a client sees a name. There is one table
between the two, for the driver and for calls of native services alike.

Not here: the sending of errors (``switch.delivery``).
"""

from __future__ import annotations

from bus1.errors import (
    Bus1Error,
    Denied,
    Disconnected,
    InvalidArgument,
    NotSupported,
    OutOfMemory,
    Overloaded,
    Rejected,
    TooLarge,
)

from ..match import MatchRuleInvalid
from ..wire import ERROR_PREFIX

ERROR_NAMES: dict[type[Bus1Error], str] = {
    MatchRuleInvalid: ERROR_PREFIX + "MatchRuleInvalid",
    Denied: ERROR_PREFIX + "AccessDenied",
    InvalidArgument: ERROR_PREFIX + "InvalidArgs",
    NotSupported: ERROR_PREFIX + "NotSupported",
    TooLarge: ERROR_PREFIX + "LimitsExceeded",
    OutOfMemory: ERROR_PREFIX + "NoMemory",
    Overloaded: ERROR_PREFIX + "LimitsExceeded",
    Disconnected: ERROR_PREFIX + "NoReply",
    Bus1Error: ERROR_PREFIX + "Failed",
}
"""The one table between errors of the contract and D-Bus's names; the nearest class counts."""


class DriverError(Rejected):
    """An error that only D-Bus has a name for."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = ERROR_PREFIX + name


def error_name(error: Bus1Error) -> str:
    """D-Bus's name for an error of the contract."""
    if isinstance(error, DriverError):
        return error.name
    return next(ERROR_NAMES[kind] for kind in type(error).__mro__ if kind in ERROR_NAMES)
