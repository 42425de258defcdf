"""guard: the policy's word on every message that passes, and on every name that is asked for.

Theory. A message passes if its sender may send it to its receiver and its receiver may receive it from its
sender. The bus itself is neither asked whether it may send nor whether it may receive; towards others it
has one name, and so has a service that is yet to be started. Who is about to get a message that is
addressed to somebody else eavesdrops. An answer is requested if its receiver waits for it from its sender.

Where everything is allowed to both, which is so on the usual session bus, that is all that is looked at.
Clients that see a part of the bus (``sight``) are asked about that first.

A refusal says who, what, and which rule, to the sender and to the log (``refusals``).

Invariants. 1. Asking changes nothing but the counts for the log.

Not here: the rules (policy), what becomes of a refused message (planner, gateway, outbound).
"""

from __future__ import annotations

from bus1.core.api import Credentials

from ..entrance import Entrance
from ..policy import Message, Names, Policy, Verdict
from ..wire import DRIVER_NAME
from .refusals import Refusals
from .tables import UNKNOWN_ID, Party, Tables

_BUS = Names(DRIVER_NAME)


class _NotGranted(Verdict):
    """No rule of the configuration decides, but the endpoint through which a client came in."""

    __slots__ = ("_name",)

    def __init__(self, entrance: Entrance) -> None:
        super().__init__(False, None)
        self._name = entrance.name

    def __str__(self) -> str:
        return f'the endpoint "{self._name}" does not grant it'


