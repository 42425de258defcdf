"""listening: the signals that a program has match rules for.

Theory. An ``Ear`` is a node that one object sends all its signals to; what is handed on is what some rule
matches, each signal once. Rules name senders as they like; one watch of the registry tells who owns
these names, moves ears when that changes, and is where NameOwnerChanged comes from.

Invariants. 1. There is one ear for each object that a rule names, while its owner is there. 2. A program has
at most ``MAX_RULES`` rules. 3. Whoever knows an ear's node can send rubbish to it, and does no harm.

Not here: reading rules (``rules``).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

from bus1.errors import Bus1Error, RemoteProtocolError

from ..call import Kind
from ..connection import Connection
from ..errors import DBusError, LimitsExceeded
from ..handle import Arrival
from ..proxy import SIGNALS, Remote
from .library import Library
from .messages import Route, received
from .rules import DRIVER, DRIVER_PATH, Rule

MAX_RULES = 4096

log = logging.getLogger("bus1.services")


class Ear:
    """The receiver of one object's signals."""

    def __init__(self, hear: Callable[[Arrival, str, str], None], unique: str, path: str) -> None:
        self._hear = hear
        self.unique = unique
        self.path = path

    def arrived(self, arrival: Arrival) -> None:
        """A signal, or rubbish."""
        if arrival.envelope.kind is Kind.SIGNAL:
            self._hear(arrival, self.unique, self.path)
        else:
            arrival.discard()

    def released(self) -> None:
        """The object is gone; the registry tells whose names are."""

    def lost(self, error: Bus1Error) -> None:
        """The bus is gone, and the program hears that from its connection."""


class Listening:
    """The rules of one program."""

    def __init__(
        self, library: Library, connection: Connection, hand_on: Callable[[Any], None], *, takes_fds: bool
    ) -> None:
        self._takes_fds = takes_fds
        self._library = library
        self._connection = connection
        self._hand_on = hand_on
        self._rules: Counter[Rule] = Counter()
        self._owners: dict[str, str] = {}
        self._ears: dict[tuple[str, str], int] = {}
        self._changing = asyncio.Lock()
        self._is_watching = False

    async def add(self, text: str) -> None:
        """Hear what this rule says from now on; DBusError, LimitsExceeded."""
        rule = Rule.read(text)
        if self._rules.total() >= MAX_RULES:
            raise LimitsExceeded(f"{MAX_RULES} match rules already")
        if not self._is_watching:
            self._is_watching = True
            ready = asyncio.Event()
            self._connection.start(self._watch, ready)
            await ready.wait()
        self._rules[rule] += 1
        async with self._changing:
            await self._listen(rule)

    async def remove(self, text: str) -> None:
        """Do not hear it any more; DBusError if there is no such rule."""
        rule = Rule.read(text)
        if not self._rules[rule]:
            del self._rules[rule]
            raise DBusError(
                f"the program has no such rule: {text}",
                name="org.freedesktop.DBus.Error.MatchRuleNotFound",
            )
        self._rules[rule] -= 1
        self._rules += Counter()
        async with self._changing:
            self._prune()

    # ---- who is listened to ------------------------------------------------------------------

    async def _listen(self, rule: Rule) -> None:
        """Ask the object, if its owner is there."""
        if rule.sender == DRIVER:
            return
        registry = self._connection.registry
        try:
            owner = await registry.resolve(rule.sender)
            self._owners[rule.sender] = owner.unique
            key = owner.unique, rule.path
            if key in self._ears:
                return
            object_ = await registry.derive(owner.root, rule.path)
        except DBusError as error:
            log.debug("nobody to hear for %s: %s", rule, error)
            return
        node = self._connection.node(Ear(self._heard, *key))
        self._ears[key] = node
        try:
            await Remote(self._connection, object_).call(SIGNALS, "Subscribe", "ss", ("", ""), handles=[node])
        except (DBusError, Bus1Error) as error:
            del self._ears[key]
            self._connection.retire(node)
            log.debug("%s at %s does not let us hear it: %s", rule.path, owner.unique, error)

    def _prune(self) -> None:
        """Close the ears that no rule needs."""
        senders = {rule.sender for rule in self._rules}
        self._owners = {name: unique for name, unique in self._owners.items() if name in senders}
        needed = {(self._owners.get(rule.sender, ""), rule.path) for rule in self._rules}
        for key in [key for key in self._ears if key not in needed]:
            self._connection.retire(self._ears.pop(key))

    async def _watch(self, ready: asyncio.Event) -> None:
        """Follow the owners of names, until the bus is gone."""
        try:
            async with self._connection.registry.watch() as changes:
                ready.set()
                async for change in changes:
                    await self._changed(change.name, change.old, change.new)
        except (DBusError, Bus1Error) as error:
            log.debug("names are watched no longer: %s", error)
        finally:
            ready.set()

    async def _changed(self, name: str, old: str, new: str) -> None:
        async with self._changing:
            self._owners.pop(name, None)
            if new:
                for rule in [rule for rule in self._rules if rule.sender == name]:
                    await self._listen(rule)
            self._prune()
        self._tell(self._library.message(
            message_type=self._library.message_type.SIGNAL, sender=DRIVER, path=DRIVER_PATH,
            interface=DRIVER, member="NameOwnerChanged", signature="sss", body=[name, old, new],
        ), DRIVER)

    # ---- what is heard -----------------------------------------------------------------------

    def _heard(self, arrival: Arrival, unique: str, path: str) -> None:
        if arrival.fds and not self._takes_fds:
            arrival.discard()
            return
        try:
            message, _ = received(self._library, arrival, Route(0, unique, path))
        except RemoteProtocolError as error:
            log.debug("%s at %s sends what is no signal: %s", path, unique, error)
            arrival.discard()
            return
        self._tell(message, unique)

    def _tell(self, message: Any, unique: str) -> None:
        if any(
            unique in {rule.sender, self._owners.get(rule.sender)} and rule.matches(message)
            for rule in self._rules
        ):
            self._hand_on(message)
        else:
            for fd in message.unix_fds or ():
                os.close(fd)
