"""api: the Switch waist, between the data plane and the control plane.

Theory. A Switch owns every socket and every table of a bus: D-Bus connections, names, match rules,
outstanding replies, and through Core all that is queued. It answers by itself whatever tables and
credentials can answer. The control plane calls ``poll`` again and again: it carries out one turn, and
returns what needs a decision or a line in the log, as plain data (punts). What the control plane wants
done goes back through ``apply``, as plain data (commands), and is complete when ``apply`` returns. There
are no callbacks.

Invariants. 1. ``poll`` returns after one turn at the latest, and not later than its deadline.
2. ``apply`` carries out all commands, or raises and has carried out none.
3. A punt is reported once.

Not here: how either side does its part (``loop`` is the Switch in Python, ``daemon`` the control plane).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ..policy import Policy
from .effects import Abandoned, Line, Question, Refusal, SetEnvironment, Start
from .limits import BusLimits


class Signalled(NamedTuple):
    """The process received a signal."""

    number: int


class Closed(NamedTuple):
    """The bus closed a connection because of what its client did."""

    pid: int
    uid: int
    who: str
    """In words."""
    reason: str


class Failed(NamedTuple):
    """A defect of the bus cost a connection; the text is the traceback."""

    pid: int
    traceback: str


class Readable(NamedTuple):
    """A watched descriptor is readable, or has hung up: once per turn, until somebody has read it."""

    descriptor: int


class Short(NamedTuple):
    """The kernel lacks something that accepting clients needs; what, in words."""

    text: str


Punt = (
    Signalled | Closed | Refusal | Failed | Readable | Short | Question | Start | Abandoned
    | SetEnvironment | Line
)


class Listen(NamedTuple):
    """Accept clients on a listening stream socket; ownership of the descriptor passes."""

    descriptor: int
    native: bool = False
    """Native clients instead of D-Bus's."""


class WatchSignals(NamedTuple):
    """Report the signals whose numbers arrive as bytes on this descriptor (``signal.set_wakeup_fd``)."""

    descriptor: int


class Watch(NamedTuple):
    """Report when this descriptor is readable; its owner keeps it open as long as the Switch lives."""

    descriptor: int


class Configure(NamedTuple):
    """What the configuration says now; connections that exist keep ``max_message_size`` and the like."""

    limits: BusLimits
    policy: Policy


class Shutdown(NamedTuple):
    """Close every socket; the Switch is of no use afterwards."""


class Answer(NamedTuple):
    """The answer to a question (``effects.Question``); nothing if its connection has gone."""

    asker: int
    answer: object


class ConfigureActivation(NamedTuple):
    """How services are started on this bus."""

    uses_systemd: bool = False
    has_helper: bool = False
    """A setuid helper starts them: then nobody sets their environment."""


class ServicesChanged(NamedTuple):
    """The names that can be started are others now, or their files were read again: everybody may know."""


class StartFailed(NamedTuple):
    """This attempt, and those of other services with the same command, failed; nothing if it is over."""

    name: str
    attempt: int
    error: str
    """The error's whole name."""
    text: str
    with_its_kin: bool = False
    """Those with the same command fail, too."""


ActivationCommand = Answer | ConfigureActivation | ServicesChanged | StartFailed
Command = Listen | WatchSignals | Watch | Configure | Shutdown | ActivationCommand


class Switch(Protocol):
    """One bus's data plane."""

    def poll(self, deadline: float | None) -> list[Punt]:
        """One turn: wait for work, but not beyond ``deadline`` (of the monotonic clock); do it."""

    def apply(self, commands: Sequence[Command]) -> None:
        """Carry out all commands in order, or raise and carry out none."""
