"""activation: names that nobody owns yet, and what waits for them.

Theory. A message to an unowned name that can be started is held here, under the name and in the order
of arrival, with its descriptors; a call of StartServiceByName waits in the same queue. The first who waits
makes an *attempt*: the control plane is told to start the service, and success is nothing but the name
getting an owner, whoever that is. The attempt's number goes with everything that is said about it, so that
late news of an old attempt never touches a new one. What waits longer than ``service_start_timeout``
gets TimedOut, whatever became of the program.

What is held is charged to its sender, whose share is what it may keep waiting at one reader; all of
one user have as much as one reader may have. With ``--systemd-activation`` the bus itself has something
to say to systemd, which waits here, too, until systemd is on the bus.

Invariants. 1. A name has an attempt only while nobody owns it. 2. An attempt ends with the name's owner, a
failure, or its deadline. 3. Of a client that is gone nothing is held; the attempt goes on.

Not here: whether a name can be started, and how (the control plane: starting), policy (planner).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import NamedTuple, TypeAlias, TypeVar

from bus1_services.types import is_bus_name, is_error_name

from bus1.core.api import Parcel
from bus1.record import replace

from . import codec, hosted, wire
from .driver.errors import DriverError
from .driver.method import Ticket, refuse, reply
from .driver.services import ACTIVATOR
from .summons import Summoning, Summons
from .switch.api import (
    ActivationCommand,
    Answer,
    ConfigureActivation,
    ServicesChanged,
    StartFailed,
)
from .switch.connection import Incoming
from .switch.delivery import Delivery
from .switch.effects import Abandoned, Found, Line, LookUp, SetEnvironment, Start
from .switch.flow import PAIR_MARK, READER_MARK, allocated
from .switch.limits import Excess
from .switch.tables import LegacyParty, Party
from .wire import CALL, DRIVER_NAME, DRIVER_PATH, NO_REPLY_EXPECTED, SIGNAL

SYSTEMD = "org.freedesktop.systemd1"
_MANAGER = "org.freedesktop.systemd1.Manager"
_MANAGER_PATH = "/org/freedesktop/systemd1"
_TIMED_OUT = wire.ERROR_PREFIX + "TimedOut"
_Key = TypeVar("_Key")
_NAME_SHOWN = 255
"""Of a name that cannot be one, as much is repeated in an error."""


class FailedStart(DriverError):
    """Why a service is not there, under the whole name that the failure has."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__("", text)
        self.name = name


class Held(NamedTuple):
    """A message that waits for its destination."""

    sender: LegacyParty
    incoming: Incoming

    @property
    def weight(self) -> int:
        """What it counts against the marks of its sender."""
        return allocated(len(self.incoming.message), len(self.incoming.fds))


class Said(NamedTuple):
    """A message of the bus itself to systemd: a signal, or a call that wants no answer."""

    type: int
    path: str
    interface: str
    member: str
    signature: str
    body: bytes


Waiting: TypeAlias = Held | Ticket | Said | Summons


class Attempt:
    """A name that is being started."""

    __slots__ = ("began", "found", "name", "number", "unit", "waiting")

    def __init__(self, name: str, number: int, began: float, found: Found) -> None:
        self.name = name
        self.number = number
        self.began = began
        self.found = found
        self.unit: str | None = None
        """systemd starts it: its unit."""
        self.waiting: list[Waiting] = []
        """In order of arrival."""


