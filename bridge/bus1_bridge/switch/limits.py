"""limits: what one bus allows, under the names of busconfig(5).

Theory. Every number is configuration of the bus; the session's values are those of the usual
session.conf. ``max_message_size`` above the protocol's 128 MiB means the protocol's. The figures of
back-pressure, which busconfig doesn't know, stand in ``flow``.

Not here: the values of the files (busconfig), and the enforcement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

from bus1.record import field, fields, record

BYTES_PER_TURN = 256 << 10
"""Of the bodies of one client, as many are checked in one turn; a longer check goes on in the next."""
MESSAGE_SIZE_CEILING = 134_217_728
"""The D-Bus protocol's own maximum of one message, header included."""


class Excess(NamedTuple):
    """A limit that keeps somebody from having more."""

    limit: str
    value: int
    used: int
    """How much of it is used already."""


@record(frozen=True)
class BusLimits:
    """The limits by their busconfig names; defaults are session.conf's. Times in seconds."""

    max_incoming_bytes: int = 1_000_000_000
    max_incoming_unix_fds: int = 250_000_000
    max_outgoing_bytes: int = 1_000_000_000
    max_outgoing_unix_fds: int = 250_000_000
    max_message_size: int = MESSAGE_SIZE_CEILING
    max_message_unix_fds: int = 16
    service_start_timeout: float = 120.0
    auth_timeout: float = 240.0
    pending_fd_timeout: float = 150.0
    reply_timeout: float | None = None
    """None: answers may take for ever."""
    max_completed_connections: int = 100_000
    max_incomplete_connections: int = 10_000
    max_connections_per_user: int = 100_000
    max_pending_service_starts: int = 10_000
    max_names_per_connection: int = 50_000
    max_match_rules_per_connection: int = 50_000
    max_replies_per_connection: int = 50_000
    new_connections_per_second: int | None = None
    """Of one user, once it has had as many at once; busconfig doesn't know it."""
    others: BusLimits | None = None
    """What holds for users that aren't among ``users``; None: this."""
    users: Mapping[int, BusLimits] = field(default_factory=dict)
    """By uid: what holds for the clients of this user."""

    @classmethod
    def of(cls, values: Mapping[str, int]) -> Self:
        """From the values of configuration files: times in milliseconds, negative for no limit."""
        given: dict[str, int | float | None] = {}
        for name in (each for each in fields(cls) if each in values):
            value = values[name]
            given[name] = value
            if name.endswith("_timeout"):
                given[name] = None if value < 0 else value / 1000
        given["max_message_size"] = min(values["max_message_size"], MESSAGE_SIZE_CEILING)
        return cls(**given)  # type: ignore[arg-type]

    def of_user(self, uid: int | None) -> BusLimits:
        """What holds for the clients of a user; None is nobody that is known."""
        found = None if uid is None else self.users.get(uid)
        return found or self.others or self
