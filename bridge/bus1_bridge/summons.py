"""summons: native peers that want a service to be there, and wait until it is started.

Theory. D-Bus clients have what they send held until its destination is there, or call StartServiceByName. A
native peer asks the registry for the owner of a name; ``Start`` is its StartServiceByName. The call waits
twice: for the control plane, which knows what can be started, and then, among those who wait for the name
(``activation``), for an owner. Its reply node stays with the bus peer until then; what is to be sent lies in
``due``.

Invariants. 1. Every call is answered once, or its peer is gone; then its reply node is released. 2. A peer
has at most ``ASKING_MAX`` calls that wait for the control plane.

Not here: how a service is started (``activation``).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from bus1_services.call import Envelope

from bus1.core.api import HANDLE_INVALID

from .busobject import LATER, Answer, Call, Failure, Later, Served, late
from .driver.errors import DriverError, error_name
from .switch.delivery import Delivery
from .switch.questions import Unanswered
from .switch.tables import NativeParty, Party

if TYPE_CHECKING:
    from .activation import Activation

ASKING_MAX = 64


class Summons(NamedTuple):
    """A call of ``Start`` that waits for an owner of ``name``."""

    caller: NativeParty
    name: str
    question: Envelope
    reply: int
    """The reply node, held by the bus peer."""


class Summoning:
    """All native peers that wait for a service."""

    def __init__(self, delivery: Delivery, activation: Activation) -> None:
        self._delivery = delivery
        self._activation = activation
        self._asking: dict[int, deque[Summons]] = {}
        """Those that wait for the control plane, by Core peer, in order of arrival."""

    def start(self, call: Call) -> Answer | Failure | Later:
        """The method ``Start``."""
        name = call.values[0]
        if self._delivery.tables.party_for(call.caller, name) is not None:
            return Answer()
        sight = call.caller.sight
        if sight is not None and sight.sees(name) and not sight.grant(name).may_start:
            what = f'start the service "{name}"'
            return Failure("AccessDenied", self._delivery.guard.refusal_by_entrance(call.caller, what))
        asking = self._asking.setdefault(call.caller.peer, deque())
        if len(asking) >= ASKING_MAX:
            return Failure("LimitsExceeded", f"{ASKING_MAX} calls of Start wait already")
        asking.append(Summons(call.caller, name, call.envelope, call.reply))
        self._ask(call.caller.peer)
        return LATER

    def answered(self, peer: int) -> bool:
        """The control plane has answered a question; False if it was no native peer's."""
        if peer not in self._asking:
            return False
        self._ask(peer)
        return True

    def settle(self, summons: Summons, error: tuple[str, str] | None = None) -> None:
        """The name has an owner, or the whole name and the text of why not."""
        self._delivery.late.append(late(summons.question, summons.reply, error))

    def drop(self, summons: Summons) -> None:
        """Its peer is gone."""
        if summons.reply != HANDLE_INVALID:
            self._delivery.late.append(Served(releases=(summons.reply,)))

    def forget(self, party: Party) -> None:
        """The peer is gone."""
        for summons in self._asking.pop(party.peer, ()):
            self.drop(summons)

    def _ask(self, peer: int) -> None:
        """Let the calls of this peer wait for their names, in order, as the control plane answers."""
        asking = self._asking[peer]
        while asking:
            try:
                is_waiting = self._activation.summon(asking[0])
            except Unanswered:
                return
            except DriverError as error:
                self.settle(asking.popleft(), (error_name(error), str(error)))
            else:
                summons = asking.popleft()
                if not is_waiting:
                    self.settle(summons)
        del self._asking[peer]
