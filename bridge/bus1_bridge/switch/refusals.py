"""refusals: what the bus did not do for somebody: in words, and how often.

Theory. Policy and limits refuse alike. A refusal has a cause: who wanted something, of whom, and what was
against it. Its text says who, what, which rule or limit, and how much; whoever asked gets the text as
an error, and the log gets the first text of each cause with a count. ``_OVER`` is the one table of what
limits say, in the reference's words. Texts that only the log needs are made once per cause and turn,
however many messages a flood has.

Invariants. 1. To note something changes nothing but what the log is told. 2. At most ``CAUSES`` are kept
apart until they are taken.

Not here: rules (guard), marks (flow), what becomes of the refused (planner, driver), lines (``bus1.log``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from bus1.context import label_of
from bus1.core.api import Credentials, Parcel
from bus1.record import owned

from .. import codec
from ..policy import Message
from ..policyrules import TYPES
from ..wire import DRIVER_NAME
from .effects import Refusal
from .limits import Excess
from .tables import LegacyParty, Party, Tables

CAUSES = 1024
"""Refusals that are kept apart until the end of a turn."""
_TYPES = {number: name for name, number in TYPES.items()}
_FULL = "Rejected: destination has a full message queue"
_OVER = {
    "max_completed_connections": "The maximum number of active connections has been reached",
    "max_connections_per_user": "The maximum number of active connections for UID {uid} has been reached",
    "max_incomplete_connections": "Too many connections of user {uid} have no name yet",
    "new_connections_per_second": "User {uid} opens too many connections in a short time",
    "max_names_per_connection": 'Connection "{unique}" is not allowed to own more services',
    "max_match_rules_per_connection": 'Connection "{unique}" is not allowed to add more match rules',
    "max_replies_per_connection": "The maximum number of pending replies per connection has been reached",
    "max_pending_service_starts": "The maximum number of pending activations has been reached",
    "max_outgoing_bytes": _FULL,
    "max_outgoing_unix_fds": _FULL,
    "max_incoming_bytes": "Rejected: too much of the sender waits for the destination already",
    "max_incoming_unix_fds": "Rejected: too many descriptors of the sender wait for the destination already",
    "RLIMIT_NOFILE": "The bus has too few file descriptors left to keep those of this message",
    "bytes_per_sender": "Rejected: too much of the sender waits for the destination already",
    "bytes_per_user": "Rejected: too much of user {uid} waits for services that are being started",
    "bytes_per_reader": "Rejected: too much waits at the destination, which does not read",
}
"""By limit. Those called after bytes are the bus's own (docs/design.md §7)."""