class Activation:
    """All names that are being started."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._tables = delivery.tables
        self._questions = delivery.questions
        self.settings = ConfigureActivation()
        self.deliver: Callable[[LegacyParty, Incoming], None] = lambda sender, incoming: None
        """What plans a held message again; the planner's."""
        self.resume: Callable[[int], None] = lambda connection: None
        """What lets a connection go on whose question is answered; the router's."""
        self.summoning = Summoning(delivery, self)
        """Native peers that wait."""
        self._attempts: dict[str, Attempt] = {}
        self._last_number = 0
        self._n_waiting = 0
        """Held messages and calls, of all names."""
        self._of_sender: Counter[int] = Counter()
        """Weight of what is held, by Core peer."""
        self._of_user: Counter[int | None] = Counter()
        self.kept: dict[int, list[int]] = {}
        """Bytes and descriptors of what is held, by Core peer; ``router`` reads it, too."""

    # ---- who comes to wait -----------------------------------------------------------------------

    def look_up(self, asker: Party, name: str) -> Found:
        """What is known of a name that can be started; Unanswered, DriverError."""
        found: object = None
        if asker.sight is not None and not asker.sight.sees(name):
            # nobody is asked: what is not seen must not take longer than what is not there
            self._delivery.guard.note_hidden(asker, name)
        elif (attempt := self._attempts.get(name)) is not None:
            return attempt.found
        elif self.settings.uses_systemd and name == SYSTEMD:
            found = Found()
        elif is_bus_name(name) and not name.startswith(":") and name != DRIVER_NAME:
            found = self._questions.ask(asker.peer, partial(LookUp, name=name))
        if not isinstance(found, Found):
            raise DriverError(
                "ServiceUnknown", f"The name {name[:_NAME_SHOWN]} was not provided by any .service files"
            )
        return found

    def weight_of(self, sender: int) -> int:
        """What is held of this sender, in bytes as they are counted."""
        return self._of_sender[sender]

    def hold(self, sender: LegacyParty, incoming: Incoming, name: str, found: Found) -> Held:
        """Keep the message, with its descriptors, until the name has an owner; DriverError."""
        held = Held(sender, replace(incoming, may_wait=False))
        self._check_room(name, sender)
        self._check_share(held, name)
        self._wait(name, found, held, sender)
        self._of_sender[sender.peer] += held.weight
        self._of_user[sender.uid] += held.weight
        kept = self.kept.setdefault(sender.peer, [0, 0])
        kept[0] += len(held.incoming.message)
        kept[1] += len(held.incoming.fds)
        incoming.fds = ()
        return held

    def start(self, ticket: Ticket, name: str) -> bool:
        """StartServiceByName: False if the name has an owner; else the ticket is answered later.

        Unanswered, DriverError."""
        found = self.look_up(ticket.caller, name)
        if self._tables.names.owner(name) is not None:
            return False
        self._check_room(name, ticket.caller)
        self._wait(name, found, ticket, ticket.caller)
        return True

    def summon(self, summons: Summons) -> bool:
        """The same for a native peer."""
        found = self.look_up(summons.caller, summons.name)
        if self._tables.names.owner(summons.name) is not None:
            return False
        self._check_room(summons.name, summons.caller)
        self._wait(summons.name, found, summons, summons.caller)
        return True

    def set_environment(self, variables: dict[str, str]) -> None:
        """For what is started from now on, by whomever; DriverError."""
        if self.settings.uses_systemd:
            self._check_room(SYSTEMD, None)
            assignments = [f"{name}={value}" for name, value in variables.items()]
            body = wire.marshal("as", assignments)
            self._tell_systemd(Said(CALL, _MANAGER_PATH, _MANAGER, "SetEnvironment", "as", body))
        self._delivery.effects.append(SetEnvironment(variables))

    def _tell_systemd(self, said: Said) -> None:
        """Now, or when it is on the bus; monitors see it now."""
        if self._tables.names.owner(SYSTEMD) is not None:
            self._say(said, at_once=True)
        else:
            self._delivery.show_own(_written(said, SYSTEMD))
            self._wait(SYSTEMD, Found(), said, None)

    def _wait(
        self, name: str, found: Found, entry: Waiting, requester: Party | None
    ) -> None:
        attempt = self._attempts.get(name)
        is_new = attempt is None
        if attempt is None:
            self._last_number += 1
            attempt = self._attempts[name] = Attempt(name, self._last_number, self._delivery.now, found)
        attempt.waiting.append(entry)
        self._n_waiting += 1
        if is_new:
            self._begin(attempt, requester)

    def _begin(self, attempt: Attempt, by: Party | None) -> None:
        """Have it started by whom it takes: systemd itself comes without being called."""
        effects, name, unit = self._delivery.effects, attempt.name, attempt.found.unit
        requester = f"requested by '{by.unique if by else DRIVER_NAME}' ({self._delivery.refusals.who(by)})"
        if not self.settings.uses_systemd or (unit is None and name != SYSTEMD):
            effects.append(Start(name, attempt.number, requester))
        elif unit is not None and name != SYSTEMD:
            attempt.unit = unit
            effects.append(Line(
                f"Activating via systemd: service name='{name}' unit='{unit}' {requester}"
            ))
            body = wire.marshal("s", unit)
            self._tell_systemd(Said(SIGNAL, DRIVER_PATH, ACTIVATOR, "ActivationRequest", "s", body))

    def _check_room(self, name: str, party: Party | None) -> None:
        if self._n_waiting >= self._delivery.limits.max_pending_service_starts:
            text = self._delivery.limited(
                party, "max_pending_service_starts", self._n_waiting, f"activation of {name} failed"
            )
            raise DriverError("LimitsExceeded", text)

    def _check_share(self, held: Held, name: str) -> None:
        sender = held.sender
        for limit, waiting, mark in (
            ("bytes_per_sender", self._of_sender[sender.peer], PAIR_MARK),
            ("bytes_per_user", self._of_user[sender.uid], READER_MARK),
        ):
            if waiting and waiting + held.weight > mark:
                text = self._delivery.refusals.over(
                    Excess(limit, mark, waiting), sender, f"no message to {name} is kept until it is started"
                )
                raise DriverError("LimitsExceeded", text)

    # ---- how an attempt ends ---------------------------------------------------------------------

    def owned(self, name: str) -> Attempt | None:
        """The name has an owner: calls of StartServiceByName are answered; ``flush`` has to follow."""
        attempt = self._end(name)
        if attempt is not None:
            self._delivery.effects.append(Line(f"Successfully activated service '{name}'"))
            for entry in attempt.waiting:
                if isinstance(entry, Ticket):
                    reply(self._delivery, entry, (1,))
                elif isinstance(entry, Summons):
                    self.summoning.settle(entry)
        return attempt

    def flush(self, attempt: Attempt) -> None:
        """What was held goes to the new owner, as if it was sent now."""
        for entry in attempt.waiting:
            if isinstance(entry, Held):
                self.deliver(entry.sender, entry.incoming)
                self._delivery.discard(entry.incoming.fds)
            elif isinstance(entry, Said):
                self._say(entry)

    def unit_failed(self, sender: LegacyParty, unit: str, error: str, text: str) -> None:
        """systemd says that it could not start a unit; nobody else's word counts."""
        delivery, tables = self._delivery, self._tables
        if not self.settings.uses_systemd:
            complaint = "there is no systemd activation on this bus"
        elif tables.names.owner(SYSTEMD) != sender.peer or not tables.trusts(sender):
            complaint = "it is forged"
        else:
            name = error if is_error_name(error) else wire.ERROR_PREFIX + "Failed"
            for attempt in [a for a in self._attempts.values() if a.unit == unit]:
                self._fail(attempt, name, text)
            delivery.effects.append(Line(f"Activation via systemd failed for unit '{unit}': {text}"))
            return
        delivery.effects.append(Line(
            f"ActivationFailure of {sender.unique} ({delivery.refusals.who(sender)}) is ignored: {complaint}"
        ))

    def expire(self, now: float) -> None:
        """Attempts whose time is over fail."""
        seconds = self._delivery.limits.service_start_timeout
        while self._attempts and (due := self.next_deadline()) is not None and due <= now:
            attempt = next(iter(self._attempts.values()))
            via = f" via systemd, unit '{attempt.unit}'" if attempt.unit else ""
            text = (
                f"Failed to activate service '{attempt.name}'{via}: timed out "
                f"(service_start_timeout={round(seconds * 1000)}ms)"
            )
            self._fail(attempt, _TIMED_OUT, text)
            self._delivery.effects += [Line(text), Abandoned(attempt.name, attempt.number)]

    def next_deadline(self) -> float | None:
        """When the first attempt's time is over: attempts stand in the order of their beginning."""
        seconds = self._delivery.limits.service_start_timeout
        for attempt in self._attempts.values():
            return attempt.began + seconds
        return None

    def forget(self, party: Party) -> None:
        """The client is gone: what it has waiting is dropped, what it made start goes on."""
        self._questions.forget(party.peer)
        self.summoning.forget(party)
        for attempt in self._attempts.values():
            kept: list[Waiting] = []
            for entry in attempt.waiting:
                if isinstance(entry, Held) and entry.sender is party:
                    self._release(entry)
                    self._delivery.discard(entry.incoming.fds)
                elif isinstance(entry, Summons) and entry.caller is party:
                    self.summoning.drop(entry)
                elif not (isinstance(entry, Ticket) and entry.caller is party):
                    kept.append(entry)
            self._n_waiting -= len(attempt.waiting) - len(kept)
            attempt.waiting = kept

    def _kin(self, attempt: Attempt) -> list[Attempt]:
        """The other attempts with the same command."""
        command = attempt.found.command
        return [
            other for other in self._attempts.values()
            if command and other.found.command == command and other is not attempt
        ]

    def _end(self, name: str) -> Attempt | None:
        attempt = self._attempts.pop(name, None)
        if attempt is not None:
            self._n_waiting -= len(attempt.waiting)
            for entry in attempt.waiting:
                if isinstance(entry, Held):
                    self._release(entry)
        return attempt

    def _release(self, held: Held) -> None:
        _take(self._of_sender, held.sender.peer, held.weight)
        _take(self._of_user, held.sender.uid, held.weight)
        kept = self.kept[held.sender.peer]
        kept[0] -= len(held.incoming.message)
        kept[1] -= len(held.incoming.fds)
        if not kept[0]:
            del self.kept[held.sender.peer]
        self.resume(held.sender.peer)

    def _fail(self, attempt: Attempt, name: str, text: str) -> None:
        self._end(attempt.name)
        for entry in attempt.waiting:
            if isinstance(entry, Held):
                self._delivery.show(entry.sender, entry.incoming)
                self._delivery.send_error(entry.sender, entry.incoming.header, name, text)
                self._delivery.discard(entry.incoming.fds)
            elif isinstance(entry, Ticket):
                refuse(self._delivery, entry, FailedStart(name, text))
            elif isinstance(entry, Summons):
                self.summoning.settle(entry, (name, text))

    def _say(self, said: Said, *, at_once: bool = False) -> None:
        owner = self._tables.names.owner(SYSTEMD)
        party = None if owner is None else self._tables.parties[owner]
        if isinstance(party, LegacyParty):
            # as the reference: a call that has not waited is sent to the connection itself
            destination = party.unique if at_once and said.type == CALL else SYSTEMD
            message = _written(said, destination, hosted.next_serial(party))
            parcel = Parcel((party.peer, 0), (message,), mandatory=False)
            copies = self._delivery.copies.of(None, (message,)) if at_once else []
            self._delivery.transmit(None, [parcel, *copies])

    # ---- the control plane -----------------------------------------------------------------------

    def carry_out(self, command: ActivationCommand) -> None:
        """What the control plane has decided."""
        match command:
            case Answer(asker, answer):
                if self._questions.answer(asker, answer) and not self.summoning.answered(asker):
                    self.resume(asker)
            case ConfigureActivation():
                self.settings = command
            case ServicesChanged():
                self._delivery.broadcast("ActivatableServicesChanged")
            case StartFailed(name, number, error, text, with_its_kin):
                attempt = self._attempts.get(name)
                if attempt is not None and attempt.number == number:
                    for other in [attempt, *(self._kin(attempt) if with_its_kin else ())]:
                        self._fail(other, error, text)


def _written(said: Said, destination: str, serial: int = 1) -> bytes:
    return codec.build(
        said.type, flags=NO_REPLY_EXPECTED, serial=serial, path=said.path, interface=said.interface,
        member=said.member, destination=destination, sender=DRIVER_NAME, signature=said.signature,
        body_length=len(said.body),
    ) + said.body


def _take(weights: Counter[_Key], key: _Key, weight: int) -> None:
    weights[key] -= weight
    if not weights[key]:
        del weights[key]
