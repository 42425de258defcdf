"""effects: what the pure part of the Switch asks its edge to do.

Theory. The pure part changes tables and Core, and lists the rest here as plain data; the edge takes
the list once per turn, or after each command where descriptors are involved.

Not here: wake-ups of queues (Core's own list tells them) and the writing of messages (``outgoing``).
"""

from __future__ import annotations

from typing import NamedTuple


class Wake(NamedTuple):
    """The connection has bytes to send that no queue of Core holds (authentication)."""

    connection: int


class Close(NamedTuple):
    """The bus is done with the connection: close its socket."""

    connection: int
    reason: str
    """Empty for a client that left by itself."""
    who: str = ""
    """Whose it was, for the log."""


class CloseDescriptors(NamedTuple):
    """Descriptors that no message carries: close them."""

    fds: tuple[int, ...]


class Refusal(NamedTuple):
    """Somebody did not get what he wanted of somebody, or would not have."""

    kind: str
    """What it was: a ``broadcast``, ``call``, ``signal``, ``reply``, ``copy`` or word of the ``bus`` that is
    not queued at its receiver, a ``limit`` that is reached, or what the policy says."""
    sender: str
    receiver: str
    """Unique names, or that of a service; empty if there is none."""
    reason: str
    """The rule, or the limit."""
    text: str
    """One of them, in full."""
    times: int
    """How many of this kind, between these two and for this reason, since the last record."""

    @property
    def cause(self) -> str:
        """The same for all that are the same but for the time."""
        return " ".join((self.kind, self.sender, self.receiver, self.reason))


class LookUp(NamedTuple):
    """Is there a service of this name? The answer is ``Found`` or None."""

    asker: int
    name: str


class Found(NamedTuple):
    """The answer to ``LookUp``: the name can be started."""

    command: str = ""
    """What its file says under ``Exec=``; services that share it share its failure."""
    unit: str | None = None
    """What systemd knows it as."""
    label: str | None = None
    """The AppArmor label that it is assumed to have."""


class ListServices(NamedTuple):
    """Which names can be started? The answer is a tuple of them."""

    asker: int


class Reload(NamedTuple):
    """Read the configuration again. The answer is None, or what is wrong with it."""

    asker: int


class Start(NamedTuple):
    """Start the service of this name: somebody waits for it."""

    name: str
    attempt: int
    requester: str
    """Who it is that waits first, for the log."""


class Abandoned(NamedTuple):
    """Nobody waits for this start any more: it took too long."""

    name: str
    attempt: int


class SetEnvironment(NamedTuple):
    """Services that are started from now on get these variables."""

    variables: dict[str, str]


class Line(NamedTuple):
    """A line for the log."""

    text: str


Question = LookUp | ListServices | Reload
Effect = (
    Wake | Close | CloseDescriptors | Refusal | Question | Start | Abandoned | SetEnvironment
    | Line
)