class Guard:
    """Asks the policy on behalf of all who move messages."""

    def __init__(self, tables: Tables, refusals: Refusals) -> None:
        self._tables = tables
        self._refusals = refusals

    def configure(self, policy: Policy) -> None:
        """From now on this policy counts, for everybody."""
        # those who are there have come in by the policy that held
        self._tables.guests.meet_all()
        self._tables.policy = policy
        for party in self._tables.parties.values():
            self.admit(party)

    def admit(self, party: Party) -> None:
        """Give the party what the policy says about it."""
        permissions = self._tables.policy.of_client(party.uid, _groups(party.credentials))
        party.permissions = permissions if party.sight is None else permissions.narrowed()

    def refusal_to_connect(self, who: Credentials) -> str | None:
        """Why this user may not use this bus; None if it may."""
        uid = None if who.uid == UNKNOWN_ID else who.uid
        verdict = self._tables.policy.may_connect(uid, _groups(who), self._tables.bus_credentials.uid)
        return None if verdict.allowed else f"user {who.uid} may not connect: {_deciding(verdict)}"

    @staticmethod
    def is_open(sender: Party | None, receiver: Party | None) -> bool:
        """Nothing between these two can be refused: there is no need to ask."""
        return (sender is None or sender.permissions.sends_all) and (
            receiver is None or receiver.permissions.receives_all
        )

    def refusal(
        self, sender: Party | None, receiver: Party | None, message: Message, *, addressed: bool = True,
        requested: bool | None = None,
    ) -> str | None:
        """Why the message may not pass; None if it may.

        No sender: the bus. No receiver: the bus, or a service that is to be started. Not ``addressed``: the
        receiver is one of those who listen. ``requested`` says whether an answer is awaited, where
        the table of replies doesn't know."""
        sends = sender is None or sender.permissions.sends_all
        receives = receiver is None or not receiver.unique or receiver.permissions.receives_all
        if sends and receives:
            return None
        if requested is None:
            requested = addressed and self._is_requested(sender, receiver, message)
        if sender is not None and not sends:
            if addressed and sender.sight is not None and not sender.sight.may_send(message, requested):
                verdict: Verdict = _NotGranted(sender.sight.entrance)
                return self._refuse("Rejected send", sender, receiver, message, verdict, True, requested)
            verdict = sender.permissions.may_send(
                message, self._names(receiver, message), requested_reply=requested
            )
            if not verdict.allowed:
                return self._refuse("Rejected send", sender, receiver, message, verdict, addressed, requested)
            if verdict.log:
                self._refuse("Would reject", sender, receiver, message, verdict, True, requested)
        if receiver is not None and not receives:
            if not addressed and receiver.sight is not None and not receiver.sight.may_hear(
                message, DRIVER_NAME if sender is None else sender.unique
            ):
                return "Rejected receive"
            verdict = receiver.permissions.may_receive(
                message, _BUS if sender is None else self._names(sender, message),
                requested_reply=requested,
                eavesdropping=not addressed and message.destination is not None,
            )
            if not verdict.allowed:
                return self._refuse(
                    "Rejected receive", sender, receiver, message, verdict, addressed, requested
                )
        return None

    def refusal_to_own(self, party: Party, name: str) -> str | None:
        """Why the party may not own the name; None if it may."""
        if party.sight is not None and not party.sight.owns(name):
            return self.refusal_by_entrance(party, f'own the service "{name}"')
        verdict = party.permissions.may_own(name)
        if verdict.allowed:
            return None
        text = (
            f'Connection "{party.unique}" is not allowed to own the service "{name}" due to security '
            f"policies in the configuration file; {_deciding(verdict)}"
        )
        return self._refusals.denied(party, text, verdict.rule)

    def refusal_by_entrance(self, party: Party, what: str) -> str:
        """The words for a client whose endpoint does not let it do something."""
        assert party.entrance is not None
        text = f'Connection "{party.unique}" may not {what}: {_NotGranted(party.entrance)}'
        return self._refusals.denied(party, text, party.entrance.name)

    def note_hidden(self, party: Party, name: str) -> None:
        """The party asked for a name that its endpoint does not show: the log alone is told."""
        assert party.entrance is not None
        endpoint = party.entrance.name
        text = f'{self._refusals.named(party)} asks for {name}, which the endpoint "{endpoint}" hides'
        self._refusals.note("hidden", party, "", endpoint, lambda: text)

    def refusal_to_reach(self, party: Party, target: Party) -> str | None:
        """Why the party may not get hold of another that it knows by name; None if it may."""
        if party.permissions.sends_all or party.permissions.may_reach(self._names(target, None)):
            return None
        text = f"{party.unique} may call nothing of {target.unique}, as far as the policy goes"
        return self._refusals.denied(party, text, f"reach {target.unique}")

    # ---- parts -----------------------------------------------------------------------------------

    def _is_requested(self, sender: Party | None, receiver: Party | None, message: Message) -> bool:
        if not message.reply_serial:
            return False
        if sender is None:
            return True
        return receiver is not None and self._tables.replies.awaits(
            receiver.peer, sender.peer, message.reply_serial
        )

    def _names(self, party: Party | None, message: Message | None) -> Names:
        if party is None:
            return Names((message and message.destination) or "")
        names, peer = self._tables.names, party.peer
        return Names(party.unique, names.claims(peer), lambda space: names.claims_in(peer, space))

    def _refuse(
        self, complaint: str, sender: Party | None, receiver: Party | None, message: Message,
        verdict: Verdict, addressed: bool, requested: bool,
    ) -> str:
        """The reference's words, and the rule; fewer where nobody will read them."""
        if not (addressed or self._tables.monitors):
            return complaint
        text = (
            f"{complaint} message, {verdict.n_matched} matched rules; "
            f"{self._refusals.message(sender, receiver, message, requested=requested)}; {_deciding(verdict)}"
        )
        if addressed:
            to = receiver or message.destination
            self._refusals.note(complaint, sender, to, verdict.rule, lambda: text)
        return text


def _groups(who: Credentials) -> set[int]:
    return {who.gid, *who.groups}


def _deciding(verdict: Verdict) -> str:
    if isinstance(verdict, _NotGranted):
        return str(verdict)
    return f"decided by {verdict.rule}" if verdict.rule is not None else "no rule allows it"
