"""guard: the policy's word on every message that passes, and on every name that is asked for.

Theory. A message passes if its sender may send it to its receiver and its receiver may receive it from its
sender. The bus itself is neither asked whether it may send nor whether it may receive; towards others it
has one name, and so has a service that is yet to be started. Who is about to get a message that is
addressed to somebody else eavesdrops. An answer is requested if its receiver waits for it from its sender.

Where everything is allowed to both, which is so on the usual session bus, that is all that is looked at.

A refusal is a text that says who, what, and which rule, for the sender and for the log. What goes to the log
is summed up per sender, receiver and rule until the end of the turn.

Invariants. 1. Asking changes nothing but the counts for the log.

Not here: the rules (policy), what becomes of a refused message (planner, gateway, outbound).
"""

from __future__ import annotations

from bus1.core.api import Credentials

from ..policy import Message, Names, Policy, Verdict
from ..policyrules import Rule
from .effects import PolicyRefusal
from .tables import UNKNOWN_ID, LegacyParty, Party, Tables

BUS_NAME = "org.freedesktop.DBus"
_BUS = Names(BUS_NAME)
_CAUSES = 1024
"""Refusals that are kept apart until the end of a turn."""
_TYPE_NAMES = {1: "method_call", 2: "method_return", 3: "error", 4: "signal"}

_Cause = tuple[str, str, str, Rule | None]


class Guard:
    """Asks the policy on behalf of all who move messages."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._noted: dict[_Cause, tuple[str, int]] = {}
        """A text for each cause, and how often it came."""
        self._left_out = 0

    def configure(self, policy: Policy) -> None:
        """From now on this policy counts, for everybody."""
        self._tables.policy = policy
        for party in self._tables.parties.values():
            self.admit(party)

    def admit(self, party: Party) -> None:
        """Give the party what the policy says about it."""
        party.permissions = self._tables.policy.of_client(party.uid, _groups(party))

    def may_connect(self, credentials: Credentials) -> Verdict:
        """Whether this user may use this bus."""
        uid = None if credentials.uid == UNKNOWN_ID else credentials.uid
        groups = {credentials.gid, *credentials.groups}
        return self._tables.policy.may_connect(uid, groups, self._tables.bus_credentials.uid)

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
            verdict = sender.permissions.may_send(
                message, self._names(receiver, message), requested_reply=requested
            )
            if not verdict.allowed:
                return self._refuse("Rejected send", sender, receiver, message, verdict, addressed, requested)
            if verdict.log:
                self._refuse("Would reject", sender, receiver, message, verdict, True, requested)
        if receiver is not None and not receives:
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
        verdict = party.permissions.may_own(name)
        if verdict.allowed:
            return None
        text = (
            f'Connection "{party.unique}" is not allowed to own the service "{name}" due to security '
            f"policies in the configuration file; {_deciding(verdict)}"
        )
        self._note(("own", party.unique, "", verdict.rule), f"{text}; it is {self.who(party)}")
        return text

    def refusal_to_reach(self, party: Party, target: Party) -> str | None:
        """Why the party may not get hold of another that it knows by name; None if it may."""
        if party.permissions.sends_all or party.permissions.may_reach(self._names(target, None)):
            return None
        return f"{party.unique} may call nothing of {target.unique}, as far as the policy goes"

    def take_refusals(self) -> list[PolicyRefusal]:
        """What deserves a line in the log since the last call."""
        if not self._noted:
            return []
        records = [
            PolicyRefusal(cause[1], cause[2], " ".join(map(str, cause)), text, count)
            for cause, (text, count) in self._noted.items()
        ]
        if self._left_out:
            text = "the policy refused more, of others"
            records.append(PolicyRefusal("", "", text, text, self._left_out))
        self._noted.clear()
        self._left_out = 0
        return records

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
        """The reference's words, and the rule."""
        text = (
            f'{complaint} message, {verdict.n_matched} matched rules; type="{_TYPE_NAMES[message.type]}", '
            f'sender="{sender.unique if sender else BUS_NAME}" ({self.who(sender)}) '
            f'interface="{_or_unset(message.interface)}" member="{_or_unset(message.member)}" '
            f'error name="{_or_unset(message.error_name)}" requested_reply="{requested:d}" '
            f'destination="{message.destination or BUS_NAME}" ({self.who(receiver)}); {_deciding(verdict)}'
        )
        if addressed:
            unique = receiver.unique if receiver else message.destination or ""
            self._note((complaint, sender.unique if sender else "", unique, verdict.rule), text)
        return text

    def _note(self, cause: _Cause, text: str) -> None:
        if cause in self._noted:
            first, count = self._noted[cause]
            self._noted[cause] = (first, count + 1)
        elif len(self._noted) < _CAUSES:
            self._noted[cause] = (text, 1)
        else:
            self._left_out += 1

    def who(self, party: Party | None) -> str:
        """What is known of a party, for a log or an error."""
        if party is None:
            return "bus"
        known = []
        if party.uid is not None:
            known.append(f"uid={party.uid}")
        if party.pid is not None:
            if party.command is None:
                party.command = self._tables.command_of(party.pid)
            known.append(f'pid={party.pid} comm="{party.command}"')
        label = party.label if isinstance(party, LegacyParty) else party.credentials.secctx
        if label:
            known.append(f'label="{label.decode(errors="backslashreplace")}"')
        return " ".join(known)


def _groups(party: Party) -> set[int]:
    groups = party.groups if isinstance(party, LegacyParty) else party.credentials.groups
    return {party.credentials.gid, *groups}


def _or_unset(value: str | None) -> str:
    return "(unset)" if value is None else value


def _deciding(verdict: Verdict) -> str:
    return f"decided by {verdict.rule}" if verdict.rule is not None else "no rule allows it"