class Refusals:
    """Puts refusals into words, and counts them for the log."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.noted: dict[tuple[str, str, str, object], tuple[str, int]] = {}
        """By cause: the first text, and how often; ``router`` looks whether there is any."""
        self._left_out = 0
        self.not_delivered: Counter[str] = Counter()
        """Messages that did not get into a queue, by kind."""

    def note(
        self, kind: str, sender: Party | None, receiver: Party | str | None, reason: object,
        text: Callable[[], str],
    ) -> None:
        """One more refusal; ``text`` is called for the first of its cause alone. None is the bus."""
        to = receiver if isinstance(receiver, str) else _unique(receiver)
        cause = (kind, _unique(sender), to, reason)
        if cause in self.noted:
            first, count = self.noted[cause]
            self.noted[cause] = (first, count + 1)
        elif len(self.noted) < CAUSES:
            self.noted[cause] = (text(), 1)
        else:
            self._left_out += 1

    def take(self) -> list[Refusal]:
        """What deserves a line in the log since the last call."""
        if not self.noted:
            return []
        records = [
            Refusal(kind, sender, receiver, str(reason), text, count)
            for (kind, sender, receiver, reason), (text, count) in self.noted.items()
        ]
        if self._left_out:
            records.append(Refusal("more", "", "", "", "more was refused, of others", self._left_out))
        self.noted.clear()
        self._left_out = 0
        return records

    def lost(self, sender: Party | None, receiver: Party | None, parcel: Parcel) -> None:
        """An optional parcel did not find room in Core's own bounds."""
        if receiver is None:
            return
        is_legacy = isinstance(receiver, LegacyParty)
        kind = "copy" if isinstance(receiver, LegacyParty) and receiver.is_monitor else (
            "bus" if sender is None else "broadcast"
        )

        def text() -> str:
            message = codec.parse(parcel.parts[0]) if is_legacy else None
            return self.full(sender, receiver, message, None)

        self.not_queued(kind, sender, receiver, text)

    def not_queued(
        self, kind: str, sender: Party | None, receiver: Party, text: Callable[[], str]
    ) -> None:
        """A message of this kind did not get into its receiver's queue; also counted for statistics."""
        self.not_delivered[kind] += 1
        receiver.not_received = counts = owned(receiver.not_received)
        counts[kind] = counts.get(kind, 0) + 1
        if sender is not None:
            sender.not_delivered = counts = owned(sender.not_delivered)
            counts[kind] = counts.get(kind, 0) + 1
        self.note(kind, sender, receiver, "", text)

    # ---- texts -----------------------------------------------------------------------------------

    def over(self, excess: Excess, party: Party | None, what: str) -> str:
        """Why the party, or the bus, doesn't get what it wants more of; noted for the log."""
        text = f"{self._over(excess, party)}; {what}; asked for by {self.named(party)}"
        self.note("limit", party, "", excess.limit, lambda: text)
        return text

    def stranger(self, credentials: Credentials, excess: Excess) -> tuple[str, str]:
        """Who has come, and why it has to go at once."""
        party = Party(0, credentials)
        return self.named(party), self._over(excess, party)

    def denied(self, party: Party, text: str, reason: object) -> str:
        """Why the party may not do something; noted for the log. ``reason`` is the same for all such."""
        text = f"{text}; it is {self.who(party)}"
        self.note("denied", party, "", reason, lambda: text)
        return text

    def full(
        self, sender: Party | None, receiver: Party, message: Message | None, excess: Excess | None
    ) -> str:
        """Why the message is not queued at its receiver."""
        about = self.message(sender, receiver, message) if message else (
            f'sender="{_unique(sender) or DRIVER_NAME}" ({self.who(sender)}) '
            f'destination="{receiver.unique}" ({self.who(receiver)})'
        )
        return f"{self._over(excess, sender) if excess else _FULL}; {about}"

    def message(
        self, sender: Party | None, receiver: Party | None, message: Message, *, requested: bool = False
    ) -> str:
        """Type, members and both ends, in the reference's form."""
        destination = message.destination or (receiver.unique if receiver else "") or DRIVER_NAME
        return (
            f'type="{_TYPES.get(message.type, message.type)}", '
            f'sender="{sender.unique if sender else DRIVER_NAME}" ({self.who(sender)}) '
            f'interface="{_or_unset(message.interface)}" member="{_or_unset(message.member)}" '
            f'error name="{_or_unset(message.error_name)}" requested_reply="{requested:d}" '
            f'destination="{destination}" ({self.who(receiver)})'
        )

    def named(self, party: Party | None) -> str:
        """The party's unique name, and who is behind it."""
        unique = DRIVER_NAME if party is None else party.unique or "a client without a name"
        return f"{unique} ({self.who(party)})"

    def who(self, party: Party | None) -> str:
        """Whose process is behind the party, as far as it is known; ``bus`` for the bus itself."""
        if party is None:
            return "bus"
        known = []
        if party.uid is not None:
            known.append(f"uid={party.uid}")
        if party.pid is not None:
            if party.command is None:
                party.command = self._tables.command_of(party.pid)
            known.append(f'pid={party.pid} comm="{party.command}"')
        if party.entrance is not None:
            known.append(f'endpoint="{party.entrance.name}"')
        if label := label_of(party.credentials.secctx):
            known.append(f'label="{label.decode(errors="backslashreplace")}"')
        return " ".join(known)

    def _over(self, excess: Excess, party: Party | None) -> str:
        unique, uid = (party.unique, party.uid) if party else (DRIVER_NAME, "")
        words = _OVER[excess.limit].format(unique=unique, uid=uid)
        return f"{words} ({excess.limit}={excess.value}, in use: {excess.used})"


def _unique(party: Party | None) -> str:
    return party.unique if party else ""


def _or_unset(value: str | None) -> str:
    return "(unset)" if value is None else value
